"""Views of lesson 22: operating points and frontiers, methods in the plane of safety and price, differences with intervals.

Symbols: B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..contrast.margins import price, refusal_margins
from ..measures import Difference, Rate, undominated
from .base import ADVERSARIAL, CONTRAST, FAINT, INCOHERENT, INK, MIXED, REFUSAL, SAFE, error_bars, finish

SAFETIES = [step / 40 for step in range(1, 41)]
SYMBOLS = (
    "circle", "diamond", "square", "triangle-up", "x", "star", "cross", "triangle-down", "pentagon", "hexagon", "bowtie",
)  # fmt: skip


def operating_points(
    stream_logits: Mapping[str, Tensor], refusing: Sequence[int], harmful: str, harmless: str, alpha: float = 0.2
) -> go.Figure:
    """What α does to first tokens: how many requests of each kind begin with a refusal, and what the same safety costs.

    On the right each curve is one way of ordering the requests, walked along as a constant is added to the refusal's score;
    its dot is where that way of answering stands by itself. A dot that moves along one curve gains nothing: a curve that
    lies further up and to the left does.

    Args:
        stream_logits: kind of request → (2, B, V), of `contrast.margins.first_logits`.
        refusing: ids of the tokens that begin a refusal.
        harmful, harmless: the two kinds whose order is drawn.
        alpha: in [0, …), as in `contrast.acd`.

    Raises:
        ValueError: a kind that is not among the requests; or as in `contrast.margins.refusal_margins`.
    """
    if missing := [kind for kind in (harmful, harmless) if kind not in stream_logits]:
        known = ", ".join(stream_logits) or "at least one kind of request"
        raise ValueError(f"There are no logits of {missing[0]!r} to be drawn: expected {known}.")
    now = {kind: refusal_margins(logits, refusing, alpha) for kind, logits in stream_logits.items()}  # (B,) each
    alone = {kind: refusal_margins(stream_logits[kind], refusing) for kind in (harmful, harmless)}  # (B,) each
    shares = {kind: float((margins > 0).float().mean()) for kind, margins in now.items()}
    figure = make_subplots(rows=1, cols=2, column_widths=[0.46, 0.54], horizontal_spacing=0.16)
    figure.add_trace(
        go.Bar(x=list(shares.values()), y=list(shares), orientation="h", marker_color=REFUSAL, showlegend=False,
               text=[f"{share:.2f}" for share in shares.values()], textposition="auto"), row=1, col=1,
    )  # fmt: skip
    curves = (("S alone", SAFE, "dash", alone), (f"S − {alpha:.2f} A", CONTRAST, "solid", now))
    for name, colour, dash, margins in curves:
        costs = [price(margins[harmful], margins[harmless], safety) for safety in SAFETIES]
        here = [float((margins[kind] > 0).float().mean()) for kind in (harmless, harmful)]
        line, marker = {"color": colour, "dash": dash, "width": 3}, {"color": colour, "size": 12}
        figure.add_trace(go.Scatter(x=costs, y=SAFETIES, name=name, mode="lines", line=line), row=1, col=2)
        figure.add_trace(
            go.Scatter(x=here[:1], y=here[1:], mode="markers", marker=marker, showlegend=False), row=1, col=2
        )
    figure.update_xaxes(title="begin with a refusal", range=[0, 1.05], gridcolor=FAINT, col=1)
    figure.update_xaxes(title=f"refused: {harmless}", range=[-0.03, 1.03], gridcolor=FAINT, col=2)
    figure.update_yaxes(autorange="reversed", col=1)
    figure.update_yaxes(title=f"refused: {harmful}", range=[-0.03, 1.03], gridcolor=FAINT, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.3, "x": 0.5})
    told = ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
    cost, before = (price(margins[harmful], margins[harmless], 0.9) for margins in (now, alone))
    alt = (
        f"At alpha {alpha:.2f} first tokens refuse: {told}. "
        f"Nine tenths of {harmful} refused costs {cost:.2f} of {harmless}, by S alone {before:.2f}."
    )
    return finish(figure, alt, height=400, margin={"l": 110, "r": 20, "t": 20, "b": 90})


def plane(points: Mapping[str, tuple[Rate, Rate]], safety: str, price_name: str) -> go.Figure:
    """Methods in the plane of safety and price, with 95 % intervals; a line joins those that no other beats.

    Args:
        points: method → (share of harmful requests refused, share of harmless ones refused).
        safety, price_name: what the two axes are called.

    Raises:
        ValueError: there is no method.
    """
    if not points:
        raise ValueError("There is nothing to draw: expected at least one method.")
    best = undominated({name: (safe.value, cost.value) for name, (safe, cost) in points.items()})
    figure = go.Figure()
    line = {"color": FAINT, "width": 6}
    figure.add_trace(
        go.Scatter(x=[points[name][1].value for name in best], y=[points[name][0].value for name in best], mode="lines",
                   line=line, name="no other is better in both", hoverinfo="skip")
    )  # fmt: skip
    for number, (name, (safe, cost)) in enumerate(points.items()):
        colour = _colour(name)
        marker = {"color": colour, "size": 12, "symbol": SYMBOLS[number % len(SYMBOLS)]}
        figure.add_trace(
            go.Scatter(x=[cost.value], y=[safe.value], error_x=error_bars([cost], colour), error_y=error_bars([safe], colour),
                       mode="markers", marker=marker, name=name, hovertemplate=f"{safe}; {cost}<extra>{name}</extra>")
        )  # fmt: skip
    dearest = max(cost.high for _, cost in points.values())
    figure.update_xaxes(title=price_name, range=[-0.03 * dearest, 1.03 * dearest], gridcolor=FAINT)
    figure.update_yaxes(title=safety, range=[-0.03, 1.03], gridcolor=FAINT)
    told = "; ".join(f"{name}: {safe.value:.2f} and {cost.value:.2f}" for name, (safe, cost) in points.items())
    alt = f"{safety} and {price_name} of each method. {told}. Beaten by no other: {', '.join(best)}."
    return finish(figure, alt, height=480, margin={"l": 60, "r": 20, "t": 20, "b": 60})


def _colour(method: str) -> str:
    """The colour of a method, the same wherever it is drawn: by which trained prompts are in it, and how."""
    if method == "SafeDecoding":  # SP is in it too, but as probabilities that are mixed and not as a stream
        return MIXED
    trained = ("SP" in method, "AP" in method)
    return {(True, True): CONTRAST, (True, False): SAFE, (False, True): ADVERSARIAL}.get(trained, INK)


def gains(differences: Mapping[str, Difference], title: str) -> go.Figure:
    """Many differences with their intervals, from the smallest to the largest: how many of them can be told from 0.

    Args:
        differences: what was compared → the difference.
        title: one line above the figure.

    Raises:
        ValueError: there is no difference.
    """
    if not differences:
        raise ValueError("There is nothing to draw: expected at least one difference.")
    rows = sorted(differences.items(), key=lambda row: row[1].value)
    figure = go.Figure()
    sides = {
        "above 0": (CONTRAST, "circle", [row for row in rows if row[1].low > 0]),
        "may be chance": (INCOHERENT, "circle-open", [row for row in rows if row[1].low <= 0 <= row[1].high]),
        "below 0": (ADVERSARIAL, "circle", [row for row in rows if row[1].high < 0]),
    }
    for name, (colour, symbol, its) in sides.items():
        bars = {
            "type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 3,
            "array": [one.high - one.value for _, one in its], "arrayminus": [one.value - one.low for _, one in its],
        }  # fmt: skip
        figure.add_trace(
            go.Scatter(x=[one.value for _, one in its], y=[what for what, _ in its], mode="markers", error_x=bars, name=name,
                       marker={"color": colour, "size": 8, "symbol": symbol})
        )  # fmt: skip
    figure.add_vline(x=0, line_color=INK, line_width=1)
    figure.update_yaxes(
        categoryorder="array", categoryarray=[name for name, _ in rows], gridcolor=FAINT, automargin=True
    )
    figure.update_xaxes(title="difference of two rates", gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    above, below = (len(sides[name][2]) for name in ("above 0", "below 0"))
    alt = f"{title}: {above} of {len(rows)} differences lie above 0 with their whole interval, {below} below 0."
    return finish(figure, alt, height=140 + 20 * len(rows), title=title, margin={"l": 60, "r": 20, "t": 90, "b": 50})
