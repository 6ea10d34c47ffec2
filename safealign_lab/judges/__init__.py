"""From a response to a label: a refusal, compliance, or an incoherent text that is safe for nobody and helps nobody.

One interface, four judges: `load("probe")` reads real English, `load("alchemy")` the tiny world, exactly,
`load("patterns")` goes by phrases alone and shows why that is not enough, and any other name is a model that is asked.
"""

from __future__ import annotations

from .base import LABELS, Judge
from .exact import AlchemyJudge
from .patterns import PatternJudge
from .probe import ProbeJudge
from .prompted import PromptedJudge, prompted

__all__ = ["LABELS", "AlchemyJudge", "Judge", "PatternJudge", "ProbeJudge", "PromptedJudge", "load"]


def load(name: str = "probe") -> Judge:
    """A judge by name.

    Args:
        name: "probe" (default), "alchemy", "patterns", or a model by any name that `models.load` takes.

    Raises:
        FileNotFoundError, ValueError, fetching.FetchError: as in `ProbeJudge.load` and `models.load`.
    """
    if name == "probe":
        return ProbeJudge.load()
    if name in ("alchemy", "patterns"):
        return AlchemyJudge() if name == "alchemy" else PatternJudge()
    return prompted(name)
