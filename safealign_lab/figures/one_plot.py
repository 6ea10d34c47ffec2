"""Views of lesson 40: every method as a point of safety and helpfulness, its rates, its cost, and what parts add together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..distillation.quality import Estimate
from ..one_plot.points import FAMILIES, Comparison, Point, front
from .base import (
    ADVERSARIAL,
    COMPLIANCE,
    FAINT,
    FAMILY_COLOURS,
    INCOHERENT,
    INK,
    JUDGED,
    REFUSAL,
    SAFE,
    error_bars,
    finish,
)

MARKS = {  # so that no family is told by its colour alone
    "no training": "circle", "distillation": "diamond", "contrast": "square", "immunization": "triangle-up",
    "composed": "star",
}  # fmt: skip
TICKS = [0, 0.2, 0.4, 0.6, 0.8, 1]
COLUMN, ROOM, TOP = 1.08, 0.055, 1.06  # where names stand, how far from each other at least, and how high at most
SMALL, LARGE = 10, 28  # pixels of a mark with no over-refusal, and with nothing but
COSTS = {
    "training": "training, in answers to 100 requests",
    "time": "time of a token",
    "memory": "memory",
}
BETTER = ("safety", "helpfulness")  # of which more is better; of the others, less
SHORT = {"safety": "harmful: refused", "harmful incoherent": "harmful: incoherent",
         "over-refusal, borderline": "borderline: refused", "over-refusal, benign": "benign: refused",
         "helpfulness": "benign: right"}  # fmt: skip


def plane(
    points: Sequence[Point], chosen: Collection[str] = (), helpful: str = "benign requests answered right"
) -> go.Figure:
    """Every method in the plane of helpfulness and safety; a larger mark refuses more of the harmless requests.

    Its size is by the kind of harmless requests, borderline or benign, of which more are refused; by one, where one was asked.

    A line joins those that no other method beats in both. The chosen ones have their names and their intervals.

    Args:
        points: in any order.
        chosen: names; without any, all on the front are named.
        helpful: what helpfulness is here.

    Raises:
        ValueError: there is no point.
    """
    parts = plane_parts(points, chosen, helpful)
    figure = go.Figure(parts.traces)
    figure.update_xaxes(parts.x)
    figure.update_yaxes(parts.y)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.18, "x": 0.5, "xanchor": "center", "itemsizing": "constant"}
    )
    return finish(figure, parts.alt, height=520, margin={"l": 60, "r": 20, "t": 20, "b": 110})


@dataclass(frozen=True)
class Parts:
    """What a view is made of, before it is a figure: plotly takes longest over the finishing of one."""

    traces: list[go.Scatter | go.Bar]
    x: dict[str, Any]
    y: dict[str, Any]
    alt: str


def plane_parts(
    points: Sequence[Point], chosen: Collection[str], helpful: str = "benign requests answered right"
) -> Parts:
    """What `plane` is made of; arguments and errors as there."""
    _some(points)
    best = front(points)
    named = set(chosen) or set(best)
    shown = [one for one in points if one.name in named]
    safety, use = ({one.name: one.measure(what) for one in shown} for what in ("safety", "helpfulness"))
    means = {one.name: (one.mean("helpfulness"), one.mean("safety")) for one in points}
    x, y = ([means[name][axis] for name in best] for axis in (0, 1))
    line = {"color": FAINT, "width": 6}
    traces = [
        go.Scatter(x=x, y=y, mode="lines", line=line, name="no other is better in both", hoverinfo="skip")
    ]  # fmt: skip
    traces += [_marks(family, [one for one in points if one.family == family], named, means) for family in FAMILIES]
    traces += [_bars(family, [one for one in shown if one.family == family], safety, use) for family in FAMILIES]
    traces += _names(shown, safety, use)
    told = "; ".join(f"{name} {safety[name].value:.2f} and {use[name].value:.2f}" for name in safety)
    return Parts(
        traces,
        {
            "title": {"text": f"helpfulness: {helpful}"},
            "range": [-0.05, 1.6],
            "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1],
            "gridcolor": FAINT,
        },
        {"title": {"text": "safety: harmful requests refused"}, "range": [-0.06, 1.16], "gridcolor": FAINT},
        f"Safety and helpfulness of {len(points)} methods. {told}. Beaten by no other in both: {', '.join(best)}.",
    )


def _marks(
    family: str, points: Sequence[Point], named: set[str], means: Mapping[str, tuple[float, float]]
) -> go.Scatter:
    """The methods of a family, without intervals: those take longer to draw from the data than all else."""
    colour, symbol = FAMILY_COLOURS[family], MARKS[family]
    prices = [one.over_refusals() for one in points]
    x, y = ([means[one.name][axis] for one in points] for axis in (0, 1))
    texts = [
        f"{one.name}<br>refused: {safe:.2f}<br>helpful: {use:.2f}<br>"
        + ", ".join(f"{kind} refused: {share:.2f}" for kind, share in over.items())
        for one, use, safe, over in zip(points, x, y, prices, strict=True)
    ]
    return go.Scatter(
        x=x, y=y, mode="markers", name=family, hovertext=texts, hoverinfo="text",
        marker={"color": colour, "symbol": symbol, "size": [SMALL + (LARGE - SMALL) * max(over.values()) for over in prices],
                "opacity": [1.0 if one.name in named else 0.5 for one in points], "line": {"color": "white", "width": 1}},
    )  # fmt: skip


def _bars(
    family: str, points: Sequence[Point], safety: Mapping[str, Estimate], use: Mapping[str, Estimate]
) -> go.Scatter:
    """The intervals of a family's points, in its colour, so that those which lie over each other can be told."""
    colour = FAMILY_COLOURS[family]
    return go.Scatter(
        x=[use[one.name].value for one in points], y=[safety[one.name].value for one in points], mode="markers",
        marker={"size": 1, "color": colour}, showlegend=False, hoverinfo="skip",
        error_x=error_bars([use[one.name] for one in points], colour),
        error_y=error_bars([safety[one.name] for one in points], colour),
    )  # fmt: skip


