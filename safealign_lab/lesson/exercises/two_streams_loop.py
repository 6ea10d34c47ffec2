"""The exercises of lesson 20 on decoding: the batch of two rows, and the loop.

Symbols: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as fill

from ...contrast.scores import acd, plausible
from ..examining import call, expect
from ..exercise import Exercise, Function

LESSON = "20_two_streams"


def left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lays rows of token ids below one another so that all end in the last column.

    Returns:
        `input_ids`, `attention_mask` (1 on real tokens) and `position_ids` (0, 1, 2, … from each row's first real token, and 0
        on the padding), each (R, T).
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])  # (R, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])  # (R, T)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # (R, T)
    return ids, mask, positions


def contrast_loop(
    model: Callable[..., Any], input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor,
    alpha: float, threshold: float, end_id: int, max_new_tokens: int,
) -> list[int]:  # fmt: skip
    """Decodes greedily out of two rows, the safe prompt first: each token is the best plausible one by ACD's score.

    The chosen token goes to the end of both rows. Stops at the end token, which is not part of the answer.

    Returns:
        The new token ids, at most `max_new_tokens` of them.
    """
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        logits = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids).logits[
            :, -1
        ]  # (2, V)
        scores = acd(logits[0], logits[1], alpha)  # (V,)
        scores = scores.masked_fill(~plausible(logits[0], threshold), -torch.inf)
        token = int(scores.argmax())
        if token == end_id:
            break
        answer.append(token)
        input_ids = torch.cat([input_ids, input_ids.new_full((2, 1), token)], dim=1)  # (2, T+1)
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(2, 1)], dim=1)  # (2, T+1)
        position_ids = torch.cat([position_ids, position_ids[:, -1:] + 1], dim=1)  # (2, T+1)
    return answer


# ---------------------------------------------------------------- the batch and the loop


def examine_left_pad(function: Function) -> str | None:
    """Compares with a loop over the rows, on rows of equal and of unequal length; the padding id also occurs as a token."""
    for rows, pad_id in (([[4], [3, 0, 8, 1], [6, 6]], 0), ([[5, 2, 7], [9]], 7), ([[1, 2], [3, 4]], 0)):
        right = _slow_left_pad(rows, pad_id)
        got = call(function, rows, pad_id, like=right)
        names = ("input_ids", "attention_mask", "position_ids")
        for name, mine, theirs in zip(names, got, right, strict=True):
            said = expect(mine, theirs, _padding_mistakes(name, rows, pad_id), given=f"the rows {rows}, {name}")
            if said:
                return said
    return None


def _slow_left_pad(rows: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    width = max(map(len, rows))
    table = torch.full((3, len(rows), width), 0)  # (3, R, T)
    table[0] = pad_id
    for number, row in enumerate(rows):
        for place, token in enumerate(row):
            column = width - len(row) + place
            table[:, number, column] = torch.tensor([token, 1, place])
    return table[0], table[1], table[2]


def _padding_mistakes(name: str, rows: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    ids, mask, _ = _slow_left_pad(rows, pad_id)
    width = ids.shape[1]
    right_ids = torch.stack([fill(torch.tensor(row), (0, width - len(row))) for row in rows])  # (R, T)
    right_mask = torch.stack(
        [fill(torch.ones(len(row), dtype=torch.long), (0, width - len(row))) for row in rows]
    )  # (R, T)
    return {
        "input_ids": {"It pads on the right: then a short row ends in padding, and the model would continue that.": right_ids},
        "attention_mask": {
            "The mask is 1 on the padding too: the model would read it as text.": torch.ones_like(mask),
            "The mask is made of the ids, but the padding id may be a token of the text, too.": (ids != pad_id).long(),
            "The mask is turned around: 1 marks a real token.": 1 - mask,
            "The mask marks padding on the right, but the padding stands on the left.": right_mask,
        },
        "position_ids": {
            "The positions count the padding: a row starts at 0 where its text does.": torch.arange(width).expand_as(ids).clone(),
            "The positions start at 1: count from 0.": mask.cumsum(1),
            "The positions on the padding are negative: put 0 there.": mask.cumsum(1) - 1,
        },
    }[name]  # fmt: skip


class _Oracle:
    """A small causal model without weights to load: the logits of a column depend on every token before it, and its place."""

    def __init__(self, seed: int, vocabulary: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randn(vocabulary, vocabulary, generator=generator)  # (V, V)
        self.places = torch.randn(64, vocabulary, generator=generator)  # (64, V)
        self.logits = torch.empty(0)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> _Oracle:
        read = self.tokens[input_ids] * attention_mask[..., None]  # (R, T, V)
        answer = _Oracle.__new__(_Oracle)
        answer.logits = (
            1.5 * read.cumsum(dim=1).tanh() + self.tokens[input_ids] + self.places[position_ids] - 12
        )  # (R, T, V)
        return answer


# seed, alpha, threshold, end: in the first one every mistake but the last gives an answer of its own
_LOOPS = (
    (73, 0.6, 0.1, 3),
    (78, 0.9, 0.1, 9),
    (73, 0.4, 0.2, 7),
    (0, 0.6, 0.1, 9),
    (1, 0.6, 0.0, 9),
    (2, 0.0, 0.1, 3),
    (3, 0.9, 0.3, 0),
)


def examine_contrast_loop(function: Function) -> str | None:
    """Compares with a loop that reads each row alone and scores token by token; all mistakes are slow loops, too."""
    for seed, alpha, threshold, end in _LOOPS:
        model, rows = _Oracle(seed), [[1, 2, 3], [4, 5, 6, 7, 8]]
        ids, mask, places = _slow_left_pad(rows, 0)
        right = _slow_loop(model, rows, alpha, threshold, end)
        got = call(function, model, ids, mask, places, alpha, threshold, end, 9)
        named = {
            said: _slow_loop(model, rows, alpha, threshold, end, **mistake) for said, mistake in _LOOP_MISTAKES.items()
        }
        said = expect(got, right, named, given=f"alpha = {alpha}, threshold = {threshold}")
        if said:
            return said
    return None


_LOOP_MISTAKES: dict[str, dict[str, Any]] = {
    "The end token is part of its answer: stop before you append it.": {"keep_end": True},
    "It does not stop at the end token.": {"stop": False},
    "It forgets the plausible tokens: every token may win.": {"limited": False},
    "The adversarial row never sees the answer: append each token to both rows.": {"both": False},
    "It follows the safe stream alone: choose by the score.": {"contrasted": False},
    "It follows the adversarial row: the safe prompt is row 0.": {"swapped": True},
    "It adds the adversarial stream instead of subtracting it.": {"sign": 1.0},
    "The positions of new tokens count the padding: go on from each row's last position.": {"padded": True},
    "The positions of new tokens stand still: each is one more than the last.": {"moving": False},
    "It makes one token only: go on until the end token, or until there are `max_new_tokens`.": {"limit": 1},
    "It makes one token too many: stop at `max_new_tokens`.": {"limit": 10},
}


def _slow_loop(
    model: _Oracle, rows: list[list[int]], alpha: float, threshold: float, end: int, *, limit: int = 9, stop: bool = True,
    keep_end: bool = False, limited: bool = True, both: bool = True, contrasted: bool = True, swapped: bool = False,
    padded: bool = False, moving: bool = True, sign: float = -1.0,
) -> list[int]:  # fmt: skip
    texts, answer = [list(row) for row in (rows[::-1] if swapped else rows)], list[int]()
    starts = [len(text) for text in texts]
    while len(answer) < limit:
        width = max(map(len, texts)) if padded else 0
        safe, adversarial = (
            _last(model, text, start, width, moving) for text, start in zip(texts, starts, strict=True)
        )
        best = max(safe)
        allowed = [not limited or math.exp(one - best) >= threshold for one in safe]
        scores = [s + sign * alpha * a if contrasted else s for s, a in zip(safe, adversarial, strict=True)]
        token = max((place for place, ok in enumerate(allowed) if ok), key=scores.__getitem__)
        if token == end and stop:
            return [*answer, token] if keep_end else answer
        answer.append(token)
        for text in texts if both else texts[:1]:
            text.append(token)
    return answer


def _last(model: _Oracle, text: list[int], start: int, width: int, moving: bool) -> list[float]:
    """The logits after a text whose answer begins at `start`; its positions go on, end at width - 1, or stand still."""
    gap = max(0, width - len(text))
    places = [place if place < start else place + gap if moving else start - 1 for place in range(len(text))]
    ids = torch.tensor([text])  # (1, T)
    logits: list[float] = model(ids, torch.ones_like(ids), torch.tensor([places])).logits[0, -1].tolist()
    return logits


EXERCISES = (
    Exercise(
        name="left_pad", solution=left_pad, examine=examine_left_pad, minutes=8, lesson=LESSON,
        hints=(
            "Three tables of one shape. The width is that of the longest row; the gap stands before the text.",
            "The mask follows from the rows' lengths, never from the ids: the padding id may be a word of the text.",
            "Positions: `mask.cumsum(dim=1) - 1` counts real tokens only; what is below 0 is padding.",
        ),
    ),
    Exercise(
        name="contrast_loop", solution=contrast_loop, examine=examine_contrast_loop, minutes=12, lesson=LESSON,
        hints=(
            "One step: logits of both rows in the last column → score → mask → argmax. Then the token goes to both rows.",
            "All three tables grow by one column: the token, a 1, and the last position plus 1.",
            "Ask `if token == end_id` before you append, and stop when the answer has `max_new_tokens` tokens.",
        ),
    ),
)  # fmt: skip
