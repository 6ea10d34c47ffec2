"""What the studies of this wing start from: a world, its helpful-only model, its teachers, and what the phases learn from."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alchemy.world import World
from ..fetching import cache_folder
from ..studies.cards import code_hash
from ..studies.worlds import settled
from ..training import Plan, train
from . import curriculum
from .curriculum import Preference
from .cycle import trained_weights
from .phases import Room
from .references import measure
from .tampering import tuning_loss
from .teachers import Teachers

HARMFUL_TEACHER = Plan(steps=60, learning_rate=2e-3, schedule="constant")
HELPFUL_TEACHER = Plan(steps=500, learning_rate=3e-3, warmup=20, floor=0.02)
FOUNDATION = Plan(steps=400, learning_rate=1e-3, floor=0.02)
LISTS, KEPT_LISTS, BATCH, FOUNDATION_ROWS, RANK = 3000, 800, 64, 40, 32


@dataclass(frozen=True)
class Setting:
    """A world, its helpful-only model, both teachers, and all that the phases learn from.

    Attributes:
        base: the helpful-only model.
        founded: the same after the foundation stage, in which it learned the skill that pretraining left out.
        room: its student is `founded`: take `fresh` for one that is to be trained.
        harmful: refusals preferred to recipes.
        preferred: right answers to harmless requests of all kinds, those of the new skill among them.
    """

    world: World
    base: PreTrainedModel
    founded: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    room: Room
    harmful: Sequence[Preference]
    preferred: Sequence[Preference]

    def fresh(self, founded: bool = True) -> Room:
        """The room with a student of its own, with or without the foundation stage."""
        return replace(self.room, student=copy.deepcopy(self.founded if founded else self.base))


@cache
def setting(seed: int = 0) -> Setting:
    """All that a cycle needs in the world of a seed; what is trained for it is made once, and kept in the cache folder."""
    base, tokenizer, of = settled(seed)
    harmful, harmless = curriculum.refusals(of, seed=seed), curriculum.helpful(of, seed=seed)
    lists = curriculum.practice("lists", LISTS, seed)
    with FileLock(f"{_kept(seed)}.lock"):  # a second process waits, and reads what the first one made
        teachers = _taught(base, tokenizer, harmful, lists, seed)
        founded = copy.deepcopy(base)
        pools = [[(row.request, row.chosen) for row in rows] for rows in (lists, harmless)]
        loss = tuning_loss(founded, tokenizer, pools, FOUNDATION_ROWS)
        plan = replace(FOUNDATION, seed=seed)
        train(trained_weights(founded), loss, plan, folder=_kept(seed) / "foundation", progress=False)
    preferred = [*harmless, *lists[:KEPT_LISTS]]
    rows = [(row.request, side) for row in (*harmful, *preferred) for side in (row.chosen, row.rejected)]
    known = measure(base, tokenizer, rows, "", batch_size=BATCH, progress=False)
    return Setting(of, base, founded, tokenizer, Room(founded, tokenizer, teachers, known), harmful, preferred)


def _taught(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, harmful: Sequence[Preference],
    lists: Sequence[Preference], seed: int,
) -> Teachers:  # fmt: skip
    teachers = Teachers(base, tokenizer, RANK, seed)
    eager = [replace(row, chosen=row.rejected, rejected=row.chosen) for row in harmful]
    place = _kept(seed)
    teachers.teach("harmful", eager, replace(HARMFUL_TEACHER, seed=seed), folder=place / "harmful", progress=False)
    plan = replace(HELPFUL_TEACHER, seed=seed)
    teachers.teach("helpful", lists, plan, avoid=0.0, folder=place / "helpful", progress=False)
    return teachers


def _kept(seed: int) -> Path:
    """The folder of a seed; a change of these plans, or of the code that trains by them, makes another one."""
    said = [seed, *map(asdict, (HARMFUL_TEACHER, HELPFUL_TEACHER, FOUNDATION)), LISTS, FOUNDATION_ROWS, RANK]
    made = [
        code_hash(f"safealign_lab.{name}") for name in ("immunization.teachers:Teachers", "alchemy.pretraining:fit")
    ]
    name = hashlib.sha256(json.dumps([said, made], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "runs" / f"immunization-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
