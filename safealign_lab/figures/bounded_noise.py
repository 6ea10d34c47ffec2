"""Views of lesson 11: the ball around a point and the way of an attack in it, how an attack climbs, and who withstands it.

Symbols: N points, C classes, D = 2 numbers in a point, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor

from ..distillation.perturbations import Norm, pgd_step
from ..measures import Rate
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INK, JUDGED, MIXED, PAPER, REFUSAL, SAFE, error_bars, finish

Logits = Callable[[Tensor], Tensor]  # points (N, 2) to logits (N, C = 2)
GRID = 61
# the drawn attacks: how many steps, and how long each as a share of the radius
ATTACKS = (("one step (FGSM)", 1, 1.0, CONTRAST), ("many steps (PGD)", 10, 0.25, ADVERSARIAL))
LOOKS = (
    (INK, "solid"),
    (SAFE, "dash"),
    (CONTRAST, "dot"),
    (ADVERSARIAL, "dashdot"),
    (MIXED, "longdash"),
    (COMPLIANCE, "solid"),
)


def ball(
    logits: Logits, points: Tensor, labels: Tensor, names: Sequence[str], chosen: int, scale: float, norm: Norm = "l2",
    epsilon: float = 0.3,
) -> go.Figure:  # fmt: skip
    """A decision boundary, one point with its ball, and how two attacks walk in it: one full step, and many short ones.

    Args:
        logits: of the classifier, on points of two numbers.
        points, labels: (N, 2) and (N,), drawn beside it.
        names: of the two classes.
        chosen: the number of the point that is attacked.
        scale: the mean length of a point, which ε is relative to.
        norm: of the ball: "l2" is a disc; "linf" a square, whose corners reach as far.
        epsilon: ε ≥ 0; up = a larger ball.

    Raises:
        ValueError: there is no such point.
    """
    if not 0 <= chosen < len(points):
        raise ValueError(f"There is no point {chosen}: expected one from 0 to {len(points) - 1}.")
    radius = epsilon * scale / (1.0 if norm == "l2" else 2**0.5)
    start, label = points[chosen], labels[chosen]
    around = [(middle - 1.2 * scale, middle + 1.2 * scale) for middle in start.tolist()]  # room for a ball of ε = 1
    figure = go.Figure([*_shares(logits, *around), *_by_class(points, labels, names)])
    x, y = start.tolist()
    kind, line = "circle" if norm == "l2" else "rect", {"color": INK, "width": 2}
    figure.add_shape(type=kind, line=line, x0=x - radius, x1=x + radius, y0=y - radius, y1=y + radius)
    told = []
    for name, steps, share, colour in ATTACKS:
        way = start + walk(logits, start, label, radius, norm, steps, share)  # (S+1, 2)
        xs, ys = way.T.tolist()  # S+1 numbers each
        line, marker = {"color": colour, "width": 3}, {"size": [4] * steps + [11], "color": colour}
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines+markers", line=line, marker=marker, name=name))
        told.append(f"{name} leaves {_right(logits, way[-1], label):.2f} for the right class")
    star = {"color": INK, "symbol": "star", "size": 12, "line": {"color": PAPER, "width": 1}}
    figure.add_trace(go.Scatter(x=[x], y=[y], mode="markers", marker=star, name="the attacked text"))
    square = {"gridcolor": FAINT, "zeroline": False, "constrain": "domain"}
    figure.update_xaxes(title="first direction", range=around[0], **square)
    figure.update_yaxes(title="second direction", range=around[1], scaleanchor="x", **square)
    figure.update_layout(legend={"orientation": "h", "y": -0.16})
    alt = (
        f"A point with {_right(logits, start, label):.2f} for its right class, and a {'disc' if norm == 'l2' else 'square'} of "
        f"radius {radius:.2f} around it. Within it, {'; '.join(told)}."
    )
    return finish(figure, alt, height=560, margin={"l": 60, "r": 20, "t": 20, "b": 90})


def _by_class(points: Tensor, labels: Tensor, names: Sequence[str]) -> list[go.Scatter]:
    """The points (N, 2) of each class in its colour."""
    traces = []
    for number, colour, symbol in ((0, COMPLIANCE, "circle"), (1, REFUSAL, "diamond")):
        xs, ys = points[labels == number].T.tolist()  # N' numbers each
        marker = {"color": colour, "symbol": symbol, "size": 7, "line": {"color": PAPER, "width": 1}}
        traces.append(go.Scatter(x=xs, y=ys, mode="markers", marker=marker, name=names[number]))
    return traces


def walk(logits: Logits, start: Tensor, label: Tensor, radius: float, norm: Norm, steps: int, share: float) -> Tensor:
    """Where an attack stands after each of its steps, from the point itself: δ, (S+1, 2).

    Args:
        logits, radius, norm: as in `ball`.
        start, label: (2,) and (): the point, and its right class.
        steps: S.
        share: the length of a step, as a share of the radius.
    """
    way = [torch.zeros_like(start)[None]]
    for _ in range(steps):
        here = way[-1].clone().requires_grad_()  # (1, 2)
        loss = F.cross_entropy(logits(start + here), label[None])
        slope = torch.autograd.grad(loss, here)[0]  # (1, 2)
        way.append(pgd_step(way[-1], slope, share * radius, radius, norm))
    return torch.cat(way).detach()  # (S+1, 2)


@torch.no_grad()
def _right(logits: Logits, point: Tensor, label: Tensor) -> float:
    """The probability of the right class at a point (2,)."""
    return float(logits(point[None]).softmax(-1)[0, label])


@torch.no_grad()
def _shares(logits: Logits, across: tuple[float, float], up: tuple[float, float]) -> list[go.Contour]:
    """The probability of class 1 over a part of the plane, and the boundary, where both classes have a half."""
    x, y = torch.linspace(*across, GRID), torch.linspace(*up, GRID)  # (G,) each
    shares = logits(torch.cartesian_prod(x, y)).softmax(-1)[:, 1].reshape(GRID, GRID).T  # (G, G)
    plane = {"x": x.tolist(), "y": y.tolist(), "z": shares.tolist(), "hoverinfo": "skip", "showscale": False}
    return [
        go.Contour(
            **plane, colorscale=[[0, COMPLIANCE], [0.5, PAPER], [1, REFUSAL]], opacity=0.35, zmin=0, zmax=1,
            contours={"start": 0.1, "end": 0.9, "size": 0.2}, line={"width": 1}, name="share",
        ),
        go.Contour(
            **plane, contours={"start": 0.5, "end": 0.5, "size": 1, "coloring": "none"}, line={"width": 3, "color": JUDGED},
            name="the boundary", showlegend=True,
        ),
    ]  # fmt: skip


def noise_losses(probability: float = 0.3) -> go.Figure:
    """What two losses ask of the probability of the right class: the printed one, an entropy, and a cross-entropy.

    Args:
        probability: of the right one of two classes, in (0, 1): the place that is marked.

    Raises:
        ValueError: a probability outside (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"A probability of {probability} has no place on this axis: expected one between 0 and 1.")
    grid = torch.linspace(0.005, 0.995, 199)  # (N,)
    figure, told = go.Figure(), []
    losses = {
        "cross-entropy with the label": (_cross_entropy, SAFE, "solid"),
        "as printed: an entropy": (_entropy, ADVERSARIAL, "dash"),
    }
    for name, (loss, colour, dash) in losses.items():
        here = torch.tensor(probability, requires_grad=True)
        value = loss(here)
        slope, height = float(torch.autograd.grad(value, here)[0]), value.item()
        way = (slope < 0) - (slope > 0)  # downhill, and nowhere from the top of the entropy
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=grid.tolist(), y=loss(grid).tolist(), name=name, mode="lines", line=line))
        if way:
            tip = min(1.0, max(0.0, probability + way * 0.12))
            figure.add_annotation(
                x=tip, y=height, ax=probability, ay=height, axref="x", ayref="y", text="", showarrow=True, arrowhead=2,
                arrowwidth=3, arrowcolor=colour,
            )  # fmt: skip
        told.append(f"{name} {('moves it down', 'leaves it there', 'moves it up')[way + 1]}")
    figure.update_xaxes(title="probability of the right class", range=[-0.02, 1.02], gridcolor=FAINT)
    figure.update_yaxes(title="loss, nats", range=[0, 3], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    alt = f"The right class has a probability of {probability:.2f}. To be minimised, {'; '.join(told)}."
    return finish(figure, alt, height=360, margin={"l": 60, "r": 20, "t": 20, "b": 90})


def _cross_entropy(p: Tensor) -> Tensor:
    return -p.log()


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())


