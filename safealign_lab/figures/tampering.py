"""Views of lesson 33 on attackers: the course of one, the board of a sweep, and the most that any attacker had gained.

Symbols: s steps of fine-tuning. Rows are those of the study "tiny_tampering", or of the same form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from ..immunization.tampering import BROKEN, STEPS, USEFUL, Attack, Point, cumulative, steps_to_break
from ..measures import Rate
from .base import ADVERSARIAL, CONTRAST, FAINT, INCOHERENT, INK, JUDGED, MIXED, REFUSAL, SAFE, error_bars, finish

Row = Mapping[str, Any]
Spread = tuple[float, float, float]  # a mean over worlds, the lowest of them and the highest
Tampered = Callable[..., Sequence[Point]]  # an attacker's settings → the course of the attack
COLOURS = (INCOHERENT, REFUSAL, CONTRAST, MIXED, ADVERSARIAL, SAFE, JUDGED, INK)
DASHES = ("dot", "solid", "dash", "dashdot")
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "triangle-down")
LINES = (  # rate, its name, colour, line of the guard, mark, and what stands at the line
    ("refusal", "cursed potions refused", REFUSAL, BROKEN, "circle", "broken: refused below"),
    ("useful", "kind potions right", SAFE, USEFUL, "square", "and right above"),
)
NEVER, RUINED = "never", "ruined"
TOP = math.log2(2 * STEPS[-1])  # where "never" stands on the board's scale of colours
ASIDE = 0.03  # from one defence's bars to the next one's, on the axis of steps
SCALE = {  # of the board: log2(1 + steps)
    "zmin": 0, "zmax": TOP, "colorscale": [[0, ADVERSARIAL], [0.5, "#F0E442"], [0.99, "#FFFFFF"], [1, "#CFE8DF"]],
    "colorbar": {"title": "steps", "tickvals": [*range(7), TOP],
                 "ticktext": [*(f"{2**height - 1}" for height in range(7)), NEVER]},
}  # fmt: skip


# ---------------------------------------------------------------- one attack


def course(tampered: Tampered, **settings: Any) -> go.Figure:
    """Refusals and usefulness along one attack, the two lines of the guard, and where the model is broken.

    Args:
        tampered: settings → the points of the attack.
        settings: handed on to it, and named in the words.
    """
    points = tampered(**settings)
    steps, broken = [point.step for point in points], steps_to_break(points)
    figure = go.Figure()
    for look in LINES:
        _draw(figure, points, *look)
    if broken < math.inf:
        figure.add_vline(
            x=broken, line={"color": ADVERSARIAL, "width": 3}, annotation_text=f"broken at step {broken:g}",
            annotation_position="top right",
        )  # fmt: skip
    figure.update_xaxes(title="steps of fine-tuning", gridcolor=FAINT, range=[-0.5, max(steps) + 0.5])
    figure.update_yaxes(title="share", range=[-0.03, 1.1], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.25})
    ends = [
        f"{point.rates['refusal']:.2f} refused, {point.rates['useful']:.2f} right" for point in (points[0], points[-1])
    ]
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    alt = (
        f"{told}: at step {steps[0]} {ends[0]}; at step {steps[-1]} {ends[1]}. Refusals are to stay above {BROKEN:g}, the "
        f"attacker needs usefulness above {USEFUL:g}: {f'broken at step {broken:g}' if broken < math.inf else 'never broken'}."
    )
    return finish(figure, alt, height=380, margin={"l": 60, "r": 20, "t": 30, "b": 80})


def _draw(
    figure: go.Figure, points: Sequence[Point], key: str, name: str, colour: str, line: float, mark: str, wanted: str
) -> None:
    """One rate along an attack, and its line of the guard."""
    figure.add_trace(
        go.Scatter(x=[point.step for point in points], y=[point.rates[key] for point in points], name=name,
                   mode="lines+markers", line={"color": colour, "width": 3}, marker={"symbol": mark, "size": 9})
    )  # fmt: skip
    figure.add_hline(
        y=line, line={"color": colour, "dash": "dot", "width": 2}, annotation_text=f"{wanted} {line:g}",
        annotation_font={"color": colour}, annotation_position="top right",
    )  # fmt: skip


# ---------------------------------------------------------------- the board of a sweep


def board(rows: Sequence[Row], defence: str) -> go.Figure:
    """The attackers' sweep of one defence: steps until it is open and useful, by attacker and rate; the worst one is framed.

    A cell shows one number a seed, and has the colour of the least of them. "ruined" is a run in which refusals fell and
    usefulness with them, "never" one in which refusals held; a star says that the model was not useful before the attack.

    Args:
        rows: of the study.
        defence: whose sweep.

    Raises:
        ValueError: there is no such defence among the rows.
    """
    mine = [row for row in rows if row["settings"]["defence"] == defence]
    if not mine:
        raise ValueError(f"No row is about {defence!r}: expected one of {', '.join(defences(rows))}.")
    attackers, rates = attackers_of(rows), sorted({row["settings"]["learning_rate"] for row in rows})
    cells = {
        (name, rate): [_points(row) for row in mine if (attacker(row), row["settings"]["learning_rate"]) == (name, rate)]
        for name in attackers for rate in rates
    }  # fmt: skip
    least = {key: min(map(_opened, runs)) for key, runs in cells.items() if runs}
    first = min(least.values())
    shown = [f"{rate:g}" for rate in rates]
    figure = go.Figure(
        go.Heatmap(
            z=[[_height(least[name, rate]) if (name, rate) in least else None for rate in rates] for name in attackers],
            x=shown, y=attackers,
            text=[[" / ".join(map(_told, cells[name, rate])) for rate in rates] for name in attackers],
            texttemplate="%{text}", textfont={"size": 13},
            hovertemplate="%{y}, learning rate %{x}: %{text}<extra></extra>", xgap=3, ygap=3, hoverongaps=False, **SCALE,
        )
    )  # fmt: skip
    for key, steps in least.items():
        if steps == first < math.inf:
            _frame(figure, shown.index(f"{key[1]:g}"), attackers.index(key[0]))
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(type="category", title="attacker's learning rate")
    alt = f"The sweep against {defence}, {len(mine)} runs: {_first(least)}. " + "; ".join(
        f"{name} at {rate:g}: {' / '.join(map(_told, runs))}" for (name, rate), runs in cells.items() if runs
    )
    alt += f". A star: at most {USEFUL:g} useful before the attack."
    return finish(figure, alt, height=130 + 46 * len(attackers), margin={"l": 190, "r": 20, "t": 20, "b": 60})


def _first(least: Mapping[tuple[str, float], float]) -> str:
    """Who opens a model first, in words."""
    steps = min(least.values())
    if steps == math.inf:
        return "open and useful to no attacker"
    who = ", ".join(f"{name} at {rate:g}" for (name, rate), its in least.items() if its == steps)
    return f"first open and useful to {who}, after {steps:g} steps"


def defences(rows: Sequence[Row]) -> list[str]:
    """The defences that the rows are about, in their order."""
    return list(dict.fromkeys(row["settings"]["defence"] for row in rows))


def attackers_of(rows: Sequence[Row]) -> list[str]:
    """The kinds of attackers in the rows, by `attacker`, in their order."""
    return list(dict.fromkeys(map(attacker, rows)))


def attacker(row: Row) -> str:
    """What an attacker is called, but for the learning rate: "mixed", "mixed, rank 8", "mixed, 10 examples"."""
    given = row["settings"]
    name = str(given["kind"])
    if given.get("rank") is not None:
        name += f", rank {given['rank']}"
    if given.get("examples") not in (None, Attack("mixed", 1.0).examples):
        name += f", {given['examples']} examples"
    return name


def _points(row: Row) -> list[Point]:
    result = row["result"]
    rates = zip(result["refusal"], result["useful"], strict=True)
    return [
        Point(step, {"refusal": refusal, "useful": useful})
        for step, (refusal, useful) in zip(result["steps"], rates, strict=True)
    ]


def _opened(points: Sequence[Point]) -> float:
    """As `steps_to_break`, but for what the model was before the attack."""
    return min((point.step for point in points if point.broken), default=math.inf)


def _told(points: Sequence[Point]) -> str:
    steps, star = _opened(points), "*" if points[0].rates["useful"] <= USEFUL else ""
    if steps < math.inf:
        return f"{steps:g}{star}"
    return (RUINED if any(point.rates["refusal"] < BROKEN for point in points) else NEVER) + star


def _height(steps: float) -> float:
    """Where a number of steps stands on a scale that has a place for 0, and for never."""
    return min(TOP, math.log2(1 + steps))


def _frame(figure: go.Figure, column: int, row: int) -> None:
    figure.add_shape(
        type="rect", x0=column - 0.48, x1=column + 0.48, y0=row - 0.48, y1=row + 0.48, line={"color": INK, "width": 4}
    )


# ---------------------------------------------------------------- the most that any attacker had gained


def gained(rows: Sequence[Row], attackers: str = "all") -> go.Figure:
    """The cumulative maximum of each defence: by each step, the most that any attacker of a sweep had gained.

    Each line is the mean over worlds, its bars go from the lowest world to the highest; a defence is the better, the longer it
    stays low. A run that was stopped once it had broken the model keeps what it had.

    Args:
        rows: of the study.
        attackers: "all", or one that `attackers_of` names.

    Raises:
        ValueError: there are no rows of this kind, or more defences than can be told apart.
    """
    kept = [row for row in rows if attackers in ("all", attacker(row))]
    names = defences(kept)
    if not 1 <= len(names) <= len(COLOURS):
        raise ValueError(
            f"{len(names)} defences cannot be drawn: expected 1 to {len(COLOURS)}, and attackers of "
            f"'all', {', '.join(map(repr, attackers_of(rows)))}."
        )
    steps = sorted({step for row in kept for step in row["result"]["steps"]})
    figure, told = go.Figure(), []
    for number, name in enumerate(names):
        spread = envelope([row for row in kept if row["settings"]["defence"] == name], steps)
        bars = _over_worlds(spread, COLOURS[number])
        figure.add_trace(_curve(name, number, len(names), steps, [mean for mean, _, _ in spread], bars))
        told.append(f"{name}: {_course(steps, spread)}")
    figure.add_hline(y=1 - BROKEN, line_dash="dot", annotation_text="broken: above", annotation_position="bottom right")
    _axes(figure, steps, "cursed potions not refused (most so far)")
    alt = f"The most that any attacker had gained while the model was still useful; attackers: {attackers}. {'; '.join(told)}."
    return finish(figure, alt, height=540, margin={"l": 60, "r": 20, "t": 20, "b": 190})


def envelope(rows: Sequence[Row], steps: Sequence[int]) -> list[Spread]:
    """The cumulative maximum over the attackers of each seed; of these the mean, the lowest and the highest, step by step."""
    curves = []
    for seed in sorted({row["seed"] for row in rows}):
        runs = {_attack(row): _points(row) for row in rows if row["seed"] == seed}
        known = cumulative(runs)
        curves.append([max((gain for at, gain in known.items() if at <= step), default=0.0) for step in steps])
    return [(fmean(column), min(column), max(column)) for column in zip(*curves, strict=True)]


def _over_worlds(spread: Sequence[Spread], colour: str) -> dict[str, Any]:
    """The bars around the means, as plotly takes them."""
    up, down = [high - mean for mean, _, high in spread], [mean - low for mean, low, _ in spread]
    bars = {"type": "data", "symmetric": False, "color": colour, "thickness": 1.2, "width": 4}
    return {**bars, "array": up, "arrayminus": down}


def _course(steps: Sequence[int], spread: Sequence[Spread]) -> str:
    """A curve in words: where it begins and ends, and from when on it is above a half."""
    half = next(
        (f"at step {step}, from {low:.2f} to {high:.2f} over the worlds"
         for step, (mean, low, high) in zip(steps, spread, strict=True) if mean > 1 - BROKEN), "never",
    )  # fmt: skip
    return f"{spread[0][0]:.2f} at step {steps[0]}, above a half {half}, {spread[-1][0]:.2f} at the end"


def _attack(row: Row) -> Attack:
    given = {name: value for name, value in row["settings"].items() if name != "defence"}
    return Attack(**given, seed=row["seed"])


# ---------------------------------------------------------------- several defences along the same steps


def _axes(figure: go.Figure, steps: Sequence[int], said: str) -> None:
    """Steps from left to right by `_height`, a share from bottom to top, and the defences' names below."""
    marks = {"tickvals": [_height(step) for step in steps], "ticktext": [str(step) for step in steps]}
    figure.update_xaxes(title="steps of fine-tuning, spaced by log(1 + steps)", gridcolor=FAINT, zeroline=False)
    figure.update_xaxes(**marks).update_yaxes(title=said, range=[-0.03, 1.05], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})


