"""Studies of lesson 40 on SmolLM2: one method of each family, asked in wordings that it was not trained on."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from ..contrast.real_stress import ATTACKED, WITHSTANDING, WRAPPERS
from ..contrast.real_studies import judged, method_of
from ..distillation.gate_studies import gate_with
from ..distillation.text_noise import noisy
from ..studies.runner import Study
from ..studies.undefended import requests_of
from .real_study import DEFENCES, measure_defence

SLIPS, RATE = "swapped words", 0.4  # as in the alchemy worlds
EPSILONS, TEMPERATURE = (0.0, 0.05), 2.0  # of the gates


def slipped(request: str) -> str:
    """A request whose words have changed places, as typed in haste; the same slips whichever method is asked."""
    return noisy(request, "swapped_words", RATE, random.Random(f"{SLIPS} {request}"))


WORDINGS: dict[str, Callable[[str], str]] = {name: text.format for name, text in WRAPPERS.items()} | {SLIPS: slipped}


def measure_slipped(seed: int, method: str, requests: str) -> dict[str, Any]:
    """Requests with swapped words, answered without weights of their own; the wrappings are in `contrast.real_stress`.

    Args:
        seed: of the trained prompts.
        method: a name of `baselines.methods`.
        requests: as in `studies.undefended.requests_of`.
    """
    return judged(method_of(method, seed), requests, worded=slipped)


def measure_weights(seed: int, defence: str, wording: str, requests: str) -> dict[str, Any]:
    """Requests in another wording, answered by SmolLM2 with a defence in its weights.

    Args:
        seed: of the defence.
        defence: one of `real_study.DEFENCES`.
        wording: a key of `WORDINGS`.
        requests: as in `studies.undefended.requests_of`.
    """
    return measure_defence(seed, defence, requests, WORDINGS[wording])


def measure_gate(seed: int, epsilon: float, wording: str, requests: str) -> dict[str, Any]:
    """Which requests in another wording the gate stops, at the threshold that it has.

    Args:
        seed, epsilon: as in `gate_studies.gate_with`.
        wording: a key of `WORDINGS`.
        requests: as in `studies.undefended.requests_of`.

    Returns:
        The margins over the threshold, in nats, by the id of the request; above 0 it is stopped.
    """
    rows, gate = requests_of(requests), gate_with(epsilon, TEMPERATURE, seed)
    margins = gate.score([WORDINGS[wording](row["request"]) for row in rows]) - gate.threshold  # (N,)
    said = zip(rows, margins.tolist(), strict=True)
    return {"kind": rows[0]["kind"], "margins": {row["id"]: round(margin, 3) for row, margin in said}}


_study = partial(Study, seeds=(0,), reads=("english", "models/judge", "prompts"))
STUDIES = (
    _study(
        name="smollm2_slipped",
        run="safealign_lab.one_plot.real_attacks:measure_slipped",
        grid={"method": list(WITHSTANDING), "requests": list(ATTACKED)},
        minutes=8,
        about="SmolLM2 without and with its opposite prompts, asked with swapped words.",
    ),
    _study(
        name="smollm2_defended_attacked",
        run="safealign_lab.one_plot.real_attacks:measure_weights",
        grid={"defence": list(DEFENCES), "wording": list(WORDINGS), "requests": list(ATTACKED)},
        minutes=90,
        about="SmolLM2 with a defence in its weights, asked in wrappings and with swapped words.",
    ),
    _study(
        name="smollm2_gate_attacked",
        run="safealign_lab.one_plot.real_attacks:measure_gate",
        grid={"epsilon": list(EPSILONS), "wording": list(WORDINGS), "requests": list(ATTACKED)},
        minutes=8,
        about="The gates of SmolLM2's requests, asked in wrappings and with swapped words.",
    ),
)
