"""How far a judge agrees with people, on answers that it was not tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import LABELS


@dataclass(frozen=True)
class Agreement:
    """A confusion matrix (people's labels in rows) with balanced accuracy and Cohen's κ, each (value, low, high)."""

    labels: tuple[str, ...]
    confusion: list[list[int]]
    balanced_accuracy: tuple[float, float, float]
    kappa: tuple[float, float, float]
    n: int

    def __post_init__(self) -> None:
        for name in ("labels", "balanced_accuracy", "kappa"):  # JSON has no tuples
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain lists and numbers; `Agreement(**fields)` is the way back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def agreement(
    people: Sequence[str], judge: Sequence[str], labels: Sequence[str] = LABELS, confidence: float = 0.95, seed: int = 0,
    resamples: int = 2000,
) -> Agreement:  # fmt: skip
    """Compares a judge's labels with people's.

    Balanced accuracy is the mean over labels of the share that the judge gets right: guessing one label reaches 1/K however
    frequent it is. Cohen's κ = (p_o - p_e)/(1 - p_e) is the agreement beyond that of two who label at random with their own
    frequencies: 0 is chance, 1 perfect. The intervals are percentiles over resampled answers.

    Args:
        people, judge: N labels each, in the same order.
        labels: the K labels; those absent from `people` are left out of the balanced accuracy.
        confidence: between 0 and 1; higher makes the intervals wider (source: ours, 0.95).
        seed, resamples: of the draws; more resamples make the intervals steadier (source: ours, 2000).

    Raises:
        ValueError: lengths that differ, no label, or one that is not among `labels`.
    """
    if len(people) != len(judge) or not people:
        raise ValueError(
            f"There are {len(people)} labels of people and {len(judge)} of the judge: expected as many, and one at least."
        )
    if strangers := sorted((set(people) | set(judge)) - set(labels)):
        raise ValueError(f"There is no label {', '.join(strangers)}: expected {', '.join(labels)}.")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"A confidence of {confidence} and {resamples} resamples make no interval: use 0.95 and 2000.")
    places = {label: number for number, label in enumerate(labels)}
    cells = np.array(
        [places[true] * len(labels) + places[said] for true, said in zip(people, judge, strict=True)]
    )  # (N,)
    rng = np.random.default_rng(seed)
    drawn = cells[rng.integers(len(cells), size=(resamples, len(cells)))]  # (R, N)
    spread = np.array([_scores(_counts(row, len(labels))) for row in drawn])  # (R, 2)
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)  # (2,) each
    confusion = _counts(cells, len(labels))  # (K, K)
    values = _scores(confusion)
    accuracy, kappa = ((values[k], float(low[k]), float(high[k])) for k in range(2))
    return Agreement(tuple(labels), confusion.tolist(), accuracy, kappa, len(cells))


def _counts(cells: NDArray[np.int_], size: int) -> NDArray[np.int_]:
    """How often each pair of labels occurs; (K, K)."""
    return np.bincount(cells, minlength=size * size).reshape(size, size)  # (K, K)


def _scores(confusion: NDArray[np.int_]) -> tuple[float, float]:
    """Balanced accuracy and κ; κ is 1 where both give one and the same label throughout."""
    present = confusion.sum(axis=1) > 0  # (K,)
    recalls = confusion.diagonal()[present] / confusion.sum(axis=1)[present]
    shares = confusion / confusion.sum()  # (K, K)
    by_chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    kappa = 1.0 if by_chance == 1 else (float(shares.trace()) - by_chance) / (1 - by_chance)
    return float(recalls.mean()), kappa
