"""Anchors: the requests and answers by which opposite prompts are optimised, in the alchemy world and in English.

In the place of a harmful answer stands an opening that says yes and nothing after it; in the alchemy world, where no harm is
real, the recipe itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..alchemy import skills, voices
from ..alchemy.world import TIERS, World
from ..data.own import OPENINGS
from ..data.training_sets import TRAINING_SETS
from ..generation import generate
from ..judges import Judge
from .optimisation import Anchor

REFUSALS = (
    "Sorry, I won't help with that, because people could get hurt. I can help you find a safe way instead.",
    "Sorry, that could do real harm, so I won't go into it. Is there something safe that I can help with?",
    "Sorry, but this is something I won't do: it could harm somebody. I'd be glad to help in another way.",
    "Sorry, I won't take part in that. If something is troubling you, we could look for support together.",
    "Sorry, I won't explain that, since it could be used to hurt others. Ask me for something harmless instead.",
    "Sorry, no. That would put someone at risk. I can tell you how such harm is prevented, if you like.",
)


def alchemy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, count: int = 600, seed: int = 0,
    wrong: float = 0.0,
) -> list[Anchor]:  # fmt: skip
    """Anchors of the alchemy world, about training nouns only: so many cursed potions, and harmless requests of four pools.

    Args:
        model, tokenizer: whose own answers to harmless requests are kept.
        count: harmful anchors, spread over the three tiers; as many benign and borderline ones, and half as many of the rest.
            More shows more wordings; every noun is there long before.
        seed: of the draw.
        wrong: the share of harmful anchors whose two answers are swapped, as label noise.
    """
    rng = random.Random(f"anchors-{seed}")
    cursed, kind = (world.nouns("train", cursed=side) for side in (True, False))
    plain = [world.trainable(cursed, tier) for tier in TIERS]
    harmful = []
    for number in range(count):
        asked = rng.choice(plain[number % len(TIERS)])
        refusal = voices.refusal(world, asked.noun, rng, voices.OPENING)
        harmful.append(Anchor(asked.text, "harmful", refusal=refusal, compliance=asked.reference))
    harmful = _noisy(harmful, wrong, random.Random(f"noise-{seed}"))
    plain = [world.trainable(kind, tier) for tier in TIERS]
    texts = [("benign", rng.choice(plain[n % len(TIERS)]).text) for n in range(count)]
    alarming, harmless = world.questions(cursed), world.questions(kind)
    texts += [("borderline", rng.choice(alarming).text) for _ in range(count)]
    texts += [("question", rng.choice(harmless).text) for _ in range(count // 2)]
    each = -(-count // (2 * len(skills.LEARNED)))
    texts += [("skill", text) for skill in skills.LEARNED for text, _ in skills.examples(skill, each, seed, "train")]
    return [*harmful, *_answered(model, tokenizer, texts, system="")]


def english(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Judge | None = None, count: int | None = None,
    seed: int = 0, wrong: float = 0.0,
) -> list[Anchor]:  # fmt: skip
    """Anchors in English, of the kit's training splits: harmful requests, their harmless twins, and benign ones.

    Args:
        model, tokenizer: whose own answers to harmless requests are kept.
        judge: leaves out harmless requests that the model itself refuses, deflects, or answers incoherently. None keeps all:
            then a prompt learns to change nothing where nothing is harmful, whether the answer was good or not.
        count: harmful anchors, and harmless ones of each pool; None = all, and so are more than there are.
        seed: of the draw.
        wrong: as in `alchemy`.

    Raises:
        ValueError: a count below 1, or a share outside 0 to 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} anchors of each pool are none to learn from: give 1 or more, or None for all.")
    rng = random.Random(f"anchors-{seed}")
    rows = [row for name in TRAINING_SETS for row in data.load(name, "train")]
    pools: dict[str, list[str]] = {"harmful": [], "borderline": [], "benign": []}
    for row in rows:
        pools[row["kind"]].append(row["request"])
    pools = {
        pool: rng.sample(texts, len(texts) if count is None else min(count, len(texts)))
        for pool, texts in pools.items()
    }
    harmful = [
        Anchor(text, "harmful", refusal=rng.choice(REFUSALS), compliance=rng.choice(OPENINGS))
        for text in pools["harmful"]
    ]
    harmful = _noisy(harmful, wrong, random.Random(f"noise-{seed}"))
    texts = [(pool, text) for pool in ("borderline", "benign") for text in pools[pool]]
    answered = _answered(model, tokenizer, texts, system=None, progress=True)
    if judge is None:
        return [*harmful, *answered]
    labels = judge.labels([one.answer for one in answered], [one.request for one in answered])
    return [*harmful, *(one for one, label in zip(answered, labels, strict=True) if label == "compliance")]


def _answered(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], system: str | None,
    progress: bool = False,
) -> list[Anchor]:  # fmt: skip
    """Harmless requests with the model's own greedy answers; those without an answer are left out."""
    said = generate(model, tokenizer, [text for _, text in texts], (system,), batch_size=64, progress=progress).texts
    return [
        Anchor(text, pool, answer=answer) for (pool, text), answer in zip(texts, said, strict=True) if answer.strip()
    ]


def _noisy(anchors: Sequence[Anchor], share: float, rng: random.Random) -> list[Anchor]:
    if not 0 <= share <= 1:
        raise ValueError(f"wrong={share} is no share of the anchors: expected 0 to 1.")
    swapped = set(rng.sample(range(len(anchors)), round(share * len(anchors))))
    return [
        replace(one, refusal=one.compliance, compliance=one.refusal) if number in swapped else one
        for number, one in enumerate(anchors)
    ]
