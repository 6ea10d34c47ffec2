"""The three methods on a model of yours, by defaults: a gate, two opposite prompts and one cycle, and their points on the plot.

Everything long goes on from a folder where it was stopped. The folder has a place of its own for each model, each setting and
each seed, so that a change of any begins anew.

Symbols: N requests, D numbers in a feature vector, P length of a soft prompt.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..contrast.baselines import Method
from ..contrast.optimisation import Optimisation, Role, optimise
from ..contrast.recipes import LIMIT, SMOLLM2, TINY, Recipe
from ..contrast.scores import scorer
from ..contrast.soft_prompts import initial
from ..distillation.features import LAYERS, Standardiser
from ..distillation.gate import Gate, answer_behind, choose_threshold, reader
from ..distillation.gate_task import cross_fit, teacher_lines, two_sided
from ..distillation.student import Settings, train_student
from ..generation import Generation
from ..immunization.cycle import Cycle, run
from ..immunization.phases import Align, Immunize, Room
from ..immunization.references import measure
from ..immunization.teachers import Teachers
from ..models.adapters import adapted
from ..training import Plan
from .points import Point
from .tiny_lab import FOUND
from .your_checks import system_in_user, takes_system
from .your_files import ROLES, Defences, fingerprint, load_point, save_point
from .your_memory import best_dtype, estimate
from .your_task import Task

MIDDLE = 0.6  # of the way up, where the two models that were tried tell most of a request. source: ours
STEPS: dict[Role, int] = {"safeguarding": 60, "adversarial": 25}
SHORT = {role: replace(recipe, steps=STEPS[role]) for role, recipe in TINY.items()}
SHORT_CYCLE = Cycle(
    immunize=Immunize(harmful=8, harmless=12), align=Align(rows=8),
    first=Plan(24, 1e-3, floor=0.02), second=Plan(12, 2e-4, schedule="constant"),
)  # fmt: skip
GENTLE = Plan(120, 2e-4, warmup=10, floor=0.02), Plan(60, 5e-5, schedule="constant")


@dataclass(frozen=True)
class Effort:
    """How each method is trained; the defaults of a model are in `effort_of`.

    Attributes:
        prompts: role → recipe.
        gate: of its student.
        cycle: of the one cycle.
        rank: of the adapter that the cycle trains; None = all weights but the embedding.
        alpha, plausibility: of the contrast, as in `contrast.scores.score`.
        batch_size: requests that are answered at once; up = faster, and more memory.
        checkpoint_every: steps; down = a stop loses less.
    """

    prompts: Mapping[Role, Recipe]
    gate: Settings = field(default_factory=Settings)
    cycle: Cycle = field(default_factory=Cycle)
    rank: int | None = None
    alpha: float = 0.2
    plausibility: float = LIMIT
    batch_size: int = 128
    checkpoint_every: int = 25


def effort_of(name: str) -> Effort:
    """The defaults of a model: the tiny model's, shortened so that a lesson has time for all, and for others SmolLM2's.

    `Effort(TINY)` is the tiny model's at full length. The cycle's plans for other models are a guess: gentler than the tiny
    model's, on an adapter of rank 8.
    """
    if name == "tiny":
        return Effort(SHORT, cycle=SHORT_CYCLE)
    first, second = GENTLE
    cycle = Cycle(first=first, second=second)
    return Effort(SMOLLM2, cycle=cycle, rank=8, alpha=0.4, plausibility=0.1, batch_size=32)


def load(
    name: str, device: str | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model as `models.load` has it, in bfloat16 where the device computes in it, with a template that takes system texts.

    Raises:
        ValueError, FileNotFoundError, fetching.FetchError: as in `models.load`.
    """
    place = models.pick_device(device)
    model, tokenizer = models.load(name, place, dtype or best_dtype(place))
    if not takes_system(tokenizer):
        system_in_user(tokenizer)
    return model, tokenizer


def layer_of(name: str, model: PreTrainedModel) -> int:
    """After which layer the gate reads: the one that was found for a model of the kit, else six tenths of the way up."""
    return LAYERS.get(name) or max(1, round(MIDDLE * model.config.num_hidden_layers))


