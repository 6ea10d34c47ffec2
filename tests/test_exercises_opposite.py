"""The exercises of lesson 21: what they teach is what the library trains with, and every right way of writing it is right."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from learners import named
from wrong_answers.opposite_prompts import WRONG_ANSWERS

from safealign_lab import chat
from safealign_lab.contrast import losses
from safealign_lab.contrast.optimisation import Anchor, Objective, Optimisation
from safealign_lab.contrast.soft_prompts import label_logits
from safealign_lab.lesson.exercise import PASTED, find, verdict
from safealign_lab.lesson.exercises import opposite_prompts as lesson
from safealign_lab.lesson.exercises import prompt_losses as terms

SEEDS = st.integers(0, 2**31)
SCALES = st.sampled_from([0.1, 1.0, 10.0])


def drawn(seed, tokens=5, vocabulary=9, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits, undefended = scale * torch.randn(2, tokens, vocabulary, generator=generator, dtype=torch.float64)
    return logits, torch.randint(vocabulary, (tokens,), generator=generator), undefended


# ---------------------------------------------------------------- the library's functions


@given(SEEDS, st.integers(1, 7), st.integers(2, 9), SCALES)
def test_the_terms_are_those_of_the_library(seed, tokens, vocabulary, scale):
    logits, ids, undefended = drawn(seed, tokens, vocabulary, scale)
    pairs = [
        (terms.wanted_loss(logits, ids), losses.wanted_loss(logits, ids)),
        (terms.unwanted_loss(logits, ids), losses.unwanted_loss(logits, ids)),
        (terms.kept_loss(logits, ids, undefended, 0.7), losses.kept_loss(logits, ids, undefended, 0.7)),
        (terms.kept_loss(logits, ids, undefended, 0.0), losses.kept_loss(logits, ids, undefended, 0.0)),
    ]
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["wanted_loss", "unwanted_loss", "kept_loss"])
def test_a_learners_term_takes_what_the_training_gives_it(name):
    mine, theirs = (list(inspect.signature(getattr(room, name)).parameters) for room in (terms, losses))
    assert mine == theirs


@given(SEEDS, st.integers(1, 4), st.integers(1, 3))
def test_the_prompt_goes_where_the_library_puts_it(toy, seed, length, rows):
    model, tokenizer = toy
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(len(tokenizer), (row + 2,), generator=generator).tolist() for row in range(rows)]
    batch = chat.pad(texts, tokenizer.pad_token_id)
    prompt = torch.randn(length, 32, generator=generator)
    theirs = chat.prefix_embeddings(model, batch, prompt)
    mine = lesson.prepend(prompt, model.get_input_embeddings()(batch.input_ids), batch.attention_mask)
    torch.testing.assert_close(mine, (theirs.inputs_embeds, theirs.attention_mask), rtol=0, atol=0)


def test_both_losses_are_those_of_a_training_step(toy):
    model, tokenizer = toy
    answers = {"refusal": "no i will not brew venom .", "compliance": "please do brew me venom"}
    harmful = Anchor("brew me venom", "harmful", **answers)
    harmless = Anchor("who are you ?", "benign", answer="i the keeper .")
    goal = Objective(target=1.5, avoid=0.5, benign=2.0, divergence=0.7, first=0.0, avoided=None, kept=None)
    runs = {
        prompt: Optimisation(
            model, tokenizer, [harmful, harmless], role, {"harmful": 1}, objective=goal, progress=False
        )
        for prompt, role in (("S", "safeguarding"), ("A", "adversarial"))
    }
    prompts = dict(zip("SA", torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)), strict=True))

    def under(prompt, request, answer):
        ids, mask = chat.encode_with_mask(tokenizer, chat.conversation(request, "", answer))
        logits = label_logits(model, prompts[prompt], chat.pad([ids], 0, "right", [mask]))
        return logits, torch.tensor(ids)[torch.tensor(mask)]

    mine = lesson.opposite_losses(
        lambda prompt, answer: terms.wanted_loss(*under(prompt, harmful.request, answers[answer])),
        lambda prompt, answer: terms.unwanted_loss(*under(prompt, harmful.request, answers[answer])),
        lambda prompt: terms.kept_loss(
            *under(prompt, harmless.request, harmless.answer), runs[prompt].undefended[1].float(), goal.divergence
        ),
        goal.target, goal.avoid, goal.benign,
    )  # fmt: skip
    theirs = [run.loss(prompts[name], [row for rows in run.rows for row in rows])["loss"] for name, run in runs.items()]
    torch.testing.assert_close(torch.stack(mine), torch.stack(theirs), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what a learner may write


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_solution_needs_nothing_but_torch(name):
    room = {"torch": torch}
    exec(PASTED + inspect.getsource(find(name).solution), room)  # as a notebook runs what lesson.solution shows
    assert verdict(room[name]) == "right"


def filled(prompt, text, mask):
    rows, width, hidden = text.shape
    embeddings = torch.empty(rows, len(prompt) + width, hidden)
    embeddings[:, : len(prompt)] = prompt
    embeddings[:, len(prompt) :] = text
    return embeddings, F.pad(mask, (len(prompt), 0), value=1)


def row_after_row(prompt, text, mask):
    ones = torch.ones(len(prompt), dtype=mask.dtype)
    pairs = zip(text, mask, strict=True)
    rows = [(torch.cat([prompt, vectors]), torch.cat([ones, seen])) for vectors, seen in pairs]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


def repeated(prompt, text, mask):
    front = prompt.unsqueeze(0).repeat(len(text), 1, 1)
    return torch.cat((front, text), 1), torch.cat((torch.ones(front.shape[:2], dtype=torch.long), mask), 1)


def with_a_selection(logits, ids):
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, ids[:, None], False)
    rest = logits[others].view(len(ids), -1).logsumexp(1)
    return F.softplus(logits[torch.arange(len(ids)), ids] - rest).mean()


def token_by_token(logits, ids):
    total = 0.0
    for row, token in zip(logits, ids.tolist(), strict=True):
        others = torch.cat([row[:token], row[token + 1 :]])
        total = total - (others.logsumexp(0) - row.logsumexp(0))
    return total / len(ids)


def of_log_probabilities(logits, ids):
    logps = logits.log_softmax(-1)
    return -logps.masked_fill(F.one_hot(ids, logits.shape[1]).bool(), -torch.inf).logsumexp(-1).mean()


def with_kl_div(logits, ids, undefended, divergence):
    apart = F.kl_div(logits.log_softmax(-1), undefended.detach().softmax(-1), reduction="batchmean")
    return F.cross_entropy(logits, ids) + divergence * apart


def without_the_divergence_where_it_is_0(logits, ids, undefended, divergence):
    return with_kl_div(logits, ids, undefended, divergence) if divergence else F.cross_entropy(logits, ids)


def in_a_loop(wanted, unwanted, kept, target, avoid, benign):
    answers = {"S": ("refusal", "compliance"), "A": ("compliance", "refusal")}
    return [
        target * wanted(prompt=prompt, answer=good) + avoid * unwanted(prompt=prompt, answer=bad) + benign * kept(prompt)
        for prompt, (good, bad) in answers.items()
    ]  # fmt: skip


RIGHT = [
    *(("prepend", function) for function in (filled, row_after_row, repeated)),
    ("wanted_loss", F.cross_entropy),
    ("wanted_loss", lambda logits, ids: (logits.logsumexp(1) - logits[range(len(ids)), ids]).mean()),
    *(("unwanted_loss", function) for function in (with_a_selection, token_by_token, of_log_probabilities)),
    *(("kept_loss", function) for function in (with_kl_div, without_the_divergence_where_it_is_0)),
    ("opposite_losses", in_a_loop),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"
