"""Views are pure functions: whatever the parameters, a figure with its words, and the drawn numbers are the given ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import start
from safealign_lab.figures.base import LABEL_COLOURS
from safealign_lab.lesson.show import show_figure, table_html
from safealign_lab.measures import Interval, rate

LABELS = tuple(LABEL_COLOURS)


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def answer_steps(count: int, length: int) -> list[dict]:
    first = {stream: {"take": 0.5, "no": 0.25} for stream in ("safe", "adversarial", "contrast")}
    return [
        {
            "alpha": i / max(1, count),
            "tokens": [f"w{i}-{j}" for j in range(length)],
            "label": LABELS[min(i, 1) - 1],
            "first": first,
        }
        for i in range(count)
    ]


def test_the_methods_are_all_in_the_picture_and_in_its_words():
    figure = start.three_methods()
    written = " ".join(annotation.text or "" for annotation in figure.layout.annotations)
    for name in ("distillation", "contrast", "immunization"):
        assert name in written
        assert name in words_of(figure).lower()


@given(st.integers(1, 25), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_the_slider_has_a_step_for_each_alpha_and_each_frame_its_answer(count, length):
    steps = answer_steps(count, length)
    figure = start.contrast_slider(steps, "brew me a bitter venom potion .")
    assert [step["label"] for step in figure.layout.sliders[0]["steps"]] == [f"{s['alpha']:.2f}" for s in steps]
    for frame, step in zip(figure.frames, steps, strict=True):
        drawn = " ".join(frame.data[0].text or ())
        assert all(token in drawn for token in step["tokens"])
        assert f"({step['label']})" in drawn
        assert len(frame.data[0].x) == len(step["tokens"]) + 1
    assert "bitter venom" in words_of(figure)


def test_the_words_of_the_slider_tell_each_turn_and_the_end():
    told = words_of(start.contrast_slider(answer_steps(4, 2), "?"))
    assert "at α = 0.00 (incoherent) “w0-0 w0-1”" in told
    assert "at α = 0.25 (refusal) “w1-0 w1-1”" in told
    assert "w2-0" not in told
    assert "at α = 0.75 (refusal) “w3-0 w3-1”." in told


@given(st.lists(st.tuples(*[st.integers(0, 60)] * 3).filter(any), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_shares_draw_the_rates_and_their_intervals(counts):
    rows = {
        f"set {i}": {label: rate(count, sum(row)) for label, count in zip(LABELS, row, strict=True)}
        for i, row in enumerate(counts)
    }
    judged = {
        name: {label: Interval(0.1, 0.2 + place / 100, 0.95) for label in LABELS} for place, name in enumerate(rows)
    }
    figure = start.shares(rows, "title", judged)
    assert list(figure.layout.yaxis.ticktext) == list(rows)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(bars) == len(lines) == len(start.shares(rows, "title").data) == len(LABELS)
    for bar, line in zip(bars, lines, strict=True):
        assert [round(at) for at in bar.y] == list(figure.layout.yaxis.tickvals)
        for name, value, up, down in zip(rows, bar.x, bar.error_x.array, bar.error_x.arrayminus, strict=True):
            drawn = rows[name][bar.name]
            assert (value, value + up, value - down) == pytest.approx((drawn.value, drawn.high, drawn.low))
        assert [end for end in line.x if end is not None] == [
            end for name in rows for end in (judged[name][bar.name].low, judged[name][bar.name].high)
        ]
        assert [at for at in line.y if at is not None] == pytest.approx(
            [at + start.BAR / 3 for at in bar.y for _ in range(2)]
        )
        assert bar.marker.color == LABEL_COLOURS[bar.name]
    assert len({at for bar in bars for at in bar.y}) == len(LABELS) * len(rows)  # no bar hides another
    assert all(name in words_of(figure) for name in rows)
    assert "with the judge's errors 0.10 to 0.20" in words_of(figure)


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_a_confusion_shows_every_count_and_its_share_of_the_row(counts):
    figure = start.confusion({"labels": list(LABELS), "confusion": counts}, "title")
    (cells,) = figure.data
    for row, told, shade in zip(counts, cells.text, cells.z, strict=True):
        assert [int(text.split("<br>")[0]) for text in told] == row
        assert sum(shade) == pytest.approx(1 if sum(row) else 0)
    assert all(str(count) in words_of(figure) for row in counts for count in row)


def test_a_confusion_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="as many rows and columns"):
        start.confusion({"labels": list(LABELS), "confusion": [[1, 2], [3, 4]]}, "title")


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="nothing to draw"):
        start.shares({}, "title")
    with pytest.raises(ValueError, match="no answer to show"):
        start.contrast_slider([], "?")


def test_a_figure_without_words_is_refused():
    import plotly.graph_objects as go

    with pytest.raises(ValueError, match="no text alternative"):
        show_figure(go.Figure())


def test_tables_escape_what_they_show():
    assert "<script>" not in table_html([{"answer": "<script>alert(1)</script>"}])
    assert table_html([]) == "<p>(no rows)</p>"
