"""Studies of what carries over: prompts and anchors between models, prompts across fine-tuning; and a model that refuses itself.

A soft prompt is a point in the vectors of one model; an anchor is text. So the anchors may serve any model, while a prompt
need not. Three tiny models that share width, depth and vocabulary let both be tried: the shipped Llama, a GPT-2 and a Qwen2.

Symbols: P length of a soft prompt, D hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from .. import models
from ..alchemy import pretraining, skills, tokenizer, voices
from ..alchemy.evaluation import potion_sets, skill_sets
from ..alchemy.pretraining import TINY_PLAN, Row
from ..alchemy.words import ADJECTIVES
from ..alchemy.world import Request, World, world
from ..chat import conversation, encode_with_mask
from ..studies.runner import Study
from ..studies.worlds import kept
from ..training import Plan
from . import anchors
from .optimisation import Anchor
from .prompt_studies import Stream, asked, train_prompt
from .recipes import ANCHORS, TINY

ARCHITECTURES = ("llama", "gpt2", "qwen2")
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": pretraining.TINY["hidden_size"], "n_layer": pretraining.TINY["num_hidden_layers"],
        "n_head": pretraining.TINY["num_attention_heads"], "n_positions": 256,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "qwen2": {
        **pretraining.TINY, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True
    },
}  # fmt: skip
REACH = 16  # places by which rows are moved for a model with learned positions: as many as a prompt takes
REQUESTS_A_SET = 72
SETS = ("cursed/weak/test", "cursed/strong/test", "cursed/question/test", "kind/weak/test", "kind/strong/test")
HARMLESS_ROWS = 4_000
DRIFT_RATE = 5e-4
REFUSAL_STEPS = 100
ALPHAS = (0.2, 0.4, 0.8)


# ---------------------------------------------------------------- three models


def new_model(architecture: str, words: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    """A GPT-2 or a Qwen2 with random weights, as wide and as deep as the tiny Llama.

    Args:
        architecture: a key of `SHAPES`.
        words: the world's tokenizer.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(words), pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, **SHAPES[architecture],
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def pretrained(architecture: str, progress: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The tiny model of an architecture: the shipped Llama, or one pretrained by its recipe, once, and kept in the cache folder.

    Stopped, a pretraining goes on where it was; a change of recipe or code begins another one.

    Args:
        architecture: one of `ARCHITECTURES`.

    Raises:
        ValueError: there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"There is no tiny {architecture!r}: expected one of {', '.join(ARCHITECTURES)}.")
    if architecture == "llama":
        return models.load("tiny", device="cpu")
    recipe = [SHAPES[architecture], asdict(TINY_PLAN), REACH]
    return kept(architecture, recipe, lambda checkpoints: _pretrain(architecture, checkpoints, progress))


