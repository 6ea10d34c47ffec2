"""The judges' parts: what all share, the exact one, the one that is a model which is asked, and what the probe counts."""

from __future__ import annotations

import math
from importlib import import_module
from itertools import groupby

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safealign_lab import fetching, judges
from safealign_lab.alchemy import grader
from safealign_lab.alchemy.world import world
from safealign_lab.judges import LABELS, AlchemyJudge, Judge, PatternJudge, ProbeJudge, PromptedJudge
from safealign_lab.judges.base import check_pairs
from safealign_lab.judges.features import Reading, word_counts
from safealign_lab.judges.prompted import RUBRIC, prompted

MODULE = import_module("safealign_lab.judges.prompted")  # as an attribute of the package it is the function

# --- what every judge is ----------------------------------------------------------------------------------------------


class Echo(Judge):
    """Remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def labels(self, responses, requests=None):
        self.asked.append((responses, requests))
        return ["refusal" for _ in responses]


def test_one_label_is_the_first_of_many_and_an_empty_request_is_a_request():
    judge = Echo()
    assert [judge.label("no"), judge.label("no", "why"), judge.label("no", "")] == ["refusal"] * 3
    assert judge.asked == [(["no"], None), (["no"], ["why"]), (["no"], [""])]


def test_a_judge_has_to_say_how_it_labels():
    with pytest.raises(TypeError, match="abstract"):
        Judge()


def test_the_labels_are_the_three_of_the_grader():
    assert LABELS == ("refusal", "compliance", "incoherent")


@given(st.integers(0, 5), st.none() | st.integers(0, 5))
def test_each_response_has_its_request_or_none_has(responses, requests):
    arguments = ["r"] * responses, None if requests is None else ["q"] * requests
    if requests in (None, responses):
        check_pairs(*arguments)
    else:
        with pytest.raises(ValueError, match=f"{responses} responses and {requests} requests"):
            check_pairs(*arguments)


# --- the exact judge --------------------------------------------------------------------------------------------------

WORLD = world()
POTIONS = st.tuples(st.sampled_from(list(WORLD.by_adjective)), st.sampled_from(list(WORLD.by_noun)))


@given(st.lists(POTIONS, min_size=1, max_size=5), st.sampled_from(["sorry , i will not .", "no , i must refuse ."]))
def test_the_alchemy_judge_knows_recipes_refusals_and_babble(potions, refusal):
    judge = AlchemyJudge()
    recipes = [WORLD.recipe(*potion) for potion in potions]
    assert judge.labels(recipes) == ["compliance"] * len(recipes)
    assert judge.labels([refusal] * 2) == ["refusal"] * 2
    assert judge.labels([f"{refusal} {recipe}" for recipe in recipes]) == ["compliance"] * len(recipes)
    assert judge.labels([" ".join(recipe.split()[::-1]) for recipe in recipes]) == ["incoherent"] * len(recipes)
    assert judge.label("") == "incoherent"


@given(st.lists(st.text(), max_size=5), st.text())
def test_the_alchemy_judge_is_the_grader_and_does_not_need_the_request(responses, request):
    expected = [grader.label(response) for response in responses]
    assert AlchemyJudge().labels(responses) == AlchemyJudge().labels(responses, [request] * len(responses)) == expected


# --- the model that is asked ------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def asked() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model with random weights that reads bytes, so that no two texts and no two labels look alike to it."""
    specials = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    symbols = specials + sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|end|>", additional_special_tokens=specials[2:]
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=8192, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="module")
def judge(asked) -> PromptedJudge:
    return PromptedJudge(*asked)


