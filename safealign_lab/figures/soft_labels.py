"""Views of lesson 10: what a temperature does, the two directions of KL, how hard each pushes, how far to believe a student.

Symbols: C classes, τ temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..distillation import printed
from ..distillation.losses import Direction, kd_loss
from ..distillation.quality import calibration_error
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INCOHERENT, INK, SAFE, finish

PLACES = 41  # at which the movable student of `directions` may stand
TEACHER = ((10.0, 2.2, 0.6), (30.0, 2.2, 0.4))  # place, width and share of each of its two peaks
WIDTH = 2.2  # of the student's only peak
DIRECTIONS: tuple[tuple[Direction, str, str], ...] = (
    ("teacher||student", SAFE, "solid"), ("student||teacher", ADVERSARIAL, "dash"),
)  # fmt: skip
TEMPERATURES = [2 ** (step / 4) for step in range(17)]  # 1 to 16


def softened(logits: Sequence[float], names: Sequence[str], temperature: float = 2.0) -> go.Figure:
    """The same opinion at temperature 1 and at τ: the order stays, and what was small can be seen.

    Args:
        logits: (C,), of the teacher.
        names: of the classes.
        temperature: τ > 0; up = flatter.

    Raises:
        ValueError: there is no temperature of 0 or below.
    """
    if not temperature > 0:
        raise ValueError(f"A temperature of {temperature} does not exist: expected a number above 0.")
    sharp, soft = (torch.softmax(torch.tensor(logits) / t, dim=-1).tolist() for t in (1.0, temperature))
    figure = go.Figure()
    for name, shares, colour in (("temperature 1", sharp, INCOHERENT), (f"temperature {temperature:g}", soft, SAFE)):
        figure.add_trace(
            go.Bar(x=list(names), y=shares, name=name, marker_color=colour, text=[f"{share:.3f}" for share in shares])
        )
    figure.update_yaxes(title="probability", range=[0, 1.05], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.15}, barmode="group")
    told = "; ".join(f"{name} {one:.3f} to {other:.3f}" for name, one, other in zip(names, sharp, soft, strict=True))
    return finish(figure, f"From temperature 1 to {temperature:g}: {told}.", height=340)


def directions(place: float = 20.0) -> go.Figure:
    """A student with one peak, and a teacher with two: where each direction of KL wants it to stand.

    Args:
        place: of the student's peak, from 0 to 40.

    Raises:
        ValueError: the place lies elsewhere.
    """
    if not 0 <= place <= PLACES - 1:
        raise ValueError(f"There is no place {place}: expected one from 0 to {PLACES - 1}.")
    grid = torch.arange(PLACES, dtype=torch.float64)  # (C,)
    teacher = torch.stack([share * _peak(grid, at, width).softmax(-1) for at, width, share in TEACHER]).sum(0).log()
    *students, here = [_peak(grid, at, WIDTH) for at in (*range(PLACES), place)]  # C+1 of (C,)
    figure, told = make_subplots(rows=1, cols=2, horizontal_spacing=0.12), []
    for name, shares, colour in (("teacher", teacher.exp(), INK), ("student", here.softmax(-1), COMPLIANCE)):
        line = {"color": colour, "width": 3}
        figure.add_trace(go.Scatter(x=grid.tolist(), y=shares.tolist(), name=name, line=line), 1, 1)
    for direction, colour, dash in DIRECTIONS:
        *values, value = [float(kd_loss(one[None], teacher[None], direction=direction)) for one in (*students, here)]
        name, line = f"KL({direction.replace('||', ' ‖ ')})", {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=grid.tolist(), y=values, name=name, mode="lines", line=line), 1, 2)
        told.append(f"{name} is {value:.2f} here, least at {min(range(PLACES), key=values.__getitem__)}")
    figure.add_vline(x=place, line={"color": COMPLIANCE, "width": 2, "dash": "dot"})
    figure.update_xaxes(title="class", gridcolor=FAINT)
    figure.update_yaxes(title="probability", gridcolor=FAINT, col=1)
    figure.update_yaxes(title="divergence, nats", type="log", dtick=1, gridcolor=FAINT, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    alt = f"A teacher with peaks at 10 and 30, a student with one peak at {place:g}. {'; '.join(told)}."
    return finish(figure, alt, height=380, margin={"l": 60, "r": 20, "t": 20, "b": 90})


def _peak(grid: Tensor, place: float, width: float) -> Tensor:
    """Logits (C,) of a bell at a place."""
    return -(((grid - place) / width) ** 2) / 2


def pushes(margin: float = 6.0) -> go.Figure:
    """How hard two losses push at a student that is sure of the wrong class, by how sure it is.

    Args:
        margin: of the marked student, in logits, from 0 to 15; the teacher is as sure of the right class as 3 logits make it.

    Raises:
        ValueError: the margin lies elsewhere.
    """
    if not 0 <= margin <= 15:
        raise ValueError(f"A margin of {margin} has no place on this axis: expected 0 to 15 logits.")
    grid = sorted({step / 2 for step in range(31)} | {float(margin)})
    sizes = [_sizes(one) for one in grid]
    figure, told = go.Figure(), []
    for place, (name, colour, dash) in enumerate(
        (("KL(teacher ‖ student)", SAFE, "solid"), ("as printed, KL(student ‖ teacher)", ADVERSARIAL, "dash"))
    ):
        values = [both[place] for both in sizes]
        here = values[grid.index(float(margin))]
        figure.add_trace(go.Scatter(x=grid, y=values, name=name, line={"color": colour, "dash": dash, "width": 3}))
        marker = {"color": colour, "size": 12}
        figure.add_trace(go.Scatter(x=[margin], y=[here], mode="markers", marker=marker, showlegend=False))
        told.append(f"{name} pushes with {here:.2g}")
    figure.update_xaxes(title="margin of the wrong class, logits", gridcolor=FAINT)
    figure.update_yaxes(title="size of the gradient", type="log", dtick=1, gridcolor=FAINT, exponentformat="power")
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    alt = f"A student that prefers the wrong class by {margin:g} logits: {'; '.join(told)}."
    return finish(figure, alt, height=380, margin={"l": 70, "r": 20, "t": 20, "b": 90})


def _sizes(margin: float) -> tuple[float, float]:
    """The gradients' norms at a student that is wrong by a margin: of the working loss and of the printed one."""
    student = torch.tensor([[0.0, margin]], dtype=torch.float64, requires_grad=True)  # (1, 2)
    teacher = torch.tensor([[3.0, 0.0]], dtype=torch.float64)  # (1, 2)
    losses = (kd_loss(student, teacher), printed.kd_loss(student, teacher, 1.0))
    one, other = (float(torch.autograd.grad(loss, student)[0].norm()) for loss in losses)
    return one, other


