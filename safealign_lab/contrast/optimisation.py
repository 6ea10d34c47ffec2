"""Opposite prompt optimisation: two soft prompts, one that learns to refuse what is harmful, one that learns to obey.

Both are trained on the same anchors by mirrored losses; the model's weights stay as they are.

Symbols: P length of the prompt, D hidden size, V vocabulary, N anchors, M response tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import at_least_float32, conversation, encode_with_mask, pad
from ..training import Evaluate, History, Plan, train
from .losses import kept_loss, unwanted_loss, wanted_loss
from .soft_prompts import label_logits

Role = Literal["safeguarding", "adversarial"]
Purpose = Literal["target", "avoid", "benign"]
Loss = Callable[..., Tensor]


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

    Each term is a mean over its own tokens; a weight of 0 switches a term off. CE(wanted) is (mean over all tokens + first ·
    mean over first tokens) / (1 + first): the first token carries the decision, and drowns in a long answer.

    Args:
        target: more makes the wanted answer likelier.
        avoid: unlikelihood, -log(1 - p); more makes the unwanted answer less likely, and stops pushing once it is.
        benign: more keeps the answers to harmless requests as they are.
        divergence: within the benign term: more keeps the whole distribution, not only the answer's own tokens.
        first: more lets the first tokens of wanted answers count more; 0 treats all tokens alike.
        said: how many tokens of the wanted answer are learned, from the first; None = all. Fewer is faster, and leaves the rest
            to the model.
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
    first: float = 1.0
    said: int | None = None
    avoided: int | None = 1
    kept: int | None = 6

    def __post_init__(self) -> None:
        for name in ("target", "avoid", "benign", "divergence", "first"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"The weight {name} = {getattr(self, name)} is no weight: give a number of 0 or more.")
        for name in ("said", "avoided", "kept"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(
                    f"{name} = {getattr(self, name)} tokens cannot be counted: give 1 or more, or None for all."
                )


PRINTED = Objective(target=1.0, avoid=1.0, benign=1.0, divergence=0.0, first=0.0, avoided=None, kept=None)


TOGETHER = 16  # anchors of which the undefended model reads at once


@dataclass(frozen=True)
class _Row:
    """One row of a batch: what is read, which tokens are looked at, and what for."""

    ids: list[int]
    mask: list[bool]
    purpose: Purpose
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
        losses: of `contrast.losses`, or your own in their place.
        rows_at_once: how many rows of similar length are read together; fewer pad less, which pays on a large model, and
            change no gradient. None = all of a step.

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
    losses: tuple[Loss, Loss, Loss] = (wanted_loss, unwanted_loss, kept_loss)
    progress: bool = True
    rows_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"There is no role {self.role!r}: expected one of {', '.join(get_args(Role))}.")
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
        if not (wanted and unwanted) and not anchor.answer:
            raise ValueError(
                f"The anchor {anchor.request!r} has nothing to learn from: give a refusal and a compliance, or an answer."
            )
        parts: list[tuple[Purpose, str, int | None, float]] = [
            ("target", wanted, goal.said, goal.target), ("avoid", unwanted, goal.avoided, goal.avoid),
            ("benign", anchor.answer, goal.kept, goal.benign),
        ]  # fmt: skip
        return [
            _Row(*self._encoded(anchor.request, text, most), purpose=purpose, anchor=number)
            for purpose, text, most, weight in parts
            if text and weight
        ]

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
        harmless = [row.anchor for rows in self.rows for row in rows if row.purpose == "benign"]
        encoded = {
            number: self._encoded(
                self.anchors[number].request, self.anchors[number].answer, self.objective.kept, self.system
            )
            for number in harmless
        }
        harmless.sort(key=lambda number: len(encoded[number][0]))  # of similar length, so that little is padded
        nothing = torch.empty(0, self.model.get_input_embeddings().embedding_dim)  # (0, D)
        found: dict[int, Tensor] = {}
        with tqdm(total=len(harmless), desc="without a prompt", unit="anchor", disable=not self.progress) as bar:
            for start in range(0, len(harmless), TOGETHER):
                chosen = harmless[start : start + TOGETHER]
                ids, masks = zip(*(encoded[number] for number in chosen), strict=True)
                batch = pad(ids, 0, "right", masks).to(self.model.device)
                logits = label_logits(self.model, nothing, batch, shared=False).to(torch.bfloat16).cpu()  # (M, V)
                found.update(zip(chosen, torch.split(logits, [sum(mask) for mask in masks]), strict=True))
                bar.update(len(chosen))
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
        rows = sorted(rows, key=lambda row: len(row.ids))  # of similar length together, so that little is padded
        size = self.rows_at_once or len(rows)
        logits = torch.cat([self._logits(prompt, rows[start : start + size]) for start in range(0, len(rows), size)])
        ids = torch.cat([torch.tensor(row.ids)[torch.tensor(row.mask)] for row in rows])  # (M,)
        return self._terms(logits, ids.to(logits.device), rows)

    def _logits(self, prompt: Tensor, rows: Sequence[_Row]) -> Tensor:
        batch = pad([row.ids for row in rows], 0, "right", [row.mask for row in rows]).to(self.model.device)
        return at_least_float32(label_logits(self.model, prompt, batch))  # (M, V)

    def _terms(self, logits: Tensor, ids: Tensor, rows: Sequence[_Row]) -> dict[str, Tensor]:
        """The terms out of the logits (M, V) of all response tokens (M,), row after row."""
        lengths = [sum(row.mask) for row in rows]
        purposes = [row.purpose for row, length in zip(rows, lengths, strict=True) for _ in range(length)]
        starts = torch.tensor([place == 0 for length in lengths for place in range(length)], device=ids.device)  # (M,)
        of = {
            name: torch.tensor([one == name for one in purposes], device=ids.device) for name in get_args(Purpose)
        }  # (M,)
        before = [self.undefended[row.anchor] for row in rows if row.purpose == "benign" and self.undefended]
        kept, goal = logits[of["benign"]], self.objective  # (M', V)
        undefended = torch.cat(before).to(kept) if before else kept  # (M', V)
        decided = of["target"] & starts  # (M,)
        wanted, unwanted, keep = (partial(_guarded, loss) for loss in self.losses)
        target = wanted(logits[of["target"]], ids[of["target"]])
        begun = wanted(logits[decided], ids[decided])
        terms = {
            "target": (target + goal.first * begun) / (1 + goal.first),
            "avoid": unwanted(logits[of["avoid"]], ids[of["avoid"]]),
            "benign": keep(kept, ids[of["benign"]], undefended, goal.divergence),
        }
        loss = goal.target * terms["target"] + goal.avoid * terms["avoid"] + goal.benign * terms["benign"]
        return {"loss": loss, **terms}


def _guarded(loss: Loss, logits: Tensor, *others: Any) -> Tensor:
    """A term, and 0 with a gradient of 0 where its set is empty: a mean over nothing would make the whole sum no number."""
    return loss(logits, *others) if len(logits) else logits.sum()


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
    with frozen(optimisation.model):
        history = train(
            {"prompt": prompt}, lambda step, generator: optimisation.loss(prompt, optimisation.drawn(generator)), plan,
            evaluate=_evaluation(evaluate, prompt), folder=folder, progress=optimisation.progress,
        )  # fmt: skip
    return prompt.detach(), history


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """The weights gather no gradients meanwhile, which would be in vain."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _evaluation(evaluate: Callable[[Tensor], Mapping[str, float]] | None, prompt: Tensor) -> Evaluate | None:
    return evaluate and (lambda step: evaluate(prompt.detach()))
