"""What a learner wrote or chose, kept in their own folder from one notebook to the next."""

from __future__ import annotations

import json
import os
from pathlib import Path

from filelock import FileLock
from platformdirs import user_data_path

FILE = "notes.json"


def notes_folder() -> Path:
    """The learner's folder: SAFEALIGN_PROGRESS where it is set, else the user's data folder."""
    chosen = os.environ.get("SAFEALIGN_PROGRESS")
    return Path(chosen) if chosen else user_data_path("safealign-lab", appauthor=False)


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        notes = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        notes = None
    if not isinstance(notes, dict):  # damaged: set aside, so that nothing is lost and the lesson goes on
        os.replace(file, file.with_suffix(".damaged"))
        return {}
    return {str(key): str(value) for key, value in notes.items()}


def keep(name: str, text: str) -> None:
    """Keeps a text under a name for a later notebook; what was kept there before is replaced.

    Raises:
        OSError: the folder cannot be written; the message names it and the variable that moves it.
    """
    folder = notes_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{FILE}.lock"):
            notes = _read(folder / FILE) | {name: text}
            partial = folder / f"{FILE}.partial"
            partial.write_text(json.dumps(notes, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(partial, folder / FILE)
    except OSError as error:
        raise OSError(
            f"Notes cannot be kept in {folder} ({error}): set SAFEALIGN_PROGRESS to a folder you can write."
        ) from error


def kept(name: str, default: str = "") -> str:
    """The text kept under a name, or the default."""
    return _read(notes_folder() / FILE).get(name, default)
