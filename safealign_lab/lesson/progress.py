"""What a learner has done in all notebooks: as a table to look at, and as a file that a teacher can collect."""

from __future__ import annotations

import csv
import getpass
import io
import json
import os
from pathlib import Path
from typing import Any

from .exercise import BLANK, RIGHT, exercises
from .notes import Store, read
from .show import show_table, show_text
from .start import SCRATCH

COLUMNS = (
    "learner", "lesson", "kind", "name", "outcome", "attempts", "hints", "solution_shown", "minutes_planned", "date"
)  # fmt: skip
KINDS = {"exercises": "exercise", "predictions": "prediction", "claims": "claim"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins with one of these

Row = dict[str, Any]


def progress(export: str | Path | None = None) -> None:
    """Shows what is done, lesson by lesson; and writes it to a file, one row for each exercise, prediction and claim.

    Args:
        export: a file ending in .csv (for a spreadsheet) or .jsonl; one that is there is replaced.

    Raises:
        ValueError: the file ends in something else.
        OSError: it cannot be written.
    """
    file = _checked(export)
    rows = items(read())
    show_table(summary(rows))
    if file is not None:
        _write(file, _csv(rows) if file.suffix.lower() == ".csv" else "".join(f"{json.dumps(row)}\n" for row in rows))
        show_text(f"Written: `{file}`, {len(rows)} rows.")


def items(store: Store) -> list[Row]:
    """One row for each exercise of the kit, tried or not, and for each prediction and claim that was made; see COLUMNS."""
    planned = exercises()
    lessons = {name: exercise.lesson or SCRATCH for name, exercise in planned.items()}
    seen = {record.get("name") for record in store.get("exercises", {}).values()}
    rows = [
        _row("exercise", {"lesson": lessons[name], "name": name, "minutes": exercise.minutes, "outcome": BLANK})
        for name, exercise in planned.items()
        if name not in seen
    ]
    for kind, word in KINDS.items():
        rows += [_row(word, record) for record in store.get(kind, {}).values()]
    return sorted(rows, key=lambda row: (row["lesson"], row["kind"], row["name"]))


def summary(rows: list[Row]) -> list[dict[str, str]]:
    """One row for each lesson: exercises right of all, predictions right of those made, hints and solutions looked at."""
    table = []
    for lesson in sorted({row["lesson"] for row in rows}):
        here = [row for row in rows if row["lesson"] == lesson]
        tasks = [row for row in here if row["kind"] == "exercise"]
        made = [row for row in here if row["kind"] == "prediction" and row["outcome"] != "no prediction"]
        table.append(
            {
                "lesson": lesson,
                "exercises right": f"{sum(row['outcome'] == RIGHT for row in tasks)} of {len(tasks)}",
                "predictions": f"{len(made)}, {sum(row['outcome'] == RIGHT for row in made)} right",
                "hints": str(sum(row["hints"] for row in tasks)),
                "solutions shown": str(sum(row["solution_shown"] for row in tasks)),
            }
        )
    return table


def _row(kind: str, record: dict[str, Any]) -> Row:
    return {
        "learner": _learner(),
        "lesson": record.get("lesson", ""),
        "kind": kind,
        "name": record.get("name", ""),
        "outcome": record.get("outcome", BLANK),
        "attempts": record.get("attempts", 0),
        "hints": len(record.get("hints", [])),
        "solution_shown": record.get("solution", False),
        "minutes_planned": record.get("minutes", 0),
        "date": record.get("date", ""),
    }


def _learner() -> str:
    chosen = os.environ.get("SAFEALIGN_LEARNER")
    try:
        return chosen or getpass.getuser()
    except (OSError, KeyError, ImportError):  # a machine that has no name for its user
        return "learner"


def _checked(export: str | Path | None) -> Path | None:
    if export is None:
        return None
    file = Path(export)
    if file.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"Progress is written to a file ending in .csv or .jsonl, not {file.name!r}.")
    return file


def _csv(rows: list[Row]) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _defused(cell) for name, cell in row.items()} for row in rows)
    return out.getvalue()


def _defused(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _write(file: Path, text: str) -> None:
    # the mark at a CSV file's beginning tells a spreadsheet that it is UTF-8
    encoding = "utf-8-sig" if file.suffix.lower() == ".csv" else "utf-8"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode(encoding, errors="replace"))
    except OSError as error:
        raise OSError(
            f"Progress cannot be written to {file} ({error}): name a file in a folder you can write."
        ) from error
