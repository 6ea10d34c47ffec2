"""Soft prompts against slow readings of each row, against peft's own generation, and against every model they are not for."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from slow_contrast import ENDS, REQUESTS, batch_of, in_double, inputs_of
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)  # fmt: skip

from safealign_lab import chat
from safealign_lab.contrast import soft_prompts
from safealign_lab.generation import generate
from safealign_lab.models.adapters import adapted
from safealign_lab.training import weights_hash

SYSTEM = "you are the keeper"
TURN = ["<s>", "<|system|>", "you", "are", "the", "keeper", "<|end|>"]  # as the toy's template prints it
EXCHANGES = [("what does venom do ?", "no please"), ("brew", "i will not brew you a potion ."), ("who are you", "me")]
WIDTH = 32


def doubled(model):
    """All of a model in double precision: norms of the Llama family compute in single precision whatever comes in."""
    for name, norm in [(name, part) for name, part in model.named_modules() if type(part).__name__.endswith("RMSNorm")]:
        same = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon)
        same.weight = norm.weight
        model.set_submodule(name, same)
    return model.double().eval()


@pytest.fixture(scope="module")
def double(toy):
    model, tokenizer = in_double(toy, ENDS)
    return doubled(model), tokenizer


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def pair(request, double):
    """Three architectures with random weights in double precision, whose answers end at all times."""
    torch.manual_seed(3)
    sizes = {"vocab_size": len(double[1]), "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 3}
    if request.param == "llama":
        return double
    if request.param == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64, **sizes))
    else:
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
        model = Qwen2ForCausalLM(Qwen2Config(hidden_size=WIDTH, intermediate_size=64, **sizes))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ENDS, 0
    return doubled(model), double[1]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(mine: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(mine, expected, atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- where training starts


def test_a_prompt_starts_as_the_embeddings_of_the_system_turns_tokens(toy):
    model, tokenizer = toy
    start = soft_prompts.initial(model, tokenizer, SYSTEM)
    table = model.get_input_embeddings().weight
    assert torch.equal(start, torch.stack([table[tokenizer.convert_tokens_to_ids(token)] for token in TURN]))
    assert not start.requires_grad
    start += 1  # it is no view of the model's own table
    assert not torch.equal(start, soft_prompts.initial(model, tokenizer, SYSTEM))


@given(length=st.integers(1, 30))
def test_a_length_cuts_the_tokens_or_repeats_them(toy, length):
    whole = soft_prompts.initial(*toy, SYSTEM)
    cut = soft_prompts.initial(*toy, SYSTEM, length)
    assert torch.equal(cut, torch.stack([whole[place % len(TURN)] for place in range(length)]))


def test_a_start_is_in_single_precision_whatever_the_model_is_in(toy, double):
    start = soft_prompts.initial(*double, SYSTEM)
    assert start.dtype == torch.float32
    assert torch.equal(start, soft_prompts.initial(*toy, SYSTEM))


@pytest.mark.parametrize("length", [0, -3])
def test_a_prompt_of_no_vectors_is_refused_in_one_sentence(toy, length):
    with pytest.raises(ValueError, match=f"A soft prompt of {length} vectors is none: give a length of 1") as caught:
        soft_prompts.initial(*toy, SYSTEM, length)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the logits of a batch


def slow_logits(model, prompt, rows, masks) -> torch.Tensor:
    """The logits that predict each marked token, row by row: its whole beginning is read anew for each of them."""
    table, found = model.get_input_embeddings(), [torch.empty(0, model.config.vocab_size, dtype=prompt.dtype)]
    for row, mask in zip(rows, masks, strict=True):
        for place in range(1, len(row)):
            if mask[place]:
                vectors = torch.cat([prompt, table(torch.tensor(row[:place]))])[None]
                found.append(model(inputs_embeds=vectors).logits[:, -1])
    return torch.cat(found)


def test_shared_plain_and_slow_readings_agree_in_value_and_gradient(pair):
    model, tokenizer = pair
    rows, masks = zip(
        *(chat.encode_with_mask(tokenizer, chat.conversation(*asked[:1], "", asked[1])) for asked in EXCHANGES),
        strict=True,
    )
    batch, prompt = chat.pad(rows, 0, "right", masks), noise(5, WIDTH, dtype=torch.float64).requires_grad_()
    weights = noise(sum(map(sum, masks)), model.config.vocab_size, seed=1, dtype=torch.float64)
    found = []
    for logits in (
        soft_prompts.label_logits(model, prompt, batch),
        soft_prompts.label_logits(model, prompt, batch, shared=False),
        slow_logits(model, prompt, rows, masks),
    ):
        found.append((logits.detach(), *torch.autograd.grad((logits * weights).sum(), prompt)))
    assert found[-1][1].abs().min() > 0, "every number of the prompt has to matter"
    for values, gradient in found[:-1]:
        close(values, found[-1][0])
        close(gradient, found[-1][1])


row_and_mask = st.lists(st.tuples(st.integers(0, 31), st.booleans()), min_size=1, max_size=7)


@given(drawn=st.lists(row_and_mask, min_size=1, max_size=4), length=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_any_rows_and_masks_come_out_in_order(double, drawn, length):
    rows, masks = [[token for token, _ in row] for row in drawn], [[marked for _, marked in row] for row in drawn]
    prompt, batch = noise(length, WIDTH, dtype=torch.float64), chat.pad(rows, 0, "right", masks)
    with torch.no_grad():
        expected = slow_logits(double[0], prompt, rows, masks)
        close(soft_prompts.label_logits(double[0], prompt, batch), expected)
        close(soft_prompts.label_logits(double[0], prompt, batch, shared=False), expected)


def with_adapter(model):
    """The model with an adapter of peft's that does something."""
    found = adapted(model, rank=2)
    for number, (name, weight) in enumerate(found.named_parameters()):
        if "lora_B" in name:
            weight.data += 0.2 * noise(*weight.shape, seed=number)
    return found


