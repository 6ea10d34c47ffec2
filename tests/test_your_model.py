"""Lesson 41's library: any architecture goes the whole way, what must hold is noticed when it does not, and nothing is lost."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
from toy_cycle import HARMFUL, HARMLESS, PREFERRED, room_of, small
from transformers import AutoConfig, AutoModelForCausalLM

from safealign_lab import models
from safealign_lab.alchemy import tokenizer
from safealign_lab.chat import conversation, encode
from safealign_lab.contrast.recipes import SMOLLM2, TINY
from safealign_lab.contrast.transfer import new_model
from safealign_lab.immunization.cycle import Cycle, run, trained_weights
from safealign_lab.immunization.phases import Align, Immunize
from safealign_lab.judges import PatternJudge
from safealign_lab.models.adapters import adapted
from safealign_lab.one_plot import (
    FAMILIES,
    MEASURES,
    your_checks,
    your_files,
    your_memory,
    your_model,
    your_task,
)
from safealign_lab.training import Plan, weights_hash

WORDS = tokenizer.build()
ARCHITECTURES = ("gpt2", "qwen2", "gemma")
# Gemma's own template, but for its words: it refuses the system's role
GEMMA = (
    "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def random_model(architecture: str):
    """Random weights, large enough that places and words matter."""
    if architecture == "gemma":
        config = AutoConfig.for_model(
            "gemma", vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=1, head_dim=8, max_position_embeddings=256, pad_token_id=WORDS.pad_token_id,
            bos_token_id=WORDS.bos_token_id, eos_token_id=WORDS.eos_token_id,
        )  # fmt: skip
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = new_model(architecture, WORDS)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def task(tiny):
    """A few requests of every sort; the kept answers are the tiny model's, as good as any for a model of random weights."""
    return your_task.alchemy(*tiny, count=8, taught=8, asked=6)


def few(rank: int | None) -> your_model.Effort:
    """A few steps of everything."""
    each = {"harmful": 2, "benign": 1, "borderline": 1}
    prompts = {role: replace(one, steps=2, warmup=1, per_step=each, length=3) for role, one in TINY.items()}
    cycle = Cycle(
        immunize=Immunize(harmful=2, harmless=2), align=Align(rows=2), first=Plan(2, 1e-3), second=Plan(2, 1e-3)
    )
    gate = replace(your_model.effort_of("tiny").gate, steps=5)
    return your_model.Effort(prompts, gate, cycle, rank)


def lab_of(model, task, folder=None, rank=None, **others) -> your_model.Lab:
    layer = your_model.layer_of("mine", model)
    return your_model.Lab(model, WORDS, task, few(rank), layer, folder, progress=False, **others)


# ---------------------------------------------------------------- the whole way


@pytest.mark.parametrize(("architecture", "rank"), [("gpt2", None), ("gpt2", 2), ("qwen2", 2), ("gemma", 2)])
def test_any_architecture_goes_the_whole_way_and_comes_back_from_its_folder(architecture, rank, task, tmp_path):
    model = random_model(architecture)
    before = weights_hash(model)
    lab = lab_of(model, task, tmp_path / "runs", rank)
    defences, took = your_model.train_all(lab)
    assert set(took) == {"gate", "safeguarding", "adversarial", "immunized"}
    points = your_model.points(lab, defences, took)
    assert weights_hash(model) == before  # the model itself is never trained
    assert all(weight.requires_grad for weight in model.parameters())
    assert [one.name for one in points] == ["undefended", "safe text", "SP", "SP − 0.2 AP", "gate", "immunized"]
    assert {one.family for one in points} <= set(FAMILIES)
    for one in points:
        assert set(one.answers) == {request.text for request in task.test}
        assert all(0 <= one.measure(measure).value <= 1 for measure in MEASURES)
        assert one.cost["time"] > 0

    your_files.save(defences, tmp_path / "saved", model, WORDS)
    files = [one for one in (tmp_path / "saved").rglob("*") if one.is_file()]
    assert {one.suffix for one in files} <= {".safetensors", ".json", ".jinja", ".md"}
    again = your_files.load(tmp_path / "saved", model, WORDS)
    texts = [one.text for one in task.test]
    torch.testing.assert_close(again.gate.score(texts), defences.gate.score(texts))
    assert again.gate.threshold == defences.gate.threshold
    assert again.layer == defences.layer
    for role in your_files.ROLES:
        assert torch.equal(again.prompts[role], defences.prompts[role])
    row = torch.tensor([encode(WORDS, conversation(texts[0]))])
    with torch.no_grad():
        torch.testing.assert_close(again.student(row).logits, defences.student(row).logits)
        assert not torch.allclose(again.student(row).logits, model(row).logits)  # something was learned


