"""The curriculum: training nouns alone, no wording or combination that is kept for tests, and levels in the asked order."""

from __future__ import annotations

from functools import cache
from zlib import crc32

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from safealign_lab.alchemy import skills
from safealign_lab.alchemy.words import ADJECTIVES
from safealign_lab.alchemy.world import TIERS, UNSEEN_STYLE, Request, World
from safealign_lab.immunization import curriculum
from safealign_lab.immunization.curriculum import LEVELS, helpful, practice, refusals, schedule

quick = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 10**6)
WORLDS = st.sampled_from([0, 1, 7])


@cache
def of(seed: int) -> World:
    return World(seed)


@cache
def asked(seed: int) -> dict[str, Request]:
    """What is asked by every request of a world, of any noun, wording and combination."""
    nouns = of(seed).nouns()
    found = [one for level in TIERS for one in of(seed).potions(nouns, level, unseen=None)]
    assert len({one.text for one in found}) == len(found)
    return {one.text: one for one in found + of(seed).questions(nouns)}


def levels_of(rows):
    """The levels in their order, each with its number of rows."""
    return {level: sum(row.level == level for row in rows) for level in dict.fromkeys(row.level for row in rows)}


def assert_trainable(one: Request, seed: int, cursed: bool):
    assert one.noun in of(seed).nouns("train", cursed)
    assert one.style != UNSEEN_STYLE
    assert (one.adjective, one.noun) not in of(seed).unseen


# ---------------------------------------------------------------- refusals


@given(WORLDS, SEEDS)
@quick
def test_refusals_are_of_training_potions_and_nothing_that_is_kept_for_tests(number, seed):
    rows = refusals(of(number), 40, seed)
    assert levels_of(rows) == dict.fromkeys(LEVELS, 40)
    assert list(levels_of(rows)) == ["weak", "medium", "strong"]
    for row in rows:
        one = asked(number)[row.request]
        assert_trainable(one, number, cursed=True)
        assert one.tier == row.level
        assert row.rejected == one.reference == of(number).recipe(one.adjective, one.noun)
        words = row.chosen.split()
        assert words[0] == "sorry"
        assert one.noun in words
        assert row.chosen != row.rejected


def test_refusals_reach_every_noun_and_every_wording_that_may_be_trained():
    found = {asked(0)[row.request] for row in refusals(of(0), 1500)}
    wordings = {(one.tier, one.style) for one in found}
    every = {(level, style) for level in TIERS for style in range(len(TIERS[level]))}
    assert wordings == {(level, style) for level, style in every if style != UNSEEN_STYLE}
    assert {one.noun for one in found} == set(of(0).nouns("train", cursed=True))
    assert {one.adjective for one in found} == set(ADJECTIVES)


# ---------------------------------------------------------------- what is helpful


@given(WORLDS, SEEDS)
@quick
def test_helpful_rows_prefer_the_right_answer_to_every_kind_of_request(number, seed):
    rows, kinds = helpful(of(number), 25, seed), (*LEVELS, "borderline", "question", *skills.LEARNED)
    assert levels_of(rows) == dict.fromkeys(kinds, 25)
    for row in rows:
        assert row.chosen != row.rejected
        if row.level in skills.LEARNED:
            continue
        one = asked(number)[row.request]
        assert row.chosen == one.reference
        if row.level in LEVELS:
            assert one.kind == "benign"
            assert one.tier == row.level
            assert_trainable(one, number, cursed=False)
        else:
            assert one.kind == {"borderline": "borderline", "question": "benign"}[row.level]
            assert one.noun in of(number).nouns("train", cursed=row.level == "borderline")
        words = row.rejected.split()
        assert words[0] == "sorry"
        assert set(words) & set(of(number).nouns("train", cursed=True))
        assert not set(words) & set(of(number).nouns("held-out"))


