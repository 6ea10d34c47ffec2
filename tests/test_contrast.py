"""The contrast's score against slow loops over the vocabulary, against its other forms, and against impossible knobs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.modeling_outputs import CausalLMOutput

from safealign_lab.contrast import (
    acd,
    alpha_of,
    guidance,
    guided,
    plausible,
    sampling_temperature,
    score,
    scorer,
    weight,
)  # fmt: skip

PATIENT = settings(deadline=None, derandomize=True)
MASKED = -math.inf
FORMS = ["acd", "guided"]
quarters = st.integers(-80, 80).map(lambda number: number / 4)  # exact in binary, so that ties are ties
alphas = st.floats(0, 0.95)
thresholds = st.one_of(st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 1))


@st.composite
def two_streams(draw, masked: bool = False):
    """Logits (2, B, V) of a safe and an adversarial stream, on request with tokens that one of them masks."""
    rows, vocabulary = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    logit = st.one_of(quarters, st.just(MASKED)) if masked else quarters
    numbers = draw(st.lists(logit, min_size=2 * rows * vocabulary, max_size=2 * rows * vocabulary))
    logits = torch.tensor(numbers, dtype=torch.float64).view(2, rows, vocabulary)
    logits[:, :, draw(st.integers(0, vocabulary - 1))] = 0.5  # at least one token is open to both
    return logits


def close(mine: torch.Tensor, expected) -> None:
    torch.testing.assert_close(mine, torch.as_tensor(expected, dtype=mine.dtype), atol=1e-9, rtol=1e-9)


def by_token(function, *rows: torch.Tensor):
    """The function, applied in Python to each token of each row: (B, V)."""
    pairs = zip(*(row.tolist() for row in rows), strict=True)
    return torch.tensor([[function(*token) for token in zip(*row, strict=True)] for row in pairs], dtype=torch.float64)


def slow_acd(alpha: float):
    return lambda safe, adversarial: safe - alpha * adversarial


def slow_guided(alpha: float):
    """As classifier-free guidance is written: from the adversarial stream g times the way to the safe one."""
    return lambda safe, adversarial: adversarial + (safe - adversarial) / (1 - alpha)


def slow_plausible(safe: torch.Tensor, threshold: float) -> list[list[bool]]:
    """p ≥ threshold · max p, by probabilities; cases on the very edge, which rounding decides, are left out."""
    rows = []
    for logits in safe.tolist():
        heights = [math.exp(logit - max(logits)) for logit in logits]
        probabilities = [height / sum(heights) for height in heights]
        edge = threshold * max(probabilities)
        assume(all(p in (0, max(probabilities)) or abs(p / edge - 1) > 1e-9 for p in probabilities) if edge else True)
        rows.append([p > 0 and p >= edge for p in probabilities])
    return rows


# ---------------------------------------------------------------- the forms and their loops


@PATIENT
@given(streams=two_streams(), alpha=alphas)
def test_both_forms_equal_a_loop_over_the_vocabulary(streams, alpha):
    close(acd(*streams, alpha), by_token(slow_acd(alpha), *streams))
    close(guided(*streams, alpha), by_token(slow_guided(alpha), *streams))


@PATIENT
@given(streams=two_streams(masked=True), alpha=alphas, form=st.sampled_from(FORMS), threshold=thresholds)
def test_the_score_is_the_form_on_plausible_tokens_and_minus_infinity_elsewhere(streams, alpha, form, threshold):
    contrast = by_token({"acd": slow_acd, "guided": slow_guided}[form](alpha), *streams)
    open_to_choice = torch.tensor(slow_plausible(streams[0], threshold)) & (streams[1] != MASKED)
    expected = torch.where(open_to_choice, contrast, MASKED)
    close(score(streams, alpha, form, threshold), expected)
    close(scorer(alpha, form, threshold)(streams), expected)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (3, 4, 5), (1, 2, 3, 5)])
def test_any_leading_shape_is_that_of_many_rows(shape):
    safe, adversarial = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(acd(safe, adversarial, 0.4), safe - 0.4 * adversarial)
    close(guided(safe, adversarial, 0.5), 2 * safe - adversarial)
    probabilities = safe.softmax(-1)
    assert torch.equal(plausible(safe, 0.3), probabilities >= 0.3 * probabilities.amax(-1, keepdim=True))


@PATIENT
@given(streams=two_streams(), alpha=st.floats(1, 20))
def test_the_printed_form_takes_the_papers_alpha_of_one_and_more(streams, alpha):
    close(acd(*streams, alpha), by_token(slow_acd(alpha), *streams))
    ratios = by_token(lambda safe, adversarial: safe - adversarial, *streams.log_softmax(-1))
    close(acd(*streams, 1.0).log_softmax(-1), ratios.log_softmax(-1))
    assert score(streams, 1.0, "acd", 0.0).isfinite().all()


# ---------------------------------------------------------------- the forms and one another


@pytest.mark.parametrize(("alpha", "g", "w"), [(0, 1, 0), (0.2, 1.25, 0.25), (0.5, 2, 1), (0.8, 5, 4), (0.99, 100, 99)])
def test_guidance_weight_and_temperature_in_closed_form(alpha, g, w):
    assert guidance(alpha) == pytest.approx(g)
    assert weight(alpha) == pytest.approx(w)
    assert sampling_temperature(alpha) == pytest.approx(g)
    assert alpha_of(g) == pytest.approx(alpha)


@PATIENT
@given(alpha=st.floats(0, 0.999), g=st.floats(1, 1e6))
def test_the_way_there_and_back(alpha, g):
    assert alpha_of(guidance(alpha)) == pytest.approx(alpha, abs=1e-12)
    assert guidance(alpha_of(g)) == pytest.approx(g, rel=1e-9)
    assert guidance(alpha) == pytest.approx(1 + weight(alpha))
    assert weight(alpha) == pytest.approx(alpha * sampling_temperature(alpha))


@PATIENT
@given(streams=two_streams(), alpha=alphas)
def test_sampling_from_acd_is_sampling_from_guidance_at_its_temperature(streams, alpha):
    printed, working = acd(*streams, alpha), guided(*streams, alpha)
    close((printed / (1 - alpha)).softmax(-1), working.softmax(-1))
    close(printed.softmax(-1), (working / sampling_temperature(alpha)).softmax(-1))


def transformers_guidance(streams: torch.Tensor, scale: float) -> torch.Tensor:
    """What transformers' own processor makes of the two streams, the second of which a stand-in model says."""
    ids = torch.zeros(streams.shape[1], 1, dtype=torch.long)
    says = CausalLMOutput(logits=streams[1][:, None])
    return UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, lambda *_, **__: says, ids)(ids, streams[0])


