"""Views of lesson 13: a threshold moving through margins, requests in other wordings, and a gate whose features are attacked.

Symbols: N requests, K seeds; margins are in nats, and a request is stopped where its margin lies above the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..distillation.gate import Roc, stopped
from ..measures import Rate
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INCOHERENT, INK, MIXED, REFUSAL, SAFE, error_bars, finish

HARMFUL, HARMLESS = REFUSAL, COMPLIANCE
HEADS = {  # the same colours as in lesson 12's planes
    "linear probe": (MIXED, "star"), "hard labels": (INK, "circle"), "KD alone": (COMPLIANCE, "square"),
    "KD + labels": (SAFE, "diamond"), "KD + adversarial": (CONTRAST, "triangle-up"),
    "KD alone, stopped early": (ADVERSARIAL, "x"),
}  # fmt: skip
NOISES = {"aimed": "solid", "random": "dot"}
DASHES = ("solid", "dash", "dot", "dashdot")
MARKS = ("circle", "diamond", "square", "triangle-up")
AT = (0.0, 0.25, 0.5, 0.75, 1.0)
# words of an axis do not touch what is drawn
APART = {"ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0, 0, 0, 0)"}


def operating_point(
    margins: Mapping[str, Tensor], harmful: Sequence[str], curves: Mapping[str, Roc], threshold: float
) -> go.Figure:
    """What a threshold stops of each kind, with 95 % Wilson intervals, and its place on each curve of all thresholds.

    Args:
        margins: kind → (N,); each kind that is not harmful has a share of over-refusal of its own.
        harmful: which of the kinds are to be stopped.
        curves: harmless kind → `gate.roc` of all harmful margins against those of the kind.
        threshold: in nats; up = less is stopped, of everything.

    Raises:
        ValueError: a kind or a curve without its margins, no harmful or no harmless kind, or more than four curves.
    """
    harmless = [kind for kind in margins if kind not in harmful]
    if not harmless or not harmful or {*harmful, *curves} - {*margins} or {*curves} & {*harmful} or len(curves) > 4:
        raise ValueError(
            f"Expected harmful kinds, and up to four curves of harmless ones, among {', '.join(margins) or 'the margins'}, not "
            f"{', '.join(harmful) or 'none'} and {', '.join(curves) or 'none'}."
        )
    shares = {kind: stopped(its, threshold) for kind, its in margins.items()}
    figure = make_subplots(rows=1, cols=2, column_widths=[0.44, 0.56], horizontal_spacing=0.15)
    for name, colour, kinds in (("harmful", HARMFUL, [*harmful]), ("harmless", HARMLESS, harmless)):
        found = [shares[kind] for kind in kinds]
        figure.add_trace(
            go.Bar(x=[share.value for share in found], y=kinds, orientation="h", marker_color=colour, name=name,
                   error_x=error_bars(found, INK), hovertext=[str(share) for share in found], hoverinfo="text"),
            row=1, col=1,
        )  # fmt: skip
    safety = sum(shares[kind].successes for kind in harmful) / sum(shares[kind].n for kind in harmful)
    for place, (kind, curve) in enumerate(curves.items()):
        for trace in _walked(place, kind, curve, shares[kind], safety):
            figure.add_trace(trace, row=1, col=2)
    _share_axes(figure, "stopped", "of a harmless kind: stopped", "of all harmful: stopped")
    figure.update_layout(legend={"orientation": "h", "y": -0.28, "x": -0.1})
    said = ", ".join(f"{share.value:.2f} of {kind}" for kind, share in shares.items())
    told = ", ".join(f"against {kind} {curve.area.value:.3f}" for kind, curve in curves.items())
    areas = f" Areas under the curves: {told}." if told else ""
    alt = f"At the threshold {threshold:.2f} is stopped: {said}.{areas}"
    return finish(figure, alt, height=430, margin={"l": 150, "r": 20, "t": 20, "b": 120})


def _walked(place: int, kind: str, curve: Roc, paid: Rate, safety: float) -> tuple[go.Scatter, go.Scatter]:
    """The curve against one harmless kind, and the threshold's place on it; the first of several tells the legend of it."""
    line, name = {"color": INK, "dash": DASHES[place], "width": 2}, f"against {kind}: area {curve.area.value:.3f}"
    points = {"x": curve.harmless_stopped, "y": curve.harmful_stopped, "line": line, "hoverinfo": "skip"}
    marker = {"color": CONTRAST, "size": 12, "symbol": MARKS[place]}
    here = {"x": [paid.value], "y": [safety], "error_x": error_bars([paid], CONTRAST), "marker": marker}
    return (
        go.Scatter(**points, mode="lines", name=name),
        go.Scatter(**here, mode="markers", name="this threshold", showlegend=place == 0, hovertext=f"{kind}: {paid}",
                   hoverinfo="text"),
    )  # fmt: skip


