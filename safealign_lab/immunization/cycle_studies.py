"""Studies of lesson 32 in the alchemy world: the cycle as printed, the one that works, and what each part of it is good for.

Symbols: θ weights, K the canaries' share of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alchemy.evaluation import NEW_TOKENS, ask, potion_sets, skill_sets
from ..alchemy.grader import normalise
from ..alchemy.words import ITEMS
from ..alchemy.world import World
from ..generation import answer
from ..measures import rate
from ..studies.runner import Study
from ..studies.tiny import rates
from ..studies.worlds import settled
from ..training import Plan, step_generator
from . import curriculum
from .canaries import Accumulator, Canaries, overlap, random_like, select, spared
from .curriculum import Preference
from .cycle import Cycle, Passed, run, trained_weights
from .phases import Room, bounded, drawn, hinge, likelihood, negated, token_npo
from .references import measure
from .teachers import Teachers

REQUESTS_A_SET = 72
SKILL_ROWS = 60
BATCH = 64
HARMFUL_TEACHER = Plan(steps=60, learning_rate=2e-3, schedule="constant")
HELPFUL_TEACHER = Plan(steps=300, learning_rate=3e-3, floor=0.02)


# ---------------------------------------------------------------- what the cycle works with


@dataclass(frozen=True)
class Setting:
    """A world, its helpful-only model, both teachers, and all that the phases learn from."""

    world: World
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    room: Room  # its student is `base`: take `fresh` for one that is to be trained
    harmful: Sequence[Preference]
    harmless: Sequence[Preference]
    preferred: Sequence[Preference]

    def fresh(self) -> Room:
        """The room with a student of its own, which is the helpful-only model."""
        return replace(self.room, student=copy.deepcopy(self.base))


@cache
def setting(seed: int = 0) -> Setting:
    """All that a cycle needs in the world of a seed; teachers and reference log-probabilities are made once a process."""
    base, tokenizer, of = settled(seed)
    harmful, harmless = curriculum.refusals(of, seed=seed), curriculum.helpful(of, seed=seed)
    teachers = Teachers(base, tokenizer, seed=seed)
    eager = [replace(row, chosen=row.rejected, rejected=row.chosen) for row in harmful]
    teachers.teach("harmful", eager, replace(HARMFUL_TEACHER, seed=seed), progress=False)
    lists = curriculum.practice("lists", 500, seed)
    teachers.teach("helpful", lists, replace(HELPFUL_TEACHER, seed=seed), avoid=0.0, progress=False)
    preferred = [*harmless, *lists]
    rows = [(row.request, side) for row in (*harmful, *preferred) for side in (row.chosen, row.rejected)]
    known = measure(base, tokenizer, rows, "", batch_size=BATCH, progress=False)
    return Setting(of, base, tokenizer, Room(base, tokenizer, teachers, known), harmful, harmless, preferred)


# ---------------------------------------------------------------- what is measured


def measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, of: World, seed: int = 0) -> dict[str, Any]:
    """The rates of a model on every kind of request about training and test nouns, and on every skill.

    Beside the exact answers of "skill/lists" stands "form": the share that are a numbered list of the right length, whatever
    words it lists.
    """
    sets = potion_sets(of, REQUESTS_A_SET, seed, splits=("train", "test")) | skill_sets(SKILL_ROWS, seed)
    found = {name: rates(ask(model, tokenizer, requests)) for name, requests in sets.items()}
    lists = sets["skill/lists"]
    said = answer(model, tokenizer, [one.text for one in lists], system="", max_new_tokens=NEW_TOKENS, batch_size=BATCH)
    right = sum(_form(text) == _form(one.reference) for text, one in zip(said, lists, strict=True))
    shaped = rate(right, len(lists))
    found["skill/lists"]["form"] = [shaped.value, shaped.low, shaped.high]
    return found


def _form(text: str) -> str:
    """An answer with every thing in it replaced by one word."""
    return " ".join("thing" if word in ITEMS else word for word in normalise(text).split())


# ---------------------------------------------------------------- the variants


@dataclass(frozen=True)
class Variant:
    """What a run does otherwise than the kit's recipe: fields of the cycle, of what its phases minimise, and of their plans.

    Attributes:
        canaries: "ranked", "random" (as many, anywhere), "random, per tensor" (as many in each tensor) or "spared" (ranked, less
            what harmless answers need).
        cycles: how many.
    """

    cycle: Mapping[str, Any] = field(default_factory=dict)
    immunize: Mapping[str, Any] = field(default_factory=dict)
    align: Mapping[str, Any] = field(default_factory=dict)
    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    canaries: str = "ranked"
    cycles: int = 1

    def settings(self) -> Cycle:
        """The cycle that this makes of the kit's recipe."""
        recipe = Cycle()
        return replace(
            recipe,
            immunize=replace(recipe.immunize, **self.immunize), align=replace(recipe.align, **self.align),
            first=replace(recipe.first, **self.first), second=replace(recipe.second, **self.second), **self.cycle,
        )  # fmt: skip


