"""Losses of the distillation wing.

Symbols: any shape of parameters; θ all of them, L a scalar loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
        ValueError: the loss is no scalar, there are no parameters, or the loss does not depend on any of them twice (it
            is linear in all, or its graph was cut): then the penalty could not train.

    source: paper
    """
    if loss.dim() != 0 or not parameters:
        raise ValueError(f"gradient_penalty takes a scalar loss and at least one parameter, not {tuple(loss.shape)}.")
    gradients = torch.autograd.grad(loss, list(parameters), create_graph=True)
    penalty = torch.stack([gradient.pow(2).sum() for gradient in gradients]).sum()
    if not penalty.requires_grad:
        raise ValueError(
            "The gradient of this loss is constant, so its norm cannot be trained; pass a loss that is not linear."
        )
    return penalty
