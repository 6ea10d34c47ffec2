"""The exercises of lessons 10 to 12: what they teach is what the library trains with, and every right way is right."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from wrong_answers.distillation import WRONG_ANSWERS

from safealign_lab.distillation import losses, perturbations
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import bounded_noise as noise
from safealign_lab.lesson.exercises import distillation_losses as soft
from safealign_lab.lesson.exercises import gradient_penalty as penalty

PATIENT = settings(deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)
SCALES = st.sampled_from([0.1, 1.0, 10.0, 100.0])
NORMS = st.sampled_from(["l2", "linf"])
MINUTES = {soft: 14, noise: 20, penalty: 9}


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.integers(2, 7), SCALES)
def test_the_two_directions_are_those_of_the_library(seed, classes, scale):
    teacher, student = drawn(seed, 2, classes, scale=min(scale, 10.0))
    covering, seeking = soft.kl_direction(teacher.softmax(0), student.softmax(0))
    pair = (student[None], teacher[None])
    torch.testing.assert_close(covering, losses.kd_loss(*pair), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(seeking, losses.kd_loss(*pair, direction="student||teacher"), rtol=1e-6, atol=1e-9)


@PATIENT
@given(SEEDS, st.integers(1, 5), st.integers(2, 7), SCALES, st.sampled_from([0.5, 1.0, 4.0]))
def test_the_distillation_and_its_gradient_are_the_librarys(seed, rows, classes, scale, tau):
    student, teacher = drawn(seed, 2, rows, classes, scale=scale)
    student.requires_grad_()
    pair = [module.kd_loss(student, teacher, tau) for module in (soft, losses)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(loss, student)[0] for loss in pair]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


@PATIENT
@given(SEEDS, st.integers(1, 5), st.integers(2, 7), SCALES, st.sampled_from([0.0, 0.4, 1.0]))
def test_the_noise_robust_loss_is_the_librarys(seed, rows, classes, scale, alpha):
    clean, noisy = drawn(seed, 2, rows, classes, scale=scale)
    labels = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))
    pair = [module.noise_robust_loss(clean, noisy, labels, alpha) for module in (noise, losses)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)


@PATIENT
@given(
    SEEDS, st.sampled_from([(3, 4), (2, 3, 4)]), NORMS, st.sampled_from([0.0, 0.3, 2.0]), st.sampled_from([0.1, 5.0])
)
def test_the_ball_and_the_step_are_the_librarys(seed, shape, norm, radius, step):
    delta, gradient = drawn(seed, 2, *shape)
    delta[0], gradient[-1] = 0, 0
    modules = (noise, perturbations)
    torch.testing.assert_close(*(module.project(delta, radius, norm) for module in modules))
    torch.testing.assert_close(*(module.pgd_step(delta, gradient, step, radius, norm) for module in modules))


@PATIENT
@given(SEEDS, st.floats(0, 3), st.floats(0, 3))
def test_the_penalty_and_the_sum_are_the_librarys(seed, kd_weight, penalty_weight):
    features, weight = drawn(seed, 6, 3), drawn(seed + 1, 3, 4).requires_grad_()
    labels = torch.randint(4, (6,), generator=torch.Generator().manual_seed(seed))
    found = []
    for module in (penalty, losses):
        loss = F.cross_entropy(features @ weight, labels)
        size = module.gradient_penalty(loss, [weight])
        total = module.total_loss(loss.square(), loss, size, kd_weight, penalty_weight)
        found.append((size, total, torch.autograd.grad(total, weight)[0]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (soft.kd_loss, losses.kd_loss), (noise.noise_robust_loss, losses.noise_robust_loss),
        (noise.project, perturbations.project), (noise.pgd_step, perturbations.pgd_step),
        (penalty.gradient_penalty, losses.gradient_penalty), (penalty.total_loss, losses.total_loss),
    ],
)  # fmt: skip
def test_a_learners_function_takes_what_the_librarys_does(mine, theirs):
    taken = [list(inspect.signature(function).parameters) for function in (mine, theirs)]
    assert taken[0] == taken[1][: len(taken[0])]
    optional = list(inspect.signature(theirs).parameters.values())[len(taken[0]) :]
    assert all(parameter.default is not parameter.empty for parameter in optional)


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_these_lessons_fit_into_an_hour_together():
    mine = {one.name: one for module in MINUTES for one in module.EXERCISES}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(exercises()[name] is one for name, one in mine.items())  # no other module has taken a name of theirs
    assert {module: sum(one.minutes for one in module.EXERCISES) for module in MINUTES} == MINUTES
    assert all(one.lesson == module.LESSON for module in MINUTES for one in module.EXERCISES)


def test_a_solution_needs_nothing_but_torch_and_the_ones_before_it():
    room = {"torch": torch}
    for exercise in (*soft.EXERCISES, *noise.EXERCISES, *penalty.EXERCISES):
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def by_loops(teacher, student):
    def way(p, q):
        terms = [one * torch.log(one / other) for one, other in zip(p, q, strict=True) if one > 0]
        return torch.stack(terms).sum()

    return [way(teacher, student), way(student, teacher)]


def by_masks(teacher, student):
    def way(p, q):
        return (p[p > 0] * (p[p > 0].log() - q[p > 0].log())).sum()

    return way(teacher, student), way(student, teacher)


def by_kl_div(teacher, student):
    ways = ((student, teacher), (teacher, student))
    return tuple(F.kl_div(of.log(), averaged, reduction="sum") for of, averaged in ways)


def in_floats(teacher, student):
    return tuple(way.item() for way in by_kl_div(teacher, student))


def with_kl_div(student, teacher, tau):
    apart = F.kl_div((student / tau).log_softmax(-1), (teacher / tau).softmax(-1), reduction="batchmean")
    return apart * tau * tau


def with_log_target(student_logits, teacher_logits, temperature):
    s, t = (F.log_softmax(logits / temperature, dim=-1) for logits in (student_logits, teacher_logits))
    return F.kl_div(s, t, log_target=True, reduction="sum") * temperature**2 / len(s)


def with_cross_entropies(student, teacher, tau):
    target = (teacher / tau).softmax(1)
    return tau**2 * (F.cross_entropy(student / tau, target) - F.cross_entropy(teacher / tau, target))


def with_gathered_logps(clean, noisy, labels, alpha):
    x, z = (logits.log_softmax(1)[torch.arange(len(labels)), labels] for logits in (clean, noisy))
    return -(alpha * x + (1 - alpha) * z).mean()


def with_a_minimum(delta, radius, norm):
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, torch.tensor(radius)), torch.tensor(-radius))
    return delta * torch.clamp(radius / (delta.norm(dim=-1, keepdim=True) + 1e-12), max=1.0)


def with_renorm(delta, radius, norm):
    if norm == "linf":
        return delta.clip(-radius, radius)
    return torch.renorm(delta.reshape(-1, delta.shape[-1]), 2, 0, radius).view_as(delta)


def in_place_on_a_copy(delta, radius, norm):
    result = delta.clone()
    for vector in result.view(-1, result.shape[-1]):
        if norm == "linf":
            vector.clamp_(-radius, radius)
        elif vector.norm() > radius:
            vector.mul_(radius / vector.norm())
    return result


def with_normalize(delta, gradient, step, radius, norm):
    way = gradient.sign() if norm == "linf" else F.normalize(gradient, dim=-1)
    return noise.project(delta + step * way, radius, norm)


def with_a_small_number(delta, gradient, step, radius, norm):
    way = torch.sign(gradient) if norm == "linf" else gradient / (gradient.norm(dim=-1, keepdim=True) + 1e-10)
    return noise.project(delta.add(way, alpha=step), radius, norm)


def one_by_one(loss, parameters):
    total = 0.0
    for parameter in parameters:
        (slope,) = torch.autograd.grad(loss, parameter, create_graph=True)
        total = total + (slope * slope).sum()
    return total


def as_one_vector(loss, parameters):
    slopes = torch.autograd.grad(loss, tuple(parameters), create_graph=True, retain_graph=True)
    vector = torch.cat([slope.reshape(-1) for slope in slopes])
    return vector @ vector


def as_a_squared_norm(loss, parameters):
    slopes = torch.autograd.grad(loss, [parameters[i] for i in range(len(parameters))], create_graph=True)
    return torch.stack([slope.norm() for slope in slopes]).norm() ** 2


def in_another_order(kd, noise_robust, penalty, kd_weight, penalty_weight):
    return noise_robust + penalty * penalty_weight + kd * kd_weight


RIGHT = [
    *(("kl_direction", function) for function in (by_loops, by_masks, by_kl_div, in_floats)),
    *(("kd_loss", function) for function in (with_kl_div, with_log_target, with_cross_entropies)),
    ("noise_robust_loss", with_gathered_logps),
    *(("project", function) for function in (with_a_minimum, with_renorm, in_place_on_a_copy)),
    *(("pgd_step", function) for function in (with_normalize, with_a_small_number)),
    *(("gradient_penalty", function) for function in (one_by_one, as_one_vector, as_a_squared_norm)),
    ("total_loss", in_another_order),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"
