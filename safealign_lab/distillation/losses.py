"""Losses of the distillation wing, in the forms that work: to the teacher, under noise, and on the gradient itself.

What a student head is trained by is `total_loss` of three terms: a knowledge-distillation term (`kd_loss`), a
noise-robust term (`noise_robust_loss` with labels, `noise_robust_kd` with a teacher), and a gradient penalty
(`gradient_penalty`, or `finite_difference_penalty` where a model cannot be differentiated twice). The equations as
they are printed stand in `printed.py`.

Symbols: B batch, C classes, τ temperature, δ a perturbation, θ all parameters, L a scalar loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chat import at_least_float32
from ..divergence import kl
from ..objectives import log_rest, masked_mean

Direction = Literal["teacher||student", "student||teacher"]
_ONCE_ONLY = ("NotImplemented", "Error")  # what autograd puts where an operation has no second derivative


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0,
    direction: Direction = "teacher||student", scaled: bool = True,
) -> Tensor:  # fmt: skip
    """Distillation: how far the student's distribution is from the teacher's, both at one temperature.

    L = τ² · mean over the batch of KL(T^τ ‖ S^τ), with p^τ = softmax(logits / τ)

    Args:
        student_logits, teacher_logits: (B, C). Hand the teacher's over detached, unless it should learn as well.
        temperature: τ > 0; up = softer distributions, in which the small probabilities count for more. Far up, only the
            differences between centred logits are compared.
        direction: "teacher||student" makes the student put mass wherever the teacher has some; "student||teacher" lets
            it settle on one of the teacher's modes, and hardly moves a student that is confidently wrong.
        scaled: the factor τ². The gradient of KL alone shrinks as 1/τ², so without the factor a higher temperature also
            weakens the term.

    Returns:
        A scalar ≥ 0, in nats for τ = 1.

    Raises:
        ValueError: the shapes differ, or temperature or direction are none.

    source: derived (direction, both tempered, τ²: the printed form has none of the three)
    """
    _same_shape(student_logits, teacher_logits)
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}; 1 leaves the distributions as they are.")
    pairs = {"teacher||student": (teacher_logits, student_logits), "student||teacher": (student_logits, teacher_logits)}
    if direction not in pairs:
        raise ValueError(f"direction must be one of {', '.join(map(repr, pairs))}, not {direction!r}.")
    p_logits, q_logits = (at_least_float32(logits) / temperature for logits in pairs[direction])  # (B, C)
    return kl(p_logits, q_logits) * (temperature**2 if scaled else 1.0)


def noise_robust_loss(clean_logits: Tensor, noisy_logits: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Cross-entropy with the labels, shared between an input and its perturbed copy.

    L = α · CE(y, p(x)) + (1 - α) · CE(y, p(x + δ)), each a mean over the batch

    Args:
        clean_logits, noisy_logits: (B, C), of x and of x + δ.
        labels: (B,), y: what is right for both.
        alpha: α in [0, 1]; up = less weight on the perturbed inputs. 1 is plain training, 0 sees perturbed inputs alone.

    Returns:
        A scalar ≥ 0 in nats.

    Raises:
        ValueError: the shapes differ, alpha is outside its range, or the labels are no whole numbers.

    source: derived (the printed form holds no label)
    """
    _need_pair(clean_logits, noisy_logits, alpha)
    if labels.is_floating_point():  # which cross-entropy would take for probabilities
        raise ValueError(
            "labels are whole numbers (B,), the right classes; for a teacher's logits use noise_robust_kd."
        )
    clean, noisy = (F.cross_entropy(at_least_float32(logits), labels) for logits in (clean_logits, noisy_logits))
    return alpha * clean + (1 - alpha) * noisy


