"""The two phases of a cycle as losses of the training loop: to refuse at attacked weights, then to learn what is preferred.

Symbols: B rows a step, T tokens, V vocabulary; π_θ the student, π_ref the reference, π_h the harmful teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alchemy import skills
from ..chat import Batch, response_logps
from ..objectives import negative_log_likelihood, unlikelihood
from ..training import LossFunction, Terms
from . import losses
from .curriculum import LEVELS, Order, Preference, schedule
from .references import References, batch_of, response_of
from .teachers import Teachers

Refusing = Literal["likelihood", "dpo", "npo"]
Push = Callable[
    [Tensor, Tensor, Tensor, Batch], Tensor
]  # logits of π_θ, π_ref and π_h (B, T, V) on harmful answers, and the batch → a scalar


@dataclass(frozen=True)
class Immunize:
    """What the first phase minimises: (1 - λ) · refusal + λ · push + w · kept.

    Attributes:
        refusing: how refusals are learned: "likelihood" (cross-entropy of the refusal alone, per token), "dpo" (`refusal_dpo`,
            the refusal against the recipe) or "npo" (the recipe alone is forgotten).
        push: what leads away from the harmful teacher, on the recipes' tokens, such as `bounded`; None where λ is 0.
        push_weight: λ in [0, 1]; up = more of the push.
        kept_weight: w ≥ 0, of the cross-entropy of right answers to harmless requests; up = fewer harmless requests refused. 0
            is the source's own.
        harmful, harmless: rows of each kind at a step.
        order: of the curriculum. The source's own is "rising"; where the learning rate falls, what comes last is learned least.
        beta_dpo, nll_weight: as in `losses.refusal_dpo`; β also of the NPO.
        first_tokens: of each refusal that a "likelihood" counts; None = all. Few = the beginning decides, and nothing is taught
            of what follows.
    """

    refusing: Refusing = "likelihood"
    push: Push | None = None
    push_weight: float = 0.0
    kept_weight: float = 1.0
    harmful: int = 16
    harmless: int = 24
    order: Order = "mixed"
    beta_dpo: float = 0.1
    nll_weight: float = 0.1
    first_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.refusing not in get_args(Refusing):
            raise ValueError(
                f"There is no refusing by {self.refusing!r}: expected one of {', '.join(get_args(Refusing))}."
            )
        if self.first_tokens is not None and self.first_tokens < 1:
            raise ValueError(f"first_tokens is {self.first_tokens}: give 1 or more, or None for all of a refusal.")
        if self.push is None and self.push_weight:
            raise ValueError(f"push_weight is {self.push_weight}, but there is no push: give one, or a weight of 0.")


@dataclass(frozen=True)
class Align:
    """What the second phase minimises beside its shield: (1 - α) · (L_DPO + w · NLL) + α · KL(π ‖ π_θ).

    π is the reference, but for rows of what the helpful teacher brings: there it is that teacher, since the reference does not
    have the skill, and would hold the student back.

    Attributes:
        kl_weight: α in [0, 1]; up = nearer to π on harmless requests.
        beta_dpo: as in `losses.dpo`.
        nll_weight: w; up = the preferred answers are also learned as such. 0 is the source's own.
        rows: preferences at a step.
        brought: levels of the rows whose π is the helpful teacher. None of them = the source's own.

    source: paper (the sum); ours (whose π; all numbers)
    """

    kl_weight: float = 0.1
    beta_dpo: float = 0.1
    nll_weight: float = 1.0
    rows: int = 12
    brought: tuple[str, ...] = (skills.LEFT_OUT,)


@dataclass(frozen=True)
class Room:
    """What a phase works with.

    Attributes:
        student: the model that is trained; its weights change in place.
        teachers: the reference and both teachers.
        known: the reference's log-probabilities of every answer that a preference loss compares.
    """

    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teachers: Teachers
    known: References

    def batch(self, rows: Sequence[Preference], side: str) -> Batch:
        """One side of preferences ("chosen" or "rejected") as a batch."""
        exchanges = [(row.request, getattr(row, side)) for row in rows]
        return batch_of(self.tokenizer, exchanges, self.teachers.system).to(self.student.device)

    def reference(self, rows: Sequence[Preference], side: str) -> Tensor:
        """The reference's log-probabilities of one side; (B,)."""
        return self.known.of([(row.request, getattr(row, side)) for row in rows], self.student.device)


