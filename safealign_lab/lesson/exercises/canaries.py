"""The exercises of lesson 31 on the map: a gradient by hand, scores over a phase, and the selection of the largest.

Symbols: B rows, D inputs, V outputs; θ weights, g a gradient; n weights in all, K the share that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..examining import Wrong
from ..exercise import Exercise, Function
from . import Case, examined, listed

LESSON = "31_canaries"
KINDS = ("absolute", "squared", "weighted")


def softmax_backward(
    inputs: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the mean cross-entropy of inputs · weightᵀ + bias, at the logits, the weight, the bias and the inputs."""
    d_logits = (inputs @ weight.T + bias).softmax(dim=1)  # (B, V)
    d_logits[torch.arange(len(labels)), labels] -= 1
    d_logits = d_logits / len(labels)
    return d_logits, d_logits.T @ inputs, d_logits.sum(dim=0), d_logits @ weight  # (B, V), (V, D), (V,), (B, D)


def add_scores(scores: list[Tensor], weights: list[Tensor], gradients: list[Tensor | None], kind: str) -> list[Tensor]:
    """The scores with one more batch: plus |g| ("absolute"), g² ("squared") or |θ · g| ("weighted"); no gradient counts as 0."""
    added = []
    for score, weight, gradient in zip(scores, weights, gradients, strict=True):
        if gradient is None:
            added.append(score.clone())
        else:
            found = {"absolute": gradient.abs(), "squared": gradient**2, "weighted": (weight * gradient).abs()}
            added.append(score + found[kind])
    return added


