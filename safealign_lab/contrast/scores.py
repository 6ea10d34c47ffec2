"""The score of adversarial contrastive decoding: what a careful and a reckless stream say about the next token, in one number.

Every function takes logits as they are. The three ways in which papers write the contrast differ by a positive factor, so
they agree on the likeliest token and differ in how peaked the distribution is:

    ACD            l_S - α l_A
    guidance       l_A + g (l_S - l_A)     = 1/(1-α) · ACD      with g = 1/(1-α)
    (1+w)          (1+w) l_S - w l_A       = the same           with w = α/(1-α) = g - 1

Symbols: S the safe stream, A the adversarial one, B requests, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from ..divergence import jsd
from ..generation import ScoreFunction

Form = Literal["acd", "guided"]


def guidance(alpha: float) -> float:
    """The scale g = 1/(1-α) under which classifier-free guidance picks the same tokens as ACD at α.

    Args:
        alpha: in [0, 1). 0 is g = 1, the safe stream alone; towards 1 the scale grows without bound.

    Raises:
        ValueError: α outside [0, 1).
    """
    return 1 / (1 - _below_one(alpha))


def weight(alpha: float) -> float:
    """The weight w = α/(1-α) of the form (1+w) l_S - w l_A; arguments and errors as in `guidance`."""
    return alpha / (1 - _below_one(alpha))


def sampling_temperature(alpha: float) -> float:
    """The temperature 1/(1-α) at which sampling from the ACD score equals sampling from guidance at 1; as in `guidance`."""
    return guidance(alpha)


def alpha_of(guidance_scale: float) -> float:
    """The α = 1 - 1/g of a guidance scale: the way back from `guidance`.

    Args:
        guidance_scale: g ≥ 1. 1 is α = 0; a larger scale is a larger α, and no scale reaches 1.

    Raises:
        ValueError: g below 1, or not a finite number.
    """
    if not 1 <= guidance_scale < math.inf:
        raise ValueError(f"A guidance scale of {guidance_scale} has no α: expected a finite number of 1 or more.")
    return 1 - 1 / guidance_scale


def acd(safe_logits: Tensor, adversarial_logits: Tensor, alpha: float) -> Tensor:
    """The score as the paper prints it: l_S - α l_A.

    Greedy decoding with it is right. Sampling from its softmax is sampling at temperature 1/(1-α): the larger α, the more
    even, because the factors 1 and -α add up to 1 - α and not to 1.

    Args:
        safe_logits, adversarial_logits: (…, V), finite (`score` guards the rest).
        alpha: 0 or more. 0 is the safe stream alone; more takes more of the adversarial stream away. At 1 a token counts by
            the ratio p_S / p_A alone, however unlikely it is under both; above, the safe stream hardly matters.

    Raises:
        ValueError: a negative or infinite α.

    Source: paper (arXiv 2406.16743; α = 0.4 to 0.5 there).
    """
    if not 0 <= alpha < torch.inf:
        raise ValueError(f"alpha={alpha} is not a strength: expected a number of 0 or more; 0.4 is usual.")
    return safe_logits - alpha * adversarial_logits


def guided(safe_logits: Tensor, adversarial_logits: Tensor, alpha: float) -> Tensor:
    """The form that may be sampled from: (1+w) l_S - w l_A with w = α/(1-α), which is ACD divided by 1-α.

    Its factors add up to 1, so that where both streams agree the distribution is theirs, and no temperature is hidden.

    Args:
        safe_logits, adversarial_logits: (…, V), as in `acd`.
        alpha: in [0, 1). More takes more of the adversarial stream away.

    Raises:
        ValueError: α outside [0, 1), where the factor 1/(1-α) does not exist or turns the safe stream around.

    Source: derived.
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha={alpha} cannot be sampled: 1/(1-α) exists for 0 ≤ α < 1 only; choose a smaller one.")
    w = alpha / (1 - alpha)
    return (1 + w) * safe_logits - w * adversarial_logits


