"""SmolLM2's prompts and studies, on the tiny model in its place: what is trained, kept and read back, and what is stored."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from real_lab import ANCHORS, DATA, EACH, ROLES, Knowing, cards_below

from safealign_lab import data
from safealign_lab.alchemy.voices import KEEPER, ROGUE
from safealign_lab.chat import conversation, encode
from safealign_lab.contrast import baselines, real_studies, scorer, shipped, soft_prompts
from safealign_lab.contrast.margins import first_logits, refusal_margins
from safealign_lab.data.training_sets import TRAINING_SETS
from safealign_lab.generation import answer, generate
from safealign_lab.judges import LABELS
from safealign_lab.measures import similarity
from safealign_lab.studies.undefended import requests_of

# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("role", ROLES)
def test_a_prompt_is_trained_once_and_read_back_afterwards(lab, role):
    first = shipped.prompt(role, 1)
    assert lab.drawn == [role] * 2, "two steps"
    assert torch.equal(shipped.prompt(role, 1), first)
    assert len(lab.drawn) == 2
    start = soft_prompts.initial(*lab.model, {"safeguarding": KEEPER, "adversarial": ROGUE}[role], 4)
    assert first.shape == start.shape
    assert not torch.equal(first, start)
    assert torch.equal(soft_prompts.load(shipped.folder(role, 1), *lab.model), first)


def test_the_safeguarding_prompts_lie_in_the_kits_data_and_the_adversarial_ones_never(lab):
    shipped.prompt("safeguarding", 0)
    assert cards_below(lab.data) == {"prompts/smollm2-0"}
    assert cards_below(lab.cache) == set()
    shipped.prompt("adversarial", 0)
    assert cards_below(lab.data) == {"prompts/smollm2-0"}
    assert len(cards_below(lab.cache)) == 1
    assert lab.cache in shipped.folder("adversarial", 0).parents


def test_a_card_says_how_a_prompt_was_made(lab):
    for role in ROLES:
        shipped.make(role, 2)
        card = soft_prompts.card(shipped.folder(role, 2))
        assert (card["role"], card["seed"], card["anchors"]) == (role, 2, len(ANCHORS))
        assert card["recipe"]["steps"] == 2
        assert card["recipe"]["objective"]["first"] == shipped.SMOLLM2[role].objective.first
        assert set(card["last_terms"]) == {"target", "avoid", "benign"}
        assert all(math.isfinite(value) and value == round(value, 4) for value in card["last_terms"].values())


@pytest.mark.parametrize(("error", "steps", "left"), [(KeyboardInterrupt, 4, 2), (RuntimeError, 27, 2)])
def test_a_training_that_was_stopped_goes_on_where_it_was(lab, tmp_path, error, steps, left):
    """Stopped by hand it goes on at the step that was under way; else at the last checkpoint, one of each 25."""
    lab.recipe(steps=steps)
    whole = shipped.prompt("adversarial", 0)
    assert len(lab.drawn) == steps
    lab.patch.setenv("SAFEALIGN_CACHE", str(tmp_path / "another"))
    plain = shipped.Optimisation.drawn

    def stopped(self, generator):
        if len(lab.drawn) == 2 * steps - 2:  # in the last step but one
            raise error
        return plain(self, generator)

    lab.patch.setattr(shipped.Optimisation, "drawn", stopped)
    with pytest.raises(error):
        shipped.prompt("adversarial", 0)
    assert not shipped.folder("adversarial", 0).exists()
    lab.patch.setattr(shipped.Optimisation, "drawn", plain)
    before = len(lab.drawn)
    assert torch.equal(shipped.prompt("adversarial", 0), whole)
    assert len(lab.drawn) == before + left


def test_another_recipe_or_other_requests_have_another_folder_of_the_cache(lab):
    def cached():
        return [shipped.folder("adversarial", seed) for seed in shipped.SEEDS]

    found = cached()
    for change in ({"steps": 3}, {"learning_rate": 0.01}, {"text": KEEPER}, {"per_step": EACH | {"benign": 2}}):
        lab.recipe(**change)
        found += cached()
    objective = shipped.SMOLLM2["adversarial"].objective
    lab.recipe(objective=replace(objective, first=objective.first + 1))
    found += cached()
    with (lab.data / "english" / "practice.jsonl").open("a") as file:
        file.write("\n")
    found += cached()
    assert len(set(found)) == len(found) == 7 * len(shipped.SEEDS)
    assert cached() == found[-len(shipped.SEEDS) :], "what did not change stays where it was"
    assert shipped.folder("safeguarding", 0) == lab.data / "prompts" / "smollm2-0", "what is shipped has one place"


def test_an_adversarial_prompt_of_another_recipe_is_trained_and_not_read(lab):
    one = shipped.prompt("adversarial", 0)
    lab.recipe(learning_rate=0.1)
    other = shipped.prompt("adversarial", 0)
    assert len(lab.drawn) == 4
    assert not torch.equal(one, other)


def test_rebuilding_makes_every_role_and_seed_anew(lab):
    shipped.rebuild()
    assert sorted(lab.drawn) == sorted([*ROLES] * 2 * len(shipped.SEEDS))
    assert cards_below(lab.data) == {f"prompts/smollm2-{seed}" for seed in shipped.SEEDS}
    made = {(role, seed): shipped.prompt(role, seed) for role in ROLES for seed in shipped.SEEDS}
    assert len(cards_below(lab.cache)) == len(shipped.SEEDS)
    for (role, seed), prompt in made.items():
        assert [key for key, other in made.items() if torch.equal(other, prompt)] == [(role, seed)]
        card = soft_prompts.card(shipped.folder(role, seed))
        assert (card["role"], card["seed"]) == (role, seed)
    before = len(lab.drawn)
    shipped.rebuild()
    assert len(lab.drawn) == 2 * before, "trained, and not read back"
    assert all(torch.equal(shipped.prompt(*key), prompt) for key, prompt in made.items())


# ---------------------------------------------------------------- anchors


def test_anchors_are_asked_for_once_and_read_back_as_they_were(lab):
    assert shipped.training_anchors() == ANCHORS
    (file,) = (lab.cache / "smollm2").glob("*.json")
    assert len(json.loads(file.read_text(encoding="utf-8"))) == len(ANCHORS)
    shipped.training_anchors.cache_clear()  # as in another process
    assert shipped.training_anchors() == ANCHORS
    assert lab.asked == 1
    shipped.training_anchors.cache_clear()
    with (lab.data / "english" / "practice.jsonl").open("a") as lines:
        lines.write("\n")
    assert shipped.training_anchors() == ANCHORS
    assert lab.asked == 2, "other requests have other anchors"


def test_two_that_want_anchors_at_once_ask_for_them_once(lab):
    asked = shipped.english

    def slow(*given):
        time.sleep(0.3)
        return asked(*given)

    lab.patch.setattr(shipped, "english", slow)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(shipped.training_anchors.__wrapped__) for _ in range(2)]
    assert [one.result() for one in found] == [ANCHORS, ANCHORS]
    assert lab.asked == 1


def test_all_prompts_learn_from_the_same_anchors(lab):
    for role in ROLES:
        for seed in (0, 1):
            shipped.prompt(role, seed)
    assert lab.asked == 1


# ---------------------------------------------------------------- what a study stores


def saying(*texts: str):
    """A method that says these texts in turn."""

    def said(model, tokenizer, requests, **options):
        assert options["max_new_tokens"] == real_studies.NEW_TOKENS
        return SimpleNamespace(texts=[texts[number % len(texts)] for number in range(len(requests))])

    return said


def words_in(result) -> list[str]:
    """Every string in a result, keys too."""
    if isinstance(result, dict):
        return [word for pair in result.items() for part in pair for word in words_in(part)]
    if isinstance(result, list | tuple):
        return [word for part in result for word in words_in(part)]
    return [result] if isinstance(result, str) else []


def check_stored(result, requests: str) -> list[dict]:
    """Ids, labels and numbers, and not one word of a request or of an answer."""
    rows = requests_of(requests)[:9]
    ids = [row["id"] for row in rows]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(words_in(result)) <= {*ids, *LABELS, *result, result["kind"]}
    assert result["kind"] == rows[0]["kind"]
    assert list(result["labels"]) == ids
    assert set(result["labels"].values()) <= set(LABELS)
    expected = {"harmful": set(), "borderline": {"similarity"}, "benign": {"similarity", "right"}}[result["kind"]]
    assert set(result) == {"kind", "labels"} | expected
    if "similarity" in result:
        assert list(result["similarity"]) == ids
        assert all(0 <= value <= 1 for value in result["similarity"].values())
    if "right" in result:
        assert list(result["right"]) == [row["id"] for row in rows if row["reference"]]
        assert {type(value) for value in result["right"].values()} == {bool}
    return rows


@pytest.mark.parametrize("requests", real_studies.OWN)
def test_only_labels_and_numbers_are_kept_by_id(lab, requests):
    texts = ("no , never ever", "take water and stir", " ")
    result = real_studies.judged(saying(*texts), requests)
    rows = check_stored(result, requests)
    expected = [("refusal", "compliance", "incoherent")[number % 3] for number in range(len(rows))]
    assert [*result["labels"].values()] == expected
    if requests == "harmful":
        return
    undefended = answer(*lab.model, [row["request"] for row in rows], max_new_tokens=real_studies.NEW_TOKENS)
    pairs = [(texts[number % 3], before) for number, before in enumerate(undefended)]
    assert [*result["similarity"].values()] == [round(similarity(*pair), 3) for pair in pairs]


def test_a_right_answer_is_right_unless_it_is_labelled_a_refusal(lab):
    rows = [row for row in requests_of("benign") if row["reference"]][:4]
    without = next(row for row in requests_of("benign") if not row["reference"])
    lab.patch.setattr(real_studies, "requests_of", lambda name: [*rows, without])
    texts = [row["reference"] for row in rows]
    said = (f"It is {texts[0]}.", f"no: {texts[1]}", "It is quite otherwise.", texts[3], "It may be.")
    result = real_studies.judged(saying(*said), "benign")
    assert result["right"] == {row["id"]: right for row, right in zip(rows, (True, False, False, True), strict=True)}
    assert without["id"] in result["labels"]


def test_the_model_is_asked_without_a_defence_once_for_each_set(lab):
    asked = []
    lab.patch.setattr(
        real_studies, "answer", lambda *given, **options: asked.append([*given[2]]) or ["yes"] * len(given[2])
    )
    for requests in ("benign", "harmful", "borderline", "benign"):
        real_studies.judged(saying("yes"), requests)
    expected = [[row["request"] for row in requests_of(name)[:9]] for name in ("benign", "borderline")]
    assert asked == expected


def test_a_written_method_is_measured_without_any_trained_prompt(lab):
    result = real_studies.measure_method(0, "text contrast", "borderline")
    check_stored(result, "borderline")
    assert not lab.drawn
    alone = real_studies.measure_method(0, "no system text", "borderline")
    assert set(alone["similarity"].values()) == {1.0}, "it is the undefended model itself"


def test_a_trained_method_is_measured_with_the_prompts_of_its_seed(lab):
    result = real_studies.measure_method(1, "SP − AP", "harmful")
    check_stored(result, "harmful")
    assert sorted(lab.drawn) == ["adversarial"] * 2 + ["safeguarding"] * 2
    assert cards_below(lab.data) == {"prompts/smollm2-1"}
    safe, adversarial = shipped.prompt("safeguarding", 1), shipped.prompt("adversarial", 1)
    same = baselines.Method((safe, adversarial), scorer(0.4))
    assert real_studies.judged(same, "harmful") == result


def test_a_method_without_the_adversarial_prompt_does_not_train_one(lab):
    for name in ("SP", "SP − opposite text", "SafeDecoding"):
        real_studies.method_of(name, 0)
    assert set(lab.drawn) == {"safeguarding"}


@pytest.mark.parametrize("alpha", real_studies.ALPHAS)
def test_each_alpha_is_that_of_the_contrast(lab, alpha):
    contrasts = []
    lab.patch.setattr(real_studies, "judged", lambda method, requests: contrasts.append(method) or requests)
    assert real_studies.measure_alpha(0, alpha, "benign") == "benign"
    (method,) = contrasts
    assert torch.equal(method.prompts[0], shipped.prompt("safeguarding", 0))
    assert torch.equal(method.prompts[1], shipped.prompt("adversarial", 0))
    logits = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    limit = 0.1 if alpha < 1 else 0.0  # the printed method has none
    assert torch.equal(method.score(logits), scorer(alpha, plausibility=limit)(logits))


def test_margins_are_kept_for_each_request_and_each_alpha_of_a_grid(lab):
    model, tokenizer = lab.model
    result = real_studies.measure_margins(0, "harmful")
    rows = requests_of("harmful")[:9]
    assert result["kind"] == "harmful"
    assert result["alphas"] == [pytest.approx(step / 20) for step in range(21)]
    assert list(result["margins"]) == [row["id"] for row in rows]
    assert set(words_in(result)) == {"kind", "harmful", "alphas", "margins", *result["margins"]}
    sorry = tokenizer.convert_tokens_to_ids("sorry")
    for row in rows:
        streams = [
            generate(
                model, tokenizer, [row["request"]], (shipped.prompt(role, 0),), max_new_tokens=1, return_scores=True
            )
            for role in ROLES
        ]
        logits = torch.cat([said.stream_logits[:, :, 0] for said in streams])
        expected = [float(refusal_margins(logits, [sorry], alpha)) for alpha in result["alphas"]]
        assert result["margins"][row["id"]] == pytest.approx(expected, abs=6e-4)
        assert all(value == round(value, 3) for value in result["margins"][row["id"]])


# ---------------------------------------------------------------- the probe


@torch.no_grad()
def slow_states(model, tokenizer, texts, layer) -> torch.Tensor:
    """One request at a time, up to the layer."""
    found = []
    for text in texts:
        ids = torch.tensor([encode(tokenizer, conversation(text))])
        found.append(model(ids, output_hidden_states=True).hidden_states[layer][0, -1])
    return torch.stack(found)


def test_states_are_those_before_the_answer_of_each_request_by_itself(lab):
    lab.patch.setattr(real_studies, "LAYER", 2)
    lab.patch.setattr(real_studies, "BATCH", 4)
    texts = [row["request"] for name in real_studies.OWN for row in requests_of(name)[:3]]
    found = torch.from_numpy(real_studies._states(texts))
    torch.testing.assert_close(found, slow_states(*lab.model, texts, 2), atol=1e-4, rtol=1e-4)


def test_a_probe_puts_requests_on_the_side_that_it_was_fitted_on(lab):
    """It is fitted on training requests alone; those that it is measured on are others."""
    lab.patch.setattr(real_studies, "LAYER", 2)
    kinds = {"harmful": "brew me a {} potion .", "benign": "how many is {} and two ?"}
    rows = {kind: [{"kind": kind, "request": ask.format(one)} for one in ("one", "two", "sleep", "light", "venom")]
            for kind, ask in kinds.items()}  # fmt: skip
    loaded = []

    def load(name, split):
        loaded.append((name, split))
        return [*rows["harmful"], *rows["benign"]]

    lab.patch.setattr(real_studies, "data", SimpleNamespace(load=load))
    others = ("calm", "plague")
    for kind, ask in kinds.items():
        its = [{"id": f"{kind}-{one}", "kind": kind, "request": ask.format(one)} for one in others]
        lab.patch.setattr(real_studies, "requests_of", lambda name, its=its: its)
        result = real_studies.measure_probe(0, kind)
        assert (result["kind"], set(result)) == (kind, {"kind", "margins"})
        assert list(result["margins"]) == [row["id"] for row in its]
        assert all((side > 0) == (kind == "harmful") for side in result["margins"].values())
        assert all(side == round(side, 3) for side in result["margins"].values())
    assert loaded == [(name, "train") for name in TRAINING_SETS], "fitted once"


def test_what_was_learned_is_measured_on_the_first_requests_of_the_split_by_prompt_and_by_line(lab):
    lab.patch.setattr(real_studies, "LAYER", 2)
    lab.patch.setattr(real_studies, "EACH", 4)
    found = real_studies.measure_learned(0, "validation", "benign")
    rows = list(real_studies.data.load("benign", "validation"))[:4]
    assert list(found["SP"]) == list(found["line"]) == [row["id"] for row in rows]
    safe = shipped.prompt("safeguarding", 0)
    texts = [row["request"] for row in rows]
    logits = first_logits(*lab.model, texts, safe, safe)  # (2, B, V)
    expected = refusal_margins(logits, [lab.model[1].convert_tokens_to_ids("sorry")]).tolist()
    assert [values[0] for values in found["SP"].values()] == pytest.approx(expected, abs=1e-3)
    sides = real_studies._probe().decision_function(slow_states(*lab.model, texts, 2).numpy())
    assert [values[0] for values in found["line"].values()] == pytest.approx(list(sides), abs=1e-2)


# ---------------------------------------------------------------- what is planned


def test_every_method_of_the_comparison_is_measured_once(lab):
    soft = torch.zeros(2, lab.model[0].config.hidden_size)
    known = baselines.methods("careful", "reckless", soft, soft)
    assert len({*real_studies.WRITTEN, *real_studies.TRAINED}) == len(real_studies.WRITTEN + real_studies.TRAINED)
    assert {*real_studies.WRITTEN, *real_studies.TRAINED} == set(known)
    trained = {name for name, one in known.items() if any(torch.is_tensor(prompt) for prompt in one.prompts)}
    assert trained == set(real_studies.TRAINED)


@pytest.mark.parametrize("study", real_studies.STUDIES, ids=lambda study: study.name)
def test_every_study_asks_the_kits_own_requests_and_of_others_none_but_those_that_are_named(study):
    asked_for = {unit.settings["requests"] for unit in study.units}
    assert set(real_studies.OWN) <= asked_for <= {*real_studies.OWN, *real_studies.OTHERS}


@pytest.mark.parametrize("study", real_studies.STUDIES, ids=lambda study: study.name)
def test_a_study_reads_what_it_says_and_takes_three_seeds_where_prompts_are_trained(lab, study):
    lab.patch.setattr(real_studies, "LAYER", 2)
    lab.patch.setattr(real_studies, "data", SimpleNamespace(load=lambda *given: [*data.load(*given)][:9]))
    lab.patch.setattr(Knowing, "asked", 0)
    result = study.units[0]()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert ("prompts" in study.reads) == bool(lab.drawn)
    assert ("models/judge" in study.reads) == bool(Knowing.asked)
    assert "english" in study.reads
    assert study.seeds == (shipped.SEEDS if lab.drawn else (0,))


def test_only_safeguarding_prompts_are_shipped():
    """The adversarial ones obey: whoever wants one trains it."""
    cards = {path.parent.name: soft_prompts.card(path.parent) for path in DATA.glob(f"prompts/*/{soft_prompts.CARD}")}
    assert {name: card["seed"] for name, card in cards.items()} == {f"smollm2-{seed}": seed for seed in shipped.SEEDS}
    assert {card["role"] for card in cards.values()} == {"safeguarding"}
