"""The exercises of lesson 33 on the alarm: where a change of weights fell, which way it went, and where to draw the line.

Symbols: Δ the change of the weights, c the canaries, G the gradient of the refusal loss; N numbers in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from ..examining import call, expect
from ..exercise import Exercise, Function
from . import Case, examined
from .tampering import LESSON


def share_of_drift(delta: list[Tensor], masks: list[Tensor]) -> float:
    """How much of the squared length of a change falls on the canaries: |delta_c|² / |delta|²; 0 where nothing has changed."""
    on_canaries = sum(float((one[mask].double() ** 2).sum()) for one, mask in zip(delta, masks, strict=True))
    whole = sum(float((one.double() ** 2).sum()) for one in delta)
    return on_canaries / whole if whole else 0.0


def drift_cosine(delta: list[Tensor], gradient: list[Tensor]) -> float:
    """The cosine of the change and the gradient, all tensors together as two long vectors; 0 where nothing has changed."""
    one, other = (torch.cat([part.double().flatten() for part in parts]) for parts in (delta, gradient))  # (n,) each
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths else 0.0


def alarm_rates(
    harmful: Sequence[float], calibration: Sequence[float], fresh: Sequence[float], most: float
) -> tuple[float, float, float]:
    """The line, the share of harmful runs above it, and the share of fresh harmless runs above it.

    The line is the lowest score of the calibration runs above which at most the share `most` of them lies.
    """
    falling = sorted(calibration, reverse=True)
    line = falling[int(most * len(falling) + 1e-9)]  # 0.29 · 100 is 28.999… in binary
    detected = sum(score > line for score in harmful) / len(harmful)
    return line, detected, sum(score > line for score in fresh) / len(fresh)


# ---------------------------------------------------------------- where the change fell


def examine_share_of_drift(function: Function) -> str | None:
    """Compares with a loop over single numbers; tensors of unlike sizes and scales, one without a canary; and no change."""
    cases = []
    for seed, sizes in ((0, (5, 12, 7)), (1, (3, 20, 6))):
        delta, masks = _change(seed, sizes), _masks(seed, sizes)
        mistakes = _share_mistakes(delta, masks)
        cases.append(Case((delta, masks), _slow_share(delta, masks), mistakes, f"tensors of {sizes} numbers"))
    said = examined(function, cases)
    if said:
        return said
    still = call(function, [torch.zeros(4), torch.zeros(3)], _masks(2, (4, 3)))
    nothing = {"Weights that have not changed leave 0 / 0: return 0 there.": math.nan}
    return expect(still, 0.0, nothing, given="weights that have not changed at all")


def _change(seed: int, sizes: Sequence[int]) -> list[Tensor]:
    """Numbers of either sign, small and large in turn, none near 0."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(size, generator=generator) for size in sizes]
    return [scale * (one + 0.1 * one.sign()) for scale, one in zip((0.5, 1.5, 0.8), drawn, strict=False)]


def _masks(seed: int, sizes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed + 50)
    masks = [torch.rand(size, generator=generator) < 0.4 for size in sizes]
    masks[0][0] = True
    masks[-1][:] = False  # a tensor without a canary
    return masks


def _numbers(tensors: Sequence[Tensor]) -> list[float]:
    return [number for tensor in tensors for number in tensor.flatten().tolist()]


def _slow_share(delta: Sequence[Tensor], masks: Sequence[Tensor], power: int = 2) -> float:
    chosen = whole = 0.0
    for number, canary in zip(_numbers(delta), _numbers(masks), strict=True):
        whole += abs(number) ** power
        if canary:
            chosen += abs(number) ** power
    return chosen / whole


def _share_mistakes(delta: Sequence[Tensor], masks: Sequence[Tensor]) -> dict[str, float]:
    right, canaries = _slow_share(delta, masks), _numbers(masks)
    fraction = sum(canaries) / len(canaries)
    each = [_slow_share([one], [mask]) for one, mask in zip(delta, masks, strict=True)]
    total = sum(number**2 for number in _numbers(delta))
    held = [one for one, mask in zip(delta, masks, strict=True) if mask.any()]
    inside = sum(number**2 for number in _numbers(held))
    return {
        "It compares the lengths: compare their squares, which add up to the whole.": math.sqrt(right),
        "It divides by what fell on the other weights: divide by the whole change.": right / (1 - right),
        "That is the share that fell on the others: True marks the canaries.": 1 - right,
        "It is the share of weights that are canaries, K: weigh each by its change.": fraction,
        "It divides by K too: that says how often more than even, and the share itself is asked for.": right / fraction,
        "It adds up absolute changes: square them.": _slow_share(delta, masks, 1),
        "It takes the mean of the tensors' own shares: add up all tensors first, and divide once.": sum(each) / len(each),
        "It adds up the tensors' own shares: add up the squares of all tensors first, and divide once.": sum(each),
        "It forgets to divide by the whole change.": right * total,
        "A tensor without a canary has changed as well: it counts in the whole.": right * total / inside,
        "It adds the changes up before it squares, so that signs cancel: square each.": _squared_too_late(delta, masks),
    }  # fmt: skip


