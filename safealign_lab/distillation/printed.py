"""A shelf: the distillation's equations exactly as the source prints them, to be measured and not to be used.

What each one does instead of what it is for stands in its docstring; the forms that work are in `losses.py`.

Symbols: B batch, C classes, τ temperature; ŷ the student's prediction on an input, ỹ the one on its perturbed copy, ŷ_T
the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..divergence import kl
from .losses import gradient_penalty


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Σ KL(ŷ ‖ ŷ_T), the teacher alone softened by τ: a student that is confidently wrong gets next to no gradient.

    The student's own probability weighs every term, so what it has ruled out is not missed; and it is drawn to the
    softened teacher as if that were the teacher's opinion. There is no τ².

    Args:
        student_logits, teacher_logits: (B, C).
        temperature: up = a softer teacher, and a softer student.

    source: paper
    """
    return kl(student_logits, teacher_logits / temperature, reduction="sum")


def noise_robust_loss(clean_logits: Tensor, noisy_logits: Tensor, alpha: float) -> Tensor:
    """Σ -α ŷ log ŷ - (1 - α) ỹ log ỹ: the entropy of the predictions, which says nothing about what is right.

    There is neither a label nor a teacher in it. To minimise it is to sharpen whatever is on top, right or wrong.

    Args:
        clean_logits, noisy_logits: (B, C), of x and of x + δ.
        alpha: up = less weight on the entropy of the perturbed inputs' predictions.

    source: paper
    """
    return alpha * _entropy(clean_logits) + (1 - alpha) * _entropy(noisy_logits)


def regulariser(loss: Tensor, parameters: Sequence[Tensor], weight: float) -> Tensor:
    """λ · ‖∇_θ L_NR‖², of the printed L_NR: as pleased by an overconfident student as by one without an opinion.

    An entropy is flat at both of its ends, where all classes are alike and where one has everything.

    Args:
        loss: L_NR.
        parameters: θ.
        weight: λ; up = a stronger pull to the nearer of the two ends.

    source: paper
    """
    return weight * gradient_penalty(loss, parameters)


def detached_regulariser(loss: Tensor, parameters: Sequence[Tensor], weight: float) -> Tensor:
    """The same number, as an implementation without `create_graph` has it: a constant, which trains nothing at any λ.

    Args:
        loss, parameters, weight: as in `regulariser`; a larger weight makes the loss look larger.

    source: paper
    """
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=True)
    return weight * torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum()


def total_loss(kd: Tensor, noise_robust: Tensor, regulariser: Tensor) -> Tensor:
    """L_KD + L_NR + L_Reg: no weight on the distillation, though the source's own figure varies one.

    source: paper
    """
    return kd + noise_robust + regulariser


def _entropy(logits: Tensor) -> Tensor:
    logps = logits.log_softmax(dim=-1)  # (B, C)
    return -(logps.exp() * logps).sum()
