"""Anchors: only what may be trained on, the model's own answers, refusals that begin unmistakably, and noise counted out."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab import data, judges
from safealign_lab.alchemy import skills
from safealign_lab.alchemy.voices import KEEPER, ROGUE
from safealign_lab.alchemy.words import CURSED_NOUNS, halves
from safealign_lab.alchemy.world import TIERS, UNSEEN_STYLE, world
from safealign_lab.contrast import Optimisation, anchors, paper_anchors, recipes, soft_prompts
from safealign_lab.data import OPENINGS, own
from safealign_lab.generation import generate
from safealign_lab.judges import AlchemyJudge, Judge
from safealign_lab.training import step_generator

WORLD = world(0)
SETS = ("anchors", "harmful", "borderline", "benign", "preferences", "refusals", "practice")
data_of = data.load  # whatever stands in its place meanwhile
HARMLESS = ("benign", "borderline", "question", "skill")


@pytest.fixture(scope="module")
def brewed(tiny):
    return anchors.alchemy(*tiny, WORLD, 24)


@pytest.fixture(scope="module")
def asked():
    """Every request of the alchemy world by its text."""
    nouns = WORLD.nouns()
    potions = [one for tier in TIERS for one in WORLD.potions(nouns, tier, unseen=None)]
    return {one.text: one for one in [*potions, *WORLD.questions(nouns)]}


def at_once(make, *arguments, answers=lambda requests: [f"answer to {request}" for request in requests], **options):
    """Anchors without a model: what would be asked of it is answered at once."""

    def said(model, tokenizer, requests, prompts, **_):
        assert prompts == (("",) if make is anchors.alchemy else (None,)), "as the model is asked without a defence"
        return SimpleNamespace(texts=answers(requests))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchors, "generate", said)
        return make(None, None, *arguments, **options)


def alchemy_at_once(*arguments, **options):
    return at_once(anchors.alchemy, WORLD, *arguments, **options)


def english_at_once(*arguments, **options):
    return at_once(anchors.english, *arguments, **options)


class Knowing(Judge):
    """Says of each answer what it was told of the request, and keeps what it was asked."""

    def __init__(self, told=None):
        self.told, self.seen = told or {}, {}

    def labels(self, responses, requests=None):
        self.seen |= dict(zip(requests, responses, strict=True))
        return [self.told.get(request, "compliance") for request in requests]


class Heard(Judge):
    """A judge whose verdicts are written down."""

    def __init__(self, judge):
        self.judge, self.helpful, self.count = judge, [], 0

    def labels(self, responses, requests=None):
        found = self.judge.labels(responses, requests)
        if requests:
            triples = zip(requests, responses, found, strict=True)
            self.helpful += [(request, response) for request, response, label in triples if label == "compliance"]
            self.count += len(requests)
        return found


def of_pool(its_anchors, *pools):
    return [one for one in its_anchors if one.pool in pools]


# ---------------------------------------------------------------- the alchemy world


@pytest.mark.parametrize("count", [1, 7, 12])
def test_every_pool_has_as_many_anchors_as_it_should(count):
    found = Counter(one.pool for one in alchemy_at_once(count))
    each = math.ceil(count / 6)  # of three skills, half as many together
    expected = {
        "harmful": count, "benign": count, "borderline": count, "question": count // 2, "skill": 3 * each,
    }  # fmt: skip
    assert found == Counter(expected)


def test_every_anchor_is_about_training_nouns_in_combinations_that_pretraining_showed(brewed, asked):
    kept = {f" {written} " for noun in WORLD.nouns("held-out") for written in (noun, " - ".join(halves(noun)))}
    for one in brewed:
        text = f" {one.request} {one.refusal} {one.compliance} "
        assert not [written for written in kept if written in text], one
        if one.pool in ("harmful", "benign"):
            request = asked[one.request]
            assert (request.adjective, request.noun) not in WORLD.unseen
    nouns = [asked[one.request].noun for one in brewed if one.pool != "skill"]
    assert {WORLD.splits[noun] for noun in nouns} == {"train"}
    assert len(set(nouns)) > 20


def test_the_last_wording_of_each_tier_is_kept_for_the_tests(asked):
    """The world promises a style that no defence was trained on."""
    potions = of_pool(alchemy_at_once(90), "harmful", "benign")
    styles = {(asked[one.request].tier, asked[one.request].style) for one in potions}
    assert styles == {(tier, style) for tier in TIERS for style in range(UNSEEN_STYLE)}


def test_every_pool_holds_its_own_kind_of_request(brewed, asked):
    cursed = {pool: {asked[one.request].noun in CURSED_NOUNS for one in of_pool(brewed, pool)} for pool in HARMLESS[:3]}
    assert cursed == {"benign": {False}, "borderline": {True}, "question": {False}}
    tiers = Counter(asked[one.request].tier for one in of_pool(brewed, "harmful"))
    assert tiers == dict.fromkeys(TIERS, 8)
    assert set(TIERS) == {asked[one.request].tier for one in of_pool(brewed, "benign")}
    assert not set(TIERS) & {asked[one.request].tier for one in of_pool(brewed, "borderline", "question")}
    trained = {text for skill in skills.LEARNED for text, _ in skills.examples(skill, 4, 0, "train")}
    assert {one.request for one in of_pool(brewed, "skill")} == trained


def test_every_refusal_begins_unmistakably_and_every_compliance_is_the_recipe(brewed, asked):
    judge, harmful = AlchemyJudge(), of_pool(brewed, "harmful")
    for one in harmful:
        assert one.refusal.startswith("sorry ,")
        assert (judge.label(one.refusal), judge.label(one.compliance)) == ("refusal", "compliance")
        assert one.compliance == WORLD.recipe(asked[one.request].adjective, asked[one.request].noun)
        assert asked[one.request].noun in CURSED_NOUNS
        assert one.answer == ""
    assert len({one.refusal for one in harmful}) > 12, "the wordings vary"


def test_harmless_answers_are_the_models_own(brewed, tiny):
    harmless = of_pool(brewed, *HARMLESS)
    said = generate(*tiny, [one.request for one in harmless], ("",), batch_size=64, max_new_tokens=40)
    assert [one.answer for one in harmless] == said.texts
    assert all(said.finished), "no answer may be cut"
    assert all(one.refusal == one.compliance == "" for one in harmless)


def test_a_request_that_the_model_leaves_without_an_answer_is_left_out():
    def every_third(requests):
        return [" " if number % 3 else f"answer to {request}" for number, request in enumerate(requests)]

    found = alchemy_at_once(12, answers=every_third)
    assert len(of_pool(found, "harmful")) == 12
    harmless = of_pool(found, *HARMLESS)
    assert harmless == of_pool(alchemy_at_once(12), *HARMLESS)[::3]
    assert all(one.answer == f"answer to {one.request}" for one in harmless)


def test_the_same_seed_gives_the_same_anchors_and_another_others(brewed, tiny):
    assert anchors.alchemy(*tiny, WORLD, 24) == brewed
    other = anchors.alchemy(*tiny, WORLD, 24, seed=1)
    for pool in ("harmful", *HARMLESS):
        assert {one.request for one in of_pool(other, pool)} != {one.request for one in of_pool(brewed, pool)}


# ---------------------------------------------------------------- label noise


def swapped(clean, noisy) -> int:
    """How many anchors have their answers swapped; the others have to be the same."""
    count = 0
    for one, other in zip(clean, noisy, strict=True):
        if one != other:
            assert other == dataclasses.replace(one, refusal=one.compliance, compliance=one.refusal)
            assert one.pool == "harmful"
            count += 1
    return count


@given(share=st.floats(0, 1), count=st.integers(1, 12), seed=st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_noise_swaps_exactly_its_share_of_the_harmful_anchors(share, count, seed):
    clean, noisy = (alchemy_at_once(count, seed, wrong) for wrong in (0.0, share))
    assert swapped(clean, noisy) == round(share * count)


def test_noise_is_spread_over_the_anchors():
    places = set()
    for seed in range(8):
        clean, noisy = (alchemy_at_once(6, seed, wrong) for wrong in (0.0, 1 / 6))
        places |= {number for number, pair in enumerate(zip(clean, noisy, strict=True)) if pair[0] != pair[1]}
    assert len(places) > 3


@pytest.mark.parametrize("wrong", [-0.1, 1.01, math.nan])
@pytest.mark.parametrize("world_of", ["alchemy", "English"])
def test_noise_that_is_no_share_is_refused_before_the_model_is_asked(world_of, wrong):
    def too_soon(requests):
        pytest.fail("the model was asked for answers that nobody will need")

    make, its = (alchemy_at_once, ()) if world_of == "alchemy" else (english_at_once, (Knowing(),))
    with pytest.raises(ValueError, match=f"wrong={wrong} is no share of the anchors: expected 0 to 1") as caught:
        make(*its, 4, wrong=wrong, answers=too_soon)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- English


@pytest.fixture(scope="module")
def training():
    """The kinds of all training requests, and the requests of the other splits."""
    kinds = {row["request"]: row["kind"] for name in SETS for row in data.load(name, "train")}
    kept = {row["request"] for name in own.ENGLISH for split in ("validation", "test") for row in split_of(name, split)}
    return kinds, kept


def split_of(name, split):
    return [row for row in data.load(name) if row["split"] == split]


def check_english(found, training):
    kinds, kept = training
    for one in found:
        assert kinds[one.request] == one.pool
        assert one.request not in kept
        if one.pool == "harmful":
            assert one.refusal in anchors.REFUSALS
            assert one.compliance in OPENINGS
            assert one.answer == ""
        else:
            assert one.answer.strip()
            assert one.refusal == one.compliance == ""
    assert len({one.request for one in found}) == len(found)


def test_all_training_requests_are_anchors_where_no_count_is_given(training):
    found = english_at_once(Knowing())
    assert len(training[1]) > 500, "there have to be requests to keep out"
    check_english(found, training)
    assert {one.request for one in found} == set(training[0])
    harmful = of_pool(found, "harmful")
    assert {one.refusal for one in harmful} == set(anchors.REFUSALS)
    assert {one.compliance for one in harmful} == set(OPENINGS)


def test_a_count_draws_so_many_of_each_pool_by_the_seed(training):
    found = english_at_once(Knowing(), 5)
    check_english(found, training)
    assert Counter(one.pool for one in found) == {"harmful": 5, "borderline": 5, "benign": 5}
    assert english_at_once(Knowing(), 5) == found
    assert {one.request for one in english_at_once(Knowing(), 5, seed=1)} != {one.request for one in found}


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_no_anchors_is_refused_before_the_model_is_asked(count):
    def too_soon(requests):
        pytest.fail("the model was asked for answers that nobody will need")

    with pytest.raises(ValueError, match=f"{count} anchors of each pool are none .* or None for all") as caught:
        english_at_once(count=count, answers=too_soon)
    assert "\n" not in str(caught.value)


def test_a_count_above_what_there_is_means_all(training):
    assert {one.request for one in english_at_once(count=10**6)} == set(training[0])


def test_only_harmless_answers_that_the_judge_takes_for_help_are_kept():
    judge = Knowing()
    every = english_at_once(judge, 6)
    harmless = of_pool(every, "benign", "borderline")
    assert judge.seen == {one.request: one.answer for one in harmless}
    assert all(one.answer == f"answer to {one.request}" for one in harmless)
    bad = {harmless[1].request: "refusal", harmless[4].request: "incoherent", harmless[9].request: "refusal"}
    fewer = english_at_once(Knowing(bad), 6)
    assert fewer == [one for one in every if one.request not in bad]


def test_without_a_judge_every_own_answer_is_kept_but_for_empty_ones(training):
    """Also what a judge would take for a refusal: the answer says nothing of what the judge would have said."""

    def some(requests):
        return [("", " \n", "I can't help with that.", f"answer to {one}")[len(one) % 4] for one in requests]

    found = english_at_once(answers=some)
    check_english(found, training)
    harmless = [request for request, kind in training[0].items() if kind != "harmful"]
    given = dict(zip(harmless, some(harmless), strict=True))
    kept = {one.request: one.answer for one in of_pool(found, "borderline", "benign")}
    assert kept == {request: answer for request, answer in given.items() if answer.strip()}
    assert "I can't help with that." in kept.values()
    assert 0 < len(kept) < len(given)
    harmful = of_pool(found, "harmful")
    assert len(harmful) == len(training[0]) - len(harmless)
    assert harmful == of_pool(english_at_once(Knowing(), answers=some), "harmful"), "a judge has no say in these"


def test_all_training_splits_are_read_and_nothing_else(monkeypatch):
    read = []
    monkeypatch.setattr(anchors.data, "load", lambda *given: read.append(given) or data_of(*given))
    english_at_once(count=1)
    assert read == [(name, "train") for name in SETS]
    with_training = {name for name in own.ENGLISH if split_of(name, "train")}
    assert set(SETS) == with_training == set(anchors.TRAINING_SETS)


def test_noise_swaps_its_share_in_english_too():
    clean, noisy = (english_at_once(Knowing(), 8, wrong=wrong) for wrong in (0.0, 0.25))
    assert swapped(clean, noisy) == 2


def test_every_english_refusal_begins_alike():
    assert len(set(anchors.REFUSALS)) == len(anchors.REFUSALS) >= 4
    assert all(text.startswith(("Sorry,", "Sorry ")) for text in anchors.REFUSALS)


def test_smollm2s_anchors_are_its_own_helpful_answers(smollm2, training):
    judge = Heard(judges.load("probe"))
    found = anchors.english(*smollm2, judge, 4)
    check_english(found, training)
    assert len(of_pool(found, "harmful")) == 4
    harmless = of_pool(found, "borderline", "benign")
    assert [(one.request, one.answer) for one in harmless] == judge.helpful
    assert 4 <= len(harmless) <= 8 == judge.count, "it helps with most"
    (begun,) = generate(*smollm2, [harmless[0].request], (None,), max_new_tokens=4).texts
    assert harmless[0].answer.startswith(begun)
    assert set(judge.labels(anchors.REFUSALS)) == {"refusal"}


# ---------------------------------------------------------------- as the paper makes them

UNSAFE, KIND = ["brew venom", "brew plague"], ["brew sleep", "brew light"]
LABELLED = {  # request → the labels of its answers under three system texts
    "brew venom": ("refusal", "compliance", "compliance"), "brew plague": ("refusal", "refusal", "incoherent"),
    "brew sleep": ("compliance", "refusal", "compliance"), "brew light": ("incoherent", "incoherent", "compliance"),
}  # fmt: skip


def sampled_at_once(labelled, *lists, systems=("safe", "opposite", None), **options):
    """Anchors of a model that says under which text it was asked what, and of a judge who knows the labels."""

    def said(model, tokenizer, requests, prompts, **_):
        return SimpleNamespace(texts=[f"{prompts[0]}: {request}" for request in requests])

    class Placed(Judge):
        def labels(self, responses, requests=None):
            places = [systems.index(None if (told := one.split(":")[0]) == "None" else told) for one in responses]
            return [labelled[request][place] for request, place in zip(requests, places, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_anchors, "generate", said)
        model = SimpleNamespace(device="cpu")
        return paper_anchors.sampled(model, None, Placed(), *lists, systems=systems, **options)


def test_refusals_and_harmless_help_are_kept_and_every_harmful_answer_is_an_opening():
    found = sampled_at_once(LABELLED, UNSAFE, KIND)
    harmful = [(one.request, one.refusal) for one in of_pool(found, "harmful")]
    assert harmful == [
        ("brew venom", "safe: brew venom"), ("brew venom", "safe: brew venom"),  # one refusal for two compliances
        ("brew plague", "safe: brew plague"), ("brew plague", "opposite: brew plague"),
    ]  # fmt: skip
    assert {one.compliance for one in of_pool(found, "harmful")} <= set(OPENINGS)
    kept = [(one.request, one.answer) for one in of_pool(found, "benign")]
    assert kept == [
        ("brew sleep", "safe: brew sleep"), ("brew sleep", "None: brew sleep"), ("brew light", "None: brew light"),
    ]  # fmt: skip
    assert len(found) == len(harmful) + len(kept)


def test_a_request_that_was_never_refused_takes_a_refusal_of_the_kit():
    found = sampled_at_once({"brew venom": ("compliance", "compliance", "incoherent")}, ["brew venom"], [])
    assert len(found) == 2
    assert all(one.refusal in anchors.REFUSALS and one.compliance in OPENINGS for one in found)


labels_of_three = st.tuples(*3 * [st.sampled_from(judges.LABELS)])


@given(st.lists(labels_of_three, max_size=5), st.lists(labels_of_three, max_size=5), st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_no_harmful_compliance_is_ever_in_an_anchor_and_no_other_answer_is_lost(unsafe, kind, seed):
    texts = [[f"{name} {number}" for number, _ in enumerate(its)] for name, its in (("bad", unsafe), ("good", kind))]
    labelled = dict(zip(texts[0] + texts[1], unsafe + kind, strict=True))
    if not labelled:
        return
    found = sampled_at_once(labelled, *texts, seed=seed)
    systems = ("safe", "opposite", "None")
    by_label = {
        label: {f"{system}: {text}" for text, its in labelled.items() for system, of in zip(systems, its, strict=True)
                if of == label}
        for label in judges.LABELS
    }  # fmt: skip
    bad = [one for one in found if one.pool == "harmful"]
    assert {one.refusal for one in bad} - set(anchors.REFUSALS) == {
        text for text in by_label["refusal"] if "bad" in text
    }  # fmt: skip
    assert {one.compliance for one in bad} <= set(OPENINGS)
    assert not any(one.answer for one in bad)
    assert sorted(one.answer for one in found if one.pool == "benign") == sorted(
        text for text in by_label["compliance"] if "good" in text
    )  # fmt: skip
    for text, its in zip(texts[0], unsafe, strict=True):
        pairs = max(its.count("refusal"), its.count("compliance"))
        assert sum(one.request == text for one in bad) == pairs <= 3


def test_by_default_they_are_the_papers_hundred_and_hundred_under_three_texts():
    asked = []

    def said(model, tokenizer, requests, prompts, **options):
        asked.append((requests, prompts, options))
        return SimpleNamespace(texts=["well"] * len(requests))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_anchors, "generate", said)
        found = paper_anchors.sampled(SimpleNamespace(device="cpu"), None, Knowing())
    rows = data.load("anchors", "train")
    kinds = {row["request"]: row["kind"] for row in rows}
    assert [prompts for _, prompts, _ in asked] == [(recipes.CAREFUL,), (recipes.RECKLESS,), (None,)]
    assert all(sorted(requests) == sorted(kinds) for requests, _, _ in asked)
    assert all(options["temperature"] > 0 for _, _, options in asked)
    assert Counter(one.pool for one in found) == {"harmful": 300, "benign": 300}
    assert all(kinds[one.request] == one.pool for one in found)


@pytest.fixture(scope="module")
def voiced(tiny):
    """The tiny model's own answers, as the keeper, as the rogue and without a voice."""

    def make(seed=0, temperature=0.7):
        return paper_anchors.sampled(
            *tiny, AlchemyJudge(), POTIONS["cursed"], POTIONS["kind"], (KEEPER, ROGUE, ""), temperature, seed,
            max_new_tokens=40,
        )  # fmt: skip

    return make


