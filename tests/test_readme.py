"""The README's findings are the ledger's, its map names every notebook, and its pictures are there, light and described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safealign_lab.lesson.ledger import Store
from safealign_lab.lesson.ledger_claims import entries

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| ([dci]\d+) \| (.+) \| ([+-]\d\.\d\d) \[([+-]\d\.\d\d), ([+-]\d\.\d\d)\] \| ([a-z ]+) \|$", re.MULTILINE
)
ROWS = ROW.findall(README)


def test_each_paper_has_findings():
    assert {key[0] for key, *_ in ROWS} == {"d", "c", "i"}
    assert len(ROWS) == len({key for key, *_ in ROWS}) >= 9
    assert len(re.findall(r"^\| [dci]\d+ \|", README, re.MULTILINE)) == len(ROWS)


@pytest.fixture(scope="module")
def ledger():
    return {one.claim.key: one for one in entries(Store())}


@pytest.mark.parametrize("row", ROWS, ids=[key for key, *_ in ROWS])
def test_a_finding_is_what_the_ledger_says_today(row, ledger):
    key, said, *numbers, verdict = row
    entry = ledger[key]
    assert said.lower() == f"{entry.claim.says} ({entry.claim.asks})".lower()
    assert entry.finding is not None
    found = entry.finding.value, entry.finding.low, entry.finding.high
    assert [f"{number:+.2f}" for number in found] == numbers
    assert entry.verdict == verdict


def test_the_map_names_every_notebook():
    named = set(re.findall(r"\(notebooks/([\w.]+\.ipynb)\)", README))
    assert named == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_pictures_are_there_in_words_too_and_light():
    pictures = re.findall(r"!\[([^\]]*)\]\((data/pictures/[\w.]+\.png)\)", README)
    assert len(pictures) >= 4
    assert all(len(words) > 60 for words, _ in pictures)
    assert sum((ROOT / path).stat().st_size for _, path in pictures) < 1_500_000
