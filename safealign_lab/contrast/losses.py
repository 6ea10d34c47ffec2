"""The three terms by which opposite prompts are trained: what to say, what not to say, what to leave as it is.

Every term is a mean over its own tokens, and 0 with a gradient of 0 where it has none.

Symbols: M tokens, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..chat import at_least_float32
from ..divergence import kl
from ..objectives import log_rest


def wanted_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy with an answer that should be given: the mean of -log p(id), in nats.

    Args:
        logits: (M, V), in line with the tokens that they predict.
        ids: (M,).
    """
    return F.cross_entropy(at_least_float32(logits), ids, reduction="sum") / max(1, len(ids))


def unwanted_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Unlikelihood of an answer that should not be given: the mean of -log(1 - p(id)), in nats; arguments as in `wanted_loss`.

    It stops pushing where the token has become unlikely, unlike the negated cross-entropy, which grows without bound.
    """
    return -log_rest(logits, ids).sum() / max(1, len(ids))


def kept_loss(logits: Tensor, ids: Tensor, undefended: Tensor, divergence: float = 2.0) -> Tensor:
    """What holds harmless answers in place: cross-entropy with the model's own answer + divergence · KL(undefended ‖ prompted).

    Args:
        logits, ids: as in `wanted_loss`, under the prompt.
        undefended: (M, V), the logits of the model without the prompt on the same tokens.
        divergence: 0 keeps the answer's own tokens alone; more keeps the whole distribution (source: ours, 2; the paper has
            none).

    Returns:
        A scalar in nats.
    """
    surprise = wanted_loss(logits, ids)
    return surprise + divergence * kl(undefended, logits) if divergence else surprise
