"""peft's adapters on the kit's one training loop: only what should train changes, and what was saved loads to the same logits."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from safealign_lab import chat
from safealign_lab.models.adapters import adapted, add
from safealign_lab.objectives import negative_log_likelihood
from safealign_lab.training import Plan, train, weights_hash

CONFIGS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]),
    "soft prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_only_the_adapter_trains_and_it_loads_back_to_the_same_logits(toy, kind, tmp_path):
    model, tokenizer = toy
    base = copy.deepcopy(model)
    before = weights_hash(base)
    messages = chat.conversation("what does venom do ?", answer="no please")
    ids, mask = chat.encode_with_mask(tokenizer, messages)
    batch = chat.pad([ids, ids[2:]], tokenizer.pad_token_id, side="right", response_masks=[mask, mask[2:]])
    adapted = get_peft_model(copy.deepcopy(model), CONFIGS[kind])
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}

    def loss(step, generator):
        logits = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        text = logits[:, -batch.input_ids.shape[1] :]  # after the soft prompt
        return negative_log_likelihood(text, batch.input_ids, batch.response_mask)

    untouched = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    start = weights_hash(trainable)
    history = train(trainable, loss, Plan(steps=12, learning_rate=0.05), progress=False)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert weights_hash(trainable) != start
    assert weights_hash({name: p for name, p in adapted.named_parameters() if name in untouched}) == weights_hash(
        untouched
    )

    adapted.save_pretrained(tmp_path, safe_serialization=True)
    assert (tmp_path / "adapter_model.safetensors").exists()
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        assert torch.equal(loaded(**inputs).logits, adapted.eval()(**inputs).logits)
    assert before == weights_hash(model)


# ---------------------------------------------------------------- adapters as the kit makes them

IDS = torch.tensor([[1, 9, 12, 7, 3], [2, 20, 11, 8, 30]])  # (2, 5)


@torch.no_grad()
def logits_of(model):
    return model(input_ids=IDS).logits


def parts(model, name=""):
    """The adapters' weights, or those of one adapter; under names without its own."""
    found = {place: weight for place, weight in model.named_parameters() if "lora_" in place and f".{name}" in place}
    return {place.replace(f".{name}.", "."): weight for place, weight in found.items()} if name else found


def filled(model, name, seed):
    """The adapter's zero half filled, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    for place, weight in parts(model, name).items():
        if "lora_B" in place:
            weight.data += 0.2 * torch.randn(weight.shape, generator=generator)


def speaking(model, name):
    model.set_adapter(name)
    return logits_of(model)


def test_an_adapter_begins_as_the_model_itself_on_every_linear_layer_but_the_output(toy):
    before, flags = weights_hash(toy[0]), [weight.requires_grad for weight in toy[0].parameters()]
    student = adapted(toy[0], rank=3)
    assert torch.equal(logits_of(student), logits_of(toy[0]))
    layers = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in parts(student)}
    linear = {name for name, layer in toy[0].named_modules() if isinstance(layer, torch.nn.Linear)}
    assert layers == linear - {"lm_head"}
    assert {name for name, weight in student.named_parameters() if weight.requires_grad} == set(parts(student))
    assert {min(weight.shape) for weight in parts(student).values()} == {3}
    filled(student, "default", 0)
    student.base_model.model.model.norm.weight.data.mul_(2.0)
    assert weights_hash(toy[0]) == before, "it is a copy"
    assert [weight.requires_grad for weight in toy[0].parameters()] == flags
    assert not student.training


def test_one_more_adapter_has_no_effect_at_first_and_never_any_on_the_others(toy):
    student = adapted(toy[0], rank=2, name="one")
    filled(student, "one", 1)
    alone = logits_of(student)
    assert (alone - logits_of(toy[0])).abs().max() > 0.1
    add(student, "two", rank=5, seed=1)
    assert set(student.peft_config) == {"one", "two"}
    assert torch.equal(speaking(student, "one"), alone)
    assert torch.equal(speaking(student, "two"), logits_of(toy[0]))
    assert {min(weight.shape) for weight in parts(student, "two").values()} == {5}
    assert parts(student, "two").keys() == parts(student, "one").keys()
    kept = weights_hash(parts(student, "one"))
    filled(student, "two", 2)
    assert weights_hash(parts(student, "one")) == kept
    assert torch.equal(speaking(student, "one"), alone)
    assert (speaking(student, "two") - alone).abs().max() > 0.1
    with student.disable_adapter():
        assert torch.equal(logits_of(student), logits_of(toy[0]))


def test_the_random_half_is_the_seeds_and_the_other_half_zero(toy):
    def drawn(seed, more):
        torch.manual_seed(seed + 7)
        student = adapted(toy[0], rank=2, seed=seed, name="one")
        add(student, "two", rank=2, seed=more)
        return student, torch.rand(())

    student, after = drawn(3, 4)
    again, _ = drawn(3, 4)
    assert weights_hash(parts(student)) == weights_hash(parts(again))
    torch.manual_seed(10)
    assert torch.equal(after, torch.rand(())), "torch's own chance is as it was"
    halves = {name: weights_hash(parts(student, name)) for name in ("one", "two")}
    assert halves["one"] != halves["two"]
    twins, _ = drawn(4, 4)
    assert weights_hash(parts(twins, "one")) == weights_hash(parts(twins, "two")) == halves["two"]
    for name, weight in parts(student).items():
        assert ("lora_B" in name) == bool((weight == 0).all())


def test_named_adapters_are_saved_and_load_back_to_the_same_logits(toy, tmp_path):
    student = adapted(toy[0], rank=2, name="one")
    add(student, "two", rank=4)
    for seed, name in enumerate(("one", "two")):
        filled(student, name, seed)
    expected = {name: speaking(student, name) for name in ("one", "two")}
    student.save_pretrained(tmp_path)
    for name, logits in expected.items():
        loaded = PeftModel.from_pretrained(copy.deepcopy(toy[0]), tmp_path / name, adapter_name=name).eval()
        assert torch.equal(logits_of(loaded), logits)
