"""A study of lesson 40 on SmolLM2: what each method costs beside the undefended model, in training, in time and in memory.

Seconds are those of the processor. Trainings take long, so some of their steps are timed, and the others counted.

Symbols: P length of a soft prompt, B rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from .. import data
from ..contrast.baselines import Method
from ..contrast.optimisation import Optimisation, Role, optimise
from ..contrast.real_studies import TRAINED, WRITTEN, method_of
from ..contrast.recipes import SMOLLM2
from ..contrast.shipped import real_model, training_anchors
from ..contrast.soft_prompts import initial
from ..distillation import features, gate_task, trunk
from ..distillation.gate_studies import NOISE, SETTINGS, gate_with
from ..distillation.student import train_student
from ..immunization.canaries import select
from ..immunization.cycle import align, immunize, trained_weights
from ..immunization.phases import Room, immunizing
from ..immunization.references import measure
from ..models import SMOLLM2 as BACKBONE
from ..studies.runner import Study
from ..studies.undefended import NEW_TOKENS
from ..training import Plan, train
from .real_study import CYCLE, DEFENCES, LEARNED, Setting, rounded, setting
from .tiny_lab import seconds_for_hundred, seconds_of, seconds_per_token
from .your_memory import of_streams

EPSILON, TEMPERATURE = 0.05, 2.0  # of the gate
GATE = f"gate, ε = {EPSILON:g}, τ = {TEMPERATURE:g}"
STEPS, REPEATS = 4, 3  # timed steps of a training; rounds of decoding, of which the fastest counts
BATCH, LONG = 16, 33
READ = 64  # texts whose reading is timed
COSTED = (*WRITTEN, *TRAINED, *DEFENCES, GATE)


def measure_costs(seed: int, method: str) -> dict[str, float]:
    """The costs of a method as in `points.Point`: "training" in answers to 100 requests, "time" of a token, "memory".

    Args:
        seed: of the trained prompts.
        method: one of `COSTED`. A defence in the weights changes no later cost, and a gate reads each request once, before
            any token.
    """
    if method in DEFENCES:
        return _ratios(_defence(method), 1.0, 1.0)
    plain = method_of("no system text", seed)
    if method == GATE:
        numbers = sum(weight.numel() for weight in gate_with(EPSILON, TEMPERATURE, seed).head.parameters())
        return _ratios(_gate(), 1.0, 1 + numbers * torch.float32.itemsize / _memory(plain))
    way = method_of(method, seed)
    trained = sum(
        _prompt(role) for role, short in (("safeguarding", "SP"), ("adversarial", "AP")) if _uses(method, short)
    )
    rounds = [(_per_token(plain), _per_token(way)) for _ in range(REPEATS)]
    plain_time, own_time = (min(column) for column in zip(*rounds, strict=True))
    return _ratios(trained, own_time / plain_time, _memory(way) / _memory(plain))


def _uses(method: str, short: str) -> bool:
    return short in method or (short == "SP" and method == "SafeDecoding")


def _ratios(trained: float, token: float, memory: float) -> dict[str, float]:
    return {"training": round(trained / _hundred(), 2), "time": round(token, 3), "memory": round(memory, 4)}


def _per_step(run: Callable[[int], Any]) -> float:
    """Seconds of a step of what takes a number of steps, without what it sets up."""
    first, more = seconds_of(partial(run, 1)), seconds_of(partial(run, 1 + STEPS))
    return (more - first) / STEPS


def _requests() -> list[str]:
    return [row["request"] for row in data.load("benign", "test")]


@cache
def _hundred() -> float:
    """The seconds in which the undefended model answers a hundred everyday requests."""
    return seconds_for_hundred(*real_model(), _requests(), system=None, batch_size=32)


def _per_token(method: Method) -> float:
    """Seconds for each token after the first, of answers that never end, in a batch."""
    answers = partial(method, *real_model(), _requests()[:BATCH], batch_size=BATCH, end_ids=(-1,))
    return seconds_per_token(lambda tokens: answers(max_new_tokens=tokens), LONG)


def _memory(method: Method) -> int:
    """Bytes of a batch at its end, as in `your_memory.of_streams`."""
    return of_streams(*real_model(), method.prompts, _requests()[:BATCH], NEW_TOKENS)


# ---------------------------------------------------------------- trainings


@cache
def _prompt(role: Role) -> float:
    """Of a prompt by its recipe: what the undefended model makes of the harmless anchors, and all steps."""
    (model, tokenizer), recipe = real_model(), SMOLLM2[role]
    began = time.process_time()
    ready = Optimisation(
        model, tokenizer, training_anchors(), role, recipe.per_step, recipe.objective, progress=False,
        rows_at_once=recipe.rows_at_once,
    )  # fmt: skip
    prepared = time.process_time() - began
    start = initial(model, tokenizer, recipe.text, recipe.length)  # (P, D)
    return prepared + recipe.steps * _per_step(lambda steps: optimise(ready, start, Plan(steps, recipe.learning_rate)))


@cache
def _defence(defence: str) -> float:
    """Of a defence in the weights; the cycle's also has the reference's log-probabilities, and the choice of canaries.

    Those of refusal-DPO, of four short answers a request, are left out.
    """
    of = setting()
    room = of.fresh()
    if defence in LEARNED:
        loss = rounded(immunizing(room, of.harmful, of.harmless, LEARNED[defence], CYCLE.first.steps))
        trained = trained_weights(room.student)
        return CYCLE.first.steps * _per_step(lambda steps: train(trained, loss, Plan(steps, 1e-6), progress=False))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return _known(of) + _cycle(of, room)


def _known(of: Setting) -> float:
    rows = [(row.request, side) for row in of.harmless for side in (row.chosen, row.rejected)]
    return seconds_of(lambda: measure(of.model, of.tokenizer, rows[:READ], None, progress=False)) * len(rows) / READ


def _cycle(of: Setting, room: Room) -> float:
    def _first(steps: int) -> dict[str, torch.Tensor]:
        settings = replace(CYCLE, first=Plan(steps, 1e-6))
        return immunize(room, of.harmful, of.harmless, settings, progress=False)[0]

    def _second(steps: int) -> None:
        settings = replace(CYCLE, second=Plan(steps, 1e-6))
        align(room, of.harmless, settings, canaries, scores, progress=False)

    scores = _first(1)
    canaries = select(scores, CYCLE.canary_fraction)
    choosing = seconds_of(lambda: select(scores, CYCLE.canary_fraction))
    return choosing + CYCLE.first.steps * _per_step(_first) + CYCLE.second.steps * _per_step(_second)


@cache
def _gate() -> float:
    """Of a gate: reading the training requests for it and for its teacher, the teacher's lines, and the student's steps."""
    task = gate_task.gate_task()
    texts = [row["request"] for row in task.train]
    seen, lines = gate_task.views(texts), gate_task.teacher_lines()
    labels, groups = task.labels.bool().tolist(), gate_task.groups(task.train)
    fitted = seconds_of(lambda: gate_task.cross_fit(seen, lines, labels, groups))
    settings = replace(SETTINGS, perturbation=replace(NOISE, epsilon=EPSILON), temperature=TEMPERATURE)
    student = seconds_of(
        lambda: train_student(task.features, task.labels, task.teacher_logits, settings, 0, progress=False)
    )
    return _reading(texts) + fitted + student


def _reading(texts: Sequence[str]) -> float:
    """Of the gate's layer, and of its teacher's layers of two models, as they are read where no cache has them."""
    seconds = 0.0
    for name, layer, dtype, template in (
        (BACKBONE, gate_task.LAYER, torch.bfloat16, gate_task.TEMPLATE),
        (BACKBONE, gate_task.TEACHER_LAYERS, torch.bfloat16, gate_task.TEMPLATE),
        ("minilm", gate_task.MINILM_LAYERS, torch.float32, None),
    ):
        model, tokenizer = features.backbone(name, dtype)
        rows = trunk.encode(tokenizer, texts[:READ], template)
        seconds += seconds_of(partial(trunk.extract, model, tokenizer, rows, layer, progress=False))
    return seconds * len(texts) / READ


STUDIES = (
    Study(
        name="smollm2_costs",
        run="safealign_lab.one_plot.real_costs:measure_costs",
        grid={"method": list(COSTED)},
        seeds=(0,),
        minutes=20,
        about="What each method of SmolLM2 costs in training, in time of a token and in memory, beside the undefended model.",
        reads=("english", "prompts"),
    ),
)
