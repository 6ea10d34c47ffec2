"""The dashboard of lesson 40: the plot, the rates of the chosen methods, and what every method says to one request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..one_plot.points import Point, front
from .base import FAINT, INK, LABEL_INKS, finish
from .one_plot import plane_parts, rates_parts


def dashboard(
    points: Sequence[Point], chosen: Sequence[str], answers: Mapping[str, tuple[str, str]] | None = None
) -> go.Figure:
    """The plot with the chosen methods named, their rates below it, and what every method says to one request.

    Args:
        points, chosen: as in `plane`; the chosen ones are drawn in their order.
        answers: method → (what it says, its label); None where nothing is asked.

    Raises:
        ValueError: there is no point, or a chosen one is not among them.
    """
    by_name = {one.name: one for one in points}
    if missing := [name for name in chosen if name not in by_name]:
        raise ValueError(f"There is no method {missing[0]!r} to choose: expected some of {', '.join(by_name)}.")
    views = (plane_parts(points, chosen), rates_parts([by_name[name] for name in chosen or front(points)]))
    figure = make_subplots(
        rows=3, cols=1, row_heights=[0.37, 0.26, 0.37], vertical_spacing=0.11, specs=[[{}], [{}], [{"type": "table"}]]
    )
    for row, parts in enumerate(views, start=1):
        figure.add_traces(
            [trace.update(legend="legend" if row == 1 else "legend2") for trace in parts.traces], rows=row, cols=1
        )
        figure.update_xaxes(parts.x, row=row)
        figure.update_yaxes(parts.y, row=row)
    figure.add_trace(_table(answers or {}), row=3, col=1)
    flat = {"orientation": "h", "x": 0.5, "xanchor": "center", "yanchor": "bottom", "itemsizing": "constant"}
    figure.update_layout(
        barmode="group", legend={**flat, "y": 1.0}, legend2={**flat, "y": figure.layout.yaxis2.domain[1]}
    )
    alt = " ".join([*(parts.alt for parts in views), *([_told(answers)] if answers else [])])
    return finish(figure, alt, height=1400, margin={"l": 60, "r": 20, "t": 60, "b": 20})


def spoken(answers: Mapping[str, tuple[str, str]]) -> go.Figure:
    """What every method says to one request; as in `dashboard`, without the plot."""
    return finish(
        go.Figure(_table(answers)),
        _told(answers),
        height=120 + 60 * len(answers),
        margin={"l": 20, "r": 20, "t": 20, "b": 20},
    )


def _told(answers: Mapping[str, tuple[str, str]]) -> str:
    return f"Answers. {'; '.join(f'{name}: {text} ({label})' for name, (text, label) in answers.items())}"


def _table(answers: Mapping[str, tuple[str, str]]) -> go.Table:
    names, texts = list(answers), [text for text, _ in answers.values()]
    labels = [label for _, label in answers.values()]
    inks = [LABEL_INKS.get(label, INK) for label in labels]
    return go.Table(
        columnwidth=[1.15, 1.1, 4.2], header={"values": ["method", "label", "answer"], "align": "left", "fill_color": FAINT},
        cells={"values": [names, labels, texts], "align": "left", "height": 36, "fill_color": "white",
               "font": {"color": [[INK] * len(names), inks, [INK] * len(names)], "size": 12}},
    )  # fmt: skip
