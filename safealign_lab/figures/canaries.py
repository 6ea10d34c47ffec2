"""Views of lesson 31: where the canaries sit, how far two selections agree, and what training under attack does on the way.

Symbols: K the share that is chosen; L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..immunization import canaries
from .base import ADVERSARIAL, FAINT, INCOHERENT, INK, JUDGED, MIXED, SAFE, finish

Scores = Mapping[str, Tensor]  # name of a tensor → its scores
COLOURS = {
    "no attack": INCOHERENT, "attack, put back": SAFE, "attack, never put back": ADVERSARIAL, "random directions": MIXED,
}  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
OUTSIDE = "outside"  # the column of what belongs to no layer


def where(scores: Mapping[str, Scores], score: str, canary_fraction: float = 0.3) -> go.Figure:
    """A map of the model: the share of canaries in each tensor, layer by layer; everywhere K if they were spread evenly.

    Args:
        scores: kind of score → name of a tensor → its scores.
        score: the kind to rank by.
        canary_fraction: K in [0, 1]; up = more canaries.

    Raises:
        ValueError: there is no such kind, or as in `canaries.select`.
    """
    if score not in scores:
        raise ValueError(f"There are no scores {score!r}: expected one of {', '.join(scores)}.")
    found = canaries.places(canaries.select(scores[score], canary_fraction))
    rows, columns = _unique(_short(one.kind) for one in found), _unique(map(_layer, found))
    cells = {(_short(one.kind), _layer(one)): one for one in found}
    shares = [[_share(cells.get((row, column))) for column in columns] for row in rows]  # (kinds, L)
    said = [[_counted(cells.get((row, column))) for column in columns] for row in rows]
    return _map(rows, columns, shares, said, _told(found, score, canary_fraction), texttemplate="%{z:.0%}")


def stored(shares: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """The same map of a large model, from stored shares, with a column for each of its many layers.

    Args:
        shares: name of a tensor without its layer → number of the layer → share of its weights that are canaries; whatever is
            no number is no layer.
    """
    named = {
        (_short(kind.removesuffix(".weight")), layer if layer.isdigit() else OUTSIDE): share
        for kind, its in shares.items()
        for layer, share in its.items()
    }
    rows, columns = _unique(row for row, _ in named), _unique(column for _, column in named)
    values = [[named.get((row, column)) for column in columns] for row in rows]  # (kinds, L)
    said = [["" if one is None else f"{one:.1%}" for one in row] for row in values]
    ends = [
        f"{kind} of {'layer ' * layer.isdigit()}{layer} {named[kind, layer]:.0%}"
        for kind, layer in (max(named, key=named.__getitem__), min(named, key=named.__getitem__))
    ]
    told = f"Canaries in {len(named)} tensors. The largest share: {ends[0]}; the smallest: {ends[1]}."
    ticks = [one for one in columns if one == OUTSIDE or int(one) % 5 == 0]  # more would stand on top of each other
    return _map(rows, columns, values, said, told).update_xaxes(title="layer", type="category", tickvals=ticks)


def _map(
    rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float | None]], said: Sequence[Sequence[str]],
    told: str, **looks: str,
) -> go.Figure:  # fmt: skip
    figure = go.Figure(
        go.Heatmap(z=shares, x=columns, y=rows, zmin=0, zmax=1, colorscale="Blues", text=said,
                   hovertemplate="%{x}, %{y}: %{text}<extra></extra>", xgap=2, ygap=2, hoverongaps=False,
                   colorbar={"title": "share", "tickformat": ".0%"}, **looks)
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(tickangle=0)
    return finish(figure, told, height=80 + 34 * len(rows), margin={"l": 150, "r": 20, "t": 20, "b": 40})


def _layer(place: canaries.Place) -> str:
    return OUTSIDE if place.layer is None else f"layer {place.layer}"


def _short(kind: str) -> str:
    """A tensor's name as a column is called: "q" of "self_attn.q_proj", "input norm" of "input_layernorm"."""
    whole, _, bias = kind.partition(".bias")
    name = whole.rpartition(".")[2].removesuffix("_proj").replace("layernorm", "norm").replace("_", " ")
    return name if kind == whole else f"{name} bias{bias}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _share(place: canaries.Place | None) -> float | None:
    return None if place is None else place.share


def _counted(place: canaries.Place | None) -> str:
    return "" if place is None else f"{place.canaries} of {place.weights}"


