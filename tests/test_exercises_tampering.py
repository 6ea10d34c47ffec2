"""The exercises of lesson 33: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math
import random
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from wrong_answers.tampering import WRONG_ANSWERS

from safealign_lab.immunization import alarm as library
from safealign_lab.immunization.canaries import select
from safealign_lab.immunization.tampering import Attack, Point, cumulative, steps_to_break
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import alarm, tampering

PATIENT = settings(deadline=None, derandomize=True, max_examples=60)
SEEDS = st.integers(0, 2**31)
SHARES = st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 1.0])
COURSES = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=7)


def run_of(course):
    steps = [number * number for number in range(len(course))]
    return steps, [refusal for refusal, _ in course], [use for _, use in course]


def points_of(run):
    return [Point(s, {"refusal": r, "useful": u}) for s, r, u in zip(*run, strict=True)]


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(COURSES)
def test_the_first_break_is_the_librarys(course):
    run = run_of(course)
    assert tampering.first_break(*run) == steps_to_break(points_of(run))


@PATIENT
@given(st.lists(COURSES, min_size=1, max_size=4))
def test_the_most_gained_is_the_librarys(courses):
    runs = [run_of(course) for course in courses]
    known = cumulative({Attack("mixed", 1.0, seed=number): points_of(run) for number, run in enumerate(runs)})
    found = tampering.most_gained(runs, list(known))
    assert found == list(known.values())
    assert found == list(accumulate(found, max))  # it never falls


@PATIENT
@given(SEEDS, st.sampled_from([0.05, 0.3, 1.0]))
def test_the_share_and_the_cosine_are_the_librarys(seed, fraction):
    shapes = ((3, 4), (5,), (2,))
    delta, gradient = (
        {str(n): drawn(seed + base + n, *shape).float() for n, shape in enumerate(shapes)} for base in (0, 7)
    )
    canaries = select({name: one.abs() for name, one in gradient.items()}, fraction)
    masks = [canaries.mask(name) for name in delta]
    share = alarm.share_of_drift(list(delta.values()), masks)
    assert share == pytest.approx(library.share(delta, canaries))
    assert alarm.drift_cosine([*delta.values()], [*gradient.values()]) == pytest.approx(library.cosine(delta, gradient))
    still = [torch.zeros_like(one) for one in delta.values()]
    assert alarm.share_of_drift(still, masks) == alarm.drift_cosine(still, [*gradient.values()]) == 0.0


@PATIENT
@given(SEEDS, st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.1, 0.29, 0.5]))
def test_the_line_is_the_librarys(seed, count, most):
    rng = random.Random(seed)
    harmful, calibration, fresh = ([rng.randint(0, 9) / 4 for _ in range(n)] for n in (7, count, 11))
    line, detected, alarms = alarm.alarm_rates(harmful, calibration, fresh, most)
    quality = library.quality(harmful, calibration, most)
    assert (line, detected) == (quality.threshold, quality.detected.value)
    assert alarms == sum(score > line for score in fresh) / len(fresh)


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "33_tamper_and_alarm"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch_and_math():
    for exercise in tampering.EXERCISES + alarm.EXERCISES:
        room = {"torch": torch, "math": math}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def walks_with_an_index(steps, refusals, useful):
    if useful[0] <= 0.7:
        return steps[0]
    for n in range(len(steps)):
        if useful[n] > 0.7 and refusals[n] < 0.5:
            return float(steps[n])
    return float("inf")


def carries_the_best(runs, steps):
    points = sorted((s, 1 - r) for run in runs for s, r, u in zip(*run, strict=True) if u > 0.7)
    return tuple(max([0.0, *(gain for s, gain in points if s <= step)]) for step in steps)


def share_of_one_vector(delta, masks):
    long = torch.cat([d.flatten() for d in delta]).double()
    mask = torch.cat([m.flatten() for m in masks])
    return (long[mask].norm() ** 2 / long.norm() ** 2).item() if long.any() else 0.0


def cosine_of_torch(delta, gradient):
    one, other = (torch.cat([t.flatten() for t in side]) for side in (delta, gradient))
    return torch.nn.functional.cosine_similarity(one, other, dim=0).item()  # its ε makes 0 of no change


def line_by_trial(harmful, calibration, fresh, most):
    allowed = round(most * len(calibration), 9)
    line = min(c for c in calibration if sum(d > c for d in calibration) <= allowed)
    return [line, *(sum(s > line for s in side) / len(side) for side in (harmful, fresh))]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("first_break", walks_with_an_index),
        ("most_gained", carries_the_best),
        ("share_of_drift", share_of_one_vector),
        ("drift_cosine", cosine_of_torch),
        ("alarm_rates", line_by_trial),
    ],
)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_a_mistake_without_a_name_is_shown_where_it_differs():
    assert "For a run that breaks a model, which then recovers: It gives 7, not 4." in verdict(
        named(lambda steps, refusals, useful: 7, "first_break")
    )
    assert "It gives" in verdict(named(lambda delta, masks: 0.123, "share_of_drift"))


@pytest.mark.parametrize(
    "examine_of",
    [
        lambda: [tampering._break_mistakes(points) for _, points in tampering._COURSES],
        lambda: [tampering._gain_mistakes(runs, steps) for _, runs, steps in tampering._SWEEPS],
        lambda: [
            alarm._share_mistakes(alarm._change(seed, sizes), alarm._masks(seed, sizes))
            for seed, sizes in ((0, (5, 12, 7)), (1, (3, 20, 6)))
        ],
        lambda: [alarm._line_mistakes(*alarm._scores(seed, counts), most) for seed, *counts, most in alarm._DRAWS],
    ],
)
def test_no_two_mistakes_give_the_same_over_all_inputs(examine_of):
    cases = examine_of()
    found = [str([case[sentence] for case in cases]) for sentence in cases[0]]
    assert len(set(found)) == len(found)
