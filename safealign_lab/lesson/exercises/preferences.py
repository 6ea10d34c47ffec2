"""The exercises of lesson 30 on losses: refusal-DPO, NPO, and the push that has a place to go.

Symbols: B rows, V vocabulary, M response tokens; y_r a refusal (chosen), y_h a harmful answer (rejected).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "30_preferences"


def refusal_dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float, nll_weight: float
) -> Tensor:  # fmt: skip
    """The mean of -log σ(β · (gain of chosen - gain of rejected)) - w · log π(chosen); sequence log-probabilities (B,)."""
    margins = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))  # (B,)
    return (-torch.nn.functional.logsigmoid(margins) - nll_weight * policy_chosen).mean()


def npo_loss(policy_rejected: Tensor, ref_rejected: Tensor, beta: float) -> Tensor:
    """-2/β · the mean of log σ(-β · (log π - log π_ref)) over the answers to forget; sequence log-probabilities (B,)."""
    return -2 / beta * torch.nn.functional.logsigmoid(-beta * (policy_rejected - ref_rejected)).mean()


def push_loss(policy_logits: Tensor, ref_logits: Tensor, harmful_logits: Tensor, strength: float) -> Tensor:
    """The mean over tokens of KL(softmax((1+g) · ref - g · harmful) ‖ π), g the strength; logits (M, V)."""
    target = ((1 + strength) * ref_logits - strength * harmful_logits).log_softmax(dim=1)  # (M, V)
    return (target.exp() * (target - policy_logits.log_softmax(dim=1))).sum(dim=1).mean()


# ---------------------------------------------------------------- refusal-DPO

# seed, rows, β, w, size of the log-probabilities
_PAIRS = ((0, 5, 0.3, 0.2, 6.0), (1, 3, 0.1, 0.0, 20.0), (2, 4, 0.7, 0.5, 2.0), (3, 3, 0.5, 0.1, 900.0))
TOO_LATE = "Its logarithm comes after a sigmoid that has rounded to 0: `logsigmoid` does both at once."


def examine_refusal_dpo(function: Function) -> str | None:
    """Compares with a loop over the pairs, and both gradients with their closed forms."""
    for seed, rows, beta, weight, scale in _PAIRS:
        columns = _columns(seed, rows, scale)
        chosen, rejected = (column.requires_grad_() for column in columns[:2])
        given = f"{rows} pairs, beta = {beta}, nll_weight = {weight}"
        with torch.no_grad():
            named = _dpo_mistakes(columns, beta, weight)
        got = call(function, *columns, beta, weight)
        said = expect(got, torch.tensor(_slow_dpo(columns, beta, weight)), named, given=given)
        if said:
            return said
        pull = beta * torch.sigmoid(-_margins(columns, beta)).detach()  # (B,)
        slopes = gradients(got, chosen, rejected)  # (B,) each
        said = expect(slopes[0], -(pull + weight) / rows, given=f"{given}, the gradient at policy_chosen")
        said = said or expect(slopes[1], pull / rows, given=f"{given}, the gradient at policy_rejected")
        if said:
            return said
    return None


def _margins(columns: list[Tensor], beta: float) -> Tensor:
    chosen, rejected, ref_chosen, ref_rejected = columns
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))  # (B,)


def _dpo_mistakes(columns: list[Tensor], beta: float, weight: float) -> dict[str, Tensor]:
    chosen, rejected, ref_chosen, ref_rejected = (column.detach() for column in columns)
    m, nll, log = _margins(columns, beta), -chosen.mean(), torch.nn.functional.logsigmoid
    loss = -log(m).mean()

    def _of(margins: Tensor) -> Tensor:
        return -log(margins).mean() + weight * nll

    return {
        "The reference is forgotten: it is the gain on π_ref that counts.": _of(beta * (chosen - rejected)),
        "Chosen and rejected are swapped: it learns to comply.": _of(-m),
        "β stands outside the logarithm: it scales the difference, inside σ.": -beta * log(m / beta).mean() + weight * nll,
        "β is missing: it multiplies the difference of the gains.": _of(m / beta),
        "It divides by β, where a larger β is to be satisfied sooner.": _of(m / beta**2),
        "The minus before log σ is missing: it would go down for ever.": log(m).mean() + weight * nll,
        "The gains are added: the chosen answer has to gain on the rejected one.": _of(
            beta * (chosen - ref_chosen + rejected - ref_rejected)
        ),
        "It divides log-probabilities by each other: a ratio of probabilities is a difference of logarithms.": _of(
            beta * (chosen / ref_chosen - rejected / ref_rejected)
        ),
        "The logarithm of the σ is missing.": -torch.sigmoid(m).mean() + weight * nll,
        "It takes the mean of the margins first: the curve of log σ bends, so take the mean of the losses.": _of(m.mean()),
        "The second term is missing: − w · log π of the refusal.": loss,
        "The second term has the wrong sign: it makes refusals less likely.": loss - weight * nll,
        "The second term holds up the harmful answer: it belongs to the chosen one.": loss - weight * rejected.mean(),
        "The second term belongs to the policy: the reference's part of it is a constant.": loss - weight * ref_chosen.mean(),
        "The second term is the gain on the reference: it is log π itself.": loss - weight * (chosen - ref_chosen).mean(),
        "The second term carries a β as well: its only factor is w.": loss + beta * weight * nll,
        "It adds the pairs up, where their mean is asked for.": len(chosen) * _of(m),
        "It keeps the pairs apart, where the loss is one number.": -log(m) - weight * chosen,
        TOO_LATE: -torch.sigmoid(m).log().mean() + weight * nll,
    }  # fmt: skip


def _columns(seed: int, rows: int, scale: float) -> list[Tensor]:
    """Four columns of sequence log-probabilities: the policy's chosen and rejected, then the reference's."""
    drawn = torch.rand(4, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list((-scale * drawn - 0.5).float())


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def _slow_dpo(columns: list[Tensor], beta: float, weight: float) -> float:
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    losses = [-_log_sigmoid(beta * (c - rc - r + rr)) - weight * c for c, r, rc, rr in rows]
    return math.fsum(losses) / len(rows)


# ---------------------------------------------------------------- NPO


def examine_npo(function: Function) -> str | None:
    """Compares with a loop, and the gradient with 2 · σ(β · log-ratio) / B."""
    for seed, rows, beta, _, scale in _PAIRS:
        policy, ref, *_ = _columns(seed, rows, scale)
        policy.requires_grad_()
        given, ratios = f"{rows} answers, beta = {beta}", (policy - ref).detach()  # (B,)
        right = math.fsum(-2 / beta * _log_sigmoid(-beta * ratio) for ratio in ratios.tolist()) / rows
        got = call(function, policy, ref, beta)
        said = expect(got, torch.tensor(right), _npo_mistakes(policy.detach(), ref, beta), given=given)
        if said:
            return said
        (slope,) = gradients(got, policy)  # (B,)
        said = expect(slope, 2 * torch.sigmoid(beta * ratios) / rows, given=f"{given}, the gradient")
        if said:
            return said
    return None


def _npo_mistakes(policy: Tensor, ref: Tensor, beta: float) -> dict[str, Tensor]:
    log, ratios = torch.nn.functional.logsigmoid, policy - ref  # (B,)
    right = -2 / beta * log(-beta * ratios)  # (B,)
    rounded = -2 / beta * torch.sigmoid(-beta * ratios).log().mean()
    return {
        "The sign within σ is missing: it would make the harmful answers likelier.": -2 / beta * log(beta * ratios).mean(),
        "The factor 2/β is forgotten: with it the first step is that of gradient ascent at any β.": beta / 2 * right.mean(),
        "Its factor is 1/β: the gradient at the reference would be a half, not 1.": right.mean() / 2,
        "Its factor is 2: divide by β as well.": beta * right.mean(),
        "Its factor is β/2, the wrong way up.": (beta / 2) ** 2 * right.mean(),
        "β is missing within σ.": -2 / beta * log(-ratios).mean(),
        "π_ref is left out: how far the answer has come down is what ends the push.": -2 / beta * log(-beta * policy).mean(),
        "The minus in front is missing: as it falls, the answers return.": -right.mean(),
        "It is gradient ascent, the mean of log π: nothing in it ever comes to rest.": policy.mean(),
        "It is the mean log-ratio, which is gradient ascent with a constant beside it.": ratios.mean(),
        "It takes one mean of the log-ratios first: each answer has a push of its own.": -2 / beta * log(-beta * ratios.mean()),
        "It adds the answers up: their mean is asked for.": right.sum(),
        "One number for each answer: the loss is the mean of them.": right,
        "An underflowing sigmoid has no logarithm: take `logsigmoid` here.": rounded,
    }  # fmt: skip


# ---------------------------------------------------------------- a push with a place to go


def examine_push(function: Function) -> str | None:
    """Compares with a loop in the form p_ref · (p_ref / p_h)^g, and the gradient with (π - target) / M."""
    for seed, g, scale in ((0, 0.7, 1.5), (1, 2.0, 1.0), (2, 0.0, 2.0), (3, 0.5, 120.0)):
        generator = torch.Generator().manual_seed(seed)
        policy, ref, harmful = scale * torch.randn(3, 5, 4, generator=generator)  # (M, V) each
        target = torch.tensor(_slow_target(ref, harmful, g))  # (M, V), log-probabilities
        policy.requires_grad_()
        given = f"M = {len(ref)}, V = {ref.shape[1]}, strength = {g} and logits up to {ref.abs().max():.0f} in size"
        rows = zip(target.tolist(), map(_slow_logp, policy.tolist()), strict=True)
        right = math.fsum(math.exp(p) * (p - q) for row in rows for p, q in zip(*row, strict=True)) / len(ref)
        got = call(function, policy, ref, harmful, g)
        said = expect(got, torch.tensor(right), _push_mistakes(policy.detach(), ref, harmful, g), given=given)
        if said:
            return said
        (slope,) = gradients(got, policy)  # (M, V)
        wanted = (policy.softmax(1) - target.exp()).detach() / len(ref)  # (M, V)
        said = expect(slope, wanted, given=f"{given}, the gradient at policy_logits")
        if said:
            return said
    return None


def _slow_logp(row: list[float]) -> list[float]:
    top = max(row)
    total = top + math.log(sum(math.exp(one - top) for one in row))
    return [one - total for one in row]


def _slow_target(ref: Tensor, harmful: Tensor, g: float) -> list[list[float]]:
    pairs = zip(map(_slow_logp, ref.tolist()), map(_slow_logp, harmful.tolist()), strict=True)
    return [_slow_logp([p + g * (p - h) for p, h in zip(*pair, strict=True)]) for pair in pairs]


def _push_mistakes(policy: Tensor, ref: Tensor, harmful: Tensor, g: float) -> dict[str, Tensor]:
    logps, meant = policy.log_softmax(1), (1 + g) * ref - g * harmful  # (M, V)
    target = meant.log_softmax(1)  # (M, V)
    parts = target.exp() * (target - logps)  # (M, V)
    likely = ((1 + g) * ref.softmax(1) - g * harmful.softmax(1)).log_softmax(1)  # (M, V)
    even, swapped = g * (ref - harmful), (1 + g) * harmful - g * ref  # (M, V)
    places = {
        "It is drawn towards the harmful teacher: that is the printed loss, which attracts.": harmful,
        "Its target has the factor g in front of ref: it is 1 + g, so that g = 0 is the reference.": even,
        "Its target is ref − g · harmful: the first factor is 1 + g.": ref - g * harmful,
        "Its target is (1 + g) · harmful − g · ref: the reference and the teacher changed places.": swapped,
        "Its target adds the teacher: a push takes its logits away.": (1 + g) * ref + g * harmful,
        "Its target is the teacher turned upside down: where is the reference?": -harmful,
        "Its target is the reference at every g: the push is missing.": ref,
        "It keeps a temperature: divided by 1 + g, the target is flatter than it should be.": meant / (1 + g),
    }
    return {said: _kl(place.log_softmax(1), logps) for said, place in places.items()} | {
        "The two sides of the KL are swapped: the target comes first, its probabilities are the weights.": _kl(logps, target),
        "It is a cross-entropy, which stays above 0 at the target itself.": -(target.exp() * logps).sum(1).mean(),
        "It flees from the target: the divergence is to be made smaller.": -parts.sum(1).mean(),
        "It contrasts probabilities: the target is one of logits.": _kl(likely, logps),
        "It adds the M tokens up, where a mean is asked for.": parts.sum(),
        "It divides by V as well: add up over the vocabulary, then take the mean over the tokens.": parts.mean(),
        "It keeps a number for each token: the loss is their mean.": parts.sum(1),
        "Its softmax runs down the tokens: each row is a distribution of its own.": _kl(
            meant.log_softmax(0), policy.log_softmax(0), meant.shape[0]
        ),
        "It is no number where a probability rounds to 0: stay with `log_softmax` throughout."
        if policy.abs().max() > 100
        else "It is no number at any logits: `kl_div` expects a target of probabilities, unless it is told `log_target=True`.": (
            torch.tensor(math.nan)
        ),
    }  # fmt: skip


def _kl(p: Tensor, q: Tensor, rows: int = 0) -> Tensor:
    return (p.exp() * (p - q)).sum() / (rows or len(p))


EXERCISES = (
    Exercise(
        name="refusal_dpo_loss", solution=refusal_dpo_loss, examine=examine_refusal_dpo, minutes=8, lesson=LESSON,
        hints=(
            "Two gains, each the policy's log-probability minus the reference's. Their difference times β goes into log σ.",
            "`-logsigmoid(beta * (gain_chosen - gain_rejected)) - nll_weight * policy_chosen`, then the mean over the pairs.",
        ),
    ),
    Exercise(
        name="npo_loss", solution=npo_loss, examine=examine_npo, minutes=5, lesson=LESSON,
        hints=(
            "It is DPO without a chosen answer: what is left within σ? Then the factor in front, 2/β.",
            "`-2 / beta * logsigmoid(-beta * (policy_rejected - ref_rejected)).mean()`, with torch.nn.functional.logsigmoid.",
        ),
    ),
    Exercise(
        name="push_loss", solution=push_loss, examine=examine_push, minutes=6, lesson=LESSON,
        hints=(
            "First the target, as log-probabilities; then Σ target · (log target − log π) along the vocabulary, and a mean.",
            "target = ((1+g)·ref − g·harmful).log_softmax(1); the weights are `target.exp()`, the policy is in the second place.",
        ),
    ),
)  # fmt: skip