def noise_robust_kd(clean_logits: Tensor, noisy_logits: Tensor, teacher_logits: Tensor, alpha: float) -> Tensor:
    """Divergence from the teacher's opinion of the clean input, shared between that input and its perturbed copy.

    L = α · KL(T(x) ‖ S(x)) + (1 - α) · KL(T(x) ‖ S(x + δ)), each a mean over the batch

    Args:
        clean_logits, noisy_logits: (B, C), the student's on x and on x + δ.
        teacher_logits: (B, C), on x.
        alpha: α in [0, 1]; up = less weight on the perturbed inputs.

    Returns:
        A scalar ≥ 0 in nats.

    Raises:
        ValueError: the shapes differ, or alpha is outside its range.

    source: derived
    """
    _need_pair(clean_logits, noisy_logits, alpha)
    _same_shape(clean_logits, teacher_logits)
    return alpha * kl(teacher_logits, clean_logits) + (1 - alpha) * kl(teacher_logits, noisy_logits)


def teacher_error_push(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """A push away from the classes that the teacher favours where it is wrong; an extension: no source has the equation.

    L = mean over the rows where ŷ = argmax T(x) ≠ y of -log(1 - p_S(ŷ | x))

    It contrasts the label with the teacher's own mistake, and counters what distillation copies of it. It is bounded in
    its gradient: a class that the student avoids already is pushed no further. With two classes it is the cross-entropy
    with the label on those rows.

    Args:
        student_logits, teacher_logits: (B, C).
        labels: (B,), y.

    Returns:
        A scalar ≥ 0 in nats; 0, with a gradient of 0, in a batch where the teacher is right throughout.

    source: ours
    """
    _same_shape(student_logits, teacher_logits)
    favoured = teacher_logits.argmax(dim=-1)  # (B,)
    return masked_mean(-log_rest(student_logits, favoured), favoured != labels)


def gradient_penalty(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The squared norm of the loss's gradient, itself differentiable: to be added to the loss, times a penalty λ.

    R(θ) = ‖∇_θ L(θ)‖² = Σ over parameters of (∂L/∂θ)²

    Its gradient needs second derivatives, so the graph of the first ones is kept (`create_graph`). Without that the
    penalty would be a constant, and would train nothing without a word. Add `penalty · R` with a larger penalty for a
    flatter, more slowly learning model.

    Args:
        loss: a scalar whose graph is still there.
        parameters: which to differentiate by; each must be part of the loss.

    Returns:
        A scalar ≥ 0.

    Raises:
        ValueError: the loss is no scalar, there are no parameters or they are in half precision; the loss does not
            depend on any of them twice (it is linear in all, or its graph was cut), so that the penalty could not
            train; or it has an operation without a second derivative, as PyTorch's fused attention.

    source: paper
    """
    if loss.dim() != 0 or not parameters:
        raise ValueError(f"gradient_penalty takes a scalar loss and at least one parameter, not {tuple(loss.shape)}.")
    _need_precise(parameters)
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=True)
    penalty = torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum()
    if not penalty.requires_grad:
        raise ValueError(
            "The gradient of this loss is constant, so its norm cannot be trained; pass a loss that is not linear."
        )
    if _differentiable_once_only(penalty):
        raise ValueError(
            "An operation of this model cannot be differentiated twice, most likely its fused attention (sdpa, flash): load "
            'the model with attn_implementation="eager", or use finite_difference_penalty, which needs first derivatives only.'
        )
    return penalty


def finite_difference_penalty(loss: Callable[[], Tensor], parameters: Sequence[Tensor], step: float = 1e-4) -> Tensor:
    """`gradient_penalty` for what cannot be differentiated twice: its value is exact, its gradient a central difference.

    ∇R(θ) ≈ ‖g‖ · (∇L(θ + hĝ) - ∇L(θ - hĝ)) / h, with g = ∇L(θ), ĝ = g / ‖g‖ and h = step · max(1, ‖θ‖)

    since ∇R = 2 · ∇²L · g, and the difference of two gradients along ĝ is 2h · ∇²L · ĝ up to terms in h³. The loss is evaluated
    and differentiated three times; the parameters are back, bit for bit, afterwards, also after an exception.

    Args:
        loss: evaluates the same scalar loss at whatever values the parameters have: on the same batch and with the same δ,
            drawn before. (An attack that is run anew at the moved parameters jumps, and h would divide the jump.) Dropout is
            the same at each call, since torch's random state is.
        parameters: leaf tensors, each part of the loss.
        step: relative to the norm of all parameters; up = less rounding, more curvature taken for a straight line. 1e-4
            suits float32, 1e-5 float64. Behind a backbone in bfloat16 take 1e-3, and expect a rough gradient.

    Returns:
        A scalar ≥ 0.

    Raises:
        ValueError: there are no parameters, they are in half precision, or step is not above 0.

    source: ours
    """
    if not parameters or not step > 0:
        raise ValueError(f"finite_difference_penalty takes at least one parameter and a step above 0, not {step}.")
    _need_precise(parameters)
    values = [parameter.detach().clone() for parameter in parameters]
    gradients = _gradients(loss, parameters)
    norm, size = _norm(gradients), _norm(values)
    distance = step * size.clamp(min=1)
    along = [gradient * (distance / norm.clamp(min=torch.finfo(norm.dtype).tiny)) for gradient in gradients]
    try:
        ahead, behind = (_gradients_at(loss, parameters, values, along, sign) for sign in (1, -1))
    finally:
        _put(parameters, values)
    slopes = [norm * (one - other) / distance for one, other in zip(ahead, behind, strict=True)]
    # A term that is 0 in value and has these slopes for its gradient.
    pairs = zip(slopes, parameters, values, strict=True)
    return norm**2 + torch.stack([(slope * (parameter - value)).sum() for slope, parameter, value in pairs]).sum()


def total_loss(
    kd: Tensor, noise_robust: Tensor, penalty: Tensor | float, kd_weight: float, penalty_weight: float
) -> Tensor:
    """What a student is trained by: L = w_KD · L_KD + L_NR + λ · R.

    Clipping is no part of it: that is a step of its own between the gradient and the update, `clip` in `training.Plan`.

    Args:
        kd: `kd_loss`.
        noise_robust: `noise_robust_loss` or `noise_robust_kd`.
        penalty: R, of either form; 0.0 where λ is 0 and R need not be computed.
        kd_weight: w_KD; up = closer to the teacher, further from the labels.
        penalty_weight: λ; up = a flatter, more slowly learning student.

    Returns:
        A scalar.

    source: derived (the printed sum has no weight on the distillation)
    """
    return kd_weight * kd + noise_robust + penalty_weight * penalty


def _need_pair(clean_logits: Tensor, noisy_logits: Tensor, alpha: float) -> None:
    _same_shape(clean_logits, noisy_logits)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], the share of the clean inputs, not {alpha}.")


def _same_shape(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:  # else they would be broadcast, and the loss be a plausible number
        raise ValueError(f"Both logits must have one shape, (B, C), not {tuple(one.shape)} and {tuple(other.shape)}.")


def _need_precise(parameters: Sequence[Tensor]) -> None:
    coarse = {str(parameter.dtype) for parameter in parameters if torch.finfo(parameter.dtype).bits < 32}
    if coarse:
        raise ValueError(
            f"The squares and differences of gradients in {', '.join(sorted(coarse))} are mostly rounding: keep the trained "
            "parameters in float32 (`.float()`)."
        )


def _differentiable_once_only(result: Tensor) -> bool:
    # `backward` would say so, but only later, and in words about an internal function
    seen, ahead = set(), [result.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name().rpartition("::")[2] in _ONCE_ONLY:
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False


def _gradients(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    with torch.enable_grad(), torch.random.fork_rng():  # each call begins with the same random state
        return torch.autograd.grad(loss(), list(parameters))


def _gradients_at(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], values: Sequence[Tensor], along: Sequence[Tensor], sign: int
) -> tuple[Tensor, ...]:  # fmt: skip
    _put(parameters, [value + sign * way for value, way in zip(values, along, strict=True)])
    return _gradients(loss, parameters)


def _put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        # Past autograd's count of versions: a graph made before holds these parameters, and they will be as they were.
        parameter.data.copy_(value)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.pow(2).sum() for tensor in tensors]).sum().sqrt()
