"""Many requests at once: each stream under its own prompt, written or soft, in batches of similar length.

Symbols: S streams, B requests, P length of a soft prompt, D hidden size, T tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, EmbeddedBatch, conversation, encode, pad, prefix_embeddings, stack
from .decoding import Generation, TokenCallback, decode

Prompt = str | Tensor | None  # a system text, a soft prompt (P, D), or nothing beyond what the chat template puts in


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], *,
    system: Prompt = None, others: Sequence[Prompt] = (), **options: Any,
) -> list[str]:  # fmt: skip
    """The answers to many requests as texts, in the order in which they were asked.

    Args:
        system: the system text for all of them, or a soft prompt; None and "" as in `chat.conversation`.
        others: the prompts of further streams, whose logits `score` then combines with those of the first.
        options: as in `generate`.

    Raises:
        ValueError: as in `generate`.
    """
    return generate(model, tokenizer, requests, (system, *others), **options).texts


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[str],
    prompts: Sequence[Prompt] = (None,),
    *,
    opening: str = "",
    batch_size: int = 16,
    progress: bool = False,
    on_token: TokenCallback | None = None,
    **options: Any,
) -> Generation:
    """Answers many requests in batches, each under all prompts at once.

    Requests of similar length share a batch, so that little is padded; the longest go first, so that a batch too large
    for the memory fails at once.

    Args:
        prompts: one for each stream. A text or None is the system text; a tensor (P, D) is a soft prompt, which stands
            before a conversation with an empty system text.
        opening: how every answer begins; it is part of the answer, and not of `max_new_tokens`.
        batch_size: requests per batch. Larger is faster per request and takes more memory.
        progress: True shows how many requests are left.
        on_token: as in `decode`, with the number of the request in place of the row.
        options: `score`, `scored_tokens`, `max_new_tokens`, `temperature`, `generator`, `stop`, `end_ids` and `return_scores`,
            as in `decode`.

    Returns:
        One `Generation` in the order of the requests; its texts begin with the opening, its ids and scores do not.

    Raises:
        ValueError: where the requests are not a list of strings, or there are several streams and no `score`.
    """
    if isinstance(requests, str):
        raise ValueError("requests must be a list of strings, not one string: write [request]")
    streams = [_rows(tokenizer, requests, prompt, opening) for prompt in prompts]
    order = sorted(range(len(requests)), key=lambda index: -len(streams[0][index]))
    parts: list[Generation] = []
    with tqdm(total=len(requests), unit="request", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = [[rows[index] for index in chosen] for rows in streams]
            batch = _batch(model, tokenizer, rows, prompts)
            tell = _numbered(on_token, chosen)
            parts.append(decode(model, tokenizer, batch, streams=len(streams), on_token=tell, **options))
            bar.update(len(chosen))
    return _joined(parts, order, opening)


def _rows(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], prompt: Prompt, opening: str) -> list[list[int]]:
    """The token ids of every request under one prompt, with the beginning of its answer."""
    begun = tokenizer.encode(opening, add_special_tokens=False) if opening else []
    system = "" if isinstance(prompt, Tensor) else prompt
    return [encode(tokenizer, conversation(request, system)) + begun for request in requests]


def _batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Sequence[int]]], prompts: Sequence[Prompt]
) -> Batch | EmbeddedBatch:  # fmt: skip
    """The rows of all streams below one another, padded on the left; soft prompts stand before theirs."""
    pad_id = tokenizer.pad_token_id or 0
    if not any(isinstance(prompt, Tensor) for prompt in prompts):
        return pad([row for stream in rows for row in stream], pad_id).to(model.device)  # (S*B, T)
    nothing = torch.empty(0, model.get_input_embeddings().embedding_dim)  # (0, D)
    return stack([
        prefix_embeddings(model, pad(stream, pad_id).to(model.device), prompt if isinstance(prompt, Tensor) else nothing)
        for stream, prompt in zip(rows, prompts, strict=True)
    ])  # fmt: skip


def _numbered(on_token: TokenCallback | None, chosen: Sequence[int]) -> TokenCallback | None:
    return on_token and (lambda row, token, text: on_token(chosen[row], token, text))


def _joined(parts: Sequence[Generation], order: Sequence[int], opening: str) -> Generation:
    """The batches' outcomes as one, in the order of the requests; shorter ones are filled with NaN."""
    rows = [(part, row) for part in parts for row in range(len(part.texts))]
    places = sorted(range(len(order)), key=order.__getitem__)  # the place of each request among the rows
    said = [rows[place] for place in places]
    texts, ids = [opening + part.texts[row] for part, row in said], [part.ids[row] for part, row in said]
    finished, ends = [part.finished[row] for part, row in said], [part.ends[row] for part, row in said]
    if not parts or parts[0].scores is None:
        return Generation(texts, ids, finished, ends)
    scores, logits = ([getattr(part, name) for part in parts] for name in ("scores", "stream_logits"))
    return Generation(texts, ids, finished, ends, _level(scores)[places], _level(logits)[:, places])


def _level(tensors: Sequence[Tensor]) -> Tensor:
    """Joins (…, B, N, V) along B, with NaN up to the largest N."""
    longest = max(tensor.shape[-2] for tensor in tensors)
    filled = [F.pad(tensor, (0, 0, 0, longest - tensor.shape[-2]), value=torch.nan) for tensor in tensors]
    return torch.cat(filled, dim=-3)  # (…, B, N, V)
