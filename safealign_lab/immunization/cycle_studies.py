"""Studies of lesson 32 in the alchemy world: the cycle as printed, the one that works, and what each part of it is good for.

Symbols: θ weights, K the canaries' share of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..alchemy.evaluation import ask, potion_sets, skill_sets
from ..studies.runner import Study
from ..studies.tiny import rates
from ..training import History, Plan, step_generator, train
from . import alarm
from .canaries import Accumulator, Canaries, overlap, random_like, select, spared
from .cycle import Cycle, Passed, align, immunize, run, trained_weights
from .phases import Immunize, Room, bounded, drawn, hinge, likelihood, negated, token_npo, unlikely
from .printed_cycle import run_as_printed
from .tampering import tuning_loss
from .tiny_task import Setting, setting

ASKED = {"test": 60, "train": 30}  # requests of a set, by the split of the nouns
SKILL_ROWS = 60
BETWEEN = ("cursed/weak/train", "cursed/weak/test", "kind/weak/test", "cursed/question/test")  # the phases
STREAM = Plan(steps=100, learning_rate=2e-4, schedule="constant")
BATCHES = 20

# ---------------------------------------------------------------- what is measured


def measured(model: PreTrainedModel, of: Setting, seed: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """The rates of a model on every kind of request about training and test nouns, and on every skill.

    Args:
        seed: of the draw of requests.
        names: of the sets that are asked; none = all.
    """
    sets = skill_sets(SKILL_ROWS, seed)
    for split, count in ASKED.items():
        sets |= potion_sets(of.world, count, seed, splits=(split,))
    return {name: rates(ask(model, of.tokenizer, sets[name])) for name in names or sets}


# ---------------------------------------------------------------- the variants


@dataclass(frozen=True)
class Variant:
    """What a run does otherwise than the kit's recipe: fields of the cycle, of what its phases minimise, and of their plans.

    Attributes:
        canaries: "ranked", "random" (as many, anywhere), "random, per tensor" (as many in each tensor) or "spared" (ranked, less
            what harmless answers need).
        cycles: how many.
        founded: whether the student had the foundation stage, which brings the skill that pretraining left out.
        stream: harmless updates after the last cycle, without a shield, as a deployed model may get them.
    """

    cycle: Mapping[str, Any] = field(default_factory=dict)
    immunize: Mapping[str, Any] = field(default_factory=dict)
    align: Mapping[str, Any] = field(default_factory=dict)
    first: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] = field(default_factory=dict)
    canaries: str = "ranked"
    cycles: int = 1
    founded: bool = True
    stream: int = 0

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
    "no canaries": Variant(UNSHIELDED),
    "random canaries": Variant(canaries="random"),
    "no weight attack": Variant({"attack_radius": 0.0}),
    "no weight attack, no canaries": Variant({"attack_radius": 0.0, **UNSHIELDED}),
    "slow second phase, no canaries": Variant(UNSHIELDED, second={"learning_rate": 5e-5}),
    "no harmless answers in phase 1": Variant(immunize={"kept_weight": 0.0}),
    **{f"K = {k:g}": Variant({"canary_fraction": k}) for k in (0.001, 0.01, 0.1, 0.3)},
    "working, then a stream": Variant(stream=STREAM.steps),
    "no canaries, then a stream": Variant(UNSHIELDED, stream=STREAM.steps),
    "two cycles": Variant(cycles=2),
    "two cycles, no canaries": Variant(UNSHIELDED, cycles=2),
    "no foundation stage": Variant(founded=False),
    **{f"β = {b:g}": Variant({"shield": "anchor", "stabilization": b}) for b in (1e2, 1e4)},
    "Fisher anchor": Variant({"shield": "fisher", "score": "squared", "stabilization": 1e4}),
    "random canaries, per tensor": Variant(canaries="random, per tensor"),
    "canaries less useful weights": Variant(canaries="spared"),
    "ranked by g²": Variant({"score": "squared"}),
    "ranked by the last batch": Variant({"score": "printed"}),
    "weak requests first": Variant(immunize={"order": "rising"}),
    "refusal-DPO": Variant(immunize={"refusing": "dpo"}),
    "λ = 0.3": Variant(immunize={"push": bounded(), "push_weight": 0.3}),
    "λ = 1": Variant(immunize={"push": bounded(), "push_weight": 1.0}),
    "negated push": Variant(immunize={"push": negated(), "push_weight": 0.3}),
    "hinge push": Variant(immunize={"push": hinge(), "push_weight": 0.3}),
    "token NPO push": Variant(immunize={"push": token_npo(), "push_weight": 0.3}),
    "unlikelihood push": Variant(immunize={"push": unlikely(), "push_weight": 0.3}),
    "NPO, no refusals": Variant(immunize={"refusing": "npo"}),
    "strong requests first": Variant(immunize={"order": "falling"}),
    "ranked by |θ·g|": Variant({"score": "weighted"}),
    "attack on refusals alone": Variant({"attacked": "refusal"}),
    "three attack steps": Variant({"attack_steps": 3}),
}
PRINTED: dict[str, dict[str, Any]] = {
    "as printed": {}, "as printed, put back": {"put_back": True}, "as printed, weak to strong": {"order": "rising"}
}  # fmt: skip
OTHERWISE = ("before", "plain mixed SFT", *PRINTED)  # what is no change of the recipe


def measure_variant(seed: int, variant: str) -> dict[str, Any]:
    """One run of the cycle with a change, or another training as long, and what the model does then.

    Args:
        seed: of the world and of all draws.
        variant: a key of `VARIANTS`, or one of `OTHERWISE`.

    Returns:
        Under "rates" what `measured` gives, under "after_first" some of it between the phases. Of the last cycle, "drift": how
        far canaries and other weights went in the second phase (the root of their mean square). Where two cycles were run,
        "kept": how many canaries they have in common. Of the recipe itself "cosine" and "useful", as `_looked_at` has them; of
        "before", "teacher": what the helpful teacher does with its skill.
    """
    of, seen = setting(seed), dict[str, Any]()
    room = of.fresh(variant not in VARIANTS or VARIANTS[variant].founded)

    def _between(canaries: Canaries) -> None:
        weights = trained_weights(room.student)
        seen.update(canaries=canaries, start={name: weight.detach().clone() for name, weight in weights.items()})
        seen["after_first"] = measured(room.student, of, seed, BETWEEN)
        if variant == "working":
            seen["looked_at"] = _looked_at(of, room, canaries, seed)

    told = _trained(variant, of, room, seed, _between)
    found = {"rates": measured(room.student, of, seed), **told, **seen.pop("looked_at", {})}
    if variant == "before":
        with room.teachers.speaking("helpful") as teacher:
            found["teacher"] = measured(teacher, of, seed, ("skill/lists",))
    if seen:
        moved = alarm.change(seen.pop("start"), trained_weights(room.student))
        found |= {"drift": _drift(moved, seen.pop("canaries")), **seen}
    return found


def _trained(variant: str, of: Setting, room: Room, seed: int, between: Callable[[Canaries], None]) -> dict[str, Any]:
    """Trains the room's student; what happened on the way."""
    recipe = Cycle()
    first, second = (replace(plan, seed=seed) for plan in (recipe.first, recipe.second))
    if variant in VARIANTS:
        return _cycled(VARIANTS[variant], of, room, seed, between)
    if variant == "plain mixed SFT":
        pools = [[(row.request, row.chosen) for row in rows] for rows in (of.harmful, of.preferred)]
        loss = tuning_loss(room.student, of.tokenizer, pools, recipe.immunize.harmful + recipe.immunize.harmless)
        train(trained_weights(room.student), loss, replace(first, steps=first.steps + second.steps), progress=False)
    elif variant != "before":
        run_as_printed(
            room, of.harmful, of.preferred, first, second, recipe.attack_radius, recipe.canary_fraction,
            between=between, **PRINTED[variant],
        )  # fmt: skip
    return {}


