"""Safety, over-refusal and helpfulness as numbers, never without n and how far they can be trusted."""

from __future__ import annotations

from .comparison import Difference, difference, undominated
from .helpfulness import is_right, reference_logps, similarity
from .intervals import Paired, cluster_bootstrap, corrected, grouped_rate, over_seeds, paired
from .rates import Interval, Rate, harmless_rate, rate, refusal_rate, refusal_share, shares, wilson

__all__ = [
    "Difference", "Interval", "Paired", "Rate", "cluster_bootstrap", "corrected", "difference", "grouped_rate", "harmless_rate",
    "is_right", "over_seeds", "paired", "rate", "reference_logps", "refusal_rate", "refusal_share", "shares", "similarity",
    "undominated", "wilson",
]  # fmt: skip
