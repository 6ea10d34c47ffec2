"""The exercises of lesson 40 on comparing: which methods no other beats, and which two can be told apart.

Symbols: N requests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from ...measures import cluster_bootstrap
from ..examining import call
from ..exercise import Exercise, Function

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


def told_apart(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> bool:
    """Whether two methods, asked the same N requests, differ by more than chance: the interval of second − first leaves 0 out."""
    differences = [other - one for one, other in zip(first, second, strict=True)]
    drawn = cluster_bootstrap(differences, groups)
    return drawn.low > 0 or drawn.high < 0


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
    """Compares with loops over pairs and axes; the order of the names does not matter."""
    for points, directions in _PLOTS:
        got, right = call(function, dict(points), directions), _unbeaten(points, directions)
        if not isinstance(got, (list, tuple, set)):
            return f"Your function returned a {type(got).__name__}: make it a list of names."
        if strangers := [one for one in got if one not in list(points)]:
            return f"It returns {strangers[0]!r} as one of the entries: the entries should be names, keys of `points`."
        if sorted(got) != sorted(right):
            named = _front_mistakes(points, directions, right)
            known = (said for said, names in named.items() if sorted(names) == sorted(got))
            return next(known, _first_wrong(points, got, right))
    return None


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
        "No name is left: each method is as good as itself on every axis. To beat, it must be better on one as well.": [],
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


# ---------------------------------------------------------------- two methods on the same requests

Pair = tuple[list[float], list[float], list[str]]  # first, second, groups


def _pairs(*blocks: tuple[int, Sequence[tuple[int, int]]]) -> Pair:
    """Blocks of so many groups, each with these (first, second) answers."""
    rows = [
        (one, two, f"{place}-{number}")
        for place, (many, answers) in enumerate(blocks)
        for number in range(many)
        for one, two in answers
    ]
    return [float(one) for one, _, _ in rows], [float(two) for _, two, _ in rows], [group for *_, group in rows]


_HARD, _EASY, _GAIN, _LOSS = (0, 0), (1, 1), (0, 1), (1, 0)
# what each is → the answers, and whether the two can be told apart: with room, so that any fair draw of groups says the same
_CASES: dict[str, tuple[Pair, bool]] = {
    "most requests are hard or easy for both, and where they differ the second is better": (
        _pairs((10, [_HARD] * 3), (10, [_EASY] * 3), (10, [_GAIN, _HARD, _EASY])), True
    ),
    "nearly all that was gained is about three nouns of twelve": (
        _pairs((3, [_GAIN] * 10), (1, [_LOSS, _HARD] * 5), (8, [_HARD, _EASY] * 5)), False
    ),
    "as many gained as lost": (_pairs((6, [_GAIN] * 4), (6, [_LOSS] * 4), (4, [_EASY] * 4)), False),
    "somewhat more gained than lost": (_pairs((9, [_GAIN]), (4, [_LOSS]), (7, [_EASY])), False),
    "hardly more gained than lost": (_pairs((5, [_GAIN]), (4, [_LOSS]), (9, [_EASY])), False),
    "most are lost": (_pairs((2, [_EASY] * 5), (9, [_LOSS] * 4 + [_HARD]), (2, [_HARD] * 5)), True),
    "ten gained, two lost": (_pairs((10, [_GAIN]), (2, [_LOSS]), (6, [_EASY]), (7, [_HARD])), True),
    "nearly all are gained": (_pairs((14, [_GAIN] * 3), (3, [_EASY] * 3), (3, [_HARD] * 3)), True),
}  # fmt: skip


def examine_told_apart(function: Function) -> str | None:
    """Asks for verdicts that every fair draw of whole groups gives: each case is known by its exact construction."""
    verdicts = []
    for (first, second, groups), _ in _CASES.values():
        got = call(function, list(first), list(second), list(groups))
        if hasattr(got, "item"):
            got = got.item()
        if not isinstance(got, bool):
            return (
                f"Your function returned a {type(got).__name__}: say True where the two can be told apart, else False."
            )
        verdicts.append(got)
    right = [told for _, told in _CASES.values()]
    if verdicts == right:
        return None
    named = {said: [way(*pair) for pair, _ in _CASES.values()] for said, way in _VERDICTS.items()}
    known = (said for said, ones in named.items() if ones == verdicts)
    case, told = next(
        (case, told) for (case, (_, told)), got in zip(_CASES.items(), verdicts, strict=True) if got != told
    )
    return next(known, f"In the case {case!r} it says {not told}, and {told} is right.")


def _ends(values: Sequence[float], groups: Sequence[str], width: float = 1.96) -> tuple[float, float]:
    """Mean ∓ width · standard error, by the sums of equal groups: close enough to a bootstrap for cases with room."""
    mean = sum(values) / len(values)
    sums = [
        sum(value - mean for value, one in zip(values, groups, strict=True) if one == group) for group in set(groups)
    ]
    error = sum(one**2 for one in sums) ** 0.5 / len(values)
    return mean - width * error, mean + width * error


def _without_0(ends: tuple[float, float]) -> bool:
    return ends[0] > 0 or ends[1] < 0


def _gaps(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [two - one for one, two in zip(first, second, strict=True)]


def _alone(values: Sequence[float]) -> list[str]:
    return [str(number) for number in range(len(values))]


def _apart_in_full(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[1] < other[0] or other[1] < one[0]


def _unpaired(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> bool:
    (low, high), (down, up) = _ends(first, groups), _ends(second, groups)
    error = (((high - low) / 2) ** 2 + ((up - down) / 2) ** 2) ** 0.5
    gap = (down + up - low - high) / 2
    return _without_0((gap - error, gap + error))


_VERDICTS: dict[str, Callable[[Sequence[float], Sequence[float], Sequence[str]], bool]] = {
    "It always says the same: work out the interval of the differences first.": lambda a, b, g: False,
    "It always says yes: two methods nearly always have different means; ask whether chance could have made the difference.": (
        lambda a, b, g: True
    ),
    "It asks whether the means of the two are different, and nearly always they are: could chance have made the difference?": (
        lambda a, b, g: sum(a) != sum(b)
    ),
    "It asks whether two separate intervals overlap. They share the requests: what is hard for both widens either interval, and "
    "cancels in the difference. Subtract request by request first.": lambda a, b, g: _apart_in_full(_ends(a, g), _ends(b, g)),
    "It does not pair: each method is drawn by itself. Both had the same requests, so subtract request by request, then draw.": (
        _unpaired
    ),
    "It draws single requests, as if those about one noun were independent: draw whole groups.": (
        lambda a, b, g: _without_0(_ends(_gaps(a, b), _alone(a)))
    ),
    "It sees a gain only: the second may also be worse, with the whole interval below 0.": (
        lambda a, b, g: _ends(_gaps(a, b), g)[0] > 0
    ),
    "It sees a loss only: the second may also be better, with the whole interval above 0.": (
        lambda a, b, g: _ends(_gaps(a, b), g)[1] < 0
    ),
    "It is turned around: they can be told apart where the interval does *not* hold 0.": (
        lambda a, b, g: not _without_0(_ends(_gaps(a, b), g))
    ),
    "Its interval holds every draw: leave out one in forty at either end, and 95 % are left.": (
        lambda a, b, g: _without_0(_ends(_gaps(a, b), g, 3.2))
    ),
    "Its interval is one standard error to each side, which misses in one case of three: for 95 % it takes about two.": (
        lambda a, b, g: _without_0(_ends(_gaps(a, b), g, 1.0))
    ),
}  # fmt: skip


EXERCISES = (
    Exercise(
        name="not_beaten", solution=not_beaten, examine=examine_not_beaten, minutes=6, lesson=LESSON,
        hints=(
            "Multiply every number by its direction first: then more is better on every axis. When does `other` beat `mine`? Two "
            "conditions, one of them so that a method does not beat itself.",
            "Keep a name if `not any(all(t >= m for t, m in zip(other, mine)) and other != mine for other in good.values())`.",
        ),
    ),
    Exercise(
        name="told_apart", solution=told_apart, examine=examine_told_apart, minutes=8, lesson=LESSON,
        hints=(
            "Three steps. One difference for each request. An interval of their mean that draws whole groups. Does it hold 0?",
            "`safealign_lab.measures.cluster_bootstrap(differences, groups)` gives an interval with `.low` and `.high`. They "
            "can be told apart if `low > 0 or high < 0`.",
        ),
    ),
)  # fmt: skip
