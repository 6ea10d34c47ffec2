"""SmolLM2's opposite prompts by the kit's recipe: safeguarding ones are shipped, adversarial ones trained where needed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import fetching, models
from ..studies.cards import data_hash
from ..training import History
from .anchors import english
from .optimisation import Anchor, Optimisation, Role, optimise
from .recipes import SMOLLM2, Recipe
from .soft_prompts import CARD, initial, load, save

SEEDS = (0, 1, 2)


@cache
def real_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2 in bfloat16, in which it answers more than twice as fast on many processors; kept, since studies share it."""
    model, tokenizer = models.load(models.SMOLLM2, dtype=torch.bfloat16)
    model.set_attn_implementation("eager")  # the faster one here, with short rows
    return model, tokenizer


def folder(role: Role, seed: int) -> Path:
    """Where a prompt is kept: in the kit's data where it is shipped, else in the cache folder."""
    if role == "safeguarding":
        return fetching.data_folder() / "prompts" / f"smollm2-{seed}"
    return _cached(role, seed) / "prompt"


def _cached(role: Role, seed: int) -> Path:
    """A folder of the cache for each recipe and each state of the training requests."""
    said = json.dumps([role, seed, asdict(SMOLLM2[role]), data_hash(["english"])], sort_keys=True)
    return fetching.cache_folder() / "smollm2" / hashlib.sha256(said.encode()).hexdigest()[:16]


def prompt(role: Role, seed: int) -> Tensor:
    """The prompt (P, D) of a seed, as it is kept; else it is trained first, which takes minutes and goes on where it stopped."""
    model, tokenizer = real_model()
    if not (folder(role, seed) / CARD).is_file():
        make(role, seed)
    return load(folder(role, seed), model, tokenizer)


def make(role: Role, seed: int) -> None:
    """Trains a prompt by the recipe and keeps it, with a card of how it was made."""
    (model, tokenizer), recipe, run = real_model(), SMOLLM2[role], _cached(role, seed) / "run"
    trained, history = train_on(training_anchors(), role, recipe, seed, run)
    terms = {name: round(value, 4) for name, value in history.rows[-1]["terms"].items()}
    said = {"role": role, "seed": seed, "recipe": asdict(recipe), "anchors": len(training_anchors())}
    save(trained, folder(role, seed), model, tokenizer, **said, last_terms=terms)
    shutil.rmtree(run)  # else the run would be read back, and not made anew, when it is wanted anew


def train_on(anchors: Sequence[Anchor], role: Role, recipe: Recipe, seed: int, run: Path) -> tuple[Tensor, History]:
    """A prompt (P, D) of SmolLM2 by any recipe and anchors, and how it went; stopped, it goes on from the folder `run`."""
    model, tokenizer = real_model()
    step = Optimisation(
        model, tokenizer, anchors, role, recipe.per_step, recipe.objective, rows_at_once=recipe.rows_at_once
    )  # fmt: skip
    start = initial(model, tokenizer, recipe.text, recipe.length)  # (P, D)
    return optimise(step, start, replace(recipe.plan(seed), checkpoint_every=25), folder=run)


@cache
def training_anchors() -> list[Anchor]:
    """All training requests with the model's own answers, kept in the cache folder, since asking takes minutes."""
    file = fetching.cache_folder() / "smollm2" / f"anchors-{data_hash(['english'])[:16]}.json"
    found = fetching.remembered(file, lambda: [asdict(one) for one in english(*real_model())])
    return [Anchor(**fields) for fields in found]


def rebuild() -> None:
    """Trains the prompts of all seeds anew: the shipped ones into the kit's data, the others into the cache folder."""
    for seed in SEEDS:
        for role in SMOLLM2:
            make(role, seed)
