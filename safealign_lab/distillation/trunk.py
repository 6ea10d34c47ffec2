"""The lower layers of a frozen backbone, and what they make of a text: the mean of their states over its own tokens.

Only the layers up to the chosen one run. A token that belongs to no text (padding, and marks such as a beginning or an
end) is never averaged, but the backbone reads the marks: the first token of a causal model carries a large state of its
own that says nothing of the text, and with a mark in front that token is none of the text's.

Symbols: N texts, B of them in a batch, T tokens, D hidden, E numbers in an input embedding, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import at_least_float32, pad

LIMIT = 200  # tokens of a text that are read; up = longer texts whole, and slower

Tokens = tuple[list[int], list[bool]]  # a text's ids with its marks, and which of them are the text's own


@dataclass(frozen=True)
class Encoded:
    """Padded rows of token ids (B, T): which are real, and which are the texts' own."""

    input_ids: Tensor
    attention_mask: Tensor
    text_mask: Tensor

    def to(self, device: torch.device | str) -> Encoded:
        """The same batch on another device."""
        return Encoded(self.input_ids.to(device), self.attention_mask.to(device), self.text_mask.to(device))


def lower_layers(model: PreTrainedModel, layer: int, eager: bool = False) -> PreTrainedModel:
    """A copy of a model that ends after `layer` of its layers, and shares all weights with it.

    What stands behind the last layer in the model (a final normalisation, where it has one) stands behind this one.

    Args:
        model: with or without an output layer, which is left out; of an encoder and a decoder, the encoder is taken.
        layer: 1 … all; up = more of the model runs. Middle layers often tell most about a whole text.
        eager: write attention out in plain operations, which can be differentiated twice; slower. The model itself keeps
            what it has.

    Raises:
        ValueError: there is no such layer, or no list of layers is found in the model.
    """
    whole = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    count = whole.config.num_hidden_layers
    if not 1 <= layer <= count:
        raise ValueError(f"There is no layer {layer}: expected 1 to {count}, after which the states are read.")
    # Found in the memo, a weight is not copied: only the modules around it are new.
    cut = copy.deepcopy(whole, {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())})
    found = [name for name, part in cut.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if len(found) != 1:
        raise ValueError(
            f"{type(whole).__name__} has {len(found)} lists of {count} layers, but one is needed: name a model that is one "
            "stack of layers."
        )
    parent, _, own_name = found[0].rpartition(".")
    setattr(cut.get_submodule(parent), own_name, cut.get_submodule(found[0])[:layer])
    cut.config.num_hidden_layers, cut.config.use_cache = layer, False
    if eager:
        cut.set_attn_implementation("eager")
    return cut


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], template: tuple[str, str] | None = None
) -> list[Tokens]:
    """Each text's token ids with the marks that the backbone expects around them, and which ids are averaged later.

    These are the text's own ids. With a template they are the last one alone: what the model makes of a question that
    follows the text. A tokenizer that puts no marks itself, as a chat model's, gets its beginning-of-sequence token in
    front, if it has one.

    Args:
        texts: N; what comes after `LIMIT` tokens of one is not read.
        template: what is written before and after each text, markup of a chat included.

    Raises:
        ValueError: a text has no token, so that there is nothing to average.
    """
    options = {"return_special_tokens_mask": True, "truncation": True, "max_length": LIMIT, "padding": False}
    found = tokenizer(list(texts), **options) if texts else {"input_ids": [], "special_tokens_mask": []}
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in template or ("", ""))
    rows = []
    for text, ids, marks in zip(texts, found["input_ids"], found["special_tokens_mask"], strict=True):
        if not ids or all(marks):
            raise ValueError(f"The text {text!r} has no token to average over; leave it out.")
        front = [] if any(marks) or template or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        whole = [*front, *before, *ids, *after]
        own = [*[False] * len(front), *(not mark for mark in marks)]
        rows.append((whole, [False] * (len(whole) - 1) + [True] if template else own))
    return rows


