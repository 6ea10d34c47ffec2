"""Run cards: what a stored result was made with, so that it can be made again, and so that a stale one is known."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .. import __version__, fetching

KIT = __name__.partition(".")[0]
STORING = tuple(f"{KIT}.studies{part}" for part in ("", ".runner", ".cards", ".catalogue"))
LIBRARIES = ("torch", "transformers", "peft", "datasets", "numpy")


def code_hash(run: str) -> str:
    """SHA-256 over names and text of the kit's modules that a run rests on: its own, and all that this one imports in turn.

    So an edit elsewhere makes no stored result stale. The modules that run and store studies are left out: they decide where
    a result is kept and not what it is.

    Args:
        run: "package.module:function", as in `Study`.
    """
    digest = hashlib.sha256()
    for name, file in sorted(_rests_on(run.partition(":")[0]).items()):
        text = file.read_text(encoding="utf-8").encode()  # line ends as \n on every system
        digest.update(f"{name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def _rests_on(module: str) -> dict[str, Path]:
    """The module and every module of the kit that it imports, directly or not, each with its file."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        file = _file(name)
        if name not in found and name not in STORING and file is not None:
            found[name] = file
            todo += _imported(name, file)
    return found


def _file(module: str) -> Path | None:
    """The file of a module; None where it has none, as a notebook's own functions have."""
    if module == "__main__":
        script = getattr(sys.modules[module], "__file__", None)
        return Path(script) if script else None
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imported(module: str, file: Path) -> list[str]:
    """The kit's modules that a file imports; in `from .. import chat` the name itself may be one."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == KIT and _is_module(name)]


def _is_module(name: str) -> bool:
    parent = name.rpartition(".")[0]
    if parent and not (_is_module(parent) and importlib.util.find_spec(parent).submodule_search_locations):  # type: ignore[union-attr]
        return False
    return importlib.util.find_spec(name) is not None


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
