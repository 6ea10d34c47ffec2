"""One harness for all exercises: a blank is not attempted, the solution is right, each wrong answer gets its own message."""

from __future__ import annotations

import time

import pytest
from learners import named
from wrong_answers import OTHER_MISTAKE, SAME_MISTAKE, WRONG_ANSWERS

from safealign_lab.lesson import check, hint
from safealign_lab.lesson.exercise import exercises, find, verdict

EXERCISES = exercises()
PAIRS = [(name, wrong, words) for name, answers in WRONG_ANSWERS.items() for wrong, words in answers.items()]
TWICE = [(name, other, wrong) for name, others in SAME_MISTAKE.items() for other, wrong in others.items()]
OTHERS = [(name, other, wrong) for name, others in OTHER_MISTAKE.items() for other, wrong in others.items()]


def test_every_exercise_has_its_wrong_answers():
    assert set(EXERCISES) == set(WRONG_ANSWERS)
    assert all(len(answers) >= 3 for answers in WRONG_ANSWERS.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_a_blank_is_not_attempted_and_the_library_takes_its_place(name):
    def blank(*arguments):
        raise NotImplementedError

    blank.__name__ = name
    assert verdict(blank) == "not attempted"
    assert check(blank) is EXERCISES[name].solution


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_right_and_the_learners_own_is_kept(name):
    own = named(EXERCISES[name].solution, name)
    assert verdict(own) == "right"
    assert check(own) is own


@pytest.mark.parametrize(("name", "wrong", "words"), PAIRS, ids=[f"{n}-{w.__name__}" for n, w, _ in PAIRS])
def test_each_wrong_answer_gets_the_message_meant_for_it(name, wrong, words):
    learners = named(wrong, name)
    said = verdict(learners)
    assert words in said
    assert not [other for _, answer, other in PAIRS if answer is not wrong and other in said]
    assert check(learners) is EXERCISES[name].solution


@pytest.mark.parametrize(("name", "other", "wrong"), TWICE, ids=[other.__name__ for _, other, _ in TWICE])
def test_the_same_mistake_written_otherwise_gets_the_same_words(name, other, wrong):
    assert WRONG_ANSWERS[name][wrong] in verdict(named(other, name))


@pytest.mark.parametrize(("name", "other", "wrong"), OTHERS, ids=[f"{n}-{other.__name__}" for n, other, _ in OTHERS])
def test_what_is_wrong_in_another_way_is_not_called_by_a_mistakes_name(name, other, wrong):
    said = verdict(named(other, name))
    assert said not in ("right", "not attempted")
    assert WRONG_ANSWERS[name][wrong] not in said


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_takes_under_two_seconds_and_says_the_same_twice(name):
    began = time.perf_counter()
    assert verdict(EXERCISES[name].solution) == verdict(EXERCISES[name].solution) == "right"
    assert time.perf_counter() - began < 4


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_lead_on_and_end(name):
    assert 2 <= len(EXERCISES[name].hints) <= 3
    for number in range(1, len(EXERCISES[name].hints) + 1):
        hint(name, number)
    with pytest.raises(ValueError, match="has hints 1 to"):
        hint(name, 9)


def test_a_renamed_function_is_told_so():
    with pytest.raises(ValueError, match="There is no exercise 'my_rate'.*keep the function's name"):
        find("my_rate")