def plausible(safe_logits: Tensor, threshold: float) -> Tensor:
    """Which tokens the safe stream finds plausible: p_S ≥ threshold · max p_S.

    In logits: l_S ≥ max l_S + log(threshold), without a softmax. The likeliest token is always among them.

    Args:
        safe_logits: (…, V).
        threshold: in [0, 1]. 0 lets every token through that is not at -inf, 1 only the likeliest (and its ties): more
            keeps the answer closer to the safe stream and leaves the contrast less to choose from.

    Returns:
        (…, V), True where a token may be chosen.

    Raises:
        ValueError: a threshold outside [0, 1].

    Source: contrastive decoding (Li et al. 2023, arXiv 2210.15097), where it is 0.1; ACD's paper has no such limit.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"plausibility={threshold} is not a share of the largest probability: expected 0 to 1.")
    floor = safe_logits.new_tensor(threshold).log()  # -inf at 0: everything passes
    return (safe_logits > -torch.inf) & (safe_logits >= safe_logits.amax(dim=-1, keepdim=True) + floor)  # (…, V)


def score(
    stream_logits: Tensor, alpha: float, form: Form = "acd", plausibility: float = 0.1, gate: float = 0.0
) -> Tensor:
    """One score per token out of two streams: the contrast in one of its forms, limited to the plausible tokens.

    A token that either stream rules out (-inf) stays ruled out. Where the streams agree there is nothing to amplify but
    noise, so a gate leaves such tokens to the safe stream alone.

    Args:
        stream_logits: (2, B, V), the safe stream first.
        alpha: as in `acd` or `guided`.
        form: "acd" as printed, "guided" for sampling; under greedy decoding they choose the same.
        plausibility: as `threshold` in `plausible`; 0 is the printed method (source: ours, 0.1).
        gate: in nats, from 0 to ln 2: the contrast acts only where the Jensen-Shannon divergence of the two streams is at
            least this. 0 acts everywhere, as printed; more leaves more tokens to the safe stream (source: ours).

    Returns:
        (B, V), -inf at tokens that may not be chosen.

    Raises:
        ValueError: another number of streams, an unknown form or gate, or as in `acd`, `guided` and `plausible`.
    """
    if len(stream_logits) != 2:
        raise ValueError(f"The contrast needs two streams, safe and adversarial, not {len(stream_logits)}.")
    if form not in get_args(Form):
        raise ValueError(f"There is no form {form!r}: expected one of {', '.join(get_args(Form))}.")
    if not 0 <= gate <= math.log(2):
        raise ValueError(f"gate={gate} is no divergence of two streams: expected 0 to {math.log(2):.3f} nats.")
    safe_logits, adversarial_logits = stream_logits  # (B, V) each
    contrast = (acd if form == "acd" else guided)(safe_logits, adversarial_logits, alpha)  # (B, V)
    if gate:
        apart = jsd(safe_logits, adversarial_logits, reduction="none") >= gate  # (B,)
        contrast = torch.where(apart[..., None], contrast, safe_logits)  # (B, V)
    kept = plausible(safe_logits, plausibility) & (adversarial_logits > -torch.inf)  # (B, V)
    return contrast.masked_fill(~kept, -torch.inf)


def scorer(alpha: float, form: Form = "acd", plausibility: float = 0.1, gate: float = 0.0) -> ScoreFunction:
    """`score` with its knobs set, as `generation.decode` takes it; told at once if a knob is impossible, as in `score`."""
    score(torch.zeros(2, 1, 1), alpha, form, plausibility, gate)
    return partial(score, alpha=alpha, form=form, plausibility=plausibility, gate=gate)


def _below_one(alpha: float) -> float:
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha={alpha} has no guidance scale, since 1/(1-α) exists for 0 ≤ α < 1 only: choose a smaller one, or "
            'decode greedily with form="acd".'
        )
    return alpha
