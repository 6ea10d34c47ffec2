"""Distillation: a small student head on a frozen backbone, drawn to a teacher's opinions, and steadied against bounded noise.

A backbone reads the texts once (`distillation.features`), a teacher says how sure it is of each, and `train_student` sums
three losses: the distance from the teacher, the cross-entropy under `perturb`'s noise, the gradient's own size. `measure`
attacks what came of it, and `masking_checks` doubts the attack. The source's equations stand in `distillation.printed`,
noise in the letters and words themselves in `distillation.text_noise`.
"""

from .attacks import Attacked, MaskingCheck, attack, masking_checks
from .features import Standardiser
from .losses import (
    finite_difference_penalty,
    gradient_penalty,
    kd_loss,
    noise_robust_kd,
    noise_robust_loss,
    teacher_error_push,
    total_loss,
)
from .perturbations import Perturbation, loss_curve, mean_norm, perturb, random_control
from .quality import Estimate, Quality, accuracy, alignment, calibration_error, measure, safety
from .student import Head, Settings, baselines, train_student
from .teacher import answer_logits

__all__ = [
    "Attacked", "Estimate", "Head", "MaskingCheck", "Perturbation", "Quality", "Settings", "Standardiser", "accuracy",
    "alignment", "answer_logits", "attack", "baselines", "calibration_error", "finite_difference_penalty", "gradient_penalty",
    "kd_loss", "loss_curve", "masking_checks", "mean_norm", "measure", "noise_robust_kd", "noise_robust_loss", "perturb",
    "random_control", "safety", "teacher_error_push", "total_loss", "train_student",
]  # fmt: skip
