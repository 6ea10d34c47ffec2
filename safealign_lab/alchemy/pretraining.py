"""Builds every shipped weight of the alchemy world: the tiny model, and the larger teacher of its short texts.

Symbols: B rows, T tokens, V vocabulary, D hidden size, N response tokens in a batch.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from .. import chat
from ..training import Plan, train
from . import sentiment, tokenizer, voices
from .world import World, world

Row = tuple[list[int], list[bool]]  # token ids, and which of them are to be predicted

TINY = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4}
TEACHER = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 6}
TINY_PLAN = Plan(
    steps=2000,
    learning_rate=3e-3,
    schedule="linear",
    warmup=50,
    floor=0.02,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    checkpoint_every=200,
)
TEACHER_PLAN = replace(TINY_PLAN, steps=700, learning_rate=2e-3)
BATCH = 64
CONVERSATIONS = 40_000
TEXTS_PER_DOMAIN = 1_500
TEACHER_TEXTS_PER_DOMAIN = 6_000
UNKNOWN_SHARE = 0.1  # of conversations have one unknown word put in, so that `<unk>` means something


def new_model(words: PreTrainedTokenizerFast, shape: dict[str, int], seed: int) -> LlamaForCausalLM:
    """A Llama with random weights for the world's vocabulary, the embedding tied to the output."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        num_key_value_heads=shape["num_attention_heads"],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        **shape,
    )
    return LlamaForCausalLM(config)


def conversation_rows(words: PreTrainedTokenizerFast, of: World, count: int, seed: int | str) -> list[Row]:
    """Conversations of pretraining as token ids, their answers to be predicted."""
    rng = random.Random(f"conversations-{seed}")
    rows = []
    for _ in range(count):
        system, request, answer = voices.conversation(of, rng)
        ids, mask = chat.encode_with_mask(words, chat.conversation(request, system=system, answer=answer))
        if rng.random() < UNKNOWN_SHARE:
            place = rng.randint(len(ids) - sum(mask) - 3, len(ids) - sum(mask) - 2)  # within the request's last words
            ids, mask = [*ids[:place], words.unk_token_id, *ids[place:]], [*mask[:place], False, *mask[place:]]
        rows.append((ids, mask))
    return rows


def text_rows(words: PreTrainedTokenizerFast, count: int, seed: int | str, labelled: bool) -> list[Row]:
    """Short texts of every domain as plain language; where `labelled`, as a question with the writer's mood as the answer."""
    texts = [text for domain in sentiment.DOMAINS for text in sentiment.texts(domain, count, seed, balanced=False)]
    if labelled:
        asked = [chat.conversation(text.text, answer=sentiment.LABELS[text.label]) for text in texts]
        return [chat.encode_with_mask(words, messages) for messages in asked]
    ends = [
        words.encode(f"{words.bos_token} {text.text} {words.eos_token}", add_special_tokens=False) for text in texts
    ]
    return [(ids, [False] + [True] * (len(ids) - 1)) for ids in ends]


def next_token_loss(model: PreTrainedModel, rows: Sequence[Row], pad_id: int) -> torch.Tensor:
    """Mean negative log-likelihood of the tokens to be predicted; only their logits are computed."""
    batch = chat.pad([ids for ids, _ in rows], pad_id, side="right", response_masks=[mask for _, mask in rows])
    hidden = model.base_model(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state  # (B, T, D)
    assert batch.response_mask is not None  # masks were passed in
    wanted = batch.response_mask[:, 1:]  # (B, T-1)
    logits = model.get_output_embeddings()(hidden[:, :-1][wanted])  # (N, V)
    return F.cross_entropy(logits, batch.input_ids[:, 1:][wanted])


def fit(
    model: PreTrainedModel,
    rows: Sequence[Row],
    plan: Plan,
    pad_id: int,
    progress: bool = True,
    folder: Path | None = None,
) -> None:
    """Trains all weights of the model on rows drawn at random, BATCH at a step."""

    def _batch_loss(step: int, generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(rows), (BATCH,), generator=generator).tolist()  # (B,)
        return next_token_loss(model, [rows[i] for i in chosen], pad_id)

    model.train()
    train(dict(model.named_parameters()), _batch_loss, plan, progress=progress, folder=folder)
    model.eval()


def pretrain(seed: int = 0, world_seed: int = 0, progress: bool = True, folder: Path | None = None) -> Any:
    """The tiny model: (model, tokenizer), trained on conversations with every voice and on unlabelled short texts."""
    words = tokenizer.build()
    rows = conversation_rows(words, world(world_seed), CONVERSATIONS, seed)
    rows += text_rows(words, TEXTS_PER_DOMAIN, f"pretraining-{seed}", labelled=False)
    model = new_model(words, TINY, seed)
    fit(model, rows, replace(TINY_PLAN, seed=seed), words.pad_token_id, progress, folder)
    return model, words


def train_teacher(seed: int = 0, progress: bool = True, folder: Path | None = None) -> Any:
    """The larger teacher of the short texts: (model, tokenizer). Asked with a text, it answers "pleased" or "displeased"."""
    words = tokenizer.build()
    rows = text_rows(words, TEACHER_TEXTS_PER_DOMAIN, f"teacher-{seed}", labelled=True)
    model = new_model(words, TEACHER, seed)
    fit(model, rows, replace(TEACHER_PLAN, seed=seed), words.pad_token_id, progress, folder)
    return model, words


def save(model: PreTrainedModel, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes weights (safetensors, half precision) and tokenizer beside their place, then moves them in at once."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.float16).save_pretrained(partial, safe_serialization=True)
    words.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def rebuild(folder: Path, progress: bool = True) -> None:
    """Builds every shipped weight from nothing but the code: `tiny` and `tiny-teacher`, in the given folder.

    Interrupted, it goes on where it was when it is called again.
    """
    for name, build in (("tiny", pretrain), ("tiny-teacher", train_teacher)):
        checkpoints = folder / f"{name}.training"
        model, words = build(progress=progress, folder=checkpoints)
        save(model, words, folder / name)
        shutil.rmtree(checkpoints, ignore_errors=True)
