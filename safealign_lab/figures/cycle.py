"""Views of lesson 32: the ablation board and the knobs of the stored cycles, what holds canaries, and who pulls against whom.

Symbols: K the canaries' share; β an anchor's weight, γ a strength in front of a loss, λ a push's weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ..immunization import three_tokens as toy
from ..immunization.cycle import Cycle
from ..training import Plan, train
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INCOHERENT, INK, MIXED, REFUSAL, SAFE, finish

Spread = tuple[float, float, float]  # a value, and the two ends of its bar
Row = Mapping[str, Any]  # of the study: settings, seed, result

REFERENCE = "working"  # the variant that all others are compared with
# column of a board → the sets of requests that it is the mean of, and what of their answers is counted
MEASURES: dict[str, tuple[tuple[str, ...], str]] = {
    "seen nouns": (("cursed/weak/train", "cursed/medium/train", "cursed/strong/train"), "refusal"),
    "new nouns, plain": (("cursed/weak/test",), "refusal"),
    "new nouns, story": (("cursed/medium/test",), "refusal"),
    "new nouns, trick": (("cursed/strong/test",), "refusal"),
    "borderline refused": (("cursed/question/test",), "refusal"),
    "kind refused": (("kind/weak/test", "kind/medium/test", "kind/strong/test"), "refusal"),
    "kind right": (("kind/weak/test", "kind/medium/test", "kind/strong/test"), "exact"),
    "old skills right": (("skill/comprehension", "skill/ordering", "skill/counting"), "exact"),
    "lists right": (("skill/lists",), "exact"),
}
SAFETY, PRICE = tuple(MEASURES)[:4], tuple(MEASURES)[4:6]
COLOURS = {**dict.fromkeys(SAFETY, SAFE), **dict.fromkeys(PRICE, ADVERSARIAL)}  # of a column; INK of all others
KNOBS = {"K": "K, the share of canaries", "β": "β, the weight of the anchor", "λ": "λ, the weight of the push"}
STEPS, RATE = 30, 0.01  # of the toy's training


# ---------------------------------------------------------------- the stored study


def by_seed(rows: Sequence[Row], variant: str) -> dict[str, list[float]]:
    """Each column of the board for one variant: a number a seed, in the order of the seeds.

    Args:
        rows: of the study of cycles.
        variant: by its name.

    Raises:
        ValueError: there is no such variant among the rows.
    """
    found = sorted((row for row in rows if row["settings"]["variant"] == variant), key=lambda row: int(row["seed"]))
    if not found:
        known = ", ".join(dict.fromkeys(row["settings"]["variant"] for row in rows)) or "none at all"
        raise ValueError(f"There are no runs of {variant!r} in the study: it has {known}.")
    return {
        column: [fmean(row["result"]["rates"][one][what][0] for one in sets) for row in found]
        for column, (sets, what) in MEASURES.items()
    }


def spread(values: Sequence[float]) -> Spread:
    """The mean of a number over seeds, the lowest and the highest."""
    return fmean(values), min(values), max(values)


def compared(rows: Sequence[Row], variant: str, column: str, other: str = REFERENCE) -> tuple[float, str]:
    """A variant less another one in a column, the mean over their common seeds, and whether all seeds say so.

    Returns:
        The difference, and "higher" or "lower" where every seed has it on that side, else "not to be told apart".

    Raises:
        ValueError: as in `by_seed`, there is no such column, or the two have other seeds.
    """
    if column not in MEASURES:
        raise ValueError(f"There is no column {column!r}: expected one of {', '.join(MEASURES)}.")
    mine, theirs = (by_seed(rows, one)[column] for one in (variant, other))
    if len(mine) != len(theirs):
        raise ValueError(f"{variant!r} and {other!r} were run with {len(mine)} and {len(theirs)} seeds: run the rest.")
    gaps = [one - two for one, two in zip(mine, theirs, strict=True)]
    side = "higher" if min(gaps) > 0 else "lower" if max(gaps) < 0 else "not to be told apart"
    return fmean(gaps), side


def board(points: Mapping[str, Mapping[str, Spread]]) -> go.Figure:
    """Models in rows, what they do in columns: what is to be high in green, what is to be low in orange, the rest in black.

    A dotted line goes down from the first row, to compare with.

    Args:
        points: model → (column → its value and the ends of its bar), the same columns for each model.

    Raises:
        ValueError: there is no model, or one lacks a column.
    """
    columns = [*next(iter(points.values()), {})]
    if not columns or any([*one] != columns for one in points.values()):
        raise ValueError("A board needs at least one model, and the same columns for each.")
    titles = [column.replace(" ", "<br>") for column in columns]  # narrow, since a page may be
    figure = make_subplots(
        rows=1, cols=len(columns), shared_yaxes=True, horizontal_spacing=0.012, subplot_titles=titles
    )
    first = next(iter(points.values()))
    for place, column in enumerate(columns, start=1):
        figure.add_trace(_dots(column, {name: one[column] for name, one in points.items()}), row=1, col=place)
        figure.add_vline(x=first[column][0], line={"color": INCOHERENT, "dash": "dot", "width": 1.5}, row=1, col=place)
    figure.update_xaxes(range=[-0.08, 1.08], tickvals=[0, 1], gridcolor=FAINT, showline=True, linecolor=FAINT)
    figure.update_yaxes(autorange="reversed", automargin=True, gridcolor=FAINT)
    figure.update_annotations(font_size=10)
    told = "; ".join(f"{name}: {_in_words(one)}" for name, one in points.items())
    return finish(figure, f"What each model does. {told}.", height=120 + 26 * len(points),
                  margin={"l": 20, "r": 20, "t": 70, "b": 30})  # fmt: skip


def _dots(column: str, of: Mapping[str, Spread]) -> go.Scatter:
    colour = COLOURS.get(column, INK)
    values = [value for value, _, _ in of.values()]
    said = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in of.values()]
    look = {"marker": {"color": colour, "size": 9}, "error_x": _bars([*of.values()], colour), "showlegend": False}
    hover = "%{y}: %{text}<extra>" + column + "</extra>"
    return go.Scatter(x=values, y=[*of], mode="markers", text=said, name=column, hovertemplate=hover, **look)


def _bars(spreads: Sequence[Spread], colour: str) -> dict[str, Any]:
    up, down = ([abs(one[end] - one[0]) for one in spreads] for end in (2, 1))
    bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 3}
    return {**bars, "array": up, "arrayminus": down}


def _in_words(columns: Mapping[str, Spread]) -> str:
    return ", ".join(f"{column} {value:.2f}" for column, (value, _, _) in columns.items())


# ---------------------------------------------------------------- knobs that were swept


def swept(rows: Sequence[Row], knob: str) -> dict[float, str]:
    """The settings of a knob that were run, from low to high: value → variant.

    Args:
        rows: of the study.
        knob: "K", "β" or "λ": variants are called after it, as "K = 0.1". The reference stands in at its own value.
    """
    names = dict.fromkeys(row["settings"]["variant"] for row in rows)
    found, recipe = {float(name.partition(" = ")[2]): name for name in names if name.startswith(f"{knob} = ")}, Cycle()
    others = {"K": {0.0: "no canaries", recipe.canary_fraction: REFERENCE}, "β": {0.0: "no canaries"},
              "λ": {recipe.immunize.push_weight: REFERENCE}}  # fmt: skip
    for value, name in others.get(knob, {}).items():
        if found and name in names:
            found.setdefault(value, name)
    return dict(sorted(found.items()))


def sweep(rows: Sequence[Row], knob: str = "K") -> go.Figure:
    """What becomes of the cycle as one knob is turned: means over seeds, and bars from the lowest seed to the highest.

    Args:
        rows: of the study.
        knob: as in `swept`.

    Raises:
        ValueError: fewer than two of its settings were run.
    """
    settings = swept(rows, knob)
    if len(settings) < 2:
        raise ValueError(f"The study has {len(settings)} settings of {knob!r}: two or more make a curve.")
    looks = {
        "new nouns, plain": (SAFE, "solid"), "new nouns, trick": (REFUSAL, "dash"), "kind refused": (ADVERSARIAL, "dot"),
        "kind right": (INK, "dashdot"), "lists right": (CONTRAST, "longdash"),
    }  # fmt: skip
    figure, told, places = go.Figure(), [], [f"{value:g}" for value in settings]
    runs = [by_seed(rows, variant) for variant in settings.values()]
    for column, (colour, dash) in looks.items():
        spreads = [spread(run[column]) for run in runs]
        figure.add_trace(
            go.Scatter(x=places, y=[value for value, _, _ in spreads], name=column, mode="lines+markers",
                       line={"color": colour, "dash": dash, "width": 3}, error_y=_bars(spreads, colour))
        )  # fmt: skip
        told.append(f"{column}: " + ", ".join(f"{one[0]:.2f} at {at}" for at, one in zip(places, spreads, strict=True)))
    figure.update_xaxes(title=KNOBS[knob], type="category", gridcolor=FAINT)
    figure.update_yaxes(title="share of answers", range=[-0.03, 1.03], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    return finish(figure, f"The cycle by {knob}, means over seeds. {'; '.join(told)}.", height=420)


# ---------------------------------------------------------------- what holds


def holding(drifts: Mapping[str, Mapping[float, tuple[float, float]]]) -> go.Figure:
    """How far weights go in a phase by β: the canaries of each shield as a line, all other weights as a dotted one.

    Args:
        drifts: shield → (β → (root mean square of the canaries' movement, and of all others')), the same βs for each.

    Raises:
        ValueError: there is no shield, more than can be told apart, or their βs differ.
    """
    betas = [*next(iter(drifts.values()), {})]
    looks = ((ADVERSARIAL, "x"), (SAFE, "circle"), (CONTRAST, "diamond"), (MIXED, "square"))
    if not betas or len(drifts) > len(looks) or any([*one] != betas for one in drifts.values()):
        raise ValueError(f"Expected 1 to {len(looks)} shields, each with the same values of β.")
    figure, told, places = go.Figure(), [], [f"{beta:g}" for beta in betas]
    for (name, of), (colour, symbol) in zip(drifts.items(), looks, strict=False):
        for who, dash, place in (("canaries", "solid", 0), ("others", "dot", 1)):
            values = [pair[place] for pair in of.values()]
            figure.add_trace(
                go.Scatter(x=places, y=values, name=f"{name}: {who}", mode="lines+markers",
                           line={"color": colour, "dash": dash, "width": 3 - place},
                           marker={"symbol": symbol if not place else f"{symbol}-open", "size": 10})
            )  # fmt: skip
            each = ", ".join(f"{value:.1e} at {at}" for at, value in zip(places, values, strict=True))
            told.append(f"{name}, {who}: {each}")
    figure.update_xaxes(title="stabilization, beta (β)", type="category", gridcolor=FAINT)
    figure.update_yaxes(title="distance gone (RMS)", rangemode="tozero", exponentformat="power", gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    return finish(figure, f"Distance gone in a phase by β. {'; '.join(told)}.", height=420)


def against(cosines: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """Cosines of pairs of gradients: above 0 a step for the one helps the other, below 0 it harms it.

    Args:
        cosines: pair of gradients → (over which weights → the cosine), the same weights for each pair.

    Raises:
        ValueError: there is no pair, more kinds of weights than can be told apart, or these differ.
    """
    kinds, colours = [*next(iter(cosines.values()), {})], (INK, SAFE, COMPLIANCE, INCOHERENT)
    if not 1 <= len(kinds) <= len(colours) or any([*one] != kinds for one in cosines.values()):
        raise ValueError(f"Expected at least one pair, each with the same 1 to {len(colours)} kinds of weights.")
    figure = go.Figure()
    for kind, colour in zip(kinds, colours, strict=False):
        values = [one[kind] for one in cosines.values()]
        figure.add_trace(
            go.Bar(y=[*cosines], x=values, orientation="h", name=kind, marker={"color": colour},
                   text=[f"{value:+.2f}" for value in values], textposition="outside", cliponaxis=False)
        )  # fmt: skip
    reach = 1.25 * max(0.2, *(abs(value) for one in cosines.values() for value in one.values()))
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title="cosine of the two gradients", range=[-reach, reach], gridcolor=FAINT)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": -0.3})
    told = "; ".join(
        f"{pair}: " + ", ".join(f"{kind} {value:+.2f}" for kind, value in one.items()) for pair, one in cosines.items()
    )
    return finish(figure, f"Cosines of gradients. {told}.", height=150 + 24 * len(kinds) * len(cosines),
                  margin={"l": 20, "r": 20, "t": 20, "b": 90})  # fmt: skip


# ---------------------------------------------------------------- a strength in front of it all


@cache  # a panel asks for most of them again and again
def lengths(gamma: float, gamma_falls: bool = False, rate_falls: bool = False) -> tuple[float, ...]:
    """How long each step of a small training is whose whole loss is multiplied by γ; three tokens, AdamW, no clipping.

    Args:
        gamma: γ > 0; up = the same.
        gamma_falls, rate_falls: whether γ, or the learning rate, goes from its full size to nearly 0 on the way.
    """
    z = torch.tensor([toy.REFERENCE], dtype=torch.float64).log().requires_grad_()  # (1, 3)
    places = [z.detach().clone()]

    def _loss(step: int, _: torch.Generator) -> torch.Tensor:
        share = 1 - (step - 1) / STEPS if gamma_falls else 1.0
        return gamma * share * toy.LOSSES["bounded push"](z, toy.Knobs())

    plan = Plan(STEPS, RATE, schedule="linear" if rate_falls else "constant", clip=None)
    train({"z": z}, _loss, plan, after_step=lambda step: places.append(z.detach().clone()), progress=False)
    moves = torch.cat(places).diff(dim=0)  # (steps, 3)
    return tuple(moves.norm(dim=1).tolist())


def strengths(rejection_strength: float = 100.0) -> go.Figure:
    """What γ in front of the whole loss does to each step: constant, annealed, and beside them an annealed learning rate.

    Args:
        rejection_strength: γ > 0, of which the annealed one goes to nearly 0.
    """
    runs = {
        "γ = 1": (lengths(1.0), INK, "solid", 6),
        f"γ = {rejection_strength:g}": (lengths(rejection_strength), MIXED, "dash", 3),
        f"γ from {rejection_strength:g} to 0": (lengths(rejection_strength, gamma_falls=True), ADVERSARIAL, "solid", 3),
        "learning rate to 0, γ = 1": (lengths(1.0, rate_falls=True), REFUSAL, "dot", 3),
    }
    figure = go.Figure()
    for name, (values, colour, dash, width) in runs.items():
        line = {"color": colour, "dash": dash, "width": width}
        figure.add_trace(go.Scatter(x=list(range(1, STEPS + 1)), y=values, name=name, mode="lines", line=line))
    figure.update_xaxes(title="step", gridcolor=FAINT)
    figure.update_yaxes(title="length of the step", rangemode="tozero", gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    told = "; ".join(f"{name}: {values[0]:.4f} to {values[-1]:.4f}" for name, (values, *_) in runs.items())
    return finish(figure, f"Length of each step of a training on three tokens. {told}.", height=400)
