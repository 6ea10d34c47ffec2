"""Shares and their intervals, against closed forms, slow loops and simulated coverage."""

from __future__ import annotations

import json
import math
import random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from safealign_lab.judges import LABELS
from safealign_lab.measures import Interval, Rate, cluster_bootstrap, rate, refusal_rate, refusal_share, shares, wilson

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCES = st.floats(0.5, 0.999)


def closed_form(successes: int, n: int, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@given(COUNTS, CONFIDENCES)
def test_wilson_is_its_closed_form(counts, confidence):
    found = wilson(*counts, confidence)
    assert (found.low, found.high) == pytest.approx(closed_form(*counts, confidence), abs=1e-9)
    assert found.confidence == confidence


@given(COUNTS, CONFIDENCES)
def test_wilson_holds_the_share_and_stays_between_0_and_1(counts, confidence):
    found = wilson(*counts, confidence)
    assert 0 <= found.low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= found.high <= 1
    assert found.low < found.high


@given(COUNTS, CONFIDENCES)
def test_counting_failures_mirrors_the_interval(counts, confidence):
    successes, n = counts
    one, other = wilson(successes, n, confidence), wilson(n - successes, n, confidence)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)


@given(COUNTS, st.integers(2, 9), CONFIDENCES)
def test_more_cases_of_the_same_share_narrow_it_and_more_confidence_widens_it(counts, times, confidence):
    successes, n = counts
    few, many = wilson(successes, n, confidence), wilson(times * successes, times * n, confidence)
    assert many.high - many.low < few.high - few.low
    sure = wilson(successes, n, (1 + confidence) / 2)
    assert sure.high - sure.low > few.high - few.low


@pytest.mark.parametrize(
    ("successes", "n", "said"), [(0, 0, "n = 0"), (-1, 5, "-1 successes"), (6, 5, "6 successes of 5")]
)
@pytest.mark.parametrize("function", [wilson, rate])
def test_impossible_counts_are_told(function, successes, n, said):
    with pytest.raises(ValueError, match=said):
        function(successes, n)


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.1, float("nan")])
def test_an_impossible_confidence_is_told(confidence):
    with pytest.raises(ValueError, match="makes no interval"):
        wilson(1, 2, confidence)
    with pytest.raises(ValueError, match="makes no interval"):
        cluster_bootstrap([0, 1], ["a", "b"], confidence)


def test_a_rate_reads_as_a_sentence():
    low, high = closed_form(20, 150, 0.95)
    assert str(rate(20, 150)) == f"0.13 [{low:.2f}, {high:.2f}], n = 150" == "0.13 [0.09, 0.20], n = 150"


@given(COUNTS)
def test_a_rate_survives_json(counts):
    found = rate(*counts)
    assert Rate(**json.loads(json.dumps(found.to_json()))) == found
    assert (found.successes, found.n, found.value) == (*counts, counts[0] / counts[1])


def test_a_rate_of_numpy_counts_survives_json_too():
    found = rate(np.int64(3), np.int64(8))
    assert json.loads(json.dumps(found.to_json())) == rate(3, 8).to_json()


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=40))
def test_shares_count_every_label_and_sum_to_1(labels):
    found = shares(labels)
    assert list(found) == list(LABELS)
    for label, share in found.items():
        assert (share.successes, share.n) == (sum(one == label for one in labels), len(labels))
    assert sum(share.value for share in found.values()) == pytest.approx(1)
    assert refusal_rate(labels) == found["refusal"]


def test_no_labels_and_strange_labels_are_told():
    with pytest.raises(ValueError, match="n = 0"):
        refusal_rate([])
    with pytest.raises(ValueError, match="no label refused: expected refusal, compliance, incoherent"):
        shares(["refusal", "refused"])


# --- the bootstrap by group -------------------------------------------------------------------------------------------

GROUPED = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from("abcd")), min_size=2, max_size=20)


