"""Studies of lesson 12 on noise that no student met: slips in the text itself, and attacks on the vectors of its words.

Symbols: B texts in a batch, T tokens, D numbers in a feature vector, C = 2 classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..data.sentiment import FILES
from ..studies.runner import Study
from . import attacks, features, quality
from .perturbations import Perturbation, mean_norm, random_control
from .real_task import Part, real_task
from .student import Head, Settings, baselines, train_student
from .studies import SCHEDULES, SEEDS
from .text_noise import KINDS, noisy
from .trunk import Encoded, collate, embed_and_pool, encode, lower_layers

EACH = 300  # test texts a domain that are written again with slips
RATE = 0.3  # of their words
WITHSTANDING = ("hard labels", "KD alone", "KD + random noise", "KD + adversarial", "printed + adversarial")
EMBEDDED = {"minilm": 100, models.SMOLLM2: 50}  # test texts a domain that are attacked through the backbone
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH = 25


def measure_text_noise(seed: int, noise: str, way: str, schedule: str) -> dict[str, Any]:
    """How many texts a student gets right when three tenths of the words have slips in them.

    Args:
        noise: one of `text_noise.KINDS`, or "none".
        way: a name of `student.baselines`.
        schedule: a key of `studies.SCHEDULES`.
    """
    task, chosen = real_task(), _first(real_task().test, EACH)
    inputs = task.test.features[chosen] if noise == "none" else task.standardiser(_rewritten(noise))  # (N, D)
    head = _head(models.SMOLLM2, way, schedule, seed)
    with torch.no_grad():
        logits = head(inputs)  # (N, C)
    return {"accuracy": quality.accuracy(logits, task.test.labels[chosen]).to_json()}


@cache
def _rewritten(kind: str) -> Tensor:
    part = real_task().test
    texts = [part.texts[n] for n in _first(part, EACH)]
    return features.read(models.SMOLLM2, [noisy(one, kind, RATE, random.Random(f"{kind} {one}")) for one in texts])


def measure_embeddings(seed: int, backbone: str, way: str, epsilon: float, dtype: str) -> dict[str, Any]:
    """How many texts a student gets right when the vectors of their words are attacked, through the frozen backbone.

    Args:
        backbone: a key of `EMBEDDED`.
        way: a name of `student.baselines`; none of them met such noise.
        epsilon: ε, relative to the mean norm of a word's vector, in L2 for each word.
        dtype: a key of `DTYPES`, in which the backbone runs and is differentiated.
    """
    task, head = real_task(backbone), _head(backbone, way, "full", seed)
    trunk, tokenizer = _trunk(backbone, DTYPES[dtype])
    chosen, found = _first(task.test, EMBEDDED[backbone]), []
    table = trunk.get_input_embeddings()
    scale = _word_norm(backbone)
    for start in range(0, len(chosen), BATCH):
        some = chosen[start : start + BATCH]
        batch = collate(encode(tokenizer, [task.test.texts[n] for n in some]), tokenizer.pad_token_id)
        words = table(batch.input_ids).float()  # (B, T, E)
        classify = _through(trunk, batch, lambda pooled: head(task.standardiser(pooled)))
        how = Perturbation("pgd", "l2", epsilon, steps=10)
        labels = task.test.labels[some]  # (B,)
        attacked = attacks.attack(classify, words, labels, how, scale, mask=batch.text_mask, seed=seed)
        beside = random_control(attacked.delta, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            shares = [(classify(words + noise).argmax(-1) == labels) for noise in (torch.zeros_like(words), beside)]
        found.append(torch.stack([shares[0], attacked.held, shares[1]]))  # (3, B)
    right = torch.cat(found, dim=1)  # (3, N)
    names = ("clean", "attacked", "random")
    return {"n": right.shape[1], **{name: int(row.sum()) for name, row in zip(names, right, strict=True)}}


def _through(trunk: PreTrainedModel, batch: Encoded, head: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """From the vectors of a batch's words to logits (B, C)."""
    return lambda words: head(embed_and_pool(trunk, batch, words))


@cache
def _trunk(backbone: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = features.backbone(backbone, dtype)
    return lower_layers(model, features.LAYERS[backbone]), tokenizer


@cache
def _word_norm(backbone: str) -> float:
    """The mean norm of the words' vectors over the training texts."""
    trunk, tokenizer = _trunk(backbone, torch.float32)
    batch = collate(encode(tokenizer, real_task(backbone).train.texts), tokenizer.pad_token_id)
    return mean_norm(trunk.get_input_embeddings()(batch.input_ids), batch.text_mask)


@cache
def _head(backbone: str, way: str, schedule: str, seed: int) -> Head:
    part, (steps, rate) = real_task(backbone).train, SCHEDULES[schedule]
    settings = baselines(Settings(steps=steps, learning_rate=rate))[way]
    return train_student(part.features, part.labels, part.teacher_logits, settings, seed, progress=False)[0]


def _first(part: Part, each: int) -> list[int]:
    """The numbers of the first texts of each domain."""
    return [n for name in FILES for n in part.of_domain(name).nonzero().flatten()[:each].tolist()]


def _grid(backbone: str, ways: Sequence[str], radii: Sequence[float], dtypes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"backbone": backbone, "way": way, "epsilon": epsilon, "dtype": dtype}
        for way in ways for epsilon in radii for dtype in dtypes
    ]  # fmt: skip


STUDIES = (
    Study(
        name="sentiment_text_noise", run="safealign_lab.distillation.noise_studies:measure_text_noise",
        grid={"noise": ["none", *KINDS], "way": list(WITHSTANDING), "schedule": list(SCHEDULES)}, seeds=SEEDS, minutes=15,
        about="Students on SmolLM2's features of texts with slips that no training saw.",
    ),
    Study(
        name="sentiment_embeddings", run="safealign_lab.distillation.noise_studies:measure_embeddings",
        grid=[
            *_grid("minilm", ("KD alone", "KD + random noise", "KD + adversarial"), (0.01, 0.05), ("float32",)),
            *_grid(models.SMOLLM2, ("KD alone", "KD + adversarial"), (0.01,), ("float32", "bfloat16")),
        ],
        seeds=(0,), minutes=60,
        about="Students attacked through the frozen backbone, on the vectors of the words; in two precisions.",
    ),
)  # fmt: skip
