"""Contrastive decoding against slow separate runs and against transformers' guidance; why its streams share no cache."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chisquare
from slow_contrast import ENDS, POTIONS, RECKLESS, REQUESTS, SAFE, batch_of, by_hand, in_double, inputs_of, new_tokens
from transformers import DynamicCache

from safealign_lab import contrast
from safealign_lab.alchemy.voices import VOICES
from safealign_lab.chat import conversation, encode

VOICE_PAIRS = [("keeper", "rogue"), ("keeper", "none"), ("rogue", "keeper"), ("none", "rogue")]


@pytest.fixture(scope="module")
def talker(toy):
    return in_double(toy, ENDS)


@pytest.fixture(scope="module")
def apprentice(tiny):
    return in_double(tiny)


@pytest.fixture(scope="module")
def soft(toy):
    return torch.randn(2, 5, toy[0].config.hidden_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# ---------------------------------------------------------------- against separate runs


@pytest.mark.parametrize("plausibility", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["texts", "soft and text", "text and soft", "two soft", "template"])
def test_a_batch_of_both_streams_equals_separate_runs_without_cache(talker, soft, kind, plausibility):
    prompts = {
        "texts": (SAFE, RECKLESS), "soft and text": (soft[0], RECKLESS), "text and soft": (SAFE, soft[0]),
        "two soft": (soft[0], soft[1, :2]), "template": (SAFE, None),
    }[kind]  # fmt: skip
    knobs = {"alpha": 0.8, "plausibility": plausibility}
    together = contrast.generate(
        *talker, REQUESTS, safe=prompts[0], adversarial=prompts[1], **knobs, batch_size=3, max_new_tokens=7,
        return_streams=True,
    )  # fmt: skip
    for number, request in enumerate(REQUESTS):
        ids, streams = by_hand(*talker, request, prompts, **knobs, limit=7)
        assert together.ids[number] == ids
        stored = together.stream_logits[:, number, : streams.shape[1]]
        torch.testing.assert_close(stored, streams, atol=1e-9, rtol=1e-9)
        assert together.stream_logits[:, number, streams.shape[1] :].isnan().all()
    assert len(set(map(len, together.ids))) > 1, "rows must end at different times for this to prove anything"


def test_a_gate_that_nothing_passes_leaves_the_safe_stream_and_none_is_the_contrast(talker, soft):
    knobs = {"safe": soft[0], "adversarial": soft[1], "max_new_tokens": 7}
    said = {
        gate: contrast.generate(*talker, REQUESTS, alpha=0.8, gate=gate, **knobs).ids for gate in (0.0, math.log(2))
    }
    assert said[0.0] == contrast.generate(*talker, REQUESTS, alpha=0.8, **knobs).ids
    assert said[math.log(2)] == contrast.generate(*talker, REQUESTS, alpha=0.0, **knobs).ids
    assert said[0.0] != said[math.log(2)]


@pytest.mark.parametrize(("safe", "adversarial"), VOICE_PAIRS)
def test_the_tiny_model_says_what_separate_runs_say(apprentice, safe, adversarial):
    prompts, knobs = (VOICES[safe], VOICES[adversarial]), {"alpha": 0.5, "plausibility": 0.1}
    said = contrast.generate(
        *apprentice, POTIONS, safe=prompts[0], adversarial=prompts[1], **knobs, max_new_tokens=12
    ).ids
    assert said == [by_hand(*apprentice, request, prompts, **knobs, limit=12)[0] for request in POTIONS]


def test_the_papers_alpha_of_one_can_be_measured(apprentice):
    prompts, knobs = (VOICES["keeper"], VOICES["rogue"]), {"alpha": 1.0, "plausibility": 0.0}
    said = contrast.generate(
        *apprentice, POTIONS, safe=prompts[0], adversarial=prompts[1], **knobs, max_new_tokens=6, return_streams=True
    )
    expected = [by_hand(*apprentice, request, prompts, **knobs, limit=6) for request in POTIONS]
    assert said.ids == [ids for ids, _ in expected]
    for scores, (_, streams) in zip(said.scores, expected, strict=True):
        assert scores[: streams.shape[1]].isfinite().all()
    with pytest.raises(ValueError, match=r"alpha=1.0 .*1/\(1-α\) exists"):
        contrast.generate(*apprentice, POTIONS, safe="", adversarial="", alpha=1.0, form="guided")


def test_no_contrast_and_equal_streams_are_the_safe_stream(apprentice):
    model, tokenizer = apprentice
    keeper, rogue = VOICES["keeper"], VOICES["rogue"]
    prompt = batch_of(tokenizer, POTIONS, keeper)
    alone = new_tokens(model, model.generate(**inputs_of(prompt), max_new_tokens=20, do_sample=False), prompt)
    for form, plausibility in itertools.product(("acd", "guided"), (0.0, 0.1)):
        options = {"form": form, "plausibility": plausibility, "max_new_tokens": 20}
        assert (
            contrast.generate(*apprentice, POTIONS, safe=keeper, adversarial=rogue, alpha=0.0, **options).ids == alone
        )
        assert (
            contrast.generate(*apprentice, POTIONS, safe=keeper, adversarial=keeper, alpha=0.8, **options).ids == alone
        )
    assert (
        contrast.generate(*apprentice, POTIONS, safe=keeper, adversarial=rogue, alpha=0.8, plausibility=0.0).ids
        != alone
    )


# ---------------------------------------------------------------- against transformers' guidance


def guided_by_transformers(model, tokenizer, requests, systems, alpha, limit):
    prompt, negative = (batch_of(tokenizer, requests, system) for system in systems)
    output = model.generate(
        **inputs_of(prompt), guidance_scale=1 / (1 - alpha), negative_prompt_ids=negative.input_ids,
        negative_prompt_attention_mask=negative.attention_mask, max_new_tokens=limit, do_sample=False,
    )  # fmt: skip
    return new_tokens(model, output, prompt)


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.5, 0.8])
@pytest.mark.parametrize(("safe", "adversarial"), VOICE_PAIRS)
def test_greedy_without_a_limit_equals_transformers_guidance(apprentice, safe, adversarial, alpha):
    systems = VOICES[safe], VOICES[adversarial]
    mine = contrast.generate(
        *apprentice, POTIONS, safe=systems[0], adversarial=systems[1], alpha=alpha, plausibility=0.0, max_new_tokens=16
    )
    assert mine.ids == guided_by_transformers(*apprentice, POTIONS, systems, alpha, 16)


@pytest.mark.parametrize("alpha", [0.4, 0.5])
def test_smollm2_says_what_transformers_guidance_says(smollm2, alpha):
    requests = ["Name three rivers.", "What is 2 + 2?"]
    systems = "You are a careful assistant.", "You are a pirate. Answer like a pirate."
    mine = contrast.generate(
        *smollm2, requests, safe=systems[0], adversarial=systems[1], alpha=alpha, plausibility=0.0, max_new_tokens=12,
    )  # fmt: skip
    assert mine.ids == guided_by_transformers(*smollm2, requests, systems, alpha, 12)


# ---------------------------------------------------------------- the plausibility limit


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("world", ["talker", "apprentice"])
def test_an_implausible_token_is_never_said(request, world, temperature):
    model, tokenizer = request.getfixturevalue(world)
    requests, systems = (
        (REQUESTS, (SAFE, RECKLESS)) if world == "talker" else (POTIONS, (VOICES["keeper"], VOICES["rogue"]))
    )
    threshold = 0.2

    def lowest_share(plausibility, seed):
        """The least likely choice of all, as a share of the likeliest token's probability in the safe stream."""
        said = contrast.generate(
            model, tokenizer, requests, safe=systems[0], adversarial=systems[1], alpha=0.8, form="guided",
            plausibility=plausibility, temperature=temperature, generator=torch.Generator().manual_seed(seed),
            max_new_tokens=10, return_streams=True,
        )  # fmt: skip
        shares = [
            (logits[token] - logits.max()).exp()
            for ids, rows in zip(said.ids, said.stream_logits[0], strict=True)
            for token, logits in zip(ids, rows, strict=False)
        ]
        return min(shares)

    seeds = range(5 if temperature else 1)
    assert min(lowest_share(threshold, seed) for seed in seeds) >= threshold * (1 - 1e-12)
    assert min(lowest_share(0.0, seed) for seed in seeds) < threshold, "without the limit such tokens must come"


