"""The exercises of lesson 13: what they teach is what the library's gate is measured and set by."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from safealign_lab.distillation import gate
from safealign_lab.distillation.features import Standardiser
from safealign_lab.distillation.student import Head
from safealign_lab.lesson.exercises.request_gate import (
    log_odds,
    lowest_threshold,
    ranked_right,
    stopped_by_kind,
)  # fmt: skip
from safealign_lab.lesson.exercises.request_gate_teacher import out_of_fold

SEEDS = st.integers(0, 10_000)


def margins(seed, count):
    return torch.randint(-6, 6, (count,), generator=torch.Generator().manual_seed(seed)) / 2


@given(SEEDS, st.integers(2, 30), st.integers(2, 30))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_the_area_is_that_of_the_library(seed, harmful, harmless):
    pools = margins(seed, harmful) + 1, margins(seed + 1, harmless)
    assert ranked_right(*pools) == pytest.approx(gate.roc(*pools).area.value)


@given(SEEDS, st.integers(1, 40), st.sampled_from([0.0, 0.05, 0.1, 0.29, 0.5, 0.9]))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_threshold_is_that_of_the_library(seed, count, most):
    harmless = margins(seed, count)
    assert lowest_threshold(harmless, most) == gate.choose_threshold({"harmless": harmless}, most)


@given(SEEDS, st.integers(2, 9))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_margin_is_that_of_the_librarys_gate(seed, count):
    features = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    head = Head(4, 2).requires_grad_(False)
    head.last.weight.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(seed + 1)))
    mine = gate.Gate(lambda requests: features, Standardiser.fit(features), head)
    torch.testing.assert_close(log_odds(head(mine.standardiser(features))), mine.margins(features), rtol=0, atol=0)


@given(SEEDS, st.integers(1, 30), st.integers(-6, 6))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_shares_by_kind_are_those_of_the_library(seed, count, at):
    pool = margins(seed, count)
    kinds = [("harmful", "borderline", "benign")[number % 3] for number in range(count)]
    theirs = {kind: share.value for kind, share in gate.stopped_by(kinds, pool, at / 2).items()}
    assert stopped_by_kind(pool, kinds, at / 2) == theirs


@given(SEEDS, st.integers(2, 5))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_no_teacher_is_asked_about_a_fold_that_it_saw_and_every_request_is_asked_about(seed, folds):
    dealt = torch.arange(24) % folds
    features = torch.stack([torch.arange(24.0), dealt.float()], dim=1)
    labels = torch.randint(0, 2, (24,), generator=torch.Generator().manual_seed(seed))

    def fit(seen, answers):
        assert torch.equal(answers, labels[seen[:, 0].long()])
        return lambda asked: (
            asked[:, 0] if not set(seen[:, 1].tolist()) & set(asked[:, 1].tolist()) else asked[:, 0] * 0
        )

    assert out_of_fold(fit, features, labels, dealt).tolist() == list(range(24))


def test_its_scores_are_those_of_scikit_learns_folds():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 3, generator=generator)
    labels = (features[:, 0] + torch.randn(60, generator=generator) > 0).long()
    folds = torch.arange(60) % 3

    def fit(seen, answers):
        line = LogisticRegression().fit(seen.numpy(), answers.numpy())
        return lambda asked: torch.from_numpy(line.decision_function(asked.numpy())).float()

    slow = torch.empty(60)
    for place in range(60):
        others = folds != folds[place]
        slow[place] = fit(features[others], labels[others])(features[place : place + 1])[0]
    torch.testing.assert_close(out_of_fold(fit, features, labels, folds), slow)
