"""Four kinds of short text with a pleased or displeased writer: what the distillation lessons learn at tier "tiny".

A text has one or two clauses. Each clause has a polarity: the strength of its word, scaled by "very" or "rather", turned and
weakened by "not". Around "but" the second clause decides, around "although" the first. The label is drawn from
P(pleased) = σ(1.5 · score), so that texts near zero are truly ambiguous and a calibrated teacher has something to say that a hard
label does not.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from .words import HERBS, KIND_NOUNS, NAMES

DOMAINS = ("review", "letter", "tavern", "notice")
LABELS = ("displeased", "pleased")  # the index is the class

STRENGTHS = {  # how pleased a word is
    "superb": 3.0, "splendid": 3.0, "lovely": 2.4, "good": 1.8, "pleasant": 1.8, "decent": 1.0, "usual": 0.3,
    "plain": -0.6, "weak": -1.4, "poor": -1.8, "nasty": -2.4, "awful": -3.0, "dreadful": -3.0,
}  # fmt: skip
DOMAIN_STRENGTHS = {  # words that mean something in one place only
    "review": {"potent": 2.2, "watery": -2.2}, "letter": {"dear": 2.2, "hurtful": -2.2},
    "tavern": {"merry": 2.2, "rowdy": -2.2}, "notice": {"prompt": 2.2, "overdue": -2.2},
}  # fmt: skip
SCALES = {"": 1.0, "very": 1.5, "rather": 0.6, "not": -0.7, "never": -0.9}
SUBJECTS = {
    "review": ("taste", "smell", "bottle", "potion", "cork"), "letter": ("visit", "news", "gift", "supper", "answer"),
    "tavern": ("ale", "singing", "stew", "company", "fire"), "notice": ("delivery", "meeting", "work", "payment", "roof"),
}  # fmt: skip
SHARPNESS = 1.5  # up = clearer texts: fewer that nobody could decide
JOINS = {"and": (1.0, 1.0), "but": (0.3, 1.5), "although": (1.5, 0.3)}  # weights of the first and the second clause


@dataclass(frozen=True)
class Text:
    """A short text, its domain, its class and the probability that its writer is pleased."""

    text: str
    domain: str
    label: int
    probability: float


def _clause(rng: random.Random, domain: str) -> tuple[str, float]:
    strengths = STRENGTHS | DOMAIN_STRENGTHS[domain]
    word = rng.choice(list(strengths))
    scale = rng.choices(list(SCALES), weights=(5, 2, 2, 3, 1))[0]
    said = " ".join(["the", rng.choice(SUBJECTS[domain]), "was", scale, word]).replace("  ", " ")
    return said, SCALES[scale] * strengths[word]


def _frame(rng: random.Random, domain: str, body: str) -> str:
    first, second = rng.sample(NAMES, 2)
    return {
        "review": f"about the {rng.choice(KIND_NOUNS)} potion : {body} .",
        "letter": f"dear {first} , {body} . yours , {second} .",
        "tavern": f"{first} says over the {rng.choice(HERBS)} stew : {body} .",
        "notice": f"from the guild to all : {body} .",
    }[domain]


def write(rng: random.Random, domain: str) -> Text:
    """One text of a domain, drawn from `rng`.

    P(pleased) = σ(1.5 (w₁ s₁ + w₂ s₂)), with the clauses' polarities s and the weights of the word that joins them.
    """
    body, score = _clause(rng, domain)
    if rng.random() < 0.7:
        join = rng.choice(list(JOINS))
        more, second = _clause(rng, domain)
        first_weight, second_weight = JOINS[join]
        body, score = f"{body} {join} {more}", first_weight * score + second_weight * second
    probability = 1 / (1 + math.exp(-SHARPNESS * score))
    return Text(_frame(rng, domain, body), domain, int(rng.random() < probability), probability)


def texts(domain: str, count: int, seed: int | str, balanced: bool = True) -> list[Text]:
    """`count` different texts of a domain, as many of each class where `balanced`, the same for the same seed."""
    if domain not in DOMAINS:
        raise ValueError(f"There is no kind of text {domain!r}: expected one of {', '.join(DOMAINS)}.")
    rng = random.Random(f"{domain}-{seed}")
    found: dict[str, Text] = {}
    room = [count - count // 2, count // 2] if balanced else [count, count]
    while len(found) < count:
        text = write(rng, domain)
        if text.text not in found and room[text.label] > 0:
            room[text.label] -= 1
            found[text.text] = text
    return list(found.values())
