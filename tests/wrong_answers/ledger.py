"""Wrong answers to the exercises of lesson 42."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

# ---------------------------------------------------------------- seed_interval


def _gaps(first, second):
    return [two - one for one, two in zip(first, second, strict=True)]


def _around(mean, half):
    return mean, mean - half, mean + half


def subtracts_the_second(first, second, quantile):
    return seed_right(second, first, quantile)


def seed_right(first, second, quantile):
    gaps = _gaps(first, second)
    return _around(statistics.fmean(gaps), quantile * statistics.stdev(gaps) / len(gaps) ** 0.5)


def divides_by_k(first, second, quantile):
    gaps = _gaps(first, second)
    return _around(statistics.fmean(gaps), quantile * statistics.pstdev(gaps) / len(gaps) ** 0.5)


def takes_the_scatter_of_one(first, second, quantile):
    gaps = _gaps(first, second)
    return _around(statistics.fmean(gaps), quantile * statistics.stdev(gaps))


def forgets_the_root_of_k(first, second, quantile):
    gaps = _gaps(first, second)
    return _around(statistics.fmean(gaps), quantile * statistics.stdev(gaps) / len(gaps))


def forgets_the_pairs(first, second, quantile):
    mean = statistics.fmean(second) - statistics.fmean(first)
    spread = (statistics.variance(first) + statistics.variance(second)) ** 0.5
    return _around(mean, quantile * spread / len(first) ** 0.5)


def takes_two(first, second, quantile):
    return seed_right(first, second, 1.96)


def forgets_the_quantile(first, second, quantile):
    return seed_right(first, second, 1.0)


def forgets_the_root(first, second, quantile):
    gaps = _gaps(first, second)
    return _around(statistics.fmean(gaps), quantile * statistics.variance(gaps) / len(gaps) ** 0.5)


def takes_the_range(first, second, quantile):
    gaps = _gaps(first, second)
    return statistics.fmean(gaps), min(gaps), max(gaps)


def returns_the_width(first, second, quantile):
    mean, low, _ = seed_right(first, second, quantile)
    return mean, mean - low, mean - low


def puts_the_mean_between(first, second, quantile):
    mean, low, high = seed_right(first, second, quantile)
    return low, mean, high


def swaps_the_ends(first, second, quantile):
    mean, low, high = seed_right(first, second, quantile)
    return mean, high, low


def returns_the_ends_alone(first, second, quantile):
    return seed_right(first, second, quantile)[1:]


def adds_a_seed(first, second, quantile):
    return seed_right([*first, first[0]], [*second, second[0]], quantile)


# ---------------------------------------------------------------- verdict


def _range(side, bound):
    return {"above": (bound, 9.0), "below": (-9.0, bound), "within": (-bound, bound)}[side]


def _right(low, high, side, bound):
    least, most = _range(side, bound)
    return (
        "holds"
        if least < low and high < most
        else "does not hold"
        if high <= least or most <= low
        else "cannot be told"
    )


def looks_at_the_middle(low, high, side, bound):
    least, most = _range(side, bound)
    return "holds" if least < (low + high) / 2 < most else "does not hold"


def knows_two_verdicts(low, high, side, bound):
    return "holds" if _right(low, high, side, bound) == "holds" else "does not hold"


def compares_with_zero(low, high, side, bound):
    return _right(low, high, side, 0.0 if side != "within" else bound)


def turns_the_sides(low, high, side, bound):
    return _right(low, high, {"above": "below", "below": "above", "within": "within"}[side], bound)


def takes_no_difference_for_sameness(low, high, side, bound):
    if side == "within":
        return "does not hold" if low > 0 or high < 0 else "holds"
    return _right(low, high, side, bound)


def lets_the_bound_in(low, high, side, bound):
    least, most = _range(side, bound)
    return (
        "holds"
        if low >= least and high <= most
        else "does not hold"
        if high < least or low > most
        else "cannot be told"
    )


def forgets_the_lower_bound(low, high, side, bound):
    return _right(low, high, "below" if side == "within" else side, bound)


def exchanges_the_verdicts(low, high, side, bound):
    said = _right(low, high, side, bound)
    return {"holds": "does not hold", "does not hold": "holds"}.get(said, said)


def never_refutes(low, high, side, bound):
    return "holds" if _right(low, high, side, bound) == "holds" else "cannot be told"


def is_content_with_some_value(low, high, side, bound):
    return "does not hold" if _right(low, high, side, bound) == "does not hold" else "holds"


def returns_a_bool(low, high, side, bound):
    return _right(low, high, side, bound) == "holds"


def forgets_a_side(low, high, side, bound):
    return "cannot be told" if side == "within" else _right(low, high, side, bound)


# ---------------------------------------------------------------- the list

WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "seed_interval": {
        subtracts_the_second: "subtracts the second from the first",
        divides_by_k: "divides the squares by K",
        takes_the_scatter_of_one: "how far single seeds scatter",
        forgets_the_root_of_k: "It divides by K: the mean",
        forgets_the_pairs: "two sides as separate samples",
        takes_two: "It takes 1.96",
        forgets_the_quantile: "The quantile is missing",
        forgets_the_root: "takes the variance for the spread",
        takes_the_range: "the range of the seeds",
        returns_the_width: "half of the width",
        puts_the_mean_between: "The order is another one: the mean first",
        swaps_the_ends: "The ends are swapped",
        returns_the_ends_alone: "Three numbers are to come back",
        adds_a_seed: "For 3 seeds and the quantile",
    },
    "verdict": {
        looks_at_the_middle: "looks at the middle",
        knows_two_verdicts: "has two verdicts",
        compares_with_zero: "compares with 0",
        turns_the_sides: "Above and below are turned",
        takes_no_difference_for_sameness: "asks whether the interval holds 0",
        lets_the_bound_in: "lies on the bound",
        forgets_the_lower_bound: "looks at the upper bound alone",
        exchanges_the_verdicts: 'and "does not hold" are exchanged',
        never_refutes: "never says that a claim does not hold",
        is_content_with_some_value: "*some* value",
        returns_a_bool: "word for word",
        forgets_a_side: "within ±0.1 of 0 it says 'cannot be told'",
    },
}
