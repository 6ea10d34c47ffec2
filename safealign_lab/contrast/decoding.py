"""Adversarial contrastive decoding on a real model: in the kit's own loop, and inside transformers' `generate`.

Symbols: B requests, R = 2·B rows, P length of a soft prompt, D hidden size, T tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    MaxLengthCriteria,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
)  # fmt: skip

from .. import generation
from ..chat import Batch, pad
from ..generation import Generation, Prompt, Reader, ScoreFunction, decode
from .scores import Form, scorer


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: str | Sequence[str], *,
    safe: Prompt, adversarial: Prompt, alpha: float = 0.4, form: Form = "acd", plausibility: float = 0.1,
    gate: float = 0.0, return_streams: bool = False, **options: Any,
) -> Generation:  # fmt: skip
    """Answers requests by adversarial contrastive decoding: each token by the score of a safe and an adversarial stream.

    Both streams read the same request and the same answer so far, under different prompts, in one batch.

    Args:
        requests: one text or many.
        safe, adversarial: a system text, a soft prompt (P, D), or None for what the chat template itself puts in.
        alpha, form, plausibility: as in `scores.score`; more α takes more of the adversarial stream away (source: paper,
            0.4 to 0.5), more plausibility keeps closer to the safe stream (source: ours, 0.1; the paper has none, which
            is 0).
        gate: in nats, as in `scores.score`; more leaves more tokens to the safe stream (source: ours, 0).
        return_streams: also returns the scores (B, N, V) and both streams' logits (2, B, N, V), for `inspection.inspect`.
        options: `batch_size`, `max_new_tokens`, `temperature` (0 is greedy; sample with form="guided"), `generator`, `stop`,
            `opening`, `progress` and `on_token`, as in `generation.generate` and `generation.decode`.

    Raises:
        ValueError: an impossible knob, as in `scores.score`; a soft prompt of another size; requests that are not texts.

    Source: paper (arXiv 2406.16743); the limit is ours.
    """
    asked = [requests] if isinstance(requests, str) else requests
    score = scorer(alpha, form, plausibility, gate)
    return generation.generate(
        model, tokenizer, asked, (safe, adversarial), score=score, return_scores=return_streams, **options
    )


class ContrastProcessor(LogitsProcessor):  # type: ignore[misc]
    """The contrast as a processor of transformers' `generate`: it runs the adversarial stream beside the safe one.

    `model.generate(**safe_inputs, logits_processor=[ContrastProcessor(model, adversarial, alpha)])` decodes greedily, or
    samples (then with form="guided"), token for token as `generate` of this module. Twice the calls of the model, so slower:
    it is for those who have a `generate` call already. One processor serves one call, since it keeps what it has read; beams
    are not followed, and soft prompts need the kit's own loop.

    Args:
        model: the model that generates.
        adversarial: the requests under the adversarial prompt, left-padded, row by row those of the call (B, T).
        alpha, form, plausibility: as in `scores.score`.

    Raises:
        ValueError: an impossible knob; or, when used, other rows than it was made for, or a step that does not follow.
    """

    def __init__(
        self, model: PreTrainedModel, adversarial: Batch, alpha: float, form: Form = "acd", plausibility: float = 0.1
    ) -> None:
        self.score = scorer(alpha, form, plausibility)
        self.unread = {"input_ids": adversarial.input_ids}  # (B, T)
        self.reader = Reader(model, adversarial)
        self.length: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The contrast's scores (B, V) for the token after `input_ids` (B, T), of which the safe stream has `scores` (B, V)."""
        rows, length = input_ids.shape
        if rows != len(self.reader.mask) or length != (self.length or length):
            raise ValueError(
                f"The processor was made for {len(self.reader.mask)} rows of one call, and got {rows} rows or another text: "
                "make a new one for each call of generate, and use no beams."
            )
        if self.length is not None:
            self.unread = {"input_ids": input_ids[:, -1:]}  # (B, 1)
        self.length = length + 1
        adversarial_logits = self.reader.read(self.unread, streams=1)[0]  # (B, V)
        return self.score(torch.stack([scores, adversarial_logits.to(scores)]))  # (B, V)


