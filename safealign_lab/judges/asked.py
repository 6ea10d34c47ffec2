"""SmolLM2's answers under several prompts, contrasts and openings: the ones that were labelled, made anew.

An answer of a real model to a harmful request is never stored; its label, its first eight tokens and its SHA-256 are.
So the answers are decoded again, greedily, and a label counts only where the answer is the one that was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.labelled import Reading
from ..fetching import data_folder
from ..generation import answer
from ..objectives import combine

NEW_TOKENS = 28
FILE = "judge/conditions.json"


@dataclass(frozen=True)
class Condition:
    """How a model is asked: under `system`, minus `alpha` times the logits under `against`, its answer begun by `opening`."""

    system: str | None = None
    against: str | None = None
    alpha: float = 0.0
    opening: str = ""

    def options(self) -> dict[str, Any]:
        """What `generation.answer` needs; with a larger `alpha` the answers first refuse more, and then fall apart."""
        one = {"system": self.system, "opening": self.opening, "max_new_tokens": NEW_TOKENS}
        if self.against is None:
            return one
        return one | {"others": [self.against], "score": partial(combine, weights=torch.tensor([1.0, -self.alpha]))}


def conditions() -> dict[tuple[str, str], Condition]:
    """Every condition by part and name; no two parts share a prompt, except for the model's own."""
    stored = json.loads((data_folder() / FILE).read_text(encoding="utf-8"))
    texts = {None: None, **stored["systems"]}
    return {
        (part, name): Condition(
            texts[row.get("system")], texts[row.get("against")], row.get("alpha", 0.0), row.get("opening", "")
        )
        for part, rows in stored["conditions"].items() for name, row in rows.items()
    }  # fmt: skip


def again(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Reading], requests: Mapping[str, str]
) -> Iterator[tuple[Reading, str]]:
    """The labelled rows whose answer comes out as it was when it was read, each with that answer.

    Args:
        rows: of `data.labelled.smollm2`; the rows of one part and condition share their batches.
        requests: from the id of a request to its text.
    """
    known = conditions()
    groups: dict[tuple[str, str], list[Reading]] = {}
    for row in rows:
        groups.setdefault((row["part"], row["condition"]), []).append(row)
    for key, members in tqdm(groups.items(), unit="condition", desc="answering anew"):
        texts = answer(model, tokenizer, [requests[row["request"]] for row in members], **known[key].options())
        for row, text in zip(members, texts, strict=True):
            if hashlib.sha256(text.encode()).hexdigest() == row["sha256"]:
                yield row, text
