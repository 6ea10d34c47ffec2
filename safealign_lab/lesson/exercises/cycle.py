"""The exercises of lesson 32 on the parts of a cycle: what each phase minimises, and what is taught when.

Symbols: M response tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..examining import Wrong, call, expect, gradients
from ..exercise import Exercise, Function
from . import Case, examined, listed

LESSON = "32_the_cycle"
LEVELS = ("weak", "medium", "strong")


def immunization_loss(refusal: Tensor, push: Tensor, kept: Tensor, push_weight: float, kept_weight: float) -> Tensor:
    """(1 - λ) · refusal + λ · push + w · kept, with λ the push's weight and w that of what is kept; scalars."""
    return (1 - push_weight) * refusal + push_weight * push + kept_weight * kept


def alignment_loss(
    preference: Tensor, policy_logits: Tensor, ref_logits: Tensor, drift: Tensor, kl_weight: float, stabilization: float
) -> Tensor:
    """(1 - α) · preference + α · KL(π_ref ‖ π_θ) + β · drift; logits (M, V) of response tokens, all else scalars."""
    ref_logps, policy_logps = ref_logits.log_softmax(dim=1), policy_logits.log_softmax(dim=1)  # (M, V) each
    divergence = (ref_logps.exp() * (ref_logps - policy_logps)).sum(dim=1).mean()
    return (1 - kl_weight) * preference + kl_weight * divergence + stabilization * drift


def levels_taught(step: int, steps: int, order: str) -> list[str]:
    """The levels of a step, counted from 1: a level more with each third of the phase; "mixed" has all from the beginning."""
    levels = ["weak", "medium", "strong"]
    if order == "mixed":
        return levels
    if order == "falling":
        levels.reverse()
    return levels[: 1 + 3 * (step - 1) // steps]


# ---------------------------------------------------------------- the two sums


def examine_immunization_loss(function: Function) -> str | None:
    """Compares the sum with plain numbers, and what it passes back to each term with the weights."""
    cases, slopes = [], []
    for values, lam, w in (
        ((2.0, 5.0, 3.0), 0.25, 2.0),
        ((0.5, -4.0, 7.0), 0.6, 0.5),
        ((3.0, 1.0, 2.0), 0.0, 0.0),
    ):
        terms = [_scalar(value).requires_grad_() for value in values]
        right = _scalar((1 - lam) * values[0] + lam * values[1] + w * values[2])
        given = f"refusal = {values[0]}, push = {values[1]}, kept = {values[2]}, λ = {lam}, w = {w}"
        cases.append(Case((*terms, lam, w), right, _as_tensors(_first_mistakes(*values, lam, w)), given))
        slopes.append(tuple(map(_scalar, (1 - lam, lam, w))))
    if said := examined(function, cases):
        return said
    for case, wanted in zip(cases, slopes, strict=True):
        if expect(gradients(call(function, *case.inputs), *case.inputs[:3]), wanted):
            return "Its value is right, and a gradient is lost on the way: use no `.item()`, `.detach()` or `float()`."
    return None


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _first_mistakes(refusal: float, push: float, kept: float, lam: float, w: float) -> dict[str, float]:
    return {
        "λ is on the wrong term: it weighs the push, and 1 − λ the refusals.": lam * refusal + (1 - lam) * push + w * kept,
        "The refusals keep their full weight: what the push gets, λ, is taken from them.": refusal + lam * push + w * kept,
        "Nothing is kept: without that term a model learns to refuse everything.": (1 - lam) * refusal + lam * push,
        "The kept term is inside the mixture: it has the weight w, whatever λ is.": (1 - lam) * (refusal + w * kept) + lam * push,
        "The kept term is shared out by λ as well: its weight is w alone.": (1 - lam) * refusal + lam * (push + w * kept),
        "The push is subtracted: its loss already falls as the model moves away.": (1 - lam) * refusal - lam * push + w * kept,
        "The kept term has no weight: multiply it by w.": (1 - lam) * refusal + lam * push + kept,
        "The whole is divided by its weights: a constant factor does nothing but hide what w means.":
            ((1 - lam) * refusal + lam * push + w * kept) / (1 + w),
        "w multiplies everything, as the source's γ does: it belongs to the kept term.":
            w * ((1 - lam) * refusal + lam * push + kept),
    }  # fmt: skip


def _as_tensors(named: dict[str, float]) -> dict[str, Tensor]:
    return {sentence: _scalar(value) for sentence, value in named.items()}


def examine_alignment_loss(function: Function) -> str | None:
    """Compares with a loop over tokens, also at large logits, and with the closed form of the gradient on the logits."""
    cases = []
    for seed, scale, kl_weight, stabilization in (
        (0, 2.0, 0.3, 0.5),
        (1, 1.0, 0.1, 20.0),
        (2, 300.0, 0.5, 0.0),
        (3, 2.0, 0.0, 1.0),
    ):
        generator = torch.Generator().manual_seed(seed)
        policy, reference = scale * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)  # (M, V) each
        parts = (1.3, policy, reference, 0.04, kl_weight, stabilization)
        right, named = _scalar(_slow_alignment(*parts)), _as_tensors(_second_mistakes(*parts))
        preference, drift = _scalar(1.3).requires_grad_(), _scalar(0.04).requires_grad_()
        inputs = (preference, policy.clone().requires_grad_(), reference, drift, kl_weight, stabilization)
        given = f"M = 5, V = 4, kl_weight = {kl_weight}, stabilization = {stabilization}"
        cases.append(Case(inputs, right, named, given))
    return examined(function, cases, _finite) or next(
        filter(None, (_alignment_gradient(function, *case.inputs) for case in cases)), None
    )


