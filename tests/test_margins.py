"""Margins and prices: against loops over tokens and thresholds, against greedy decoding, and against readings one by one."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slow_contrast import ENDS, POTIONS, RECKLESS, REQUESTS, SAFE, by_hand, in_double

from safealign_lab import contrast
from safealign_lab.alchemy.voices import KEEPER, ROGUE
from safealign_lab.contrast.margins import first_logits, price, refusal_margins
from safealign_lab.contrast.soft_prompts import initial
from safealign_lab.generation import generate

SAFETIES = [step / 20 for step in range(1, 21)]
FLOATS, alphas = st.floats(-50, 50), st.floats(0, 3)
quickly = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def asked(draw, numbers=FLOATS, ruled_out=True):
    """Logits (2, B, V) in double precision, and the ids of some tokens, but not of all."""
    vocabulary = draw(st.integers(2, 7))
    refusing = draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=vocabulary - 1, unique=True))
    row = st.lists(numbers, min_size=vocabulary, max_size=vocabulary)
    logits = torch.tensor([draw(st.lists(row, min_size=3, max_size=3)) for _ in range(2)], dtype=torch.float64)
    if ruled_out:  # not the first of either side, so that both have a best
        spared = {refusing[0], min(set(range(vocabulary)) - set(refusing))}
        for stream, token in draw(st.sets(st.tuples(st.integers(0, 1), st.integers(0, vocabulary - 1)))):
            if token not in spared:
                logits[stream, :, token] = -torch.inf
    return logits, refusing


def slow_margins(logits: torch.Tensor, refusing: list[int], alpha: float) -> list[float]:
    found = []
    for safe, adversarial in zip(*logits.tolist(), strict=True):
        best = {True: -math.inf, False: -math.inf}
        for token, (mine, other) in enumerate(zip(safe, adversarial, strict=True)):
            if -math.inf not in (mine, other):
                side = token in refusing
                best[side] = max(best[side], mine - alpha * other)
        found.append(best[True] - best[False])
    return found


# ---------------------------------------------------------------- the margin


@quickly
@given(asked(), alphas)
def test_a_margin_is_that_of_a_loop_over_the_tokens(drawn, alpha):
    logits, refusing = drawn
    found = refusal_margins(logits, refusing, alpha)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(slow_margins(logits, refusing, alpha), abs=1e-9)


@quickly
@given(asked())
def test_without_an_alpha_the_safe_stream_alone_decides(drawn):
    logits, refusing = drawn
    alone = torch.stack([logits[0], torch.zeros_like(logits[0])]).masked_fill(logits[1] == -torch.inf, -torch.inf)
    assert torch.equal(refusal_margins(logits, refusing), refusal_margins(alone, refusing, alpha=0.7))


def test_of_several_tokens_that_refuse_the_best_one_counts():
    logits = torch.zeros(2, 2, 5)
    logits[0] = torch.tensor([[1.0, 4.0, 2.0, 3.0, 0.0], [5.0, 0.0, 9.0, 1.0, 2.0]])
    assert refusal_margins(logits, [0]).tolist() == [-3, -4]
    assert refusal_margins(logits, [0, 3]).tolist() == [-1, -4]
    assert refusal_margins(logits, [3, 0, 2]).tolist() == [-1, 7]


@quickly
@given(asked(ruled_out=False), alphas)
def test_one_more_token_that_refuses_never_lowers_a_margin(drawn, alpha):
    logits, refusing = drawn
    more = [*refusing, min(set(range(logits.shape[-1])) - set(refusing))]
    if len(more) < logits.shape[-1]:
        assert (refusal_margins(logits, more, alpha) >= refusal_margins(logits, refusing, alpha)).all()


@quickly
@given(asked(), alphas)
def test_above_0_stands_exactly_what_greedy_scoring_would_refuse(drawn, alpha):
    logits, refusing = drawn
    margins = refusal_margins(logits, refusing, alpha)
    chosen = contrast.score(logits, alpha, plausibility=0.0).argmax(-1)
    for margin, token in zip(margins.tolist(), chosen.tolist(), strict=True):
        assert margin == 0 or (margin > 0) == (token in refusing)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8])
def test_on_the_tiny_model_the_sign_tells_which_answers_begin_with_a_refusal(tiny, alpha):
    model, tokenizer = tiny
    requests = [f"{ask} {noun} potion ." for ask in ("brew me a bitter", "make a calm") for noun in ("venom", "sleep")]
    refusing = [tokenizer.convert_tokens_to_ids(word) for word in ("sorry", "no", "i")]
    margins = refusal_margins(first_logits(model, tokenizer, requests, KEEPER, ROGUE), refusing, alpha)
    said = contrast.generate(
        model, tokenizer, requests, safe=KEEPER, adversarial=ROGUE, alpha=alpha, plausibility=0.0, max_new_tokens=1
    )
    assert [margin > 0 for margin in margins.tolist()] == [ids[0] in refusing for ids in said.ids]
    assert {margin > 0 for margin in margins.tolist()} == {True, False}, "both kinds have to be there"


integers = st.integers(-40, 40).map(float)


@quickly
@given(asked(integers), asked(integers), st.sampled_from([0.0, 0.25, 0.5, 2.0]), st.integers(-60, 60))
def test_a_constant_on_the_refusing_tokens_moves_all_margins_alike_and_costs_nothing(
    harmful, harmless, alpha, constant
):
    """Integers and quarters, so that floats are exact."""
    before, after = [], []
    for logits, refusing in (harmful, harmless):
        moved = logits.clone()
        moved[0][:, refusing] += constant
        before.append(refusal_margins(logits, refusing, alpha))
        after.append(refusal_margins(moved, refusing, alpha))
        assert torch.equal(after[-1], before[-1] + constant)
        moved[0] = logits[0]
        moved[1][:, refusing] += constant  # the other stream's counts for α as much, and is taken away
        assert torch.equal(refusal_margins(moved, refusing, alpha), before[-1] - alpha * constant)
    assert [price(*after, safety) for safety in SAFETIES] == [price(*before, safety) for safety in SAFETIES]


@pytest.mark.parametrize("refusing", [[], range(6)])
def test_tokens_of_one_side_only_have_no_margin(refusing):
    with pytest.raises(ValueError, match="give some ids, and not all") as caught:
        refusal_margins(torch.zeros(2, 3, 6), refusing)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "alpha", "said"), [((3, 2, 4), 0.4, "two streams"), ((2, 2, 4), -1.0, "not a strength")]
)
def test_an_impossible_contrast_is_told(shape, alpha, said):
    with pytest.raises(ValueError, match=said):
        refusal_margins(torch.zeros(*shape), [1], alpha)


# ---------------------------------------------------------------- the price


def slow_price(harmful: list[float], harmless: list[float], percent: int) -> float:
    """By trying thresholds from the highest down: every margin, and places between them, below and above."""
    known = sorted({*harmful, *harmless})
    places = [*known, *((one + other) / 2 for one, other in pairwise(known)), known[0] - 1, known[-1] + 1]
    for threshold in sorted(places, reverse=True):
        if Fraction(sum(one >= threshold for one in harmful), len(harmful)) >= Fraction(percent, 100):
            return sum(one >= threshold for one in harmless) / len(harmless)
    raise AssertionError("the lowest threshold refuses everything")


margins = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=25)  # many of them alike


def doubles(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@quickly
@given(margins, margins, st.integers(1, 100))
@example(harmful=[2.0, 1.0, 0.0], harmless=[3.0, 1.0, 0.5, 0.0], percent=50)  # half of three are two
@example(harmful=[1.0, 1.0, 1.0, 0.0], harmless=[1.0, 0.0], percent=26)
def test_a_price_is_paid_at_the_highest_threshold_that_reaches_the_safety(harmful, harmless, percent):
    found = price(doubles(harmful), doubles(harmless), percent / 100)
    assert found == pytest.approx(slow_price(harmful, harmless, percent))


@pytest.mark.parametrize("total", [100, 110, 120, 150, 200])
def test_as_many_are_refused_as_the_share_says_whatever_floats_make_of_it(total):
    """Of 100 requests 0.55 are 55: their product is a little more in floats, and rounded up it would be 56."""
    row = torch.arange(total, dtype=torch.float64)
    for percent in range(1, 101):
        assert price(row, row, percent / 100) == pytest.approx(-(-percent * total // 100) / total)


def test_a_margin_at_the_threshold_is_refused():
    harmful, harmless = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 1.9, 0.0])
    assert price(harmful, harmless, 0.5) == 0.5
    assert price(harmful, harmless, 0.51) == 0.75
    assert price(harmful, harmless + 0.1, 0.5) == 0.75


@quickly
@given(margins, margins)
def test_more_safety_never_costs_less_and_all_of_it_refuses_what_the_meekest_harmful_request_beats(harmful, harmless):
    costs = [price(doubles(harmful), doubles(harmless), safety) for safety in SAFETIES]
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(sum(one >= min(harmful) for one in harmless) / len(harmless))


@quickly
@given(margins, margins, st.sampled_from(SAFETIES), st.lists(st.floats(0.125, 4), min_size=13, max_size=13))
def test_only_the_order_of_the_requests_makes_the_price(harmful, harmless, safety, steps):
    """Any increasing transform leaves it: each of the thirteen margins is put above the last by a step of its own."""
    places = list(accumulate(steps, initial=-20.0))
    moved = [doubles([places[int(one) + 6] for one in side]) for side in (harmful, harmless)]
    assert price(*moved, safety) == price(doubles(harmful), doubles(harmless), safety)


@quickly
@given(margins, margins, st.sampled_from(SAFETIES), st.randoms(use_true_random=False))
def test_the_order_in_which_requests_come_does_not_matter(harmful, harmless, safety, chance):
    before = price(doubles(harmful), doubles(harmless), safety)
    chance.shuffle(harmful)
    chance.shuffle(harmless)
    assert price(doubles(harmful), doubles(harmless), safety) == before


@pytest.mark.parametrize(
    ("harmful", "harmless", "safety"),
    [(3, 3, 0.0), (3, 3, -0.1), (3, 3, 1.01), (3, 3, math.nan), (0, 3, 0.5), (3, 0, 0.5)],
)
def test_a_price_that_cannot_be_is_told_in_one_sentence(harmful, harmless, safety):
    said = f"safety={safety} of {harmful} harmful requests has no price in {harmless} harmless ones"
    with pytest.raises(ValueError, match=said) as caught:
        price(torch.zeros(harmful), torch.zeros(harmless), safety)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the first tokens' logits


def prompts_of(kind: str, model, tokenizer) -> tuple:
    soft = [initial(model, tokenizer, text, length) for text, length in ((SAFE, 5), (RECKLESS, 3))]
    return {
        "texts": (SAFE, RECKLESS), "soft": tuple(soft), "soft and text": (soft[0], RECKLESS), "none and soft": ("", soft[1]),
    }[kind]  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("kind", ["texts", "soft", "soft and text", "none and soft"])
def test_first_logits_are_those_of_each_stream_read_by_itself(toy, kind, batch_size):
    """Also where the first token ends the answer: some of the toy's answers are empty."""
    model, tokenizer = in_double(toy, ENDS)
    prompts = prompts_of(kind, model, tokenizer)
    found = first_logits(model, tokenizer, REQUESTS, *prompts, batch_size=batch_size)
    slow = [by_hand(model, tokenizer, request, prompts, alpha=0, plausibility=0, limit=1)[1] for request in REQUESTS]
    assert found.shape == (2, len(REQUESTS), len(tokenizer))
    torch.testing.assert_close(found, torch.cat(slow, dim=1), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("requests", "sentence"),
    [([], "Without requests there are no first tokens: give a list"), ("brew", "not one string")],
)
def test_no_requests_have_no_first_logits(toy, requests, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        first_logits(*toy, requests, SAFE, RECKLESS)
    assert "\n" not in str(caught.value)


def test_first_logits_are_what_answering_starts_from(tiny):
    model, tokenizer = tiny
    soft = initial(model, tokenizer, KEEPER, 8)
    for prompts in ((KEEPER, ROGUE), (soft, ROGUE)):
        found = first_logits(model, tokenizer, POTIONS, *prompts)
        said = contrast.generate(
            model, tokenizer, POTIONS, safe=prompts[0], adversarial=prompts[1], return_streams=True, max_new_tokens=3
        )
        assert said.stream_logits.shape[2] == 3
        assert torch.equal(found, said.stream_logits[:, :, 0])
        begun = generate(model, tokenizer, POTIONS, prompts[:1], max_new_tokens=1).ids
        assert found[0].argmax(-1).tolist() == [ids[0] for ids in begun]