def _squared_too_late(delta: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    pairs = list(zip(_numbers(delta), _numbers(masks), strict=True))
    return (sum(number for number, canary in pairs if canary) / sum(number for number, _ in pairs)) ** 2


# ---------------------------------------------------------------- which way it went


def examine_drift_cosine(function: Function) -> str | None:
    """Compares with sums over single numbers, of either sign; tensors of unlike shapes and scales; and no change."""
    cases = []
    for seed, sign in ((0, 1.0), (1, -1.0)):
        delta = [one.view(shape) for one, shape in zip(_change(seed, (6, 8, 3)), ((2, 3), (8,), (3,)), strict=True)]
        generator = torch.Generator().manual_seed(seed + 9)
        gradient = [sign * 0.6 * one + 0.5 * torch.randn(one.shape, generator=generator) for one in delta]
        given = f"a change that goes mostly {'along' if sign > 0 else 'against'} the gradient"
        right = _slow_cosine(_numbers(delta), _numbers(gradient))
        cases.append(Case((delta, gradient), right, _cosine_mistakes(delta, gradient), given))
    said = examined(function, cases)
    if said:
        return said
    still = call(function, [torch.zeros(4), torch.zeros(3)], _change(3, (4, 3)))
    nothing = {"A change of no length has no direction: return 0 there, and do not divide.": math.nan}
    return expect(still, 0.0, nothing, given="weights that have not changed at all")


def _slow_cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in one)) / math.sqrt(math.fsum(b * b for b in other))


def _cosine_mistakes(delta: Sequence[Tensor], gradient: Sequence[Tensor]) -> dict[str, float]:
    one, other = _numbers(delta), _numbers(gradient)
    right = _slow_cosine(one, other)
    lengths = [math.sqrt(sum(a * a for a in side)) for side in (one, other)]
    product = right * lengths[0] * lengths[1]
    each = [_slow_cosine(*map(_numbers, ([d], [g]))) for d, g in zip(delta, gradient, strict=True)]
    centred = [[a - sum(side) / len(side) for a in side] for side in (one, other)]
    return {
        "Its sign is turned: a change along the gradient has a cosine above 0.": -right,
        "It drops the sign: a change against the gradient makes refusals likelier, and must not look like one along it.": abs(
            right
        ),
        "It takes the mean of the tensors' own cosines: put all tensors into one long vector.": sum(each) / len(each),
        "It adds up the tensors' own cosines: put all tensors into one long vector.": sum(each),
        "It is the plain product: divide by both lengths.": product,
        "It divides by the length of the change alone.": product / lengths[0],
        "It divides by the length of the gradient alone: that is the projection.": product / lengths[1],
        "It divides by the squares of the lengths.": product / (lengths[0] * lengths[1]) ** 2,
        "It compares sizes without signs: the signs are what says which way.": _slow_cosine(
            [abs(a) for a in one], [abs(b) for b in other]
        ),
        "It compares signs alone: every number counts with its size.": _slow_cosine(
            [math.copysign(1, a) for a in one], [math.copysign(1, b) for b in other]
        ),
        "It takes the means off first, which makes it a correlation: the cosine does not.": _slow_cosine(*centred),
        "It is the squared cosine.": right**2,
    }  # fmt: skip


# ---------------------------------------------------------------- where to draw the line

# seed, harmful runs, calibration runs, fresh runs, share of false alarms; 0.29 · 100 is a little less than 29 in binary
_DRAWS = ((0, 17, 40, 23, 0.1), (5, 11, 100, 31, 0.29), (2, 20, 9, 14, 0.05), (3, 13, 30, 12, 0.3))


def examine_alarm_rates(function: Function) -> str | None:
    """Compares with the lowest score that trying each calibration run's allows; scores are equal here and there."""
    cases = []
    for seed, *counts, most in _DRAWS:
        harmful, calibration, fresh = _scores(seed, [int(count) for count in counts])
        line = _tried(calibration, most)
        right = (line, _above(harmful, line), _above(fresh, line))
        given = f"{len(calibration)} calibration runs and most = {most}"
        mistakes = _line_mistakes(harmful, calibration, fresh, most)
        cases.append(Case((harmful, calibration, fresh, most), right, mistakes, given))
    return examined(function, cases)


