"""The distillation's losses against slow loops and closed forms, and the gradient penalty in both of its forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from safealign_lab.distillation.losses import (
    finite_difference_penalty,
    gradient_penalty,
    kd_loss,
    noise_robust_kd,
    noise_robust_loss,
    teacher_error_push,
    total_loss,
)
from safealign_lab.training import Plan, train

SEEDS = st.integers(0, 10**6)
TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 7.0])
ALPHAS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
DIRECTIONS = st.sampled_from(["teacher||student", "student||teacher"])


def draw(seed, count=2, rows=5, classes=4, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, rows, classes, generator=generator, dtype=torch.float64)  # (count, B, C)
    return *logits, torch.randint(classes, (rows,), generator=generator)


def softmax(logits, temperature=1.0):
    weights = [math.exp((z - max(logits)) / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def slow_kl(p_logits, q_logits, temperature=1.0):
    p, q = softmax(p_logits, temperature), softmax(q_logits, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean_over_rows(function, *tensors):
    rows = list(zip(*(tensor.tolist() for tensor in tensors), strict=True))
    return sum(function(*row) for row in rows) / len(rows)


# ---------------------------------------------------------------- to the teacher


@given(SEEDS, TEMPERATURES, DIRECTIONS, st.booleans())
def test_distillation_equals_a_slow_loop(seed, temperature, direction, scaled):
    student, teacher, _ = draw(seed)
    pair = (teacher, student) if direction == "teacher||student" else (student, teacher)
    slow = mean_over_rows(lambda p, q: slow_kl(p, q, temperature), *pair) * (temperature**2 if scaled else 1)
    assert kd_loss(student, teacher, temperature, direction, scaled).item() == pytest.approx(slow, rel=1e-9)


@given(SEEDS, TEMPERATURES)
def test_distillation_equals_torchs_own_and_its_gradient_the_closed_form(seed, temperature):
    student, teacher, _ = draw(seed)
    student.requires_grad_()
    theirs = F.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )
    mine = kd_loss(student, teacher, temperature)
    torch.testing.assert_close(mine, temperature**2 * theirs)
    (slope,) = torch.autograd.grad(mine, student)
    apart = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)  # (B, C)
    torch.testing.assert_close(slope, temperature * apart / len(student))


@given(SEEDS, TEMPERATURES, DIRECTIONS)
def test_distillation_is_zero_where_student_and_teacher_agree_and_above_elsewhere(seed, temperature, direction):
    student, teacher, _ = draw(seed)
    assert kd_loss(teacher + 3.0, teacher, temperature, direction).item() == pytest.approx(0, abs=1e-12)
    assert kd_loss(student, teacher, temperature, direction) > 0


def test_the_direction_says_which_student_is_the_better_one():
    teacher = torch.tensor([[4.0, 4.0, -4.0]])  # of two minds
    covering, settled = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[6.0, -1.0, -4.0]])
    assert kd_loss(covering, teacher) < kd_loss(settled, teacher)
    assert kd_loss(covering, teacher, direction="student||teacher") > kd_loss(
        settled, teacher, direction="student||teacher"
    )


def test_impossible_knobs_and_shapes_are_refused():
    student, teacher, labels = draw(0)
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        kd_loss(student, teacher, 0.0)
    with pytest.raises(ValueError, match="direction must be one of 'teacher||student', 'student||teacher', not 'both'"):
        kd_loss(student, teacher, 1.0, "both")
    with pytest.raises(ValueError, match=r"not \(5, 4\) and \(5, 1, 4\)"):
        kd_loss(student, teacher[:, None])
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="the share of the clean inputs"):
            noise_robust_loss(student, teacher, labels, alpha)
    with pytest.raises(ValueError, match=r"not \(5, 4\) and \(4, 4\)"):
        noise_robust_loss(student, teacher[1:], labels, 0.5)
    with pytest.raises(ValueError, match="for a teacher's logits use noise_robust_kd"):
        noise_robust_loss(student, student, teacher, 0.5)
    with pytest.raises(ValueError, match=r"not \(5, 4\) and \(4, 4\)"):
        noise_robust_kd(student, student, teacher[1:], 0.5)
    with pytest.raises(ValueError, match=r"not \(5, 4\) and \(5, 1, 4\)"):
        noise_robust_kd(student, teacher[:, None], teacher, 0.5)
    with pytest.raises(ValueError, match=r"not \(5, 4\) and \(1, 4\)"):
        teacher_error_push(student, teacher[:1], labels)


def test_half_precision_logits_are_compared_in_single_precision():
    student, teacher, labels = draw(0)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    for function in (
        lambda s, t: kd_loss(s, t, 3.0), lambda s, t: noise_robust_loss(s, t, labels, 0.3),
        lambda s, t: noise_robust_kd(s, t, t, 0.3), lambda s, t: teacher_error_push(s, t, labels),
    ):  # fmt: skip
        assert function(student, teacher).dtype == torch.float32
        torch.testing.assert_close(function(student, teacher), function(student.float(), teacher.float()))


# ---------------------------------------------------------------- under noise


@given(SEEDS, ALPHAS)
def test_both_noise_robust_losses_equal_slow_loops(seed, alpha):
    clean, noisy, teacher, labels = draw(seed, 3)
    slow = mean_over_rows(
        lambda x, z, y: -alpha * math.log(softmax(x)[y]) - (1 - alpha) * math.log(softmax(z)[y]), clean, noisy, labels
    )
    assert noise_robust_loss(clean, noisy, labels, alpha).item() == pytest.approx(slow, rel=1e-9)
    slow = mean_over_rows(lambda x, z, t: alpha * slow_kl(t, x) + (1 - alpha) * slow_kl(t, z), clean, noisy, teacher)
    assert noise_robust_kd(clean, noisy, teacher, alpha).item() == pytest.approx(slow, rel=1e-9)


@given(SEEDS, ALPHAS)
def test_a_certain_teacher_is_a_label(seed, alpha):
    clean, noisy, labels = draw(seed)
    certain = torch.full_like(clean, -1e4).scatter(1, labels[:, None], 1e4)
    torch.testing.assert_close(
        noise_robust_kd(clean, noisy, certain, alpha), noise_robust_loss(clean, noisy, labels, alpha)
    )


@given(SEEDS)
def test_more_alpha_is_less_weight_on_the_perturbed(seed):
    clean, noisy, labels = draw(seed)
    norms = []
    for alpha in (0.0, 0.3, 0.8, 1.0):
        inputs = [clean.clone().requires_grad_(), noisy.clone().requires_grad_()]
        slopes = torch.autograd.grad(noise_robust_loss(*inputs, labels, alpha), inputs)
        norms.append([slope.norm().item() for slope in slopes])
    assert [row[0] for row in norms] == sorted(row[0] for row in norms)
    assert [row[1] for row in norms] == sorted((row[1] for row in norms), reverse=True)
    assert norms[0][0] == norms[-1][1] == 0


# ---------------------------------------------------------------- away from the teacher's errors


@given(SEEDS)
def test_the_push_equals_a_slow_loop(seed):
    student, teacher, labels = draw(seed)
    costs = []
    for row, opinion, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        favoured = max(range(len(opinion)), key=opinion.__getitem__)
        if favoured != label:
            costs.append(-math.log(1 - softmax(row)[favoured]))
    slow = sum(costs) / max(1, len(costs))
    assert teacher_error_push(student, teacher, labels).item() == pytest.approx(slow, rel=1e-9)


@given(SEEDS)
def test_the_push_moves_the_favoured_class_down_and_leaves_rows_without_error_alone(seed):
    student, teacher, labels = draw(seed)
    student.requires_grad_()
    favoured = teacher.argmax(-1)
    (slope,) = torch.autograd.grad(teacher_error_push(student, teacher, labels), student)
    wrong = favoured != labels
    assert (slope[~wrong] == 0).all()
    assert (slope[wrong].gather(1, favoured[wrong, None]) > 0).all()
    (slope,) = torch.autograd.grad(
        teacher_error_push(student, teacher, favoured), student
    )  # a teacher without an error
    assert (slope == 0).all()


@given(SEEDS)
def test_with_two_classes_the_push_is_the_cross_entropy_where_the_teacher_errs(seed):
    student, teacher, labels = draw(seed, classes=2, rows=8)
    wrong = teacher.argmax(-1) != labels
    expected = F.cross_entropy(student[wrong], labels[wrong]) if wrong.any() else torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(teacher_error_push(student, teacher, labels), expected)


# ---------------------------------------------------------------- the gradient penalty


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_half_precision_are_refused_by_both_forms(dtype):
    point = torch.tensor([3.0, -2.0], dtype=dtype, requires_grad=True)
    with pytest.raises(ValueError, match="mostly rounding: keep the trained parameters in float32"):
        gradient_penalty((point**2).sum(), [point])
    with pytest.raises(ValueError, match="mostly rounding: keep the trained parameters in float32"):
        finite_difference_penalty(lambda: (point**2).sum(), [point])


# ---------------------------------------------------------------- by finite differences


def network(seed, dtype=torch.float64):
    """A head with a hidden layer, its parameters, and a loss without arguments."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(12, 6, generator=generator, dtype=dtype)  # (B, D)
    labels = torch.randint(3, (12,), generator=generator)  # (B,)
    sizes = ((6, 5), (5, 3))
    weights = [(torch.randn(size, generator=generator, dtype=dtype) / 2).requires_grad_() for size in sizes]
    return weights, lambda: F.cross_entropy(torch.tanh(features @ weights[0]) @ weights[1], labels)


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_both_forms_have_one_value_and_one_gradient(seed):
    weights, loss = network(seed)
    exact = gradient_penalty(loss(), weights)
    near = finite_difference_penalty(loss, weights, step=1e-5)
    torch.testing.assert_close(near, exact)
    pair = [flat(torch.autograd.grad(penalty, weights)) for penalty in (near, exact)]
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-7)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_default_step_suits_single_precision(seed):
    weights, loss = network(seed, torch.float32)
    exact = flat(torch.autograd.grad(gradient_penalty(loss(), weights), weights))
    near = flat(torch.autograd.grad(finite_difference_penalty(loss, weights), weights))
    assert (near - exact).norm() < 0.02 * exact.norm()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, None])
