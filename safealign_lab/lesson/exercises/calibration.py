"""An exercise of lesson 10: whether a student is as often right as it is sure.

Symbols: N answers, C classes, M bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "10_soft_labels"
Gap = Callable[[float, float], float]
Bin = Callable[[float, float, float], bool]  # low, how sure, high → whether that is in the bin


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """The expected calibration error over bins of equal width (0, 1/M], (1/M, 2/M], …; (N, C) and (N,)."""
    confidence, guesses = probabilities.max(dim=1)  # (N,) each
    right = (guesses == labels).float()  # (N,)
    places = (confidence * bins).ceil().long()  # (N,), from 1
    gaps = torch.zeros(bins + 1).index_add(0, places, right - confidence)  # (M+1,)
    return float(gaps.abs().sum() / len(labels))


def examine_calibration_error(function: Function) -> str | None:
    """Compares with a loop over the bins, on two and on more classes, with bins that stay empty and one at a bin's end."""
    cases = []
    for seed, (count, classes, bins) in enumerate(((12, 2, 5), (40, 3, 10), (25, 4, 4), (3, 2, 10))):
        probabilities, labels = _answers(seed, count, classes)
        given = f"N = {count}, C = {classes} and {bins} bins"
        right = _error(*_rows(probabilities, labels), bins)
        cases.append(
            Case((probabilities, labels, bins), torch.tensor(right), _mistakes(probabilities, labels, bins), given)
        )
    return examined(function, cases, read=torch.as_tensor)


def _mistakes(probabilities: Tensor, labels: Tensor, bins: int) -> dict[str, Tensor]:
    sure, right = _rows(probabilities, labels)
    of_label = probabilities[range(len(labels)), labels].tolist()
    of_first = probabilities[:, 1].tolist()
    cases = {
        "Every bin counts the same: a bin counts by the share of the answers that are in it.": (
            _error(sure, right, bins, weigh=False)
        ),
        "Too sure and too unsure cancel out: take the size of each bin's gap before adding up.": abs(_overall(sure, right)),
        "It has no bins: for a single answer, right or wrong, the gap is never 0. Average within a bin first.": (
            _each(sure, right)
        ),
        "It takes the largest gap: the expected error is the mean over the bins, weighted.": (
            _error(sure, right, bins, worst=True)
        ),
        "It squares the gaps.": _error(sure, right, bins, gap=lambda one, other: (one - other) ** 2),
        "It asks how sure the student was of the *right* class: how sure an answer is, the class that is chosen says.": (
            _error(of_label, right, bins)
        ),
        "It takes the probability of class 1 for how sure the answer is: that belongs to whichever class is chosen.": (
            _error(of_first, right, bins)
        ),
        "It compares with the middle of the bin: compare with the mean confidence of the answers that are in it.": (
            _error(sure, right, bins, middle=True)
        ),
        "It sums the gaps of all answers: divide by their number.": _error(sure, right, bins) * len(sure),
        "An answer that stands exactly at the end of a bin counts in the bin above: the bins are (low, high], so compare with "
        "`low < confidence <= high`.": _error(sure, right, bins, inside=lambda low, one, high: low <= one < high),
        "An answer that stands exactly at the end of a bin counts in two bins: the bins are (low, high], so compare with "
        "`low < confidence <= high`.": _error(sure, right, bins, inside=lambda low, one, high: low <= one <= high),
        "An answer that stands exactly at the end of a bin counts in no bin: the bins are (low, high], so compare with "
        "`low < confidence <= high`.": _error(sure, right, bins, inside=lambda low, one, high: low < one < high),
    }  # fmt: skip
    return {said: torch.tensor(value) for said, value in cases.items()}


def _error(
    sure: Sequence[float], right: Sequence[bool], bins: int, weigh: bool = True, worst: bool = False, middle: bool = False,
    gap: Gap = lambda one, other: abs(one - other), inside: Bin = lambda low, one, high: low < one <= high,
) -> float:  # fmt: skip
    """The error by a loop over the bins, or what a mistake makes of it."""
    found, sizes = [], []
    for place in range(bins):
        its = [n for n, one in enumerate(sure) if inside(place / bins, one, (place + 1) / bins)]
        if its:
            done = sum(right[n] for n in its) / len(its)
            said = (place + 0.5) / bins if middle else sum(sure[n] for n in its) / len(its)
            found.append(gap(done, said))
            sizes.append(len(its))
    if worst or not found:
        return max(found, default=0.0)
    weights, total = (sizes, len(sure)) if weigh else ([1] * len(sizes), len(sizes))
    return sum(weight * one for weight, one in zip(weights, found, strict=True)) / total


def _overall(sure: Sequence[float], right: Sequence[bool]) -> float:
    return sum(done - said for said, done in zip(sure, right, strict=True)) / len(sure)


def _each(sure: Sequence[float], right: Sequence[bool]) -> float:
    return sum(abs(done - said) for said, done in zip(sure, right, strict=True)) / len(sure)


def _rows(probabilities: Tensor, labels: Tensor) -> tuple[list[float], list[bool]]:
    """How sure each answer is, and whether it is right."""
    rows = probabilities.tolist()
    return [max(row) for row in rows], [
        row.index(max(row)) == label for row, label in zip(rows, labels.tolist(), strict=True)
    ]


def _answers(seed: int, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Answers of a student that is surer than right; the last stands exactly at the end of a bin."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=generator)  # (N, C)
    labels = (logits + 2 * torch.randn(count, classes, generator=generator)).argmax(dim=1)  # (N,)
    probabilities = logits.softmax(dim=1)  # (N, C)
    probabilities[-1] = torch.tensor([0.5, *[0.5 / (classes - 1)] * (classes - 1)])
    return probabilities, labels


EXERCISES = (
    Exercise(
        name="calibration_error", solution=calibration_error, examine=examine_calibration_error, minutes=8, lesson=LESSON,
        hints=(
            "Three things of each answer: how sure it is (its largest probability), whether it is right, and which bin it is in.",
            "Within a bin: the share that is right, the mean of how sure they are, and the size of the difference. Leave out "
            "empty bins.",
            "Weighted by the bin's share of all answers, that gap is |Σ over the bin of (right − sure)| / N.",
        ),
    ),
)  # fmt: skip
