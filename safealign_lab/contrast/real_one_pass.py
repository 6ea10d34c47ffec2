"""Studies of lesson 23 on SmolLM2: the contrast of two trained prompts distilled into one prompt, and into an adapter.

Symbols: P length of a soft prompt, D hidden size, B batch, T tokens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .. import data
from ..chat import conversation, encode
from ..data.training_sets import TRAINING_SETS
from ..generation import Prompt, generate
from ..models.adapters import adapted
from ..studies.runner import Study
from ..training import Plan
from .baselines import Method
from .one_pass import Demonstration, Distillation, demonstrate, into_adapter, into_prompt
from .real_studies import ALPHA, OTHERS, OWN, READS, judged
from .scores import scorer
from .shipped import prompt, real_model

EACH = 160  # training requests of each kind whose answers by the contrast are shown
HELD_OUT = 40  # validation requests of each kind, for the fidelity
TOKENS = 8
INTO_PROMPT = Plan(steps=150, learning_rate=0.005, warmup=10, floor=0.02)
INTO_ADAPTER = Plan(steps=150, learning_rate=5e-4, warmup=10, floor=0.02)
DISTILLED = ("one soft prompt", "LoRA")
LONG, SHORT, REPEATS = 33, 1, 3


def measure_distilled(seed: int, student: str, requests: str) -> dict[str, Any]:
    """What a distilled student answers, labelled as in `real_studies.judged`.

    Args:
        student: one of `DISTILLED`.
        requests: as in `studies.undefended.requests_of`.
    """
    model, one = _student(student, seed)
    return judged(Method((one,)), requests, (model, real_model()[1]))


def measure_fidelity(seed: int, student: str) -> dict[str, float]:
    """How near a student is to the contrast on validation requests of three kinds, none of which it was trained on.

    Args:
        student: one of `DISTILLED`, or "S alone" for the safeguarding prompt, from which the soft prompt starts.
    """
    model, one = (real_model()[0], prompt("safeguarding", seed)) if student == "S alone" else _student(student, seed)
    soft = one if isinstance(one, Tensor) else None
    held_out = Distillation(model, real_model()[1], _shown(seed, "validation", HELD_OUT), _system(soft))
    found = held_out.fidelity(soft)
    return {"divergence": round(found.divergence, 4), "agreement": round(found.agreement, 4)}


def _system(soft: Tensor | None) -> str | None:
    return None if soft is None else ""


@cache
def _student(name: str, seed: int) -> tuple[PreTrainedModel, Prompt]:
    """The model that answers, and what stands before the request."""
    model, tokenizer = real_model()
    shown = _shown(seed, "train", EACH)
    if name == "one soft prompt":
        return model, into_prompt(Distillation(model, tokenizer, shown), prompt("safeguarding", seed), INTO_PROMPT)[0]
    student = adapted(model, seed=seed)
    into_adapter(Distillation(student, tokenizer, shown, system=None), INTO_ADAPTER)
    return student.merge_and_unload(), None


@cache
def _shown(seed: int, split: str, each: int) -> list[Demonstration]:
    """How the contrast begins its answers to requests of a split, as many of each kind."""
    rows = [row for name in (TRAINING_SETS if split == "train" else OWN) for row in data.load(name, split)]
    rng = random.Random(f"one pass {seed}")
    drawn = [one for kind in OWN for one in rng.sample([row["request"] for row in rows if row["kind"] == kind], each)]
    safe, adversarial = prompt("safeguarding", seed), prompt("adversarial", seed)
    return demonstrate(*real_model(), drawn, safe, adversarial, alpha=ALPHA, tokens=TOKENS, progress=True)


def measure_cost(seed: int, batch: int) -> dict[str, dict[str, float]]:
    """The time of a decoded token, and the places whose keys and values are kept, as ratios to the plain model in the same run.

    Args:
        batch: how many requests are answered at once.
    """
    requests = sorted((row["request"] for row in data.load("benign", "validation")), key=len)[-batch:]
    ways = _ways(seed)
    rounds = [{name: _per_token(*way, requests) for name, way in ways.items()} for _ in range(REPEATS + 1)]
    seconds = {name: min(times[name] for times in rounds[1:]) for name in ways}  # the first pays for setting things up
    kept = {name: sum(_places(one, requests) for one in prompts) for name, (_, prompts) in ways.items()}
    return {
        name: {"time": round(seconds[name] / seconds["plain"], 3), "kept": round(kept[name] / kept["plain"], 3)}
        for name in ways
    }


def _ways(seed: int) -> dict[str, tuple[PreTrainedModel, tuple[Prompt, ...]]]:
    model, _ = real_model()
    safe, adversarial = prompt("safeguarding", seed), prompt("adversarial", seed)
    low_rank = adapted(model, seed=seed)  # untrained, which costs the same
    merged = adapted(model, seed=seed).merge_and_unload()
    return {
        "plain": (model, (None,)), "one soft prompt": (model, (safe,)), "LoRA": (low_rank, (None,)),
        "LoRA, merged": (merged, (None,)), "two streams": (model, (safe, adversarial)),
    }  # fmt: skip


def _per_token(model: PreTrainedModel, prompts: Sequence[Prompt], requests: Sequence[str]) -> float:
    """Seconds for each token after the first, of answers that never end."""
    tokenizer = real_model()[1]
    mix = scorer(ALPHA) if len(prompts) == 2 else itemgetter(0)
    ends = torch.tensor([tokenizer.eos_token_id, tokenizer.pad_token_id])  # (2,)

    def _endless(logits: Tensor) -> Tensor:
        return mix(logits).index_fill(-1, ends, -torch.inf)  # (B, V)

    seconds = []
    for tokens in (LONG, SHORT):
        began = time.perf_counter()
        generate(model, tokenizer, requests, prompts, score=_endless, max_new_tokens=tokens, batch_size=len(requests))
        seconds.append(time.perf_counter() - began)
    return (seconds[0] - seconds[1]) / (LONG - SHORT)


def _places(before: Prompt, requests: Sequence[str]) -> int:
    """How many places of all requests one stream keeps in memory, at the end of the long answers."""
    tokenizer, length = real_model()[1], len(before) if isinstance(before, Tensor) else 0
    system = "" if isinstance(before, Tensor) else before
    return sum(len(encode(tokenizer, conversation(request, system))) + length + LONG for request in requests)


STUDIES = (
    Study(
        name="smollm2_one_pass",
        run="safealign_lab.contrast.real_one_pass:measure_distilled",
        grid={"student": list(DISTILLED), "requests": [*OWN, *OTHERS]},
        seeds=(0,),
        minutes=30,
        about="SmolLM2 with the contrast of its two prompts distilled into one soft prompt, and into a low-rank adapter.",
        reads=READS,
    ),
    Study(
        name="smollm2_fidelity",
        run="safealign_lab.contrast.real_one_pass:measure_fidelity",
        grid={"student": ["S alone", *DISTILLED]},
        seeds=(0,),
        minutes=20,
        about="How near the distilled students of SmolLM2's contrast are to it on requests that they were not trained on.",
        reads=("english", "prompts"),
    ),
    Study(
        name="smollm2_cost",
        run="safealign_lab.contrast.real_one_pass:measure_cost",
        grid={"batch": [1, 16]},
        seeds=(0,),
        minutes=3,
        about="What a decoded token of SmolLM2 costs in time and in kept keys and values, as ratios to the plain model.",
        reads=("english", "prompts"),
    ),
)
