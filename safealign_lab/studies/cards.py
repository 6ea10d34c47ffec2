"""Run cards: what a stored result was made with, so that it can be made again, and so that a stale one is known."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__, fetching

PACKAGE = Path(__file__).resolve().parent.parent
SHOWING = ("lesson", "figures", "__main__")  # rooms that show results: an edit there makes no stored result stale
LIBRARIES = ("torch", "transformers", "peft", "datasets", "numpy")


def code_hash(package: Path = PACKAGE) -> str:
    """SHA-256 over names and text of the package's Python files, but for the rooms that only show results."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if name.removesuffix(".py").split("/")[0] not in SHOWING:
            text = file.read_text(encoding="utf-8").encode()  # line ends as \n on every system
            digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def data_hash(reads: Iterable[str]) -> str:
    """SHA-256 over names and bytes of the files that a study reads; "" where it reads none.

    Args:
        reads: paths below the kit's `data/`; a folder stands for all files in it, but for hidden ones.

    Raises:
        FileNotFoundError: a path is missing.
    """
    data, files = fetching.data_folder(), set()
    for path in reads:
        found = [data / path] if (data / path).is_file() else [f for f in (data / path).rglob("[!.]*") if f.is_file()]
        if not found:
            raise FileNotFoundError(f"A study reads {path!r}, which is not in {data}; get it with a fresh clone.")
        files.update(found)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(data).as_posix()} {fetching.sha256_of(file)}\n".encode())
    return digest.hexdigest() if files else ""


def run_card(planned: Mapping[str, Any], hashes: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """The card of a run that ends now: what was planned, what it was made with and on, and how long it took."""
    versions = {"python": platform.python_version(), "safealign_lab": __version__}
    return {
        **planned,
        "versions": versions | {name: metadata.version(name) for name in LIBRARIES},
        **hashes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 2),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
