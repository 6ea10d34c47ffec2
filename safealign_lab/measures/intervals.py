"""Intervals for what is not a simple share: two methods on the same requests, a judge that errs, requests in groups.

Legend: N responses, G groups, R resamples, K = 3 labels; of `over_seeds` alone, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from ..alchemy.grader import Label
from ..judges import LABELS
from .rates import Interval, Rate, check_confidence, rate, shares


@dataclass(frozen=True)
class Paired:
    """Two methods on the same requests: the difference of their shares (second minus first), and what changed.

    `gained` counts the requests where only the second has the label, `lost` those where only the first has it.
    """

    difference: float
    low: float
    high: float
    p_value: float
    gained: int
    lost: int
    n: int

    def __str__(self) -> str:
        return f"{self.difference:+.2f} [{self.low:+.2f}, {self.high:+.2f}], p = {self.p_value:.3g}, n = {self.n}"


def paired(
    first: Sequence[Label], second: Sequence[Label], label: Label = "refusal", confidence: float = 0.95
) -> Paired:
    """Compares how often two methods get a label on the same requests, in the same order.

    With b = gained, c = lost: difference (b - c)/n; the interval is Bonett and Price's (2012), which adds one case to b
    and to c: d ± z √((p_b + p_c - d²)/(n + 2)), p_b = (b + 1)/(n + 2), p_c = (c + 1)/(n + 2), d = p_b - p_c. The p-value is
    McNemar's, exact: b of b + c at probability 1/2, on both sides. Requests on which both agree cancel, so that two methods
    can be told apart with far fewer requests than two separate samples would take.

    Args:
        first, second: (N,) the labels of either method.
        label: which share is compared.
        confidence: between 0 and 1; higher makes the interval wider (source: ours, 0.95).

    Raises:
        ValueError: lengths that differ, no labels, or a confidence outside (0, 1).
    """
    check_confidence(confidence)
    if len(first) != len(second) or not first:
        raise ValueError(
            f"There are {len(first)} and {len(second)} labels: expected one of each method for each request."
        )
    shares([*first, *second, label])  # tells of a label that is none
    n = len(first)
    gained = sum(two == label != one for one, two in zip(first, second, strict=True))
    lost = sum(one == label != two for one, two in zip(first, second, strict=True))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = float(norm.ppf((1 + confidence) / 2)) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Paired(
        (gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half), p_value, gained, lost, n
    )


def corrected(
    labels: Sequence[Label],
    confusion: Sequence[Sequence[int]],
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[Label, Interval]:
    """The interval of every label's true share, with the judge's own errors carried into it.

    A judge that takes j for i with probability C_ij shows q = Cᵀp where p are the true shares (Rogan and Gladen 1978, here
    for K labels). So p = C⁻ᵀq, with what is negative set to 0 and the rest scaled to sum 1. Both are uncertain: each of
    the R resamples draws q from a Dirichlet distribution over the labels' counts plus ½ (or, given groups, draws whole
    groups anew), and every row of C from one over its own. The interval runs between the percentiles
    (1 ∓ confidence) / 2. It holds as far as the judge errs on these answers as on those by which it was validated.

    Args:
        labels: (N,) as the judge gave them.
        confusion: (K, K) counts of the validation, true labels in rows and the judge's in columns, both as in `LABELS`.
            More validated answers make the interval narrower, more confusion wider.
        groups: (N,) the group of each answer, where requests depend on each other; None takes them as independent.
        confidence, seed, resamples: as in `cluster_bootstrap`.

    Raises:
        ValueError: no labels, a confusion of another shape or with a label that was never validated, or as in
            `cluster_bootstrap`.
    """
    counts = np.asarray(confusion, dtype=float)  # (K, K)
    if counts.shape != (len(LABELS),) * 2 or (counts < 0).any() or not counts.sum(axis=1).all():
        raise ValueError(
            "A confusion needs 3 × 3 counts with at least one answer of each true label; see `judges.LABELS`."
        )
    shares(labels)  # tells of no labels, and of one that is none
    check_confidence(confidence, resamples)
    rng = np.random.default_rng(seed)
    if groups is None:
        shown = rng.dirichlet([labels.count(label) + 0.5 for label in LABELS], size=resamples)  # (R, K)
    else:
        each = np.array([[label == one for one in LABELS] for label in labels], dtype=float)  # (N, K)
        shown = _resampled_means(each, groups, resamples, rng)  # (R, K)
    rows = [rng.dirichlet(row + 0.5, size=resamples) for row in counts]  # K of (R, K)
    judged = np.stack(rows, axis=1)  # (R, K, K): true label, judge's label
    true = np.linalg.solve(judged.swapaxes(1, 2), shown[:, :, None])[:, :, 0]  # (R, K)
    true = np.clip(true, 0, None)  # (R, K)
    true /= true.sum(axis=1, keepdims=True)
    low, high = np.quantile(true, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)  # (K,) each
    return {label: Interval(float(low[k]), float(high[k]), confidence) for k, label in enumerate(LABELS)}


def cluster_bootstrap(
    values: Sequence[float], groups: Sequence[str], confidence: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Interval:
    """An interval for the mean of values that depend on each other within groups, such as requests that share a noun.

    Whole groups are drawn with replacement, as many as there are; the interval runs between the percentiles
    (1 ∓ confidence) / 2 of the means. It is too narrow for few groups, and has no width where all groups agree: show
    `wilson` beside it there.

    Args:
        values: (N,) numbers; 0 or 1 where a share is meant.
        groups: (N,) the group of each value. Fewer and larger groups make the interval wider.
        confidence: between 0 and 1; higher makes the interval wider (source: ours, 0.95).
        seed: of the draws; the same seed gives the same interval.
        resamples: draws; more make the interval steadier, not narrower (source: ours, 2000).

    Raises:
        ValueError: lengths that differ, fewer than two groups, a value that is not finite, no resamples, or a
            confidence outside (0, 1).
    """
    check_confidence(confidence, resamples)
    columns = np.asarray(values, dtype=float).reshape(-1, 1)  # (N, 1)
    means = _resampled_means(columns, groups, resamples, np.random.default_rng(seed))  # (R, 1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence)


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of K values, one a seed: mean ± t · s/√K, t with K - 1 degrees of freedom.

    Handed the differences of two methods seed by seed, it is the paired interval.

    Args:
        values: at least two.
        confidence: between 0 and 1; up = wider (source: ours, 0.95).

    Raises:
        ValueError: fewer than two seeds, which have no spread, or a confidence outside (0, 1).
    """
    check_confidence(confidence)
    if len(values) < 2:
        raise ValueError(f"There are {len(values)} seeds: an interval over seeds needs two or more.")
    half = float(student_t.ppf((1 + confidence) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values) - half, fmean(values) + half, confidence)


