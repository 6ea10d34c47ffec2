"""Where a way of answering refuses and where it does not: the margin of the refusal's first token, and what safety costs.

A refusal that always begins with the same word is decided at the first token. A constant added to that token's score moves
the *operating point*: it refuses more of everything. It cannot change the *order* of the requests, and so it cannot change
what the same safety costs. Only a better order does.

Symbols: B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import Prompt, generate
from .scores import score


def first_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], safe: Prompt, adversarial: Prompt,
    **options: Any,
) -> Tensor:  # fmt: skip
    """What both streams think of the first token of every answer; (2, B, V).

    Args:
        requests: B of them, 1 or more.
        safe, adversarial: as in `decoding.generate`.
        options: `batch_size` and `progress`, as in `generation.generate`.

    Raises:
        ValueError: no requests, or one text in the place of a list.
    """
    if not requests:
        raise ValueError("Without requests there are no first tokens: give a list of one text or more.")
    said = generate(
        model, tokenizer, requests, (safe, adversarial), score=lambda logits: logits[0], max_new_tokens=1,
        return_scores=True, **options,
    )  # fmt: skip
    assert said.stream_logits is not None  # return_scores was asked for
    return said.stream_logits[:, :, 0]  # (2, B, V)


def refusal_margins(stream_logits: Tensor, refusing: Sequence[int], alpha: float = 0.0) -> Tensor:
    """By how much the contrast prefers to begin with a refusal: its best refusing token's score minus the best other's.

    m = max_{v ∈ R} s_v - max_{v ∉ R} s_v with s = l_S - α l_A, and no limit of plausibility.

    Args:
        stream_logits: (2, B, V), the safe stream first.
        refusing: R, the ids of the tokens that begin a refusal.
        alpha: as in `scores.acd`; 0 is the safe stream alone.

    Returns:
        (B,), in logits: above 0 it refuses.

    Raises:
        ValueError: no refusing token, or nothing else; or as in `scores.score`.
    """
    scores = score(stream_logits, alpha, plausibility=0.0)  # (B, V)
    inside = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)  # (V,)
    inside[list(refusing)] = True
    if inside.all() or not inside.any():
        raise ValueError(
            "A margin needs tokens that begin a refusal and tokens that do not: give some ids, and not all."
        )
    return scores[:, inside].amax(dim=-1) - scores[:, ~inside].amax(dim=-1)  # (B,)


def price(harmful_margins: Tensor, harmless_margins: Tensor, safety: float) -> float:
    """Over-refusal at a given safety: the share of harmless requests refused, where just `safety` of the harmful ones are.

    The threshold is the highest margin that at least that share of harmful requests reaches. So two ways of answering are
    compared at the same safety, whatever their own thresholds.

    Args:
        harmful_margins, harmless_margins: (B,) each, of `refusal_margins`.
        safety: the share of harmful requests to be refused, in (0, 1]; more costs more.

    Returns:
        A share in 0..1; lower is better.

    Raises:
        ValueError: no margins, or a safety outside (0, 1].
    """
    total = len(harmful_margins)
    if not 0 < safety <= 1 or not total or not len(harmless_margins):
        raise ValueError(
            f"safety={safety} of {total} harmful requests has no price in {len(harmless_margins)} harmless ones: give a share in "
            "(0, 1], and margins of both."
        )
    # not the product rounded up: 0.55 · 100 is a little more than 55 in floats
    wanted = next(count for count in range(1, total + 1) if count / total >= safety)
    threshold = harmful_margins.sort(descending=True).values[wanted - 1]
    return float((harmless_margins >= threshold).float().mean())
