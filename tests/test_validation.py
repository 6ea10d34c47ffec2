"""Agreement of a judge with people, against scikit-learn, a κ by hand, a slow bootstrap and simulated coverage."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from safealign_lab.judges import LABELS
from safealign_lab.judges.validation import Agreement, agreement

PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40)
FEW = 25  # resamples, where the intervals do not matter


def sides(pairs):
    return [one for one, _ in pairs], [two for _, two in pairs]


def slow_kappa(people, judge):
    """The textbook's sums: observed agreement, and that of two who label at random with their own frequencies."""
    n = len(people)
    observed = sum(one == two for one, two in zip(people, judge, strict=True)) / n
    chance = sum((people.count(label) / n) * (judge.count(label) / n) for label in {*people, *judge})
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def slow_balanced_accuracy(people, judge):
    recalls = []
    for label in set(people):
        answered = [two for one, two in zip(people, judge, strict=True) if one == label]
        recalls.append(answered.count(label) / len(answered))
    return sum(recalls) / len(recalls)


@given(PAIRS)
def test_the_scores_are_those_of_the_textbook(pairs):
    people, judge = sides(pairs)
    found = agreement(people, judge, resamples=FEW)
    assert found.kappa[0] == pytest.approx(slow_kappa(people, judge))
    assert found.balanced_accuracy[0] == pytest.approx(slow_balanced_accuracy(people, judge))
    assert (found.labels, found.n) == (tuple(LABELS), len(pairs))


