"""Wrong answers to the exercises of lesson 20."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


def adds_the_adversarial_stream(safe_logits, adversarial_logits, alpha):
    return safe_logits + alpha * adversarial_logits


def swaps_the_streams(safe_logits, adversarial_logits, alpha):
    return adversarial_logits - alpha * safe_logits


def subtracts_all_of_it(safe_logits, adversarial_logits, alpha):
    return safe_logits - adversarial_logits


def averages_the_streams(safe_logits, adversarial_logits, alpha):
    return (1 - alpha) * safe_logits + alpha * adversarial_logits


def subtracts_probabilities(safe_logits, adversarial_logits, alpha):
    return safe_logits.softmax(-1) - alpha * adversarial_logits.softmax(-1)


def divides_already(safe_logits, adversarial_logits, alpha):
    return (safe_logits - alpha * adversarial_logits) / (1 - alpha)


def keeps_alpha_below_one(safe_logits, adversarial_logits, alpha):
    return safe_logits - min(alpha, 1.0) * adversarial_logits


def takes_no_alpha_for_one(safe_logits, adversarial_logits, alpha):
    return safe_logits - (alpha or 1.0) * adversarial_logits


def works_in_place(safe_logits, adversarial_logits, alpha):
    safe_logits -= alpha * adversarial_logits
    return safe_logits


def does_not_divide(safe_logits, adversarial_logits, alpha):
    return safe_logits - alpha * adversarial_logits


def takes_alpha_for_the_weight(safe_logits, adversarial_logits, alpha):
    return (1 + alpha) * safe_logits - alpha * adversarial_logits


def multiplies_by_the_rest(safe_logits, adversarial_logits, alpha):
    return (1 - alpha) * (safe_logits - alpha * adversarial_logits)


def forgets_the_one(safe_logits, adversarial_logits, alpha):
    weight = alpha / (1 - alpha)
    return weight * safe_logits - weight * adversarial_logits


def guides_the_other_way(safe_logits, adversarial_logits, alpha):
    return divides_already(adversarial_logits, safe_logits, alpha)


def takes_any_strength(safe_logits, adversarial_logits, alpha):
    if alpha == 1:
        return safe_logits
    return divides_already(safe_logits, adversarial_logits, alpha)


def divides_by_nothing(safe_logits, adversarial_logits, alpha):
    return (1 / (1 - alpha)) * (safe_logits - alpha * adversarial_logits)


def takes_a_negative_strength(safe_logits, adversarial_logits, alpha):
    if alpha >= 1:
        raise ValueError("alpha must be below 1")
    return divides_already(safe_logits, adversarial_logits, alpha)


def divides_from_a_half_on(safe_logits, adversarial_logits, alpha):
    return divides_already(safe_logits, adversarial_logits, alpha) * (1.0 if alpha >= 0.5 else 1 - alpha)


def takes_the_threshold_itself(safe_logits, threshold):
    return safe_logits.softmax(-1) >= threshold


def keeps_the_implausible(safe_logits, threshold):
    p = safe_logits.softmax(-1)
    return p < threshold * p.amax(-1, keepdim=True)


def takes_a_share_of_the_logit(safe_logits, threshold):
    return safe_logits >= threshold * safe_logits.amax(-1, keepdim=True)


def leaves_the_likeliest_out(safe_logits, threshold):
    p = safe_logits.softmax(-1)
    return p > threshold * p.amax(-1, keepdim=True)


def takes_the_batchs_largest(safe_logits, threshold):
    p = safe_logits.softmax(-1)
    return p >= threshold * p.max()


def returns_probabilities(safe_logits, threshold):
    p = safe_logits.softmax(-1)
    return p * (p >= threshold * p.amax(-1, keepdim=True))


def keeps_every_token(safe_logits, threshold):
    return torch.ones_like(safe_logits, dtype=torch.bool)


def takes_the_logarithm_of_nothing(safe_logits, threshold):
    return safe_logits >= safe_logits.amax(-1, keepdim=True) + math.log(threshold)


def _padded(rows, pad_id, left=True, keep=None):
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap, text = [pad_id] * (width - len(row)), [1] * len(row)
        ids.append(gap + row if left else row + gap)
        mask.append([0] * len(gap) + text if left else text + [0] * len(gap))
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def pads_on_the_right(rows, pad_id):
    return _padded(rows, pad_id, left=False)


def reads_the_padding(rows, pad_id):
    ids, _, positions = _padded(rows, pad_id)
    return ids, torch.ones_like(ids), positions


def masks_by_the_id(rows, pad_id):
    ids, _, positions = _padded(rows, pad_id)
    return ids, (ids != pad_id).long(), positions


def turns_the_mask_around(rows, pad_id):
    ids, mask, positions = _padded(rows, pad_id)
    return ids, 1 - mask, positions


def counts_the_padding(rows, pad_id):
    ids, mask, _ = _padded(rows, pad_id)
    return ids, mask, torch.arange(ids.shape[1]).repeat(len(rows), 1)


def counts_from_one(rows, pad_id):
    ids, mask, _ = _padded(rows, pad_id)
    return ids, mask, mask.cumsum(1)


def leaves_positions_negative(rows, pad_id):
    ids, mask, _ = _padded(rows, pad_id)
    return ids, mask, mask.cumsum(1) - 1


def fills_with_zero(rows, pad_id):
    return _padded(rows, 0)


def returns_lists(rows, pad_id):
    return tuple(table.tolist() for table in _padded(rows, pad_id))


def _loop(
    model, ids, mask, places, alpha, threshold, end, most, *, sign=-1.0, limited=True, both=True, row=0, keep_end=False,
    stop=True, padded=False, moving=True, masked=True,
):  # fmt: skip
    said = []
    while len(said) < most:
        logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -1]
        scores = logits[row] + sign * alpha * logits[1 - row]
        if limited:
            p = logits[row].softmax(-1)
            out = p < threshold * p.max()
            scores = scores.masked_fill(out, -math.inf) if masked else scores * ~out
        token = int(scores.argmax())
        if token == end and stop:
            return [*said, token] if keep_end else said
        said.append(token)
        new = torch.full((2, 1), token)
        seen = torch.ones(2, 1, dtype=torch.long)
        if not both:
            seen[1] = 0
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, seen], 1)
        last = torch.full((2, 1), ids.shape[1] - 1) if padded else places[:, -1:] + int(moving)
        places = torch.cat([places, last], 1)
    return said


def keeps_the_end(*inputs):
    return _loop(*inputs, keep_end=True)


def runs_past_the_end(*inputs):
    return _loop(*inputs, stop=False)


def lets_every_token_win(*inputs):
    return _loop(*inputs, limited=False)


def follows_the_safe_stream_alone(*inputs):
    return _loop(*inputs, sign=0.0)


def follows_the_adversarial_row(*inputs):
    return _loop(*inputs, row=1)


def adds_in_the_loop(*inputs):
    return _loop(*inputs, sign=1.0)


def makes_one_token(*inputs):
    return _loop(*inputs[:-1], 1)


def makes_one_too_many(*inputs):
    return _loop(*inputs[:-1], inputs[-1] + 1)


def counts_the_padding_in_the_answer(*inputs):
    return _loop(*inputs, padded=True)


def stands_still(*inputs):
    return _loop(*inputs, moving=False)


def multiplies_by_the_mask(*inputs):
    return _loop(*inputs, masked=False)


def never_grows(model, ids, mask, places, alpha, threshold, end, most):
    said = []
    while len(said) >= 0:
        logits = model(input_ids=ids, attention_mask=mask, position_ids=places).logits[:, -1]
        if int(logits[0].argmax()) == -1:
            return said


def returns_a_tensor(*inputs):
    return torch.tensor(_loop(*inputs))


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "acd": {
        adds_the_adversarial_stream: "sign is turned around",
        swaps_the_streams: "α times the safe stream",
        subtracts_all_of_it: "subtracts all of A",
        averages_the_streams: "It averages",
        subtracts_probabilities: "subtracts probabilities",
        divides_already: "the guided form",
        keeps_alpha_below_one: "For alpha = 1.5: It gives",
        takes_no_alpha_for_one: "For alpha = 0.0: It gives",
        works_in_place: "changes its input `safe_logits`",
    },
    "guided": {
        does_not_divide: "ACD as printed",
        takes_alpha_for_the_weight: "α itself for the weight",
        multiplies_by_the_rest: "has to divide",
        forgets_the_one: "has to be 1 + w",
        guides_the_other_way: "the safe one carries the factor",
        takes_any_strength: "It takes α = 1",
        takes_a_negative_strength: "It takes a negative α",
        divides_by_nothing: "It divides by nothing at α = 1",
    },
    "plausible": {
        takes_the_threshold_itself: "*share of the largest* probability",
        keeps_the_implausible: "turn the comparison around",
        takes_a_share_of_the_logit: "logits are logarithms",
        leaves_the_likeliest_out: "leaves the likeliest token out",
        takes_the_batchs_largest: "row by row",
        returns_probabilities: "expected True and False",
        takes_the_logarithm_of_nothing: "math domain error",
        keeps_every_token: "For threshold = 0.3: It gives 1",
    },
    "left_pad": {
        pads_on_the_right: "pads on the right",
        reads_the_padding: "1 on the padding too",
        masks_by_the_id: "made of the ids",
        turns_the_mask_around: "mask is turned around",
        counts_the_padding: "a row starts at 0",
        counts_from_one: "start at 1",
        leaves_positions_negative: "are negative",
        fills_with_zero: "[[5, 2, 7], [9]], input_ids",
        returns_lists: "expected a tensor",
    },
    "contrast_loop": {
        keeps_the_end: "end token is part of its answer",
        runs_past_the_end: "does not stop at the end token",
        lets_every_token_win: "forgets the plausible tokens",
        follows_the_safe_stream_alone: "follows the safe stream alone",
        follows_the_adversarial_row: "follows the adversarial row",
        adds_in_the_loop: "adds the adversarial stream",
        makes_one_token: "one token only",
        makes_one_too_many: "one token too many",
        counts_the_padding_in_the_answer: "of new tokens count the padding",
        stands_still: "stand still",
        multiplies_by_the_mask: "returned 9 entries",
        never_grows: "did not come to an end",
        returns_a_tensor: "expected a list",
    },
}

# wrong in another way: it may not get the words of the answer that it stands beside, with which it agrees in the first case
OTHER_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "guided": {divides_from_a_half_on: does_not_divide}
}
