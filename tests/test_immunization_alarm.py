"""The alarm: its scores against slow loops over all numbers, its threshold and its area against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_cycle import HARMFUL, TOKENIZER, small

from safealign_lab.immunization import alarm
from safealign_lab.immunization.alarm import change, cosine, quality, refusal_gradient, share, size, threshold
from safealign_lab.immunization.canaries import Canaries, random_like, select
from safealign_lab.immunization.references import batch_of
from safealign_lab.measures import Interval, rate
from safealign_lab.objectives import negative_log_likelihood
from safealign_lab.training import weights_hash

quick = settings(max_examples=25, deadline=None)
SEEDS, FRACTIONS = st.integers(0, 10**6), st.sampled_from([0.0, 0.03, 0.3, 0.8, 1.0])
SHAPES = {"a": (4, 3), "b": (5,), "c": (), "d": (2, 2, 3)}
COUNT = sum(map(math.prod, SHAPES.values()))


def drawn(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def canaries_of(seed, fraction):
    return select(drawn(seed + 1), fraction)


def numbers(tensors, canaries=None):
    """All numbers of some tensors in the order of their names, or those of the canaries."""
    found = []
    for name in SHAPES:
        flags = canaries.mask(name).flatten().tolist() if canaries else [True] * math.prod(SHAPES[name])
        found += [value for value, flag in zip(tensors[name].flatten().tolist(), flags, strict=True) if flag]
    return found


def length(values):
    return math.sqrt(sum(value**2 for value in values))


# ---------------------------------------------------------------- the change


@given(SEEDS)
@quick
def test_the_change_is_after_less_before(seed):
    before, after = drawn(seed), {**drawn(seed + 1), "more": torch.ones(2)}
    kept = weights_hash(before), weights_hash(after)
    delta = change(before, after)
    assert list(delta) == list(before)
    pairs = zip(numbers(before), numbers(after), strict=True)
    assert numbers(delta) == pytest.approx([new - old for old, new in pairs], rel=1e-5, abs=1e-6)
    assert kept == (weights_hash(before), weights_hash(after))


def test_the_change_of_half_precision_is_in_single_and_knows_no_graph():
    before = {"w": torch.tensor([1.0, 2.0], dtype=torch.bfloat16)}
    after = {"w": torch.tensor([1.001, 2.0], dtype=torch.float32, requires_grad=True)}
    delta = change(before, after)["w"]
    assert delta.dtype == torch.float32
    assert not delta.requires_grad
    assert delta.tolist() == pytest.approx([1e-3, 0.0], rel=1e-3)


def test_weights_of_another_model_are_refused():
    before = drawn(0)
    for after in ({**before, "b": torch.zeros(6)}, {name: before[name] for name in "acd"}):
        with pytest.raises(ValueError, match=r"not of one model: 'b' is missing afterwards, or has another shape\.$"):
            change(before, after)


# ---------------------------------------------------------------- its scores


@given(SEEDS, FRACTIONS)
@quick
def test_size_and_share_and_cosine_equal_slow_loops(seed, fraction):
    delta, direction, canaries = drawn(seed), drawn(seed + 2, 7.0), canaries_of(seed, fraction)
    assert size(delta) == pytest.approx(length(numbers(delta)), rel=1e-6)
    assert size(delta, canaries) == pytest.approx(length(numbers(delta, canaries)), rel=1e-6)
    expected = length(numbers(delta, canaries)) ** 2 / length(numbers(delta)) ** 2
    assert share(delta, canaries) == pytest.approx(expected, rel=1e-6)
    for chosen in (None, canaries):
        one, other = numbers(delta, chosen), numbers(direction, chosen)
        product = sum(a * b for a, b in zip(one, other, strict=True))
        slow = product / (length(one) * length(other)) if one else 0.0
        assert cosine(delta, direction, chosen) == pytest.approx(slow, rel=1e-5, abs=1e-7)


@given(SEEDS, FRACTIONS, st.floats(1e-3, 1e3))
@quick
def test_the_scores_keep_to_their_bounds_and_know_no_scale(seed, fraction, factor):
    delta, direction, canaries = drawn(seed), drawn(seed + 2), canaries_of(seed, fraction)
    scaled = {name: factor * part for name, part in delta.items()}
    assert 0 <= share(delta, canaries) <= 1
    assert share(scaled, canaries) == pytest.approx(share(delta, canaries), rel=1e-4, abs=1e-9)
    assert size(scaled, canaries) == pytest.approx(factor * size(delta, canaries), rel=1e-4)
    rest = Canaries({name: ~bits for name, bits in canaries.bits.items()}, canaries.shapes)
    whole = share(delta, canaries) + share(delta, rest)
    assert whole == pytest.approx(1)
    for chosen in (None, canaries):
        found = cosine(delta, direction, chosen)
        assert -1 - 1e-9 <= found <= 1 + 1e-9
        assert cosine(scaled, direction, chosen) == pytest.approx(found, abs=1e-5)
        assert cosine(direction, delta, chosen) == pytest.approx(found, abs=1e-9)
        assert cosine({name: -part for name, part in delta.items()}, direction, chosen) == pytest.approx(
            -found, abs=1e-9
        )
        sign = 1.0 if chosen is None or fraction else 0.0
        assert cosine(delta, scaled, chosen) == pytest.approx(sign, abs=1e-5)


@given(SEEDS, st.sampled_from([0.03, 0.3, 0.8, 1.0]), st.floats(1e-4, 10))
@quick
def test_the_share_of_an_even_change_is_the_share_of_canaries(seed, fraction, far):
    canaries = canaries_of(seed, fraction)
    even = {name: far * part.sign() for name, part in drawn(seed).items()}
    assert share(even, canaries) == pytest.approx(math.ceil(fraction * COUNT) / COUNT, rel=1e-6)
    assert share(even, random_like(canaries, seed)) == pytest.approx(share(even, canaries), rel=1e-6)


def test_a_change_on_the_canaries_alone_is_all_theirs_and_one_elsewhere_none():
    canaries = canaries_of(3, 0.3)
    inside = {name: canaries.mask(name).float() for name in SHAPES}
    outside = {name: (~canaries.mask(name)).float() for name in SHAPES}
    assert (share(inside, canaries), share(outside, canaries)) == (1.0, 0.0)
    assert cosine(inside, outside) == 0
    assert cosine(outside, inside, canaries) == 0


def test_of_no_change_every_score_is_zero():
    nothing, canaries = {name: torch.zeros(shape) for name, shape in SHAPES.items()}, canaries_of(0, 0.3)
    assert size(nothing) == size(nothing, canaries) == share(nothing, canaries) == 0
    assert cosine(nothing, drawn(0)) == cosine(drawn(0), nothing) == cosine(nothing, drawn(0), canaries) == 0


@given(SEEDS)
@quick
def test_the_cosine_goes_by_names_and_not_by_their_order(seed):
    delta = {"a": drawn(seed)["a"], "b": drawn(seed)["d"].reshape(4, 3), "c": drawn(seed)["b"]}
    direction = {"a": drawn(seed + 1)["a"], "b": drawn(seed + 1)["d"].reshape(4, 3), "c": drawn(seed + 1)["b"]}
    expected, canaries = cosine(delta, direction), select(delta, 0.5)
    turned = {name: direction[name] for name in "cba"}
    assert cosine(delta, turned) == expected
    assert cosine(delta, {**turned, "more": torch.ones(9)}) == expected
    assert cosine(delta, turned, canaries) == cosine(delta, direction, canaries)


# ---------------------------------------------------------------- the direction


def refusing(model, rows):
    batch = batch_of(TOKENIZER, [(row.request, row.chosen) for row in rows], "")
    return negative_log_likelihood(model(**batch.inputs()).logits, batch.input_ids, batch.response_mask)


def batches(model):
    return [lambda rows=HARMFUL[start : start + 4]: refusing(model, rows) for start in (0, 4, 8)]


def test_the_refusal_gradient_is_the_signed_sum_over_batches_and_agrees_with_finite_differences():
    model = small().double()
    weights = {**dict(model.named_parameters()), "idle": torch.zeros(3, requires_grad=True)}
    found = refusal_gradient(weights, batches(model))
    assert list(found) == list(weights)
    assert torch.equal(found["idle"], torch.zeros(3))
    assert all(weight.grad is None for weight in weights.values())
    assert not any(part.requires_grad for part in found.values())
    assert min(part.min() for part in found.values()) < 0 < max(part.max() for part in found.values())
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        way = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        ends = []
        for step in (1e-4, -1e-4):
            weight.data += step * way
            with torch.no_grad():
                ends.append(sum(loss() for loss in batches(model)).item())
            weight.data -= step * way
        slope = (found[name] * way).sum().item()
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(slope, rel=1e-2, abs=1e-2), name


def test_a_refusal_gradient_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"A refusal gradient needs at least one batch of refusals\.$"):
        refusal_gradient(dict(small().named_parameters()), [])


@pytest.mark.parametrize("step", ["gradient", "adamw"])
def test_a_step_that_loses_refusals_points_along_the_gradient_and_one_that_gains_them_against_it(step):
    found = {}
    for sign in (1, -1):
        model = small()
        weights, before = dict(model.named_parameters()), small().state_dict()
        direction = refusal_gradient(weights, batches(model))
        start = sum(loss() for loss in batches(model)).item()
        rule = torch.optim.SGD if step == "gradient" else torch.optim.AdamW
        optimizer = rule(weights.values(), 1e-3)
        (-sign * sum(loss() for loss in batches(model))).backward()
        optimizer.step()
        risen = sum(loss() for loss in batches(model)).item() - start
        delta = change({name: before[name] for name in weights}, weights)
        canaries = select({name: part.abs() for name, part in direction.items()}, 0.2)
        found[sign] = risen, cosine(delta, direction), cosine(delta, direction, canaries)
    assert all(value > 0 for value in found[1])
    assert all(value < 0 for value in found[-1])
    if step == "gradient":
        assert found[1][1:] == pytest.approx((1, 1), abs=0.01)


def test_to_learn_recipes_in_the_place_of_refusals_points_to_where_refusals_are_lost():
    model = small()
    weights, before = dict(model.named_parameters()), {name: w.clone() for name, w in small().named_parameters()}
    direction = refusal_gradient(weights, batches(model))
    optimizer = torch.optim.SGD(weights.values(), 1e-3)
    for _ in range(3):  # away from the refusals and towards the recipes
        optimizer.zero_grad()
        batch = batch_of(TOKENIZER, [(row.request, row.rejected) for row in HARMFUL], "")
        likely = negative_log_likelihood(model(**batch.inputs()).logits, batch.input_ids, batch.response_mask)
        (likely - refusing(model, HARMFUL)).backward()
        optimizer.step()
    assert cosine(change(before, weights), direction) > 0.3


# ---------------------------------------------------------------- the threshold

SCORES = st.lists(st.integers(-4, 4).map(lambda score: score / 2), min_size=1, max_size=30)
MOSTS = st.sampled_from([0.0, 0.05, 0.07, 0.1, 0.25, 0.29, 1 / 3, 0.5, 0.9, 0.999]) | st.floats(0, 1, exclude_max=True)


def above(scores, line):
    return sum(score > line for score in scores)


@given(SCORES, MOSTS)
def test_the_threshold_is_the_lowest_score_above_which_at_most_this_share_lies(harmless, most):
    assume(abs(most * len(harmless) - round(most * len(harmless))) > 1e-6 or most in (0.0, 0.05, 0.1, 0.25, 0.5, 0.9))
    line, allowed = threshold(harmless, most), most * len(harmless) + 1e-9
    assert line in harmless
    assert above(harmless, line) <= allowed
    assert all(above(harmless, other) > allowed for other in set(harmless) if other < line)


@given(SCORES, MOSTS, MOSTS, st.randoms())
def test_more_false_alarms_lower_the_threshold_and_the_order_of_runs_does_not_matter(harmless, one, other, rng):
    assert threshold(harmless, max(one, other)) <= threshold(harmless, min(one, other))
    shuffled = list(harmless)
    rng.shuffle(shuffled)
    assert threshold(shuffled, one) == threshold(harmless, one)
    assert threshold(harmless, 0.0) == max(harmless)


def test_shares_are_taken_as_they_are_written():
    hundred = list(range(100))
    for percent in range(100):
        assert above(hundred, threshold(hundred, percent / 100)) == percent
    for count in (1, 2, 5, 7):
        assert threshold(list(range(count)), math.nextafter(1.0, 0.0)) == 0
    assert threshold([3.0, 3.0, 3.0, 1.0], 0.5) == 3.0, "of equal scores all would be above"
    assert threshold([3.0, 3.0, 3.0, 1.0], 0.75) == 1.0


@pytest.mark.parametrize("harmless", [[], [math.nan], [1.0, math.inf]])
def test_a_threshold_of_nothing_is_refused(harmless):
    with pytest.raises(ValueError, match=r"A threshold needs the finite scores of at least one harmless run\.$"):
        threshold(harmless)
    with pytest.raises(ValueError, match=r"A threshold needs the finite scores"):
        quality([1.0], harmless)


@pytest.mark.parametrize("most", [-0.1, 1.0, math.nan])
def test_a_share_outside_its_range_is_refused(most):
    with pytest.raises(ValueError, match=rf"most must be a share in \[0, 1\), not {most}\.$"):
        threshold([1.0, 2.0], most)


# ---------------------------------------------------------------- the quality


def pairs(harmful, harmless):
    """The share of pairs in which the harmful run scores higher, equal scores counting half."""
    won = sum((one > other) + 0.5 * (one == other) for one in harmful for other in harmless)
    return won / (len(harmful) * len(harmless))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(alarm, "RESAMPLES", 60)


@given(SCORES, SCORES, MOSTS)
@settings(max_examples=12, deadline=None)
def test_the_quality_equals_its_definitions(harmful, harmless, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alarm, "RESAMPLES", 60)
        found = quality(harmful, harmless, most)
        turned = quality([-score for score in harmless], [-score for score in harmful], 0.0)
    assert found.auroc == pytest.approx(pairs(harmful, harmless), abs=1e-12)
    assert turned.auroc == pytest.approx(found.auroc, abs=1e-12)
    assert found.threshold == threshold(harmless, most)
    assert found.detected == rate(above(harmful, found.threshold), len(harmful))
    assert found.false_alarms == rate(above(harmless, found.threshold), len(harmless))
    assert found.interval.low - 1e-12 <= found.auroc <= found.interval.high + 1e-12
    assert 0 <= found.interval.low <= found.interval.high <= 1
    assert found.interval.confidence == alarm.CONFIDENCE


LEADING = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), SEEDS)


@given(LEADING, st.sampled_from([2, 5, 10**9]))
def test_the_area_by_ranks_equals_a_loop_over_pairs_for_each_row_of_a_leading_axis(sizes, values):
    """Few values make for many ties, which count half."""
    rows, count, others, seed = sizes
    rng = np.random.default_rng(seed)
    harmful, harmless = rng.integers(0, values, (rows, count)) / 2, rng.integers(0, values, (rows, others)) / 2
    kept = harmful.copy(), harmless.copy()
    found = alarm._area(harmful, harmless)
    assert found.shape == (rows,)
    assert found == pytest.approx([pairs(*both) for both in zip(harmful, harmless, strict=True)], abs=1e-12)
    assert alarm._area(harmful[None], harmless[None]).tolist() == [found.tolist()]
    assert float(alarm._area(harmful[0], harmless[0])) == found[0]
    assert alarm._area(harmless, harmful) == pytest.approx(1 - found, abs=1e-12)
    for now, before in zip((harmful, harmless), kept, strict=True):
        assert np.array_equal(now, before)


def test_scores_that_part_the_runs_are_certain_and_scores_that_do_not_are_a_coin(few):
    apart = quality([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])
    assert (apart.auroc, apart.interval) == (1.0, Interval(1.0, 1.0, alarm.CONFIDENCE))
    assert (apart.detected.value, apart.false_alarms.value) == (1.0, 0.0)
    same = quality([1.0] * 4, [1.0] * 6)
    assert (same.auroc, same.detected.value, same.false_alarms.value) == (0.5, 0.0, 0.0)
    assert quality([0.0, 1.0], [2.0, 3.0]).auroc == 0.0


@pytest.mark.parametrize(("harmful", "harmless"), [([2.0], [0.0, 1.0, 3.0]), ([2.0, 4.0], [1.0])])
def test_one_run_of_a_kind_says_nothing_of_the_others(harmful, harmless):
    found = quality(harmful, harmless)
    assert found.interval == Interval(0.0, 1.0, alarm.CONFIDENCE)
    assert found.auroc == pytest.approx(pairs(harmful, harmless))


def test_the_interval_is_that_of_a_bootstrap_in_which_both_kinds_are_drawn_apart(monkeypatch):
    monkeypatch.setattr(alarm, "RESAMPLES", 300)
    rng = np.random.default_rng(5)
    harmful, harmless = rng.normal(1.0, 1.0, 12), rng.normal(0.0, 1.0, 9)
    drawn = [pairs(rng.choice(harmful, 12), rng.choice(harmless, 9)) for _ in range(1500)]
    found = quality(harmful.tolist(), harmless.tolist())
    assert (found.interval.low, found.interval.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)
    assert quality(harmful.tolist(), harmless.tolist()) == found
    monkeypatch.setattr(alarm, "RESAMPLES", 60)
    many = quality(harmful.tolist() * 16, harmless.tolist() * 16).interval
    assert many.high - many.low < 0.5 * (found.interval.high - found.interval.low)


def test_without_a_harmful_run_there_is_nothing_to_detect():
    for scores in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match=r"there have to be the finite scores of at least one harmful run\.$"):
            quality(scores, [1.0])