def _told(found: Sequence[canaries.Place], score: str, fraction: float) -> str:
    total, chosen = sum(one.weights for one in found), sum(one.canaries for one in found)
    ranked = sorted(found, key=lambda one: -one.share)
    ends = [f"{_layer(one)} {_short(one.kind)} {one.share:.0%}" for one in (ranked[0], ranked[-1])]
    return (
        f"Canaries by {score}, K = {fraction:g}: {chosen} of {total} weights. The largest share: {ends[0]}; the smallest: "
        f"{ends[1]}. Spread evenly, each tensor would have {fraction:.0%}."
    )


# ---------------------------------------------------------------- how far two selections agree


def agreement(pairs: Mapping[str, tuple[Scores, Scores]], canary_fraction: float = 0.3) -> go.Figure:
    """The overlap of two selections, for several pairs: shared weights over all weights of both, and what chance would give.

    Args:
        pairs: what is compared → the two scores of the same weights.
        canary_fraction: K in (0, 1] of all selections; up = more in common, by chance too: K / (2 - K).

    Raises:
        ValueError: there are no pairs, or as in `canaries.select` and `canaries.overlap`.
    """
    if not pairs:
        raise ValueError("There is nothing to compare: give at least one pair of scores.")
    found = {
        name: canaries.overlap(*(canaries.select(one, canary_fraction) for one in pair)) for name, pair in pairs.items()
    }
    names, values = list(found), [one.jaccard for one in found.values()]
    chance = next(iter(found.values())).jaccard_by_chance
    figure = go.Figure(
        go.Bar(y=names, x=values, orientation="h", marker={"color": JUDGED}, text=[f"{value:.2f}" for value in values],
               textposition="outside", cliponaxis=False, name="overlap", showlegend=False)
    )  # fmt: skip
    figure.add_vline(
        x=chance, line={"color": INK, "dash": "dash", "width": 2}, annotation_text=f"chance {chance:.2f}",
        annotation_position="top",
    )  # fmt: skip
    figure.update_xaxes(title="overlap (Jaccard)", range=[0, 1.12], gridcolor=FAINT, tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    each = "; ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))
    alt = f"Overlap of two selections at K = {canary_fraction:g}, where chance gives {chance:.2f}: {each}."
    return finish(figure, alt, height=120 + 42 * len(names), margin={"l": 20, "r": 20, "t": 40, "b": 50})


# ---------------------------------------------------------------- training under attack


def training(runs: Mapping[str, Sequence[Mapping[str, float]]], top: float | None = None) -> go.Figure:
    """What each run does to refusals and to harmless answers at the weights themselves, and to refusals at attacked ones.

    Args:
        runs: name → rows with "step", "refusals", "attacked" and "harmless", losses in nats a token; a name of `COLOURS` has
            its colour.
        top: the highest loss that is drawn, where a run leaves the frame; None draws all.

    Raises:
        ValueError: there are no runs, more than can be told apart, or one has no rows.
    """
    if not 1 <= len(runs) <= len(DASHES) or not all(runs.values()):
        raise ValueError(f"Expected 1 to {len(DASHES)} runs with at least one row each.")
    panels = {"refusals": "refusals", "attacked": "refusals, attacked", "harmless": "harmless answers"}
    figure = make_subplots(rows=1, cols=3, subplot_titles=list(panels.values()), horizontal_spacing=0.08)
    told = []
    for (name, rows), dash in zip(runs.items(), DASHES, strict=False):
        line = {"color": COLOURS.get(name, JUDGED), "dash": dash, "width": 3}
        for column, key in enumerate(panels, start=1):
            figure.add_trace(
                go.Scatter(x=[row["step"] for row in rows], y=[row[key] for row in rows], name=name, mode="lines+markers",
                           line=line, marker={"size": 5}, showlegend=column == 1, legendgroup=name),
                row=1, col=column,
            )  # fmt: skip
        told.append(f"{name}: " + ", ".join(f"{key} {rows[0][key]:.2f} to {rows[-1][key]:.2f}" for key in panels))
    figure.update_xaxes(title="step", gridcolor=FAINT)
    figure.update_yaxes(gridcolor=FAINT, rangemode="tozero", range=None if top is None else [-0.03 * top, top])
    figure.update_yaxes(title="nats a token", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    alt = f"Losses of refusals at the weights and at attacked ones, and of harmless answers, step by step. {'; '.join(told)}."
    return finish(figure, alt, height=360, margin={"l": 60, "r": 20, "t": 40, "b": 90})