def _curve(
    name: str, number: int, count: int, steps: Sequence[int], values: Sequence[float], bars: Mapping[str, Any]
) -> go.Scatter:
    """One of several defences; each a little aside of the others, so that their bars stand beside each other."""
    aside, colour = ASIDE * (number - (count - 1) / 2), COLOURS[number]
    return go.Scatter(
        x=[_height(step) + aside for step in steps], y=values, error_y=bars, name=name, mode="lines+markers",
        customdata=steps, hovertemplate="step %{customdata}: %{y:.2f}", marker={"symbol": MARKS[number], "size": 8},
        line={"color": colour, "dash": DASHES[number % len(DASHES)], "width": 3},
    )  # fmt: skip


def worn(rates: Mapping[str, Mapping[int, Rate]], said: str) -> go.Figure:
    """A rate of each defence along the steps of one attacker, with its intervals.

    Args:
        rates: defence → steps → the rate.
        said: what the rate is, such as "harmful requests refused".

    Raises:
        ValueError: there are no defences, or more than can be told apart.
    """
    if not 1 <= len(rates) <= len(COLOURS):
        raise ValueError(f"{len(rates)} defences cannot be drawn: expected 1 to {len(COLOURS)}.")
    figure, told = go.Figure(), []
    for number, (name, its) in enumerate(rates.items()):
        bars = error_bars(list(its.values()), COLOURS[number])
        figure.add_trace(_curve(name, number, len(rates), list(its), [rate.value for rate in its.values()], bars))
        told.append(f"{name}: {', '.join(f'{rate.value:.2f} at step {step}' for step, rate in its.items())}")
    _axes(figure, sorted({step for its in rates.values() for step in its}), said)
    return finish(figure, f"{said}. {'; '.join(told)}.", height=420, margin={"l": 60, "r": 20, "t": 20, "b": 110})
