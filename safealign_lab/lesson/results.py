"""A study's results for a notebook: the stored ones at once, or, at the flip of a switch, runs made here and now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..fetching import cache_folder
from ..studies import load, select
from ..studies.catalogue import find
from ..studies.runner import Row

RECOMPUTED = "recomputed"  # beside the kit's own results, never over them
RUNS = "runs"


def results(name: str, recompute: bool = False, where: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a study by their seeds: settings, seed, result and run card.

    Args:
        name: of the study.
        recompute: False shows what the kit ships. True makes the runs again on this machine, with a progress bar, and keeps
            them in the cache folder; stopped, it goes on where it was, and stale runs are made anew.
        where: only the rows with these settings.
    """
    wanted = dict(where or {})
    if not recompute:
        return sorted(select(load(name), **wanted), key=lambda row: int(row["seed"]))
    study = find(name)
    grid: list[dict[str, Any]] = []
    for unit in study.units:
        if wanted.items() <= unit.settings.items() and unit.settings not in grid:
            grid.append(dict(unit.settings))
    part = replace(study, grid=grid)
    return part.execute(folder=cache_folder() / RECOMPUTED, refresh=True)


def run_folder(fingerprint: str) -> Path:
    """Where a run's checkpoint is kept in the cache folder: made once, it is read back the next time.

    Args:
        fingerprint: what tells this run from every other, such as `contrast.recipes.fingerprint`.
    """
    return cache_folder() / RUNS / fingerprint
