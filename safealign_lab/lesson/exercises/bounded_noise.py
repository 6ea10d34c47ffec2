"""The exercises of lesson 11: noise that keeps to a ball, a step of an attack, and the loss that holds labels under noise.

Symbols: B batch, T tokens, C classes, D numbers in a vector, N vectors of any leading shape; α the share of the clean inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "11_bounded_noise"
SLOPE = "the value is right and its gradient is not"
Loop = Callable[[list[float]], list[float]]  # what becomes of one vector


def project(delta: Tensor, radius: float, norm: str) -> Tensor:
    """The nearest point of each vector's own ball, (N, D): "l2" scales those that are too long, "linf" clips each number."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    lengths = delta.norm(dim=-1, keepdim=True)  # (N, 1)
    return torch.where(lengths > radius, delta * radius / lengths, delta)


def pgd_step(delta: Tensor, gradient: Tensor, step: float, radius: float, norm: str) -> Tensor:
    """One step uphill and back into the ball, (N, D): each vector goes `step` along its gradient; without one, it stays."""
    if norm == "linf":
        return project(delta + step * gradient.sign(), radius, norm)
    lengths = gradient.norm(dim=-1, keepdim=True).clamp(min=1e-30)  # (N, 1), so that 0 is divided by something
    return project(delta + step * gradient / lengths, radius, norm)


