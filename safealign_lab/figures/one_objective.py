"""Views of lesson 12: what a knob of the objective does to a student, and where ways of training stand between two wishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INK, MIXED, REFUSAL, SAFE, finish

STEEPNESS = "gradient_norm"  # no share, so that it has a panel of its own
LINES = {  # what is measured → its name, colour and dash
    "accuracy": ("right, clean", INK, "solid"),
    "robustness": ("right under attack", ADVERSARIAL, "dash"),
    "stability": ("same answer under attack", CONTRAST, "dot"),
    "alignment": ("KD alignment", SAFE, "longdash"),
    "calibration_error": ("calibration error", MIXED, "dashdot"),
    STEEPNESS: ("gradient norm", REFUSAL, "solid"),
}
Estimate = tuple[float, float, float]  # a mean, and the ends of its interval
NARROWEST = 0.2  # span of an axis of shares
MARKS = (
    (INK, "circle"), (COMPLIANCE, "square"), (SAFE, "diamond"), (ADVERSARIAL, "cross"),
    (CONTRAST, "triangle-up"), (MIXED, "star"), (REFUSAL, "x"),
)  # fmt: skip
WAYS = (  # each has its mark in every plane
    "hard labels", "KD alone", "KD + labels", "KD + random noise", "KD + adversarial", "printed + random noise",
    "printed + adversarial",
)  # fmt: skip


def knob(found: Mapping[float, Mapping[str, Estimate]], name: str) -> go.Figure:
    """What becomes of a student as one knob is turned: shares above, the norm of its loss's gradient below, with intervals.

    Args:
        found: value of the knob → each measure of `LINES` → its mean over seeds, and the ends of the interval.
        name: of the knob.

    Raises:
        ValueError: there is no value, or one lacks a measure.
    """
    if not found or not all(LINES.keys() <= each.keys() for each in found.values()):
        raise ValueError(f"Each value of a knob needs an estimate of {', '.join(LINES)} to be drawn.")
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06)
    told, places = [], [f"{value:g}" for value in found]
    for measure, (said, colour, dash) in LINES.items():
        means, lows, highs = zip(*(each[measure] for each in found.values()), strict=True)
        line = {"color": colour, "dash": dash, "width": 3}
        bars = {"type": "data", "symmetric": False, "color": colour, "width": 4,
                "array": [high - mean for high, mean in zip(highs, means, strict=True)],
                "arrayminus": [mean - low for low, mean in zip(lows, means, strict=True)]}  # fmt: skip
        drawn = go.Scatter(x=places, y=means, name=said, mode="lines+markers", line=line, error_y=bars)
        figure.add_trace(drawn, row=2 if measure == STEEPNESS else 1, col=1)
        told.append(f"{said}: " + ", ".join(f"{mean:.2f} at {at}" for at, mean in zip(places, means, strict=True)))
    figure.update_xaxes(type="category", gridcolor=FAINT)
    figure.update_xaxes(title=name, row=2)
    figure.update_yaxes(title="share", range=[-0.03, 1.03], gridcolor=FAINT, row=1)
    figure.update_yaxes(title="gradient norm", rangemode="tozero", gridcolor=FAINT, row=2)
    figure.update_layout(legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"})
    room = {"l": 60, "r": 20, "t": 20, "b": 130}  # below: the axis, and a legend of up to three lines
    return finish(figure, f"A student by the {name}. {'; '.join(told)}.", height=540, margin=room)


def plane(points: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> go.Figure:
    """Each way of training as one mark for each seed, between two wishes; further up and to the right is better in both.

    Args:
        points: way → (across, up) of each seed. A way of `WAYS` has the same mark in every plane, also with a comma and a
            schedule behind it; "stopped early" makes that mark an open one. Any other has the next mark.
        across, up: what the axes are called.

    Raises:
        ValueError: there is no way, or more than can be told apart; or one has no seed.
    """
    if not 1 <= len(points) <= len(MARKS) or not all(points.values()):
        raise ValueError(f"Expected 1 to {len(MARKS)} ways with at least one seed each.")
    figure, told = go.Figure(), []
    for place, (name, found) in enumerate(points.items()):
        x, y = zip(*found, strict=True)
        marker = {**_mark(name, place), "size": 11, "opacity": 0.8}
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker))
        told.append(f"{name}: {fmean(x):.2f} and {fmean(y):.2f}")
    for axis, title, place in ((figure.update_xaxes, across, 0), (figure.update_yaxes, up, 1)):
        axis(title=title, gridcolor=FAINT, range=_wide([pair[place] for found in points.values() for pair in found]))
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    return finish(figure, f"{across} and {up}, means over seeds. {'; '.join(told)}.", height=440)


def _mark(name: str, place: int) -> dict[str, object]:
    """The colour and the symbol of a way, which is the one at a place among others."""
    way, _, schedule = name.partition(", ")
    colour, symbol = MARKS[WAYS.index(way) if way in WAYS else place]
    if schedule == "stopped early":
        return {"color": colour, "symbol": f"{symbol}-open", "line": {"width": 2.5}}
    return {"color": colour, "symbol": symbol}


def _wide(values: Sequence[float]) -> list[float]:
    """A range around values that is never so narrow that a hundredth looks like much."""
    middle, half = (min(values) + max(values)) / 2, (max(values) - min(values)) / 2
    reach = max(1.15 * half, NARROWEST / 2)
    return [middle - reach, middle + reach]