@PATIENT
@given(streams=two_streams())
def test_acd_at_one_half_is_transformers_guidance_of_two_at_temperature_two(streams):
    theirs = transformers_guidance(streams, 2.0)
    close(acd(*streams, 0.5).softmax(-1), (theirs / 2).softmax(-1))
    close(guided(*streams, 0.5).softmax(-1), theirs.softmax(-1))


@PATIENT
@given(streams=two_streams(), alpha=alphas)
def test_all_forms_and_transformers_choose_the_same_token(streams, alpha):
    contrast = by_token(slow_acd(alpha), *streams)
    for scores in (acd(*streams, alpha), guided(*streams, alpha), transformers_guidance(streams, guidance(alpha))):
        chosen = contrast.gather(-1, scores.argmax(-1, keepdim=True))  # ties may fall either way, by rounding
        close(chosen, contrast.amax(-1, keepdim=True))


@PATIENT
@given(streams=two_streams(), form=st.sampled_from(FORMS), threshold=thresholds)
def test_alpha_zero_is_the_safe_stream_alone(streams, form, threshold):
    for scores in (acd(*streams, 0.0), guided(*streams, 0.0), score(streams, 0.0, form, 0.0)):
        assert torch.equal(scores, streams[0])
    assert torch.equal(score(streams, 0.0, form, threshold).argmax(-1), streams[0].argmax(-1))


@PATIENT
@given(streams=two_streams(), alpha=alphas, form=st.sampled_from(FORMS), threshold=thresholds)
def test_two_streams_that_agree_say_what_either_says(streams, alpha, form, threshold):
    safe = streams[0]
    close(guided(safe, safe, alpha), safe)
    close(acd(safe, safe, alpha), (1 - alpha) * safe)
    chosen = score(torch.stack([safe, safe]), alpha, form, threshold).argmax(-1, keepdim=True)
    assert torch.equal(safe.gather(-1, chosen), safe.amax(-1, keepdim=True))


