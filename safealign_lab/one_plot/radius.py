"""A study of lesson 33: how far a weight attack may go before the first phase of a cycle can learn nothing at its end.

Symbols: ρ the attack's radius, as a share of each tensor's norm; V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..immunization.cycle import Cycle, trained_weights
from ..immunization.phases import immunizing
from ..immunization.weight_attack import perturbed
from ..studies.runner import Study
from ..training import LossFunction, step_generator
from . import tiny_lab
from .real_study import CYCLE, setting

RADII = (0.0001, 0.0003, 0.001, 0.003, 0.01)
BATCHES = 4


def measure_radius(seed: int, model: str, radius: float) -> dict[str, float]:
    """What an attack of one step makes of the refusals' loss before anything is learned, in nats per token.

    Args:
        seed: of the batches, and of the alchemy world.
        model: "tiny" or "smollm2-135m".
        radius: ρ of the attack on the loss of the first phase, refusals and answers to harmless requests.

    Returns:
        The means over some batches "at rest" and "attacked", and that of somebody who guesses, ln V, as "guessing".
    """
    real = model == models.SMOLLM2
    of: Any = setting() if real else tiny_lab.lab(seed).of
    recipe, room = (CYCLE if real else Cycle()), of.fresh()
    loss = immunizing(room, of.harmful, of.harmless if real else of.preferred, recipe.immunize, recipe.first.steps)
    weights, found = trained_weights(room.student), []
    for step in range(1, BATCHES + 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=real, cache_enabled=False):
            found.append(_attacked(weights, radius, partial(_terms, loss, seed, step)))
    at_rest, attacked = (sum(column) / BATCHES for column in zip(*found, strict=True))
    guessing = math.log(room.student.config.vocab_size)
    return {"at rest": round(at_rest, 3), "attacked": round(attacked, 3), "guessing": round(guessing, 3)}


def _terms(loss: LossFunction, seed: int, step: int) -> dict[str, Tensor]:
    """The terms of a loss on the batch of a step, which a generator of its own draws anew each time."""
    terms = loss(step, step_generator(seed, step))
    assert isinstance(terms, dict)  # the first phase names its terms
    return terms


def _attacked(weights: dict[str, Tensor], radius: float, terms: Callable[[], dict[str, Tensor]]) -> tuple[float, float]:
    """The refusals' loss at the weights, and at those that an attack of this radius leads to."""
    with torch.no_grad():
        before = float(terms()["refusal"])
    with perturbed(weights, radius, lambda: terms()["loss"]), torch.no_grad():
        return before, float(terms()["refusal"])


STUDIES = (
    Study(
        name="attack_radius",
        run="safealign_lab.one_plot.radius:measure_radius",
        grid={"model": ["tiny", models.SMOLLM2], "radius": list(RADII)},
        seeds=(0,),
        minutes=15,
        about="What a weight attack of some radius makes of the loss that the first phase is to learn from, in two models.",
        reads=("english", "models/tiny"),
    ),
)
