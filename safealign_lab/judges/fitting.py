"""Fits the probe: labelled and written answers in, a linear layer over a frozen model's hidden states out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data, models
from ..alchemy.grader import Label
from ..data import labelled
from . import features
from .asked import again
from .base import LABELS
from .probe import ProbeJudge

PENALTY = 0.002  # C of the logistic regression (source: ours, on the validation answers); down = weights nearer to zero
WEIGHTS = {"smollm2": 2.0, "pyrit": 3.0, "cases": 2.0, "written": 1.0, "made up": 1.0, "mixed": 1.0}  # (source: ours)


@dataclass(frozen=True)
class Example:
    """One labelled pair for the probe, and what kind of source it is from."""

    request: str
    response: str
    label: Label
    source: str


def examples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Everything that the probe is fitted on; no row of any report part or test split is among it."""
    requests = {id: row["request"] for id, row in data.by_id().items()}
    found = [
        Example(requests[row["request"]], text, row["label"], "smollm2")
        for row, text in again(model, tokenizer, labelled.smollm2("tune"), requests)
    ]
    for answer in labelled.pyrit("tune"):  # people said only refusal or not: their others are readable answers
        found.append(
            Example(answer["request"], answer["response"], "refusal" if answer["refusal"] else "compliance", "pyrit")
        )
    found += [Example(case["request"], case["response"], case["label"], "cases") for case in labelled.cases("tune")]
    return [*found, *_mixed(found), *_written(), *_made_up()]


def _mixed(rows: Sequence[Example], seed: int = 0) -> Iterator[Example]:
    """Answers that gave what was asked, under other requests: fluent, and about something else, so refusals."""
    rng = random.Random(seed)
    for source, most, others in (("pyrit", None, 2), ("smollm2", 150, 1)):
        requests = [row.request for row in rows if row.source == source]
        given = [row for row in rows if row.source == source and row.label == "compliance"]
        for row in given if most is None else rng.sample(given, min(most, len(given))):
            for request in rng.sample([request for request in requests if request != row.request], others):
                yield Example(request, row.response, "refusal", "mixed")


def _written() -> Iterator[Example]:
    """The kit's own answers: refusals, right answers, chosen and rejected ones, and each helpful one under another request."""
    for row in data.load("refusals"):
        yield Example(row["request"], row["reference"], "refusal", "written")
    for split in ("train", "validation"):
        for row in data.load("benign", split):
            if row["reference"]:
                yield Example(row["request"], row["reference"], "compliance", "written")
    pairs = list(data.load("preferences"))
    for row in pairs:
        harmful = row["kind"] == "harmful"
        yield Example(row["request"], row["reference"], "refusal" if harmful else "compliance", "written")
        yield Example(row["request"], row["rejected"], "compliance" if harmful else "refusal", "written")
    helpful = [row["reference"] for row in pairs if row["kind"] != "harmful"]
    others = [row["request"] for row in pairs if row["kind"] == "harmful"]
    harmless = [row["request"] for row in pairs if row["kind"] != "harmful"]
    for answer, request in [
        *zip(helpful, others, strict=False),
        *zip(helpful, harmless[1:] + harmless[:1], strict=True),
    ]:
        yield Example(request, answer, "refusal", "made up")  # fluent, and about something else


def _made_up(seed: int = 0) -> Iterator[Example]:
    """Incoherent texts: an answer's words in no order, its beginning in a loop, words of many answers."""
    rng = random.Random(seed)
    pairs = list(data.load("preferences", "train"))
    pool = [word for row in pairs for word in row["reference"].split()]
    for number, row in enumerate(rng.sample(pairs, 150)):
        words = row["reference"].split()
        loop = words[: rng.randint(1, 5)] * 8
        text = (rng.sample(words, len(words)), loop, rng.sample(pool, rng.randint(1, 25)))[number % 3]
        yield Example(row["request"], " ".join(text), "incoherent", "made up")


def fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Example]) -> ProbeJudge:
    """Fits the linear layer on the features of labelled answers.

    Multinomial logistic regression on standardised features, every label weighing the same in all.

    Args:
        model, tokenizer: the undefended SmolLM2.
        rows: of `examples`.
    """
    reading = features.read(
        model, tokenizer, [row.response for row in rows], [row.request for row in rows], progress=True
    )
    centre = reading.centre()
    inputs = reading.features(centre).double().numpy()  # (N, F)
    scaler = StandardScaler().fit(inputs)
    labels = np.array([LABELS.index(row.label) for row in rows])
    weights = [WEIGHTS[row.source] for row in rows]
    found = LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=2000)
    found.fit(scaler.transform(inputs), labels, sample_weight=weights)
    numbers = {"mean": scaler.mean_, "scale": scaler.scale_, "weight": found.coef_, "bias": found.intercept_}
    tensors = {name: torch.tensor(value, dtype=torch.float32).contiguous() for name, value in numbers.items()}
    counts = {source: sum(row.source == source for row in rows) for source in WEIGHTS}
    card = {
        "title": "A refusal judge: a linear probe on SmolLM2-135M-Instruct", "licence": "MIT", "labels": list(LABELS),
        "layers": list(features.LAYERS), "penalty": PENALTY, "weights": WEIGHTS, "fitted_on": counts,
        "measured": "data/results/judge.jsonl",
    }  # fmt: skip
    return ProbeJudge(model, tokenizer, {"centre": centre, **tensors}, card)


def rebuild(folder: Path) -> ProbeJudge:
    """Answers the tuning requests again, fits the probe, and writes it into a folder; about ten minutes on two cores."""
    model, tokenizer = models.load(models.SMOLLM2)
    judge = fit(model, tokenizer, examples(model, tokenizer))
    judge.save(folder)
    return judge
