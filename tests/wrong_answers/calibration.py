"""Wrong answers to the exercise of lesson 10 on calibration."""

from __future__ import annotations

import torch


def _binned(sure, right, bins):
    for place in range(bins):
        inside = (sure > place / bins) & (sure <= (place + 1) / bins)
        if inside.any():
            yield inside.float().mean(), right[inside].mean(), sure[inside].mean()


def _seen(probabilities, labels):
    sure, guesses = probabilities.max(1)
    return sure, (guesses == labels).float()


def counts_every_bin_alike(probabilities, labels, bins):
    gaps = [abs(done - said) for _, done, said in _binned(*_seen(probabilities, labels), bins)]
    return sum(gaps) / len(gaps)


def lets_the_gaps_cancel(probabilities, labels, bins):
    return abs(sum(share * (done - said) for share, done, said in _binned(*_seen(probabilities, labels), bins)))


def has_no_bins(probabilities, labels, bins):
    sure, right = _seen(probabilities, labels)
    return (right - sure).abs().mean()


def takes_the_largest_gap(probabilities, labels, bins):
    return max(abs(done - said) for _, done, said in _binned(*_seen(probabilities, labels), bins))


def squares_the_gaps(probabilities, labels, bins):
    return sum(share * (done - said) ** 2 for share, done, said in _binned(*_seen(probabilities, labels), bins))


def asks_how_sure_of_the_label(probabilities, labels, bins):
    _, right = _seen(probabilities, labels)
    sure = probabilities.gather(1, labels[:, None]).squeeze(1)
    return sum(share * abs(done - said) for share, done, said in _binned(sure, right, bins))


def asks_how_sure_of_class_one(probabilities, labels, bins):
    _, right = _seen(probabilities, labels)
    return sum(share * abs(done - said) for share, done, said in _binned(probabilities[:, 1], right, bins))


def compares_with_the_middle_of_the_bin(probabilities, labels, bins):
    sure, right = _seen(probabilities, labels)
    gaps = torch.zeros(bins)
    for place in range(bins):
        inside = (sure > place / bins) & (sure <= (place + 1) / bins)
        if inside.any():
            gaps[place] = inside.float().mean() * abs(right[inside].mean() - (place + 0.5) / bins)
    return gaps.sum()


def forgets_the_number(probabilities, labels, bins):
    return len(labels) * sum(
        share * abs(done - said) for share, done, said in _binned(*_seen(probabilities, labels), bins)
    )


def _counted_where(inside, probabilities, labels, bins):
    sure, right = _seen(probabilities, labels)
    places = [inside(sure, place / bins, (place + 1) / bins) for place in range(bins)]
    return sum((right[one] - sure[one]).sum().abs() for one in places) / len(labels)


def leaves_the_upper_ends_out(probabilities, labels, bins):
    return _counted_where(lambda sure, low, high: (sure >= low) & (sure < high), probabilities, labels, bins)


def counts_the_ends_twice(probabilities, labels, bins):
    return _counted_where(lambda sure, low, high: (sure >= low) & (sure <= high), probabilities, labels, bins)


def leaves_both_ends_out(probabilities, labels, bins):
    return _counted_where(lambda sure, low, high: (sure > low) & (sure < high), probabilities, labels, bins)


def rounds_down(probabilities, labels, bins):
    sure, right = _seen(probabilities, labels)
    places = (sure * bins).long().clamp(max=bins - 1)
    return float(torch.zeros(bins).index_add(0, places, right - sure).abs().sum() / len(labels))


WRONG_ANSWERS = {
    "calibration_error": {
        counts_every_bin_alike: "counts by the share",
        lets_the_gaps_cancel: "cancel out",
        has_no_bins: "no bins",
        takes_the_largest_gap: "largest gap",
        squares_the_gaps: "squares the gaps",
        asks_how_sure_of_the_label: "of the *right* class",
        asks_how_sure_of_class_one: "class 1",
        compares_with_the_middle_of_the_bin: "middle of the bin",
        forgets_the_number: "divide by their number",
        leaves_the_upper_ends_out: "counts in the bin above",
        counts_the_ends_twice: "counts in two bins",
        leaves_both_ends_out: "counts in no bin",
    }
}
SAME_MISTAKE = {"calibration_error": {rounds_down: leaves_the_upper_ends_out}}
