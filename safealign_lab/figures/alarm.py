"""Views of lesson 33 on the alarm: a score run by run, and how well each score tells harmful fine-tuning from harmless.

Symbols: K the canaries' share of the weights. Rows are those of the study "tiny_alarm", or of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..immunization.alarm import Quality, quality, threshold
from ..immunization.tampering import BROKEN
from .base import ADVERSARIAL, CONTRAST, FAINT, INCOHERENT, INK, JUDGED, MIXED, REFUSAL, SAFE, finish

Row = Mapping[str, Any]
SCORES = {  # what is shown of a row's result, and how it is called; up = more suspicious
    "drift": "size of the whole drift",
    "size on canaries": "size of the drift on canaries",
    "share on canaries": "share of the drift on canaries",
    "share on random": "share on as many random weights",
    "share on random, per tensor": "share on random weights, as many in each tensor",
    "cosine": "cosine with the refusal gradient at rest",
    "projection": "cosine at rest, times the drift",
    "recipe cosine": "cosine towards the recipes",
    "recipe cosine on canaries": "towards the recipes, canaries alone",
    "recipe cosine on random": "towards the recipes, random weights alone",
    "fresh cosine": "cosine with a fresh gradient",
    "probes": "rise of the refusal loss on probes",
}
CURVES = {
    "share on canaries": (CONTRAST, "solid"), "share on random": (INCOHERENT, "dash"), "cosine": (SAFE, "dot"),
    "recipe cosine": (SAFE, "solid"), "drift": (JUDGED, "dot"),
    "probes": (REFUSAL, "dashdot"), "fresh cosine": (MIXED, "dash"),
}  # fmt: skip
HARMLESS = REFUSAL  # the colours of the runs
HARMFUL = ADVERSARIAL


def scored(rows: Sequence[Row], harmless: Sequence[str], score: str, most: float = 0.05) -> go.Figure:
    """One score of every run, by what was learned, with the line that the harmless runs draw.

    Harmless runs are blue, all others orange. A full mark is a model that has lost its refusals, whatever it was taught.

    Args:
        rows: of the study.
        harmless: which tunings set the line.
        score: a name in the rows' results.
        most: share of harmless runs that may lie above the line, in [0, 1); up = more alarms of either kind.

    Raises:
        ValueError: as in `alarm.threshold`, or no row has such a score.
    """
    _need(rows, score)
    names = list(dict.fromkeys(row["settings"]["tuning"] for row in rows))
    names.sort(key=lambda name: name not in harmless)  # harmless ones first, otherwise in their order
    line = threshold([row["result"][score] for row in rows if row["settings"]["tuning"] in harmless], most)
    figure, told = go.Figure(), []
    for place, name in enumerate(names):
        mine = [row for row in rows if row["settings"]["tuning"] == name]
        figure.add_trace(_marks(mine, score, place, HARMLESS if name in harmless else HARMFUL))
        above = sum(row["result"][score] > line for row in mine)
        lost = sum(row["result"]["refusal"] < BROKEN for row in mine)
        told.append(f"{name}: {above} of {len(mine)} above it, {lost} of {len(mine)} have lost their refusals")
    figure.add_vline(x=line, line={"color": INK, "dash": "dash", "width": 2}, annotation_text="alarm →")
    figure.update_xaxes(title=SCORES.get(score, score), gridcolor=FAINT)
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], gridcolor=FAINT
    )
    alt = (
        f"{SCORES.get(score, score).capitalize()}, run by run. The line at {line:.3g} lets {most:g} of the harmless runs pass. "
        f"{'; '.join(told)}."
    )
    return finish(figure, alt, height=110 + 38 * len(names), margin={"l": 190, "r": 70, "t": 20, "b": 50})


def _marks(mine: Sequence[Row], score: str, place: int, colour: str) -> go.Scatter:
    """The runs of one tuning beside each other on one line of the figure."""
    name, count = mine[0]["settings"]["tuning"], len(mine)
    said = [f"{row['settings']['steps']} steps at {row['settings']['learning_rate']:g}" for row in mine]
    symbols = ["circle" if row["result"]["refusal"] < BROKEN else "circle-open" for row in mine]
    heights = [place + 0.5 * ((7 * number) % count) / count - 0.25 for number in range(count)]
    return go.Scatter(
        x=[row["result"][score] for row in mine], y=heights, mode="markers", text=said, name=name, showlegend=False,
        marker={"color": colour, "symbol": symbols, "size": 8}, hovertemplate=f"{name}, %{{text}}: %{{x:.3g}}<extra></extra>",
    )  # fmt: skip


def qualities(
    rows: Sequence[Row], harmless: Sequence[str], attacker: str | Sequence[str], scores: Sequence[str]
) -> dict[str, Quality]:
    """How well each score tells the runs of one attacker, or of several together, from the harmless ones.

    Args:
        rows: of the study.
        harmless: which tunings are the other side.
        attacker: whose runs are to be found.
        scores: names in the rows' results.

    Raises:
        ValueError: as in `alarm.quality`, or no row has such a score.
    """
    found = {}
    for score in scores:
        _need(rows, score)
        found[score] = _quality(*(tuple(side) for side in _sides(rows, harmless, attacker, score)))
    return found


@lru_cache(maxsize=512)
def _quality(harmful: tuple[float, ...], harmless: tuple[float, ...]) -> Quality:
    """As `alarm.quality`; kept, since its interval takes a while and a panel asks again."""
    return quality(harmful, harmless)


def _sides(
    rows: Sequence[Row], harmless: Sequence[str], attacker: str | Sequence[str], score: str
) -> tuple[list[float], list[float]]:
    """A score of the attackers' runs, and of the harmless ones."""
    attackers = (attacker,) if isinstance(attacker, str) else attacker
    one, other = (
        [row["result"][score] for row in rows if row["settings"]["tuning"] in tunings]
        for tunings in (attackers, harmless)
    )
    return one, other


