"""Two rates of separate samples beside one another, and which of several methods no other beats in everything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .rates import Rate


@dataclass(frozen=True)
class Difference:
    """Second share minus first, of separate samples; written as "+0.12 [-0.01, +0.24]"."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def difference(first: Rate, second: Rate) -> Difference:
    """By how much two shares differ that come from different samples, or whose single answers were not published.

    With d = p₂ - p₁ and the Wilson limits l, u of each: from d - √((p₂ - l₂)² + (u₁ - p₁)²) to d + √((u₂ - p₂)² + (p₁ - l₁)²)
    (Newcombe 1998, method 10). Where both methods answered the same requests and every answer is known, `paired` tells more.

    Args:
        first, second: of `rate`; larger samples make the interval narrower. It has the confidence that theirs have.
    """
    d = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Difference(d, d - down, d + up)


def undominated(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The methods that no other beats: none is at least as safe and as cheap, and better in one of the two.

    Args:
        points: name → (safety, price); more safety is better, a lower price is better.

    Returns:
        Their names, from the safest to the cheapest.
    """
    kept = [
        name
        for name, (safety, price) in points.items()
        if not any(s >= safety and p <= price and (s, p) != (safety, price) for s, p in points.values())
    ]
    return sorted(kept, key=lambda name: points[name], reverse=True)