def grouped_rate(cases: Sequence[bool], groups: Sequence[str]) -> Rate:
    """A share of cases that depend on each other within groups, with the interval of `cluster_bootstrap`.

    Where all groups agree that interval has no width: then it is Wilson's, which is too narrow for what is so grouped.

    Args:
        cases: (N,) whether each counts.
        groups: (N,) the group of each.

    Raises:
        ValueError: as in `cluster_bootstrap`.
    """
    interval = cluster_bootstrap([float(case) for case in cases], groups)
    plain = rate(sum(cases), len(cases))
    return plain if interval.low == interval.high else replace(plain, low=interval.low, high=interval.high)


def _resampled_means(
    values: NDArray[np.float64], groups: Sequence[str], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The means of the columns of (N, C) values in resamples of whole groups; (R, C)."""
    _check_groups(values, groups)
    _, members = np.unique(np.asarray(groups), return_inverse=True)  # (N,)
    sums = np.zeros((members.max() + 1, values.shape[1]))  # (G, C)
    np.add.at(sums, members, values)
    sizes = np.bincount(members)  # (G,)
    drawn = rng.integers(len(sizes), size=(resamples, len(sizes)))  # (R, G)
    return np.asarray(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1, keepdims=True))  # (R, C)


def _check_groups(values: NDArray[np.float64], groups: Sequence[str]) -> None:
    if len(values) != len(groups):
        raise ValueError(f"There are {len(values)} values and {len(groups)} groups: give one group for each value.")
    if len(set(groups)) < 2:
        raise ValueError(f"There are {len(set(groups))} groups to draw from: expected two or more; use wilson instead.")
    if not np.isfinite(values).all():
        raise ValueError("A value is not finite: expected finite numbers; leave out what was not measured.")
