"""Noise in the text itself, which no training here sees: slips of fingers and eyes, at a rate of words.

Each word has a chance of its own that depends on the generator and not on the rate: what is touched at a low rate is touched
in the same way at every higher one, so a curve over rates is one text growing worse. Words are what stands between
spaces; the spaces stay where they are.

Symbols: n words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # the keys of a QWERTY keyboard, whose neighbours are left and right
_BESIDE = {key: row[max(0, at - 1) : at] + row[at + 1 : at + 2] for row in _ROWS for at, key in enumerate(row)}


def noisy(text: str, kind: str, rate: float, rng: random.Random) -> str:
    """The text with noise of one kind on a share of its words.

    - "typos": one letter of a word becomes the one beside it on the keyboard
    - "swapped_letters": two different neighbouring letters of a word change places
    - "dropped_letters": one letter of a word is missing; a word of one letter keeps it
    - "casing": a word is written in capitals, and one in capitals in small letters
    - "swapped_words": a word changes places with the next one
    - "dropped_words": a word is missing; the text's last remaining word stays

    A word that offers nothing to do so with (a number, for typos) stays as it is.

    Args:
        text: any; one without words comes back unchanged.
        kind: one of `KINDS`.
        rate: in [0, 1], the expected share of words that are touched; up = more of them. 0 changes nothing.
        rng: two of one state give one text, and it is drawn from equally often at every rate.

    Raises:
        ValueError: kind or rate is unknown.

    source: ours
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1] (a share of the words), not {rate}.")
    parts = re.split(r"(\S+)", text)  # spaces at even places, words at odd ones
    rngs = [random.Random(rng.getrandbits(64)) for _ in parts[1::2]]
    chances = [own.random() for own in rngs]  # below the rate: touched
    if kind in _LETTERS:
        touched = zip(parts[1::2], rngs, chances, strict=True)
        parts[1::2] = [_LETTERS[kind](word, own) if chance < rate else word for word, own, chance in touched]
        return "".join(parts)
    return (_swap_words if kind == "swapped_words" else _drop_words)(parts, chances, rate)


def _typo(word: str, rng: random.Random) -> str:
    places = [at for at, letter in enumerate(word) if letter.lower() in _BESIDE]
    if not places:
        return word
    at = rng.choice(places)
    key = rng.choice(_BESIDE[word[at].lower()])
    return word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]


def _swap_letters(word: str, rng: random.Random) -> str:
    places = [at for at in range(len(word) - 1) if word[at] != word[at + 1] and word[at : at + 2].isalpha()]
    if not places:
        return word
    at = rng.choice(places)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _drop_letter(word: str, rng: random.Random) -> str:
    places = [at for at, letter in enumerate(word) if letter.isalpha()]
    if not places or len(word) == 1:
        return word
    at = rng.choice(places)
    return word[:at] + word[at + 1 :]


def _other_case(word: str, rng: random.Random) -> str:
    return word.lower() if word == word.upper() else word.upper()


def _swap_words(parts: list[str], chances: list[float], rate: float) -> str:
    at = 1
    while at + 2 < len(parts):
        if chances[at // 2] < rate:
            parts[at], parts[at + 2] = parts[at + 2], parts[at]
            at += 2  # the next one has been swapped by now
        at += 2
    return "".join(parts)


def _drop_words(parts: list[str], chances: list[float], rate: float) -> str:
    words = range(1, len(parts), 2)
    last = max(words, key=lambda at: chances[at // 2], default=1)
    dropped = {at for at in words if chances[at // 2] < rate and at != last}
    gone = dropped | {at + 1 for at in dropped if at + 2 < len(parts)}  # with the space behind it
    return "".join(part for at, part in enumerate(parts) if at not in gone)


_LETTERS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": _typo, "swapped_letters": _swap_letters, "dropped_letters": _drop_letter, "casing": _other_case,
}  # fmt: skip
KINDS = (*_LETTERS, "swapped_words", "dropped_words")
