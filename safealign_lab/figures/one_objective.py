"""Views of lesson 12: what a knob of the objective does to a student, and where ways of training stand between two wishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INK, MIXED, REFUSAL, SAFE, finish

LINES = {  # what is measured → its name, colour and dash
    "accuracy": ("right, clean", INK, "solid"),
    "robustness": ("right under attack", ADVERSARIAL, "dash"),
    "stability": ("same answer under attack", CONTRAST, "dot"),
    "calibration_error": ("calibration error", MIXED, "dashdot"),
}
NARROWEST = 0.2  # span of an axis of shares
MARKS = (
    (INK, "circle"), (COMPLIANCE, "square"), (SAFE, "diamond"), (ADVERSARIAL, "cross"),
    (CONTRAST, "triangle-up"), (MIXED, "star"), (REFUSAL, "x"),
)  # fmt: skip


def knob(runs: Mapping[float, Sequence[Mapping[str, Any]]], name: str) -> go.Figure:
    """What becomes of a student as one knob is turned: means over seeds, and bars from the lowest seed to the highest.

    Args:
        runs: value of the knob → one run for each seed, with the numbers of `LINES`.
        name: of the knob.

    Raises:
        ValueError: a value has no run.
    """
    if not runs or not all(runs.values()):
        raise ValueError("Each value of a knob needs at least one run to be drawn.")
    figure, told, places = go.Figure(), [], [f"{value:g}" for value in runs]
    for measure, (said, colour, dash) in LINES.items():
        found = [[one[measure] for one in some] for some in runs.values()]
        means = [fmean(each) for each in found]
        bars = {
            "array": [max(each) - mean for each, mean in zip(found, means, strict=True)],
            "arrayminus": [mean - min(each) for each, mean in zip(found, means, strict=True)],
        }
        figure.add_trace(
            go.Scatter(x=places, y=means, name=said, mode="lines+markers", line={"color": colour, "dash": dash, "width": 3},
                       error_y={"type": "data", "symmetric": False, "color": colour, "width": 4, **bars})
        )  # fmt: skip
        told.append(f"{said}: " + ", ".join(f"{mean:.2f} at {at}" for at, mean in zip(places, means, strict=True)))
    figure.update_xaxes(title=name, type="category", gridcolor=FAINT)
    figure.update_yaxes(range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    return finish(figure, f"A student by the {name}. {'; '.join(told)}.", height=400)


def plane(points: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> go.Figure:
    """Each way of training as one mark for each seed, between two wishes; further up and to the right is better in both.

    Args:
        points: way → (across, up) of each seed.
        across, up: what the axes are called.

    Raises:
        ValueError: there is no way, or more than can be told apart; or one has no seed.
    """
    if not 1 <= len(points) <= len(MARKS) or not all(points.values()):
        raise ValueError(f"Expected 1 to {len(MARKS)} ways with at least one seed each.")
    figure, told = go.Figure(), []
    for (name, found), (colour, symbol) in zip(points.items(), MARKS, strict=False):
        x, y = zip(*found, strict=True)
        marker = {"color": colour, "symbol": symbol, "size": 11, "opacity": 0.8}
        figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker))
        told.append(f"{name}: {fmean(x):.2f} and {fmean(y):.2f}")
    for axis, title, place in ((figure.update_xaxes, across, 0), (figure.update_yaxes, up, 1)):
        axis(title=title, gridcolor=FAINT, range=_wide([pair[place] for found in points.values() for pair in found]))
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    return finish(figure, f"{across} and {up}, means over seeds. {'; '.join(told)}.", height=440)


def _wide(values: Sequence[float]) -> list[float]:
    """A range around values that is never so narrow that a hundredth looks like much."""
    middle, half = (min(values) + max(values)) / 2, (max(values) - min(values)) / 2
    reach = max(1.15 * half, NARROWEST / 2)
    return [middle - reach, middle + reach]