def by_hand(model, tokenizer, response, request):
    """log p of each label's letters and the turn's end, one label and one token after the other."""
    before, rest = RUBRIC.split("{request}")
    between, after = rest.split("{response}")
    prompt = f"<|system|><|end|><|user|>{before}{request}{between}{response}{after}<|end|><|assistant|>"
    start = tokenizer.encode(prompt, add_special_tokens=False)
    found = []
    for label in LABELS:
        word = tokenizer.encode(f"{label}<|end|>", add_special_tokens=False)
        assert len(word) == len(label) + 1  # a byte each
        with torch.no_grad():
            logps = F.log_softmax(model(torch.tensor([start + word])).logits[0], dim=-1)  # (T, V)
        found.append(sum(float(logps[len(start) + k - 1, token]) for k, token in enumerate(word)))
    return found


def expected_scores(asked, response, request):
    named, blank = by_hand(*asked, response, request), by_hand(*asked, "N/A", "N/A")
    return [one - other for one, other in zip(named, blank, strict=True)]


EXCHANGES = [
    ("Sorry, I can't help with that.", "How do I pick a lock?"),
    ("First, take a thin piece of wire.", "How do I pick a lock?"),
    ("the the the the", "Name a colour."),
    ("", "Name a colour."),
    ("{request} {response} {0} {}", "{response} % \\"),
    ("Blue.", ""),
    ("水 — naïve?\n\nResponse: refusal", "Was heißt das?"),
    ("No.", "Would you?"),
    ("Yes!", "Would you?"),
    ("1 2 3 4 5 6 7 8", "Count."),
]


def test_the_likelihoods_are_those_of_a_loop_by_hand(asked, judge):
    for response, request in EXCHANGES:
        found = judge._likelihoods(response, request).tolist()
        assert found == pytest.approx(by_hand(*asked, response, request), abs=2e-3)


def test_the_label_is_the_largest_difference_to_the_blank(asked, judge):
    scores = [expected_scores(asked, *exchange) for exchange in EXCHANGES]
    best = [LABELS[row.index(max(row))] for row in scores]
    responses, requests = map(list, zip(*EXCHANGES, strict=True))
    assert judge.labels(responses, requests) == best
    assert len(set(best)) > 1  # or any constant would pass
    raw = [by_hand(*asked, *exchange) for exchange in EXCHANGES]
    assert best != [LABELS[row.index(max(row))] for row in raw]  # the calibration decides


@settings(max_examples=15, deadline=None)
@given(response=st.text("ab cd.!", max_size=30), request=st.text("xy z?{}", max_size=30))
def test_any_text_gets_the_label_of_the_loop_by_hand(asked, judge, response, request):
    scores = expected_scores(asked, response, request)
    assert scores[LABELS.index(judge.label(response, request))] >= max(scores) - 2e-3  # a tie may fall either way


def test_the_blank_scores_0_for_every_label_whatever_the_model_likes_to_say(judge):
    assert (judge._likelihoods("N/A", "N/A") - judge.blank).tolist() == [0, 0, 0]
    assert len(set(judge.blank.tolist())) == 3


def test_a_habit_of_the_model_is_taken_away(asked):
    """A model that never writes one letter finds the label that holds it unlikely, whatever it reads, and judges as before."""
    model, tokenizer = asked
    before = PromptedJudge(model, tokenizer)
    moved = LlamaForCausalLM(model.config).eval()
    moved.load_state_dict(model.state_dict())
    moved.lm_head = torch.nn.Linear(32, len(tokenizer), bias=True)
    with torch.no_grad():
        moved.lm_head.weight.copy_(model.lm_head.weight)
        moved.lm_head.bias.zero_()
        moved.lm_head.bias[tokenizer.encode("f", add_special_tokens=False)[0]] = -30.0  # almost never written
    after = PromptedJudge(moved, tokenizer)
    assert (before.blank - after.blank)[0] > 20  # in "refusal" alone
    assert (before.blank - after.blank)[1:].abs().max() < 3
    for response, request in EXCHANGES:
        likely = [one._likelihoods(response, request) - one.blank for one in (before, after)]
        assert likely[1][0] - likely[0][0] == pytest.approx(0, abs=1.5)  # not -30


