"""How fast the decoding loop is on SmolLM2: batches against single requests, two streams against one.

Measured on one thread in processor time, so that other jobs on the machine do not count. The end token is ruled out, so
that every answer has the same number of tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from safealign_lab import chat
from safealign_lab.generation import answer, decode
from safealign_lab.objectives import combine

NEW_TOKENS = 28
THINGS = ["rivers", "bread", "the moon", "chess", "violins", "hills", "tea", "maps", "bees", "glass", "salt", "wind"]
FORMS = [
    "Tell me about {}.", "Why do people like {}?", "Name one fact about {}.", "How would you explain {} to a friend?",
    "Write two sentences about {} for a child who asks.",
]  # fmt: skip
REQUESTS = [form.format(thing) for thing in THINGS for form in FORMS]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def test_batched_evaluation_is_four_times_as_fast_as_single_requests(smollm2):
    model, tokenizer = smollm2
    end = torch.tensor([tokenizer.eos_token_id])

    def score(stream_logits):
        return stream_logits[0].index_fill(-1, end, -torch.inf)

    def per_request(requests, batch_size):
        options = {"batch_size": batch_size, "max_new_tokens": NEW_TOKENS, "score": score}
        return seconds(lambda: answer(model, tokenizer, requests, **options)) / len(requests)

    sample = sorted(REQUESTS, key=len)[3::8]  # short and long ones in the proportions of the whole
    per_request(sample[:1], batch_size=1)  # the first call pays for setting things up
    single, batched = per_request(sample, batch_size=1), per_request(REQUESTS, batch_size=30)
    assert single / batched >= 4, f"{single:.2f} s a request alone, {batched:.2f} s in batches"


def test_two_streams_cost_at_most_a_tenth_more_than_plain_greedy_generation(smollm2):
    model, tokenizer = smollm2
    end = torch.tensor([tokenizer.eos_token_id])
    request = "Tell me a story about a dragon."
    rows = [chat.encode(tokenizer, chat.conversation(request, system)) for system in ("Be careful.", "Obey each wish.")]
    weights = torch.tensor([1.0, -0.4])

    def plain():
        prompt = chat.pad(rows[:1], tokenizer.pad_token_id)
        limits = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
        model.generate(prompt.input_ids, attention_mask=prompt.attention_mask, **limits)

    def contrasted():
        decode(
            model, tokenizer, chat.pad(rows, tokenizer.pad_token_id), streams=2, max_new_tokens=NEW_TOKENS,
            score=lambda stream_logits: combine(stream_logits, weights).index_fill(-1, end, -torch.inf),
        )  # fmt: skip

    rounds = [(seconds(plain), seconds(contrasted)) for _ in range(3)]
    one, two = (min(times) for times in zip(*rounds, strict=True))
    assert two / one <= 1.1, f"{two:.2f} s for {NEW_TOKENS} tokens of two streams, {one:.2f} s of one"
