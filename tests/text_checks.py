"""What tests measure of a text: its words, its opening, its skeleton, its runs of eight words, its near-duplicates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

FUNCTION_WORDS = ENGLISH_STOP_WORDS | {"did", "does", "ca", "wo"}  # of "can't" and "won't"


def words(text: str) -> list[str]:
    """The words of a text in lower case; digits are words, an apostrophe inside a word belongs to it."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def opening(text: str, length: int = 4) -> str:
    """The first words of a text."""
    return " ".join(words(text)[:length])


def skeleton(text: str) -> str:
    """A text without its matter: function words stay, every run of other words becomes one "_"."""
    kept = (word if _is_function_word(word) else "_" for word in words(text))
    return re.sub(r"_(?: _)+", "_", " ".join(kept))


def _is_function_word(word: str) -> bool:
    return bool({word, word.removesuffix("n't").partition("'")[0]} & FUNCTION_WORDS)


def grams(text: str, length: int = 8) -> set[str]:
    """Every run of so many words."""
    said = words(text)
    return {" ".join(said[start : start + length]) for start in range(len(said) - length + 1)}


def vectors(texts: Sequence[str]) -> csr_matrix:
    """TF-IDF of words and pairs of words, of length one."""
    form = TfidfVectorizer(tokenizer=words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True)
    return form.fit_transform(texts)  # (texts, words)


def runs(texts: Iterable[str]) -> set[int]:
    """The hashes of every run of eight words, for comparing with texts that nobody should be shown.

    A word or two said over and over is nobody's sentence.
    """
    return {hash(gram) for text in texts for gram in grams(text) if len(set(gram.split())) > 2}


def near_duplicates(texts: Sequence[str], threshold: float) -> list[tuple[int, int, float]]:
    """The pairs (i < j) whose vectors have a cosine of `threshold` or more."""
    found = vectors(texts)
    cosines = (found @ found.T).tocoo()  # (texts, texts)
    pairs = zip(cosines.row.tolist(), cosines.col.tolist(), cosines.data.tolist(), strict=True)
    return sorted((i, j, cosine) for i, j, cosine in pairs if i < j and cosine >= threshold)


def closest(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """For each text the largest cosine with one of the others."""
    found = vectors([*texts, *others])
    theirs = found[len(texts) :].T  # (words, others)
    blocks = [found[start : start + 2000] for start in range(0, len(texts), 2000)]  # all at once would fill the memory
    return np.concatenate([(block @ theirs).max(axis=1).toarray().ravel() for block in blocks])[: len(texts)]


def too_common(texts: Iterable[str], form: Callable[[str], Hashable], allowed: float) -> list[str]:
    """The forms (openings, skeletons, first words) that more than `allowed` of the texts share."""
    counts = Counter(map(form, texts))
    return [f"{count} times: {what!r}" for what, count in counts.most_common() if count > allowed]


def copied(texts: Iterable[tuple[str, str]], known: Collection[int]) -> list[str]:
    """The names of those (name, text) that share a run of eight words with texts of which the `runs` are known."""
    return [name for name, text in texts if not runs([text]).isdisjoint(known)]
