"""The shared losses against slow loops, finite differences and extremes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab import chat, objectives

seeds = st.integers(0, 10**6)


def draw(seed, rows=3, length=6, vocabulary=9, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, length, vocabulary, generator=generator, dtype=torch.float64)
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.5
    mask[0, 1] = True  # never degenerate: at least one token counts, and the first column never does
    return logits, ids, mask


def probabilities(logits, ids, mask):
    """p of each marked token, by plain arithmetic."""
    found = []
    for b in range(len(ids)):
        for t in range(1, ids.shape[1]):
            if mask[b, t]:
                weights = [math.exp(z) for z in logits[b, t - 1].tolist()]
                found.append(weights[ids[b, t]] / sum(weights))
    return found


@given(seed=seeds)
@settings(max_examples=40)
def test_both_losses_equal_slow_loops(seed):
    logits, ids, mask = draw(seed)
    p = probabilities(logits, ids, mask)
    expected = sum(-math.log(x) for x in p) / len(p)
    assert objectives.negative_log_likelihood(logits, ids, mask).item() == pytest.approx(expected, rel=1e-9)
    expected = sum(-math.log(1 - x) for x in p) / len(p)
    assert objectives.unlikelihood(logits, ids, mask).item() == pytest.approx(expected, rel=1e-9)


def test_likelihood_follows_the_same_convention_as_the_sequence_log_probability():
    logits, ids, mask = draw(1)
    total = -chat.response_logps(logits, ids, mask).sum() / mask[:, 1:].sum()
    torch.testing.assert_close(objectives.negative_log_likelihood(logits, ids, mask), total)


@pytest.mark.parametrize("loss", [objectives.negative_log_likelihood, objectives.unlikelihood])
def test_gradients_agree_with_finite_differences(loss):
    logits, ids, mask = draw(2, rows=2, length=4, vocabulary=5)
    assert torch.autograd.gradcheck(lambda z: loss(z, ids, mask), logits.requires_grad_())


@pytest.mark.parametrize("loss", [objectives.negative_log_likelihood, objectives.unlikelihood])
def test_an_empty_mask_costs_nothing_and_still_has_a_gradient(loss):
    logits, ids, mask = draw(3)
    value = loss(logits.requires_grad_(), ids, torch.zeros_like(mask))
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient == 0).all()


@pytest.mark.parametrize("loss", [objectives.negative_log_likelihood, objectives.unlikelihood])
def test_padding_and_row_order_change_nothing(loss):
    logits, ids, mask = draw(4)
    mask[:, 0] = False  # a first token has no context, and would get one from the padding
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(loss(logits[order], ids[order], mask[order]), loss(logits, ids, mask))
    width = (3, 2)  # columns of padding on the left and on the right, full of nonsense
    padded = torch.nn.functional.pad(logits, (0, 0, *width), value=7.0)
    columns = torch.nn.functional.pad(ids, width), torch.nn.functional.pad(mask, width)
    torch.testing.assert_close(loss(padded, *columns), loss(logits, ids, mask))


# ---------------------------------------------------------------- unlikelihood at its extremes


def single(z, dtype=torch.float32):
    """Unlikelihood of token 0 where its logit is z and four others have 0, and its gradient."""
    logits = torch.zeros(1, 2, 5, dtype=dtype)
    logits[0, 0, 0] = z
    logits.requires_grad_()
    value = objectives.unlikelihood(logits, torch.tensor([[1, 0]]), torch.tensor([[True, True]]))
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikelihood_is_right_at_logits_of_ten_thousand(dtype):
    value, gradient = single(1e4, dtype)  # p rounds to 1, and 1 - p = 4 e^-10000
    assert value.item() == pytest.approx(1e4 - math.log(4), rel=1e-6)
    assert gradient[0, 0, 0].item() == pytest.approx(1)
    assert gradient[0, 0, 1:].tolist() == pytest.approx([-0.25] * 4)
    value, gradient = single(-1e4, dtype)
    assert value.item() == 0
    assert gradient.isfinite().all()


def test_unlikelihood_keeps_the_digits_of_tiny_probabilities():
    value, _ = single(-30.0)  # 1 - p rounds to 1 in single precision, -log(1 - p) must not round to 0
    assert value.item() == pytest.approx(math.exp(-30) / 4, rel=1e-5)


@given(seed=seeds, scale=st.sampled_from([1.0, 30.0, 1e4]))
@settings(max_examples=40)
def test_unlikelihood_is_finite_nonnegative_and_only_ever_pushes_the_token_down(seed, scale):
    logits, ids, mask = draw(seed, rows=1, length=2, scale=scale)
    value = objectives.unlikelihood(logits.float().requires_grad_(), ids, mask)
    assert value.isfinite()
    assert value >= 0
    leaf = logits.float().requires_grad_()
    (gradient,) = torch.autograd.grad(objectives.unlikelihood(leaf, ids, mask), leaf)
    assert gradient.isfinite().all()
    assert gradient[0, 0, ids[0, 1]] >= 0
    others = gradient[0, 0].clone()
    others[ids[0, 1]] = 0
    assert (others <= 0).all()


# ---------------------------------------------------------------- means and mixtures


@given(seed=seeds)
def test_masked_mean_equals_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    values, mask = torch.randn(4, 5, generator=generator), torch.rand(4, 5, generator=generator) < 0.3
    kept = [value for value, counts in zip(values.flatten().tolist(), mask.flatten().tolist(), strict=True) if counts]
    expected = sum(kept) / len(kept) if kept else 0.0
    assert objectives.masked_mean(values, mask).item() == pytest.approx(expected, abs=1e-6)
    broken = values.masked_fill(~mask, torch.inf)
    assert objectives.masked_mean(broken, mask).item() == pytest.approx(expected, abs=1e-6)


@given(seed=seeds, streams=st.integers(1, 3))
def test_combine_equals_a_loop(seed, streams):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(streams, 2, 7, generator=generator)
    logits[torch.rand(logits.shape, generator=generator) < 0.2] = -torch.inf
    weights = torch.tensor([1.0, -0.5, 0.0])[torch.randint(3, (streams,), generator=generator)]
    mixed = objectives.combine(logits, weights)
    for b in range(2):
        for v in range(7):
            terms = [(w, z) for w, z in zip(weights.tolist(), logits[:, b, v].tolist(), strict=True) if w != 0]
            masked = any(z == -math.inf for _, z in terms)
            expected = -math.inf if masked else sum(w * z for w, z in terms)
            assert mixed[b, v].item() == pytest.approx(expected, abs=1e-6)


def test_combine_follows_the_gradient_of_the_weighted_sum():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, -0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(objectives.combine, (logits, weights))