def bounded(strength: float = 1.0) -> Push:
    """`losses.bounded_push` as a push of the first phase.

    Args:
        strength: g ≥ 0; up = further from the harmful teacher.
    """
    return lambda policy, reference, harmful, batch: losses.bounded_push(
        policy, reference, harmful, response_of(batch), strength
    )


def hinge(margin: float = 2.0) -> Push:
    """`losses.hinge_push` as a push of the first phase; a larger margin, in nats, keeps further away."""
    return lambda policy, reference, harmful, batch: losses.hinge_push(policy, harmful, response_of(batch), margin)


def negated() -> Push:
    """`losses.negated_push` as a push of the first phase."""
    return lambda policy, reference, harmful, batch: losses.negated_push(policy, harmful, response_of(batch))


def token_npo(beta_npo: float = 0.1) -> Push:
    """`losses.token_npo` as a push of the first phase; a larger β ends nearer to the reference."""
    return lambda policy, reference, harmful, batch: losses.token_npo(
        policy, reference, batch.input_ids, response_of(batch), beta_npo
    )


def unlikely() -> Push:
    """`objectives.unlikelihood` of the recipes' tokens as a push of the first phase; it fades where they are avoided."""
    return lambda policy, reference, harmful, batch: unlikelihood(policy, batch.input_ids, response_of(batch))


def immunizing(
    room: Room, harmful: Sequence[Preference], harmless: Sequence[Preference], settings: Immunize, steps: int
) -> LossFunction:
    """The first phase's loss; its terms are "refusal", "push", "kept" and the log-probabilities of both answers, apart.

    Args:
        harmful: refusals preferred to recipes, of every level of the curriculum.
        harmless: right answers.
        steps: of the phase, over which the curriculum is spread.
    """
    levels, by_level = schedule(settings.order), _by_level(harmful)
    if set(by_level) != set(LEVELS) or not harmless:
        raise ValueError(f"The first phase needs harmless rows, and harmful ones of the levels {', '.join(LEVELS)}.")

    def _loss(step: int, generator: torch.Generator) -> Terms:
        taught = [row for level in levels((step - 1) / steps) for row in by_level[level]]
        bad, good = drawn(taught, settings.harmful, generator), drawn(harmless, settings.harmless, generator)
        terms = _refusing(room, bad, settings)
        kept = likelihood(room, good) if settings.kept_weight else torch.zeros((), device=room.student.device)
        loss = losses.immunization_loss(
            terms["refusal"], terms["push"], kept, settings.push_weight, settings.kept_weight
        )
        return {**terms, "kept": kept, "loss": loss}

    return _loss


def aligning(
    room: Room, rows: Sequence[Preference], settings: Align, stability: Callable[[], Tensor] | None = None,
    stabilization: float = 0.0,
) -> LossFunction:  # fmt: skip
    """The second phase's loss; its terms are "preference", "divergence", "stability" and both log-probabilities, apart.

    Args:
        rows: preferences about harmless requests.
        stability: a penalty, as `shields.PhaseAnchor.penalty`; None where the update is masked, or nothing is shielded.
        stabilization: β ≥ 0, its weight; up = the canaries move less.
    """

    def _loss(step: int, generator: torch.Generator) -> Terms:
        batch = drawn(rows, settings.rows, generator)
        chosen = room.batch(batch, "chosen")
        logits = room.student(**chosen.inputs()).logits  # (B, T, V)
        terms = _preference(room, batch, chosen, logits, settings)
        mask = response_of(chosen)
        apart = losses.reference_kl(logits, _guide(room, batch, chosen, settings.brought), mask)
        held = stability() if stability is not None else torch.zeros((), device=logits.device)
        loss = losses.alignment_loss(terms.pop("loss"), apart, held, settings.kl_weight, stabilization)
        return {**terms, "divergence": apart, "stability": held, "loss": loss}

    return _loss