SMALL = {
    "vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
AFTERWARDS = {
    "capped": ("gemma2", {"final_logit_softcapping": 2.0, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "divided": ("granite", {"logits_scaling": 5.0}),
    "multiplied": ("cohere", {"logit_scale": 0.2}),
}


def both_ways(model, prompt):
    """(logits, gradient) of an exchange, with the prompt read once and with it read in each row."""
    rows, masks = [[5, 9, 7, 12], [8, 6, 20, 11, 9, 30, 2]], [[False, False, True, True], [False] * 3 + [True] * 4]
    batch, start = chat.pad(rows, 0, "right", masks), prompt.clone().requires_grad_()
    for shared in (True, False):
        logits = soft_prompts.label_logits(model, start, batch, shared)
        yield logits.detach(), *torch.autograd.grad(logits.logsumexp(-1).sum(), start)


@pytest.mark.parametrize("after", AFTERWARDS)
def test_what_a_model_does_to_its_logits_afterwards_is_done(after):
    """Gemma caps them, Granite divides them, Cohere multiplies them."""
    kind, setting = AFTERWARDS[after]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL, **setting)).eval()
    plainly = []
    hook = model.get_output_embeddings().register_forward_hook(lambda layer, given, logits: plainly.append(logits))
    with torch.no_grad():
        logits = model(torch.tensor([[5, 9, 7]])).logits
    hook.remove()
    assert (logits - plainly[0]).abs().max() > 0.1, "it has to do something"
    (mine, gradient), (expected, slow) = both_ways(model, noise(5, WIDTH))
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, slow, atol=1e-5, rtol=1e-3)
    assert slow.abs().max() > 1e-3


def test_a_prompt_may_stand_before_a_model_with_an_adapter(toy):
    model, prompt = with_adapter(toy[0]), noise(5, WIDTH)
    (mine, gradient), (expected, slow) = both_ways(model, prompt)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, slow, atol=1e-5, rtol=1e-3)
    assert (mine - next(both_ways(toy[0], prompt))[0]).abs().max() > 0.1, "the adapter has to matter"


def test_a_reading_leaves_nothing_on_the_model_also_where_it_fails(toy):
    model, prompt = toy[0], noise(3, WIDTH)
    before = model(torch.tensor([[5, 6, 7]])).logits
    list(both_ways(model, prompt))
    with pytest.raises(IndexError):
        soft_prompts.label_logits(model, prompt, chat.pad([[5, 9_999]], 0, "right", [[False, True]]))
    assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, before)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(4, WIDTH + 1), (4, 16), (WIDTH,), (2, 4, WIDTH)])
