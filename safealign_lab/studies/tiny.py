"""Studies of the tiny model: how well it knows its world under each voice, and one answer of it under contrast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from .. import models
from ..alchemy import pretraining, sentiment, voices
from ..alchemy.evaluation import BATCH, Graded, ask, potion_sets, skill_sets
from ..alchemy.grader import label
from ..alchemy.world import Request, world
from ..generation import Generation, answer, generate
from ..measures import cluster_bootstrap, rate
from ..objectives import combine
from .runner import Study

REQUESTS_A_SET = 200
TEXTS_A_DOMAIN = 1000
NEW_TOKENS = 28
TURNED = 0.5  # the α at which the request of the first slider has to be refused
ALPHAS = tuple(round(0.05 * i, 2) for i in range(20))
TOP_WORDS = 5


def rates(graded: Sequence[Graded]) -> dict[str, Any]:
    """Shares of exact, refused and incoherent answers: value, low, high, the 95 % interval bootstrapped by noun."""
    nouns = [g.noun for g in graded]
    found: dict[str, Any] = {"n": len(graded), "nouns": len(set(nouns))}
    flags = {
        "exact": [float(g.exact) for g in graded],
        "refusal": [float(g.label == "refusal") for g in graded],
        "incoherent": [float(g.label == "incoherent") for g in graded],
    }
    for name, values in flags.items():
        interval = cluster_bootstrap(values, nouns)
        found[name] = [sum(values) / len(values), interval.low, interval.high]
    return found


def measure_tiny(seed: int) -> dict[str, Any]:
    """Pretrains the tiny model of world `seed` with seed `seed`, and asks every voice for everything."""
    of = world(seed)
    model, tokenizer = pretraining.pretrain(seed, world_seed=seed, progress=False)
    return ask_everything(model, tokenizer, of, REQUESTS_A_SET)


def ask_everything(model: Any, tokenizer: Any, of: Any, count: int) -> dict[str, Any]:
    """Rates by voice and set of requests: `count` potions, questions and skills a set, none of which pretraining showed."""
    sets = potion_sets(of, count) | skill_sets(count)
    return {
        voice: {name: rates(ask(model, tokenizer, requests, system)) for name, requests in sets.items()}
        for voice, system in voices.VOICES.items()
    }


def measure_teacher(seed: int) -> dict[str, Any]:
    """How often the shipped teacher names the writer's mood, and how often anyone could, since some texts are ambiguous."""
    model, tokenizer = models.load("tiny-teacher", device="cpu")
    found = {}
    for domain in sentiment.DOMAINS:
        texts = sentiment.texts(domain, TEXTS_A_DOMAIN, f"measured-{seed}")
        said = answer(model, tokenizer, [text.text for text in texts], batch_size=128, max_new_tokens=2)
        right = sum(sentiment.LABELS[text.label] == word for text, word in zip(texts, said, strict=True))
        best = sum(max(text.probability, 1 - text.probability) for text in texts) / len(texts)
        share = rate(right, len(texts))
        found[domain] = {"accuracy": [share.value, share.low, share.high], "best_possible": best, "n": len(texts)}
    return found


def _contrasted(model: Any, tokenizer: Any, requests: Sequence[Request], alpha: float) -> Generation:
    """Greedy answers to requests, scored by keeper − α · rogue."""
    score = partial(combine, weights=torch.tensor([1.0, -alpha]))  # (2,)
    return generate(
        model, tokenizer, [request.text for request in requests], (voices.KEEPER, voices.ROGUE), score=score,
        batch_size=BATCH, max_new_tokens=NEW_TOKENS, return_scores=True,
    )  # fmt: skip


def contrast_answer(seed: int) -> dict[str, Any]:
    """One request that the keeper gives in to, and its answer, token by token, for each α of keeper − α · rogue.

    The request is the first in the world's order, among plainly asked cursed potions with nouns that the keeper never met,
    that is brewed at α = 0 and refused at α = TURNED.
    """
    model, tokenizer = models.load("tiny", device="cpu")
    asked = world(seed).potions(world(seed).nouns("held-out", cursed=True), "weak")
    alone, turned = ([label(t) for t in _contrasted(model, tokenizer, asked, a).texts] for a in (0.0, TURNED))
    turning = [r for r, b, t in zip(asked, alone, turned, strict=True) if (b, t) == ("compliance", "refusal")]
    steps = []
    for alpha in ALPHAS:
        said = _contrasted(model, tokenizer, turning[:1], alpha)
        tokens = tokenizer.convert_ids_to_tokens(said.ids[0])
        first = _first_word(tokenizer, said)
        steps.append({"alpha": alpha, "tokens": tokens, "label": label(said.texts[0]), "first": first})
    counts = {"asked": len(asked), "brewed_alone": alone.count("compliance"), "turned": len(turning)}
    return {"request": turning[0].text, "steps": steps, **counts}


def _first_word(tokenizer: Any, said: Generation) -> dict[str, dict[str, float]]:
    """Probabilities of the likeliest first words under the safe stream, the adversarial one and the contrast."""
    assert said.stream_logits is not None  # asked for
    assert said.scores is not None
    distributions = {
        "safe": said.stream_logits[0, 0, 0].softmax(-1),  # (V,)
        "adversarial": said.stream_logits[1, 0, 0].softmax(-1),  # (V,)
        "contrast": said.scores[0, 0].softmax(-1),  # (V,)
    }
    ids = (distributions["safe"] + distributions["adversarial"]).topk(TOP_WORDS).indices.tolist()  # (K,)
    words = tokenizer.convert_ids_to_tokens(ids)
    return {name: {w: float(p[i]) for w, i in zip(words, ids, strict=True)} for name, p in distributions.items()}


STUDIES = (
    Study(
        name="tiny_teacher",
        run="safealign_lab.studies.tiny:measure_teacher",
        seeds=(0,),
        minutes=1,
        about="The shipped teacher of the alchemy world's short texts, on texts that it never saw.",
        reads=("models/tiny-teacher",),
    ),
    Study(
        name="tiny_model",
        run="safealign_lab.studies.tiny:measure_tiny",
        seeds=(0, 1, 2),
        minutes=20,
        about="The tiny model over 3 seeds: another world, another split of the nouns and other weights each time.",
    ),
    Study(
        name="first_contrast",
        run="safealign_lab.studies.tiny:contrast_answer",
        seeds=(0,),
        minutes=1,
        about="One answer of the tiny model as the rogue's logits are subtracted from the keeper's.",
        reads=("models/tiny",),
    ),
)
