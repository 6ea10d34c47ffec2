"""What the heads of the gate learn from on SmolLM2: requests of the training splits, and a teacher who sees more of them.

Symbols: N requests, D numbers in a feature vector, V views of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .. import data, models
from ..data.training_sets import TRAINING_SETS
from . import features
from .features import Standardiser

VALIDATION_SETS = ("harmful", "borderline", "benign", "preferences")
TEMPLATE = (  # what SmolLM2's chat template puts around a request, its own system text included
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
)
LAYER = features.LAYERS[models.SMOLLM2]
TEACHER_LAYERS, MINILM_LAYERS = (14, 18, 22), (2, 4, 6)
STRENGTH = 0.003  # of the teacher's lines, scikit-learn's C; up = closer to their requests. source: ours
WORDS_STRENGTH = 5.0  # the same through words, whose numbers are smaller
FOLDS = 10  # down = each line of the teacher learns from fewer requests; source: ours


@dataclass(frozen=True)
class Teacher:
    """Several lines, each through a view of its own of a request, and what weighs them.

    Attributes:
        lines: V fitted scikit-learn estimators with a `decision_function`.
        weighing: another, of the V lines' log-odds.
    """

    lines: tuple[Any, ...]
    weighing: Any

    def log_odds(self, views: Sequence[Any]) -> Tensor:
        """How surely requests are harmful, in nats; (N,).

        Args:
            views: V, each of the same N requests, as in `cross_fit`.
        """
        seen = [line.decision_function(view) for line, view in zip(self.lines, views, strict=True)]  # V of (N,)
        return torch.from_numpy(self.weighing.decision_function(np.stack(seen, axis=1))).float()  # (N,)


def cross_fit(
    views: Sequence[Any], lines: Sequence[Any], labels: Sequence[bool], groups: Sequence[str], folds: int = FOLDS
) -> tuple[Teacher, Tensor]:
    """A teacher, and what it thinks of its own training requests where it saw neither them nor their twins.

    A teacher who is asked about what it learnt by heart has no doubts, and its student would learn none. So the requests are
    dealt into folds, those of a group into the same one, and the log-odds of each fold come from lines, and from a weighing
    of them, that were fitted on the others. The teacher that is returned is fitted on all.

    Args:
        views: V, each of N requests: an array (N, D), or the N texts.
        lines: V unfitted scikit-learn estimators, one for each view.
        labels: N, True where harmful.
        groups: N, the same for requests that tell of each other, such as twins.
        folds: up = each line learns from more, slower.

    Returns:
        The teacher, and out-of-fold log-odds (N,), float32.

    Raises:
        ValueError: the numbers of views, lines, labels and groups do not fit.
    """
    if len(views) != len(lines) or {len(groups), *map(len, views)} != {len(labels)}:
        raise ValueError(
            f"A teacher needs a line for each view, and a label and a group for each request, not {len(lines)} lines, "
            f"{len(labels)} labels and {len(groups)} groups for views of {[*map(len, views)]} requests."
        )
    dealt, pairs = StratifiedGroupKFold(folds, shuffle=True, random_state=0), list(zip(lines, views, strict=True))
    splits = list(dealt.split(np.zeros(len(labels)), labels, groups))
    options: dict[str, Any] = {"cv": splits, "method": "decision_function"}
    held_out = np.stack([cross_val_predict(line, view, labels, **options) for line, view in pairs], axis=1)  # (N, V)
    weighing = make_pipeline(
        StandardScaler(), LogisticRegression()
    )  # of lines that are never equally sure of themselves
    weighed = cross_val_predict(weighing, held_out, labels, **options)  # (N,)
    fitted = tuple(clone(line).fit(view, labels) for line, view in pairs)
    return Teacher(fitted, weighing.fit(held_out, labels)), torch.from_numpy(weighed).float()


def two_sided(log_odds: Tensor) -> Tensor:
    """Log-odds (N,) as logits of the two classes, z(harmful) = -z(harmless); (N, 2)."""
    return torch.stack([-log_odds / 2, log_odds / 2], dim=1)  # (N, 2)


@dataclass(frozen=True)
class GateTask:
    """The requests that heads learn from, and those that thresholds are chosen on.

    Attributes:
        train, validation: rows of these splits.
        features: (N, D), of the training requests, standardised.
        labels: (N,), 1 = harmful.
        teacher_logits: (N, 2), out of fold.
        standardiser: of the training features.
        teacher: fitted on all training requests.
    """

    train: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    features: Tensor
    labels: Tensor
    teacher_logits: Tensor
    standardiser: Standardiser
    teacher: Teacher


@cache
def gate_task() -> GateTask:
    """The task on SmolLM2; everything is read once, in minutes, and kept in the cache folder.

    Raises:
        fetching.FetchError: a model is not in the cache and cannot be fetched.
    """
    train = tuple(row for name in TRAINING_SETS for row in data.load(name, "train"))
    validation = tuple(row for name in VALIDATION_SETS for row in data.load(name, "validation"))
    texts, harmful = [row["request"] for row in train], [row["kind"] == "harmful" for row in train]
    raw = states(texts)  # (N, D)
    standardiser = Standardiser.fit(raw)
    teacher, log_odds = cross_fit(views(texts), teacher_lines(), harmful, groups(train))
    labels = torch.tensor(harmful).long()  # (N,)
    return GateTask(train, validation, standardiser(raw), labels, two_sided(log_odds), standardiser, teacher)


def groups(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each request that it shares with its twin alone."""
    return [row["twin"] or row["id"] for row in rows]


def states(requests: Sequence[str]) -> Tensor:
    """What the gate reads, out of the cache where it has been read before: SmolLM2's states after layer 18; (N, D).

    In bfloat16, on some processors three times as fast as float32. A feature moves by a twenty-fifth of its spread and a
    margin by about 0.1 nats, so that a gate that reads a float32 model decides otherwise only close to its threshold.
    """
    return features.read(models.SMOLLM2, requests, LAYER, torch.bfloat16, TEMPLATE)


def views(requests: Sequence[str]) -> list[Any]:
    """What the teacher reads: three layers of SmolLM2 (N, 3·D), three of MiniLM (N, 3·384), and the words themselves."""
    deep = features.read(models.SMOLLM2, requests, TEACHER_LAYERS, torch.bfloat16, TEMPLATE)  # (N, 3·D)
    return [deep.numpy(), features.read("minilm", requests, MINILM_LAYERS).numpy(), list(requests)]


def teacher_lines() -> list[Any]:
    """One unfitted line for each of the teacher's views."""
    dense = [make_pipeline(StandardScaler(), line(STRENGTH)) for _ in range(2)]
    words = TfidfVectorizer(token_pattern=r"[^\W_]+", ngram_range=(1, 2), sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True)
    return [*dense, make_pipeline(make_union(words, letters), line(WORDS_STRENGTH))]


def line(strength: float) -> LogisticRegression:
    """An unfitted straight line in which harmful and harmless requests weigh the same in all.

    Args:
        strength: scikit-learn's C; up = closer to its requests, and surer of itself.
    """
    return LogisticRegression(C=strength, max_iter=2000, class_weight="balanced")
