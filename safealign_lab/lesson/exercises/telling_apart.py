"""The exercise of lesson 40 on two methods: whether they differ by more than chance.

Symbols: N requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...measures import cluster_bootstrap
from ..examining import call
from ..exercise import Exercise, Function

LESSON = "40_one_plot"
Pair = tuple[list[float], list[float], list[str]]  # first, second, groups


def told_apart(first: Sequence[float], second: Sequence[float], groups: Sequence[str]) -> bool:
    """Whether two methods, asked the same N requests, differ by more than chance: the interval of second − first leaves 0 out."""
    differences = [other - one for one, other in zip(first, second, strict=True)]
    drawn = cluster_bootstrap(differences, groups)
    return drawn.low > 0 or drawn.high < 0


# ---------------------------------------------------------------- cases whose answer is known


def _pairs(*blocks: tuple[int, Sequence[tuple[float, float]]]) -> Pair:
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
    "all gain a little, half of them twice as much": (_pairs((6, [(0.3, 0.4)]), (6, [(0.3, 0.5)])), True),
    "one more is gained than lost, of ten": (_pairs((3, [_GAIN]), (2, [_LOSS]), (5, [_EASY])), False),
    "as many gained as lost": (_pairs((6, [_GAIN] * 4), (6, [_LOSS] * 4), (4, [_EASY] * 4)), False),
    "somewhat more gained than lost": (_pairs((9, [_GAIN]), (4, [_LOSS]), (7, [_EASY])), False),
    "hardly more gained than lost": (_pairs((31, [_GAIN]), (30, [_LOSS]), (139, [_EASY])), False),
    "all is gained about four nouns, and all is lost about two": (
        _pairs((4, [_GAIN] * 4), (2, [_LOSS] * 4)), False
    ),
    "little is gained, and nothing lost, of many requests": (_pairs((12, [_GAIN]), (138, [_HARD])), True),
    "most are lost": (_pairs((2, [_EASY] * 5), (9, [_LOSS] * 4 + [_HARD]), (2, [_HARD] * 5)), True),
    "ten gained, two lost": (_pairs((10, [_GAIN]), (2, [_LOSS]), (6, [_EASY]), (7, [_HARD])), True),
    "nearly all are gained": (_pairs((18, [_GAIN] * 3), (1, [_EASY] * 3), (1, [_HARD] * 3)), True),
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
    known = [said for said, ones in named.items() if ones == verdicts] + [_SIZE] * _by_size(verdicts)
    case, told = next(
        (case, told) for (case, (_, told)), got in zip(_CASES.items(), verdicts, strict=True) if got != told
    )
    return next(iter(known), f"In the case {case!r} it says {not told}, and {told} is right.")


def _ends(values: Sequence[float], groups: Sequence[str], width: float = 1.96) -> tuple[float, float]:
    """Mean ∓ width · standard error, by the sums of equal groups: close enough to a bootstrap for cases with room."""
    mean = sum(values) / len(values)
    sums = [
        sum(value - mean for value, one in zip(values, groups, strict=True) if one == group) for group in set(groups)
    ]
    error = sum(one**2 for one in sums) ** 0.5 / len(values)
    return mean - width * error, mean + width * error


def _by_size(verdicts: Sequence[bool]) -> bool:
    """Whether some number parts the differences called real from all others, with or without their signs."""
    means = [sum(_gaps(first, second)) / len(first) for (first, second, _), _ in _CASES.values()]
    for sizes in (means, list(map(abs, means))):
        called, others = (
            [one for one, said in zip(sizes, verdicts, strict=True) if said == told] for told in (True, False)
        )
        if called and others and min(called) > max(0.0, *others):
            return True
    return False


def _without_0(ends: tuple[float, float]) -> bool:
    return ends[0] > 0 or ends[1] < 0


def _spread(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return mean - 1.96 * deviation, mean + 1.96 * deviation


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


_SIZE = (
    "It answers as if it compared the difference of the means with a fixed number: what chance can make of it depends "
    "on how many requests there are and how much they vary. Work out an interval of the differences, and ask whether it holds 0."
)
_VERDICTS: dict[str, Callable[[Sequence[float], Sequence[float], Sequence[str]], bool]] = {
    "It always says no here, and yes is right in several cases: is 0 outside the interval of the differences?": (
        lambda a, b, g: False
    ),
    "It always says yes here: two methods nearly always differ somewhere; ask whether chance could have made the difference.": (
        lambda a, b, g: True
    ),
    "Its interval is as wide as the single differences spread: that of their mean is narrower, the more so the more there are.": (
        lambda a, b, g: _without_0(_spread(_gaps(a, b)))
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
    "Its interval is too wide, as one that holds every draw is: leave out one in forty at either end, and 95 % are left.": (
        lambda a, b, g: _without_0(_ends(_gaps(a, b), g, 3.2))
    ),
    "Its interval is too narrow, as one standard error to each side is, which misses in one case of three: for 95 % it takes "
    "about two.": (
        lambda a, b, g: _without_0(_ends(_gaps(a, b), g, 1.0))
    ),
}  # fmt: skip


EXERCISES = (
    Exercise(
        name="told_apart", solution=told_apart, examine=examine_told_apart, minutes=8, lesson=LESSON, seconds=4.0,
        hints=(
            "Three steps. One difference for each request. An interval of their mean that draws whole groups: "
            "`cluster_bootstrap`, which the start cell imports. Does it hold 0?",
            "`cluster_bootstrap(differences, groups)` gives an interval with `.low` and `.high`. They can be told apart if "
            "`low > 0 or high < 0`.",
        ),
    ),
)  # fmt: skip