@given(PAIRS)
def test_the_scores_are_those_of_scikit_learn(pairs):
    people, judge = sides(pairs)
    assume(len({*people, *judge}) > 1)  # else scikit-learn has no κ
    found = agreement(people, judge, resamples=FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that only the judge gave: they have no recall
        assert found.balanced_accuracy[0] == pytest.approx(balanced_accuracy_score(people, judge))
    assert found.kappa[0] == pytest.approx(cohen_kappa_score(people, judge))


@given(PAIRS)
def test_the_confusion_counts_every_pair_with_people_in_rows(pairs):
    found = agreement(*sides(pairs), resamples=FEW)
    assert found.confusion == [[pairs.count((true, said)) for said in LABELS] for true in LABELS]


@settings(max_examples=50)
@given(PAIRS, st.integers(0, 99), st.floats(0.5, 0.99))
def test_the_intervals_are_the_slow_bootstrap(pairs, seed, confidence):
    people, judge = sides(pairs)
    found = agreement(people, judge, confidence=confidence, seed=seed, resamples=FEW)
    spread = []
    for rows in np.random.default_rng(seed).integers(len(pairs), size=(FEW, len(pairs))):
        drawn = [pairs[row] for row in rows]
        spread.append((slow_balanced_accuracy(*sides(drawn)), slow_kappa(*sides(drawn))))
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    assert found.balanced_accuracy[1:] == pytest.approx((low[0], high[0]))
    assert found.kappa[1:] == pytest.approx((low[1], high[1]))


@given(st.lists(st.sampled_from(LABELS), min_size=1))
def test_perfect_agreement_is_1_throughout(labels):
    found = agreement(labels, labels, resamples=FEW)
    assert found.balanced_accuracy == pytest.approx((1, 1, 1))
    assert found.kappa == pytest.approx((1, 1, 1))


@given(PAIRS)
def test_the_scores_stay_in_their_bounds_and_only_perfection_reaches_1(pairs):
    people, judge = sides(pairs)
    found = agreement(people, judge, resamples=FEW)
    nearly = 1 - 1e-9
    assert 0 <= found.balanced_accuracy[1] <= found.balanced_accuracy[2] < 2 - nearly
    assert nearly - 2 < found.kappa[1] <= found.kappa[2] < 2 - nearly
    assert (found.kappa[0] > nearly) == (people == judge) == (found.balanced_accuracy[0] > nearly)


def test_a_judge_that_guesses_is_at_chance():
    rng = np.random.default_rng(0)
    people, judge = (rng.choice(LABELS, size=4000, p=[0.6, 0.3, 0.1]).tolist() for _ in range(2))
    found = agreement(people, judge, resamples=200)
    assert found.kappa[0] == pytest.approx(0, abs=0.03)
    assert found.kappa[1] < 0 < found.kappa[2]
    assert found.balanced_accuracy[0] == pytest.approx(1 / 3, abs=0.03)


@given(st.lists(st.sampled_from(LABELS), min_size=1), st.sampled_from(LABELS))
def test_a_judge_that_always_says_the_same_earns_nothing_by_a_frequent_label(people, word):
    assume(set(people) != {word})
    found = agreement(people, [word] * len(people), resamples=FEW)
    assert found.kappa[0] == pytest.approx(0)
    assert found.balanced_accuracy[0] == pytest.approx((word in people) / len(set(people)))


@given(PAIRS, st.permutations(LABELS))
def test_other_names_for_the_labels_change_no_score(pairs, names):
    other = dict(zip(LABELS, names, strict=True))
    before = agreement(*sides(pairs), resamples=FEW)
    after = agreement(*sides([(other[one], other[two]) for one, two in pairs]), labels=names, resamples=FEW)
    assert after.balanced_accuracy == pytest.approx(before.balanced_accuracy)
    assert after.kappa == pytest.approx(before.kappa)
    assert after.confusion == before.confusion  # its rows follow `labels`, and so did the names


@given(PAIRS)
def test_who_is_the_judge_matters_to_balanced_accuracy_alone(pairs):
    people, judge = sides(pairs)
    one, other = agreement(people, judge, resamples=FEW), agreement(judge, people, resamples=FEW)
    assert one.kappa == pytest.approx(other.kappa)
    assert one.confusion == [list(column) for column in zip(*other.confusion, strict=True)]


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_answers_changes_no_score(pairs, shuffler):
    before = agreement(*sides(pairs), resamples=FEW)
    shuffler.shuffle(pairs)
    after = agreement(*sides(pairs), resamples=FEW)
    assert (after.confusion, after.kappa[0]) == (before.confusion, pytest.approx(before.kappa[0]))
    assert after.balanced_accuracy[0] == pytest.approx(before.balanced_accuracy[0])


def test_two_labels_of_ones_own_are_enough():
    found = agreement(["yes", "yes", "no", "no"], ["yes", "no", "no", "no"], ("yes", "no"), resamples=FEW)
    assert (found.labels, found.confusion) == (("yes", "no"), [[1, 1], [0, 2]])
    assert (found.balanced_accuracy[0], found.kappa[0]) == (0.75, 0.5)


def test_the_intervals_cover_the_true_scores_about_as_often_as_they_say():
    sees = np.array([[0.8, 0.15, 0.05], [0.1, 0.85, 0.05], [0.1, 0.2, 0.7]])
    shares = np.array([0.3, 0.5, 0.2])
    observed, chance = float(shares @ np.diag(sees)), float(shares @ (shares @ sees))
    true = {"kappa": (observed - chance) / (1 - chance), "balanced_accuracy": float(np.diag(sees).mean())}
    rng = np.random.default_rng(0)
    covered, runs = dict.fromkeys(true, 0), 150
    for seed in range(runs):
        people = rng.choice(3, size=150, p=shares)
        judge = [LABELS[rng.choice(3, p=sees[label])] for label in people]
        found = agreement([LABELS[label] for label in people], judge, seed=seed, resamples=150)
        for name, value in true.items():
            covered[name] += getattr(found, name)[1] <= value <= getattr(found, name)[2]
    assert all(0.88 <= count / runs <= 0.985 for count in covered.values()), covered


def test_more_answers_narrow_the_intervals_and_more_confidence_widens_them():
    pairs = [*zip(LABELS, LABELS, strict=True)] * 8 + [("refusal", "compliance"), ("incoherent", "refusal")] * 3

    def widths(times, confidence):
        found = agreement(*sides(pairs * times), confidence=confidence, resamples=300)
        return np.array([found.kappa[2] - found.kappa[1], found.balanced_accuracy[2] - found.balanced_accuracy[1]])

    assert (widths(9, 0.95) < 0.5 * widths(1, 0.95)).all()
    assert (widths(1, 0.99) > widths(1, 0.95)).all()
    assert (widths(1, 0.95) > widths(1, 0.5)).all()


def test_the_seed_decides():
    people, judge = list(LABELS) * 10, list(LABELS) * 5 + ["refusal"] * 15
    assert agreement(people, judge, resamples=FEW) == agreement(people, judge, resamples=FEW)
    assert agreement(people, judge, resamples=FEW) != agreement(people, judge, seed=1, resamples=FEW)


@settings(max_examples=20)
@given(PAIRS)
def test_an_agreement_survives_json(pairs):
    found = agreement(*sides(pairs), resamples=FEW)
    assert Agreement(**json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("people", "judge", "said"),
    [
        ([], [], "0 labels of people and 0 of the judge"),
        (["refusal"], [], "1 labels of people and 0 of the judge"),
        (["refusal"], ["refusal"] * 2, "1 labels of people and 2 of the judge"),
        (["refused"], ["refusal"], "no label refused: expected refusal, compliance, incoherent"),
        (["refusal"], ["maybe"], "no label maybe"),
        (["b", "refusal"], ["refusal", "a"], "no label a, b"),
    ],
)
def test_what_cannot_be_compared_is_told(people, judge, said):
    with pytest.raises(ValueError, match=said):
        agreement(people, judge)


@pytest.mark.parametrize("arguments", [{"confidence": 0}, {"confidence": 1}, {"confidence": 95}, {"confidence": -1}])
def test_an_impossible_confidence_is_told(arguments):
    with pytest.raises(ValueError, match="confidence"):
        agreement(["refusal"], ["refusal"], resamples=FEW, **arguments)


def test_no_resamples_are_told():
    with pytest.raises(ValueError, match="0 resamples"):
        agreement(["refusal"], ["refusal"], resamples=0)