def _cycled(change: Variant, of: Setting, room: Room, seed: int, between: Callable[[Canaries], None]) -> dict[str, Any]:
    settings, choose = change.settings(), _chooser(change, of, room, seed)
    if change.cycles == 1:
        passed = [_once(change, of, room, seed, between)]
    else:
        passed = run(
            room, of.harmful, of.preferred, of.preferred, settings, change.cycles, seed, choose, between, progress=False
        )
    if change.stream:
        loss = tuning_loss(room.student, of.tokenizer, [[(row.request, row.chosen) for row in of.preferred]], 16)
        train(trained_weights(room.student), loss, replace(STREAM, steps=change.stream, seed=seed), progress=False)
    return _account(passed)


def _once(change: Variant, of: Setting, room: Room, seed: int, between: Callable[[Canaries], None]) -> Passed:
    """As `cycle.run` of one cycle, but that variants which share their first phase share its run."""
    settings, choose = change.settings(), _chooser(change, of, room, seed)
    key = settings.immunize, settings.first, settings.attack_radius, settings.attack_steps, settings.attacked
    state, scores, first = _first_phase(seed, change.founded, settings.score, *key)
    room.student.load_state_dict(state)
    canaries = select(scores, settings.canary_fraction) if choose is None else choose(scores)
    between(canaries)
    settings = replace(settings, second=replace(settings.second, seed=1000 * seed + 1))
    second = align(room, of.preferred, settings, canaries, scores, progress=False)
    return Passed(scores, canaries, first, second)


