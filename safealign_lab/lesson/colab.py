"""Brings the kit onto Colab: installs only what is missing, and never touches torch or numpy.

Run as a script from the clone, before anything of the kit is importable, so it needs nothing but Python and `packaging`.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
UNTOUCHED = ("torch", "numpy")  # Colab's own builds know its GPU
NOT_THERE = (
    "jupyterlab",
    "nbclient",
    "nbformat",
)  # Colab shows notebooks itself, and the kernel that runs must stay as it is


def missing(requirements: str) -> list[str]:
    """The lines of a requirements file that Colab does not meet, without torch, numpy, JupyterLab and the kit itself."""
    wanted = [line.split("#")[0].strip() for line in requirements.splitlines()]
    parsed = [Requirement(line) for line in wanted if line and not line.startswith("-")]
    return [str(need) for need in parsed if need.name not in (*UNTOUCHED, *NOT_THERE) and not _met(need)]


def _met(need: Requirement) -> bool:
    try:
        return need.specifier.contains(metadata.version(need.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def commands(root: Path) -> list[list[str]]:
    """The pip commands to run: one for what is missing (if anything is), one for the kit without its dependencies."""
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    lacking = missing((root / "requirements.txt").read_text())
    held = [f"{name}=={metadata.version(name)}" for name in UNTOUCHED]  # or a dependency could bring another one
    kit = [*pip, "--no-deps", "-e", str(root)]
    return [[*pip, *lacking, *held], kit] if lacking else [kit]


if __name__ == "__main__":
    for command in commands(ROOT):
        subprocess.run(command, check=True)
