"""The exercise of lesson 22 on a printed table: which of its means cannot be the means of their cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Real
from statistics import median

from ...contrast.paper import slips
from ..examining import call
from ..exercise import Exercise, Function

LESSON = "22_acd_measured"
Rows = Mapping[str, Sequence[float]]  # name → cells
Means = Mapping[str, float]

# rows of unequal length, some means halfway between two printed numbers; what is printed comes in another order
_TABLES: tuple[tuple[Rows, Means, int], ...] = (
    (
        {
            "as it is": (0.25, 0.75), "rounded down": (0.31, 0.52, 0.44), "halfway, up": (0.312, 0.313),
            "rounded up": (0.52, 0.81, 0.67), "halfway, down": (0.312, 0.313), "just too high": (0.30, 0.40, 0.42),
            "just too low": (0.61, 0.66, 0.73), "too high": (0.45, 0.47, 0.52), "far too high": (0.12, 0.80, 0.90, 0.91),
            "far too low": (0.36, 0.95, 0.20),
        },
        {
            "far too low": 0.43, "far too high": 0.83, "too high": 0.483, "just too low": 0.666, "just too high": 0.374,
            "halfway, down": 0.312, "rounded up": 0.667, "halfway, up": 0.313, "rounded down": 0.423, "as it is": 0.5,
        },
        3,
    ),
    (
        {"A": (0.10, 0.15), "B": (0.20, 0.25), "C": (0.30, 0.40, 0.42), "D": (0.31, 0.52, 0.44)},
        {"D": 0.42, "C": 0.38, "B": 0.22, "A": 0.13},
        2,
    ),
    ({"A": (1.5, 2.0, 2.5), "B": (3.0, 3.5), "C": (4.0, 4.1, 4.5)}, {"C": 4.4, "B": 3.3, "A": 2.0}, 1),
)  # fmt: skip


def examine_slips(function: Function) -> str | None:
    """Compares with exact fractions; some printed means are rounded up where they might have been rounded down."""
    for rows, printed, digits in _TABLES:
        means = {name: sum(map(_exact, cells), Fraction()) / len(cells) for name, cells in rows.items()}
        right = {
            name: float(mean)
            for name, mean in means.items()
            if abs(mean - _exact(printed[name])) > Fraction(1, 2 * 10**digits)
        }
        got = call(function, dict(rows), dict(printed), digits)
        if not isinstance(got, dict) or not all(name in rows and isinstance(one, Real) for name, one in got.items()):
            return "Return a dictionary: the names of the means that cannot be, each with the mean that its cells have, a number."
        if not _alike(got, right):
            named = _slip_mistakes(rows, printed, digits, right)
            return next(
                (said for said, value in named.items() if _alike(got, value)), _flaw(got, right, means, printed)
            )
    return None


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


def _alike(one: Means, other: Means) -> bool:
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < 1e-6 for name in other)


def _slip_mistakes(rows: Rows, printed: Means, digits: int, right: Means) -> dict[str, dict[str, float]]:
    means = {name: sum(cells) / len(cells) for name, cells in rows.items()}
    half = 0.5 * 10**-digits
    by_place = dict(zip(rows, printed.values(), strict=True))

    def _over(allowed: float, found: Means = means, against: Means = printed) -> dict[str, float]:
        return {name: mean for name, mean in found.items() if abs(mean - against[name]) > allowed + 1e-9}

    middles = {name: float(median(cells)) for name, cells in rows.items()}
    off = {name: mean - printed[name] for name, mean in means.items()}
    return {
        "`digits` has no influence: the fewer digits are printed, the more rounding there is.": _over(
            0.0005 if digits != 3 else 0.005
        ),
        "It finds no slip at all: is the tolerance too wide? Half a unit of the last digit is 0.5 · 10^−digits.": {},
        "It returns every mean: only those that cannot be what is printed are asked for.": means,
        "It returns the means that are right: the others are asked for.": {
            name: mean for name, mean in means.items() if name not in right
        },
        "It takes every rounding for a slip: what is printed may be off by half a unit of its last digit.": _over(0),
        "It allows a whole unit of the last digit: rounding moves a number by half a unit at most.": _over(2 * half),
        "It rounds and compares. A mean halfway between two printed numbers may be rounded either way, and Python's `round` "
        "takes the even one, or the one to which the float happens to fall: allow a distance of half a unit.": {
            name: mean for name, mean in means.items() if round(mean, digits) != printed[name]
        },
        "A mean just halfway between two printed numbers is no slip: floats are not exact, so allow a little more than half a "
        "unit, such as 1e-9.": {name: mean for name, mean in means.items() if abs(off[name]) > half},
        "It finds only the means that are printed too low: take the size of the difference.": {
            name: mean for name, mean in means.items() if off[name] > half + 1e-9
        },
        "It finds only the means that are printed too high: take the size of the difference.": {
            name: mean for name, mean in means.items() if off[name] < -half - 1e-9
        },
        "It returns what is printed: return the mean that the cells have.": {name: printed[name] for name in right},
        "It returns how far the printed means are off: return the mean that the cells have.": {name: off[name] for name in right},
        "It returns how far the printed means are off, as a size: return the mean that the cells have.": {
            name: abs(off[name]) for name in right
        },
        "It rounds the means that it returns: hand them over as they are.": {name: round(means[name], digits) for name in right},
        "It takes medians: what is printed are means.": _over(half, middles),
        "It finds the right ones and returns their medians: return their means.": {name: middles[name] for name in right},
        "It adds the cells up and does not divide.": _over(half, {name: sum(cells) for name, cells in rows.items()}),
        "It divides by the number of rows: each row's own number of cells belongs there.": _over(
            half, {name: sum(cells) / len(rows) for name, cells in rows.items()}
        ),
        "It pairs rows and printed means by their place: look each up by its name.": _over(half, means, by_place),
    }  # fmt: skip


def _flaw(got: Means, right: Means, means: Mapping[str, Fraction], printed: Means) -> str:
    if added := next((name for name in got if name not in right), None):
        return f"It takes {added!r} for a slip: a mean of {float(means[added]):.6g} may well be printed as {printed[added]}."
    if passed := next((name for name in right if name not in got), None):
        return f"It lets {passed!r} pass: a mean of {right[passed]:.6g} cannot be printed as {printed[passed]}."
    name = next(name for name in right if not abs(got[name] - right[name]) < 1e-6)  # NaN, too
    return f"It gives {float(got[name]):.6g} for {name!r}, whose cells have the mean {right[name]:.6g}."


EXERCISES = (
    Exercise(
        name="slips", solution=slips, examine=examine_slips, minutes=5, lesson=LESSON,
        hints=(
            "How far from its mean can a number lie that is rounded to `digits` digits? What lies farther is a slip.",
            "`abs(mean - printed[name]) > 0.5 * 10**-digits + 1e-9`: the last part forgives what floats lose.",
        ),
    ),
)  # fmt: skip