def test_a_prompt_of_another_width_is_refused_in_one_sentence(toy, shape, shared):
    batch = chat.pad([[5, 6], [7, 8]], 0, "right", [[False, True]] * 2)
    with pytest.raises(ValueError, match=r"has the shape \(P, 32\), not \(.*\): start from `initial`") as caught:
        soft_prompts.label_logits(toy[0], torch.zeros(shape), batch, shared)
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_that_does_not_say_which_tokens_are_the_response_is_refused(toy, shared):
    with pytest.raises(ValueError, match="does not say which tokens are the response: pad it with response_masks"):
        soft_prompts.label_logits(toy[0], noise(3, WIDTH), chat.pad([[5, 6]], 0, "right"), shared)


# ---------------------------------------------------------------- the nearest tokens


def test_a_start_is_nearest_to_the_tokens_that_it_is_made_of(toy):
    found = soft_prompts.nearest(*toy, 3 * soft_prompts.initial(*toy, SYSTEM), top=1)  # a direction, not a place
    assert [token for ((token, _),) in found] == TURN
    assert [cosine for ((_, cosine),) in found] == pytest.approx([1.0] * len(TURN))


def test_the_nearest_tokens_are_those_of_a_loop(toy):
    model, tokenizer = toy
    prompt, table = noise(4, WIDTH), model.get_input_embeddings().weight.tolist()
    for vector, found in zip(prompt.tolist(), soft_prompts.nearest(model, tokenizer, prompt, top=5), strict=True):
        cosines = {
            tokenizer.decode([token]): sum(a * b for a, b in zip(vector, row, strict=True))
            / (math.hypot(*vector) * math.hypot(*row) or 1)
            for token, row in enumerate(table)
        }
        best = sorted(cosines, key=cosines.__getitem__, reverse=True)[:5]
        assert [token for token, _ in found] == best
        assert [cosine for _, cosine in found] == pytest.approx([cosines[token] for token in best], abs=1e-5)


# ---------------------------------------------------------------- files


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_prompt_loads_bit_for_bit_whatever_the_model_is_in(toy, tmp_path, dtype):
    model = copy.deepcopy(toy[0]).to(dtype)
    prompt = noise(6, WIDTH)
    prompt[0, :4] = torch.tensor([-0.0, 1e-42, 3e38, torch.finfo(torch.float32).tiny])
    soft_prompts.save(prompt, tmp_path / "a" / "b", model, toy[1], seed=3, measured={"refused": 0.93})
    loaded = soft_prompts.load(tmp_path / "a" / "b", model, toy[1])
    assert loaded.dtype == torch.float32
    assert torch.equal(bits(loaded), bits(prompt))
    card = soft_prompts.card(tmp_path / "a" / "b")
    assert card.pop("model")["width"] == WIDTH
    assert card == {"seed": 3, "measured": {"refused": 0.93}}


def test_a_prompt_that_was_trained_is_saved_as_it_is(toy, tmp_path):
    prompt = noise(4, WIDTH).requires_grad_()
    soft_prompts.save(prompt, tmp_path, *toy)
    loaded = soft_prompts.load(tmp_path, *toy)
    assert not loaded.requires_grad
    assert torch.equal(loaded, prompt)


def test_a_folder_holds_no_pickle_and_no_path_of_the_machine_that_wrote_it(tiny, tmp_path):
    model, tokenizer = tiny
    assert model.config._name_or_path.startswith("/"), "the model has to come from a folder for this to prove anything"
    soft_prompts.save(soft_prompts.initial(model, tokenizer, "you are the keeper .", 4), tmp_path, model, tokenizer)
    files = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "soft_prompt.json"}
    texts = {name: content.decode() for name, content in files.items() if name.endswith(".json")}
    texts["header"] = files["adapter_model.safetensors"][8:].partition(b"}}")[0].decode()
    for name, text in texts.items():
        assert not re.search(r'"(/|~|[A-Za-z]:\\)', text), f"{name} holds a path: {text}"
        assert str(tmp_path) not in text


