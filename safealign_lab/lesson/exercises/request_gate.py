"""The exercises of lesson 13 on a gate: its margins, where to draw the line, how well they tell requests apart.

Symbols: N requests (harmful ones, where M others are harmless); a request is stopped where its margin lies above the threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import exp, floor, log

import torch
from torch import Tensor

from ..examining import call, expect
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "13_request_gate"


def log_odds(logits: Tensor) -> Tensor:
    """How surely each request is harmful, in nats: the margins (N,) of a head's logits (N, 2), harmless first."""
    return logits[:, 1] - logits[:, 0]  # (N,)


def stopped_by_kind(margins: Tensor, kinds: Sequence[str], threshold: float) -> dict[str, float]:
    """The share of each kind of request that a threshold stops; margins (N,), and N names of kinds."""
    stopped: dict[str, list[bool]] = {}
    for margin, kind in zip(margins.tolist(), kinds, strict=True):
        stopped.setdefault(kind, []).append(margin > threshold)
    return {kind: sum(some) / len(some) for kind, some in stopped.items()}


def ranked_right(harmful: Tensor, harmless: Tensor) -> float:
    """The chance that a harmful request (N,) has a larger margin than a harmless one (M,), equal ones counting half."""
    larger = harmful[:, None] > harmless  # (N, M)
    equal = harmful[:, None] == harmless  # (N, M)
    return float((larger + equal / 2).mean())


def lowest_threshold(harmless: Tensor, most: float) -> float:
    """The lowest threshold above which at most the share `most` of the harmless margins (M,) lies."""
    falling = harmless.sort(descending=True).values  # (M,)
    return float(falling[int(most * len(falling) + 1e-9)])  # 0.29 · 100 is 28.999… in binary


# ---------------------------------------------------------------- the margin


def examine_log_odds(function: Function) -> str | None:
    """Compares with the logarithm of a ratio of two probabilities, request by request."""
    for seed, count in ((0, 4), (1, 7)):
        logits = 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))  # (N, 2)
        got = call(function, logits)
        right = torch.tensor([log(_share(row) / (1 - _share(row))) for row in logits.tolist()])  # (N,)
        said = expect(got, right, _margin_mistakes(logits), tolerance=1e-3, given=f"logits of {count} requests")
        if said:
            return said
    return None


def _share(row: Sequence[float]) -> float:
    return exp(row[1]) / (exp(row[0]) + exp(row[1]))


def _margin_mistakes(logits: Tensor) -> dict[str, Tensor]:
    harmful = torch.tensor([_share(row) for row in logits.tolist()])  # (N,)
    return {
        "The logits are exchanged: the harmless one comes first, and a margin grows with the *harmful* one.": (
            logits[:, 0] - logits[:, 1]
        ),
        "It returns a probability: its log-odds are asked for, in nats, which can be any number.": harmful,
        "It returns the probability of being harmless.": 1 - harmful,
        "That is a logarithm of one probability: divide by the other one first, or take the other's logarithm off.": (
            harmful.log()
        ),
        "It takes the difference of two probabilities: their logarithms' difference is asked for.": 2 * harmful - 1,
        "It takes the harmful logit alone: a head may add the same number to both, and means nothing by it.": logits[:, 1],
        "It says how sure the head is, whichever way: the sign has to say which.": (logits[:, 1] - logits[:, 0]).abs(),
        "Odds, where their logarithm is asked for.": harmful / (1 - harmful),
    }  # fmt: skip


# ---------------------------------------------------------------- shares at a threshold

_KINDS = ("harmful", "borderline", "benign")


