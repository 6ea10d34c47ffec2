"""The exercises of lesson 40 on choosing: what a part of a composition adds, and what a method loses in a deployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod

from ..examining import Wrong, call, expect
from ..exercise import Exercise, Function

LESSON = "40_one_plot"
Cells = Mapping[tuple[bool, ...], float]  # which parts are there → a measure


def effect(cells: Cells, parts: Sequence[int]) -> float:
    """What parts do in a design of all combinations: 2/cells · Σ_cells Π_{a ∈ parts} (±1) · value, + where part a is there."""
    total = 0.0
    for there, value in cells.items():
        lacking = sum(not there[part] for part in parts)
        total += -value if lacking % 2 else value
    return 2 * total / len(cells)


def expected_loss(
    harmful: Mapping[str, float], harmless: Mapping[str, float], share: float, costs: Mapping[str, float]
) -> float:
    """The loss of a thousand requests, of which a share is harmful: 1000 · (share · b + (1 − share) · g)."""
    of_harmful = costs["harm"] * harmful["answered"] + costs["broken"] * harmful["broken"]
    of_harmless = costs["refusal"] * harmless["refused"] + costs["broken"] * harmless["broken"]
    return 1000 * (share * of_harmful + (1 - share) * of_harmless)


# ---------------------------------------------------------------- what a part adds

_DESIGNS: tuple[tuple[Cells, tuple[int, ...]], ...] = tuple(
    (dict(zip(product((False, True), repeat=size), values, strict=True)), parts)
    for size, values, parts in (
        (3, (0.02, 0.35, 0.61, 0.74, 0.5, 0.57, 0.83, 0.97), (0,)),
        (3, (0.02, 0.35, 0.61, 0.74, 0.5, 0.57, 0.83, 0.97), (2,)),
        (3, (0.9, 0.2, 0.7, 0.65, 0.81, 0.33, 0.49, 0.12), (1, 2)),
        (2, (0.1, 0.8, 0.45, 0.9), (0, 1)),
        (3, (0.15, 0.3, 0.85, 0.1, 0.6, 0.95, 0.2, 0.55), (0, 1, 2)),
    )
)


def examine_effect(function: Function) -> str | None:
    """Compares with differences of differences, taken one part after the other; designs of two and of three parts."""
    for cells, parts in _DESIGNS:
        right = _differenced(cells, parts)
        got = call(function, dict(cells), parts, like=right)
        given = f"a design of {len(next(iter(cells)))} parts and parts = {parts}"
        if said := expect(got, right, _effect_mistakes(cells, parts, right), given=given):
            return said
    return None


def _differenced(cells: Cells, parts: Sequence[int]) -> float:
    """Recursively: half of (the rest's effect where the first part is there − where it is not), whole for the last one left."""
    if not parts:
        return sum(cells.values()) / len(cells)
    with_it, without = _halves(cells, parts[0])
    gap = _differenced(with_it, parts[1:]) - _differenced(without, parts[1:])
    return gap / 2 if len(parts) > 1 else gap


def _halves(cells: Cells, part: int) -> tuple[Cells, Cells]:
    return tuple({key: value for key, value in cells.items() if key[part] == there} for there in (True, False))  # type: ignore[return-value]


def _effect_mistakes(cells: Cells, parts: Sequence[int], right: float) -> dict[str, float]:
    size, wanted = len(next(iter(cells))), set(parts)
    all_there = [value for key, value in cells.items() if all(key[part] for part in parts)]
    others = [value for key, value in cells.items() if not all(key[part] for part in parts)]
    alone = cells[tuple(part in wanted for part in range(size))]
    nothing, everything = cells[(False,) * size], cells[(True,) * size]
    without = cells[tuple(part not in wanted for part in range(size))]
    mains = [_differenced(cells, (part,)) for part in parts]
    corner = {
        key: value for key, value in cells.items() if not any(key[part] for part in range(size) if part not in wanted)
    }
    count = sum(value * (1 if any(key[part] for part in parts) else -1) for key, value in cells.items())
    return {
        "The sign is turned: what is there is plus, what is not there is minus.": -right,
        "It is half of the effect: the cells fall into two halves, so divide the signed sum by half of their number.": right / 2,
        "It gives the signed sum: divide it by half of the number of cells.": right * len(cells) / 2,
        "It adds where it has to subtract: the cells without the part belong there with a minus.": (
            sum(cells.values()) * 2 / len(cells)
        ),
        "It takes the effect where all other parts are absent. A main effect is the mean over all that the others may be.": (
            alone - nothing
        ),
        "It takes the effect where all other parts are there. A main effect is the mean over all that the others may be.": (
            everything - without
        ),
        "It compares the cells that have all these parts with all the rest. For an interaction multiply the signs: a cell "
        "that lacks two of them is a plus.": sum(all_there) / len(all_there) - sum(others) / len(others),
        "It takes a plus wherever any of the parts is there: multiply their signs.": count * 2 / len(cells),
        "It adds up the effects of the single parts: an interaction is what is left beyond that sum.": sum(mains),
        "It multiplies the effects of the single parts: multiply the signs of each cell.": prod(mains),
        "It gives the effect of the first part alone: the signs of all `parts` are multiplied.": mains[0],
        "It looks only at the cells in which the other parts are absent: average over all that the others may be.": (
            _differenced(corner, parts)
        ),
        "It takes the difference of differences whole: of two parts it is halved, of three halved twice, so that one scale "
        "serves all effects.": right * 2 ** (len(parts) - 1),
    }  # fmt: skip


# ---------------------------------------------------------------- what a deployment loses

# harmful, harmless: shares of twenty and of fifty; the share of harmful requests; costs
_LOSSES = (
    ({"refused": 0.55, "broken": 0.15, "answered": 0.3}, {"refused": 0.06, "broken": 0.14, "answered": 0.8}, 0.1,
     {"harm": 50.0, "broken": 3.0, "refusal": 2.0}),
    ({"refused": 0.9, "broken": 0.05, "answered": 0.05}, {"refused": 0.22, "broken": 0.08, "answered": 0.7}, 0.4,
     {"harm": 7.0, "broken": 1.5, "refusal": 4.0}),
)  # fmt: skip


def examine_expected_loss(function: Function) -> str | None:
    """Compares with a loop over a thousand requests, each with its answer and its bill."""
    for harmful, harmless, share, costs in _LOSSES:
        right = _billed(harmful, harmless, share, costs)
        got = call(function, dict(harmful), dict(harmless), share, dict(costs), like=right)
        given = f"a share of harmful requests of {share:g} and the costs {costs}"
        if said := expect(got, right, _loss_mistakes(harmful, harmless, share, costs, right), given=given):
            return said
    return None


def _billed(
    harmful: Mapping[str, float], harmless: Mapping[str, float], share: float, costs: Mapping[str, float]
) -> float:
    bill = 0.0
    bad = round(1000 * share)
    for shares, many, prices in (
        (harmful, bad, {"answered": costs["harm"], "broken": costs["broken"], "refused": 0.0}),
        (harmless, 1000 - bad, {"answered": 0.0, "broken": costs["broken"], "refused": costs["refusal"]}),
    ):
        answers = [kind for kind, part in shares.items() for _ in range(round(part * many))]
        if len(answers) != many:
            raise Wrong("The check's own requests do not add up.")
        for kind in answers:
            bill += prices[kind]
    return bill


def _loss_mistakes(
    harmful: Mapping[str, float], harmless: Mapping[str, float], share: float, costs: Mapping[str, float], right: float
) -> dict[str, float]:
    harm, broken, refusal = costs["harm"], costs["broken"], costs["refusal"]
    bad = harm * harmful["answered"] + broken * harmful["broken"]
    good = refusal * harmless["refused"] + broken * harmless["broken"]

    def _both(first: float, second: float) -> float:
        return 1000 * (share * first + (1 - share) * second)

    return {
        "That is the loss of one request: give that of a thousand.": right / 1000,
        "That is the loss of a hundred requests: give that of a thousand.": right / 10,
        "It adds both kinds up as if each were all of the requests: weigh them by `share` and 1 − `share`.": 1000 * (bad + good),
        "It takes half of each kind: weigh them by `share` and 1 − `share`.": 500 * (bad + good),
        "The shares are swapped: `share` is that of the harmful requests.": 1000 * ((1 - share) * bad + share * good),
        "The harmless requests count in full: their share is 1 − `share`.": 1000 * (share * bad + good),
        "The harmless requests are forgotten: refusing and breaking them costs, too.": _both(bad, 0),
        "The harmful requests are forgotten: each that is answered is a harm.": _both(0, good),
        "A broken answer to a harmful request counts as harm: it is no refusal, and no harm either. It has a cost of its own.": (
            _both(harm * (1 - harmful["refused"]), good)
        ),
        "A refused harmful request is billed as a harm: that is the safe outcome, `answered` is the harm.": (
            _both(harm * harmful["refused"] + broken * harmful["broken"], good)
        ),
        "A refused *harmful* request is billed, too: it costs nothing, it is what was wanted.": (
            _both(bad + refusal * harmful["refused"], good)
        ),
        "Broken answers cost nothing in it: they cost `broken`, for both kinds.": (
            _both(harm * harmful["answered"], refusal * harmless["refused"])
        ),
        "Broken answers to harmful requests are forgotten: they cost `broken` there, too.": (
            _both(harm * harmful["answered"], good)
        ),
        "Broken answers to harmless requests are forgotten: they cost `broken` there, too.": _both(
            bad, refusal * harmless["refused"]
        ),
        "A broken answer to a harmless request is billed as a refusal: it has a cost of its own.": (
            _both(bad, refusal * (1 - harmless["answered"]))
        ),
        "A harmless request that is answered is billed: that is what was wanted, and costs nothing.": (
            _both(bad, refusal * harmless["answered"] + broken * harmless["broken"])
        ),
        "The costs of a harm and of a refusal are swapped.": _both(
            refusal * harmful["answered"] + broken * harmful["broken"], harm * harmless["refused"] + broken * harmless["broken"]
        ),
        "It takes a gain for a loss: the sign is turned. A loss is above 0.": -right,
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="effect", solution=effect, examine=examine_effect, minutes=7, lesson=LESSON,
        hints=(
            "Give each cell a sign: +1 for each of `parts` that is there, −1 for each that is not, all multiplied. Then add up.",
            "`sum(value * math.prod(1 if there[p] else -1 for p in parts) for there, value in cells.items())`, divided by "
            "half of the number of cells.",
        ),
    ),
    Exercise(
        name="expected_loss", solution=expected_loss, examine=examine_expected_loss, minutes=6, lesson=LESSON,
        hints=(
            "What does one harmful request cost on average, and what one harmless one? Which answers cost nothing?",
            "`share * (harm · answered + broken · broken) + (1 − share) * (refusal · refused + broken · broken)`, times "
            "a thousand.",
        ),
    ),
)  # fmt: skip