def state_of(model, tokenizer) -> dict:
    """What a model is, beyond its weights: its flags, settings, attributes of every module, and what it says."""
    ours = {name: dict(vars(module)) for name, module in model.named_modules()}
    inner = ("_parameters", "_modules", "_buffers")
    attributes = {
        (name, key): id(value) if callable(value) else repr(value)
        for name, its in ours.items()
        for key, value in its.items()
        if key not in inner
    }
    return {
        "weights": weights_hash(model), "attributes": attributes, "config": model.config.to_dict(),
        "trainable": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "chance": torch.get_rng_state().tolist(), "said": generate(model, tokenizer, REQUESTS, max_new_tokens=8).ids,
    }  # fmt: skip


def test_saving_leaves_the_model_and_the_callers_chance_as_they_were(toy, tmp_path):
    model = LlamaForCausalLM(copy.deepcopy(toy[0].config)).eval()  # a new one, on which nothing has been saved yet
    before = state_of(model, toy[1])
    soft_prompts.save(noise(4, WIDTH), tmp_path, model, toy[1])
    after = state_of(model, toy[1])
    assert [part for part in before if before[part] != after[part]] == []


# ---------------------------------------------------------------- through peft


def said_by(wrapped, batch: chat.Batch) -> list[list[int]]:
    """What plain `generate` of peft's wrapper answers, without the end tokens."""
    output = wrapped.generate(**inputs_of(batch), max_new_tokens=12, do_sample=False)
    answers = output[:, batch.input_ids.shape[1] :].tolist()
    return [list(itertools.takewhile(lambda token: token not in ENDS, answer)) for answer in answers]


def test_peft_says_what_the_kit_says_also_where_rows_are_padded(pair, tmp_path):
    """The kit puts a soft prompt before a conversation with an empty system text, and so must whoever uses peft."""
    model, tokenizer = pair
    soft_prompts.save(0.5 * noise(5, WIDTH), tmp_path, model, tokenizer)
    kit = generate(model, tokenizer, REQUESTS, (soft_prompts.load(tmp_path, model, tokenizer),), max_new_tokens=12).ids
    assert kit != generate(model, tokenizer, REQUESTS, ("",), max_new_tokens=12).ids, "the prompt has to matter"
    assert len(set(map(len, kit))) > 1, "answers must end at different times for this to prove anything"
    wrapped = soft_prompts.through_peft(tmp_path, copy.deepcopy(model))
    assert [said_by(wrapped, batch_of(tokenizer, [request], ""))[0] for request in REQUESTS] == kit
    assert said_by(wrapped, batch_of(tokenizer, REQUESTS[:1] * 3, "")) == kit[:1] * 3
    mixed = batch_of(tokenizer, REQUESTS, "")
    assert (mixed.attention_mask == 0).any(), "rows must be padded for this to prove anything"
    assert said_by(wrapped, mixed) == kit


def test_peft_says_what_the_kit_says_on_the_tiny_model(tiny, tmp_path):
    model, tokenizer = tiny
    requests = ["brew me a bitter venom potion .", "what does the sleep potion do ?"]
    prompt = soft_prompts.initial(model, tokenizer, "you are the keeper .", 6)
    soft_prompts.save(prompt, tmp_path, model, tokenizer)
    wrapped = soft_prompts.through_peft(tmp_path, copy.deepcopy(model))
    for request in requests:
        batch = batch_of(tokenizer, [request], "")
        output = wrapped.generate(**inputs_of(batch), max_new_tokens=26, do_sample=False)[0]
        text = tokenizer.decode(output[batch.input_ids.shape[1] :], skip_special_tokens=True)
        assert text == generate(model, tokenizer, [request], (prompt,)).texts[0]


def test_a_model_that_peft_wraps_trains_on_as_before_and_keeps_the_callers_chance(toy, saved):
    model = copy.deepcopy(toy[0])
    model.lm_head.weight.requires_grad_(False)
    flags, chance = [weight.requires_grad for weight in model.parameters()], torch.get_rng_state()
    wrapped = soft_prompts.through_peft(saved[0], model)
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert {True, False} == set(flags)
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.equal(wrapped.get_prompt(1)[0], saved[1])
    assert not wrapped.training


def test_peft_is_not_put_around_a_model_that_it_wraps_already(toy, saved):
    """The outer wrapper's `generate` calls the inner one's, which knows nothing of the prompt."""
    with pytest.raises(ValueError, match=r"peft wraps this model already.*merge its adapter first") as caught:
        soft_prompts.through_peft(saved[0], with_adapter(toy[0]))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what does not load


