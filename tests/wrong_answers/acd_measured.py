"""Wrong answers to the exercises of lesson 22."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

# ---------------------------------------------------------------- refusal_margins


def _split(scores, refusing):
    """The columns of the refusing tokens, and those of the others."""
    inside = torch.zeros(scores.shape[1], dtype=torch.bool)
    inside[refusing] = True
    return scores[:, refusing], scores[:, ~inside]


def compares_with_all_tokens(scores, refusing):
    return scores[:, refusing].amax(1) - scores.amax(1)


def leaves_out_the_best_alone(scores, refusing):
    rest = scores.clone()
    for row in rest:
        row[max(refusing, key=lambda token: float(row[token]))] = -math.inf
    return scores[:, refusing].amax(1) - rest.amax(1)


def compares_with_the_runner_up(scores, refusing):
    def margin(row):
        order = row.argsort(descending=True).tolist()
        best = next(token for token in order if token in refusing)
        return row[best] - row[next(token for token in order if token != best)]

    return torch.stack([margin(row) for row in scores])


def subtracts_the_refusal(scores, refusing):
    no, yes = _split(scores, refusing)
    return yes.amax(1) - no.amax(1)


def averages_the_refusing(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.mean(1) - yes.amax(1)


def averages_the_others(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.amax(1) - yes.mean(1)


def averages_both(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.mean(1) - yes.mean(1)


def adds_both_up(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.sum(1) - yes.sum(1)


def subtracts_the_best_probabilities(scores, refusing):
    no, yes = _split(scores.softmax(1), refusing)
    return no.amax(1) - yes.amax(1)


def subtracts_the_shares(scores, refusing):
    refused = scores.softmax(1)[:, refusing].sum(1)
    return refused - (1 - refused)


def takes_the_log_odds(scores, refusing):
    refused = scores.double().softmax(1)[:, refusing].sum(1)
    return (refused / (1 - refused)).log().float()


def takes_two_logsumexps(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.logsumexp(1) - yes.logsumexp(1)


def takes_the_first_refusing(scores, refusing):
    return scores[:, refusing[0]] - _split(scores, refusing)[1].amax(1)


def keeps_the_last_of_a_loop(scores, refusing):
    for token in refusing:
        best = scores[:, token]
    return best - _split(scores, refusing)[1].amax(1)


def multiplies_by_the_marks(scores, refusing):
    marks = torch.zeros(scores.shape[1])
    marks[refusing] = 1
    return (scores * marks).amax(1) - (scores * (1 - marks)).amax(1)


def fills_with_zeros(scores, refusing):
    inside = torch.zeros(scores.shape[1], dtype=torch.bool)
    inside[refusing] = True
    return scores.masked_fill(~inside, 0).amax(1) - scores.masked_fill(inside, 0).amax(1)


def goes_down_the_requests(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.amax(0) - yes.amax(0)


def takes_the_batchs_best_other(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.amax(1) - yes.max()


def takes_the_batchs_best_refusing(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.max() - yes.amax(1)


def subtracts_nothing(scores, refusing):
    return scores[:, refusing].amax(1)


def gives_one_margin_for_all(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.max() - yes.max()


def says_whether_it_refuses(scores, refusing):
    no, yes = _split(scores, refusing)
    return no.amax(1) > yes.amax(1)


def blots_the_scores_out(scores, refusing):
    best = scores[:, refusing].amax(1)
    scores[:, refusing] = -math.inf
    return best - scores.amax(1)


# ---------------------------------------------------------------- price


def _refused(margins, threshold):
    return (margins >= threshold).float().mean().item()


def _highest(margins, place):
    return margins.sort(descending=True).values[place]


def _wanted(margins, safety):
    return math.ceil(safety * len(margins) - 1e-9)


def stays_at_zero(harmful, harmless, safety):
    return _refused(harmless, 0)


def passes_over_the_equal(harmful, harmless, safety):
    threshold = _highest(harmful, _wanted(harmful, safety) - 1)
    return (harmless > threshold).float().mean().item()


def rounds_the_number_down(harmful, harmless, safety):
    return _refused(harmless, _highest(harmful, int(safety * len(harmful)) - 1))


def rounds_to_the_nearest(harmful, harmless, safety):
    return _refused(harmless, _highest(harmful, round(safety * len(harmful)) - 1))


def counts_places_from_one(harmful, harmless, safety):
    return _refused(harmless, _highest(harmful, _wanted(harmful, safety)))


def asks_for_more_than_the_safety(harmful, harmless, safety):
    return _refused(harmless, max(one for one in harmful if (harmful >= one).double().mean() > safety))


def compares_a_rounded_share(harmful, harmless, safety):
    return _refused(harmless, max(one for one in harmful if _refused(harmful, one) >= safety))


def takes_the_lowest_threshold(harmful, harmless, safety):
    return _refused(harmless, min(one for one in harmful if (harmful >= one).double().mean() >= safety))


def takes_what_is_left_of_one(harmful, harmless, safety):
    return _refused(harmless, _highest(harmful, math.ceil((1 - safety) * len(harmful) - 1e-9) - 1))


def takes_the_upper_quantile(harmful, harmless, safety):
    return _refused(harmless, harmful.quantile(safety))


def sorts_upwards(harmful, harmless, safety):
    return _refused(harmless, harmful.sort().values[_wanted(harmful, safety) - 1])


def interpolates(harmful, harmless, safety):
    return _refused(harmless, harmful.quantile(1 - safety))


def takes_the_quantile_above(harmful, harmless, safety):
    return _refused(harmless, harmful.quantile(1 - safety, interpolation="higher"))


def takes_the_quantile_below(harmful, harmless, safety):
    return _refused(harmless, harmful.quantile(1 - safety, interpolation="lower"))


def sets_the_threshold_by_the_harmless(harmful, harmless, safety):
    return _refused(harmless, _highest(harmless, _wanted(harmless, safety) - 1))


def swaps_harmful_and_harmless(harmful, harmless, safety):
    return _refused(harmful, _highest(harmless, _wanted(harmless, safety) - 1))


def returns_the_safety_reached(harmful, harmless, safety):
    return _refused(harmful, _highest(harmful, _wanted(harmful, safety) - 1))


def counts_the_answered(harmful, harmless, safety):
    return (harmless < _highest(harmful, _wanted(harmful, safety) - 1)).float().mean().item()


def returns_the_threshold(harmful, harmless, safety):
    return _highest(harmful, _wanted(harmful, safety) - 1).item()


def returns_how_many(harmful, harmless, safety):
    return float((harmless >= _highest(harmful, _wanted(harmful, safety) - 1)).sum())


def returns_a_hundredfold(harmful, harmless, safety):
    return 100 * _refused(harmless, _highest(harmful, _wanted(harmful, safety) - 1))


def divides_by_all(harmful, harmless, safety):
    refused = (harmless >= _highest(harmful, _wanted(harmful, safety) - 1)).sum().item()
    return refused / (len(harmful) + len(harmless))


def counts_everyone(harmful, harmless, safety):
    return _refused(torch.cat([harmful, harmless]), _highest(harmful, _wanted(harmful, safety) - 1))


# six that no sentence describes: each is shown a number, and told no mistake


def takes_the_median(harmful, harmless, safety):
    return _refused(harmless, harmful.median())


def takes_the_safety_for_a_threshold(harmful, harmless, safety):
    return _refused(harmless, safety)


def divides_the_range(harmful, harmless, safety):
    return _refused(harmless, harmful.min() + (1 - safety) * (harmful.max() - harmful.min()))


def forgets_to_sort(harmful, harmless, safety):
    return _refused(harmless, harmful[_wanted(harmful, safety) - 1])


def returns_the_safety(harmful, harmless, safety):
    return safety


def refuses_nothing(harmful, harmless, safety):
    return 0.0


def refuses_everything(harmful, harmless, safety):
    return 1.0


def returns_a_tensor_of_one(harmful, harmless, safety):
    return (harmless >= _highest(harmful, _wanted(harmful, safety) - 1)).float().mean()


def sorts_its_input(harmful, harmless, safety):
    harmful[:] = harmful.sort(descending=True).values
    return _refused(harmless, harmful[_wanted(harmful, safety) - 1])


def asks_for_just_the_safety(harmful, harmless, safety):
    return _refused(harmless, next(one for one in harmful if (harmful >= one).double().mean() == safety))


# ---------------------------------------------------------------- undominated


def _left(points, beats, others=True):
    """From the safest on, the names that no other beats, where `beats` takes two points."""
    kept = [
        name
        for name, own in points.items()
        if not any(beats(point, own) for other, point in points.items() if other != name or not others)
    ]
    return sorted(kept, key=points.get, reverse=True)


def _as_good(one, own):
    return one[0] >= own[0] and one[1] <= own[1]


def _beats(one, own):
    return _as_good(one, own) and one != own


def lets_each_beat_itself(points):
    return _left(points, _as_good, others=False)


def beats_by_one_thing(points):
    return _left(points, lambda one, own: one[0] > own[0] or one[1] < own[1])


def keeps_everything(points):
    return sorted(points, key=points.get, reverse=True)


def keeps_the_beaten(points):
    kept = _left(points, _beats)
    return [name for name in points if name not in kept]


def keeps_the_winners(points):
    return [name for name, own in points.items() if any(_beats(own, point) for point in points.values())]


def asks_for_better_in_both(points):
    return _left(points, lambda one, own: one[0] > own[0] and one[1] < own[1])


def drops_both_of_a_tie(points):
    return _left(points, _as_good)


def keeps_one_of_a_tie(points):
    first = {point: name for name, point in reversed(points.items())}
    return _left({name: point for point, name in first.items()}, _beats)


def likes_a_high_price(points):
    return _left(points, lambda one, own: one[0] >= own[0] and one[1] >= own[1] and one != own)


def likes_a_low_safety(points):
    return _left(points, lambda one, own: one[0] <= own[0] and one[1] <= own[1] and one != own)


def takes_the_price_for_the_first(points):
    return _left(points, lambda one, own: one[1] >= own[1] and one[0] <= own[0] and one != own)


def takes_the_best_ratio(points):
    return [max(points, key=lambda name: points[name][0] / points[name][1])]


def takes_the_best_difference(points):
    return [max(points, key=lambda name: points[name][0] - points[name][1])]


def forgets_equal_prices(points):
    return _left(points, lambda one, own: one[0] >= own[0] and one[1] < own[1])


def forgets_equal_safeties(points):
    return _left(points, lambda one, own: one[0] > own[0] and one[1] <= own[1])


def stops_at_the_first_dearer(points):
    names = sorted(points, key=lambda name: (-points[name][0], points[name][1]))
    kept = names[:1]
    for name in names[1:]:
        if points[name][1] > points[kept[-1]][1]:
            break
        kept.append(name)
    return [name for name in kept if name in _left(points, _beats)]


def begins_with_the_cheapest(points):
    return _left(points, _beats)[::-1]


def keeps_the_order_of_the_dictionary(points):
    kept = _left(points, _beats)
    return [name for name in points if name in kept]


def sorts_by_name(points):
    return sorted(_left(points, _beats))


def returns_a_set(points):
    return set(_left(points, _beats))


def returns_names_and_points(points):
    return [(name, points[name]) for name in _left(points, _beats)]


def names_one_twice(points):
    kept = _left(points, _beats)
    return [kept[0], *kept]


def deletes_the_beaten(points):
    for name in [name for name in points if name not in _left(points, _beats)]:
        del points[name]
    return sorted(points, key=points.get, reverse=True)


# ---------------------------------------------------------------- difference


def _around(first, second, down, up):
    d = second.value - first.value
    return d, d - down, d + up


def _sides(one):
    return one.value - one.low, one.high - one.value


def subtracts_the_second(first, second):
    return _newcombe(second, first)


def _newcombe(first, second):
    (below, above), (first_below, first_above) = _sides(second), _sides(first)
    return _around(first, second, math.hypot(below, first_above), math.hypot(above, first_below))


def turns_the_difference_alone(first, second):
    d, low, high = _newcombe(first, second)
    return -d, low, high


def starts_from_the_wrong_difference(first, second):
    d, low, high = _newcombe(first, second)
    return -d, -d - (d - low), -d + (high - d)


def pairs_like_with_like(first, second):
    (below, above), (first_below, first_above) = _sides(second), _sides(first)
    return _around(first, second, math.hypot(below, first_below), math.hypot(above, first_above))


def swaps_the_distances(first, second):
    (below, above), (first_below, first_above) = _sides(second), _sides(first)
    return _around(first, second, math.hypot(above, first_below), math.hypot(below, first_above))


def subtracts_the_extremes(first, second):
    return second.value - first.value, second.low - first.high, second.high - first.low


def adds_the_distances(first, second):
    (below, above), (first_below, first_above) = _sides(second), _sides(first)
    return _around(first, second, below + first_above, above + first_below)


def subtracts_limit_by_limit(first, second):
    return second.value - first.value, second.low - first.low, second.high - first.high


def halves_the_widths(first, second):
    side = math.hypot((first.high - first.low) / 2, (second.high - second.low) / 2)
    return _around(first, second, side, side)


def adds_the_half_widths(first, second):
    side = (first.high - first.low + second.high - second.low) / 2
    return _around(first, second, side, side)


def forgets_the_root(first, second):
    d, low, high = _newcombe(first, second)
    return d, d - (d - low) ** 2, d + (high - d) ** 2


def forgets_the_squares(first, second):
    (below, above), (first_below, first_above) = _sides(second), _sides(first)
    return _around(first, second, (below + first_above) ** 0.5, (above + first_below) ** 0.5)


def takes_the_textbooks(first, second):
    side = 1.96 * sum(one.value * (1 - one.value) / one.n for one in (first, second)) ** 0.5
    return _around(first, second, side, side)


def pools_the_samples(first, second):
    p = (first.successes + second.successes) / (first.n + second.n)
    side = 1.96 * (p * (1 - p) * (1 / first.n + 1 / second.n)) ** 0.5
    return _around(first, second, side, side)


def returns_the_distances(first, second):
    d, low, high = _newcombe(first, second)
    return d, d - low, high - d


def puts_the_difference_between(first, second):
    return tuple(sorted(_newcombe(first, second)))


def swaps_the_ends(first, second):
    d, low, high = _newcombe(first, second)
    return d, high, low


def returns_the_interval_alone(first, second):
    return _newcombe(first, second)[1:]


def returns_a_text(first, second):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*_newcombe(first, second))


def divides_by_the_first(first, second):
    d, low, high = _newcombe(first, second)
    return d / first.value, low / first.value, high / first.value


# ---------------------------------------------------------------- slips


def _means(rows):
    return {name: sum(cells) / len(cells) for name, cells in rows.items()}


def _beyond(rows, printed, allowed):
    return {name: mean for name, mean in _means(rows).items() if abs(mean - printed[name]) > allowed + 1e-9}


def _true_slips(rows, printed, digits):
    return _beyond(rows, printed, 0.5 * 10**-digits)


def compares_floats(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if mean != printed[name]}


def calls_isclose(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if not math.isclose(mean, printed[name])}


def rounds_and_compares(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if round(mean, digits) != printed[name]}


def formats_and_compares(rows, printed, digits):
    def shown(number):
        return f"{number:.{digits}f}"

    return {name: mean for name, mean in _means(rows).items() if shown(mean) != shown(printed[name])}


def allows_a_whole_unit(rows, printed, digits):
    return _beyond(rows, printed, 10**-digits)


def forgives_no_float(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if abs(mean - printed[name]) > 0.5 * 10**-digits}


def counts_halfway_as_a_slip(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if abs(mean - printed[name]) >= 0.5 * 10**-digits}


def multiplies_the_tolerance(rows, printed, digits):
    return _beyond(rows, printed, 0.5 * 10**digits)


def ignores_the_digits(rows, printed, digits):
    return _beyond(rows, printed, 0.0005)


def counts_the_cells_digits(rows, printed, digits):
    return _beyond(rows, printed, 0.005)


def sees_the_low_only(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if mean - printed[name] > 0.5 * 10**-digits + 1e-9}


def sees_the_high_only(rows, printed, digits):
    return {name: mean for name, mean in _means(rows).items() if printed[name] - mean > 0.5 * 10**-digits + 1e-9}


def returns_the_right_ones(rows, printed, digits):
    found = _true_slips(rows, printed, digits)
    return {name: mean for name, mean in _means(rows).items() if name not in found}


def returns_every_mean(rows, printed, digits):
    return _means(rows)


def returns_the_printed(rows, printed, digits):
    return {name: printed[name] for name in _true_slips(rows, printed, digits)}


def returns_the_differences(rows, printed, digits):
    return {name: mean - printed[name] for name, mean in _true_slips(rows, printed, digits).items()}


def returns_the_distances_off(rows, printed, digits):
    return {name: abs(mean - printed[name]) for name, mean in _true_slips(rows, printed, digits).items()}


def rounds_what_it_returns(rows, printed, digits):
    return {name: round(mean, digits) for name, mean in _true_slips(rows, printed, digits).items()}


def takes_medians(rows, printed, digits):
    middles = {name: median(cells) for name, cells in rows.items()}
    return {name: one for name, one in middles.items() if abs(one - printed[name]) > 0.5 * 10**-digits + 1e-9}


def returns_medians(rows, printed, digits):
    return {name: median(rows[name]) for name in _true_slips(rows, printed, digits)}


def forgets_to_divide(rows, printed, digits):
    return _true_slips({name: (sum(cells),) for name, cells in rows.items()}, printed, digits)


def divides_by_the_rows(rows, printed, digits):
    return _true_slips({name: (sum(cells) / len(rows),) for name, cells in rows.items()}, printed, digits)


def goes_by_the_place(rows, printed, digits):
    pairs = zip(rows.items(), printed.values(), strict=True)
    return {
        name: sum(cells) / len(cells)
        for (name, cells), one in pairs
        if abs(sum(cells) / len(cells) - one) > 0.5 * 10**-digits + 1e-9
    }


def returns_the_names(rows, printed, digits):
    return list(_true_slips(rows, printed, digits))


def returns_pairs(rows, printed, digits):
    return {name: (mean, printed[name]) for name, mean in _true_slips(rows, printed, digits).items()}


def stops_at_the_first(rows, printed, digits):
    return dict(list(_true_slips(rows, printed, digits).items())[:1])


def cuts_the_digits_off(rows, printed, digits):
    return {
        name: mean
        for name, mean in _means(rows).items()
        if abs(math.floor(mean * 10**digits) / 10**digits - printed[name]) > 1e-9
    }


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "refusal_margins": {
        compares_with_all_tokens: "no margin is above 0",
        leaves_out_the_best_alone: "second refusing token counts among the others",
        subtracts_the_refusal: "above 0 where the refusal wins",
        averages_the_refusing: "mean of the refusing tokens",
        averages_the_others: "mean of the other tokens",
        averages_both: "It compares means",
        adds_both_up: "It compares sums",
        subtracts_the_best_probabilities: "It compares probabilities",
        subtracts_the_shares: "have together in probability",
        takes_two_logsumexps: "many weak tokens",
        takes_the_first_refusing: "at the first refusing token only",
        keeps_the_last_of_a_loop: "at the last refusing token only",
        multiplies_by_the_marks: "0 beats every negative score",
        goes_down_the_requests: "goes down the requests",
        takes_the_batchs_best_other: "best other token is that of the whole batch",
        takes_the_batchs_best_refusing: "best refusing token is that of the whole batch",
        subtracts_nothing: "best refusing score alone",
        gives_one_margin_for_all: "has the shape (), expected (3,)",
        says_whether_it_refuses: "holds True and False (torch.bool)",
        blots_the_scores_out: "changes its input `scores`",
    },
    "price": {
        stays_at_zero: "The threshold is 0",
        passes_over_the_equal: "A margin that reaches the threshold",
        rounds_the_number_down: "rounding their number up",
        counts_places_from_one: "one harmful request more",
        takes_the_lowest_threshold: "takes the lowest threshold",
        takes_what_is_left_of_one: "stood in the place of `safety`",
        takes_the_upper_quantile: "the quantile at `safety`",
        sorts_upwards: "from the lowest margin up",
        interpolates: "between two harmful margins",
        sets_the_threshold_by_the_harmless: "comes from the harmless margins",
        swaps_harmful_and_harmless: "harmful and harmless were swapped",
        returns_the_safety_reached: "share of *harmful* requests refused",
        counts_the_answered: "harmless requests that are answered",
        returns_the_threshold: "It returns the threshold",
        returns_how_many: "gives a number of requests",
        returns_a_hundredfold: "100 times the share",
        divides_by_all: "divides by all requests",
        counts_everyone: "counts harmful requests in",
        takes_the_median: "For 8 harmful requests, 40 harmless ones and safety = 0.75: It gives",
        returns_a_tensor_of_one: "takes the one number out of a tensor",
        sorts_its_input: "changes its input `harmful`",
        asks_for_just_the_safety: "raised StopIteration",
    },
    "undominated": {
        lets_each_beat_itself: "Nothing is left",
        keeps_everything: "It keeps every method",
        keeps_the_beaten: "keeps those that are beaten",
        keeps_the_winners: "beat some other",
        asks_for_better_in_both: "*strictly* better in both",
        drops_both_of_a_tie: "beat each other and both are gone",
        keeps_one_of_a_tie: "at the same point it keeps one",
        likes_a_high_price: "takes a high price for a good one",
        likes_a_low_safety: "takes a low safety for a good one",
        takes_the_price_for_the_first: "Both directions are turned around",
        takes_the_best_ratio: "by one number for each method",
        forgets_equal_prices: "It keeps 'filter' at (0.7, 0.2), which 'S'",
        forgets_equal_safeties: "It keeps 'keeper' at (0.9, 0.25), which 'S'",
        stops_at_the_first_dearer: "It drops 'none' at (0.2, 0.05)",
        begins_with_the_cheapest: "their order is not",
        returns_a_set: "returned a set: make it a list of names",
        returns_names_and_points: "expected names only",
        names_one_twice: "names a method twice",
        deletes_the_beaten: "changes its input `points`",
    },
    "difference": {
        subtracts_the_second: "subtracts the second share from the first",
        turns_the_difference_alone: "difference has the other sign",
        starts_from_the_wrong_difference: "from a difference with the wrong sign",
        pairs_like_with_like: "pairs the wrong limits",
        swaps_the_distances: "two distances are swapped",
        subtracts_the_extremes: "both shares were at their worst",
        subtracts_limit_by_limit: "lower from lower",
        halves_the_widths: "takes half of each interval's width",
        adds_the_half_widths: "adds half of each width",
        forgets_the_root: "The root is missing",
        forgets_the_squares: "squares under the root are missing",
        takes_the_textbooks: "the textbook's interval",
        pools_the_samples: "pools the two samples",
        returns_the_distances: "how far the interval goes to each side",
        puts_the_difference_between: "the difference first, then the lower end",
        swaps_the_ends: "ends of the interval are swapped",
        returns_the_interval_alone: "Return three numbers",
        divides_by_the_first: "For a first share of 12 in 60",
    },
    "slips": {
        compares_floats: "takes every rounding for a slip",
        rounds_and_compares: "It rounds and compares",
        allows_a_whole_unit: "allows a whole unit",
        forgives_no_float: "floats are not exact",
        multiplies_the_tolerance: "finds no slip at all",
        ignores_the_digits: "`digits` has no influence",
        sees_the_low_only: "printed too low",
        sees_the_high_only: "printed too high",
        returns_the_right_ones: "returns the means that are right",
        returns_every_mean: "It returns every mean",
        returns_the_printed: "returns what is printed",
        returns_the_differences: "how far the printed means are off: return",
        returns_the_distances_off: "as a size",
        rounds_what_it_returns: "rounds the means that it returns",
        takes_medians: "It takes medians",
        returns_medians: "returns their medians",
        forgets_to_divide: "does not divide",
        divides_by_the_rows: "divides by the number of rows",
        goes_by_the_place: "by their place",
        returns_the_names: "Return a dictionary",
        stops_at_the_first: "It lets 'just too low' pass",
        cuts_the_digits_off: "a mean of 0.3125 may well be printed as 0.313",
    },
}

# the same mistakes, written in other ways: each gets the words of the answer that it stands beside
SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "refusal_margins": {
        compares_with_the_runner_up: leaves_out_the_best_alone,
        takes_the_log_odds: takes_two_logsumexps,
        fills_with_zeros: multiplies_by_the_marks,
    },
    "price": {
        takes_the_safety_for_a_threshold: takes_the_median,
        divides_the_range: takes_the_median,
        forgets_to_sort: takes_the_median,
        returns_the_safety: takes_the_median,
        refuses_nothing: takes_the_median,
        refuses_everything: swaps_harmful_and_harmless,
        rounds_to_the_nearest: rounds_the_number_down,
        takes_the_quantile_above: rounds_the_number_down,
        takes_the_quantile_below: counts_places_from_one,
        asks_for_more_than_the_safety: counts_places_from_one,
        compares_a_rounded_share: counts_places_from_one,
    },
    "undominated": {
        beats_by_one_thing: lets_each_beat_itself,
        takes_the_best_difference: takes_the_best_ratio,
        keeps_the_order_of_the_dictionary: begins_with_the_cheapest,
        sorts_by_name: begins_with_the_cheapest,
    },
    "difference": {adds_the_distances: subtracts_the_extremes, returns_a_text: returns_the_interval_alone},
    "slips": {
        calls_isclose: compares_floats,
        counts_halfway_as_a_slip: forgives_no_float,
        formats_and_compares: rounds_and_compares,
        counts_the_cells_digits: ignores_the_digits,
        returns_pairs: returns_the_names,
    },
}
