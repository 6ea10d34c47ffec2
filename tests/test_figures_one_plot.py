"""Views of lesson 40: whatever the methods, the drawn numbers are those of the library, and the words say them."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from one_plot_worlds import drawn_point, point

from safealign_lab.figures import one_plot as views
from safealign_lab.figures.base import ADVERSARIAL, INCOHERENT, SAFE
from safealign_lab.one_plot.points import FAMILIES, MEASURES, Comparison, effects, front

quickly = settings(max_examples=12, deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)


def some(count, seed=0, priced=True):
    """Methods of all families, one after the other."""
    return [
        drawn_point(f"method {n}", seed, family=FAMILIES[n % len(FAMILIES)],
                    cost={"training": 10.0 * n, "time": 1 + n / 10, "memory": 1 + n / 20} if priced else None)
        for n in range(count)
    ]  # fmt: skip


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def check_ends(bars, values, found):
    """The ends of drawn intervals are those of the estimates."""
    drawn = zip(values, bars.arrayminus, bars.array, strict=True)
    limits = [(value - down, value + up) for value, down, up in drawn]
    assert [low for low, _ in limits] == pytest.approx([one.low for one in found])
    assert [high for _, high in limits] == pytest.approx([one.high for one in found])


# ---------------------------------------------------------------- the plane


def slow_share(one, kind):
    """The share of refusals among the answers to one kind of request."""
    labels = [said[0].label for said in one.answers.values() if said[0].kind == kind]
    return labels.count("refusal") / len(labels)


def check_labels(joins, labels, named):
    """Every name stands once in the column beside the plot, joined to its mark, and apart from the others."""
    starts = list(zip(joins.x[::3], joins.y[::3], strict=True))
    assert sorted(labels.text) == sorted(one.name for one in named)
    by_name = {one.name: one for one in named}
    for name, (x, y) in zip(labels.text, starts, strict=True):
        assert (x, y) == pytest.approx((by_name[name].mean("helpfulness"), by_name[name].mean("safety")))
    heights = list(labels.y)
    assert all(above - below > 0.99 * views.ROOM for below, above in pairwise(heights))
    assert list(zip(joins.x[1::3], joins.y[1::3], strict=True)) == [(views.COLUMN, height) for height in heights]
    if len(heights) < 1 / views.ROOM:
        assert all(-0.1 < height <= views.TOP for height in heights)


def check_plane(figure, points, chosen):
    line, marks, bars, (joins, labels) = figure.data[0], figure.data[1:6], figure.data[6:-2], figure.data[-2:]
    by_name = {one.name: one for one in points}
    best = front(points)
    assert list(line.y) == pytest.approx([by_name[name].mean("safety") for name in best])
    assert list(line.x) == pytest.approx([by_name[name].mean("helpfulness") for name in best])
    assert tuple(mark.name for mark in marks) == FAMILIES
    named = [one for one in points if one.name in (set(chosen) or set(best))]
    for family, mark in zip(FAMILIES, marks, strict=True):
        its = [one for one in points if one.family == family]
        assert list(mark.y) == pytest.approx([one.mean("safety") for one in its])
        assert list(mark.x) == pytest.approx([one.mean("helpfulness") for one in its])
        faint = [opacity for one, opacity in zip(its, mark.marker.opacity, strict=True) if one not in named]
        assert all(opacity < 0.7 for opacity in faint)
        assert sum(opacity == 1 for opacity in mark.marker.opacity) == len(its) - len(faint)
        for one, text, size in zip(its, mark.hovertext, mark.marker.size, strict=True):
            over = [slow_share(one, kind) for kind in ("borderline", "benign")]
            assert size == pytest.approx(views.SMALL + (views.LARGE - views.SMALL) * max(over))
            assert f"borderline refused: {over[0]:.2f}, benign refused: {over[1]:.2f}" in text
            assert text.startswith(f"{one.name}<br>")
            assert f"refused: {one.mean('safety'):.2f}" in text
            assert f"helpful: {one.mean('helpfulness'):.2f}" in text
    for family, its in zip(FAMILIES, bars, strict=True):
        some = [one for one in named if one.family == family]
        check_ends(its.error_y, its.y, [one.measure("safety") for one in some])
        check_ends(its.error_x, its.x, [one.measure("helpfulness") for one in some])
        assert its.error_x.color == its.error_y.color == views.FAMILY_COLOURS[family]
    check_labels(joins, labels, named)
    words = words_of(figure)
    assert words.startswith(f"Safety and helpfulness of {len(points)} methods.")
    assert words.endswith(f"Beaten by no other in both: {', '.join(best)}.")
    for one in named:
        assert f"{one.name} {one.mean('safety'):.2f} and {one.mean('helpfulness'):.2f}" in words


@settings(quickly, max_examples=5)
@given(st.integers(1, 45), SEEDS, st.sets(st.integers(0, 44), max_size=6))
@example(1, 0, set())
@example(45, 1, set(range(45)))
def test_the_plane_draws_every_method_and_names_the_chosen(count, seed, numbers):
    points = some(count, seed)
    chosen = [f"method {n}" for n in numbers if n < count]
    check_plane(views.plane(points, chosen), points, chosen)


def test_methods_at_one_place_are_named_one_below_the_other():
    points = [point(name, {kind: [("x", "refusal", 0.5), ("y", "compliance", 0.5)] for kind in
                           ("harmful", "borderline", "benign")}) for name in ("a", "b", "c", "d")]  # fmt: skip
    check_labels(*views.plane(points).data[-2:], points)


def test_every_family_has_a_colour_and_a_mark_of_its_own():
    for looks in (views.FAMILY_COLOURS, views.MARKS):
        assert set(looks) == set(FAMILIES)
        assert len(set(looks.values())) == len(FAMILIES)


def test_the_plane_says_what_helpfulness_is_and_shows_the_whole_of_both_axes():
    figure = views.plane(some(3), helpful="likeness to the undefended answers")
    assert "likeness to the undefended answers" in figure.layout.xaxis.title.text
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.range[0] < 0
        assert axis.range[1] > 1


# ---------------------------------------------------------------- rates


@quickly
@given(st.integers(1, 12), SEEDS)
@example(1, 0)
@example(12, 5)
def test_rates_draw_every_measure_with_its_interval(count, seed):
    points = some(count, seed)
    figure = views.rates(points)
    assert [bar.name for bar in figure.data] == [views.SHORT[measure] for measure in MEASURES]
    assert len({bar.marker.color for bar in figure.data}) == len(MEASURES)
    for bar, measure in zip(figure.data, MEASURES, strict=True):
        found = [one.measure(measure) for one in points]
        assert list(bar.y) == [one.name for one in points]
        assert list(bar.x) == pytest.approx([one.value for one in found])
        assert list(bar.hovertext) == [str(one) for one in found]
        check_ends(bar.error_x, bar.x, found)
        assert f"{views.SHORT[measure]} {', '.join(f'{one.value:.2f}' for one in found)}" in words_of(figure)
    assert figure.layout.yaxis.autorange == "reversed", "the first one on top"


def test_more_methods_have_more_room():
    assert views.rates(some(8)).layout.height - views.rates(some(1)).layout.height >= 7 * 5 * 15
    assert views.costs(some(40)).layout.height - views.costs(some(1)).layout.height >= 39 * 20


# ---------------------------------------------------------------- costs


@quickly
@given(st.integers(1, 45), SEEDS)
@example(1, 0)
@example(45, 2)
def test_costs_draw_each_priced_method_once_in_each_panel(count, seed):
    points = some(count, seed)
    figure = views.costs([*points, drawn_point("without a price", seed)])
    drawn = {}
    for trace in figure.data:
        drawn.setdefault(trace.xaxis, {}).update(zip(trace.y, trace.x, strict=True))
    assert list(drawn) == ["x", "x2", "x3"]
    for cost, its in zip(views.COSTS, drawn.values(), strict=True):
        assert its == {one.name: one.cost[cost] for one in points}
    assert list(figure.layout.yaxis.categoryarray) == [one.name for one in reversed(points)]
    assert sum(trace.showlegend for trace in figure.data) == len(FAMILIES), "each family once in the legend"
    words = words_of(figure)
    assert words.startswith(f"Cost of {count} methods")
    dearest = max(points, key=lambda one: one.cost["time"])
    assert f"time of a token: most for {dearest.name}, {dearest.cost['time']:.2f}" in words


# ---------------------------------------------------------------- parts


@quickly
@given(st.integers(1, 3), SEEDS, st.sets(st.sampled_from(sorted(MEASURES)), min_size=1))
@example(1, 0, {"safety"})
@example(3, 1, set(MEASURES))
def test_parts_draw_every_effect_with_its_interval(size, seed, measures):
    cells = {cell: drawn_point(str(cell), seed) for cell in product((False, True), repeat=size)}
    found = {one: effects(cells, ("gate", "immunized", "contrast")[:size], one) for one in sorted(measures)}
    figure = views.parts(found)
    assert len(figure.data) == len(found)
    for trace, (measure, its) in zip(figure.data, found.items(), strict=True):
        assert list(trace.y) == list(its)
        assert list(trace.x) == pytest.approx([one.difference for one in its.values()])
        check_ends(trace.error_x, trace.x, its.values())
        assert list(trace.hovertext) == [str(one) for one in its.values()]
        clear = [f"{name} {one.difference:+.2f}" for name, one in its.items() if one.told_apart]
        assert f"on {measure}, told from none: {', '.join(clear) or 'nothing'}" in words_of(figure)


def test_what_may_be_chance_is_open_and_has_no_colour():
    ones = {
        "up": Comparison(0.2, 0.1, 0.3, 9),
        "even": Comparison(0.0, -0.1, 0.1, 9),
        "down": Comparison(-0.2, -0.3, -0.1, 9),
    }
    (trace,) = views.parts({"safety": ones}).data
    assert list(trace.marker.color) == [SAFE, INCOHERENT, ADVERSARIAL]
    assert list(trace.marker.symbol) == ["circle", "circle-open", "circle"]


# ---------------------------------------------------------------- what cannot be drawn


@pytest.mark.parametrize(
    ("view", "given", "said"),
    [
        (views.plane, [], "expected at least one method"),
        (views.rates, [], "expected at least one method"),
        (views.costs, [], "expected at least one method"),
        (views.costs, some(2, priced=False), "expected at least one method"),
        (views.parts, {}, "expected the effects on at least one measure"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_sentence(view, given, said):
    with pytest.raises(ValueError, match=said) as caught:
        view(given)
    assert "\n" not in str(caught.value)