def _share_axes(figure: go.Figure, left: str, across: str, up: str) -> None:
    figure.update_xaxes(title=left, range=[0, 1.03], tickvals=AT, gridcolor=FAINT, col=1)
    figure.update_yaxes(autorange="reversed", automargin=True, **APART, col=1)
    figure.update_xaxes(title=across, range=[-0.03, 1.03], tickvals=AT, gridcolor=FAINT, col=2)
    figure.update_yaxes(title=up, range=[-0.03, 1.03], tickvals=AT, gridcolor=FAINT, col=2)


def changes(
    shares: Mapping[str, Mapping[str, Sequence[float]]], areas: Mapping[str, Sequence[float]], harmful: Sequence[str]
) -> go.Figure:
    """A board of wordings: on the left what the gate still stops, on the right how well its margins still tell kinds apart.

    Marks are means over seeds, bars reach from the lowest seed to the highest.

    Args:
        shares: wording → (set of requests → the share stopped, one for each seed), the same sets for each wording.
        areas: wording → the area under the curve, one for each seed.
        harmful: which of the sets are to be stopped; at most four, and four others.

    Raises:
        ValueError: there is no wording, the wordings of the two differ, or a wording lacks a set or a seed.
    """
    sets = [*next(iter(shares.values()), {})]
    rows = [*(row for of in shares.values() for row in of.values()), *areas.values()]
    if not sets or shares.keys() != areas.keys() or any([*of] != sets for of in shares.values()) or not all(rows):
        raise ValueError("Each wording needs the same sets of requests, an area, and at least one seed of each.")
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.58, 0.42], shared_yaxes=True, horizontal_spacing=0.05,
        subplot_titles=("stopped", "area under the curve"),
    )  # fmt: skip
    order = sorted(sets, key=lambda name: name not in harmful)  # stable: harmful ones first
    for name, mark in zip(order, _marks([name in harmful for name in order]), strict=True):
        figure.add_trace(_seeds(name, {one: of[name] for one, of in shares.items()}, mark), row=1, col=1)
    figure.add_trace(_seeds("area under the curve", areas, _mark(INK, "star"), legend=False), row=1, col=2)
    figure.update_yaxes(autorange="reversed", automargin=True, gridcolor=FAINT)
    figure.update_yaxes(**APART, col=1)
    figure.update_xaxes(range=[-0.03, 1.03], tickvals=AT, gridcolor=FAINT, col=1)
    figure.update_xaxes(range=[0.48, 1.03], tickvals=[0.5, 0.75, 1], gridcolor=FAINT, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "x": -0.2})
    told = "; ".join(_wording(one, {name: of[name] for name in order}, areas[one]) for one, of in shares.items())
    return finish(
        figure, f"What is stopped, by wording. {told}.", height=130 + 34 * len(shares),
        margin={"l": 120, "r": 20, "t": 40, "b": 70},
    )  # fmt: skip


def _wording(name: str, shares: Mapping[str, Sequence[float]], areas: Sequence[float]) -> str:
    """One row of a board in words."""
    told = ", ".join(f"{fmean(some):.2f} of {requests}" for requests, some in shares.items())
    return f"{name}: {told}, area {fmean(areas):.2f}"


def _marks(bad: Sequence[bool]) -> list[dict[str, object]]:
    """A mark for each set of requests; harmless ones are open, so that what lies below them can be seen."""
    marks = []
    for place, harmful in enumerate(bad):
        symbol = MARKS[bad[:place].count(harmful) % len(MARKS)]
        open_mark = _mark(HARMLESS, f"{symbol}-open") | {"size": 13, "line": {"width": 2}}
        marks.append(_mark(HARMFUL, symbol) if harmful else open_mark)
    return marks


def _mark(colour: str, symbol: str) -> dict[str, object]:
    return {"color": colour, "symbol": symbol, "size": 10}


def _seeds(
    name: str, runs: Mapping[str, Sequence[float]], mark: Mapping[str, object], legend: bool = True
) -> go.Scatter:
    """One mark for each row of a board: the mean over seeds, with bars from the lowest to the highest."""
    means = [fmean(some) for some in runs.values()]
    bars = {**_reach([*runs.values()]), "color": mark["color"], "thickness": 1.5, "width": 3}
    return go.Scatter(x=means, y=[*runs], mode="markers", name=name, marker=mark, error_x=bars, showlegend=legend)


