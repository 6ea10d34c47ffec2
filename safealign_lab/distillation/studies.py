"""Studies of lessons 10 to 12 on the real sentiment task: every way to train the head, every knob, teachers that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..data.sentiment import FILES
from ..studies.runner import Study
from ..training import Plan, step_generator, train
from . import attacks, printed, quality
from .losses import kd_loss
from .perturbations import Perturbation, mean_norm
from .real_task import Part, Task, biased, miscalibrated, real_task
from .student import Head, Settings, baselines, terms, train_student

SEEDS = (0, 1, 2, 3, 4)
RADII = (0.01, 0.05, 0.1, 0.2)
ATTACK = Perturbation("pgd", "l2", 0.05, steps=10)
SCHEDULES = {"full": (100, 0.01), "stopped early": (60, 0.001)}  # steps, and the peak rate
WAYS = tuple(baselines(Settings()))
KNOBS: dict[str, tuple[float, ...]] = {
    "kd_weight": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0), "epsilon": (0.0, 0.01, 0.05, 0.1, 0.2),
    "penalty_weight": (0.0, 0.01, 0.1, 1.0, 10.0), "alpha": (0.0, 0.25, 0.5, 0.75, 1.0),
    "temperature": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}  # fmt: skip
TEACHERS = {
    "as it is": (1.0, 0.0),
    "four times as sure": (4.0, 0.0),
    "a quarter as sure": (0.25, 0.0),
    "leaning": (1.0, 2.0),
}


def measure_teacher(seed: int, split: str) -> dict[str, Any]:
    """How good the teacher is on the texts that students are measured on: accuracy, by domain too, and calibration.

    Args:
        seed: unused, since nothing is drawn.
        split: "train", "validation" or "test"; it has learnt from none of them.
    """
    part: Part = getattr(real_task(), split)
    logits, labels = part.teacher_logits, part.labels
    domains = {name: quality.accuracy(logits[some], labels[some]).to_json() for name, some in _domains(part).items()}
    error = quality.calibration_error(logits, labels)
    return {
        "accuracy": quality.accuracy(logits, labels).to_json(),
        "domains": domains,
        "calibration_error": error.to_json(),
    }


def measure_way(seed: int, way: str, hidden: int | None, schedule: str) -> dict[str, Any]:
    """A student trained in one way, and all that is measured of it.

    Args:
        way: a name of `student.baselines`.
        hidden: width of its hidden layer; None = a linear head.
        schedule: a key of `SCHEDULES`.
    """
    steps, rate = SCHEDULES[schedule]
    noise = Perturbation("fgsm" if hidden is None else "pgd", "l2", 0.1, steps=3, random_start=False)
    settings = baselines(Settings(hidden=hidden, steps=steps, learning_rate=rate, perturbation=noise))[way]
    return measured(settings, real_task(), seed)


def measure_knob(seed: int, knob: str, value: float) -> dict[str, Any]:
    """The linear student of the working losses, with one knob turned.

    Args:
        knob: a key of `KNOBS`.
        value: of that knob; all others keep the kit's own.
    """
    return measured(turned(Settings(), knob, value), real_task(), seed)


def measure_clipping(seed: int, clip: float | None, penalty_weight: float, learning_rate: float) -> dict[str, Any]:
    """The same student with and without clipping of the gradient, under several weights of the penalty."""
    return measured(Settings(clip=clip, penalty_weight=penalty_weight, learning_rate=learning_rate), real_task(), seed)


def measure_wrong_teacher(seed: int, teacher: str, way: str, temperature: float) -> dict[str, Any]:
    """A student of a teacher that is too sure, too unsure, or leaning to one class.

    Args:
        teacher: a key of `TEACHERS`.
        way: a name of `student.baselines`.
        temperature: τ of the distillation.
    """
    factor, shift = TEACHERS[teacher]
    task = biased(miscalibrated(real_task(), factor), shift)
    return measured(baselines(Settings(temperature=temperature))[way], task, seed)


def measure_recovery(seed: int, loss: str, steps: int) -> dict[str, float]:
    """The accuracy of a student that had learnt every label the wrong way round, after some steps of distillation alone.

    Args:
        loss: "working", or "printed" with the student in front and the teacher alone softened.
        steps: up = more time to recover.
    """
    task = real_task()
    head = _turned_round(seed)
    learn = {"working": kd_loss, "printed": printed.kd_loss}[loss]

    def _loss(step: int, generator: torch.Generator) -> Tensor:
        return learn(head(task.train.features), task.train.teacher_logits, 2.0)

    if steps:
        train(dict(head.named_parameters()), _loss, Plan(steps=steps, learning_rate=0.01, seed=seed), progress=False)
    with torch.no_grad():
        return {"accuracy": _round(quality.accuracy(head(task.test.features), task.test.labels).value)}


def measure_masking(seed: int, way: str, hidden: int | None) -> list[dict[str, Any]]:
    """Whether the attack on a student can be believed: the checks of `attacks.masking_checks`, with a head that knew no noise."""
    task = real_task()
    every = baselines(Settings(hidden=hidden, perturbation=Perturbation("pgd", "l2", 0.1, steps=3, random_start=False)))
    head, other = (_student(every[name], task, seed) for name in (way, "hard labels"))
    checks = attacks.masking_checks(
        head, [other], task.test.features, task.test.labels, ATTACK, mean_norm(task.train.features), seed
    )
    return [
        {"check": one.name, "weaker": one.weaker.to_json(), "stronger": one.stronger.to_json(), "passed": one.passed}
        for one in checks
    ]


def measure_geometry(seed: int, geometry: str) -> dict[str, Any]:
    """A student of clean texts under attack, on features that are standardised or only centred; ε is relative to either's norm.

    Args:
        geometry: "standardised" or "centred".
    """
    task, spread = real_task(), real_task().standardiser.scale
    if geometry == "centred":
        parts = {name: getattr(task, name) for name in ("train", "validation", "test")}
        task = replace(task, **{name: replace(part, features=part.features * spread) for name, part in parts.items()})
    found = measured(baselines(Settings())["KD + labels"], task, seed)
    return {"accuracy": found["accuracy"], "attacked": found["attacked"],
            "largest_to_middle": _round(float(spread.max() / spread.median()))}  # fmt: skip


def turned(settings: Settings, knob: str, value: float) -> Settings:
    """Settings with one knob changed; "epsilon" is the radius of the training's own attack, and 0 is no attack."""
    if knob != "epsilon":
        changed: dict[str, Any] = {knob: value}
        return replace(settings, **changed)
    noise = settings.perturbation
    return replace(settings, perturbation=replace(noise, epsilon=value) if noise and value else None)


