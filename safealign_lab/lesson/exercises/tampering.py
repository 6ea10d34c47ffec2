"""The exercises of lesson 33 on attackers: when a model is broken, and the most that any attacker had gained.

Symbols: N points of a run; a run is (steps, refusals, useful), three lists of N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "33_tamper_and_alarm"
BROKEN, USEFUL = 0.5, 0.7  # refusals below the first, right answers above the second
Run = tuple[list[int], list[float], list[float]]  # steps, refusals, useful
Holds = Callable[[float, float], bool]  # refusal, useful → whether a point counts


def first_break(steps: Sequence[int], refusals: Sequence[float], useful: Sequence[float]) -> float:
    """The first step at which refusals are below 0.5 and usefulness is above 0.7; infinity where there is none.

    A model that is not useful at step 0 was ruined by its defender, and counts as broken there.
    """
    for step, refusal, use in zip(steps, refusals, useful, strict=True):
        if (step == 0 and use <= 0.7) or (refusal < 0.5 and use > 0.7):
            return step
    return math.inf


def most_gained(runs: Sequence[tuple[list[int], list[float], list[float]]], steps: Sequence[int]) -> list[float]:
    """By each of these steps the largest 1 - refusal of all runs, over their points so far whose usefulness is above 0.7.

    Where there is no such point yet, nothing is gained: 0.
    """
    gained = []
    for step in steps:
        so_far = [
            1 - refusal for run in runs for at, refusal, use in zip(*run, strict=True) if at <= step and use > 0.7
        ]
        gained.append(max(so_far, default=0.0))
    return gained


# ---------------------------------------------------------------- the first break

# what the run is, and its points: (step, refusal, useful)
_COURSES: tuple[tuple[str, tuple[tuple[int, float, float], ...]], ...] = (
    ("a run that breaks a model, which then recovers", (
        (0, 0.9, 1.0), (2, 0.7, 0.95), (4, 0.4, 0.9), (8, 0.2, 0.8), (16, 0.6, 0.85), (32, 0.1, 0.6), (64, 0.3, 0.9),
    )),
    ("a run that takes usefulness first and refusals later", (
        (0, 0.9, 0.95), (3, 0.6, 0.6), (6, 0.3, 0.4), (12, 0.0, 0.2), (24, 0.0, 0.0),
    )),
    ("a run in which usefulness comes back", (
        (0, 1.0, 0.8), (3, 0.6, 0.5), (5, 0.3, 0.4), (9, 0.45, 0.75), (17, 0.2, 0.9),
    )),
    ("a run that stands on both lines, and then below", (
        (0, 0.8, 0.9), (1, 0.5, 0.8), (2, 0.4, 0.7), (5, 0.45, 0.75), (7, 0.1, 0.9),
    )),
    ("a run that breaks nothing", ((0, 1.0, 0.9), (10, 0.8, 0.9), (20, 0.6, 0.95))),
    ("a model that is of no use when the attack begins", (
        (0, 1.0, 0.7), (1, 0.9, 0.6), (3, 0.6, 0.8), (6, 0.2, 0.9),
    )),
    ("a model that never refused", ((0, 0.0, 1.0), (1, 0.1, 0.9), (2, 0.0, 0.8))),
)  # fmt: skip


def examine_first_break(function: Function) -> str | None:
    """Compares with a walk along the points, for runs that recover, ruin, stand on the lines, or begin without use."""
    cases = []
    for told, points in _COURSES:
        columns = [list(column) for column in zip(*points, strict=True)]
        cases.append(Case(tuple(columns), _walked(points), _break_mistakes(points), told))
    return examined(function, cases, read=_as_number)


def _as_number(got: object) -> object:
    """A whole number as one with a fraction, so that a step and infinity are of one kind."""
    return float(got) if isinstance(got, int) else got


def _walked(points: Sequence[tuple[int, float, float]]) -> float:
    """The slow way: the first point that counts, or the very first one where the model has no use from the start."""
    if not points[0][2] > USEFUL:
        return float(points[0][0])
    number = 0
    while number < len(points):
        step, refusal, use = points[number]
        if refusal < BROKEN and use > USEFUL:
            return float(step)
        number += 1
    return math.inf


def _first(points: Sequence[tuple[int, float, float]], holds: Holds, ruined: bool = False) -> float:
    """The first point that a rule holds for; with `ruined` the very first one where the model has no use from the start."""
    if ruined and not points[0][2] > USEFUL:
        return float(points[0][0])
    return float(next((step for step, refusal, use in points if holds(refusal, use)), math.inf))


def _break_mistakes(points: Sequence[tuple[int, float, float]]) -> dict[str, float]:
    right, ruined = _walked(points), not points[0][2] > USEFUL
    ever = [ruined or (refusal < BROKEN and use > USEFUL) for _, refusal, use in points]
    broken = [step for (step, _, _), one in zip(points, ever, strict=True) if one]
    lasting = next((step for n, (step, _, _) in enumerate(points) if all(ever[n:])), math.inf)
    place = next((n for n, one in enumerate(ever) if one), math.inf)
    before = [step for step, _, _ in points if step < right]
    return {
        "It forgets whether the model is still of use: an attack that ruins the model has gained nothing.": _first(
            points, lambda refusal, use: refusal < BROKEN
        ),
        "It looks at usefulness alone: refusals have to be below 0.5 as well.": _first(
            points, lambda refusal, use: use > USEFUL
        ),
        "Exactly 0.5 is not below 0.5.": _first(points, lambda refusal, use: refusal <= BROKEN and use > USEFUL, True),
        "Exactly 0.7 is not above 0.7, so the model is of no use there.": _first(
            points, lambda refusal, use: refusal < BROKEN and use >= USEFUL, True
        ),
        "It counts points: return the step that stands there.": float(place),
        "It returns the last step at which the model is broken: the first is asked for.": float(
            right if ruined else max(broken, default=math.inf)
        ),
        "It asks for a break that lasts to the end: a model that was harmful for one step has been harmful.": float(lasting),
        "It returns the last step at which the model still held: return the first at which it is broken.": float(
            before[-1] if before and right < math.inf else right
        ),
        "Nobody knows how long a run that broke nothing would have gone on holding: return infinity, not its last step.": float(
            points[-1][0] if right == math.inf else right
        ),
        "A model of no use at step 0 was ruined by its defender: it counts as broken there.": _first(
            points, lambda refusal, use: refusal < BROKEN and use > USEFUL
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- the most gained

_RUNS: tuple[
    Run, ...
] = (  # a strong one that ruins the model; a weak one; one that was stopped when it had broken it; a relapse
    ([0, 1, 2, 4, 8, 16], [0.9, 0.5, 0.3, 0.1, 0.0, 0.0], [0.95, 0.9, 0.6, 0.5, 0.3, 0.2]),
    ([0, 1, 2, 4, 8, 16], [0.9, 0.6, 0.6, 0.6, 0.6, 0.55], [0.95, 1.0, 1.0, 0.9, 0.9, 0.9]),
    ([0, 1, 2, 4, 8], [0.9, 0.8, 0.7, 0.6, 0.35], [0.95, 0.9, 0.9, 0.8, 0.75]),
    ([0, 1, 2, 4, 8, 16], [0.9, 0.7, 0.45, 0.3, 0.9, 0.9], [0.95, 0.95, 0.9, 0.7, 0.6, 0.9]),
)
_SWEEPS: tuple[tuple[str, tuple[Run, ...], tuple[int, ...]], ...] = (
    ("four attackers, of whom one is stopped early and one ruins the model", _RUNS, (0, 1, 2, 4, 8, 16)),
    ("two attackers, in other places", (_RUNS[3], _RUNS[1]), (0, 1, 2, 4, 8, 16)),
    ("a model of no use until the last step", (
        ([0, 2, 6], [0.9, 0.4, 0.3], [0.6, 0.65, 0.8]), ([0, 2, 6], [0.9, 0.6, 0.2], [0.6, 0.5, 0.4]),
    ), (0, 2, 6)),
)  # fmt: skip


def examine_most_gained(function: Function) -> str | None:
    """Compares with a walk that carries the best so far; runs ruin the model, relapse, or are stopped early."""
    cases = [
        Case((list(runs), list(steps)), _carried(runs, steps), _gain_mistakes(runs, steps), told)
        for told, runs, steps in _SWEEPS
    ]
    return examined(function, cases)


def _carried(runs: Sequence[Run], steps: Sequence[int]) -> list[float]:
    """The slow way: step by step, the best so far or what one of the attackers has now."""
    best, found = 0.0, []
    for step in steps:
        for run in runs:
            for at, refusal, use in zip(*run, strict=True):
                if at == step and use > USEFUL and 1 - refusal > best:
                    best = 1 - refusal
        found.append(best)
    return found


def _over(runs: Sequence[Run], steps: Sequence[int], counts: Callable[[int, int, float], bool]) -> list[float]:
    """At each step the largest gain of the points that count: (where the point is, the step, its usefulness) → bool."""
    return [
        max((1 - r for run in runs for at, r, use in zip(*run, strict=True) if counts(at, step, use)), default=0.0)
        for step in steps
    ]


def _own(runs: Sequence[Run], steps: Sequence[int], choose: Callable[[list[float]], float]) -> list[float]:
    """Each attacker's own curve, and at each step what `choose` makes of all of them."""
    curves = [_carried([run], steps) for run in runs]
    return [choose([curve[n] for curve in curves]) for n in range(len(steps))]


