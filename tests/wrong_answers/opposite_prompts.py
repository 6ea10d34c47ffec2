"""Wrong answers to the exercises of lesson 21."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

# ---------------------------------------------------------------- prepend


def _front(prompt, text):
    return prompt.expand(len(text), -1, -1)


def _seen(prompt, mask):
    return mask.new_ones(len(mask), len(prompt))


def _in_front(prompt, text):
    return torch.cat([_front(prompt, text), text], dim=1)


def _mask_in_front(prompt, mask):
    return torch.cat([_seen(prompt, mask), mask], dim=1)


def appends(prompt, text, mask):
    return torch.cat([text, _front(prompt, text)], dim=1), torch.cat([mask, _seen(prompt, mask)], dim=1)


def adds_to_the_text(prompt, text, mask):
    return text + prompt, mask


def adds_to_the_first_columns(prompt, text, mask):
    added = text.clone()
    added[:, : len(prompt)] += prompt
    return added, mask


def writes_over_the_text(prompt, text, mask):
    text = text.clone()
    text[:, : len(prompt)] = prompt
    return text, mask


def mixes_the_copies(prompt, text, mask):
    front = prompt.repeat(1, len(text)).view(len(text), len(prompt), -1)
    return torch.cat([front, text], dim=1), _mask_in_front(prompt, mask)


def returns_the_mask_first(prompt, text, mask):
    return _mask_in_front(prompt, mask), _in_front(prompt, text)


def returns_no_mask(prompt, text, mask):
    return _in_front(prompt, text)


def leaves_the_mask_as_it_is(prompt, text, mask):
    return _in_front(prompt, text), mask


def hides_the_prompt(prompt, text, mask):
    return _in_front(prompt, text), torch.cat([0 * _seen(prompt, mask), mask], dim=1)


def appends_to_the_mask(prompt, text, mask):
    return _in_front(prompt, text), torch.cat([mask, _seen(prompt, mask)], dim=1)


def shows_the_padding(prompt, text, mask):
    return _in_front(prompt, text), torch.ones_like(_mask_in_front(prompt, mask))


def makes_the_mask_float(prompt, text, mask):
    return _in_front(prompt, text), torch.cat([torch.ones(len(mask), len(prompt)), mask], dim=1)


def detaches_the_prompt(prompt, text, mask):
    return _in_front(prompt.detach(), text), _mask_in_front(prompt, mask)


def makes_a_new_parameter(prompt, text, mask):
    return _in_front(nn.Parameter(prompt), text), _mask_in_front(prompt, mask)


def trains_one_row_only(prompt, text, mask):
    front = torch.cat([prompt[None], prompt.detach().expand(len(text) - 1, -1, -1)])
    return torch.cat([front, text], dim=1), _mask_in_front(prompt, mask)


def clears_the_padding_in_place(prompt, text_embeddings, attention_mask):
    text_embeddings[attention_mask == 0] = 0
    return _in_front(prompt, text_embeddings), _mask_in_front(prompt, attention_mask)


# ---------------------------------------------------------------- wanted_loss


def _chosen(logits, ids):
    return logits.log_softmax(-1).gather(1, ids[:, None]).squeeze(1)


def adds_the_surprises_up(logits, ids):
    return F.cross_entropy(logits, ids, reduction="sum")


def learns_the_opposite(logits, ids):
    return _chosen(logits, ids).mean()


def divides_by_the_vocabulary(logits, ids):
    return -(F.one_hot(ids, logits.shape[1]) * logits.log_softmax(-1)).mean()


def takes_every_token(logits, ids):
    return -logits.log_softmax(-1).mean()


def picks_every_id_in_every_row(logits, ids):
    return -logits.log_softmax(-1)[:, ids].mean()


def forgets_the_logarithm(logits, ids):
    return -_chosen(logits, ids).exp().mean()


def forgets_the_softmax(logits, ids):
    return -logits.gather(1, ids[:, None]).mean()


def normalises_down_the_tokens(logits, ids):
    return -logits.log_softmax(0).gather(1, ids[:, None]).mean()


def shifts_once_more(logits, ids):
    return F.cross_entropy(logits[:-1], ids[1:])


def takes_the_log_of_a_softmax(logits, ids):
    return -logits.softmax(-1).gather(1, ids[:, None]).log().mean()


def keeps_the_tokens_apart(logits, ids):
    return -_chosen(logits, ids)


# ---------------------------------------------------------------- unwanted_loss


def _p(logits, ids):
    return logits.softmax(-1).gather(1, ids[:, None]).squeeze(1)


def _without(logits, ids, out=-math.inf):
    return logits.scatter(1, ids[:, None], out).logsumexp(-1)


def takes_one_minus_the_softmax(logits, ids):
    return -torch.log(1 - _p(logits, ids)).mean()


def takes_log1p(logits, ids):
    return -torch.log1p(-_chosen(logits, ids).exp()).mean()


def adds_the_others_probabilities(logits, ids):
    others = logits.softmax(-1).scatter(1, ids[:, None], 0.0).sum(1)
    return -others.log().mean()


def takes_the_exponentials(logits, ids):
    every = logits.exp()
    return -(1 - every.gather(1, ids[:, None])[:, 0] / every.sum(1)).log().mean()


def subtracts_sums_of_exponentials(logits, ids):
    every = logits.exp()
    return (every.sum(1).log() - every.scatter(1, ids[:, None], 0.0).sum(1).log()).mean()


def clamps_the_rest(logits, ids):
    return -torch.log((1 - _p(logits, ids)).clamp(min=1e-8)).mean()


def adds_a_little(logits, ids):
    return -torch.log(1 - _p(logits, ids) + 1e-8).mean()


def calls_binary_cross_entropy(logits, ids):
    p = _p(logits, ids)
    return F.binary_cross_entropy(p, torch.zeros_like(p))


def negates_the_cross_entropy(logits, ids):
    return -F.cross_entropy(logits, ids)


def trains_the_unwanted(logits, ids):
    return F.cross_entropy(logits, ids)


def has_the_rests_sign_wrong(logits, ids):
    return (_without(logits, ids) - logits.logsumexp(-1)).mean()


def adds_the_rests_up(logits, ids):
    return (logits.logsumexp(-1) - _without(logits, ids)).sum()


def takes_the_probability(logits, ids):
    return _p(logits, ids).mean()


def avoids_every_token(logits, ids):
    return -torch.log(1 - logits.softmax(-1)).mean()


def forgets_all_the_tokens(logits, ids):
    return -_without(logits, ids).mean()


def puts_a_zero_in_its_place(logits, ids):
    return (logits.logsumexp(-1) - _without(logits, ids, 0.0)).mean()


def takes_the_others_as_given(logits, ids):
    return (logits.logsumexp(-1) - _without(logits, ids).detach()).mean()


# ---------------------------------------------------------------- kept_loss


def _kl(p_logits, q_logits):
    return F.kl_div(q_logits.log_softmax(-1), p_logits.log_softmax(-1), reduction="batchmean", log_target=True)


def turns_the_divergence_around(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + divergence * _kl(logits, undefended)


def adds_the_divergences_up(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + divergence * len(ids) * _kl(undefended, logits)


def takes_kl_divs_mean(logits, ids, undefended, divergence):
    apart = F.kl_div(logits.log_softmax(-1), undefended.softmax(-1), reduction="none").mean()
    return F.cross_entropy(logits, ids) + divergence * apart


def rewards_the_distance(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) - divergence * _kl(undefended, logits)


def squares_the_differences(logits, ids, undefended, divergence):
    apart = (undefended.softmax(-1) - logits.softmax(-1)).square().sum(-1).mean()
    return F.cross_entropy(logits, ids) + divergence * apart


def takes_the_mean_square(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + divergence * F.mse_loss(logits.softmax(-1), undefended.softmax(-1))


def compares_bare_logits(logits, ids, undefended, divergence):
    apart = (undefended.softmax(-1) * (undefended - logits)).sum(-1).mean()
    return F.cross_entropy(logits, ids) + divergence * apart


def takes_the_soft_cross_entropy(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + divergence * F.cross_entropy(logits, undefended.softmax(-1))


def gives_kl_div_probabilities(logits, ids, undefended, divergence):
    apart = F.kl_div(logits.softmax(-1), undefended.softmax(-1), reduction="batchmean")
    return F.cross_entropy(logits, ids) + divergence * apart


def gives_kl_div_logits(logits, ids, undefended, divergence):
    apart = F.kl_div(logits, undefended.softmax(-1), reduction="batchmean")
    return F.cross_entropy(logits, ids) + divergence * apart


def takes_the_logarithm_twice(logits, ids, undefended, divergence):
    apart = F.kl_div(logits.log_softmax(-1), undefended.log_softmax(-1), reduction="batchmean")
    return F.cross_entropy(logits, ids) + divergence * apart


def caps_the_logarithms(logits, ids, undefended, divergence):
    p, q = undefended.softmax(-1), logits.softmax(-1)
    return F.cross_entropy(logits, ids) + divergence * (p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(-1).mean()


def keeps_the_distribution_alone(logits, ids, undefended, divergence):
    return divergence * _kl(undefended, logits)


def forgets_the_knob(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + _kl(undefended, logits)


def keeps_the_answer_alone(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids)


def weighs_the_answer(logits, ids, undefended, divergence):
    return divergence * F.cross_entropy(logits, ids) + _kl(undefended, logits)


def adds_the_answer_up(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids, reduction="sum") + divergence * _kl(undefended, logits)


def asks_the_undefended_model(logits, ids, undefended, divergence):
    return F.cross_entropy(undefended, ids) + divergence * _kl(undefended, logits)


def multiplies_nothing_by_infinity(logits, ids, undefended, divergence):
    p, q = undefended.softmax(-1), logits.softmax(-1)
    return F.cross_entropy(logits, ids) + divergence * (p * (p.log() - q.log())).sum(-1).mean()


def detaches_the_prompted(logits, ids, undefended, divergence):
    return F.cross_entropy(logits, ids) + divergence * _kl(undefended, logits.detach())


# ---------------------------------------------------------------- opposite_losses


def _loss(wanted, unwanted, kept, prompt, good, bad, target, avoid, benign):
    return target * wanted(prompt, good) + avoid * unwanted(prompt, bad) + benign * kept(prompt)


REFUSING, OBEYING = ("S", "refusal", "compliance"), ("A", "compliance", "refusal")


def both_refuse(*terms):
    *losses, target, avoid, benign = terms
    weights = (target, avoid, benign)
    return _loss(*losses, *REFUSING, *weights), _loss(*losses, "A", *REFUSING[1:], *weights)


def the_safe_prompt_obeys(*terms):
    losses, weights = terms[:3], terms[3:]
    return _loss(*losses, "S", *OBEYING[1:], *weights), _loss(*losses, "A", *REFUSING[1:], *weights)


def _pair(losses, target, avoid, benign):
    return tuple(_loss(*losses, *answers, target, avoid, benign) for answers in (REFUSING, OBEYING))


def returns_the_adversarial_first(*terms):
    return _pair(terms[:3], *terms[3:])[::-1]


def leaves_the_adversarial_without_benign(*terms):
    *losses, target, avoid, benign = terms
    return _pair(losses, target, avoid, benign)[0], _pair(losses, target, avoid, 0)[1]


def leaves_the_safe_without_benign(*terms):
    *losses, target, avoid, benign = terms
    return _pair(losses, target, avoid, 0)[0], _pair(losses, target, avoid, benign)[1]


def leaves_the_benign_out(*terms):
    *losses, target, avoid, _ = terms
    return _pair(losses, target, avoid, 0)


def avoids_nothing(*terms):
    *losses, target, _, benign = terms
    return _pair(losses, target, 0, benign)


def subtracts_the_unlikelihood(*terms):
    *losses, target, avoid, benign = terms
    return _pair(losses, target, -avoid, benign)


def avoids_what_it_wants(*terms):
    losses, weights = terms[:3], terms[3:]
    return tuple(
        _loss(*losses, prompt, good, good, *weights) for prompt, good in (("S", "refusal"), ("A", "compliance"))
    )


def swaps_the_weights(*terms):
    *losses, target, avoid, benign = terms
    return _pair(losses, avoid, target, benign)


def forgets_the_weights(*terms):
    return _pair(terms[:3], 1, 1, 1)


def measures_under_the_safe_prompt(*terms):
    losses, weights = terms[:3], terms[3:]
    return _pair(losses, *weights)[0], _loss(*losses, "S", *OBEYING[1:], *weights)


def negates_instead_of_mirroring(*terms):
    safe, adversarial = both_refuse(*terms)
    return safe, -adversarial


def subtracts_what_the_other_wants(wanted, unwanted, kept, target, avoid, benign):
    return tuple(
        target * wanted(prompt, good) - avoid * wanted(prompt, bad) + benign * kept(prompt)
        for prompt, good, bad in (REFUSING, OBEYING)
    )


def returns_their_sum(*terms):
    return sum(_pair(terms[:3], *terms[3:]))


def names_the_prompt_in_full(wanted, unwanted, kept, target, avoid, benign):
    return wanted("safe", "refusal"), wanted("adversarial", "compliance")


def asks_the_benign_for_an_answer(wanted, unwanted, kept, target, avoid, benign):
    return target * wanted("S", "refusal") + benign * kept("S", "refusal"), wanted("A", "compliance")


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "prepend": {
        appends: "behind the text: there",
        adds_to_the_text: "adds the prompt to the text's own vectors",
        writes_over_the_text: "over the text",
        mixes_the_copies: "copies of the prompt are mixed up",
        returns_the_mask_first: "returns the mask first",
        returns_no_mask: "Return two tensors",
        leaves_the_mask_as_it_is: "mask is that of the text alone",
        hides_the_prompt: "mask is 0 on the prompt",
        appends_to_the_mask: "new entries behind the text",
        shows_the_padding: "has lost the padding",
        makes_the_mask_float: "one of fractions",
        detaches_the_prompt: "carries no gradient",
        makes_a_new_parameter: "does not reach the prompt",
        trains_one_row_only: "the gradient at the prompt",
        clears_the_padding_in_place: "changes its input `text_embeddings`",
    },
    "wanted_loss": {
        adds_the_surprises_up: "does not grow with the length of the answer",
        learns_the_opposite: "has to fall when the answer becomes likelier",
        divides_by_the_vocabulary: "divides by the vocabulary as well",
        takes_every_token: "Every token of the vocabulary has a say",
        picks_every_id_in_every_row: "asked for all the ids",
        forgets_the_logarithm: "with −p alone",
        forgets_the_softmax: "softmax is missing",
        normalises_down_the_tokens: "goes down the tokens",
        shifts_once_more: "shifts the ids by one",
        takes_the_log_of_a_softmax: "softmax and logarithm in one step",
        keeps_the_tokens_apart: "still to be reduced",
    },
    "unwanted_loss": {
        takes_one_minus_the_softmax: "p rounds to 1 and 1 − p to 0",
        clamps_the_rest: "floor under 1 − p",
        takes_the_exponentials: "The exponential of a large logit overflows",
        negates_the_cross_entropy: "negated cross-entropy, log p",
        trains_the_unwanted: "the cross-entropy, −log p",
        has_the_rests_sign_wrong: "something below 1 is negative",
        adds_the_rests_up: "take their mean.",
        takes_the_probability: "with p alone the push fades",
        avoids_every_token: "pushes down every token",
        forgets_all_the_tokens: "no log-probability yet",
        puts_a_zero_in_its_place: "counts as exp(0)",
        takes_the_others_as_given: "the value is right and its gradient is not",
    },
    "kept_loss": {
        turns_the_divergence_around: "the wrong way round",
        adds_the_divergences_up: "divergence adds the tokens up",
        takes_kl_divs_mean: "V times too small",
        rewards_the_distance: "KL is subtracted",
        squares_the_differences: "hardly see the rare tokens",
        takes_the_mean_square: "mean of squared differences",
        compares_bare_logits: "not normalised",
        takes_the_soft_cross_entropy: "lacks p·log p",
        gives_kl_div_probabilities: "prompted model's probabilities: it takes",
        gives_kl_div_logits: "bare logits",
        takes_the_logarithm_twice: "logarithm of a logarithm",
        caps_the_logarithms: "caps the loss",
        keeps_the_distribution_alone: "cross-entropy is missing",
        forgets_the_knob: "factor `divergence` is missing",
        keeps_the_answer_alone: "stops after the cross-entropy",
        weighs_the_answer: "before the wrong term",
        adds_the_answer_up: "cross-entropy adds the tokens up",
        asks_the_undefended_model: "cross-entropy is that of the undefended model",
        multiplies_nothing_by_infinity: "A probability that rounds to 0 has no logarithm",
        detaches_the_prompted: "divergence sends no gradient",
    },
    "opposite_losses": {
        both_refuse: "A is no mirror yet",
        the_safe_prompt_obeys: "answers are turned around",
        returns_the_adversarial_first: "losses come in the wrong order",
        leaves_the_adversarial_without_benign: "A has no benign term",
        leaves_the_safe_without_benign: "S has no benign term",
        leaves_the_benign_out: "Neither prompt has a benign term",
        avoids_nothing: "Neither prompt avoids anything",
        subtracts_the_unlikelihood: "unlikelihood is subtracted",
        avoids_what_it_wants: "avoids the very answer that it wants",
        swaps_the_weights: "have changed places",
        forgets_the_weights: "weights are missing",
        measures_under_the_safe_prompt: "measured under S",
        negates_instead_of_mirroring: "Negated is not mirrored",
        subtracts_what_the_other_wants: "what `unwanted` is for",
        returns_their_sum: "adds both losses up",
        names_the_prompt_in_full: "`wanted` takes",
        asks_the_benign_for_an_answer: "`kept` takes",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "prepend": {adds_to_the_first_columns: adds_to_the_text},
    "unwanted_loss": {
        takes_log1p: takes_one_minus_the_softmax,
        subtracts_sums_of_exponentials: takes_the_exponentials,
        adds_the_others_probabilities: takes_one_minus_the_softmax,
        adds_a_little: clamps_the_rest,
        calls_binary_cross_entropy: clamps_the_rest,
    },
}
