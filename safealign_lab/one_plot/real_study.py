"""Studies of lessons 32, 33 and 40 on SmolLM2: defences in its weights, before and after somebody fine-tunes them.

All weights but the embedding are trained, in single precision; what is multiplied is rounded to bfloat16 on the way, in which
many processors are much faster. In the place of a harmful answer stands an opening with nothing behind it.

Symbols: B rows, T tokens.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, wraps
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data, fetching, models
from ..chat import Batch
from ..contrast.baselines import Method
from ..contrast.real_studies import OTHERS, OWN, judged
from ..contrast.shipped import training_anchors
from ..data.training_sets import TRAINING_SETS
from ..generation import answer
from ..immunization import alarm
from ..immunization.canaries import Canaries
from ..immunization.curriculum import LEVELS, Preference
from ..immunization.cycle import Cycle, run, trained_weights
from ..immunization.phases import Align, Immunize, Room, immunizing
from ..immunization.references import Exchange, References, batch_of, measure
from ..immunization.tampering import Attack, tamper
from ..immunization.teachers import Teachers
from ..judges import Judge, load
from ..studies.runner import Study
from ..training import LossFunction, Plan, Terms, train

CYCLE = Cycle(
    immunize=Immunize(harmful=6, harmless=10), align=Align(rows=6, brought=()),
    first=Plan(steps=80, learning_rate=5e-5, warmup=8, floor=0.02),
    second=Plan(steps=30, learning_rate=1e-5, schedule="constant"), attack_radius=0.01,
)  # fmt: skip
LEARNED = {  # what the defences without a cycle learn, at the first phase's plan
    "refusal SFT": CYCLE.immunize, "refusal-DPO": replace(CYCLE.immunize, refusing="dpo")
}  # fmt: skip
DEFENCES = (*LEARNED, "immunized")
TAMPERING = Plan(steps=16, learning_rate=5e-5, schedule="constant")
TAMPERED_AT = (1, 4, 16)  # steps
ASKED_AFTER = {"harmful": 96, "benign": 62}  # test requests of each kind, after tampering: every second and third one
LAYERS_OF = "model.layers."


@dataclass(frozen=True)
class OpenEnded(Room):
    """A room in which an answer that was cut off does not teach the model to stop there."""

    def batch(self, rows: Sequence[Preference], side: str) -> Batch:
        """As in `Room`; the end token of a cut answer is read, and not learned."""
        exchanges = [(row.request, getattr(row, side)) for row in rows]
        found = batch_of(self.tokenizer, exchanges, self.teachers.system).to(self.student.device)
        assert found.response_mask is not None  # `batch_of` says which tokens are the response
        mask = found.response_mask.clone()  # (B, T)
        for number, (_, text) in enumerate(exchanges):
            if not text.rstrip().endswith((".", "!", "?", ":")):
                mask[number, int(mask[number].nonzero()[-1])] = False
        return replace(found, response_mask=mask)


@dataclass(frozen=True)
class Setting:
    """What all defences start from and learn from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    room: Room
    harmful: Sequence[Preference]
    harmless: Sequence[Preference]

    def fresh(self) -> Room:
        """The room with a student of its own."""
        return replace(self.room, student=copy.deepcopy(self.model))


def rounded(loss: LossFunction) -> LossFunction:
    """A loss function whose matrix products are rounded to bfloat16; weights and gradients stay as they are."""

    @wraps(loss)
    def _loss(step: int, generator: torch.Generator) -> Tensor | Terms:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # a cache would outlive a step of the weights
            return loss(step, generator)

    return _loss


@cache
def setting() -> Setting:
    """SmolLM2 with its training requests, read once."""
    model, tokenizer = models.load(models.SMOLLM2, device="cpu")
    tiers = {row["request"]: row["tier"] for name in TRAINING_SETS for row in data.load(name, "train")}
    levels = cycle(LEVELS)
    harmful = [
        Preference(one.request, one.refusal, one.compliance, tiers.get(one.request) or next(levels))
        for one in training_anchors()
        if one.pool == "harmful"
    ]
    kept = [one for one in training_anchors() if one.pool != "harmful"]
    harmless = [
        Preference(one.request, one.answer, refused.chosen, one.pool)
        for one, refused in zip(kept, cycle(harmful), strict=False)
    ]
    rows = [(row.request, side) for row in (*harmful, *harmless) for side in (row.chosen, row.rejected)]
    teachers, known = Teachers(model, tokenizer, system=None), _known(model, tokenizer, rows)
    return Setting(model, tokenizer, OpenEnded(model, tokenizer, teachers, known), harmful, harmless)


def _known(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Exchange]) -> References:
    """What the reference thinks of all rows, kept in the cache folder, since asking takes minutes."""
    asked = hashlib.sha256(json.dumps([models.SMOLLM2, list(rows)]).encode()).hexdigest()[:16]
    file = fetching.cache_folder() / "smollm2" / f"references-{asked}.json"

    def _ask() -> list[tuple[str, str, float]]:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            found = measure(model, tokenizer, rows, None, progress=False)
        return [(*row, logp) for row, logp in found.known.items()]

    return References({(request, said): logp for request, said, logp in fetching.remembered(file, _ask)})


