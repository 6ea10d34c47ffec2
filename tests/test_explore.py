"""The live panel: its controls, the figure that follows them, its errors, and how little it calls the view."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.lesson.explore import NAMES, REST, WAIT, panel_of


class View:
    """A view that remembers its calls, and how many of them ran at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.calls, self.running, self.most = seconds, [], 0, 0

    def __call__(self, **params) -> go.Figure:
        self.running += 1
        self.most = max(self.most, self.running)
        self.calls.append((time.perf_counter(), params))
        time.sleep(self.seconds)
        self.running -= 1
        return go.Figure(go.Bar(y=[1, 2]), layout={"meta": {"alt": f"{params}"}})

    @property
    def last(self) -> dict:
        return self.calls[-1][1]


async def until(condition) -> None:
    """Waits for a condition, and fails where it never comes."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never happened")


def no_empties(value):
    """A figure's dictionary without what says nothing: empty containers, and the traces' own ids."""
    if isinstance(value, dict):
        kept = {key: no_empties(one) for key, one in value.items() if key != "uid"}
        return {key: one for key, one in kept.items() if one not in ({}, [])}
    return [no_empties(one) for one in value] if isinstance(value, list) else value


def explore(view, **sliders):
    """What the learner sees."""
    return panel_of(view, sliders)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_each_kind_of_argument_makes_its_control():
    view = View()
    whole, real, choice, text, _, figure, words = explore(
        view, layers=(1, 9), alpha=(0, 0.95), kind=["a", "b"], request="Brew me tea."
    ).children
    assert (type(whole), whole.value, whole.step) == (widgets.IntSlider, 5, 1)
    assert (type(real), real.step, real.readout_format, real.max) == (widgets.FloatSlider, 0.01, ".2f", 0.95)
    assert (type(choice), choice.options, choice.value) == (widgets.Dropdown, ("a", "b"), "a")
    assert (type(text), text.value, text.continuous_update) == (widgets.Text, "Brew me tea.", False)
    assert isinstance(figure, go.FigureWidget)
    assert view.last == {"layers": 5, "alpha": real.value, "kind": "a", "request": "Brew me tea."}
    assert [type(view.last[name]) for name in ("layers", "alpha")] == [int, float]
    assert words.words == str(view.last)


def test_a_list_of_numbers_makes_a_slider_with_these_stops_that_starts_at_the_first_one_given():
    view = View()
    stops, mixed, *_ = explore(view, beta=[30.0, 0.0, 1e6, 0.05], kind=[1, "a"]).children
    assert (type(stops), type(mixed)) == (widgets.SelectionSlider, widgets.Dropdown)
    assert [label for label, _ in stops.options] == ["0", "0.05", "30", "1e+06"]
    assert view.last == {"beta": 30.0, "kind": 1}
    stops.index = 3
    assert view.last["beta"] == 1e6


def test_a_label_holds_the_name_and_its_letter_and_is_never_cut_off():
    known, unknown, *_ = explore(View(), alpha=(0.0, 1.0), hue=(0, 3)).children
    assert known.description == NAMES["alpha"] == "strength of the contrast, alpha (α)"
    assert unknown.description == "hue"
    assert known.style.description_width == "initial"
    assert known.continuous_update


@given(
    low=st.integers(-50, 50), width=st.integers(1, 400), step=st.integers(1, 40), scale=st.sampled_from([1, 0.1, 0.01, 1e-4])
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_a_slider_starts_on_a_step_near_the_middle_and_the_view_gets_what_the_label_shows(low, width, step, scale):
    step = min(step, width)
    view = View()
    ends = (low * scale, (low + width) * scale, step * scale)
    slider = explore(view, x=ends).children[0]
    steps = (slider.value - ends[0]) / ends[2]
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert abs(slider.value - (ends[0] + ends[1]) / 2) <= ends[2] / 2 + 1e-9
    for place in (0, round(steps), width // step):
        slider.value = ends[0] + place * ends[2]
        shown = f"{slider.value:{slider.readout_format}}"
        assert view.last["x"] == (float(shown) if scale != 1 else int(slider.value))
        assert view.last["x"] == pytest.approx(ends[0] + place * ends[2], abs=1e-9)


def test_a_first_value_may_be_given():
    whole, real, *_ = explore(View(), n=(0, 10, 2, 8), alpha=(0, 1, 0.25, 0.125)).children
    assert (whole.value, real.value, real.readout_format) == (8, 0.125, ".3f")


def test_numbers_of_numpy_make_sliders_too():
    assert explore(View(), x=(np.float64(0), np.float64(1))).children[0].value == 0.5


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((1,), "is no range: give (low, high)"),
        ((0, 1, 0.1, 0.5, 2), "is no range: give (low, high)"),
        ((0, "1"), "is no range: give (low, high)"),
        ((False, True), "is no range: give (low, high)"),
        ((0, float("inf")), "give two finite numbers"),
        ((0, float("nan")), "give two finite numbers"),
        ((1, 1), "cannot go from 1 to 1: give the lower end first"),
        ((2.0, 1.0), "cannot go from 2.0 to 1.0: give the lower end first"),
        ((0, 1, 0), "cannot move by 0: give a step above 0 and up to 1"),
        ((0, 1, -0.1), "cannot move by -0.1"),
        ((0, 1, 2), "cannot move by 2"),
        ((0, 1, 0.1, 1.5), "cannot start at 1.5: give a first value from 0 to 1"),
        ([], "makes no control: give a tuple"),
        (0.5, "makes no control: give a tuple"),
        (None, "makes no control: give a tuple"),
    ],
)
def test_what_makes_no_control_is_refused_before_the_view_is_called(given, says):
    view = View()
    with pytest.raises(ValueError, match="^strength") as refused:
        explore(view, strength=given)
    assert says in str(refused.value)
    assert not view.calls


# --- the figure -------------------------------------------------------------------------------------------------------

TRACES = st.lists(
    st.builds(
        lambda kind, ys, colour, name: {"type": kind, "y": ys, "name": name} | ({"marker": {"color": colour}} if colour else {}),
        st.sampled_from(["bar", "scatter"]), st.lists(st.integers(0, 9), max_size=3),
        st.sampled_from([None, "red", "blue"]), st.sampled_from([None, "a"]),
    ),
    max_size=3,
)  # fmt: skip
LAYOUTS = st.fixed_dictionaries(
    {},
    optional={
        "title": st.just({"text": "one"}) | st.just({"text": "two", "x": 0.5}), "xaxis": st.just({"range": [0, 1]}),
        "annotations": st.lists(st.just({"text": "here", "x": 1, "y": 1}), max_size=2), "height": st.sampled_from([200, 300]),
        "meta": st.just({"alt": "in words"}), "template": st.just("plotly_white"),
    },
)  # fmt: skip


@given(drawn=st.lists(st.tuples(TRACES, LAYOUTS), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_whatever_was_drawn_before_the_panel_shows_just_what_the_view_returns(drawn):
    figures = [go.Figure(traces, layout) for traces, layout in drawn]
    control, _, figure, words = explore(lambda at: figures[at], at=(0, len(figures) - 1, 1, 0)).children
    for place in range(len(figures)):
        control.value = place
        assert not words.trouble
        assert no_empties(figure.to_dict()) == no_empties(figures[place].to_dict())
        assert words.words == (figures[place].layout.meta or {}).get("alt", "")


def test_traces_of_the_same_kinds_are_changed_in_place_with_one_message():
    control, _, figure, _ = explore(lambda x: go.Figure([go.Bar(y=[x, 1]), go.Bar(y=[1, x])]), x=(0, 9)).children
    ids, sent = [trace.uid for trace in figure.data], []
    figure.observe(lambda change: change.new and sent.append(change.new), names="_py2js_update")
    control.value = 7
    assert [trace.uid for trace in figure.data] == ids
    assert len(sent) == 1
    assert sent[0]["style_data"] == {"y": [[7, 1], [1, 7]]}


def test_arrays_are_shown_as_they_are():
    control, _, figure, _ = explore(lambda x: go.Figure(go.Scatter(y=np.arange(4) * x)), x=(0, 9)).children
    control.value = 3
    assert list(figure.data[0].y) == [0, 3, 6, 9]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_view_is_one_line_the_old_figure_stays_and_the_next_good_value_clears_it():
    def view(x):
        if x == 2:
            raise ZeroDivisionError("by\nnothing <b>at all</b>")
        return "a picture" if x == 3 else go.Figure(go.Bar(y=[x]), layout={"meta": {"alt": f"x is {x}"}})

    control, _, figure, words = explore(view, x=(0, 4, 1, 1)).children
    for bad, says in (
        (2, "ZeroDivisionError: by nothing <b>at all</b>"),
        (3, "TypeError: The view gave str: a view returns"),
    ):
        control.value = bad
        assert words.trouble.startswith(says)
        assert (figure.data[0].y, words.words) == ((1,), "x is 1")
    control.value = 4
    assert (words.trouble, figure.data[0].y, words.words) == ("", (4,), "x is 4")


def test_a_view_that_fails_at_once_leaves_a_panel_that_says_so():
    _, _, figure, words = explore(lambda y: go.Figure(), x=(0, 4)).children
    assert words.trouble.startswith("TypeError: ")
    assert "'x'" in words.trouble
    assert not figure.data


# --- how often the view is called -------------------------------------------------------------------------------------


def test_outside_a_kernel_every_move_is_drawn_at_once():
    view = View()
    control = explore(view, x=(0, 9)).children[0]
    for x in (7, 8, 9):
        control.value = x
    assert [params["x"] for _, params in view.calls[1:]] == [7, 8, 9]


def test_fifty_moves_at_once_are_one_call_with_the_last_value():
    view = View()

    async def drag():
        control, _, _, words = explore(view, x=(0, 99, 1, 0)).children
        for x in range(1, 51):
            control.value = x
        assert len(view.calls) == 1
        await until(lambda: words.words == "{'x': 50}")
        await asyncio.sleep(3 * WAIT)

    asyncio.run(drag())
    assert [params["x"] for _, params in view.calls] == [0, 50]


@pytest.mark.parametrize("seconds", [0, 1.5 * WAIT], ids=["quick view", "slow view"])
def test_while_a_slider_moves_calls_keep_their_distance_and_the_last_value_wins(seconds):
    view = View(seconds)

    async def drag():
        control, _, _, words = explore(view, x=(0, 99, 1, 0)).children
        for x in range(1, 51):
            control.value = x
            await asyncio.sleep(WAIT / 10)
        await until(lambda: words.words == "{'x': 50}")

    asyncio.run(drag())
    starts = [at for at, _ in view.calls[1:]]
    assert len(starts) > 2  # it follows while it is dragged, and does not wait for the end
    assert min(b - a for a, b in pairwise(starts)) > 0.9 * WAIT
    assert view.last == {"x": 50}


def test_an_error_while_dragging_does_not_stop_the_panel():
    def view(x):
        if x < 50:
            raise RuntimeError("too small")
        return go.Figure(layout={"meta": {"alt": "fine"}})

    async def drag():
        control, _, _, words = explore(view, x=(0, 99, 1, 0)).children
        control.value = 10
        await until(lambda: words.trouble == "RuntimeError: too small")
        control.value = 60
        await until(lambda: words.words == "fine" and not words.trouble)

    asyncio.run(drag())


def test_controls_moved_from_two_threads_never_draw_at_once():
    view = View(0.02)
    one, two, *_ = explore(view, x=(0, 99, 1, 0), y=(0, 99, 1, 0)).children

    async def drag(control):
        for value in range(1, 31):
            control.value = value
            await asyncio.sleep(WAIT / 10)
        await until(lambda: view.last == {"x": 30, "y": 30} and not view.running)

    threads = [threading.Thread(target=lambda control=control: asyncio.run(drag(control))) for control in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert view.last == {"x": 30, "y": 30}
    assert view.most == 1


# --- a view in several figures ----------------------------------------------------------------------------------------


class Slow:
    """A view with something to show at once, and an answer that comes after it."""

    def __init__(self) -> None:
        self.asked = []

    def __call__(self, x):
        yield go.Figure(go.Bar(y=[x]), layout={"meta": {"alt": f"{x}, and wait"}})
        self.asked.append(x)
        if x == 3:
            raise RuntimeError("no answer to 3")
        yield go.Figure(go.Bar(y=[x]), layout={"meta": {"alt": f"{x}, and answered"}})


def test_without_a_kernel_and_at_first_all_figures_of_a_view_are_drawn():
    view = Slow()
    control, *_, words = explore(view, x=(0, 9, 1, 1)).children
    assert words.words == "1, and answered"
    control.value = 2
    assert words.words == "2, and answered"
    assert view.asked == [1, 2]


def test_the_first_figure_is_there_at_once_and_the_rest_only_when_nothing_moves():
    view = Slow()

    async def drag():
        control, *_, words = explore(view, x=(0, 9, 1, 1)).children
        for x in range(4, 9):
            control.value = x
            await until(lambda x=x: words.words == f"{x}, and wait")
            await asyncio.sleep(REST / 10)
        assert view.asked == [1]
        await until(lambda: words.words == "8, and answered")
        await asyncio.sleep(2 * REST)

    asyncio.run(drag())
    assert view.asked == [1, 8]


def test_an_error_in_a_later_figure_leaves_the_first_one_and_says_so():
    async def drag():
        control, *_, words = explore(Slow(), x=(0, 9, 1, 1)).children
        control.value = 3
        await until(lambda: words.trouble == "RuntimeError: no answer to 3")
        assert words.words == "3, and wait"
        control.value = 4
        await until(lambda: words.words == "4, and answered" and not words.trouble)

    asyncio.run(drag())
