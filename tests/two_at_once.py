"""Tests run in two processes: what belongs together stays in one, and what is timed by the clock has the machine to itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
NOTEBOOKS, BROWSER = "test_notebooks.py", "browser"


def common(base: Path) -> Path:
    """The temporary folder that all processes of one run share."""
    return base.parent if WORKER else base


def order(items: list[pytest.Item]) -> None:
    """Notebooks first, since they take longest; the browser last, since it reads back what they have trained."""
    items.sort(key=lambda item: (BROWSER in item.path.parts, item.path.name != NOTEBOOKS))


def group_of(nodeid: str) -> str:
    """What goes to one process: a file; the browser's notebooks are two groups, each with a JupyterLab of its own."""
    path, _, test = nodeid.partition("::")
    notebook = re.search(r"\[(\d)(\d)_", test)
    if BROWSER in Path(path).parts and notebook:
        return f"{path} {(int(notebook[1]) + int(notebook[2])) % 2}"
    return path


class Scheduling(LoadScopeScheduling):
    """xdist's scheduling of whole groups."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@contextmanager
def room(folder: Path, alone: bool, worker: str = WORKER or "gw0") -> Iterator[None]:
    """Holds a process's room while a test runs; one that runs alone holds all rooms, and nobody enters while it waits."""
    rooms = [f"gw{number}" for number in range(WORKERS)] if alone else [worker]
    with ExitStack() as held:
        with FileLock(folder / "gate.lock"):
            for name in rooms:
                held.enter_context(FileLock(folder / f"{name}.lock"))
        yield