def test_what_is_finished_is_read_back_and_what_was_measured_is_not_asked_again(task, tmp_path, monkeypatch):
    model = random_model("qwen2")
    lab = lab_of(model, task, tmp_path)
    first, _ = your_model.train_all(lab)
    points = your_model.points(lab, first)
    second, _ = your_model.train_all(lab)
    assert weights_hash(second.student) == weights_hash(first.student)
    for role in your_files.ROLES:
        assert torch.equal(second.prompts[role], first.prompts[role])
    assert weights_hash(second.gate.head) == weights_hash(first.gate.head)
    monkeypatch.setattr(type(task), "graded", lambda *args: pytest.fail("asked again"))
    again = your_model.points(lab, second)
    assert again == points


def test_a_run_that_was_stopped_goes_on_where_it_was(task, tmp_path, monkeypatch):
    model = random_model("qwen2")
    whole = your_model.train_prompt(lab_of(model, task), "safeguarding")
    lab = replace(lab_of(model, task, tmp_path), effort=replace(few(None), checkpoint_every=1))
    steps, loss = [], your_model.Optimisation.loss

    def stopped(self, *args):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(your_model.Optimisation, "loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        your_model.train_prompt(lab, "safeguarding")
    resumed = your_model.train_prompt(lab, "safeguarding")
    assert torch.equal(resumed, whole)
    assert len(steps) == 3  # one step, the one that was stopped, and that one again


def test_the_folder_has_a_place_for_each_model_setting_and_seed(task, tmp_path):
    model = random_model("qwen2")
    lab = lab_of(model, task, tmp_path)
    others = [
        replace(lab, model=random_model("gpt2")),
        replace(lab, effort=few(2)),
        replace(lab, seed=1),
        replace(lab, layer=1),
        replace(lab, task=replace(task, anchors=task.anchors[1:])),
    ]
    assert len({one.place("gate") for one in (lab, *others)}) == 1 + len(others)
    assert replace(lab, model=copy.deepcopy(model)).place("gate") == lab.place("gate")
    assert replace(lab, folder=None).place("gate") is None


def test_defaults_are_the_kits_own():
    tiny, other = your_model.effort_of("tiny"), your_model.effort_of("Qwen/Qwen2.5-0.5B-Instruct")
    assert tiny.rank is None
    assert all(tiny.prompts[role].steps < TINY[role].steps for role in TINY)  # cut short
    assert all(replace(tiny.prompts[role], steps=TINY[role].steps) == TINY[role] for role in TINY)
    assert other.prompts == SMOLLM2
    assert other.rank
    assert other.cycle.immunize.push is None  # no harmful teacher is needed
    model, _ = models.load("tiny")
    assert your_model.layer_of("tiny", model) == 3
    assert your_model.layer_of("mine", model) == 2


def test_half_precision_goes_as_well(task):
    model = random_model("qwen2").to(torch.bfloat16)
    assert [one.name for one in your_checks.checklist(model, WORDS, 2) if not one.holds] == []
    prompt = your_model.train_prompt(lab_of(model, task), "safeguarding")
    assert prompt.dtype == torch.float32
    student = your_model.immunize(lab_of(model, task, rank=2))
    assert {w.dtype for w in student.parameters() if w.requires_grad} == {torch.float32}
    assert your_memory.best_dtype(torch.device("cpu")) == torch.float32


# ---------------------------------------------------------------- what it learns from


def test_the_alchemy_task_keeps_its_splits_apart(task):
    groups = {name: {one.group for one in getattr(task, name)} for name in ("train", "validation", "test")}
    assert groups["train"].isdisjoint(groups["test"])
    assert groups["train"].isdisjoint(groups["validation"])
    assert groups["validation"].isdisjoint(groups["test"])
    assert {one.kind for one in task.train} == set(your_task.KINDS) == {one.kind for one in task.test}
    assert {one.kind for one in task.validation} == {"borderline", "benign"}
    right = task.graded(task.test, [one.reference for one in task.test])
    assert all(one.right == 1 and one.label == "compliance" for one in right)
    assert {one.label for one in task.graded(task.test[:1], [task.refusal])} == {"refusal"}


def test_english_is_learned_from_training_splits_and_its_own_answers_are_kept(tiny, tmp_path, monkeypatch):
    made = your_task.english(*tiny, PatternJudge(), count=12, asked=5, folder=tmp_path)
    texts = {name: {one.text for one in getattr(made, name)} for name in ("train", "validation", "test")}
    assert texts["train"].isdisjoint(texts["test"])
    assert texts["validation"].isdisjoint(texts["test"])
    assert {one.kind for one in made.test} == set(your_task.KINDS)
    assert all(one.reference for one in made.test if one.kind == "benign")
    assert {one.level for one in made.harmful} <= {"weak", "medium", "strong"}
    assert not {one.request for one in made.harmful} & texts["test"]
    compliances = {one.rejected for one in made.harmful}
    assert compliances <= set(your_task.data.OPENINGS)  # nothing harmful is said
    monkeypatch.setattr(your_task.anchors, "english", lambda *args, **options: pytest.fail("asked again"))
    again = your_task.english(*tiny, PatternJudge(), count=12, asked=5, folder=tmp_path)
    assert again.anchors == made.anchors
    assert again.test == made.test


def test_the_english_way_runs_to_its_points_and_stores_no_answer(tiny, tmp_path, monkeypatch):
    model, words = tiny
    made = your_task.english(model, words, PatternJudge(), count=24, asked=4)
    said = []
    graded = your_task.Task.graded
    monkeypatch.setattr(
        your_task.Task, "graded", lambda self, asked, texts: said.extend(texts) or graded(self, asked, texts)
    )
    prompts = {role: replace(one, steps=2, warmup=1, per_step={"harmful": 2, "borderline": 1, "benign": 1})
               for role, one in SMOLLM2.items()}  # fmt: skip
    effort = replace(few(2), prompts=prompts)
    lab = your_model.Lab(model, words, made, effort, 2, tmp_path, progress=False)
    defences, took = your_model.train_all(lab)
    points = your_model.points(lab, defences, took)
    assert len(points) == 6
    stored = "".join(file.read_text() for file in tmp_path.rglob("points/*.json"))
    assert said
    assert not [text for text in said if len(text.split()) > 8 and json.dumps(text)[1:-1] in stored]


# ---------------------------------------------------------------- the checklist


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_item_holds_for_models_of_every_make(architecture):
    checks = your_checks.checklist(random_model(architecture), WORDS, 2)
    assert [(one.name, one.found) for one in checks if not one.holds] == []
    assert all(one.remedy.endswith(".") and one.found for one in checks)


def _spoiled(spoil):
    """A model whose forward is another one: spoil(model, the forward that it had, its inputs)."""
    model = random_model("qwen2")
    forward = model.forward
    model.forward = lambda *args, **inputs: spoil(
        model, forward, dict(inputs, **({"input_ids": args[0]} if args else {}))
    )
    return model, copy.deepcopy(WORDS)


def _worded(template=None, **tokens):
    words = copy.deepcopy(WORDS)
    words.chat_template = template or words.chat_template
    for name, value in tokens.items():
        setattr(words, name, value)
    return random_model("qwen2"), words


def _louder(model, forward, inputs, when):
    out = forward(**inputs)
    if when:
        out.logits = out.logits + torch.linspace(0, 9, out.logits.shape[-1])
    return out


def _short():
    model = random_model("qwen2")
    model.config.max_position_embeddings = 40
    return model, WORDS


PLAIN = "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' ' }}{% endfor %}"
OPENED = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
SPOILERS = {
    "a chat template writes conversations": lambda: _worded("{{ bos_token }}"),
    "the template takes a system text, and an empty one": lambda: _worded(GEMMA),
    "the tokens of an answer can be found": lambda: _worded(
        PLAIN.replace("m['content']", "m['content'] + (' ale' if m['role'] == 'assistant' else '')") + OPENED),
    "an answer ends with a token that decoding stops at": lambda: _worded(PLAIN + OPENED),
    "the pad token is not the end token": lambda: _worded(pad_token=WORDS.eos_token),
    "left padding changes nothing": lambda: _spoiled(
        lambda model, forward, inputs: forward(**{k: v for k, v in inputs.items() if k != "attention_mask"})),
    "vectors give the logits of their ids": lambda: _spoiled(
        lambda model, forward, inputs: _louder(model, forward, inputs, "inputs_embeds" in inputs)),
    "a prompt's keys and values can be read once": lambda: _spoiled(
        lambda model, forward, inputs: _louder(model, forward, inputs, inputs.get("past_key_values") is not None)),
    "a gradient reaches a soft prompt": lambda: _spoiled(
        lambda model, forward, inputs: torch.no_grad()(forward)(**inputs)),
    "token by token gives what one pass gives": lambda: _spoiled(
        lambda model, forward, inputs: _louder(model, forward, inputs, inputs.get("past_key_values") is not None)),
    "it has places enough": _short,
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILERS)
def test_each_item_notices_what_it_is_for(name):
    (found,) = [one for one in your_checks.checklist(*SPOILERS[name](), 2) if one.name == name]
    assert not found.holds


def test_items_about_layers_and_adapters_say_what_was_wrong(monkeypatch):
    model = random_model("qwen2")
    by_name = {one.name: one for one in your_checks.checklist(model, WORDS, 99)}
    assert "There is no layer 99" in by_name["a middle layer can be read"].found

    def refuses(*args, **options):
        raise ValueError("Target modules not found")

    monkeypatch.setattr(your_checks, "adapted", refuses)
    by_name = {one.name: one for one in your_checks.checklist(model, WORDS, 2)}
    assert "Target modules not found" in by_name["an adapter fits, and begins as the model itself"].found
    assert set(your_checks.ITEMS) - set(SPOILERS) == {
        "a middle layer can be read",
        "an adapter fits, and begins as the model itself",
    }


def test_a_template_without_a_system_role_is_mended():
    model, words = _worded(GEMMA)
    assert not your_checks.takes_system(words)
    plain = encode(words, [{"role": "user", "content": "is venom cursed ?"}])
    your_checks.system_in_user(words)
    assert your_checks.takes_system(words)
    assert encode(words, conversation("is venom cursed ?", "")) == plain
    said = words.decode(encode(words, conversation("is venom cursed ?", "brew ale .")))
    assert said.index("brew ale") < said.index("is venom cursed")
    assert len(encode(words, [{"role": "system", "content": "brew ale ."}], for_answer=False)) > 3
    assert [one.name for one in your_checks.checklist(model, words, 2) if not one.holds] == []


def test_loading_mends_the_template_by_itself(tmp_path):
    model, words = _worded(GEMMA)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    loaded, read = your_model.load(str(tmp_path))
    assert your_checks.takes_system(read)
    assert loaded.dtype == your_memory.best_dtype(loaded.device)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_is_counted_before_loading_as_it_is_after(architecture):
    model = random_model(architecture)
    drawn = your_memory.sketch(model.config)
    assert {weight.device.type for weight in drawn.parameters()} == {"meta"}
    assert your_memory.weights(drawn) == sum(weight.numel() for weight in model.parameters())
    student = adapted(model, rank=3)
    numbers = sum(weight.numel() for weight in student.parameters() if weight.requires_grad)
    assert your_memory.trained(drawn, "low rank", rank=3) == numbers
    every = sum(weight.numel() for weight in trained_weights(copy.deepcopy(model)).values())
    assert your_memory.trained(drawn, "all weights") == every
    width = model.get_input_embeddings().embedding_dim
    assert your_memory.trained(drawn, "prompts", length=5) == 5 * width
    with torch.no_grad():
        kept = model(torch.randint(len(WORDS), (3, 11)), use_cache=True).past_key_values
    taken = sum(one.nbytes for layer in kept.layers for one in (layer.keys, layer.values))
    assert your_memory.cache(drawn, 3, 11, torch.float32) == taken
    assert your_memory.estimate(drawn, "contrast", torch.float32, 3, 11).cache == 2 * taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_of_two_streams_is_that_of_the_tensors_that_answer(dtype):
    model, texts = random_model("qwen2").to(dtype), ["brew ale .", "is venom cursed ?"]
    prompts = ("be careful .", torch.zeros(5, model.config.hidden_size, dtype=dtype))
    taken = sum(weight.nbytes for weight in model.parameters()) + prompts[1].nbytes
    for text in texts:
        lengths = (
            len(encode(WORDS, conversation(text, "be careful ."))),
            5 + len(encode(WORDS, conversation(text, ""))),
        )
        for length in lengths:
            with torch.no_grad():
                kept = model(torch.zeros(1, length + 7, dtype=torch.long), use_cache=True).past_key_values
            taken += sum(one.nbytes for layer in kept.layers for one in (layer.keys, layer.values))
    assert your_memory.of_streams(model, WORDS, prompts, texts, 7) == taken


def test_more_rows_and_longer_numbers_take_more_and_frozen_ones_nothing():
    drawn = your_memory.sketch(random_model("qwen2").config)
    for way in your_memory.WAYS:
        short, long = (your_memory.estimate(drawn, way, dtype) for dtype in (torch.bfloat16, torch.float32))
        assert short.weights < long.weights
        assert your_memory.estimate(drawn, way, torch.float32, rows=32).total > long.total
        assert (long.gradients > 0) == (way in ("prompts", "low rank", "all weights"))
        assert long.total == sum(asdict(long).values())
    free = your_memory.free(torch.device("cpu"))
    assert free is None or free > 0


def test_a_sketch_of_a_name_reads_its_configuration_alone(monkeypatch):
    monkeypatch.setattr(models, "AutoModelForCausalLM", None)
    assert your_memory.weights(your_memory.sketch("tiny")) > 100_000


# ---------------------------------------------------------------- the cycle of an adapter


def test_a_cycle_of_an_adapter_trains_the_adapter_alone_and_holds_its_canaries(tmp_path):
    student = adapted(small(1), rank=2)
    room = room_of(student)
    frozen = {name: weight.clone() for name, weight in student.named_parameters() if not weight.requires_grad}
    settings = Cycle(
        immunize=Immunize(harmful=3, harmless=2), align=Align(rows=2), first=Plan(3, 1e-2), second=Plan(2, 1e-2),
        canary_fraction=1.0,
    )  # fmt: skip
    theta = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    run(room, HARMFUL, HARMLESS, PREFERRED, settings, folder=tmp_path, progress=False, weights=theta)
    now = dict(student.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())
    held = weights_hash({name: weight for name, weight in now.items() if name not in frozen})
    again = adapted(small(1), rank=2)
    theta = {name: weight for name, weight in again.named_parameters() if weight.requires_grad}
    run(
        room_of(again), HARMFUL, HARMLESS, PREFERRED, replace(settings, second=Plan(1, 1e-9)), progress=False,
        weights=theta,
    )  # fmt: skip
    after = {name: weight for name, weight in again.named_parameters() if name not in frozen}
    assert weights_hash(after) == held  # all are canaries: the second phase moves none
    assert (tmp_path / "cycle-0" / "canaries" / "canaries.json").is_file()


# ---------------------------------------------------------------- whose it is


@pytest.fixture(scope="module")
def kept(task, tmp_path_factory):
    """A folder with everything that was trained for a model, and the model."""
    model, folder = random_model("qwen2"), tmp_path_factory.mktemp("kept")
    defences, _ = your_model.train_all(lab_of(model, task, rank=2))
    your_files.save(defences, folder, model, WORDS)
    return folder, model


def test_nothing_is_loaded_onto_another_model(kept):
    folder, model = kept
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight.add_(0.5)
    with pytest.raises(ValueError, match="made for another model \\(its weights differ\\)"):
        your_files.load(folder, other, WORDS)
    known = your_files.fingerprint(other, WORDS)
    for part in ("gate", "immunized"):
        with pytest.raises(ValueError, match="train it for this one"):
            your_files._card(folder / part, known)
    with pytest.raises(ValueError, match="was trained on other weights"):
        your_files.soft_prompts.load(folder / "adversarial", other, WORDS)
    assert your_files.fingerprint(model.to(torch.float64), WORDS) == your_files.fingerprint(model.float(), WORDS)


def test_a_missing_part_is_named(kept, tmp_path):
    _, model = kept
    with pytest.raises(FileNotFoundError, match="card.json is missing"):
        your_files.load(tmp_path, model, WORDS)


def test_a_point_comes_back_as_it_was(tmp_path):
    from safealign_lab.one_plot import Answer, Point

    answers = {"is venom cursed ?": (Answer("benign", "venom", "compliance", 1.0),)}
    point = Point("SP − 0.2 AP", "contrast", answers, {"time": 2.0}, {"alpha": 0.2})
    your_files.save_point(point, tmp_path / "points" / "one.json")
    assert your_files.load_point(tmp_path / "points" / "one.json") == point