def unzipped(rows):
    assume(len({group for _, group in rows}) > 1)
    return [value for value, _ in rows], [group for _, group in rows]


def slow_bootstrap(values, groups, confidence, seed, resamples):
    """The same draws, one resample and one group at a time."""
    names = sorted(set(groups))
    rng = np.random.default_rng(seed)
    means = []
    for row in rng.integers(len(names), size=(resamples, len(names))):
        kept = []
        for index in row:
            kept += [value for value, group in zip(values, groups, strict=True) if group == names[index]]
        means.append(sum(kept) / len(kept))
    return np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])


@given(GROUPED, st.integers(0, 99))
def test_it_is_the_slow_loop(rows, seed):
    values, groups = unzipped(rows)
    found = cluster_bootstrap(values, groups, 0.9, seed, resamples=50)
    assert [found.low, found.high] == pytest.approx(slow_bootstrap(values, groups, 0.9, seed, 50))


@given(GROUPED, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing_and_the_seed_decides(rows, shuffler):
    values, groups = unzipped(rows)
    found = cluster_bootstrap(values, groups, resamples=50)
    shuffler.shuffle(rows)
    again = cluster_bootstrap(*unzipped(rows), resamples=50)
    assert (again.low, again.high) == pytest.approx((found.low, found.high))
    assert cluster_bootstrap(values, groups, resamples=50) == found
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12


def test_another_seed_draws_otherwise():
    values, groups = list(range(30)), [f"g{i % 10}" for i in range(30)]
    assert cluster_bootstrap(values, groups, seed=1) != cluster_bootstrap(values, groups, seed=2)


def test_requests_that_share_a_noun_count_less_than_independent_ones():
    nouns = [f"noun {i // 10}" for i in range(200)]
    values = [float(i // 10 % 2) for i in range(200)]  # ten requests of a noun agree
    together, apart = cluster_bootstrap(values, nouns), cluster_bootstrap(values, [str(i) for i in range(200)])
    independent = wilson(100, 200)
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    assert apart.high - apart.low == pytest.approx(independent.high - independent.low, rel=0.15)


def test_it_covers_the_true_mean_about_as_often_as_it_says_where_wilson_does_not():
    rng = random.Random(0)
    covered = naive = 0
    for trial in range(200):
        means = [rng.betavariate(1, 1) for _ in range(40)]
        values = [float(rng.random() < mean) for mean in means for _ in range(10)]
        groups = [str(i // 10) for i in range(400)]
        by_group = cluster_bootstrap(values, groups, seed=trial, resamples=400)
        plain = wilson(int(sum(values)), 400)
        covered += by_group.low <= 0.5 <= by_group.high
        naive += plain.low <= 0.5 <= plain.high
    assert 0.89 <= covered / 200 <= 0.985
    assert naive / 200 < 0.8


def test_no_width_where_all_groups_agree():
    assert cluster_bootstrap([1, 1, 1], ["a", "b", "c"]) == Interval(1.0, 1.0, 0.95)


@pytest.mark.parametrize(
    ("values", "groups", "resamples", "said"),
    [
        ([1, 0], ["a"], 10, "2 values and 1 groups"),
        ([], [], 10, "0 groups to draw from"),
        ([1, 0], ["a", "a"], 10, "1 groups to draw from"),
        ([1, float("nan")], ["a", "b"], 10, "not finite"),
        ([1, 0], ["a", "b"], 0, "0 resamples"),
    ],
)
def test_what_cannot_be_resampled_is_told(values, groups, resamples, said):
    with pytest.raises(ValueError, match=said):
        cluster_bootstrap(values, groups, resamples=resamples)


@given(st.lists(st.sampled_from(LABELS), min_size=1))
def test_the_refusal_share_is_the_value_of_the_refusal_rate(labels):
    assert refusal_share(labels) == refusal_rate(labels).value


def test_no_answers_have_no_share():
    with pytest.raises(ValueError, match="no share of no answers"):
        refusal_share([])
