"""The exercises of lesson 42: the interval of a difference over seeds, and what an interval says of a claim.

Symbols: K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

from ..examining import call, expect
from ..exercise import Exercise, Function
from ..ledger import verdict

LESSON = "42_what_the_papers_say"
Ends = tuple[float, float, float]
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"


def seed_interval(first: Sequence[float], second: Sequence[float], quantile: float) -> Ends:
    """(mean, low, high) of second minus first, seed by seed: mean ± quantile · s/√K."""
    gaps = [two - one for one, two in zip(first, second, strict=True)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)) ** 0.5
    half = quantile * spread / len(gaps) ** 0.5
    return mean, mean - half, mean + half


# ---------------------------------------------------------------- the interval over seeds

_RUNS: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...] = (
    ((0.41, 0.62, 0.80), (0.55, 0.70, 0.97), 4.303),
    ((0.91, 0.84, 0.88, 0.79, 0.90), (0.86, 0.83, 0.80, 0.77, 0.81), 2.776),
    ((0.50, 0.20), (0.58, 0.31), 12.706),
)


def examine_seed_interval(function: Function) -> str | None:
    """Compares with the pairwise form of the variance: the mean square of all differences of two gaps, halved."""
    for first, second, quantile in _RUNS:
        got = call(function, list(first), list(second), quantile)
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            return "Three numbers are to come back, with commas between them: the mean, the lower end, the upper end."
        given = f"{len(first)} seeds and the quantile {quantile}"
        right = _pairwise(first, second, quantile)
        said = expect(tuple(map(float, got)), right, _interval_mistakes(first, second, quantile), given=given)
        if said:
            return said
    return None


def _pairwise(first: Sequence[float], second: Sequence[float], quantile: float) -> Ends:
    """Without a mean in the variance: s² = Σ over all pairs of (gap - other gap)² / (2 K (K - 1))."""
    gaps = [second[seed] - first[seed] for seed in range(len(first))]
    count = len(gaps)
    squares = sum((one - other) ** 2 for one in gaps for other in gaps) / (2 * count * (count - 1))
    middle = math.fsum(gaps) / count
    half = quantile * math.sqrt(squares / count)
    return middle, middle - half, middle + half


def _variance(values: Sequence[float]) -> float:
    middle = math.fsum(values) / len(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _interval_mistakes(first: Sequence[float], second: Sequence[float], quantile: float) -> dict[str, Ends]:
    middle, low, high = _pairwise(first, second, quantile)
    count, half = len(first), high - middle
    gaps = [two - one for one, two in zip(first, second, strict=True)]
    apart = quantile * math.sqrt((_variance(first) + _variance(second)) / count)

    def _with(width: float) -> Ends:
        return middle, middle - width, middle + width

    return {
        "It subtracts the second from the first: it is the second minus the first.": (-middle, -high, -low),
        "It divides the squares by K, as if the mean had been known beforehand: divide by K − 1.": (
            _with(half * math.sqrt((count - 1) / count))
        ),
        "That is how far single seeds scatter: the mean of K seeds scatters by s/√K.": _with(half * math.sqrt(count)),
        "It divides by K: the mean scatters by s/√K.": _with(half / math.sqrt(count)),
        "It takes the two sides as separate samples: the same seed stands on both sides, so take the differences first.": (
            _with(apart)
        ),
        "It takes 1.96, the quantile of many seeds: with few it is far larger, and is given as `quantile`.": (
            _with(1.96 * half / quantile)
        ),
        "The quantile is missing: s/√K alone covers the true mean about two times in three.": _with(half / quantile),
        "It takes the variance for the spread: s is its root.": _with(
            quantile * _variance(gaps) / math.sqrt(count)
        ),
        "That is the range of the seeds: it grows with every seed, and an interval of the mean shrinks.": (
            middle, min(gaps), max(gaps)
        ),
        "It returns half of the width in the place of the ends.": (middle, half, half),
        "The order is another one: the mean first, then the lower end, then the upper.": (low, middle, high),
        "The ends are swapped: the lower one comes before the upper.": (middle, high, low),
    }  # fmt: skip


# ---------------------------------------------------------------- the verdict

_ENDS = (-0.3, -0.1, 0.0, 0.05, 0.1, 0.4)
_CASES = [
    (low, high, side, bound)
    for low, high in product(_ENDS, _ENDS) if low <= high
    for side, bound in (("above", 0.0), ("above", 0.1), ("above", -0.1), ("below", 0.0), ("below", 0.05), ("below", -0.1),
                        ("within", 0.1), ("within", 0.05))
]  # fmt: skip


def examine_verdict(function: Function) -> str | None:
    """Compares with asking points of the interval one by one, its ends among them; ends that lie on the bound are in it."""
    said = [call(function, *case) for case in _CASES]
    strangers = [one for one in said if one not in (HOLDS, FAILS, OPEN)]
    if strangers:
        return f"It returns {strangers[0]!r}: expected {HOLDS!r}, {FAILS!r} or {OPEN!r}, word for word."
    right = [_asked(*case) for case in _CASES]
    for sentence, mistake in _VERDICT_MISTAKES.items():
        if said != right and said == [mistake(*case) for case in _CASES]:
            return sentence
    for case, one, other in zip(_CASES, said, right, strict=True):
        if one != other:
            low, high, side, bound = case
            asks = f"within ±{bound:g} of 0" if side == "within" else f"{side} {bound:g}"
            return f"For the interval [{low:g}, {high:g}] and the claim that it is {asks} it says {one!r}: it is {other!r}."
    return None


def _satisfies(value: float, side: str, bound: float) -> bool:
    return value > bound if side == "above" else value < bound if side == "below" else abs(value) < bound


def _asked(low: float, high: float, side: str, bound: float) -> str:
    """By hundredths of the interval, and by the points nearest to both of its ends."""
    steps = [low + (high - low) * step / 100 for step in range(1, 100)]
    answers = {_satisfies(value, side, bound) for value in (low, *steps, high)}
    return OPEN if len(answers) > 1 else HOLDS if True in answers else FAILS


def _middle(low: float, high: float, side: str, bound: float) -> str:
    return HOLDS if _satisfies((low + high) / 2, side, bound) else FAILS


def _two(low: float, high: float, side: str, bound: float) -> str:
    return HOLDS if _asked(low, high, side, bound) == HOLDS else FAILS


def _zero(low: float, high: float, side: str, bound: float) -> str:
    return _asked(low, high, side, bound if side == "within" else 0.0)


def _turned(low: float, high: float, side: str, bound: float) -> str:
    return _asked(low, high, {"above": "below", "below": "above"}.get(side, side), bound)


def _significant(low: float, high: float, side: str, bound: float) -> str:
    """Takes every claim of sameness for shown wherever a difference is not."""
    if side != "within":
        return _asked(low, high, side, bound)
    return HOLDS if low <= 0 <= high else FAILS


def _loose(low: float, high: float, side: str, bound: float) -> str:
    """As if what lies on the bound satisfied the claim."""
    if side == "within":
        return HOLDS if low >= -bound and high <= bound else FAILS if high < -bound or low > bound else OPEN
    inside, outside = (low >= bound, high < bound) if side == "above" else (high <= bound, low > bound)
    return HOLDS if inside else FAILS if outside else OPEN


def _one_sided(low: float, high: float, side: str, bound: float) -> str:
    return _asked(low, high, "below" if side == "within" else side, bound)


def _swapped(low: float, high: float, side: str, bound: float) -> str:
    return {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[_asked(low, high, side, bound)]


def _never_fails(low: float, high: float, side: str, bound: float) -> str:
    return HOLDS if _asked(low, high, side, bound) == HOLDS else OPEN


def _any(low: float, high: float, side: str, bound: float) -> str:
    """Enough that some value of the interval satisfies the claim."""
    return FAILS if _asked(low, high, side, bound) == FAILS else HOLDS


_VERDICT_MISTAKES: dict[str, Callable[[float, float, str, float], str]] = {
    "It looks at the middle of the interval alone: then nothing is ever open, and the interval was for nothing.": _middle,
    "It has two verdicts: what is not shown is not refuted. An interval that reaches to both sides of the bound leaves it "
    "open.": _two,
    "It compares with 0: each claim has a bound of its own.": _zero,
    "Above and below are turned around.": _turned,
    "For \"within\" it asks whether the interval holds 0: that no difference is shown does not show that there is none. "
    "The whole interval has to lie within ± bound.": _significant,
    "What lies on the bound does not satisfy the claim: above means above, and the ends belong to the interval.": _loose,
    "For \"within\" it looks at the upper bound alone: −bound is one as well.": _one_sided,
    "\"holds\" and \"does not hold\" are exchanged.": _swapped,
    "It never says that a claim does not hold: where no value of the interval satisfies it, it does not.": _never_fails,
    "It is enough for it that *some* value of the interval satisfies the claim: it holds where *every* one does.": _any,
}  # fmt: skip


EXERCISES = (
    Exercise(
        name="seed_interval", solution=seed_interval, examine=examine_seed_interval, minutes=7, lesson=LESSON,
        hints=(
            "Take the differences first, one a seed. Then forget where they came from: their mean, and how far a mean of K "
            "numbers scatters.",
            "s² is the sum of (gap − mean)² divided by K − 1; the ends are mean ± quantile · s/√K.",
        ),
    ),
    Exercise(
        name="verdict", solution=verdict, examine=examine_verdict, minutes=6, lesson=LESSON,
        hints=(
            "Write each side as an open range from `least` to `most`: above is (bound, ∞), below is (−∞, bound), within is "
            "(−bound, bound). Now there is one rule for all three.",
            "It holds if `low > least and high < most`; it does not if `high <= least or low >= most`; else it cannot be told.",
        ),
    ),
)  # fmt: skip