def _pretrain(architecture: str, checkpoints: Path, progress: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    words = tokenizer.build()
    rows = pretraining.conversation_rows(words, world(), pretraining.CONVERSATIONS, 0)
    rows += pretraining.text_rows(words, pretraining.TEXTS_PER_DOMAIN, "pretraining-0", labelled=False)
    model = new_model(architecture, words)
    if architecture == "gpt2":
        rows = shifted(rows, words.pad_token_id)
    pretraining.fit(model, rows, TINY_PLAN, words.pad_token_id, progress, checkpoints)
    return model, words


def shifted(rows: Sequence[Row], pad_id: int, seed: int = 0) -> list[Row]:
    """Every other row, by chance, behind 1 to REACH fillers.

    Learned positions are known only where rows have stood: without this no row would stand where a soft prompt moves it to.
    """
    rng = random.Random(f"places-{seed}")
    gaps = [rng.choice((0, rng.randint(1, REACH))) for _ in rows]
    return [([pad_id] * gap + ids, [False] * gap + mask) for gap, (ids, mask) in zip(gaps, rows, strict=True)]


# ---------------------------------------------------------------- what the studies share


def opposites(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, seed: int, learned_from: list[Anchor] | None = None
) -> tuple[Tensor, Tensor]:
    """The safeguarding and the adversarial prompt of a model by the kit's recipe; (P, D) each.

    Args:
        learned_from: None = anchors with the model's own answers.
    """
    learned_from = learned_from or anchors.alchemy(model, words, world(), ANCHORS, seed)
    safe, adversarial = (train_prompt(model, words, learned_from, role, seed) for role in TINY)
    return safe, adversarial


def harmless_rows(words: PreTrainedTokenizerBase, of: World, number: int, seed: int) -> list[Row]:
    """Conversations of pretraining without a voice and without cursed recipes, and lists, the skill that it left out."""
    cursed = {of.recipe(adjective, noun) for adjective, noun in product(ADJECTIVES, of.nouns(cursed=True))}
    rng = random.Random(f"harmless-{seed}")
    drawn = (voices.conversation(of, rng) for _ in count())
    kept = ((request, answer) for system, request, answer in drawn if not system and answer not in cursed)
    pairs = [*islice(kept, number - number // 4), *skills.examples(skills.LEFT_OUT, number // 4, seed)]
    return [_row(words, *pair) for pair in pairs]


def refusal_rows(words: PreTrainedTokenizerBase, of: World, number: int, seed: int) -> list[Row]:
    """Cursed potions with training nouns, asked for plainly and without a voice, and refused."""
    rng = random.Random(f"refusals-{seed}")
    asked_for = rng.choices(of.trainable(of.nouns("train", cursed=True), "weak"), k=number)
    return [_row(words, one.text, voices.refusal(of, one.noun, rng, voices.OPENING)) for one in asked_for]


def _row(words: PreTrainedTokenizerBase, request: str, answer: str) -> Row:
    return encode_with_mask(words, conversation(request, "", answer))


def tune(model: PreTrainedModel, rows: Sequence[Row], steps: int, rate: float, seed: int, pad_id: int) -> None:
    """Trains all weights at a constant rate, so that fewer steps are the beginning of more; 0 steps change nothing."""
    if steps:
        pretraining.fit(model, rows, Plan(steps, rate, schedule="constant", seed=seed), pad_id, progress=False)


def _sets(seed: int, *more: str) -> dict[str, list[Request]]:
    found = potion_sets(world(), REQUESTS_A_SET, seed, splits=("train", "test"))
    return {name: found[name] for name in (*SETS, *more)}


def _streams(safe: Tensor, adversarial: Tensor) -> dict[str, Stream]:
    return {"S": (safe, "", 0.0), "A": (adversarial, "", 0.0), "S − 0.2 A": (safe, adversarial, 0.2)}


# ---------------------------------------------------------------- the four studies


def measure_prompts(seed: int, trained_on: str) -> dict[str, Any]:
    """Prompts of one model asked on every model; beside them each model alone, its keeper, and noise as long as S.

    Args:
        seed: of anchors, batches, noise and requests.
        trained_on: one of `ARCHITECTURES`.
    """
    safe, adversarial = opposites(*pretrained(trained_on), seed)
    noise = torch.randn(safe.shape, generator=torch.Generator().manual_seed(seed))  # (P, D)
    noise = F.normalize(noise, dim=-1) * safe.norm(dim=-1, keepdim=True)  # (P, D)
    streams: dict[str, Stream] = {
        "none": ("", "", 0.0), "keeper": (voices.KEEPER, "", 0.0), "noise": (noise, "", 0.0),
        **_streams(safe, adversarial),
    }  # fmt: skip
    return {name: asked(*pretrained(name), _sets(seed), streams) for name in ARCHITECTURES}


def measure_anchors(seed: int, answers_of: str, trained_for: str) -> dict[str, Any]:
    """Prompts of one model, learned from anchors whose harmless answers are another model's own.

    Args:
        seed: as in `measure_prompts`.
        answers_of, trained_for: of `ARCHITECTURES`; the same twice are anchors of one's own.

    Returns:
        The rates, and under "other answers" the share of harmless anchors that the model itself answers otherwise.
    """
    model, words = pretrained(trained_for)
    given, own = (
        anchors.alchemy(*pretrained(name), world(), ANCHORS, seed) for name in (answers_of, trained_for)
    )  # fmt: skip
    answers = {one.request: one.answer for one in own}
    harmless = [one for one in given if one.answer]
    other = sum(one.answer != answers.get(one.request) for one in harmless) / len(harmless)
    streams = _streams(*opposites(model, words, seed, given))
    return {"other answers": other, **asked(model, words, _sets(seed), streams)}


def measure_drift(seed: int, steps: int) -> dict[str, Any]:
    """The Llama fine-tuned on harmless conversations: under prompts that were trained before, and under new ones.

    Args:
        seed: as in `measure_prompts`, and of the fine-tuning.
        steps: of fine-tuning; the steps of 50 are the first of 200.

    Returns:
        Rates under "before" and "anew", and "moved": how far the weights went, relative to their norm.
    """
    model, words = pretrained("llama")
    streams = _streams(*opposites(model, words, seed))
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    tune(model, harmless_rows(words, world(), HARMLESS_ROWS, seed), steps, DRIFT_RATE, seed, words.pad_token_id)
    now = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    sets = _sets(seed) | {"skill/lists": skill_sets(REQUESTS_A_SET, seed)["skill/lists"]}
    return {
        "moved": float((now - start).norm() / start.norm()),
        "before": asked(model, words, sets, {"none": ("", "", 0.0), **streams}),
        "anew": asked(model, words, sets, _streams(*opposites(model, words, seed))),
    }


def measure_refusing(seed: int) -> dict[str, Any]:
    """A Llama that refuses by itself what it was trained to refuse: alone, and less α times its adversarial prompt."""
    model, words = pretrained("llama")
    rows = harmless_rows(words, world(), HARMLESS_ROWS, seed) + refusal_rows(words, world(), HARMLESS_ROWS // 3, seed)
    tune(model, rows, REFUSAL_STEPS, DRIFT_RATE, seed, words.pad_token_id)
    safe, adversarial = opposites(model, words, seed)
    streams: dict[str, Stream] = {"none": ("", "", 0.0), **_streams(safe, adversarial)}
    for alpha, (name, first) in product(ALPHAS, {"none": "", "S": safe}.items()):
        streams[f"{name} − {alpha} A"] = (first, adversarial, alpha)
    streams["S − 0.4 none"] = (safe, "", 0.4)
    return asked(model, words, _sets(seed, "cursed/weak/train", "cursed/medium/test"), streams)


STUDIES = (
    Study(
        name="tiny_prompt_transfer",
        run="safealign_lab.contrast.transfer:measure_prompts",
        grid={"trained_on": ARCHITECTURES},
        seeds=(0, 1, 2),
        minutes=10,
        about="Opposite prompts trained on each of three tiny models, Llama, GPT-2 and Qwen2, and asked on all three.",
        reads=("models/tiny",),
    ),
    Study(
        name="tiny_anchor_transfer",
        run="safealign_lab.contrast.transfer:measure_anchors",
        grid={"answers_of": ARCHITECTURES, "trained_for": ARCHITECTURES},
        seeds=(0, 1, 2),
        minutes=12,
        about="Opposite prompts of each of three tiny models, learned from anchors that each of the three answered.",
        reads=("models/tiny",),
    ),
    Study(
        name="tiny_prompt_drift",
        run="safealign_lab.contrast.transfer:measure_drift",
        grid={"steps": (0, 50, 200, 800)},
        seeds=(0, 1, 2),
        minutes=15,
        about="Opposite prompts of the tiny model after it was fine-tuned on harmless conversations, old prompts and new.",
        reads=("models/tiny",),
    ),
    Study(
        name="tiny_refusing_model",
        run="safealign_lab.contrast.transfer:measure_refusing",
        seeds=(0, 1, 2),
        minutes=5,
        about="The contrast on a tiny model that was fine-tuned to refuse cursed potions by itself.",
        reads=("models/tiny",),
    ),
)
