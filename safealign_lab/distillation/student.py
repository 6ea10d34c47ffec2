"""The student: a small head on frozen features, distilled from a teacher and trained on perturbed features.

It learns in under a second, so every knob of `Settings` can be turned while one looks at what it does.

Symbols: N texts, B of them in a batch, D numbers in a feature vector, C classes; τ temperature, ε perturbation radius,
α share of the clean inputs, λ weight of the gradient penalty, w_KD weight of the distillation, δ a perturbation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..divergence import kl
from ..training import History, Plan, Terms, train
from . import printed
from .losses import Direction, gradient_penalty, kd_loss, noise_robust_kd, noise_robust_loss, total_loss
from .perturbations import Loss, Perturbation, mean_norm, perturb

AIMED = Perturbation("fgsm", "l2", 0.1)  # for a linear head with two classes the worst there is; source: ours


@dataclass(frozen=True)
class Settings:
    """How a student is trained: w_KD · L_KD + L_NR + λ · R, by AdamW on standardised features.

    Args:
        temperature: τ > 0; up = the teacher's doubts count for more (`losses.kd_loss`).
        kd_weight: w_KD ≥ 0; up = closer to the teacher, further from the labels and from robustness.
        alpha: α in [0, 1]; up = more weight on the clean inputs within L_NR, less on the perturbed ones.
        penalty_weight: λ ≥ 0; up = a flatter student that learns more slowly. 0 does not compute R.
        perturbation: what the student meets in training; a larger ε = safer and less accurate. None = clean inputs alone.
        target: what L_NR holds the student to: the "labels", the "teacher"'s opinion of the clean input, or None, which
            leaves L_NR out (distillation alone). source: ours
        hidden: width of a hidden layer; up = more can be learnt, and more of what is no rule. None = a linear head.
        steps: updates; up = a closer fit.
        learning_rate: AdamW's peak; up = larger updates, a larger fit in as many steps.
        weight_decay: up = smaller weights, hence less sure of itself.
        clip: the largest gradient norm; down = large gradients count less. None = never clipped.
        batch: texts a step; up = steadier, slower steps. None = all of them.
        form: "working", or "printed": the losses as the source prints them, with their L_Reg if λ > 0.
        direction: of the distillation, as in `losses.kd_loss`; the printed form has its own.

    Raises:
        ValueError: a value is outside its range, or two do not fit each other.
    """

    temperature: float = 2.0
    kd_weight: float = 1.0
    alpha: float = 0.5
    penalty_weight: float = 0.0
    perturbation: Perturbation | None = AIMED
    target: Literal["labels", "teacher"] | None = "labels"
    hidden: int | None = None
    steps: int = 100
    learning_rate: float = 0.01
    weight_decay: float = 0.5
    clip: float | None = 1.0
    batch: int | None = 256
    form: Literal["working", "printed"] = "working"
    direction: Direction = "teacher||student"

    def __post_init__(self) -> None:
        known = {"target": ("labels", "teacher", None), "form": ("working", "printed")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, not {getattr(self, name)!r}.")
        for name in ("kd_weight", "penalty_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}.")
        for name in ("hidden", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or None, not {getattr(self, name)}.")
        if self.target is None and (self.perturbation or self.penalty_weight or not self.kd_weight):
            raise ValueError(
                "With target=None there is no L_NR: set perturbation=None, penalty_weight=0 and kd_weight above 0."
            )


class Head(nn.Module):
    """A classifier of feature vectors: W x + b, or with a hidden layer W₂ gelu(W₁ x + b₁) + b₂.

    Its last layer starts at 0: an untrained head has no opinion.

    Args:
        width: D of the features.
        classes: C.
        hidden: width of the hidden layer; up = bends more. None = none.
    """

    def __init__(self, width: int, classes: int, hidden: int | None = None) -> None:
        super().__init__()
        self.first = None if hidden is None else nn.Linear(width, hidden)
        self.last = nn.Linear(hidden or width, classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D)."""
        inner = features if self.first is None else F.gelu(self.first(features))  # (B, H)
        logits: Tensor = self.last(inner)  # (B, C)
        return logits


def baselines(settings: Settings) -> dict[str, Settings]:
    """The named ways to train one and the same head, each next to what is asked for in one respect.

    "KD + adversarial" is the settings themselves; "KD + random noise" has Gaussian noise of the same ε, "KD + labels" no
    noise, "KD alone" no labels either, "hard labels" no teacher. The two printed ones have the source's own losses: with
    the same noise, aimed by the labels that its losses lack, and with random noise, which tells them nothing.
    """
    noise = settings.perturbation
    random = noise and replace(noise, kind="gaussian")
    return {
        "hard labels": replace(settings, kd_weight=0.0, perturbation=None, target="labels"),
        "KD alone": replace(
            settings, kd_weight=settings.kd_weight or 1.0, perturbation=None, target=None, penalty_weight=0.0
        ),
        "KD + labels": replace(settings, perturbation=None),
        "KD + random noise": replace(settings, perturbation=random),
        "KD + adversarial": settings,
        "printed + random noise": replace(settings, perturbation=random, form="printed"),
        "printed + adversarial": replace(settings, form="printed"),
    }