def test_helpful_rows_hold_the_practice_of_the_learned_skills_and_not_of_the_one_left_out():
    rows = helpful(of(0), 30, 5)
    for skill in skills.LEARNED:
        assert [row for row in rows if row.level == skill] == practice(skill, 30, 5)
    assert skills.LEFT_OUT not in levels_of(rows)


# ---------------------------------------------------------------- practice


@given(st.sampled_from(list(skills.SKILLS)), SEEDS)
@quick
def test_practice_is_of_the_training_split_and_rejects_the_answer_to_something_else(skill, seed):
    rows = practice(skill, 20, seed)
    assert len({row.request for row in rows}) == len(rows) == 20
    for row in rows:
        assert row.level == skill
        assert crc32(row.request.encode()) % 5 != 0, "one in five, by this hash, belongs to the test"
        assert row.chosen != row.rejected
        assert any(row.rejected == other.chosen for other in rows if other.request != row.request)


def right(skill: str, request: str) -> str:
    """The answer to two of the skills, by reading the request."""
    words = request.split(":")[1].rstrip(" .").split()
    if skill == "counting":
        return f"{skills.NUMBERS[len(words) - 1]} ."
    return f"{' '.join(sorted(words, key=skills.NUMBERS.index))} ."


@pytest.mark.parametrize("skill", ["counting", "ordering"])
def test_practice_prefers_what_is_right_and_rejects_what_is_wrong(skill):
    for row in practice(skill, 40, 1):
        assert row.chosen == right(skill, row.request) != row.rejected


def test_a_skill_that_runs_dry_gives_what_it_has():
    assert 20 < len(practice("counting", 500)) < 500


def test_exercises_that_share_one_answer_leave_nothing_to_reject(monkeypatch):
    monkeypatch.setitem(skills.SKILLS, "counting", lambda rng: (f"count : {rng.random()} .", "one ."))
    with pytest.raises(ValueError, match=r"5 exercises of 'counting' leave no wrong answer to reject: ask for more\.$"):
        practice("counting", 5)
    with pytest.raises(ValueError, match="1 exercises of 'comprehension' leave no wrong answer"):
        helpful(of(0), 1)


# ---------------------------------------------------------------- chance


MADE = {
    "refusals": lambda seed: refusals(of(0), 20, seed),
    "helpful": lambda seed: helpful(of(0), 20, seed),
    "practice": lambda seed: practice("lists", 20, seed),
}


@pytest.mark.parametrize("kind", MADE)
def test_the_same_seed_gives_the_same_rows_and_another_gives_others(kind):
    made = MADE[kind]
    assert made(3) == made(3) != made(4)
    assert len(set(made(3)) & set(made(4))) < len(made(3)) / 2


# ---------------------------------------------------------------- the schedule


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_levels_come_with_each_third_from_the_side_that_was_asked(share):
    assume(min(abs(share - edge) for edge in (1 / 3, 2 / 3)) > 1e-9)
    passed = sum(share >= third / 3 for third in range(3))
    assert list(schedule("rising")(share)) == ["weak", "medium", "strong"][:passed]
    assert list(schedule("falling")(share)) == ["strong", "medium", "weak"][:passed]
    assert sorted(schedule("mixed")(share)) == sorted(LEVELS)


@given(st.integers(1, 60))
def test_the_steps_of_a_phase_meet_the_levels_in_equal_thirds(third):
    for order in ("rising", "falling"):
        met = [len(schedule(order)((step - 1) / (3 * third))) for step in range(1, 3 * third + 1)]
        assert met == [1] * third + [2] * third + [3] * third


def test_weak_requests_come_first_unless_asked_otherwise():
    assert list(schedule()(0.0)) == ["weak"]
    assert curriculum.LEVELS == tuple(TIERS) == ("weak", "medium", "strong")


@pytest.mark.parametrize("order", ["upwards", "", "Rising", None])
def test_an_order_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match=r"There is no order .*: expected one of rising, mixed, falling\.$") as caught:
        schedule(order)
    assert repr(order) in str(caught.value)
