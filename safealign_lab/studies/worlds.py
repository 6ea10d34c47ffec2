"""Tiny models beside the shipped one, each pretrained once: of other alchemy worlds, and of whatever recipe a study has."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..alchemy import pretraining
from ..alchemy.world import World, world
from ..fetching import cache_folder
from .cards import code_hash


def settled(seed: int = 0, progress: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, World]:
    """A world and the tiny model of it: the shipped one for seed 0, else one pretrained once and kept in the cache folder.

    Stopped, a pretraining goes on where it was; a change of recipe or code begins another one.

    Args:
        seed: of the world and of its model.
        progress: show a bar while it is pretrained, which takes some minutes.
    """
    if seed == 0:
        model, words = models.load("tiny", device="cpu")
        return model, words, world()
    model, words = kept(
        "world",
        [pretraining.TINY, asdict(pretraining.TINY_PLAN), seed],
        lambda checkpoints: pretraining.pretrain(seed, seed, progress, checkpoints),
    )
    return model, words, world(seed)


def kept(
    name: str, recipe: list[Any], make: Callable[[Path], tuple[PreTrainedModel, PreTrainedTokenizerBase]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A tiny model that is made once and kept in the cache folder; a change of recipe or code makes another one.

    A second process waits, and reads what the first one made.

    Args:
        name: what the folder's name says of it.
        recipe: all that decides how it comes out, as JSON has it; the code of pretraining counts as well.
        make: a folder for checkpoints → (model, tokenizer).
    """
    said = json.dumps([*recipe, code_hash("safealign_lab.alchemy.pretraining:fit")], sort_keys=True)
    folder = cache_folder() / "models" / f"tiny-{name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            checkpoints = folder.with_name(f"{folder.name}.training")
            model, words = make(checkpoints)
            pretraining.save(model, words, folder)
            shutil.rmtree(checkpoints)
    return models.load(folder, device="cpu")
