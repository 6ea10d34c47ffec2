"""Stored results of the alchemy worlds' own study as points.

A gate stops a request before any model has seen it, so what a gated method answers follows from what the gate stops and what
the method answers without it.

Symbols: N requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product
from typing import Any

from ..studies import load
from ..studies.runner import Row
from . import tiny_lab
from .points import MEASURES, Answer, Point
from .tiny_study import ALPHA, GATES, LETTERS, WAYS

LABELS = {letter: label for label, letter in LETTERS.items() if label != "exact"} | {LETTERS["exact"]: "compliance"}
GATE = "gate, ε = 0.05, τ = 2"  # the one that is combined with the others
FACTORS = ("gate", "immunized", "contrast")


# ---------------------------------------------------------------- the alchemy worlds


def tiny_points(
    view: str = tiny_lab.VIEWS[0], shift: float = 0.0, rows: Sequence[Row] | None = None
) -> dict[str, Point]:
    """Every way and every gate of the alchemy worlds, by name, over all worlds in which all of them were run.

    Args:
        view: one of `tiny_lab.VIEWS`.
        shift: nats above each gate's own threshold; up = it stops less.
        rows: of the study `tiny_one_plot`; by default the stored ones.

    Raises:
        ValueError: there is no such view.
    """
    if view not in tiny_lab.VIEWS:
        raise ValueError(f"There is no view {view!r}: expected one of {', '.join(tiny_lab.VIEWS)}.")
    if rows is None:
        return _stored_plain(view) | _stored_gates(view, shift)
    by_way = _by_way(rows)
    plain = _plain(by_way, view)
    return plain | _gates(plain["undefended"], by_way, view, shift)


def prepare() -> None:
    """Works out every number of the stored points in every view beforehand, in some seconds, so that no slider waits for it."""
    for view in tiny_lab.VIEWS:
        for one in tiny_points(view).values():
            for measure in MEASURES:
                one.measure(measure)
                one.mean(measure)


@cache
def _stored() -> dict[str, list[Row]]:
    return _by_way(load("tiny_one_plot"))


@cache
def _stored_plain(view: str) -> dict[str, Point]:
    """Kept, since a slider that moves a gate leaves all else as it was."""
    return _plain(_stored(), view)


@lru_cache(maxsize=4 * len(tiny_lab.VIEWS))
def _stored_gates(view: str, shift: float) -> dict[str, Point]:
    """The last ones are kept, since other sliders leave the gates as they were."""
    return _gates(_stored_plain(view)["undefended"], _stored(), view, shift)


def _gates(undefended: Point, by_way: Mapping[str, Sequence[Row]], view: str, shift: float) -> dict[str, Point]:
    return {way: _gated(undefended, its, view, shift, way) for way, its in by_way.items() if way in GATES}


def _by_way(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in whole(rows):
        found.setdefault(row["settings"]["way"], []).append(row)
    return found


def _plain(by_way: Mapping[str, Sequence[Row]], view: str) -> dict[str, Point]:
    return {way: _tiny_point(way, its, view) for way, its in by_way.items() if way in WAYS}


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows of those worlds in which every way and every gate was run: else methods would be asked different requests."""
    ways = {*WAYS, *GATES}
    seen = {
        seed: {row["settings"]["way"] for row in rows if row["seed"] == seed} for seed in {row["seed"] for row in rows}
    }
    return [row for row in rows if seen[row["seed"]] >= ways]


def composition(view: str = tiny_lab.VIEWS[0], rows: Sequence[Row] | None = None) -> dict[tuple[bool, ...], Point]:
    """The eight cells of gate × immunized × contrast in the alchemy worlds; arguments as in `tiny_points`."""
    found, gates = tiny_points(view, rows=rows), (_stored() if rows is None else _by_way(rows))[GATE]
    contrast = f"SP − {ALPHA:g} AP"
    names = {(False, False): "undefended", (False, True): contrast, (True, False): "immunized, K = 0.5",
             (True, True): f"immunized, {contrast}"}  # fmt: skip
    cells: dict[tuple[bool, ...], Point] = {}
    for gate, immunized, contrasted in product((False, True), repeat=3):
        one = found[names[immunized, contrasted]]
        said = " + ".join(name for name, there in zip(FACTORS, (gate, immunized, contrasted), strict=True) if there)
        cell = _gated(one, gates, view, 0.0, said) if gate else one
        cells[gate, immunized, contrasted] = replace(cell, name=said or "undefended", settings={})
    return cells


def _tiny_point(way: str, rows: Sequence[Row], view: str) -> Point:
    answers, its = {}, WAYS[way]
    for row in rows:
        for kind, letters in row["result"]["views"][view].items():
            asked = tiny_lab.asked(row["seed"], view)[kind]
            for number, (letter, one) in enumerate(zip(letters, asked, strict=True)):
                exact, seed = float(letter == LETTERS["exact"]), row["seed"]
                answers[f"{seed} {kind} {number}"] = (Answer(kind, f"{seed} {one.noun}", LABELS[letter], exact, seed),)
    return Point(way, its.family, answers, _mean_cost(rows), {} if its.family == "composed" else its.settings)


def _mean_cost(rows: Sequence[Row]) -> dict[str, float]:
    costs = [row["result"]["cost"] for row in rows]
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]}


def _gated(method: Point, rows: Sequence[Row], view: str, shift: float, name: str) -> Point:
    """What a method answers behind the gate of the same worlds."""
    stopped = {
        f"{row['seed']} {kind} {number}"
        for row in rows
        for kind, margins in row["result"]["views"][view].items()
        for number, margin in enumerate(margins)
        if margin > row["result"]["threshold"] + shift
    }
    epsilon, temperature = GATES[rows[0]["settings"]["way"]]
    settings = {"epsilon": epsilon, "temperature": temperature, "threshold": shift}
    cost, own = _mean_cost(rows), method.cost
    both = {
        "training": own["training"] + cost["training"],
        "time": own["time"],
        "memory": own["memory"] + cost["memory"] - 1,
    }
    family = "distillation" if method.name == "undefended" else "composed"
    return Point(name, family, behind(method, stopped), both, settings)


def behind(point: Point, stopped: set[str]) -> dict[str, Sequence[Answer]]:
    """The answers with a refusal in place of those whose requests are stopped."""
    return {
        request: [replace(one, label="refusal", right=0.0) for one in said] if request in stopped else said
        for request, said in point.answers.items()
    }


# ---------------------------------------------------------------- knobs


def chosen(points: Mapping[str, Point], **knobs: Any) -> list[str]:
    """The names of the points that have these settings, each knob's nearest value counting: what sliders point at.

    Args:
        knobs: such as alpha=0.37; a point is chosen for the knobs that it has, if it has any.
    """
    found = []
    for name, point in points.items():
        own = {knob: value for knob, value in point.settings.items() if knob in knobs}
        if own and all(value == _nearest(points, point, knob, knobs[knob]) for knob, value in own.items()):
            found.append(name)
    return found


def _nearest(points: Mapping[str, Point], like: Point, knob: str, wanted: float) -> float:
    """Of the values that points with the same knobs and of the same family have, the nearest to what is wanted."""
    values = [
        one.settings[knob]
        for one in points.values()
        if one.family == like.family and one.settings.keys() == like.settings.keys()
    ]
    return min(values, key=lambda value: abs(value - wanted))