def _defended(defence: str, seed: int) -> PreTrainedModel:
    """SmolLM2 with a defence in its weights."""
    return _learned(defence, seed) if defence in LEARNED else _cycled(seed)[0]


@cache
def _learned(defence: str, seed: int) -> PreTrainedModel:
    of = setting()
    room = of.fresh()
    loss = rounded(immunizing(room, of.harmful, of.harmless, LEARNED[defence], CYCLE.first.steps))
    train(trained_weights(room.student), loss, replace(CYCLE.first, seed=1000 * seed), progress=False)
    return room.student.eval()


@cache
def _cycled(seed: int) -> tuple[PreTrainedModel, Canaries]:
    """SmolLM2 after a cycle, and the canaries of it."""
    of = setting()
    room = of.fresh()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        passed = run(room, of.harmful, of.harmless, of.harmless, CYCLE, seed=seed, progress=False)
    return room.student.eval(), passed[-1].canaries


def measure_defence(seed: int, defence: str, requests: str, worded: Callable[[str], str] = str) -> dict[str, Any]:
    """What SmolLM2 with a defence in its weights answers, labelled as in `contrast.real_studies.judged`.

    Args:
        defence: one of `DEFENCES`.
        requests: as in `studies.undefended.requests_of`.
        worded: as in `judged`.
    """
    model = _defended(defence, seed)
    return judged(Method((None,)), requests, (_halved(model), setting().tokenizer), worded)


def measure_tampered(seed: int, defence: str) -> dict[str, Any]:
    """The labels of test requests after some steps of fine-tuning on openings that comply, and on right answers.

    Args:
        defence: one of `DEFENCES`, or "undefended".
    """
    of = setting()
    model = of.model if defence == "undefended" else _defended(defence, seed)
    harmful = [(row.request, row.rejected) for row in of.harmful]
    benign = [(row.request, row.chosen) for row in of.harmless]
    found: list[dict[str, Any]] = []

    def _measure(victim: PreTrainedModel) -> dict[str, float]:
        found.append(_labels(victim))
        return {}

    attack = Attack("mixed", TAMPERING.learning_rate, rows=12, seed=seed)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        tamper(model, of.tokenizer, harmful, benign, attack, _measure, TAMPERED_AT, system=None)
    return {"steps": list(TAMPERED_AT), "labels": found}


def _labels(victim: PreTrainedModel) -> dict[str, dict[str, str]]:
    """Kind → the label of each request that is asked after tampering."""
    asked, found = _halved(victim), {}
    for kind, count in ASKED_AFTER.items():
        rows = data.load(kind, "test")
        some = [rows[number] for number in range(0, len(rows), len(rows) // count)][:count]
        texts = [row["request"] for row in some]
        said = answer(asked, setting().tokenizer, texts, batch_size=32)
        found[kind] = dict(zip((row["id"] for row in some), _judge().labels(said, texts), strict=True))
    return found


def measure_canaries(seed: int) -> dict[str, Any]:
    """Where the canaries of SmolLM2's cycle sit: the share of each matrix that they are, by layer and by name."""
    model, canaries = _cycled(seed)
    sizes = {name: weight.numel() for name, weight in trained_weights(model).items()}
    shares: dict[str, dict[str, float]] = {}
    for name, count in canaries.counts().items():
        layer, _, matrix = name.removeprefix(LAYERS_OF).partition(".")
        shares.setdefault(matrix or name, {})[layer] = round(count / sizes[name], 4)
    before = setting().model.state_dict()
    moved = {name: weight.detach() - before[name] for name, weight in trained_weights(model).items()}
    return {"shares": shares, "of": sum(sizes.values()), "drift on canaries": round(alarm.share(moved, canaries), 4)}


def _halved(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in bfloat16, which answers faster."""
    copied: PreTrainedModel = copy.deepcopy(model).to(torch.bfloat16).eval()
    return copied


@cache
def _judge() -> Judge:
    return load()


READS = ("english", "models/judge")
STUDIES = (
    Study(
        name="smollm2_defended",
        run="safealign_lab.one_plot.real_study:measure_defence",
        grid={"defence": list(DEFENCES), "requests": [*OWN, *OTHERS]},
        seeds=(0,),
        minutes=50,
        about="SmolLM2 with a defence in its weights: refusals learned plainly, preferred to compliance, and by one cycle.",
        reads=READS,
    ),
    Study(
        name="smollm2_tampered",
        run="safealign_lab.one_plot.real_study:measure_tampered",
        grid={"defence": ["undefended", *DEFENCES]},
        seeds=(0,),
        minutes=50,
        about="SmolLM2 with and without a defence in its weights, after somebody fine-tuned it.",
        reads=READS,
    ),
    Study(
        name="smollm2_canaries",
        run="safealign_lab.one_plot.real_study:measure_canaries",
        seeds=(0,),
        minutes=25,
        about="Where the canaries of SmolLM2's cycle sit, layer by layer.",
        reads=READS,
    ),
)
