"""The exercise of lesson 40 on many methods: which of them no other beats."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..examining import Wrong, call
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "40_one_plot"
Points = Mapping[str, tuple[float, ...]]  # name → a number on each axis


def not_beaten(points: Points, directions: Sequence[int]) -> list[str]:
    """The names that no other beats: none is as good on every axis, and better on one; +1 = more is better, −1 = less is."""
    good = {name: [sign * value for sign, value in zip(directions, at, strict=True)] for name, at in points.items()}
    return [
        name
        for name, mine in good.items()
        if not any(
            all(theirs >= own for theirs, own in zip(other, mine, strict=True)) and other != mine
            for other in good.values()
        )
    ]


# ---------------------------------------------------------------- the front

# in each: a tie, one that is beaten on a single axis alone, one that is good on no axis of its own and beaten by nobody
_PLOTS: tuple[tuple[Points, tuple[int, ...]], ...] = (
    (
        {"none": (0.0, 1.0, 0.1), "gate": (0.9, 0.8, 0.3), "SP": (0.9, 0.8, 0.2), "SP, again": (0.9, 0.8, 0.2),
         "refuses all": (1.0, 0.0, 1.0), "half": (0.5, 0.8, 0.2), "middle": (0.6, 0.9, 0.15), "muddle": (0.3, 0.5, 0.05)},
        (1, 1, -1),
    ),
    (
        {"slow": (3.0, 0.7), "quick": (1.0, 0.6), "quicker": (0.5, 0.2), "lame": (2.0, 0.4), "level": (1.0, 0.5)},
        (-1, 1),
    ),
    (
        {"a": (0.2, 0.4, 2.0, 1.0), "b": (0.2, 0.4, 2.0, 3.0), "c": (0.1, 0.5, 3.0, 2.0), "d": (0.1, 0.5, 3.0, 2.0),
         "e": (0.3, 0.3, 1.0, 0.5)},
        (-1, 1, -1, 1),
    ),
)  # fmt: skip


def examine_not_beaten(function: Function) -> str | None:
    """Compares with loops over pairs and axes; the order of the names does not matter. Named is what explains all plots."""
    for points, directions in _PLOTS:
        got, right = _names(function, points, directions), _unbeaten(points, directions)
        if got != sorted(right):
            return _known(function) or _first_wrong(points, got, right)
    return None


def _known(function: Function) -> str | None:
    """The mistake that gives what the function does on all plots."""
    cases = []
    for points, directions in _PLOTS:
        right = _unbeaten(points, directions)
        mistakes = {said: sorted(names) for said, names in _front_mistakes(points, directions, right).items()}
        cases.append(Case((dict(points), directions), sorted(right), mistakes, ""))
    said = examined(function, cases, read=sorted)
    return said if said in cases[0].named else None


def _names(function: Function, points: Points, directions: Sequence[int]) -> list[str]:
    """What it returns, sorted."""
    got = call(function, dict(points), directions)
    if not isinstance(got, (list, tuple, set)):
        raise Wrong(f"Your function returned a {type(got).__name__}: make it a list of names.")
    if strangers := [one for one in got if one not in list(points)]:
        raise Wrong(
            f"It returns {strangers[0]!r} as one of the entries: the entries should be names, keys of `points`."
        )
    return sorted(got)


def _unbeaten(points: Points, directions: Sequence[int]) -> list[str]:
    kept = []
    for name, mine in points.items():
        beaten = False
        for other in points.values():
            worse, better = 0, 0
            for sign, one, two in zip(directions, mine, other, strict=True):
                worse += sign * two < sign * one
                better += sign * two > sign * one
            beaten = beaten or (better > 0 and not worse)
        if not beaten:
            kept.append(name)
    return kept


def _front_mistakes(points: Points, directions: Sequence[int], right: Sequence[str]) -> dict[str, list[str]]:
    axes = range(len(directions))
    good = {name: [directions[axis] * at[axis] for axis in axes] for name, at in points.items()}

    def _clearly(one: str, other: str) -> bool:
        return all(good[one][axis] > good[other][axis] for axis in axes)

    sums = {name: sum(at) for name, at in good.items()}
    best = [max(at[axis] for at in good.values()) for axis in axes]
    ones = [1] * len(directions)
    return {
        "No name is left. To beat takes two things at once: as good on *every* axis (better on some and worse on others is not "
        "enough), and better on one (each method is as good as itself on every axis).": [],
        "All of them stay: which does another one beat?": list(points),
        "It returns the beaten ones: a method stays if *no* other beats it.": [name for name in points if name not in right],
        "It does not look at `directions`: where they say −1, less is better.": _unbeaten(points, ones),
        "It turns every direction around: +1 says that *more* is better.": _unbeaten(points, [-sign for sign in directions]),
        "To beat, it asks for strictly better on *every* axis: as good on some and better on one is enough.": [
            name for name in points if not any(_clearly(other, name) for other in points)
        ],
        "Two methods at the same place beat each other, and both are gone: one must be better on some axis to beat another.": [
            name for name in right if list(points.values()).count(points[name]) == 1
        ],
        "It adds the axes up and keeps the best sum: how much of one axis is worth how much of another is not known here.": [
            name for name in points if sums[name] == max(sums.values())
        ],
        "It keeps the champions of each single axis: who is best nowhere can still be beaten by nobody.": [
            name for name in points if any(good[name][axis] == best[axis] for axis in axes)
        ],
        "It looks at the first two axes only: all of them count, however many there are.": _unbeaten(
            {name: at[:2] for name, at in points.items()}, directions[:2]
        ),
        "It looks at the last axis only: all of them count.": _unbeaten(
            {name: at[-1:] for name, at in points.items()}, directions[-1:]
        ),
    }  # fmt: skip


def _first_wrong(points: Points, got: Collection[str], right: Sequence[str]) -> str:
    if kept := [name for name in points if name in got and name not in right]:
        return f"It keeps {kept[0]!r} at {points[kept[0]]}, which another one beats."
    gone = [name for name in right if name not in got]
    if gone and any(points[gone[0]] == points[name] for name in got):
        return f"Of two methods at the same place it keeps one: {gone[0]!r} is gone, and no other beats it."
    return (
        f"It drops {gone[0]!r} at {points[gone[0]]}, which no other beats."
        if gone
        else "One name is there twice: each belongs there once."
    )


EXERCISES = (
    Exercise(
        name="not_beaten", solution=not_beaten, examine=examine_not_beaten, minutes=6, lesson=LESSON,
        hints=(
            "Multiply every number by its direction first: then more is better on every axis. When does `other` beat `mine`? Two "
            "conditions, one of them so that a method does not beat itself.",
            "Keep a name if `not any(all(t >= m for t, m in zip(other, mine)) and other != mine for other in good.values())`.",
        ),
    ),
)  # fmt: skip
