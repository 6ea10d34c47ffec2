"""The exercises of lesson 20 on scores: the contrast in its two forms, and the plausible tokens.

Symbols: V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...contrast.scores import acd, guided, plausible
from ..exercise import Exercise, Function
from . import Case, examined

LESSON = "20_two_streams"


def examine_acd(function: Function) -> str | None:
    """Compares with the formula, number by number, for several strengths and shapes."""
    cases = []
    for seed, (shape, alpha) in enumerate((((6,), 0.4), ((2, 5), 0.9), ((2, 5), 0.0), ((3, 4), 1.5))):
        safe, adversarial = _logits(seed, shape)
        right = _each(1.0, -alpha, safe, adversarial)
        named = {
            "The sign is turned around: what A wants is subtracted, so that A's favourites lose.": safe + alpha * adversarial,
            "The streams are swapped: it subtracts α times the safe stream from the adversarial one.": adversarial - alpha * safe,
            "It subtracts all of A: α is missing, and with it the knob.": safe - adversarial,
            "It averages: (1-α)·l_S + α·l_A moves *towards* A.": (1 - alpha) * safe + alpha * adversarial,
            "It subtracts probabilities: work on the logits as they come.": safe.softmax(-1) - alpha * adversarial.softmax(-1),
            "That is the guided form, the next exercise. ACD is l_S − α·l_A.": _guided(safe, adversarial, alpha),
        }  # fmt: skip
        cases.append(Case((safe, adversarial, alpha), right, named, f"alpha = {alpha}"))
    return examined(function, cases)


def examine_guided(function: Function) -> str | None:
    """Compares with the closed form, and asks that α ≥ 1 is refused."""
    cases = []
    for seed, (shape, alpha) in enumerate((((6,), 0.4), ((2, 5), 0.9), ((2, 5), 0.0))):
        safe, adversarial = _logits(seed, shape)
        right = _each(1 / (1 - alpha), -alpha / (1 - alpha), safe, adversarial)
        named = {
            "That is ACD as printed: its factors add up to 1 − α, so divide it by 1 − α.": safe - alpha * adversarial,
            "It takes α itself for the weight: w = α/(1−α).": (1 + alpha) * safe - alpha * adversarial,
            "It multiplies by 1 − α where it has to divide.": (1 - alpha) * (safe - alpha * adversarial),
            "The first factor is w; it has to be 1 + w, so that both add up to 1.": (
                alpha / (1 - alpha) * (safe - adversarial)
            ),
            "The streams are swapped: the safe one carries the factor 1 + w.": _guided(adversarial, safe, alpha),
            "The sign is turned around: A is to be subtracted.": 2 * safe / (1 - alpha) - right,
        }
        cases.append(Case((safe, adversarial, alpha), right, named, f"alpha = {alpha}"))
    return examined(function, cases) or _takes_one(function)


def _takes_one(function: Function) -> str | None:
    """What is wrong with how it meets an α at which the form does not exist."""
    safe, adversarial = _logits(0, (4,))
    for alpha in (1.0, 2.0, -0.5):
        try:
            function(safe.clone(), adversarial.clone(), alpha)
        except ValueError:
            continue
        except ZeroDivisionError:
            return "It divides by nothing at α = 1: check before you divide, and raise a ValueError that says which α there are."
        if alpha < 0:
            return "It takes a negative α, which would steer towards A: raise a ValueError below 0, too."
        return f"It takes α = {alpha:g}, where 1/(1−α) is no factor to use: raise a ValueError unless 0 ≤ α < 1."
    return None


def examine_plausible(function: Function) -> str | None:
    """Compares with probabilities, token by token, on rows of several shapes of distribution."""
    cases = []
    for seed, (shape, threshold) in enumerate((((3, 7), 0.3), ((8,), 0.1), ((3, 7), 0.0), ((2, 6), 1.0))):
        safe = 0.5 * _logits(seed + 10, shape)[0] + 5
        p = safe.softmax(-1)  # (…, V)
        best = p.amax(-1, keepdim=True)  # (…, 1)
        right = torch.stack(
            [torch.tensor([float(x) >= threshold * float(row.max()) for x in row]) for row in p.view(-1, shape[-1])]
        )
        named = {
            "It leaves the likeliest token out: `>=`, not `>`.": p > threshold * best,
            "It compares with the threshold itself: a token has to reach a *share of the largest* probability.": p
            >= threshold,
            "It keeps the implausible tokens and drops the others: turn the comparison around.": p < threshold * best,
            "It compares logits with a share of the largest logit, but logits are logarithms: add log(threshold).": (
                safe >= threshold * safe.amax(-1, keepdim=True)
            ),
            "The largest probability is that of the whole batch: take it row by row.": p >= threshold * p.max(),
        }
        cases.append(Case((safe, threshold), right.view(shape), named, f"threshold = {threshold}"))
    return examined(function, cases)


def _logits(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    safe, adversarial = torch.randn(2, *shape, generator=generator)  # (*shape,) each
    return 2 * safe, 2 * adversarial


def _each(first: float, second: float, safe: Tensor, adversarial: Tensor) -> Tensor:
    """first · S + second · A, number by number."""
    pairs = zip(safe.flatten().tolist(), adversarial.flatten().tolist(), strict=True)
    return torch.tensor([first * one + second * other for one, other in pairs]).view(safe.shape)


def _guided(safe: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    return (safe - alpha * adversarial) / (1 - alpha)


EXERCISES = (
    Exercise(
        name="acd", solution=acd, examine=examine_acd, minutes=5, lesson=LESSON,
        hints=(
            "Which tokens should win: those that S likes *more than A does*. What happens to a token that both like?",
            "One line: the safe logits, minus α times the adversarial ones. No softmax anywhere.",
        ),
    ),
    Exercise(
        name="guided", solution=guided, examine=examine_guided, minutes=6, lesson=LESSON,
        hints=(
            "Write down what the two factors of ACD add up to. What do you divide by, so that they add up to 1?",
            "With w = α/(1−α) the factors are 1 + w and −w. Where does w stop to exist?",
            "Check first: `if not 0 <= alpha < 1: raise ValueError(...)`, and then one line.",
        ),
    ),
    Exercise(
        name="plausible", solution=plausible, examine=examine_plausible, minutes=6, lesson=LESSON,
        hints=(
            "In probabilities: p ≥ threshold · (largest p of the row). The softmax's denominator is the same on both sides.",
            "Take logarithms: l ≥ max l + log(threshold). `amax(dim=-1, keepdim=True)` keeps the rows apart.",
            "`math.log(0)` is an error, `torch.tensor(0.0).log()` is minus infinity: what has to happen at threshold 0?",
        ),
    ),
)  # fmt: skip
