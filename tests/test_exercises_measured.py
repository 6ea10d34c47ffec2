"""The exercises of lesson 22: what they teach is what the library measures with, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math
from decimal import Decimal
from fractions import Fraction
from statistics import fmean, mean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import named
from wrong_answers.acd_measured import WRONG_ANSWERS

from safealign_lab import measures
from safealign_lab.contrast import margins, paper
from safealign_lab.lesson.exercise import PASTED, find, verdict
from safealign_lab.lesson.exercises import acd_measured as lesson
from safealign_lab.lesson.exercises import methods_compared

SEEDS = st.integers(0, 2**31)
PATIENT = settings(deadline=None, derandomize=True, max_examples=50)
STEPS = st.lists(st.integers(-6, 6), min_size=1, max_size=30)  # few values, so that margins are often equal


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.integers(1, 5), st.integers(2, 9), st.sampled_from([0.0, 0.4, 1.5]), st.data())
def test_a_margin_is_the_librarys(seed, requests, vocabulary, alpha, data):
    ids = data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=vocabulary - 1))
    generator = torch.Generator().manual_seed(seed)
    safe, adversarial = torch.randn(2, requests, vocabulary, generator=generator)
    mine = lesson.refusal_margins(safe - alpha * adversarial, ids)
    theirs = margins.refusal_margins(torch.stack([safe, adversarial]), ids, alpha)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@PATIENT
@given(STEPS, STEPS, st.floats(0.01, 1))
def test_a_price_is_the_librarys(harmful, harmless, safety):
    inputs = torch.tensor(harmful) / 2, torch.tensor(harmless) / 2
    assert lesson.price(*inputs, safety) == margins.price(*inputs, safety)


@PATIENT
@given(STEPS, STEPS, st.data())
def test_a_price_is_exact_where_the_safety_is_reached_exactly(harmful, harmless, data):
    wanted = data.draw(st.integers(1, len(harmful)))
    threshold = sorted(harmful, reverse=True)[wanted - 1]
    right = Fraction(sum(one >= threshold for one in harmless), len(harmless))
    inputs = torch.tensor(harmful), torch.tensor(harmless), wanted / len(harmful)
    assert lesson.price(*inputs) == margins.price(*inputs) == pytest.approx(float(right), rel=1e-6)


COUNTS = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@PATIENT
@given(COUNTS, COUNTS)
def test_a_difference_is_the_librarys(first, second):
    rates = measures.rate(*first), measures.rate(*second)
    theirs = measures.difference(*rates)
    assert methods_compared.difference(*rates) == pytest.approx((theirs.value, theirs.low, theirs.high), abs=1e-12)


def test_a_difference_is_that_of_newcombes_paper():
    found = methods_compared.difference(measures.rate(48, 80), measures.rate(56, 70))  # its example (a), method 10
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_the_undominated_are_found_by_a_sweep_too(listed):
    points = {f"method {number}": point for number, point in enumerate(listed)}
    found, swept = find("undominated").solution(points), methods_compared._swept(points)
    assert sorted(found) == sorted(swept)
    assert [points[name] for name in found] == [points[name] for name in swept]
    assert find("undominated").solution is measures.undominated


@PATIENT
@given(st.lists(st.integers(0, 100), min_size=1, max_size=12), st.integers(-20, 20), st.integers(1, 4))
def test_slips_are_what_exact_numbers_say(cells, off, digits):
    exact = Fraction(sum(cells), 100 * len(cells))
    printed = Fraction(round(exact * 10**digits) * 10 + off, 10 ** (digits + 1))  # off by tenths of a unit
    slip = abs(exact - printed) > Fraction(1, 2 * 10**digits)
    found = find("slips").solution({"a": [cell / 100 for cell in cells]}, {"a": float(printed)}, digits)
    assert found == ({"a": pytest.approx(float(exact))} if slip else {})
    assert find("slips").solution is paper.slips


# ---------------------------------------------------------------- what a learner may write


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_solution_needs_nothing_but_torch(name):
    room = {"torch": torch}
    exec(PASTED + inspect.getsource(find(name).solution), room)  # as a notebook runs what lesson.solution shows
    assert verdict(room[name]) == "right"


def with_minus_infinity(scores, refusing):
    inside = torch.isin(torch.arange(scores.shape[-1]), torch.tensor(refusing))
    best, other = (scores.masked_fill(out, -math.inf).max(dim=-1).values for out in (~inside, inside))
    return best - other


def of_log_probabilities(scores, refusing):
    logps = scores.log_softmax(-1)
    others = [token for token in range(scores.shape[1]) if token not in refusing]
    return logps[:, refusing].max(1)[0] - logps[:, others].max(1)[0]


def request_by_request(scores, refusing):
    found = []
    for row in scores.tolist():
        best = max(row[token] for token in refusing)
        found.append(best - max(score for token, score in enumerate(row) if token not in set(refusing)))
    return torch.tensor(found)


def with_a_sort(harmful, harmless, safety):
    threshold = torch.sort(harmful, descending=True).values[math.ceil(safety * len(harmful)) - 1]
    return (harmless >= threshold).sum().item() / len(harmless)


def with_topk(harmful, harmless, safety):
    return (harmless >= harmful.topk(math.ceil(len(harmful) * safety)).values.min()).double().mean().item()


def with_the_allowed_misses(harmful, harmless, safety):
    threshold = sorted(harmful.tolist())[int((1 - safety) * len(harmful))]
    return sum(one >= threshold for one in harmless.tolist()) / len(harmless)


def with_a_share_in_one_precision(harmful, harmless, safety):
    for threshold in harmful.sort(descending=True).values:
        if (harmful >= threshold).float().mean() >= safety:
            return (harmless >= threshold).float().mean().item()


def with_two_loops(points):
    kept = []
    for name, (safety, price) in points.items():
        beaten = False
        for s, p in points.values():
            beaten = beaten or (s > safety and p <= price) or (s >= safety and p < price)
        if not beaten:
            kept.append(name)
    return sorted(kept, key=lambda name: -points[name][0])


def with_the_twins_the_other_way(points):
    return tuple(sorted(with_two_loops(points), key=lambda name: points[name][1])[::-1])


def with_hypot(first, second):
    d = second.value - first.value
    return [
        d,
        d - math.hypot(second.value - second.low, first.high - first.value),
        d + math.hypot(second.high - second.value, first.value - first.low),
    ]


def with_decimals(rows, printed, digits):
    found = {}
    for name, cells in rows.items():
        exact = sum(Decimal(str(cell)) for cell in cells) / len(cells)
        if abs(exact - Decimal(str(printed[name]))) > Decimal(5).scaleb(-digits - 1):
            found[name] = float(exact)
    return found


def with_fmean(rows, printed, digits):
    unit = 10**-digits
    return {name: fmean(rows[name]) for name in printed if abs(mean(rows[name]) - printed[name]) / unit > 0.5 + 1e-6}


def with_numpys_mean(rows, printed, digits):
    means = {name: np.mean(cells) for name, cells in rows.items()}
    return {name: one for name, one in means.items() if abs(one - printed[name]) > 0.5 / 10**digits + 1e-9}


RIGHT = [
    *(("refusal_margins", function) for function in (with_minus_infinity, of_log_probabilities, request_by_request)),
    *(("price", one) for one in (with_a_sort, with_topk, with_the_allowed_misses, with_a_share_in_one_precision)),
    ("price", margins.price),
    *(("undominated", function) for function in (with_two_loops, with_the_twins_the_other_way)),
    ("difference", with_hypot),
    *(("slips", function) for function in (with_decimals, with_fmean, with_numpys_mean)),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"