def custom_generate(
    tokenizer: PreTrainedTokenizerBase, adversarial: Batch, alpha: float, form: Form = "acd", plausibility: float = 0.1
) -> Callable[..., Tensor]:
    """The kit's loop for transformers' `generate`: `model.generate(**safe_inputs, custom_generate=custom_generate(...))`.

    As fast as `generate` of this module, since both streams share a batch. Of the call's settings it follows `max_new_tokens`
    (or `max_length`), `eos_token_id`, `do_sample` and `temperature`. transformers hands no streamer on to such a loop: to see
    tokens as they come, use `on_token` of this module's `generate`.

    Args:
        tokenizer: of the model.
        adversarial, alpha, form, plausibility: as in `ContrastProcessor`.

    Returns:
        A function that gives (B, T+N) token ids as `generate` does: the safe prompt, the answer with its end token, and padding.

    Raises:
        ValueError: an impossible knob; when called, other rows than those of `adversarial`, or settings that the loop does not
            know, since they need another processor (`top_k`, `repetition_penalty` and the like) or another criterion of when
            to stop (`stop_strings`, `max_time`, one's own).
    """
    return partial(_contrasted, tokenizer=tokenizer, adversarial=adversarial, score=scorer(alpha, form, plausibility))


def _contrasted(
    model: PreTrainedModel, input_ids: Tensor, generation_config: GenerationConfig, logits_processor: Sequence[Any] = (),
    stopping_criteria: Sequence[Any] = (), *,
    tokenizer: PreTrainedTokenizerBase, adversarial: Batch, score: ScoreFunction, **others: Any,
) -> Tensor:  # fmt: skip
    """What `generate` calls, with the arguments by which it calls every decoding method."""
    _check_call(input_ids, adversarial, logits_processor, stopping_criteria)
    mask = others.get("attention_mask")  # (B, T), or None where generate found no padding
    mask = torch.ones_like(input_ids) if mask is None else mask  # (B, T)
    rows = [*_unpadded(input_ids, mask), *_unpadded(adversarial.input_ids, adversarial.attention_mask)]
    filler = tokenizer.pad_token_id or 0
    limits = [one.max_length for one in stopping_criteria if isinstance(one, MaxLengthCriteria)]
    said = decode(
        model, tokenizer, pad(rows, filler).to(model.device), streams=2, score=score,
        max_new_tokens=min(limits, default=generation_config.max_length) - input_ids.shape[1],
        end_ids=_ends(model, stopping_criteria),
        temperature=generation_config.temperature or 1.0 if generation_config.do_sample else 0.0,
    )  # fmt: skip
    new = [ids if end is None else [*ids, end] for ids, end in zip(said.ids, said.ends, strict=True)]
    answers = pad([row or [filler] for row in new], filler, side="right").input_ids  # (B, N)
    return torch.cat([input_ids, answers.to(input_ids)], dim=1)  # (B, T+N)


def _ends(model: PreTrainedModel, stopping_criteria: Sequence[Any]) -> list[int] | None:
    """The end tokens of this call; None where it asks for no others than the model has."""
    asked = [
        token for one in stopping_criteria if isinstance(one, EosTokenCriteria) for token in one.eos_token_id.tolist()
    ]
    configured = model.generation_config.eos_token_id  # one id, several, or none
    own = configured if isinstance(configured, list) else [configured]
    return None if set(asked) == {token for token in own if token is not None} else asked


def _check_call(
    input_ids: Tensor, adversarial: Batch, logits_processor: Sequence[Any], stopping_criteria: Sequence[Any]
) -> None:
    known = (TemperatureLogitsWarper, MaxLengthCriteria, EosTokenCriteria)  # decode has its own
    if strangers := [type(one).__name__ for one in (*logits_processor, *stopping_criteria) if type(one) not in known]:
        raise ValueError(
            f"The contrast's loop does not know {', '.join(strangers)}: leave these settings out (top_k=0)."
        )
    if len(input_ids) != len(adversarial.input_ids):
        raise ValueError(
            f"{len(input_ids)} rows are to be answered, and {len(adversarial.input_ids)} have an adversarial prompt: "
            "expected one for each, in the same order, without beams and without num_return_sequences."
        )


def _unpadded(input_ids: Tensor, attention_mask: Tensor) -> list[list[int]]:
    return [row[kept.bool()].tolist() for row, kept in zip(input_ids, attention_mask, strict=True)]
