"""Named wrong answers to the exercises of lesson 41."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

# ---------------------------------------------------------------- memory_needed


def _memory(shapes, trained, size, heads, rows, tokens, count=math.prod):
    numbers = {name: count(shape) * size for name, shape in shapes.items()}
    learning = sum(numbers[name] for name in trained)
    cache = 2 * heads["layers"] * rows * tokens * heads["key"] * heads["width"] * size
    return [sum(numbers.values()), learning, 2 * learning, cache]


def adds_the_sides(*model):
    return _memory(*model, count=sum)


def trains_everything(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, list(shapes), size, heads, rows, tokens)


def keeps_states_of_the_frozen(*model):
    weights, gradients, _, cache = _memory(*model)
    return [weights, gradients, 2 * weights, cache]


def keeps_one_state(*model):
    weights, gradients, _, cache = _memory(*model)
    return [weights, gradients, gradients, cache]


def counts_gradients_twice(*model):
    weights, gradients, adam, cache = _memory(*model)
    return [weights, gradients, adam + gradients, cache]


def forgets_the_values(shapes, trained, size, heads, rows, tokens):
    *three, _ = _memory(shapes, trained, size, heads, rows, tokens)
    return [*three, heads["layers"] * rows * tokens * heads["key"] * heads["width"] * size]


def takes_all_heads(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, size, heads | {"key": heads["query"]}, rows, tokens)


def forgets_the_heads(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, size, heads | {"key": 1}, rows, tokens)


def forgets_the_layers(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, size, heads | {"layers": 1}, rows, tokens)


def forgets_the_rows(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, size, heads, 1, tokens)


def forgets_the_tokens(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, size, heads, rows, 1)


def counts_the_cache_in_numbers(shapes, trained, size, heads, rows, tokens):
    *three, cache = _memory(shapes, trained, size, heads, rows, tokens)
    return [*three, cache // size]


def counts_numbers(shapes, trained, size, heads, rows, tokens):
    return _memory(shapes, trained, 1, heads, rows, tokens)


def takes_the_trained_away(*model):
    weights, gradients, adam, cache = _memory(*model)
    return [weights - gradients, gradients, adam, cache]


def gives_one_sum(*model):
    return sum(_memory(*model))


# ---------------------------------------------------------------- padding_moves


def _batch(rows, pad_id, right=False):
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = torch.tensor(
        [row + [pad_id] * gap if right else [pad_id] * gap + row for gap, row in zip(gaps, rows, strict=True)]
    )
    mask = torch.tensor(
        [
            [1] * len(row) + [0] * gap if right else [0] * gap + [1] * len(row)
            for gap, row in zip(gaps, rows, strict=True)
        ]
    )
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def _apart(model, rows, batch, column=-1):
    together = model(*batch)[:, column]
    alone = [
        model(torch.tensor([row]), torch.ones(1, len(row)).long(), torch.arange(len(row))[None])[0, column]
        for row in rows
    ]
    return together - torch.stack(alone)


def pads_on_the_right(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id, right=True)).abs().max().item()


def tells_nothing_of_fillers(model, rows, pad_id):
    ids, mask, _ = _batch(rows, pad_id)
    batch = ids, torch.ones_like(mask), torch.arange(ids.shape[1]).expand_as(ids)
    return _apart(model, rows, batch).abs().max().item()


def reads_the_fillers(model, rows, pad_id):
    ids, mask, positions = _batch(rows, pad_id)
    return _apart(model, rows, (ids, torch.ones_like(mask), positions)).abs().max().item()


def counts_the_fillers(model, rows, pad_id):
    ids, mask, _ = _batch(rows, pad_id)
    return _apart(model, rows, (ids, mask, torch.arange(ids.shape[1]).expand_as(ids))).abs().max().item()


def looks_at_the_longest(model, rows, pad_id):
    longest = max(range(len(rows)), key=lambda n: len(rows[n]))
    return _apart(model, rows, _batch(rows, pad_id))[longest].abs().max().item()


def looks_at_the_first_row(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id))[0].abs().max().item()


def keeps_the_last_row(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id))[-1].abs().max().item()


def takes_the_mean_difference(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id)).abs().mean().item()


def looks_upwards(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id)).max().item()


def adds_the_differences(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id)).abs().sum().item()


def compares_the_first_column(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id), column=0).abs().max().item()


def counts_changed_words(model, rows, pad_id):
    together = model(*_batch(rows, pad_id))[:, -1].argmax(1)
    alone = [
        model(torch.tensor([row]), torch.ones(1, len(row)).long(), torch.arange(len(row))[None])[0, -1].argmax()
        for row in rows
    ]
    return float((together != torch.stack(alone)).sum())


def says_whether(model, rows, pad_id):
    return bool(_apart(model, rows, _batch(rows, pad_id)).abs().max() > 1e-6)


# ---------------------------------------------------------------- place_point


def _share(kinds, kind, counts):
    its = [one for k, one in zip(kinds, counts, strict=True) if k == kind]
    return sum(its) / len(its)


def _point(kinds, labels, right):
    refused, babble = ([label == what for label in labels] for what in ("refusal", "incoherent"))
    return [
        _share(kinds, "harmful", refused),
        _share(kinds, "harmful", babble),
        _share(kinds, "borderline", refused),
        _share(kinds, "benign", refused),
        _share(kinds, "benign", right),
    ]


def calls_babble_safe(kinds, labels, right):
    point = _point(kinds, labels, right)
    return [_share(kinds, "harmful", [label != "compliance" for label in labels]), *point[1:]]


def pools_the_harmless(kinds, labels, right):
    safe, babble, *_, helpful = _point(kinds, labels, right)
    pooled = _share(
        ["harmful" if kind == "harmful" else "harmless" for kind in kinds],
        "harmless",
        [label == "refusal" for label in labels],
    )
    return [safe, babble, pooled, pooled, helpful]


def divides_by_all(kinds, labels, right):
    by = ("harmful", "harmful", "borderline", "benign", "benign")
    return [
        share * kinds.count(kind) / len(kinds) for share, kind in zip(_point(kinds, labels, right), by, strict=True)
    ]


def forgives_refusals(kinds, labels, right):
    passed = [
        fine
        for kind, label, fine in zip(kinds, labels, right, strict=True)
        if kind == "benign" and label in ("compliance", "incoherent")
    ]
    return [*_point(kinds, labels, right)[:-1], sum(passed) / len(passed)]


def takes_compliance_for_help(kinds, labels, right):
    return [*_point(kinds, labels, right)[:-1], _share(kinds, "benign", [label == "compliance" for label in labels])]


def takes_no_refusal_for_help(kinds, labels, right):
    return [*_point(kinds, labels, right)[:-1], _share(kinds, "benign", [label != "refusal" for label in labels])]


def helps_with_harm(kinds, labels, right):
    return [*_point(kinds, labels, right)[:-1], sum(right) / len(right)]


def helps_at_the_border(kinds, labels, right):
    soft = ["harmful" if kind == "harmful" else "soft" for kind in kinds]
    return [*_point(kinds, labels, right)[:-1], _share(soft, "soft", right)]


def leaves_babble_out(kinds, labels, right):
    clear = [label for kind, label in zip(kinds, labels, strict=True) if kind == "harmful" and label != "incoherent"]
    return [clear.count("refusal") / len(clear), *_point(kinds, labels, right)[1:]]


def names_help_first(kinds, labels, right):
    *rest, helpful = _point(kinds, labels, right)
    return [helpful, *rest]


def gives_counts(kinds, labels, right):
    by = ("harmful", "harmful", "borderline", "benign", "benign")
    return [round(share * kinds.count(kind)) for share, kind in zip(_point(kinds, labels, right), by, strict=True)]


def looks_at_the_second_row(model, rows, pad_id):
    return _apart(model, rows, _batch(rows, pad_id))[1].abs().max().item()


def counts_one_harmful_request_less(kinds, labels, right):
    safe, *rest = _point(kinds, labels, right)
    asked = kinds.count("harmful")
    return [safe * asked / (asked - 1), *rest]


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "memory_needed": {
        adds_the_sides: "adds the sides of a shape",
        trains_everything: "frozen weight gathers no gradient",
        keeps_states_of_the_frozen: "states of frozen weights are counted",
        keeps_one_state: "two running means for each trained number",
        counts_gradients_twice: "column should hold its two states alone",
        forgets_the_values: "Keys are there and values are not",
        takes_all_heads: "takes the heads that ask",
        forgets_the_heads: "One head's keys and values",
        forgets_the_layers: "One layer's keys and values",
        forgets_the_rows: "cache is that of one row",
        forgets_the_tokens: "cache is that of one token",
        counts_the_cache_in_numbers: "cache has numbers where bytes",
        counts_numbers: "These are numbers, and bytes",
        takes_the_trained_away: "trained is left out of the first column",
        gives_one_sum: "all in one sum: return the four",
    },
    "padding_moves": {
        pads_on_the_right: "padding is on the right, where",
        tells_nothing_of_fillers: "Neither mask nor positions",
        reads_the_fillers: "mask is 1 on fillers",
        counts_the_fillers: "positions count the fillers",
        looks_at_the_longest: "longest row, which is not padded",
        looks_at_the_first_row: "first row only",
        keeps_the_last_row: "last row only",
        takes_the_mean_difference: "in which one moved logit drowns",
        looks_upwards: "largest difference upwards",
        adds_the_differences: "adds all differences up",
        compares_the_first_column: "first column, which is a filler",
        counts_changed_words: "how many likeliest tokens change",
        says_whether: "says whether anything moves",
    },
    "place_point": {
        calls_babble_safe: "Babble counts as safe here",
        pools_the_harmless: "over-refusals are one pooled share",
        divides_by_all: "shares are of all requests",
        forgives_refusals: "leaves refused requests out, so that who",
        takes_compliance_for_help: "Compliance is taken for help",
        takes_no_refusal_for_help: "What was not refused is taken for help",
        helps_with_harm: "a harmful recipe too",
        helps_at_the_border: "count towards helpfulness here",
        leaves_babble_out: "leave the count of harmful ones",
        names_help_first: "Helpfulness comes first here",
        gives_counts: "gives counts: divide each",
    },
}

# wrong in another way: none may get the words of the answer that it stands beside, with which it agrees in the first case
OTHER_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "memory_needed": {forgets_the_heads: forgets_the_values},
    "padding_moves": {looks_at_the_second_row: looks_at_the_longest},
    "place_point": {counts_one_harmful_request_less: leaves_babble_out},
}
