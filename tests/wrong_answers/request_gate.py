"""Wrong answers to the exercises of lesson 13."""

from __future__ import annotations

import torch

# ---------------------------------------------------------------- log_odds


def turns_the_sign(logits):
    return logits[:, 0] - logits[:, 1]


def gives_a_probability(logits):
    return logits.softmax(dim=1)[:, 1]


def gives_the_other_probability(logits):
    return logits.softmax(dim=1)[:, 0]


def gives_a_log_probability(logits):
    return logits.log_softmax(dim=1)[:, 1]


def subtracts_probabilities(logits):
    return logits.softmax(dim=1)[:, 1] - logits.softmax(dim=1)[:, 0]


def takes_one_logit(logits):
    return logits[:, 1]


def loses_the_sign(logits):
    return (logits[:, 1] - logits[:, 0]).abs()


def gives_odds(logits):
    return (logits[:, 1] - logits[:, 0]).exp()


# ---------------------------------------------------------------- stopped_by_kind


def _by_kind(margins, kinds, share):
    pairs = list(zip(margins.tolist(), kinds, strict=True))
    return {kind: share([margin for margin, its in pairs if its == kind]) for kind in sorted(set(kinds))}


def stops_at_the_threshold(margins, kinds, threshold):
    return _by_kind(margins, kinds, lambda its: sum(one >= threshold for one in its) / len(its))


def counts_what_passes(margins, kinds, threshold):
    return _by_kind(margins, kinds, lambda its: sum(one <= threshold for one in its) / len(its))


def divides_by_all(margins, kinds, threshold):
    return _by_kind(margins, kinds, lambda its: sum(one > threshold for one in its) / len(kinds))


def asks_what_the_stopped_are(margins, kinds, threshold):
    return _by_kind(margins, kinds, lambda its: sum(one > threshold for one in its) / int((margins > threshold).sum()))


def counts_the_stopped(margins, kinds, threshold):
    return _by_kind(margins, kinds, lambda its: float(sum(one > threshold for one in its)))


def gives_all_the_same(margins, kinds, threshold):
    return dict.fromkeys(kinds, float((margins > threshold).float().mean()))


def gives_one_share(margins, kinds, threshold):
    return float((margins > threshold).float().mean())


# ---------------------------------------------------------------- ranked_right


def loses_equal_margins(harmful, harmless):
    return (harmful[:, None] > harmless).float().mean()


def wins_equal_margins(harmful, harmless):
    return (harmful[:, None] >= harmless).float().mean()


def swaps_the_two(harmful, harmless):
    return ((harmless[:, None] > harmful) + (harmless[:, None] == harmful) / 2).mean()


def counts_the_pairs(harmful, harmless):
    return ((harmful[:, None] > harmless) + (harmful[:, None] == harmless) / 2).sum()


def divides_by_all_requests(harmful, harmless):
    return counts_the_pairs(harmful, harmless) / (len(harmful) + len(harmless))


def decides_at_zero(harmful, harmless):
    return torch.cat([harmful > 0, harmless <= 0]).float().mean()


def subtracts_the_shares(harmful, harmless):
    return (harmful > 0).float().mean() - (harmless > 0).float().mean()


def compares_the_means(harmful, harmless):
    return float(harmful.mean() > harmless.mean())


def compares_in_order(harmful, harmless):
    both = min(len(harmful), len(harmless))
    return (harmful[:both] > harmless[:both]).float().mean()


# ---------------------------------------------------------------- lowest_threshold


def _place(harmless, most):
    return int(most * len(harmless) + 1e-9)


def stops_one_too_many(harmless, most):
    falling = harmless.sort(descending=True).values
    return float(falling[min(_place(harmless, most) + 1, len(falling) - 1)])


def stops_one_too_few(harmless, most):
    return float(harmless.sort(descending=True).values[max(_place(harmless, most) - 1, 0)])


def stops_nothing(harmless, most):
    return float(harmless.max())


def counts_from_below(harmless, most):
    return float(harmless.sort().values[_place(harmless, most)])


def takes_the_quantile(harmless, most):
    return float(harmless.quantile(1 - most))


def takes_the_other_quantile(harmless, most):
    return float(harmless.quantile(most))


def returns_the_share(harmless, most):
    return _place(harmless, most) / len(harmless)


def returns_the_number(harmless, most):
    return float(_place(harmless, most))


# ---------------------------------------------------------------- out_of_fold


def fits_on_everything(fit, features, labels, folds):
    return fit(features, labels)(features)


def fits_on_the_fold_itself(fit, features, labels, folds):
    scores = torch.empty(len(features))
    for fold in folds.unique():
        own = folds == fold
        scores[own] = fit(features[own], labels[own])(features[own])
    return scores


def leaves_out_the_request_alone(fit, features, labels, folds):
    scores = []
    for number in range(len(features)):
        others = torch.arange(len(features)) != number
        scores.append(fit(features[others], labels[others])(features[number : number + 1]))
    return torch.cat(scores)


def puts_fold_after_fold(fit, features, labels, folds):
    parts = [folds == fold for fold in folds.unique()]
    return torch.cat([fit(features[~own], labels[~own])(features[own]) for own in parts])


def asks_one_teacher(fit, features, labels, folds):
    first = folds == folds.min()
    return fit(features[~first], labels[~first])(features)


def forgets_the_last_fold(fit, features, labels, folds):
    scores = torch.zeros(len(features))
    for fold in range(int(folds.max())):
        own = folds == fold
        scores[own] = fit(features[~own], labels[~own])(features[own])
    return scores


WRONG_ANSWERS = {
    "log_odds": {
        turns_the_sign: "a margin grows with the *harmful* one",
        gives_a_probability: "It returns a probability: its log-odds",
        gives_the_other_probability: "the probability of being harmless",
        gives_a_log_probability: "a logarithm of one probability",
        subtracts_probabilities: "the difference of two probabilities",
        takes_one_logit: "the harmful logit alone",
        loses_the_sign: "whichever way: the sign",
        gives_odds: "Odds, where their logarithm",
    },
    "stopped_by_kind": {
        stops_at_the_threshold: "right at the threshold passes",
        counts_what_passes: "the shares that pass",
        divides_by_all: "by the number of all requests",
        asks_what_the_stopped_are: "of which kinds the stopped ones are",
        counts_the_stopped: "counts the stopped ones",
        gives_all_the_same: "Every kind has the same share",
        gives_one_share: "over-refusal has a kind",
    },
    "ranked_right": {
        loses_equal_margins: "count as lost",
        wins_equal_margins: "count as won",
        swaps_the_two: "ought to have the larger margin",
        counts_the_pairs: "counts the pairs",
        divides_by_all_requests: "divides by N + M",
        decides_at_zero: "right decisions",
        subtracts_the_shares: "difference of the two shares",
        compares_the_means: "two means",
        compares_in_order: "first with first",
    },
    "lowest_threshold": {
        stops_one_too_many: "One request too many",
        stops_one_too_few: "A lower threshold",
        stops_nothing: "stops nothing",
        counts_from_below: "from the top",
        takes_the_quantile: "between two margins",
        takes_the_other_quantile: "all but",
        returns_the_share: "a threshold, in nats, is asked for",
        returns_the_number: "asked for is a margin",
    },
    "out_of_fold": {
        fits_on_everything: "has seen what it is asked about",
        fits_on_the_fold_itself: "asks it about the same fold",
        leaves_out_the_request_alone: "a twin in there gives the label away",
        puts_fold_after_fold: "in the order of the folds",
        asks_one_teacher: "One teacher answers for all",
        forgets_the_last_fold: "The last fold has no scores",
    },
}