@dataclass(frozen=True)
class Lab:
    """One model with all that is done for it.

    Attributes:
        task: of `your_task`.
        effort: of `effort_of`, or yours.
        layer: of `layer_of`.
        folder: where runs and points are kept; None keeps nothing.
        seed: of everything that is drawn.
        progress: show bars.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    effort: Effort
    layer: int
    folder: Path | None = None
    seed: int = 0
    progress: bool = True

    @cached_property
    def key(self) -> str:
        """What tells this model with its task, its settings and its seed from every other."""
        task = [[asdict(one) for one in its] for its in (self.task.anchors, self.task.harmful, self.task.harmless)]
        said = [fingerprint(self.model, self.tokenizer), asdict(self.effort), task, self.layer, self.seed]
        # a push of the cycle is a function, whose address is written: better to begin anew than to take another one's run
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def place(self, name: str) -> Path | None:
        """The folder of one run."""
        return None if self.folder is None else self.folder / self.key / name


# ---------------------------------------------------------------- the three methods


def train_gate(lab: Lab) -> Gate:
    """The gate of the distillation wing: a linear student of a teacher who has not seen the request, with aimed noise.

    The teacher sees three layers around the student's, and the words.
    """
    texts, harmful = [one.text for one in lab.task.train], [one.kind == "harmful" for one in lab.task.train]
    read = reader(lab.model, lab.tokenizer, lab.layer)
    raw = read(texts)  # (N, D)
    scaled = Standardiser.fit(raw)
    lines = teacher_lines()
    deep = [reader(lab.model, lab.tokenizer, layer)(texts) for layer in _around(lab)]  # of (N, D)
    views = [torch.cat(deep, dim=1).numpy(), texts]
    _, log_odds = cross_fit(views, [lines[0], lines[-1]], harmful, [one.group for one in lab.task.train], folds=5)
    head, _ = train_student(
        scaled(raw), torch.tensor(harmful).long(), two_sided(log_odds), lab.effort.gate, lab.seed, lab.place("gate"),
        lab.progress,
    )  # fmt: skip
    gate = Gate(read, scaled, head)
    harmless = sorted({one.kind for one in lab.task.validation})
    margins = {kind: gate.score([one.text for one in lab.task.validation if one.kind == kind]) for kind in harmless}
    return replace(gate, threshold=choose_threshold(margins))


def _around(lab: Lab) -> list[int]:
    """The gate's layer, one below and one above, as far as they are there."""
    return sorted({min(max(1, lab.layer + step), lab.model.config.num_hidden_layers) for step in (-1, 0, 1)})


def train_prompt(lab: Lab, role: Role) -> Tensor:
    """A soft prompt (P, D) of the contrast wing by its recipe."""
    recipe, task = lab.effort.prompts[role], lab.task
    step = Optimisation(
        lab.model, lab.tokenizer, task.anchors, role, recipe.per_step, recipe.objective, system=task.system,
        rows_at_once=recipe.rows_at_once, progress=lab.progress,
    )  # fmt: skip
    start = initial(lab.model, lab.tokenizer, recipe.text, recipe.length)  # (P, D)
    plan = replace(recipe.plan(lab.seed), checkpoint_every=lab.effort.checkpoint_every)
    return optimise(step, start, plan, folder=lab.place(role))[0]


def immunize(lab: Lab) -> PreTrainedModel | PeftModel:
    """The model after one cycle of the immunization wing.

    It learns refusals at attacked weights, and then right answers while the canaries are shielded. No harmful teacher is
    taught, since the default first phase needs none.
    """
    task, effort = lab.task, lab.effort
    student = copy.deepcopy(lab.model) if effort.rank is None else adapted(lab.model, effort.rank, lab.seed)
    rows = [(row.request, side) for row in task.harmless for side in (row.chosen, row.rejected)]
    known = measure(lab.model, lab.tokenizer, rows, task.system, progress=lab.progress)
    room = Room(student, lab.tokenizer, Teachers(lab.model, lab.tokenizer, rank=1, system=task.system), known)
    every = lab.effort.checkpoint_every
    first, second = (replace(plan, checkpoint_every=every) for plan in (effort.cycle.first, effort.cycle.second))
    cycle, place = replace(effort.cycle, first=first, second=second), lab.place("cycle")
    adapter = {name: one for name, one in student.named_parameters() if one.requires_grad}
    run(
        room, task.harmful, task.harmless, task.harmless, cycle, seed=lab.seed, folder=place, progress=lab.progress,
        weights=None if effort.rank is None else adapter,
    )  # fmt: skip
    return student.eval()


