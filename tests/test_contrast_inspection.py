"""What a contrastive answer can be asked: its steps one by one, its pieces as they come, its options."""

from __future__ import annotations

import math
from inspect import signature

import pytest
import torch
from slow_contrast import ENDS, POTIONS, RECKLESS, REQUESTS, SAFE, by_hand, in_double

from safealign_lab import contrast
from safealign_lab.alchemy.voices import VOICES
from safealign_lab.contrast import Step, inspect, share_limited
from safealign_lab.generation import Generation

END = 3  # the toy tokenizer's <|end|>
LIKELY, SECOND, RARE, OTHER = 20, 21, 22, 23


def of_probabilities(**named: float) -> torch.Tensor:
    """Logits (V,) of the named tokens' probabilities; the rest is shared evenly by all other tokens."""
    places = {"likely": LIKELY, "second": SECOND, "rare": RARE, "other": OTHER, "end": END}
    probabilities = torch.full((32,), (1 - sum(named.values())) / (32 - len(named)), dtype=torch.float64)
    for name, probability in named.items():
        probabilities[places[name]] = probability
    return probabilities.log()


# what the safe stream says, what the adversarial one says, what was chosen at α = 0.5 with a limit of 0.1
SCRIPT = [
    (of_probabilities(likely=0.7, second=0.2), of_probabilities(likely=0.6, second=0.2), LIKELY),
    (of_probabilities(likely=0.7, second=0.2), of_probabilities(likely=0.1, second=0.8), LIKELY),
    (of_probabilities(likely=0.5, second=0.4), of_probabilities(likely=0.9, second=0.05), SECOND),
    (of_probabilities(likely=0.6, rare=0.01), of_probabilities(likely=0.5, rare=1e-6), LIKELY),
    (of_probabilities(end=0.9, likely=0.05), of_probabilities(likely=0.9, end=0.05), END),
]
DECIDED = ["both", "safe", "contrast", "both", "safe"]


def scripted(finished: bool = True) -> Generation:
    """Two answers: the first is longer and of no interest, the second is the script's."""
    streams = torch.zeros(2, 2, len(SCRIPT) + 2, 32, dtype=torch.float64)
    streams[:, 1] = torch.nan
    for place, (safe, adversarial, _) in enumerate(SCRIPT[: len(SCRIPT) if finished else -1]):
        streams[0, 1, place], streams[1, 1, place] = safe, adversarial
    ids = [token for _, _, token in SCRIPT if token != END]
    ends = [None, END if finished else None]
    return Generation(["", ""], [[OTHER] * 7, ids], [False, finished], ends, streams[0], streams)


def looked_at(toy, finished: bool = True, **knobs) -> list[Step]:
    return inspect(toy[1], scripted(finished), 1, **{"alpha": 0.5, "plausibility": 0.1, **knobs})


# ---------------------------------------------------------------- the script


@pytest.mark.parametrize("form", ["acd", "guided"])
def test_each_step_says_what_was_wanted_and_who_decided(toy, form):
    steps = looked_at(toy, form=form)
    word = toy[1].decode
    assert [step.token for step in steps] == [word([token]) for _, _, token in SCRIPT]
    assert [step.decided for step in steps] == DECIDED
    assert [step.wanted for step in steps] == [word([token]) for token in (LIKELY, LIKELY, LIKELY, LIKELY, END)]
    assert [step.rejected for step in steps] == [None, None, None, word([RARE]), None]
    assert [step.plausible for step in steps] == [2, 2, 2, 1, 1]
    assert share_limited(steps) == pytest.approx(1 / 5)
    assert share_limited(steps[2:]) == pytest.approx(1 / 3)


def test_probabilities_and_entropy_equal_a_loop_over_the_vocabulary(toy):
    for alpha, threshold, form in ((0.5, 0.1, "acd"), (0.3, 0.0, "guided"), (1.0, 0.05, "acd"), (0.6, 0.01, "guided")):
        steps = looked_at(toy, alpha=alpha, plausibility=threshold, form=form)
        factor = 1 / (1 - alpha) if form == "guided" else 1.0
        for step, (safe, adversarial, token) in zip(steps, SCRIPT, strict=True):
            kept = [place for place in range(32) if safe[place].exp() >= threshold * safe.exp().max()]
            heights = {place: math.exp(factor * (safe[place] - alpha * adversarial[place])) for place in kept}
            shares = {place: height / sum(heights.values()) for place, height in heights.items()}
            assert step.p_safe == pytest.approx(math.exp(safe[token]))
            assert step.p_adversarial == pytest.approx(math.exp(adversarial[token]))
            assert step.p_contrast == pytest.approx(shares.get(token, 0.0))
            assert step.entropy == pytest.approx(-sum(share * math.log(share) for share in shares.values()), abs=1e-12)
            assert step.plausible == len(kept)


def test_without_the_limit_nothing_is_rejected_and_everything_is_plausible(toy):
    steps = looked_at(toy, plausibility=0.0)
    assert [(step.rejected, step.plausible) for step in steps] == [(None, 32)] * 5
    assert share_limited(steps) == 0


def test_an_answer_that_was_cut_has_no_end_token(toy):
    assert [step.decided for step in looked_at(toy, finished=False)] == DECIDED[:-1]


def test_an_empty_answer_limits_nothing():
    assert share_limited([]) == 0


