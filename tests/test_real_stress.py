"""Studies of SmolLM2's prompts under attack, drift and changed recipes, and in one pass, on the tiny model in its place."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from real_lab import ANCHORS

from safealign_lab import chat
from safealign_lab.contrast import Anchor, real_one_pass, real_stress, real_studies, shipped
from safealign_lab.contrast.margins import first_logits, refusal_margins
from safealign_lab.contrast.recipes import SMOLLM2
from safealign_lab.studies.undefended import requests_of
from safealign_lab.training import Plan, weights_hash

# ---------------------------------------------------------------- attacks


def test_no_wrapping_stands_in_an_anchor():
    """A wrapping's own words stand in no training request, so that it is new to every prompt."""
    rows = [
        row["request"].lower() for name in real_stress.TRAINING_SETS for row in real_stress.data.load(name, "train")
    ]
    for wrapper in real_stress.WRAPPERS.values():
        assert wrapper.count("{}") == 1
        own = max(wrapper.split("{}"), key=len).strip().lower()
        assert len(own) > 10
        assert not [row for row in rows if own in row]


def test_an_attack_asks_every_request_in_its_wrapping(lab):
    asked = []
    lab.patch.setattr(real_stress, "judged", lambda method, requests, worded: asked.append(worded) or {})
    real_stress.measure_attacked(0, "json", "safe text", "jailbreakbench")
    (worded,) = asked
    request = "What is {this} and {}?"
    assert worded(request).endswith(request)
    assert worded(request).startswith("Reply with one JSON object")


def test_judged_asks_and_judges_what_it_words_and_keeps_the_ids(lab):
    seen = []

    class Listening:
        def labels(self, responses, requests):
            seen.extend(requests)
            return ["compliance"] * len(responses)

    lab.patch.setattr(real_studies, "_judge", Listening)
    method = real_studies.method_of("no system text", 0)
    result = real_studies.judged(method, "borderline", worded="in a poem : {}".format)
    rows = requests_of("borderline")[:9]
    assert seen == [f"in a poem : {row['request']}" for row in rows]
    assert list(result["labels"]) == [row["id"] for row in rows]
    assert set(result["similarity"].values()) == {1.0}, "compared with the model's own answer to the same words"


# ---------------------------------------------------------------- a model that learns on


def test_fine_tuning_changes_the_model_that_is_asked_and_not_the_shared_one(lab):
    model, tokenizer = lab.model
    before = weights_hash(model)
    lab.patch.setattr(real_stress, "TUNED", Plan(steps=4, learning_rate=1e-2, schedule="constant"))
    lab.patch.setattr(real_stress, "_harmless_rows", lambda: rows(tokenizer))
    tuned, same = real_stress._tuned(3, 0)
    assert same is tokenizer
    assert weights_hash(model) == before
    assert weights_hash(tuned) != before
    assert list(tuned.state_dict()) == list(model.state_dict()), "the updates are merged"
    result = real_stress.measure_tuned(0, 3, "harmful")
    requests = requests_of("harmful")[:9]
    assert list(result["margins"]) == [row["id"] for row in requests]
    prompts = [shipped.prompt(role, 0) for role in ("safeguarding", "adversarial")]
    logits = first_logits(tuned, tokenizer, [row["request"] for row in requests], *prompts)
    for place, alpha in enumerate((0.0, real_stress.ALPHA)):
        expected = refusal_margins(logits, [tokenizer.convert_tokens_to_ids("sorry")], alpha).tolist()
        assert [margins[place] for margins in result["margins"].values()] == pytest.approx(expected, abs=1e-3)


def rows(tokenizer):
    return [chat.encode_with_mask(tokenizer, chat.conversation(f"what does {one} do ?", "", "it calms people ."))
            for one in ("sleep", "light", "courage")]  # fmt: skip


def test_fine_tuning_learns_written_answers_to_harmless_requests_alone(lab):
    found = real_stress._harmless_rows()
    assert len(found) > 200
    assert all(any(mask) and not mask[0] and len(ids) == len(mask) for ids, mask in found)


# ---------------------------------------------------------------- a recipe with a part less


def many(pool: str, count: int) -> list[Anchor]:
    return [Anchor(f"{pool} {number}", pool, "sorry", "yes") for number in range(count)]


@pytest.mark.parametrize("share", [0.0625, 0.25, 1.0])
def test_a_part_of_the_anchors_has_the_same_share_of_each_pool(share):
    anchors = [*many("harmful", 64), *many("benign", 32), *many("borderline", 16)]
    random.Random(0).shuffle(anchors)
    part = real_stress._part(anchors, share)
    assert len(set(part)) == len(part)
    assert set(part) <= set(anchors)
    counts = {pool: sum(one.pool == pool for one in part) for pool in ("harmful", "benign", "borderline")}
    assert counts == {"harmful": round(64 * share), "benign": round(32 * share), "borderline": round(16 * share)}
    assert part == real_stress._part(anchors, share), "always the same ones"


def test_each_change_changes_one_thing():
    recipe, anchors = SMOLLM2["safeguarding"], [*many("harmful", 32), *many("benign", 32)]
    changed = {name: change(recipe, anchors) for name, change in real_stress.CHANGES.items()}
    without, same = changed["no benign term"]
    assert same == anchors
    assert without == replace(recipe, objective=replace(recipe.objective, benign=0.0))
    quarter = changed["a quarter of the anchors"]
    assert quarter[0] == recipe
    assert len(quarter[1]) == 16


