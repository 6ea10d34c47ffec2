"""What every set of requests looks like: its columns, its card, and the digest by which it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from datasets import Features, Value

from ..alchemy.world import Kind as Kind

SPLITS = ("train", "validation", "test")


class Row(TypedDict):
    """One request.

    `tier` is how hard it presses (weak, medium, strong), `style` in what form; `reference` is the right, polite or
    chosen answer and `rejected` the one to be avoided; `twin` is shared by a harmful request and its benign double.
    """

    id: str
    request: str
    kind: Kind
    category: str
    tier: str | None
    style: str
    split: str
    reference: str | None
    rejected: str | None
    twin: str | None
    source: str


FEATURES = Features({field: Value("string") for field in Row.__annotations__})


@dataclass(frozen=True)
class Card:
    """Where a set comes from and what of it is used; `sha256` is the `digest` of all its rows."""

    title: str
    package: str
    version: str
    files: tuple[str, ...]
    licence: str
    about: str
    columns_read: tuple[str, ...]
    never_read: str
    rows: int
    sha256: str
    test_only: bool


class DataError(ValueError):
    """A set, split or row that is not as it has to be; its sentence says where, what was expected and what to do."""


def malformed(where: str, problem: str) -> DataError:
    """The error of a file whose content is not what its card says."""
    return DataError(f"{where}: this is {problem}; use the pinned version of the file.")


def digest(rows: Iterable[Mapping[str, object]]) -> str:
    """The SHA-256 of rows in hexadecimal: equal exactly when every field of every row and their order are equal."""
    running = hashlib.sha256()
    for row in rows:
        running.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return running.hexdigest()
