"""Studies of lesson 20: contrasting two written prompts, on the tiny model and on SmolLM2."""

from __future__ import annotations

from typing import Any

import torch

from .. import chat, data, judges, models
from ..alchemy.evaluation import ask, potion_sets
from ..alchemy.voices import VOICES
from ..alchemy.world import world
from ..studies.runner import Study
from ..studies.tiny import rates
from ..studies.undefended import NEW_TOKENS, requests_of
from .decoding import generate
from .inspection import candidates
from .recipes import CAREFUL, RECKLESS
from .scores import score, scorer

# both voices at once: the tiny model then refuses some of what the keeper alone refuses always
TORN = f"{VOICES['keeper']} {VOICES['rogue']}"
TINY_SETS = ("cursed/weak/held-out", "cursed/medium/held-out", "kind/weak/held-out", "cursed/question/held-out")
REQUESTS_A_SET = 200
GRID = [round(0.05 * step, 2) for step in range(20)]


def measure_tiny(seed: int, alpha: float, plausibility: float, adversarial: str) -> dict[str, Any]:
    """Asks the tiny model for potions under a torn voice minus α times another, and grades every answer.

    Args:
        seed: of the draw of requests.
        adversarial: the voice that is subtracted: the rogue, who obeys, or the keeper, who refuses more than the torn voice.
    """
    model, tokenizer = models.load("tiny", device="cpu")
    options = {"others": [VOICES[adversarial]], "score": scorer(alpha, plausibility=plausibility)}
    sets = potion_sets(world(0), REQUESTS_A_SET, seed)
    return {name: rates(ask(model, tokenizer, sets[name], TORN, **options)) for name in TINY_SETS}


def measure_smollm2(seed: int, requests: str, alpha: float) -> dict[str, Any]:
    """Asks SmolLM2 a set of requests under a careful text minus α times a reckless one; keeps labels by id only."""
    model, tokenizer = models.load(models.SMOLLM2)
    rows = requests_of(requests)
    texts = [row["request"] for row in rows]
    said = generate(
        model,
        tokenizer,
        texts,
        safe=CAREFUL,
        adversarial=RECKLESS,
        alpha=alpha,
        max_new_tokens=NEW_TOKENS,
        progress=True,
    )
    labels = judges.load().labels(said.texts, texts)
    return {
        "kind": rows[0]["kind"],
        "labels": {row["id"]: label for row, label in zip(rows, labels, strict=True)},
    }


def next_tokens(seed: int, request: str) -> dict[str, Any]:
    """The likeliest first tokens of SmolLM2's answer under either text, and how a growing α shifts them without a limit.

    `least_plausible` is the smallest share of the largest probability in S that a choice has with the usual limit.

    Args:
        seed: unused, since nothing is drawn.
        request: the id of a request.
    """
    model, tokenizer = models.load(models.SMOLLM2)
    text = data.by_id()[request]["request"]
    rows = [chat.encode(tokenizer, chat.conversation(text, system)) for system in (CAREFUL, RECKLESS)]
    with torch.inference_mode():
        logits = (
            model(**chat.pad(rows, tokenizer.pad_token_id).to(model.device).inputs()).logits[:, -1].float()
        )  # (2, V)
    safe = logits[0].softmax(dim=-1)  # (V,)
    limited = [int(score(logits[:, None], alpha).argmax()) for alpha in GRID]
    least = min(float(safe[token] / safe.max()) for token in limited)
    return {"request": text, "steps": candidates(tokenizer, logits, GRID), "least_plausible": least}


STUDIES = (
    Study(
        name="tiny_text_contrast",
        run="safealign_lab.contrast.studies:measure_tiny",
        grid={
            "alpha": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
            "plausibility": [0.0, 0.1],
            "adversarial": ["rogue", "keeper"],
        },
        seeds=(0,),
        minutes=8,
        about="The tiny model under a torn voice, as the rogue's or the keeper's logits are subtracted.",
        reads=("models/tiny",),
    ),
    Study(
        name="smollm2_text_contrast",
        run="safealign_lab.contrast.studies:measure_smollm2",
        grid={"alpha": [0.0, 0.5, 0.9], "requests": ["harmful", "borderline", "benign", "jailbreakbench"]},
        seeds=(0,),
        minutes=25,
        about="SmolLM2 under a careful system text minus a reckless one, on third-party requests and the kit's own.",
        reads=("english", "models/judge"),
    ),
    Study(
        name="smollm2_next_token",
        run="safealign_lab.contrast.studies:next_tokens",
        grid={"request": ["harmful/011", "benign/011"]},
        seeds=(0,),
        minutes=0.2,
        about="The first token of SmolLM2's answer to two requests, under a careful and a reckless system text.",
        reads=("english",),
    ),
)
