"""The exercise of lesson 31 on a shield: a step that holds the canaries.

Symbols: N weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..examining import Wrong, call
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "31_canaries"


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
    given = "a step of AdamW with momentum and decay"
    cases = [Case((seed,), *_farthest(*_twins(seed)), given) for seed in range(3)]
    return examined(partial(_held, function), cases)


@cache  # nothing changes them any more
def _twins(seed: int) -> tuple[_Bench, _Bench]:
    """After an unshielded step, and after one without gradients on the canaries."""
    twin, quiet = _Bench(seed), _Bench(seed).quiet()
    twin.step()
    return twin, quiet


def _held(function: Function, seed: int) -> Any:
    bench = _Bench(seed)
    got = call(function, bench.model, bench.masks, bench.step)
    if bench.steps != 1:
        raise Wrong(f"step() was called {bench.steps} times: a shielded step makes one.")
    if said := _unheld(bench, *_twins(seed)):
        raise Wrong(said)
    return got


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


def _farthest(twin: _Bench, quiet: _Bench) -> tuple[float, dict[str, float]]:
    """How far the farthest canary moves, and what mistakes make of it."""

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
    } | {
        f"It looks at the {place} tensor only: the farthest of all masks was asked for.": float(
            twin.moved(name)[twin.masks[name]].abs().max()
        )
        for place, name in {"first": "first", "last": "second"}.items()
    }
    return float(moved.abs().max()), named


EXERCISES = (
    Exercise(
        name="shielded_step", solution=shielded_step, examine=examine_shielded_step, minutes=6, lesson=LESSON,
        hints=(
            "Three things in order: a copy of the values under each mask; the step; the distance, and the copies written back.",
            "`weights = dict(model.named_parameters())`, `weights[name].detach()[mask].clone()`; under `torch.no_grad()` "
            "`weights[name][mask] = kept[name]`.",
        ),
    ),
)  # fmt: skip
