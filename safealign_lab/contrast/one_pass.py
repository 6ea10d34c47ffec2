"""One stream in place of two: the contrast distilled into a single soft prompt, or into a low-rank adapter of the weights.

The target is the contrast in the form that may be sampled from, softmax((1+w) l_S - w l_A) with w = α/(1-α): ACD's score at
temperature 1-α. A model that is pushed away from a harmful teacher by softmax((1+g) l_ref - g l_harmful) learns the same
target, with the reference for S, the harmful teacher for A, and g = w. So either training is a distilled contrast.

Symbols: N demonstrations, M tokens of an answer, P length of a soft prompt, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import at_least_float32, conversation, encode, pad
from ..divergence import kl
from ..generation import Prompt
from ..training import History, Plan, train
from .decoding import generate
from .optimisation import frozen
from .scores import score
from .soft_prompts import label_logits


def contrast_target(stream_logits: Tensor, alpha: float, plausibility: float = 0.1) -> Tensor:
    """What a single stream is to learn: log softmax((1+w) l_S - w l_A) with w = α/(1-α), over the plausible tokens.

    Args:
        stream_logits: (2, …, V), the safe stream first.
        alpha: in [0, 1). 0 is the safe stream itself. Each token's p_S is multiplied by (p_S / p_A)^w, so that more moves
            probability to what the safe stream likes better than the adversarial one does, in the end all of it to the one
            token with the largest p_S / p_A, and changes nothing where the two agree.
        plausibility: as in `scores.score`; 0 keeps every token.

    Returns:
        (…, V), log-probabilities; -inf at tokens that the limit removes.

    Raises:
        ValueError: as in `scores.score`.

    Source: derived.
    """
    return torch.log_softmax(score(at_least_float32(stream_logits), alpha, "guided", plausibility), dim=-1)


TOGETHER = 16  # requests whose scores and streams are held in full precision at once


@dataclass(frozen=True)
class Demonstration:
    """An answer of the contrast, and what it thought of each token.

    Attributes:
        request: what was asked.
        ids: the answer's first tokens, with the end token where it was among them; M of them.
        target: (M, V), `contrast_target` at each, in half precision.
    """

    request: str
    ids: list[int]
    target: Tensor


def demonstrate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], safe: Prompt, adversarial: Prompt, *,
    alpha: float = 0.4, plausibility: float = 0.1, tokens: int = 12, progress: bool = False,
) -> list[Demonstration]:  # fmt: skip
    """Has the contrast answer requests greedily, and keeps its distributions: what a student is trained on.

    Args:
        requests: N of all kinds, harmful and harmless; more show the student more of what the contrast does.
        safe, adversarial, alpha, plausibility: as in `decoding.generate`.
        tokens: of each answer, from the first; more teaches longer stretches, and takes M · V numbers each to keep.

    Raises:
        ValueError: as in `decoding.generate`; no list of at least one request, or no token.
    """
    if isinstance(requests, str) or not requests or tokens < 1:
        raise ValueError(
            "There is nothing to demonstrate: give a list of one request or more, and 1 token or more of each."
        )
    found: list[Demonstration] = []
    with tqdm(total=len(requests), desc="demonstrating", unit="request", disable=not progress) as bar:
        for start in range(0, len(requests), TOGETHER):
            asked = requests[start : start + TOGETHER]
            said = generate(
                model, tokenizer, asked, safe=safe, adversarial=adversarial, alpha=alpha, form="guided",
                plausibility=plausibility, return_streams=True, max_new_tokens=tokens,
            )  # fmt: skip
            assert said.scores is not None  # return_streams was asked for
            answers = [ids if end is None else [*ids, end] for ids, end in zip(said.ids, said.ends, strict=True)]
            found += [
                Demonstration(request, ids, torch.log_softmax(scores[: len(ids)], dim=-1).to(torch.bfloat16))  # (M, V)
                for request, ids, scores in zip(asked, answers, said.scores, strict=True)
            ]
            bar.update(len(asked))
    return found


@dataclass(frozen=True)
class Fidelity:
    """How near a student is to the contrast, along the contrast's own answers.

    Attributes:
        divergence: KL(contrast ‖ student), the mean over the answers' tokens, in nats; 0 = the same.
        agreement: the share of tokens at which both find the same token likeliest.
    """

    divergence: float
    agreement: float


@dataclass(frozen=True)
class Distillation:
    """The demonstrations as rows, and how far a student is from them.

    Args:
        model: with a soft prompt as its student, or itself the student, as peft wraps it.
        demonstrations: of `demonstrate`.
        system: what stands before each request: "" under a soft prompt, None for what users of the chat template get.
        per_step: demonstrations drawn at each step; more steadies the gradient and costs time.

    Raises:
        ValueError: no demonstrations, or none at each step.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    demonstrations: Sequence[Demonstration]
    system: str | None = ""
    per_step: int = 16

    def __post_init__(self) -> None:
        if not self.demonstrations or self.per_step < 1:
            raise ValueError(
                f"Of {len(self.demonstrations)} demonstrations, {self.per_step} at a step, nothing is learned: give 1 or "
                "more of both."
            )

    def logits(self, prompt: Tensor | None, chosen: Sequence[Demonstration]) -> Tensor:
        """What the student thinks at every token of the chosen answers; (ΣM, V)."""
        asked = [encode(self.tokenizer, conversation(one.request, self.system)) for one in chosen]
        rows = [ids + one.ids for ids, one in zip(asked, chosen, strict=True)]
        masks = [[False] * len(ids) + [True] * len(one.ids) for ids, one in zip(asked, chosen, strict=True)]
        batch = pad(rows, 0, "right", masks).to(self.model.device)
        if prompt is None:
            nothing = torch.empty(0, self.model.get_input_embeddings().embedding_dim)  # (0, D)
            return label_logits(self.model, nothing, batch, shared=False)  # (ΣM, V)
        return label_logits(self.model, prompt, batch)  # (ΣM, V)

    def loss(self, prompt: Tensor | None, chosen: Sequence[Demonstration]) -> Tensor:
        """KL(contrast ‖ student), the mean over the tokens of the chosen answers, in nats."""
        logits = self.logits(prompt, chosen)  # (ΣM, V)
        return kl(torch.cat([one.target for one in chosen]).to(logits), logits)

    def drawn(self, generator: torch.Generator) -> list[Demonstration]:
        """The demonstrations of one step."""
        places = torch.randint(len(self.demonstrations), (self.per_step,), generator=generator)
        return [self.demonstrations[int(place)] for place in places]

    @torch.inference_mode()
    def fidelity(self, prompt: Tensor | None = None) -> Fidelity:
        """How near the student is to all demonstrations; give it those that it was not trained on."""
        apart, same, count = 0.0, 0, 0
        for start in range(0, len(self.demonstrations), self.per_step):
            chosen = self.demonstrations[start : start + self.per_step]
            logits = self.logits(prompt, chosen)  # (ΣM, V)
            target = torch.cat([one.target for one in chosen]).to(logits)  # (ΣM, V)
            said = torch.tensor([token for one in chosen for token in one.ids], device=logits.device)  # (ΣM,)
            apart += float(kl(target, logits, reduction="sum"))
            same, count = same + int((logits.argmax(dim=-1) == said).sum()), count + len(said)
        return Fidelity(apart / count, same / count)


