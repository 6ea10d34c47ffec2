"""How far apart two distributions over the vocabulary are: the one KL function, and its symmetric sister.

Both start from logits, work in log-probabilities, and count in nats. "Never negative" holds up to rounding.

Symbols: N positions, of any shape: one, (T), (B, T), …; V vocabulary, or classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .chat import at_least_float32
from .objectives import masked_mean

Reduction = Literal["none", "sum", "mean"]


def kl(p_logits: Tensor, q_logits: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """The Kullback–Leibler divergence KL(p ‖ q) = Σ_v p_v · (log p_v - log q_v).

    The direction matters. As a loss on q it makes q cover all that p does (mass where p has mass costs most when it is
    missing); as a loss on p it makes p settle where q is already likely.

    Args:
        p_logits: (N, V), the distribution that is averaged over, e.g. the teacher's in a distillation.
        q_logits: (N, V).
        mask: (N,), True on positions that count; None counts all.
        reduction: "none" keeps one number per position, with 0 outside the mask; "sum" adds them up; "mean" divides
            the sum by the number of positions under the mask (0 if there is none).

    Returns:
        A scalar, or (N,) for "none". Infinite only where q rules out (logit -inf) a token that p does not.
    """
    return _reduce(_mean_log_ratio(_logps(p_logits), _logps(q_logits)), mask, reduction)


def jsd(p_logits: Tensor, q_logits: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """The Jensen–Shannon divergence ½·KL(p ‖ m) + ½·KL(q ‖ m), with m the even mixture of p and q.

    Args:
        p_logits, q_logits: (N, V), in either order: it is symmetric.
        mask, reduction: as in `kl`.

    Returns:
        Per position from 0 (equal) to ln 2 (nothing in common), without a jump at either end.
    """
    # A finite floor stands in for log 0: its probability is still 0, and the mixture's gradient stays a number.
    p_logps, q_logps = _logps(p_logits).clamp(min=-1e30), _logps(q_logits).clamp(min=-1e30)  # (N, V)
    m_logps = torch.logaddexp(p_logps, q_logps) - math.log(2)  # (N, V)
    halves = (_mean_log_ratio(p_logps, m_logps) + _mean_log_ratio(q_logps, m_logps)) / 2  # (N,)
    return _reduce(halves, mask, reduction)


def _logps(logits: Tensor) -> Tensor:
    return F.log_softmax(at_least_float32(logits), dim=-1)  # (N, V)


def _mean_log_ratio(p_logps: Tensor, q_logps: Tensor) -> Tensor:
    p = p_logps.exp()  # (N, V)
    # A token with p = 0 adds nothing, whatever q says; left alone it would be 0 · inf.
    return (p * (p_logps - q_logps).masked_fill(p == 0, 0.0)).sum(dim=-1)  # (N,)


def _reduce(values: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()  # (N,)
    if counted.shape != values.shape:
        raise ValueError(f"the mask {tuple(counted.shape)} must have one entry per position: {tuple(values.shape)}")
    if reduction == "mean":
        return masked_mean(values, counted)
    kept = values.masked_fill(~counted, 0.0)  # (N,)
    if reduction == "sum":
        return kept.sum()
    if reduction == "none":
        return kept
    raise ValueError(f"reduction must be 'none', 'sum' or 'mean', not {reduction!r}")
