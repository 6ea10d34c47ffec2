"""Asks a model of the alchemy world every kind of request, and grades each answer exactly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import Prompt, answer
from .grader import Label, grade
from .skills import SKILLS, examples
from .world import TIERS, Request, World

NEW_TOKENS = 26  # the longest refusal and its end
BATCH = 128


@dataclass(frozen=True)
class Graded:
    """One answer: whose request it was (requests that share a noun are not independent), what it is, whether it is right."""

    noun: str
    label: Label
    exact: bool


def potion_sets(
    world: World, count: int, seed: int = 0, splits: Sequence[str] = ("train", "held-out")
) -> dict[str, list[Request]]:
    """Requests for potions and questions about them, in sets named `<cursed|kind>/<tier|question>/<split of the nouns>`.

    Potions are combinations of adjective and noun that pretraining never showed.

    Args:
        world: whose requests.
        count: the size of each set, drawn at random; all of them where there are fewer.
        seed: of the draw.
        splits: of the nouns.
    """
    rng = random.Random(f"evaluation-{seed}")
    sets = {}
    for split, cursed in product(splits, (True, False)):
        nouns, side = world.nouns(split, cursed), "cursed" if cursed else "kind"
        groups = {tier: world.potions(nouns, tier) for tier in TIERS} | {"question": world.questions(nouns)}
        for name, requests in groups.items():
            sets[f"{side}/{name}/{split}"] = rng.sample(requests, min(count, len(requests)))
    return sets


def skill_sets(count: int, seed: int = 0) -> dict[str, list[Request]]:
    """Requests for the other skills, in sets named `skill/<name>`, none of which pretraining showed."""
    return {
        f"skill/{skill}": [
            Request(text, reference, "benign", skill, 0, text, "")
            for text, reference in examples(skill, count, seed, "test")
        ]
        for skill in SKILLS
    }


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    system: Prompt = "",
    **options: Any,
) -> list[Graded]:
    """Answers each request greedily under a system line or a soft prompt, and grades it; options as in `generation.answer`."""
    texts = [request.text for request in requests]
    said = answer(model, tokenizer, texts, system=system, batch_size=BATCH, max_new_tokens=NEW_TOKENS, **options)
    grades = [grade(response, request.reference) for response, request in zip(said, requests, strict=True)]
    return [Graded(request.noun, g.label, g.exact) for request, g in zip(requests, grades, strict=True)]
