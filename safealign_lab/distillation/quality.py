"""How good a student is: accuracy, alignment with its teacher, robustness, stability, safety, calibration.

The source names KD alignment, noise robustness, stability and overall safety, and defines none of them: the definitions
here are the kit's own, so its published numbers are no target.

Symbols: N texts, D numbers in a feature vector, C classes, M bins; S the student, T the teacher, δ a perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor

from ..chat import at_least_float32
from ..divergence import jsd
from ..measures import Rate, rate
from ..training import step_generator
from .attacks import Classifier, attack
from .perturbations import Perturbation, random_control

BINS = 15
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number that is no plain share, with the interval of a bootstrap over the N texts; "86.80 [85.10, 88.30], n = 400"."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"

    def to_json(self) -> dict[str, float | int]:
        """The fields as plain numbers, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Quality:
    """Everything that `measure` finds; under attack, and as a control under random noise of the attack's own length."""

    accuracy: Rate
    alignment: Estimate
    robustness: Rate
    stability: Rate
    safety: Estimate
    calibration_error: Estimate
    control: Rate

    def to_json(self) -> dict[str, dict[str, float | int]]:
        """Each as plain numbers, ready for `json.dumps`."""
        return {name: found.to_json() for name, found in vars(self).items()}


def accuracy(logits: Tensor, labels: Tensor) -> Rate:
    """The share of texts whose likeliest class is the right one, with Wilson's interval.

    Args:
        logits: (N, C).
        labels: (N,).

    Raises:
        ValueError: there are no texts, or not one label each.
    """
    return _share(_guesses(logits) == _fitting(logits, labels))


def alignment(student_logits: Tensor, teacher_logits: Tensor) -> Estimate:
    """KD alignment: 100 · (1 - JSD(S, T) / ln 2), a mean over the texts; 100 = the same opinions, 0 = nothing in common.

    Args:
        student_logits, teacher_logits: (N, C), on the same texts.

    Raises:
        ValueError: the shapes differ, or there are no texts.

    source: ours
    """
    return _mean(_likeness(student_logits, teacher_logits))


def safety(student_logits: Tensor, teacher_logits: Tensor, right: Tensor, same: Tensor) -> Estimate:
    """Overall safety: (KD alignment + 100 · robustness + 100 · stability) / 3.

    A mean of three unlike things: read the three first. The interval is bootstrapped over the texts, on which all three
    are measured, and so holds although they depend on each other.

    Args:
        student_logits, teacher_logits: (N, C), on clean inputs.
        right: (N,), True where the answer is right under attack; its share is the robustness.
        same: (N,), True where an attack on the student's own answer leaves it as it is; its share is the stability.

    source: ours
    """
    return _mean((_likeness(student_logits, teacher_logits) + 100 * (right.double() + same.double())) / 3)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> Estimate:
    """Expected calibration error: how far confidence and accuracy lie apart, over bins of equal width of the confidence.

    ECE = Σ_m (n_m / N) · |accuracy_m - mean confidence_m|, bin m = ((m - 1) / M, m / M] for m = 1 … M

    The confidence is the likeliest class's probability. A finite N alone makes it larger than 0, and a resample larger
    still, so the bootstrap's interval lies somewhat high: compare heads on the same texts.

    Args:
        logits: (N, C).
        labels: (N,).
        bins: M; up = finer, and more of it is chance. source: ours (15)

    Raises:
        ValueError: there are no texts or bins, or not one label each.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}.")
    confidence = at_least_float32(logits).double().softmax(dim=-1).amax(dim=-1).cpu().numpy()  # (N,)
    right = (_guesses(logits) == _fitting(logits, labels)).double().cpu().numpy()  # (N,)
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (N,)
    gaps = np.zeros((len(right), bins))  # (N, M)
    gaps[np.arange(len(right)), places] = right - confidence

    def _error(chosen: NDArray[Any]) -> float:
        return float(np.abs(gaps[chosen.astype(int)].mean(axis=0)).sum())

    return _bootstrapped(np.arange(len(right)), _error)


def measure(
    classifier: Classifier, inputs: Tensor, labels: Tensor, teacher_logits: Tensor, perturbation: Perturbation,
    scale: float, mask: Tensor | None = None, restarts: int = 1, seed: int = 0,
) -> Quality:  # fmt: skip
    """All measures of one student under one attack: robustness against the right classes, stability against its own answers.

    Args:
        teacher_logits: (N, C), on the clean inputs.
        classifier, inputs, labels, perturbation, scale, mask, restarts, seed: as in `attack`.
    """
    with torch.no_grad():
        logits = classifier(inputs)  # (N, C)
    options: dict[str, Any] = {"mask": mask, "restarts": restarts, "seed": seed}
    right = attack(classifier, inputs, labels, perturbation, scale, **options)
    same = attack(classifier, inputs, _guesses(logits), perturbation, scale, **options)
    with torch.no_grad():
        beside = classifier(inputs + random_control(right.delta, step_generator(seed, restarts)))  # (N, C)
    return Quality(
        accuracy(logits, labels), alignment(logits, teacher_logits), _share(right.held), _share(same.held),
        safety(logits, teacher_logits, right.held, same.held), calibration_error(logits, labels), accuracy(beside, labels),
    )  # fmt: skip


def _likeness(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Both need logits (N, C), not {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    return 100 * (1 - jsd(student_logits, teacher_logits, reduction="none").double() / math.log(2))  # (N,)


def _guesses(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)  # (N,)


def _fitting(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"Logits (N, C) need labels (N,), not {tuple(logits.shape)} and {tuple(labels.shape)}.")
    return labels


def _share(right: Tensor) -> Rate:
    return rate(int(right.sum()), right.numel())


def _mean(values: Tensor) -> Estimate:
    """The mean of (N,) numbers, bootstrapped."""
    return _bootstrapped(values.detach().cpu().double().numpy(), np.mean)


def _bootstrapped(values: NDArray[Any], statistic: Callable[..., Any]) -> Estimate:
    """A statistic of one number a text, between the 2.5th and the 97.5th percentile of its resamples."""
    if not len(values):
        raise ValueError("There are no texts to measure on: expected at least one.")
    if len(values) == 1:
        return Estimate(float(statistic(values)), float(statistic(values)), float(statistic(values)), 1)
    found = bootstrap(
        (values,), statistic, n_resamples=RESAMPLES, method="percentile", vectorized=statistic is np.mean, random_state=0
    ).confidence_interval  # fmt: skip
    return Estimate(float(statistic(values)), float(found.low), float(found.high), len(values))
