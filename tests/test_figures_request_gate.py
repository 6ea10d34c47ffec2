"""Views of lesson 13: whatever the margins and the threshold, the drawn shares are the counted ones, and the words say them."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safealign_lab.distillation.gate import roc
from safealign_lab.figures import request_gate as views
from safealign_lab.measures import rate

SEEDS = st.integers(0, 10_000)
KINDS = ("harmful", "jailbreaks", "borderline", "benign")


def drawn(seed, count, shift=0.0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 2 + shift


def margins_of(seed, count):
    return {kind: drawn(seed + place, count + place, 2.0 - place) for place, kind in enumerate(KINDS)}


def words_of(figure) -> str:
    figure.to_json()  # what a page is sent has to be plain numbers
    return figure.layout.meta["alt"]


def counted(margins, threshold):
    return rate(sum(one > threshold for one in margins.tolist()), len(margins))


# --- the threshold ----------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(2, 40), st.floats(-12, 12))
@example(0, 2, -12.0)
@example(0, 30, 0.0)
@example(0, 40, 12.0)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_every_share_at_a_threshold_is_counted_with_wilsons_interval(seed, count, threshold):
    margins = margins_of(seed, count)
    harmful = torch.cat([margins[kind] for kind in KINDS[:2]])
    curves = {kind: roc(harmful, margins[kind]) for kind in KINDS[2:]}
    figure = views.operating_point(margins, KINDS[:2], curves, threshold)
    for bars, kinds in zip(figure.data[:2], (KINDS[:2], KINDS[2:]), strict=True):
        assert list(bars.y) == list(kinds)
        for kind, x, up, down in zip(kinds, bars.x, bars.error_x.array, bars.error_x.arrayminus, strict=True):
            share = counted(margins[kind], threshold)
            assert (x, x + up, x - down) == pytest.approx((share.value, share.high, share.low))
            assert f"{share.value:.2f} of {kind}" in words_of(figure)
    safety = counted(harmful, threshold).value
    for (kind, curve), line, dot in zip(curves.items(), figure.data[2::2], figure.data[3::2], strict=True):
        assert (list(line.x), list(line.y)) == (list(curve.harmless_stopped), list(curve.harmful_stopped))
        assert (*dot.x, *dot.y) == pytest.approx((counted(margins[kind], threshold).value, safety))
        assert f"against {kind} {curve.area.value:.3f}" in words_of(figure)
        assert dot.hovertext == f"{kind}: {counted(margins[kind], threshold)}"
    assert [dot.showlegend for dot in figure.data[3::2]] == [True, False]  # said once


@given(SEEDS, st.floats(-3, 3), st.floats(0, 3))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_a_higher_threshold_draws_no_longer_bar(seed, low, more):
    margins = margins_of(seed, 20)
    before, after = (views.operating_point(margins, KINDS[:1], {}, low + step).data[:2] for step in (0.0, more))
    for one, other in zip(before, after, strict=True):
        assert all(first >= second for first, second in zip(one.x, other.x, strict=True))


def test_one_harmless_kind_and_no_curve_will_do():
    figure = views.operating_point({"harmful": torch.ones(1), "benign": torch.zeros(1)}, ["harmful"], {}, 0.5)
    assert [list(bars.x) for bars in figure.data] == [[1.0], [0.0]]
    assert "curve" not in words_of(figure)


@pytest.mark.parametrize(
    ("harmful", "curves"),
    [((), ()), (KINDS, ()), (("other",), ()), (KINDS[:1], ("other",)), (KINDS[:1], KINDS[:1])],
)
def test_kinds_that_do_not_fit_are_told(harmful, curves):
    margins = margins_of(0, 5)
    made = {kind: roc(torch.ones(2), torch.zeros(2)) for kind in curves}
    with pytest.raises(ValueError, match="Expected harmful kinds, and up to four curves"):
        views.operating_point(margins, harmful, made, 0.0)


# --- wordings ---------------------------------------------------------------------------------------------------------


def shares_of(seed, *names):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(3, generator=generator).tolist() for name in names}


@given(SEEDS, st.integers(1, 11))
@example(0, 1)
@example(0, 11)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_each_wording_shows_its_means_and_reaches_from_seed_to_seed(seed, count):
    wordings = [f"wording {number}" for number in range(count)]
    shares = {one: shares_of(seed + place, "benign", "harmful", "jailbreaks") for place, one in enumerate(wordings)}
    areas = shares_of(seed, *wordings)
    figure = views.changes(shares, areas, ["harmful", "jailbreaks"])
    assert [trace.name for trace in figure.data] == ["harmful", "jailbreaks", "benign", "area under the curve"]
    for trace in figure.data:
        rows = areas if trace.name.startswith("area") else {one: of[trace.name] for one, of in shares.items()}
        assert list(trace.y) == wordings
        assert list(trace.x) == pytest.approx([fmean(row) for row in rows.values()])
        highs = [x + up for x, up in zip(trace.x, trace.error_x.array, strict=True)]
        lows = [x - down for x, down in zip(trace.x, trace.error_x.arrayminus, strict=True)]
        assert highs == pytest.approx([max(row) for row in rows.values()])
        assert lows == pytest.approx([min(row) for row in rows.values()])
    first, second, third, _ = figure.data
    assert first.marker.color == second.marker.color != third.marker.color
    assert first.marker.symbol != second.marker.symbol
    said = words_of(figure)
    assert said.startswith("What is stopped, by wording. wording 0: ")
    assert all(f"{one}: {fmean(of['harmful']):.2f} of harmful" in said for one, of in shares.items())


@pytest.mark.parametrize(
    ("shares", "areas"),
    [
        ({}, {}),
        ({"none": {"harmful": [0.5]}}, {"list": [0.9]}),
        ({"none": {"harmful": []}}, {"none": [0.9]}),
        ({"none": {"harmful": [0.5]}, "list": {}}, {"none": [0.9], "list": [0.9]}),
    ],
)
def test_wordings_that_do_not_fit_are_told(shares, areas):
    with pytest.raises(ValueError, match="Each wording needs the same sets of requests"):
        views.changes(shares, areas, ["harmful"])


# --- attacks ----------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, len(views.HEADS)), st.integers(1, 4), st.booleans())
@example(0, 1, 1, True)
@example(0, len(views.HEADS), 4, False)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_aimed_and_random_noise_are_drawn_apart_for_each_head(seed, heads, radii, wanted):
    names, epsilons = list(views.HEADS)[:heads], [0.05 * step for step in range(radii)]
    shares = {
        name: {epsilon: shares_of(seed + place + 10 * step, "aimed", "random") for step, epsilon in enumerate(epsilons)}
        for place, name in enumerate(names)
    }
    figure = views.attacked(shares, "requests", wanted)
    looks = set()
    for place, trace in enumerate(figure.data):
        name, noise = names[place // 2], ("aimed", "random")[place % 2]
        assert (trace.name, trace.line.color, trace.showlegend) == (name, views.HEADS[name][0], noise == "aimed")
        assert list(trace.x) == epsilons
        assert list(trace.y) == pytest.approx([fmean(of[noise]) for of in shares[name].values()])
        assert f"{name}, {noise}: {trace.y[0]:.2f} at {epsilons[0]:g}" in words_of(figure)
        looks.add((trace.line.color, trace.line.dash, trace.marker.symbol))
    assert len(looks) == 2 * heads
    assert ("up is better" if wanted else "down is better") in words_of(figure)


@pytest.mark.parametrize("shares", [{}, {"another head": {0.1: {"aimed": [0.1]}}}, {"KD alone": {0.1: {"aimed": []}}}])
def test_heads_that_cannot_be_drawn_are_told(shares):
    with pytest.raises(ValueError, match="Expected heads of linear probe, hard labels"):
        views.attacked(shares, "requests", True)


# --- margins that move ------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 25), st.integers(1, 4), st.floats(-5, 5))
@example(0, 1, 1, 0.0)
@example(0, 25, 4, 5.0)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_margins_are_drawn_wording_by_wording_with_one_threshold(seed, count, wordings, threshold):
    rows = {f"wording {n}": (drawn(seed + n, count), drawn(seed - n, count + 3, -2)) for n in range(wordings)}
    figure = views.shifted(rows, threshold)
    traces = iter(figure.data)
    for name, pair in rows.items():
        for side, its in zip(("harmful", "harmless"), pair, strict=True):
            trace = next(traces)
            assert (trace.name, set(trace.y), list(trace.x)) == (side, {name}, its.tolist())
            share = counted(its, threshold).value
            assert f"{name}, {side}: mean {its.mean():.1f}, stopped {share:.2f}" in words_of(figure)
    assert sum(trace.showlegend for trace in figure.data) == 2
    assert {shape.x0 for shape in figure.layout.shapes} == {threshold}


@pytest.mark.parametrize("rows", [{}, {"plain": (torch.empty(0), torch.ones(2))}])
def test_a_wording_without_margins_is_told(rows):
    with pytest.raises(ValueError, match="at least one harmful and one harmless margin"):
        views.shifted(rows, 0.0)
