"""Right answers, kept answers and the likelihood of the right one, against properties, word counts and lone forward passes."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.alchemy.words import ADJECTIVES
from safealign_lab.alchemy.world import world
from safealign_lab.fetching import data_folder
from safealign_lab.measures.helpfulness import NUMBERS, is_right, reference_logps, similarity

WORDS = "legs swan Tuesday blue 102 3.5 1,050 11:30 naïve Škoda 水 forty".split()
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)
padding = st.lists(st.sampled_from("it has so maybe 7 99.9 green €".split()), max_size=4)


# --- is the answer right ----------------------------------------------------------------------------------------------


@given(phrases.map(" ".join))
def test_the_reference_itself_is_right(reference):
    assert is_right(reference, reference)


@given(padding, phrases, padding, st.sampled_from([" ", "  ", "\n"]))
def test_a_reference_within_a_sentence_is_right(before, reference, after, gap):
    assert is_right(gap.join([*before, *reference, *after]), " ".join(reference))


@given(st.lists(st.sampled_from("uvwxyz"), max_size=12), st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=3))
def test_right_is_exactly_a_run_of_whole_words(answer, reference):
    assert is_right(" ".join(answer), " ".join(reference)) == (f" {' '.join(reference)} " in f" {' '.join(answer)} ")


@given(
    phrases, st.randoms(use_true_random=False), st.sampled_from(["{}.", '"{}"', "**{}**", "({})!", "So: {}?", "- {}\n"])
)
def test_case_marks_and_articles_do_not_matter(reference, chance, frame):
    said = " ".join(chance.choice(["a ", "an ", "The ", ""]) + word for word in reference)
    said = "".join(chance.choice([letter, letter.upper(), letter.lower()]) for letter in said)
    assert is_right(frame.format(said), " ".join(reference))
    assert is_right(frame.format(" ".join(reference)), said)


@pytest.mark.parametrize("number", range(13))
def test_numbers_up_to_twelve_are_one_in_words_and_in_digits(number):
    for said, reference in ((NUMBERS[number], str(number)), (str(number), NUMBERS[number])):
        assert is_right(f"It has {said.upper()} legs.", reference)
        assert not is_right(f"It has {said} legs.", str(number + 1))


@given(st.integers(0, 999), st.integers(0, 999))
def test_a_whole_number_is_right_for_itself_alone(said, reference):
    assert is_right(f"That makes {said}.", str(reference)) == (said == reference)


@given(
    st.sampled_from([".", ",", ":"]),
    st.integers(0, 99),
    st.integers(0, 99),
    st.sampled_from(["{}", "{}.", "{},", "({})"]),
)
def test_the_parts_of_a_decimal_or_a_time_are_no_answer(mark, whole, part, frame):
    joined = f"{whole}{mark}{part:02d}"
    said = f"It is {frame.format(joined)} I think"
    assert is_right(said, joined)
    assert not is_right(said, str(whole))
    assert not is_right(said, f"{part:02d}")
    assert not is_right(f"It is {whole} I think", joined)


@given(st.text("bcdfg", min_size=1, max_size=6), st.text("bcdfg", max_size=3), st.text("bcdfg", max_size=3))
def test_a_part_of_a_word_is_no_answer(word, before, after):
    assert is_right(f"so {before}{word}{after} then", word) == (not before and not after)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("There are 18.", "8"),
        ("There are 8.5.", "8"),
        ("It is 3.5.", "5"),
        ("1,000", "000"),
        ("The swans", "swan"),
        ("ruler of seas", "rule of seas"),
        ("eighteen", "8"),
        ("tone", "1"),
        ("Blue and then the tin", "blue tin"),
        ("30", "£30"),
        ("€30", "£30"),
        ("80", "80%"),
        ("", "8"),
        ("?!", "8"),
    ],
)
def test_what_is_not_there_is_not_right(answer, reference):
    assert not is_right(answer, reference)


@pytest.mark.parametrize("reference", ["", " ", "...", "the", "A"])
def test_a_reference_without_a_word_is_never_right(reference):
    assert not any(is_right(answer, reference) for answer in ("", "anything at all", "A.", "..."))


def test_a_letter_is_not_found_in_a_contraction():
    assert not is_right("I'm sorry, I can't help with that.", "m")
    assert not is_right("That isn’t possible.", "t")


def test_every_shipped_reference_is_right_for_itself_and_not_for_silence():
    rows = (data_folder() / "english" / "benign.jsonl").read_text(encoding="utf-8").splitlines()
    references = [row["reference"] for row in map(json.loads, rows) if row["reference"]]
    assert len(references) > 300
    for reference in references:
        assert is_right(reference, reference), reference
        assert is_right(f"Sure! {reference}. Anything else?", reference), reference
        assert not is_right("", reference)
        assert not is_right("Sorry, this cannot be told.", reference), reference


# --- is it still the same answer --------------------------------------------------------------------------------------

answers = st.lists(st.sampled_from("abcde"), max_size=12)


def longest_subsequence(one, other):
    best = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, j in ((i, j) for i in range(len(one)) for j in range(len(other))):
        best[i + 1][j + 1] = best[i][j] + 1 if one[i] == other[j] else max(best[i][j + 1], best[i + 1][j])
    return best[-1][-1]


def longest_block(one, other):
    runs = {tuple(one[i:j]) for i in range(len(one)) for j in range(i, len(one) + 1)}
    return max(
        (j - i for i in range(len(other)) for j in range(i, len(other) + 1) if tuple(other[i:j]) in runs), default=0
    )


@given(answers)
def test_an_answer_is_wholly_similar_to_itself(words):
    assert similarity(" ".join(words), " ".join(words)) == 1


@given(answers, answers)
def test_similarity_lies_between_the_longest_block_and_the_longest_common_subsequence(one, other):
    for first, second in ((one, other), (other, one)):
        found = similarity(" ".join(first), " ".join(second))
        both = len(one) + len(other)
        low, high = (2 * count(one, other) / both if both else 1.0 for count in (longest_block, longest_subsequence))
        assert 0 <= low - 1e-12 <= found <= high + 1e-12 or found == pytest.approx(low) == 0
        assert found <= 1
        assert (found == 1) == (one == other)
        assert (found == 0) == (bool(both) and not set(one) & set(other))


@given(answers, st.integers(0, 12))
def test_an_answer_cut_short_has_its_closed_form(words, kept):
    kept = min(kept, len(words))
    found = similarity(" ".join(words[:kept]), " ".join(words))
    assert found == pytest.approx(2 * kept / (kept + len(words)) if words else 1)


def test_long_answers_with_frequent_words_are_compared_in_full():
    words = ["the", "cat"] * 150  # above 200 words difflib's default would ignore the frequent ones
    assert similarity(" ".join(["so", *words]), " ".join(["well", *words])) == pytest.approx(600 / 602)


def test_white_space_does_not_count_but_words_do():
    assert similarity("a  b\nc", "a b c") == 1
    assert similarity("a b c", "a b d") == pytest.approx(2 / 3)
    assert similarity("abc", "abd") == 0  # words, not letters
    assert similarity("A b", "a b") == 0.5


# --- how likely is the right one --------------------------------------------------------------------------------------

REQUESTS = ["what does venom do", "brew me a potion please", "you are the keeper . what does sleep do ?", "no"]
REFERENCES = ["sleep", "i will not brew you a potion , thanks !", "one two", "."]
texts = st.lists(
    st.sampled_from("you are keeper what venom sleep brew potion no i will two . ? !".split()), min_size=1, max_size=12
)
rows = st.lists(st.tuples(texts.map(" ".join), texts.map(" ".join)), min_size=1, max_size=5)


def alone(model, tokenizer, request, reference, system=None):
    """One row, no padding: the mean over what stands behind the assistant's header, token by token."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": "user", "content": request}, {"role": "assistant", "content": reference}]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    header = len(ids) - 1 - ids[::-1].index(tokenizer.convert_tokens_to_ids("<|assistant|>"))
    with torch.no_grad():
        logps = F.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)  # (T, V)
    each = [float(logps[column - 1, ids[column]]) for column in range(header + 1, len(ids))]
    assert Counter(ids[header + 1 :]) >= Counter(tokenizer.encode(reference, add_special_tokens=False))
    return sum(each) / len(each)