def train_student(
    features: Tensor, labels: Tensor, teacher_logits: Tensor, settings: Settings, seed: int = 0,
    folder: str | Path | None = None, progress: bool = True,
) -> tuple[Head, History]:  # fmt: skip
    """Trains a head from nothing; two runs with the same arguments are bit-identical.

    Args:
        features: (N, D), standardised. ε is relative to their mean norm.
        labels: (N,), the right classes.
        teacher_logits: (N, C).
        settings: all that decides the outcome besides.
        seed: of the start, the batches and the noise.
        folder: where the checkpoint lives, as in `training.train`: a run that was stopped goes on there.
        progress: show a bar.

    Returns:
        The head in eval mode, and what happened at each step: the terms "kd", "noise_robust" and "penalty" (R).

    Raises:
        ValueError: the shapes do not fit.
        training.DivergedError: the loss is no longer finite.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1] or teacher_logits.shape[:1] != labels.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (features, labels, teacher_logits))
        raise ValueError(f"train_student takes features (N, D), labels (N,) and teacher_logits (N, C), not {shapes}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = Head(features.shape[1], teacher_logits.shape[1], settings.hidden).to(features.device)
    scale = mean_norm(features)

    def _loss(step: int, generator: torch.Generator) -> Terms:
        size = settings.batch
        some = slice(None) if size is None else torch.randint(len(features), (size,), generator=generator)  # (B,)
        return terms(head, features[some], labels[some], teacher_logits[some], settings, scale, generator)

    plan = Plan(
        steps=settings.steps, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, clip=settings.clip,
        seed=seed,
    )  # fmt: skip
    history = train(dict(head.named_parameters()), _loss, plan, folder=folder, progress=progress)
    return head.eval().requires_grad_(False), history


def terms(
    head: nn.Module, features: Tensor, labels: Tensor, teacher_logits: Tensor, settings: Settings, scale: float,
    generator: torch.Generator | None = None,
) -> Terms:  # fmt: skip
    """The loss of one batch and the terms it is made of, by name.

    Args:
        head: features (B, D) → logits (B, C).
        features, labels, teacher_logits: of the batch.
        settings: which losses, with which weights.
        scale: the mean norm of the training features, which ε is relative to.
        generator: of the noise.
    """
    clean_logits = head(features)  # (B, C)
    noisy_logits = clean_logits
    if settings.perturbation is not None:
        against = raised(head, labels, teacher_logits if settings.target == "teacher" else None)
        delta = perturb(features, against, settings.perturbation, scale, generator=generator)  # (B, D)
        noisy_logits = head(features + delta)  # (B, C)
    if settings.form == "printed":
        kd = printed.kd_loss(clean_logits, teacher_logits, settings.temperature)
        robust = printed.noise_robust_loss(clean_logits, noisy_logits, settings.alpha)
    else:
        kd = kd_loss(clean_logits, teacher_logits, settings.temperature, settings.direction)
        robust = _noise_robust(clean_logits, noisy_logits, labels, teacher_logits, settings)
    parts: Terms = {"kd": kd, "noise_robust": robust}
    if settings.penalty_weight:
        parts["penalty"] = gradient_penalty(robust, list(head.parameters()))
    weight = 1.0 if settings.form == "printed" else settings.kd_weight
    return {"loss": total_loss(kd, robust, parts.get("penalty", 0.0), weight, settings.penalty_weight), **parts}


def raised(head: Callable[[Tensor], Tensor], labels: Tensor, teacher_logits: Tensor | None = None) -> Loss:
    """What an attack on a head raises, one number (B,) an example: features (B, D) → cross-entropy with the labels.

    Args:
        head: the student.
        labels: (B,), the right classes.
        teacher_logits: (B, C); where given, the divergence KL(T ‖ S) from them takes the labels' place.
    """
    if teacher_logits is None:
        return lambda features: F.cross_entropy(head(features), labels, reduction="none")  # (B,)
    return lambda features: kl(teacher_logits, head(features), reduction="none")  # (B,)


def _noise_robust(
    clean_logits: Tensor, noisy_logits: Tensor, labels: Tensor, teacher_logits: Tensor, settings: Settings
) -> Tensor:
    if settings.target == "labels":
        return noise_robust_loss(clean_logits, noisy_logits, labels, settings.alpha)
    if settings.target == "teacher":
        return noise_robust_kd(clean_logits, noisy_logits, teacher_logits, settings.alpha)
    return torch.zeros((), device=clean_logits.device)
