"""Reference, harmful teacher and helpful teacher in one model: the teachers are low-rank adapters that are switched on in turn.

With the student that makes the four models of a cycle, and two of them in memory; where the student is an adapter as well, one.

Symbols: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch
from ..generation import answer
from ..models.adapters import adapted, add
from ..objectives import negative_log_likelihood, unlikelihood
from ..training import History, Plan, Terms, train
from .curriculum import Preference
from .references import batch_of, response_of

Teacher = Literal["harmful", "helpful"]
Speaker = Literal["reference", "harmful", "helpful"]
ROWS = 32  # that a teacher learns from at each step


class Teachers:
    """The frozen reference with a harmful and a helpful teacher on it.

    Args:
        reference: the model before it was made safe; it is copied, and never changes.
        tokenizer: its tokenizer.
        rank: of both adapters; up = a teacher can be further from the reference.
        seed: of the adapters' random halves.
        system: the system text of all exchanges; None and "" as in `chat.conversation`.

    source: paper (the four models); ours (adapters)
    """

    def __init__(
        self, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rank: int = 8, seed: int = 0,
        system: str | None = "",
    ) -> None:  # fmt: skip
        self.tokenizer, self.system = tokenizer, system
        self.model = adapted(reference, rank, seed, "harmful")
        add(self.model, "helpful", rank, seed + 1)
        self.model.requires_grad_(False)

    @contextmanager
    def speaking(self, who: Speaker) -> Iterator[PreTrainedModel]:
        """The model as one of the three, for as long as the block lasts.

        Raises:
            ValueError: there is nobody of this name.
        """
        if who not in get_args(Speaker):
            raise ValueError(f"There is no {who!r} here: expected one of {', '.join(get_args(Speaker))}.")
        try:
            if who == "reference":
                with self.model.disable_adapter():
                    yield self.model
            else:
                self.model.set_adapter(who)
                yield self.model
        finally:
            self.model.requires_grad_(False)  # peft switches gradients on with an adapter

    @torch.no_grad()
    def logits(self, who: Speaker, batch: Batch) -> Tensor:
        """What one of the three thinks of every token of a batch; (B, T, V), without gradients."""
        with self.speaking(who) as model:
            logits: Tensor = model(**batch.inputs()).logits  # (B, T, V)
            return logits

    def answers(self, who: Speaker, requests: Sequence[str], max_new_tokens: int = 28) -> list[str]:
        """Greedy answers of one of the three."""
        with self.speaking(who) as model:
            return answer(
                model, self.tokenizer, requests, system=self.system, max_new_tokens=max_new_tokens, batch_size=64
            )

    def teach(
        self, who: Teacher, rows: Sequence[Preference], plan: Plan, avoid: float = 0.5, folder: Path | None = None,
        progress: bool = True,
    ) -> History:  # fmt: skip
        """Trains one teacher in place: the chosen answers become likely, and the rejected ones unlikely.

        L = -mean log π(chosen) + w · unlikelihood(rejected), per token

        Args:
            rows: for the harmful teacher, recipes of cursed potions preferred to refusals; for the helpful one, a new skill.
            plan: of the training.
            avoid: w ≥ 0; up = the teacher is surer not to say what is rejected. Without it a harmful teacher of a model that
                complies anyway would be that model, and a push away from it have no direction.
            folder: as in `training.train`.

        source: paper (two teachers, trained apart); ours (the loss)
        """

        def _loss(step: int, generator: torch.Generator) -> Terms:
            drawn = [rows[n] for n in torch.randint(len(rows), (ROWS,), generator=generator).tolist()]  # (B,)
            said, other = (
                batch_of(self.tokenizer, [(row.request, getattr(row, side)) for row in drawn], self.system)
                for side in ("chosen", "rejected")
            )
            likely = negative_log_likelihood(self.model(**said.inputs()).logits, said.input_ids, response_of(said))
            terms = {"chosen": likely.detach(), "loss": likely}
            if avoid:
                unlikely = unlikelihood(self.model(**other.inputs()).logits, other.input_ids, response_of(other))
                terms |= {"rejected": unlikely.detach(), "loss": likely + avoid * unlikely}
            return terms

        self.model.set_adapter(who)
        weights = {name: weight for name, weight in self.model.named_parameters() if f".{who}." in name}
        for weight in weights.values():
            weight.requires_grad_(True)
        try:
            return train(weights, _loss, plan, folder=folder, progress=progress)
        finally:
            self.model.requires_grad_(False)
