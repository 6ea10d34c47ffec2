"""The exercises of lesson 12: a penalty on the gradient itself, and the sum that a student is trained by.

Symbols: θ all N numbers of the parameters, L a loss, A a matrix (N, N) and b a vector (N).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "12_one_objective"
SLOPE = "the value is right and its gradient is not"


def gradient_penalty(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The squared norm of the loss's gradient over all parameters together, such that it can be trained itself."""
    slopes = torch.autograd.grad(loss, list(parameters), create_graph=True)
    return torch.stack([slope.pow(2).sum() for slope in slopes]).sum()


def total_loss(kd: Tensor, noise_robust: Tensor, penalty: Tensor, kd_weight: float, penalty_weight: float) -> Tensor:
    """What the student is trained by: the distillation with its weight, the noise-robust loss, the penalty with its own."""
    return kd_weight * kd + noise_robust + penalty_weight * penalty


# ---------------------------------------------------------------- the penalty


def examine_gradient_penalty(function: Function) -> str | None:
    """Compares with ½ θᵀAθ + bᵀθ, whose gradient is Aθ + b, on parameters of two shapes; and asks for the penalty's gradient."""
    for seed in range(2):
        loss, parameters, slope, curvature = _bowl(seed)
        got = call(function, loss, parameters)
        right, given = slope.square().sum(), "½ θᵀAθ + bᵀθ of two parameters"
        said = expect(got, right, _penalty_mistakes(slope, parameters), given=given)
        if said:
            return said
        if any(parameter.grad is not None for parameter in parameters):
            return "It leaves its gradients in `.grad`, where training adds its own to them: use `torch.autograd.grad`."
        if not got.requires_grad:
            return (
                "The number is right, and it is a constant: without `create_graph=True` the gradients have no graph of their "
                "own, and the penalty trains nothing, at any weight."
            )
        found = torch.cat([one.flatten() for one in gradients(got, *parameters)])  # (N,)
        whole = 2 * curvature @ slope  # (N,)
        half = {"The value is right and its gradient half of it: one factor of the square is detached.": whole / 2}
        if said := expect(found, whole, half, given=f"{given}, {SLOPE}"):
            return said
    return None


def _bowl(seed: int) -> tuple[Tensor, nn.ParameterList, Tensor, Tensor]:
    """A loss of a vector and a matrix, which are handed over as they are, its gradient, and its curvature."""
    generator = torch.Generator().manual_seed(seed)
    parameters = nn.ParameterList([torch.randn(3, generator=generator), torch.randn(2, 2, generator=generator)])
    root, b = torch.randn(7, 7, generator=generator), torch.randn(7, generator=generator)  # (N, N) and (N,)
    curvature = (root + root.T) / 2  # (N, N)
    theta = torch.cat([parameter.flatten() for parameter in parameters])  # (N,)
    return theta @ curvature @ theta / 2 + b @ theta, parameters, (curvature @ theta + b).detach(), curvature


def _penalty_mistakes(slope: Tensor, parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    first, second = slope[:3], slope[3:]  # of the vector and of the matrix
    theta = torch.cat([parameter.detach().flatten() for parameter in parameters])  # (N,)
    return {
        "The square is missing: it is the norm itself.": slope.norm(),
        "It adds up the norms of the parameters' gradients: add up their squares.": first.norm() + second.norm(),
        "It squares the sum of their norms: the parameters are one long vector, whose squares add up.": (
            (first.norm() + second.norm()).square()
        ),
        "It takes the mean of the squares: the squared norm is their sum.": slope.square().mean(),
        "It takes each parameter's mean of squares: the squared norm is the sum of them all.": (
            first.square().mean() + second.square().mean()
        ),
        "It takes the mean over the parameters: add them up.": slope.square().sum() / 2,
        "Only the first parameter counts.": first.square().sum(),
        "Only the last parameter counts.": second.square().sum(),
        "It squares the sum of all slopes, in which they cancel: square first.": slope.sum().square(),
        "It adds up the slopes' sizes: the norm is made of squares.": slope.abs().sum(),
        "That is the squared norm of the parameters, as weight decay has it: the loss's gradient was asked for.": (
            theta.square().sum()
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- the sum


def examine_total_loss(function: Function) -> str | None:
    """Compares with the sum, and each term's gradient with its weight."""
    for values, weights in (
        ((1.3, 0.7, 4.1), (0.5, 0.02)),
        ((0.2, 1.9, 0.6), (2.0, 3.0)),
        ((0.9, 0.4, 2.5), (0.0, 0.1)),
    ):
        terms = [torch.tensor(value, requires_grad=True) for value in values]
        right = torch.tensor(weights[0] * values[0] + values[1] + weights[1] * values[2])
        got = call(function, *terms, *weights)
        given = f"kd, noise_robust, penalty = {values}, kd_weight, penalty_weight = {weights}"
        said = expect(got, right, _sum_mistakes(values, *weights), given=given)
        slopes = (torch.tensor(weights[0]), torch.tensor(1.0), torch.tensor(weights[1]))
        constant = {
            "The value is right, but the penalty sends no gradient: then it trains nothing.": (
                *slopes[:2],
                torch.tensor(0.0),
            )
        }
        said = said or expect(gradients(got, *terms), slopes, constant, given=f"{given}, {SLOPE}")
        if said:
            return said
    return None


def _sum_mistakes(values: tuple[float, float, float], kd_weight: float, penalty_weight: float) -> dict[str, Tensor]:
    kd, robust, penalty = values
    return {said: torch.tensor(value) for said, value in {
        "That is the sum as it is printed: the distillation has no weight in it, nor has the penalty.": kd + robust + penalty,
        "The distillation has no weight.": kd + robust + penalty_weight * penalty,
        "The penalty has no weight.": kd_weight * kd + robust + penalty,
        "The two weights are exchanged.": penalty_weight * kd + robust + kd_weight * penalty,
        "The first weight stands before the noise-robust loss: it weighs the distillation.": (
            kd + kd_weight * robust + penalty_weight * penalty
        ),
        "The noise-robust loss gets what the distillation leaves, 1 − w: it stands there whole.": (
            kd_weight * kd + (1 - kd_weight) * robust + penalty_weight * penalty
        ),
        "The penalty is subtracted: that would reward steep places.": kd_weight * kd + robust - penalty_weight * penalty,
        "The penalty is squared once more: it is a squared norm already.": kd_weight * kd + robust + penalty_weight * penalty**2,
        "The penalty is missing.": kd_weight * kd + robust,
        "The noise-robust loss is missing.": kd_weight * kd + penalty_weight * penalty,
        "The distillation is missing.": robust + penalty_weight * penalty,
    }.items()}  # fmt: skip


EXERCISES = (
    Exercise(
        name="gradient_penalty", solution=gradient_penalty, examine=examine_gradient_penalty, minutes=6, lesson=LESSON,
        hints=(
            "`torch.autograd.grad(loss, parameters)` gives one gradient for each parameter and leaves `.grad` alone.",
            "The penalty shall be differentiated itself: which argument of `grad` keeps the graph of the gradients?",
        ),
    ),
    Exercise(
        name="total_loss", solution=total_loss, examine=examine_total_loss, minutes=3, lesson=LESSON,
        hints=(
            "Three terms, two weights: which term is what the others are measured by?",
            "`kd_weight` before the distillation, `penalty_weight` before the penalty; clipping is no part of a loss.",
        ),
    ),
)  # fmt: skip