def choose_canaries(scores: list[Tensor], fraction: float) -> list[Tensor]:
    """Masks of the ⌈K · n⌉ largest scores, all tensors together, of equal ones the first in order; 0.07 of 100 is 7."""
    flat = torch.cat([score.flatten() for score in scores])  # (n,)
    count = math.ceil(round(fraction * len(flat), 6))
    chosen = torch.zeros(len(flat), dtype=torch.bool)  # (n,)
    chosen[flat.sort(descending=True, stable=True).indices[:count]] = True
    parts = torch.split(chosen, [score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


# ---------------------------------------------------------------- a gradient by hand


def examine_softmax_backward(function: Function) -> str | None:
    """Compares all four with automatic differentiation, in double precision."""
    names = "the gradient at the logits, at the weight, at the bias, at the inputs".split(", ")
    of_each: list[list[Case]] = [[] for _ in names]
    for seed, rows, width, outputs in ((0, 4, 3, 5), (1, 3, 4, 6), (2, 1, 2, 3)):
        layer = _layer(seed, rows, width, outputs)
        right = _by_autograd(*layer)
        parts = zip(of_each, names, right, _backward_mistakes(*layer, right), strict=True)
        for cases, name, one, mistakes in parts:
            cases.append(Case(layer, one, mistakes, f"B = {rows}, D = {width}, V = {outputs}, {name}"))
    found = (examined(function, cases, partial(_part, place=place)) for place, cases in enumerate(of_each))
    return next(filter(None, found), None)


def _part(got: Any, place: int) -> Any:
    if not isinstance(got, (tuple, list)) or len(got) != 4:
        raise Wrong("Return four tensors: the gradients at the logits, the weight, the bias and the inputs.")
    return got[place]


def _layer(seed: int, rows: int, width: int, outputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, width), (outputs, width), (outputs,))
    inputs, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return inputs, weight, bias, torch.randint(outputs, (rows,), generator=generator)


def _by_autograd(inputs: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    inputs, weight, bias = (one.clone().requires_grad_() for one in (inputs, weight, bias))
    logits = inputs @ weight.T + bias  # (B, V)
    loss = nn.functional.cross_entropy(logits, labels)
    return torch.autograd.grad(loss, (logits, weight, bias, inputs))


def _backward_mistakes(
    inputs: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, right: Sequence[Tensor]
) -> list[dict[str, Tensor]]:
    rows, (at_logits, at_weight, at_bias, at_inputs) = len(labels), right
    logits = inputs @ weight.T + bias  # (B, V)
    p, hot = logits.softmax(1), nn.functional.one_hot(labels, len(bias)).to(inputs)  # (B, V) each
    logit_mistakes = {
        "The mean over the rows is forgotten: each row counts for 1/B.": rows * at_logits,
        "Its sign is turned: a step goes against the gradient, and the gradient itself is p − 1 at the right token.": -at_logits,
        "The 1 at the right token is missing: this is p, and along a row the gradient adds up to 0.": p / rows,
        "The 1 is taken from every token: it belongs to the right one alone.": (p - 1) / rows,
        "Only the right token has a gradient here: every other token's is its probability.": hot * at_logits,
        "Its softmax runs down the rows: the tokens are the last dimension.": (logits.softmax(0) - hot) / rows,
        "It divides by V too: the mean goes over rows only.": at_logits / len(bias),
        "It stops at the probabilities, −1/p: go on through the softmax.": -hot / p / rows,
        "The bias is left out of the logits.": ((inputs @ weight.T).softmax(1) - hot) / rows,
    }
    weight_mistakes = {
        "The weight's gradient lies on its side: it has the weight's own shape, (V, D).": at_weight.T,
        "The mean over the rows is taken twice at the weight: it is in the logits' gradient already.": at_weight / rows,
        "The weight meets the logits here, and not their gradient.": logits.T @ inputs,
    }
    bias_mistakes = {
        "The bias takes the mean over the rows once more: it is added to every row, so its gradients add up.": at_bias
        / rows,
        "The rows are still apart at the bias: one bias serves them all.": at_logits,
    }
    input_mistakes = {
        "At the inputs only the right token's row of the weight counts here: all rows do, each by its gradient.": -weight[
            labels
        ]
        / rows,
        "The mean over the rows is taken once more at the inputs.": at_inputs / rows,
    }
    return [logit_mistakes, weight_mistakes, bias_mistakes, input_mistakes]


# ---------------------------------------------------------------- scores


def examine_add_scores(function: Function) -> str | None:
    """Compares with a loop over the numbers, for each kind by itself; another tensor has no gradient each time."""
    for kind in KINDS:
        cases = []
        for seed in range(3):
            batch = _batch_of_scores(seed)
            mistakes = _score_mistakes(*batch, kind)
            cases.append(Case((*batch, kind), _slow_scores(*batch, kind), mistakes, f"kind = {kind!r}"))
        if said := examined(function, cases, listed):
            return said
    return None


def _batch_of_scores(seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = (4, 3, 2)
    scores = [torch.rand(size, generator=generator) + 0.2 for size in sizes]
    weights, gradients = ([3 * torch.randn(size, generator=generator) for size in sizes] for _ in range(2))
    for score, gradient in zip(scores, gradients, strict=True):
        gradient[0] = -0.7 * score[0]  # where a sum without its absolute value would fall
    return scores, weights, [None if place == 2 - seed else one for place, one in enumerate(gradients)]


def _or_zero(gradients: list[Tensor | None], weights: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]


def _slow_scores(
    scores: list[Tensor], weights: list[Tensor], gradients: list[Tensor | None], kind: str
) -> list[Tensor]:
    def _slow(s: float, w: float, g: float) -> float:
        return s + {"absolute": abs(g), "squared": g * g, "weighted": abs(w * g)}[kind]

    trios = zip(scores, weights, _or_zero(gradients, weights), strict=True)
    return [torch.tensor(list(map(_slow, *map(Tensor.tolist, trio)))) for trio in trios]


def _score_mistakes(
    scores: list[Tensor], weights: list[Tensor], gradients: list[Tensor | None], kind: str
) -> dict[str, list[Tensor]]:
    filled = _or_zero(gradients, weights)

    def _each(made: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        return [made(*trio) for trio in zip(scores, weights, filled, strict=True)]

    def _new(w: Tensor, g: Tensor) -> Tensor:
        return {"absolute": g.abs(), "squared": g**2, "weighted": (w * g).abs()}[kind]

    return {
        "It keeps the last batch alone, as the source does: add to what is there.": _each(lambda s, w, g: _new(w, g)),
        "A tensor without a gradient loses its score: nothing is added to it, and nothing is taken away.":
            _each(lambda s, w, g: s + _new(w, g) if g.any() else g),
        "Gradients of either sign cancel: the absolute value is missing.": _each(
            lambda s, w, g: s + (w * g if kind == "weighted" else g)
        ),
        "The absolute value comes too late: take it of each batch, and then add.": _each(lambda s, w, g: (s + g).abs()),
        "It squares the sum: take the square of each batch, and then add.": _each(lambda s, w, g: (s + g) ** 2),
        "It leaves θ out: the score is |θ · g|.": _each(lambda s, w, g: s + g.abs()),
        "It squares θ · g: this kind takes the absolute value.": _each(lambda s, w, g: s + (w * g) ** 2),
        "It adds up |θ| and |g|: they are multiplied.": _each(lambda s, w, g: s + w.abs() + g.abs()),
        "It keeps the largest batch of each weight, and not the sum.": _each(lambda s, w, g: torch.maximum(s, _new(w, g))),
        "It takes the mean of old and new, so that early batches fade: add.": _each(lambda s, w, g: (s + _new(w, g)) / 2),
    }  # fmt: skip


# ---------------------------------------------------------------- the selection

# seed, sizes, K, whether there are ties
_SELECTIONS: tuple[tuple[int, tuple[int, ...], float, bool], ...] = (
    (2, (6, 5, 9), 0.4, True),
    (0, (6, 9, 8), 0.2, False),  # 4.6 canaries
    (1, (7, 10, 5), 0.2, False),  # 4.4
    (3, (40, 60), 0.07, False),
    (5, (5, 4), 1.0, True),
)
_NONE: tuple[tuple[int, tuple[int, ...], float, bool], ...] = ((4, (5, 4), 0.0, False), (6, (3, 2, 6), 0.0, True))


def examine_choose_canaries(function: Function) -> str | None:
    """Compares with Python's own sort, with ties, negative scores, tensors of unlike sizes, and K · n that is not whole.

    K = 0 comes by itself: a slice from the end goes wrong there, whatever else is right or wrong.
    """
    return next(filter(None, (examined(function, _choices(some), listed) for some in (_SELECTIONS, _NONE))), None)


def _choices(selections: Sequence[tuple[int, tuple[int, ...], float, bool]]) -> list[Case]:
    cases = []
    for seed, sizes, fraction, ties in selections:
        scores = _scores(seed, sizes, ties)
        given = f"{sum(sizes)} scores in {len(sizes)} tensors, {'many of them equal, ' if ties else ''}fraction = {fraction}"
        count = math.ceil(Fraction(str(fraction)) * sum(sizes))
        mistakes = _choice_mistakes(scores, fraction, count)
        cases.append(Case((scores, fraction), _slow_choice(scores, count), mistakes, given))
    return cases


def _scores(seed: int, sizes: Sequence[int], ties: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [10.0**-place * torch.randn(size, generator=generator) for place, size in enumerate(sizes)]
    return [(10**place * one).round() for place, one in enumerate(drawn)] if ties else drawn


def _slow_choice(
    scores: Sequence[Tensor], count: int, by: Callable[[float, int], object] | None = None
) -> list[Tensor]:
    """The `count` first weights in an order, by value and place: the largest, and of equals the first, unless told otherwise."""
    values = [value for score in scores for value in score.flatten().tolist()]
    order = sorted(range(len(values)), key=lambda place: (by or (lambda v, i: (-v, i)))(values[place], place))  # type: ignore[arg-type, return-value]
    taken = set(order[:count])
    flat = torch.tensor([place in taken for place in range(len(values))], dtype=torch.bool)  # (n,)
    parts = torch.split(flat, [score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _choice_mistakes(scores: list[Tensor], fraction: float, count: int) -> dict[str, object]:
    right, total = _slow_choice(scores, count), sum(score.numel() for score in scores)
    least = min((score[mask].min() for score, mask in zip(scores, right, strict=True) if mask.any()), default=torch.inf)
    return {
        "It rounds K · n to the nearest: round up.": _slow_choice(scores, round(fraction * total)),
        "It rounds K · n down: ⌈ ⌉ rounds up.": _slow_choice(scores, int(fraction * total)),
        "It has one too many: 0.07 · 100 is a little more than 7 for a computer, so round off that little before you round up.":
            _slow_choice(scores, math.ceil(fraction * total)),
        "Each tensor has its own share here: rank all tensors together.":
            [_slow_choice([one], math.ceil(Fraction(str(fraction)) * one.numel()))[0] for one in scores],
        "These are the smallest scores: canaries have the largest.": _slow_choice(scores, count, lambda v, i: (v, i)),
        "It ranks by magnitude: a score far below 0 is a low score.": _slow_choice(scores, count, lambda v, i: (-abs(v), i)),
        "All that equal the lowest chosen score are in, more than were asked for: of equal ones take the first only.":
            [score >= least for score in scores],
        "All that equal the lowest chosen score are left out, so that there are too few.": [score > least for score in scores],
        "Of equal scores it takes the last in order: the first are asked for.":
            _slow_choice(scores, count, lambda v, i: (-v, -i)),
        "With K = 0 everything is chosen: `[-0:]` is the whole list.": _slow_choice(scores, count or total),
        "It marks what is no canary: True is for the canaries.": [~mask for mask in right],
        "It is one mask for all: cut it into the tensors' sizes, and give each part its shape.":
            torch.cat([mask.flatten() for mask in right]),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="softmax_backward", solution=softmax_backward, examine=examine_softmax_backward, minutes=8, lesson=LESSON,
        hints=(
            "At the logits: the probabilities, less 1 at each row's right token, over B. Then go back through the product.",
            "With d = (p − one-hot) / B: the weight's is `d.T @ inputs`, the bias's `d.sum(0)`, the inputs' `d @ weight`.",
        ),
    ),
    Exercise(
        name="add_scores", solution=add_scores, examine=examine_add_scores, minutes=5, lesson=LESSON,
        hints=(
            "Make a new list: for each tensor the old score plus what this batch gives, which is 0 where it has no gradient.",
            "`gradient.abs()`, `gradient ** 2` or `(weight * gradient).abs()`, by the kind; then `score + …`.",
        ),
    ),
    Exercise(
        name="choose_canaries", solution=choose_canaries, examine=examine_choose_canaries, minutes=8, lesson=LESSON,
        hints=(
            "Lay all scores end to end and sort. Which of PyTorch's sorts leaves equal ones in their order? Then cut up again.",
            "`flat.sort(descending=True, stable=True).indices[:count]` with `count = math.ceil(round(fraction * n, 6))`; then "
            "`torch.split` and `view`.",
        ),
    ),
)  # fmt: skip
