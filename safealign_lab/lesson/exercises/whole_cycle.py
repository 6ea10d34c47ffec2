"""The exercise of lesson 32 on the whole: both phases, and between them the canaries, in their right order.

Symbols: θ weights, g a gradient; N canaries, n weights in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..examining import call, expect
from ..exercise import Exercise, Function

LESSON = "32_the_cycle"


def one_cycle(
    model: nn.Module, first: Callable[[int], dict[str, Tensor]], second: Callable[[int], Tensor],
    attacked: Callable[[int], AbstractContextManager[None]], choose: Callable[[list[Tensor]], list[Tensor]],
    updates: tuple[Callable[[], None], Callable[[], None]], steps: tuple[int, int],
) -> list[Tensor]:  # fmt: skip
    """Trains the model in place: first at attacked weights, then with the canaries held bit for bit; returns their masks."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    scores = [torch.zeros_like(weight) for weight in weights]
    for step in range(1, steps[0] + 1):
        with attacked(step):  # behind the block the weights are back
            terms = first(step)
            pulls = torch.autograd.grad(terms["refusal"], weights, retain_graph=True)
            found = torch.autograd.grad(terms["loss"], weights)
        for weight, score, pull, gradient in zip(weights, scores, pulls, found, strict=True):
            score += pull.abs()
            weight.grad = gradient
        updates[0]()
    masks = choose(scores)
    kept = [weight.detach()[mask].clone() for weight, mask in zip(weights, masks, strict=True)]  # (N,) each
    for step in range(1, steps[1] + 1):
        for weight, gradient in zip(weights, torch.autograd.grad(second(step), weights), strict=True):
            weight.grad = gradient
        updates[1]()
        with torch.no_grad():
            for weight, mask, values in zip(weights, masks, kept, strict=True):
                weight[mask] = values
    return masks


# ---------------------------------------------------------------- the whole cycle


@dataclass(frozen=True)
class _Way:
    """One way of leading a cycle; the fields as they are make the right one.

    Attributes:
        place: the share of the attack at which the first phase takes its gradients.
        undone: the first phase's steps are taken inside the attack, whose end undoes them.
        score: what of each gradient is counted: "sizes", "last", "signed", "squares", or "whole" (of the loss).
        chosen: canaries are chosen "between" the phases or "before" both.
        held: "steps", "end" (once), "never", "zeroed" (gradients), "others", or "begun" (to where the first phase began).
        updates: which update each phase uses.
        swapped: the second phase comes first.
        number: of the first step.
        piled: the refusal's gradient is in the step twice.
    """

    place: float = 1.0
    undone: bool = False
    score: str = "sizes"
    chosen: str = "between"
    held: str = "steps"
    updates: tuple[int, int] = (0, 1)
    swapped: bool = False
    number: int = 1
    piled: bool = False


_SLIPS = {
    "Its gradients are those at θ itself: take both inside `with attacked(step):`.": _Way(place=0.0),
    "The first phase has taught nothing: its steps are made inside the attack, and putting the weights back undoes them.":
        _Way(undone=True),
    "Its canaries are those of the last batch, as the source's are: add the scores up over the phase.": _Way(score="last"),
    "Its scores are sums with a sign, in which batches cancel: add up |g|.": _Way(score="signed"),
    "It adds up squares: |g| was asked for.": _Way(score="squares"),
    "It scores by the gradient of the whole loss: canaries are what the *refusal* needs.": _Way(score="whole"),
    "Its canaries are chosen before anything is known of them: choose when the first phase has ended.": _Way(chosen="before"),
    "The second phase moves the canaries: choose them before it, and write their values back after each update.":
        _Way(held="never"),
    "The canaries are put back once, at the end, and all others have been trained around canaries that moved: hold each step.":
        _Way(held="end"),
    "It sets the canaries' gradients to 0, and the update's decay moves them all the same: write their values back.":
        _Way(held="zeroed"),
    "It holds what is no canary, and lets the canaries go: True marks a canary.": _Way(held="others"),
    "It puts the canaries back to where the first phase *began*, and undoes what they had learnt: copy between the phases.":
        _Way(held="begun"),
    "Both phases share one update, whose momentum is the first phase's: the second has its own, `updates[1]`.":
        _Way(updates=(0, 0)),
    "The updates are swapped: `updates[0]` is the first phase's.": _Way(updates=(1, 0)),
    "It aligns first: immunise, choose, and then align.": _Way(swapped=True),
    "It counts the steps from 0: the first one is step 1.": _Way(number=0),
    "The refusal's gradient is in the step twice: it is for the scores alone, so take it with `torch.autograd.grad`.":
        _Way(piled=True),
}  # fmt: skip


