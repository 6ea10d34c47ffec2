"""The exercises of lesson 10: the two directions of a divergence, and the loss that teaches a student by soft labels.

Symbols: B batch, C classes, τ temperature; T and S the teacher's and the student's distribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "10_soft_labels"
SLOPE = "the value is right and its gradient is not"
LARGE = 100  # logits beyond this give probabilities that round to 0


def kl_direction(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Both divergences between two probability vectors (C,), in nats: first the one that is high where a student misses
    something that the teacher finds likely (mass covering), then the other (mode seeking)."""
    covering = (torch.xlogy(teacher, teacher) - torch.xlogy(teacher, student)).sum()
    seeking = (torch.xlogy(student, student) - torch.xlogy(student, teacher)).sum()
    return covering, seeking


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """τ² times the mean over the batch of KL(teacher ‖ student), both softened by τ; logits (B, C)."""
    student_logps = (student_logits / temperature).log_softmax(dim=1)  # (B, C)
    teacher_logps = (teacher_logits / temperature).log_softmax(dim=1)  # (B, C)
    apart = (teacher_logps.exp() * (teacher_logps - student_logps)).sum(dim=1)  # (B,)
    return temperature**2 * apart.mean()


# ---------------------------------------------------------------- two directions


def examine_kl_direction(function: Function) -> str | None:
    """Compares with loops over the classes, also where one of the two gives a class no probability."""
    for teacher, student in (
        ((0.5, 0.3, 0.2), (0.1, 0.2, 0.7)), ((0.05, 0.45, 0.1, 0.4), (0.3, 0.05, 0.6, 0.05)),
        ((0.6, 0.0, 0.4), (0.2, 0.5, 0.3)), ((0.25, 0.7, 0.05), (0.9, 0.1, 0.0)),
    ):  # fmt: skip
        p, q = torch.tensor(teacher), torch.tensor(student)
        got = call(function, p, q)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            return "Return two numbers: the mass-covering divergence and, behind a comma, the mode-seeking one."
        right = (torch.tensor(_divergence(teacher, student)), torch.tensor(_divergence(student, teacher)))
        given = f"the teacher {teacher} and the student {student} ([0] is the covering one, [1] the seeking one)"
        said = expect(tuple(map(torch.as_tensor, got)), right, _direction_mistakes(p, q, right), given=given)
        if said and any(one.isinf() and torch.as_tensor(mine).isfinite() for one, mine in zip(right, got, strict=True)):
            return (
                "A floor under the probabilities hides that what is ruled out, and yet happens, costs infinitely much."
            )
        if said:
            return said
    return None


def _divergence(p: Sequence[float], q: Sequence[float]) -> float:
    return sum((one * math.log(one / other) if other else math.inf) for one, other in zip(p, q, strict=True) if one)