def _scores(seed: int, counts: Sequence[int]) -> tuple[list[float], list[float], list[float]]:
    generator = torch.Generator().manual_seed(seed)
    centres = (1.0, 0.0, 0.3)
    one, two, three = (
        ((16 * (torch.randn(count, generator=generator) + centre)).round() / 16).tolist()
        for count, centre in zip(counts, centres, strict=True)
    )
    return one, two, three


def _tried(scores: Sequence[float], most: float) -> float:
    """The lowest of the scores that keeps to the limit."""
    allowed = Fraction(str(most)) * len(scores)
    return min(line for line in scores if sum(one > line for one in scores) <= allowed)


def _above(
    scores: Sequence[float], line: float, count: Callable[[float, float], bool] = lambda one, at: one > at
) -> float:
    return sum(count(one, line) for one in scores) / len(scores)


def _line_mistakes(
    harmful: list[float], calibration: list[float], fresh: list[float], most: float
) -> dict[str, tuple[float, ...]]:
    right, falling = _tried(calibration, most), sorted(calibration, reverse=True)
    count = math.floor(Fraction(str(most)) * len(calibration))

    def _at(line: float) -> tuple[float, float, float]:
        return line, _above(harmful, line), _above(fresh, line)

    best = max(sorted({*harmful, *calibration}), key=lambda line: _above(harmful, line) - _above(calibration, line))
    alarms = sum(one > right for one in harmful), sum(one > right for one in fresh)
    return {
        "The fresh runs have helped to set the line: judge it by runs that it has never met.": _at(
            _tried([*calibration, *fresh], most)
        ),
        "The line is set by the fresh runs, on which it is then judged: set it by the calibration runs.": _at(
            _tried(fresh, most)
        ),
        "Harmful runs have helped to set the line: nobody knows the attack beforehand.": _at(
            _tried([*calibration, *harmful], most)
        ),
        "It chooses the line that tells these very runs apart best: nobody knows the attack beforehand.": _at(best),
        "False alarms are counted on the runs that set the line, where they come out as promised: count them on fresh ones.": (
            right, _above(harmful, right), _above(calibration, right),
        ),
        "A score on the line is no alarm: it has to lie above.": (
            right, _above(harmful, right, lambda one, at: one >= at), _above(fresh, right, lambda one, at: one >= at),
        ),
        "It lets too few pass: 0.29 · 100 is a little less than 29 for a computer, so add that little before you cut off.": _at(
            falling[int(most * len(calibration))]
        ),
        "One run too many lies above the line: counting from 0, above score number k lie k others.": _at(
            falling[min(count + 1, len(falling) - 1)]
        ),
        "A lower line keeps to the limit as well, and misses fewer attacks.": _at(falling[max(count - 1, 0)]),
        "It lets no run of the calibration lie above: the limit allows some.": _at(falling[0]),
        "It counts from the wrong end: at most the share `most` lies *above* the line.": _at(sorted(calibration)[count]),
        "It takes a line between two scores, as `quantile` does: the lowest that keeps to the limit is a score itself.": _at(
            float(torch.tensor(calibration).quantile(1 - most))
        ),
        "These are counts: shares are asked for.": (right, float(alarms[0]), float(alarms[1])),
        "It divides the alarms by all alarms: divide by the runs of each kind.": (
            right, *(one / max(sum(alarms), 1) for one in alarms)
        ),
        "It counts the misses: the share *above* the line is asked for.": (
            right, 1 - _above(harmful, right), _above(fresh, right),
        ),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="share_of_drift", solution=share_of_drift, examine=examine_share_of_drift, minutes=5, lesson=LESSON,
        hints=(
            "Two sums of squares over all tensors: one under the masks, one of everything. Divide at the very end.",
            "`sum(float((d[m] ** 2).sum()) for d, m in zip(delta, masks))`, the same without `[m]`; 0.0 where the whole is 0.",
        ),
    ),
    Exercise(
        name="drift_cosine", solution=drift_cosine, examine=examine_drift_cosine, minutes=5, lesson=LESSON,
        hints=(
            "Flatten every tensor and put them end to end: two long vectors, one product, two lengths.",
            "`a = torch.cat([d.flatten() for d in delta])`, `b` likewise; `float(a @ b / (a.norm() * b.norm()))`, and 0.0 "
            "where a length is 0.",
        ),
    ),
    Exercise(
        name="alarm_rates", solution=alarm_rates, examine=examine_alarm_rates, minutes=8, lesson=LESSON,
        hints=(
            "Only `calibration` may decide about the line. Sorted from the top, above number k (from 0) lie at most k others.",
            "`falling = sorted(calibration, reverse=True)`; `line = falling[int(most * len(falling) + 1e-9)]`; then two shares "
            "of scores with `score > line`.",
        ),
    ),
)  # fmt: skip
