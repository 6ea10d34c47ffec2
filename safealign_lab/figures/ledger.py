"""The view of lesson 42: every claim in a row, our estimate with its interval, what is claimed, and the paper's own figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from .base import ADVERSARIAL, FAINT, INCOHERENT, INK, JUDGED, MIXED, PAPER, SAFE, finish

Row = Mapping[
    str, Any
]  # key, paper, says, side, bound, printed, value, low, high, n, verdict; None where there is none
LOOKS = {  # verdict → colour and mark, so that no verdict is told by its colour alone
    "holds": (SAFE, "circle"), "does not hold": (ADVERSARIAL, "x"), "cannot be told": (INCOHERENT, "circle-open"),
    "not comparable": (MIXED, "square"), "not stored yet": (FAINT, "line-ns-open"),
}  # fmt: skip
LONGEST = 80  # characters of a claim beside its row
ASKED = "#CFE8DF"  # where the estimate has to lie


def overview(rows: Sequence[Row]) -> go.Figure:
    """Every claim in a row: the estimate and its 95 % interval in the colour and the mark of its verdict.

    The pale band is where the claim wants the estimate, the star is the paper's own figure. What is not stored says so.

    Args:
        rows: of the ledger, in the order in which they are drawn.

    Raises:
        ValueError: a verdict that has no look.
    """
    if strangers := sorted({str(row["verdict"]) for row in rows} - set(LOOKS)):
        raise ValueError(f"There is no verdict {strangers[0]!r}: expected one of {', '.join(LOOKS)}.")
    names, figure, (least, most) = [_name(row) for row in rows], go.Figure(), _reach(rows)
    for place, row in enumerate(rows):
        _background(figure, place, row, least, most)
    for verdict, (colour, symbol) in LOOKS.items():
        if its := [pair for pair in zip(names, rows, strict=True) if pair[1]["verdict"] == verdict]:
            figure.add_trace(_marks(verdict, its, colour, symbol))
    if quoted := {name: row["printed"] for name, row in zip(names, rows, strict=True) if row["printed"] is not None}:
        figure.add_trace(_stars(quoted))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    order = {"categoryorder": "array", "categoryarray": names, "range": [len(rows) - 0.5, -0.5]}
    figure.update_yaxes(**order, automargin=True, gridcolor=FAINT, tickfont={"size": 12})
    figure.update_xaxes(title="share, or difference", range=[least, most], gridcolor=FAINT, zeroline=False)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})
    if not rows:
        middle = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
        figure.add_annotation(text="No claim of this paper has this verdict.", showarrow=False, **middle)
    height = 150 + 24 * max(len(rows), 3)
    return finish(figure, _words(rows), height, margin={"l": 20, "r": 20, "t": 90, "b": 50})


def _name(row: Row) -> str:
    said = f"{row['key']} {row['says']}"
    return said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    """The ends of the axis: all estimates, intervals and printed figures, and a little more."""
    values = [float(row[one]) for row in rows for one in ("low", "high", "value", "printed") if row[one] is not None]
    return min([*values, -0.2]) - 0.05, max([*values, 0.2]) + 0.05


def _background(figure: go.Figure, place: int, row: Row, least: float, most: float) -> None:
    """What a claim asks for, as a pale band behind its row; or that nothing is stored."""
    side, bound = row["side"], row["bound"]
    if row["value"] is None:
        font = {"size": 11, "color": JUDGED}
        figure.add_annotation(x=0, y=place, text="not stored yet", showarrow=False, xanchor="left", xshift=6, font=font)
        return
    if side is None:
        return
    ends = {"above": (bound, most), "below": (least, bound), "within": (-bound, bound)}[side]
    figure.add_shape(
        type="rect", x0=ends[0], x1=ends[1], y0=place - 0.38, y1=place + 0.38, layer="below",
        fillcolor=ASKED, line_width=0, opacity=0.6,
    )  # fmt: skip


def _marks(verdict: str, its: Sequence[tuple[str, Row]], colour: str, symbol: str) -> go.Scatter:
    stored = [row for _, row in its if row["value"] is not None]
    bars = {
        "type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 4,
        "array": [row["high"] - row["value"] for row in stored], "arrayminus": [row["value"] - row["low"] for row in stored],
    }  # fmt: skip
    marker = {"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2, "color": colour}}
    return go.Scatter(
        x=[row["value"] for _, row in its], y=[name for name, _ in its], mode="markers", name=verdict,
        error_x=bars if stored else None, marker=marker, customdata=[[_figure(row), row["n"] or ""] for _, row in its],
        hovertemplate="%{y}<br>%{customdata[0]}<br>%{customdata[1]}<extra>" + verdict + "</extra>",
    )  # fmt: skip


def _stars(quoted: Mapping[str, float]) -> go.Scatter:
    star = {"color": PAPER, "size": 13, "symbol": "star", "line": {"color": INK, "width": 1.5}}
    return go.Scatter(x=[*quoted.values()], y=[*quoted], mode="markers", name="the paper's figure", marker=star)


def _figure(row: Row) -> str:
    if row["value"] is None:
        return "–"
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _words(rows: Sequence[Row]) -> str:
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in LOOKS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "none"
    each = "; ".join(
        f"{row['key']} {row['says']}: {_figure(row)}, {row['verdict']}"
        + ("" if row["printed"] is None else f", the paper has {row['printed']:+.3f}")
        for row in rows
    )
    return f"{len(rows)} claims: {told}. {each}."
