"""The exercise of lesson 13 on an honest teacher, who never saw what it is asked about.

Symbols: N requests, D numbers in a feature vector, B requests of a fold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..examining import call, expect
from ..exercise import Exercise, Function

LESSON = "13_request_gate"
Fit = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]  # features (N, D), labels (N,) → a scorer of features


def out_of_fold(fit: Fit, features: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    """What teachers think of each request who never saw its fold; features (N, D), labels (N,), folds (N,) -> scores (N,)."""
    scores = torch.empty(len(features))  # (N,)
    for fold in set(folds.tolist()):
        own = folds == fold  # (N,)
        teacher = fit(features[~own], labels[~own])
        scores[own] = teacher(features[own])  # (B,) of this fold
    return scores


# ---------------------------------------------------------------- the honest teacher


def examine_out_of_fold(function: Function) -> str | None:
    """Compares with a teacher for each single request; twins have nearly the same features and stand in one fold."""
    for seed, count, folds in ((10, 12, 3), (11, 20, 4)):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(count // 2, 3, generator=generator).repeat_interleave(2, dim=0)  # (N, D)
        features += 0.05 * torch.randn(count, 3, generator=generator)
        labels = torch.randint(0, 2, (count,), generator=generator)  # (N,)
        labels[:4] = torch.tensor([0, 1, 1, 0])
        dealt = (torch.randperm(count // 2, generator=generator) % folds).repeat_interleave(2)  # (N,)
        got = call(function, _nearest, features, labels, dealt)
        right = torch.cat([_alone(features, labels, dealt != dealt[n], n) for n in range(count)])  # (N,)
        given = f"{count} requests in {folds} folds, and a teacher that scores by the nearest request it saw"
        said = expect(got, right, _fold_mistakes(features, labels, dealt), given=given)
        if said:
            return said
    return None


def _nearest(features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """A teacher who remembers: the label of the nearest request, less of it with the distance; and how often labels are 1."""

    def _score(asked: Tensor) -> Tensor:
        near = torch.cdist(asked, features).min(dim=1)  # (B,) values and places
        return (2.0 * labels[near.indices] - 1) / (1 + near.values) + labels.float().mean()  # (B,)

    return _score


def _alone(features: Tensor, labels: Tensor, seen: Tensor, number: int) -> Tensor:
    return _nearest(features[seen], labels[seen])(features[number : number + 1])  # (1,)


def _fold_mistakes(features: Tensor, labels: Tensor, folds: Tensor) -> dict[str, Tensor]:
    numbers, every = torch.arange(len(features)), torch.ones(len(features), dtype=torch.bool)  # (N,) each
    right = torch.cat([_alone(features, labels, folds != folds[n], n) for n in range(len(features))])  # (N,)
    first, last = folds == folds.min(), folds == folds.max()  # (N,) each
    return {
        "The teacher has seen what it is asked about: fit it on the *other* folds only.": torch.cat(
            [_alone(features, labels, every, n) for n in range(len(features))]
        ),
        "It fits a teacher on a fold and asks it about the same fold: fit on all others, ask about this one.": torch.cat(
            [_alone(features, labels, folds == folds[n], n) for n in range(len(features))]
        ),
        "It leaves out the request and lets the rest of its fold stay: a twin in there gives the label away.": torch.cat(
            [_alone(features, labels, numbers != n, n) for n in range(len(features))]
        ),
        "The scores stand in the order of the folds: put each back at the place of its request.": right[
            folds.argsort(stable=True)
        ],
        "One teacher answers for all: the one that did not see the first fold has seen the others.": torch.cat(
            [_alone(features, labels, ~first, n) for n in range(len(features))]
        ),
        "The last fold has no scores: ask about every fold once.": torch.where(last, torch.zeros(()), right),
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="out_of_fold", solution=out_of_fold, examine=examine_out_of_fold, minutes=8, lesson=LESSON,
        hints=(
            "One teacher for each fold: which requests may it learn from, and which is it asked about?",
            "`own = folds == fold` marks the fold; `fit(features[~own], labels[~own])` never saw it.",
            "`scores[own] = …` puts the answers back where their requests stand.",
        ),
    ),
)  # fmt: skip