def test_inspection_needs_streams_and_possible_knobs(toy, talker):
    plain = contrast.generate(*talker, REQUESTS[:1], safe=SAFE, adversarial=RECKLESS, max_new_tokens=2)
    with pytest.raises(ValueError, match="no streams to look at: make it with return_streams=True"):
        inspect(toy[1], plain, alpha=0.5)
    for knobs in ({"alpha": -1}, {"alpha": 1.0, "form": "guided"}, {"plausibility": 2}):
        with pytest.raises(ValueError, match="alpha=|plausibility="):
            looked_at(toy, **knobs)


# ---------------------------------------------------------------- on a model


@pytest.fixture(scope="module")
def talker(toy):
    return in_double(toy, ENDS)


@pytest.fixture(scope="module")
def apprentice(tiny):
    return in_double(tiny)


@pytest.mark.parametrize("number", range(len(POTIONS)))
def test_probabilities_are_those_of_separate_runs_with_the_end_token(apprentice, number):
    model, tokenizer = apprentice
    prompts, knobs = (VOICES["keeper"], VOICES["rogue"]), {"alpha": 0.7, "plausibility": 0.1}
    said = contrast.generate(
        *apprentice, POTIONS, safe=prompts[0], adversarial=prompts[1], **knobs, max_new_tokens=40, return_streams=True
    )
    steps = inspect(tokenizer, said, number, **knobs)
    ids, streams = by_hand(model, tokenizer, POTIONS[number], prompts, **knobs, limit=40)
    tokens = [*ids, tokenizer.eos_token_id]
    assert said.finished[number]
    assert [step.token for step in steps] == [tokenizer.decode([token]) for token in tokens]
    for place, (step, token) in enumerate(zip(steps, tokens, strict=True)):
        safe, adversarial = streams[:, place].softmax(-1)
        assert step.p_safe == pytest.approx(float(safe[token]), abs=1e-9)
        assert step.p_adversarial == pytest.approx(float(adversarial[token]), abs=1e-9)
        best = [int(probabilities.argmax()) for probabilities in (safe, adversarial)]
        assert step.decided == ("contrast" if token != best[0] else "both" if token == best[1] else "safe")
        assert step.plausible == int((safe >= 0.1 * safe.max()).sum())


# ---------------------------------------------------------------- one text or a list, pieces, options


def generated(talker, requests, **options) -> Generation:
    settings = {"safe": SAFE, "adversarial": RECKLESS, "alpha": 0.6, "max_new_tokens": 7, **options}
    return contrast.generate(*talker, requests, **settings)


def test_one_text_is_a_list_of_one(talker):
    for request in REQUESTS:
        assert generated(talker, request) == generated(talker, [request])
    assert generated(talker, tuple(REQUESTS)) == generated(talker, REQUESTS)
    assert generated(talker, []) == Generation([], [], [], [])


@pytest.mark.parametrize("requests", [[3], ["fine", None]])
def test_requests_that_are_not_texts_are_refused(talker, requests):
    with pytest.raises(ValueError, match="must be a string"):
        generated(talker, requests)


def test_a_soft_prompt_of_another_size_is_refused(talker):
    with pytest.raises(ValueError, match=r"the prefix must be \(P, 32\)"):
        generated(talker, REQUESTS, safe=torch.zeros(4, 31))


def test_pieces_come_with_the_number_of_their_request_and_add_up_to_its_text(talker):
    pieces, tokens = [""] * len(REQUESTS), [[] for _ in REQUESTS]

    def on_token(number, token, text):
        pieces[number] += text
        tokens[number] += [token] * (token not in ENDS)

    said = generated(talker, REQUESTS, batch_size=2, on_token=on_token)
    assert pieces == said.texts
    assert tokens == said.ids
    assert len(set(pieces)) > 2


def test_samples_repeat_with_their_generator_and_change_with_it(talker):
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return generated(talker, REQUESTS, form="guided", temperature=1.5, generator=generator).ids

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1) != generated(talker, REQUESTS).ids


def test_batches_stop_strings_openings_and_limits_are_followed(talker):
    whole = generated(talker, REQUESTS)
    assert generated(talker, REQUESTS, batch_size=1) == whole
    assert [len(ids) for ids in generated(talker, REQUESTS, max_new_tokens=2).ids] == [
        min(2, len(ids)) for ids in whole.ids
    ]
    cut = generated(talker, REQUESTS, stop=["a"]).texts
    assert cut == [text.partition("a")[0] for text in whole.texts]
    assert cut != whole.texts
    opened = generated(talker, REQUESTS, opening="no i will")
    assert all(text.startswith("no i will") for text in opened.texts)
    assert opened.ids != whole.ids


def test_scores_are_kept_only_on_request(talker):
    plain, full = generated(talker, REQUESTS), generated(talker, REQUESTS, return_streams=True)
    assert plain.scores is plain.stream_logits is None
    assert full.ids == plain.ids
    for number, ids in enumerate(full.ids):
        assert full.scores[number, : len(ids)].argmax(-1).tolist() == ids


def test_the_papers_form_at_two_fifths_with_a_limit_of_a_tenth_is_the_default(talker):
    said = contrast.generate(*talker, REQUESTS, safe=SAFE, adversarial=RECKLESS, return_streams=True)
    safe, adversarial = said.stream_logits
    chosen = safe.exp() >= 0.1 * safe.exp().amax(-1, keepdim=True)
    torch.testing.assert_close(said.scores[chosen], (safe - 0.4 * adversarial)[chosen])
    assert (said.scores[~chosen & ~safe.isnan()] == -math.inf).all()
    takers = (
        contrast.generate,
        contrast.ContrastProcessor,
        contrast.custom_generate,
        inspect,
        contrast.score,
        contrast.scorer,
    )
    for function in takers:
        parameters = signature(function).parameters
        assert (parameters["form"].default, parameters["plausibility"].default) == ("acd", 0.1)
