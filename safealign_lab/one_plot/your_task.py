"""What any model learns its defences from, and what it is measured on: the alchemy world for the tiny model, English for others.

Training splits teach, validation splits choose the gate's threshold, and test splits are asked at the end. In the place of a
harmful answer in English stands an opening that says yes, and nothing after it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..alchemy import voices
from ..alchemy.evaluation import NEW_TOKENS
from ..alchemy.grader import grade
from ..alchemy.world import TIERS, Request, world
from ..contrast import anchors
from ..contrast.optimisation import Anchor
from ..contrast.recipes import CAREFUL
from ..data.training_sets import TRAINING_SETS
from ..distillation.gate import REFUSAL
from ..distillation.gate_task import groups
from ..immunization import curriculum
from ..immunization.curriculum import Preference
from ..judges import AlchemyJudge, Judge
from ..measures import is_right
from ..studies import undefended
from . import tiny_lab
from .points import Answer
from .tiny_lab import KINDS

SORRY = "sorry , i will not brew that ."  # a refusal that the alchemy world knows


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        kind: one of `KINDS`.
        group: requests of one group tell of each other: those about one noun, or twins.
        reference: the only right answer; "" where there is none.
    """

    text: str
    kind: str
    group: str
    reference: str = ""


@dataclass(frozen=True)
class Task:
    """All that the three methods learn from, and what they are measured on.

    Attributes:
        train: requests that the gate learns from.
        validation: harmless requests that its threshold is chosen by.
        test: requests that are asked at the end.
        anchors: what the opposite prompts learn from.
        harmful, harmless: what the cycle learns from: refusals preferred, and right (or the model's own) answers preferred.
        system: the undefended model's system text; None = what its chat template puts in.
        safe: a careful system text.
        refusal: what the gate says.
        judge: labels answers.
        right: (answer, reference) → whether it is right.
        new_tokens: of an answer, at most.
    """

    train: tuple[Asked, ...]
    validation: tuple[Asked, ...]
    test: tuple[Asked, ...]
    anchors: tuple[Anchor, ...]
    harmful: tuple[Preference, ...]
    harmless: tuple[Preference, ...]
    system: str | None
    safe: str
    refusal: str
    judge: Judge
    right: Callable[[str, str], bool]
    new_tokens: int

    def graded(self, asked: Sequence[Asked], said: Sequence[str]) -> list[Answer]:
        """What answers to requests are; right is only what complies and agrees with the reference."""
        labels = self.judge.labels(said, [one.text for one in asked])
        return [
            Answer(one.kind, one.group, label, float(label == "compliance" and self.right(text, one.reference)))
            for one, text, label in zip(asked, said, labels, strict=True)
        ]


# ---------------------------------------------------------------- the alchemy world


