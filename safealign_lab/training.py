"""The one training loop: AdamW under a schedule, clipped, logged, checkpointed, and resumed bit for bit.

Steps are counted from 1: step s makes the s-th update, and `evaluate(s)` sees the weights after it.

Chance has two streams, and both depend on (seed, s) alone: the generator handed to the loss (it draws the batch), and
torch's global stream (it draws dropout). So the batch of any step can be drawn again without the steps before it, and a
checkpoint needs no generator's state. A loss that draws from elsewhere (`random`, NumPy) is not resumed exactly.

Symbols: S steps, s one step, W warm-up steps, r floor ratio, m(s) multiplier of the learning rate, N numbers in all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

Terms = dict[str, torch.Tensor]  # "loss" is minimised, every other term is logged
LossFunction = Callable[[int, torch.Generator], torch.Tensor | Terms]
Gradient = Callable[[Callable[[], Terms]], Terms]
Hook = Callable[[int], None]
Evaluate = Callable[[int], Mapping[str, float]]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
    "linear": lambda u: 1 - u,
    "constant": lambda u: 1.0,
}


class DivergedError(ValueError):
    """A loss, a gradient or an evaluation is no longer finite."""


class ResumeError(ValueError):
    """The checkpoint in the folder belongs to another run."""


@dataclass(frozen=True)
class Plan:
    """How to train: two runs of one plan, one loss and one start are bit-identical (same machine, same thread count).

    The learning rate of step s is `learning_rate · m(s)`, where m(s) = s / (W + 1) up to step W, and then, with
    u = (s − W − 1) / (S − W) from 0 towards 1, r + (1 − r) · shape(u): (1 + cos πu) / 2, 1 − u, or 1. It is never zero.

    Args:
        steps: S, the number of updates; up = longer training, and a schedule stretched over it.
        learning_rate: the peak; up = larger updates, faster and at some point divergent.
        schedule: "cosine", "linear" or "constant".
        warmup: W, steps before the peak; up = a gentler start. 0 starts at the peak.
        floor: r in [0, 1], the ratio that the rate falls towards; up = larger updates at the end.
        clip: the largest gradient norm, over all parameters; down = large gradients count less. None = never clipped.
        weight_decay: AdamW's decoupled decay; up = weights are drawn harder to zero.
        betas: AdamW's memory of the gradient and of its square; up = smoother and slower.
        seed: what every batch and every dropout mask derives from.
        checkpoint_every: steps between checkpoints; down = a kill loses less. None = only at the end and on Ctrl-C.
        evaluate_every: steps between evaluations. None = only after the last step, where there is always one.
        patience: stop after this many evaluations in a row without a better score, and end with the best weights;
            up = waits longer. None = never stop early, and end with the last weights.

    Raises:
        ValueError: a value is outside its range.
    """

    steps: int
    learning_rate: float
    schedule: str = "cosine"
    warmup: int = 0
    floor: float = 0.0
    clip: float | None = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    checkpoint_every: int | None = None
    evaluate_every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        _need(self.steps >= 1, f"steps must be at least 1, not {self.steps}")
        _need(0 < self.learning_rate < math.inf, f"learning_rate must be positive, not {self.learning_rate}")
        _need(self.schedule in SCHEDULES, f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        _need(0 <= self.warmup < self.steps, f"warmup must be in [0, steps = {self.steps}), not {self.warmup}")
        _need(0 <= self.floor <= 1, f"floor must be in [0, 1] (a ratio of learning_rate), not {self.floor}")
        _need(self.clip is None or self.clip > 0, f"clip must be positive, or None for no clipping, not {self.clip}")
        _need(0 <= self.weight_decay < math.inf, f"weight_decay must be 0 or more, not {self.weight_decay}")
        _need([0 <= beta < 1 for beta in self.betas] == [True, True], f"betas must be two in [0, 1), not {self.betas}")
        for name in ("checkpoint_every", "evaluate_every", "patience"):
            value = getattr(self, name)
            _need(value is None or value >= 1, f"{name} must be at least 1, or None, not {value}")
        _need(self.patience is None or self.evaluate_every is not None, "patience needs evaluate_every: set both")

    def multiplier(self, step: int) -> float:
        """m(s): the learning rate of step s (1 … S) as a share of its peak."""
        if step <= self.warmup:
            return step / (self.warmup + 1)
        share = (step - self.warmup - 1) / (self.steps - self.warmup)
        return self.floor + (1 - self.floor) * SCHEDULES[self.schedule](share)


@dataclass(frozen=True)
class Group:
    """Parameters (name → tensor) with a peak learning rate and weight decay of their own; None = the plan's.

    All groups share m(s), and are clipped together.
    """

    parameters: Mapping[str, torch.Tensor]
    learning_rate: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        _need(rate is None or 0 < rate < math.inf, f"a group's learning_rate must be positive, not {rate}")
        _need(decay is None or 0 <= decay < math.inf, f"a group's weight_decay must be 0 or more, not {decay}")


@dataclass
class History:
    """What happened, one row a step, ready for JSON.

    A row holds `step`, `loss`, `terms` (name → value), `learning_rate` (the plan's, times m(s)), `gradient_norm`
    (before clipping), `seconds`, and, where there was one, `evaluation` (name → value).
    """

    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the highest score, the first of equals; None without any evaluation."""
        evaluated = (row for row in self.rows if "evaluation" in row)
        return max(evaluated, key=lambda row: float(row["evaluation"]["score"]), default=None)


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, and restores none of them afterwards.

    `train` does not need it: it seeds torch itself at each step, and leaves torch's generators as it found them.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator that `train` hands to the loss at this step: it draws the batch again without the steps before."""
    return torch.Generator().manual_seed(_derived(seed, step, "batch"))


def weights_hash(weights: torch.nn.Module | Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names (sorted), dtypes, shapes and bytes: equal exactly where the weights are bit-identical.

    Args:
        weights: a mapping from name to tensor, or a module (its `state_dict`: parameters and persistent buffers).
    """
    tensors = weights.state_dict() if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # (N,)
        digest.update(flat.view(torch.uint8).numpy())  # (4N,) for float32
    return digest.hexdigest()


def backward(closure: Callable[[], Terms]) -> Terms:
    """The ordinary gradient: evaluates the loss once, and adds its gradient to each parameter's `.grad`."""
    terms = closure()
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    return terms


def train(
    parameters: Mapping[str, torch.Tensor] | Sequence[Group],
    loss_fn: LossFunction,
    plan: Plan,
    *,
    gradient: Gradient = backward,
    after_step: Hook | None = None,
    evaluate: Evaluate | None = None,
    buffers: Mapping[str, torch.Tensor] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Minimises the loss in place with AdamW; with a folder, a run that was killed or stopped goes on where it was.

    A method that needs more than the plain gradient replaces `gradient` by a function around `backward`. The closure
    draws the same batch and the same dropout each time that it is called within a step:

        def masked(closure):                                def at_perturbed_weights(closure):
            terms = backward(closure)                           with perturbed(weights, 0.01, loss):
            weight.grad.mul_(mask)                                  return backward(closure)
            return terms

    A zeroed gradient still drifts under AdamW's momentum and decay: to hold weights, write them back in `after_step`.

    Args:
        parameters: name → leaf tensor that requires a gradient, or a sequence of `Group`. Tied tensors count once.
            What is not named is not trained; freeze it, or it gathers gradients in vain.
        loss_fn: (step, generator) → the loss, or a dict of "loss" and further terms to log. Draws its batch from the
            generator; chooses the model's mode (dropout or not) itself.
        plan: steps, rates and all else that decides the outcome.
        gradient: closure → terms, leaving the gradient in `.grad`; clipping comes after it.
        after_step: called with the step after each update, under `no_grad`: masked updates, projections.
        evaluate: step → numbers, one of them "score" (higher is better); leaves the model's mode as it found it.
        buffers: name → other tensors that change on the way (what a hook accumulates), saved and resumed with the run.
        folder: where the checkpoint lives. It belongs to one run: one start, loss and plan. A finished run is only
            read back. On Ctrl-C the step under way ends and is saved; a second Ctrl-C does not wait for it.
        progress: show a bar with what is left.

    Raises:
        DivergedError: something is not finite; the last checkpoint is kept.
        ResumeError: the folder holds a run with other settings.
        ValueError: parameters, loss or evaluation do not fit.
    """
    _need(bool(evaluate) or plan.evaluate_every is None, "the plan has evaluate_every: pass evaluate to train as well")
    run = _Run(_untied(parameters), dict(buffers or {}), plan, None if folder is None else Path(folder))
    with torch.random.fork_rng():
        run.resume()
        with tqdm(total=plan.steps, initial=run.step, desc="training", unit="step", disable=not progress) as bar:
            try:
                run.settle(evaluate)
                while not run.finished():
                    with _finishing():
                        run.advance(loss_fn, gradient, after_step)
                    bar.update()
                    bar.set_postfix(loss=f"{run.history.rows[-1]['loss']:.4g}", refresh=False)
                    run.settle(evaluate)
            except KeyboardInterrupt:
                run.save()
                raise
    run.save()
    for name, best in run.best.items():
        run.parameters[name].data.copy_(best)
    return run.history


class _Run:
    """The state of one run, all of which its checkpoint holds: weights, best weights, buffers, optimizer, history."""

    def __init__(self, groups: list[Group], buffers: dict[str, torch.Tensor], plan: Plan, folder: Path | None) -> None:
        self.plan, self.history, self.file = plan, History(), folder and folder / "checkpoint.safetensors"
        self.torn = self.unsaved = False  # torn: within an update; unsaved: ahead of the checkpoint
        self.parameters = {name: tensor for group in groups for name, tensor in group.parameters.items()}
        self.best = {name: p.detach().clone() for name, p in self.parameters.items()} if plan.patience else {}
        kinds = {"parameter": self.parameters, "best": self.best, "buffer": buffers}
        self.tensors = {f"{kind}/{name}": tensor for kind, named in kinds.items() for name, tensor in named.items()}
        self.settings = {**dataclasses.asdict(plan), "betas": list(plan.betas), "buffers": sorted(buffers)}
        options = []
        for group in groups:
            rate = plan.learning_rate if group.learning_rate is None else group.learning_rate
            decay = plan.weight_decay if group.weight_decay is None else group.weight_decay
            options.append({"params": [*group.parameters.values()], "lr": rate, "weight_decay": decay, "peak": rate})
            for name, p in group.parameters.items():
                self.settings[f"parameter {name}"] = f"{p.dtype} {tuple(p.shape)}, rate {rate}, decay {decay}"
        self.optimizer = torch.optim.AdamW(options, betas=plan.betas)

    @property
    def step(self) -> int:
        """The number of updates made."""
        return len(self.history.rows)

    def advance(self, loss_fn: LossFunction, gradient: Gradient, after_step: Hook | None) -> None:
        """One update and its row."""
        began, step, multiplier = time.perf_counter(), self.step + 1, self.plan.multiplier(self.step + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * multiplier
        self.optimizer.zero_grad()
        torch.manual_seed(_derived(self.plan.seed, step, "dropout"))  # for a gradient that draws before the loss does
        terms = gradient(lambda: _terms(loss_fn, self.plan.seed, step))
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.plan.clip or math.inf))
        _need_finite(step, "gradient", {"norm": norm})
        self.torn = True
        self.optimizer.step()
        if after_step is not None:
            with torch.no_grad():
                after_step(step)
        values = {name: torch.as_tensor(value).item() for name, value in terms.items()}
        row = {"step": step, "loss": values.pop("loss"), "terms": values}
        row |= {"learning_rate": self.plan.learning_rate * multiplier, "gradient_norm": norm}
        self.history.rows.append({**row, "seconds": time.perf_counter() - began})
        self.torn, self.unsaved = False, True

    def settle(self, evaluate: Evaluate | None) -> None:
        """What is due after a step and not done yet: an evaluation, then a checkpoint."""
        if not self.step:
            return
        row, plan = self.history.rows[-1], self.plan
        due = self.step == plan.steps or (plan.evaluate_every and self.step % plan.evaluate_every == 0)
        if evaluate is not None and due and "evaluation" not in row:
            values, former = _evaluation(evaluate, plan.seed, self.step), self.history.best
            if former is None or values["score"] > former["evaluation"]["score"]:
                for name, best in self.best.items():
                    best.copy_(self.parameters[name].detach())
            row["evaluation"], self.unsaved = values, True  # last, so that a Ctrl-C before it repeats the whole
        if plan.checkpoint_every and self.step % plan.checkpoint_every == 0:
            self.save()

    def finished(self) -> bool:
        """Whether all steps are made, or patience is at its end."""
        best = self.history.best if self.plan.patience else None
        waited = sum("evaluation" in row for row in self.history.rows[best["step"] :]) if best else 0
        return self.step == self.plan.steps or waited >= (self.plan.patience or math.inf)

    def save(self) -> None:
        """Writes one file and moves it into place, so that a kill leaves the former checkpoint or the new one."""
        if self.file is None or self.torn or not self.unsaved:
            return
        tensors = dict(self.tensors)
        for name, parameter in self.parameters.items():
            tensors |= {f"adamw/{key}/{name}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        record = json.dumps({"settings": self.settings, "rows": self.history.rows}, allow_nan=False)
        partial = self.file.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, partial, {"run": record})
        os.replace(partial, self.file)
        self.unsaved = False

    def resume(self) -> None:
        """Takes the checkpoint's state over, if there is one."""
        if self.file is None or not self.file.exists():
            return
        with safe_open(self.file, "pt") as stored, torch.no_grad():
            record = json.loads(stored.metadata()["run"])
            _need_same(record["settings"], self.settings, self.file)
            self.history.rows = record["rows"]
            for key in stored.keys():  # noqa: SIM118 (a file, not a dict)
                if key in self.tensors:
                    self.tensors[key].copy_(stored.get_tensor(key))
                else:  # AdamW's state, whose count of steps stays on the CPU
                    _, kind, name = key.split("/", 2)
                    device = "cpu" if kind == "step" else self.parameters[name].device
                    moment = stored.get_tensor(key).to(device, copy=True)  # the file's own memory ends with the file
                    self.optimizer.state[self.parameters[name]][kind] = moment


def _untied(parameters: Mapping[str, torch.Tensor] | Sequence[Group]) -> list[Group]:
    """As groups, each tensor once under the first of its names."""
    groups = [Group(parameters)] if isinstance(parameters, Mapping) else parameters
    names = [name for group in groups for name in group.parameters]
    _need(bool(names), "there is nothing to train: pass at least one parameter")
    _need(len(names) == len(set(names)), f"two groups share a name: give each of {sorted(names)} a name of its own")
    untied = []
    for group in groups:
        once: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in group.parameters.items():
            fit = tensor.requires_grad and tensor.is_leaf
            _need(fit, f"{name!r} cannot be trained: pass a leaf tensor that requires a gradient, or leave it out")
            once.setdefault(id(tensor), (name, tensor))
        untied.append(dataclasses.replace(group, parameters=dict(once.values())))
    return untied


def _terms(loss_fn: LossFunction, seed: int, step: int) -> Terms:
    torch.manual_seed(_derived(seed, step, "dropout"))
    output = loss_fn(step, step_generator(seed, step))
    terms = output if isinstance(output, dict) else {"loss": output}
    _need("loss" in terms, f"step {step}: loss_fn returned {sorted(terms)} without the key 'loss'")
    parts_first = sorted(terms, key=lambda name: name == "loss")  # where a part is not finite, the sum is not either
    _need_finite(step, "loss", {name: torch.as_tensor(terms[name]).item() for name in parts_first})
    _need(terms["loss"].requires_grad, f"step {step}: the loss does not depend on any tensor that requires a gradient")
    return terms


def _evaluation(evaluate: Evaluate, seed: int, step: int) -> dict[str, float]:
    torch.manual_seed(_derived(seed, step, "evaluation"))
    values = {name: float(value) for name, value in evaluate(step).items()}
    _need("score" in values, f"step {step}: evaluate returned {sorted(values)} without 'score' (higher is better)")
    _need_finite(step, "evaluation", values)
    return values


def _need(condition: bool, sentence: str, error: type[ValueError] = ValueError) -> None:
    if not condition:
        raise error(sentence)


def _need_finite(step: int, what: str, values: Mapping[str, float]) -> None:
    advice = "lower the learning rate, warm up longer, or look at this step's batch"
    for name, value in values.items():
        sentence = f"training stops at step {step}, where {name!r} of the {what} is {value}: {advice}"
        _need(math.isfinite(value), sentence, DivergedError)


def _need_same(stored: Mapping[str, Any], settings: Mapping[str, Any], file: Path) -> None:
    other = [name for name in {**settings, **stored} if settings.get(name, "absent") != stored.get(name, "absent")]
    changes = [f"{name} was {stored.get(name, 'absent')}, now {settings.get(name, 'absent')}" for name in other]
    advice = "keep the settings, or give another folder"
    _need(not other, f"{file} holds another run ({'; '.join(changes[:3])}): {advice}", ResumeError)


def _derived(seed: int, step: int, purpose: str) -> int:
    """A hash, since with seed + step the streams of two seeds would overlap."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()[:7], "big")


@contextmanager
def _finishing() -> Iterator[None]:
    """Holds the first Ctrl-C back until the block has ended: a step half made could not be resumed exactly."""
    former, held = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return

    def _hold(number: int, frame: object) -> None:
        held.append(number)
        signal.signal(number, former)  # so that a second one is dealt with as ever

    signal.signal(signal.SIGINT, _hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if held:
        signal.raise_signal(held[0])
