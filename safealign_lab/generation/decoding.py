"""The one decoding loop: one stream of text or several, and a score function that makes one choice out of them.

With S streams each request is read S times, under S different prompts, and every stream receives the same chosen token.
So all rows go through the model as one batch, in stream-major order: row s·B + b is stream s of request b.

Symbols: S streams, B requests, R = S·B rows, T prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, EmbeddedBatch, at_least_float32

ScoreFunction = Callable[[Tensor], Tensor]  # from the logits of all streams (S, B, V) to one score per token (B, V)
TokenCallback = Callable[[int, int, str], None]  # called with (row, token id, new text) as soon as a token is chosen


@dataclass(frozen=True)
class Generation:
    """What came out of `decode`.

    Attributes:
        texts: one per request, cut before the stop string if one occurred.
        ids: the new tokens of each request, without the end token.
        finished: True where an end token or a stop string came, False where `max_new_tokens` ran out.
        ends: the end token of each request, None where its answer ended otherwise.
        scores: (B, N, V) on request. The first `len(ids[b])` steps chose `ids[b]`; one more chose the end token;
            after that a finished row holds NaN.
        stream_logits: (S, B, N, V) on request, filled alike.
    """

    texts: list[str]
    ids: list[list[int]]
    finished: list[bool]
    ends: list[int | None]
    scores: Tensor | None = None
    stream_logits: Tensor | None = None


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Batch | EmbeddedBatch,
    *,
    streams: int = 1,
    score: ScoreFunction | None = None,
    scored_tokens: int | None = None,
    max_new_tokens: int = 28,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    stop: Sequence[str] = (),
    end_ids: Sequence[int] | None = None,
    on_token: TokenCallback | None = None,
    return_scores: bool = False,
) -> Generation:
    """Continues every prompt, token by token.

    A row ends at an end token or at a stop string; it then leaves the batch, so that the remaining rows go on faster.

    Args:
        prompt: left-padded, S·B rows in stream-major order.
        streams: S, the rows per request.
        score: combines the streams into one score per token. It sees the rows that are still running, in their order.
            None takes the logits of a single stream as they are.
        scored_tokens: how many tokens the score decides, from the first; what follows is the first stream's alone. None = all.
        max_new_tokens: N at most; 0 returns empty answers.
        temperature: 0 takes the highest score (greedy); above 0 samples from softmax(scores / temperature): the higher,
            the more even the choice.
        generator: for sampling, on the model's device; the same seed gives the same text.
        stop: strings that end an answer, and are cut off it.
        end_ids: tokens that end an answer; None = those of the model's generation settings, and the tokenizer's.
        on_token: gets (row, token id, new text) at each token, the end token included. Text that may still change (half
            a character, the beginning of a stop string) is held back; the pieces of a row add up to its text.
        return_scores: also store the scores and the streams' logits, N·(S+1)·B·V numbers.

    Raises:
        ValueError: for a prompt that is not left-padded or does not divide into streams, several streams without a
            score function, a negative `scored_tokens`, `max_new_tokens` or `temperature`, or an empty stop string.
    """
    _check(prompt, streams, score, max_new_tokens, temperature, stop)
    if scored_tokens is not None and scored_tokens < 0:
        raise ValueError(f"scored_tokens={scored_tokens} must not be negative; None lets the score decide all")
    ends = _end_ids(model, tokenizer) if end_ids is None else set(end_ids)
    answers = _Answers(tokenizer, ends, len(prompt.attention_mask) // streams, stop, on_token)
    reader = Reader(model, prompt)
    unread = {"input_ids": prompt.input_ids} if isinstance(prompt, Batch) else {"inputs_embeds": prompt.inputs_embeds}
    record: list[tuple[Tensor, Tensor]] = []
    with torch.inference_mode(), _few_rows_quickly(model):
        for step in range(max_new_tokens):
            stream_logits = reader.read(unread, streams)  # (S, B, V)
            scored = score is not None and (scored_tokens is None or step < scored_tokens)
            scores = score(stream_logits) if score and scored else stream_logits[0]  # (B, V)
            tokens = _choose(scores, temperature, generator)  # (B,)
            if return_scores:
                record.append((answers.spread(scores), answers.spread(stream_logits)))
            kept = answers.take(tokens.tolist(), last=step == max_new_tokens - 1)
            if not kept:
                break
            if len(kept) < len(tokens):
                reader.keep([stream * len(tokens) + row for stream in range(streams) for row in kept])
                tokens = tokens[kept]
            unread = {"input_ids": tokens.repeat(streams)[:, None]}  # (R, 1)
    texts = [answers.text(row)[0] for row in range(len(answers.ids))]
    stored = [torch.stack(tensors, dim=-2) for tensors in zip(*record, strict=True)]  # (B, N, V) and (S, B, N, V)
    return Generation(texts, answers.ids, answers.finished, answers.ends, *stored)


def _check(
    prompt: Batch | EmbeddedBatch, streams: int, score: ScoreFunction | None, limit: int, temperature: float,
    stop: Sequence[str],
) -> None:  # fmt: skip
    if not bool(prompt.attention_mask[:, -1].all()):
        raise ValueError("every prompt must end in the last column: pad on the left before decoding")
    if streams < 1 or len(prompt.attention_mask) % streams:
        raise ValueError(f"{len(prompt.attention_mask)} rows do not divide into {streams} streams of equal size")
    if streams > 1 and score is None:
        raise ValueError(f"{streams} streams need a score function that makes one choice out of them")
    if limit < 0 or temperature < 0:
        raise ValueError(f"max_new_tokens={limit} and temperature={temperature} must not be negative")
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop must be a list of strings that are not empty, not {stop!r}")


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    configured = model.generation_config.eos_token_id  # one id, several, or none
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return {one for one in ids if one is not None}


def _choose(scores: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return scores.argmax(dim=-1)  # (B,)
    probabilities = torch.softmax(scores / temperature, dim=-1)  # (B, V)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)  # (B,)


class Reader:
    """A model half-way through R texts: its cache of keys and values, its attention mask and its positions."""

    def __init__(self, model: PreTrainedModel, prompt: Batch | EmbeddedBatch) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.mask = prompt.attention_mask  # (R, T)
        self.position_ids = prompt.position_ids  # (R, T)

    def read(self, unread: dict[str, Tensor], streams: int) -> Tensor:
        """Reads the next columns, first the whole prompt and then one token at a time, and predicts the one after them."""
        output = self.model(
            **unread, attention_mask=self.mask, position_ids=self.position_ids,
            past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        self.position_ids = self.position_ids[:, -1:] + 1  # (R, 1)
        self.mask = F.pad(self.mask, (0, 1), value=1)  # (R, T+1): room for the token that comes next
        return at_least_float32(output.logits[:, -1]).view(streams, -1, output.logits.shape[-1])  # (S, B, V)

    def keep(self, rows: list[int]) -> None:
        """Forgets all other rows."""
        index = torch.tensor(rows, device=self.mask.device)  # (R,)
        self.cache.batch_select_indices(index)
        self.mask, self.position_ids = self.mask[index], self.position_ids[index]


class _Answers:
    """The answers as they grow: what each row has said, and which rows are still in the batch."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_ids: set[int], count: int, stop: Sequence[str],
        on_token: TokenCallback | None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.end_ids, self.stop, self.on_token = tokenizer, end_ids, stop, on_token
        self.ids: list[list[int]] = [[] for _ in range(count)]
        self.shown = [0] * count  # characters of each row that the callback has got
        self.finished = [False] * count
        self.ends: list[int | None] = [None] * count
        self.running = list(range(count))

    def take(self, tokens: list[int], last: bool) -> list[int]:
        """Adds one token to each running row; returns the places in the batch of the rows that go on."""
        for row, token in zip(self.running, tokens, strict=True):
            self._add(row, token, last)
        kept = [place for place, row in enumerate(self.running) if not self.finished[row]]
        self.running = [self.running[place] for place in kept]
        return kept

    def _add(self, row: int, token: int, last: bool) -> None:
        self.finished[row] = token in self.end_ids
        if self.finished[row]:
            self.ends[row] = token
        else:
            self.ids[row].append(token)
        if self.stop or self.on_token:  # otherwise the text is not needed before the end
            text, stopped = self.text(row)
            self.finished[row] |= stopped
        if self.on_token:
            settled = len(text) if last or self.finished[row] else _settled(text, self.stop)
            self.on_token(row, token, text[self.shown[row] : settled])
            self.shown[row] = max(settled, self.shown[row])

    def text(self, row: int) -> tuple[str, bool]:
        """The row's text up to the first stop string, and whether there was one."""
        text: str = self.tokenizer.decode(self.ids[row], skip_special_tokens=True)
        cuts = [cut for string in self.stop if (cut := text.find(string)) >= 0]
        return text[: min(cuts, default=len(text))], bool(cuts)

    def spread(self, values: Tensor) -> Tensor:
        """From the running rows (…, B, V) to all rows, with NaN where a row has finished."""
        full = values.new_full((*values.shape[:-2], len(self.ids), values.shape[-1]), torch.nan)
        full[..., self.running, :] = values
        return full


