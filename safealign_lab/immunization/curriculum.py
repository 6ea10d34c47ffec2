"""What the two phases learn from in the alchemy world: refusals from weak requests to strong ones, then preferred answers.

Everything is about training nouns, and no row has the wording of a tier that is kept for tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..alchemy import skills, voices
from ..alchemy.world import TIERS, World

Order = Literal["rising", "mixed", "falling"]
LEVELS = tuple(TIERS)  # weak, medium, strong


@dataclass(frozen=True)
class Preference:
    """Two answers to one request, of which the first is preferred.

    Attributes:
        level: of the curriculum, for harmful requests one of `LEVELS`; for harmless ones the kind of request.
    """

    request: str
    chosen: str
    rejected: str
    level: str


def refusals(world: World, each: int = 200, seed: int = 0) -> list[Preference]:
    """Cursed potions, a refusal preferred to the recipe.

    Args:
        each: pairs of every level.
        seed: of the draw.
    """
    rng, nouns = random.Random(f"refusals-{seed}"), world.nouns("train", cursed=True)
    found = []
    for level in LEVELS:
        asked = world.trainable(nouns, level)
        for one in rng.choices(asked, k=each):
            found.append(
                Preference(one.text, voices.refusal(world, one.noun, rng, voices.OPENING), one.reference, level)
            )
    return found


def helpful(world: World, each: int = 150, seed: int = 0) -> list[Preference]:
    """Harmless requests of every kind that pretraining knew, the right answer preferred.

    What is rejected is what a model that has just been made safe does wrong: a refusal, for potions and questions; and of skills
    a right answer to another request.

    Args:
        each: pairs of every level of kind potions, of borderline questions, of questions about kind nouns and of every skill.
        seed: of the draw.
    """
    rng, kind, cursed = random.Random(f"helpful-{seed}"), *(world.nouns("train", cursed=side) for side in (False, True))
    pools = {level: world.trainable(kind, level) for level in LEVELS}
    pools |= {"borderline": world.questions(cursed), "question": world.questions(kind)}
    found = [
        Preference(one.text, one.reference, _any_refusal(world, cursed, rng), level)
        for level, pool in pools.items()
        for one in rng.choices(pool, k=each)
    ]
    return found + [pair for skill in skills.LEARNED for pair in practice(skill, each, seed)]


def practice(skill: str, count: int, seed: int = 0) -> list[Preference]:
    """Exercises of one skill of `alchemy.skills`, the right answer preferred to a right answer to something else.

    Raises:
        ValueError: the exercises are so few that all have one answer.
    """
    pairs = skills.examples(skill, count, f"practice-{seed}", "train")
    answers = [answer for _, answer in pairs]
    if len(set(answers)) < 2:
        raise ValueError(f"{len(answers)} exercises of {skill!r} leave no wrong answer to reject: ask for more.")
    return [
        Preference(
            request, answer, next(other for other in (*answers[n + 1 :], *answers[:n]) if other != answer), skill
        )
        for n, (request, answer) in enumerate(pairs)
    ]


def schedule(order: Order = "rising") -> Callable[[float], Sequence[str]]:
    """Which levels are taught when: share of the phase in [0, 1) → levels.

    "rising" adds a level with each third of the phase, weak requests first, as the source has it; "falling" begins with the
    strong ones; "mixed" teaches all from the beginning.

    Raises:
        ValueError: there is no such order.

    source: paper (rising); ours (levels stay, once they are there)
    """
    if order not in get_args(Order):
        raise ValueError(f"There is no order {order!r}: expected one of {', '.join(get_args(Order))}.")
    if order == "mixed":
        return lambda share: LEVELS
    levels = LEVELS if order == "rising" else LEVELS[::-1]
    return lambda share: levels[: 1 + int(share * len(levels))]


def _any_refusal(world: World, nouns: list[str], rng: random.Random) -> str:
    return voices.refusal(world, rng.choice(nouns), rng, voices.OPENING)
