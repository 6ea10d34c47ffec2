"""What the probe reads: a small model's hidden states over a request and its response, and a few counts of words.

Symbols: N pairs of request and response, B of them in a batch, T tokens, D hidden, L layers that are read.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, conversation, encode, encode_with_mask, pad

LAYERS = (8, 12, 16, 20)  # of 30; what lies above the last does not run
REQUEST_TOKENS, RESPONSE_TOKENS = 200, 64
BEGINNING = 8  # tokens of a response that are averaged on their own as well: most refusals show there


@dataclass(frozen=True)
class Reading:
    """Mean hidden states of N pairs, each (N, L, D), and the words' counts (N, 6).

    Attributes:
        asked: over the request's tokens.
        said: over the response's.
        begun: over the response's first eight.
        counts: of `word_counts`.
    """

    asked: Tensor
    said: Tensor
    begun: Tensor
    counts: Tensor

    def centre(self) -> Tensor:
        """The mean state in each layer; (L, D)."""
        return (self.asked + self.said).mean(dim=0) / 2  # (L, D)

    def features(self, centre: Tensor) -> Tensor:
        """The probe's inputs; (N, 2 D + L + 6).

        The deepest layer's means over the response and over its beginning; in each layer the cosine between request and
        response, which says whether the one is about the other; and the counts of words.

        Args:
            centre: (L, D), subtracted before the cosines, since all hidden states share one large direction.
        """
        near = F.cosine_similarity(self.asked - centre, self.said - centre, dim=-1)  # (N, L)
        return torch.cat([self.said[:, -1], self.begun[:, -1], near, self.counts], dim=1)  # (N, 2D+L+6)


def read(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], requests: Sequence[str],
    batch_size: int = 16, progress: bool = False,
) -> Reading:  # fmt: skip
    """Runs the lower layers of a model over each request and its response.

    Args:
        responses, requests: N texts each; what comes after 64 and 200 tokens is not read.
        batch_size: pairs per batch; larger is faster and takes more memory.
        progress: True shows how many pairs are left.
    """
    trunk = copy.copy(model.base_model)  # shares the weights; only the number of layers that run is its own
    trunk.config = copy.copy(model.config)
    trunk.config.num_hidden_layers = LAYERS[-1]
    cut = [_cut(tokenizer, text, RESPONSE_TOKENS) for text in responses]
    asked = [_cut(tokenizer, text, REQUEST_TOKENS) for text in requests]
    order = sorted(range(len(cut)), key=lambda index: -len(cut[index]) - len(asked[index]))
    found: dict[int, tuple[Tensor, ...]] = {}
    with tqdm(total=len(order), unit="answer", desc="reading", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            means = _means(trunk, tokenizer, [cut[n] for n in chosen], [asked[n] for n in chosen])
            found.update(zip(chosen, means, strict=True))
            bar.update(len(chosen))
    said, begun, request = (torch.stack([found[n][part] for n in range(len(cut))]) for part in range(3))  # (N, L, D)
    counts = torch.tensor([word_counts(one, other) for one, other in zip(cut, asked, strict=True)])  # (N, 6)
    return Reading(request, said, begun, counts)


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, limit: int) -> str:
    """The text's first tokens; an empty one as dots, since a mean over no token does not exist."""
    ids = tokenizer.encode(text.strip(), add_special_tokens=False)
    return (text if len(ids) <= limit else tokenizer.decode(ids[:limit])).strip() or "..."


@torch.inference_mode()
def _means(
    trunk: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], requests: Sequence[str]
) -> list[tuple[Tensor, ...]]:
    """For each pair the means over the response, its beginning and the request; (L, D) each."""
    encoded = [encode_with_mask(tokenizer, conversation(q, "", a)) for q, a in zip(requests, responses, strict=True)]
    header = len(encode(tokenizer, [{"role": "system", "content": ""}], for_answer=False))
    batch = pad([ids for ids, _ in encoded], 0, "right", [mask for _, mask in encoded]).to(trunk.device)
    layers = _states(trunk, batch)  # (B, T, L, D)
    found: list[tuple[Tensor, ...]] = []
    for row, (_, mask) in zip(layers, encoded, strict=True):
        first, last = mask.index(True), len(mask) - 1 - mask[::-1].index(True)  # the last is the end-of-turn token
        response = row[first : max(first + 1, last)]  # (T', L, D)
        found.append((response.mean(dim=0), response[:BEGINNING].mean(dim=0), row[header:first].mean(dim=0)))  # (L, D)
    return found


def _states(trunk: PreTrainedModel, batch: Batch) -> Tensor:
    """What comes out of each layer in `LAYERS`, the last one normalised; (B, T, L, D).

    Hooks of our own: `output_hidden_states` installs its own on the layers, which the copied trunk shares with the model.
    """
    seen: dict[int, Tensor] = {}
    hooks = [
        trunk.layers[layer - 1].register_forward_hook(lambda _, __, out, layer=layer: seen.update({layer: _first(out)}))
        for layer in LAYERS[:-1]
    ]
    try:
        last = trunk(**batch.inputs(), use_cache=False).last_hidden_state  # (B, T, D)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([*(seen[layer] for layer in LAYERS[:-1]), last], dim=2).float().cpu()  # (B, T, L, D)


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A layer's hidden states, whether it returns them alone or with more."""
    return output if isinstance(output, Tensor) else output[0]


def word_counts(response: str, request: str) -> tuple[float, ...]:
    """Six counts that show a loop, an echo or a salad of words.

    The largest share of words that equal the word 1 to 12 places before; the share of different ones among the pairs of
    neighbours; the share of the response's telling words that the request has, and of the request's that the response
    has; the share of common words; the logarithm of the number of words plus one.
    """
    words, other = (re.findall(r"[^\W_]+", text.lower()) for text in (response, request))
    telling, asked = ({word for word in some if word not in ENGLISH_STOP_WORDS} for some in (words, other))
    n = max(1, len(words))
    pairs = list(pairwise(words))
    return (
        max(sum(map(str.__eq__, words, words[lag:])) / n for lag in range(1, 13)),
        len(set(pairs)) / max(1, len(pairs)),
        len(telling & asked) / max(1, len(telling)),
        len(telling & asked) / max(1, len(asked)),
        sum(word in ENGLISH_STOP_WORDS for word in words) / n,
        math.log(len(words) + 1),
    )
