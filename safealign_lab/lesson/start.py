"""The first line of each lesson: which versions, device and tier this is, and how long it will take."""

from __future__ import annotations

import logging
import os
import platform
import warnings
from dataclasses import dataclass
from importlib import metadata

from .. import __version__
from .show import show_table

TIERS = ("tiny", "small", "gpu")
SECONDS = {"tiny": 60, "small": 900, "gpu": 900}  # that a whole notebook may run
PACKAGES = ("torch", "transformers", "peft", "datasets", "plotly", "ipywidgets")
SCRATCH = "scratch"  # the lesson of what is done before any was started


@dataclass(frozen=True)
class Session:
    """What a lesson runs on.

    Attributes:
        lesson: the notebook's name.
        tier: "tiny", "small" or "gpu".
        device: "cpu" or "cuda".
        seed: of the lesson's runs.
        seconds: the time budget of the whole notebook at this tier.
    """

    lesson: str
    tier: str
    device: str
    seed: int
    seconds: int


_current: Session | None = None  # a kernel runs one lesson
OLD_NAME = (
    "past_key_values"  # of the cache, which transformers 5.24 calls anew; the kit serves versions with either name
)


def chosen_tier(tier: str | None = None) -> str:
    """The tier asked for, else SAFEALIGN_TIER, else "tiny".

    Raises:
        ValueError: there is no such tier.
    """
    name = tier or os.environ.get("SAFEALIGN_TIER") or "tiny"
    if name not in TIERS:
        raise ValueError(f"There is no tier {name!r}: set SAFEALIGN_TIER or tier= to one of {', '.join(TIERS)}.")
    return name


def _without_the_old_name(record: logging.LogRecord) -> bool:
    return OLD_NAME not in record.getMessage()


def start(lesson: str, tier: str | None = None, minutes: dict[str, str] | None = None, seed: int = 0) -> Session:
    """Opens a lesson: shows versions, device, tier, seed and time, and remembers the lesson for what follows.

    It draws no random number and seeds nothing: the lesson's runs take the seed from the session.

    Args:
        lesson: the notebook's name, such as "00_start_here".
        tier: "tiny" (the alchemy world, the default), "small" (SmolLM2) or "gpu"; None asks SAFEALIGN_TIER.
        minutes: planned running time for each tier, shown with the rest.
        seed: of the lesson's runs; another one repeats them with other chances.

    Raises:
        ValueError: the lesson has no name, or there is no such tier.
    """
    import torch

    global _current
    if not lesson.strip():
        raise ValueError("A lesson needs its name: start it with the notebook's, such as '00_start_here'.")
    session = _session(lesson, tier, seed)
    rows = {"lesson": lesson, "tier": session.tier, "device": f"{session.device}, {torch.get_num_threads()} threads"}
    rows |= {"seed": str(seed), "time budget": f"at most {session.seconds} seconds for the whole notebook"}
    if minutes and session.tier in minutes:
        rows["running time"] = minutes[session.tier]
    rows["Python"] = platform.python_version()
    rows |= {package: metadata.version(package) for package in PACKAGES} | {"safealign-lab": __version__}
    show_table([{"": key, "value": value} for key, value in rows.items()])
    # a learner can do nothing about it, and it would stand in red under every third cell
    warnings.filterwarnings("ignore", message=f".*{OLD_NAME}.*", category=FutureWarning)
    logging.getLogger("transformers.utils.generic").addFilter(_without_the_old_name)
    _current = session
    return session


def current() -> Session:
    """The lesson that this kernel runs, or one named "scratch" where none was started."""
    return _current or _session(SCRATCH)


def _session(lesson: str, tier: str | None = None, seed: int = 0) -> Session:
    import torch

    name = chosen_tier(tier)
    return Session(lesson, name, "cuda" if torch.cuda.is_available() else "cpu", seed, SECONDS[name])
