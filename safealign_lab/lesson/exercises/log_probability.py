"""The exercise of lesson 30 on the log-probability of an answer.

Symbols: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..examining import call, expect
from ..exercise import Exercise, Function

LESSON = "30_preferences"


def sequence_logps(logits: Tensor, ids: Tensor, response_mask: Tensor) -> Tensor:
    """log π(response | request) for each row, (B,); logits (B, T, V), where column t predicts token t+1, ids and mask (B, T)."""
    logps = logits[:, :-1].log_softmax(dim=-1)  # (B, T-1, V)
    said = logps.gather(2, ids[:, 1:, None]).squeeze(2)  # (B, T-1)
    return (said * response_mask[:, 1:]).sum(dim=1)  # (B,)


# ---------------------------------------------------------------- the log-probability of an answer


def examine_sequence_logps(function: Function) -> str | None:
    """Compares with a loop over rows and tokens, with padding on either side, several turns, and an answer without tokens."""
    for seed, side in ((0, "right"), (1, "left"), (2, "right")):
        logits, ids, mask, real = _batch(seed, side)
        given = f"B = {len(ids)}, T = {ids.shape[1]}, padding on the {side}"
        right = torch.tensor(_slow_logps(logits, ids, mask))
        said = expect(call(function, logits, ids, mask), right, _logps_mistakes(logits, ids, mask, real), given=given)
        if said:
            return said
    return None


def _logps_mistakes(logits: Tensor, ids: Tensor, mask: Tensor, real: Tensor) -> dict[str, Tensor]:
    def _summed(scores: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        return (scores.gather(2, labels[..., None]).squeeze(2) * counted).sum(1)

    logps, marked = logits.log_softmax(2), mask[:, 1:]  # (B, T, V), (B, T-1)
    before, after = (logps[:, :-1], ids[:, 1:]), (logps[:, 1:], ids[:, :-1])
    right, begun = _summed(*before, marked), marked.cumsum(1) > 0  # (B,), (B, T-1)
    return {
        "The labels are not shifted: column t of the logits predicts token t+1.": _summed(logps, ids, mask),
        "It shifts the wrong way: what column t predicts stands in column t+1 of the ids.": _summed(*after, mask[:, :-1]),
        "The mask is not shifted with the ids: it marks tokens, so take its columns from 1 on.": _summed(*before, mask[:, :-1]),
        "The first token of each answer is missing, and that is the one which decides.": _summed(*before, marked & mask[:, :-1]),
        "The request and the padding are counted as well: only the response's tokens belong to the sum.": _summed(
            *before, torch.ones_like(marked)
        ),
        "The request's tokens are counted as well: they were given, not answered.": _summed(*before, real[:, 1:]),
        "What follows the response is counted too, padding and later requests: use the mask.": _summed(*before, begun),
        "It is the mean per token: the logarithm of a product is a sum.": right / marked.sum(1).clamp(min=1),
        "It is a mean over T: the length of the padded rows has no meaning.": right / marked.shape[1],
        "The sign is turned: this is −log π, the negative log-likelihood.": -right,
        "It is the probability itself, which underflows for long answers: keep the logarithm.": right.exp(),
        "It sums logits: a log-softmax turns them into log-probabilities first.": _summed(logits[:, :-1], ids[:, 1:], marked),
        "It sums probabilities; their logarithms are what adds up.": _summed(logits[:, :-1].softmax(2), ids[:, 1:], marked),
        "Its softmax runs along the tokens: the vocabulary is the last dimension.": _summed(
            logits[:, :-1].log_softmax(1), ids[:, 1:], marked
        ),
        "It adds the whole batch up: each row keeps a number of its own.": right.sum(),
        "It keeps the tokens apart: add them up along each row.": before[0].gather(2, ids[:, 1:, None]).squeeze(2) * marked,
    }  # fmt: skip


def _batch(seed: int, side: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, ids, the response mask, and which tokens are real: rows of unequal length, one of two turns, one unanswered."""
    generator = torch.Generator().manual_seed(seed)
    length = 9
    spans: list[list[int]] = [[3, 4, 5], [2, 3, 6], [4, 5, 6, 7, 8], []]
    mask, real = torch.zeros(2, len(spans), length, dtype=torch.bool)  # (B, T) each
    for row, (span, size) in enumerate(zip(spans, (7, 8, 9, 5), strict=True)):
        gap = length - size if side == "left" else 0
        mask[row, [gap + place for place in span]] = True
        real[row, gap : gap + size] = True
    logits = 2 * torch.randn(len(spans), length, 6, generator=generator) + 1  # (B, T, V)
    return logits, torch.randint(6, mask.shape, generator=generator), mask, real


def _slow_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> list[float]:
    def _log_p(row: list[float], token: int) -> float:
        top = max(row)
        return row[token] - top - math.log(sum(math.exp(one - top) for one in row))

    places = [[t for t, marked in enumerate(row) if marked] for row in mask.tolist()]
    return [sum(_log_p(logits[b, t - 1].tolist(), int(ids[b, t])) for t in row) for b, row in enumerate(places)]


EXERCISES = (
    Exercise(
        name="sequence_logps", solution=sequence_logps, examine=examine_sequence_logps, minutes=8, lesson=LESSON,
        hints=(
            "Column t of the logits predicts token t+1. Which columns of the logits, of the ids and of the mask fit together?",
            "`logits[:, :-1].log_softmax(-1)`, its entries at `ids[:, 1:]` (`gather`), times `response_mask[:, 1:]`, summed.",
        ),
    ),
)  # fmt: skip