def gradient_sizes(student_logits: Tensor, teacher_logits: Tensor) -> go.Figure:
    """How the distillation's gradient shrinks as the temperature rises, and how τ² makes up for it.

    Args:
        student_logits, teacher_logits: (B, C).
    """
    figure, told = go.Figure(), []
    for name, scaled, colour, dash in (("with τ²", True, SAFE, "solid"), ("without τ²", False, ADVERSARIAL, "dash")):
        sizes = []
        for temperature in TEMPERATURES:
            student = student_logits.detach().clone().requires_grad_()  # (B, C)
            loss = kd_loss(student, teacher_logits, temperature, scaled=scaled)
            sizes.append(float(torch.autograd.grad(loss, student)[0].norm()))
        ratios = [size / sizes[0] for size in sizes]
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=TEMPERATURES, y=ratios, name=name, mode="lines", line=line))
        told.append(f"{name} it ends at {ratios[-1]:.3g} of itself")
    figure.update_xaxes(title="temperature, τ", type="log", tickvals=[1, 2, 4, 8, 16], gridcolor=FAINT)
    figure.update_yaxes(
        title="gradient, temperature 1 = 1", type="log", dtick=1, gridcolor=FAINT, exponentformat="power"
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    alt = f"The size of the gradient from temperature 1 to 16: {'; '.join(told)}."
    return finish(figure, alt, height=360, margin={"l": 70, "r": 20, "t": 20, "b": 90})


def reliability(logits: Tensor, labels: Tensor, who: str, bins: int = 10) -> go.Figure:
    """Said and done: of the answers that were given with a certain confidence, the share that is right.

    Args:
        logits, labels: (N, C) and (N,).
        who: whose answers they are.
        bins: of equal width, from 0 to 1; up = finer, and more of it is chance.

    Raises:
        ValueError: as in `distillation.quality.calibration_error`.
    """
    error = calibration_error(logits, labels, bins).value
    confidence, guesses = logits.double().softmax(-1).max(-1)  # (N,) each
    places = (confidence * bins).ceil().long().clamp(1, bins)  # (N,)
    rows = []
    for place in sorted(set(places.tolist())):
        its = places == place  # (N,)
        rows.append((float(confidence[its].mean()), float((guesses == labels)[its].float().mean()), int(its.sum())))
    figure, line, least = go.Figure(), {"color": FAINT, "width": 6}, 1 / logits.shape[1]  # nobody is less sure
    figure.add_trace(go.Scatter(x=[least, 1], y=[least, 1], mode="lines", line=line, name="as right as sure"))
    sizes = [8 + 34 * (count / len(labels)) ** 0.5 for _, _, count in rows]
    marker = {"size": sizes, "color": CONTRAST, "opacity": 0.85, "line": {"color": INK, "width": 1}}
    figure.add_trace(
        go.Scatter(x=[sure for sure, _, _ in rows], y=[right for _, right, _ in rows], mode="markers", marker=marker,
                   name=who, text=[f"{count} answers" for _, _, count in rows])
    )  # fmt: skip
    figure.update_xaxes(title="how sure it was", range=[least - 0.05, 1.05], gridcolor=FAINT)
    figure.update_yaxes(title="share that was right", range=[-0.05, 1.1], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.22})
    told = "; ".join(f"{sure:.2f} sure, {right:.2f} right, {count} answers" for sure, right, count in rows)
    alt = f"{who}, expected calibration error {error:.3f}. {told}."
    title = f"expected calibration error {error:.3f}, {bins} bins"
    return finish(figure, alt, height=400, title=title, margin={"l": 60, "r": 20, "t": 50, "b": 80})
