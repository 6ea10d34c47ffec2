"""The kit's judge of real English: a linear probe on the hidden states of a frozen SmolLM2.

Legend: N answers, F features, K = 3 labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..alchemy.grader import Label
from ..fetching import data_folder
from . import features
from .base import LABELS, Judge, check_pairs

FILE, CARD = "probe.safetensors", "card.json"
SHAPES = {"centre": 2, "mean": 1, "scale": 1, "weight": 2, "bias": 1}  # dimensions of each stored tensor


@dataclass(frozen=True)
class ProbeJudge(Judge):
    """Labels an answer by where its hidden states lie: logits = W ((features - mean) / scale) + b, softmax, largest wins.

    The model that reads has to be the undefended SmolLM2, whatever model gave the answers: its weights define the
    features. An answer without a letter or a digit is incoherent and is not read. `card` says what the probe was fitted
    on, and how it agreed with people on answers that it had not seen.

    Args:
        model, tokenizer: SmolLM2-135M-Instruct as `models.load` returns it.
        tensors: `centre` (L, D), `mean` and `scale` (F,), `weight` (K, F), `bias` (K,).
        card: the probe's origin and its measured error.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tensors: Mapping[str, Tensor]
    card: Mapping[str, Any]

    def labels(self, responses: Sequence[str], requests: Sequence[str] | None = None) -> list[Label]:
        """The labels of responses, each read after its request; without requests after an empty one, which costs accuracy."""
        check_pairs(responses, requests)
        readable = [number for number, text in enumerate(responses) if re.search(r"[^\W_]", text)]
        found: list[Label] = ["incoherent"] * len(responses)
        if readable:
            asked = [requests[number] if requests else "" for number in readable]
            most = self.probabilities([responses[number] for number in readable], asked).argmax(dim=1)  # (N,)
            for number, label in zip(readable, most.tolist(), strict=True):
                found[number] = LABELS[label]
        return found

    def probabilities(self, responses: Sequence[str], requests: Sequence[str]) -> Tensor:
        """How sure the probe is of each label, in the order of `LABELS`; (N, K), rows sum to 1."""
        reading = features.read(self.model, self.tokenizer, responses, requests)
        inputs = (reading.features(self.tensors["centre"]) - self.tensors["mean"]) / self.tensors["scale"]  # (N, F)
        return torch.softmax(inputs @ self.tensors["weight"].T + self.tensors["bias"], dim=1)  # (N, K)

    @classmethod
    def load(cls, folder: Path | None = None) -> ProbeJudge:
        """The probe that comes with the kit, or one out of another folder, with the SmolLM2 that reads for it.

        Raises:
            FileNotFoundError: a file of the probe is missing.
            ValueError: its file is not a probe.
            fetching.FetchError: SmolLM2 is not in the cache and cannot be fetched.
        """
        folder = folder or data_folder() / "models" / "judge"
        for name in (FILE, CARD):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"The probe's {name} is not in {folder}: get it with a fresh clone, or fit it again."
                )
        try:
            tensors = load_file(folder / FILE)
        except SafetensorError as error:
            raise ValueError(
                f"{folder / FILE} is not a safetensors file ({error}): get it with a fresh clone."
            ) from error
        if {name: tensor.dim() for name, tensor in tensors.items()} != SHAPES:
            raise ValueError(f"{folder / FILE} is not a probe: expected the tensors {', '.join(SHAPES)}; fit it again.")
        return cls(*models.load(models.SMOLLM2), tensors, json.loads((folder / CARD).read_text(encoding="utf-8")))

    def save(self, folder: Path) -> None:
        """Writes the probe as safetensors and its card as JSON; the model that reads is not part of it."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self.tensors), folder / FILE)
        (folder / CARD).write_text(json.dumps(dict(self.card), indent=1) + "\n", encoding="utf-8")