def noise_robust_loss(clean_logits: Tensor, noisy_logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """α times the cross-entropy on the clean inputs plus 1 - α times that on the perturbed ones; (B, C), (B, C), (B,)."""
    clean = torch.nn.functional.cross_entropy(clean_logits, labels)
    noisy = torch.nn.functional.cross_entropy(noisy_logits, labels)
    return alpha * clean + (1 - alpha) * noisy


# ---------------------------------------------------------------- the ball

# norm, shape of the vectors, radius; among them some that are short enough, and one of 0
_BALLS = (("l2", (4, 3), 0.8), ("linf", (4, 3), 0.6), ("l2", (2, 3, 4), 1.4), ("linf", (2, 3, 4), 0.7))


def examine_project(function: Function) -> str | None:
    """Compares with a loop over the vectors, on rows and on tokens of rows; some are inside the ball already, one is 0."""
    for seed, (norm, shape, radius) in enumerate(_BALLS, 8):
        delta = _vectors(seed, shape)
        right = _inside(delta, radius, norm)
        given = f"norm = {norm!r}, radius = {radius} and the shape {shape}"
        said = expect(call(function, delta, radius, norm), right, _ball_mistakes(delta, radius, norm), given=given)
        if said:
            return said
    return None


def _ball_mistakes(delta: Tensor, radius: float, norm: str) -> dict[str, Tensor]:
    lengths, largest = delta.norm(dim=-1, keepdim=True), delta.abs().amax(-1, keepdim=True)  # (N, 1)
    clipped, scaled = delta.clamp(-radius, radius), delta * _share(lengths, radius)  # (N, D)
    alike = {
        "It leaves everything as it is.": delta,
        "It cuts off one side only: negative numbers have a bound as well, −radius.": delta.clamp(max=radius),
    }  # fmt: skip
    if norm == "linf":
        return alike | {
            "Under linf it scales: the nearest point of the cube has each number clipped by itself.": (
                delta * _share(largest, radius)
            ),
            "Under linf it projects onto the round ball of l2: the largest number is what counts, not the length.": scaled,
        }  # fmt: skip
    return alike | {
        "Under l2 it clips each number: that is the cube of linf, whose corners lie outside the ball. Scale the vector.": (
            clipped
        ),
        "It draws all vectors to the sphere, also those that are inside the ball already: they stay as they are.": (
            torch.nan_to_num(delta * radius / lengths)
        ),
        "The whole batch is scaled by one norm: each vector has a ball of its own, and a norm along the last axis.": (
            delta * _share(delta.norm(), radius)
        ),
        "The norm goes down the vectors: it belongs along the last axis.": (
            delta * _share(delta.norm(dim=0, keepdim=True), radius)
        ),
        "One norm is taken for all tokens of a row: each token's vector has a ball of its own.": (
            delta * _share(delta.flatten(1).norm(dim=1).view(-1, *[1] * (delta.dim() - 1)), radius)
        ),
        "It compares the squared length with the radius: draw the root first.": delta * _share(lengths**2, radius),
        "It measures the length by the sum of sizes, which is the norm l1.": (
            delta * _share(delta.abs().sum(-1, keepdim=True), radius)
        ),
        "The result is of length 1: the ball has a radius.": delta * torch.where(lengths > radius, 1 / lengths, 1.0),
        "The vector of length 0 becomes NaN: it lies inside the ball, and nothing needs to be divided.": torch.where(
            lengths > 0, scaled, math.nan
        ),
        "The vector of length 0 becomes NaN, and all others are drawn to the sphere: only those outside the ball move.": (
            delta * radius / lengths
        ),
    }  # fmt: skip


def _share(lengths: Tensor, radius: float) -> Tensor:
    return (radius / lengths).clamp(max=1.0)


# ---------------------------------------------------------------- a step

# norm, shape, step, radius: inside, across the bound, far beyond it
_STEPS = (
    ("l2", (4, 3), 1.3, 1.1), ("linf", (4, 3), 0.5, 0.8), ("l2", (2, 3, 4), 0.3, 1.5), ("linf", (2, 3, 4), 3.0, 0.4),
    ("l2", (3, 2), 4.0, 0.7),
)  # fmt: skip


def examine_pgd_step(function: Function) -> str | None:
    """Compares with a loop over the vectors, from points inside the ball; one vector has no gradient."""
    for seed, (norm, shape, step, radius) in enumerate(_STEPS):
        start, gradient = _vectors(seed + 10, shape), 0.3 * _vectors(seed + 30, shape).flip(0)
        delta = _inside(start, 0.9 * radius, norm)
        moved = delta + step * _each(gradient, _sign if norm == "linf" else _unit)
        right = _inside(moved, radius, norm)
        given = f"norm = {norm!r}, step = {step}, radius = {radius} and the shape {shape}"
        got = call(function, delta, gradient, step, radius, norm)
        said = expect(got, right, _step_mistakes(delta, gradient, step, radius, norm), given=given)
        if said:
            return said
    return None


def _step_mistakes(delta: Tensor, gradient: Tensor, step: float, radius: float, norm: str) -> dict[str, Tensor]:
    def _back(moved: Tensor) -> Tensor:
        return _inside(moved, radius, norm)

    unit, sign = _each(gradient, _unit), gradient.sign()  # (N, D)
    way, other = (sign, unit) if norm == "linf" else (unit, sign)
    mistaken = (
        "Under linf the step is the sign of the gradient, a full step in every number: here it is scaled to length 1."
        if norm == "linf"
        else "Under l2 the step is the gradient at length 1: here it is its sign, which is linf's."
    )
    across = gradient / gradient.norm(dim=0, keepdim=True)  # (N, D)
    return {
        "The sign is the wrong one: an attack goes uphill, so that the loss rises.": _back(delta - step * way),
        "The gradient is used as it is: its size says nothing about how far to go, and a confident model's is tiny.": _back(
            delta + step * gradient
        ),
        "The gradient is divided by the norm of the whole batch: each vector has a step of its own.": _back(
            delta + step * gradient / gradient.norm()
        ),
        "The gradient's norm goes down the vectors: it belongs along the last axis.": _back(delta + step * across),
        mistaken: _back(delta + step * other),
        "It forgets where δ was: the step starts there.": _back(step * way),
        "It leaves the ball: project what you have *after* the step.": delta + step * way,
        "It projects the step alone: what has to be inside the ball is δ and the step together.": delta + _back(step * way),
        "`step` is taken for a share of the radius: it is a length.": _back(delta + step * radius * way),
        "`step` is missing: it goes as far as the radius.": _back(delta + radius * way),
        "`step` is missing: it goes as far as 1.": _back(delta + way),
        "A vector without gradient becomes NaN: 0 divided by a length of 0. It has to stay where it is.": _back(
            delta + step * gradient / gradient.norm(dim=-1, keepdim=True)
        ),
        "It projects under l2 in both norms.": _inside(delta + step * way, radius, "l2"),
        "It projects under linf in both norms.": _inside(delta + step * way, radius, "linf"),
    }  # fmt: skip


def _vectors(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Vectors of quite different lengths, the first of them 0."""
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).view(-1, shape[-1])  # (N, D)
    sizes = 1.5 * torch.arange(len(vectors)) / (len(vectors) - 1)  # (N,)
    return (vectors * sizes[:, None]).view(shape)


def _each(vectors: Tensor, loop: Loop) -> Tensor:
    return torch.tensor([loop(row) for row in vectors.reshape(-1, vectors.shape[-1]).tolist()]).view(vectors.shape)


def _inside(vectors: Tensor, radius: float, norm: str) -> Tensor:
    def _nearest(vector: list[float]) -> list[float]:
        if norm == "linf":
            return [max(-radius, min(radius, number)) for number in vector]
        length = math.hypot(*vector)
        return [number * radius / length for number in vector] if length > radius else vector

    return _each(vectors, _nearest)


def _unit(vector: list[float]) -> list[float]:
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else vector


def _sign(vector: list[float]) -> list[float]:
    return [math.copysign(1.0, number) if number else 0.0 for number in vector]


# ---------------------------------------------------------------- labels under noise


def examine_noise_robust_loss(function: Function) -> str | None:
    """Compares with loops over the rows and the gradient's closed form; about half of the rows are predicted wrongly."""
    for seed, (rows, classes, alpha) in enumerate(((6, 3, 0.3), (5, 4, 0.8), (4, 4, 1.0), (4, 3, 0.0))):
        clean, noisy = 1.5 * torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(seed))  # (B, C) each
        labels = torch.where(torch.arange(rows) % 2 > 0, clean.argmax(1), (noisy.argmax(1) + 1) % classes)  # (B,)
        pairs = list(zip(clean.tolist(), noisy.tolist(), labels.tolist(), strict=True))
        costs = [alpha * _surprise(x, y) + (1 - alpha) * _surprise(z, y) for x, z, y in pairs]
        right = torch.tensor(sum(costs) / rows)
        hot = torch.zeros(rows, classes).scatter(1, labels[:, None], 1.0)  # (B, C)
        slopes = (alpha * (clean.softmax(1) - hot) / rows, (1 - alpha) * (noisy.softmax(1) - hot) / rows)  # (B, C) each
        leaves = (clean.clone().requires_grad_(), noisy.clone().requires_grad_())
        got = call(function, *leaves, labels, alpha)
        given = f"B = {rows}, C = {classes}, alpha = {alpha}"
        said = expect(got, right, _noise_mistakes(clean, noisy, labels, alpha), given=given)
        said = said or expect(gradients(got, *leaves), slopes, _cut(slopes), given=f"{given}, {SLOPE}")
        if said:
            return said
    return None


def _noise_mistakes(clean: Tensor, noisy: Tensor, labels: Tensor, alpha: float) -> dict[str, Tensor]:
    x, z = clean.log_softmax(1), noisy.log_softmax(1)  # (B, C)

    def _mix(one: Tensor, other: Tensor) -> Tensor:
        return alpha * one + (1 - alpha) * other

    def _of(logps: Tensor, classes: Tensor = labels) -> Tensor:
        return -logps.gather(1, classes[:, None]).mean()

    def _entropy(logps: Tensor) -> Tensor:
        return -(logps.exp() * logps).sum(1).mean()

    return {
        "α stands on the wrong side: it is the share of the *clean* inputs.": _mix(_of(z), _of(x)),
        "That is the printed form, an entropy: there is no label in it, and it sharpens whatever is on top.": (
            _mix(_entropy(x), _entropy(z)) * len(x)
        ),
        "That is an entropy: there is no label in it, and it makes the student surer of whatever it says.": _mix(
            _entropy(x), _entropy(z)
        ),
        "The label of the perturbed input is the student's own prediction on the clean one, mistakes included: x + δ keeps the "
        "label of x.": _mix(_of(x), _of(z, clean.argmax(1))),
        "Both labels are the student's own predictions: then it learns what it says already.": _mix(
            _of(x, clean.argmax(1)), _of(z, noisy.argmax(1))
        ),
        "The perturbed inputs are compared with the student's clean distribution: the label belongs there.": _mix(
            _of(x), (x.exp() * (x - z)).sum(1).mean()
        ),
        "It mixes the logits and takes one cross-entropy: mix the two losses.": _of(_mix(clean, noisy).log_softmax(1)),
        "It mixes the probabilities and takes one cross-entropy: mix the two losses.": _of(_mix(x.exp(), z.exp()).log()),
        "α is missing: the two losses add up with 1 each.": _of(x) + _of(z),
        "α is missing: the two losses get a half each.": (_of(x) + _of(z)) / 2,
        "The perturbed part is missing.": alpha * _of(x),
        "The clean part is missing.": (1 - alpha) * _of(z),
        "The second weight is α as well: it is 1 − α, so that both add up to 1.": alpha * (_of(x) + _of(z)),
        "It adds the rows up: a mean does not grow with the batch.": _mix(_of(x), _of(z)) * len(x),
        "The sign is the wrong one: the loss has to fall when the right class becomes likelier.": -_mix(_of(x), _of(z)),
        "`cross_entropy` was given probabilities: it takes logits, and does the softmax itself.": _mix(
            _of(x.exp().log_softmax(1)), _of(z.exp().log_softmax(1))
        ),
    }  # fmt: skip


def _cut(slopes: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    clean, noisy = slopes
    return {
        "The value is right, but the perturbed part sends no gradient: it is δ that is detached, not the student on x + δ.": (
            clean, 0 * noisy
        ),
        "The value is right, but the clean part sends no gradient.": (0 * clean, noisy),
    }  # fmt: skip


def _surprise(row: Sequence[float], label: int) -> float:
    return math.log(sum(math.exp(one - row[label]) for one in row))


EXERCISES = (
    Exercise(
        name="project", solution=project, examine=examine_project, minutes=8, lesson=LESSON,
        hints=(
            "Two norms, two shapes. In a cube (linf) each number has bounds of its own; in a round ball (l2) a vector is too "
            "long or it is not.",
            "`delta.norm(dim=-1, keepdim=True)` keeps the last axis, so that it divides (N, D). What has to stay as it is?",
            "`torch.where(lengths > radius, delta * radius / lengths, delta)` for l2, `delta.clamp(-radius, radius)` for linf.",
        ),
    ),
    Exercise(
        name="pgd_step", solution=pgd_step, examine=examine_pgd_step, minutes=8, lesson=LESSON,
        hints=(
            "Only the gradient's direction counts. Which point at distance `step` raises the loss most, where the distance is a "
            "length, and where it is the largest number?",
            "l2: the gradient over its own length; linf: its sign. Then `project` the sum of δ and the step.",
            "A gradient of 0 has no direction: `lengths.clamp(min=1e-30)` divides 0 by something, and it stays 0.",
        ),
    ),
    Exercise(
        name="noise_robust_loss", solution=noise_robust_loss, examine=examine_noise_robust_loss, minutes=4, lesson=LESSON,
        hints=(
            "Two cross-entropies with the same labels. Which of them does α weigh?",
            "`F.cross_entropy(logits, labels)` takes logits and whole numbers, and gives the mean over the rows.",
        ),
    ),
)  # fmt: skip
