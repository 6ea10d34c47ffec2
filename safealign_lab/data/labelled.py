"""Labelled answers, by which a judge is tuned and measured: PyRIT's, by people, and SmolLM2's own, by the kit's readers.

PyRIT's human labels (Microsoft, MIT) are read from a pinned wheel; their responses never leave this machine's memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TypedDict, get_args

from scipy.sparse.csgraph import connected_components

from .. import fetching
from ..alchemy.grader import Label
from .records import from_csv, from_json_lines, likeness, texts
from .schema import DataError, malformed
from .third_party import wheel_card

PARTS = ("tune", "report")  # by which a judge is made, and on which it is measured, once
VALIDATION = "validation"  # by which one of several judges is chosen; of SmolLM2's answers alone
NEAR = 0.5  # up = fewer responses count as one
PYRIT = wheel_card(
    "pyrit", "PyRIT's refusal scorer evaluation", "answers of several models that people marked as refusals or not",
    files=fetching.WHEELS["pyrit"].members, columns_read=("objective", "assistant_response", "human_score"),
    never_read="data_type, which is always text", rows=169,
    sha256="660ee0da8b33813c93fc47b37c712526057ba26fee5616d61085ee3dc57ae9de", test_only=False,
)  # fmt: skip


class Answer(TypedDict):
    """A request, a response to it, and whether people called that a refusal."""

    id: str
    request: str
    response: str
    refusal: bool
    part: str


def pyrit(part: str | None = None) -> list[Answer]:
    """PyRIT's labelled answers, each pair of request and response once; its files overlap.

    A response may stand under several requests, once as a refusal and once not, so all rows with one response, and with
    near-duplicates of it, are in one part (source: ours): what a judge is tuned on is not what it is measured on.

    Args:
        part: "tune" for choosing and training a judge, "report" for its one measurement, None for both.

    Raises:
        DataError: an unknown part, a malformed row, or a pair that is labelled both ways.
        fetching.FetchError: the wheel is not in the cache and cannot be fetched.
    """
    _check_part(part)
    firsts: dict[tuple[str, str], Answer] = {}
    for row in _pyrit_rows():
        first = firsts.setdefault((row["request"], row["response"]), row)
        if first["refusal"] != row["refusal"]:
            raise DataError(f"{row['id']} and {first['id']} are one answer with two labels; use the pinned version.")
    places = _places([row["response"] for row in firsts.values()])
    return [
        row | {"part": places[row["response"]]} for row in firsts.values() if part in (None, places[row["response"]])
    ]


def _places(responses: Sequence[str]) -> dict[str, str]:
    """The part of each response: drawn by hash for each group whose TF-IDF vectors of words and pairs have a cosine >= ½."""
    each = sorted(set(responses), key=str.split)
    if not each:
        return {}
    _, groups = connected_components(likeness(each, each) >= NEAR, directed=False)
    firsts = {group: text for text, group in zip(reversed(each), reversed(groups), strict=True)}
    odd = {group: hashlib.sha256(" ".join(text.split()).encode()).digest()[0] % 2 for group, text in firsts.items()}
    return {text: PARTS[odd[group]] for text, group in zip(each, groups, strict=True)}


def _check_part(part: str | None, parts: Sequence[str] = PARTS) -> None:
    if part not in (None, *parts):
        raise DataError(f"There is no part {part!r}: expected one of {', '.join(parts)}, or None for all.")


def _pyrit_rows() -> Iterator[Answer]:
    for file, text in texts(PYRIT.package, PYRIT.files):
        for number, record in enumerate(from_csv(file, text, PYRIT.columns_read)):
            response, score = record.text("assistant_response"), record.text("human_score")
            if score not in ("0", "1"):
                raise malformed(f"{record.where}, field 'human_score'", "neither 0 nor 1")
            yield Answer(
                id=f"{file.rpartition('/')[2]}/{number}", request=record.text("objective"), response=response,
                refusal=score == "1", part="",
            )  # fmt: skip


class Reading(TypedDict):
    """What readers called one answer of SmolLM2: the request's id, how it was asked, and the label they settled on."""

    id: str
    request: str
    part: str
    condition: str
    label: Label
    annotators: list[Label]
    first_tokens: str
    sha256: str


class Case(TypedDict):
    """A request and a response written for the judge, as a trap or as a plain example; `style` names the trap."""

    id: str
    request: str
    response: str
    label: Label
    style: str
    part: str


def smollm2(part: str | None = None) -> list[Reading]:
    """The readers' labels of SmolLM2's own answers; the answers themselves are made anew (`judges.asked.again`).

    Args:
        part: "tune" (the kit's own training and validation requests), "validation" (third-party requests and other
            prompts, two annotators) or "report" (third-party requests and the kit's own test requests, other prompts
            again, two annotators whose differences a third reading settled before any judge was run); None for all.

    Raises:
        DataError: an unknown part, or a malformed row.
    """
    _check_part(part, (*PARTS, VALIDATION))
    return [row for row in _own("judge/smollm2.jsonl") if part in (None, row["part"])]  # type: ignore[misc]


def cases(part: str | None = None) -> list[Case]:
    """The written cases; "tune" and "report" were written by two writers who did not see each other's."""
    _check_part(part)
    return [row for row in _own("judge/cases.jsonl") if part in (None, row["part"])]  # type: ignore[misc]


def _own(file: str) -> Iterator[dict[str, object]]:
    text = (fetching.data_folder() / file).read_text(encoding="utf-8")
    for record in from_json_lines(f"data/{file}", text):
        if record.text("label") not in get_args(Label) or record.text("part") not in (*PARTS, VALIDATION):
            raise malformed(record.where, "a label or a part that there is not")
        yield record.fields
