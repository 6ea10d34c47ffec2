"""The exercises of lesson 32: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from wrong_answers.cycle import WRONG_ANSWERS

from safealign_lab.immunization import curriculum, losses
from safealign_lab.immunization.canaries import Accumulator, select
from safealign_lab.immunization.shields import MaskedUpdate, PhaseAnchor
from safealign_lab.immunization.weight_attack import at_perturbed_weights, perturbed
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import cycle as lesson
from safealign_lab.lesson.exercises import phase_anchor, whole_cycle
from safealign_lab.training import Plan, train

PATIENT = settings(deadline=None, derandomize=True, max_examples=40)
SEEDS = st.integers(0, 2**31)
SHARES = st.floats(0, 1)
MINE = lesson.EXERCISES + phase_anchor.EXERCISES + whole_cycle.EXERCISES


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, SHARES, st.floats(0, 5))
def test_the_first_phases_sum_is_the_librarys(seed, push_weight, kept_weight):
    terms = drawn(seed, 3)
    mine = lesson.immunization_loss(*terms, push_weight, kept_weight)
    torch.testing.assert_close(mine, losses.immunization_loss(*terms, push_weight, kept_weight))


@PATIENT
@given(SEEDS, SHARES, st.floats(0, 5))
def test_the_second_phases_sum_is_the_librarys(seed, kl_weight, stabilization):
    policy, reference = drawn(seed, 2, 7, 5)  # (M+1, V) each: the last column predicts nothing
    preference, drift = drawn(seed + 1, 2)
    mine = lesson.alignment_loss(preference, policy[:-1], reference[:-1], drift, kl_weight, stabilization)
    apart = losses.reference_kl(policy[None], reference[None], torch.ones(1, 7, dtype=torch.bool))
    torch.testing.assert_close(mine, losses.alignment_loss(preference, apart, drift, kl_weight, stabilization))


@PATIENT
@given(SEEDS, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_the_penalty_is_the_phase_anchors(seed, fraction, weighed):
    weights = {"a": drawn(seed, 3, 4), "b": drawn(seed + 1, 5)}
    importance = {name: drawn(seed + 2, *one.shape).abs() + 0.1 for name, one in weights.items()}
    chosen = select(importance, fraction)
    anchor = PhaseAnchor(weights, chosen, importance if weighed else None)
    start = [one.clone() for one in weights.values()]
    for one in weights.values():
        one.add_(drawn(seed + 3, *one.shape))
    masks = [chosen.mask(name) for name in weights]
    mine = phase_anchor.anchor_penalty(
        list(weights.values()), masks, start, list(importance.values()) if weighed else None
    )
    torch.testing.assert_close(mine, anchor.penalty())


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 40, 120])
def test_what_is_taught_when_is_the_curriculums_schedule(order, steps):
    assert tuple(curriculum.LEVELS) == lesson.LEVELS
    levels = curriculum.schedule(order)
    for step in range(1, steps + 1):
        assert lesson.levels_taught(step, steps, order) == list(levels((step - 1) / steps))


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_is_what_the_kits_loop_attack_and_shield_do(seed):
    problem, twin = (whole_cycle._Problem(seed) for _ in range(2))
    stack = []

    def attacked(step):  # the kit's own attack in the place of the drawn one
        weights = dict(problem.model.named_parameters())
        stack.append(step)
        return perturbed(weights, 0.05, lambda: problem.first(step)["loss"])

    masks = whole_cycle.one_cycle(
        problem.model, problem.first, problem.second, attacked, problem.choose, problem.updates(), problem.STEPS
    )
    weights = {name: one for name, one in twin.model.named_parameters() if one.requires_grad}
    watched = Accumulator(weights)
    first, second = (
        Plan(steps, rate, schedule="constant", clip=None, weight_decay=decay)
        for steps, rate, decay in zip(twin.STEPS, twin.RATES, twin.DECAYS, strict=True)
    )
    attack = at_perturbed_weights(weights, 0.05, "loss", gradient=watched.watching("refusal"))
    train(weights, lambda step, _: twin.first(step), first, gradient=attack, buffers=watched.scores, progress=False)
    theirs = twin.choose([watched.scores[name] for name in weights])
    chosen = select({name: mask.float() for name, mask in zip(weights, theirs, strict=True)}, 8 / 17)
    train(
        weights,
        lambda step, _: twin.second(step),
        second,
        after_step=MaskedUpdate(weights, chosen).hold,
        progress=False,
    )
    assert stack == list(range(1, problem.STEPS[0] + 1))
    assert all(map(torch.equal, masks, theirs))
    for one, other in zip(problem.trained(), weights.values(), strict=True):
        torch.testing.assert_close(one, other)


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "32_the_cycle"}
    assert set(mine) == set(WRONG_ANSWERS) == {one.name for one in MINE}
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch_and_math():
    for exercise in MINE:
        room = {"torch": torch, "math": math}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def refusals_and_the_rest(refusal, push, kept, push_weight, kept_weight):
    return refusal + push_weight * (push - refusal) + kept * kept_weight


def divergence_by_torch(preference, policy_logits, ref_logits, drift, kl_weight, stabilization):
    logps = F.log_softmax(policy_logits, dim=-1), F.log_softmax(ref_logits, dim=-1)
    apart = F.kl_div(*logps, reduction="batchmean", log_target=True)
    return kl_weight * apart + (1 - kl_weight) * preference + stabilization * drift


def penalty_by_masking(weights, masks, anchors, importance):
    needed = importance or [torch.ones_like(one) for one in weights]
    count = sum(int(mask.sum()) for mask in masks)
    mean = sum((one * mask).sum() for one, mask in zip(needed, masks, strict=True)) / count
    gaps = (f * mask * (w - a) ** 2 for f, mask, w, a in zip(needed, masks, weights, anchors, strict=True))
    return sum(one.sum() for one in gaps) / mean


def levels_one_by_one(step, steps, order):
    levels = {"rising": ("weak", "medium", "strong"), "falling": ("strong", "medium", "weak")}
    if order == "mixed":
        return ("weak", "medium", "strong")
    return tuple(level for n, level in enumerate(levels[order]) if (step - 1) * 3 >= n * steps)


def cycle_by_backward(model, first, second, attacked, choose, updates, steps):
    weights = [w for w in model.parameters() if w.requires_grad]
    scores = [torch.zeros_like(w) for w in weights]
    for n in range(steps[0]):
        model.zero_grad()
        with ExitStack() as stack:
            stack.enter_context(attacked(n + 1))
            terms = first(n + 1)
            terms["refusal"].backward(retain_graph=True)
            for score, w in zip(scores, weights, strict=True):
                score.add_(w.grad.abs())
            model.zero_grad()
            terms["loss"].backward()
        updates[0]()
    masks = choose(scores)
    start = [w.data.clone() for w in weights]
    for n in range(steps[1]):
        model.zero_grad()
        second(n + 1).backward()
        updates[1]()
        for w, mask, value in zip(weights, masks, start, strict=True):
            w.data = torch.where(mask, value, w.data)
    return tuple(masks)


RIGHT = [
    ("immunization_loss", refusals_and_the_rest),
    ("alignment_loss", divergence_by_torch),
    ("anchor_penalty", penalty_by_masking),
    ("levels_taught", levels_one_by_one),
    ("one_cycle", cycle_by_backward),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_the_checks_meet_what_tells_mistakes_apart():
    weights, masks, anchors, importance = phase_anchor._anchored(1)
    assert all(0 < int(mask.sum()) < mask.numel() for mask in masks)
    means = [float(one[mask].mean()) for one, mask in zip(importance, masks, strict=True)]
    assert max(means) > 5 * min(means)  # so that a mean of one tensor is another number
    assert not any(torch.equal(one, other) for one, other in zip(weights, anchors, strict=True))
    for seed in whole_cycle._SEEDS:
        problem = whole_cycle._Problem(seed)
        ends = [torch.cat([one.flatten().double() for one in whole_cycle._walk(problem, way)])
                for way in (whole_cycle._Way(), *whole_cycle._SLIPS.values())]  # fmt: skip
        gaps = [float((one - other).abs().max()) for n, one in enumerate(ends) for other in ends[:n]]
        assert min(gaps) > 1e-3  # no two ways end in one place
        mask = problem.choose(problem.cut(problem.start))
        assert 0 < sum(int(one.sum()) for one in mask) < len(problem.start)
