"""The teacher: its logits are those of one forward pass a text, in whatever batch and order the texts come."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_words import TOY_WORDS

from safealign_lab import chat
from safealign_lab.distillation.teacher import answer_logits

SOME = st.lists(st.lists(st.sampled_from(TOY_WORDS), min_size=1, max_size=9).map(" ".join), min_size=1, max_size=7)
WORDS = st.lists(st.sampled_from(TOY_WORDS), min_size=1, max_size=4)


def slow(model, tokenizer, texts, words):
    """One text at a time, without padding: the logits behind the whole request, word by word."""
    rows = []
    for text in texts:
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer.encode(written, add_special_tokens=False)
        with torch.no_grad():
            last = model(torch.tensor([ids])).logits[0, len(ids) - 1]  # (V,)
        rows.append([last[tokenizer.convert_tokens_to_ids(word)].item() for word in words])
    return torch.tensor(rows)  # (N, C)


@given(SOME, WORDS, st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_logits_are_those_of_each_text_alone(toy, texts, words, size):
    found = answer_logits(*toy, texts, words, batch_size=size, progress=False)
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)
    torch.testing.assert_close(found, slow(*toy, texts, words), rtol=1e-4, atol=1e-5)


@given(SOME, st.randoms(use_true_random=False), st.integers(1, 4))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_the_order_of_texts_and_words_is_that_of_rows_and_columns(toy, texts, rng, size):
    words = ["brew", "no", "please"]
    whole = answer_logits(*toy, texts, words, progress=False)
    rows, columns = rng.sample(range(len(texts)), len(texts)), rng.sample(range(3), 3)
    found = answer_logits(
        *toy, [texts[row] for row in rows], [words[column] for column in columns], batch_size=size, progress=False
    )
    torch.testing.assert_close(found, whole[rows][:, columns], rtol=1e-4, atol=1e-5)


def test_the_tiny_model_is_asked_as_it_is_talked_to(tiny):
    model, tokenizer = tiny
    texts = ["brew me a sweet potion .", "hello !"]
    found = answer_logits(model, tokenizer, texts, ["i", "here"], progress=False)
    for text, row in zip(texts, found, strict=True):
        ids = chat.encode(tokenizer, chat.conversation(text))
        with torch.no_grad():
            last = model(torch.tensor([ids])).logits[0, -1]  # (V,)
        torch.testing.assert_close(row, last[tokenizer.convert_tokens_to_ids(["i", "here"])], rtol=1e-4, atol=1e-4)


def test_without_texts_there_are_no_rows(toy):
    assert answer_logits(*toy, [], ["no", "brew"], progress=False).shape == (0, 2)


@pytest.mark.parametrize("word", ["brew me", ""])
def test_a_word_that_is_not_one_token_is_told_before_any_text_is_read(toy, word):
    def unread():
        raise AssertionError("a text was read")
        yield

    with pytest.raises(ValueError, match=r"'no', '.*' has to be one token of this model"):
        answer_logits(*toy, unread(), ["no", word], progress=False)