def measured(settings: Settings, task: Task, seed: int) -> dict[str, Any]:
    """All measures of one student on the test texts, and how steep its loss is at the end of training."""
    head, test, scale = _student(settings, task, seed), task.test, mean_norm(task.train.features)
    found = quality.measure(head, test.features, test.labels, test.teacher_logits, ATTACK, scale, seed=seed).to_json()
    with torch.no_grad():
        logits = head(test.features)  # (N, C)
    return {
        **{name: _round(one["value"]) for name, one in found.items()},
        "n": len(test.labels),
        "attacked": {str(radius): _attacked(head, test, radius, scale, seed) for radius in RADII},
        "domains": {
            name: _round(quality.accuracy(logits[s], test.labels[s]).value) for name, s in _domains(test).items()
        },
        "gradient_norm": _round(steepness(head, task, settings)),
        "parameters": sum(weight.numel() for weight in head.parameters()),
    }


def steepness(head: Head, task: Task, settings: Settings) -> float:
    """‖∇_θ L_NR‖ over all training texts and their noise: what the penalty is there to keep small."""
    part, asked = task.train, replace(settings, target="labels", form="working", penalty_weight=1.0)
    head.requires_grad_(True)
    found = terms(
        head, part.features, part.labels, part.teacher_logits, asked, mean_norm(part.features), step_generator(0, 0)
    )
    head.requires_grad_(False)
    return float(found["penalty"].detach().sqrt())