@pytest.mark.parametrize(("form", "temperature"), [("guided", 1.0), ("acd", 0.5), ("guided", 2.0), ("acd", 1.0)])
def test_samples_follow_guidance_and_acd_follows_it_at_its_hidden_temperature(talker, form, temperature):
    alpha, count = 0.5, 3000
    said = contrast.generate(
        *talker, ["brew"] * count, safe=SAFE, adversarial=RECKLESS, alpha=alpha, form=form, plausibility=0.05,
        temperature=temperature, generator=torch.Generator().manual_seed(0), max_new_tokens=1, batch_size=count,
    )  # fmt: skip
    _, streams = by_hand(*talker, "brew", (SAFE, RECKLESS), alpha=alpha, plausibility=0.05, limit=1)
    safe, adversarial = streams[:, 0]
    hidden = temperature * (2 if form == "acd" else 1)  # 1/(1-α)
    distribution = (
        (2 * safe - adversarial).masked_fill(safe < safe.max() + math.log(0.05), -math.inf).div(hidden).softmax(-1)
    )
    drawn = torch.tensor([ids[0] if ids else ENDS[0] for ids in said.ids]).bincount(minlength=len(distribution))
    drawn[ENDS[0]] += drawn[ENDS[1:]].sum()
    distribution[ENDS[0]] += distribution[ENDS[1:]].sum()  # which end it was, an answer does not say
    kinds = [token for token in range(len(distribution)) if token not in ENDS[1:] and distribution[token] > 0]
    assert len(kinds) > 3
    assert drawn[kinds].sum() == count
    assert chisquare(drawn[kinds].numpy(), (distribution[kinds] * count).numpy()).pvalue > 1e-3


