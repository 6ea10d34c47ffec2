"""The gradient penalty: its value, and its own gradient, against closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.distillation.losses import gradient_penalty


def head_loss(weight, bias, features, labels):
    return F.cross_entropy(features @ weight + bias, labels)


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_value_and_gradient_agree_with_finite_differences_in_float64(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64)  # (B, D)
    labels = torch.randint(4, (5,), generator=generator)  # (B,)
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)  # (D, C)
    bias = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)  # (C,)

    def penalty(w, b):
        return gradient_penalty(head_loss(w, b, features, labels), [w, b])

    step, slow = 1e-6, 0.0
    for parameter in (weight, bias):
        for place in range(parameter.numel()):
            moved = []
            for sign in (1, -1):
                shifted = parameter.detach().clone()
                shifted.view(-1)[place] += sign * step
                pair = (shifted, bias) if parameter is weight else (weight, shifted)
                moved.append(head_loss(*pair, features, labels).item())
            slow += ((moved[0] - moved[1]) / (2 * step)) ** 2
    assert penalty(weight, bias).item() == pytest.approx(slow, rel=1e-6)
    assert torch.autograd.gradcheck(penalty, (weight, bias))


def test_it_has_a_gradient_and_descending_it_flattens_the_loss():
    point = torch.tensor([3.0, -2.0], requires_grad=True)
    penalty = gradient_penalty((point**2).sum(), [point])
    assert penalty.item() == pytest.approx(4 * (9 + 4))  # ‖2θ‖²
    penalty.backward()
    assert torch.allclose(point.grad, 8 * point.detach())


def test_a_penalty_that_could_not_train_is_refused():
    point = torch.tensor([3.0, -2.0], requires_grad=True)
    with pytest.raises(ValueError, match="constant"):
        gradient_penalty(point.sum(), [point])
    with pytest.raises(ValueError, match="scalar loss"):
        gradient_penalty(point**2, [point])
    with pytest.raises(ValueError, match="at least one parameter"):
        gradient_penalty((point**2).sum(), [])