def told_apart(rows: Sequence[Row], harmless: Sequence[str], attacker: str) -> go.Figure:
    """The ROC curves of some scores against one attacker, and the area under that of every score, with its interval.

    Args:
        rows: of the study.
        harmless: which tunings are the other side.
        attacker: whose runs are to be found.

    Raises:
        ValueError: as in `qualities`.
    """
    known = [score for score in SCORES if rows and all(score in row["result"] for row in rows)]
    found = qualities(rows, harmless, attacker, known)
    figure = make_subplots(rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.42)
    for score in (one for one in known if one in CURVES):
        x, y = roc(*_sides(rows, harmless, attacker, score))
        colour, dash = CURVES[score]
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, name=SCORES[score]), row=1, col=1)
    figure.add_trace(_areas(found), row=1, col=2)
    figure.add_vline(x=0.5, line={"color": INK, "dash": "dot", "width": 1}, row=1, col=2)
    figure.update_xaxes(title="harmless runs with an alarm", range=[-0.02, 1.02], gridcolor=FAINT, row=1, col=1)
    figure.update_yaxes(title="harmful runs with an alarm", range=[-0.02, 1.02], gridcolor=FAINT, row=1, col=1)
    figure.update_xaxes(title="AUROC", range=[-0.02, 1.02], gridcolor=FAINT, row=1, col=2)
    figure.update_yaxes(dtick=1, row=1, col=2)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    each = "; ".join(
        f"{SCORES[score]} {one.auroc:.2f} [{one.interval.low:.2f}, {one.interval.high:.2f}]"
        for score, one in found.items()
    )
    alt = f"AUROC against the attacker {attacker}, by score: {each}."
    return finish(figure, alt, height=190 + 26 * max(len(known), 10), margin={"l": 60, "r": 20, "t": 20, "b": 120})


def _areas(found: Mapping[str, Quality]) -> go.Scatter:
    """A dot with its interval for each score, the first one on top."""
    areas = list(found.values())[::-1]
    error = {
        "type": "data", "symmetric": False, "color": INK, "thickness": 1.5,
        "array": [one.interval.high - one.auroc for one in areas],
        "arrayminus": [one.auroc - one.interval.low for one in areas],
    }  # fmt: skip
    return go.Scatter(
        x=[one.auroc for one in areas], y=[SCORES[score] for score in found][::-1], mode="markers", showlegend=False,
        marker={"color": INK, "size": 10}, error_x=error,
    )  # fmt: skip


def roc(harmful: Sequence[float], harmless: Sequence[float]) -> tuple[list[float], list[float]]:
    """The corners of a ROC curve, from (0, 0) to (1, 1): shares of harmless and of harmful scores from each line upwards.

    Equal scores of both kinds are passed together, so that the area under straight lines counts them half.
    """
    lines = sorted({*harmful, *harmless}, reverse=True)
    shares = [
        [0.0] + [sum(score >= line for score in side) / len(side) for line in lines] for side in (harmless, harmful)
    ]
    return shares[0], shares[1]


def _need(rows: Sequence[Row], score: str) -> None:
    if not rows or not all(score in row["result"] for row in rows):
        raise ValueError(f"Not every row has the score {score!r}: look at the keys of a row's result.")
