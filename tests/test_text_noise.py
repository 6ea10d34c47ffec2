"""Noise in texts: what each kind may change, how much of it, and that chance is the generator's alone."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safealign_lab.distillation.text_noise import KINDS, noisy

SEEDS = st.integers(0, 2**31)
RATES = st.floats(0, 1)
SOME = st.sampled_from(KINDS)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from("The potion was WONDERFUL , a I 42 don't café x1 so-so good good".split()), max_size=20
    ).map("  ".join),
)
REVIEW = "The barber cut my hair far too short, and then CHARGED me twice for it. I won't be back in 2 years!"


def made(text, kind, rate, seed):
    return noisy(text, kind, rate, random.Random(seed))


@given(TEXTS, SOME, SEEDS)
def test_a_rate_of_zero_changes_nothing(text, kind, seed):
    assert made(text, kind, 0.0, seed) == text


@given(TEXTS, SOME, RATES, SEEDS)
def test_one_seed_gives_one_text_and_no_text_is_emptied(text, kind, rate, seed):
    said = made(text, kind, rate, seed)
    assert said == made(text, kind, rate, seed)
    assert bool(said.split()) == bool(text.split())


@given(TEXTS, SOME, RATES, RATES, SEEDS)
def test_the_generator_is_left_in_one_state_at_every_rate(text, kind, rate, other, seed):
    rngs = [random.Random(seed), random.Random(seed)]
    for rng, share in zip(rngs, (rate, other), strict=True):
        noisy(text, kind, share, rng)
    assert rngs[0].getstate() == rngs[1].getstate()


@given(SOME.filter(lambda kind: not kind.endswith("words")), RATES, RATES, SEEDS)
def test_what_is_touched_at_a_low_rate_is_touched_alike_at_a_high_one(kind, rate, other, seed):
    low, high = (made(REVIEW, kind, share, seed).split() for share in sorted((rate, other)))
    for before, few, many in zip(REVIEW.split(), low, high, strict=True):
        assert few in (before, many)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_rate_touches_more_words(kind):
    before, counts = REVIEW.split(), []
    for rate in (0.0, 0.1, 0.3, 0.6, 1.0):
        texts = [made(REVIEW, kind, rate, seed).split() for seed in range(40)]
        if kind == "dropped_words":
            counts.append(sum(len(before) - len(words) for words in texts))
        else:
            counts.append(sum(one != other for words in texts for one, other in zip(before, words, strict=True)))
    assert counts[0] == 0
    assert all(few < many for few, many in itertools.pairwise(counts))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_is_the_expected_share_of_words(kind):
    text = " ".join("abcdefghij"[i % 10 :] + "xyz"[: i % 3] for i in range(200))
    touched = []
    for seed in range(20):
        words = made(text, kind, 0.3, seed).split()
        if kind == "dropped_words":
            touched.append(1 - len(words) / 200)
        elif kind == "swapped_words":  # each exchange moves two words, and a word cannot be in two exchanges
            moved = sum(one != other for one, other in zip(text.split(), words, strict=True)) / 200
            touched.append(moved / 2 * 1.3)
        else:
            touched.append(sum(one != other for one, other in zip(text.split(), words, strict=True)) / 200)
    assert sum(touched) / len(touched) == pytest.approx(0.3, abs=0.03)


# ---------------------------------------------------------------- kind by kind


def pairs(text, kind, rate, seed):
    return zip(text.split(), made(text, kind, rate, seed).split(), strict=True)


@given(TEXTS, RATES, SEEDS)
def test_a_typo_is_one_neighbouring_key_in_the_same_case(text, rate, seed):
    rows = "qwertyuiop asdfghjkl zxcvbnm"
    for before, after in pairs(text, "typos", rate, seed):
        differing = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
        assert len(differing) <= 1
        for one, other in differing:
            assert abs(rows.index(one.lower()) - rows.index(other.lower())) == 1
            assert one.isupper() == other.isupper()


@given(TEXTS, RATES, SEEDS)
def test_swapped_letters_are_two_neighbours(text, rate, seed):
    for before, after in pairs(text, "swapped_letters", rate, seed):
        differing = [at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
        assert differing == [] or differing == [differing[0], differing[0] + 1]
        assert Counter(before) == Counter(after)


@given(TEXTS, RATES, SEEDS)
def test_a_dropped_letter_is_one_letter(text, rate, seed):
    for before, after in pairs(text, "dropped_letters", rate, seed):
        missing = Counter(before) - Counter(after)
        assert sum(missing.values()) <= 1
        assert all(letter.isalpha() for letter in missing)
        assert any(after == before[:at] + before[at + 1 :] for at in range(len(before))) or after == before


@given(TEXTS, RATES, SEEDS)
def test_casing_changes_nothing_else(text, rate, seed):
    for before, after in pairs(text, "casing", rate, seed):
        assert after in (before, before.upper(), before.lower())


@given(TEXTS, RATES, SEEDS)
def test_swapped_words_are_the_same_words_each_at_most_one_place_away(text, rate, seed):
    before, after = text.split(), made(text, "swapped_words", rate, seed).split()
    at = 0
    while at < len(before):
        if before[at] == after[at]:
            at += 1
        else:
            assert before[at : at + 2] == after[at : at + 2][::-1]
            at += 2


@given(TEXTS, RATES, SEEDS)
def test_dropped_words_leave_the_rest_in_their_order(text, rate, seed):
    rest = iter(text.split())
    assert all(word in rest for word in made(text, "dropped_words", rate, seed).split())


@given(TEXTS, SOME.filter(lambda kind: kind != "dropped_words"), RATES, SEEDS)
def test_the_spaces_stay_where_they_are(text, kind, rate, seed):
    def spaces(line):
        return "".join(letter if letter.isspace() else "." for letter in line).replace(".", "")

    assert spaces(made(text, kind, rate, seed)) == spaces(text)


def test_at_rate_one_each_kind_has_its_way():
    assert made("the Potion", "casing", 1.0, 0) == "THE POTION"
    assert made("THE 42 Potion", "casing", 1.0, 0) == "the 42 POTION"
    assert made("one two three four five", "swapped_words", 1.0, 0) == "two one four three five"
    assert made("ab", "swapped_letters", 1.0, 0) == "ba"
    assert made("a I 42 oo", "swapped_letters", 1.0, 0) == "a I 42 oo"
    assert made("a 42", "dropped_letters", 1.0, 0) == "a 42"
    assert made("p P", "typos", 1.0, 0) == "o O"
    assert len(made("one two three", "dropped_words", 1.0, 0).split()) == 1


def test_impossible_knobs_are_refused():
    with pytest.raises(ValueError, match="kind must be one of typos, .*dropped_words, not 'typo'"):
        noisy("a text", "typo", 0.1, random.Random(0))
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="a share of the words"):
            noisy("a text", "typos", rate, random.Random(0))
