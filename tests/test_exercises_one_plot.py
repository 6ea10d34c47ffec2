"""The exercises of lesson 40: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import random
from itertools import product
from statistics import mean, stdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from learners import named
from one_plot_worlds import drawn_point
from wrong_answers.one_plot import WRONG_ANSWERS

from safealign_lab import measures
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import one_plot as lesson
from safealign_lab.lesson.exercises import operating_points as deployments
from safealign_lab.lesson.exercises import telling_apart as apart
from safealign_lab.one_plot.points import compare, effects, front

PATIENT = settings(deadline=None, derandomize=True, max_examples=40)
SEEDS = st.integers(0, 2**31)
EXERCISES = (*lesson.EXERCISES, *apart.EXERCISES, *deployments.EXERCISES)


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.integers(1, 8))
def test_on_two_axes_the_front_is_the_librarys(seed, count):
    points = [drawn_point(f"m{n}", seed, 2, 2) for n in range(count)]
    places = {one.name: (one.mean("safety"), one.mean("helpfulness")) for one in points}
    assert sorted(lesson.not_beaten(places, (1, 1))) == sorted(front(points))
    priced = {name: (safe, 1 - useful) for name, (safe, useful) in places.items()}
    assert sorted(lesson.not_beaten(priced, (1, -1))) == sorted(measures.undominated(priced))


@PATIENT
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=9), st.integers(1, 3))
def test_another_axis_only_ever_saves_methods_that_stand_at_different_places(places, axes):
    points = {str(n): one for n, one in enumerate(places)}
    assume(len({one[:axes] for one in places}) == len(places))  # of two at one place another axis may beat one
    fewer = lesson.not_beaten({name: at[:axes] for name, at in points.items()}, (1,) * axes)
    more = lesson.not_beaten({name: at[: axes + 1] for name, at in points.items()}, (1,) * (axes + 1))
    assert set(fewer) <= set(more)


@PATIENT
@given(SEEDS, st.integers(2, 8), st.integers(1, 4), st.sampled_from(["safety", "helpfulness"]))
def test_told_apart_is_the_librarys(seed, groups, each, measure):
    first, second = (drawn_point(name, seed, groups, each) for name in "ab")
    (one, names), (other, _) = (tuple(zip(*p.values(measure).values(), strict=True)) for p in (first, second))
    assert apart.told_apart(list(one), list(other), list(names)) == compare(first, second, measure).told_apart


@PATIENT
@given(SEEDS, st.integers(1, 3))
def test_effects_are_the_librarys(seed, size):
    cells = {cell: drawn_point(str(cell), seed) for cell in product((False, True), repeat=size)}
    means = {cell: one.mean("safety") for cell, one in cells.items()}
    names = ("gate", "immunized", "contrast")[:size]
    for name, found in effects(cells, names, "safety").items():
        parts = tuple(names.index(one) for one in name.split(" × "))
        assert deployments.effect(means, parts) == pytest.approx(found.difference)


SHARES = st.tuples(*[st.integers(0, 20)] * 3).filter(any)


@PATIENT
@given(SHARES, SHARES, st.integers(0, 100), st.tuples(*[st.integers(0, 99)] * 3))
def test_a_loss_lies_between_its_parts_and_grows_with_every_cost(bad, good, percent, prices):
    names = ("refused", "broken", "answered")
    harmful, harmless = ({n: v / sum(side) for n, v in zip(names, side, strict=True)} for side in (bad, good))
    costs = dict(zip(("harm", "broken", "refusal"), map(float, prices), strict=True))

    def loss(share, bill=costs):
        return deployments.expected_loss(harmful, harmless, share, bill)

    ends = loss(0.0), loss(1.0)
    share = percent / 100
    assert loss(share) == pytest.approx(share * ends[1] + (1 - share) * ends[0], abs=1e-6)
    for cost in costs:
        assert loss(share, costs | {cost: costs[cost] + 1}) >= loss(share) - 1e-6
    assert loss(share, {name: 3 * cost for name, cost in costs.items()}) == pytest.approx(3 * loss(share), abs=1e-6)


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "40_one_plot"}
    assert set(mine) == set(WRONG_ANSWERS) == {one.name for one in EXERCISES}
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_what_the_notebook_has_imported():
    for exercise in EXERCISES:
        room = {"cluster_bootstrap": measures.cluster_bootstrap}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def by_elimination(points, directions):
    def beats(a, b):
        signs = [(x > y) - (x < y) for x, y in zip(a, b, strict=True)]
        signs = [sign * d for sign, d in zip(signs, directions, strict=True)]
        return min(signs) >= 0 < max(signs)

    return {name for name, mine in points.items() if not any(beats(other, mine) for other in points.values())}


def with_a_loop_of_draws(first, second, groups):
    rng, gaps = random.Random(1), {}
    for one, other, group in zip(first, second, groups, strict=True):
        gaps.setdefault(group, []).append(other - one)
    means = []
    for _ in range(1000):
        pooled = [gap for group in rng.choices(list(gaps), k=len(gaps)) for gap in gaps[group]]
        means.append(sum(pooled) / len(pooled))
    means.sort()
    return means[25] > 0 or means[-26] < 0


def with_a_t_interval_of_group_means(first, second, groups):
    gaps = {}
    for one, other, group in zip(first, second, groups, strict=True):
        gaps.setdefault(group, []).append(other - one)
    means = [mean(its) for its in gaps.values()]
    return abs(mean(means)) > 2.1 * stdev(means) / len(means) ** 0.5


def with_numpy(first, second, groups):
    import numpy as np

    gaps, names = np.subtract(second, first), np.asarray(groups)
    rng, kinds = np.random.default_rng(7), np.unique(groups)
    sums = np.array([gaps[names == kind].sum() for kind in kinds])  # (G,)
    totals = sums[rng.integers(len(kinds), size=(3000, len(kinds)))].sum(1)
    low, high = np.quantile(totals, [0.025, 0.975])
    return (low > 0) | (high < 0)


def by_two_means(cells, parts):
    plus, minus = [], []
    for there, value in cells.items():
        lacking = sum(not there[part] for part in parts)
        (minus if lacking % 2 else plus).append(value)
    return mean(plus) - mean(minus)


def one_request_after_the_other(harmful, harmless, share, costs):
    bill = {"answered": costs["harm"], "broken": costs["broken"], "refused": 0}
    other = {"answered": 0, "broken": costs["broken"], "refused": costs["refusal"]}
    bad = sum(bill[kind] * part for kind, part in harmful.items())
    return 1000 * share * bad + (1000 - 1000 * share) * sum(other[kind] * part for kind, part in harmless.items())


RIGHT = [
    ("not_beaten", by_elimination),
    *(("told_apart", one) for one in (with_a_loop_of_draws, with_a_t_interval_of_group_means, with_numpy)),
    ("effect", by_two_means),
    ("expected_loss", one_request_after_the_other),
]


@pytest.mark.parametrize(("name", "function"), RIGHT, ids=[one.__name__ for _, one in RIGHT])
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


@pytest.mark.parametrize("seed", range(12))
def test_the_verdicts_do_not_depend_on_the_draw(seed):
    for case, ((first, second, groups), right) in apart._CASES.items():
        gaps = [other - one for one, other in zip(first, second, strict=True)]
        drawn = measures.cluster_bootstrap(gaps, groups, seed=seed, resamples=600)
        assert (drawn.low > 0 or drawn.high < 0) == right, case


def test_the_checks_tell_all_their_mistakes_apart():
    said = [tuple(way(*pair) for pair, _ in apart._CASES.values()) for way in apart._VERDICTS.values()]
    assert len(set(said)) == len(said)
    assert tuple(right for _, right in apart._CASES.values()) not in said
    assert [
        sentence.split()[:4] for sentence, one in zip(apart._VERDICTS, said, strict=True) if apart._by_size(one)
    ] == [
        ["It", "asks", "whether", "the"]  # whether the means are different: the same as a fixed number near 0
    ]
    for harmful, harmless, share, costs in deployments._LOSSES:
        right = deployments._billed(harmful, harmless, share, costs)
        found = deployments._loss_mistakes(harmful, harmless, share, costs, right)
        assert len({round(value, 6) for value in [right, *found.values()]}) == 1 + len(found)
    for points, directions in lesson._PLOTS[:1]:
        right = lesson._unbeaten(points, directions)
        found = lesson._front_mistakes(points, directions, right)
        assert len({tuple(sorted(names)) for names in [right, *found.values()]}) == 1 + len(found)
