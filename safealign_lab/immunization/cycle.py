"""The cycle: immunise at attacked weights and watch which weights that needs, then align while these are shielded; and again.

Everything that a phase leaves behind is in its folder: a run that was stopped, in the middle of a phase as well, goes on there.

Symbols: θ weights, K the canaries' share of them, β the weight of the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor
from transformers import PreTrainedModel

from ..training import History, Plan, backward, train
from . import canaries as files
from .canaries import Accumulator, Canaries, Kind, select
from .curriculum import Preference
from .phases import Align, Immunize, Room, aligning, immunizing
from .shields import MaskedUpdate, PhaseAnchor
from .weight_attack import at_perturbed_weights

Shield = Literal["mask", "anchor", "fisher", "none"]
Choose = Callable[[Mapping[str, Tensor]], Canaries]  # scores of all weights → the canaries
Between = Callable[[Canaries], None]


@dataclass(frozen=True)
class Cycle:
    """How one cycle goes; what a phase learns stands in `phases`.

    Attributes:
        immunize, align: what the phases minimise.
        first, second: their plans. A gentler second phase undoes less of the first, with or without canaries.
        attack_radius: ρ ≥ 0 of the weight attack in the first phase, a share of each tensor's norm; up = refusals that bear
            more, and in the end none. 0 = no attack.
        attack_steps: of its ascent.
        attacked: the term that the attack raises. "refusal" alone makes refusals spread to more than they should; "loss" has
            the answers to harmless requests hold as well.
        canary_fraction: K in [0, 1]; up = refusals are kept better, and less is left to learn with.
        score: by which weights are ranked, of the refusal term alone, as in `canaries.Accumulator`.
        shield: "mask" does not move the canaries at all, "anchor" pulls them back to where the phase began, "fisher" pulls
            the more important ones harder, "none" lets them go.
        stabilization: β ≥ 0 of the two anchors; up = the canaries move less; 0 does not hold them at all.

    source: paper (the two phases); derived (attack, sums, shields that work); ours (all numbers)
    """

    immunize: Immunize = field(default_factory=Immunize)
    align: Align = field(default_factory=Align)
    first: Plan = field(default_factory=lambda: Plan(steps=120, learning_rate=1e-3, floor=0.02))
    second: Plan = field(default_factory=lambda: Plan(steps=60, learning_rate=2e-4, schedule="constant"))
    attack_radius: float = 0.01
    attack_steps: int = 1
    attacked: Literal["refusal", "loss"] = "loss"
    canary_fraction: float = 0.5
    score: Kind = "absolute"
    shield: Shield = "mask"
    stabilization: float = 0.0

    def __post_init__(self) -> None:
        if self.shield not in get_args(Shield):
            raise ValueError(f"There is no shield {self.shield!r}: expected one of {', '.join(get_args(Shield))}.")
        if self.shield == "fisher" and self.score != "squared":
            raise ValueError(f"The shield 'fisher' weighs by summed squares: take score='squared', not {self.score!r}.")


@dataclass(frozen=True)
class Passed:
    """What one cycle leaves behind.

    Attributes:
        scores: of every weight, summed over the first phase.
        canaries: the weights that were shielded.
        first, second: what happened in the phases, step by step.
    """

    scores: dict[str, Tensor]
    canaries: Canaries
    first: History
    second: History


def trained_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """All weights but the embedding (and the output, where the two are tied), which is frozen: name → tensor.

    A trained embedding learns the words of the training requests by heart, and knows no others.
    """
    embedding = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) not in embedding)
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def run(
    room: Room, harmful: Sequence[Preference], harmless: Sequence[Preference], preferred: Sequence[Preference],
    settings: Cycle, cycles: int = 1, seed: int = 0, choose: Choose | None = None, between: Between | None = None,
    folder: Path | None = None, progress: bool = True, weights: Mapping[str, Tensor] | None = None,
) -> list[Passed]:  # fmt: skip
    """Leads the student through so many cycles, in place.

    Args:
        harmful, harmless: what the first phase teaches, as in `phases.immunizing`.
        preferred: what the second one does, as in `phases.aligning`.
        cycles: up = both phases again, each from where the last one ended.
        seed: of all batches; every phase of every cycle draws its own.
        choose: which weights are canaries, by their scores; None = the largest ones. A control chooses otherwise.
        between: called with the canaries of each cycle after its first phase, to look at the student as it is then.
        folder: of this run alone, where it goes on after a stop; None keeps nothing.
        progress: show a bar for every phase.
        weights: name → what is trained, scored and shielded; None = `trained_weights`. Of an adapter one half begins at zero,
            where a relative attack has no length: it is attacked from the second step on.

    Raises:
        ValueError: there are no cycles, or as in what the settings name.
    """
    if cycles < 1:
        raise ValueError(f"{cycles} cycles change nothing: give 1 or more.")
    found, theta = [], trained_weights(room.student) if weights is None else weights
    for number in range(cycles):
        place = None if folder is None else folder / f"cycle-{number}"
        seeds = (1000 * seed + 2 * number, 1000 * seed + 2 * number + 1)  # phases of one seed would draw the same rows
        first, second = (
            replace(plan, seed=one) for plan, one in zip((settings.first, settings.second), seeds, strict=True)
        )
        turn = replace(settings, first=first, second=second)
        kept = preferred if number else harmless  # from the second on, what was taught since is to be kept as well
        found.append(_once(room, theta, harmful, kept, preferred, turn, choose, between, place, progress))
    return found


def _once(
    room: Room, weights: Mapping[str, Tensor], harmful: Sequence[Preference], harmless: Sequence[Preference],
    preferred: Sequence[Preference], settings: Cycle, choose: Choose | None, between: Between | None, folder: Path | None,
    progress: bool,
) -> Passed:  # fmt: skip
    places = {name: None if folder is None else folder / name for name in ("first", "canaries", "second")}
    scores, first = immunize(room, harmful, harmless, settings, places["first"], progress, weights)
    canaries = select(scores, settings.canary_fraction) if choose is None else choose(scores)
    if places["canaries"] is not None:
        files.save(canaries, places["canaries"], score=settings.score, fraction=settings.canary_fraction)
    if between is not None:
        between(canaries)
    second = align(room, preferred, settings, canaries, scores, places["second"], progress, weights)
    return Passed(scores, canaries, first, second)


def immunize(
    room: Room, harmful: Sequence[Preference], harmless: Sequence[Preference], settings: Cycle,
    folder: Path | None = None, progress: bool = True, weights: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], History]:  # fmt: skip
    """The first phase: the student learns at attacked weights to refuse, and what each weight matters to that is summed.

    Args:
        harmful, harmless: as in `phases.immunizing`.
        folder, progress: as in `training.train`.
        weights: as in `run`.

    Returns:
        The scores, name → tensor, and what happened.
    """
    weights = trained_weights(room.student) if weights is None else weights
    watched = Accumulator(weights, settings.score)
    gradient = watched.watching("refusal")
    if settings.attack_radius:
        gradient = at_perturbed_weights(
            weights, settings.attack_radius, settings.attacked, settings.attack_steps, gradient
        )
    loss = immunizing(room, harmful, harmless, settings.immunize, settings.first.steps)
    history = train(
        weights, loss, settings.first, gradient=gradient, buffers=watched.scores, folder=folder, progress=progress
    )
    return watched.scores, history


def align(
    room: Room, preferred: Sequence[Preference], settings: Cycle, canaries: Canaries, scores: Mapping[str, Tensor],
    folder: Path | None = None, progress: bool = True, weights: Mapping[str, Tensor] | None = None,
) -> History:  # fmt: skip
    """The second phase: the student learns what is preferred, while the canaries are shielded.

    Args:
        preferred: as in `phases.aligning`.
        canaries, scores: of the first phase; the scores are the importances of the shield "fisher".
        folder, progress: as in `training.train`.
        weights: as in `run`.
    """
    weights = trained_weights(room.student) if weights is None else weights
    shielded = _shielded(weights, canaries, scores, settings)
    loss = aligning(room, preferred, settings.align, shielded.pop("stability", None), settings.stabilization)
    return train(weights, loss, settings.second, folder=folder, progress=progress, **shielded)


def _shielded(
    weights: Mapping[str, Tensor], canaries: Canaries, scores: Mapping[str, Tensor], settings: Cycle
) -> dict[str, Any]:
    """What `training.train` is to be called with, and under "stability" the penalty of an anchor."""
    if settings.shield == "none" or not sum(canaries.counts().values()):
        return {}
    if settings.shield == "mask":
        mask = MaskedUpdate(weights, canaries)
        return {"gradient": mask.masking(backward), "after_step": mask.hold}
    return {"stability": PhaseAnchor(weights, canaries, scores if settings.shield == "fisher" else None).penalty}
