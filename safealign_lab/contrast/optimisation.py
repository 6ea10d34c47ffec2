"""Opposite prompt optimisation: two soft prompts, one that learns to refuse what is harmful, one that learns to obey.

Both are trained on the same anchors by mirrored losses; the model's weights stay as they are.

Symbols: P length of the prompt, D hidden size, V vocabulary, N anchors, M response tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, at_least_float32, conversation, encode_with_mask, pad
from ..divergence import kl
from ..objectives import log_rest, masked_mean
from ..training import Evaluate, History, Plan, train
from .soft_prompts import label_logits

Role = Literal["safeguarding", "adversarial"]


@dataclass(frozen=True)
class Anchor:
    """A request, and the answers that the two prompts learn to give or to avoid.

    Attributes:
        request: what is asked.
        pool: what kind of request it is; every step draws so many of each pool.
        refusal, compliance: of a harmful request: what the safeguarding prompt should say and the adversarial one should
            not, and the reverse. The compliance is a stand-in without content.
        answer: of a harmless request: what the model itself answers, to be kept by both prompts.
    """

    request: str
    pool: str
    refusal: str = ""
    compliance: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Objective:
    """L = target · CE(wanted) + avoid · UL(unwanted) + benign · (CE(own answer) + divergence · KL(model ‖ prompted)).

    Each term is a mean over its own tokens; a weight of 0 switches a term off.

    Args:
        target: more makes the wanted answer likelier.
        avoid: unlikelihood, -log(1 - p); more makes the unwanted answer less likely, and stops pushing once it is.
        benign: more keeps the answers to harmless requests as they are.
        divergence: within the benign term: more keeps the whole distribution, not only the answer's own tokens.
        first: how many times as much the first token of a wanted answer counts as each other: it carries the decision.
        avoided: how many tokens of the unwanted answer are pushed down, from the first; None = all.
        kept: how many tokens of an own answer are kept, from the first; None = all.

    Raises:
        ValueError: a negative weight, or a number of tokens below 1.

    Source: paper (arXiv 2406.16743) for the three terms with unit weights over whole answers; the rest is ours.
    """

    target: float = 1.0
    avoid: float = 0.5
    benign: float = 1.0
    divergence: float = 2.0
    first: float = 8.0
    avoided: int | None = 1
    kept: int | None = 6

    def __post_init__(self) -> None:
        for name in ("target", "avoid", "benign", "divergence", "first"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"The weight {name} = {getattr(self, name)} is no weight: give a number of 0 or more.")
        for name in ("avoided", "kept"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)} tokens cannot be counted: give 1 or more, or None for all."
                )


PRINTED = Objective(target=1.0, avoid=1.0, benign=1.0, divergence=0.0, first=1.0, avoided=None, kept=None)


@dataclass(frozen=True)
class _Row:
    """One row of a batch: what is read, which tokens are looked at, and what for."""

    ids: list[int]
    mask: list[bool]
    purpose: Literal["target", "avoid", "benign"]
    anchor: int


@dataclass
class Optimisation:
    """What one step needs: the anchors as rows, and the loss of a batch drawn from them.

    Args:
        model, tokenizer: the model whose weights stay.
        anchors: of `contrast.anchors`, or your own.
        role: "safeguarding" learns the refusals and avoids the compliance; "adversarial" mirrors it.
        per_step: pool → how many of its anchors are drawn at each step; more steadies the gradient and costs time.
        objective: the weights of the terms.
        system: the system text under which the undefended model is compared in the KL; None = its chat template's own.

    Raises:
        ValueError: no anchor in a pool that is to be drawn from; an anchor whose answers do not fit its kind.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anchors: Sequence[Anchor]
    role: Role
    per_step: Mapping[str, int]
    objective: Objective = field(default_factory=Objective)
    system: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        self.pools: dict[str, list[int]] = {
            pool: [n for n, one in enumerate(self.anchors) if one.pool == pool] for pool in self.per_step
        }
        empty = [pool for pool, members in self.pools.items() if not members]
        if empty:
            raise ValueError(f"There is no anchor in the pool {empty[0]!r}: add some, or draw none from it.")
        self.rows = [self._rows(number) for number in range(len(self.anchors))]
        self.undefended = self._undefended() if self.objective.benign and self.objective.divergence else {}

    def _rows(self, number: int) -> list[_Row]:
        anchor, goal = self.anchors[number], self.objective
        wanted, unwanted = (anchor.refusal, anchor.compliance)[:: 1 if self.role == "safeguarding" else -1]
        parts = [
            ("target", wanted, None, goal.target), ("avoid", unwanted, goal.avoided, goal.avoid),
            ("benign", anchor.answer, goal.kept, goal.benign),
        ]  # fmt: skip
        rows = [
            _Row(*self._encoded(anchor.request, text, most), purpose=purpose, anchor=number)  # type: ignore[arg-type]
            for purpose, text, most, weight in parts
            if text and weight
        ]
        if not rows and any(weight for *_, weight in parts[: 2 if anchor.refusal else 3]):
            raise ValueError(
                f"The anchor {anchor.request!r} has no answer to learn from: give it a refusal or an answer."
            )
        return rows

    def _encoded(
        self, request: str, answer: str, most: int | None, system: str | None = ""
    ) -> tuple[list[int], list[bool]]:
        """The ids of an exchange and which of them are looked at: the answer's first tokens."""
        ids, mask = encode_with_mask(self.tokenizer, conversation(request, system, answer))
        start = mask.index(True)
        stop = sum(mask) + start if most is None else min(start + most, sum(mask) + start)
        return ids[:stop], [start <= place for place in range(stop)]

    @torch.no_grad()
    def _undefended(self) -> dict[int, Tensor]:
        """For each harmless anchor the undefended model's logits on the tokens that are kept; (M, V) in half precision."""
        found = {}
        harmless = [row.anchor for rows in self.rows for row in rows if row.purpose == "benign"]
        for number in tqdm(harmless, desc="the model without a prompt", unit="anchor", disable=not self.progress):
            anchor = self.anchors[number]
            ids, mask = self._encoded(anchor.request, anchor.answer, self.objective.kept, self.system)
            batch = pad([ids], 0, "right", [mask]).to(self.model.device)
            nothing = torch.empty(0, self.model.get_input_embeddings().embedding_dim)  # (0, D)
            found[number] = label_logits(self.model, nothing, batch, shared=False).to(torch.bfloat16).cpu()  # (M, V)
        return found

    def drawn(self, generator: torch.Generator) -> list[_Row]:
        """The rows of one step."""
        chosen = [
            members[int(place)]
            for pool, members in self.pools.items()
            for place in torch.randint(len(members), (self.per_step[pool],), generator=generator)
        ]
        return [row for number in chosen for row in self.rows[number]]

    def loss(self, prompt: Tensor, rows: Sequence[_Row]) -> dict[str, Tensor]:
        """The terms of the loss, each unweighted, and their weighted sum under "loss".

        Args:
            prompt: (P, D).
            rows: of `drawn`.
        """
        batch = pad([row.ids for row in rows], 0, "right", [row.mask for row in rows]).to(self.model.device)
        logits = at_least_float32(label_logits(self.model, prompt, batch))  # (M, V)
        return self._terms(logits, batch, rows)

    def _terms(self, logits: Tensor, batch: Batch, rows: Sequence[_Row]) -> dict[str, Tensor]:
        assert batch.response_mask is not None
        ids = batch.input_ids[:, 1:][batch.response_mask[:, 1:]]  # (M,)
        lengths = [sum(row.mask) for row in rows]
        purpose = [row.purpose for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        of = {
            name: torch.tensor([one == name for one in purpose], device=ids.device)
            for name in ("target", "avoid", "benign")
        }  # (M,) each
        first = torch.tensor([place == 0 for length in lengths for place in range(length)], device=ids.device)  # (M,)
        surprise = F.cross_entropy(logits, ids, reduction="none")  # (M,)
        weights = torch.where(first, self.objective.first, 1.0) * of["target"]  # (M,)
        goal = self.objective
        terms = {
            "target": (weights * surprise).sum() / weights.sum().clamp(min=1),
            "avoid": masked_mean(-log_rest(logits, ids), of["avoid"]),
            "benign": masked_mean(surprise, of["benign"]),
        }
        if self.undefended:
            before = [self.undefended[row.anchor] for row in rows if row.purpose == "benign"]
            kept = logits[of["benign"]]  # (M', V)
            base = torch.cat([*before, kept.new_empty(0, kept.shape[-1])]).to(kept)  # (M', V)
            terms["divergence"] = kl(base, kept)
        loss = goal.target * terms["target"] + goal.avoid * terms["avoid"] + goal.benign * terms["benign"]
        loss = loss + goal.benign * goal.divergence * terms.get("divergence", torch.zeros_like(loss))
        return {"loss": loss, **terms}


def optimise(
    optimisation: Optimisation,
    start: Tensor,
    plan: Plan,
    *,
    evaluate: Callable[[Tensor], Mapping[str, float]] | None = None,
    folder: Path | None = None,
) -> tuple[Tensor, History]:
    """Trains one soft prompt; the same seed gives the same prompt, and a run that was stopped goes on where it was.

    Args:
        optimisation: anchors, role and objective.
        start: (P, D), of `soft_prompts.initial`; it is not changed.
        plan: steps, learning rate and seed, as in `training.Plan`; with `patience` the best prompt by `evaluate` is kept.
        evaluate: prompt → numbers, one of them "score", higher is better: on validation requests, harmful and harmless.
        folder: where checkpoints go; None keeps none.

    Returns:
        The prompt (P, D), and the history of the terms.
    """
    prompt = start.detach().clone().requires_grad_()  # (P, D)
    for parameter in optimisation.model.parameters():  # else it gathers gradients in vain
        parameter.requires_grad_(False)
    history = train(
        {"prompt": prompt}, lambda step, generator: optimisation.loss(prompt, optimisation.drawn(generator)), plan,
        evaluate=_evaluation(evaluate, prompt), folder=folder, progress=optimisation.progress,
    )  # fmt: skip
    return prompt.detach(), history


def _evaluation(evaluate: Callable[[Tensor], Mapping[str, float]] | None, prompt: Tensor) -> Evaluate | None:
    return evaluate and (lambda step: evaluate(prompt.detach()))
