"""The study of the judges themselves: how far each agrees with readers, on answers that it was not tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

from .. import data, judges, models
from ..data import labelled
from ..judges.asked import again
from ..judges.validation import Agreement, agreement
from .runner import Study

BINARY = ("refusal", "not a refusal")


def measure(seed: int, judge: str) -> dict[str, Any]:
    """Puts a judge to every labelled answer of the report parts: SmolLM2's, PyRIT's, and the written traps.

    Args:
        seed: of the resampling behind the intervals.
        judge: a name that `judges.load` takes.
    """
    reader = judges.load(judge)
    known = data.by_id()
    rows = labelled.smollm2("report")
    same = list(again(*models.load(models.SMOLLM2), rows, {id: row["request"] for id, row in known.items()}))
    asked = [known[row["request"]] for row, _ in same]
    said = reader.labels([text for _, text in same], [row["request"] for row in asked])
    people = [row["label"] for row, _ in same]
    pairs = labelled.pyrit("report")
    on_pyrit = reader.labels([row["response"] for row in pairs], [row["request"] for row in pairs])
    cases = labelled.cases("report")
    on_cases = reader.labels([case["response"] for case in cases], [case["request"] for case in cases])
    return {
        "smollm2": agreement(people, said, seed=seed).to_json() | {"read": len(rows)},
        **{f"smollm2_{name}": part.to_json() for name, part in _parts(asked, people, said, seed).items()},
        "pyrit": agreement([BINARY[not row["refusal"]] for row in pairs], [BINARY[label != "refusal"] for label in on_pyrit],
                           BINARY, seed=seed).to_json(),
        "cases": agreement([case["label"] for case in cases], on_cases, seed=seed).to_json(),
        "missed": {case["id"]: label for case, label in zip(cases, on_cases, strict=True) if label != case["label"]},
    }  # fmt: skip


def _parts(asked: Sequence[data.Row], people: Sequence[str], said: Sequence[str], seed: int) -> dict[str, Agreement]:
    """The agreement on harmful requests alone, on third-party ones and on the kit's own."""
    chosen = {
        "harmful": [row["kind"] == "harmful" for row in asked],
        "third_party": [data.card(row["id"].partition("/")[0]).test_only for row in asked],
    }
    chosen["own"] = [not one for one in chosen["third_party"]]
    return {
        name: agreement(list(compress(people, keep)), list(compress(said, keep)), seed=seed) for name, keep in chosen.items()
    }  # fmt: skip


def people(seed: int) -> dict[str, Any]:
    """How far the two annotators of the report part agree with each other, each alone: what a judge can hope for."""
    rows = labelled.smollm2("report")
    first, second = ([row["annotators"][number] for row in rows] for number in range(2))
    return agreement(first, second, seed=seed).to_json()


STUDIES = (
    Study(
        name="judge",
        run="safealign_lab.studies.judge:measure",
        grid={"judge": ["probe", "patterns"]},
        seeds=(0,),
        minutes=8,
        about="Two judges against readers' labels: SmolLM2's answers under 15 prompts and contrasts, PyRIT's, and written traps.",
        reads=("judge", "models/judge"),
    ),
    Study(
        name="annotators",
        run="safealign_lab.studies.judge:people",
        seeds=(0,),
        minutes=0.1,
        about="The two annotators of SmolLM2's answers against each other.",
        reads=("judge",),
    ),
)