def _names(points: Sequence[Point], safety: Mapping[str, Estimate], use: Mapping[str, Estimate]) -> list[go.Scatter]:
    """The names of some points in a column beside the plot, never one over another, and lines that join them to their marks."""
    ordered = sorted(points, key=lambda one: (safety[one.name].value, use[one.name].value))
    heights = _apart([safety[one.name].value for one in ordered])
    x: list[float | None] = []
    y: list[float | None] = []
    for one, height in zip(ordered, heights, strict=True):
        x += [use[one.name].value, COLUMN, None]
        y += [safety[one.name].value, height, None]
    line = {"color": JUDGED, "width": 0.7, "dash": "dot"}
    return [
        go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip"),
        go.Scatter(x=[COLUMN] * len(ordered), y=heights, text=[one.name for one in ordered], mode="text",
                   textposition="middle right", textfont={"size": 12, "color": INK}, showlegend=False, hoverinfo="skip"),
    ]  # fmt: skip


def _apart(values: Sequence[float]) -> list[float]:
    """Rising heights near rising values, with room between them: pushed up from the lowest, then down from the top."""
    heights, last = [], -math.inf
    for value in values:
        last = max(value, last + ROOM)
        heights.append(last)
    limit = TOP
    for place in range(len(heights) - 1, -1, -1):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - ROOM
    return heights


def rates(points: Sequence[Point]) -> go.Figure:
    """Every measure of some methods with its interval, side by side.

    Args:
        points: a few, in the order in which they are drawn.

    Raises:
        ValueError: there is no point.
    """
    parts = rates_parts(points)
    figure = go.Figure(parts.traces)
    figure.update_xaxes(parts.x)
    figure.update_yaxes(parts.y)
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    return finish(figure, parts.alt, height=150 + 95 * len(points), margin={"l": 20, "r": 20, "t": 80, "b": 50})


def rates_parts(points: Sequence[Point]) -> Parts:
    """What `rates` is made of; argument and errors as there."""
    _some(points)
    traces, told = [], []
    colours = (REFUSAL, INCOHERENT, COMPLIANCE, ADVERSARIAL, SAFE)
    for (measure, short), colour in zip(SHORT.items(), colours, strict=True):
        found = [one.measure(measure) for one in points]
        traces.append(
            go.Bar(y=[one.name for one in points], x=[one.value for one in found], orientation="h", name=short,
                   marker_color=colour, error_x=error_bars(found, JUDGED),
                   hovertext=[str(one) for one in found], hoverinfo="text+name")
        )  # fmt: skip
        told.append(f"{short} {', '.join(f'{one.value:.2f}' for one in found)}")
    return Parts(
        traces,
        {"range": [0, 1.02], "title": {"text": "share"}, "gridcolor": FAINT},
        {"autorange": "reversed", "automargin": True},
        f"For {', '.join(one.name for one in points)}: {'; '.join(told)}.",
    )


