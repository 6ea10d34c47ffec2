"""The exercises of lesson 42: what they teach is what the ledger computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import named
from scipy.stats import t, ttest_rel
from wrong_answers.ledger import WRONG_ANSWERS

from safealign_lab.lesson import ledger
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import ledger as lesson

PATIENT = settings(deadline=None, derandomize=True, max_examples=60)
SHARES = st.floats(0, 1, allow_nan=False).map(lambda x: round(x, 3))
PAIRS = st.lists(st.tuples(SHARES, SHARES), min_size=2, max_size=8)


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "42_what_the_papers_say"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


@PATIENT
@given(PAIRS)
def test_the_interval_over_seeds_is_the_ledgers_and_that_of_the_paired_t_test(pairs):
    first, second = ([one[side] for one in pairs] for side in (0, 1))
    quantile = float(t.ppf(0.975, len(pairs) - 1))
    mean, low, high = lesson.seed_interval(first, second, quantile)
    gaps = [two - one for one, two in pairs]
    library = ledger.over_seeds(gaps)
    assert (low, high) == pytest.approx((library.low, library.high), abs=1e-12)
    assert mean == pytest.approx(statistics.fmean(gaps), abs=1e-12)
    if statistics.stdev(gaps) > 1e-9:
        scipys = ttest_rel(second, first).confidence_interval(0.95)
        assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-9)


def by_torch(first, second, quantile):
    gaps = torch.tensor(second, dtype=torch.float64) - torch.tensor(first, dtype=torch.float64)
    half = quantile * gaps.std() / math.sqrt(len(gaps))
    return float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half)


def by_statistics(first, second, quantile):
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    half = quantile * statistics.stdev(gaps) / len(gaps) ** 0.5
    return [statistics.mean(gaps), statistics.mean(gaps) - half, statistics.mean(gaps) + half]


def by_cases(low, high, side, bound):
    if side == "above":
        return "holds" if low > bound else "does not hold" if high <= bound else "cannot be told"
    if side == "below":
        return "holds" if high < bound else "does not hold" if low >= bound else "cannot be told"
    above, below = by_cases(low, high, "above", -bound), by_cases(low, high, "below", bound)
    return (
        above
        if above == below == "holds"
        else "does not hold"
        if "does not hold" in (above, below)
        else "cannot be told"
    )


RIGHT = [("seed_interval", by_torch), ("seed_interval", by_statistics), ("verdict", by_cases)]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_a_solution_needs_nothing_but_itself():
    for exercise in lesson.EXERCISES:
        room = {}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def test_the_checks_meet_every_verdict_for_every_side_and_ends_on_the_bound():
    for side in ("above", "below", "within"):
        said = [lesson._asked(*case) for case in lesson._CASES if case[2] == side]
        assert set(said) == {"holds", "does not hold", "cannot be told"}
    assert any(low == bound for low, _, _, bound in lesson._CASES)
    assert any(high == -bound for _, high, side, bound in lesson._CASES if side == "within")
    assert any(abs(first[0] - first[1]) > 0.1 for first, _, _ in lesson._RUNS)  # pairing matters
