"""What was trained for a model, in a folder: safetensors and JSON, and a card that says which model it belongs to.

    gate/          head and standardiser (safetensors), layer, threshold and settings (JSON)
    safeguarding/  adversarial/       soft prompts as peft's prompt-tuning adapters
    immunized/     a peft adapter, or a whole model as `save_pretrained` writes it

Nothing is pickled: reading a folder runs no code of whoever wrote it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..contrast import soft_prompts
from ..contrast.optimisation import Role
from ..distillation.features import Standardiser
from ..distillation.gate import Gate, reader
from ..distillation.student import Head
from .points import Answer, Point

CARD, HEAD = "card.json", "head.safetensors"
ROLES: tuple[Role, ...] = ("safeguarding", "adversarial")


@dataclass(frozen=True)
class Defences:
    """What the three methods made of one model.

    Attributes:
        gate: reads the undefended model.
        layer: after which it reads.
        prompts: role → soft prompt (P, D).
        student: the immunized model, or the model with an adapter.
    """

    gate: Gate
    layer: int
    prompts: Mapping[Role, torch.Tensor]
    student: PreTrainedModel | PeftModel


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tells a model from others: width, number of tokens, and hashes of the vocabulary and of the weights.

    Rounded to bfloat16, so that a model is known again in whatever precision it was loaded.
    """
    found: dict[str, Any] = soft_prompts._model_of(model, tokenizer)
    return found


def save(defences: Defences, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes everything into a folder, each part with the fingerprint of the model that it is for."""
    known = fingerprint(model, tokenizer)
    _save_gate(defences, folder / "gate", known)
    for role, prompt in defences.prompts.items():
        soft_prompts.save(prompt, folder / role, model, tokenizer, role=role)
    place = folder / "immunized"
    with models._bars(wanted=False):
        defences.student.save_pretrained(place)  # as safetensors: neither library writes anything else any more
    whole = not isinstance(defences.student, PeftModel)
    if whole:
        tokenizer.save_pretrained(place)
    (place / CARD).write_text(json.dumps({"model": known, "whole": whole}, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Defences:
    """Reads back what `save` wrote, for the model that it was made for.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: it belongs to another model, or is damaged.
    """
    known = fingerprint(model, tokenizer)
    gate, layer = _load_gate(folder / "gate", model, tokenizer, known)
    prompts = {role: soft_prompts.load(folder / role, model, tokenizer) for role in ROLES}
    card, place = _card(folder / "immunized", known), folder / "immunized"
    student: PreTrainedModel | PeftModel
    if card["whole"]:
        student = models.load(place, model.device, model.dtype)[0]
    else:
        student = PeftModel.from_pretrained(copy.deepcopy(model), str(place)).eval()
    return Defences(gate, layer, prompts, student)


def _save_gate(defences: Defences, folder: Path, known: Mapping[str, Any]) -> None:
    gate, head = defences.gate, defences.gate.head
    if not isinstance(head, Head) or head.first is not None:
        raise ValueError("Only a gate with a linear head is kept: train it with hidden=None, as the defaults do.")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {**head.state_dict(), "centre": gate.standardiser.centre, "scale": gate.standardiser.scale}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / HEAD)
    card = {"model": known, "layer": defences.layer, "threshold": gate.threshold}
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _load_gate(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, known: Mapping[str, Any]
) -> tuple[Gate, int]:  # fmt: skip
    card = _card(folder, known)
    tensors = load_file(folder / HEAD)
    scaled = Standardiser(tensors.pop("centre"), tensors.pop("scale"))
    head = Head(len(scaled.centre), 2)
    head.load_state_dict(tensors)
    read = reader(model, tokenizer, card["layer"])
    return Gate(read, scaled, head.eval().requires_grad_(False), card["threshold"]), card["layer"]


def _card(folder: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a part, after a look at whom it belongs to."""
    file = folder / CARD
    if not file.is_file():
        raise FileNotFoundError(f"There is nothing in {folder}: {CARD} is missing; train it, or name another folder.")
    card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name, value in known.items() if card["model"].get(name) != value]
    if other:
        raise ValueError(
            f"What lies in {folder} was made for another model (its {', '.join(other)} differ): train it for this one."
        )
    return card


# ---------------------------------------------------------------- points


def save_point(point: Point, file: Path) -> None:
    """Writes a point as JSON: of every request what it was and what became of it, and no answer's text."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = {"name": point.name, "family": point.family, "cost": dict(point.cost), "settings": dict(point.settings)}
    answers = {request: [asdict(one) for one in said] for request, said in point.answers.items()}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({**fields, "answers": answers}), encoding="utf-8")
    partial.replace(file)


def load_point(file: Path) -> Point:
    """A point that `save_point` wrote."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    answers = {request: tuple(Answer(**one) for one in said) for request, said in fields.pop("answers").items()}
    return Point(answers=answers, **fields)
