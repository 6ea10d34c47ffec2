"""The exercises of lesson 22 on comparing methods: which of them no other beats, and how far a difference can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import NormalDist

from ...measures import Rate, rate, undominated
from ..examining import Wrong, call, expect
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "22_acd_measured"
Points = Mapping[str, tuple[float, float]]  # name → (safety, price)


def difference(first: Rate, second: Rate) -> tuple[float, float, float]:
    """(d, low, high): the second share minus the first, and its interval by Newcombe's method 10."""
    d = second.value - first.value
    down = ((second.value - second.low) ** 2 + (first.high - first.value) ** 2) ** 0.5
    up = ((second.high - second.value) ** 2 + (first.value - first.low) ** 2) ** 0.5
    return d, d - down, d + up


# ---------------------------------------------------------------- the frontier

_POINTS: tuple[Points, ...] = (
    {
        "keeper": (0.9, 0.25), "none": (0.2, 0.05), "S": (0.9, 0.2), "rogue": (0.1, 0.3), "refuses all": (1.0, 1.0),
        "S, again": (0.9, 0.2), "filter": (0.7, 0.2), "S - 0.2 A": (0.95, 0.3),
    },
    {"filter": (0.5, 0.1), "S": (0.9, 0.0), "keeper": (0.9, 0.3)},
    {"S": (0.6, 0.2), "S - 0.4 A": (0.8, 0.5), "none": (0.1, 0.1), "S - 0.2 A": (0.7, 0.3)},
)  # fmt: skip


_NOTHING = (
    "Nothing is left of several methods, or only one that is best in both: a method is beaten by one that is at least as good in "
    "*both* and better in one. Each is as good as itself, and most are better than another in one alone."
)


def examine_undominated(function: Function) -> str | None:
    """Compares with one sweep from the safest method to the least safe; methods at one point may stand in either order."""
    for points in _POINTS:
        got, right = _names(function, points), _swept(points)
        if sorted(got) != sorted(right):
            return _known(function) or _first(points, got, right)
        if [points[name] for name in got] != [points[name] for name in right]:
            return "The names are right and their order is not: the safest comes first, the cheapest last."
    return None


def _known(function: Function) -> str | None:
    """The mistake that gives what the function does at all points."""
    cases = []
    for points in _POINTS:
        right = _swept(points)
        mistakes = {said: sorted(names) for said, names in _frontier_mistakes(points, right).items()}
        cases.append(Case((dict(points),), sorted(right), mistakes, "", {_NOTHING: []}))
    said = examined(function, cases, read=sorted)
    return said if said in (*cases[0].named, _NOTHING) else None


def _names(function: Function, points: Points) -> list[str]:
    got = call(function, dict(points))
    if not isinstance(got, (list, tuple)):
        raise Wrong(
            f"Your function returned a {type(got).__name__}: make it a list of names, from the safest to the cheapest."
        )
    if strangers := [one for one in got if one not in list(points)]:
        raise Wrong(f"It returns {strangers[0]!r} as one of the entries: expected names only, the keys of `points`.")
    return list(got)


def _swept(points: Points) -> list[str]:
    kept: list[str] = []
    for name in sorted(points, key=lambda name: (-points[name][0], points[name][1])):
        if not kept or points[name][1] < points[kept[-1]][1] or points[name] == points[kept[-1]]:
            kept.append(name)
    return kept


def _frontier_mistakes(points: Points, right: Sequence[str]) -> dict[str, list[str]]:
    def _unbeaten(safer: int, cheaper: int) -> list[str]:
        # by the direction of each: 1 as it should be, -1 turned around
        turned = {name: (safer * safety, cheaper * cost) for name, (safety, cost) in points.items()}
        return _swept(turned)

    def _beats(one: str, other: str) -> bool:
        (s, p), (safety, cost) = points[one], points[other]
        return s >= safety and p <= cost and (s, p) != (safety, cost)

    return {
        "It keeps every method: which of them is beaten, in both, by another?": list(points),
        "It keeps those that are beaten: a method stays if *no* other beats it.": [name for name in points if name not in right],
        "It keeps the methods that beat some other: they may be beaten themselves. Ask whether any other beats this one.": [
            name for name in points if any(_beats(name, other) for other in points)
        ],
        "To be beaten it asks for *strictly* better in both: as safe and cheaper is enough, and so is safer at the same price.": [
            name for name in points if not any(s > points[name][0] and p < points[name][1] for s, p in points.values())
        ],
        "Two methods at the same point beat each other and both are gone: one must be better in something to beat another.": [
            name for name in right if list(points.values()).count(points[name]) == 1
        ],
        "It takes a high price for a good one: a *lower* price is better.": _unbeaten(1, -1),
        "It takes a low safety for a good one: *more* safety is better.": _unbeaten(-1, 1),
        "Both directions are turned around: the first number is the safety, where more is better, the second the price.": (
            _unbeaten(-1, -1)
        ),
    }  # fmt: skip


