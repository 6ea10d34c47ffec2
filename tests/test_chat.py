"""Conversations, masks, padding, soft prompts and log-probabilities, against walks and loops of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from safealign_lab import chat

WORDS = ["you", "are", "the", "keeper", "what", "does", "venom", "sleep", "do", "brew", "me", "a", "potion", "no", "i"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
exchanges = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
rows_of_ids = st.lists(st.lists(st.integers(0, 31), min_size=1, max_size=9), min_size=1, max_size=5)


def flatten(exchange_list, system=None):
    turns = [message for request, answer in exchange_list for message in chat.conversation(request, answer=answer)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def test_conversation_leaves_out_what_is_none_and_keeps_what_is_empty():
    assert chat.conversation("hi") == [{"role": "user", "content": "hi"}]
    assert [message["role"] for message in chat.conversation("hi", "", "yes")] == ["system", "user", "assistant"]


@pytest.mark.parametrize(("arguments", "role"), [((None,), "user"), ((3,), "user"), (("hi", ["no"]), "system")])
def test_conversation_refuses_what_is_not_text(arguments, role):
    with pytest.raises(ValueError, match=f"the {role} text must be a string"):
        chat.conversation(*arguments)


def test_encode_gives_a_list_of_ids_and_the_answer_header_on_request(toy):
    tokenizer = toy[1]
    closed = chat.encode(tokenizer, chat.conversation("what does venom do"), for_answer=False)
    opened = chat.encode(tokenizer, chat.conversation("what does venom do"))
    assert all(type(token) is int for token in opened)
    assert opened == [*closed, tokenizer.convert_tokens_to_ids("<|assistant|>")]


def test_an_empty_system_text_silences_the_default_of_the_template(smollm2):
    tokenizer = smollm2[1]
    default = tokenizer.decode(chat.encode(tokenizer, chat.conversation("hi")))
    silent = tokenizer.decode(chat.encode(tokenizer, chat.conversation("hi", system="")))
    assert "You are a helpful AI assistant named SmolLM" in default
    assert silent == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


# ---------------------------------------------------------------- response masks


def walk(tokenizer, ids):
    """The mask by another road: on after an assistant header, off after the end-of-turn token that is still marked."""
    header, end = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    mask, inside = [], False
    for token in ids:
        mask.append(inside)
        inside = token == header or (inside and token != end)
    return mask


@given(exchange_list=exchanges, system=st.none() | texts)
@settings(max_examples=50, deadline=None)
def test_mask_equals_a_walk_over_the_tokens(toy, exchange_list, system):
    ids, mask = chat.encode_with_mask(toy[1], flatten(exchange_list, system))
    assert ids == chat.encode(toy[1], flatten(exchange_list, system), for_answer=False)
    assert mask == walk(toy[1], ids)


def test_mask_keeps_the_end_token_when_it_is_also_the_pad_token(toy):
    messages = flatten([("what does venom do", "no")])
    expected = chat.encode_with_mask(toy[1], messages)
    tokenizer = copy.deepcopy(toy[1])
    tokenizer.pad_token = tokenizer.eos_token
    ids, mask = chat.encode_with_mask(tokenizer, messages)
    assert (ids, mask) == expected
    assert mask[-1]
    assert ids[-1] == tokenizer.pad_token_id


readable = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)


@given(pairs=st.lists(st.tuples(readable, readable), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_masked_tokens_are_those_of_the_answers_in_any_script(smollm2, pairs):
    tokenizer = smollm2[1]
    pairs = [(request, answer.lstrip()) for request, answer in pairs]
    ids, mask = chat.encode_with_mask(tokenizer, flatten(pairs))
    marked = [token for token, inside in zip(ids, mask, strict=True) if inside]
    assert marked == tokenizer("".join(answer + "<|im_end|>" for _, answer in pairs)).input_ids


def test_mask_stops_before_the_line_break_behind_the_end(smollm2):
    ids, mask = chat.encode_with_mask(smollm2[1], chat.conversation("hi", answer="é 日本 🐉\n"))
    assert smollm2[1].decode(ids[-2:]) == "<|im_end|>\n"
    assert mask[-2:] == [True, False]


def test_a_template_that_rewrites_earlier_turns_is_refused(toy):
    tokenizer = copy.deepcopy(toy[1])
    forgetful = "(message['content'] if loop.last else '')"
    tokenizer.chat_template = toy[1].chat_template.replace("message['content']", forgetful)
    with pytest.raises(ValueError, match="use a chat template that leaves earlier turns alone"):
        chat.encode_with_mask(tokenizer, flatten([("what does venom do", "no"), ("please", "no")]))


def test_white_space_that_merges_and_an_assistant_who_speaks_first_are_refused(smollm2):
    for messages in chat.conversation("hi", answer="\n\nyes"), chat.conversation("hi", answer="yes")[1:]:
        with pytest.raises(ValueError, match="do not encode to the beginning"):
            chat.encode_with_mask(smollm2[1], messages)


# ---------------------------------------------------------------- padding


@given(rows=rows_of_ids, side=st.sampled_from(["left", "right"]), pad_id=st.integers(0, 31))
def test_pad_keeps_rows_masks_and_positions(rows, side, pad_id):
    masks = [[token % 2 == 0 for token in row] for row in rows]
    batch = chat.pad(rows, pad_id, side, masks)
    assert batch.input_ids.shape == (len(rows), max(map(len, rows)))
    for b, row in enumerate(rows):
        real = batch.attention_mask[b].bool()
        assert batch.input_ids[b, real].tolist() == row
        assert (batch.input_ids[b, ~real] == pad_id).all()
        assert batch.position_ids[b, real].tolist() == list(range(len(row)))
        assert batch.response_mask[b, real].tolist() == masks[b]
        assert not batch.response_mask[b, ~real].any()
        assert bool(real[-1 if side == "left" else 0])


def test_left_padding_starts_positions_at_zero():
    assert chat.pad([[5], [6, 7, 8]], 0).position_ids.tolist() == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([], 0), "at least one row"),
        (([[1], []], 0), "no row may be empty"),
        (([[1]], 0, "middle"), "'left' or 'right', not 'middle'"),
        (([[1]], None), "set tokenizer.pad_token first"),
        (([[1, 2]], 0, "left", [[True]]), "as long as its row"),
    ],
)
def test_pad_says_what_is_wrong(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        chat.pad(*arguments)


def test_batches_move_to_a_device_whole(toy):
    batch = chat.pad([[1, 2]], 0, response_masks=[[False, True]])
    moved = batch.to("meta")
    assert {moved.response_mask.device.type, *(tensor.device.type for tensor in moved.inputs().values())} == {"meta"}
    assert chat.pad([[1]], 0).to("cpu").response_mask is None
    embedded = chat.prefix_embeddings(toy[0], batch, torch.zeros(1, 32)).to("meta")
    assert {tensor.device.type for tensor in embedded.inputs().values()} == {"meta"}


# ---------------------------------------------------------------- soft prompts


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def model(request, toy):
    torch.manual_seed(1)
    sizes = {"vocab_size": 32, "initializer_range": 0.2}
    if request.param == "llama":
        return toy[0]
    if request.param == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **sizes)
        return GPT2LMHeadModel(config).eval()
    config = Qwen2Config(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **sizes
    )
    return Qwen2ForCausalLM(config).eval()


PREFIX = [9, 4, 17]
ROWS = [[3, 11, 5], [8, 2, 30, 21, 6, 13], [25]]


def logits_of_row(model, row):
    return model(torch.tensor([row])).logits[0]  # (T, V)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_logit(model, side):
    batch = chat.pad(ROWS, 7, side)
    logits = model(**batch.inputs()).logits
    for b, row in enumerate(ROWS):
        real = batch.attention_mask[b].bool()
        torch.testing.assert_close(logits[b, real], logits_of_row(model, row), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_prefix_of_embeddings_equals_its_tokens_in_front(model, side, shared):
    batch = chat.pad(ROWS, 7, side)
    tokens = torch.tensor([PREFIX] * 3 if shared else [PREFIX, [1, 2, 3], [30, 31, 0]])
    vectors = model.get_input_embeddings()(tokens)  # (B, P, D)
    embedded = chat.prefix_embeddings(model, batch, vectors[0] if shared else vectors)
    logits = model(**embedded.inputs()).logits
    for b, row in enumerate(ROWS):
        expected = logits_of_row(model, [*tokens[b].tolist(), *row])
        real = embedded.attention_mask[b].bool()
        torch.testing.assert_close(logits[b, real], expected, atol=1e-5, rtol=1e-5)
        columns = logits[b, len(PREFIX) :][batch.attention_mask[b].bool()]
        torch.testing.assert_close(columns, expected[len(PREFIX) :], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stacked_streams_equal_each_stream_alone(model):
    batch = chat.pad(ROWS, 7)
    prefixes = [torch.randn(length, 32, generator=torch.Generator().manual_seed(length)) for length in (4, 0, 2)]
    streams = [chat.prefix_embeddings(model, batch, prefix) for prefix in prefixes]
    stacked = chat.stack(streams)
    logits = model(**stacked.inputs()).logits.view(3, 3, -1, 32)  # (S, B, T, V)
    for s, stream in enumerate(streams):
        alone = model(**stream.inputs()).logits
        torch.testing.assert_close(logits[s, :, -1], alone[:, -1], atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_the_prefix_alone(toy):
    model = toy[0]
    prefix = torch.randn(2, 32, requires_grad=True)
    batch = chat.pad(ROWS, 0)
    loss = model(**chat.prefix_embeddings(model, batch, prefix).inputs()).logits[:, -1].square().mean()
    (gradient,) = torch.autograd.grad(loss, prefix)
    assert gradient.norm(dim=1).min() > 0


@pytest.mark.parametrize("shape", [(2, 31), (32,), (2, 5, 32), (1, 1, 2, 32)])
def test_a_prefix_of_the_wrong_shape_is_refused(toy, shape):
    with pytest.raises(ValueError, match=r"the prefix must be \(P, 32\) or \(3, P, 32\)"):
        chat.prefix_embeddings(toy[0], chat.pad(ROWS, 0), torch.zeros(shape))


# ---------------------------------------------------------------- log-probabilities


def slow_response_logp(logits, ids, mask):
    total = 0.0
    for t in range(1, len(ids)):
        if mask[t]:
            weights = [float(z) for z in logits[t - 1].double().exp()]
            total += float(torch.tensor(weights[ids[t]] / sum(weights), dtype=torch.float64).log())
    return total


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), length=st.integers(2, 7))
@settings(max_examples=40)
def test_sums_and_means_equal_a_slow_loop(seed, rows, length):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, length, 11, generator=generator)
    ids = torch.randint(11, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.5
    mask[:, -1] = True
    sums = torch.tensor([slow_response_logp(logits[b], ids[b], mask[b]) for b in range(rows)])
    torch.testing.assert_close(chat.response_logps(logits, ids, mask), sums, atol=1e-5, rtol=1e-5)
    counts = mask[:, 1:].sum(1)
    torch.testing.assert_close(chat.mean_response_logps(logits, ids, mask), sums / counts, atol=1e-5, rtol=1e-5)


def test_padding_changes_no_response_logp(toy):
    model, tokenizer = toy
    pairs = ("do", None, "no"), ("what does venom do", "you are the keeper", "i will not")
    encoded = [chat.encode_with_mask(tokenizer, chat.conversation(*pair)) for pair in pairs]
    ids, masks = zip(*encoded, strict=True)
    for side in ("left", "right"):
        batch = chat.pad(ids, tokenizer.pad_token_id, side, masks)
        together = chat.response_logps(model(**batch.inputs()).logits, batch.input_ids, batch.response_mask)
        for b in range(2):
            row = chat.pad([ids[b]], 0, side, [masks[b]])
            alone = chat.response_logps(model(**row.inputs()).logits, row.input_ids, row.response_mask)
            torch.testing.assert_close(together[b : b + 1], alone, atol=1e-4, rtol=1e-5)


def test_what_is_outside_the_mask_never_matters_not_even_infinities():
    logits = torch.zeros(1, 4, 3)
    logits[0, 0, 1] = -torch.inf  # the token that follows is impossible, and not part of the response
    logits.requires_grad_()
    logps = chat.response_logps(logits, torch.tensor([[0, 1, 2, 0]]), torch.tensor([[0, 0, 1, 1]]))
    assert logps.item() == pytest.approx(-2 * torch.tensor(3.0).log().item())
    (gradient,) = torch.autograd.grad(logps.sum(), logits)
    assert gradient.isfinite().all()


def test_an_empty_response_sums_to_zero_and_has_no_mean():
    logits, ids = torch.randn(2, 3, 5), torch.zeros(2, 3, dtype=torch.long)
    mask = torch.tensor([[True, False, False], [False, True, False]])  # the first token has no context
    assert chat.response_logps(logits, ids, mask)[0] == 0
    with pytest.raises(ValueError, match=r"rows \[0\] have no response token"):
        chat.mean_response_logps(logits, ids, mask)


def test_half_precision_logits_are_summed_in_single_precision():
    logits = torch.randn(2, 50, 100).bfloat16()
    ids, mask = torch.randint(100, (2, 50)), torch.ones(2, 50, dtype=torch.bool)
    logps = chat.response_logps(logits, ids, mask)
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, chat.response_logps(logits.double(), ids, mask).float())


def test_logits_of_a_soft_prompt_must_be_cut_to_the_ids():
    with pytest.raises(ValueError, match=r"pass logits\[:, P:\]"):
        chat.token_logps(torch.zeros(1, 5, 3), torch.zeros(1, 3, dtype=torch.long))
