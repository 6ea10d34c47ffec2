"""The distillation's printed equations are as printed, and fail as the lessons say; the working ones beside them do not."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safealign_lab.distillation import losses, printed

SEEDS = st.integers(0, 10**6)
ALPHAS = st.sampled_from([0.0, 0.3, 1.0])


def draw(seed, rows=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)  # (2, B, C)
    return *logits, torch.randint(classes, (rows,), generator=generator)


def softmax(logits, temperature=1.0):
    weights = [math.exp((z - max(logits)) / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def slope_of(loss, point):
    point = point.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point), point)
    return slope


def descended(loss, start, steps=400, rate=2.0):
    point = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([point], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
    return point.detach()


# ---------------------------------------------------------------- as printed


@given(SEEDS, st.sampled_from([1.0, 3.0]))
def test_the_printed_distillation_equals_a_slow_loop(seed, temperature):
    student, teacher, _ = draw(seed)
    slow = 0.0
    for row, opinion in zip(student.tolist(), teacher.tolist(), strict=True):
        slow += sum(p * math.log(p / q) for p, q in zip(softmax(row), softmax(opinion, temperature), strict=True))
    assert printed.kd_loss(student, teacher, temperature).item() == pytest.approx(slow, rel=1e-9)


@given(SEEDS, ALPHAS)
def test_the_printed_noise_robust_loss_equals_a_slow_loop(seed, alpha):
    clean, noisy, _ = draw(seed)
    slow = 0.0
    for x, z in zip(clean.tolist(), noisy.tolist(), strict=True):
        for p, q in zip(softmax(x), softmax(z), strict=True):
            slow += -alpha * p * math.log(p) - (1 - alpha) * q * math.log(q)
    assert printed.noise_robust_loss(clean, noisy, alpha).item() == pytest.approx(slow, rel=1e-9)


def test_the_printed_sum_has_no_weight_on_the_distillation():
    assert list(inspect.signature(printed.total_loss).parameters) == ["kd", "noise_robust", "regulariser"]
    terms = [torch.tensor(value, requires_grad=True) for value in (2.0, 3.0, 5.0)]
    total = printed.total_loss(*terms)
    assert total == 10
    assert torch.autograd.grad(total, terms) == (1, 1, 1)


# ---------------------------------------------------------------- the distillation


def confidently_wrong(margin):
    """A student that is so sure of the first of two classes, and a teacher who is for the second."""
    return torch.tensor([[margin, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 3.0]], dtype=torch.float64)


def test_a_student_confidently_wrong_gets_a_ten_thousandth_of_the_gradient():
    ratios = []
    for margin in (4.0, 8.0, 12.0):
        student, teacher = confidently_wrong(margin)
        theirs = slope_of(lambda logits, teacher=teacher: printed.kd_loss(logits, teacher, 1.0), student)
        mine = slope_of(lambda logits, teacher=teacher: losses.kd_loss(logits, teacher), student)
        ratios.append((theirs.norm() / mine.norm()).item())
    assert ratios == sorted(ratios, reverse=True)
    assert 5e-5 < ratios[-1] < 2e-4


def test_the_direction_is_what_does_it():
    student, teacher = confidently_wrong(12.0)
    theirs = slope_of(lambda logits: printed.kd_loss(logits, teacher, 1.0), student)
    mine = slope_of(lambda logits: losses.kd_loss(logits, teacher, direction="student||teacher"), student)
    torch.testing.assert_close(theirs, mine)


def test_with_one_side_tempered_the_student_ends_softer_than_its_teacher():
    teacher = torch.tensor([[3.0, 0.0, -3.0]], dtype=torch.float64)
    start = torch.zeros_like(teacher)
    theirs = descended(lambda logits: printed.kd_loss(logits, teacher, 4.0), start)
    mine = descended(lambda logits: losses.kd_loss(logits, teacher, 4.0), start)
    torch.testing.assert_close(theirs, teacher / 4, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(mine, teacher, rtol=1e-3, atol=1e-3)


def test_the_gradient_shrinks_two_hundredfold_with_the_temperature_and_tau_squared_holds_it():
    generator = torch.Generator().manual_seed(0)
    teacher, apart = torch.randn(2, 512, 4, generator=generator, dtype=torch.float64)  # (B, C)
    teacher, student = 0.7 * teacher, 0.7 * teacher + 0.5 * apart  # moderate opinions, moderate disagreement
    norms = {
        scaled: [
            slope_of(lambda z, t=tau, s=scaled: losses.kd_loss(z, teacher, t, scaled=s), student).norm().item()
            for tau in (1, 2, 4, 8, 16)
        ]
        for scaled in (False, True)
    }
    assert 150 < norms[False][0] / norms[False][-1] < 350
    assert max(norms[True]) / min(norms[True]) < 1.3


# ---------------------------------------------------------------- the noise-robust loss


BATCH_LOSSES = {  # of a batch with its labels, whether or not the equation makes use of them
    "printed": lambda clean, noisy, labels, alpha: printed.noise_robust_loss(clean, noisy, alpha),
    "working": losses.noise_robust_loss,
}


@given(SEEDS, ALPHAS)
def test_permuted_labels_change_the_working_loss_alone(seed, alpha):
    clean, noisy, labels = draw(seed, rows=6)
    labels[:2] = torch.tensor([0, 3])  # at least two differ
    others = labels.roll(1)
    changed = {
        name: (loss(clean, noisy, others, alpha) - loss(clean, noisy, labels, alpha)).abs().item()
        for name, loss in BATCH_LOSSES.items()
    }
    assert changed["printed"] == 0
    assert changed["working"] > 1e-9
    assert list(inspect.signature(printed.noise_robust_loss).parameters) == ["clean_logits", "noisy_logits", "alpha"]


def test_the_printed_loss_drives_a_true_class_out_that_is_second_to_begin_with():
    start = torch.tensor([[0.6, 1.0, 0.0]], dtype=torch.float64)
    right = torch.tensor([0])
    ends = {
        name: descended(lambda z, loss=loss: loss(z, z + 0.1, right, 0.5), start, rate=5.0).softmax(-1)[0]
        for name, loss in BATCH_LOSSES.items()
    }
    assert start.softmax(-1)[0, 0] > 0.3
    assert ends["printed"][0] < 1e-3
    assert ends["printed"][1] > 0.99
    assert ends["working"][0] > 0.99


# ---------------------------------------------------------------- the regulariser


def entropy_slopes(row):
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    return logits, printed.noise_robust_loss(logits, logits, 0.5)


def test_the_printed_regulariser_is_as_pleased_by_no_opinion_as_by_overconfidence():
    sizes = [printed.regulariser(entropy[1], [entropy[0]], 1.0).item() for entropy in map(
        entropy_slopes, ([0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [20.0, 0.0, 0.0]))]  # fmt: skip
    assert sizes[0] == pytest.approx(0, abs=1e-12)
    assert sizes[2] == pytest.approx(0, abs=1e-12)
    assert sizes[1] > 0.05


def test_without_create_graph_it_is_the_same_number_and_trains_nothing_at_any_weight():
    logits, entropy = entropy_slopes([1.5, 0.5, 0.0])
    kept, cut = (form(entropy, [logits], 0.7) for form in (printed.regulariser, printed.detached_regulariser))
    torch.testing.assert_close(kept.detach(), cut)
    assert kept.requires_grad
    assert not cut.requires_grad
    (alone,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    for weight in (0.1, 1e6):
        total = entropy + printed.detached_regulariser(entropy, [logits], weight)
        (slope,) = torch.autograd.grad(total, logits, retain_graph=True)
        assert torch.equal(slope, alone)
    (slope,) = torch.autograd.grad(entropy + kept, logits)
    assert not torch.allclose(slope, alone)