def _finite(got: Any) -> Any:
    if isinstance(got, Tensor) and not bool(got.isfinite().all()):
        raise Wrong("Large logits break it: a probability rounds to 0 and has no logarithm. Stay with `log_softmax`.")
    return got


def _alignment_gradient(
    function: Function, preference: Tensor, policy: Tensor, reference: Tensor, drift: Tensor, kl_weight: float, beta: float
) -> str | None:  # fmt: skip
    back = gradients(call(function, preference, policy, reference, drift, kl_weight, beta), preference, policy, drift)
    wanted = kl_weight * (policy.detach().softmax(1) - reference.softmax(1)) / len(reference)  # (M, V)
    names = ("the preference", "the policy's logits", "the drift")
    for name, one, two in zip(names, back, (_scalar(1 - kl_weight), wanted, _scalar(beta)), strict=True):
        if not torch.allclose(one, two, atol=1e-8):
            return f"Its value is right, but what it passes back to {name} is not: detach nothing but the reference."
    return None


def _slow_alignment(
    preference: float, policy: Tensor, reference: Tensor, drift: float, kl_weight: float, stabilization: float
) -> float:
    return (1 - kl_weight) * preference + kl_weight * _slow_kl(reference, policy) + stabilization * drift


def _slow_kl(one: Tensor, other: Tensor) -> float:
    """KL(one ‖ other), the mean over rows, in plain numbers."""
    total = 0.0
    for row, column in zip(one.tolist(), other.tolist(), strict=True):
        logs = [[z - max(zs) - math.log(sum(math.exp(y - max(zs)) for y in zs)) for z in zs] for zs in (row, column)]
        total += sum(math.exp(p) * (p - q) for p, q in zip(*logs, strict=True))
    return total / len(one)


def _second_mistakes(
    preference: float, policy: Tensor, reference: Tensor, drift: float, alpha: float, beta: float
) -> dict[str, float]:
    forward, back = _slow_kl(reference, policy), _slow_kl(policy, reference)
    count, width = policy.shape

    def _sum(divergence: float, weights: tuple[float, float, float] = (1 - alpha, alpha, beta)) -> float:
        return weights[0] * preference + weights[1] * divergence + weights[2] * drift

    cross = float(-(reference.softmax(1) * policy.log_softmax(1)).sum(1).mean())
    return {
        "The divergence is turned round: the reference stands first, KL(π_ref ‖ π_θ).": _sum(back),
        "α is on the wrong term: it weighs the divergence, and 1 − α the preference.": _sum(forward, (alpha, 1 - alpha, beta)),
        "The preference keeps its full weight: what the divergence gets, α, is taken from it.": _sum(forward, (1, alpha, beta)),
        "The drift is left out, and with it every hold on the canaries: add β · drift.": _sum(forward, (1 - alpha, alpha, 0)),
        "α takes its share of the drift as well: β alone weighs that term.":
            _sum(forward, (1 - alpha, alpha, beta * (1 - alpha))),
        "The drift is subtracted: the loss would pay for moving the canaries.": _sum(forward, (1 - alpha, alpha, -beta)),
        "The divergence is summed over the tokens: a mean was asked for.": _sum(count * forward),
        "It is a mean over the vocabulary too: along each row the divergence is a sum.": _sum(forward / width),
        "This is the cross-entropy with the reference: its own entropy is missing.": _sum(cross),
        "The divergence is subtracted: it is to be small.": _sum(-forward),
    }  # fmt: skip