def _first(points: Points, got: Sequence[str], right: Sequence[str]) -> str:
    # what is wrong with the first name that is wrongly kept or gone
    if len(got) == 1 < len(right):
        return (
            f"It keeps {got[0]!r} alone, by one number for each method: how much safety a price is worth is not known here. "
            "Keep every method that no other beats in both."
        )
    if kept := [name for name in got if name not in right]:
        s, p = points[kept[0]]
        better = next(name for name in right if points[name][0] >= s and points[name][1] <= p)
        return f"It keeps {kept[0]!r} at {s, p}, which {better!r} at {points[better]} beats."
    if gone := [name for name in right if name not in got]:
        if any(points[gone[0]] == points[name] for name in got):
            return f"Of two methods at the same point it keeps one: {gone[0]!r} is gone, and no other beats it."
        return f"It drops {gone[0]!r} at {points[gone[0]]}, which no other beats."
    return "It names a method twice: each once."


# ---------------------------------------------------------------- the difference

_COUNTS = (((12, 60), (33, 80)), ((45, 50), (60, 120)), ((0, 30), (6, 40)), ((30, 30), (70, 70)))  # of how many


def examine_difference(function: Function) -> str | None:
    """Compares with the form that has the Wilson limits' variances in it; shares of 0 and of 1 are among them."""
    z = NormalDist().inv_cdf(0.975)
    for counts in _COUNTS:
        first, second = (rate(*one) for one in counts)
        d = second.value - first.value
        low = d - z * sqrt(_variance(second.low, second.n) + _variance(first.high, first.n))
        high = d + z * sqrt(_variance(second.high, second.n) + _variance(first.low, first.n))
        got = call(function, first, second)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            return "Return three numbers, with commas between them: the difference, and its interval's lower and upper end."
        given = f"a first share of {counts[0][0]} in {counts[0][1]} and a second of {counts[1][0]} in {counts[1][1]}"
        said = expect(tuple(got), (d, low, high), _difference_mistakes(first, second, (d, low, high), z), given=given)
        if said:
            return said
    return None


def _variance(share: float, n: int) -> float:
    return share * (1 - share) / n


def _difference_mistakes(
    first: Rate, second: Rate, right: tuple[float, float, float], z: float
) -> dict[str, tuple[float, ...]]:
    (d, low, high), below, above = right, second.value - second.low, second.high - second.value
    first_below, first_above = first.value - first.low, first.high - first.value
    one, other = (first.high - first.low) / 2, (second.high - second.low) / 2
    pooled = (first.successes + second.successes) / (first.n + second.n)
    plain = z * sqrt(_variance(first.value, first.n) + _variance(second.value, second.n))
    under_one = z * sqrt(_variance(pooled, first.n) + _variance(pooled, second.n))
    down, up = d - low, high - d
    return {
        "It subtracts the second share from the first: it is the second minus the first.": (-d, -high, -low),
        "The interval is right and the difference has the other sign: the second share minus the first.": (
            -d, low, high
        ),
        "The distances to both sides are right, and they start from a difference with the wrong sign: second minus first.": (
            -d, -d - down, -d + up
        ),
        "It pairs the wrong limits: the difference is lowest where the second share is low and the first one *high*.": (
            d, d - sqrt(below**2 + first_below**2), d + sqrt(above**2 + first_above**2)
        ),
        "The two distances are swapped: below d goes the one with the second share's *lower* limit.": (
            d, d - up, d + down
        ),
        "It subtracts limit from limit, as if both shares were at their worst at once: too wide. Add the squares of the "
        "distances, and take the root.": (d, second.low - first.high, second.high - first.low),
        "It subtracts lower from lower and upper from upper limit, as if the errors of the two shares cancelled: they add up.": (
            d, second.low - first.low, second.high - first.high
        ),
        "It takes half of each interval's width: Wilson's limits do not lie evenly around the share, so take the distances.": (
            d, d - sqrt(one**2 + other**2), d + sqrt(one**2 + other**2)
        ),
        "It adds half of each width: squares add up, not distances, and Wilson's limits do not lie evenly around the share.": (
            d, d - one - other, d + one + other
        ),
        "The root is missing: it adds squares, and distances come out of their root.": (d, d - down**2, d + up**2),
        "The squares under the root are missing.": (d, d - sqrt(below + first_above), d + sqrt(above + first_below)),
        "That is the textbook's interval, from shares and n alone, with no width at shares of 0 and 1: use the Wilson limits.": (
            d, d - plain, d + plain
        ),
        "It pools the two samples as if their shares were the same: use the Wilson limits of each.": (
            d, d - under_one, d + under_one
        ),
        "It returns how far the interval goes to each side: take the one off d, and add the other to it.": (d, down, up),
        "The order is another one: the difference first, then the lower end, then the upper.": (low, d, high),
        "The ends of the interval are swapped: the lower one comes before the upper.": (d, high, low),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="undominated", solution=undominated, examine=examine_undominated, minutes=6, lesson=LESSON,
        hints=(
            "Write down when (s, p) beats (safety, price): three conditions, one of them so that a method cannot beat itself.",
            "Keep a name if `not any(s >= safety and p <= price and (s, p) != (safety, price) for s, p in points.values())`; "
            "then `sorted(…, reverse=True)` by the safety.",
        ),
    ),
    Exercise(
        name="difference", solution=difference, examine=examine_difference, minutes=6, lesson=LESSON,
        hints=(
            "How low can p₂ − p₁ be? Where p₂ is low and p₁ high: those two limits belong below d, the other two above it.",
            "Below: √((p₂ − l₂)² + (u₁ − p₁)²). Above: √((u₂ − p₂)² + (p₁ − l₁)²). The first is taken off d, the second added.",
        ),
    ),
)  # fmt: skip