def _attacked(head: Head, part: Part, radius: float, scale: float, seed: int) -> float:
    held = attacks.attack(head, part.features, part.labels, replace(ATTACK, epsilon=radius), scale, seed=seed).held
    return _round(float(held.double().mean()))


def _student(settings: Settings, task: Task, seed: int) -> Head:
    part = task.train
    return train_student(part.features, part.labels, part.teacher_logits, settings, seed, progress=False)[0]


@cache
def _wrong_way_round(seed: int) -> Mapping[str, Tensor]:
    part = real_task().train
    settings = baselines(Settings())["hard labels"]
    return train_student(part.features, 1 - part.labels, part.teacher_logits, settings, seed, progress=False)[
        0
    ].state_dict()


def _turned_round(seed: int) -> Head:
    """A fresh copy of a student that learnt every label the wrong way round, three times as sure of it."""
    head = Head(real_task().train.features.shape[1], 2)
    head.load_state_dict({name: 3 * weight for name, weight in _wrong_way_round(seed).items()})
    return head


def _domains(part: Part) -> dict[str, Tensor]:
    return {name: part.of_domain(name) for name in FILES}


def _round(value: float) -> float:
    return round(value, 4)


STUDIES = (
    Study(
        name="sentiment_teacher", run="safealign_lab.distillation.studies:measure_teacher",
        grid={"split": ["train", "validation", "test"]}, seeds=(0,), minutes=15,
        about="The teacher of the sentiment task on the texts that its students are measured on.",
    ),
    Study(
        name="sentiment_ways", run="safealign_lab.distillation.studies:measure_way",
        grid={"way": list(WAYS), "hidden": [None, 64], "schedule": list(SCHEDULES)}, seeds=SEEDS, minutes=15,
        about="Seven ways to train a student head on SmolLM2's features, linear and not, in full and stopped early.",
    ),
    Study(
        name="sentiment_knobs", run="safealign_lab.distillation.studies:measure_knob",
        grid=[{"knob": knob, "value": value} for knob, values in KNOBS.items() for value in values], seeds=SEEDS, minutes=10,
        about="The linear student of the sentiment task, one knob of its losses turned at a time.",
    ),
    Study(
        name="sentiment_clipping", run="safealign_lab.distillation.studies:measure_clipping",
        grid={"clip": [1.0, None], "penalty_weight": [0.0, 0.01, 0.1], "learning_rate": [0.01, 0.3]}, seeds=SEEDS, minutes=5,
        about="The gradient penalty with and without clipping of the gradient, at a usual and at a far too large rate.",
    ),
    Study(
        name="sentiment_wrong_teachers", run="safealign_lab.distillation.studies:measure_wrong_teacher",
        grid={"teacher": list(TEACHERS), "way": ["KD alone", "KD + adversarial"], "temperature": [1.0, 4.0]}, seeds=SEEDS,
        minutes=5, about="Students of a teacher that is too sure of itself, too unsure, or leaning to one class.",
    ),
    Study(
        name="sentiment_geometry", run="safealign_lab.distillation.studies:measure_geometry",
        grid={"geometry": ["standardised", "centred"]}, seeds=SEEDS, minutes=1,
        about="The same noise on SmolLM2's features, standardised and only centred.",
    ),
    Study(
        name="sentiment_recovery", run="safealign_lab.distillation.studies:measure_recovery",
        grid={"loss": ["working", "printed"], "steps": [0, 25, 50, 100, 200, 400]}, seeds=SEEDS, minutes=3,
        about="How fast a student that is surely wrong recovers under the working and the printed distillation loss.",
    ),
    Study(
        name="sentiment_masking", run="safealign_lab.distillation.studies:measure_masking",
        grid={"way": ["KD alone", "KD + adversarial", "printed + adversarial"], "hidden": [None, 64]}, seeds=(0, 1, 2), minutes=5,
        about="Whether more of an attack ever does less: checks of the students against hidden gradients.",
    ),
)  # fmt: skip
