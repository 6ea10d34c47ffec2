"""Stored results of SmolLM2 as points, from the studies of the wings: methods, gates by their settings, and other wordings.

Helpfulness is the likeness of an answer to the undefended model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from ..contrast.real_stress import ATTACKED
from ..studies import load
from ..studies.runner import Row
from .points import Answer, Point
from .real_attacks import EPSILONS, SLIPS, TEMPERATURE, WORDINGS
from .real_study import DEFENCES
from .stored import behind
from .tiny_lab import VIEWS

REQUESTS: dict[str, dict[str, tuple[str, ...]]] = {  # by whose requests they are: kind → sets of requests
    "own": {"harmful": ("harmful",), "borderline": ("borderline",), "benign": ("benign",)},
    "others": {"harmful": ("jailbreakbench", "rho-twins/harmful"), "borderline": ("rho-borderline",),
               "benign": ("rho-twins/benign",)},
}  # fmt: skip
METHODS = {  # study → what it calls a method
    "smollm2_written": "method", "smollm2_methods": "method", "smollm2_defended": "defence"
}  # fmt: skip
AS_ASKED = VIEWS[0]
REWORDED = {  # study → what it calls a method, and a wording; None = swapped words throughout
    "smollm2_attacked": ("method", "wrapper"), "smollm2_slipped": ("method", None),
    "smollm2_defended_attacked": ("defence", "wording"),
}  # fmt: skip
UNDEFENDED = "no system text"
Stopped = dict[tuple[float, float], dict[int, set[str]]]  # (ε, τ) → seed → ids of requests


def points(whose: str = "own", shift: float = 0.0) -> dict[str, Point]:
    """Every method of SmolLM2 whose answers are stored, and every gate, by name; costs where they were measured.

    Args:
        whose: requests, "own" of the kit's test splits or "others" of third parties.
        shift: nats above each gate's own threshold; up = it stops less.

    Raises:
        ValueError: there are no such requests.
    """
    if whose not in REQUESTS:
        raise ValueError(f"There are no requests of {whose!r}: expected one of {', '.join(REQUESTS)}.")
    sets, found = _sets(whose), _as_asked(whose)
    return found | _gates(found[UNDEFENDED], _stopped(sets, shift), shift)


def _sets(whose: str) -> set[str]:
    return {name for names in REQUESTS[whose].values() for name in names}


@cache
def _as_asked(whose: str) -> dict[str, Point]:
    """Kept, since a slider that moves a threshold leaves the methods as they were."""
    sets = _sets(whose)
    return _methods((name, row) for name, row in _asked(AS_ASKED) if row["settings"]["requests"] in sets)


def reworded(wording: str = AS_ASKED) -> dict[str, Point]:
    """One or two methods of each family on requests of others in one wording, as one training of each answers them.

    No borderline requests were asked in other wordings.

    Args:
        wording: a key of `real_attacks.WORDINGS`, or "as asked".

    Raises:
        ValueError: there is no such wording.
    """
    if wording not in (AS_ASKED, *WORDINGS):
        raise ValueError(f"There is no wording {wording!r}: expected one of {', '.join((AS_ASKED, *WORDINGS))}.")
    names = {name for other in WORDINGS for name, _ in _asked(other)}
    found = _methods(
        (name, row)
        for name, row in _asked(wording)
        if name in names and row["settings"]["requests"] in ATTACKED and row["seed"] == 0
    )
    stopped = _stopped(set(ATTACKED), 0.0) if wording == AS_ASKED else _stopped_in(wording)
    same = {(epsilon, TEMPERATURE): {0: stopped[epsilon, TEMPERATURE][0]} for epsilon in EPSILONS}
    return found | _gates(found[UNDEFENDED], same, 0.0)


def _asked(wording: str) -> Iterator[tuple[str, Row]]:
    """(method, row) of all that was asked of SmolLM2 in a wording."""
    if wording == AS_ASKED:
        yield from ((row["settings"][called], row) for study, called in METHODS.items() for row in load(study))
        return
    for study, (called, worded) in REWORDED.items():
        for row in load(study):
            if wording == (row["settings"][worded] if worded else SLIPS):
                yield row["settings"][called], row


def _methods(asked: Iterator[tuple[str, Row]]) -> dict[str, Point]:
    answers: dict[str, dict[str, list[Answer]]] = {}
    for name, row in asked:
        _add(answers.setdefault(name, {}), row["result"], row["seed"])
    costs = _costs()
    return {name: Point(name, _family(name), said, costs.get(name, {})) for name, said in answers.items()}


@cache
def _costs() -> dict[str, dict[str, float]]:
    """Method → what it costs."""
    return {row["settings"]["method"]: row["result"] for row in load("smollm2_costs")}


def _add(answers: dict[str, list[Answer]], result: Mapping[str, Any], seed: int) -> None:
    alike = result.get("similarity", {})
    for request, label in result["labels"].items():
        answers.setdefault(request, []).append(Answer(result["kind"], request, label, alike.get(request, 0.0), seed))


def _family(method: str) -> str:
    if method in DEFENCES:
        return "immunization"
    return "contrast" if "SP" in method or "AP" in method or method == "SafeDecoding" else "no training"


def _stopped(sets: set[str], shift: float) -> Stopped:
    """What the gates of lesson 13's grid stop of some sets of requests."""
    found: Stopped = {}
    for row in load("gate_settings"):
        its = row["settings"]
        margins = {request: margin for name in sets for request, margin in row["result"][name].items()}
        above = {request for request, margin in margins.items() if margin > shift}
        found.setdefault((its["epsilon"], its["temperature"]), {})[row["seed"]] = above
    return found


def _stopped_in(wording: str) -> Stopped:
    found: Stopped = {}
    for row in load("smollm2_gate_attacked"):
        if row["settings"]["wording"] == wording:
            above = {request for request, margin in row["result"]["margins"].items() if margin > 0}
            by_seed = found.setdefault((row["settings"]["epsilon"], TEMPERATURE), {})
            by_seed[row["seed"]] = by_seed.get(row["seed"], set()) | above
    return found


def _gates(undefended: Point, stopped: Stopped, shift: float) -> dict[str, Point]:
    found = {}
    for (epsilon, temperature), by_seed in stopped.items():
        name = f"gate, ε = {epsilon:g}, τ = {temperature:g}"
        settings = {"epsilon": epsilon, "temperature": temperature, "threshold": shift}
        answers = _behind_each(undefended, by_seed)
        found[name] = Point(name, "distillation", answers, _costs().get(name, {}), settings)
    return found


def _behind_each(point: Point, stopped: Mapping[int, set[str]]) -> dict[str, Sequence[Answer]]:
    """The answers behind the gates of several seeds, each answer with the seed of its gate."""
    gated = {seed: behind(point, some) for seed, some in stopped.items()}
    return {
        request: [replace(one, seed=seed) for seed, its in gated.items() for one in its[request]]
        for request in point.answers
    }
