"""The study of lesson 40 in the alchemy world: every method and every baseline on the same requests.

Symbols: N requests, N_t tokens, P length of a soft prompt, D hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from operator import itemgetter
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..alchemy import voices
from ..alchemy.evaluation import BATCH, NEW_TOKENS
from ..alchemy.grader import grade
from ..alchemy.world import Request
from ..contrast.recipes import LIMIT
from ..contrast.scores import scorer
from ..distillation.gate import REFUSAL
from ..generation import Prompt, generate
from ..studies.runner import Study
from .tiny_lab import KINDS, TAMPERING, VIEWS, Lab, asked, lab, seconds_for_hundred, seconds_per_token
from .your_memory import of_streams

ALPHA = 0.2  # of the contrast where it has no slider of its own
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
EPSILONS, TEMPERATURES = (0.0, 0.05, 0.1, 0.2), (1.0, 2.0, 4.0)
FRACTIONS, STABILIZATIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), (1.0, 100.0, 10000.0)
SHOWN = 4  # requests of each kind whose answers are kept word for word
BATCH_TIMED, LONG, REPEATS = 16, 25, 5


@dataclass(frozen=True)
class Way:
    """A way of answering, without a gate.

    Attributes:
        family: one of `points.FAMILIES`.
        model: as in `Lab.model`.
        first, second: a system text, or the role of a soft prompt; the second one is subtracted.
        alpha: of the contrast; 0 = the first alone.
        settings: of the knobs that the dashboard has.
    """

    family: str
    model: str = "undefended"
    first: str = ""
    second: str = ""
    alpha: float = 0.0
    settings: dict[str, float] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        """The soft prompts that it needs."""
        return tuple(one for one in (self.first, self.second) if one in ("safeguarding", "adversarial"))


def _contrast(alpha: float, model: str = "undefended", family: str = "contrast") -> Way:
    return Way(family, model, "safeguarding", "adversarial", alpha, {"alpha": alpha})


WAYS: dict[str, Way] = {
    "undefended": Way("no training"),
    "safe text": Way("no training", first=voices.KEEPER),
    "text contrast": Way("no training", first=voices.KEEPER, second=voices.ROGUE, alpha=ALPHA),
    "SP": Way("contrast", first="safeguarding", settings={"alpha": 0.0}),
    **{f"SP − {alpha:g} AP": _contrast(alpha) for alpha in ALPHAS},
    "refusal SFT": Way("immunization", "refusal SFT"),
    "refusal-DPO": Way("immunization", "refusal-DPO"),
    "immunized as printed": Way("immunization", "as printed"),
    **{f"immunized, K = {k:g}": Way("immunization", f"immunized, K = {k:g}", settings={"canary_fraction": k})
       for k in FRACTIONS},
    **{f"immunized, β = {b:g}": Way("immunization", f"immunized, β = {b:g}", settings={"stabilization": b})
       for b in STABILIZATIONS},
    "immunized, SP": Way("composed", "immunized, K = 0.5", "safeguarding"),
    f"immunized, SP − {ALPHA:g} AP": _contrast(ALPHA, "immunized, K = 0.5", "composed"),
}  # fmt: skip
GATES = {f"gate, ε = {e:g}, τ = {t:g}": (e, t) for e in EPSILONS for t in TEMPERATURES}
LETTERS = {"refusal": "R", "incoherent": "I", "compliance": "C", "exact": "E"}


def measure_way(seed: int, way: str) -> dict[str, Any]:
    """What a way of answering, or a gate, does with every request in every view, and what it costs.

    Args:
        seed: of the world, of all that is trained and of the draw of requests.
        way: a key of `WAYS` or `GATES`.

    Returns:
        "views": view → kind → a letter for each request (of `LETTERS`), for a gate its margins; "cost", as in `points.Point`;
        and some answers word for word, or the gate's threshold.

    Raises:
        ValueError: there is no such way.
    """
    if way in GATES:
        return _gate(seed, *GATES[way])
    if way not in WAYS:
        raise ValueError(f"There is no way {way!r}: expected one of {', '.join([*WAYS, *GATES])}.")
    of, chosen = lab(seed), WAYS[way]
    views = {view: {kind: _letters(of, chosen, view, asked(seed, view)[kind]) for kind in KINDS} for view in VIEWS}
    shown = {kind: _said(of, chosen, VIEWS[0], shown_requests(seed)[kind]) for kind in KINDS}
    return {"views": views, "shown": shown, "cost": _cost(of, chosen)}


def shown_requests(seed: int) -> dict[str, list[Request]]:
    """The requests whose answers are kept word for word: the first few of each kind, from all over it."""
    rng = random.Random("shown")
    return {kind: rng.sample(its, SHOWN) for kind, its in asked(seed).items()}


def _letters(of: Lab, way: Way, view: str, requests: Sequence[Request]) -> str:
    said = _said(of, way, view, requests)
    grades = [grade(text, one.reference) for text, one in zip(said, requests, strict=True)]
    return "".join(LETTERS["exact" if one.exact else one.label] for one in grades)


def _said(of: Lab, way: Way, view: str, requests: Sequence[Request]) -> list[str]:
    model = of.model(way.model, _steps(view))
    return say(of, way, model, [one.text for one in requests])


def say(of: Lab, way: Way, model: PreTrainedModel, texts: Sequence[str]) -> list[str]:
    """The answers of a way, by a model that may have been tampered with since its prompts were trained."""
    prompts, score = _streams(of, way)
    return generate(
        model, of.tokenizer, texts, prompts, score=score, batch_size=BATCH, max_new_tokens=NEW_TOKENS
    ).texts  # fmt: skip


def _streams(of: Lab, way: Way) -> tuple[tuple[Prompt, ...], Any]:
    first, second = (of.prompt(one, way.model) if one in way.roles else one for one in (way.first, way.second))
    return ((first, second), scorer(way.alpha, plausibility=LIMIT)) if way.alpha else ((first,), None)


def _steps(view: str) -> int:
    return next((steps for steps in TAMPERING if view == f"after {steps} steps of tampering"), 0)


def _gate(seed: int, epsilon: float, temperature: float) -> dict[str, Any]:
    of = lab(seed)
    gate = of.gate(epsilon, temperature)
    views = {}
    for view in VIEWS:
        seen = replace(gate, read=of.reads(of.model("undefended", _steps(view))))
        requests = asked(seed, view)
        views[view] = {kind: _rounded(seen.score([one.text for one in requests[kind]])) for kind in KINDS}
    shown = {kind: _rounded(gate.score([one.text for one in its])) for kind, its in shown_requests(seed).items()}
    trained = of.seconds[f"gate, ε = {epsilon:g}, τ = {temperature:g}"]
    weights = sum(weight.numel() for weight in gate.head.parameters())
    cost = {"training": round(trained / _hundred(seed), 2), "time": 1.0,
            "memory": round(1 + weights * 4 / _bytes(of, ("",)), 4)}  # fmt: skip
    return {"views": views, "threshold": round(gate.threshold, 3), "shown": shown, "cost": cost, "refusal": REFUSAL}


def _rounded(margins: Tensor) -> list[float]:
    return [round(margin, 2) for margin in margins.tolist()]


# ---------------------------------------------------------------- what it costs


def _cost(of: Lab, way: Way) -> dict[str, float]:
    """Ratios to the undefended model in the same run: training in answers to a hundred requests, time of a token, memory."""
    prompts, score = _streams(of, way)
    model = of.model(way.model)
    trained = sum(of.seconds[f"{role} prompt of {way.model}"] for role in way.roles)
    trained += 0.0 if way.model == "undefended" else of.seconds[way.model]
    plain = (("",), None, of.base)
    times = [[_per_token(of, *one) for one in (plain, (prompts, score, model))] for _ in range(REPEATS)]
    plain_time, own_time = (min(column) for column in zip(*times, strict=True))
    own, base = (_bytes(of, some) for some in (prompts, ("",)))
    return {
        "training": round(trained / _hundred(of.seed), 2), "time": round(own_time / plain_time, 3), "memory": round(own / base, 4)
    }  # fmt: skip


@cache
def _hundred(seed: int) -> float:
    of = lab(seed)
    return seconds_for_hundred(of.base, of.tokenizer, [one.text for one in asked(seed)["benign"]])


def _per_token(of: Lab, prompts: Sequence[Prompt], score: Any, model: PreTrainedModel) -> float:
    """Processor seconds for each token after the first, of answers that never end, in a batch."""
    texts = [one.text for one in asked(of.seed)["benign"][:BATCH_TIMED]]
    answers = partial(
        generate, model, of.tokenizer, texts, prompts, score=score or itemgetter(0), batch_size=BATCH_TIMED, end_ids=(-1,)
    )  # fmt: skip
    return seconds_per_token(lambda tokens: answers(max_new_tokens=tokens), LONG)


def _bytes(of: Lab, prompts: Sequence[Prompt]) -> int:
    texts = [one.text for one in asked(of.seed)["benign"][:BATCH_TIMED]]
    return of_streams(of.base, of.tokenizer, prompts, texts, NEW_TOKENS)


STUDIES = (
    Study(
        name="tiny_one_plot",
        run="safealign_lab.one_plot.tiny_study:measure_way",
        grid={"way": [*WAYS, *GATES]},
        seeds=(0, 1, 2),
        minutes=20,
        about="Every method and baseline of the kit in three alchemy worlds, asked the same requests in five views.",
        reads=("models/tiny",),
    ),
)
