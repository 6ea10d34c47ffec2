"""Studies of lesson 22 on SmolLM2: every method of the comparison on every set of requests, and what α does to its prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data, judges
from ..chat import conversation, encode, pad
from ..data.training_sets import TRAINING_SETS
from ..generation import Prompt, answer
from ..judges import Judge
from ..measures import is_right, similarity
from ..studies.runner import Study
from ..studies.undefended import NEW_TOKENS, requests_of
from .baselines import Method, methods
from .margins import first_logits, refusal_margins
from .recipes import CAREFUL, RECKLESS
from .scores import scorer
from .shipped import SEEDS, prompt, real_model

Asked = tuple[PreTrainedModel, PreTrainedTokenizerBase]

OWN = ("harmful", "borderline", "benign")  # test splits, of the same writers as the anchors
OTHERS = ("jailbreakbench", "rho-twins/harmful", "rho-borderline", "rho-twins/benign")  # of a style that no anchor has
WRITTEN = (
    "no system text", "safe text", "text contrast", "Instructive Decoding, null", "Instructive Decoding, opposite",
)  # fmt: skip
TRAINED = ("SP", "SP − opposite text", "SafeDecoding", "none − AP", "safe text − AP", "SP − AP")
ALPHA = 0.4  # of the method table, as in the paper
ALPHAS = (0.2, 0.5, 0.8, 1.0)
GRID = tuple(round(0.05 * step, 2) for step in range(21))
BATCH = 32
EACH = 150  # requests of a kind and split, where not all are asked
LAYER = 18  # of 30: from here to the last but one a probe finds nearly the same on validation requests


def measure_method(seed: int, method: str, requests: str) -> dict[str, Any]:
    """Asks SmolLM2 a set of requests in one way, greedily, and labels the beginnings of its answers; as `judged` has it.

    Args:
        seed: of the trained prompts.
        method: a name of `baselines.methods`, all contrasts at α = 0.4.
        requests: as in `studies.undefended.requests_of`.
    """
    return judged(method_of(method, seed), requests)


def measure_alpha(seed: int, alpha: float, requests: str) -> dict[str, Any]:
    """The contrast of the two trained prompts at one α: below 1 within the limit of plausibility, from 1 on as printed.

    The printed method has no such limit, and α = 1 exists in its form alone.
    """
    safe, adversarial = prompt("safeguarding", seed), prompt("adversarial", seed)
    score = scorer(alpha) if alpha < 1 else scorer(alpha, plausibility=0.0)
    return judged(Method((safe, adversarial), score), requests)


def measure_margins(seed: int, requests: str) -> dict[str, Any]:
    """By how much the contrast prefers to begin with a refusal, for each request and each α of a grid."""
    return beginnings(prompt("safeguarding", seed), prompt("adversarial", seed), requests, GRID) | {
        "alphas": list(GRID)
    }


def beginnings(
    safe: Prompt, adversarial: Prompt, requests: str, alphas: Sequence[float], asked: Asked | None = None
) -> dict[str, Any]:
    """The margins of the first token for each request, one for each α.

    Args:
        asked: another model than SmolLM2 as it is, with its tokenizer.
    """
    rows = requests_of(requests)
    return {"kind": rows[0]["kind"], "margins": _margins(rows, safe, adversarial, alphas, asked or real_model())}


def _margins(
    rows: Sequence[Mapping[str, Any]], safe: Prompt, adversarial: Prompt, alphas: Sequence[float], asked: Asked
) -> dict[str, list[float]]:
    model, tokenizer = asked
    refusing = tokenizer("Sorry", add_special_tokens=False)["input_ids"][:1]
    texts = [row["request"] for row in rows]
    logits = first_logits(model, tokenizer, texts, safe, adversarial, batch_size=BATCH, progress=True)  # (2, B, V)
    found = [refusal_margins(logits.float(), refusing, alpha).tolist() for alpha in alphas]
    return {row["id"]: [round(at[n], 3) for at in found] for n, row in enumerate(rows)}


def measure_learned(seed: int, split: str, requests: str) -> dict[str, Any]:
    """How the safeguarding prompt and the line order requests that both were trained on, and others by the same writers.

    Args:
        split: "train", which both have seen, or "validation", which neither has.
        requests: one of `OWN`.

    Returns:
        The margins of the first token under "SP", and under "line" the sides as in `measure_probe`.
    """
    rows = list(data.load(requests, split))[:EACH]
    safe = prompt("safeguarding", seed)
    sides = _probe().decision_function(_states([row["request"] for row in rows]))
    line = _by_id(rows, [[round(float(side), 3)] for side in sides])
    return {"SP": _margins(rows, safe, safe, (0.0,), real_model()), "line": line}


def measure_probe(seed: int, requests: str) -> dict[str, Any]:
    """How far each request lies on the harmful side of a straight line through the undefended model's own states.

    A logistic regression on the state of the last token before the answer, fitted on all training requests: it says what of
    the difference the model has at hand, which no prompt made for this.
    """
    rows = requests_of(requests)
    sides = _probe().decision_function(_states([row["request"] for row in rows]))
    return {"kind": rows[0]["kind"], "margins": _by_id(rows, [round(float(side), 3) for side in sides])}


@cache
def _probe() -> Pipeline:
    rows = [row for name in TRAINING_SETS for row in data.load(name, "train")]
    line = LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced")
    harmful = [row["kind"] == "harmful" for row in rows]
    return make_pipeline(StandardScaler(), line).fit(_states([row["request"] for row in rows]), harmful)


@torch.inference_mode()
def _states(texts: Sequence[str]) -> NDArray[np.float32]:
    """The states after layer 18 (of 30) at the last token before the answer; (N, D)."""
    model, tokenizer = real_model()
    ids = [encode(tokenizer, conversation(text)) for text in texts]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    found = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = pad([ids[number] for number in chosen], tokenizer.pad_token_id or 0).to(model.device)
        states = model.base_model(**batch.inputs(), output_hidden_states=True).hidden_states[LAYER]  # (B, T, D)
        found[chosen] = states[:, -1].float().cpu().numpy()  # (B, D)
    return found


def judged(
    method: Method, requests: str, asked: Asked | None = None, worded: Callable[[str], str] = str
) -> dict[str, Any]:
    """The label of each answer; of harmless requests how much is as the undefended model says it, and what is right.

    Only numbers and labels are kept, by the id of the request.

    Args:
        asked: as in `beginnings`.
        worded: what becomes of each request before it is asked.
    """
    (model, tokenizer), rows = asked or real_model(), requests_of(requests)
    texts = [worded(row["request"]) for row in rows]
    said = method(model, tokenizer, texts, max_new_tokens=NEW_TOKENS, batch_size=BATCH, progress=True).texts
    labels = _judge().labels(said, texts)
    result = {"kind": rows[0]["kind"], "labels": _by_id(rows, labels)}
    if rows[0]["kind"] == "harmful":
        return result
    before = _undefended(tuple(texts))
    result["similarity"] = _by_id(rows, [round(similarity(*pair), 3) for pair in zip(said, before, strict=True)])
    right = {
        row["id"]: label == "compliance" and is_right(text, row["reference"])
        for row, label, text in zip(rows, labels, said, strict=True)
        if row["kind"] == "benign" and row["reference"]
    }
    return result | ({"right": right} if right else {})


def method_of(name: str, seed: int) -> Method:
    """A method of the comparison by its name, with the prompts of a seed where it needs them."""
    if name in WRITTEN:
        return methods(CAREFUL, RECKLESS, alpha=ALPHA)[name]
    adversarial = prompt("adversarial", seed) if "AP" in name else None  # it is not shipped, and trained for minutes
    return methods(CAREFUL, RECKLESS, prompt("safeguarding", seed), adversarial, alpha=ALPHA)[name]


@cache
def _judge() -> Judge:
    return judges.load()


@cache
def _undefended(texts: tuple[str, ...]) -> list[str]:
    return answer(*real_model(), texts, max_new_tokens=NEW_TOKENS, batch_size=BATCH)


def _by_id(rows: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> dict[str, Any]:
    return {row["id"]: value for row, value in zip(rows, values, strict=True)}


READS = ("english", "models/judge", "prompts")
STUDIES = (
    Study(
        name="smollm2_written",
        run="safealign_lab.contrast.real_studies:measure_method",
        grid={"method": list(WRITTEN), "requests": [*OWN, *OTHERS]},
        seeds=(0,),
        minutes=30,
        about="SmolLM2 without a defence and under written system texts, alone and contrasted.",
        reads=("english", "models/judge"),
    ),
    Study(
        name="smollm2_methods",
        run="safealign_lab.contrast.real_studies:measure_method",
        grid={"method": list(TRAINED), "requests": [*OWN, *OTHERS]},
        seeds=SEEDS,
        minutes=90,
        about="SmolLM2 under trained opposite prompts, alone and contrasted, by prompts of three seeds.",
        reads=READS,
    ),
    Study(
        name="smollm2_margins",
        run="safealign_lab.contrast.real_studies:measure_margins",
        grid={"requests": [*OWN, *OTHERS]},
        seeds=SEEDS,
        minutes=6,
        about="The margin by which SmolLM2 begins with a refusal under the contrast of two trained prompts, by α.",
        reads=("english", "prompts"),
    ),
    Study(
        name="smollm2_probe",
        run="safealign_lab.contrast.real_studies:measure_probe",
        grid={"requests": [*OWN, *OTHERS]},
        seeds=(0,),
        minutes=2,
        about="How well a straight line through SmolLM2's own states tells harmful requests from harmless ones.",
        reads=("english",),
    ),
)