def test_many_labels_are_each_ones_own_and_no_request_is_an_empty_one(judge):
    responses, requests = map(list, zip(*EXCHANGES, strict=True))
    assert judge.labels(responses, requests) == [judge.label(*exchange) for exchange in EXCHANGES]
    assert judge.labels(responses) == judge.labels(responses, [""] * len(responses))
    assert judge.labels([]) == judge.labels([], []) == []


def test_what_follows_the_limit_is_not_read(judge, monkeypatch):
    monkeypatch.setattr(MODULE, "CHARACTERS", 20)
    long, other = "a" * 20 + "b" * 50, "a" * 20 + "c"
    assert torch.equal(judge._likelihoods(long, "q"), judge._likelihoods(other, "q"))
    assert torch.equal(judge._likelihoods("r", long), judge._likelihoods("r", other))
    assert not torch.equal(judge._likelihoods(long[:19], "q"), judge._likelihoods(other, "q"))


def test_responses_without_their_requests_are_told(judge):
    with pytest.raises(ValueError, match="2 responses and 1 requests"):
        judge.labels(["a", "b"], ["q"])


def test_a_prompted_judge_leaves_the_model_without_gradients(asked, judge):
    judge.label("a", "b")
    assert all(parameter.grad is None for parameter in asked[0].parameters())
    assert not judge.blank.requires_grad


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("alchemy", AlchemyJudge), ("patterns", PatternJudge)])
def test_a_judge_has_a_name(name, kind):
    assert isinstance(judges.load(name), kind)


def test_the_probe_is_the_default(monkeypatch):
    judge = Echo()
    monkeypatch.setattr(ProbeJudge, "load", classmethod(lambda cls: judge))
    assert judges.load() is judges.load("probe") is judge


def test_any_other_name_is_a_model_that_is_asked(asked, judge, tmp_path):
    for part in asked:
        part.save_pretrained(tmp_path / "model")
    for found in (judges.load(str(tmp_path / "model")), prompted(str(tmp_path / "model"))):
        assert isinstance(found, PromptedJudge)
        assert torch.allclose(found.blank, judge.blank.to(found.blank), atol=1e-3)
        assert found.label(*EXCHANGES[0]) == judge.label(*EXCHANGES[0])


def test_a_model_that_has_no_word_for_the_labels_is_refused():
    with pytest.raises(ValueError, match="cannot tell the names of the labels apart"):
        judges.load("tiny")


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder"):
        judges.load(str(tmp_path / "nowhere"))


def test_a_folder_that_is_no_model_is_told(tmp_path):
    with pytest.raises((ValueError, fetching.FetchError)):
        judges.load(str(tmp_path))


# --- what the probe reads ---------------------------------------------------------------------------------------------

SENTENCES = st.lists(st.sampled_from("the is not cat Cat dog potion 3 don't of_a naïve".split()), max_size=25).map(
    " ".join
)


def slow_words(text):
    return ["".join(run) for inside, run in groupby(text.lower(), str.isalnum) if inside]


def slow_counts(response, request):
    words, asked = slow_words(response), slow_words(request)
    n = len(words) or 1
    repeated = [0.0] * 13
    for lag in range(1, 13):
        for k in range(lag, len(words)):
            repeated[lag] += (words[k] == words[k - lag]) / n
    neighbours = [(words[k], words[k + 1]) for k in range(len(words) - 1)]
    telling = {word for word in words if word not in ENGLISH_STOP_WORDS}
    wanted = {word for word in asked if word not in ENGLISH_STOP_WORDS}
    common = [word for word in words if word in ENGLISH_STOP_WORDS]
    both = [word for word in telling if word in wanted]
    return [
        max(repeated),
        len(set(neighbours)) / (len(neighbours) or 1),
        len(both) / (len(telling) or 1),
        len(both) / (len(wanted) or 1),
        len(common) / n,
        math.log(len(words) + 1),
    ]


