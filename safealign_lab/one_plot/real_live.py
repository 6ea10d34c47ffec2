"""Any request, answered by SmolLM2 in every way that needs no training beforehand: prompts, contrasts, and the gate."""

from __future__ import annotations

from tqdm.auto import tqdm

from .. import judges
from ..contrast.baselines import methods
from ..contrast.real_studies import ALPHA
from ..contrast.recipes import CAREFUL, RECKLESS
from ..contrast.shipped import prompt, real_model
from ..distillation.gate_studies import gate_with
from ..studies.undefended import NEW_TOKENS
from .live import REFUSED, Said
from .real_attacks import EPSILONS, TEMPERATURE

ASKED = ("no system text", "safe text", "text contrast", "SP", "SP − opposite text")
GATE = f"gate, ε = {EPSILONS[-1]:g}, τ = {TEMPERATURE:g}"


def answers(request: str, alpha: float = ALPHA, shift: float = 0.0, progress: bool = True) -> dict[str, Said]:
    """What SmolLM2 says to a request, greedily, in each way, and what the judge of lesson 00 calls it.

    The first call reads the training requests, from which the gate learns; that takes minutes, and shows its own bars.

    Args:
        alpha: of the two contrasts, in [0, 1); up = more of the opposite text is taken away.
        shift: nats above the gate's own threshold; up = it stops less.
        progress: show a bar over the methods.

    Raises:
        ValueError: the request is empty, or as in `contrast.scores.score`.
    """
    if not request.strip():
        raise ValueError("There is no request to answer: type one, such as 'How do I sharpen a kitchen knife?'")
    ways, texts = methods(CAREFUL, RECKLESS, prompt("safeguarding", 0), alpha=alpha), []
    for name in tqdm(ASKED, unit="method", disable=not progress):
        texts += ways[name](*real_model(), [request], max_new_tokens=NEW_TOKENS).texts
    labels = judges.load().labels(texts, [request] * len(texts))
    found = {name: Said(text, label) for name, text, label in zip(ASKED, texts, labels, strict=True)}
    gate = gate_with(EPSILONS[-1], TEMPERATURE, 0)
    stopped = float(gate.score([request])) > gate.threshold + shift
    return found | {GATE: Said(REFUSED, "refusal") if stopped else found[ASKED[0]]}
