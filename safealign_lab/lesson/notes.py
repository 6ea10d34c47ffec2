"""The learner's own store: notes, predictions, exercises and claims in one file, kept from one notebook to the next.

Whatever happens to that file, a lesson goes on: a damaged one is set aside, and a folder that cannot be written is told once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_data_path

from .show import show_text

FILE = "progress.json"
OLD_FILE = "notes.json"  # held notes alone, in a former version; read while there is no FILE
PATIENCE = 10.0  # seconds to wait for another notebook that is writing; more makes a stuck one hold this one up longer
FIELDS: dict[str, type] = {
    "lesson": str, "name": str, "date": str, "outcome": str, "verdict": str, "attempts": int, "minutes": int,
    "hints": list, "solution": bool, "question": str, "options": list, "answer": str, "measured": str, "value": str,
}  # fmt: skip

Record = dict[str, Any]  # of one exercise, prediction or claim: some of FIELDS
Store = dict[str, dict[str, Any]]  # "notes": name → text; "exercises", "predictions", "claims": lesson/name → record


def notes_folder() -> Path:
    """The learner's folder: SAFEALIGN_PROGRESS where it is set, else the user's data folder."""
    chosen = os.environ.get("SAFEALIGN_PROGRESS")
    return Path(chosen) if chosen else user_data_path("safealign-lab", appauthor=False)


def read() -> Store:
    """All that is kept, or nothing; that the folder cannot be used is told once."""
    folder = notes_folder()
    try:
        return _locked(lambda store: False) if folder.exists() else {}
    except OSError as error:
        _tell(str(error))
    try:
        return _parsed(folder / FILE) or {}  # it may still be read where it cannot be written
    except OSError:
        return {}


def record(kind: str, lesson: str, name: str, change: Callable[[Record], Record]) -> Record:
    """Changes the record of one thing and returns it as it is now, with its lesson, its name and the date of the change.

    Where the folder cannot be written this is told once, and the lesson goes on with a record that is not kept.

    Args:
        kind: "exercises", "predictions" or "claims".
        lesson, name: which one.
        change: from the record as it was ({} at first) to what it becomes; the same again writes nothing.
    """
    key, now = f"{lesson}/{name}", datetime.now(timezone.utc).isoformat(timespec="seconds")
    news: Record = {}

    def _edit(store: Store) -> bool:
        old = store.setdefault(kind, {}).get(key, {})
        news.update(change(dict(old)))
        if news == old:
            return False
        news.update(lesson=lesson, name=name, date=now)
        store[kind][key] = dict(news)
        return True

    try:
        _locked(_edit)
    except OSError as error:
        _tell(str(error))
        if not news:
            _edit({})
    return news


def keep(name: str, text: str) -> None:
    """Keeps a text under a name for a later notebook; what was kept there before is replaced.

    Raises:
        OSError: the folder cannot be written; the message names it and the variable that moves it.
    """

    def _edit(store: Store) -> bool:
        store.setdefault("notes", {})[name] = str(text)
        return True

    _locked(_edit)


def kept(name: str, default: str = "") -> str:
    """The text kept under a name, or the default."""
    return str(read().get("notes", {}).get(name, default))


def _locked(edit: Callable[[Store], bool]) -> Store:
    # one notebook at a time: the store as `edit` leaves it, written where `edit` says that it changed
    folder = notes_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock", timeout=PATIENCE):
            store = _load(folder)
            if edit(store):
                partial = folder / f"{FILE}.partial"
                partial.write_text(json.dumps(store, indent=1), encoding="utf-8")
                os.replace(partial, folder / FILE)  # whole or not at all, also when the machine stops here
            return store
    except (OSError, NotImplementedError) as error:  # NotImplementedError: some network drives have no locks
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"Nothing can be kept in {folder} ({reason}): set SAFEALIGN_PROGRESS to a folder you can write."
        ) from error


def _load(folder: Path) -> Store:
    file = folder / FILE
    if file.exists():
        store = _parsed(file)
        if store is not None:
            return store
        aside = (folder / f"progress.damaged-{number}.json" for number in range(1, 1_000_000))
        os.replace(file, next(place for place in aside if not place.exists()))  # nothing is lost
    return {"notes": _old_notes(folder / OLD_FILE)}


def _parsed(file: Path) -> Store | None:
    try:
        store = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not text, not JSON, or nested without end
        return None
    return store if _sound(store) else None


def _sound(store: object) -> bool:
    if not isinstance(store, dict) or not all(isinstance(part, dict) for part in store.values()):
        return False
    records = [record for kind, part in store.items() if kind != "notes" for record in part.values()]
    notes = store.get("notes", {}).values()
    return all(isinstance(note, str) for note in notes) and all(
        isinstance(record, dict) and all(isinstance(record.get(field, kind()), kind) for field, kind in FIELDS.items())
        for record in records
    )


def _old_notes(file: Path) -> dict[str, str]:
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(name): str(text) for name, text in notes.items()} if isinstance(notes, dict) else {}


@cache  # once in a kernel is enough
def _tell(trouble: str) -> None:
    show_text(f"{trouble.rstrip('.')}; the lesson goes on all the same.")
