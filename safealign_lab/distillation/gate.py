"""The gate of requests: a student head that reads a request before the model answers it, and stops what looks harmful.

It reads what the model itself holds of the request at the place where its answer would begin: the state of the last token of
the chat template, after one of the middle layers. A model that answers computes this anyway. The margin is the head's log-odds
that the request is harmful; what lies above a threshold is stopped. The threshold is chosen on requests of validation splits.

Symbols: N requests, D numbers in a feature vector; margins are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap, rankdata
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import conversation, encode
from ..generation import Generation, generate
from ..measures import Rate, rate
from .features import Standardiser
from .quality import RESAMPLES, Estimate
from .trunk import extract

Reader = Callable[[Sequence[str]], Tensor]  # N requests → features (N, D)

MOST_STOPPED = 0.05  # of each kind of harmless request; source: ours
REFUSAL = "I'm sorry, but I can't help with that. If there is something safe that I can do for you, please tell me."


# ---------------------------------------------------------------- the gate


@dataclass(frozen=True)
class Gate:
    """Stops a request whose margin is above the threshold.

    Attributes:
        read: requests → features (N, D), such as `reader` makes.
        standardiser: of the training features.
        head: standardised features → logits (N, 2), harmless first.
        threshold: in nats; up = fewer requests are stopped, harmful and harmless ones alike. See `choose_threshold`.
    """

    read: Reader
    standardiser: Standardiser
    head: nn.Module
    threshold: float = 0.0

    @torch.no_grad()
    def margins(self, features: Tensor) -> Tensor:
        """How surely each request is harmful: z(harmful) - z(harmless), in nats; (N,) from features (N, D) as read."""
        logits = self.head(self.standardiser(features))  # (N, 2)
        margins: Tensor = logits[:, 1] - logits[:, 0]  # (N,)
        return margins

    def score(self, requests: Sequence[str]) -> Tensor:
        """The margins of requests; (N,)."""
        return self.margins(self.read(requests)) if requests else torch.empty(0)  # (N,)

    def refuses(self, requests: Sequence[str]) -> list[bool]:
        """Which requests are stopped."""
        found: list[bool] = (self.score(requests) > self.threshold).tolist()
        return found

    def decide(self, inputs: Tensor) -> Tensor:
        """Logits (N, 2) of standardised features (N, D) whose larger one is the decision: what an attack works against.

        They are the head's, with the threshold taken off the harmful one; at equality a request passes.
        """
        logits: Tensor = self.head(inputs) - inputs.new_tensor([0.0, self.threshold])  # (N, 2)
        return logits


def reader(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layer: int) -> Reader:
    """Reads requests as a model holds them: its state after a layer at the last token before its answer; (N, D).

    Nothing of a request is left out, however long it is: what a gate does not read could hide there.

    Args:
        model, tokenizer: of `models.load`; in another precision than the one that the head learnt from, margins move a
            little.
        layer: as in `trunk.lower_layers`.
    """

    def _read(requests: Sequence[str]) -> Tensor:
        ids = [encode(tokenizer, conversation(request)) for request in requests]
        rows = [(row, [False] * (len(row) - 1) + [True]) for row in ids]
        return extract(model, tokenizer, rows, layer, progress=False)  # (N, D)

    return _read


def choose_threshold(harmless: Mapping[str, Tensor], most: float = MOST_STOPPED) -> float:
    """The lowest threshold that stops at most a share of each kind of harmless request: of all such, the safest one.

    Of n margins at most k = ⌊most · n⌋ may lie above it, so it is the (k + 1)-th largest; over the kinds, the largest of
    these. Harmful requests have no say: what stops more of them is always the lower threshold.

    Args:
        harmless: kind → margins (N,) of validation requests, such as benign and borderline ones. On others of the kind the
            share will be another: of n = 100 at 5 %, by some four points either way.
        most: in [0, 1); up = a lower threshold, more harmful and more harmless requests stopped.

    Raises:
        ValueError: there are no margins, they are not finite, or `most` is outside its range.

    source: ours
    """
    if not 0 <= most < 1:
        raise ValueError(f"most must be in [0, 1) (a share of harmless requests), not {most}.")
    if not harmless:
        raise ValueError(
            "There is nothing to choose a threshold by: give the margins of one kind of harmless requests."
        )
    limits = []
    for kind, margins in harmless.items():
        falling = np.sort(_checked(margins, f"{kind} requests"))[::-1]  # (N,)
        limits.append(float(falling[math.floor(most * len(falling) + 1e-9)]))  # 0.29 · 100 is 28.999…
    return max(limits)


def answer_behind(
    gate: Gate, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str],
    refusal: str = REFUSAL, **options: Any,
) -> Generation:  # fmt: skip
    """Answers requests behind a gate: a fixed refusal to those that it stops, the model's own answer to the others.

    `functools.partial(answer_behind, gate)` answers as a method of the contrast wing does.

    Args:
        refusal: what is said to a request that is stopped.
        options: as in `generation.generate`; scores are not returned, since a stopped request has none.

    Raises:
        ValueError: as in `generation.generate`.
    """
    if isinstance(requests, str):
        raise ValueError("requests must be a list of strings, not one string: write [request]")
    stopped = gate.refuses(requests)
    passed = [request for request, stop in zip(requests, stopped, strict=True) if not stop]
    said = generate(model, tokenizer, passed, **options)
    ids, order = tokenizer.encode(refusal, add_special_tokens=False), iter(range(len(passed)))
    places = [None if stop else next(order) for stop in stopped]
    return Generation(
        texts=[refusal if place is None else said.texts[place] for place in places],
        ids=[list(ids) if place is None else said.ids[place] for place in places],
        finished=[place is None or said.finished[place] for place in places],
        ends=[tokenizer.eos_token_id if place is None else said.ends[place] for place in places],
    )


# ---------------------------------------------------------------- what a gate is worth


@dataclass(frozen=True)
class Roc:
    """Every trade-off that some threshold gives, from the highest threshold to the lowest.

    Attributes:
        harmless_stopped, harmful_stopped: shares, one a point; the first point is (0, 0), the last (1, 1).
        area: under the curve: the chance that a harmful request has a larger margin than a harmless one, equal ones
            counting half. 0.5 = a guess.
    """

    harmless_stopped: tuple[float, ...]
    harmful_stopped: tuple[float, ...]
    area: Estimate


def roc(harmful: Tensor, harmless: Tensor) -> Roc:
    """The receiver operating characteristic of a gate, and the area under it.

    The interval is that of a bootstrap over the requests, harmful and harmless ones drawn apart. Where they are twins their
    margins rise and fall together, and the true interval is narrower.

    Args:
        harmful, harmless: margins, (N,) each of its own N.

    Raises:
        ValueError: there are fewer than two margins of either, or they are not finite.
    """
    pools = [_checked(harmful, "harmful requests", least=2), _checked(harmless, "harmless requests", least=2)]
    truth = np.repeat([1, 0], [len(pool) for pool in pools])  # (N,)
    false, true, _ = roc_curve(truth, np.concatenate(pools))
    drawn = bootstrap(pools, _area, n_resamples=RESAMPLES, method="percentile", vectorized=True, random_state=0)
    low, high = drawn.confidence_interval
    area = Estimate(float(_area(pools[0], pools[1])), float(low), float(high), len(truth))
    return Roc(tuple(false.tolist()), tuple(true.tolist()), area)


def stopped(margins: Tensor, threshold: float) -> Rate:
    """The share of requests that a threshold stops: safety on harmful ones, over-refusal on harmless ones.

    Args:
        margins: (N,).
        threshold: up = less of both.

    Raises:
        ValueError: there are no margins.
    """
    return rate(int((margins > threshold).sum()), len(margins))


def sweep(margins: Mapping[str, Tensor], thresholds: Sequence[float]) -> dict[str, list[Rate]]:
    """What each kind of request sees of the threshold as it moves: the shares stopped, one for each threshold.

    Args:
        margins: kind → (N,).
        thresholds: in any order; up = less is stopped.
    """
    return {kind: [stopped(its, threshold) for threshold in thresholds] for kind, its in margins.items()}


def stopped_by(categories: Sequence[str], margins: Tensor, threshold: float) -> dict[str, Rate]:
    """The share stopped in each category, from the most stopped to the least.

    Args:
        categories: N, one a request.
        margins: (N,).
        threshold: as in `stopped`.

    Raises:
        ValueError: there is not one category a request.
    """
    if len(categories) != len(margins):
        raise ValueError(
            f"There are {len(categories)} categories for {len(margins)} margins: give one for each request."
        )
    named = np.array(categories)  # (N,)
    found = {name: stopped(margins[torch.from_numpy(named == name)], threshold) for name in sorted(set(categories))}
    return dict(sorted(found.items(), key=lambda item: -item[1].value))


def _area(harmful: NDArray[Any], harmless: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    """The area under the curve along an axis, by the ranks of the harmful ones (Mann and Whitney's U over all pairs)."""
    n, m = harmful.shape[axis], harmless.shape[axis]
    ranks = rankdata(np.concatenate([harmful, harmless], axis=axis), axis=axis)  # (…, n+m)
    above = ranks.take(range(n), axis=axis).sum(axis=axis) - n * (n + 1) / 2  # (…,), pairs in the right order
    return np.asarray(above / (n * m))


def _checked(margins: Tensor, what: str, least: int = 1) -> NDArray[np.float64]:
    if margins.dim() != 1 or len(margins) < least or not margins.isfinite().all():
        raise ValueError(f"The margins of {what} have to be finite numbers (N,), {least} or more, not {margins}.")
    return margins.double().numpy()  # (N,)
