"""Views of lesson 30: where losses take a model of three tokens, how hard each pushes, and what a run does to both answers.

Symbols: N points of the triangle, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..immunization import three_tokens as toy
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INK, JUDGED, MIXED, REFUSAL, SAFE, finish

COLOURS = {
    "refusal-DPO": REFUSAL, "NPO": SAFE, "gradient ascent": ADVERSARIAL, "printed RKL": COMPLIANCE,
    "RKL, sides swapped": MIXED, "RKL, negated": INK, "bounded push": CONTRAST,
}  # fmt: skip
CORNERS = torch.tensor([[0.0, 0.0], [0.5, math.sqrt(3) / 2], [1.0, 0.0]], dtype=torch.float64)  # comply, refuse, other
NAMES = ("comply", "refuse", "something else")
DASHES = ("solid", "dash", "dot", "dashdot")
ROWS = 10  # of arrows
LONGEST = 0.065  # of an arrow, where a side of the triangle is 1


# ---------------------------------------------------------------- the triangle


def simplex(
    loss: str = "refusal-DPO", beta: float = 1.0, nll_weight: float = 0.0, strength: float = 1.0, shared: float = 0.0
) -> go.Figure:
    """The flow of gradient descent over all models of three tokens, and the path of one from the reference.

    A corner is certainty of that token. Arrows point where a step leads; long ones are fast, by the root of their speed.

    Args:
        loss: a name of `three_tokens.LOSSES`.
        beta, nll_weight, strength, shared: as in `three_tokens.Knobs`; a loss that lacks one does not change with it.

    Raises:
        ValueError: there is no such loss, or a knob is outside its range.
    """
    knobs = toy.Knobs(beta, nll_weight, strength, shared)
    starts, ends = _arrows(loss, knobs)
    path, values = toy.follow(loss, knobs)
    figure = go.Figure([_outline(), _field(starts, ends), _path(path, COLOURS[loss]), *_places(path, loss, strength)])
    for name, (x, y), shift in zip(NAMES, CORNERS.tolist(), (-16, 16, -16), strict=True):
        figure.add_annotation(x=x, y=y, text=f"<b>{name}</b>", showarrow=False, yshift=shift, font={"size": 15})
    figure.update_xaxes(
        visible=False, range=[-0.14, 1.14], constrain="domain"
    )  # else it shrinks whenever the page changes
    figure.update_yaxes(visible=False, range=[-0.09, 0.97], constrain="domain", scaleanchor="x")
    figure.update_layout(legend={"orientation": "h", "y": -0.02, "x": 0.5, "xanchor": "center"})
    return finish(figure, _told(loss, path, values), height=520, margin={"l": 10, "r": 10, "t": 20, "b": 40})


def _arrows(loss: str, knobs: toy.Knobs) -> tuple[Tensor, Tensor]:
    """Where arrows begin and end on the page, (N, 2) each."""
    thirds = [(i + 1 / 3, j + 1 / 3) for i in range(ROWS) for j in range(ROWS - i)]
    points = torch.tensor([[i, j, ROWS - i - j] for i, j in thirds], dtype=torch.float64) / ROWS  # (N, 3)
    moves = toy.flow(loss, points, knobs) @ CORNERS  # (N, 2)
    speed = moves.norm(dim=1, keepdim=True)  # (N, 1)
    length = LONGEST * (speed / speed.max().clamp(min=1e-12)).sqrt()  # (N, 1)
    starts = points @ CORNERS  # (N, 2)
    return starts, starts + length * moves / speed.clamp(min=1e-12)  # (N, 2)


def _outline() -> go.Scatter:
    x, y = torch.cat([CORNERS, CORNERS[:1]]).T.tolist()
    return go.Scatter(x=x, y=y, mode="lines", line={"color": INK, "width": 1.5}, hoverinfo="skip", showlegend=False)


def _field(starts: Tensor, ends: Tensor) -> go.Scatter:
    x, y = (_broken(*pair) for pair in zip(starts.T.tolist(), ends.T.tolist(), strict=True))
    marker = {"symbol": "arrow", "angleref": "previous", "size": [0, 9, 0] * len(starts), "color": JUDGED}
    return go.Scatter(x=x, y=y, mode="lines+markers", marker=marker, line={"color": JUDGED, "width": 1.3},
                      hoverinfo="skip", showlegend=False)  # fmt: skip


def _broken(starts: Sequence[float], ends: Sequence[float]) -> list[float | None]:
    """Pairs with a gap behind each, so that one line draws them all."""
    return [value for pair in zip(starts, ends, strict=True) for value in (*pair, None)]


def _path(path: Tensor, colour: str) -> go.Scatter:
    x, y = (path @ CORNERS).T.tolist()
    said = [", ".join(f"{name} {p:.2f}" for name, p in zip(NAMES, row, strict=True)) for row in path.tolist()]
    return go.Scatter(x=x, y=y, mode="lines", name="path of the training", line={"color": colour, "width": 5},
                      text=said, hovertemplate="%{text}<extra></extra>")  # fmt: skip


def _places(path: Tensor, loss: str, strength: float) -> list[go.Scatter]:
    places = {"start = reference": (path[0], INK, "circle"), "end": (path[-1], INK, "square-open")}
    places["harmful teacher"] = torch.tensor(toy.HARMFUL, dtype=torch.float64), ADVERSARIAL, "x"
    if loss == "bounded push":
        places["its target"] = toy.push_goal(strength), INK, "diamond-open"
    marks = []
    for name, (point, colour, symbol) in places.items():
        x, y = (point @ CORNERS).tolist()
        marker = {"color": colour, "symbol": symbol, "size": 14, "line": {"width": 2}}
        marks.append(
            go.Scatter(x=[x], y=[y], mode="markers", name=name, marker=marker, hovertemplate="<extra></extra>" + name)
        )
    return marks


def _told(loss: str, path: Tensor, values: Tensor) -> str:
    moves = "; ".join(f"{name} from {a:.2f} to {b:.2f}" for name, a, b in zip(NAMES, path[0], path[-1], strict=True))
    return f"{loss}, in {len(path) - 1} steps: {moves}. The loss goes from {values[0]:.2f} to {values[-1]:.2f}."


# ---------------------------------------------------------------- how hard a loss pushes


def weights(beta: float = 0.1, gained: float = 0.0) -> go.Figure:
    """How hard a harmful answer is pushed down, by how far it has come down: gradient ascent, NPO, and DPO beside them.

    The weight is the gradient on its log-probability r (compared with the reference): 1; 2·σ(β·r); and 2·σ(β·(r - c)), DPO's
    times 2/β, where the refusal has gained c.

    Args:
        beta: β > 0 of both.
        gained: c in nats; up = DPO is satisfied sooner.

    Raises:
        ValueError: β is not above 0.
    """
    if beta <= 0:
        raise ValueError(f"beta must be above 0, not {beta}.")
    ratios = [step / 4 for step in range(-160, 21)]
    lines = {
        "gradient ascent": ([1.0 for _ in ratios], "solid"),
        "NPO": ([_weight(beta * r) for r in ratios], "dash"),
        "refusal-DPO": ([_weight(beta * (r - gained)) for r in ratios], "dot"),
    }
    figure = go.Figure()
    for name, (values, dash) in lines.items():
        shown = f"{name}, times 2/β" if name == "refusal-DPO" else name
        line = {"color": COLOURS[name], "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=ratios, y=values, name=shown, mode="lines", line=line))
    figure.add_vline(
        x=0, line={"color": INK, "width": 1}, annotation_text="as the reference", annotation_position="top left"
    )
    title = "log-probability of the harmful answer, against the reference (nats)"
    figure.update_xaxes(title=title, range=[-40, 5], gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(title="weight of the push", range=[-0.05, 2.1], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    at = ", ".join(f"{_weight(beta * r):.2f} at {r}" for r in (0, -10, -40))
    alt = (
        f"The weight of a push by the harmful answer's log-ratio, at beta {beta:g}. Gradient ascent: 1 everywhere. NPO: {at}. "
        f"DPO times 2 over beta, where the refusal has gained {gained:g} nats: {_weight(-beta * gained):.2f} at 0."
    )
    return finish(figure, alt, height=400)


def _weight(x: float) -> float:
    return 1 + math.tanh(x / 2)  # 2·σ(x), without overflow


# ---------------------------------------------------------------- what a run does to both answers


def apart(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> go.Figure:
    """The margin of each run, and beside it the two log-probabilities of whose gains it is the difference, apart.

    Args:
        runs: name → rows with "step", "margin", "chosen" and "rejected", in order; a name that begins with a method's has its
            colour.

    Raises:
        ValueError: there are no runs, more than can be told apart, or one has no rows.
    """
    if not 1 <= len(runs) <= len(DASHES) or not all(runs.values()):
        raise ValueError(f"Expected 1 to {len(DASHES)} runs with at least one row each.")
    titles = ("margin", "log π(chosen), nats", "log π(rejected), nats")
    figure, told = make_subplots(rows=1, cols=3, subplot_titles=titles, horizontal_spacing=0.09), []
    for (name, rows), dash in zip(runs.items(), DASHES, strict=False):
        line = {"color": _colour(name), "dash": dash, "width": 3}
        for column, key in enumerate(("margin", "chosen", "rejected"), start=1):
            figure.add_trace(
                go.Scatter(x=[row["step"] for row in rows], y=[row[key] for row in rows], name=name, mode="lines+markers",
                           line=line, marker={"size": 5}, showlegend=column == 1),
                row=1, col=column,
            )  # fmt: skip
        ends = ", ".join(f"{key} {rows[0][key]:.2f} to {rows[-1][key]:.2f}" for key in ("margin", "chosen", "rejected"))
        told.append(f"{name}: {ends}")
    figure.update_xaxes(title="step", gridcolor=FAINT)
    figure.update_yaxes(gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    alt = f"Margin, and mean log-probabilities of the chosen and the rejected answers. {'; '.join(told)}."
    return finish(figure, alt, height=360, margin={"l": 50, "r": 20, "t": 40, "b": 90})


def _colour(name: str) -> str:
    return next((colour for method, colour in COLOURS.items() if name.startswith(method)), INK)