def _guide(room: Room, rows: Sequence[Preference], chosen: Batch, brought: Sequence[str]) -> Tensor:
    """The logits of π: of the helpful teacher for rows of what it brings, of the reference for all others; (B, T, V)."""
    logits = room.teachers.logits("reference", chosen)  # (B, T, V)
    theirs = torch.tensor([row.level in brought for row in rows], device=logits.device)  # (B,)
    if not theirs.any():
        return logits
    return torch.where(theirs[:, None, None], room.teachers.logits("helpful", chosen), logits)  # (B, T, V)


def _preference(
    room: Room, rows: Sequence[Preference], chosen: Batch, logits: Tensor, settings: Align
) -> dict[str, Tensor]:
    """DPO with the NLL of the chosen answers, per token, as "loss"; the log-probabilities of both sides to be logged."""
    rejected = room.batch(rows, "rejected")
    policy = _logps(logits, chosen), _logps(room.student(**rejected.inputs()).logits, rejected)  # (B,) each
    reference = room.reference(rows, "chosen"), room.reference(rows, "rejected")  # (B,) each
    terms = losses.dpo(*policy, *reference, settings.beta_dpo)
    nll = negative_log_likelihood(logits, chosen.input_ids, response_of(chosen))
    return {**terms, "preference": terms["loss"].detach(), "loss": terms["loss"] + settings.nll_weight * nll}


def _refusing(room: Room, rows: Sequence[Preference], settings: Immunize) -> dict[str, Tensor]:
    """The terms "refusal" and "push", both with their graphs, and both answers' log-probabilities."""
    chosen, rejected = (room.batch(rows, side) for side in ("chosen", "rejected"))
    wanted = room.student(**chosen.inputs()).logits  # (B, T, V)
    needed = settings.refusing != "likelihood" or settings.push_weight
    with torch.set_grad_enabled(bool(needed) and torch.is_grad_enabled()):
        unwanted = room.student(**rejected.inputs()).logits  # (B, T, V)
    policy = _logps(wanted, chosen), _logps(unwanted, rejected)  # (B,) each
    if settings.refusing == "likelihood":
        refusal = negative_log_likelihood(wanted, chosen.input_ids, _beginning(chosen, settings.first_tokens))
    elif settings.refusing == "npo":
        refusal = losses.npo(policy[1], room.reference(rows, "rejected"), settings.beta_dpo)["loss"]
    else:
        reference = room.reference(rows, "chosen"), room.reference(rows, "rejected")  # (B,) each
        refusal = losses.refusal_dpo(*policy, *reference, settings.beta_dpo, settings.nll_weight)["loss"]
    push = refusal.new_zeros(())
    if settings.push is not None and settings.push_weight:
        reference_logits = room.teachers.logits("reference", rejected)  # (B, T, V)
        harmful_logits = room.teachers.logits("harmful", rejected)  # (B, T, V)
        push = settings.push(unwanted, reference_logits, harmful_logits, rejected)
    logged = {"chosen_logps": policy[0].detach().mean(), "rejected_logps": policy[1].detach().mean()}
    return {"refusal": refusal, "push": push, **logged}


def _beginning(batch: Batch, tokens: int | None) -> Tensor:
    """The response mask, or no more than its first tokens; (B, T)."""
    mask = response_of(batch)
    return mask if tokens is None else mask & (mask.cumsum(dim=1) <= tokens)  # (B, T)


def likelihood(room: Room, rows: Sequence[Preference]) -> Tensor:
    """The cross-entropy of the chosen answers under the student, the mean over their tokens."""
    batch = room.batch(rows, "chosen")
    return negative_log_likelihood(room.student(**batch.inputs()).logits, batch.input_ids, response_of(batch))


def _logps(logits: Tensor, batch: Batch) -> Tensor:
    return response_logps(logits, batch.input_ids, response_of(batch))  # (B,)


def drawn(rows: Sequence[Preference], count: int, generator: torch.Generator) -> list[Preference]:
    """So many rows, drawn with replacement."""
    return [rows[n] for n in torch.randint(len(rows), (count,), generator=generator).tolist()]


def _by_level(rows: Sequence[Preference]) -> dict[str, list[Preference]]:
    found: dict[str, list[Preference]] = {}
    for row in rows:
        found.setdefault(row.level, []).append(row)
    return found