def test_the_parameters_are_back_bit_for_bit_also_after_an_exception(at):
    weights, loss = network(0, torch.float32)
    before, calls = [weight.detach().clone() for weight in weights], []

    def counted():
        calls.append([weight.detach().clone() for weight in weights])
        if len(calls) == at:
            raise Interrupted
        return loss()

    if at:
        with pytest.raises(Interrupted):
            finite_difference_penalty(counted, weights)
    else:
        finite_difference_penalty(counted, weights)
        norm = flat(before).norm().clamp(min=1)
        ways = [(flat(call) - flat(before)).norm() / norm for call in calls]
        assert [way.item() for way in ways] == pytest.approx([0, 1e-4, 1e-4], rel=0.02)
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))


def test_a_graph_that_was_made_before_is_still_good():
    weights, loss = network(3)
    robust = loss()
    (robust + 0.1 * finite_difference_penalty(loss, weights, step=1e-5)).backward()
    mine, weights[0].grad, weights[1].grad = flat(weight.grad for weight in weights), None, None
    (loss() + 0.1 * gradient_penalty(loss(), weights)).backward()
    theirs = flat(weight.grad for weight in weights)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_at_a_minimum_and_from_zeros_it_is_finite():
    point = torch.zeros(3, requires_grad=True)
    penalty = finite_difference_penalty(lambda: (point**2).sum(), [point])
    penalty.backward()
    assert penalty == 0
    assert (point.grad == 0).all()


