"""Ways of answering, each by one name: a text or a soft prompt alone, and every contrast that is compared with ACD.

Symbols: P length of a soft prompt, D hidden size, B requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import Generation, Prompt, ScoreFunction, generate
from ..judges import Judge
from ..measures import Paired, paired
from .scores import scorer


@dataclass(frozen=True)
class Method:
    """How to answer: the prompts of the streams, the score that makes one choice of them, and for how many tokens it does.

    Attributes:
        prompts: one for each stream, the first being the one that answers where the score has no say.
        score: None for a single stream.
        scored_tokens: as in `generation.decode`.
    """

    prompts: tuple[Prompt, ...]
    score: ScoreFunction | None = None
    scored_tokens: int | None = None

    def __call__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], **options: Any
    ) -> Generation:
        """Answers requests; options as in `generation.generate`."""
        return generate(
            model, tokenizer, requests, self.prompts, score=self.score, scored_tokens=self.scored_tokens, **options
        )


def safe_decoding(stream_logits: Tensor, strength: float = 3.0, common: int = 5) -> Tensor:
    """SafeDecoding's score: p = p_base + strength · (p_expert - p_base) on the tokens that both streams rank high.

    These are the intersection of both streams' k likeliest tokens, with the smallest k that gives at least `common`.

    Args:
        stream_logits: (2, B, V), the undefended stream first, the expert's second.
        strength: 0 is the base alone, 1 the expert alone; more exaggerates what the expert changes (source: paper, 3).
        common: how many tokens there are to choose from; more lets rarer ones in (source: paper, 5).

    Returns:
        (B, V), logarithms of the new probabilities; -inf outside the intersection and where they would be negative.

    Raises:
        ValueError: another number of streams, a negative strength, or `common` outside 1 to V.

    Source: SafeDecoding (Xu et al. 2024, arXiv 2402.08983), with a soft prompt as the expert in place of its fine-tuned one.
    """
    if len(stream_logits) != 2:
        raise ValueError(f"SafeDecoding needs two streams, the base and the expert, not {len(stream_logits)}.")
    if not 0 <= strength < torch.inf or not 1 <= common <= stream_logits.shape[-1]:
        raise ValueError(f"strength={strength} must be 0 or more, and common={common} from 1 to the vocabulary's size.")
    logps = torch.log_softmax(stream_logits, dim=-1)  # (2, B, V)
    base, expert = logps.exp()  # (B, V) each
    # in both streams' first k exactly where the worse of its two ranks is below k
    ranks = stream_logits.argsort(dim=-1, descending=True).argsort(dim=-1)  # (2, B, V)
    worst = ranks.amax(dim=0)  # (B, V)
    limit = worst.kthvalue(common, dim=-1, keepdim=True).values  # (B, 1)
    mixed = (base + strength * (expert - base)).clamp(min=0)  # (B, V)
    # where the expert pulls every common token below zero, the expert decides among them
    empty = (mixed * (worst <= limit)).sum(dim=-1, keepdim=True) == 0  # (B, 1)
    return torch.where(empty, logps[1], mixed.log()).masked_fill(worst > limit, -torch.inf)  # (B, V)


def methods(
    safe_text: str, opposite_text: str, safeguarding: Tensor | None = None, adversarial: Tensor | None = None, *,
    alpha: float = 0.4, plausibility: float = 0.1, gate: float = 0.0,
) -> dict[str, Method]:  # fmt: skip
    """Every method of the comparison that these prompts allow, by its name.

    Args:
        safe_text, opposite_text: system texts, careful and reckless.
        safeguarding, adversarial: soft prompts (P, D); without one its methods are left out.
        alpha, plausibility, gate: of the contrasts, as in `scores.score`; Instructive Decoding has its own strength, 0.3, and
            no limit (source: paper, Kim et al. 2024, arXiv 2311.00233).
    """
    contrast = scorer(alpha, plausibility=plausibility, gate=gate)
    instructive = scorer(0.3, plausibility=0.0)
    found = {
        "no system text": Method((None,)),
        "safe text": Method((safe_text,)),
        "text contrast": Method((safe_text, opposite_text), contrast),
        "Instructive Decoding, null": Method((safe_text, ""), instructive),
        "Instructive Decoding, opposite": Method((safe_text, opposite_text), instructive),
    }
    if safeguarding is not None:
        found["SP"] = Method((safeguarding,))
        found["SP − opposite text"] = Method((safeguarding, opposite_text), contrast)
        found["SafeDecoding"] = Method((None, safeguarding), safe_decoding, scored_tokens=2)
    if adversarial is not None:
        found["none − AP"] = Method((None, adversarial), contrast)
        found["safe text − AP"] = Method((safe_text, adversarial), contrast)
    if safeguarding is not None and adversarial is not None:
        found["SP − AP"] = Method((safeguarding, adversarial), contrast)
    return found


@dataclass(frozen=True)
class Health:
    """Whether an adversarial prompt does what it is for: refuse less than the safe one, on the same requests.

    Attributes:
        gap: the safe stream's refusal rate minus the adversarial one's, each stream asked alone.
        healthy: True where the whole interval of the gap lies above 0.
    """

    gap: Paired
    healthy: bool


def health(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, safe: Prompt, adversarial: Prompt,
    requests: Sequence[str], judge: Judge, **options: Any,
) -> Health:  # fmt: skip
    """Asks both streams alone: an adversarial one that refuses as much as the safe one turns the contrast around.

    Args:
        requests: harmful ones, such as the anchors that were trained on; more give a narrower interval.
        options: as in `generation.generate`.

    Raises:
        ValueError: no requests.
    """
    obeying, refusing = (
        judge.labels(generate(model, tokenizer, requests, (prompt,), **options).texts, list(requests))
        for prompt in (adversarial, safe)
    )
    gap = paired(obeying, refusing)
    return Health(gap, gap.low > 0)


def checked(health: Health, contrast: Method) -> Method:
    """The contrast where its adversarial prompt is healthy, else its safe stream alone."""
    return contrast if health.healthy else Method(contrast.prompts[:1])