def _direction_mistakes(p: Tensor, q: Tensor, right: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    covering, seeking = right

    def _both(way: Any) -> tuple[Tensor, ...]:
        return way(p, q), way(q, p)

    return {
        "The first is the seeking one, the second the covering one. Which asks at every class that the *teacher* likes, whether "
        "the student has it too? That one makes the student cover all of it.": (seeking, covering),
        "Both are KL(teacher ‖ student): the divergence is not symmetric, and the other way round is another number.": (
            covering, covering
        ),
        "Both are KL(student ‖ teacher): the divergence is not symmetric, and the other way round is another number.": (
            seeking, seeking
        ),
        "They are in bits: nats come from the natural logarithm, `log`.": (covering / math.log(2), seeking / math.log(2)),
        "They are C times too small: add up over the classes, which the probabilities weigh already.": (
            covering / len(p), seeking / len(p)
        ),
        "The fraction in the logarithm is upside down: a divergence is never negative.": (-covering, -seeking),
        "Those are cross-entropies: without the term p·log p they do not fall to 0 where both agree.": _both(
            lambda one, other: -torch.xlogy(one, other).sum()
        ),
        "Nothing weighs the logarithms: each belongs to a class, and counts as often as that happens.": _both(
            lambda one, other: (one / other).log().sum()
        ),
        "A class of probability 0 makes it NaN: 0 · log 0 counts as 0 (`torch.xlogy(p, q)` is p · log q with that rule).": _both(
            lambda one, other: (one * (one.log() - other.log())).sum()
        ),
        "These are probabilities already: a softmax on top of them makes them more alike.": _both(
            lambda one, other: (one.softmax(0) * (one.log_softmax(0) - other.log_softmax(0))).sum()
        ),
        "`kl_div` was given probabilities where it takes logarithms: its first argument has to be one's `log()`.": _both(
            lambda one, other: (torch.xlogy(one, one) - one * other).sum()
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- soft labels


def examine_kd_loss(function: Function) -> str | None:
    """Compares with loops over rows and classes and with the gradient's closed form, also where probabilities round to 0."""
    for seed, (rows, classes, tau, scale) in enumerate(
        ((4, 5, 3.0, 2.0), (3, 6, 0.5, 1.0), (5, 5, 1.0, 2.0), (3, 4, 2.0, 400.0))
    ):
        student, teacher = _logits(seed, rows, classes, scale)
        student.requires_grad_()
        right = tau**2 * _mean(_kl(t, s, tau) for s, t in zip(student.tolist(), teacher.tolist(), strict=True))
        slope = tau * ((student / tau).softmax(1) - (teacher / tau).softmax(1)) / rows  # (B, C)
        got = call(function, student, teacher, tau)
        given = f"B = {rows}, C = {classes}, temperature = {tau} and logits up to {student.detach().abs().max():.0f} in size"
        said = expect(got, right, _kd_mistakes(student.detach(), teacher, tau), given=given)
        said = said or expect(gradients(got, student)[0], slope, given=f"{given}, {SLOPE}")
        if said:
            return said
    return None


def _kd_mistakes(student: Tensor, teacher: Tensor, tau: float) -> dict[str, Tensor]:
    s, t, soft_s, soft_t = (x.log_softmax(1) for x in (student, teacher, student / tau, teacher / tau))  # (B, C)
    down = [(x / tau).log_softmax(0) for x in (teacher, student)]
    part = soft_t.exp() * (soft_t - soft_s)  # (B, C)
    return _logarithm_mistakes(student, teacher, tau) | {
        "That is the printed form, Σ KL(S ‖ T) with the teacher alone softened: turn it around, soften both, and hold the "
        "gradient up with τ².": _apart(s, soft_t) * len(s),
        "Its two sides are exchanged: KL(T ‖ S) weighs by the *teacher's* probabilities.": (
            tau**2 * _apart(soft_s, soft_t)
        ),
        "The factor τ² is missing: a softer pair has a gradient that is smaller by 1/τ².": _apart(soft_t, soft_s),
        "The factor is τ: it has to be τ², since the gradient loses one τ in the softmax and one in what is compared.": (
            tau * _apart(soft_t, soft_s)
        ),
        "It divides by τ²: the gradient has to be held up, not brought down once more.": _apart(soft_t, soft_s) / tau**2,
        "Only the teacher is softened: the student would have to become that soft itself.": tau**2 * _apart(soft_t, s),
        "Only the student is softened: the teacher's small probabilities stay too small to be seen.": tau**2 * _apart(t, soft_s),
        "Neither is softened: divide both logits by τ.": tau**2 * _apart(t, s),
        "It multiplies the logits by τ, which makes them sharper: divide.": (
            tau**2 * _apart(*((x * tau).log_softmax(1) for x in (teacher, student)))
        ),
        "It adds the rows up: take their mean, or a larger batch would weigh more.": tau**2 * part.sum(),
        "It is C times too small: add up over the classes and take the mean over the rows alone. `F.kl_div` does that with "
        '`reduction="batchmean"`, while its "mean" divides by the classes as well.': tau**2 * part.mean(),
        "Its softmax goes down the batch: it belongs along the classes, so that each row adds up to 1.": tau**2 * _apart(*down),
        "It lacks T·log T, and so is a cross-entropy: it does not fall to 0 where both agree.": (
            -(tau**2) * (soft_t.exp() * soft_s).sum(1).mean()
        ),
        "It takes the teacher's likeliest class for a label: all that it says about the others is lost.": (
            -(tau**2) * soft_s.gather(1, teacher.argmax(1, keepdim=True)).mean()
        ),
        "`kl_div` was given the student's probabilities: it takes its first argument for logarithms.": (
            tau**2 * (soft_t.exp() * (soft_t - soft_s.exp())).sum(1).mean()
        ),
        "It compares logits: the same number added to a row would change the loss and not the distribution.": (
            (student - teacher).square().mean()
        ),
        "The sign is the wrong one: the loss has to fall, down to 0, as the student comes nearer to the teacher.": (
            -(tau**2) * part.sum(1).mean()
        ),
        "It is C times too small and lacks the factor τ², as `F.kl_div` by itself has it: `reduction=\"batchmean\"` divides by "
        "the rows alone, and τ² holds the gradient up.": part.mean(),
    }  # fmt: skip


def _logarithm_mistakes(student: Tensor, teacher: Tensor, tau: float) -> dict[str, Tensor]:
    s, t, soft_t = student / tau, teacher / tau, (teacher / tau).log_softmax(1)  # (B, C) each
    said = (
        "A softmax rounds its smallest probabilities to 0, whose logarithm is infinite: `log_softmax` is both in one step."
        if max(student.abs().max(), teacher.abs().max()) > LARGE
        else "It takes the logarithm of negative numbers, as `kl_div` does of its second argument: hand it the student's "
        "`log_softmax` first and the teacher's `softmax` second (or its `log_softmax`, with `log_target=True`)."
    )
    return {
        said: torch.tensor(math.nan),
        f"{said} (Here the loss became infinite.)": torch.tensor(math.inf),
        "It takes logits of both sides for logarithms of probabilities: both need a `log_softmax`.": (
            tau**2 * (t.exp() * (t - s)).sum(1).mean()
        ),
        "It takes the student's logits for logarithms of probabilities: they need a `log_softmax`.": (
            tau**2 * (soft_t.exp() * (soft_t - s)).sum(1).mean()
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- what they share


def _logits(seed: int, rows: int, classes: int, scale: float) -> Tensor:
    return scale * torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(seed))  # (2, B, C)


def _mean(values: Iterable[float]) -> Tensor:
    numbers = list(values)
    return torch.tensor(sum(numbers) / len(numbers))


def _logps(row: Sequence[float], tau: float = 1.0) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp((one - top) / tau) for one in row))
    return [(one - top) / tau - total for one in row]


def _kl(p_row: Sequence[float], q_row: Sequence[float], tau: float) -> float:
    return sum(math.exp(p) * (p - q) for p, q in zip(_logps(p_row, tau), _logps(q_row, tau), strict=True))


def _apart(p_logps: Tensor, q_logps: Tensor) -> Tensor:
    return (p_logps.exp() * (p_logps - q_logps)).sum(1).mean()


EXERCISES = (
    Exercise(
        name="kl_direction", solution=kl_direction, examine=examine_kl_direction, minutes=6, lesson=LESSON,
        hints=(
            "KL(p ‖ q) averages log p/q over what p does. Whose average notices that the *student* lacks something?",
            "KL(teacher ‖ student) comes first: Σ teacher · (log teacher − log student). Where p is 0, the term is 0.",
            "`torch.xlogy(p, p) - torch.xlogy(p, q)`, added up; then the same with p and q exchanged.",
        ),
    ),
    Exercise(
        name="kd_loss", solution=kd_loss, examine=examine_kd_loss, minutes=8, lesson=LESSON,
        hints=(
            "Four steps: both logits over τ, their log-probabilities, the divergence of each row, τ² times the mean of the rows.",
            "The teacher's probabilities weigh the difference of logarithms, teacher's minus student's.",
            "`F.kl_div(student_logps, teacher_logps, log_target=True, reduction='batchmean')` is the mean of KL(T ‖ S).",
        ),
    ),
)  # fmt: skip
