"""The exercises of lesson 23: what they teach is what the library distils with, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from wrong_answers.one_pass import WRONG_ANSWERS

from safealign_lab.contrast import one_pass as library
from safealign_lab.contrast.scores import alpha_of, sampling_temperature, weight
from safealign_lab.divergence import kl
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import one_pass as lesson

PATIENT = settings(deadline=None, derandomize=True)
SEEDS = st.integers(0, 2**31)
SCALES = st.sampled_from([0.1, 1.0, 10.0, 100.0])
ALPHAS = st.floats(0, 0.95)


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.lists(st.integers(1, 4), min_size=0, max_size=2), st.integers(2, 9), ALPHAS, SCALES)
def test_the_target_is_the_librarys_without_its_limit(seed, shape, vocabulary, alpha, scale):
    streams = drawn(seed, 2, *shape, vocabulary, scale=scale)
    mine, theirs = lesson.contrast_target(*streams, alpha), library.contrast_target(streams, alpha, plausibility=0)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mine.exp().sum(-1), torch.ones(shape, dtype=torch.float64))


@PATIENT
@given(st.floats(0, 1e6))
def test_a_push_is_the_guidance_scale_one_above_it(g):
    alpha, temperature = lesson.push_strength(g)
    assert math.isclose(alpha, alpha_of(1 + g), abs_tol=1e-12)
    assert math.isclose(weight(alpha), g, rel_tol=1e-6, abs_tol=1e-12)
    assert math.isclose(1 / temperature, sampling_temperature(alpha))


@PATIENT
@given(SEEDS, st.floats(0, 20))
def test_a_push_is_that_contrast(seed, g):
    reference, harmful = drawn(seed, 2, 3, 7)
    alpha, temperature = lesson.push_strength(g)
    push = ((1 + g) * reference - g * harmful).log_softmax(-1)
    torch.testing.assert_close(((reference - alpha * harmful) / temperature).log_softmax(-1), push)
    torch.testing.assert_close(lesson.contrast_target(reference, harmful, alpha), push)


@PATIENT
@given(SEEDS, st.integers(1, 6), st.integers(2, 9), ALPHAS, SCALES, st.sampled_from([0.0, 0.1, 1.0]))
def test_the_loss_and_its_gradient_are_the_librarys(seed, tokens, vocabulary, alpha, scale, plausibility):
    target = library.contrast_target(drawn(seed, 2, tokens, vocabulary, scale=scale), alpha, plausibility)
    logits = drawn(seed + 1, tokens, vocabulary, scale=scale).requires_grad_()
    mine, theirs = lesson.distil_loss(target, logits), kl(target, logits)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)
    assert mine.isfinite()
    assert slopes[0].isfinite().all()


@settings(PATIENT, max_examples=25)
@given(SEEDS, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_loss_and_fidelity_are_those_of_a_distillation(toy, seed, lengths):
    model, tokenizer = toy
    generator = torch.Generator().manual_seed(seed)
    demonstrations = []
    for length in lengths:
        streams = 3 * torch.randn(2, length, model.config.vocab_size, generator=generator)
        target = library.contrast_target(streams, 0.4)  # (M, V)
        demonstrations.append(library.Demonstration("who are you ?", target.argmax(-1).tolist(), target))
    distillation = library.Distillation(model, tokenizer, demonstrations, per_step=2)
    prompt = torch.randn(3, model.config.hidden_size, generator=generator)
    target = torch.cat([one.target for one in demonstrations])  # (ΣM, V)
    with torch.no_grad():
        logits = distillation.logits(prompt, demonstrations)  # (ΣM, V)
        torch.testing.assert_close(lesson.distil_loss(target, logits), distillation.loss(prompt, demonstrations))
    apart, share = lesson.fidelity(target, logits)
    theirs = distillation.fidelity(prompt)
    assert math.isclose(apart, theirs.divergence, rel_tol=1e-4)
    assert math.isclose(share, theirs.agreement, rel_tol=1e-6)


@PATIENT
@given(SEEDS, st.integers(1, 9))
def test_a_student_that_is_the_target_has_nothing_left_to_learn(seed, tokens):
    target = library.contrast_target(drawn(seed, 2, tokens, 6), 0.4, plausibility=0)
    divergence, agreement = lesson.fidelity(target, target + 3)
    assert abs(divergence) < 1e-9
    assert agreement == 1


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "23_one_pass"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch_and_the_ones_before_it():
    room = {"torch": torch}
    for exercise in lesson.EXERCISES:
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def of_log_probabilities(safe, adversarial, alpha):
    score = safe.log_softmax(-1) - alpha * adversarial.log_softmax(-1)
    return torch.log_softmax(score / (1 - alpha), -1)


def by_weight(safe, adversarial, alpha):
    w = alpha / (1 - alpha)
    scores = safe + w * (safe - adversarial)
    return scores - scores.logsumexp(-1, keepdim=True)


def as_a_categorical(safe, adversarial, alpha):
    return torch.distributions.Categorical(logits=(safe - alpha * adversarial) / (1 - alpha)).logits


def by_the_inverse_scale(g):
    temperature = 1 / (g + 1)
    return [1 - temperature, temperature]


def with_kl_div(target, logits):
    return F.kl_div(logits.log_softmax(-1), target.exp(), reduction="batchmean")


def token_by_token(target, logits):
    total = 0.0
    for row, student in zip(target, logits, strict=True):
        kept = row > -math.inf
        total = total + (row.exp()[kept] * (row[kept] - student.log_softmax(0)[kept])).sum()
    return total / len(target)


def cross_entropy_without_entropy(target, logits):
    return F.cross_entropy(logits, target.exp()) - torch.special.entr(target.exp()).sum(-1).mean()


def with_a_floor_under_the_target(target, logits):
    floored = target.clamp(min=-1e30)
    return (floored.exp() * (floored - logits.log_softmax(-1))).sum(-1).mean()


def chosen_before_the_product(target, logits):
    gaps = torch.where(target > -math.inf, target - logits.log_softmax(-1), 0.0)
    return torch.einsum("mv,mv->m", target.exp(), gaps).mean()


def without_nan(target, logits):
    return (target.exp() * (target - logits.log_softmax(-1))).nan_to_num(0.0).sum() / len(target)


def counted(target, logits):
    equal = sum(int(p.argmax() == q.argmax()) for p, q in zip(target, logits, strict=True))
    return [float(with_kl_div(target, logits)), equal / len(target)]


RIGHT = [
    *(("contrast_target", function) for function in (of_log_probabilities, by_weight, as_a_categorical)),
    ("push_strength", by_the_inverse_scale),
    *(
        ("distil_loss", function)
        for function in (
            with_kl_div, token_by_token, cross_entropy_without_entropy, with_a_floor_under_the_target,
            chosen_before_the_product, without_nan,
        )
    ),
    ("fidelity", counted),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_the_check_meets_rows_on_which_the_answers_differ():
    # neither all nor none of the tokens agree, and tokens are removed in some rows and not all are in any
    (first, limited, _) = [lesson._drawn(seed, (tokens, size), *rest) for seed, tokens, size, *rest, _ in lesson._CASES]
    for target, logits in (first, limited):
        assert 0 < lesson.fidelity(target, logits)[1] < 1
    removed = limited[0].isinf()
    assert removed.any()
    assert not removed.all(dim=1).any()
    assert removed.gather(1, limited[1].argmax(1, keepdim=True)).any()  # a student's favourite was removed