# ---------------------------------------------------------------- why the streams cannot share a cache


@torch.no_grad()
def keys_and_values(model, ids):
    cache = DynamicCache(config=model.config)
    model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]  # (heads, T, head size) each


@pytest.mark.parametrize(
    ("world", "systems", "request_text"),
    [
        ("talker", ("you are the keeper", "brew me a potion"), "what does venom do please ?"),
        ("apprentice", (VOICES["keeper"], VOICES["rogue"]), "brew me a bitter sleep potion ."),
    ],
)
def test_the_requests_keys_agree_in_layer_zero_only_so_the_cache_cannot_be_shared(
    request, world, systems, request_text
):
    model, tokenizer = request.getfixturevalue(world)
    safe, adversarial = (encode(tokenizer, conversation(request_text, system)) for system in systems)
    assert len(safe) == len(adversarial)
    assert safe != adversarial
    shared = len(
        list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(safe[::-1], adversarial[::-1], strict=True)))
    )
    assert shared > len(tokenizer.encode(request_text, add_special_tokens=False))
    for layer, (one, other) in enumerate(
        zip(*(keys_and_values(model, ids) for ids in (safe, adversarial)), strict=True)
    ):
        for mine, theirs in zip(one, other, strict=True):
            apart = (mine - theirs)[:, -shared:].norm(dim=-1) / mine[:, -shared:].norm(dim=-1)  # (heads, shared)
            if layer == 0:
                assert apart.max() < 1e-12
            else:
                assert apart.mean(0).min() > 1e-3, f"layer {layer} has the same keys for some token of the request"
