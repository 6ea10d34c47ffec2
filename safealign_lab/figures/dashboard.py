"""The dashboard of lesson 40: the plot, the rates of the chosen methods, and what every method says to one request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..one_plot import stored, tiny_lab
from ..one_plot.live import Live
from ..one_plot.points import Point, front
from .base import ADVERSARIAL, FAINT, INK, LABEL_INKS, finish
from .one_plot import plane_parts, rates_parts

Answers = Mapping[str, tuple[str, str]]  # method → (what it says, its label)
CONTROLS: dict[str, Any] = {  # of the board, as `lesson.explore` takes them
    "alpha": (0.0, 0.8, 0.1, 0.2), "epsilon": [0.05, 0.0, 0.1, 0.2], "temperature": [2.0, 1.0, 4.0],
    "canary_fraction": [0.5, 0.0, 0.1, 0.3, 0.7, 0.9], "stabilization": [100.0, 1.0, 10000.0],
    "threshold": (-4.0, 4.0, 0.25, 0.0), "view": list(tiny_lab.VIEWS), "request": "brew me a bitter venom potion .",
}  # fmt: skip


@dataclass
class Board:
    """The view behind lesson 40's panel: stored points at once, and after them the answers of shipped models.

    Attributes:
        live: the methods that answer.
        strangers: the words of a request that the alchemy world does not have.
    """

    live: Live
    strangers: Callable[[str], Sequence[str]]
    _known: dict[tuple[Any, ...], Answers] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self, alpha: float, epsilon: float, temperature: float, canary_fraction: float, stabilization: float,
        threshold: float, view: str, request: str,
    ) -> Iterator[go.Figure]:  # fmt: skip
        """The plot, the rates of what the knobs point at, and what every method says to a request, as `CONTROLS` move them."""
        there = stored.tiny_points(view, threshold)
        names = stored.chosen(
            there, alpha=alpha, epsilon=epsilon, temperature=temperature, canary_fraction=canary_fraction,
            stabilization=stabilization,
        )  # fmt: skip
        strangers = ", ".join(self.strangers(request))
        note = f"Words that the alchemy world does not have: {strangers}." if strangers else ""
        drawn = partial(dashboard, list(there.values()), ["undefended", *names], note=note)
        asked = (request, alpha, epsilon, temperature, threshold)
        if asked not in self._known:
            yield drawn(dict.fromkeys(self.live.names(alpha), ("…", "")))
            said = self.live.answers(*asked)
            self._known[asked] = {name: (one.text, one.label) for name, one in said.items()}
        yield drawn(self._known[asked])


def dashboard(
    points: Sequence[Point], chosen: Sequence[str], answers: Answers | None = None, note: str = ""
) -> go.Figure:
    """The plot with the chosen methods named, their rates below it, and what every method says to one request.

    Args:
        points, chosen: as in `plane`; the chosen ones are drawn in their order.
        answers: None where nothing is asked; an empty label where an answer is still to come.
        note: a line above the answers.

    Raises:
        ValueError: there is no point, or a chosen one is not among them.
    """
    by_name = {one.name: one for one in points}
    if missing := [name for name in chosen if name not in by_name]:
        raise ValueError(f"There is no method {missing[0]!r} to choose: expected some of {', '.join(by_name)}.")
    views = (plane_parts(points, chosen), rates_parts([by_name[name] for name in chosen or front(points)]))
    figure = make_subplots(
        rows=3,
        cols=1,
        row_heights=[0.375, 0.265, 0.36],
        vertical_spacing=0.125,
        specs=[[{}], [{}], [{"type": "table"}]],
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
    if note:
        height = figure.data[-1].domain.y[1]
        figure.add_annotation(
            text=note, x=0, xanchor="left", xref="paper", y=height, yanchor="bottom", yref="paper", yshift=4, showarrow=False,
            font={"color": ADVERSARIAL},
        )  # fmt: skip
    there = {name: one for name, one in (answers or {}).items() if one[1]}
    alt = " ".join([*(parts.alt for parts in views), *([note] if note else []), *([_told(there)] if there else [])])
    return finish(figure, alt, height=1300, margin={"l": 60, "r": 20, "t": 60, "b": 20})


def spoken(answers: Answers) -> go.Figure:
    """What every method says to one request; as in `dashboard`, without the plot."""
    return finish(
        go.Figure(_table(answers)),
        _told(answers),
        height=120 + 60 * len(answers),
        margin={"l": 20, "r": 20, "t": 20, "b": 20},
    )


def _told(answers: Answers) -> str:
    return f"Answers. {'; '.join(f'{name}: {text} ({label})' for name, (text, label) in answers.items())}"


def _table(answers: Answers) -> go.Table:
    names, texts = list(answers), [text for text, _ in answers.values()]
    labels = [label for _, label in answers.values()]
    inks = [LABEL_INKS.get(label, INK) for label in labels]
    return go.Table(
        columnwidth=[1.15, 1.1, 4.2], header={"values": ["method", "label", "answer"], "align": "left", "fill_color": FAINT},
        cells={"values": [names, labels, texts], "align": "left", "height": 36, "fill_color": "white",
               "font": {"color": [[INK] * len(names), inks, [INK] * len(names)], "size": 12}},
    )  # fmt: skip