def collate(rows: Sequence[Tokens], pad_id: int | None = 0) -> Encoded:
    """Rows of unequal length as one batch, padded on the right; any pad id will do, since masks hide it."""
    batch = pad([ids for ids, _ in rows], pad_id or 0, "right", [own for _, own in rows])
    assert batch.response_mask is not None  # masks were passed in
    return Encoded(batch.input_ids, batch.attention_mask, batch.response_mask)


def mean_over(states: Tensor, text_mask: Tensor) -> Tensor:
    """The mean state of each text: h̄ = Σ_t m_t h_t / Σ_t m_t, in float32 at least.

    Args:
        states: (B, T, D).
        text_mask: (B, T), m: True on the texts' own tokens, one a row at least.
    """
    weights = text_mask / text_mask.sum(dim=1, keepdim=True)  # (B, T)
    return (weights[:, None].to(at_least_float32(states)) @ at_least_float32(states)).squeeze(1)  # (B, D)


def embed_and_pool(trunk: PreTrainedModel, batch: Encoded, embeddings: Tensor) -> Tensor:
    """From input embeddings to features, differentiably: how noise on the words' vectors reaches the student.

    Args:
        trunk: of `lower_layers`, best with `eager=True` and in float32.
        batch: whose masks hold for the embeddings.
        embeddings: (B, T, E), of the trunk's own input embeddings, perturbed or not; cast to their dtype.

    Returns:
        (B, D), before any standardisation.

    Raises:
        ValueError: the embeddings do not fit the batch.
    """
    if embeddings.shape[:2] != batch.attention_mask.shape:
        raise ValueError(
            f"Embeddings {tuple(embeddings.shape)} need one vector per token: {tuple(batch.attention_mask.shape)}."
        )
    inputs = embeddings.to(trunk.dtype)  # (B, T, E)
    states = trunk(inputs_embeds=inputs, attention_mask=batch.attention_mask).last_hidden_state  # (B, T, D)
    return mean_over(states, batch.text_mask)  # (B, D)


@torch.no_grad()
def extract(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] | Sequence[Tokens],
    layer: int | Sequence[int], batch_size: int = 32, progress: bool = True,
) -> Tensor:  # fmt: skip
    """The features of texts: their mean states after one layer; (N, D), float32, on the CPU, in the order of the texts.

    Args:
        model, tokenizer: of `backbone` or `models.load`.
        texts: N, or N rows of `encode`.
        layer: as in `lower_layers`; several = their features side by side, (N, L·D).
        batch_size: texts at once, of similar length; up = faster to a point, and more memory.
        progress: show a bar with what is left.

    Raises:
        ValueError: as in `lower_layers` and `encode`.
    """
    layers = [layer] if isinstance(layer, int) else list(layer)
    trunk = lower_layers(model, max(layers))
    rows = [row for text in texts for row in ([text] if isinstance(text, tuple) else encode(tokenizer, [text]))]
    order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))
    found = torch.empty(len(rows), len(layers) * trunk.config.hidden_size)  # (N, L·D)
    with tqdm(total=len(rows), unit="text", desc="reading", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = collate([rows[number] for number in chosen], tokenizer.pad_token_id).to(trunk.device)
            states = _states(trunk, batch, layers)  # L of (B, T, D)
            means = [mean_over(state, batch.text_mask).float() for state in states]  # L of (B, D)
            found[chosen] = torch.cat(means, dim=1).cpu()  # (B, L·D)
            bar.update(len(chosen))
    return found


def _states(trunk: PreTrainedModel, batch: Encoded, layers: Sequence[int]) -> list[Tensor]:
    """What comes out of some layers, the trunk's last one among them; (B, T, D) each."""
    if len(layers) == 1:
        return [trunk(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state]
    found = trunk(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True).hidden_states
    return [found[layer] for layer in layers]