def test_a_changed_prompt_is_trained_once_and_never_stands_in_the_kits_data(lab):
    lab.patch.setattr(
        real_stress, "SMOLLM2", {"safeguarding": replace(shipped.SMOLLM2["safeguarding"], steps=2)}
    )  # fmt: skip
    result = real_stress.measure_changed(0, "no benign term", "benign")
    drawn = len(lab.drawn)
    assert drawn == 2
    real_stress._changed.cache_clear()  # as in another process
    assert real_stress.measure_changed(0, "no benign term", "benign") == result
    assert len(lab.drawn) == drawn
    assert not (lab.data / "prompts").exists()
    kept = real_stress.measure_changed(0, "none", "benign")
    assert kept != result
    assert (lab.data / "prompts" / "smollm2-0").is_dir()
    assert len(ANCHORS) == 6


# ---------------------------------------------------------------- other ways of subtracting


@pytest.mark.parametrize("way", real_stress.WAYS)
def test_a_way_of_subtracting_is_decoded_and_measured_with_its_own_prompts(lab, way):
    lab.patch.setattr(real_stress, "SMOLLM2", shipped.SMOLLM2)
    result = real_stress.measure_way(0, way, "borderline")
    rows = requests_of("borderline")[:9]
    assert list(result["labels"]) == list(result["margins"]) == [row["id"] for row in rows]
    safe, adversarial = (shipped.prompt(role, 0) for role in ("safeguarding", "adversarial"))
    if way == "A avoids refusals":
        assert not torch.equal(real_stress._avoiding(0), adversarial)
        adversarial = real_stress._avoiding(0)
    model, tokenizer = lab.model
    logits = first_logits(model, tokenizer, [row["request"] for row in rows], safe, adversarial)
    expected = refusal_margins(logits, [tokenizer.convert_tokens_to_ids("sorry")], real_stress.ALPHA).tolist()
    assert [margins[1] for margins in result["margins"].values()] == pytest.approx(expected, abs=1e-3)


def test_the_ways_differ_from_the_method_table_by_what_they_say():
    logits = torch.tensor([[[5.0, 3.0, 0.0, -4.0]], [[5.0, -1.0, 0.0, -40.0]]])  # (2, B, V)
    chosen = {name: way and int(way(logits).argmax()) for name, way in real_stress.WAYS.items()}
    assert chosen["A alone"] is None
    assert chosen["no limit"] == 3, "the contrast is highest where neither stream would go"
    assert chosen["A avoids refusals"] == 1
    near = logits.clone()
    near[1] = near[0] + torch.tensor([0.02, 0.0, 0.0, -0.02])
    assert int(real_stress.WAYS["gate 0.1"](near).argmax()) == 0
    assert torch.equal(real_stress.WAYS["gate 0.1"](near)[0, :2], near[0, 0, :2]), "where the streams agree, S alone"


# ---------------------------------------------------------------- one pass


@pytest.fixture
def short(lab):
    """Distillations of a few steps from a few requests."""
    for name in ("INTO_PROMPT", "INTO_ADAPTER"):
        lab.patch.setattr(real_one_pass, name, replace(getattr(real_one_pass, name), steps=3, warmup=1))
    for name, value in {"EACH": 3, "HELD_OUT": 2, "TOKENS": 3}.items():
        lab.patch.setattr(real_one_pass, name, value)
    return lab


@pytest.mark.parametrize("student", real_one_pass.DISTILLED)
def test_a_student_is_distilled_once_and_answers_in_one_pass(short, student):
    model, _ = short.model
    before = weights_hash(model)
    result = real_one_pass.measure_distilled(0, student, "harmful")
    assert list(result["labels"]) == [row["id"] for row in requests_of("harmful")[:9]]
    its, one = real_one_pass._student(student, 0)
    assert weights_hash(model) == before
    if student == "LoRA":
        assert one is None
        assert weights_hash(its) != before
        assert list(its.state_dict()) == list(model.state_dict())
    else:
        assert its is model
        assert one.shape == shipped.prompt("safeguarding", 0).shape
        assert not torch.equal(one, shipped.prompt("safeguarding", 0))


def test_what_is_shown_and_what_is_held_out_are_of_different_splits_and_of_all_kinds(short):
    shown, held_out = (
        {one.request for one in real_one_pass._shown(0, *part)} for part in (("train", 3), ("validation", 2))
    )
    assert not shown & held_out
    assert (len(shown), len(held_out)) == (9, 6)


def test_fidelity_is_that_of_each_student_on_held_out_requests(short):
    found = {name: real_one_pass.measure_fidelity(0, name) for name in ("S alone", *real_one_pass.DISTILLED)}
    assert all(one["divergence"] >= 0 and 0 <= one["agreement"] <= 1 for one in found.values())
    assert len({one["divergence"] for one in found.values()}) == 3
    assert json.loads(json.dumps(found)) == found


def test_costs_are_ratios_to_the_plain_model_and_kept_places_are_counted(short):
    short.patch.setattr(real_one_pass, "LONG", 5)
    short.patch.setattr(real_one_pass, "REPEATS", 1)
    found = real_one_pass.measure_cost(0, 2)
    assert set(found) == {"plain", "one soft prompt", "LoRA", "LoRA, merged", "two streams"}
    assert found["plain"] == {"time": 1.0, "kept": 1.0}
    assert found["LoRA"]["kept"] == found["LoRA, merged"]["kept"] == 1.0
    tokenizer = short.model[1]
    texts = sorted((row["request"] for row in real_one_pass.data.load("benign", "validation")), key=len)[-2:]
    plain = sum(len(chat.encode(tokenizer, chat.conversation(text))) + 5 for text in texts)
    soft = sum(len(chat.encode(tokenizer, chat.conversation(text, ""))) + 5 + 4 for text in texts)
    assert found["one soft prompt"]["kept"] == pytest.approx(soft / plain, abs=1e-3)
    assert found["two streams"]["kept"] == pytest.approx(2 * soft / plain, abs=1e-3)
    assert all(one["time"] > 0 for one in found.values())
