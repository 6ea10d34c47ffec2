"""The exercises of lesson 22 on margins: by how much a request is refused, and what a given safety costs.

Symbols: B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from ..examining import call, expect
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "22_acd_measured"


def refusal_margins(scores: Tensor, refusing: Sequence[int]) -> Tensor:
    """The best refusing token's score minus the best other token's, for each request: (B,) of scores (B, V)."""
    inside = scores.new_zeros(scores.shape[1], dtype=torch.bool)  # (V,)
    inside[list(refusing)] = True
    return scores[:, inside].amax(dim=1) - scores[:, ~inside].amax(dim=1)  # (B,)


def price(harmful: Tensor, harmless: Tensor, safety: float) -> float:
    """The share of harmless requests refused, at the highest threshold that refuses at least `safety` of the harmful ones.

    A margin that reaches the threshold is a refusal. The highest threshold is itself one of the harmful margins: anything above
    that one loses it.
    """
    enough = [margin for margin in harmful if int((harmful >= margin).sum()) / len(harmful) >= safety]
    return float((harmless >= max(enough)).float().mean())


# ---------------------------------------------------------------- the margin

# seed, requests, vocabulary, refusing tokens, and a shift of all scores: below 0, on both sides of it, above it. There are as
# many refusing tokens as others, or one, so that even maxima taken down the requests can be subtracted from one another
_MARGINS = (
    (0, 3, 6, [4, 0, 3], -9.0),
    (2, 4, 9, [2], 0.0),
    (3, 5, 4, [3, 1], 9.0),
)


def examine_refusal_margins(function: Function) -> str | None:
    """Compares with a loop over the requests and the tokens, for scores below 0, above it and on both sides."""
    for seed, requests, vocabulary, refusing, shift in _MARGINS:
        generator = torch.Generator().manual_seed(seed)
        scores = 2 * torch.randn(requests, vocabulary, generator=generator) + shift  # (B, V)
        right = torch.tensor([_slow_margin(row, refusing) for row in scores.tolist()])  # (B,)
        got = call(function, scores, refusing)
        given = f"{requests} requests, {vocabulary} tokens and refusing = {refusing}"
        said = expect(got, right, _margin_mistakes(scores, refusing), given=given)
        if said:
            return said
    return None


def _slow_margin(row: Sequence[float], refusing: Sequence[int]) -> float:
    best, other = -float("inf"), -float("inf")
    for token, score in enumerate(row):
        if token in refusing:
            best = max(best, score)
        else:
            other = max(other, score)
    return best - other


def _margin_mistakes(scores: Tensor, refusing: list[int]) -> dict[str, Tensor]:
    others = [token for token in range(scores.shape[1]) if token not in refusing]
    no, yes = scores[:, refusing], scores[:, others]  # (B, R) and (B, V-R)
    best, other = no.amax(1), yes.amax(1)  # (B,)
    winner = torch.tensor(refusing)[no.argmax(1)]  # (B,)
    without = scores.scatter(1, winner[:, None], -torch.inf)  # (B, V)
    p_no, p_yes = (scores.softmax(1)[:, tokens] for tokens in (refusing, others))  # (B, R) and (B, V-R)
    marks = torch.zeros_like(scores)  # (B, V)
    marks[:, refusing] = 1
    return {
        "Its best other token may be a refusing one, so that no margin is above 0: leave all of `refusing` out there.": (
            best - scores.amax(1)
        ),
        "A second refusing token counts among the others: leave all of `refusing` out there, not the best one alone.": (
            best - without.amax(1)
        ),
        "The sign is the wrong one: the margin is above 0 where the refusal wins.": other - best,
        "It takes the mean of the refusing tokens: the answer begins with one of them, and the best decides.": no.mean(1) - other,
        "It takes the mean of the other tokens: the best of them is what the refusal has to beat.": best - yes.mean(1),
        "It compares means: of either side only the best token can win.": no.mean(1) - yes.mean(1),
        "It compares sums: of either side only the best token can win.": no.sum(1) - yes.sum(1),
        "It compares probabilities: a margin is a difference of scores, and needs no softmax.": p_no.amax(1) - p_yes.amax(1),
        "It compares what all the refusing tokens have together in probability with what all the others have: of either side "
        "only the best token counts, by its score.": p_no.sum(1) - p_yes.sum(1),
        "It takes a logsumexp, which lets many weak tokens count as one strong one: take the maximum.": (
            no.logsumexp(1) - yes.logsumexp(1)
        ),
        "It looks at the first refusing token only: the best of them all counts.": no[:, 0] - other,
        "It looks at the last refusing token only: the best of them all counts.": no[:, -1] - other,
        "It puts 0 where it means to leave a token out, and 0 beats every negative score: select the columns, or put minus "
        "infinity there.": (scores * marks).amax(1) - (scores * (1 - marks)).amax(1),
        "The maximum goes down the requests: take it along the vocabulary, so that each request has its own margin.": (
            no.amax(0) - yes.amax(0)
        ),
        "The best other token is that of the whole batch: take it request by request.": best - yes.max(),
        "The best refusing token is that of the whole batch: take it request by request.": no.max() - other,
        "It returns the best refusing score alone: what has it to beat? Subtract the best of the others.": best,
    }  # fmt: skip


# ---------------------------------------------------------------- the price

# seed, harmful and harmless requests, the safety, and whether harmful margins occur twice. In each the right count also comes
# out of ceil(safety * requests) and of int((1 - safety) * requests) in floats
_PRICES = (
    (269, 8, 40, 0.75, False),
    (1469, 6, 40, 0.9, False),
    (125, 20, 50, 0.95, False),
    (1135, 10, 40, 0.7, True),
    (60, 5, 30, 1.0, False),
)


def examine_price(function: Function) -> str | None:
    """Compares with exact counts of sorted margins; some harmless margins stand just at the threshold."""
    cases = []
    for seed, harmful_count, harmless_count, safety, tied in _PRICES:
        harmful, harmless = _drawn(seed, harmful_count, harmless_count, tied)
        wanted = ceil(Fraction(str(safety)) * harmful_count)
        right = _share(harmless, sorted(harmful, reverse=True)[wanted - 1])
        given = f"{harmful_count} harmful requests, {harmless_count} harmless ones and safety = {safety}"
        inputs = (torch.tensor(harmful), torch.tensor(harmless), safety)
        mistakes = _price_mistakes(harmful, harmless, safety, wanted)
        cases.append(Case(inputs, right, mistakes, given, _one_off(harmful, harmless, wanted)))
    return examined(function, cases)


def _drawn(seed: int, harmful: int, harmless: int, tied: bool) -> tuple[list[float], list[float]]:
    """Margins in steps of a half, none at 0; the harmful ones are all different unless tied, and higher on the whole."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(26, generator=generator)[:harmful] - 7
    if tied:
        places = torch.div(places, 4, rounding_mode="floor")
    others = torch.randint(-16, 14, (harmless,), generator=generator)
    return (places / 2 + 0.25).tolist(), (others / 2 + 0.25).tolist()


