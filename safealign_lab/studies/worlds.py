"""More than one alchemy world: each seed has its own facts, its own split of the nouns, and a tiny model that knows them."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict

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
    recipe = [pretraining.TINY, asdict(pretraining.TINY_PLAN), seed, code_hash("safealign_lab.alchemy.pretraining:fit")]
    fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "models" / f"tiny-world-{fingerprint}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            checkpoints = folder.with_name(f"{folder.name}.training")
            model, words = pretraining.pretrain(seed, seed, progress, checkpoints)
            pretraining.save(model, words, folder)
            shutil.rmtree(checkpoints)
    model, words = models.load(folder, device="cpu")
    return model, words, world(seed)