def _settled(text: str, stop: Sequence[str]) -> int:
    """How many characters stay as they are, whatever follows."""
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # bytes of a character whose rest is still to come
    starts = range(max(0, len(text) - max(map(len, stop), default=0)), len(text))
    return next((start for start in starts if any(string.startswith(text[start:]) for string in stop)), len(text))


# ---------------------------------------------------------------- speed on the CPU


@contextmanager
def _few_rows_quickly(model: PreTrainedModel) -> Iterator[None]:
    """Lets two to four rows cost about as much as one, on a CPU in float32.

    One row is a matrix times a vector, bound by the speed of memory, so that a second stream should be almost free. But
    x·Wᵀ with very few rows takes a slow path in common CPU libraries (on the processor where this was measured, two
    rows took 1.6 times as long as one), whereas the same product written as (W·xᵀ)ᵀ does not. The layers' own
    `forward` is covered for as long as this lasts, and uncovered at the end, also after an error.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear and "forward" not in vars(layer)]
    layers = [layer for layer in layers if (layer.weight.device.type, layer.weight.dtype) == ("cpu", torch.float32)]
    try:
        for layer in layers:
            vars(layer)["forward"] = partial(_linear, layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    rows = inputs.numel() // inputs.shape[-1]
    if not 2 <= rows <= 4:
        return F.linear(inputs, layer.weight, layer.bias)
    product = (layer.weight @ inputs.reshape(rows, -1).T).T.contiguous()  # (R, D)
    return (product if layer.bias is None else product + layer.bias).view(*inputs.shape[:-1], -1)