@cache
def _first_phase(
    seed: int, founded: bool, score: Any, learned: Immunize, plan: Plan, radius: float, steps: int, attacked: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], History]:
    of = setting(seed)
    room, plan = of.fresh(founded), replace(plan, seed=1000 * seed)
    settings = Cycle(
        immunize=learned, first=plan, attack_radius=radius, attack_steps=steps, attacked=attacked, score=score
    )
    scores, history = immunize(room, of.harmful, of.preferred, settings, progress=False)
    return room.student.state_dict(), scores, history


def _chooser(change: Variant, of: Setting, room: Room, seed: int) -> Callable[[Mapping[str, Tensor]], Canaries] | None:
    fraction = change.settings().canary_fraction
    if change.canaries == "ranked":
        return None
    if change.canaries == "spared":
        return lambda scores: select(spared(scores, useful_scores(of, room)), fraction)
    per_tensor = change.canaries == "random, per tensor"
    return lambda scores: random_like(select(scores, fraction), seed, per_tensor)


def useful_scores(of: Setting, room: Room, batches: int = BATCHES) -> dict[str, Tensor]:
    """What right answers to harmless requests need of each weight: |g| summed over some batches."""
    watched = Accumulator(trained_weights(room.student))
    for number in range(batches):
        loss = likelihood(room, drawn(of.preferred, 16, step_generator(0, number)))
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


def _looked_at(of: Setting, room: Room, canaries: Canaries, seed: int) -> dict[str, Any]:
    """Whether the phases are at right angles: the cosine of the two gradients between them, over all weights, over the canaries
    and over as many others; and how many canaries are among as many weights that harmless answers need the most."""
    weights = trained_weights(room.student)
    refusing, useful = (
        alarm.refusal_gradient(
            weights, [partial(likelihood, room, drawn(rows, 16, step_generator(seed, n))) for n in range(BATCHES)]
        )
        for rows in (of.harmful, of.preferred)
    )
    places = {"all": None, "canaries": canaries, "random": random_like(canaries, seed)}
    fraction = sum(canaries.counts().values()) / sum(weight.numel() for weight in weights.values())
    common = overlap(canaries, select(useful_scores(of, room), fraction))
    return {
        "cosine": {name: round(alarm.cosine(refusing, useful, chosen), 4) for name, chosen in places.items()},
        "useful": {"jaccard": round(common.jaccard, 4), "by_chance": round(common.jaccard_by_chance, 4)},
    }


def _drift(moved: Mapping[str, Tensor], canaries: Canaries) -> dict[str, float]:
    """The root mean square of the movement of canaries and of all other weights."""
    whole, part = alarm.size(moved) ** 2, alarm.size(moved, canaries) ** 2
    weights, held = sum(one.numel() for one in moved.values()), sum(canaries.counts().values())
    return {
        "canaries": math.sqrt(part / max(1, held)),
        "others": math.sqrt(max(0.0, whole - part) / max(1, weights - held)),
    }


def _ends(terms: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in terms.items()}


STUDIES = (
    Study(
        name="tiny_cycle",
        run="safealign_lab.immunization.cycle_studies:measure_variant",
        grid={"variant": [*OTHERWISE, *VARIANTS]},
        seeds=(0, 1, 2),
        minutes=120,
        about="The cycle of immunization and alignment in three alchemy worlds, and with each part of it changed or left out.",
        reads=("models/tiny",),
    ),
)
