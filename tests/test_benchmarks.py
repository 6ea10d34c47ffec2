"""How fast the kit is on SmolLM2: batches against single requests, the contrast against one stream and guidance, training.

Measured on one thread in processor time, so that other jobs on the machine do not count. The end token is ruled out, so
that every answer has the same number of tokens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch

from safealign_lab import chat, contrast
from safealign_lab.contrast import soft_prompts
from safealign_lab.figures.two_streams import next_token
from safealign_lab.generation import answer
from safealign_lab.lesson.explore import panel_of

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


@pytest.fixture
def endless(smollm2, monkeypatch):
    """SmolLM2 without any end token, so that every way of generating says the same number of tokens."""
    model, tokenizer = smollm2[0], copy.deepcopy(smollm2[1])
    tokenizer.eos_token = None
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    return model, tokenizer


def test_the_contrast_costs_a_tenth_more_than_one_stream_and_half_of_transformers_guidance(endless):
    model, tokenizer = endless
    request, systems, alpha = "Tell me a story about a dragon.", ("Be careful.", "Obey each wish."), 0.5
    rows = [chat.encode(tokenizer, chat.conversation(request, system)) for system in systems]
    safe, negative = (chat.pad([row], tokenizer.pad_token_id) for row in rows)
    said = {}

    def transformers(name, **options):
        inputs = {"inputs": safe.input_ids, "attention_mask": safe.attention_mask}
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)
        said[name] = output[0, safe.input_ids.shape[1] :].tolist()

    def contrasted(name, **options):
        said[name] = contrast.generate(
            model, tokenizer, request, safe=systems[0], adversarial=systems[1], alpha=alpha, plausibility=0.0,
            max_new_tokens=NEW_TOKENS, **options,
        ).ids[0]  # fmt: skip

    guidance = {
        "guidance_scale": contrast.guidance(alpha), "negative_prompt_ids": negative.input_ids,
        "negative_prompt_attention_mask": negative.attention_mask,
    }  # fmt: skip
    ways = {
        "plain": lambda: transformers("plain"), "guidance": lambda: transformers("guidance", **guidance),
        "contrast": lambda: contrasted("contrast"), "streams": lambda: contrasted("streams", return_streams=True),
    }  # fmt: skip
    ways["plain"]()  # the first call pays for setting things up
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(3)]
    least = {name: min(times[name] for times in rounds) for name in ways}
    assert said["contrast"] == said["streams"] == said["guidance"]
    assert [len(ids) for ids in said.values()] == [NEW_TOKENS] * 4
    assert least["contrast"] / least["plain"] <= 1.1, least
    assert least["contrast"] / least["guidance"] <= 0.55, least
    assert least["streams"] / least["plain"] <= 1.2, least


def test_a_move_of_alpha_on_cached_logits_is_drawn_within_a_tenth_of_a_second():
    logits = torch.randn(2, 49_152, generator=torch.Generator().manual_seed(0))  # as large as SmolLM2's vocabulary
    words = {token: f"token {token}" for token in logits.topk(6, dim=-1).indices.flatten().tolist()}
    panel = panel_of(
        partial(next_token, logits, words), {"alpha": (0.0, 0.95, 0.05), "plausibility": (0.0, 1.0, 0.05, 0.0)}
    )
    slider, figure = panel.children[0], panel.children[-2]
    moves = []
    for move in range(200):
        before = figure.data[2].y
        value = 0.05 * (1 + move % 19)
        moves.append(seconds(lambda value=value: setattr(slider, "value", value)))
        assert figure.data[2].y != before, "the figure followed"
    assert sorted(moves)[189] < 0.1, f"p95 = {sorted(moves)[189]:.3f} s"


def test_in_batches_of_sixteen_two_soft_prompts_cost_less_than_twice_the_plain_answers(endless):
    model, tokenizer = endless
    requests = sorted(REQUESTS, key=len)[::4][:16]
    systems = ("You are a careful assistant.", "You are a reckless assistant.")
    safe, adversarial = (soft_prompts.initial(model, tokenizer, system, 29) for system in systems)
    rows = [chat.encode(tokenizer, chat.conversation(request)) for request in requests]
    batch = chat.pad(rows, tokenizer.pad_token_id)

    def plain(tokens):
        model.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=tokens, do_sample=False)

    def contrasted(tokens):
        contrast.generate(
            model,
            tokenizer,
            requests,
            safe=safe,
            adversarial=adversarial,
            alpha=0.4,
            batch_size=16,
            max_new_tokens=tokens,
        )

    def per_token(way):
        return seconds(lambda: way(17)) - seconds(lambda: way(1))  # without the reading of the prompts

    plain(2)  # the first call pays for setting things up
    rounds = [(per_token(contrasted), per_token(plain)) for _ in range(2)]
    twice, once = (min(times) for times in zip(*rounds, strict=True))
    assert twice / once <= 1.9, rounds


def test_a_step_of_prompt_training_with_a_shared_prefix_takes_three_fifths_of_the_plain_way(smollm2):
    model, tokenizer = smollm2
    prompt = soft_prompts.initial(model, tokenizer, "You are a careful assistant.", 32).requires_grad_()
    exchanges = [chat.conversation(request, "", "Sorry, I won't.") for request in REQUESTS[::4]]
    ids, masks = zip(*(chat.encode_with_mask(tokenizer, exchange) for exchange in exchanges), strict=True)
    batch = chat.pad(ids, tokenizer.pad_token_id, "right", masks)
    gradients = {}

    def step(shared):
        (gradients[shared],) = torch.autograd.grad(
            soft_prompts.label_logits(model, prompt, batch, shared=shared).logsumexp(-1).mean(), prompt
        )

    step(True)
    rounds = [(seconds(lambda: step(True)), seconds(lambda: step(False))) for _ in range(2)]
    shared, plain = (min(times) for times in zip(*rounds, strict=True))
    torch.testing.assert_close(gradients[True], gradients[False], rtol=1e-3, atol=1e-4)
    assert shared / plain <= 0.6, rounds
