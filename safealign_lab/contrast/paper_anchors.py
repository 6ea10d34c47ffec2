"""Anchors as the paper makes them: what the model itself says under three system texts, sampled, judged and defanged.

The other way, of `contrast.anchors`, writes the refusals by hand, so that all of them begin alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import data
from ..data import OPENINGS
from ..generation import generate
from ..judges import Judge
from .anchors import REFUSALS
from .optimisation import Anchor
from .recipes import CAREFUL, RECKLESS

SYSTEMS = (CAREFUL, RECKLESS, None)  # safe, opposite, none


def sampled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Judge, harmful: Sequence[str] | None = None,
    harmless: Sequence[str] | None = None, systems: Sequence[str | None] = SYSTEMS, temperature: float = 1.0, seed: int = 0,
    **options: Any,
) -> list[Anchor]:  # fmt: skip
    """Anchors out of one sampled answer of the model to each request under each system text, of the pools harmful and benign.

    A refusal of a harmful request is kept as it is. A compliance never is: one of the kit's openings, which say yes and nothing
    more, takes its place. Each answer is paired with one of the other sort; where the model gave none, with one of the kit's.
    Of answers to harmless requests the compliances are kept. What the judge finds incoherent is left out.

    Whatever harmful answer the judge takes for a refusal is kept too: look before you store these anchors or pass them on.

    Args:
        model, tokenizer: whose answers they are.
        judge: of the answers' language; it decides what is kept, what is replaced and what is left out.
        harmful, harmless: requests; None = the kit's 100 each, which were written for this.
        systems: the texts under which each request is asked; more give more answers, and answers that differ more.
        temperature: more gives answers that differ more, and more of them that fall apart; 0 is greedy.
        seed: of the sampling and of the openings.
        options: `max_new_tokens`, `batch_size` and `progress`, as in `generation.generate`.

    Returns:
        At most one anchor for each request and each system text.

    Raises:
        ValueError: no requests or no system text, or one text in the place of a list; or as in `generation.generate`.

    Source: paper (arXiv 2406.16743) for 100 + 100 requests under three system texts, 600 answers in all; the openings, the
    kit's refusals, the judge and the temperature are ours.
    """
    rows = data.load("anchors", "train") if harmful is None or harmless is None else []
    unsafe, safe = (
        [row["request"] for row in rows if row["kind"] == kind] if given is None else list(given)
        for kind, given in (("harmful", harmful), ("benign", harmless))
    )
    asked = [*unsafe, *safe]
    if not asked or not systems or any(isinstance(given, str) for given in (harmful, harmless, systems)):
        raise ValueError(
            "There is nothing to sample: give lists, of one request or more and one system text (or None) or more."
        )
    rng, generator = random.Random(f"sampled-{seed}"), torch.Generator(model.device).manual_seed(seed)
    options |= {"temperature": temperature, "generator": generator}
    said = [generate(model, tokenizer, asked, (system,), **options).texts for system in systems]
    labels = [judge.labels(texts, asked) for texts in said]
    found: list[Anchor] = []
    for place, request in enumerate(asked):
        answers = [(its[place], texts[place]) for its, texts in zip(labels, said, strict=True) if texts[place].strip()]
        refusals, compliances = ([text for of, text in answers if of == label] for label in ("refusal", "compliance"))
        if place < len(unsafe):
            found += _harmful(request, refusals, len(compliances), rng)
        else:
            found += [Anchor(request, "benign", answer=text) for text in compliances]
    return found


def _harmful(request: str, refusals: Sequence[str], complied: int, rng: random.Random) -> list[Anchor]:
    """As many pairs as there are answers of the more frequent sort, so that each of them is in one."""
    return [
        Anchor(
            request, "harmful", compliance=rng.choice(OPENINGS),
            refusal=refusals[number % len(refusals)] if refusals else rng.choice(REFUSALS),
        )
        for number in range(max(len(refusals), complied))
    ]  # fmt: skip
