"""Shares and their intervals, against closed forms, slow loops and simulated coverage."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from itertools import pairwise, product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from safealign_lab.judges import LABELS
from safealign_lab.measures import (
    Interval,
    Paired,
    Rate,
    cluster_bootstrap,
    corrected,
    grouped_rate,
    harmless_rate,
    over_seeds,
    paired,
    rate,
    refusal_rate,
    refusal_share,
    shares,
    wilson,
)

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


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), min_size=2, max_size=30))
def test_a_grouped_rate_is_the_bootstraps_or_wilsons_where_all_groups_agree(rows):
    cases, groups = unzipped(rows)
    assume(len(set(groups)) > 1)
    found, plain = grouped_rate(cases, groups), rate(sum(cases), len(cases))
    drawn = cluster_bootstrap(list(map(float, cases)), groups)
    shares_of_groups = {sum(c for c, g in rows if g == group) / groups.count(group) for group in groups}
    assert (found.value, found.n, found.successes) == (plain.value, plain.n, plain.successes)
    assert (found.low, found.high) == (
        (plain.low, plain.high) if len(shares_of_groups) == 1 else (drawn.low, drawn.high)
    )


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


# --- the share that does no harm --------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=40))
def test_harmless_is_all_that_does_not_comply_and_never_below_refusal(labels):
    found = harmless_rate(labels)
    assert found == rate(sum(label != "compliance" for label in labels), len(labels))
    assert found.value >= refusal_rate(labels).value


def test_a_model_that_only_babbles_is_harmless_and_refuses_nothing():
    assert (harmless_rate(["incoherent"] * 9).value, refusal_rate(["incoherent"] * 9).value) == (1, 0)


def test_a_harmless_rate_of_nothing_or_of_strange_labels_is_told():
    with pytest.raises(ValueError, match="n = 0"):
        harmless_rate([])
    with pytest.raises(ValueError, match="no label refused"):
        harmless_rate(["refused"])


# --- two methods on the same requests ---------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60)


def sides(pairs):
    return [one for one, _ in pairs], [two for _, two in pairs]


def with_counts(gained, lost, n):
    """Two methods that differ on `gained` requests in one direction and on `lost` in the other."""
    changes = [("compliance", "refusal")] * gained + [("refusal", "compliance")] * lost
    return paired(*sides(changes + [("refusal", "refusal")] * (n - gained - lost)))


def bonett_price(gained, lost, n, confidence):
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (gained - lost) / (n + 2)
    half = z * math.sqrt((gained + lost + 2) / (n + 2) - middle**2) / math.sqrt(n + 2)
    return max(-1, middle - half), min(1, middle + half)


@given(PAIRS, st.sampled_from(LABELS), CONFIDENCES)
def test_paired_counts_what_changed_and_has_its_closed_form(pairs, label, confidence):
    found = paired(*sides(pairs), label, confidence)
    gained = len([1 for one, two in pairs if one != label and two == label])
    lost = len([1 for one, two in pairs if one == label and two != label])
    assert (found.gained, found.lost, found.n) == (gained, lost, len(pairs))
    first, second = (shares(side)[label].value for side in sides(pairs))
    assert found.difference == pytest.approx(second - first)
    assert (found.low, found.high) == pytest.approx(bonett_price(gained, lost, len(pairs), confidence))


@given(PAIRS, st.sampled_from(LABELS), CONFIDENCES)
def test_swapping_the_methods_turns_the_comparison_over(pairs, label, confidence):
    first, second = sides(pairs)
    one, other = paired(first, second, label, confidence), paired(second, first, label, confidence)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.gained, one.lost) == (other.lost, other.gained)


@given(st.lists(st.sampled_from(LABELS), min_size=1), st.sampled_from(LABELS))
def test_a_method_does_not_differ_from_itself_but_keeps_a_width(labels, label):
    found = paired(labels, labels, label)
    assert (found.difference, found.p_value, found.gained, found.lost) == (0, 1, 0, 0)
    assert found.low < 0 < found.high
    assert found.low == pytest.approx(-found.high)


@given(st.integers(0, 5), st.integers(0, 5))
def test_the_p_value_is_that_of_all_ways_the_changes_could_have_gone(gained, lost):
    ways = list(product([-1, 1], repeat=gained + lost))
    extreme = [way for way in ways if abs(sum(way)) >= abs(gained - lost)]
    assert with_counts(gained, lost, 12).p_value == pytest.approx(len(extreme) / len(ways))


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_p_value_is_twice_the_tail_of_a_fair_coin(gained, lost):
    assume(gained + lost)
    found = with_counts(gained, lost, gained + lost + 3).p_value
    assert found == pytest.approx(stats.binomtest(gained, gained + lost, 0.5).pvalue)
    assert found == pytest.approx(min(1, 2 * stats.binom.cdf(min(gained, lost), gained + lost, 0.5)))


@given(PAIRS, st.integers(1, 50), st.randoms(use_true_random=False))
def test_requests_on_which_both_agree_leave_the_p_value_alone_and_bring_the_difference_nearer_to_none(
    pairs, more, shuffler
):
    before = paired(*sides(pairs))
    pairs += [("refusal", "refusal")] * more
    shuffler.shuffle(pairs)
    after = paired(*sides(pairs))
    assert after.p_value == before.p_value
    assert abs(after.difference) <= abs(before.difference)
    if before.gained == before.lost:  # else the interval may widen first: a clear difference becomes a doubtful one
        assert after.high - after.low < before.high - before.low


def test_the_interval_holds_the_difference_and_stays_within_one():
    for n in (1, 2, 3, 7, 15, 25):
        for gained, lost in product(range(n + 1), repeat=2):
            if gained + lost <= n:
                found = with_counts(gained, lost, n)
                assert -1 <= found.low <= found.difference <= found.high <= 1
                assert found.low < found.high


@pytest.mark.parametrize(
    ("up", "down"), [(0.1, 0.1), (0.3, 0.05), (0.02, 0.02), (0.5, 0.3), (0.6, 0.0), (0.15, 0.4), (0.0, 0.9)]
)
def test_paired_covers_the_true_difference_as_often_as_it_says_summed_over_all_outcomes(up, down):
    """No simulation: every outcome of 30 requests with its multinomial probability."""
    n, covered = 30, 0.0
    for gained, lost in product(range(n + 1), repeat=2):
        if gained + lost <= n:
            found = with_counts(gained, lost, n)
            chance = stats.multinomial.pmf([gained, lost, n - gained - lost], n, [up, down, 1 - up - down])
            covered += float(chance) * (found.low <= up - down <= found.high)
    assert covered >= 0.94
    if n * (up + down) > 5:  # with hardly any change every interval is careful
        assert covered <= 0.98


def test_paired_covers_the_true_difference_of_methods_that_share_their_requests():
    rng = np.random.default_rng(0)
    covered, narrower, runs = 0, 0, 300
    for _ in range(runs):
        easy = rng.random(80)  # a request's own part, which both methods feel
        first, second = (np.where(easy < share, "refusal", "compliance").tolist() for share in (0.4, 0.5))
        for side in (first, second):
            for k in np.flatnonzero(rng.random(80) < 0.1):
                side[k] = "refusal" if rng.random() < 0.5 else "compliance"
        found = paired(first, second)
        covered += found.low <= 0.9 * 0.1 <= found.high
        apart = 2 * 1.96 * math.sqrt(sum(r.value * (1 - r.value) for r in map(refusal_rate, (first, second))) / 80)
        narrower += found.high - found.low < apart
    assert 0.92 <= covered / runs <= 0.99
    assert narrower / runs > 0.99  # than that of two separate samples


def test_a_comparison_reads_as_a_sentence_and_survives_json():
    found = with_counts(9, 1, 100)
    low, high = bonett_price(9, 1, 100, 0.95)
    assert str(found) == f"+0.08 [{low:+.2f}, {high:+.2f}], p = 0.0215, n = 100"
    assert Paired(**json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize(("first", "second"), [([], []), (["refusal"], []), (["refusal"] * 2, ["refusal"] * 3)])
def test_what_cannot_be_paired_is_told(first, second):
    with pytest.raises(ValueError, match=f"{len(first)} and {len(second)} labels: expected one of each method"):
        paired(first, second)


def test_a_strange_confidence_or_label_is_told_by_paired():
    with pytest.raises(ValueError, match="makes no interval"):
        paired(["refusal"], ["refusal"], confidence=1)
    for first, second, label in (
        (["refused"], ["refusal"], "refusal"),
        (["refusal"], ["refused"], "refusal"),
        (["refusal"], ["refusal"], "refused"),
    ):
        with pytest.raises(ValueError, match="no label refused"):
            paired(first, second, label)


# --- shares with the judge's own error --------------------------------------------------------------------------------

MANY = 10**7  # validated answers of each label: the confusion is as good as known
PERFECT = [[MANY, 0, 0], [0, MANY, 0], [0, 0, MANY]]
CONFUSED = [[0.85, 0.10, 0.05], [0.15, 0.80, 0.05], [0.05, 0.10, 0.85]]


def counted(*counts):
    return [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]


def noisy(error, validated):
    """A judge that gives either wrong label with half the error."""
    return [[round(validated * (1 - error if i == j else error / 2)) for j in range(3)] for i in range(3)]


def as_judged(true, confusion, n=10_000):
    """The labels that a judge with these error rates gives in the mean."""
    return counted(*np.rint(n * np.asarray(true) @ np.asarray(confusion)).astype(int))


def width(interval):
    return interval.high - interval.low


def middle(interval):
    return (interval.low + interval.high) / 2


@settings(max_examples=25)
@given(st.tuples(*[st.integers(0, 60)] * 3).filter(any))
def test_a_perfect_judge_leaves_the_counts_own_interval(counts):
    found = corrected(counted(*counts), PERFECT, resamples=20_000)
    for label, count in zip(LABELS, counts, strict=True):
        exact = stats.beta(count + 0.5, sum(counts) - count + 1).ppf([0.025, 0.975])  # a Dirichlet's one share
        assert (found[label].low, found[label].high) == pytest.approx(tuple(exact), abs=0.015)


@pytest.mark.parametrize("counts", [(120, 250, 30), (5, 390, 5), (200, 200, 0)])
def test_a_perfect_judge_gives_about_wilsons_interval(counts):
    found = corrected(counted(*counts), PERFECT, resamples=20_000)
    for label, raw in shares(counted(*counts)).items():
        assert (found[label].low, found[label].high) == pytest.approx((raw.low, raw.high), abs=0.008)
        assert found[label].confidence == 0.95


@settings(max_examples=25)
@given(st.floats(0.1, 0.9), st.floats(0.7, 0.99), st.floats(0.7, 0.99))
def test_two_labels_give_rogan_and_gladens_closed_form(true, sensitivity, specificity):
    sees = [[sensitivity, 1 - sensitivity, 0], [1 - specificity, specificity, 0], [0, 0, 1]]
    labels = as_judged([true, 1 - true, 0], sees, n=20_000)
    q = labels.count("refusal") / len(labels)
    found = corrected(labels, np.rint(np.array(sees) * MANY).astype(int).tolist(), resamples=4000)
    closed = (q + specificity - 1) / (sensitivity + specificity - 1)
    assert middle(found["refusal"]) == pytest.approx(closed, abs=0.004)
    assert middle(found["compliance"]) == pytest.approx(1 - closed, abs=0.004)
    slope = sensitivity + specificity - 1  # the raw interval, stretched by what the judge blurs
    raw = wilson(labels.count("refusal"), len(labels))
    assert width(found["refusal"]) == pytest.approx(width(raw) / slope, rel=0.1)


@settings(max_examples=25)
@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=3), min_size=3, max_size=3),
)
def test_a_known_judge_is_undone(true, wrong):
    p = np.array(true) / sum(true)
    sees = np.array(wrong) / 40 + np.eye(3)
    sees /= sees.sum(axis=1, keepdims=True)  # the diagonal is the largest of its row, and rows sum to 1
    found = corrected(as_judged(p, sees, 30_000), np.rint(sees * MANY).astype(int).tolist(), resamples=500)
    for share, label in zip(p, LABELS, strict=True):
        assert found[label].low - 0.002 <= share <= found[label].high + 0.002
        assert width(found[label]) < 0.05


def slow_corrected(labels, confusion, groups, confidence, seed, resamples):
    """The same draws, one resample at a time, one equation solved after the other."""
    rng = np.random.default_rng(seed)
    names = sorted(set(groups)) if groups else []
    if groups:
        drawn = [
            counted_in(labels, groups, names, row) for row in rng.integers(len(names), size=(resamples, len(names)))
        ]
    else:
        drawn = list(rng.dirichlet([labels.count(label) + 0.5 for label in LABELS], size=resamples))
    rows = [rng.dirichlet([count + 0.5 for count in row], size=resamples) for row in confusion]
    found = []
    for r in range(resamples):
        p = np.linalg.inv(np.array([rows[i][r] for i in range(3)]).T) @ np.asarray(drawn[r])
        p = [max(0.0, float(share)) for share in p]
        found.append([share / sum(p) for share in p])
    return np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T


def counted_in(labels, groups, names, row):
    kept = [label for index in row for label, group in zip(labels, groups, strict=True) if group == names[index]]
    return [kept.count(label) / len(kept) for label in LABELS]


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from("abcd")), min_size=2, max_size=20),
    st.tuples(*[st.tuples(*[st.integers(1, 30)] * 3)] * 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_corrected_is_the_slow_loop(rows, confusion, grouped, seed):
    labels, groups = unzipped(rows)
    given_groups = groups if grouped else None
    found = corrected(labels, confusion, given_groups, 0.9, seed, resamples=40)
    slow = slow_corrected(labels, confusion, given_groups, 0.9, seed, 40)
    for label, expected in zip(LABELS, slow, strict=True):
        assert [found[label].low, found[label].high] == pytest.approx(expected, abs=1e-6)
        assert 0 <= found[label].low <= found[label].high <= 1


@pytest.mark.parametrize(("true", "answers", "validated"), [((0.2, 0.7, 0.1), 300, 100), ((0.05, 0.85, 0.1), 150, 60)])
def test_corrected_covers_the_true_share_where_wilson_does_not(true, answers, validated):
    rng = np.random.default_rng(0)
    covered, naive, runs = np.zeros(3), 0, 200
    for trial in range(runs):
        people = rng.choice(3, size=answers, p=true)
        said = [LABELS[rng.choice(3, p=CONFUSED[label])] for label in people]
        measured = [rng.multinomial(validated, row).tolist() for row in CONFUSED]
        found = corrected(said, measured, seed=trial, resamples=400)
        covered += [found[label].low <= share <= found[label].high for label, share in zip(LABELS, true, strict=True)]
        raw = wilson(said.count("refusal"), answers)
        naive += raw.low <= true[0] <= raw.high
    assert 0.9 <= covered[0] / runs <= 0.99
    assert (covered / runs >= 0.9).all()
    assert naive / runs < 0.3


def test_groups_are_needed_where_requests_depend_on_each_other():
    rng = np.random.default_rng(0)
    groups = [str(k // 10) for k in range(300)]
    by_group = apart = 0
    runs = 150
    for trial in range(runs):
        refused = np.repeat(rng.beta(0.5, 0.5, size=30), 10) > rng.random(300)  # (300,), ten requests of each noun
        said = [LABELS[rng.choice(3, p=CONFUSED[0 if one else 1])] for one in refused]
        measured = [rng.multinomial(100, row).tolist() for row in CONFUSED]
        together = corrected(said, measured, groups, seed=trial, resamples=400)["refusal"]
        alone = corrected(said, measured, seed=trial, resamples=400)["refusal"]
        by_group += together.low <= 0.5 <= together.high
        apart += alone.low <= 0.5 <= alone.high
    assert 0.89 <= by_group / runs <= 0.99
    assert apart / runs < 0.8


def test_worse_judges_fewer_validated_answers_and_fewer_answers_widen_it():
    def refusal_width(error, validated, n):
        seen = as_judged([0.3, 0.5, 0.2], np.array(noisy(error, 1000)) / 1000, n)
        return width(corrected(seen, noisy(error, validated))["refusal"])

    for widths in (
        [refusal_width(error, 500, 400) for error in (0, 0.1, 0.2, 0.3, 0.4)],
        [refusal_width(0.2, validated, 400) for validated in (2000, 400, 100, 40)],
        [refusal_width(0.2, 500, n) for n in (4000, 1000, 250, 60)],
    ):
        assert all(wide > 1.05 * narrow for narrow, wide in pairwise(widths))


def test_more_confidence_widens_it_and_the_seed_decides():
    labels, confusion = counted(30, 60, 10), noisy(0.2, 100)
    found = [corrected(labels, confusion, confidence=confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
    for label in LABELS:
        assert all(a[label].low > b[label].low or b[label].low == 0 for a, b in pairwise(found))
        assert all(a[label].high < b[label].high for a, b in pairwise(found))
    assert corrected(labels, confusion) == found[2] != corrected(labels, confusion, seed=1)


def test_a_judge_that_sees_nothing_leaves_everything_open():
    found = corrected(counted(33, 33, 34), [[40, 40, 40]] * 3)
    assert all(width(interval) > 0.9 for interval in found.values())


@pytest.mark.parametrize(
    "confusion",
    [
        [[9, 1], [1, 9]],
        [[9, 1, 0], [1, 9, 0]],
        [[9, 1, 0], [1, 9, 0], [0, 0, 0]],
        [[9, 1, 0], [-1, 9, 0], [0, 0, 9]],
        [],
    ],
)
def test_a_confusion_that_says_too_little_is_told(confusion):
    with pytest.raises(ValueError, match="3 × 3 counts with at least one answer of each true label"):
        corrected(["refusal"], confusion)


@pytest.mark.parametrize(
    ("labels", "arguments", "said"),
    [
        ([], {}, "no share of"),
        (["refusal", "refused"], {}, "no label refused"),
        (["refusal", "refused"], {"groups": ["a", "b"]}, "no label refused"),
        (["refusal"], {"confidence": 1}, "makes no interval"),
        (["refusal"] * 2, {"groups": ["a"]}, "2 values and 1 groups"),
        (["refusal"] * 2, {"groups": ["a", "a"]}, "1 groups to draw from"),
        (["refusal"] * 2, {"groups": ["a", "b"], "resamples": 0}, "0 resamples"),
        (["refusal"] * 2, {"resamples": 0}, "0 resamples"),
    ],
)
def test_what_cannot_be_corrected_is_told(labels, arguments, said):
    with pytest.raises(ValueError, match=said):
        corrected(labels, PERFECT, **arguments)


# ---------------------------------------------------------------- seeds


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), CONFIDENCES)
def test_the_interval_over_seeds_is_that_of_scipys_t_test(values, confidence):
    assume(np.std(values) > 1e-6)
    found, theirs = over_seeds(values, confidence), stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)
    assert found.confidence == confidence


def test_an_interval_over_one_seed_or_of_no_confidence_is_refused():
    with pytest.raises(ValueError, match="1 seeds: an interval over seeds needs two or more"):
        over_seeds([0.5])
    with pytest.raises(ValueError, match="makes no interval"):
        over_seeds([0.5, 0.6], confidence=1.0)
