"""One cycle that trains an adapter: as `immunization.cycle.run`, but that only the adapter's numbers are trained and shielded.

Symbols: θ the trained numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..immunization import canaries as files
from ..immunization.canaries import Accumulator, select
from ..immunization.curriculum import Preference
from ..immunization.cycle import Cycle, Passed, _shielded
from ..immunization.phases import Room, aligning, immunizing
from ..immunization.weight_attack import at_perturbed_weights
from ..training import train


def once(
    room: Room, harmful: Sequence[Preference], harmless: Sequence[Preference], preferred: Sequence[Preference],
    settings: Cycle, seed: int = 0, folder: Path | None = None, progress: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> Passed:  # fmt: skip
    """Leads the student through one cycle, in place.

    The canaries are numbers of the adapter. One half of an adapter begins at zero, where a relative attack has no length: it is
    attacked from the second step on.

    Args:
        room, harmful, harmless, preferred, settings, seed, folder, progress: as in `immunization.cycle.run`.
        weights: name → what is trained; None = all of the student that requires a gradient.

    Raises:
        ValueError: as in `immunization.cycle.run`.
    """
    theta = weights or {name: one for name, one in room.student.named_parameters() if one.requires_grad}
    places = {name: folder and folder / "cycle-0" / name for name in ("first", "canaries", "second")}
    first, second = (
        replace(plan, seed=1000 * seed + turn) for turn, plan in enumerate((settings.first, settings.second))
    )
    watched = Accumulator(theta, settings.score)
    gradient = watched.watching("refusal")
    if settings.attack_radius:
        gradient = at_perturbed_weights(
            theta, settings.attack_radius, settings.attacked, settings.attack_steps, gradient
        )
    loss = immunizing(room, harmful, harmless, settings.immunize, first.steps)
    told = train(
        theta, loss, first, gradient=gradient, buffers=watched.scores, folder=places["first"], progress=progress
    )
    canaries = select(watched.scores, settings.canary_fraction)
    if places["canaries"] is not None:
        files.save(canaries, places["canaries"], score=settings.score, fraction=settings.canary_fraction)
    shielded = _shielded(theta, canaries, watched.scores, settings)
    loss = aligning(room, preferred, settings.align, shielded.pop("stability", None), settings.stabilization)
    then = train(theta, loss, second, folder=places["second"], progress=progress, **shielded)
    return Passed(watched.scores, canaries, told, then)
