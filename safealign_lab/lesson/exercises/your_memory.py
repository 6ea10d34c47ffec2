"""The exercise of lesson 41 on memory: what a model takes, before it is loaded.

Symbols: none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from ..exercise import Exercise, Function
from . import Case, examined, listed

LESSON = "41_your_model"


def memory_needed(
    shapes: dict[str, tuple[int, ...]], trained: list[str], size: int, heads: dict[str, int], rows: int, tokens: int
) -> list[int]:
    """Bytes of the weights, of their gradients, of AdamW's two states, and of a batch's keys and values."""
    numbers = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
    learning = sum(numbers[name] for name in trained)
    cache = 2 * heads["layers"] * rows * tokens * heads["key"] * heads["width"]
    return [sum(numbers.values()) * size, learning * size, 2 * learning * size, cache * size]


# ---------------------------------------------------------------- memory

# shapes, trained, size, heads, rows, tokens
_Model = tuple[dict[str, tuple[int, ...]], list[str], int, dict[str, int], int, int]
_MODELS: tuple[_Model, ...] = (
    (
        {"embedding": (11, 6), "layer.up": (7, 6), "layer.down": (6, 7), "norm": (6,)}, ["layer.up", "norm"], 4,
        {"layers": 3, "query": 8, "key": 2, "width": 5}, 6, 7,
    ),
    (
        {"embedding": (9, 8), "layer.one": (8, 8), "adapter.a": (2, 8), "adapter.b": (8, 2)}, ["adapter.a", "adapter.b"], 2,
        {"layers": 5, "query": 4, "key": 1, "width": 3}, 3, 10,
    ),
    ({"embedding": (5, 4), "layer": (4, 4)}, [], 2, {"layers": 2, "query": 3, "key": 3, "width": 4}, 1, 6),
)  # fmt: skip


def examine_memory_needed(function: Function) -> str | None:
    """Compares with a count of every single number."""
    cases = []
    for model in _MODELS:
        shapes, trained, size, *_ = model
        right = _slow_memory(*model)
        given = f"{len(shapes)} weights, {len(trained)} of them trained, size = {size}"
        cases.append(Case(model, right, _memory_mistakes(*model, right), given))
    return examined(function, cases, listed)


def _counted(shape: Sequence[int]) -> int:
    return sum(1 for _ in itertools.product(*map(range, shape)))


def _slow_memory(
    shapes: dict[str, tuple[int, ...]], trained: list[str], size: int, heads: dict[str, int], rows: int, tokens: int
) -> list[int]:
    found = [0, 0, 0, 0]
    for name, shape in shapes.items():
        found[0] += size * _counted(shape)
        if name in trained:
            found[1] += size * _counted(shape)
            found[2] += size * _counted(shape) + size * _counted(shape)
    for _layer, _row, _token in itertools.product(range(heads["layers"]), range(rows), range(tokens)):
        found[3] += size * (heads["key"] * heads["width"] + heads["key"] * heads["width"])  # a key and a value
    return found


def _memory_mistakes(
    shapes: dict[str, tuple[int, ...]], trained: list[str], size: int, heads: dict[str, int], rows: int, tokens: int,
    right: list[int],
) -> dict[str, object]:  # fmt: skip
    weights, gradients, adam, cache = right
    sides = {name: size * sum(shape) for name, shape in shapes.items()}
    summed = sum(sides[name] for name in trained)
    per_head = cache // heads["key"]
    return {
        "It adds the sides of a shape up: a weight of 3 × 4 has twelve numbers, the product.":
            [sum(sides.values()), summed, 2 * summed, cache],
        "A frozen weight gathers no gradient: only what is trained has one, and Adam's states.":
            [weights, weights, 2 * weights, cache],
        "Adam's states of frozen weights are counted: what is never updated has none.": [weights, gradients, 2 * weights, cache],
        "AdamW keeps two running means for each trained number, of the gradient and of its square: one is missing.":
            [weights, gradients, gradients, cache],
        "Adam's column should hold its two states alone: the gradients are in it as well.":
            [weights, gradients, 3 * gradients, cache],
        "Keys are there and values are not: a layer keeps both.": [weights, gradients, adam, cache // 2],
        "It takes the heads that ask: fewer heads of keys and values may serve them all.":
            [weights, gradients, adam, per_head * heads["query"]],
        "One head's keys and values are counted: each head of keys has its own.": [weights, gradients, adam, per_head],
        "One layer's keys and values are counted: each layer has its own.": [weights, gradients, adam, cache // heads["layers"]],
        "The cache is that of one row: each row of the batch has its own.": [weights, gradients, adam, cache // rows],
        "The cache is that of one token: it grows with each.": [weights, gradients, adam, cache // tokens],
        "The cache has numbers where bytes are asked for.": [weights, gradients, adam, cache // size],
        "These are numbers, and bytes are asked for: each takes `size` of them.": [one // size for one in right],
        "What is trained is left out of the first column: it has to be there as well.":
            [weights - gradients, gradients, adam, cache],
        "It is all in one sum: return the four apart.": sum(right),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="memory_needed", solution=memory_needed, examine=examine_memory_needed, minutes=8, lesson=LESSON,
        hints=(
            "Count numbers first: the product of a shape's sides. Then ask of each column who has one: all weights, or only "
            "the trained ones?",
            "Gradients: the trained numbers; AdamW: twice as many. Cache: 2 · layers · rows · tokens · heads of keys · width. "
            "All times `size`.",
        ),
    ),
)  # fmt: skip
