"""Counts with their intervals: a share of responses is never shown without n and how far it can be trusted.

Legend: N responses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scipy.stats import binomtest

from ..alchemy.grader import Label
from ..judges import LABELS


@dataclass(frozen=True)
class Interval:
    """A range that covers the true value in about `confidence` of repeated samples."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Rate:
    """A share in 0..1 of n cases, with its Wilson interval; written as "0.13 [0.08, 0.21], n = 150"."""

    value: float
    low: float
    high: float
    n: int
    successes: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"

    def to_json(self) -> dict[str, float | int]:
        """The fields as plain numbers, ready for `json.dumps`; `Rate(**fields)` is the way back."""
        return asdict(self)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's interval for a share of independent cases.

    Formula: (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n), with p̂ = successes / n and z the normal quantile of
    (1 + confidence) / 2. It keeps a width at 0 of n and at n of n, where the textbook interval has none.

    Args:
        successes: how many cases count, 0..n.
        n: how many cases there are, at least 1; more make the interval narrower.
        confidence: between 0 and 1; higher makes the interval wider (source: ours, 0.95).

    Raises:
        ValueError: no cases, a count outside 0..n, or a confidence outside (0, 1).
    """
    check_confidence(confidence)
    if n < 1:
        raise ValueError(f"There is no share of n = {n} cases: expected at least one; check what is counted.")
    if not 0 <= successes <= n:
        raise ValueError(f"There are {successes} successes of {n} cases: expected 0 to {n}; check what is counted.")
    found = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(float(found.low), float(found.high), confidence)


def rate(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """A share with its Wilson interval; arguments and errors as in `wilson`."""
    interval = wilson(successes, n, confidence)
    return Rate(float(successes / n), interval.low, interval.high, int(n), int(successes))


def shares(labels: Sequence[Label]) -> dict[Label, Rate]:
    """The share of every label, absent ones too; the values sum to 1.

    Raises:
        ValueError: no labels, or one that is not a label.
    """
    counts = Counter(labels)
    if strangers := sorted(map(str, set(counts) - set(LABELS))):
        raise ValueError(f"There is no label {', '.join(strangers)}: expected {', '.join(LABELS)}, as a judge returns.")
    return {label: rate(counts[label], len(labels)) for label in LABELS}


def refusal_share(labels: Sequence[str]) -> float:
    """The share of answers that are refusals: refusals / all answers, the incoherent ones among them.

    Args:
        labels: "refusal", "compliance" or "incoherent" for each answer.

    Raises:
        ValueError: there is no answer.
    """
    if not labels:
        raise ValueError("There is no share of no answers: expected at least one label.")
    return sum(label == "refusal" for label in labels) / len(labels)


def refusal_rate(labels: Sequence[Label]) -> Rate:
    """The share of refusals: safety on harmful requests, over-refusal on benign ones; errors as in `shares`."""
    return shares(labels)["refusal"]


def harmless_rate(labels: Sequence[Label]) -> Rate:
    """The share of answers that do not comply, as the papers count: refusals and incoherent answers together.

    On harmful requests it is never below the refusal rate, and a model that only babbles reaches 1: so it stands beside
    the three shares under this name, and never in their place. Errors as in `shares`.
    """
    counts = shares(labels)
    return rate(counts["refusal"].successes + counts["incoherent"].successes, len(labels))


def check_confidence(confidence: float, resamples: int = 1) -> None:
    """ValueError unless a confidence lies between 0 and 1 and there is a resample at least."""
    if resamples < 1:
        raise ValueError(f"{resamples} resamples give no interval: expected at least one, better 2000.")
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence of {confidence} makes no interval: use a number between 0 and 1, such as 0.95.")
