"""Views of the first notebook: the three methods, one answer under contrast, and what a model does with requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..measures import Interval, Rate
from .base import (
    ADVERSARIAL,
    CONTRAST,
    FAINT,
    FAMILY_COLOURS,
    INK,
    JUDGED,
    LABEL_COLOURS,
    LABEL_INKS,
    PAPER,
    REFUSAL,
    SAFE,
    error_bars,
    finish,
    slider,
)

WORDS_A_ROW = 9
BAR = 0.27  # the height of a bar where two sets of requests are 1 apart
METHODS = (
    (
        "distillation",
        "before the answer",
        "A small head learns from<br>a larger teacher and from<br>worst-case noise which<br>requests to stop.",
    ),
    (
        "contrast",
        "while answering",
        "A careful and a reckless<br>prompt run side by side.<br>What only the reckless<br>one wants is subtracted.",
    ),
    (
        "immunization",
        "in the weights",
        "A harmful and a helpful<br>teacher take turns. Canary<br>weights guard what was<br>learned, and raise alarms.",
    ),
)


def three_methods() -> go.Figure:
    """One request on its way to an answer, and the three places where the kit makes it safer."""
    figure = go.Figure()
    for i, (name, where, words) in enumerate(METHODS):
        left, middle, colour = 1.35 * i, 1.35 * i + 0.6, FAMILY_COLOURS[name]
        figure.add_shape(
            type="rect", x0=left, x1=left + 1.2, y0=0, y1=1, line={"color": colour, "width": 3}, fillcolor="#FFFFFF"
        )
        figure.add_annotation(
            x=middle, y=0.86, text=f"<b>{name}</b>", showarrow=False, font={"size": 17, "color": colour}
        )
        figure.add_annotation(x=middle, y=0.70, text=f"<i>{where}</i>", showarrow=False, font={"size": 13})
        figure.add_annotation(x=middle, y=0.32, text=words, showarrow=False, font={"size": 13}, align="center")
    figure.add_annotation(
        x=3.95,
        y=-0.2,
        ax=-0.05,
        ay=-0.2,
        axref="x",
        ayref="y",
        showarrow=True,
        arrowhead=3,
        arrowwidth=2,
        arrowcolor=INK,
    )
    for x, words in ((0.2, "a request"), (1.95, "one token after another"), (3.55, "an answer")):
        figure.add_annotation(x=x, y=-0.2, text=words, showarrow=False, bgcolor="#FFFFFF", font={"size": 14})
    figure.update_xaxes(visible=False, range=[-0.1, 4.0])
    figure.update_yaxes(visible=False, range=[-0.3, 1.05])
    alt = "A request passes three places on its way to an answer. " + " ".join(
        f"{name.capitalize()}, {where}: {words.replace('<br>', ' ')}" for name, where, words in METHODS
    )
    return finish(figure, alt, height=260, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def _words(step: Mapping[str, Any]) -> go.Scatter:
    """The answer's words in rows, and below them what kind of answer it is."""
    colour = LABEL_INKS[step["label"]]
    places = [(i % WORDS_A_ROW, -(i // WORDS_A_ROW)) for i in range(len(step["tokens"]))]
    places.append((0, -1 - (len(places) - 1) // WORDS_A_ROW))
    said = [f"<b>{word}</b>" for word in step["tokens"]] + [f"({step['label']})"]
    return go.Scatter(
        x=[x for x, _ in places], y=[y for _, y in places], text=said, mode="text", hoverinfo="skip", showlegend=False,
        textfont={"size": 15, "color": colour}, cliponaxis=False,
    )  # fmt: skip


def _first_words(step: Mapping[str, Any], candidates: Sequence[str]) -> list[go.Bar]:
    """How probable each candidate for the first word is, under each stream and under their contrast."""
    streams = (
        ("safe stream S", "safe", SAFE),
        ("adversarial stream A", "adversarial", ADVERSARIAL),
        ("contrast", "contrast", CONTRAST),
    )
    return [
        go.Bar(name=name, x=list(candidates), y=[step["first"][key][word] for word in candidates], marker_color=colour)
        for name, key, colour in streams
    ]


def contrast_slider(steps: Sequence[Mapping[str, Any]], request: str) -> go.Figure:
    """One answer, token by token, as the strength α of the contrast moves: the slider works in the browser alone.

    Args:
        steps: one mapping for each α, in order: `alpha`, `tokens` (the answer), `label` (refusal, compliance or
            incoherent), and `first`, the probabilities of the candidates for the first token under `safe`,
            `adversarial` and `contrast`.
        request: what was asked.

    Raises:
        ValueError: there is no step to show.
    """
    if not steps:
        raise ValueError("There is no answer to show: expected at least one value of α with its tokens.")
    candidates = list(steps[0]["first"]["safe"])
    rows = -(-max(len(step["tokens"]) for step in steps) // WORDS_A_ROW) + 1
    titles = (f"Asked: “{request}”", "The first word: how probable under each stream")
    figure = make_subplots(rows=2, cols=1, row_heights=[0.35, 0.65], vertical_spacing=0.14, subplot_titles=titles)
    figure.add_trace(_words(steps[0]), row=1, col=1)
    figure.add_traces(_first_words(steps[0], candidates), rows=2, cols=1)
    traces = {f"{step['alpha']:.2f}": [_words(step), *_first_words(step, candidates)] for step in steps}
    figure.frames = [go.Frame(name=name, data=data) for name, data in traces.items()]
    figure.update_xaxes(visible=False, range=[-0.6, WORDS_A_ROW - 0.4], row=1, col=1)
    figure.update_yaxes(visible=False, range=[-rows + 0.4, 0.6], row=1, col=1)
    figure.update_yaxes(
        range=[0, 1.18], tickvals=[0, 0.25, 0.5, 0.75, 1], title="probability", row=2, col=1
    )  # room for names
    figure.update_layout(
        sliders=[slider(list(traces), "strength of the contrast, alpha (α) = ")],
        legend={"orientation": "h", "y": 0.57},
    )
    return finish(figure, _in_words(steps, request), height=560, margin={"l": 60, "r": 20, "t": 50, "b": 50})


def _in_words(steps: Sequence[Mapping[str, Any]], request: str) -> str:
    """Where the answer starts, where it changes its kind, and where it ends."""
    turns = [step for before, step in pairwise(steps) if step["label"] != before["label"]]
    told = [steps[0], *turns] if turns and turns[-1] is steps[-1] else [steps[0], *turns, steps[-1]]
    said = [f"at α = {step['alpha']:.2f} ({step['label']}) “{' '.join(step['tokens'])}”" for step in told]
    return f"Asked “{request}”, the answer is {'; '.join(said)}."


def shares(
    rows: Mapping[str, Mapping[str, Rate]], title: str, judged: Mapping[str, Mapping[str, Interval]] | None = None
) -> go.Figure:
    """For each set of requests the shares of refusal, compliance and incoherent answers, each with its 95 % interval.

    Args:
        rows: set of requests → label → Rate, whose interval knows of chance only: the thin line.
        title: one line above the figure.
        judged: set of requests → label → interval with the judge's errors carried into it: the grey line below.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("There is nothing to draw: expected at least one set of requests with its rates.")
    figure = go.Figure()
    names = list(rows)
    for place, (label, colour) in enumerate(LABEL_COLOURS.items()):
        rates = [rows[name][label] for name in names]
        heights = [number + (place - 1) * BAR for number in range(len(names))]
        if judged:
            edges = [height + BAR / 3 for height in heights]  # below the thin line, which stays to be seen
            figure.add_trace(_wide_lines([judged[name][label] for name in names], edges, first=place == 0))
        figure.add_trace(
            go.Bar(
                name=label, y=heights, x=[rate.value for rate in rates], orientation="h", marker_color=colour, width=0.9 * BAR,
                error_x=error_bars(rates, INK),
                customdata=[str(rate) for rate in rates], hovertemplate="%{customdata}<extra>" + label + "</extra>",
            )
        )  # fmt: skip
    figure.update_layout(barmode="overlay", legend={"orientation": "h", "y": -0.22, "traceorder": "normal"})
    figure.update_xaxes(range=[0, 1.02], title="share of the answers, with 95 % intervals", gridcolor=FAINT)
    figure.update_yaxes(autorange="reversed", automargin=True, tickvals=list(range(len(names))), ticktext=names)
    return finish(figure, _told(rows, judged), height=170 + 90 * len(names), title=title)


def _wide_lines(intervals: Sequence[Interval], heights: Sequence[float], first: bool) -> go.Scatter:
    """One grey line an interval, with gaps between them."""
    ends = [(interval.low, interval.high, None) for interval in intervals]
    return go.Scatter(
        x=[end for one in ends for end in one], y=[at for height in heights for at in (height, height, None)], mode="lines",
        line={"color": JUDGED, "width": 5}, name="with the judge's errors", legendgroup="judged", showlegend=first,
        hovertemplate="%{x:.2f}<extra>with the judge's errors</extra>",
    )  # fmt: skip


def _told(rows: Mapping[str, Mapping[str, Rate]], judged: Mapping[str, Mapping[str, Interval]] | None) -> str:
    """The figure in words."""
    told = []
    for name, rates in rows.items():
        parts = []
        for label, rate in rates.items():
            wide = judged[name][label] if judged else None
            parts.append(
                f"{label} {rate}" + (f" (with the judge's errors {wide.low:.2f} to {wide.high:.2f})" if wide else "")
            )
        told.append(f"{name}: {', '.join(parts)}.")
    return " ".join(told)


def confusion(result: Mapping[str, Any], title: str) -> go.Figure:
    """A judge's confusion matrix: each row holds the answers that readers gave one label, and where the judge put them.

    Args:
        result: of `judges.validation.agreement(...).to_json()`: `labels` and the counts in `confusion`.
        title: one line above the figure.

    Raises:
        ValueError: the counts are not one row and one column a label.
    """
    labels, counts = list(result["labels"]), [list(row) for row in result["confusion"]]
    if [len(row) for row in counts] != [len(labels)] * len(labels):
        raise ValueError(
            f"A confusion of {len(labels)} labels needs as many rows and columns: give counts as `agreement` does."
        )
    shares_of = [[count / max(1, sum(row)) for count in row] for row in counts]
    cells = [
        [f"{count}<br>{share:.0%}" for count, share in zip(*pair, strict=True)]
        for pair in zip(counts, shares_of, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=labels, y=labels, z=shares_of, text=cells, texttemplate="%{text}", zmin=0, zmax=1, showscale=False,
            colorscale=[[0, PAPER], [1, REFUSAL]], hovertemplate="readers: %{y}<br>judge: %{x}<br>%{text}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="the judge said", side="bottom")
    figure.update_yaxes(title="the readers said", autorange="reversed", automargin=True)
    told = " ".join(
        f"Of {sum(row)} that readers called {label}, the judge called "
        + ", ".join(f"{count} {name}" for name, count in zip(labels, row, strict=True)) + "."
        for label, row in zip(labels, counts, strict=True)
    )  # fmt: skip
    return finish(figure, told, height=360, title=title)
