"""KL and JSD: their defining properties, slow loops, and the ends of their ranges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.divergence import jsd, kl

seeds = st.integers(0, 10**6)
scales = st.sampled_from([0.1, 1.0, 10.0, 1e4])


def draw(seed, shape=(3, 4, 7), scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2)]


def softmax(logits):
    weights = [math.exp(z - max(logits)) for z in logits]
    return [weight / sum(weights) for weight in weights]


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(seed=seeds)
@settings(max_examples=30)
def test_both_equal_a_slow_loop_in_every_reduction(seed):
    p_logits, q_logits = draw(seed)
    mask = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)) < 0.6
    for function in (kl, jsd):
        values = torch.zeros(3, 4, dtype=torch.float64)
        for b, t in mask.nonzero().tolist():
            p, q = softmax(p_logits[b, t].tolist()), softmax(q_logits[b, t].tolist())
            m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
            values[b, t] = slow_kl(p, q) if function is kl else (slow_kl(p, m) + slow_kl(q, m)) / 2
        torch.testing.assert_close(function(p_logits, q_logits, mask=mask, reduction="none"), values)
        torch.testing.assert_close(function(p_logits, q_logits, mask=mask, reduction="sum"), values.sum())
        mean = values.sum() / max(1, int(mask.sum()))
        torch.testing.assert_close(function(p_logits, q_logits, mask=mask), mean)


@given(seed=seeds, scale=scales)
def test_kl_is_zero_at_identity_and_never_negative(seed, scale):
    p_logits, q_logits = draw(seed, scale=scale, dtype=torch.float32)
    assert kl(p_logits, p_logits) == 0
    assert (kl(p_logits, p_logits + 5.0, reduction="none").abs() <= 1e-6 * max(1, scale)).all()
    values = kl(p_logits, q_logits, reduction="none")
    assert values.isfinite().all()
    assert (values >= -1e-6).all()


def test_direction_matters():
    narrow, broad = torch.tensor([10.0, 0.0, 0.0]), torch.zeros(3)
    assert kl(narrow, broad).item() == pytest.approx(math.log(3), abs=0.01)
    assert kl(broad, narrow).item() == pytest.approx(20 / 3 - math.log(3), abs=0.01)


@given(seed=seeds)
def test_padding_and_batch_order_change_nothing(seed):
    p_logits, q_logits = draw(seed)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:] = False
    for function in (kl, jsd):
        plain = function(p_logits, q_logits, mask=mask)
        order = torch.tensor([2, 0, 1])
        torch.testing.assert_close(function(p_logits[order], q_logits[order], mask=mask[order]), plain)
        noisy = p_logits.masked_fill(~mask[..., None], torch.nan)
        torch.testing.assert_close(function(noisy, q_logits, mask=mask), plain)


@pytest.mark.parametrize("function", [kl, jsd])
def test_gradients_agree_with_finite_differences(function):
    p_logits, q_logits = (z.requires_grad_() for z in draw(0, (2, 3, 4)))
    mask = torch.tensor([[True, False, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda p, q: function(p, q, mask=mask), (p_logits, q_logits))


def test_tokens_masked_in_both_count_for_nothing_and_leave_the_gradient_finite():
    p_logits, q_logits = draw(0, (5, 6))
    for function in (kl, jsd):
        expected = function(p_logits, q_logits)
        wider = [torch.nn.functional.pad(z, (0, 2), value=-torch.inf).requires_grad_() for z in (p_logits, q_logits)]
        value = function(*wider)
        torch.testing.assert_close(value, expected)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, wider))


def test_ruling_out_what_p_allows_costs_infinitely_much_and_what_p_rules_out_costs_nothing():
    open_logits, closed = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -torch.inf])
    assert kl(open_logits, closed) == torch.inf
    assert kl(closed, open_logits).item() == pytest.approx(math.log(2))
    assert kl(torch.tensor([0.0, -1e4]), closed) == 0  # p is positive on paper, and zero in the machine


@given(seed=seeds, scale=scales)
def test_jsd_is_symmetric_and_bounded(seed, scale):
    p_logits, q_logits = draw(seed, scale=scale, dtype=torch.float32)
    values = jsd(p_logits, q_logits, reduction="none")
    torch.testing.assert_close(values, jsd(q_logits, p_logits, reduction="none"))
    assert (values >= -1e-6).all()
    assert (values <= math.log(2) + 1e-6).all()


def test_jsd_is_continuous_at_both_ends():
    start = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    step = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    near = [jsd(start, start + size * step).item() for size in (1e-1, 1e-2, 1e-3, 0.0)]
    assert near == sorted(near, reverse=True)
    assert near[-1] == 0
    assert near[1] / near[2] == pytest.approx(100, rel=0.05)  # it leaves 0 as the square of the step
    heads = torch.tensor([0.0, -1.0], dtype=torch.float64)
    gaps = [math.log(2) - jsd(size * heads, size * heads.flip(0)).item() for size in (5.0, 10.0, 20.0, 1e4)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == pytest.approx(0, abs=1e-12)
    disjoint = torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0])
    assert jsd(*disjoint).item() == pytest.approx(math.log(2))


def gradient_norm(teacher_logits, student_logits, temperature, factor):
    student = student_logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(factor * kl(teacher_logits / temperature, student / temperature), student)
    return gradient.norm().item()


@pytest.mark.parametrize("classes", [2, 3, 5, 10])
def test_tau_squared_keeps_the_gradient_within_thirty_percent(classes):
    # Moderate opinions and moderate disagreement. With confident teachers (logits spread by 2 or more) the gradient
    # grows more than that on the way from the difference of probabilities to the difference of logits.
    teacher, noise = draw(0, (512, classes))
    teacher, student = 0.7 * teacher, 0.7 * teacher + 0.5 * noise
    kept = [gradient_norm(teacher, student, tau, tau**2) for tau in (1, 2, 4, 8, 16)]
    plain = [gradient_norm(teacher, student, tau, 1) for tau in (1, 2, 4, 8, 16)]
    assert max(kept) / min(kept) < 1.3
    assert plain[0] / plain[-1] > 150


@pytest.mark.parametrize("function", [kl, jsd])
def test_a_wrong_mask_and_an_unknown_reduction_are_refused(function):
    p_logits, q_logits = draw(0)
    with pytest.raises(ValueError, match=r"one entry per position: \(3, 4\)"):
        function(p_logits, q_logits, mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="'none', 'sum' or 'mean', not 'batchmean'"):
        function(p_logits, q_logits, reduction="batchmean")


def test_half_precision_logits_are_compared_in_single_precision():
    p_logits, q_logits = (z.bfloat16() for z in draw(0))
    assert kl(p_logits, q_logits).dtype == torch.float32
    torch.testing.assert_close(kl(p_logits, q_logits), kl(p_logits.float(), q_logits.float()))