def test_dropout_is_the_same_at_each_call_and_the_random_stream_goes_on_as_before():
    weights, loss = network(0)
    seen = []

    def dropped():
        seen.append(torch.rand(3))
        return loss()

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finite_difference_penalty(dropped, weights)
    assert all(torch.equal(one, expected) for one in seen)
    assert torch.equal(torch.rand(3), expected)


def test_an_impossible_step_and_no_parameters_are_refused():
    weights, loss = network(0)
    for step in (0, -1e-3, math.nan):
        with pytest.raises(ValueError, match="a step above 0"):
            finite_difference_penalty(loss, weights, step=step)
    with pytest.raises(ValueError, match="at least one parameter"):
        finite_difference_penalty(loss, [])


def test_both_train_the_same_student_and_a_flatter_one():
    ends = {}
    for form in ("none", "exact", "near"):
        weights, loss = network(1)

        def step_loss(step, generator, form=form, weights=weights, loss=loss):
            found = loss()
            penalties = {
                "none": lambda: 0.0, "exact": lambda: gradient_penalty(found, weights),
                "near": lambda: finite_difference_penalty(loss, weights, step=1e-5),
            }  # fmt: skip
            return total_loss(torch.zeros(()), found, penalties[form](), 1.0, 3.0)

        train({str(i): weight for i, weight in enumerate(weights)}, step_loss, Plan(30, 0.02), progress=False)
        ends[form] = flat(weights).detach(), gradient_penalty(loss(), weights).item()
    torch.testing.assert_close(ends["near"][0], ends["exact"][0], rtol=1e-3, atol=1e-4)
    assert ends["exact"][1] < 0.8 * ends["none"][1]


