"""The exercise of lesson 32 on what holds canaries where a phase has found them: a penalty with its anchor at the phase's start.

Symbols: θ weights, a the anchor, F importances; N canaries, n weights in all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "32_the_cycle"


def anchor_penalty(
    weights: list[Tensor], masks: list[Tensor], anchors: list[Tensor], importance: list[Tensor] | None
) -> Tensor:
    """Σ over canaries of F · (θ - a)², F divided by its mean over all canaries; 1 everywhere where there is none."""
    chosen, there = (
        torch.cat([one[mask] for one, mask in zip(tensors, masks, strict=True)])  # (N,)
        for tensors in (weights, anchors)
    )
    squares = (chosen - there) ** 2  # (N,)
    if importance is None:
        return squares.sum()
    needed = torch.cat([one[mask] for one, mask in zip(importance, masks, strict=True)])  # (N,)
    return (needed / needed.mean() * squares).sum()


# ---------------------------------------------------------------- the anchor


def examine_anchor_penalty(function: Function) -> str | None:
    """Compares value and gradient with a loop over the numbers; then asks where the weights are at the anchor."""
    for seed, weighed in ((0, False), (1, True), (2, True)):
        weights, masks, anchors, needed = _anchored(seed)
        importance = needed if weighed else None
        leaves = [one.requires_grad_() for one in weights]
        got = call(function, leaves, masks, anchors, importance)
        given = f"3 tensors with canaries, {'with' if weighed else 'without'} importances"
        named = _penalty_mistakes([one.detach() for one in weights], masks, anchors, needed, weighed)
        right, slopes = _slow_penalty([one.detach() for one in weights], masks, anchors, importance)
        said = expect(got, torch.tensor(right, dtype=torch.float64), named, given=given)
        said = said or _penalty_gradient(gradients(got, *leaves), slopes)
        if said:
            return said
    return None


def _penalty_gradient(back: Sequence[Tensor], slopes: Sequence[Tensor]) -> str | None:
    if all(torch.allclose(one, two) for one, two in zip(back, slopes, strict=True)):
        return None
    return "Its value is right, but its gradient is not 2 · F · (θ − a): detach nothing but the anchors and the importances."


def _anchored(seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4), (5,), (2, 3))

    def _drawn(scale: float) -> list[Tensor]:
        return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]

    weights, anchors = _drawn(1.0), _drawn(1.0)
    importance = [10.0**place * one.abs() + 0.1 for place, one in enumerate(_drawn(1.0))]
    masks = [torch.rand(shape, generator=generator) < 0.5 for shape in shapes]
    for mask in masks:
        mask.view(-1)[:2] = torch.tensor([True, False])
    return weights, masks, anchors, importance


def _slow_penalty(
    weights: Sequence[Tensor], masks: Sequence[Tensor], anchors: Sequence[Tensor], importance: Sequence[Tensor] | None
) -> tuple[float, list[Tensor]]:
    """The sum, and its gradient in each tensor, number by number."""
    places = [(t, i) for t, mask in enumerate(masks) for i, held in enumerate(mask.flatten().tolist()) if held]
    needed = {(t, i): 1.0 if importance is None else float(importance[t].flatten()[i]) for t, i in places}
    mean = sum(needed.values()) / len(needed)
    total, slopes = 0.0, [torch.zeros_like(one) for one in weights]
    for t, i in places:
        apart = float(weights[t].flatten()[i]) - float(anchors[t].flatten()[i])
        total += needed[t, i] / mean * apart * apart
        slopes[t].view(-1)[i] = 2 * needed[t, i] / mean * apart
    return total, slopes


def _penalty_mistakes(
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importance: Sequence[Tensor],
    weighed: bool,
) -> dict[str, Tensor]:
    def _under(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([one[mask] for one, mask in zip(tensors, masks, strict=True)])  # (N,)

    everywhere = torch.cat([one.flatten() for one in importance])  # (n,)
    needed = _under(importance) if weighed else torch.ones_like(_under(importance))  # (N,)
    apart, shares = _under(weights) - _under(anchors), needed / needed.mean()  # (N,) each
    every = torch.cat([(w - a).flatten() for w, a in zip(weights, anchors, strict=True)])  # (n,)
    ones = [one if weighed else torch.ones_like(one) for one in importance]
    per_tensor = torch.cat([one[mask] / one[mask].mean() for one, mask in zip(ones, masks, strict=True)])  # (N,)
    return {
        "It is always 0, as the printed anchor is: compare with the values at the start of the phase, not with θ itself.":
            torch.zeros((), dtype=torch.float64),
        "It is the mean over the canaries: a sum was asked for, with importances that are 1 on average.":
            (shares * apart**2).mean(),
        "All weights are held: only those under the masks are canaries.":
            ((everywhere / needed.mean() if weighed else torch.ones_like(every)) * every**2).sum(),
        "It pulls the canaries to 0, as weight decay does: subtract the anchors.": (shares * _under(weights) ** 2).sum(),
        "The importances are left out.": (apart**2).sum(),
        "The importances are not divided by their mean, so that β would mean another thing for each model.":
            (needed * apart**2).sum(),
        "Their mean is taken over all weights: take it over the canaries.":
            (needed / (everywhere.mean() if weighed else 1.0) * apart**2).sum(),
        "Each tensor divides by a mean of its own: one mean serves all canaries.": (per_tensor * apart**2).sum(),
        "The distance is not squared.": (shares * apart.abs()).sum(),
        "It is squared and not summed under one F each: F is outside the square.": ((shares * apart) ** 2).sum(),
        "A root is taken of the sum: the penalty is the sum of squares itself.": (shares * apart**2).sum().sqrt(),
        "It is halved: there is no ½ in this penalty.": (shares * apart**2).sum() / 2,
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="anchor_penalty", solution=anchor_penalty, examine=examine_anchor_penalty, minutes=7, lesson=LESSON,
        hints=(
            "Take weights, anchors and importances under the masks, lay each end to end, and it is one line.",
            "`torch.cat([one[mask] for one, mask in zip(weights, masks)])`; `((θ − a) ** 2 * F / F.mean()).sum()`.",
        ),
    ),
)  # fmt: skip