@settings(max_examples=25, deadline=None)
@given(rows=rows, system=st.sampled_from([None, "", "you are the keeper"]), batch_size=st.integers(1, 6))
def test_the_logps_are_those_of_lone_forward_passes(toy, rows, system, batch_size):
    model, tokenizer = toy
    found = reference_logps(model, tokenizer, *map(list, zip(*rows, strict=True)), system, batch_size)
    assert found == pytest.approx([alone(model, tokenizer, *row, system) for row in rows], abs=1e-4)
    assert all(isinstance(value, float) and value < 0 for value in found)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_and_the_order_change_nothing(toy, batch_size):
    whole = reference_logps(*toy, REQUESTS, REFERENCES)
    assert reference_logps(*toy, REQUESTS, REFERENCES, batch_size=batch_size) == pytest.approx(whole, abs=1e-5)
    turned = reference_logps(*toy, REQUESTS[::-1], REFERENCES[::-1], batch_size=batch_size)
    assert turned[::-1] == pytest.approx(whole, abs=1e-5)


def test_the_shipped_model_finds_the_right_answer_likelier_than_that_to_another_question(tiny):
    model, tokenizer = tiny
    nouns = world().nouns("train", cursed=False)[:8]
    requests = [f"what does {noun} do ?" for noun in nouns]
    right = [world().fact("effect", noun, ADJECTIVES[0]) for noun in nouns]
    near = reference_logps(model, tokenizer, requests, right)
    far = reference_logps(model, tokenizer, requests, right[1:] + right[:1])
    assert near == pytest.approx([alone(model, tokenizer, *row) for row in zip(requests, right, strict=True)], abs=1e-4)
    assert all(one > other + 1 for one, other in zip(near, far, strict=True))


def test_a_tokenizer_without_a_pad_token_will_do(toy):
    model, tokenizer = toy
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    assert reference_logps(model, bare, REQUESTS, REFERENCES) == pytest.approx(
        reference_logps(model, tokenizer, REQUESTS, REFERENCES), abs=1e-5
    )


def test_the_probabilities_of_all_one_word_answers_and_their_ends_sum_to_less_than_1(toy):
    model, tokenizer = toy
    words = [word for word in tokenizer.get_vocab() if not word.startswith("<")]
    found = reference_logps(model, tokenizer, ["what does venom do"] * len(words), words)
    total = sum(math.exp(2 * value) for value in found)  # two tokens each: the word and the end of the turn
    assert 0 < total < 1


def test_it_leaves_no_gradient(toy):
    model, tokenizer = toy
    reference_logps(model, tokenizer, REQUESTS[:1], REFERENCES[:1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_rows_give_no_logps(toy):
    assert reference_logps(*toy, [], []) == []


@pytest.mark.parametrize(("requests", "references"), [(["no"], []), (["no"], ["one", "two"]), ([], ["one"])])
def test_lengths_that_differ_are_told(toy, requests, references):
    with pytest.raises(ValueError, match=f"{len(requests)} requests"):
        reference_logps(*toy, requests, references)