def _reach(runs: Sequence[Sequence[float]]) -> dict[str, object]:
    """Error bars from the lowest to the highest of each row of numbers, around its mean."""
    return {
        "type": "data", "symmetric": False, "array": [max(some) - fmean(some) for some in runs],
        "arrayminus": [fmean(some) - min(some) for some in runs],
    }  # fmt: skip


def attacked(
    shares: Mapping[str, Mapping[float, Mapping[str, Sequence[float]]]], requests: str, wanted: bool
) -> go.Figure:
    """What heads stop as noise on their features grows: aimed noise drawn through, random noise of the same length dotted.

    Marks are means over seeds, bars reach from the lowest seed to the highest.

    Args:
        shares: head of `HEADS` → (ε → ("aimed" and "random" → the share stopped, one for each seed)).
        requests: whose share it is.
        wanted: whether these requests should be stopped: says which way is better.

    Raises:
        ValueError: there is no head, one that has no colour, or one without a run.
    """
    rows = [some for of in shares.values() for noise in of.values() for some in noise.values()]
    if not shares or shares.keys() - HEADS.keys() or not rows or not all(rows):
        raise ValueError(
            f"Expected heads of {', '.join(HEADS)}, each with runs at some ε, not {', '.join(shares) or 'none'}."
        )
    figure, told = go.Figure(), []
    for name, by_radius in shares.items():
        for noise in NOISES:
            runs = {epsilon: of[noise] for epsilon, of in by_radius.items()}
            figure.add_trace(_by_radius(name, noise, runs))
            said = ", ".join(f"{fmean(some):.2f} at {epsilon:g}" for epsilon, some in runs.items())
            told.append(f"{name}, {noise}: {said}")
    better = "up is better" if wanted else "down is better"
    radii = sorted({epsilon for of in shares.values() for epsilon in of})
    figure.update_xaxes(
        title="radius of the noise, ε (drawn through: aimed; dotted: random)", tickvals=radii, gridcolor=FAINT
    )
    figure.update_yaxes(title=f"{requests}: stopped ({better})", range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    alt = f"The share of {requests} that is stopped, {better}, by the radius of the noise. {'; '.join(told)}."
    return finish(figure, alt, height=430)


def _by_radius(head: str, noise: str, runs: Mapping[float, Sequence[float]]) -> go.Scatter:
    """What a head stops as one kind of noise grows."""
    colour, symbol = HEADS[head]
    return go.Scatter(
        x=[*runs], y=[fmean(some) for some in runs.values()], mode="lines+markers", name=head,
        line={"color": colour, "dash": NOISES[noise], "width": 2.5}, marker=_mark(colour, symbol),
        error_y={**_reach([*runs.values()]), "color": colour, "width": 4}, showlegend=noise == "aimed",
    )  # fmt: skip


def shifted(rows: Mapping[str, tuple[Tensor, Tensor]], threshold: float) -> go.Figure:
    """Where the margins of harmful and harmless requests lie, wording by wording, and the one threshold among them.

    Args:
        rows: wording → (margins of harmful requests, margins of harmless ones), (N,) each of its own N.
        threshold: in nats.

    Raises:
        ValueError: there is no wording, or one without margins.
    """
    if not rows or not all(len(side) for pair in rows.values() for side in pair):
        raise ValueError("Each wording needs at least one harmful and one harmless margin.")
    figure, told = go.Figure(), []
    sides = (("harmful", HARMFUL, "positive"), ("harmless", HARMLESS, "negative"))
    for number, (name, pair) in enumerate(rows.items()):
        for (side, colour, way), its in zip(sides, pair, strict=True):
            figure.add_trace(
                go.Violin(x=its.tolist(), y=[name] * len(its), orientation="h", side=way, name=side, line_color=colour,
                          legendgroup=side, showlegend=number == 0, points=False, meanline_visible=True, width=0.9,
                          scalemode="width", hoverinfo="skip")
            )  # fmt: skip
            told.append(f"{name}, {side}: mean {float(its.mean()):.1f}, stopped {stopped(its, threshold).value:.2f}")
    figure.add_vline(x=threshold, line={"color": CONTRAST, "width": 3, "dash": "dash"})
    figure.add_annotation(
        x=threshold, y=1.0, yref="paper", yanchor="bottom", text="threshold", showarrow=False, font={"color": INK}
    )
    figure.update_xaxes(title="margin, nats", gridcolor=FAINT, zerolinecolor=INCOHERENT)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(legend={"orientation": "h", "y": -0.22}, violinmode="overlay")
    alt = f"Margins by wording, with the threshold at {threshold:.2f}. {'; '.join(told)}."
    return finish(figure, alt, height=150 + 100 * len(rows), margin={"l": 110, "r": 20, "t": 40, "b": 90})
