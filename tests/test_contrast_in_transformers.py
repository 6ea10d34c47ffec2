"""The contrast inside transformers' `generate`: as a processor, and as a loop of its own."""

from __future__ import annotations

import pytest
import torch
from slow_contrast import ENDS, RECKLESS, REQUESTS, SAFE, batch_of, in_double, inputs_of, new_tokens
from transformers import EosTokenCriteria, MaxLengthCriteria, StoppingCriteria, StoppingCriteriaList

from safealign_lab import chat, contrast


@pytest.fixture(scope="module")
def talker(toy):
    return in_double(toy, ENDS)


def pair_of_batches(tokenizer, requests=tuple(REQUESTS)):
    return batch_of(tokenizer, requests, SAFE), batch_of(tokenizer, requests, RECKLESS)


def added(way, model, tokenizer, adversarial, **options):
    """What is given to `model.generate` for the contrast, by either way."""
    if way == "processor":
        return {"logits_processor": [contrast.ContrastProcessor(model, adversarial, **options)]}
    return {"custom_generate": contrast.custom_generate(tokenizer, adversarial, **options)}


@pytest.mark.parametrize("way", ["processor", "loop"])
@pytest.mark.parametrize(("form", "plausibility"), [("acd", 0.0), ("acd", 0.1), ("guided", 0.1)])
def test_both_ways_into_transformers_generate_say_what_the_kit_says(talker, way, form, plausibility):
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer)
    options = {"alpha": 0.8, "form": form, "plausibility": plausibility}
    mine = contrast.generate(model, tokenizer, REQUESTS, safe=SAFE, adversarial=RECKLESS, max_new_tokens=9, **options)
    way_in = added(way, model, tokenizer, adversarial, **options)
    output = model.generate(**inputs_of(safe), **way_in, max_new_tokens=9, do_sample=False, pad_token_id=0)
    assert new_tokens(model, output, safe) == mine.ids
    assert torch.equal(output[:, : safe.input_ids.shape[1]], safe.input_ids)
    assert len(set(map(len, mine.ids))) > 1, "rows must end at different times for this to prove anything"
    assert (safe.attention_mask == 0).any(), "rows must be padded, too"


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("way", ["processor", "loop"])
def test_samples_inside_generate_are_those_of_the_kit_and_repeat_with_the_seed(talker, way, temperature):
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer, REQUESTS[:1])
    options = {"alpha": 0.5, "form": "guided"}

    def sample(seed):
        torch.manual_seed(seed)
        way_in = added(way, model, tokenizer, adversarial, **options)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "pad_token_id": 0}
        output = model.generate(**inputs_of(safe), **way_in, **sampling, max_new_tokens=9)
        return new_tokens(model, output, safe)

    def own(seed):
        torch.manual_seed(seed)
        return contrast.generate(
            model, tokenizer, REQUESTS[:1], safe=SAFE, adversarial=RECKLESS, **options, temperature=temperature,
            max_new_tokens=9,
        ).ids  # fmt: skip

    samples = [sample(seed) for seed in range(6)]
    assert samples == [own(seed) for seed in range(6)]
    assert len({str(ids) for ids in samples}) > 1


def test_a_processor_serves_one_call_without_beams(talker):
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer)
    limits = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    used = contrast.ContrastProcessor(model, adversarial, 0.4)
    model.generate(**inputs_of(safe), logits_processor=[used], **limits)
    with pytest.raises(ValueError, match="5 rows of one call, and got 5 rows or another text: make a new one for each"):
        model.generate(**inputs_of(safe), logits_processor=[used], **limits)
    for other, rows in (({"num_beams": 2}, 10), ({"num_return_sequences": 3, "do_sample": True}, 15)):
        fresh = contrast.ContrastProcessor(model, adversarial, 0.4)
        with pytest.raises(ValueError, match=f"got {rows} rows .*use no beams"):
            model.generate(**inputs_of(safe), logits_processor=[fresh], **{**limits, **other})


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **others):
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("way", ["argument", "criterion"])
@pytest.mark.parametrize("ends", [[31], [9, 24, 31], [*ENDS, 11]])
def test_the_end_tokens_of_a_call_are_followed_as_the_processor_follows_them(talker, ends, way):
    """Others than the model's own in their place, and more of them."""
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer)
    criterion = StoppingCriteriaList([EosTokenCriteria(torch.tensor(ends))])
    asked = {"eos_token_id": ends} if way == "argument" else {"stopping_criteria": criterion}
    limits = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0}
    found = {
        kind: model.generate(
            **inputs_of(safe), **added(kind, model, tokenizer, adversarial, alpha=0.8), **limits, **asked
        )
        for kind in ("processor", "loop")
    }
    assert torch.equal(found["loop"], found["processor"])
    plain = model.generate(**inputs_of(safe), **added("loop", model, tokenizer, adversarial, alpha=0.8), **limits)
    assert not torch.equal(plain, found["loop"]), "these ends have to matter"


@pytest.mark.parametrize("longest", [2, 5])
def test_the_longest_text_that_a_criterion_allows_is_the_longest(talker, longest):
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer)
    length = safe.input_ids.shape[1] + longest
    output = model.generate(
        **inputs_of(safe), **added("loop", model, tokenizer, adversarial, alpha=0.8), do_sample=False, pad_token_id=0,
        max_new_tokens=9, stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(length)]),
    )  # fmt: skip
    assert output.shape[1] == length


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"do_sample": True, "top_k": 5}, "does not know TopKLogitsWarper"),
        ({"do_sample": True, "top_k": 0, "top_p": 0.9}, "TopPLogitsWarper"),
        ({"repetition_penalty": 1.2}, "RepetitionPenaltyLogitsProcessor: leave these settings out"),
        ({"min_new_tokens": 3}, "MinNewTokens"),
        ({"num_beams": 3}, "15 rows are to be answered, and 5 have an adversarial prompt"),
        ({"max_time": 9.0}, "does not know MaxTimeCriteria: leave these settings out"),
        ({"stopping_criteria": StoppingCriteriaList([Never()])}, "does not know Never: leave"),
        ({"do_sample": True, "top_k": 0, "num_return_sequences": 3}, "15 rows are to be answered"),
    ],
)
def test_the_loop_refuses_settings_that_it_does_not_follow(talker, settings, sentence):
    model, tokenizer = talker
    safe, adversarial = pair_of_batches(tokenizer)
    loop = contrast.custom_generate(tokenizer, adversarial, 0.4)
    with pytest.raises(ValueError, match=sentence):
        model.generate(**inputs_of(safe), custom_generate=loop, max_new_tokens=4, pad_token_id=0, **settings)


@pytest.mark.parametrize(
    ("knobs", "wrong"),
    [
        ({"alpha": -1.0}, "alpha=-1.0 "),
        ({"alpha": 1.0, "form": "guided"}, "alpha=1.0 "),
        ({"alpha": 0.4, "form": "cfg"}, "no form 'cfg'"),
        ({"alpha": 0.4, "plausibility": 2}, "plausibility=2 "),
    ],
)
def test_impossible_knobs_are_told_before_anything_is_read(knobs, wrong):
    adversarial = chat.pad([[5]], 0)
    for start in (
        lambda: contrast.generate(None, None, REQUESTS, safe=SAFE, adversarial=RECKLESS, **knobs),
        lambda: contrast.ContrastProcessor(None, adversarial, **knobs),
        lambda: contrast.custom_generate(None, adversarial, **knobs),
    ):
        with pytest.raises(ValueError, match=wrong):
            start()
