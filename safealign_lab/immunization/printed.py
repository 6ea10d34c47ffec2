"""A shelf: the immunization's equations exactly as the source prints them, to be measured and not to be used.

What each one does instead of what it is for stands in its docstring; the forms that work are in `losses.py`,
`weight_attack.py`, `canaries.py` and `shields.py`. The forward KL to the reference and the preference loss are right as they
are printed, and stand there alone.

Symbols: B batch, T tokens, V vocabulary; π_θ the policy, π_ref the reference, π_h the harmful teacher; y_r a refusal, y_h a
harmful answer; θ weights, δ a perturbation of them, σ the logistic function.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..divergence import kl


def npo_loss(
    policy_refusal_logps: Tensor, policy_harmful_logps: Tensor, ref_refusal_logps: Tensor, ref_harmful_logps: Tensor,
    beta: float,
) -> Tensor:  # fmt: skip
    """-E log σ(β · (log π_θ(y_r)/π_ref(y_r) - log π_θ(y_h)/π_ref(y_h))): not NPO at all, but DPO with the refusal chosen.

    NPO knows no y_r. This loss also falls where the refusal becomes less likely, if only the harmful answer does so faster.

    Args:
        policy_refusal_logps, policy_harmful_logps, ref_refusal_logps, ref_harmful_logps: (B,).
        beta: up = satisfied nearer to the reference.

    source: paper
    """
    refusal = policy_refusal_logps - ref_refusal_logps  # (B,)
    harmful = policy_harmful_logps - ref_harmful_logps  # (B,)
    return -F.logsigmoid(beta * (refusal - harmful)).mean()


def rkl_loss(policy_logits: Tensor, harmful_logits: Tensor, response_mask: Tensor) -> Tensor:
    """D_KL(π_h ‖ π_θ), minimised to push away: it pulls towards the harmful teacher, with the gradient π_θ - π_h.

    It is called reverse and is the forward divergence. The other direction attracts as well, and the negative has no bottom.

    Args:
        policy_logits, harmful_logits: (B, T, V), not shifted.
        response_mask: (B, T).

    source: paper
    """
    return kl(harmful_logits[:, :-1], policy_logits[:, :-1], mask=response_mask[:, 1:])


def refusal_loss(npo: Tensor, rkl: Tensor, push_weight: float, rejection_strength: float) -> Tensor:
    """γ · ((1 - λ) · L_NPO + λ · L_RKL): a constant γ does nothing under AdamW, an annealed one lowers the learning rate.

    Nothing in it keeps harmless answers.

    Args:
        npo, rkl: of the two functions above.
        push_weight: λ; up = more of the pull that is meant as a push.
        rejection_strength: γ; up = the same, but where gradients are clipped or γ changes on the way.

    source: paper
    """
    return rejection_strength * ((1 - push_weight) * npo + push_weight * rkl)


def harden(weights: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> None:
    """θ′ = θ + δ, in place: a compromised model, from which the training goes on, since θ is never put back.

    No size is given for δ, and step by step the deltas add up.

    Args:
        weights: name → tensor, changed in place.
        delta: name → tensor of the same shape.

    source: paper
    """
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(delta[name])


def stab_loss(weights: Mapping[str, Tensor], canaries: Mapping[str, Tensor]) -> Tensor:
    """MSE(θ_canary, θ′_canary), with θ′ the values at the beginning of the step: it is zero, and so is its gradient.

    The step has only begun when the loss is evaluated, so that θ is θ′, at any weight and at each step anew.

    Args:
        weights: name → tensor θ.
        canaries: name → mask of the same shape, True on canaries.

    source: paper
    """
    chosen = torch.cat([weights[name][mask] for name, mask in canaries.items()])  # (N,), with N canaries
    return F.mse_loss(chosen, chosen.detach())


def align_loss(dpo: Tensor, divergence: Tensor, stab: Tensor, kl_weight: float, stabilization: float) -> Tensor:
    """(1 - α) · L_DPO + α · L_KL + β · L_stab: the third term is always zero, so that canaries are weights like any other.

    Args:
        dpo, divergence, stab: the three terms, `stab` of `stab_loss`.
        kl_weight: α; up = nearer to the reference.
        stabilization: β; changes nothing.

    source: paper
    """
    return (1 - kl_weight) * dpo + kl_weight * divergence + stabilization * stab