# ---------------------------------------------------------------- what is taught when


def examine_levels_taught(function: Function) -> str | None:
    """Compares whole phases with a count of thirds, their length a multiple of three and not; each order by itself."""
    learners = partial(_phase, partial(call, function))
    for order in ("rising", "falling", "mixed"):
        cases = []
        for steps in (10, 9, 3, 40):
            named = {sentence: _phase(slip, steps, order) for sentence, slip in _LEVEL_MISTAKES.items()}
            given = f"a phase of {steps} steps, order {order!r} (step 1 is [0])"
            cases.append(Case((steps, order), _phase(_slow_levels, steps, order), named, given))
        if said := examined(learners, cases):
            return said
    return None


def _phase(levels: Callable[[int, int, str], Any], steps: int, order: str) -> list[Any]:
    return [listed(levels(step, steps, order)) for step in range(1, steps + 1)]


def _slow_levels(step: int, steps: int, order: str) -> list[str]:
    """A level joins where a third of the phase has passed before this step."""
    names = sorted(LEVELS, key=LEVELS.index, reverse=order == "falling")
    passed = sum(3 * (step - 1) >= third * steps for third in (1, 2))
    return names if order == "mixed" else names[: 1 + passed]


def _taught(step: int, steps: int, order: str, count: Callable[[int, int], int]) -> list[str]:
    names = list(LEVELS) if order != "falling" else list(LEVELS[::-1])
    return names if order == "mixed" else names[: count(step, steps)]


_LEVEL_MISTAKES: dict[str, Callable[[int, int, str], list[str]]] = {
    "A level leaves when the next one comes: levels stay, once they are there.":
        lambda step, steps, order: list(LEVELS) if order == "mixed" else _slow_levels(step, steps, order)[-1:],
    "It is one step early: steps are counted from 1, so that (step − 1) / steps of the phase has passed.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: 1 + 3 * s // n),
    "\"falling\" is not heard: it begins with the strong requests.":
        lambda step, steps, order: _slow_levels(step, steps, "rising" if order == "falling" else order),
    "It begins with the strong requests: that is \"falling\"; \"rising\" begins with the weak ones.":
        lambda step, steps, order: _slow_levels(step, steps, {"rising": "falling", "falling": "rising"}.get(order, order)),
    "\"mixed\" is not heard: it teaches all levels from the beginning.":
        lambda step, steps, order: _slow_levels(step, steps, "rising" if order == "mixed" else order),
    "Levels come to an end in this: the phase adds one with each third, and takes none away.":
        lambda step, steps, order: _slow_levels(steps + 1 - step, steps, order),
    "It starts with no level at all: the first one is there from step 1.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: 3 * (s - 1) // n),
    "A level comes with each step: it takes a third of the phase.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: s),
    "The share is rounded to the nearest: a level comes when its third begins, and no sooner.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: 1 + round(3 * (s - 1) / n)),
    "It takes `steps // 3` for a third, and that is rounded down where 3 does not divide the phase: compare 3 · (step − 1) with "
    "`steps`.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: 1 + (s - 1) // (n // 3)),
    "It adds a level with each half of the phase: there are three levels, so a third each.":
        lambda step, steps, order: _taught(step, steps, order, lambda s, n: 1 + 2 * (s - 1) // n),
}  # fmt: skip


EXERCISES = (
    Exercise(
        name="immunization_loss", solution=immunization_loss, examine=examine_immunization_loss, minutes=3, lesson=LESSON,
        hints=(
            "Refusals and push share a weight of 1 between them; what is kept comes on top.",
            "`(1 - push_weight) * refusal + push_weight * push`, and `kept_weight * kept` added.",
        ),
    ),
    Exercise(
        name="levels_taught", solution=levels_taught, examine=examine_levels_taught, minutes=5, lesson=LESSON,
        hints=(
            "Before step 1 nothing of the phase has passed. Count how many whole thirds have, and take one level more than that.",
            "`levels[: 1 + 3 * (step - 1) // steps]`, the list turned round for \"falling\", and whole for \"mixed\".",
        ),
    ),
    Exercise(
        name="alignment_loss", solution=alignment_loss, examine=examine_alignment_loss, minutes=6, lesson=LESSON,
        hints=(
            "Two log-softmaxes over the vocabulary; the divergence is a sum along each row, and a mean over the rows.",
            "`(ref.exp() * (ref - policy)).sum(dim=1).mean()` with both in log-probabilities; then three weights: 1 − α, α, β.",
        ),
    ),
)  # fmt: skip