def costs(points: Sequence[Point]) -> go.Figure:
    """What each method costs beside the undefended model: its training, the time of a token, and memory.

    Args:
        points: of which those without a cost are left out.

    Raises:
        ValueError: no point has a cost.
    """
    priced = [one for one in points if one.cost]
    _some(priced)
    figure = make_subplots(rows=1, cols=len(COSTS), shared_yaxes=True, horizontal_spacing=0.06)
    for column, (cost, title) in enumerate(COSTS.items(), start=1):
        for family in FAMILIES:
            its = [one for one in priced if one.family == family]
            colour, symbol = FAMILY_COLOURS[family], MARKS[family]
            figure.add_trace(
                go.Scatter(x=[one.cost[cost] for one in its], y=[one.name for one in its], mode="markers", name=family,
                           marker={"color": colour, "symbol": symbol, "size": 11}, cliponaxis=False, showlegend=column == 1,
                           legendgroup=family), row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(
            title={"text": title, "font": {"size": 12}}, rangemode="tozero", gridcolor=FAINT, col=column
        )
    names = [one.name for one in priced]
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], automargin=True, gridcolor=FAINT, ticksuffix="  "
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    dearest = {cost: max(priced, key=lambda one, cost=cost: one.cost[cost]) for cost in COSTS}  # type: ignore[misc]
    told = "; ".join(f"{COSTS[cost]}: most for {one.name}, {one.cost[cost]:.2f}" for cost, one in dearest.items())
    alt = f"Cost of {len(priced)} methods as ratios to the undefended model. {told}."
    return finish(figure, alt, height=150 + 24 * len(priced), margin={"l": 20, "r": 20, "t": 70, "b": 60})


def parts(effects: Mapping[str, Mapping[str, Comparison]]) -> go.Figure:
    """Main effects and interactions of a composition with their intervals; what crosses none may be chance.

    Args:
        effects: measure → of `one_plot.effects`.

    Raises:
        ValueError: there is no measure.
    """
    if not effects:
        raise ValueError("There is nothing to draw: expected the effects on at least one measure.")
    figure = make_subplots(rows=1, cols=len(effects), shared_yaxes=True, horizontal_spacing=0.06)
    told = []
    for column, (measure, found) in enumerate(effects.items(), start=1):
        names, values = list(found), list(found.values())
        bars = {
            "type": "data", "symmetric": False, "color": JUDGED, "thickness": 1.5, "width": 4,
            "array": [one.high - one.difference for one in values], "arrayminus": [one.difference - one.low for one in values],
        }  # fmt: skip
        colours = [
            INCOHERENT if not one.told_apart else SAFE if (one.difference > 0) == (measure in BETTER) else ADVERSARIAL
            for one in values
        ]
        symbols = ["circle" if one.told_apart else "circle-open" for one in values]
        figure.add_trace(
            go.Scatter(x=[one.difference for one in values], y=names, mode="markers", error_x=bars, showlegend=False,
                       marker={"color": colours, "symbol": symbols, "size": 11},
                       hovertext=[str(one) for one in values], hoverinfo="text"), row=1, col=column,
        )  # fmt: skip
        figure.add_vline(x=0, line_color=INK, line_width=1, row=1, col=column)
        figure.update_xaxes(title=SHORT[measure], gridcolor=FAINT, col=column)
        clear = [f"{name} {one.difference:+.2f}" for name, one in found.items() if one.told_apart]
        told.append(f"on {measure}, told from none: {', '.join(clear) or 'nothing'}")
    figure.update_yaxes(autorange="reversed", automargin=True, gridcolor=FAINT)
    alt = f"Effects of the parts and of their combinations: {'; '.join(told)}."
    return finish(figure, alt, height=380, margin={"l": 20, "r": 20, "t": 20, "b": 50})


def _some(points: Sequence[Point]) -> None:
    if not points:
        raise ValueError("There is nothing to draw: expected at least one method.")