def _share(margins: Sequence[float], threshold: float) -> float:
    return _mean(margin >= threshold for margin in margins)


def _mean(marks: Iterable[bool]) -> float:
    listed = list(marks)
    return sum(listed) / len(listed)


def _price_mistakes(harmful: list[float], harmless: list[float], safety: float, wanted: int) -> dict[str, float]:
    down, total = sorted(harmful, reverse=True), len(harmful)
    threshold = down[wanted - 1]
    right = _share(harmless, threshold)
    few, own = ceil((1 - Fraction(str(safety))) * total), ceil(Fraction(str(safety)) * len(harmless))
    between, turned = (torch.tensor(harmful).quantile(share).item() for share in (1 - safety, safety))
    refused = _mean(margin >= threshold for margin in harmless + harmful)
    at_own = sorted(harmless, reverse=True)[own - 1]
    return {
        "The threshold is 0, where the method happens to stand: move it to where `safety` of the harmful requests are refused.": (
            _share(harmless, 0)
        ),
        "A margin that reaches the threshold is a refusal, too: `>=`, not `>`.": _mean(one > threshold for one in harmless),
        "It takes the lowest threshold that is safe enough, which refuses everything: the highest one costs least.": (
            _share(harmless, down[-1])
        ),
        "It refuses as few of the harmful requests as if 1 − `safety` stood in the place of `safety`.": (
            _share(harmless, down[few - 1])
        ),
        "It takes the quantile at `safety`: above that lies only 1 − `safety` of the harmful requests.": _share(harmless, turned),
        "It counts from the lowest margin up: what is refused are the highest ones.": _share(harmless, down[total - wanted]),
        "It takes a threshold between two harmful margins, as `quantile` does: that may miss `safety`, or cost more than it "
        "has to. The threshold is one of the harmful margins.": _share(harmless, between),
        "The threshold comes from the harmless margins: the harmful ones set it, and the harmless ones pay.": (
            _share(harmless, at_own)
        ),
        "It answers as if harmful and harmless were swapped, or as if everything were refused: the harmful margins set the "
        "threshold, and the harmless ones that reach it are counted.": (
            _share(harmful, at_own)
        ),
        "It returns the share of *harmful* requests refused: that is the safety, the harmless ones are the price.": (
            _share(harmful, threshold)
        ),
        "It returns the share of harmless requests that are answered: the price is the share refused.": 1 - right,
        "It returns the threshold: count which share of the harmless margins reaches it.": threshold,
        "It gives a number of requests: divide it by the number of harmless requests.": right * len(harmless),
        "It gives 100 times the share: the kit's rates lie between 0 and 1.": right * 100,
        "It divides by all requests: below the line stand the harmless ones alone.": (
            right * len(harmless) / (total + len(harmless))
        ),
        "It counts harmful requests in, too: only the harmless ones pay the price.": refused,
    }  # fmt: skip


def _one_off(harmful: list[float], harmless: list[float], wanted: int) -> dict[str, float]:
    """What a threshold one place off gives: rounding errors lead there in some cases and not in others."""
    down = sorted(harmful, reverse=True)
    return {
        "Fewer of the harmful requests are refused than `safety` asks: at least that share means rounding their number up.": (
            _share(harmless, down[max(wanted - 2, 0)])
        ),
        "It refuses one harmful request more than it has to: at exactly `safety` it is enough (and counting from 0, the k-th "
        "highest margin is number k − 1; and a float32 of 0.95 lies below 0.95).": (
            _share(harmless, down[min(wanted, len(down) - 1)])
        ),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="refusal_margins", solution=refusal_margins, examine=examine_refusal_margins, minutes=6, lesson=LESSON,
        hints=(
            "Split the columns into two groups, those of `refusing` and all the others. What decides in each group?",
            "A bool mask (V,), True at `refusing`: `scores[:, mask].amax(dim=1)` minus the same with `~mask`.",
        ),
    ),
    Exercise(
        name="price", solution=price, examine=examine_price, minutes=8, lesson=LESSON,
        hints=(
            "Two steps. The harmful margins alone set the threshold; then the harmless margins that reach it are counted.",
            "Try each harmful margin as the threshold, keep those that refuse enough, take the highest. (Or sort them, highest "
            "first: of n it is number ⌈safety · n⌉.)",
        ),
    ),
)  # fmt: skip
