"""Views of lesson 21: how hard each loss pushes, and how the terms fall while two prompts are trained."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..training import History
from .base import ADVERSARIAL, FAINT, INK, SAFE, finish

TERMS = {"target": "what to say", "avoid": "what not to say", "benign": "what to leave alone"}
PROMPTS = {"safeguarding": (SAFE, "solid"), "adversarial": (ADVERSARIAL, "dash")}


def pushes(probability: float = 0.5) -> go.Figure:
    """How hard two ways of making a token less likely push at its logit: unlikelihood with p, negated cross-entropy with 1 - p.

    Args:
        probability: of the token, in (0, 1): the place that is marked.

    Raises:
        ValueError: a probability outside (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"A probability of {probability} has no place on this axis: expected one between 0 and 1.")
    grid = [step / 200 for step in range(1, 200)]
    curves = {
        "unlikelihood, −log(1 − p): pushes with p": (SAFE, "solid", [*grid], probability),
        "negated cross-entropy, log p: pushes with 1 − p": (
            ADVERSARIAL,
            "dash",
            [1 - p for p in grid],
            1 - probability,
        ),
    }
    figure = go.Figure()
    for (name, (colour, dash, values, here)), side in zip(curves.items(), ("bottom center", "top center"), strict=True):
        line = {"color": colour, "width": 3, "dash": dash}
        figure.add_trace(go.Scatter(x=grid, y=values, name=name, mode="lines", line=line))
        figure.add_trace(
            go.Scatter(x=[probability], y=[here], mode="markers+text", marker={"size": 12, "color": colour},
                       text=[f"{here:.2f}"], textposition=side, showlegend=False)
        )  # fmt: skip
    figure.update_xaxes(title="probability of the unwanted token, p", range=[0, 1], gridcolor=FAINT)
    figure.update_yaxes(title="size of the gradient at its logit", range=[-0.15, 1.15], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.28})
    alt = (
        f"At a probability of {probability:.2f} unlikelihood pushes the token's logit down with {probability:.2f}, the negated "
        f"cross-entropy with {1 - probability:.2f}: the one stops where the token is avoided, the other only then pushes fully."
    )
    return finish(figure, alt, height=380, margin={"l": 60, "r": 20, "t": 20, "b": 90})


def terms(histories: Mapping[str, History]) -> go.Figure:
    """How each term of the loss falls, step by step, for each prompt.

    Args:
        histories: "safeguarding" or "adversarial", or a name of your own → the history of its training.

    Raises:
        ValueError: there is no step.
    """
    if not any(history.rows for history in histories.values()):
        raise ValueError("There is no step to draw: train a prompt first.")
    figure = make_subplots(rows=1, cols=len(TERMS), subplot_titles=list(TERMS.values()), horizontal_spacing=0.08)
    told = []
    for name, history in histories.items():
        colour, dash = PROMPTS.get(name, (INK, "dot"))
        steps = [row["step"] for row in history.rows]
        for column, term in enumerate(TERMS, start=1):
            values = [row["terms"][term] for row in history.rows]
            line = {"color": colour, "dash": dash, "width": 2}
            figure.add_trace(
                go.Scatter(x=steps, y=values, name=name, mode="lines", line=line, showlegend=column == 1),
                row=1,
                col=column,
            )
            told.append(f"{name}, {TERMS[term]}: {values[0]:.2f} to {values[-1]:.2f}")
    figure.update_xaxes(title="step", gridcolor=FAINT)
    figure.update_yaxes(rangemode="tozero", gridcolor=FAINT)
    figure.update_yaxes(title="mean loss, nats", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    alt = f"The terms of the loss in nats, first and last step. {'; '.join(told)}."
    return finish(figure, alt, height=360, margin={"l": 50, "r": 20, "t": 40, "b": 90})


def drift(histories: Mapping[str, History], watched: Mapping[str, str]) -> go.Figure:
    """How a number that was watched while two prompts were trained goes apart for some requests, and not for others.

    Args:
        histories: as in `terms`; their evaluations hold the numbers.
        watched: name in an evaluation → what the picture calls it; a share or a probability, one panel each.

    Raises:
        ValueError: nothing was watched.
    """
    if not any("evaluation" in row for history in histories.values() for row in history.rows):
        raise ValueError("Nothing was watched: train with `evaluate`, and with `evaluate_every` in the plan.")
    figure = make_subplots(rows=1, cols=len(watched), subplot_titles=list(watched.values()), shared_yaxes=True)
    told = []
    for name, history in histories.items():
        colour, dash = PROMPTS.get(name, (INK, "dot"))
        rows = [row for row in history.rows if "evaluation" in row]
        for column, (key, meaning) in enumerate(watched.items(), start=1):
            values = [row["evaluation"][key] for row in rows]
            figure.add_trace(
                go.Scatter(x=[row["step"] for row in rows], y=values, name=name, showlegend=column == 1,
                           mode="lines+markers", line={"color": colour, "dash": dash, "width": 3}),
                row=1, col=column,
            )  # fmt: skip
            told.append(f"{name}, {meaning}: {values[0]:.2f} to {values[-1]:.2f}")
    figure.update_xaxes(title="step", gridcolor=FAINT)
    figure.update_yaxes(range=[-0.02, 1.02], gridcolor=FAINT)
    figure.update_yaxes(title="probability", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    return finish(figure, f"What was watched, from the first look to the last. {'; '.join(told)}.", height=360,
                  margin={"l": 50, "r": 20, "t": 40, "b": 90})  # fmt: skip