def train_all(lab: Lab) -> tuple[Defences, dict[str, float]]:
    """All three methods, and the seconds that each took; what is in the folder already takes next to none."""
    took: dict[str, float] = {}

    def _timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = make()
        took[name] = time.perf_counter() - began
        return made

    gate = _timed("gate", lambda: train_gate(lab))
    prompts = {role: _timed(role, partial(train_prompt, lab, role)) for role in ROLES}
    student = _timed("immunized", lambda: immunize(lab))
    return Defences(gate, lab.layer, prompts, student), took


# ---------------------------------------------------------------- its points


@dataclass(frozen=True)
class _Way:
    """One way of answering: a name and a family, who answers how, and what of `train_all` it needs."""

    name: str
    family: str
    model: PreTrainedModel | PeftModel
    method: Callable[..., Generation]
    parts: tuple[str, ...] = ()
    alpha: float = 0.0


def points(lab: Lab, defences: Defences, took: Mapping[str, float] | None = None) -> list[Point]:
    """Asks the undefended model and each defence the same test requests, and grades the answers.

    Args:
        took: of `train_all`; gives the points their cost of training.
    """
    found: list[Point] = []
    for way in _ways(lab, defences):
        trained = sum((took or {}).get(part, 0.0) for part in way.parts)
        found.append(_point(lab, way, trained, found[0] if found else None))
    return found


def _ways(lab: Lab, defences: Defences) -> list[_Way]:
    safe, other, alpha = defences.prompts["safeguarding"], defences.prompts["adversarial"], lab.effort.alpha
    plain, model = Method((lab.task.system,)), lab.model
    contrast = Method((safe, other), scorer(alpha, plausibility=lab.effort.plausibility))
    return [
        _Way("undefended", "no training", model, plain),
        _Way("safe text", "no training", model, Method((lab.task.safe,))),
        _Way("SP", "contrast", model, Method((safe,)), ("safeguarding",)),
        _Way(f"SP − {alpha:g} AP", "contrast", model, contrast, ROLES, alpha),
        _Way("gate", "distillation", model, partial(_behind, lab, defences.gate), ("gate",)),
        _Way("immunized", "immunization", defences.student, plain, ("immunized",)),
    ]


def _behind(
    lab: Lab, gate: Gate, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], **options: Any
) -> Generation:  # fmt: skip
    prompts = (lab.task.system,)
    return answer_behind(gate, model, tokenizer, requests, lab.task.refusal, prompts=prompts, **options)


def _point(lab: Lab, way: _Way, trained: float, undefended: Point | None) -> Point:
    folder, asked = lab.place("points"), lab.task.test
    file = None if folder is None else folder / f"{way.name}.json"
    if file is not None and file.is_file():
        return load_point(file)
    began = time.perf_counter()
    said = way.method(
        way.model, lab.tokenizer, [one.text for one in asked], batch_size=lab.effort.batch_size,
        max_new_tokens=lab.task.new_tokens, progress=lab.progress,
    ).texts  # fmt: skip
    seconds = time.perf_counter() - began
    plain = undefended.cost["seconds"] if undefended else seconds
    memory = [
        estimate(lab.model, streams, lab.model.dtype, lab.effort.batch_size).total
        for streams in ("contrast" if way.alpha else "answering", "answering")
    ]
    cost = {
        "training": trained / (plain * FOUND / len(asked)), "time": seconds / plain, "memory": memory[0] / memory[1],
        "seconds": seconds,
    }  # fmt: skip
    graded = {one.text: (answer,) for one, answer in zip(asked, lab.task.graded(asked, said), strict=True)}
    found = Point(way.name, way.family, graded, cost, {"alpha": way.alpha} if way.alpha else {})
    if file is not None:
        save_point(found, file)
    return found