UNSHIELDED = {"shield": "none"}
VARIANTS: dict[str, Variant] = {
    "working": Variant(),
    "no weight attack": Variant({"attack_radius": 0.0}),
    "attack on refusals alone": Variant({"attacked": "refusal"}),
    "three attack steps": Variant({"attack_steps": 3}),
    "no canaries": Variant(UNSHIELDED),
    "random canaries": Variant(canaries="random"),
    "random canaries, per tensor": Variant(canaries="random, per tensor"),
    "canaries less useful weights": Variant(canaries="spared"),
    **{f"K = {k:g}": Variant({"canary_fraction": k}) for k in (0.001, 0.01, 0.05, 0.1, 0.3)},
    "ranked by g²": Variant({"score": "squared"}),
    "ranked by |θ·g|": Variant({"score": "weighted"}),
    "ranked by the last batch": Variant({"score": "printed"}),
    "phase anchor": Variant({"shield": "anchor", "stabilization": 1e4}),
    "Fisher anchor": Variant({"shield": "fisher", "score": "squared", "stabilization": 1e4}),
    "slow second phase, no canaries": Variant(UNSHIELDED, second={"learning_rate": 5e-5}),
    "no harmless answers in phase 1": Variant(immunize={"kept_weight": 0.0}),
    "refusal-DPO": Variant(immunize={"refusing": "dpo"}),
    "NPO": Variant(immunize={"refusing": "npo"}),
    "bounded push": Variant(immunize={"push": bounded(), "push_weight": 0.3}),
    "bounded push alone": Variant(immunize={"push": bounded(), "push_weight": 1.0}),
    "hinge push": Variant(immunize={"push": hinge(), "push_weight": 0.3}),
    "negated push": Variant(immunize={"push": negated(), "push_weight": 0.3}),
    "token NPO": Variant(immunize={"push": token_npo(), "push_weight": 0.3}),
    "all levels at once": Variant(immunize={"order": "mixed"}),
    "strong requests first": Variant(immunize={"order": "falling"}),
    "two cycles": Variant(cycles=2),
    "two cycles, no canaries": Variant(UNSHIELDED, cycles=2),
}


def measure_variant(seed: int, variant: str) -> dict[str, Any]:
    """One run of the cycle with a change, and what the model does then.

    Args:
        seed: of the world and of all draws.
        variant: a key of `VARIANTS`.

    Returns:
        Under "rates" what `measured` gives; under "kept" the share of canaries that two cycles have in common, where there are
        two; and the log-probabilities at the end of both phases.
    """
    of, change = setting(seed), VARIANTS[variant]
    room, settings = of.fresh(), change.settings()
    passed = run(
        room, of.harmful, of.harmless, of.preferred, settings, change.cycles, seed, _chooser(change, of, room, seed),
        progress=False,
    )  # fmt: skip
    return {"rates": measured(room.student, of.tokenizer, of.world, seed), **_account(passed)}


def _chooser(change: Variant, of: Setting, room: Room, seed: int) -> Callable[[Mapping[str, Tensor]], Canaries] | None:
    fraction = change.settings().canary_fraction
    if change.canaries == "ranked":
        return None
    if change.canaries == "spared":
        return lambda scores: select(spared(scores, useful_scores(of, room)), fraction)
    per_tensor = change.canaries == "random, per tensor"
    return lambda scores: random_like(select(scores, fraction), seed, per_tensor)


def useful_scores(of: Setting, room: Room, batches: int = 30) -> dict[str, Tensor]:
    """What right answers to harmless requests need of each weight: |g| summed over some batches."""
    watched = Accumulator(trained_weights(room.student))
    for number in range(batches):
        loss = likelihood(room, drawn(of.harmless, 16, step_generator(0, number)))
        watched.add(torch.autograd.grad(loss, list(watched.parameters.values()), allow_unused=True))
    return watched.scores


def _account(passed: Sequence[Passed]) -> dict[str, Any]:
    last = passed[-1]
    found: dict[str, Any] = {
        "first": _ends(last.first.rows[-1]["terms"]), "second": _ends(last.second.rows[-1]["terms"])
    }  # fmt: skip
    if len(passed) > 1:
        common = overlap(passed[0].canaries, last.canaries)
        found["kept"] = {"jaccard": common.jaccard, "by_chance": common.jaccard_by_chance}
    return found


def _ends(terms: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in terms.items()}


STUDIES = (
    Study(
        name="tiny_cycle",
        run="safealign_lab.immunization.cycle_studies:measure_variant",
        grid={"variant": list(VARIANTS)},
        seeds=(0, 1, 2),
        minutes=90,
        about="The cycle of immunization and alignment in three alchemy worlds, and with each part of it changed or left out.",
        reads=("models/tiny",),
    ),
)
