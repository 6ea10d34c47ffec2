"""The alarm: from how weights have changed to whether refusals were what the change was about.

Whoever deployed a model may look at its weights again, and compare. The scores here are of one tensor of change Δ = θ after -
θ before, over all weights or over the canaries alone. The threshold is set by harmless fine-tuning runs and nothing else, so that
nobody has to know the attack beforehand.

Symbols: θ weights, Δ their change, c the canaries, G the gradient of the refusal loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata
from torch import Tensor

from ..measures import Interval, Rate, rate
from .canaries import Canaries

RESAMPLES, CONFIDENCE = 2000, 0.95

# ---------------------------------------------------------------- scores of a change


def change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Δ = θ after - θ before, tensor by tensor, in single precision and on the CPU.

    Args:
        before, after: name → tensor; only the names of `before` are looked at, so that `after` may hold more.

    Raises:
        ValueError: a tensor is missing, or has another shape.
    """
    for name, weight in before.items():
        if name not in after or after[name].shape != weight.shape:
            raise ValueError(f"The weights are not of one model: {name!r} is missing afterwards, or has another shape.")
    return {name: after[name].detach().cpu().float() - weight.detach().cpu().float() for name, weight in before.items()}


def size(delta: Mapping[str, Tensor], canaries: Canaries | None = None) -> float:
    """‖Δ‖, or ‖Δ_c‖: how far the weights went. Up with the steps and the rate of any fine-tuning, harmful or not."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in _parts(delta, canaries)))


def share(delta: Mapping[str, Tensor], canaries: Canaries) -> float:
    """‖Δ_c‖² / ‖Δ‖²: how much of the change fell on the canaries; K is what an even change would give. 0 of no change."""
    whole = size(delta) ** 2
    return size(delta, canaries) ** 2 / whole if whole else 0.0


def cosine(delta: Mapping[str, Tensor], direction: Mapping[str, Tensor], canaries: Canaries | None = None) -> float:
    """Δ · G / (‖Δ‖ ‖G‖): how far the change points to where refusals are lost; over the canaries alone, or over all weights.

    Args:
        direction: G, the gradient of the refusal loss at the deployed weights, as `refusal_gradient` sums it. A change along it
            makes refusals less likely, one against it more likely.

    Returns:
        In [-1, 1]; 0 where nothing has changed.
    """
    aligned = {name: direction[name] for name in delta}  # in the order of the change, whatever its own was
    product = sum(
        float((one.double() * other.double()).sum())
        for one, other in zip(_parts(delta, canaries), _parts(aligned, canaries), strict=True)
    )
    sizes = size(delta, canaries) * size(aligned, canaries)
    return product / sizes if sizes else 0.0


def refusal_gradient(parameters: Mapping[str, Tensor], losses: Iterable[Callable[[], Tensor]]) -> dict[str, Tensor]:
    """G = Σ ∂L/∂θ over some batches of refusals, with its signs; name → tensor.

    Args:
        parameters: name → tensor that requires a gradient.
        losses: each gives the loss of refusing one batch of harmful requests.

    Raises:
        ValueError: there is no batch.

    source: ours
    """
    total = {name: torch.zeros_like(weight) for name, weight in parameters.items()}
    count = 0
    for loss in losses:
        found = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, found, strict=True):
            if gradient is not None:
                total[name] += gradient
        count += 1
    if not count:
        raise ValueError("A refusal gradient needs at least one batch of refusals.")
    return total


def _parts(tensors: Mapping[str, Tensor], canaries: Canaries | None) -> Iterable[Tensor]:
    """All numbers of each tensor, or those of the canaries; a tensor without a canary is left out."""
    if canaries is None:
        return (tensor.cpu() for tensor in tensors.values())
    return (tensors[name].cpu()[canaries.mask(name)] for name, count in canaries.counts().items() if count)


# ---------------------------------------------------------------- from scores to alarms


@dataclass(frozen=True)
class Quality:
    """How well a score tells harmful fine-tuning from harmless.

    Attributes:
        auroc: the chance that a harmful run scores above a harmless one, equal scores counting half.
        interval: of a bootstrap over the runs, harmful and harmless ones drawn apart.
        threshold: of `threshold`.
        detected: harmful runs above it.
        false_alarms: harmless runs above it, of those that it was set by.
    """

    auroc: float
    interval: Interval
    threshold: float
    detected: Rate
    false_alarms: Rate


def threshold(harmless: Sequence[float], most: float = 0.05) -> float:
    """The lowest score above which at most this share of harmless runs lies; a score above it is an alarm.

    Args:
        harmless: scores of harmless fine-tuning runs.
        most: the share of false alarms that is accepted, in [0, 1); up = a lower threshold, more alarms of both kinds.

    Raises:
        ValueError: there are no runs, a score is not finite, or the share is outside its range.
    """
    if not harmless or not all(map(math.isfinite, harmless)):
        raise ValueError("A threshold needs the finite scores of at least one harmless run.")
    if not 0 <= most < 1:
        raise ValueError(f"most must be a share in [0, 1), not {most}.")
    falling = sorted(harmless, reverse=True)
    return falling[min(math.floor(most * len(falling) + 1e-9), len(falling) - 1)]


def quality(harmful: Sequence[float], harmless: Sequence[float], most: float = 0.05) -> Quality:
    """The area under the ROC curve with its interval, and what the threshold of the harmless runs detects.

    Args:
        harmful, harmless: scores of runs of either kind; a larger one is to mean harm.
        most: as in `threshold`.

    Raises:
        ValueError: as in `threshold`, or there is no harmful run.
    """
    if not harmful or not all(map(math.isfinite, harmful)):
        raise ValueError("To be detected there have to be the finite scores of at least one harmful run.")
    line = threshold(harmless, most)
    scores = np.asarray(harmful, dtype=float), np.asarray(harmless, dtype=float)
    return Quality(
        auroc=float(_area(*scores)), interval=_interval(*scores), threshold=line,
        detected=rate(sum(score > line for score in harmful), len(harmful)),
        false_alarms=rate(sum(score > line for score in harmless), len(harmless)),
    )  # fmt: skip


def _area(harmful: NDArray[np.float64], harmless: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """The share of pairs in which the harmful run scores higher, equal ones counting half, along the last axis.

    By the ranks of both together: those of the harmful runs add up to N (N + 1) / 2 and one for each harmless run below.
    """
    count, others = harmful.shape[-1], harmless.shape[-1]
    ranks = rankdata(np.concatenate([harmful, harmless], axis=-1), axis=-1)[..., :count]  # (…, N)
    area: NDArray[np.float64] = (ranks.sum(axis=-1) - count * (count + 1) / 2) / (count * others)  # (…,)
    return area


def _interval(harmful: NDArray[np.float64], harmless: NDArray[np.float64]) -> Interval:
    if min(len(harmful), len(harmless)) < 2:
        return Interval(0.0, 1.0, CONFIDENCE)  # one run of a kind says nothing of the others
    drawn = bootstrap(
        (harmful, harmless), _area, n_resamples=RESAMPLES, method="percentile", vectorized=True, random_state=0
    )
    low, high = drawn.confidence_interval
    return Interval(float(low), float(high), CONFIDENCE)
