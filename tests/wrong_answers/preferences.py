"""Wrong answers to the exercises of lesson 30."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- sequence_logps


def _said(logits, ids):
    return logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)


def leaves_the_labels_unshifted(logits, ids, mask):
    return (logits.log_softmax(-1).gather(2, ids[..., None]).squeeze(2) * mask).sum(1)


def shifts_the_wrong_way(logits, ids, mask):
    said = logits[:, 1:].log_softmax(-1).gather(2, ids[:, :-1, None]).squeeze(2)
    return (said * mask[:, :-1]).sum(1)


def leaves_the_mask_unshifted(logits, ids, mask):
    return (_said(logits, ids) * mask[:, :-1]).sum(1)


def loses_the_first_token(logits, ids, mask):
    return (_said(logits, ids) * (mask[:, 1:] & mask[:, :-1])).sum(1)


def counts_everything(logits, ids, mask):
    return _said(logits, ids).sum(1)


def counts_pads_after_the_answer(logits, ids, mask):
    return (_said(logits, ids) * (mask[:, 1:].cumsum(1) > 0)).sum(1)


def takes_the_mean(logits, ids, mask):
    return (_said(logits, ids) * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1).clamp(min=1)


def takes_the_mean_over_t(logits, ids, mask):
    return (_said(logits, ids) * mask[:, 1:]).mean(1)


def returns_the_nll(logits, ids, mask):
    return -(_said(logits, ids) * mask[:, 1:]).sum(1)


def returns_the_probability(logits, ids, mask):
    return (_said(logits, ids) * mask[:, 1:]).sum(1).exp()


def sums_logits(logits, ids, mask):
    return (logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2) * mask[:, 1:]).sum(1)


def sums_probabilities(logits, ids, mask):
    return (_said(logits, ids).exp() * mask[:, 1:]).sum(1)


def normalises_over_time(logits, ids, mask):
    said = logits[:, :-1].log_softmax(1).gather(2, ids[:, 1:, None]).squeeze(2)
    return (said * mask[:, 1:]).sum(1)


def adds_the_batch_up(logits, ids, mask):
    return (_said(logits, ids) * mask[:, 1:]).sum()


def keeps_the_tokens(logits, ids, mask):
    return _said(logits, ids) * mask[:, 1:]


def ignores_the_index(logits, ids, mask):
    labels = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return -F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="sum")


# ---------------------------------------------------------------- refusal_dpo_loss


def _margin(pc, pr, rc, rr, beta):
    return beta * ((pc - rc) - (pr - rr))


def _with_nll(margins, pc, w):
    return -F.logsigmoid(margins).mean() - w * pc.mean()


def forgets_the_reference(pc, pr, rc, rr, beta, w):
    return _with_nll(beta * (pc - pr), pc, w)


def swaps_chosen_and_rejected(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pr, pc, rr, rc, beta), pc, w)


def puts_beta_outside(pc, pr, rc, rr, beta, w):
    return -beta * F.logsigmoid(_margin(pc, pr, rc, rr, 1)).mean() - w * pc.mean()


def leaves_beta_out(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, 1), pc, w)


def divides_by_beta(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, 1) / beta, pc, w)


def forgets_the_minus(pc, pr, rc, rr, beta, w):
    return F.logsigmoid(_margin(pc, pr, rc, rr, beta)).mean() - w * pc.mean()


def adds_the_gains(pc, pr, rc, rr, beta, w):
    return _with_nll(beta * (pc - rc + pr - rr), pc, w)


def divides_logarithms(pc, pr, rc, rr, beta, w):
    return _with_nll(beta * (pc / rc - pr / rr), pc, w)


def forgets_the_logarithm(pc, pr, rc, rr, beta, w):
    return -torch.sigmoid(_margin(pc, pr, rc, rr, beta)).mean() - w * pc.mean()


def averages_the_margins(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta).mean(), pc, w)


def forgets_the_second_term(pc, pr, rc, rr, beta, w):
    return -F.logsigmoid(_margin(pc, pr, rc, rr, beta)).mean()


def turns_the_second_term(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta), pc, -w)


def holds_up_the_harmful(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta), pr, w)


def holds_up_the_references(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta), rc, w)


def holds_up_the_gain(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta), pc - rc, w)


def gives_the_second_term_a_beta(pc, pr, rc, rr, beta, w):
    return _with_nll(_margin(pc, pr, rc, rr, beta), pc, beta * w)


def adds_the_pairs_up(pc, pr, rc, rr, beta, w):
    return (-F.logsigmoid(_margin(pc, pr, rc, rr, beta)) - w * pc).sum()


def keeps_the_pairs_apart(pc, pr, rc, rr, beta, w):
    return -F.logsigmoid(_margin(pc, pr, rc, rr, beta)) - w * pc


def takes_the_logarithm_of_a_sigmoid(pc, pr, rc, rr, beta, w):
    return -torch.sigmoid(_margin(pc, pr, rc, rr, beta)).log().mean() - w * pc.mean()


# ---------------------------------------------------------------- npo_loss


def turns_the_sign_within(policy, ref, beta):
    return -2 / beta * F.logsigmoid(beta * (policy - ref)).mean()


def forgets_the_factor(policy, ref, beta):
    return -F.logsigmoid(-beta * (policy - ref)).mean()


def takes_half_the_factor(policy, ref, beta):
    return -1 / beta * F.logsigmoid(-beta * (policy - ref)).mean()


def takes_two_as_the_factor(policy, ref, beta):
    return -2 * F.logsigmoid(-beta * (policy - ref)).mean()


def turns_the_factor_over(policy, ref, beta):
    return -beta / 2 * F.logsigmoid(-beta * (policy - ref)).mean()


def leaves_beta_out_of_the_sigmoid(policy, ref, beta):
    return -2 / beta * F.logsigmoid(ref - policy).mean()


def leaves_the_reference_out(policy, ref, beta):
    return -2 / beta * F.logsigmoid(-beta * policy).mean()


def forgets_the_minus_in_front(policy, ref, beta):
    return 2 / beta * F.logsigmoid(-beta * (policy - ref)).mean()


def ascends_the_gradient(policy, ref, beta):
    return policy.mean()


def averages_the_ratios(policy, ref, beta):
    return (policy - ref).mean()


def averages_before_the_sigmoid(policy, ref, beta):
    return -2 / beta * F.logsigmoid(-beta * (policy - ref).mean())


def adds_the_answers_up(policy, ref, beta):
    return -2 / beta * F.logsigmoid(-beta * (policy - ref)).sum()


def keeps_the_answers_apart(policy, ref, beta):
    return -2 / beta * F.logsigmoid(-beta * (policy - ref))


def rounds_the_sigmoid(policy, ref, beta):
    return -2 / beta * torch.log(torch.sigmoid(-beta * (policy - ref))).mean()


# ---------------------------------------------------------------- push_loss


def _kl(target_logits, policy_logits):
    return F.kl_div(policy_logits.log_softmax(1), target_logits.log_softmax(1), reduction="batchmean", log_target=True)


def _meant(ref, harmful, g):
    return (1 + g) * ref - g * harmful


def is_drawn_to_the_teacher(policy, ref, harmful, g):
    return _kl(harmful, policy)


def aims_at_g(policy, ref, harmful, g):
    return _kl(g * ref - g * harmful, policy)


def aims_at_one(policy, ref, harmful, g):
    return _kl(ref - g * harmful, policy)


def swaps_the_models(policy, ref, harmful, g):
    return _kl(_meant(harmful, ref, g), policy)


def adds_the_teacher(policy, ref, harmful, g):
    return _kl((1 + g) * ref + g * harmful, policy)


def turns_the_teacher_upside_down(policy, ref, harmful, g):
    return _kl(-harmful, policy)


def forgets_the_push(policy, ref, harmful, g):
    return _kl(ref, policy)


def keeps_a_temperature(policy, ref, harmful, g):
    return _kl(_meant(ref, harmful, g) / (1 + g), policy)


def swaps_the_divergence(policy, ref, harmful, g):
    return _kl(policy, _meant(ref, harmful, g))


def takes_a_cross_entropy(policy, ref, harmful, g):
    return F.cross_entropy(policy, _meant(ref, harmful, g).softmax(1))


def flees_from_the_target(policy, ref, harmful, g):
    return -_kl(_meant(ref, harmful, g), policy)


def contrasts_probabilities(policy, ref, harmful, g):
    return _kl(_meant(ref.softmax(1), harmful.softmax(1), g), policy)


def adds_the_tokens(policy, ref, harmful, g):
    return _kl(_meant(ref, harmful, g), policy) * len(policy)


def divides_by_the_vocabulary(policy, ref, harmful, g):
    return _kl(_meant(ref, harmful, g), policy) / policy.shape[1]


def keeps_each_token(policy, ref, harmful, g):
    target = _meant(ref, harmful, g).log_softmax(1)
    return (target.exp() * (target - policy.log_softmax(1))).sum(1)


def normalises_down_the_tokens(policy, ref, harmful, g):
    target = _meant(ref, harmful, g).log_softmax(0)
    return F.kl_div(policy.log_softmax(0), target, reduction="batchmean", log_target=True)


def divides_probabilities(policy, ref, harmful, g):
    target = _meant(ref, harmful, g).softmax(1)
    return (target * (target / policy.softmax(1)).log()).sum(1).mean()


def forgets_the_log_target(policy, ref, harmful, g):
    target = _meant(ref, harmful, g).log_softmax(1)
    return F.kl_div(policy.log_softmax(1), target, reduction="batchmean")


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "sequence_logps": {
        leaves_the_labels_unshifted: "labels are not shifted",
        shifts_the_wrong_way: "shifts the wrong way",
        leaves_the_mask_unshifted: "mask is not shifted",
        loses_the_first_token: "first token of each answer is missing",
        counts_everything: "request and the padding are counted",
        counts_pads_after_the_answer: "What follows the response is counted",
        takes_the_mean: "mean per token",
        takes_the_mean_over_t: "mean over T",
        returns_the_nll: "negative log-likelihood",
        returns_the_probability: "probability itself",
        sums_logits: "It sums logits",
        sums_probabilities: "It sums probabilities",
        normalises_over_time: "softmax runs along the tokens",
        adds_the_batch_up: "adds the whole batch up",
        keeps_the_tokens: "keeps the tokens apart",
    },
    "refusal_dpo_loss": {
        forgets_the_reference: "reference is forgotten",
        swaps_chosen_and_rejected: "Chosen and rejected are swapped",
        puts_beta_outside: "β stands outside",
        leaves_beta_out: "β is missing: it multiplies",
        divides_by_beta: "satisfied sooner",
        forgets_the_minus: "minus before log σ",
        adds_the_gains: "gains are added",
        divides_logarithms: "divides log-probabilities",
        forgets_the_logarithm: "logarithm of the σ",
        averages_the_margins: "mean of the margins first",
        forgets_the_second_term: "second term is missing",
        turns_the_second_term: "second term has the wrong sign",
        holds_up_the_harmful: "holds up the harmful answer",
        holds_up_the_references: "second term belongs to the policy",
        holds_up_the_gain: "second term is the gain",
        gives_the_second_term_a_beta: "second term carries a β",
        adds_the_pairs_up: "adds the pairs up",
        keeps_the_pairs_apart: "keeps the pairs apart",
        takes_the_logarithm_of_a_sigmoid: "after a sigmoid that has rounded",
    },
    "npo_loss": {
        turns_the_sign_within: "sign within σ is missing",
        forgets_the_factor: "factor 2/β is forgotten",
        takes_half_the_factor: "factor is 1/β",
        takes_two_as_the_factor: "factor is 2:",
        turns_the_factor_over: "factor is β/2",
        leaves_beta_out_of_the_sigmoid: "β is missing within σ",
        leaves_the_reference_out: "π_ref is left out",
        forgets_the_minus_in_front: "minus in front is missing",
        ascends_the_gradient: "It is gradient ascent, the mean",
        averages_the_ratios: "It is the mean log-ratio",
        averages_before_the_sigmoid: "one mean of the log-ratios",
        adds_the_answers_up: "adds the answers up",
        keeps_the_answers_apart: "One number for each answer",
        rounds_the_sigmoid: "underflowing sigmoid",
    },
    "push_loss": {
        is_drawn_to_the_teacher: "drawn towards the harmful teacher",
        aims_at_g: "factor g in front of ref",
        aims_at_one: "target is ref − g · harmful",
        swaps_the_models: "teacher changed places",
        adds_the_teacher: "target adds the teacher",
        turns_the_teacher_upside_down: "upside down: where is the reference",
        forgets_the_push: "the push is missing",
        keeps_a_temperature: "keeps a temperature",
        swaps_the_divergence: "two sides of the KL are swapped",
        takes_a_cross_entropy: "cross-entropy, which stays above 0",
        flees_from_the_target: "flees from the target",
        contrasts_probabilities: "It contrasts probabilities",
        adds_the_tokens: "adds the M tokens up",
        divides_by_the_vocabulary: "divides by V as well",
        keeps_each_token: "keeps a number for each token",
        normalises_down_the_tokens: "softmax runs down the tokens",
        divides_probabilities: "no number where a probability rounds",
        forgets_the_log_target: "no number at any logits",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "sequence_logps": {ignores_the_index: adds_the_batch_up},
}
