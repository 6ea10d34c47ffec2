"""Losses of the immunization wing, in the forms that work: to refuse, to be pushed away from a harmful teacher, to keep the rest.

They come on two levels. A sequence log-probability is the sum over a response's tokens, one number a row, as
`chat.response_logps` gives it. Logits go in unshifted with their `response_mask`, as in `objectives`: column t predicts token
t+1, and the shift by one happens inside. `objectives.unlikelihood` of a harmful answer is one more push, and the equations as
they are printed stand in `printed.py`.

Symbols: B batch, T tokens, V vocabulary; π_θ the policy that is trained, π_ref the frozen reference, π_h the harmful teacher;
y_r a refusal, y_h a harmful answer; σ the logistic function.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chat import at_least_float32, token_logps
from ..divergence import kl
from ..objectives import combine, masked_mean
from ..training import Terms

# ---------------------------------------------------------------- whole answers


def dpo(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    beta_dpo: float = 0.1,
) -> Terms:  # fmt: skip
    """Direct preference optimisation: the chosen answer is to gain on the rejected one, compared with the reference.

    L = -mean log σ(m),  m = β · (log π_θ(chosen)/π_ref(chosen) - log π_θ(rejected)/π_ref(rejected))

    At the reference L = log 2. Only the difference counts: both answers may become less likely while the loss falls.

    Args:
        policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps: (B,), sums in nats.
        beta_dpo: β > 0; up = the loss is satisfied with a smaller distance from the reference.

    Returns:
        "loss" and, without gradients, to be logged: "margin" (the mean of m), and apart from each other "chosen_logps" and
        "rejected_logps" (means over the batch of the policy's).

    Raises:
        ValueError: the shapes are not all (B,), or β is not above 0.

    source: paper
    """
    _need_rows(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    _need_above_zero("beta_dpo", beta_dpo)
    gains = policy_chosen_logps - ref_chosen_logps, policy_rejected_logps - ref_rejected_logps  # (B,) each
    margins = beta_dpo * (gains[0] - gains[1])  # (B,)
    logged = {"margin": margins, "chosen_logps": policy_chosen_logps, "rejected_logps": policy_rejected_logps}
    return {
        "loss": -F.logsigmoid(margins).mean(),
        **{name: values.detach().mean() for name, values in logged.items()},
    }


def refusal_dpo(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    beta_dpo: float = 0.1, nll_weight: float = 0.1,
) -> Terms:  # fmt: skip
    """DPO with a refusal chosen and a harmful answer rejected, and a term that holds the refusal's own probability up.

    L = L_DPO - w · mean log π_θ(y_r)

    The gradient is -(β · σ(-m) + w) on log π_θ(y_r) and +β · σ(-m) on log π_θ(y_h), so that w compares with β. Without the
    second term both may fall together, and something else altogether be said.

    Args:
        policy_chosen_logps, ref_chosen_logps: (B,), of the refusals y_r.
        policy_rejected_logps, ref_rejected_logps: (B,), of the harmful answers y_h.
        beta_dpo: as in `dpo`.
        nll_weight: w ≥ 0; up = nearer to learning the refusals by heart. 0 is the printed loss.

    Returns:
        What `dpo` returns, and "nll", the mean of -log π_θ(y_r), to be logged.

    Raises:
        ValueError: as in `dpo`, or a negative weight.

    source: paper (there called NPO); derived (the second term)
    """
    _need_weight("nll_weight", nll_weight)
    terms = dpo(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta_dpo)
    nll = -policy_chosen_logps.mean()
    return {**terms, "loss": terms["loss"] + nll_weight * nll, "nll": nll.detach()}


def npo(policy_rejected_logps: Tensor, ref_rejected_logps: Tensor, beta_npo: float = 0.1) -> Terms:
    """Negative preference optimisation: an answer is to become less likely than under the reference, ever more slowly.

    L = -2/β · mean log σ(-β · log π_θ(y_h)/π_ref(y_h))

    At the reference L = 2/β · log 2. Its gradient on log π_θ(y_h) is 2 · σ(β · log π_θ/π_ref): 1 at the reference, as that of
    gradient ascent, and towards 0 as the answer is forgotten, so that the model does not collapse.

    Args:
        policy_rejected_logps, ref_rejected_logps: (B,), of the answers to forget.
        beta_npo: β > 0; up = the push ends nearer to the reference. Towards 0 it is gradient ascent, and never ends.

    Returns:
        "loss" and, to be logged, "rejected_logps".

    Raises:
        ValueError: as in `dpo`.

    source: derived (Zhang et al. 2024, arXiv 2404.05868; the paper has the name alone)
    """
    _need_rows(policy_rejected_logps, ref_rejected_logps)
    _need_above_zero("beta_npo", beta_npo)
    losses = _npo(policy_rejected_logps, ref_rejected_logps, beta_npo)  # (B,)
    return {"loss": losses.mean(), "rejected_logps": policy_rejected_logps.detach().mean()}


# ---------------------------------------------------------------- token by token


def reference_kl(policy_logits: Tensor, ref_logits: Tensor, response_mask: Tensor) -> Tensor:
    """What keeps a model as it was: KL(π_ref ‖ π_θ), the mean over the response tokens.

    It covers: whatever the reference may say stays sayable. The reference is the model before it was made safe, so ask for
    this on harmless answers, or on the reference of the present cycle.

    Args:
        policy_logits, ref_logits: (B, T, V), on the same tokens.
        response_mask: (B, T), True on response tokens; none gives 0.

    Returns:
        A scalar ≥ 0 in nats per token.

    Raises:
        ValueError: the shapes differ.

    source: paper (the direction); derived (response tokens only)
    """
    return _divergence(ref_logits, policy_logits, response_mask)


def push_target(ref_logits: Tensor, harmful_logits: Tensor, strength: float = 1.0) -> Tensor:
    """Where a push leads: the reference, less what the harmful teacher wants; logits (1+g) · ref - g · harmful.

    The softmax of it is proportional to p_ref · (p_ref / p_h)^g. That is adversarial contrastive decoding with the reference
    as the safe stream and α = g/(1+g), in the form that may be sampled from: to learn it is to distil that decoder.

    Args:
        ref_logits, harmful_logits: (…, V).
        strength: g ≥ 0; 0 is the reference, up = further from the teacher, in the end all on the largest p_ref / p_h, which
            may be a token that neither finds likely.

    Returns:
        (…, V), logits; -inf where either has it (at g = 0 the reference alone).

    Raises:
        ValueError: the shapes differ, or g is negative.

    source: derived
    """
    _need_same_shape(ref_logits, harmful_logits)
    _need_weight("strength", strength)
    streams = at_least_float32(torch.stack([ref_logits, harmful_logits]))  # (2, …, V)
    rows = streams.reshape(2, -1, streams.shape[-1])  # (2, N, V), with N all positions
    return combine(rows, torch.tensor([1 + strength, -strength])).reshape(ref_logits.shape)  # (…, V)


def bounded_push(
    policy_logits: Tensor, ref_logits: Tensor, harmful_logits: Tensor, response_mask: Tensor, strength: float = 1.0
) -> Tensor:
    """Away from the harmful teacher, towards a place that exists: KL(softmax((1+g) · ref - g · harmful) ‖ π_θ).

    The gradient on a token's logits is π_θ - target: it is bounded, and ends where the target is reached.

    Args:
        policy_logits, ref_logits, harmful_logits: (B, T, V), on the same tokens; the last two without gradients.
        response_mask: (B, T), True on response tokens; none gives 0.
        strength: g, as in `push_target`.

    Returns:
        A scalar ≥ 0 in nats per token.

    Raises:
        ValueError: as in `push_target`.

    source: derived
    """
    return _divergence(push_target(ref_logits, harmful_logits, strength), policy_logits, response_mask)


def negated_push(policy_logits: Tensor, harmful_logits: Tensor, response_mask: Tensor) -> Tensor:
    """Towards the teacher turned upside down: KL(softmax(-harmful) ‖ π_θ), which unlearns the language with the harm.

    It is `bounded_push` at g = 1 from a reference that holds all tokens equal: bounded, but no place to stay.

    Args, returns and errors as in `bounded_push`.

    source: derived
    """
    return _divergence(-harmful_logits, policy_logits, response_mask)


def hinge_push(policy_logits: Tensor, harmful_logits: Tensor, response_mask: Tensor, margin: float = 2.0) -> Tensor:
    """At least so far from the harmful teacher at each token: the mean of max(0, m - KL(π_h ‖ π_θ)).

    A token that is m nats away is left alone; the negated KL without a hinge would go on for ever. It says where not to be,
    and not where to go; and where the policy *is* the teacher it has no gradient, so start from another model.

    Args:
        policy_logits, harmful_logits, response_mask: as in `bounded_push`.
        margin: m > 0, in nats; up = further away.

    Returns:
        A scalar in [0, m].

    Raises:
        ValueError: the shapes differ, or m is not above 0.

    source: derived
    """
    _need_above_zero("margin", margin)
    _need_same_shape(policy_logits, harmful_logits)
    apart = kl(harmful_logits[:, :-1], policy_logits[:, :-1], reduction="none")  # (B, T-1)
    return masked_mean(F.relu(margin - apart), response_mask[:, 1:])


def token_npo(
    policy_logits: Tensor, ref_logits: Tensor, ids: Tensor, response_mask: Tensor, beta_npo: float = 0.1
) -> Tensor:
    """`npo` token by token: each token of a harmful answer is to become less likely than under the reference.

    L = -2/β · mean log σ(-β · log π_θ(id_t)/π_ref(id_t)) over the response tokens

    In a sum one forgotten token answers for the whole; here every token is pushed until it is itself forgotten.

    Args:
        policy_logits, ref_logits: (B, T, V).
        ids: (B, T), the answers, as the harmful teacher gives them.
        response_mask: (B, T), True on response tokens; none gives 0.
        beta_npo: as in `npo`, and a sum is as far from the reference as all its tokens together: take a larger β here.

    Returns:
        A scalar ≥ 0; 2/β · log 2 at the reference.

    Raises:
        ValueError: the shapes differ, or β is not above 0.

    source: derived
    """
    _need_above_zero("beta_npo", beta_npo)
    _need_same_shape(policy_logits, ref_logits)
    losses = _npo(token_logps(policy_logits, ids), token_logps(ref_logits, ids), beta_npo)  # (B, T-1)
    return masked_mean(losses, response_mask[:, 1:])


# ---------------------------------------------------------------- the phases' sums


def immunization_loss(
    refusal: Tensor, push: Tensor, kept: Tensor, push_weight: float, kept_weight: float = 1.0
) -> Tensor:
    """What the first phase minimises: L = (1 - λ) · refusal + λ · push + w · kept.

    There is no factor in front of it all: under AdamW a constant one does nothing, and an annealed one is a learning-rate
    schedule in disguise. Anneal the learning rate itself, λ, or the radius of the attack.

    Args:
        refusal: "loss" of `refusal_dpo` or `npo`, or cross-entropy with refusals.
        push: of the pushes.
        kept: on harmless requests: cross-entropy with right answers, or `reference_kl`. Without it a model learns to refuse
            everything.
        push_weight: λ in [0, 1]; up = more of the push, less of the refusals.
        kept_weight: w ≥ 0; up = harmless answers stay more as they are.

    Raises:
        ValueError: a weight is outside its range.

    source: paper (λ); derived (the kept term, no factor)
    """
    _need_share("push_weight", push_weight)
    _need_weight("kept_weight", kept_weight)
    return (1 - push_weight) * refusal + push_weight * push + kept_weight * kept


def alignment_loss(
    preference: Tensor, divergence: Tensor, stability: Tensor | float, kl_weight: float, stabilization: float = 0.0
) -> Tensor:
    """What the second phase minimises: L = (1 - α) · L_DPO + α · L_KL + β · L_stab.

    Args:
        preference: "loss" of `dpo`.
        divergence: `reference_kl`.
        stability: `shields.PhaseAnchor.penalty()`, or 0.0 where the update is masked instead.
        kl_weight: α in [0, 1]; up = nearer to the reference, less of the preferences.
        stabilization: β ≥ 0; up = the canaries move less.

    Raises:
        ValueError: a weight is outside its range.

    source: paper
    """
    _need_share("kl_weight", kl_weight)
    _need_weight("stabilization", stabilization)
    return (1 - kl_weight) * preference + kl_weight * divergence + stabilization * stability


def _npo(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    return -2 / beta * F.logsigmoid(-beta * (policy_logps - ref_logps))


def _divergence(p_logits: Tensor, q_logits: Tensor, response_mask: Tensor) -> Tensor:
    _need_same_shape(p_logits, q_logits)
    return kl(p_logits[:, :-1], q_logits[:, :-1], mask=response_mask[:, 1:])


def _need_rows(*logps: Tensor) -> None:
    if len({one.shape for one in logps}) > 1 or logps[0].dim() != 1 or not len(logps[0]):
        given = ", ".join(str(tuple(one.shape)) for one in logps)
        raise ValueError(
            f"Log-probabilities of answers must all be (B,), one sum a row, and B at least 1, not {given}."
        )


def _need_same_shape(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:  # else they would be broadcast, and the loss be a plausible number
        raise ValueError(
            f"Both logits must have one shape, (B, T, V), not {tuple(one.shape)} and {tuple(other.shape)}."
        )


def _need_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, not {value}.")


def _need_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], the share of its term, not {value}.")


def _need_weight(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of 0 or more, not {value}.")