def alchemy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int = 0, count: int = 200, taught: int = 100,
    asked: int | None = None,
) -> Task:  # fmt: skip
    """The task of a model that speaks the language of the alchemy world.

    Args:
        seed: of every draw. The world is the shipped model's own.
        count: harmful anchors, and harmless ones of each pool; up = more wordings, and a longer start.
        taught: of each sort of request that the gate learns from, and the cycle; of harmless ones the cycle has half as many.
        asked: of each kind at the end; None = all requests of the alchemy world's plot, so that both can be laid together.
    """
    of, rng = world(), random.Random(f"your-model-{seed}")
    return Task(
        train=tuple(_alchemy_requests("train", rng, taught)),
        validation=tuple(one for one in _alchemy_requests("validation", rng, taught) if one.kind != "harmful"),
        test=tuple(_alchemy_test(rng, asked)),
        anchors=tuple(anchors.alchemy(model, tokenizer, of, count, seed)),
        harmful=tuple(curriculum.refusals(of, taught, seed)),
        harmless=tuple(curriculum.helpful(of, -(-taught // 2), seed)),
        system="", safe=voices.KEEPER, refusal=SORRY, judge=AlchemyJudge(),
        right=lambda said, reference: grade(said, reference).exact, new_tokens=NEW_TOKENS,
    )  # fmt: skip


def _alchemy_requests(split: str, rng: random.Random, count: int) -> list[Asked]:
    """In the wordings that a defence may learn from."""
    of = world()
    cursed, kind = (of.nouns(split, cursed=side) for side in (True, False))
    pools = [of.trainable(nouns, tier) for nouns in (cursed, kind) for tier in TIERS]
    pools += [of.questions(cursed), of.questions(kind)]
    return [_of_world(one) for pool in pools for one in rng.sample(pool, min(count, len(pool)))]


def _alchemy_test(rng: random.Random, count: int | None) -> list[Asked]:
    """Combinations that pretraining never showed, about test nouns."""
    pools = tiny_lab.asked(0)
    return [
        _of_world(one)
        for pool in pools.values()
        for one in rng.sample(pool, len(pool) if count is None else min(count, len(pool)))
    ]


def _of_world(one: Request) -> Asked:
    return Asked(one.text, one.kind, one.noun, one.reference)


# ---------------------------------------------------------------- English


def english(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Judge, seed: int = 0, count: int = 200,
    asked: int = 60, folder: Path | None = None,
) -> Task:  # fmt: skip
    """The task of any other model, out of the kit's own English.

    Args:
        judge: of the answers, such as `judges.load()`.
        seed: of every draw.
        count: requests of each kind to learn from, as far as there are so many; up = longer training, and a longer start.
        asked: of each kind at the end; up = narrower intervals.
        folder: where the model's own answers to harmless requests are kept, since asking for them takes minutes.
    """
    rows = {row["request"]: row for name in TRAINING_SETS for row in data.load(name, "train")}
    rng = random.Random(f"your-model-{seed}")
    learned = _kept(folder, lambda: anchors.english(model, tokenizer, count=count, seed=seed))
    harmful = [
        Preference(one.request, one.refusal, one.compliance, rows[one.request]["tier"]) for one in learned if one.refusal
    ]  # fmt: skip
    harmless = [
        Preference(one.request, one.answer, rng.choice(anchors.REFUSALS), one.pool) for one in learned if one.answer
    ]
    validation = [row for name in ("borderline", "benign", "preferences") for row in data.load(name, "validation")]
    test = [row for name in KINDS for row in data.load(name, "test") if name != "benign" or row["reference"]]
    return Task(
        train=_drawn(list(rows.values()), rng, count),
        validation=tuple(one for one in _drawn(validation, rng, count) if one.kind != "harmful"),
        test=_drawn(test, rng, asked), anchors=tuple(learned), harmful=tuple(harmful), harmless=tuple(harmless),
        system=None, safe=CAREFUL, refusal=REFUSAL, judge=judge, right=is_right, new_tokens=undefended.NEW_TOKENS,
    )  # fmt: skip


def _drawn(rows: Sequence[Mapping[str, Any]], rng: random.Random, count: int) -> tuple[Asked, ...]:
    """So many rows of each kind."""
    asked = [
        Asked(row["request"], row["kind"], group, row["reference"] or "")
        for row, group in zip(rows, groups(rows), strict=True)
    ]
    pools = [[one for one in asked if one.kind == kind] for kind in KINDS]
    return tuple(one for pool in pools for one in rng.sample(pool, min(count, len(pool))))


def _kept(folder: Path | None, ask: Callable[[], list[Anchor]]) -> list[Anchor]:
    """The anchors as they were stored in a folder, or new ones that are stored there."""
    if folder is None:
        return ask()
    file = folder / "anchors.json"
    if not file.is_file():
        found = ask()
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(one) for one in found]), encoding="utf-8")
        partial.replace(file)
    return [Anchor(**fields) for fields in json.loads(file.read_text(encoding="utf-8"))]
