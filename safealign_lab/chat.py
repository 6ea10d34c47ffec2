"""From a conversation to tensors: token ids, response masks, padding, soft prompts, the log-probability of an answer.

Symbols: B batch, T tokens, V vocabulary, D hidden size, P length of a soft prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = dict[str, str]


# ---------------------------------------------------------------- conversations and their tokens


def conversation(request: str, system: str | None = None, answer: str | None = None) -> list[Message]:
    """Writes one exchange as the list of messages that a chat template reads.

    Args:
        request: what the user says.
        system: the system text. `None` sends no system message, and some templates then insert one of their own
            (SmolLM2's says "You are a helpful AI assistant named SmolLM, …"). `""` sends an empty one: nothing is said
            and nothing is inserted, though the template still prints the empty turn's header and end.
        answer: what the assistant says; `None` leaves its turn open.

    Raises:
        ValueError: where one of the three is not a string.
    """
    turns = {"system": system, "user": request, "assistant": answer}
    for role, content in turns.items():
        if not isinstance(content, str) and (role == "user" or content is not None):
            raise ValueError(f"the {role} text must be a string, not {type(content).__name__}: {content!r}")
    return [{"role": role, "content": content} for role, content in turns.items() if content is not None]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], for_answer: bool = True) -> list[int]:
    """Turns messages into token ids by the tokenizer's chat template.

    Args:
        for_answer: True ends with the header of the assistant's next turn, ready to be continued; False ends where the
            last message does.
    """
    encoded = tokenizer.apply_chat_template(list(messages), add_generation_prompt=for_answer, return_dict=True)
    ids: list[int] = encoded["input_ids"]
    return ids


def encode_with_mask(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """Turns messages into token ids and marks the tokens that the assistant has to produce.

    A turn's tokens lie between two lengths: that of the conversation up to the assistant's header, and that of the
    conversation up to the turn's end. Token ids are not consulted, so a padding token that is also the end-of-turn
    token does no harm.

    Returns:
        `ids` and `response_mask`, of equal length. The mask is True on each assistant turn's text and on its
        end-of-turn token; it is False on headers and on the line break that some templates put after the end.

    Raises:
        ValueError: where the beginning of the conversation does not encode to the beginning of the whole.
    """
    ids = encode(tokenizer, messages, for_answer=False)
    response_mask = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = _prefix_length(tokenizer, messages[:turn], ids, for_answer=True)
        stop = _prefix_length(tokenizer, messages[: turn + 1], ids, for_answer=False)
        while stop > start and not tokenizer.decode([ids[stop - 1]]).strip():
            stop -= 1  # the model stops at the end-of-turn token and never writes the line break behind it
        response_mask[start:stop] = [True] * (stop - start)
    return ids, response_mask


def _prefix_length(
    tokenizer: PreTrainedTokenizerBase, beginning: Sequence[Message], ids: list[int], for_answer: bool
) -> int:
    prefix = encode(tokenizer, beginning, for_answer) if beginning else []
    if not prefix or ids[: len(prefix)] != prefix:
        raise ValueError(
            f"the first {len(beginning)} messages do not encode to the beginning of the whole conversation, so the "
            "answer's tokens cannot be located: use a chat template that leaves earlier turns alone, start with a "
            "system or user message, and strip white space from the start of the answers"
        )
    return len(prefix)


# ---------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """Padded rows of token ids, each (B, T); `response_mask` is True on the tokens that a loss may look at."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_mask: Tensor | None = None

    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with: `model(**batch.inputs())`."""
        return {
            "input_ids": self.input_ids, "attention_mask": self.attention_mask, "position_ids": self.position_ids
        }  # fmt: skip

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        mask = None if self.response_mask is None else self.response_mask.to(device)
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.position_ids.to(device), mask)


@dataclass(frozen=True)
class EmbeddedBatch:
    """Padded rows of vectors: `inputs_embeds` (B, T, D), `attention_mask` and `position_ids` (B, T)."""

    inputs_embeds: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with: `model(**batch.inputs())`."""
        return {
            "inputs_embeds": self.inputs_embeds, "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }  # fmt: skip

    def to(self, device: torch.device | str) -> EmbeddedBatch:
        """The same batch on another device."""
        return EmbeddedBatch(*(tensor.to(device) for tensor in self.inputs().values()))


def pad(
    rows: Sequence[Sequence[int]],
    pad_id: int,
    side: Literal["left", "right"] = "left",
    response_masks: Sequence[Sequence[bool]] | None = None,
) -> Batch:
    """Makes rows of unequal length into one batch.

    Args:
        rows: token ids, one row per conversation.
        pad_id: what fills the gap. Any id will do, since the attention mask hides it and no mask is derived from it.
        side: where the padding goes: "left" for decoding, where all rows must end in the last column; either for
            training.
        response_masks: one mask per row, as long as the row.

    Raises:
        ValueError: for no rows, an empty row, an unknown side, a missing pad id, or masks that do not fit.
    """
    if not rows or not all(rows):
        raise ValueError("pad needs at least one row, and no row may be empty")
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', not {side!r}")
    if not isinstance(pad_id, int):
        raise ValueError(f"pad_id must be a token id, not {pad_id!r}: set tokenizer.pad_token first")
    if response_masks is not None and [len(mask) for mask in response_masks] != [len(row) for row in rows]:
        raise ValueError("response_masks must hold one mask per row, each as long as its row")
    attention_mask = _rectangle([[1] * len(row) for row in rows], 0, side)  # (B, T)
    response_mask = None if response_masks is None else _rectangle(response_masks, False, side).bool()  # (B, T)
    return Batch(_rectangle(rows, pad_id, side), attention_mask, positions(attention_mask), response_mask)


def _rectangle(rows: Sequence[Sequence[int]], fill: int, side: str) -> Tensor:
    width = max(map(len, rows))
    gaps = [[fill] * (width - len(row)) for row in rows]
    full = [[*gap, *row] if side == "left" else [*row, *gap] for gap, row in zip(gaps, rows, strict=True)]
    return torch.tensor(full, dtype=torch.long)  # (B, T)


def positions(attention_mask: Tensor) -> Tensor:
    """Numbers the real tokens of each row 0, 1, 2, … wherever the padding stands; padding before them gets 0.

    Args:
        attention_mask: (B, T), 1 on real tokens.
    """
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)  # (B, T)


# ---------------------------------------------------------------- soft prompts


def prefix_embeddings(model: PreTrainedModel, batch: Batch, prefix: Tensor) -> EmbeddedBatch:
    """Puts vectors in front of each row's tokens, as if they were the embeddings of P more tokens.

    The prefix takes the first P columns in every row, before the padding of a left-padded row: [prefix | padding |
    text]. That is exact, because attention sees only the mask and the position ids, and both skip the padding; and
    it is cheap, because nothing has to be moved row by row. So `logits[:, P:]` line up with `batch.input_ids`.

    Args:
        prefix: (P, D), the same for all rows, or (B, P, D). Gradients flow into it; it is cast to the model's dtype.

    Raises:
        ValueError: where the prefix has another shape.
    """
    text = model.get_input_embeddings()(batch.input_ids)  # (B, T, D)
    rows, _, hidden = text.shape
    if prefix.dim() not in (2, 3) or prefix.shape[-1] != hidden or (prefix.dim() == 3 and len(prefix) != rows):
        raise ValueError(f"the prefix must be (P, {hidden}) or ({rows}, P, {hidden}), not {tuple(prefix.shape)}")
    front = prefix.to(text).expand(rows, -1, -1)  # (B, P, D)
    seen = batch.attention_mask.new_ones(front.shape[:2])  # (B, P)
    attention_mask = torch.cat([seen, batch.attention_mask], dim=1)  # (B, P+T)
    return EmbeddedBatch(torch.cat([front, text], dim=1), attention_mask, positions(attention_mask))


def stack(batches: Sequence[EmbeddedBatch]) -> EmbeddedBatch:
    """Lays batches below one another, padded on the left: how streams with unequal soft prompts become one prompt.

    Args:
        batches: one per stream; row b of each belongs to the same request.

    Returns:
        Rows in stream-major order: all rows of the first batch, then all of the second, …
    """
    width = max(batch.attention_mask.shape[1] for batch in batches)
    gaps = [width - batch.attention_mask.shape[1] for batch in batches]
    pairs = list(zip(batches, gaps, strict=True))
    embeds = torch.cat([F.pad(batch.inputs_embeds, (0, 0, gap, 0)) for batch, gap in pairs])  # (S*B, T, D)
    attention_mask = torch.cat([F.pad(batch.attention_mask, (gap, 0)) for batch, gap in pairs])  # (S*B, T)
    return EmbeddedBatch(embeds, attention_mask, positions(attention_mask))


# ---------------------------------------------------------------- log-probabilities


def at_least_float32(logits: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 where they are; half precision is too coarse for sums of logs."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def token_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """The log-probability of each token given those before it.

    log p(id_t | id_<t) = logits_{t-1}[id_t] - logsumexp(logits_{t-1})

    Args:
        logits: (B, T, V), as the model returns them: column t predicts token t+1.
        ids: (B, T).

    Returns:
        (B, T-1): column t belongs to token t+1. The first token has no context, hence no probability.

    Raises:
        ValueError: where the columns of `logits` and `ids` differ.
    """
    if logits.shape[:2] != ids.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and ids {tuple(ids.shape)} must share batch and length: "
            "after a soft prompt of length P, pass logits[:, P:]"
        )
    predictions = at_least_float32(logits[:, :-1])  # (B, T-1, V)
    chosen = predictions.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T-1)
    return chosen - predictions.logsumexp(dim=-1)  # (B, T-1)


def response_logps(logits: Tensor, ids: Tensor, response_mask: Tensor) -> Tensor:
    """The log-probability of each row's response: the SUM over its tokens.

    Args:
        logits: (B, T, V), not shifted.
        ids: (B, T).
        response_mask: (B, T), True on response tokens. The shift by one happens here.

    Returns:
        (B,), in nats. An empty response has probability 1, so its sum is 0.
    """
    return token_logps(logits, ids).masked_fill(~response_mask[:, 1:].bool(), 0.0).sum(dim=1)  # (B,)


def mean_response_logps(logits: Tensor, ids: Tensor, response_mask: Tensor) -> Tensor:
    """The log-probability per token of each row's response: `response_logps` divided by the response's length.

    Args:
        logits, ids, response_mask: as in `response_logps`.

    Raises:
        ValueError: where a row has no response token: its mean does not exist, and 0 would pass for certainty.
    """
    lengths = response_mask[:, 1:].sum(dim=1)  # (B,)
    if not bool((lengths > 0).all()):
        raise ValueError(f"rows {(lengths == 0).nonzero().flatten().tolist()} have no response token: leave them out")
    return response_logps(logits, ids, response_mask) / lengths  # (B,)