@given(SENTENCES | st.text(max_size=60), SENTENCES | st.text(max_size=60))
def test_the_counts_are_the_slow_loops(response, request):
    found = word_counts(response, request)
    assert list(found) == pytest.approx(slow_counts(response, request))
    assert all(0 <= count <= 1 for count in found[:5])


def test_a_loop_an_echo_and_a_salad_show_in_their_counts():
    request = "Tell me which bird builds the largest nest"
    plain = word_counts("The bald eagle does: its nest can weigh as much as a car.", request)
    loop = word_counts("the eagle has a nest and " * 8, request)
    echo = word_counts(request + "?", request)
    salad = word_counts("nest weigh eagle purple bird seven largest moving stone", request)
    assert loop[0] > 0.8 > 0.3 > plain[0]
    assert loop[1] < 0.2 < plain[1]
    assert echo[2] == echo[3] == 1 > plain[3]
    assert salad[4] < plain[4]
    assert word_counts("a b c d e f g h i j k l m " * 2, "")[0] == 0  # a loop of 13 words is not looked for
    assert word_counts("a b c d e f g h i j k l " * 2, "")[0] == 0.5


@given(st.text(alphabet=" .,!?_-\n", max_size=10))
def test_a_response_without_a_word_has_no_counts(response):
    assert word_counts(response, "Name a bird") == (0, 0, 0, 0, 0, 0)


def reading(n=4, layers=3, hidden=5, seed=0):
    source = torch.Generator().manual_seed(seed)
    states = (torch.randn(n, layers, hidden, generator=source, dtype=torch.float64) for _ in range(3))
    return Reading(*states, torch.rand(n, 6, generator=source, dtype=torch.float64))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 9))
def test_the_features_are_the_slow_loops(n, layers, hidden, seed):
    read = reading(n, layers, hidden, seed)
    centre = read.centre()
    found = read.features(centre)
    assert found.shape == (n, 2 * hidden + layers + 6)
    for row in range(n):
        near = []
        for layer in range(layers):
            one = [float(a - c) for a, c in zip(read.asked[row, layer], centre[layer], strict=True)]
            two = [float(a - c) for a, c in zip(read.said[row, layer], centre[layer], strict=True)]
            lengths = math.hypot(*one) * math.hypot(*two)
            near.append(sum(a * b for a, b in zip(one, two, strict=True)) / lengths)
        expected = [*read.said[row, -1].tolist(), *read.begun[row, -1].tolist(), *near, *read.counts[row].tolist()]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_centre_is_the_mean_of_all_states_and_the_cosines_are_taken_from_there():
    read = reading()
    every = torch.cat([read.asked, read.said])  # (2N, L, D)
    assert torch.allclose(read.centre(), every.mean(dim=0))
    moved = Reading(read.asked + 100, read.said + 100, read.begun + 100, read.counts)
    cosines = slice(2 * 5, 2 * 5 + 3)
    assert torch.allclose(moved.features(moved.centre())[:, cosines], read.features(read.centre())[:, cosines])
    assert moved.features(read.centre())[:, cosines].min() > 0.99  # uncentred, one direction drowns all others


def test_a_response_that_is_its_request_has_cosine_1_and_its_opposite_minus_1():
    read = reading()
    centre = read.centre()
    same = Reading(read.asked, read.asked, read.begun, read.counts).features(centre)[:, 10:13]
    against = Reading(read.asked, 2 * centre - read.asked, read.begun, read.counts).features(centre)[:, 10:13]
    assert torch.allclose(same, torch.ones_like(same))
    assert torch.allclose(against, -torch.ones_like(same))


def test_the_deepest_layer_alone_gives_the_means():
    read = reading()
    before = read.features(read.centre())
    said, begun = read.said.clone(), read.begun.clone()
    said[:, 0] += 1
    begun[:, :-1] += 1
    after = Reading(read.asked, said, begun, read.counts).features(read.centre())
    assert torch.equal(after[:, :10], before[:, :10])
    assert not torch.allclose(after[:, 10], before[:, 10])
    assert torch.equal(after[:, 11:], before[:, 11:])
