"""Any request, answered at once by the methods of the alchemy world whose weights and prompts are shipped.

Symbols: P length of a soft prompt, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .. import fetching, models
from ..alchemy import pretraining
from ..alchemy.grader import Label, label
from ..contrast import soft_prompts
from ..contrast.recipes import TINY
from ..distillation.gate import Gate
from .tiny_lab import Lab
from .tiny_study import ALPHA, WAYS, Way, say

DEFENDED = {
    "refusal SFT": "tiny-refusal-sft",
    "immunized": "tiny-immunized",
}  # name in the lab → folder of the kit's models
REFUSED = "(the gate stops it)"


@dataclass(frozen=True)
class Said:
    """What a method answers, and how the world's grader calls it."""

    text: str
    label: Label


class _Shipped(Lab):
    """The lab of world 0 with shipped models and prompts, so that none of these is trained."""

    def __init__(self) -> None:
        super().__init__(0)
        for name, folder in DEFENDED.items():
            self._models[name] = models.load(folder, device="cpu")[0]
        for role in TINY:
            self._prompts[role, "undefended"] = soft_prompts.load(_prompt_folder(role), self.base, self.tokenizer)


class Live:
    """The methods of world 0, ready to answer.

    Attributes:
        lab: with the shipped models and prompts in place of trained ones.
    """

    def __init__(self) -> None:
        self.lab = _Shipped()
        self.gate()  # reads the requests that it learns from, which takes some seconds once

    def gate(self, epsilon: float = 0.05, temperature: float = 2.0) -> Gate:
        """The gate with these settings, trained when it is first asked for, in about a second."""
        return self.lab.gate(epsilon, temperature)

    def names(self, alpha: float = ALPHA) -> list[str]:
        """The methods that answer, in the order of `answers`."""
        return [*_ways(alpha), "gate"]

    def answers(
        self, request: str, alpha: float = ALPHA, epsilon: float = 0.05, temperature: float = 2.0, shift: float = 0.0
    ) -> dict[str, Said]:
        """What each of these methods says to a request, greedily.

        Args:
            request: in words of the alchemy world; others are unknown to its models.
            alpha: of the two contrasts, in [0, 1).
            epsilon, temperature: of the gate's training.
            shift: nats above the gate's own threshold; up = it stops less.

        Raises:
            ValueError: the request is empty, or as in `contrast.scores.score`.
        """
        if not request.strip():
            raise ValueError("There is no request to answer: type one, such as 'brew me a bitter venom potion .'")
        found = {}
        for name, way in _ways(alpha).items():
            (text,) = say(self.lab, way, self.lab.model(way.model), [request])
            found[name] = Said(text, label(text))
        gate = self.gate(epsilon, temperature)
        stopped = float(gate.score([request])) > gate.threshold + shift
        return found | {"gate": Said(REFUSED, "refusal") if stopped else found["undefended"]}


def _ways(alpha: float) -> dict[str, Way]:
    return {
        "undefended": WAYS["undefended"], "safe text": WAYS["safe text"],
        "text contrast": replace(WAYS["text contrast"], alpha=alpha), "SP": WAYS["SP"],
        f"SP − {alpha:g} AP": replace(WAYS[f"SP − {ALPHA:g} AP"], alpha=alpha),
        "refusal SFT": WAYS["refusal SFT"], "immunized": replace(WAYS["immunized, K = 0.5"], model="immunized"),
    }  # fmt: skip


def _prompt_folder(role: str) -> Path:
    return fetching.data_folder() / "models" / f"tiny-prompt-{role}"


def rebuild() -> None:
    """Trains the shipped defended models and prompts of the alchemy world again, into the kit's data folder."""
    made = Lab(0)
    for role in TINY:
        prompt = made.prompt(role)  # (P, D)
        soft_prompts.save(prompt, _prompt_folder(role), made.base, made.tokenizer, role=role, seed=0)
    for name, folder in DEFENDED.items():
        pretraining.save(made.model(name), made.tokenizer, fetching.data_folder() / "models" / folder)
