"""The exercises of lesson 30: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from wrong_answers.preferences import WRONG_ANSWERS

from safealign_lab import chat
from safealign_lab.immunization import losses
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import log_probability
from safealign_lab.lesson.exercises import preferences as lesson

PATIENT = settings(deadline=None, derandomize=True, max_examples=40)
SEEDS = st.integers(0, 2**31)
BETAS = st.sampled_from([0.05, 0.1, 1.0, 5.0])
WEIGHTS = st.sampled_from([0.0, 0.1, 2.0])


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.integers(1, 4), st.integers(2, 7), st.integers(2, 6))
def test_the_log_probability_is_the_librarys(seed, rows, length, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.5
    logits = drawn(seed, rows, length, vocabulary)
    mine = log_probability.sequence_logps(logits, ids, mask)
    torch.testing.assert_close(mine, chat.response_logps(logits, ids, mask))
    assert mine[~mask[:, 1:].any(1)].eq(0).all()


@PATIENT
@given(SEEDS, st.integers(1, 6), BETAS, WEIGHTS)
def test_the_preference_losses_are_the_librarys(seed, rows, beta, weight):
    columns = -drawn(seed, 4, rows).abs()
    mine = lesson.refusal_dpo_loss(*columns, beta, weight)
    torch.testing.assert_close(mine, losses.refusal_dpo(*columns, beta, weight)["loss"])
    _, rejected, _, ref_rejected = columns
    mine = lesson.npo_loss(rejected, ref_rejected, beta)
    torch.testing.assert_close(mine, losses.npo(rejected, ref_rejected, beta)["loss"])


@PATIENT
@given(SEEDS, st.integers(1, 5), st.integers(2, 6), st.floats(0, 5))
def test_the_push_is_the_librarys_on_the_response_tokens(seed, rows, vocabulary, g):
    logits = drawn(seed, 3, rows, 4, vocabulary)
    mask = torch.rand(rows, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0, 2] = True
    chosen = [one[:, :-1][mask[:, 1:]] for one in logits]  # (M, V) each
    torch.testing.assert_close(
        lesson.push_loss(*chosen, g), losses.bounded_push(*logits, mask, g), rtol=1e-6, atol=1e-8
    )


@PATIENT
@given(SEEDS, BETAS)
def test_npo_is_dpo_whose_refusal_stays_put_times_two_over_beta(seed, beta):
    chosen, rejected, ref_rejected = -drawn(seed, 3, 4).abs()
    dpo = lesson.refusal_dpo_loss(chosen, rejected, chosen, ref_rejected, beta, 0.0)
    torch.testing.assert_close(lesson.npo_loss(rejected, ref_rejected, beta), 2 / beta * dpo)


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "30_preferences"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch():
    for exercise in log_probability.EXERCISES + lesson.EXERCISES:
        room = {"torch": torch}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def by_cross_entropy(logits, ids, mask):
    labels = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return -F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none").sum(1)


def row_by_row(logits, ids, mask):
    rows = zip(logits, ids, mask, strict=True)
    return torch.stack([row[:-1].log_softmax(-1)[m[1:], one[1:][m[1:]]].sum() for row, one, m in rows])


def with_where(logits, ids, mask):
    logps = torch.log_softmax(logits, -1).roll(1, 1)
    first = torch.arange(ids.shape[1]) > 0
    said = logps.gather(-1, ids.unsqueeze(-1))[..., 0]
    return torch.where(mask & first, said, 0.0).sum(-1)


def with_softplus(pc, pr, rc, rr, beta, w):
    return F.softplus(beta * (pr - rr - pc + rc)).mean() + w * -pc.mean()


def pair_by_pair(pc, pr, rc, rr, beta, w):
    total = 0.0
    for c, r, a, b in zip(pc, pr, rc, rr, strict=True):
        total = total + torch.logaddexp(torch.zeros(()), -beta * (c - a - r + b)) - w * c
    return total / len(pc)


def npo_with_softplus(policy, ref, beta):
    return F.softplus(beta * (policy - ref)).mean() * 2 / beta


def npo_with_a_sum(policy, ref, beta):
    return -2 * F.logsigmoid(beta * (ref - policy)).sum() / (beta * policy.numel())


def push_with_kl_div(policy, ref, harmful, g):
    target = (ref + g * (ref - harmful)).softmax(-1)
    return F.kl_div(policy.log_softmax(-1), target, reduction="batchmean")


def push_by_cross_entropy(policy, ref, harmful, g):
    target = (ref.log_softmax(-1) + g * (ref - harmful)).softmax(-1)
    return F.cross_entropy(policy, target) - torch.special.entr(target).sum(-1).mean()


RIGHT = [
    *(("sequence_logps", function) for function in (by_cross_entropy, row_by_row, with_where)),
    *(("refusal_dpo_loss", function) for function in (with_softplus, pair_by_pair)),
    *(("npo_loss", function) for function in (npo_with_softplus, npo_with_a_sum)),
    *(("push_loss", function) for function in (push_with_kl_div, push_by_cross_entropy)),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_a_detached_loss_is_told_that_it_cannot_train():
    def detached(pc, pr, rc, rr, beta, w):
        return lesson.refusal_dpo_loss(pc, pr, rc, rr, beta, w).detach()

    assert "no gradient" in verdict(named(detached, "refusal_dpo_loss"))


def test_the_check_meets_rows_on_which_the_answers_differ():
    for side in ("left", "right"):
        _, ids, mask, real = log_probability._batch(0, side)
        assert not mask.all(1).any()
        assert not mask[3].any()  # an answer without tokens, whose sum is 0
        assert (mask <= real).all()
        assert not real.all()
        assert len(ids) == 4
    for seed, rows, beta, _, scale in lesson._PAIRS:
        columns = lesson._columns(seed, rows, scale)
        assert (columns[0] - columns[2]).abs().min() > 0.1  # the policy is not the reference
        assert math.isfinite(lesson._slow_dpo(columns, beta, 0.0))
