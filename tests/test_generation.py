"""The decoding loop against `model.generate`, against itself row by row, and against scripts that force its choices."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safealign_lab import chat
from safealign_lab.generation import decode, decoding

ROWS = [[3, 11, 5], [8, 2, 30, 21, 6, 13], [25], [9, 4, 17, 17]]
VOCABULARY = 32
END = 3  # the toy tokenizer's <|end|>
ENDS = [END, 7, 12, 18, 23, 29]


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def pair(request, toy):
    """Three architectures with random weights. A fifth of their tokens end a text, so that rows finish at all times."""
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCABULARY, "initializer_range": 0.2}
    if request.param == "llama":
        model = copy.deepcopy(toy[0])
    elif request.param == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **sizes))
    else:
        grouped = {"num_attention_heads": 4, "num_key_value_heads": 2}
        model = Qwen2ForCausalLM(
            Qwen2Config(hidden_size=32, intermediate_size=64, num_hidden_layers=2, **grouped, **sizes)
        )
    model.generation_config.eos_token_id = ENDS
    return model.eval(), toy[1]


def until_end(ids):
    return list(itertools.takewhile(lambda token: token not in ENDS, ids))


def no_end(stream_logits):
    """A score that takes the only stream and rules the end tokens out."""
    return stream_logits[0].index_fill(-1, torch.tensor(ENDS), -torch.inf)


# ---------------------------------------------------------------- one stream, greedily


def test_greedy_equals_generate_token_for_token(pair):
    model, tokenizer = pair
    prompt = chat.pad(ROWS, 0)
    mine = decode(model, tokenizer, prompt, max_new_tokens=20)
    theirs = model.generate(
        prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    expected = [until_end(row) for row in theirs[:, prompt.input_ids.shape[1] :].tolist()]
    assert mine.ids == expected
    assert mine.texts == [tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert mine.finished == [len(ids) < 20 for ids in expected]
    assert len(set(map(len, expected))) > 1, "the rows must finish at different times for this to prove anything"


def test_smollm2_decodes_as_generate_does(smollm2):
    model, tokenizer = smollm2
    rows = [chat.encode(tokenizer, chat.conversation(text)) for text in ("Name three rivers.", "What is 2 + 2?")]
    prompt = chat.pad(rows, tokenizer.pad_token_id)
    theirs = model.generate(
        prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    texts = tokenizer.batch_decode(theirs[:, prompt.input_ids.shape[1] :], skip_special_tokens=True)
    assert decode(model, tokenizer, prompt, max_new_tokens=12).texts == texts


rows_of_ids = st.lists(st.lists(st.integers(0, 31), min_size=1, max_size=8), min_size=1, max_size=4)


@given(rows=rows_of_ids, padding=st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_batch_equals_its_rows_alone_and_padding_changes_nothing(toy, rows, padding):
    model, tokenizer = copy.deepcopy(toy[0]).double(), toy[1]
    model.generation_config.eos_token_id = list(range(3, 32, 4))
    prompt = chat.pad([*rows, [5] * (8 + padding)], 0)
    together = decode(model, tokenizer, prompt, max_new_tokens=6, return_scores=True)
    for b, row in enumerate(rows):
        alone = decode(model, tokenizer, chat.pad([row], 0), max_new_tokens=6, return_scores=True)
        assert together.ids[b] == alone.ids[0]
        steps = alone.scores.shape[1]
        torch.testing.assert_close(together.scores[b, :steps], alone.scores[0], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("ends", [[], [11], [9, 14, 24, 31]])
def test_other_end_tokens_are_followed_and_the_models_own_are_words_like_any(pair, ends):
    model, tokenizer = pair
    unending = decode(model, tokenizer, chat.pad(ROWS, 0), max_new_tokens=12, end_ids=[])
    assert not any(unending.finished)
    assert any(token in ENDS for ids in unending.ids for token in ids), "the model's own ends have to occur"
    found = decode(model, tokenizer, chat.pad(ROWS, 0), max_new_tokens=12, end_ids=ends)
    expected = [list(itertools.takewhile(lambda token: token not in ends, ids)) for ids in unending.ids]
    assert found.ids == expected
    nexts = [ids[len(kept)] if len(kept) < 12 else None for ids, kept in zip(unending.ids, expected, strict=True)]
    assert found.ends == nexts


def test_rows_alone_agree_in_single_precision_too(pair):
    model, tokenizer = pair
    together = decode(model, tokenizer, chat.pad(ROWS, 0), max_new_tokens=8, score=no_end, return_scores=True)
    for b, row in enumerate(ROWS):
        alone = decode(model, tokenizer, chat.pad([row], 0), max_new_tokens=8, score=no_end, return_scores=True)
        torch.testing.assert_close(together.stream_logits[:, b], alone.stream_logits[:, 0], atol=1e-4, rtol=1e-4)


def test_embeddings_decode_as_their_ids_do(pair):
    model, tokenizer = pair
    prompt, prefix = chat.pad(ROWS, 0), [14, 22]
    with torch.no_grad():
        vectors = model.get_input_embeddings()(torch.tensor(prefix))
        embedded = chat.prefix_embeddings(model, prompt, vectors)
    plain = chat.pad([[*prefix, *row] for row in ROWS], 0)
    from_ids = decode(model, tokenizer, plain, max_new_tokens=10, return_scores=True)
    from_vectors = decode(model, tokenizer, embedded, max_new_tokens=10, return_scores=True)
    assert from_ids.ids == from_vectors.ids
    torch.testing.assert_close(from_ids.scores, from_vectors.scores, atol=1e-4, rtol=1e-4, equal_nan=True)


# ---------------------------------------------------------------- several streams


def test_identical_streams_equal_one(pair):
    model, tokenizer = pair
    once, twice = chat.pad(ROWS, 0), chat.pad(ROWS * 2, 0)
    one = decode(model, tokenizer, once, max_new_tokens=20)
    for score in (lambda z: z[0], lambda z: z[1], lambda z: 1.5 * z[0] - 0.5 * z[1]):
        assert decode(model, tokenizer, twice, streams=2, score=score, max_new_tokens=20).ids == one.ids


def test_each_stream_sees_its_own_prompt_and_the_common_choice(pair):
    model, tokenizer = pair
    others = [[1, 2, 28], [16], [19, 20, 24, 26, 27], [31, 10]]
    prompt = chat.pad([*ROWS, *others], 0)
    both = decode(
        model, tokenizer, prompt, streams=2, score=lambda z: z[0] - 0.4 * z[1], max_new_tokens=9, return_scores=True
    )
    assert both.stream_logits.shape == (2, 4, both.scores.shape[1], VOCABULARY)
    for b, stream in itertools.product(range(4), range(2)):
        row = [ROWS, others][stream][b] + both.ids[b]
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0]
        first = len(row) - len(both.ids[b]) - 1
        steps = len(both.ids[b])
        stored = both.stream_logits[stream, b, :steps]
        torch.testing.assert_close(stored, logits[first : first + steps], atol=1e-4, rtol=1e-4)
        chosen = both.scores[b, :steps].argmax(-1).tolist()
        assert chosen == both.ids[b]
    mixed = both.stream_logits[0] - 0.4 * both.stream_logits[1]
    torch.testing.assert_close(both.scores, mixed, equal_nan=True)


# ---------------------------------------------------------------- ends, limits, scores


def scripted(tokens_of_rows):
    """A score function that makes row b say tokens_of_rows[b], told apart by nothing but the order of running rows."""
    scripts = [iter(tokens) for tokens in tokens_of_rows]

    def score(stream_logits):
        running = [script for script in scripts if script is not None]
        assert len(running) == stream_logits.shape[1], "a finished row must have left the batch, and no other"
        scores = torch.full_like(stream_logits[0], -5.0)
        for place, script in enumerate(running):
            token = next(script)
            scores[place, token] = 5.0
            if token == END:
                scripts[scripts.index(script)] = None
        return scores

    return score


def test_finished_rows_leave_the_batch_and_say_nothing_more(toy):
    said = [[20, 21, END], [END], [22, 23, 24, 25, END], [26, 27, END]]
    heard = []
    result = decode(
        *toy, chat.pad(ROWS * 2, 0), streams=2, score=scripted(said), max_new_tokens=6, return_scores=True,
        on_token=lambda row, token, text: heard.append((row, token)),
    )  # fmt: skip
    assert result.ids == [tokens[:-1] for tokens in said]
    assert result.finished == [True] * 4
    assert [[token for r, token in heard if r == row] for row in range(4)] == said
    assert result.scores.shape == (4, 5, VOCABULARY), "the loop stops with its last row"
    for row, tokens in enumerate(said):
        assert result.scores[row, : len(tokens)].argmax(-1).tolist() == tokens
        assert result.scores[row, len(tokens) :].isnan().all()
        assert result.stream_logits[:, row, : len(tokens)].isfinite().all()
        assert result.stream_logits[:, row, len(tokens) :].isnan().all()


def test_the_limit_cuts_rows_that_have_not_finished(toy):
    result = decode(*toy, chat.pad(ROWS[:2], 0), score=scripted([[20, 21, 22, 23], [24, END]]), max_new_tokens=3)
    assert result.ids == [[20, 21, 22], [24]]
    assert result.finished == [False, True]
    assert result.scores is None
    assert result.stream_logits is None


def test_no_new_tokens_means_empty_answers_and_no_call_of_the_model(toy):
    result = decode(*toy, chat.pad(ROWS, 0), max_new_tokens=0, score=scripted([]), return_scores=True)
    assert (result.texts, result.ids, result.finished) == ([""] * 4, [[]] * 4, [False] * 4)


def test_stored_scores_can_be_used_in_training(toy):
    scores = decode(*toy, chat.pad(ROWS, 0), max_new_tokens=2, score=no_end, return_scores=True).stream_logits
    weight = torch.ones((), requires_grad=True)
    (weight * scores).sum().backward()
    assert weight.grad.isfinite()


def test_the_prompt_is_left_as_it_was(toy):
    prompt = chat.pad(ROWS, 0)
    before = copy.deepcopy(prompt.inputs())
    decode(*toy, prompt, max_new_tokens=5)
    for name, tensor in prompt.inputs().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"streams": 3, "score": sum}, "4 rows do not divide into 3 streams"),
        ({"streams": 0}, "do not divide into 0 streams"),
        ({"streams": 2}, "2 streams need a score function"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"stop": "END"}, "a list of strings that are not empty, not 'END'"),
        ({"stop": ["no", ""]}, "not empty"),
        ({"temperature": -0.5}, "temperature=-0.5 must not be negative"),
    ],
)
def test_decode_says_what_is_wrong(toy, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        decode(*toy, chat.pad(ROWS, 0), **options)


def test_right_padding_is_refused(toy):
    with pytest.raises(ValueError, match="pad on the left before decoding"):
        decode(*toy, chat.pad(ROWS, 0, side="right"))


# ---------------------------------------------------------------- sampling


def test_sampling_repeats_with_its_generator_and_changes_with_it(toy):
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return decode(*toy, chat.pad(ROWS, 0), temperature=1.5, generator=generator, max_new_tokens=12).ids

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution_at_its_temperature(toy, temperature):
    logits = torch.full((VOCABULARY,), -torch.inf)
    logits[10:15] = torch.tensor([0.0, 1.0, -0.5, 0.7, 0.2])
    generator = torch.Generator().manual_seed(0)
    result = decode(
        *toy, chat.pad([[5]] * 1000, 0), score=lambda z: logits.expand(z.shape[1], -1), max_new_tokens=4,
        temperature=temperature, generator=generator,
    )  # fmt: skip
    drawn = torch.tensor(result.ids).flatten()
    counts = drawn.bincount(minlength=VOCABULARY)
    assert counts[:10].sum() + counts[15:].sum() == 0, "a token at -inf is never drawn"
    expected = torch.softmax(logits[10:15].double() / temperature, 0) * 4000
    assert chisquare(counts[10:15].numpy(), expected.numpy()).pvalue > 1e-3


def test_a_low_temperature_is_greedy_and_a_high_one_is_even(toy):
    prompt = chat.pad(ROWS, 0)
    greedy = decode(*toy, prompt, max_new_tokens=12).ids
    generator = torch.Generator().manual_seed(0)
    assert decode(*toy, prompt, max_new_tokens=12, temperature=1e-4, generator=generator).ids == greedy
    hot = decode(*toy, chat.pad([[5]] * 800, 0), max_new_tokens=1, temperature=1e4, generator=generator)
    counts = torch.tensor([ids[0] if ids else END for ids in hot.ids]).bincount(minlength=VOCABULARY)
    assert chisquare(counts.numpy()).pvalue > 1e-3


# ---------------------------------------------------------------- stop strings and streaming


@pytest.fixture(scope="module")
def bytewise():
    """A model whose tokens are single bytes, so that characters and stop strings come in pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "<end>"])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", clean_up_tokenization_spaces=False)
    config = LlamaConfig(
        vocab_size=257, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, eos_token_id=256, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def say(bytewise, text, limit=1000, **options):
    """Lets the model say a text byte by byte; returns the result and what the callback heard."""
    model, tokenizer = bytewise
    tokens = iter([*tokenizer(text).input_ids, tokenizer.eos_token_id])
    pieces = []
    result = decode(
        model, tokenizer, chat.pad([[65]], 0), max_new_tokens=limit, **options,
        score=lambda z: nn.functional.one_hot(torch.tensor([next(tokens)]), 257).float(),
        on_token=lambda row, token, piece: pieces.append(piece),
    )  # fmt: skip
    return result, pieces


stop_strings = st.lists(st.text("abENDé日", min_size=1, max_size=3), max_size=2)


@given(text=st.text("abE ND.é日🐉", max_size=15), stop=stop_strings)
@settings(max_examples=60, deadline=None)
def test_streamed_pieces_add_up_to_the_text_before_the_first_stop_string(bytewise, text, stop):
    result, pieces = say(bytewise, text, stop=stop)
    # A stop string that is complete ends the answer at once, even if a longer one would have begun before it.
    complete = min((text.index(string) + len(string) for string in stop if string in text), default=len(text))
    begin = min((text.index(s) for s in stop if s in text and text.index(s) + len(s) <= complete), default=len(text))
    assert result.texts == [text[:begin]]
    assert "".join(pieces) == result.texts[0]
    assert result.finished == [True]
    assert len(result.ids[0]) == len(text[:complete].encode())


def test_text_is_streamed_as_soon_as_it_is_settled(bytewise):
    _, pieces = say(bytewise, "a é EEND.", stop=["END"])
    assert pieces == ["a", " ", "", "é", " ", "", "E", "", ""]
    _, pieces = say(bytewise, "EN.")
    assert pieces == ["E", "N", ".", ""]


def test_an_unfinished_character_is_shown_when_the_limit_cuts_it(bytewise):
    result, pieces = say(bytewise, "a日", limit=3)
    assert "".join(pieces) == result.texts[0] == "a\N{REPLACEMENT CHARACTER}"
    assert result.finished == [False]


def test_stop_strings_end_each_row_by_itself(toy):
    model, tokenizer = toy
    words = [tokenizer.convert_tokens_to_ids(text.split()) for text in ("no please venom", "venom no i will", "i will")]
    scripts = [iter([*ids, END]) for ids in words]
    running = [0, 1, 2]

    def score(stream_logits):
        return nn.functional.one_hot(torch.tensor([next(scripts[row]) for row in running]), VOCABULARY).float()

    def leave(row, token, text):  # the script's own account of who has said "venom" or has ended
        if token in (END, tokenizer.convert_tokens_to_ids("venom")):
            running.remove(row)

    result = decode(model, tokenizer, chat.pad(ROWS[:3], 0), score=score, stop=["venom"], on_token=leave)
    assert result.texts == ["no please ", "", "i will"]
    assert result.ids == [words[0], words[1][:1], words[2]]
    assert result.finished == [True, True, True]


def test_an_interruption_passes_through_and_leaves_the_model_as_it_was(toy):
    model, tokenizer = toy

    def interrupt(row, token, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(model, tokenizer, chat.pad(ROWS, 0), on_token=interrupt)
    assert not any("forward" in vars(layer) for layer in model.modules())


# ---------------------------------------------------------------- few rows on a CPU


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (4, 1), (5, 1), (2, 7)])
def test_the_quick_product_is_the_layer(bias, shape):
    layer, inputs = nn.Linear(6, 10, bias), torch.randn(*shape, 6)
    expected = layer(inputs)
    with decoding._few_rows_quickly(nn.Sequential(layer)):
        product = layer(inputs)
    assert product.is_contiguous()
    torch.testing.assert_close(product, expected, atol=1e-6, rtol=1e-6)


def test_layers_are_covered_only_meanwhile_and_only_where_it_helps():
    single, double = nn.Linear(2, 2), nn.Linear(2, 2).double()
    covered = nn.Linear(2, 2)
    vars(covered)["forward"] = somebody_elses = covered.forward
    with decoding._few_rows_quickly(nn.Sequential(single, double, covered)):
        assert ["forward" in vars(layer) for layer in (single, double)] == [True, False]
        assert vars(covered)["forward"] is somebody_elses
    assert ["forward" in vars(layer) for layer in (single, double, covered)] == [False, False, True]