def climbs(curves: Mapping[str, Sequence[float]]) -> go.Figure:
    """How high each attack has driven the loss after each of its steps.

    Args:
        curves: name → losses after 0, 1, 2, … steps, of `distillation.perturbations.loss_curve`.

    Raises:
        ValueError: there is no curve, or there are more than six.
    """
    _need_looks(curves)
    figure, told = go.Figure(), []
    for (name, losses), (colour, dash) in zip(curves.items(), LOOKS, strict=False):
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(
            go.Scatter(x=list(range(len(losses))), y=list(losses), name=name, mode="lines+markers", line=line)
        )
        told.append(f"{name}: {losses[0]:.2f} to {losses[-1]:.2f}")
    figure.update_xaxes(title="steps of the attack", gridcolor=FAINT)
    figure.update_yaxes(title="mean loss, nats", rangemode="tozero", gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    return finish(figure, f"The loss under attack, before and after. {'; '.join(told)}.", height=360)


def withstood(rates: Mapping[str, Mapping[float, Rate]], what: str = "radius of the attack, ε") -> go.Figure:
    """Accuracy of several students as an attack grows, with 95 % intervals.

    Args:
        rates: student → (radius → its accuracy); 0 is the clean accuracy.
        what: what the horizontal axis is called.

    Raises:
        ValueError: there is no student, or there are more than six.
    """
    _need_looks(rates)
    figure, told = go.Figure(), []
    for (name, row), (colour, dash) in zip(rates.items(), LOOKS, strict=False):
        found = list(row.values())
        figure.add_trace(
            go.Scatter(x=list(row), y=[rate.value for rate in found], error_y=error_bars(found, colour), name=name,
                       mode="lines+markers", line={"color": colour, "dash": dash, "width": 3})
        )  # fmt: skip
        told.append(f"{name}: " + ", ".join(f"{rate.value:.2f} at {at:g}" for at, rate in row.items()))
    figure.update_xaxes(title=what, gridcolor=FAINT)
    figure.update_yaxes(title="accuracy", range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    return finish(figure, f"Accuracy by {what}. {'; '.join(told)}.", height=420)


def _need_looks(drawn: Mapping[str, object]) -> None:
    if not 1 <= len(drawn) <= len(LOOKS):
        raise ValueError(f"{len(drawn)} lines cannot be told apart: expected 1 to {len(LOOKS)}.")
