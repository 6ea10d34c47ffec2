"""The exercises of lesson 31 on the weights themselves: the gradient at attacked weights, and a step that holds the canaries.

Symbols: θ weights, g a gradient, δ a perturbation, ρ its radius.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..examining import call, expect
from ..exercise import Exercise, Function

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


def shielded_step(model: nn.Module, masks: dict[str, Tensor], step: Callable[[], None]) -> float:
    """Calls step(), writes the weights under the masks back, and returns how far the farthest of them had moved."""
    weights = dict(model.named_parameters())
    kept = {name: weights[name].detach()[mask].clone() for name, mask in masks.items()}
    step()
    moved = [float((weights[name].detach()[mask] - kept[name]).abs().max()) for name, mask in masks.items()]
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name][mask] = kept[name]
    return max(moved)


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
    for seed, radius in ((0, 0.05), (1, 0.5), (2, 0.01)):
        model, untouched = _Toy(seed), _Toy(seed)
        places = _places(untouched, radius)
        got = call(function, model, model.raised, model.loss, radius)
        said = _left_behind(model, untouched, places["right"])
        if said:
            return said
        if isinstance(got, tuple):
            got = list(got)
        if isinstance(got, list) and not all(bool(torch.as_tensor(one).isfinite().all()) for one in got):
            return "It divides by a norm of 0: a tensor whose gradient is all zeros has no direction, and stays where it is."
        at = {name: _gradients_at(untouched, place) for name, place in places.items()}
        said = expect(got, at["right"], _gradient_mistakes(untouched, places["right"], at), given=f"radius = {radius}")
        if said:
            return said
    return _examine_exception(function)


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


def _left_behind(model: _Toy, untouched: _Toy, attacked: list[Tensor]) -> str | None:
    """What is said where the weights are not the ones that came in."""
    if _same(model, untouched):
        return None
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


# ---------------------------------------------------------------- a step that holds


class _Bench:
    """A model in the middle of a training by AdamW, with momentum and decay, and the canaries' masks; of one seed, twins."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Module()
        for name, size in {"first": (3, 4), "second": (5,), "third": (4,)}.items():
            self.model.register_parameter(name, nn.Parameter(torch.randn(size, generator=generator)))
        self.weights = dict(self.model.named_parameters())
        self.optimiser = torch.optim.AdamW(self.weights.values(), 0.05, weight_decay=0.3)
        for number in range(4):
            for weight in self.weights.values():
                weight.grad = torch.randn(weight.shape, generator=generator)
            if number < 3:
                self.optimiser.step()
        self.masks = {
            name: torch.rand(self.weights[name].shape, generator=generator) < 0.5 for name in ("first", "second")
        }
        for mask in self.masks.values():
            mask.view(-1)[0] = True
        self.before = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.steps = 0

    def step(self) -> None:
        """The optimiser's step, counted."""
        self.steps += 1
        self.optimiser.step()

    def quiet(self) -> _Bench:
        """The same after a step without gradients on the canaries."""
        for name, mask in self.masks.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                gradient[mask] = 0.0
        self.step()
        return self

    def values(self, canaries: bool) -> Tensor:
        """The canaries, or all other weights, end to end; (N,)."""
        return self._laid(self.weights, canaries)

    def at_rest(self) -> tuple[Tensor, Tensor]:
        """The same two before the step; (N,) each."""
        return self._laid(self.before, True), self._laid(self.before, False)

    def _laid(self, tensors: Mapping[str, Tensor], canaries: bool) -> Tensor:
        none = {name: torch.zeros_like(one, dtype=torch.bool) for name, one in tensors.items()}
        masks = none | self.masks
        return torch.cat([one.detach()[masks[name] == canaries] for name, one in tensors.items()])  # (N,)

    def moved(self, name: str) -> Tensor:
        """How far each weight of a tensor has gone from where it was."""
        return (self.weights[name] - self.before[name]).detach()


def examine_shielded_step(function: Function) -> str | None:
    """Compares the canaries with what they were, all else with an unshielded twin, and the number with the twin's movement."""
    for seed in (0, 1):
        bench, twin, quiet = _Bench(seed), _Bench(seed), _Bench(seed).quiet()
        twin.step()
        got = call(function, bench.model, bench.masks, bench.step)
        if bench.steps != 1:
            return f"step() was called {bench.steps} times: a shielded step makes one."
        said = _unheld(bench, twin, quiet) or _farthest(got, twin, quiet)
        if said:
            return said
    return None


def _unheld(bench: _Bench, twin: _Bench, quiet: _Bench) -> str | None:
    """What is said where a canary has moved, or another weight has not moved as it should."""
    canaries, others = bench.values(True), bench.values(False)
    canaries_before, others_before = bench.at_rest()
    if torch.equal(canaries, canaries_before):
        if torch.equal(others, others_before):
            return (
                "Nothing has moved: write the canaries back, and leave all other weights where the step has put them."
            )
        if not torch.allclose(others, twin.values(False)):
            return (
                "Weights that are no canaries have to be where the step has put them: write back under the masks only."
            )
        return None
    if torch.equal(others, others_before):
        return "It holds all the others: True marks the canaries, and they are to stay."
    if torch.equal(canaries, twin.values(True)):
        return (
            "The canaries have moved with all the rest: keep a copy of their values, and write it back after the step."
        )
    if torch.equal(canaries, quiet.values(True)):
        return "Gradients of 0 do not hold a weight: AdamW's momentum and decay have moved it. Write it back after the step."
    return "The canaries are not bit for bit where they were: what is written back has to be the copy of before."


def _farthest(got: float, twin: _Bench, quiet: _Bench) -> str | None:
    def _of(bench: _Bench) -> Tensor:
        return torch.cat([bench.moved(name)[mask] for name, mask in bench.masks.items()])

    moved, everything = _of(twin), torch.cat([twin.moved(name).flatten() for name in twin.weights])
    named = {
        "It measures after writing back, where nothing has moved any more: measure between the two.": 0.0,
        "It returns the mean distance: the farthest was asked for.": float(moved.abs().mean()),
        "It returns the sum of the distances: the farthest was asked for.": float(moved.abs().sum()),
        "It returns the largest movement upwards: one that goes down can be the farthest.": float(moved.max()),
        "It measures all weights: only those under the masks were asked for.": float(everything.abs().max()),
        "It returns the length of the whole movement: the farthest single weight was asked for.": float(moved.norm()),
        "It zeroes the gradients first, which changes the step: writing back makes it needless.": float(
            _of(quiet).abs().max()
        ),
        "It looks at one tensor only: the farthest of all masks was asked for.": float(
            twin.moved("second")[twin.masks["second"]].abs().max()
        ),
    }
    return expect(got, float(moved.abs().max()), named, given="a step of AdamW with momentum and decay")


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
    Exercise(
        name="shielded_step", solution=shielded_step, examine=examine_shielded_step, minutes=6, lesson=LESSON,
        hints=(
            "Three things in order: a copy of the values under each mask; the step; the distance, and the copies written back.",
            "`weights = dict(model.named_parameters())`, `weights[name].detach()[mask].clone()`; under `torch.no_grad()` "
            "`weights[name][mask] = kept[name]`.",
        ),
    ),
)  # fmt: skip
