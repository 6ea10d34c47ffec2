"""Wrong answers to the exercises of lesson 23."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

# ---------------------------------------------------------------- contrast_target


def _score(safe, adversarial, alpha):
    return safe - alpha * adversarial


def leaves_the_temperature_in(safe, adversarial, alpha):
    return _score(safe, adversarial, alpha).log_softmax(-1)


def flattens_it_once_more(safe, adversarial, alpha):
    return ((1 - alpha) * _score(safe, adversarial, alpha)).log_softmax(-1)


def divides_by_one_plus_alpha(safe, adversarial, alpha):
    return (_score(safe, adversarial, alpha) / (1 + alpha)).log_softmax(-1)


def adds_the_adversarial(safe, adversarial, alpha):
    return ((safe + alpha * adversarial) / (1 - alpha)).log_softmax(-1)


def mixes_the_streams(safe, adversarial, alpha):
    return ((safe + alpha * adversarial) / (1 + alpha)).log_softmax(-1)


def contrasts_the_other_way(safe, adversarial, alpha):
    return ((adversarial - alpha * safe) / (1 - alpha)).log_softmax(-1)


def weighs_by_alpha(safe, adversarial, alpha):
    return ((1 + alpha) * safe - alpha * adversarial).log_softmax(-1)


def softens_a_difference_of_probabilities(safe, adversarial, alpha):
    return ((safe.softmax(-1) - alpha * adversarial.softmax(-1)) / (1 - alpha)).log_softmax(-1)


def takes_its_logarithm(safe, adversarial, alpha):
    return ((safe.softmax(-1) - alpha * adversarial.softmax(-1)) / (1 - alpha)).log()


def normalises_the_wrong_axis(safe, adversarial, alpha):
    return (_score(safe, adversarial, alpha) / (1 - alpha)).log_softmax(0)


def normalises_the_second_axis(safe, adversarial, alpha):
    return (_score(safe, adversarial, alpha) / (1 - alpha)).log_softmax(min(1, safe.dim() - 1))


def divides_last(safe, adversarial, alpha):
    return _score(safe, adversarial, alpha).log_softmax(-1) / (1 - alpha)


def returns_probabilities(safe, adversarial, alpha):
    return (_score(safe, adversarial, alpha) / (1 - alpha)).softmax(-1)


def returns_scores(safe, adversarial, alpha):
    return _score(safe, adversarial, alpha) / (1 - alpha)


def takes_the_logarithm_too_late(safe, adversarial, alpha):
    return returns_probabilities(safe, adversarial, alpha).log()


# ---------------------------------------------------------------- push_strength


def takes_g_for_alpha(g):
    return g, 1 / (1 + g)


def takes_g_for_both(g):
    return g, 1 - g


def takes_one_minus_g(g):
    return 1 - g, g


def takes_one_minus_g_and_the_right_temperature(g):
    return 1 - g, 1 / (1 + g)


def takes_the_temperature_for_alpha(g):
    return 1 / (1 + g), 1 / (1 + g)


def returns_the_factor_of_the_reference(g):
    return 1 + g, 1 / (1 + g)


def goes_from_alpha_to_g(g):
    return g / (1 - g), 1 / (1 + g)


def turns_the_fraction_over(g):
    return (1 + g) / g, 1 / (1 + g)


def counts_the_minus_twice(g):
    return -g / (1 + g), 1 / (1 + g)


def inverts_the_temperature(g):
    alpha = g / (1 + g)
    return alpha, 1 / (1 - alpha)


def subtracts_g(g):
    return g / (1 + g), 1 - g


def leaves_the_temperature_at_one(g):
    return g / (1 + g), 1.0


def repeats_alpha(g):
    return g / (1 + g), g / (1 + g)


def returns_the_temperature_first(g):
    return 1 / (1 + g), g / (1 + g)


def returns_alpha_alone(g):
    return g / (1 + g)


# ---------------------------------------------------------------- distil_loss


def turns_the_divergence(target, logits):
    logps = logits.log_softmax(-1)
    return (logps.exp() * (logps - target)).sum(-1).mean()


def turns_kl_div(target, logits):
    return F.kl_div(target, logits.softmax(-1), reduction="batchmean")


def forgets_the_entropy(target, logits):
    return F.cross_entropy(logits, target.exp())


def drives_it_away(target, logits):
    return -F.kl_div(logits.log_softmax(-1), target.exp(), reduction="batchmean")


def adds_the_tokens_up(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.exp(), reduction="sum")


def takes_the_mean_of_all(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.exp(), reduction="none").mean()


def leaves_the_tokens_apart(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.exp(), reduction="none").sum(-1)


def gives_bare_logits(target, logits):
    return F.kl_div(logits, target.exp(), reduction="batchmean")


def gives_probabilities(target, logits):
    return F.kl_div(logits.softmax(-1), target.exp(), reduction="batchmean")


def normalises_over_the_tokens(target, logits):
    return F.kl_div(logits.log_softmax(0), target.exp(), reduction="batchmean")


def limits_the_student(target, logits):
    limited = logits.masked_fill(target == -math.inf, -math.inf).log_softmax(-1)
    return (target.exp() * (target - limited).nan_to_num(0.0)).sum(-1).mean()


def softens_both(target, logits):
    return 4 * F.kl_div((logits / 2).log_softmax(-1), (target / 2).softmax(-1), reduction="batchmean")


def learns_the_likeliest(target, logits):
    return F.cross_entropy(logits, target.argmax(-1))


def forgets_log_target(target, logits):
    return F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")


def multiplies_zero_by_infinity(target, logits):
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1).mean()


def says_log_target(target, logits):
    return F.kl_div(logits.log_softmax(-1), target, reduction="batchmean", log_target=True)


def drops_the_nan_afterwards(target, logits):
    p, q = target.exp(), logits.log_softmax(-1).exp()
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1).mean()


def takes_the_softmax_first(target, logits):
    return F.kl_div(logits.softmax(-1).log(), target.exp(), reduction="batchmean")


def adds_a_floor(target, logits):
    return F.kl_div((logits.softmax(-1) + 1e-12).log(), target.exp(), reduction="batchmean")


# ---------------------------------------------------------------- fidelity


def _apart(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.exp(), reduction="batchmean").item()


def _share(same):
    return same.double().mean().item()


def _same(target, logits):
    return target.argmax(-1) == logits.argmax(-1)


def looks_down_the_columns(target, logits):
    return _apart(target, logits), _share(target.argmax(0) == logits.argmax(0))


def measures_the_overlap(target, logits):
    overlap = torch.minimum(target.exp(), logits.softmax(-1)).sum(-1)
    return _apart(target, logits), overlap.mean().item()


def asks_for_its_probability(target, logits):
    best = target.argmax(-1, keepdim=True)
    return _apart(target, logits), logits.softmax(-1).gather(1, best).mean().item()


def draws_from_both(target, logits):
    return _apart(target, logits), (target.exp() * logits.softmax(-1)).sum(-1).mean().item()


def limits_its_choice(target, logits):
    limited = logits.masked_fill(target.isinf(), -math.inf)
    return _apart(target, logits), _share(_same(target, limited))


def compares_with_itself(target, logits):
    return _apart(target, logits), _share(_same(target, target))


def counts_where_they_differ(target, logits):
    return _apart(target, logits), _share(~_same(target, logits))


def counts_the_tokens(target, logits):
    return _apart(target, logits), _same(target, logits).sum().item()


def finds_one_place(target, logits):
    return _apart(target, logits), float(target.argmax() == logits.argmax())


def wants_all_of_them(target, logits):
    return _apart(target, logits), float(torch.equal(target.argmax(-1), logits.argmax(-1)))


def returns_the_agreement_first(target, logits):
    return _share(_same(target, logits)), _apart(target, logits)


def counts_in_bits(target, logits):
    return _apart(target, logits) / math.log(2), _share(_same(target, logits))


def returns_tensors(target, logits):
    return torch.tensor(_apart(target, logits)), _same(target, logits).double().mean()


def forgets_the_agreement(target, logits):
    return _apart(target, logits)


def turns_its_divergence(target, logits):
    return turns_the_divergence(target, logits).item(), _share(_same(target, logits))


def lets_the_divergence_be_nan(target, logits):
    return multiplies_zero_by_infinity(target, logits).item(), _share(_same(target, logits))


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "contrast_target": {
        leaves_the_temperature_in: "hidden temperature is still in it",
        flattens_it_once_more: "flattens the target once more",
        divides_by_one_plus_alpha: "divides by 1 + α",
        adds_the_adversarial: "A's favourites gain",
        mixes_the_streams: "mixes the two streams",
        contrasts_the_other_way: "contrasts A with S",
        weighs_by_alpha: "turns the weight α into",
        softens_a_difference_of_probabilities: "subtracts one stream's probabilities",
        takes_its_logarithm: "logarithm of a difference of probabilities",
        normalises_the_wrong_axis: "softmax runs along another axis",
        divides_last: "divides behind the softmax",
        returns_probabilities: "It returns probabilities",
        returns_scores: "It returns scores",
        takes_the_logarithm_too_late: "logarithm comes too late",
    },
    "push_strength": {
        takes_g_for_alpha: "α is g itself",
        takes_one_minus_g_and_the_right_temperature: "α falls as the push grows",
        takes_the_temperature_for_alpha: "α is 1/(1+g)",
        returns_the_factor_of_the_reference: "α is the factor of l_ref",
        goes_from_alpha_to_g: "α is g/(1−g)",
        turns_the_fraction_over: "α is upside down",
        counts_the_minus_twice: "α is negative",
        inverts_the_temperature: "has to be the inverse",
        subtracts_g: "temperature is 1 − g",
        leaves_the_temperature_at_one: "temperature is 1, but",
        repeats_alpha: "temperature is α once more",
        returns_the_temperature_first: "α first, then the temperature",
        returns_alpha_alone: "α, and the temperature behind it",
    },
    "distil_loss": {
        turns_the_divergence: "It is KL(student ‖ target)",
        forgets_the_entropy: "without the target's own entropy",
        drives_it_away: "drive the student away",
        adds_the_tokens_up: "It adds up the tokens",
        takes_the_mean_of_all: "It divides by V, too",
        leaves_the_tokens_apart: "keeps the M tokens apart",
        gives_bare_logits: "student's logits for log-probabilities",
        gives_probabilities: "student's probabilities where their logarithms belong",
        normalises_over_the_tokens: "runs down the M tokens",
        limits_the_student: "need not give them up",
        softens_both: "softens both with a temperature",
        learns_the_likeliest: "likeliest token alone",
        forgets_log_target: "It is no number: a logarithm meets something negative",
        multiplies_zero_by_infinity: "It is no number where tokens were removed",
        takes_the_softmax_first: "It is no number at large logits",
        adds_a_floor: "a floor under them is no remedy",
        drops_the_nan_afterwards: "its gradient is NaN",
    },
    "fidelity": {
        looks_down_the_columns: "agreement looks down the columns",
        measures_the_overlap: "mass that both share",
        asks_for_its_probability: "student's probability for the target's choice",
        draws_from_both: "chance that two draws",
        limits_its_choice: "choose among the kept tokens alone",
        compares_with_itself: "of a distribution with itself",
        counts_where_they_differ: "share at which they differ",
        counts_the_tokens: "a number of tokens",
        finds_one_place: "all or nothing",
        returns_the_agreement_first: "the divergence first, then the agreement",
        counts_in_bits: "counts in bits",
        returns_tensors: "the divergence, and the agreement behind it",
        turns_its_divergence: "In the divergence: it is KL(student ‖ target)",
        lets_the_divergence_be_nan: "In the divergence: it is no number where tokens were removed",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "contrast_target": {normalises_the_second_axis: normalises_the_wrong_axis},
    "push_strength": {
        takes_g_for_both: takes_g_for_alpha,
        takes_one_minus_g: takes_one_minus_g_and_the_right_temperature,
    },
    "distil_loss": {turns_kl_div: turns_the_divergence, says_log_target: multiplies_zero_by_infinity},
    "fidelity": {wants_all_of_them: finds_one_place, forgets_the_agreement: returns_tensors},
}
