"""The view of lesson 42: every row is drawn where it is, with its interval, its mark and what it asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import ledger as views
from safealign_lab.lesson.ledger import VERDICTS

quick = settings(max_examples=12, deadline=None)
SIDES = st.sampled_from(["above", "below", "within", None])
NUMBERS = st.floats(-0.9, 0.9).map(lambda x: round(x, 3))


@st.composite
def one_row(draw):
    verdict = draw(st.sampled_from(VERDICTS))
    stored = verdict != "not stored yet"
    low, value, high = sorted(draw(st.tuples(NUMBERS, NUMBERS, NUMBERS)))
    found = (
        {"value": value, "low": low, "high": high, "n": "3 seeds"}
        if stored
        else dict.fromkeys(("value", "low", "high", "n"))
    )
    printed = draw(st.none() | NUMBERS)
    return {
        "paper": "C",
        "side": draw(SIDES),
        "bound": draw(st.sampled_from([0.0, 0.05])),
        "printed": printed,
        "verdict": verdict,
    } | found


@st.composite
def some_rows(draw):
    rows = draw(st.lists(one_row(), min_size=0, max_size=12))
    return [row | {"key": f"c{place}", "says": f"claim number {place}"} for place, row in enumerate(rows, start=1)]


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


@given(some_rows())
@quick
def test_every_row_is_where_it_is_with_its_interval_and_its_verdict(rows):
    figure = views.overview(rows)
    drawn = {}
    for trace in figure.data:
        if trace.name == "the paper's figure":
            continue
        colour, symbol = views.LOOKS[trace.name]
        assert (trace.marker.color, trace.marker.symbol) == (colour, symbol)
        bars = trace.error_x
        for place, (name, value) in enumerate(zip(trace.y, trace.x, strict=True)):
            ends = (None, None) if value is None else (value - bars.arrayminus[place], value + bars.array[place])
            drawn[name.split()[0]] = (trace.name, value, *ends)
    assert set(drawn) == {row["key"] for row in rows}
    for row in rows:
        verdict, value, low, high = drawn[row["key"]]
        assert verdict == row["verdict"]
        assert value == row["value"]
        if value is not None:
            assert (low, high) == pytest.approx((row["low"], row["high"]))
            assert figure.layout.xaxis.range[0] < low <= high < figure.layout.xaxis.range[1]


@given(some_rows())
@quick
def test_the_papers_figures_are_stars_and_the_words_tell_every_row(rows):
    figure = views.overview(rows)
    stars = [trace for trace in figure.data if trace.name == "the paper's figure"]
    quoted = [row["printed"] for row in rows if row["printed"] is not None]
    assert [value for trace in stars for value in trace.x] == quoted
    said = words_of(figure)
    assert said.startswith(f"{len(rows)} claims: ")
    for row in rows:
        assert f"{row['key']} {row['says']}: " in said
        assert row["verdict"] in said


def test_the_band_is_what_the_claim_asks_for():
    row = {"key": "c1", "says": "one", "paper": "C", "printed": None, "value": 0.3, "low": 0.2, "high": 0.4, "n": "n"}
    asked = [
        ("above", 0.1, "holds", (0.1, None)),
        ("below", 0.1, "does not hold", (None, 0.1)),
        ("within", 0.05, "does not hold", (-0.05, 0.05)),
    ]
    for side, bound, verdict, ends in asked:
        figure = views.overview([row | {"side": side, "bound": bound, "verdict": verdict}])
        (band,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
        reach = figure.layout.xaxis.range
        assert (band.x0, band.x1) == (
            ends[0] if ends[0] is not None else reach[0],
            ends[1] if ends[1] is not None else reach[1],
        )
    nothing = dict.fromkeys(("value", "low", "high", "n"))
    for changed in (
        {"side": None, "verdict": "not comparable"},
        {"side": "above", "verdict": "not stored yet", **nothing},
    ):
        figure = views.overview([row | {"bound": 0.0} | changed])
        assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]
        assert [one.text for one in figure.layout.annotations] == ["not stored yet"] * ("value" in changed)


def test_every_verdict_has_a_look_of_its_own():
    assert tuple(views.LOOKS) == VERDICTS
    assert (
        len({colour for colour, _ in views.LOOKS.values()})
        == len({mark for _, mark in views.LOOKS.values()})
        == len(VERDICTS)
    )


def test_names_are_cut_in_the_picture_and_whole_in_the_words():
    long = "a claim of so many words that nobody would ever find room for it beside the row of a figure, however wide"
    row = {"key": "d1", "says": long, "paper": "D", "side": "above", "bound": 0.0, "printed": None, "verdict": "holds"}
    figure = views.overview([row | {"value": 0.1, "low": 0.05, "high": 0.2, "n": "5 seeds"}])
    assert len(figure.data[0].y[0]) == views.LONGEST
    assert figure.data[0].y[0].startswith("d1 ")
    assert long in words_of(figure)


def test_no_row_and_a_strange_verdict_are_told():
    assert "No claim" in views.overview([]).layout.annotations[0].text
    with pytest.raises(ValueError, match="no verdict 'maybe'"):
        views.overview([{"verdict": "maybe"}])
