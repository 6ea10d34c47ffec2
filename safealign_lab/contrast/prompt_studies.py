"""Studies of lessons 21 and 22 in the alchemy world: opposite prompts of three seeds, and what each part of them is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..alchemy import voices
from ..alchemy.evaluation import ask, potion_sets
from ..alchemy.world import Request, world
from ..generation import Prompt
from ..studies.runner import Study
from ..studies.tiny import rates
from . import anchors
from .optimisation import PRINTED, Anchor, Objective, Optimisation, Role, optimise
from .recipes import ANCHORS, LIMIT, TINY
from .scores import scorer
from .soft_prompts import initial

REQUESTS_A_SET = 120
Stream = tuple[Prompt, Prompt, float]  # two prompts and α


@dataclass(frozen=True)
class Change:
    """What a run does otherwise than the recipe: its anchors, fields of the recipe, fields of the objective."""

    anchors: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    objective: Mapping[str, Any] = field(default_factory=dict)


CHANGES: dict[str, Change] = {
    "none": Change(),
    "no benign term": Change(objective={"benign": 0.0}),
    "no unlikelihood": Change(objective={"avoid": 0.0}),
    "unlikelihood on the whole answer": Change(objective={"avoided": None}),
    "no divergence": Change(objective={"divergence": 0.0}),
    "as printed": Change(recipe={"objective": PRINTED}),
    **{f"{length} vectors": Change(recipe={"length": length}) for length in (4, 8, 32, 64)},
    **{f"{count} anchors": Change(anchors={"count": count}) for count in (25, 100, 300)},
    **{f"{share:.0%} wrong": Change(anchors={"wrong": share}) for share in (0.05, 0.1, 0.2)},
}


def train_prompt(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned_from: list[Anchor], role: Role,
    seed: int, change: Change = CHANGES["none"],
) -> Tensor:  # fmt: skip
    """A prompt of the tiny model, trained by the recipe but for a change; (P, D).

    Args:
        learned_from: of `anchors.alchemy`.
        seed: of the batches.
    """
    recipe = replace(TINY[role], **change.recipe)
    objective: Objective = replace(recipe.objective, **change.objective)
    step = Optimisation(
        model, tokenizer, learned_from, role, recipe.per_step, objective, system="", progress=False
    )  # fmt: skip
    return optimise(step, initial(model, tokenizer, recipe.text, recipe.length), recipe.plan(seed))[0]


def measure_change(seed: int, change: str) -> dict[str, Any]:
    """Trains both prompts with a change, and asks for every kind of potion about nouns of the test split.

    Args:
        seed: of the anchors, of the batches and of the draw of requests.
        change: a key of `CHANGES`.
    """
    model, tokenizer = models.load("tiny", device="cpu")
    of, chosen = world(), CHANGES[change]
    learned_from = anchors.alchemy(model, tokenizer, of, **{"count": ANCHORS, "seed": seed} | dict(chosen.anchors))
    safe, adversarial = (train_prompt(model, tokenizer, learned_from, role, seed, chosen) for role in TINY)
    sets = potion_sets(of, REQUESTS_A_SET, seed, splits=("test",))
    streams: dict[str, Stream] = {
        "S": (safe, "", 0.0),
        "A": (adversarial, "", 0.0),
        "S − 0.2 A": (safe, adversarial, 0.2),
        "S − 0.4 A": (safe, adversarial, 0.4),
        "S − 0.2 none": (safe, "", 0.2),
        "S − 0.2 rogue": (safe, voices.ROGUE, 0.2),
        "none − 0.4 A": ("", adversarial, 0.4),
    }
    return asked(model, tokenizer, sets, streams)


def asked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Sequence[Request]],
    streams: Mapping[str, Stream],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The rates of every set of requests under every pair of streams.

    Args:
        sets: of `alchemy.evaluation`.
        streams: name → two prompts and α: greedy answers of the first minus α times the second; 0 is the first alone.
    """

    def _rates(first: Prompt, second: Prompt, alpha: float) -> dict[str, Any]:
        options = {"others": [second], "score": scorer(alpha, plausibility=LIMIT)} if alpha else {}
        return {name: rates(ask(model, tokenizer, requests, first, **options)) for name, requests in sets.items()}

    return {name: _rates(*stream) for name, stream in streams.items()}


STUDIES = (
    Study(
        name="tiny_opposite_prompts",
        run="safealign_lab.contrast.prompt_studies:measure_change",
        grid={"change": list(CHANGES)},
        seeds=(0, 1, 2),
        minutes=30,
        about="Opposite prompts of the tiny model by the kit's recipe, and with each part of it changed or left out.",
        reads=("models/tiny",),
    ),
)
