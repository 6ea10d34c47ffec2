"""The frontier of a way of telling requests apart: every pair of safety and price that a threshold on its margins can reach.

Symbols: B requests.
"""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from torch import Tensor

from ..contrast.margins import price
from .base import ADVERSARIAL, CONTRAST, FAINT, INK, SAFE, finish

SAFETIES = [step / 40 for step in range(1, 41)]
COLOURS = (SAFE, CONTRAST, INK, ADVERSARIAL)
DASHES = ("dash", "solid", "dot", "dashdot")


def frontier(
    margins: Mapping[str, tuple[Tensor, Tensor]], harmful: str, harmless: str, safety: float = 0.9
) -> go.Figure:
    """Each way's frontier, walked along as a constant is added to its margins; the dot is where it stands by itself.

    A curve further up and to the left tells the requests apart better. A dot elsewhere on the same curve only draws the line
    at another place.

    Args:
        margins: name → (margins of the harmful requests, margins of the harmless ones), (B,) each; above 0 is refused.
        harmful, harmless: what the two axes are called.
        safety: at which the alternative text says the prices.

    Raises:
        ValueError: there is no way, or more than four; or as in `contrast.margins.price`.
    """
    if not 1 <= len(margins) <= len(COLOURS):
        raise ValueError(f"{len(margins)} ways cannot be drawn: expected 1 to {len(COLOURS)}.")
    figure = go.Figure()
    for (name, pair), colour, dash in zip(margins.items(), COLOURS, DASHES, strict=False):
        costs = [price(*pair, wanted) for wanted in SAFETIES]
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=costs, y=SAFETIES, name=name, mode="lines", line=line))
        refused = [[float((side > 0).float().mean())] for side in pair]
        marker = {"color": colour, "size": 13}
        figure.add_trace(go.Scatter(x=refused[1], y=refused[0], mode="markers", marker=marker, showlegend=False))
    figure.update_xaxes(title=f"refused: {harmless}", range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_yaxes(title=f"refused: {harmful}", range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "x": 0.5, "xanchor": "center"})
    told = "; ".join(f"{name}: {price(*pair, safety):.2f}" for name, pair in margins.items())
    alt = f"What refusing {safety:.2f} of {harmful} costs, as the share of {harmless} that is refused too. {told}."
    return finish(figure, alt, height=420, margin={"l": 60, "r": 20, "t": 20, "b": 90})
