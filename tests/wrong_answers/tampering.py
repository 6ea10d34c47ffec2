"""Wrong answers to the exercises of lesson 33."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

# ---------------------------------------------------------------- first_break


def forgets_the_use(steps, refusals, useful):
    return next((s for s, r in zip(steps, refusals, strict=True) if r < 0.5), math.inf)


def looks_at_use_alone(steps, refusals, useful):
    return next((s for s, u in zip(steps, useful, strict=True) if u > 0.7), math.inf)


def _ruined(useful):
    return useful[0] <= 0.7


def lets_the_half_count(steps, refusals, useful):
    if _ruined(useful):
        return 0
    points = zip(steps, refusals, useful, strict=True)
    return next((s for s, r, u in points if r <= 0.5 and u > 0.7), math.inf)


def lets_the_line_of_use_count(steps, refusals, useful):
    if _ruined(useful):
        return 0
    points = zip(steps, refusals, useful, strict=True)
    return next((s for s, r, u in points if r < 0.5 and u >= 0.7), math.inf)


def _broken(steps, refusals, useful):
    return [s for s, r, u in zip(steps, refusals, useful, strict=True) if r < 0.5 and u > 0.7]


def counts_points(steps, refusals, useful):
    if _ruined(useful):
        return 0
    broken = _broken(steps, refusals, useful)
    return steps.index(broken[0]) if broken else math.inf


def takes_the_last_break(steps, refusals, useful):
    return 0 if _ruined(useful) else max(_broken(steps, refusals, useful), default=math.inf)


def asks_for_a_lasting_break(steps, refusals, useful):
    if _ruined(useful):
        return 0
    found = math.inf
    for s, r, u in reversed(list(zip(steps, refusals, useful, strict=True))):
        if not (r < 0.5 and u > 0.7):
            break
        found = s
    return found


def returns_the_step_before(steps, refusals, useful):
    if _ruined(useful):
        return 0
    broken = _broken(steps, refusals, useful)
    return steps[max(steps.index(broken[0]) - 1, 0)] if broken else math.inf


def stops_at_the_end_of_the_run(steps, refusals, useful):
    return 0 if _ruined(useful) else min(_broken(steps, refusals, useful), default=steps[-1])


def spares_the_defender(steps, refusals, useful):
    return min(_broken(steps, refusals, useful), default=math.inf)


# ---------------------------------------------------------------- most_gained


def _points(runs):
    return [point for run in runs for point in zip(*run, strict=True)]


def _so_far(runs, step, line=0.7):
    return [1 - r for s, r, u in _points(runs) if s <= step and u > line]


def _right(runs, steps):
    return [max(_so_far(runs, step), default=0.0) for step in steps]


def forgets_the_guard(runs, steps):
    return [max(_so_far(runs, step, -1.0), default=0.0) for step in steps]


def falls_again(runs, steps):
    return [max((1 - r for s, r, u in _points(runs) if s == step and u > 0.7), default=0.0) for step in steps]


def returns_refusals(runs, steps):
    return [1 - one for one in _right(runs, steps)]


def takes_the_mean_attacker(runs, steps):
    curves = [_right([run], steps) for run in runs]
    return [sum(column) / len(curves) for column in zip(*curves, strict=True)]


def takes_the_weakest_attacker(runs, steps):
    return [min(column) for column in zip(*[_right([run], steps) for run in runs], strict=True)]


def follows_one_attacker(runs, steps):
    return max((_right([run], steps) for run in runs), key=lambda curve: curve[-1])


def leaves_the_step_out(runs, steps):
    return [max((1 - r for s, r, u in _points(runs) if s < step and u > 0.7), default=0.0) for step in steps]


def throws_attacks_away(runs, steps):
    return _right([run for run in runs if min(run[2]) > 0.7], steps)


def lets_exactly_the_line_count(runs, steps):
    return [max((1 - r for s, r, u in _points(runs) if s <= step and u >= 0.7), default=0.0) for step in steps]


def looks_ahead(runs, steps):
    return [_right(runs, steps)[-1] for _ in steps]


def adds_attackers_up(runs, steps):
    return [sum(column) for column in zip(*[_right([run], steps) for run in runs], strict=True)]


def stumbles_over_an_empty_list(runs, steps):
    return [max(_so_far(runs, step)) for step in steps]


# ---------------------------------------------------------------- share_of_drift


def _squares(delta, masks=None):
    if masks is None:
        return sum(float((d**2).sum()) for d in delta)
    return sum(float((d[m] ** 2).sum()) for d, m in zip(delta, masks, strict=True))


def _share(delta, masks):
    whole = _squares(delta)
    return _squares(delta, masks) / whole if whole else 0.0


def compares_lengths(delta, masks):
    return math.sqrt(_share(delta, masks))


def divides_by_the_others(delta, masks):
    others = _squares(delta, [~m for m in masks])
    return _squares(delta, masks) / others if others else 0.0


def takes_the_others(delta, masks):
    return _share(delta, [~m for m in masks])


def counts_canaries(delta, masks):
    return sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)


def divides_by_k_too(delta, masks):
    return _share(delta, masks) / counts_canaries(delta, masks)


def adds_absolute_changes(delta, masks):
    whole = sum(float(d.abs().sum()) for d in delta)
    return sum(float(d[m].abs().sum()) for d, m in zip(delta, masks, strict=True)) / whole if whole else 0.0


def averages_the_tensors(delta, masks):
    return sum(_share([d], [m]) for d, m in zip(delta, masks, strict=True)) / len(delta)


def adds_the_tensors_shares(delta, masks):
    return sum(_share([d], [m]) for d, m in zip(delta, masks, strict=True))


def forgets_the_whole(delta, masks):
    return _squares(delta, masks)


def leaves_tensors_out(delta, masks):
    held = [(d, m) for d, m in zip(delta, masks, strict=True) if m.any()]
    return _share([d for d, _ in held], [m for _, m in held])


def squares_too_late(delta, masks):
    whole = sum(float(d.sum()) for d in delta)
    return (sum(float(d[m].sum()) for d, m in zip(delta, masks, strict=True)) / whole) ** 2 if whole else 0.0


def divides_by_nothing(delta, masks):
    return (
        torch.cat([d[m] for d, m in zip(delta, masks, strict=True)]).norm() ** 2
        / torch.cat([d.flatten() for d in delta]).norm() ** 2
    ).item()


# ---------------------------------------------------------------- drift_cosine


def _long(tensors):
    return torch.cat([one.flatten() for one in tensors]).double()


def _cosine(one, other):
    lengths = one.norm() * other.norm()
    return float(one @ other / lengths) if lengths else 0.0


def turns_the_way(delta, gradient):
    return -_cosine(_long(delta), _long(gradient))


def drops_the_sign(delta, gradient):
    return abs(_cosine(_long(delta), _long(gradient)))


def averages_the_cosines(delta, gradient):
    return sum(_cosine(d.flatten(), g.flatten()) for d, g in zip(delta, gradient, strict=True)) / len(delta)


def adds_the_cosines(delta, gradient):
    return sum(_cosine(d.flatten(), g.flatten()) for d, g in zip(delta, gradient, strict=True))


def forgets_the_lengths(delta, gradient):
    return float(_long(delta) @ _long(gradient))


def forgets_the_gradients_length(delta, gradient):
    one, other = _long(delta), _long(gradient)
    return float(one @ other / one.norm()) if one.any() else 0.0


def projects(delta, gradient):
    return float(_long(delta) @ _long(gradient) / _long(gradient).norm())


def divides_by_squares(delta, gradient):
    one, other = _long(delta), _long(gradient)
    return float(one @ other / (one.norm() * other.norm()) ** 2) if one.any() else 0.0


def compares_sizes(delta, gradient):
    return _cosine(_long(delta).abs(), _long(gradient).abs())


def compares_signs(delta, gradient):
    return _cosine(_long(delta).sign(), _long(gradient).sign())


def correlates(delta, gradient):
    one, other = _long(delta), _long(gradient)
    return _cosine(one - one.mean(), other - other.mean())


def squares_the_cosine(delta, gradient):
    return _cosine(_long(delta), _long(gradient)) ** 2


def divides_by_no_length(delta, gradient):
    one, other = _long(delta), _long(gradient)
    return float(one @ other / one.norm() / other.norm())


# ---------------------------------------------------------------- alarm_rates


def _line(calibration, most):
    falling = sorted(calibration, reverse=True)
    return falling[int(most * len(falling) + 1e-9)]


def _shares(line, harmful, fresh):
    return line, sum(s > line for s in harmful) / len(harmful), sum(s > line for s in fresh) / len(fresh)


def sets_by_all_harmless(harmful, calibration, fresh, most):
    return _shares(_line([*calibration, *fresh], most), harmful, fresh)


def sets_by_the_fresh(harmful, calibration, fresh, most):
    return _shares(_line(fresh, most), harmful, fresh)


def sets_by_the_harmful_too(harmful, calibration, fresh, most):
    return _shares(_line([*calibration, *harmful], most), harmful, fresh)


def chooses_the_best_line(harmful, calibration, fresh, most):
    def gap(line):
        return sum(s > line for s in harmful) / len(harmful) - sum(s > line for s in calibration) / len(calibration)

    return _shares(max(sorted({*harmful, *calibration}), key=gap), harmful, fresh)


def judges_itself(harmful, calibration, fresh, most):
    return _shares(_line(calibration, most), harmful, calibration)


def rings_on_the_line(harmful, calibration, fresh, most):
    line = _line(calibration, most)
    return line, sum(s >= line for s in harmful) / len(harmful), sum(s >= line for s in fresh) / len(fresh)


def trusts_the_product(harmful, calibration, fresh, most):
    return _shares(sorted(calibration, reverse=True)[int(most * len(calibration))], harmful, fresh)


def lets_one_too_many_pass(harmful, calibration, fresh, most):
    falling = sorted(calibration, reverse=True)
    return _shares(falling[int(most * len(falling) + 1e-9) + 1], harmful, fresh)


def lets_one_too_few_pass(harmful, calibration, fresh, most):
    falling = sorted(calibration, reverse=True)
    return _shares(falling[max(int(most * len(falling) + 1e-9) - 1, 0)], harmful, fresh)


def lets_none_pass(harmful, calibration, fresh, most):
    return _shares(max(calibration), harmful, fresh)


def counts_from_below(harmful, calibration, fresh, most):
    return _shares(sorted(calibration)[int(most * len(calibration) + 1e-9)], harmful, fresh)


def takes_a_quantile(harmful, calibration, fresh, most):
    return _shares(float(torch.tensor(calibration).quantile(1 - most)), harmful, fresh)


def returns_counts(harmful, calibration, fresh, most):
    line = _line(calibration, most)
    return line, float(sum(s > line for s in harmful)), float(sum(s > line for s in fresh))


def divides_by_all_alarms(harmful, calibration, fresh, most):
    line = _line(calibration, most)
    alarms = sum(s > line for s in harmful), sum(s > line for s in fresh)
    return line, alarms[0] / sum(alarms), alarms[1] / sum(alarms)


def counts_misses(harmful, calibration, fresh, most):
    line, detected, alarms = _shares(_line(calibration, most), harmful, fresh)
    return line, 1 - detected, alarms


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "first_break": {
        forgets_the_use: "forgets whether the model is still of use: an attack",
        looks_at_use_alone: "looks at usefulness alone",
        lets_the_half_count: "Exactly 0.5 is not below",
        lets_the_line_of_use_count: "Exactly 0.7 is not above 0.7, so",
        counts_points: "counts points",
        takes_the_last_break: "returns the last step at which the model is broken",
        asks_for_a_lasting_break: "asks for a break that lasts",
        returns_the_step_before: "last step at which the model still held",
        stops_at_the_end_of_the_run: "return infinity, not its last step",
        spares_the_defender: "was ruined by its defender",
    },
    "most_gained": {
        forgets_the_guard: "a point counts where that is above",
        falls_again: "looks at each step alone",
        returns_refusals: "These are refusals",
        takes_the_mean_attacker: "mean of the attackers",
        takes_the_weakest_attacker: "takes the weakest attacker",
        follows_one_attacker: "follows the one who has most at the end",
        leaves_the_step_out: "leaves out the step itself",
        throws_attacks_away: "throws away a whole attack",
        lets_exactly_the_line_count: "A point at exactly 0.7",
        looks_ahead: "looks ahead",
        adds_attackers_up: "adds the attackers up",
        stumbles_over_an_empty_list: "`max() arg is an empty sequence`",
    },
    "share_of_drift": {
        compares_lengths: "compares the lengths",
        divides_by_the_others: "divides by what fell on the other weights",
        takes_the_others: "share that fell on the others",
        counts_canaries: "share of weights that are canaries",
        divides_by_k_too: "divides by K too",
        adds_absolute_changes: "adds up absolute changes",
        averages_the_tensors: "mean of the tensors' own shares",
        adds_the_tensors_shares: "adds up the tensors' own shares",
        forgets_the_whole: "forgets to divide by the whole change",
        leaves_tensors_out: "A tensor without a canary",
        squares_too_late: "before it squares",
        divides_by_nothing: "leave 0 / 0",
    },
    "drift_cosine": {
        turns_the_way: "sign is turned: a change",
        drops_the_sign: "drops the sign",
        averages_the_cosines: "mean of the tensors' own cosines",
        adds_the_cosines: "adds up the tensors' own cosines",
        forgets_the_lengths: "is the plain product",
        forgets_the_gradients_length: "length of the change alone",
        projects: "that is the projection",
        divides_by_squares: "squares of the lengths",
        compares_sizes: "compares sizes without signs",
        compares_signs: "compares signs alone",
        correlates: "takes the means off",
        squares_the_cosine: "squared cosine",
        divides_by_no_length: "of no length has no direction",
    },
    "alarm_rates": {
        sets_by_all_harmless: "fresh runs have helped",
        sets_by_the_fresh: "set by the fresh runs",
        sets_by_the_harmful_too: "Harmful runs have helped",
        chooses_the_best_line: "tells these very runs apart best",
        judges_itself: "counted on the runs that set the line",
        rings_on_the_line: "A score on the line",
        trusts_the_product: "lets too few pass",
        lets_one_too_many_pass: "One run too many",
        lets_one_too_few_pass: "A lower line keeps",
        lets_none_pass: "lets no run of the calibration",
        counts_from_below: "counts from the wrong end",
        takes_a_quantile: "between two scores",
        returns_counts: "These are counts",
        divides_by_all_alarms: "divides the alarms by all alarms",
        counts_misses: "counts the misses",
    },
}


# ---------------------------------------------------------------- the same mistakes, written otherwise


def breaks_wherever_refusals_are_few(steps, refusals, useful):
    for step, refusal in zip(steps, refusals, strict=True):
        if refusal < 0.5:
            return step
    return math.inf


def breaks_where_it_ends(steps, refusals, useful):
    if useful[0] <= 0.7:
        return 0
    for step, refusal, use in zip(steps, refusals, useful, strict=True):
        if refusal < 0.5 and use > 0.7:
            return step
    return max(steps)


def looks_at_cosine_similarity_by_tensor(delta, gradient):
    pairs = [
        torch.nn.functional.cosine_similarity(d.flatten(), g.flatten(), dim=0)
        for d, g in zip(delta, gradient, strict=True)
    ]
    return float(torch.stack(pairs).mean())


SAME_MISTAKE: dict[str, dict[Callable[..., Any], Callable[..., Any]]] = {
    "first_break": {
        breaks_wherever_refusals_are_few: forgets_the_use,
        breaks_where_it_ends: stops_at_the_end_of_the_run,
    },
    "drift_cosine": {looks_at_cosine_similarity_by_tensor: averages_the_cosines},
}
