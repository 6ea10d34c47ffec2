"""A token inspector: for each token of an answer, what either stream wanted, who decided, and what was left out.

Symbols: N tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..generation import Generation
from .scores import Form, plausible, score

Decided = Literal["both", "safe", "contrast"]


@dataclass(frozen=True)
class Step:
    """One token of an answer.

    Attributes:
        token: its text.
        p_safe, p_adversarial: its probability in either stream.
        score: of the contrast.
        p_contrast: its probability under the softmax of the score, among the tokens that may be chosen.
        decided: "both" where it is the likeliest token of both streams, "safe" where it is that of the safe stream alone,
            "contrast" where the safe stream by itself would have said another.
        wanted: the safe stream's own likeliest token.
        rejected: the token with the highest score that the plausibility limit removed, and which would have won without it;
            None where the limit changed nothing.
        plausible: how many tokens the limit let through.
        entropy: of the contrast's distribution, in nats.
    """

    token: str
    p_safe: float
    p_adversarial: float
    score: float
    p_contrast: float
    decided: Decided
    wanted: str
    rejected: str | None
    plausible: int
    entropy: float


def inspect(
    tokenizer: PreTrainedTokenizerBase, generation: Generation, number: int = 0, *, alpha: float, form: Form = "acd",
    plausibility: float = 0.1,
) -> list[Step]:  # fmt: skip
    """Looks at every token of one answer, the end token included.

    Args:
        generation: of `decoding.generate` with `return_streams=True`.
        number: which of its answers.
        alpha, form, plausibility: those with which it was made; others show what they would have said to the same text so
            far.

    Raises:
        ValueError: the generation has no streams, or as in `scores.score`.
    """
    if generation.stream_logits is None:
        raise ValueError("This generation has no streams to look at: make it with return_streams=True.")
    streams = generation.stream_logits[:, number]  # (2, N, V)
    steps = int((~streams[0, :, 0].isnan()).sum())
    streams = streams[:, :steps]  # (2, N, V)
    end = generation.ends[number]  # chosen, but no part of the ids
    said = generation.ids[number] + ([] if end is None else [end])
    limited = score(streams, alpha, form, plausibility)  # (N, V)
    free = score(streams, alpha, form, 0.0).argmax(dim=-1)  # (N,)
    kept = plausible(streams[0], plausibility)  # (N, V)
    return [
        _step(tokenizer, token, streams[:, place], limited[place], int(free[place]), kept[place])
        for place, token in enumerate(said)
    ]


def _step(
    tokenizer: PreTrainedTokenizerBase, token: int, logits: Tensor, limited: Tensor, free: int, kept: Tensor
) -> Step:
    """One token out of both streams' logits (2, V), the limited score (V,), and the tokens that may be chosen (V,)."""
    probabilities = torch.softmax(logits, dim=-1)  # (2, V)
    contrast = torch.softmax(limited, dim=-1)  # (V,)
    safe, adversarial = logits.argmax(dim=-1).tolist()
    decided: Decided = "contrast" if token != safe else "both" if token == adversarial else "safe"
    return Step(
        token=tokenizer.decode([token]), p_safe=float(probabilities[0, token]), p_adversarial=float(probabilities[1, token]),
        score=float(limited[token]), p_contrast=float(contrast[token]), decided=decided, wanted=tokenizer.decode([safe]),
        rejected=None if kept[free] else tokenizer.decode([free]), plausible=int(kept.sum()),
        entropy=float(torch.special.entr(contrast).sum()),
    )  # fmt: skip


def share_limited(steps: Sequence[Step]) -> float:
    """The share of tokens at which the plausibility limit changed the choice; 0 for an empty answer."""
    return sum(step.rejected is not None for step in steps) / max(1, len(steps))


def candidates(
    tokenizer: PreTrainedTokenizerBase,
    stream_logits: Tensor,
    alphas: Sequence[float],
    form: Form = "guided",
    plausibility: float = 0.0,
    top: int = 3,
) -> list[dict[str, Any]]:
    """How a growing α shifts one next token: the probabilities of every token that is among the likeliest somewhere.

    Args:
        stream_logits: (2, V), the safe stream first.
        alphas: in their order.
        form, plausibility: as in `scores.score`.
        top: how many of either stream's likeliest tokens are followed; the contrast's likeliest is always among them.

    Returns:
        For each α a mapping: `alpha`, `chosen` (the contrast's likeliest token), `p_safe` (that token's probability in the
        safe stream), and under `first` the probabilities of all candidates in "safe", "adversarial" and "contrast".
    """
    scores = torch.stack([score(stream_logits[:, None], alpha, form, plausibility)[0] for alpha in alphas])  # (A, V)
    chosen = scores.argmax(dim=-1).tolist()
    ids = list(dict.fromkeys([*stream_logits.topk(top, dim=-1).indices.flatten().tolist(), *chosen]))
    names = {token: f"{tokenizer.decode([token])!r}"[1:-1] or str(token) for token in ids}
    safe, adversarial = torch.softmax(stream_logits, dim=-1)  # (V,) each

    steps = []
    for alpha, token, row in zip(alphas, chosen, scores, strict=True):
        streams = {"safe": safe, "adversarial": adversarial, "contrast": row.softmax(dim=-1)}  # (V,) each
        first = {name: {names[one]: float(p[one]) for one in ids} for name, p in streams.items()}
        steps.append({"alpha": alpha, "chosen": names[token], "p_safe": float(safe[token]), "first": first})
    return steps