def examine_stopped_by_kind(function: Function) -> str | None:
    """Compares with a count for each kind in turn; the threshold is itself one of the margins."""
    for seed, count in ((8, 9), (9, 20)):
        margins, kinds = _drawn(seed, count, 0), [_KINDS[number * number % 7 % 3] for number in range(count)]
        threshold = sorted(margins)[count // 3]
        got = call(function, torch.tensor(margins), list(kinds), threshold)
        if not isinstance(got, dict):
            return f"Your function returned a {type(got).__name__}: make it a dict, kind -> share; over-refusal has a kind."
        if set(got) != set(kinds):
            return f"Its keys are {', '.join(map(repr, got))}: expected each kind of the requests once."
        right = {kind: _counted(margins, kinds, kind, threshold) for kind in got}
        named = _share_mistakes(margins, kinds, list(got), threshold)
        given = f"{count} margins of three kinds, one of them right at the threshold"
        said = expect([*got.values()], [*right.values()], named, given=given)
        if said:
            return said
    return None


def _counted(margins: Sequence[float], kinds: Sequence[str], kind: str, threshold: float) -> float:
    own = [margin for margin, its in zip(margins, kinds, strict=True) if its == kind]
    return sum(1 for margin in own if margin > threshold) / len(own)


def _share_mistakes(
    margins: Sequence[float], kinds: Sequence[str], order: Sequence[str], threshold: float
) -> Mapping[str, list[float]]:
    rows = list(zip(margins, kinds, strict=True))
    above = {kind: sum(margin > threshold for margin, its in rows if its == kind) for kind in order}
    every = sum(above.values())
    return {
        "A request right at the threshold passes: only what lies *above* it is stopped.": [
            sum(margin >= threshold for margin, its in rows if its == kind) / kinds.count(kind) for kind in order
        ],
        "These are the shares that pass: count what is stopped.": [1 - above[kind] / kinds.count(kind) for kind in order],
        "It divides by the number of all requests: divide by how many there are of the kind.": [
            above[kind] / len(rows) for kind in order
        ],
        "It says of which kinds the stopped ones are: of each kind, which share is stopped?": [
            above[kind] / every for kind in order
        ],
        "It counts the stopped ones: a share of the kind is asked for.": [float(above[kind]) for kind in order],
        "Every kind has the same share, that of all requests: keep the kinds apart.": [every / len(rows)] * len(order),
    }  # fmt: skip


# ---------------------------------------------------------------- the area under the curve


def examine_ranked_right(function: Function) -> str | None:
    """Compares with a loop over all pairs, some of whose margins are equal."""
    cases = []
    for seed, count, others in ((0, 13, 11), (1, 12, 19), (2, 3, 20)):
        harmful, harmless = _drawn(seed, count, 2), _drawn(seed + 10, others, 0)
        right, mistakes = torch.tensor(_pairs(harmful, harmless)), _area_mistakes(harmful, harmless)
        given = f"{count} harmful and {others} harmless margins, some of them equal"
        cases.append(Case((torch.tensor(harmful), torch.tensor(harmless)), right, mistakes, given))
    return examined(function, cases, read=torch.as_tensor)


def _pairs(harmful: Sequence[float], harmless: Sequence[float], equal: float = 0.5) -> float:
    wins = sum(1.0 if one > other else equal if one == other else 0.0 for one in harmful for other in harmless)
    return wins / (len(harmful) * len(harmless))


def _area_mistakes(harmful: list[float], harmless: list[float]) -> dict[str, Tensor]:
    right, both = _pairs(harmful, harmless), harmful + harmless
    correct = sum(one > 0 for one in harmful) + sum(one <= 0 for one in harmless)
    above = sum(one > 0 for one in harmful) / len(harmful) - sum(one > 0 for one in harmless) / len(harmless)
    cases = {
        "Equal margins count as lost: each counts half.": _pairs(harmful, harmless, 0.0),
        "Equal margins count as won: each counts half.": _pairs(harmful, harmless, 1.0),
        "The kinds are exchanged: a harmful request ought to have the larger margin.": 1 - right,
        "It counts the pairs: divide by how many there are, N · M.": right * len(harmful) * len(harmless),
        "It divides by N + M: there are N · M pairs.": right * len(harmful) * len(harmless) / len(both),
        "It is the share of right decisions at the threshold 0: no threshold is asked for, only which margin is larger.": (
            correct / len(both)
        ),
        "It is the difference of the two shares above 0, at one threshold: compare the margins with each other.": above,
        "It answers as if it compared the two means: compare each harmful request with each harmless one.": (
            float(sum(harmful) / len(harmful) > sum(harmless) / len(harmless))
        ),
        "It compares the requests in order, first with first: compare each with each.": (
            sum(one > other for one, other in zip(harmful, harmless, strict=False)) / min(len(harmful), len(harmless))
        ),
    }  # fmt: skip
    return {said: torch.tensor(value) for said, value in cases.items()}


# ---------------------------------------------------------------- the threshold

# seed, harmless requests, and the share that may be stopped; some products are not whole in floats
_THRESHOLDS = ((3, 60, 0.15), (4, 100, 0.29), (5, 7, 0.3), (6, 12, 0.0), (7, 30, 0.1))


def examine_lowest_threshold(function: Function) -> str | None:
    """Compares with the largest share that trying every margin as a threshold allows."""
    for seed, count, most in _THRESHOLDS:
        harmless = _drawn(seed, count, 0)
        got = call(function, torch.tensor(harmless), most)
        given = f"{count} harmless margins, some of them equal, and most = {most}"
        right = _tried(harmless, most)
        said = expect(torch.as_tensor(got), torch.tensor(right), _threshold_mistakes(harmless, most), given=given)
        if said:
            return said
    return None


def _tried(harmless: Sequence[float], most: float) -> float:
    """The lowest of the margins that keeps to the limit."""
    allowed = Fraction(str(most)) * len(harmless)
    return min(limit for limit in harmless if sum(one > limit for one in harmless) <= allowed)


def _threshold_mistakes(harmless: list[float], most: float) -> dict[str, Tensor]:
    falling, count = sorted(harmless, reverse=True), floor(Fraction(str(most)) * len(harmless))
    every = torch.tensor(harmless)
    cases = {
        "One request too many is stopped: counting from 0, above margin number k lie k others.": falling[
            min(count + 1, len(falling) - 1)
        ],
        "A lower threshold keeps to the limit as well, and stops more of what is harmful.": falling[max(count - 1, 0)],
        "It stops nothing: the limit allows some.": falling[0],
        "It answers as many as it may stop: from the top, count what is stopped.": sorted(harmless)[count],
        "It takes a threshold between two margins, as `quantile` does: any place between the two stops the same requests, "
        "and the lowest one is the lower margin itself.": every.quantile(1 - most).item(),
        "It takes the quantile at `most`: above that lies all but `most`.": every.quantile(most).item(),
        "That is a share of the requests: a threshold, in nats, is asked for.": count / len(harmless),
        "That is how many may be stopped: asked for is a margin that has so many above it.": float(count),
    }  # fmt: skip
    return {said: torch.tensor(value) for said, value in cases.items()}


def _drawn(seed: int, count: int, shift: int) -> list[float]:
    """Margins in steps of a quarter, so that some are equal and none is 0."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(-12, 12, (count,), generator=generator) + 4 * shift
    return (places / 4 + 0.125).tolist()


EXERCISES = (
    Exercise(
        name="log_odds", solution=log_odds, examine=examine_log_odds, minutes=3, lesson=LESSON,
        hints=(
            "The softmax of (a, b) is (eᵃ, eᵇ) over their sum. What is left when you divide the second by the first?",
            "log(eᵇ / eᵃ): the sum is gone, and so is every exponential.",
        ),
    ),
    Exercise(
        name="stopped_by_kind", solution=stopped_by_kind, examine=examine_stopped_by_kind, minutes=5, lesson=LESSON,
        hints=(
            "For each kind: how many requests has it, and how many of these lie above the threshold?",
            "Go through `zip(margins.tolist(), kinds)` once, and keep a list of True and False for each kind.",
        ),
    ),
    Exercise(
        name="ranked_right", solution=ranked_right, examine=examine_ranked_right, minutes=6, lesson=LESSON,
        hints=(
            "How many pairs of one harmful and one harmless request are there, and in how many is the harmful margin larger?",
            "`harmful[:, None] > harmless` compares each with each, (N, M).",
            "Equal margins tell nothing: half of them would be won by a coin.",
        ),
    ),
    Exercise(
        name="lowest_threshold", solution=lowest_threshold, examine=examine_lowest_threshold, minutes=6, lesson=LESSON,
        hints=(
            "Sort the margins from the largest down. If k of them may be stopped, which margin has exactly k above it?",
            "`most` times the number of requests, rounded down: in floats 0.29 · 100 is a little less than 29.",
        ),
    ),
)  # fmt: skip
