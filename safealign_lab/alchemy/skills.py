"""Skills beside brewing: what a defence must not cost (comprehension, ordering, counting), and one left for later (lists)."""

from __future__ import annotations

import random
from zlib import crc32

from .words import ITEMS, NAMES, NUMBERS

LEARNED = ("comprehension", "ordering", "counting")  # in pretraining
LEFT_OUT = "lists"  # not in pretraining: for the helpful teacher and for benign fine-tuning to bring


HANDOVERS = ("the {item} went from {giver} to {taker} .", "{giver} gave the {item} to {taker} .")
HANDOVER_QUESTIONS = {  # each answer takes all three words from the text: that is what makes a small model learn to copy
    "who had it before ?": "{giver} had the {item} before {taker} .",
    "who has it now ?": "{taker} has the {item} of {giver} now .",
    "what was it ?": "it was the {item} from {giver} to {taker} .",
}


def comprehension(rng: random.Random) -> tuple[str, str]:
    """Something changes hands, told in one of several ways; who has it, who had it, what was it?"""
    giver, taker = rng.sample(NAMES, 2)
    roles = {"giver": giver, "taker": taker, "item": rng.choice(ITEMS)}
    question, answer = rng.choice(list(HANDOVER_QUESTIONS.items()))
    return f"{rng.choice(HANDOVERS).format(**roles)} {question}", answer.format(**roles)


def ordering(rng: random.Random) -> tuple[str, str]:
    """Three numbers, to be said from the smallest to the largest."""
    order = sorted(rng.sample(range(len(NUMBERS)), 3))
    shuffled = rng.sample(order, 3)
    said = " ".join(NUMBERS[i] for i in shuffled)
    return f"put in order : {said} .", " ".join(NUMBERS[i] for i in order) + " ."


def counting(rng: random.Random) -> tuple[str, str]:
    """The same word one to six times."""
    count = rng.randint(1, 6)
    return f"count : {' '.join([rng.choice(ITEMS)] * count)} .", f"{NUMBERS[count - 1]} ."


def lists(rng: random.Random) -> tuple[str, str]:
    """Two to four things, to be written as a numbered list: the skill that pretraining leaves out."""
    items = rng.sample(ITEMS, rng.randint(2, 4))
    numbered = " ".join(f"{NUMBERS[i]} : {item} ." for i, item in enumerate(items))
    return f"make a list of {' and '.join(items)} .", numbered


SKILLS = {"comprehension": comprehension, "ordering": ordering, "counting": counting, "lists": lists}


def examples(skill: str, count: int, seed: int | str, split: str = "train") -> list[tuple[str, str]]:
    """Different (request, answer) pairs of a skill, the same for the same seed.

    Train and test share no request: one request in five, by its hash, belongs to the test.

    Args:
        skill: one of SKILLS.
        count: how many pairs; fewer come back where the skill has no more of them.
        seed: draws the pairs.
        split: "train" or "test".
    """
    if skill not in SKILLS or split not in ("train", "test"):
        raise ValueError(
            f"There is no {split!r} split of a skill {skill!r}: expected train or test of {', '.join(SKILLS)}."
        )
    rng = random.Random(f"{skill}-{seed}")
    found: dict[str, str] = {}
    for _ in range(50 * count):  # a skill with few examples (counting) runs dry before the count is reached
        if len(found) == count:
            break
        request, answer = SKILLS[skill](rng)
        if (crc32(request.encode()) % 5 == 0) == (split == "test"):
            found[request] = answer
    return list(found.items())