def _gain_mistakes(runs: Sequence[Run], steps: Sequence[int]) -> dict[str, list[float]]:
    right = _carried(runs, steps)
    kept = [run for run in runs if min(run[2]) > USEFUL]
    ends = [_carried([run], steps)[-1] for run in runs]
    return {
        "It forgets whether the model is still of use: a point counts where that is above 0.7.": _over(
            runs, steps, lambda at, step, use: at <= step
        ),
        "It looks at each step alone, so that it can fall: what an attacker once had, they had. Take all points so far.": _over(
            runs, steps, lambda at, step, use: at == step and use > USEFUL
        ),
        "These are refusals: an attacker gains 1 - refusal.": [1 - one for one in right],
        "It takes the mean of the attackers: a defence is worth what the strongest of them leaves.": _own(
            runs, steps, lambda gains: sum(gains) / len(gains)
        ),
        "It takes the weakest attacker: a defence is worth what the strongest of them leaves.": _own(runs, steps, min),
        "It follows the one who has most at the end: at each step another attacker may be ahead.": _carried(
            [runs[ends.index(max(ends))]], steps
        ),
        "It leaves out the step itself: what is gained by a step is there at that step.": _over(
            runs, steps, lambda at, step, use: at < step and use > USEFUL
        ),
        "It throws away a whole attack that ruins the model at some time: its points before that count.": _carried(kept, steps),
        "A point at exactly 0.7 is not above 0.7, and does not count.": _over(
            runs, steps, lambda at, step, use: at <= step and use >= USEFUL
        ),
        "It looks ahead: by a step counts only what was measured up to it.": [right[-1]] * len(steps),
        "It adds the attackers up: the most of them is asked for.": _own(runs, steps, sum),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="first_break", solution=first_break, examine=examine_first_break, minutes=6, lesson=LESSON,
        hints=(
            "Go along the three lists at once. At each point there are two reasons to stop; after the last there is infinity.",
            "`for step, refusal, use in zip(steps, refusals, useful)`: return the step where `refusal < 0.5 and use > 0.7`, "
            "or where `step == 0 and use <= 0.7`; at the end `return math.inf`.",
        ),
    ),
    Exercise(
        name="most_gained", solution=most_gained, examine=examine_most_gained, minutes=8, lesson=LESSON,
        hints=(
            "For each step collect what counts: every point of every run, up to that step, where the model is still of use.",
            "`[1 - refusal for run in runs for at, refusal, use in zip(*run) if at <= step and use > 0.7]`, and the largest of "
            "them, or 0.0 where the list is empty: `max(…, default=0.0)`.",
        ),
    ),
)  # fmt: skip
