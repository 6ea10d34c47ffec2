"""Bounded noise δ on vectors, random or aimed: what a student is trained against, and what it is attacked with.

The vectors are frozen features (B, D) or input embeddings (B, T, D). Each vector has a ball of its own, of one radius for all
of a data set, in one of two norms over the last dimension:

    l2     radius = ε · m
    linf   radius = ε · m / √D, so that a δ with all its D numbers at the bound has the L2 norm ε · m

where m is the mean L2 norm of the vectors, measured once on clean training inputs. A vector under a mask that is False gets a
δ of 0. Norms keep to the radius up to rounding.

Symbols: B batch, T tokens, D numbers in a vector, N vectors of any leading shape: (B,) or (B, T); r radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.linalg import vector_norm

from ..chat import at_least_float32

Kind = Literal["gaussian", "uniform", "fgsm", "pgd"]
Norm = Literal["l2", "linf"]
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Perturbation:
    """What noise, and how much of it.

    Args:
        kind: "gaussian" draws each number from a normal distribution whose deviation is ε · m / √D (so that its L2 norm is
            about ε · m in either norm) and projects; "uniform" draws evenly from the ball; "fgsm" takes one full step along
            the loss's gradient; "pgd" takes several, projects after each, and keeps the worst.
        norm: "l2" or "linf", of each vector's ball.
        epsilon: ε ≥ 0, relative to the mean L2 norm of the vectors; up = stronger noise. source: ours
        steps: of PGD; up = a stronger and slower attack.
        step_size: of PGD, as a share of the radius; up = coarser. None = 2.5 / steps, which can cross the ball. source: ours
        random_start: PGD starts at a random point of the ball, not at the input: different draws, different attacks.

    Raises:
        ValueError: a value is outside its range.
    """

    kind: Kind
    norm: Norm
    epsilon: float
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(Kind)), ("norm", get_args(Norm))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(f"epsilon must be 0 or more (a share of the mean norm), not {self.epsilon}.")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}.")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be above 0 (a share of the radius), or None, not {self.step_size}.")


def mean_norm(inputs: Tensor, mask: Tensor | None = None) -> float:
    """The mean L2 norm of the vectors: the scale that ε is relative to. Measure it once, on clean training inputs.

    Args:
        inputs: (N, D).
        mask: (N,), True on the vectors that count; None counts all.

    Raises:
        ValueError: no vector counts, or the mask does not fit.
    """
    norms = vector_norm(at_least_float32(inputs.detach()), dim=-1)  # (N,)
    counted = norms if mask is None else norms[_fitting(inputs, mask)]
    if not counted.numel():
        raise ValueError("There is no vector to measure: pass at least one, and a mask that is True somewhere.")
    return float(counted.mean())


def radius(perturbation: Perturbation, mean_norm: float, width: int) -> float:
    """The radius of each vector's ball.

    Args:
        perturbation: whose ε and norm.
        mean_norm: m.
        width: D; under linf, more numbers get less each.
    """
    bound = perturbation.epsilon * mean_norm
    return bound if perturbation.norm == "l2" else bound / math.sqrt(width)


def project(delta: Tensor, radius: float, norm: Norm) -> Tensor:
    """The nearest point of the ball, vector by vector: l2 scales those that are too long, linf clips number by number.

    Args:
        delta: (N, D).
        radius: r ≥ 0; up = more is left as it is.
        norm: of the ball.
    """
    if norm == "linf":
        return delta.clamp(-radius, radius)
    lengths: Tensor = vector_norm(delta, dim=-1, keepdim=True).clamp(min=torch.finfo(delta.dtype).tiny)  # (N, 1)
    return delta * (lengths.reciprocal() * radius).clamp(max=1.0)


def random_in_ball(like: Tensor, radius: float, norm: Norm, generator: Generator | None = None) -> Tensor:
    """Points drawn evenly from the ball: (N, D), as many as there are vectors in `like`.

    Args:
        like: (N, D), for its shape, dtype and device.
        radius, norm: of the ball.
        generator: of the CPU, so that every device gets the same numbers; None draws from torch's own.
    """
    if norm == "linf":
        return radius * (2 * torch.rand(like.shape, generator=generator).to(like) - 1)
    directions = _direction(torch.randn(like.shape, generator=generator).to(like), "l2")  # (N, D)
    volumes = torch.rand((*like.shape[:-1], 1), generator=generator).to(like)  # (N, 1), the share of the ball within
    return radius * volumes.pow(1 / like.shape[-1]) * directions


def pgd_step(delta: Tensor, gradient: Tensor, step: float, radius: float, norm: Norm) -> Tensor:
    """One step of projected gradient ascent: uphill by `step`, then back into the ball.

    l2: project(δ + step · g / ‖g‖)        linf: project(δ + step · sign g)

    Args:
        delta: (N, D), inside the ball.
        gradient: (N, D), g: of the loss that is to rise. A vector without any gradient stays where it is.
        step: how far, in the norm itself; up = coarser.
        radius, norm: of the ball.
    """
    return project(delta + step * _direction(gradient, norm), radius, norm)


def perturb(
    inputs: Tensor, loss: Loss, perturbation: Perturbation, scale: float, mask: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """A perturbation δ of the inputs, to be added to them.

    FGSM and PGD return, for each example, the worst that they met: the input itself, their start and every step count. So an
    attack never looks like a help. FGSM is PGD with one full step from the input.

    Args:
        inputs: (B, D) or (B, T, D).
        loss: inputs → what an attack raises: (B,), one number an example, each depending on its own example alone; or their
            sum, and then the worst is chosen for the whole batch at once. Random kinds do not call it.
        perturbation: what kind, and how much.
        scale: m, the absolute mean norm (`mean_norm` of clean training inputs).
        mask: (B,) or (B, T), True on the vectors that may be perturbed: not the padding, not the special tokens.
        generator: of the CPU; the same state gives the same δ.

    Returns:
        δ, of the inputs' shape and dtype, detached. No parameter's `.grad` is touched.

    Raises:
        ValueError: the mask does not fit, or the loss has neither one number nor one an example.
    """
    open_to = None if mask is None else _fitting(inputs, mask)[..., None]  # (N, 1)
    bound = radius(perturbation, scale, inputs.shape[-1])
    clean = at_least_float32(inputs.detach())
    if perturbation.kind == "gaussian":
        deviation = perturbation.epsilon * scale / math.sqrt(inputs.shape[-1])
        delta = project(deviation * torch.randn(clean.shape, generator=generator).to(clean), bound, perturbation.norm)
    elif perturbation.kind == "uniform":
        delta = random_in_ball(clean, bound, perturbation.norm, generator)
    else:
        *_, (_, delta) = _attack(inputs.detach(), loss, perturbation, bound, open_to, generator)
    return _only(delta, open_to).to(inputs.dtype)


def random_control(delta: Tensor, generator: Generator | None = None) -> Tensor:
    """Noise to compare an attack with: each vector in a random direction, with the L2 norm that δ has there.

    Args:
        delta: (N, D), of `perturb`; where it is 0, the control is.
        generator: of the CPU.
    """
    lengths: Tensor = vector_norm(at_least_float32(delta), dim=-1, keepdim=True)  # (N, 1)
    directions = _direction(torch.randn(delta.shape, generator=generator).to(lengths), "l2")  # (N, D)
    return (lengths * directions).to(delta.dtype)


def loss_curve(
    inputs: Tensor, loss: Loss, perturbation: Perturbation, scale: float, mask: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:  # fmt: skip
    """How high the attack has driven the loss after each step: the mean over the examples of the worst so far.

    Args:
        inputs, loss, perturbation, scale, mask, generator: as in `perturb`, of kind "fgsm" or "pgd".

    Returns:
        (steps+1,), never falling: first the clean loss, last that of the δ which `perturb` returns.

    Raises:
        ValueError: as in `perturb`, or the kind takes no steps.
    """
    if perturbation.kind not in ("fgsm", "pgd"):
        raise ValueError(f"loss_curve follows the steps of fgsm or pgd; {perturbation.kind!r} takes none.")
    open_to = None if mask is None else _fitting(inputs, mask)[..., None]  # (N, 1)
    bound = radius(perturbation, scale, inputs.shape[-1])
    met = _attack(inputs.detach(), loss, perturbation, bound, open_to, generator)
    return torch.stack([worst.mean() for worst, _ in met])  # (steps+1,)


def _attack(
    inputs: Tensor, loss: Loss, perturbation: Perturbation, bound: float, open_to: Tensor | None,
    generator: Generator | None,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """After no step, after one, after two, …: the highest loss of each example so far, and the δ that gave it."""
    plan = perturbation
    if plan.kind == "fgsm":
        plan = replace(plan, steps=1, step_size=1.0, random_start=False)
    step = bound * (plan.step_size or 2.5 / plan.steps)
    worst = delta = torch.zeros_like(at_least_float32(inputs))
    values, slope = _climb(loss, inputs, delta)
    highest = values
    yield highest, worst
    if plan.random_start:
        delta = _only(random_in_ball(delta, bound, plan.norm, generator), open_to)
        values, slope = _climb(loss, inputs, delta)
        highest, worst = _worse(values, delta, highest, worst)
    for _ in range(plan.steps):
        delta = _only(pgd_step(delta, slope(), step, bound, plan.norm), open_to)
        values, slope = _climb(loss, inputs, delta)
        highest, worst = _worse(values, delta, highest, worst)
        yield highest, worst


def _climb(loss: Loss, inputs: Tensor, delta: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
    """The loss at a δ, and what gives its gradient there, found only when asked for."""
    with torch.enable_grad():
        here = delta.detach().requires_grad_()
        values = loss(inputs + here.to(inputs.dtype))
        total = values.sum()
    if values.shape not in ((), (len(inputs),)):
        raise ValueError(
            f"The loss has the shape {tuple(values.shape)}; an attack needs one number an example, ({len(inputs)},), or a sum."
        )

    def _slope() -> Tensor:
        found = torch.autograd.grad(total, here, allow_unused=True)[0] if total.requires_grad else None
        if found is None:
            raise ValueError("The loss does not depend on the inputs that it is given: compute it from its argument.")
        return found

    return values.detach(), _slope


def _worse(values: Tensor, delta: Tensor, highest: Tensor, worst: Tensor) -> tuple[Tensor, Tensor]:
    higher = values > highest  # (B,) or (); never where one is not a number
    chosen = higher.reshape(-1, *[1] * (delta.dim() - 1))  # (B, 1) or (B, 1, 1)
    return torch.where(higher, values, highest), torch.where(chosen, delta, worst)


def _direction(vectors: Tensor, norm: Norm) -> Tensor:
    if norm == "linf":
        return vectors.sign()
    # By its largest number first: the squares of a tiny gradient, as of a confident model, would round to 0.
    scaled = vectors / vectors.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)  # (N, D)
    lengths: Tensor = vector_norm(scaled, dim=-1, keepdim=True)  # (N, 1), at least 1, or 0 where there is no direction
    return scaled / lengths.clamp(min=1.0)


def _only(delta: Tensor, open_to: Tensor | None) -> Tensor:
    return delta if open_to is None else delta.masked_fill(~open_to, 0.0)


def _fitting(inputs: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != inputs.shape[:-1]:
        raise ValueError(f"The mask {tuple(mask.shape)} must have one entry per vector: {tuple(inputs.shape[:-1])}.")
    return mask.bool()
