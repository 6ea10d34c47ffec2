"""How much memory a model will take, worked out from its configuration before a single weight is loaded.

A model is drawn on torch's "meta" device: all shapes are there, and no numbers.

Symbols: N weights, n trained numbers, B rows, T tokens, L layers, D hidden size, V vocabulary, r rank, P length of a soft prompt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from .. import models
from ..chat import conversation, encode
from ..generation import Prompt

Way = Literal["answering", "contrast", "gate", "prompts", "low rank", "all weights"]
WAYS: tuple[Way, ...] = get_args(Way)
SINGLE = 4  # bytes of a number in float32, in which prompts, adapters and scores are kept
PER_TOKEN = 17  # numbers of a layer that a backward pass needs of each token and hidden unit, about. source: ours


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        weights: of the model, and of the copies that a method holds beside it.
        gradients, adam: of what is trained; AdamW keeps two numbers for each.
        watched: what the cycle keeps besides: a score for each trained number, and the number itself while it is attacked.
        cache: keys and values of a batch at its end.
        activations: what a backward pass needs of a batch; an estimate, right within a factor of two or so.
    """

    weights: int
    gradients: int = 0
    adam: int = 0
    watched: int = 0
    cache: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(vars(self).values())


def sketch(name: str | Path | PretrainedConfig) -> PreTrainedModel:
    """A model without numbers, on the device "meta": of a hub id only the configuration is fetched.

    Args:
        name: as in `models.load`, or a configuration.

    Raises:
        FileNotFoundError, fetching.FetchError: as in `models.load`.
    """
    if not isinstance(name, PretrainedConfig):
        source = models.prepare(name)
        with models._reading(source):
            name = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(name)


def weights(model: PreTrainedModel) -> int:
    """N: how many numbers a model has, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


def trained(model: PreTrainedModel, way: Way, rank: int = 8, length: int = 32) -> int:
    """n: how many numbers a method trains.

    Args:
        model: with or without numbers.
        way: "prompts" trains P · D, "low rank" r · (inputs + outputs) of each layer but the output, "all weights" all but the
            embedding and the output, the others none.
        rank: r.
        length: P.
    """
    ends = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    if way == "prompts":
        return length * int(model.get_input_embeddings().embedding_dim)
    if way == "all weights":
        return sum(weight.numel() for weight in model.parameters() if id(weight) not in ends)
    if way == "low rank":
        layers = [one for one in model.modules() if isinstance(one, (nn.Linear, Conv1D)) and id(one.weight) not in ends]
        return sum(rank * sum(layer.weight.shape) for layer in layers)
    return 0


def cache(model: PreTrainedModel, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of B rows of T tokens: 2 · L · B · T · heads of keys · width of a head · bytes of a number."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * rows * tokens * heads * width * dtype.itemsize)


def of_streams(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], texts: Sequence[str], new_tokens: int
) -> int:  # fmt: skip
    """Bytes of the weights, of soft prompts, and of the keys and values of a batch at the end of its longest answers.

    Args:
        prompts: one for each stream, a system text or vectors (P, D).
        texts: the requests of the batch.
        new_tokens: of an answer; up = more keys and values.
    """
    held, tokens = weights(model), 0
    for prompt in prompts:
        length, system = (len(prompt), "") if isinstance(prompt, Tensor) else (0, prompt)
        tokens += sum(len(encode(tokenizer, conversation(text, system))) + length + new_tokens for text in texts)
        held += prompt.numel() if isinstance(prompt, Tensor) else 0
    return int(held * model.dtype.itemsize + cache(model, 1, tokens, model.dtype))


def estimate(
    model: PreTrainedModel, way: Way, dtype: torch.dtype, rows: int = 16, tokens: int = 100, rank: int = 8, length: int = 32
) -> Memory:  # fmt: skip
    """What a method takes at its largest moment.

    Args:
        model: of `sketch`, or a real one.
        way: "answering" alone, "contrast" (two streams), or what is trained. The cycle ("low rank", "all weights") holds the
            model, its student and a copy for the teachers.
        dtype: of the weights; half as long = half of it, and coarser steps where they are trained.
        rows: B of a batch; up = more cache and activations.
        tokens: T of a row.
        rank, length: as in `trained`.
    """
    number, n = weights(model), trained(model, way, rank, length)
    streams = {"contrast": 2}.get(way, 1)
    if way in ("answering", "contrast", "gate"):
        return Memory(number * dtype.itemsize, cache=cache(model, streams * rows, tokens, dtype))
    size = dtype.itemsize if way == "all weights" else SINGLE
    cycle = way != "prompts"
    return Memory(
        weights=(3 if cycle else 1) * number * dtype.itemsize + (0 if way == "all weights" else n * size),
        gradients=n * size, adam=2 * n * size, watched=n * (SINGLE + size) if cycle else 0,
        activations=_activations(model, rows, tokens, dtype),
    )  # fmt: skip


def _activations(model: PreTrainedModel, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Of every layer, and the logits in float32 with their gradient; both sides of a preference are read at a step."""
    config = model.config
    inner = PER_TOKEN * config.num_hidden_layers * config.hidden_size * dtype.itemsize
    return int(rows * tokens * (inner + 2 * config.vocab_size * SINGLE))


def free(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where this cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that computes in it (a T4 does not), else float32; float16 overflows where one trains."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    return torch.float32