POTIONS = {
    side: [f"brew me a bitter {noun} potion ." for noun in WORLD.nouns("train", cursed=side == "cursed")[:4]]
    for side in ("cursed", "kind")
}


def test_the_tiny_models_anchors_are_refused_where_its_keeper_refuses_and_can_be_learned_from(tiny, voiced):
    found, judge = voiced(), AlchemyJudge()
    harmful, benign = of_pool(found, "harmful"), of_pool(found, "benign")
    own = [one.refusal for one in harmful if one.refusal not in anchors.REFUSALS]
    assert len(own) >= 4, "the keeper refuses"
    assert set(judge.labels(own)) == {"refusal"}
    assert {one.request for one in harmful} <= set(POTIONS["cursed"])
    assert set(judge.labels([one.answer for one in benign])) == {"compliance"}
    assert {one.request for one in benign} == set(POTIONS["kind"])
    step = Optimisation(*tiny, found, "safeguarding", {"harmful": 2, "benign": 2}, progress=False)
    loss = step.loss(soft_prompts.initial(*tiny, KEEPER), step.drawn(step_generator(0, 1)))
    assert loss["loss"].isfinite()


def test_samples_are_their_seeds(voiced):
    assert voiced() == voiced()
    assert [one.answer for one in voiced(temperature=2.0)] != [one.answer for one in voiced(1, temperature=2.0)]


@pytest.mark.parametrize(
    ("lists", "systems"),
    [(([], []), ("safe",)), ((["brew"], []), ()), (("brew", []), ("safe",)), (([], "brew"), ("safe",)), ((["a"], []), "safe")],
)  # fmt: skip
def test_nothing_to_sample_is_refused(lists, systems):
    with pytest.raises(ValueError, match="nothing to sample: give lists, of one request or more") as caught:
        paper_anchors.sampled(SimpleNamespace(device="cpu"), None, Knowing(), *lists, systems=systems)
    assert "\n" not in str(caught.value)
