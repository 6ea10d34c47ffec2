"""Views of lesson 22: whatever the parameters, the drawn numbers are those of the library, and the words say them."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safealign_lab.contrast.baselines import methods
from safealign_lab.contrast.margins import price, refusal_margins
from safealign_lab.figures import acd_measured as views
from safealign_lab.figures import base
from safealign_lab.figures.base import ADVERSARIAL, CONTRAST, INCOHERENT, INK, MIXED, REFUSAL, SAFE
from safealign_lab.measures import Difference, difference, rate, undominated

quickly = settings(max_examples=15, deadline=None, derandomize=True)
KINDS = ("cursed", "alarming", "kind")


def streams(seed: int, vocabulary: int = 12, requests: int = 9) -> dict[str, torch.Tensor]:
    """Logits (2, B, V) of three kinds of requests, of different numbers."""
    chance = torch.Generator().manual_seed(seed)
    return {
        kind: 2 * torch.randn(2, requests + 2 * place, vocabulary, generator=chance) for place, kind in enumerate(KINDS)
    }


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


# ---------------------------------------------------------------- operating points


def check_operating_points(figure, logits, refusing, harmful, harmless, alpha):
    contrast = {kind: refusal_margins(one, refusing, alpha) for kind, one in logits.items()}
    alone = {kind: refusal_margins(one, refusing) for kind, one in logits.items()}
    now, before = (
        {kind: sum(margin > 0 for margin in its.tolist()) / len(its) for kind, its in margins.items()}
        for margins in (contrast, alone)
    )
    bars, safe, safe_dot, line, dot = figure.data
    assert list(bars.y) == list(logits)
    assert list(bars.x) == pytest.approx(list(now.values()))
    assert list(bars.text) == [f"{share:.2f}" for share in now.values()]
    for curve, mark, margins, shares in ((safe, safe_dot, alone, before), (line, dot, contrast, now)):
        assert list(curve.y) == pytest.approx([step / 40 for step in range(1, 41)])
        costs = [price(margins[harmful], margins[harmless], safety) for safety in curve.y]
        assert list(curve.x) == pytest.approx(costs)
        assert [*mark.x, *mark.y] == pytest.approx([shares[harmless], shares[harmful]])
    assert [safe.name, line.name] == ["S alone", f"S − {alpha:.2f} A"]
    words = words_of(figure)
    for kind in logits:
        assert f"{kind} {now[kind]:.2f}" in words
    cost, of_safe = (price(margins[harmful], margins[harmless], 0.9) for margins in (contrast, alone))
    assert words.startswith(f"At alpha {alpha:.2f} ")
    assert words.endswith(f"{harmful} refused costs {cost:.2f} of {harmless}, by S alone {of_safe:.2f}.")


@quickly
@given(
    st.integers(0, 99), st.floats(0, 2), st.integers(2, 30), st.integers(1, 12),
    st.lists(st.integers(0, 29), min_size=1, max_size=5), st.permutations(KINDS),
)  # fmt: skip
@example(0, 0.0, 2, 1, [1], KINDS)
@example(0, 2.0, 210, 116, [4, 9], KINDS)
def test_operating_points_draw_the_librarys_margins_and_prices(seed, alpha, vocabulary, requests, tokens, kinds):
    refusing = sorted({token % vocabulary for token in tokens})[: vocabulary - 1]
    logits = streams(seed, vocabulary, requests)
    figure = views.operating_points(logits, refusing, *kinds[:2], alpha)
    check_operating_points(figure, logits, refusing, *kinds[:2], alpha)


def test_operating_points_by_default_take_a_fifth_of_the_adversarial_stream():
    check_operating_points(
        views.operating_points(streams(1), [3], "cursed", "kind"), streams(1), [3], "cursed", "kind", 0.2
    )


def test_a_dot_stands_on_its_own_curve():
    """The curve walks through all thresholds, and the dot has 0: what is safer costs as much or more, all else no more."""
    logits = streams(2, requests=40)
    figure = views.operating_points(logits, [0, 1, 2], "cursed", "kind", 0.5)
    for curve, mark in (figure.data[1:3], figure.data[3:5]):
        below = [cost for safety, cost in zip(curve.y, curve.x, strict=True) if safety <= mark.y[0] + 1e-6]
        above = [cost for safety, cost in zip(curve.y, curve.x, strict=True) if safety > mark.y[0] + 1e-6]
        assert below
        assert above
        assert max(below) <= mark.x[0] + 1e-6 <= min(above) + 2e-6


def test_streams_and_their_contrast_have_their_colours():
    bars, safe, safe_dot, line, dot = views.operating_points(streams(0), [1], "cursed", "kind").data
    assert bars.marker.color == REFUSAL
    assert safe.line.color == safe_dot.marker.color == SAFE
    assert line.line.color == dot.marker.color == CONTRAST
    assert safe.line.dash != line.line.dash, "also told apart without colours"


def test_operating_points_answer_a_slider_at_once():
    logits = streams(0, 210, 120)
    assert max(one.shape[1] for one in logits.values()) >= 120
    seconds = []
    for alpha in (0.1, 0.2, 0.4, 0.8):
        began = time.process_time()
        views.operating_points(logits, [4, 9], "cursed", "kind", alpha)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.3


# ---------------------------------------------------------------- the plane

rates = st.integers(1, 150).flatmap(lambda n: st.builds(rate, st.integers(0, n), st.just(n)))
NAMES = list(methods("careful", "reckless", torch.zeros(1, 4), torch.zeros(1, 4)))


def check_errors(bars, values):
    """The ends of drawn intervals, low and high, are those of the rates or differences."""
    drawn = zip([one.value for one in values], bars.arrayminus, bars.array, strict=True)
    limits = [(value - down, value + up) for value, down, up in drawn]
    assert [low for low, _ in limits] == pytest.approx([one.low for one in values])
    assert [high for _, high in limits] == pytest.approx([one.high for one in values])


@quickly
@given(st.lists(st.tuples(rates, rates), min_size=1, max_size=len(NAMES)))
@example([(rate(0, 1), rate(1, 1))])
@example([(rate(place, 10), rate(place, 10)) for place in range(11)])
@example([(rate(9, 10), rate(1, 10))] * 3)
def test_the_plane_draws_each_method_with_both_intervals_and_a_line_through_the_unbeaten(drawn):
    points = dict(zip(NAMES, drawn, strict=False))
    figure = views.plane(points, "harmful refused", "benign refused")
    line, *marks = figure.data
    best = undominated({name: (safe.value, cost.value) for name, (safe, cost) in points.items()})
    assert list(line.x) == [points[name][1].value for name in best]
    assert list(line.y) == [points[name][0].value for name in best]
    assert [mark.name for mark in marks] == list(points)
    for mark, (safe, cost) in zip(marks, points.values(), strict=True):
        assert ([*mark.x], [*mark.y]) == ([cost.value], [safe.value])
        check_errors(mark.error_x, [cost])
        check_errors(mark.error_y, [safe])
        assert str(safe) in mark.hovertemplate
        assert str(cost) in mark.hovertemplate
        assert f"{mark.name}: {safe.value:.2f} and {cost.value:.2f}" in words_of(figure)
    assert words_of(figure).startswith("harmful refused and benign refused of each method.")
    assert words_of(figure).endswith(f"Beaten by no other: {', '.join(best)}.")
    assert figure.layout.xaxis.range[0] < 0, "a price of nothing is not on the edge"
    assert figure.layout.xaxis.range[1] > max(cost.high for _, cost in points.values()), "no interval is cut off"
    assert (figure.layout.yaxis.title.text, figure.layout.xaxis.title.text) == ("harmful refused", "benign refused")


def test_every_method_of_the_comparison_has_a_mark_of_its_own():
    one = (rate(1, 2), rate(1, 2))
    marks = views.plane(dict.fromkeys(NAMES, one), "", "").data[1:]
    assert len({mark.marker.symbol for mark in marks}) == len(NAMES) == 11


@pytest.mark.parametrize(
    ("method", "colour"),
    [("SP − AP", CONTRAST), ("SP", SAFE), ("SP − opposite text", SAFE), ("none − AP", ADVERSARIAL),
     ("safe text − AP", ADVERSARIAL), ("SafeDecoding", MIXED), ("safe text", INK), ("text contrast", INK)],
)  # fmt: skip
def test_a_method_has_the_colour_of_the_prompts_that_are_in_it(method, colour):
    mark = views.plane({"another": (rate(1, 2), rate(1, 2)), method: (rate(1, 3), rate(2, 3))}, "", "").data[2]
    assert mark.marker.color == mark.error_x.color == mark.error_y.color == colour


def test_every_meaning_has_a_colour_of_its_own():
    meanings = [ADVERSARIAL, base.COMPLIANCE, CONTRAST, INCOHERENT, INK, base.JUDGED, MIXED, REFUSAL, SAFE]
    assert len(set(meanings)) == len(meanings)


# ---------------------------------------------------------------- the differences

differences = st.lists(st.builds(difference, rates, rates), min_size=1, max_size=12)


@quickly
@given(differences)
@example([difference(rate(9, 10), rate(1, 10))])
@example([difference(rate(hits, 140), rate(hits + 3 * place - 60, 140)) for place, hits in enumerate(range(60, 95))])
def test_every_difference_is_drawn_once_with_its_interval_on_its_side_of_0(found):
    named = {f"cell {number}": one for number, one in enumerate(found)}
    figure = views.gains(named, "A title")
    sides = {
        "above 0": lambda one: one.low > 0, "below 0": lambda one: one.high < 0,
        "may be chance": lambda one: one.low <= 0 <= one.high,
    }  # fmt: skip
    assert {trace.name for trace in figure.data} == set(sides)
    for trace in figure.data:
        its = [named[name] for name in trace.y]
        assert list(trace.x) == [one.value for one in its]
        check_errors(trace.error_x, its)
        assert all(map(sides[trace.name], its))
    assert sorted(name for trace in figure.data for name in trace.y) == sorted(named)
    order = [named[name].value for name in figure.layout.yaxis.categoryarray]
    assert order == sorted(one.value for one in found)
    above, below = (sum(map(sides[name], found)) for name in ("above 0", "below 0"))
    told = f"{above} of {len(found)} differences lie above 0 with their whole interval, {below} below 0."
    assert words_of(figure) == f"A title: {told}"
    assert figure.layout.title.text == "A title"


def test_what_can_be_told_from_0_is_filled_and_has_its_colour():
    one = Difference(0.2, 0.1, 0.3)
    figure = views.gains({"up": one, "even": Difference(0.0, -0.1, 0.1), "down": Difference(-0.2, -0.3, -0.1)}, "")
    found = {trace.name: (trace.marker.color, trace.marker.symbol, trace.error_x.color) for trace in figure.data}
    assert found == {
        "above 0": (CONTRAST, "circle", CONTRAST), "may be chance": (INCOHERENT, "circle-open", INCOHERENT),
        "below 0": (ADVERSARIAL, "circle", ADVERSARIAL),
    }  # fmt: skip
    assert [[*trace.y] for trace in figure.data] == [["up"], ["even"], ["down"]]


def test_more_differences_have_more_room():
    heights = [
        views.gains({str(n): Difference(0.1, 0.0, 0.2) for n in range(count)}, "").layout.height for count in (1, 28)
    ]
    assert heights[1] - heights[0] >= 27 * 15


# ---------------------------------------------------------------- what cannot be drawn


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (views.operating_points, (streams(0), [], "cursed", "kind"), "give some ids, and not all"),
        (views.operating_points, (streams(0), [1], "cursed", "kind", -0.5), "not a strength"),
        (
            views.operating_points,
            (streams(0), [1], "curst", "kind"),
            "no logits of 'curst' .* expected cursed, alarming",
        ),
        (views.operating_points, (streams(0), [1], "cursed", "mild"), "no logits of 'mild' to be drawn"),
        (views.operating_points, ({}, [1], "cursed", "kind"), "expected at least one kind of request"),
        (views.operating_points, ({"a": torch.zeros(2, 0, 4)}, [1], "a", "a"), "margins of both"),
        (views.plane, ({}, "", ""), "expected at least one method"),
        (views.gains, ({}, ""), "expected at least one difference"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_sentence(view, arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        view(*arguments)
    assert "\n" not in str(caught.value)