@pytest.fixture
def saved(toy, tmp_path):
    prompt = noise(4, WIDTH)
    soft_prompts.save(prompt, tmp_path, *toy)
    return tmp_path, prompt


def retold(tokenizer, rename) -> PreTrainedTokenizerFast:
    """The tokenizer with its vocabulary changed."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = rename(content["model"]["vocab"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


def renamed(vocabulary):
    return {"honey" if token == "venom" else token: number for token, number in vocabulary.items()}


def swapped(vocabulary):
    return vocabulary | {"venom": vocabulary["sleep"], "sleep": vocabulary["venom"]}


def longer(vocabulary):
    return vocabulary | {"honey": len(vocabulary)}


def slimmer(model):
    config = copy.deepcopy(model.config)
    config.hidden_size, config.head_dim = 16, 4
    return LlamaForCausalLM(config)


def nudged(model):
    other = copy.deepcopy(model)
    other.model.layers[1].mlp.up_proj.weight.data[3, 3] += 1e-2  # more than bfloat16 rounds away
    return other


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize(
    ("change_model", "change_words", "sentence"),
    [
        (slimmer, None, "has vectors of 32, and this model's are of 16: train one for this model"),
        (None, longer, "knows 32 tokens, and this one 33: train one for this model"),
        (None, renamed, "was trained with another vocabulary of equal size"),
        (None, swapped, "was trained with another vocabulary of equal size"),
    ],
)
def test_a_prompt_for_another_width_or_vocabulary_is_refused(
    toy, saved, change_model, change_words, sentence, transfer
):
    model = change_model(toy[0]) if change_model else toy[0]
    tokenizer = retold(toy[1], change_words) if change_words else toy[1]
    with pytest.raises(ValueError, match=sentence) as caught:
        soft_prompts.load(saved[0], model, tokenizer, transfer)
    assert str(saved[0]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_for_other_weights_is_refused_unless_it_is_to_be_transferred(toy, saved):
    folder, prompt = saved
    other = nudged(toy[0])
    with pytest.raises(ValueError, match="was trained on other weights .*: pass transfer=True to try it all the same"):
        soft_prompts.load(folder, other, toy[1])
    assert torch.equal(soft_prompts.load(folder, other, toy[1], transfer=True), prompt)


def test_the_same_model_in_another_precision_is_known_again(toy, saved):
    folder, prompt = saved
    assert torch.equal(soft_prompts.load(folder, copy.deepcopy(toy[0]).to(torch.bfloat16), toy[1]), prompt)


def test_the_same_vocabulary_retold_is_no_other(toy, saved):
    folder, prompt = saved
    assert torch.equal(soft_prompts.load(folder, toy[0], retold(toy[1], dict)), prompt)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "soft_prompt.json"])
def test_a_missing_file_or_folder_is_named(toy, saved, name):
    folder, _ = saved
    (folder / name).unlink()
    for place, missing in ((folder, name), (folder / "nowhere", "adapter_model.safetensors")):
        with pytest.raises(FileNotFoundError, match=f"There is no soft prompt in .*: {missing} is missing") as caught:
            soft_prompts.load(place, *toy)
        assert str(place) in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "tensor"])
def test_a_damaged_prompt_is_refused_in_one_sentence(toy, saved, damage):
    folder, prompt = saved
    file = folder / "adapter_model.safetensors"
    if damage == "tensor":
        save_file({"another": prompt}, file)
    else:
        file.write_bytes({"cut": file.read_bytes()[:-40], "empty": b"", "text": b"no tensors here, only words"}[damage])
    with pytest.raises(
        ValueError, match=r"adapter_model.safetensors is not a soft prompt .*: train it again"
    ) as caught:
        soft_prompts.load(folder, *toy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {}}'])
def test_a_damaged_card_is_refused_in_one_sentence_that_names_it(toy, saved, content):
    folder, _ = saved
    (folder / "soft_prompt.json").write_text(content)
    with pytest.raises(ValueError, match="soft_prompt.json") as caught:
        soft_prompts.load(folder, *toy)
    assert "\n" not in str(caught.value)
