"""The 1K sentiment task on real models: texts of four domains, a frozen backbone's features, a teacher that knows more.

The teacher is SmolLM2 asked about each text: a question follows the text, and a line is drawn through the states at the place
where the answer would begin, fitted on texts that no student sees. The student never hears the question: its features are the
mean states over the text itself, of an earlier layer.

Symbols: N texts, D numbers in a feature vector, C = 2 classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .. import models
from ..data import sentiment
from . import features

QUESTION = (
    "<|im_start|>system\nYou judge texts.<|im_end|>\n<|im_start|>user\nText: ",
    "\nIs the writer positive or negative?<|im_end|>\n<|im_start|>assistant\nThe writer is",
)  # around each text, for the teacher
QUESTION_LAYER = 24  # of 30; the best of six on validation texts (source: ours)
FITTED_ON = 1000  # texts a domain; a third of all that there are, which did as well on validation texts
STRENGTH = 0.01  # of the fit, scikit-learn's C; up = closer to its texts, and surer of itself


@dataclass(frozen=True)
class Part:
    """The texts of one split as a student sees them.

    Attributes:
        texts: N, as written.
        domains: N, one of `sentiment.FILES` each.
        features: (N, D), standardised by the training texts.
        labels: (N,), indices of `sentiment.LABELS`.
        teacher_logits: (N, C).
    """

    texts: tuple[str, ...]
    domains: tuple[str, ...]
    features: Tensor
    labels: Tensor
    teacher_logits: Tensor

    def of_domain(self, domain: str) -> Tensor:
        """(N,), True for the texts of a domain."""
        return torch.tensor([one == domain for one in self.domains])  # (N,)


@dataclass(frozen=True)
class Task:
    """The three splits on one backbone, and what standardises its features."""

    train: Part
    validation: Part
    test: Part
    standardiser: features.Standardiser


@cache
def real_task(backbone: str = models.SMOLLM2, layer: int | None = None) -> Task:
    """The task with the features of a backbone; read once, in minutes, and kept in the cache folder.

    Args:
        backbone, layer: as in `features.read`: any Hugging Face id or folder with a layer, or one of `features.LAYERS` with its
            own. The teacher is the same for all.

    Raises:
        ValueError: a backbone that is not in `features.LAYERS` has no layer.
        fetching.FetchError: a model or the texts are not in the cache and cannot be fetched.
    """
    rows = {split: list(sentiment.load(split)) for split in ("train", "validation", "test")}
    raw = {
        split: features.read(backbone, [row["text"] for row in some], layer) for split, some in rows.items()
    }  # (N, D)
    standardiser = features.Standardiser.fit(raw["train"])
    parts = {split: _part(some, standardiser(raw[split])) for split, some in rows.items()}
    return Task(**parts, standardiser=standardiser)


def teacher_logits(texts: Sequence[str]) -> Tensor:
    """What the teacher says of texts: (N, C), float32, with z(positive) = - z(negative)."""
    log_odds = torch.from_numpy(_teacher().decision_function(_asked(texts).numpy())).float()  # (N,)
    return torch.stack([-log_odds / 2, log_odds / 2], dim=1)  # (N, C)


def miscalibrated(task: Task, factor: float) -> Task:
    """The same task under a teacher of the same opinions who is surer of them, or less sure.

    Args:
        factor: > 0, of its logits; up = surer of itself. 1 changes nothing.
    """
    train = replace(task.train, teacher_logits=factor * task.train.teacher_logits)
    return replace(task, train=train)


def biased(task: Task, shift: float) -> Task:
    """The same task under a teacher who likes everything more than it should.

    Args:
        shift: added to the log-odds of "positive"; up = more texts called positive. 0 changes nothing.
    """
    lean = torch.tensor([-shift / 2, shift / 2])  # (C,)
    train = replace(task.train, teacher_logits=task.train.teacher_logits + lean)
    return replace(task, train=train)


def _part(rows: Sequence[sentiment.Text], scaled: Tensor) -> Part:
    texts = tuple(row["text"] for row in rows)
    labels = torch.tensor([row["label"] for row in rows])  # (N,)
    return Part(texts, tuple(row["domain"] for row in rows), scaled, labels, teacher_logits(texts))


@cache
def _teacher() -> Pipeline:
    taken: Counter[str] = Counter()
    rows = []
    for row in sentiment.load("teacher"):
        taken[row["domain"]] += 1
        if taken[row["domain"]] <= FITTED_ON:
            rows.append(row)
    line = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
    return line.fit(_asked([row["text"] for row in rows]).numpy(), [row["label"] for row in rows])


def _asked(texts: Sequence[str]) -> Tensor:
    """The states where the answer to the question would begin; (N, D)."""
    half = torch.bfloat16  # nothing is differentiated here, and it is more than twice as fast
    return features.read(models.SMOLLM2, texts, QUESTION_LAYER, half, QUESTION)
