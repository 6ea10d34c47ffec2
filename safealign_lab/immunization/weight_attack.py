"""An attack on the weights themselves: the loss is differentiated where a tamperer would have moved them, and they are put back.

Each tensor has a ball of its own, whose radius is a share of the tensor's norm, as in adversarial weight perturbation (AWP; Wu
et al. 2020, arXiv 2004.05884): large tensors move far, small ones little, and all by the same share. θ′ is a compromised
model; what is wanted is the gradient there, applied to θ.

Symbols: θ_i a tensor of weights, δ_i its perturbation, g_i the loss's gradient, ρ the radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor
from torch.linalg import vector_norm

from ..chat import at_least_float32
from ..training import Gradient, Terms, backward

FURTHER = 0.5  # the length of a step after the first, as a share of the radius


@contextmanager
def perturbed(
    parameters: Mapping[str, Tensor], attack_radius: float, loss: Callable[[], Tensor] | None = None, steps: int = 1,
    generator: Generator | None = None,
) -> Iterator[None]:  # fmt: skip
    """Runs the block at θ + δ, and puts θ back bit for bit, also after an exception.

    δ_i = ρ · ‖θ_i‖ · g_i / ‖g_i‖, with g the gradient of the loss that the attack raises. Each further step goes half a radius
    along the gradient at the place reached, and back to the distance ρ · ‖θ_i‖: the norm is what was asked, at any number of
    steps. What has no gradient, or is all zeros, has no direction or no scale, and stays.

    `.grad` is left alone by the attack and by the way back, so that what a `backward` within the block leaves there is there
    for the optimiser. Begin and end within the block what is differentiated in it: PyTorch refuses a graph whose weights have
    moved since.

    Args:
        parameters: name → tensor. Frozen ones are not moved, tied ones once.
        attack_radius: ρ ≥ 0, ‖δ_i‖ / ‖θ_i‖; up = a stronger attack, at some point a broken model. 0.01 suits the
            small world's model, and is far too much for SmolLM2: choose it by the loss that it leaves.
        loss: what the perturbation raises, evaluated at the present weights, for example the loss of refusing. None moves in
            random directions, as a control of equal norm.
        steps: of the ascent; up = a stronger attack, and one more evaluation and gradient each.
        generator: of the CPU, for random directions; None draws from torch's own.

    Raises:
        ValueError: the radius is negative or smaller than the weights' own rounding, there are no steps, nothing may move, or
            the loss does not depend on anything that may.

    source: paper (θ + δ); derived (relative norm, putting back); ours (the length of further steps)
    """
    movable = list({id(weight): weight for weight in parameters.values() if weight.requires_grad}.values())
    _check(movable, attack_radius, steps)
    kept = [weight.detach().clone() for weight in movable]
    try:
        if attack_radius:
            for directions in _directions(movable, loss, steps, generator):
                _move(movable, kept, directions, attack_radius)
                del directions  # as large as the model
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(movable, kept, strict=True):
                weight.copy_(value)


def at_perturbed_weights(
    parameters: Mapping[str, Tensor], attack_radius: float, raised: str | None = "loss", steps: int = 1,
    gradient: Gradient = backward,
) -> Gradient:  # fmt: skip
    """The gradient at attacked weights, as `training.train(gradient=…)` takes it: AdamW then steps from θ itself.

    Args:
        parameters, attack_radius, steps: as in `perturbed`.
        raised: which of the loss function's terms the attack raises on the step's own batch; a term other than "loss" must
            come with its graph. None moves in random directions, which depend on the plan's seed and the step alone.
        gradient: what runs at the attacked weights.

    Raises:
        ValueError: as in `perturbed`, when it is called; or the loss function has no such term.
    """

    def _gradient(closure: Callable[[], Terms]) -> Terms:
        def _raised() -> Tensor:
            terms = closure()
            if raised not in terms:
                raise ValueError(
                    f"The attack is to raise {raised!r}, but the loss function returns {', '.join(terms)}."
                )
            return terms[raised]

        with perturbed(parameters, attack_radius, None if raised is None else _raised, steps):
            return gradient(closure)

    return _gradient


def _check(movable: Sequence[Tensor], attack_radius: float, steps: int) -> None:
    if not movable:
        raise ValueError("There is no weight to perturb: pass tensors that require a gradient, not frozen ones alone.")
    if not 0 <= attack_radius < math.inf:
        raise ValueError(f"attack_radius must be 0 or more (a share of each tensor's norm), not {attack_radius}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}; an attack_radius of 0 switches the attack off.")
    coarsest = max(torch.finfo(weight.dtype).eps for weight in movable)
    if 0 < attack_radius < coarsest:
        raise ValueError(
            f"An attack_radius of {attack_radius} is lost in the rounding of weights that keep {coarsest:.1g} of themselves: "
            "choose a larger one, or hold the weights in float32."
        )


def _directions(
    movable: Sequence[Tensor], loss: Callable[[], Tensor] | None, steps: int, generator: Generator | None
) -> Iterator[Sequence[Tensor | None]]:
    """Where each tensor is to go, step by step; a gradient is taken when it is asked for, at the weights as they are then."""
    if loss is None:
        yield [torch.randn(weight.shape, generator=generator).to(weight) for weight in movable]
        return
    for _ in range(steps):
        yield _gradients(movable, loss)


def _gradients(movable: Sequence[Tensor], loss: Callable[[], Tensor]) -> Sequence[Tensor | None]:
    with torch.enable_grad(), torch.random.fork_rng():  # so that the block meets the chance that it would have met
        value = loss()
        found = torch.autograd.grad(value, movable, allow_unused=True) if value.requires_grad else ()
    if all(gradient is None for gradient in found):
        raise ValueError("The attack's loss does not depend on any weight that it may move: compute it from the model.")
    return found


@torch.no_grad()
def _move(
    movable: Sequence[Tensor], kept: Sequence[Tensor], directions: Sequence[Tensor | None], attack_radius: float
) -> None:
    """One step, tensor by tensor: along its direction, then to the asked distance from where the tensor was."""
    for weight, value, direction in zip(movable, kept, directions, strict=True):
        if direction is None or not bool(direction.any()) or not bool(value.any()):
            continue
        start = at_least_float32(value)
        length = attack_radius * vector_norm(start)
        so_far = at_least_float32(weight) - start  # all zeros at the first step, which therefore goes the whole way
        weight.copy_(start + length * _unit(so_far + FURTHER * length * _unit(at_least_float32(direction))))


def _unit(vector: Tensor) -> Tensor:
    # By its largest number first: the squares of a tiny gradient, as of a confident model, would round to 0.
    scaled = vector / vector.abs().max()
    unit: Tensor = scaled / vector_norm(scaled)
    return unit
