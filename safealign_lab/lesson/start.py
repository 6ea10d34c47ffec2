"""The first line of each lesson: which versions, device and tier this is, and how long it will take."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

from .. import __version__
from .show import show_table

TIERS = ("tiny", "small", "gpu")
PACKAGES = ("torch", "transformers", "peft", "datasets", "plotly", "ipywidgets")


@dataclass(frozen=True)
class Session:
    """What a lesson runs on: its name, tier and device."""

    lesson: str
    tier: str
    device: str


def chosen_tier(tier: str | None = None) -> str:
    """The tier asked for, else SAFEALIGN_TIER, else "tiny".

    Raises:
        ValueError: there is no such tier.
    """
    name = tier or os.environ.get("SAFEALIGN_TIER") or "tiny"
    if name not in TIERS:
        raise ValueError(f"There is no tier {name!r}: set SAFEALIGN_TIER or tier= to one of {', '.join(TIERS)}.")
    return name


def start(lesson: str, tier: str | None = None, minutes: dict[str, str] | None = None) -> Session:
    """Opens a lesson: shows versions, device, tier and planned time, and changes nothing else.

    Args:
        lesson: the notebook's name, such as "00_start_here".
        tier: "tiny" (the alchemy world, the default), "small" (SmolLM2) or "gpu"; None asks SAFEALIGN_TIER.
        minutes: planned running time for each tier, shown with the rest.
    """
    import torch

    name = chosen_tier(tier)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = {"lesson": lesson, "tier": name, "device": f"{device}, {torch.get_num_threads()} threads"}
    if minutes and name in minutes:
        rows["running time"] = minutes[name]
    rows["Python"] = platform.python_version()
    rows |= {package: metadata.version(package) for package in PACKAGES} | {"safealign-lab": __version__}
    show_table([{"": key, "value": value} for key, value in rows.items()])
    return Session(lesson, name, device)