_SEEDS = (8, 16)  # problems in which no two ways end in the same place


class _Problem:
    """Two phases of quadratic losses, whose gradients are known in closed form, and an attack that has been drawn beforehand."""

    SIZES, STEPS = ((4, 3), (5,)), (4, 3)
    RATES, DECAYS = (0.05, 0.03), (0.1, 0.4)

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        n, longest = sum(torch.Size(size).numel() for size in self.SIZES), 1 + max(self.STEPS)

        def _drawn() -> Tensor:
            return torch.randn(longest, n, generator=generator, dtype=torch.float64)

        self.start = 2 * _drawn()[0]  # (n,)
        self.slopes, self.goals = ([_drawn() for _ in range(3)] for _ in range(2))  # of refusal, kept and second
        self.slopes = [one.abs() + 0.2 for one in self.slopes]
        self.moves = 1.5 * _drawn()  # (steps+1, n), the attack's
        self.model = nn.Module()
        for name, part in zip("ab", self.cut(self.start), strict=True):
            self.model.register_parameter(name, nn.Parameter(part.clone()))
        self.model.register_parameter("frozen", nn.Parameter(self.start[:2].clone(), requires_grad=False))

    def cut(self, flat: Tensor) -> list[Tensor]:
        """A vector of all numbers as the model's tensors."""
        parts = torch.split(flat, [torch.Size(size).numel() for size in self.SIZES])
        return [part.view(size) for part, size in zip(parts, self.SIZES, strict=True)]

    def trained(self) -> list[nn.Parameter]:
        """The two tensors that are trained."""
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _laid(self) -> Tensor:
        return torch.cat([weight.flatten() for weight in self.trained()])  # (n,)

    def _term(self, kind: int, step: int) -> Tensor:
        return (self.slopes[kind][step] * (self._laid() - self.goals[kind][step]).square()).sum() / 2

    def first(self, step: int) -> dict[str, Tensor]:
        """The first phase's terms."""
        refusal = self._term(0, step)
        return {"refusal": refusal, "loss": refusal + self._term(1, step)}

    def second(self, step: int) -> Tensor:
        """The second phase's loss, in which all weights meet."""
        return self._term(2, step) + 2 * self._laid().sum().square()

    def gradient(self, kind: int, step: int, at: Tensor) -> Tensor:
        """What differentiation would find, in closed form; (n,)."""
        together = 4 * at.sum() if kind == 2 else 0.0
        return self.slopes[kind][step] * (at - self.goals[kind][step]) + together

    @contextmanager
    def attacked(self, step: int) -> Iterator[None]:
        """The weights moved by the drawn attack, and put back."""
        kept = [weight.detach().clone() for weight in self.trained()]
        with torch.no_grad():
            for weight, move in zip(self.trained(), self.cut(self.moves[step]), strict=True):
                weight.add_(move)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.trained(), kept, strict=True):
                    weight.copy_(value)

    def choose(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """The larger half, of equal ones the first."""
        flat = torch.cat([one.detach().flatten() for one in scores])  # (n,)
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[flat.sort(descending=True, stable=True).indices[: len(flat) // 2]] = True
        return self.cut(mask)

    def updates(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """The steps of both phases' optimisers."""
        both = [torch.optim.AdamW(self.trained(), rate, weight_decay=decay)
                for rate, decay in zip(self.RATES, self.DECAYS, strict=True)]  # fmt: skip
        return both[0].step, both[1].step


class _Adam:
    """AdamW with its usual memory, number by number."""

    def __init__(self, rate: float, decay: float) -> None:
        self.rate, self.decay, self.steps = rate, decay, 0
        self.mean = self.square = torch.zeros(())

    def step(self, at: Tensor, gradient: Tensor) -> Tensor:
        """Where a step from here leads; (n,)."""
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        return at * (1 - self.rate * self.decay) - self.rate * mean / (square.sqrt() + 1e-8)


def _walk(problem: _Problem, way: _Way) -> list[Tensor]:
    """Both masks and both tensors at the end, along one way."""
    adams = [_Adam(*both) for both in zip(problem.RATES, problem.DECAYS, strict=True)]
    mine = [adams[place] for place in way.updates]
    at, zeros = problem.start, torch.zeros_like(problem.start)  # (n,) each
    if way.swapped:
        at = _second(problem, way, at, torch.zeros_like(at, dtype=torch.bool), at, mine[1])
    at, scores = _first(problem, way, at, mine[0])
    mask = torch.cat(
        [one.flatten() for one in problem.choose(problem.cut(zeros if way.chosen == "before" else scores))]
    )
    if not way.swapped:
        at = _second(problem, way, at, mask, problem.start if way.held == "begun" else at, mine[1])
    return [*problem.cut(mask), *problem.cut(at)]


def _first(problem: _Problem, way: _Way, at: Tensor, adam: _Adam) -> tuple[Tensor, Tensor]:
    scores = torch.zeros_like(at)  # (n,)
    for step in range(way.number, way.number + problem.STEPS[0]):
        there = at + way.place * problem.moves[step]
        pull, keep = (problem.gradient(kind, step, there) for kind in (0, 1))
        gained = {"signed": pull, "squares": pull**2, "whole": (pull + keep).abs()}.get(way.score, pull.abs())
        scores = gained if way.score == "last" else scores + gained
        moved = adam.step(at, pull * (2 if way.piled else 1) + keep)
        at = at if way.undone else moved
    return at, scores


def _second(problem: _Problem, way: _Way, at: Tensor, mask: Tensor, kept: Tensor, adam: _Adam) -> Tensor:
    held = ~mask if way.held == "others" else mask
    for step in range(way.number, way.number + problem.STEPS[1]):
        gradient = problem.gradient(2, step, at)
        at = adam.step(at, gradient.masked_fill(mask, 0.0) if way.held == "zeroed" else gradient)
        if way.held in ("steps", "others", "begun"):
            at = torch.where(held, kept, at)
    return torch.where(held, kept, at) if way.held == "end" else at


def examine_one_cycle(function: Function) -> str | None:
    """Compares masks and weights with closed-form gradients and an optimiser written out; then each slip with its own walk."""
    for seed in _SEEDS:
        problem = _Problem(seed)
        right = _walk(problem, _Way())
        got = call(
            function, problem.model, problem.first, problem.second, problem.attacked, problem.choose, problem.updates(),
            problem.STEPS, like=right[:2],
        )  # fmt: skip
        named = {sentence: _walk(problem, way) for sentence, way in _SLIPS.items()}
        ended = [*got, *(weight.detach() for weight in problem.trained())]
        said = expect(ended, right, named, given="two masks and two trained tensors, in this order, after both phases")
        if said:
            return said
    return None


EXERCISES = (
    Exercise(
        name="one_cycle", solution=one_cycle, examine=examine_one_cycle, minutes=12, lesson=LESSON,
        hints=(
            "The first phase: both gradients inside `with attacked(step):`, the scores and the update outside. Then `choose`, "
            "and copies of the canaries. The second phase: gradient, update, copies written back; at every step.",
            "`torch.autograd.grad(terms[\"refusal\"], weights, retain_graph=True)` for the scores, the same of `terms[\"loss\"]` "
            "into each `weight.grad`, `updates[0]()`; later `weight[mask] = values` under `torch.no_grad()`.",
        ),
    ),
)  # fmt: skip