# ---------------------------------------------------------------- a model whose attention is fused


def soft_prompt_loss(toy, implementation):
    model = copy.deepcopy(toy[0]).requires_grad_(False)
    model.set_attn_implementation(implementation)
    ids = torch.randint(len(toy[1]), (2, 5), generator=torch.Generator().manual_seed(0))  # (B, T)
    prompt = nn.Parameter(0.3 * torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))  # (P, D)

    def loss():
        text = model.get_input_embeddings()(ids)  # (B, T, D)
        logits = model(inputs_embeds=torch.cat([prompt.expand(2, -1, -1), text], dim=1)).logits  # (B, P+T, V)
        return F.cross_entropy(logits[:, 2:-1].flatten(0, 1), ids.flatten())

    return prompt, loss


def test_fused_attention_is_refused_with_what_to_do(toy):
    prompt, loss = soft_prompt_loss(toy, "sdpa")
    (slope,) = torch.autograd.grad(loss(), prompt, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for aten::_scaled_dot_product"):  # what PyTorch says, and when
        slope.pow(2).sum().backward()
    with pytest.raises(ValueError, match='attn_implementation="eager", or use finite_difference_penalty'):
        gradient_penalty(loss(), [prompt])


def test_finite_differences_get_through_fused_attention(toy):
    prompt, loss = soft_prompt_loss(toy, "eager")
    exact = gradient_penalty(loss(), [prompt])
    (right,) = torch.autograd.grad(exact, prompt)
    prompt, loss = soft_prompt_loss(toy, "sdpa")
    near = finite_difference_penalty(loss, [prompt])
    (slope,) = torch.autograd.grad(near, prompt)
    assert near.item() == pytest.approx(exact.item(), rel=1e-4)
    assert (slope - right).norm() < 0.02 * right.norm()


def test_a_function_that_is_differentiable_once_only_is_refused_too():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            context.save_for_backward(values)
            return values.pow(3)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, slope):
            return 3 * context.saved_tensors[0] ** 2 * slope

    point = torch.tensor([3.0, -2.0], requires_grad=True)
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        gradient_penalty(Once.apply(point).pow(2).sum(), [point])


# ---------------------------------------------------------------- the sum


@given(SEEDS, st.floats(0, 3), st.floats(0, 3))
def test_the_total_weighs_each_term_and_its_gradient(seed, kd_weight, penalty_weight):
    kd, robust, penalty = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    terms = [term.clone().requires_grad_() for term in (kd, robust, penalty)]
    total = total_loss(*terms, kd_weight, penalty_weight)
    assert total.item() == pytest.approx(kd_weight * kd.item() + robust.item() + penalty_weight * penalty.item())
    assert [slope.item() for slope in torch.autograd.grad(total, terms)] == [kd_weight, 1.0, penalty_weight]
