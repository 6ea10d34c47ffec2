"""What more than one wing minimises or decodes by: the likelihood of tokens, their unlikelihood, a mix of logits.

One convention holds throughout: `logits`, `ids` and `response_mask` go in as they are, in equal columns, and the shift
by one happens inside (column t of the logits predicts token t+1), exactly as in `chat.response_logps`.

Symbols: S streams, B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .chat import at_least_float32, token_logps


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values under the mask: one number for the whole batch, each token counting the same.

    An empty mask gives 0 with a gradient of 0, so that a batch in which a set happens to be missing trains the rest.

    Args:
        values: any shape. What stands outside the mask is ignored, even if it is infinite.
        mask: the same shape, True where a value counts.
    """
    kept = values.masked_fill(~mask.bool(), 0.0)
    return kept.sum() / mask.sum().clamp(min=1)


def negative_log_likelihood(logits: Tensor, ids: Tensor, response_mask: Tensor) -> Tensor:
    """The mean negative log-likelihood per response token of the batch.

    L = -1/n · Σ log p(id_t | id_<t) over the n response tokens

    Args:
        logits: (B, T, V).
        ids: (B, T).
        response_mask: (B, T), True on the tokens to learn. An empty mask gives 0 (see `masked_mean`).

    Returns:
        A scalar in nats per token. Long rows weigh more than short ones: tokens are averaged, not rows.
    """
    return masked_mean(-token_logps(logits, ids), response_mask[:, 1:])


def unlikelihood(logits: Tensor, ids: Tensor, response_mask: Tensor) -> Tensor:
    """The mean of -log(1 - p) per marked token (see `log_rest`): pushes them down without saying what should replace them.

    Args:
        logits: (B, T, V).
        ids: (B, T), the tokens to avoid.
        response_mask: (B, T), True on the tokens to push down. An empty mask gives 0 (see `masked_mean`).

    Returns:
        A scalar ≥ 0 in nats per token. Its gradient on the token's logit is p: strong on likely tokens, nil on tokens
        that are already avoided.
    """
    return masked_mean(-log_rest(logits[:, :-1], ids[:, 1:]), response_mask[:, 1:])


def log_rest(logits: Tensor, ids: Tensor) -> Tensor:
    """The log-probability of anything but the given token, log(1 - p), at each position.

    1 - p is the probability of all other tokens, so log(1 - p) = logsumexp(others) - logsumexp(all)
                                                                = log σ(logsumexp(others) - logit)
    which neither overflows where p rounds to 1 nor loses its digits where p is tiny.

    Args:
        logits: (…, V), already in line with the tokens that they predict.
        ids: (…), the tokens to avoid.

    Returns:
        (…), 0 or less, in nats.
    """
    predictions, avoided = at_least_float32(logits), ids[..., None]  # (…, V) and (…, 1)
    others = predictions.scatter(-1, avoided, -torch.inf).logsumexp(dim=-1)  # (…)
    return F.logsigmoid(others - predictions.gather(-1, avoided).squeeze(-1))  # (…)


def combine(stream_logits: Tensor, weights: Tensor) -> Tensor:
    """Mixes the logits of several streams: Σ_s w_s · logits_s.

    A token at -inf in any stream with a weight other than 0 stays at -inf: masked by one is masked for all. (With a
    negative weight the plain sum would make it +inf, the winner; with weight 0, not a number.)

    Args:
        stream_logits: (S, B, V).
        weights: (S,), of either sign. A larger weight lets its stream decide more; a negative one steers away from it.

    Returns:
        (B, V).
    """
    factors = weights.to(stream_logits)[:, None, None]  # (S, 1, 1)
    masked = stream_logits == -torch.inf  # (S, B, V)
    mixed = (factors * stream_logits.masked_fill(masked, 0.0)).sum(dim=0)  # (B, V)
    return mixed.masked_fill((masked & (factors != 0)).any(dim=0), -torch.inf)