def into_prompt(
    distillation: Distillation, start: Tensor, plan: Plan, folder: Path | None = None, progress: bool = True
) -> tuple[Tensor, History]:
    """Distils the contrast into one soft prompt; the weights stay as they are.

    Args:
        start: (P, D), best the safeguarding prompt, which is half of the contrast already; it is not changed.
        plan, folder: as in `training.train`.

    Returns:
        The prompt (P, D), and the history.
    """
    prompt = start.detach().clone().requires_grad_()  # (P, D)
    with frozen(distillation.model):
        history = train(
            {"prompt": prompt}, lambda step, generator: distillation.loss(prompt, distillation.drawn(generator)), plan,
            folder=folder, progress=progress,
        )  # fmt: skip
    return prompt.detach(), history


def into_adapter(distillation: Distillation, plan: Plan, folder: Path | None = None, progress: bool = True) -> History:
    """Distils the contrast into the adapter of `adapted`, in place; arguments as in `into_prompt`.

    Raises:
        ValueError: the model has no adapter.
    """
    trained = {name: weight for name, weight in distillation.model.named_parameters() if weight.requires_grad}
    if not isinstance(distillation.model, PeftModel) or not trained:
        raise ValueError("The model has no adapter to distil into: make one with `adapted`.")
    return train(
        trained, lambda step, generator: distillation.loss(None, distillation.drawn(generator)), plan,
        folder=folder, progress=progress,
    )  # fmt: skip