# ---------------------------------------------------------------- the plausible tokens


@PATIENT
@given(streams=two_streams(masked=True), threshold=thresholds)
def test_the_plausible_tokens_are_those_of_the_loop_and_hold_the_likeliest(streams, threshold):
    kept = plausible(streams[0], threshold)
    assert kept.tolist() == slow_plausible(streams[0], threshold)
    assert kept.any(-1).all()
    assert kept.gather(-1, streams[0].argmax(-1, keepdim=True)).all()


@PATIENT
@given(streams=two_streams(masked=True), pair=st.tuples(thresholds, thresholds).map(sorted))
def test_a_higher_threshold_keeps_a_subset_from_all_tokens_down_to_the_best(streams, pair):
    lower, higher = (plausible(streams[0], threshold) for threshold in pair)
    assert not (higher & ~lower).any()
    assert torch.equal(plausible(streams[0], 0.0), streams[0] > MASKED)
    assert torch.equal(plausible(streams[0], 1.0), streams[0] == streams[0].amax(-1, keepdim=True))
    assert plausible(torch.tensor([0.0, -1e30, MASKED]), 0.0).tolist() == [True, True, False]


@pytest.mark.parametrize("form", FORMS)
def test_a_token_of_one_in_a_million_wins_without_the_limit_and_not_with_it(form):
    safe = torch.tensor([[0.6, 0.4 - 1e-6, 1e-6]], dtype=torch.float64).log()
    adversarial = torch.tensor([[0.5, 0.5 - 1e-14, 1e-14]], dtype=torch.float64).log()
    streams = torch.stack([safe, adversarial])
    assert score(streams, 0.5, form, plausibility=0.0).argmax(-1).tolist() == [2]
    assert score(streams, 0.5, form, plausibility=0.1).argmax(-1).tolist() == [0]
    assert score(streams, 0.5, form).argmax(-1).tolist() == [0], "a tenth is the default"


# ---------------------------------------------------------------- impossible knobs

ROW = torch.zeros(1, 3)
NAN = math.nan


@pytest.mark.parametrize("alpha", [1, 1.0, 1.7, -0.1, math.inf, NAN])
def test_what_divides_by_one_minus_alpha_refuses_one_and_says_why(alpha):
    for function in (guidance, weight, sampling_temperature, lambda alpha: guided(ROW, ROW, alpha)):
        with pytest.raises(ValueError, match=f"alpha={alpha} ") as error:
            function(alpha)
        assert "1/(1-α) exists for 0 ≤ α < 1 only" in str(error.value)
        assert "choose a smaller one" in str(error.value)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: acd(ROW, ROW, -0.1), "alpha=-0.1 is not a strength: expected a number of 0 or more"),
        (lambda: acd(ROW, ROW, math.inf), "alpha=inf is not a strength"),
        (lambda: acd(ROW, ROW, NAN), "alpha=nan is not a strength"),
        (lambda: alpha_of(0.9), "guidance scale of 0.9 has no α: expected a finite number of 1 or more"),
        (lambda: alpha_of(math.inf), "guidance scale of inf"),
        (lambda: alpha_of(NAN), "guidance scale of nan"),
        (lambda: plausible(ROW, -0.1), "plausibility=-0.1 is not a share of the largest probability: expected 0 to 1"),
        (lambda: plausible(ROW, 1.1), "plausibility=1.1"),
        (lambda: plausible(ROW, NAN), "plausibility=nan"),
        (lambda: score(ROW[None], 0.4), "two streams, safe and adversarial, not 1"),
        (lambda: score(torch.zeros(3, 1, 3), 0.4), "two streams, safe and adversarial, not 3"),
        (lambda: score(torch.zeros(2, 1, 3), 0.4, "cfg"), "no form 'cfg': expected one of acd, guided"),
        (lambda: scorer(-1.0), "alpha=-1.0 is not a strength"),
        (lambda: scorer(1.0, "guided"), "alpha=1.0 "),
        (lambda: scorer(0.4, "ratio"), "no form 'ratio'"),
        (lambda: scorer(0.4, "acd", 10), "plausibility=10"),
    ],
)
def test_an_impossible_knob_gets_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)
