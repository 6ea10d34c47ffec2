"""The exercise of lesson 31 on attacked weights: the gradient there, and the weights back again.

Symbols: θ weights, g a gradient, δ a perturbation, ρ its radius.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..examining import Wrong, call
from ..exercise import Exercise, Function
from . import Case, examined, listed

LESSON = "31_canaries"


def attacked_gradients(
    model: nn.Module, raised: Callable[[], Tensor], loss: Callable[[], Tensor], radius: float
) -> list[Tensor]:
    """The gradients of loss() at θ + δ, δ = ρ · ‖θ‖ · g / ‖g‖ in each tensor, g of raised(); then θ is back bit for bit."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kept = [weight.detach().clone() for weight in weights]
    uphill = torch.autograd.grad(raised(), weights)
    try:
        with torch.no_grad():
            for weight, g in zip(weights, uphill, strict=True):
                if g.any():
                    weight.add_(radius * weight.norm() * g / g.norm())
        return list(torch.autograd.grad(loss(), weights))
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


# ---------------------------------------------------------------- the gradient at attacked weights


class _Interrupted(Exception):
    """What breaks off an evaluation in the check."""


class _Toy(nn.Module):
    """Two tensors of unlike size, one that the loss does not feel, and a frozen one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def _drawn(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=torch.float64))

        self.first, self.second, self.still, self.frozen = (
            _drawn(4, 3, scale=3.0),
            _drawn(3, scale=0.2),
            _drawn(2),
            _drawn(3),
        )
        self.frozen.requires_grad_(False)
        self.inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)  # (B, D)
        self.broken = 0  # which evaluation from now on breaks off; 0 = none does

    def answers(self) -> Tensor:
        """One number a row; (B,)."""
        return torch.tanh(self.inputs @ self.first) @ (self.second + self.frozen) + 0 * self.still.sum()  # (B,)

    def raised(self) -> Tensor:
        """What the attack raises."""
        return self._counted((self.answers() - 1).square().mean())

    def loss(self) -> Tensor:
        """What is trained by: the same, and another term."""
        kept = (self.answers() * self.inputs[:, 0]).square().mean()
        return self._counted((self.answers() - 1).square().mean() + kept)

    def _counted(self, value: Tensor) -> Tensor:
        if self.broken == 1:
            raise _Interrupted
        self.broken = max(0, self.broken - 1)
        return value


def examine_attacked_gradients(function: Function) -> str | None:
    """Compares with the formula at copies of the weights; then looks at the weights, also where an evaluation breaks off."""
    cases = []
    for seed, radius in ((0, 0.05), (1, 0.5), (2, 0.01)):
        untouched = _Toy(seed)
        places = _places(untouched, radius)
        at = {name: _gradients_at(untouched, place) for name, place in places.items()}
        named = _gradient_mistakes(untouched, places["right"], at)
        cases.append(Case((seed, radius), at["right"], named, f"radius = {radius}"))
    return examined(partial(_found, function), cases) or _examine_exception(function)


def _found(function: Function, seed: int, radius: float) -> Any:
    model, untouched = _Toy(seed), _Toy(seed)
    got = call(function, model, model.raised, model.loss, radius)
    if not _same(model, untouched):
        raise Wrong(_left_behind(model, untouched, _places(untouched, radius)["right"]))
    got = listed(got)
    if isinstance(got, list) and not all(bool(torch.as_tensor(one).isfinite().all()) for one in got):
        raise Wrong(
            "It divides by a norm of 0: a tensor whose gradient is all zeros has no direction, and stays where it is."
        )
    return got


def _examine_exception(function: Function) -> str | None:
    model, untouched = _Toy(3), _Toy(3)
    model.broken = 2  # the second evaluation, at the attacked weights, breaks off
    try:
        call(function, model, model.raised, model.loss, 0.1)
    except _Interrupted:
        if _same(model, untouched):
            return None
        return "After an exception at the attacked weights they stay there: put them back in a `finally`."
    return "It swallows the exception of an evaluation: put the weights back, and let the exception go on (`finally` does both)."


def _left_behind(model: _Toy, untouched: _Toy, attacked: list[Tensor]) -> str:
    """What is said where the weights are not the ones that came in."""
    if all(torch.allclose(one, two) for one, two in zip(_moving(model), attacked, strict=True)):
        return "The weights stay where the attack moved them: the optimiser would step from a compromised model. Put θ back."
    if all(torch.allclose(one, two) for one, two in zip(model.parameters(), untouched.parameters(), strict=True)):
        return (
            "The weights come back nearly, and not bit for bit: adding δ and taking it away rounds. Keep a copy of θ."
        )
    return "The weights are not what they were before the call: keep a copy of each, and write it back."


def _same(model: _Toy, untouched: _Toy) -> bool:
    return all(torch.equal(one, two) for one, two in zip(model.parameters(), untouched.parameters(), strict=True))


def _moving(model: _Toy) -> list[Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _places(model: _Toy, radius: float) -> dict[str, list[Tensor]]:
    """Where the attack should go, and where mistakes lead: the trained tensors at each place."""
    weights = [weight.detach() for weight in _moving(model)]
    g = torch.autograd.grad(model.raised(), _moving(model))
    other = torch.autograd.grad(model.loss(), _moving(model))
    units = [one / one.norm().clamp(min=1e-12) for one in g]
    whole, total = (torch.cat([one.flatten() for one in ones]).norm() for ones in (weights, g))
    moves = {
        "right": [w.norm() * u for w, u in zip(weights, units, strict=True)],
        "It goes down": [-w.norm() * u for w, u in zip(weights, units, strict=True)],
        "absolute": units,
        "one ball": [whole * one / total for one in g],
        "raw": list(g),
        "scaled": [w.norm() * one for w, one in zip(weights, g, strict=True)],
        "sign": [w.abs() * one.sign() for w, one in zip(weights, g, strict=True)],
        "other": [w.norm() * one / one.norm().clamp(min=1e-12) for w, one in zip(weights, other, strict=True)],
    }
    moves["still"] = [torch.zeros_like(w) for w in weights]
    return {name: [w + radius * m for w, m in zip(weights, move, strict=True)] for name, move in moves.items()}


def _gradients_at(model: _Toy, place: list[Tensor], of: str = "loss") -> list[Tensor]:
    there = copy.deepcopy(model)
    with torch.no_grad():
        for weight, value in zip(_moving(there), place, strict=True):
            weight.copy_(value)
    return list(torch.autograd.grad(getattr(there, of)(), _moving(there)))


def _gradient_mistakes(model: _Toy, place: list[Tensor], at: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    uphill = torch.autograd.grad(model.raised(), _moving(model))
    return {
        "This is the gradient at θ itself: take it before the weights go back.": at["still"],
        "It is the gradient of what the attack raises, at θ + δ: the training wants that of loss().": _gradients_at(
            model, place, "raised"
        ),
        "This is the attack's own direction, the gradient of raised() at θ.": list(uphill),
        "Two gradients have piled up in `.grad`: clear it between them, or use `torch.autograd.grad`.": [
            one + two for one, two in zip(uphill, at["right"], strict=True)
        ],
        "The attack goes down: it adds the gradient, to raise.": at["It goes down"],
        "The radius is a share of ‖θ‖: multiply by each tensor's own norm.": at["absolute"],
        "All tensors share one ball here: each has its own, by its own norm and its own gradient's.": at["one ball"],
        "The gradient is not brought to length 1, nor to the tensor's scale: divide by ‖g‖, multiply by ‖θ‖.": at[
            "raw"
        ],
        "The gradient is not brought to length 1: divide by ‖g‖.": at["scaled"],
        "It moves every weight by a share of itself: the ball is one of the tensor's norm, along g.": at["sign"],
        "The attack raises the wrong function: its direction is the gradient of raised().": at["other"],
    }


EXERCISES = (
    Exercise(
        name="attacked_gradients", solution=attacked_gradients, examine=examine_attacked_gradients, minutes=10, lesson=LESSON,
        hints=(
            "Copies of θ first. Then the gradient of raised(), the move under `torch.no_grad()`, the gradient of loss(); and "
            "whatever happens in between, the copies go back.",
            "`torch.autograd.grad(raised(), weights)`; `weight.add_(radius * weight.norm() * g / g.norm())` where `g.any()`; "
            "`try: … return torch.autograd.grad(loss(), weights)`, `finally: weight.copy_(value)` for each.",
        ),
    ),
)  # fmt: skip
