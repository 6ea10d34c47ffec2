"""Differences of separate samples against published examples, slow limits and exact coverage; frontiers against every pair."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from safealign_lab.measures import Difference, difference, rate, undominated

quickly = settings(max_examples=60, deadline=None, derandomize=True)
counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.5, 0.999)


def ends(found: Difference) -> tuple[float, float, float]:
    return found.value, found.low, found.high


# ---------------------------------------------------------------- two rates


@pytest.mark.parametrize(
    ("second", "first", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_the_published_examples_come_out(second, first, low, high):
    found = difference(rate(*first), rate(*second))
    assert found.value == pytest.approx(second[0] / second[1] - first[0] / first[1])
    assert (found.low, found.high) == pytest.approx((low, high), abs=5.1e-5)


def slow_limit(share: float, n: int, confidence: float, end: float) -> float:
    """The furthest true share towards an end from which this one is no further than z of its own standard errors."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    near, far = share, end
    for _ in range(80):
        middle = (near + far) / 2
        fits = abs(share - middle) <= z * math.sqrt(middle * (1 - middle) / n)
        near, far = (middle, far) if fits else (near, middle)
    return near


@quickly
@given(counts, counts, confidences)
def test_a_difference_is_that_of_limits_searched_for(first, second, confidence):
    found = difference(rate(*first, confidence), rate(*second, confidence))
    (p1, l1, u1), (p2, l2, u2) = (
        (hits / n, *(slow_limit(hits / n, n, confidence, end) for end in (0.0, 1.0))) for hits, n in (first, second)
    )
    low = p2 - p1 - math.sqrt((p2 - l2) ** 2 + (u1 - p1) ** 2)
    high = p2 - p1 + math.sqrt((u2 - p2) ** 2 + (p1 - l1) ** 2)
    assert ends(found) == pytest.approx((p2 - p1, low, high), abs=1e-7)


@quickly
@given(counts, counts, confidences)
def test_the_other_way_around_it_is_mirrored(first, second, confidence):
    one, other = rate(*first, confidence), rate(*second, confidence)
    value, low, high = ends(difference(other, one))
    assert ends(difference(one, other)) == pytest.approx((-value, -high, -low), abs=1e-12)


@quickly
@given(counts, counts, confidences)
def test_the_interval_holds_the_difference_and_stays_between_minus_1_and_1(first, second, confidence):
    found = difference(rate(*first, confidence), rate(*second, confidence))
    assert -1 - 1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12
    assert found.low < found.high


@quickly
@given(counts, counts, st.integers(2, 9), st.sampled_from([(True, False), (False, True), (True, True)]))
def test_more_cases_of_either_sample_narrow_it(first, second, times, more):
    narrow = [
        rate(hits * times, n * times) if grown else rate(hits, n)
        for (hits, n), grown in zip((first, second), more, strict=True)
    ]
    few, many = difference(rate(*first), rate(*second)), difference(*narrow)
    assert many.value == pytest.approx(few.value)
    assert many.high - many.low < few.high - few.low
    assert many.low >= few.low - 1e-9
    assert many.high <= few.high + 1e-9


@quickly
@given(counts, counts, confidences)
def test_more_confidence_widens_it(first, second, confidence):
    few, many = (difference(rate(*first, sure), rate(*second, sure)) for sure in (confidence, (1 + confidence) / 2))
    assert many.high - many.low > few.high - few.low


def test_it_holds_the_true_difference_in_about_as_many_samples_as_it_says():
    """Exactly, over all that two samples may show; on the whole, since counts are coarse, and never far off."""
    covered = []
    rates = [[rate(hits, n) for hits in range(n + 1)] for n in (24, 36)]
    found = [[difference(one, other) for other in rates[1]] for one in rates[0]]
    for p1, p2 in product((0.1, 0.25, 0.5, 0.8), (0.15, 0.4, 0.65, 0.9)):
        chances = binom.pmf(range(25), 24, p1), binom.pmf(range(37), 36, p2)
        covered.append(
            sum(
                chances[0][one] * chances[1][other]
                for one, other in product(range(25), range(37))
                if found[one][other].low <= p2 - p1 <= found[one][other].high
            )
        )
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.92


def test_a_difference_reads_as_a_signed_number_with_its_interval():
    assert str(difference(rate(48, 80), rate(56, 70))) == "+0.20 [+0.05, +0.33]"
    assert str(difference(rate(56, 70), rate(48, 80))) == "-0.20 [-0.33, -0.05]"


# ---------------------------------------------------------------- the frontier

steps = st.integers(0, 4).map(lambda step: step / 4)  # so coarse that points tie and coincide
methods = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.tuples(steps, steps), max_size=9)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    safer, cheaper = one[0] - other[0], other[1] - one[1]
    return min(safer, cheaper) >= 0 and max(safer, cheaper) > 0


@quickly
@given(methods)
@example({})
@example({"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (0.5, 0.75), "d": (0.25, 0.5)})
def test_exactly_those_are_left_that_none_of_the_others_beats(points):
    kept = undominated(points)
    assert len(kept) == len(set(kept))
    for name, point in points.items():
        assert (name in kept) != any(beats(other, point) for other in points.values())
    beaten = set(points) - set(kept)
    assert all(any(beats(points[better], points[name]) for better in kept) for name in beaten)


@quickly
@given(methods)
def test_they_stand_from_the_safest_to_the_cheapest(points):
    for column in zip(*(points[name] for name in undominated(points)), strict=True):
        assert list(column) == sorted(column, reverse=True)


def test_equal_methods_stay_together_and_one_that_is_only_as_safe_goes():
    points = {"twin": (0.9, 0.1), "worse": (0.8, 0.1), "dear": (0.9, 0.2), "again": (0.9, 0.1), "free": (0.1, 0.0)}
    assert undominated(points) == ["twin", "again", "free"]
