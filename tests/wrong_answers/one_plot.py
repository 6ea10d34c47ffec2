"""Wrong answers to the exercises of lesson 40."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from statistics import mean
from typing import Any

import numpy as np

from safealign_lab.measures import cluster_bootstrap

# ---------------------------------------------------------------- not_beaten


def _good(points, directions):
    return {name: [d * v for d, v in zip(directions, at, strict=True)] for name, at in points.items()}


def _beats(one, other):
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def _kept(good):
    return [name for name, mine in good.items() if not any(_beats(other, mine) for other in good.values())]


def lets_each_beat_itself(points, directions):
    good = _good(points, directions)
    return [
        name
        for name, mine in good.items()
        if not any(all(a >= b for a, b in zip(other, mine, strict=True)) for other in good.values())
    ]


def keeps_all(points, directions):
    return list(points)


def keeps_the_beaten(points, directions):
    good = _good(points, directions)
    return [name for name, mine in good.items() if any(_beats(other, mine) for other in good.values())]


def forgets_the_directions(points, directions):
    return _kept({name: list(at) for name, at in points.items()})


def turns_the_directions(points, directions):
    return _kept(_good(points, [-d for d in directions]))


def asks_for_better_everywhere(points, directions):
    good = _good(points, directions)
    return [
        name
        for name, mine in good.items()
        if not any(all(a > b for a, b in zip(other, mine, strict=True)) for other in good.values())
    ]


def drops_both_at_one_place(points, directions):
    good = _good(points, directions)
    return [
        name
        for name, mine in good.items()
        if not any(
            name != rival and all(a >= b for a, b in zip(other, mine, strict=True)) for rival, other in good.items()
        )
    ]


def keeps_one_at_a_place(points, directions):
    kept, places = [], []
    for name in _kept(_good(points, directions)):
        if points[name] not in places:
            kept.append(name)
            places.append(points[name])
    return kept


def adds_the_axes(points, directions):
    sums = {name: sum(at) for name, at in _good(points, directions).items()}
    return [name for name, total in sums.items() if total == max(sums.values())]


def keeps_champions(points, directions):
    good = _good(points, directions)
    best = [max(column) for column in zip(*good.values(), strict=True)]
    return [name for name, mine in good.items() if any(a == b for a, b in zip(mine, best, strict=True))]


def looks_at_two_axes(points, directions):
    return _kept(_good({name: at[:2] for name, at in points.items()}, directions[:2]))


def looks_at_the_last_axis(points, directions):
    good = _good(points, directions)
    best = max(mine[-1] for mine in good.values())
    return [name for name, mine in good.items() if mine[-1] == best]


def lets_each_beat_that_is_better_once(points, directions):
    good = _good(points, directions)
    return [
        name
        for name, mine in good.items()
        if not any(any(a > b for a, b in zip(other, mine, strict=True)) for other in good.values())
    ]


# four that do what no sentence says: each is shown a name, and told no mistake


def beats_by_the_majority(points, directions):
    def wins(one, other):
        return sum((a > b) - (a < b) for a, b in zip(one, other, strict=True)) > 0

    good = _good(points, directions)
    return [name for name, mine in good.items() if not any(wins(other, mine) for other in good.values())]


def looks_at_those_before(points, directions):
    good = _good(points, directions)
    names = list(good)
    return [name for n, name in enumerate(names) if not any(_beats(good[other], good[name]) for other in names[:n])]


def looks_at_safety_and_use(points, directions):
    more = [axis for axis, sign in enumerate(directions) if sign > 0]
    return _kept({name: [at[axis] for axis in more] for name, at in points.items()})


def keeps_one_champion_of_each_axis(points, directions):
    good = _good(points, directions)
    return list({max(good, key=lambda name: good[name][axis]) for axis in range(len(directions))})


def returns_places(points, directions):
    return [points[name] for name in _kept(_good(points, directions))]


def returns_a_dictionary(points, directions):
    return {name: points[name] for name in _kept(_good(points, directions))}


def names_them_twice(points, directions):
    return _kept(_good(points, directions)) * 2


def loses_the_first(points, directions):
    return _kept(_good(points, directions))[1:]


# ---------------------------------------------------------------- told_apart


def _gaps(first, second):
    return [b - a for a, b in zip(first, second, strict=True)]


def _leaves_0_out(interval):
    return interval.low > 0 or interval.high < 0


def always_says_no(first, second, groups):
    return False


def always_says_yes(first, second, groups):
    return True


def compares_the_means(first, second, groups):
    return mean(first) != mean(second)


def looks_for_overlap(first, second, groups):
    one, other = (cluster_bootstrap(values, groups) for values in (first, second))
    return one.high < other.low or other.high < one.low


def draws_each_by_itself(first, second, groups):
    rng, names = np.random.default_rng(0), np.unique(groups)
    places = np.array([np.asarray(groups) == name for name in names], dtype=float)  # (G, N)

    def drawn(values):
        picked = rng.integers(len(names), size=(500, len(names)))  # (R, G)
        return (places @ values)[picked].sum(1) / places.sum(1)[picked].sum(1)  # (R,)

    low, high = np.quantile(drawn(second) - drawn(first), [0.025, 0.975])
    return bool(low > 0 or high < 0)


def draws_single_requests(first, second, groups):
    return _leaves_0_out(cluster_bootstrap(_gaps(first, second), [str(n) for n in range(len(first))]))


def sees_gains_only(first, second, groups):
    return cluster_bootstrap(_gaps(first, second), groups).low > 0


def sees_losses_only(first, second, groups):
    return cluster_bootstrap(_gaps(first, second), groups).high < 0


def turns_the_verdict(first, second, groups):
    return not _leaves_0_out(cluster_bootstrap(_gaps(first, second), groups))


def keeps_every_draw(first, second, groups):
    return _leaves_0_out(cluster_bootstrap(_gaps(first, second), groups, confidence=0.9995, resamples=6000))


def takes_one_standard_error(first, second, groups):
    return _leaves_0_out(cluster_bootstrap(_gaps(first, second), groups, confidence=0.68))


def returns_the_interval(first, second, groups):
    return cluster_bootstrap(_gaps(first, second), groups)


def asks_for_a_large_difference(first, second, groups):
    return abs(mean(_gaps(first, second))) > 0.1


def asks_for_a_larger_difference(first, second, groups):
    return abs(mean(_gaps(first, second))) > 0.5


def asks_for_a_hundredth(first, second, groups):
    return abs(mean(_gaps(first, second))) > 0.01


def asks_for_a_large_gain(first, second, groups):
    return mean(second) - mean(first) > 0.2


def compares_with_the_spread(first, second, groups):
    gaps = _gaps(first, second)
    return bool(abs(mean(gaps)) > 1.96 * np.std(gaps))


def takes_ninety_nine_per_cent(first, second, groups):
    return _leaves_0_out(cluster_bootstrap(_gaps(first, second), groups, confidence=0.99))


def takes_eighty_per_cent(first, second, groups):
    return _leaves_0_out(cluster_bootstrap(_gaps(first, second), groups, confidence=0.8))


def asks_for_both_ends(first, second, groups):
    interval = cluster_bootstrap(_gaps(first, second), groups)
    return interval.low > 0 and interval.high < 0


def takes_sizes_of_differences(first, second, groups):
    return _leaves_0_out(cluster_bootstrap([abs(gap) for gap in _gaps(first, second)], groups))


def asks_whether_one_mean_is_in_the_others_interval(first, second, groups):
    interval = cluster_bootstrap(first, groups)
    return not interval.low <= mean(second) <= interval.high


# ---------------------------------------------------------------- effect


def _signed(cells, parts):
    return sum(value * prod(1 if there[part] else -1 for part in parts) for there, value in cells.items())


def turns_the_sign(cells, parts):
    return sum(
        value * -prod(1 if there[part] else -1 for part in parts) for there, value in cells.items()
    ) * 2 / len(cells)  # fmt: skip


def divides_by_all_cells(cells, parts):
    return _signed(cells, parts) / len(cells)


def gives_the_sum(cells, parts):
    return _signed(cells, parts)


def never_subtracts(cells, parts):
    return sum(cells.values()) * 2 / len(cells)


def starts_from_nothing(cells, parts):
    size = len(next(iter(cells)))
    return cells[tuple(n in parts for n in range(size))] - cells[(False,) * size]


def takes_it_out_of_everything(cells, parts):
    size = len(next(iter(cells)))
    return cells[(True,) * size] - cells[tuple(n not in parts for n in range(size))]


def compares_all_there_with_the_rest(cells, parts):
    there = [value for key, value in cells.items() if all(key[part] for part in parts)]
    rest = [value for key, value in cells.items() if not all(key[part] for part in parts)]
    return mean(there) - mean(rest)


def counts_any(cells, parts):
    return sum(value * (1 if any(there[p] for p in parts) else -1) for there, value in cells.items()) * 2 / len(cells)


def adds_the_mains(cells, parts):
    return sum(_signed(cells, (part,)) * 2 / len(cells) for part in parts)


def multiplies_the_mains(cells, parts):
    return prod(_signed(cells, (part,)) * 2 / len(cells) for part in parts)


def takes_the_first_part(cells, parts):
    return _signed(cells, parts[:1]) * 2 / len(cells)


def stays_where_the_others_are_absent(cells, parts):
    kept = {key: v for key, v in cells.items() if not any(on for n, on in enumerate(key) if n not in parts)}
    return _signed(kept, parts) * 2 / len(kept)


def takes_the_corner_for_interactions(cells, parts):
    if len(parts) == 1:
        return _signed(cells, parts) * 2 / len(cells)
    return stays_where_the_others_are_absent(cells, parts)


def does_not_halve(cells, parts):
    return _signed(cells, parts) * 2 / len(cells) * 2 ** (len(parts) - 1)


def forgets_the_last_cell(cells, parts):
    return _signed(dict(list(cells.items())[:-1]), parts) * 2 / len(cells)


# ---------------------------------------------------------------- expected_loss


def _bad(harmful, costs):
    return costs["harm"] * harmful["answered"] + costs["broken"] * harmful["broken"]


def _nice(harmless, costs):
    return costs["refusal"] * harmless["refused"] + costs["broken"] * harmless["broken"]


def _loss(bad, nice, share):
    return 1000 * (share * bad + (1 - share) * nice)


def gives_the_loss_of_one(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), _nice(harmless, costs), share) / 1000


def gives_the_loss_of_a_hundred(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), _nice(harmless, costs), share) / 10


def forgets_the_share(harmful, harmless, share, costs):
    return 1000 * (_bad(harmful, costs) + _nice(harmless, costs))


def takes_half_of_each(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), _nice(harmless, costs), 0.5)


def swaps_the_shares(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), _nice(harmless, costs), 1 - share)


def counts_the_harmless_in_full(harmful, harmless, share, costs):
    return 1000 * (share * _bad(harmful, costs) + _nice(harmless, costs))


def forgets_the_harmless(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), 0, share)


def forgets_the_harmful(harmful, harmless, share, costs):
    return _loss(0, _nice(harmless, costs), share)


def calls_broken_a_harm(harmful, harmless, share, costs):
    return _loss(costs["harm"] * (1 - harmful["refused"]), _nice(harmless, costs), share)


def bills_a_refusal_as_harm(harmful, harmless, share, costs):
    bad = costs["harm"] * harmful["refused"] + costs["broken"] * harmful["broken"]
    return _loss(bad, _nice(harmless, costs), share)


def bills_the_wanted_refusals(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs) + costs["refusal"] * harmful["refused"], _nice(harmless, costs), share)


def forgets_what_is_broken(harmful, harmless, share, costs):
    return _loss(costs["harm"] * harmful["answered"], costs["refusal"] * harmless["refused"], share)


def forgets_the_broken_harmful(harmful, harmless, share, costs):
    return _loss(costs["harm"] * harmful["answered"], _nice(harmless, costs), share)


def forgets_the_broken_harmless(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), costs["refusal"] * harmless["refused"], share)


def calls_broken_a_refusal(harmful, harmless, share, costs):
    return _loss(_bad(harmful, costs), costs["refusal"] * (1 - harmless["answered"]), share)


def bills_the_wanted_answers(harmful, harmless, share, costs):
    nice = costs["refusal"] * harmless["answered"] + costs["broken"] * harmless["broken"]
    return _loss(_bad(harmful, costs), nice, share)


def swaps_the_costs(harmful, harmless, share, costs):
    other = costs | {"harm": costs["refusal"], "refusal": costs["harm"]}
    return _loss(_bad(harmful, other), _nice(harmless, other), share)


def gives_a_gain(harmful, harmless, share, costs):
    return -_loss(_bad(harmful, costs), _nice(harmless, costs), share)


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "not_beaten": {
        lets_each_beat_itself: "To beat takes two things at once",
        keeps_all: "All of them stay",
        keeps_the_beaten: "It returns the beaten ones",
        forgets_the_directions: "does not look at `directions`",
        turns_the_directions: "turns every direction around",
        asks_for_better_everywhere: "strictly better on *every* axis",
        drops_both_at_one_place: "at the same place beat each other",
        keeps_one_at_a_place: "at the same place it keeps one",
        adds_the_axes: "adds the axes up",
        keeps_champions: "champions of each single axis",
        looks_at_two_axes: "at the first two axes only",
        looks_at_the_last_axis: "at the last axis only",
        returns_places: "returns (0.0, 1.0, 0.1) as one of the entries",
        returns_a_dictionary: "returned a dict: make it a list of names.",
        names_them_twice: "One name is there twice",
        loses_the_first: "It drops 'none' at (0.0, 1.0, 0.1)",
        keeps_one_champion_of_each_axis: "It drops 'SP' at",
        looks_at_those_before: "It keeps 'gate' at",
    },
    "told_apart": {
        always_says_no: "It always says no here",
        compares_with_the_spread: "as wide as the single differences spread",
        asks_whether_one_mean_is_in_the_others_interval: "In the case 'most requests are hard or easy for both",
        always_says_yes: "It always says yes",
        compares_the_means: "whether the means of the two are different",
        looks_for_overlap: "two separate intervals overlap",
        draws_each_by_itself: "It does not pair",
        draws_single_requests: "It draws single requests",
        sees_gains_only: "It sees a gain only",
        sees_losses_only: "It sees a loss only",
        turns_the_verdict: "It is turned around: they can be told apart",
        keeps_every_draw: "holds every draw",
        takes_one_standard_error: "one standard error to each side",
        returns_the_interval: "say True where the two can be told apart",
        asks_for_a_large_difference: "as if it compared the difference of the means with a fixed number",
    },
    "effect": {
        turns_the_sign: "what is there is plus",
        divides_by_all_cells: "It is half of the effect",
        gives_the_sum: "It gives the signed sum",
        never_subtracts: "adds where it has to subtract",
        starts_from_nothing: "where all other parts are absent. A main",
        takes_it_out_of_everything: "where all other parts are there. A main",
        compares_all_there_with_the_rest: "have all these parts with all the rest",
        counts_any: "wherever any of the parts is there",
        adds_the_mains: "adds up the effects of the single parts",
        multiplies_the_mains: "multiplies the effects of the single parts",
        takes_the_first_part: "the effect of the first part alone",
        takes_the_corner_for_interactions: "in which the other parts are absent",
        does_not_halve: "difference of differences whole",
        forgets_the_last_cell: "For a design of 3 parts and parts = (0,)",
    },
    "expected_loss": {
        gives_the_loss_of_one: "loss of one request",
        gives_the_loss_of_a_hundred: "loss of a hundred requests",
        forgets_the_share: "as if each were all of the requests",
        takes_half_of_each: "takes half of each kind",
        swaps_the_shares: "The shares are swapped",
        counts_the_harmless_in_full: "harmless requests count in full",
        forgets_the_harmless: "The harmless requests are forgotten",
        forgets_the_harmful: "harmful requests are forgotten: each",
        calls_broken_a_harm: "counts as harm: it is no refusal",
        bills_a_refusal_as_harm: "billed as a harm",
        bills_the_wanted_refusals: "A refused *harmful* request is billed, too",
        forgets_what_is_broken: "Broken answers cost nothing in it",
        forgets_the_broken_harmful: "Broken answers to harmful requests are forgotten",
        forgets_the_broken_harmless: "Broken answers to harmless requests are forgotten",
        calls_broken_a_refusal: "harmless request is billed as a refusal",
        bills_the_wanted_answers: "harmless request that is answered is billed",
        swaps_the_costs: "costs of a harm and of a refusal are swapped",
        gives_a_gain: "takes a gain for a loss",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "not_beaten": {
        lets_each_beat_that_is_better_once: lets_each_beat_itself,
        looks_at_safety_and_use: looks_at_those_before,
        beats_by_the_majority: loses_the_first,
    },
    "told_apart": {
        asks_for_a_larger_difference: asks_for_a_large_difference,
        asks_for_a_hundredth: asks_for_a_large_difference,
        asks_for_a_large_gain: asks_for_a_large_difference,
        takes_ninety_nine_per_cent: keeps_every_draw,
        takes_eighty_per_cent: takes_one_standard_error,
        asks_for_both_ends: always_says_no,
        takes_sizes_of_differences: always_says_yes,
    },
    "effect": {stays_where_the_others_are_absent: starts_from_nothing},
}
