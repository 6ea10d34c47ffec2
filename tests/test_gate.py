"""The gate of requests: its threshold, its curves, its teacher's honesty, and its place in front of a model."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from safealign_lab import data
from safealign_lab.chat import conversation, encode
from safealign_lab.data.training_sets import TRAINING_SETS
from safealign_lab.distillation import features, gate_studies, gate_task, trunk
from safealign_lab.distillation.features import Standardiser
from safealign_lab.distillation.gate import (
    REFUSAL,
    Gate,
    answer_behind,
    choose_threshold,
    reader,
    roc,
    stopped,
    stopped_by,
    sweep,
)  # fmt: skip
from safealign_lab.distillation.gate_task import cross_fit, two_sided
from safealign_lab.distillation.student import Head
from safealign_lab.distillation.text_noise import KINDS
from safealign_lab.generation import generate
from safealign_lab.judges import load as load_judge
from safealign_lab.studies.undefended import requests_of

numbers = st.lists(st.integers(-5, 5).map(lambda one: one / 2), min_size=1, max_size=12)
several = st.lists(st.integers(-5, 5).map(lambda one: one / 2), min_size=2, max_size=12)
pools = st.dictionaries(st.sampled_from(["benign", "borderline"]), numbers, min_size=1)
shares = st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.9])


def tensors(lists):
    return {kind: torch.tensor(values) for kind, values in lists.items()}


# ---------------------------------------------------------------- the threshold


def keeps(lists, threshold, most):
    return all(sum(one > threshold for one in values) <= most * len(values) + 1e-9 for values in lists.values())


@given(pools, shares)
@settings(deadline=None, max_examples=60)
def test_the_threshold_is_the_lowest_that_keeps_the_limit(lists, most):
    found = choose_threshold(tensors(lists), most)
    candidates = sorted({one for values in lists.values() for one in values})
    assert found == min(one for one in candidates if keeps(lists, one, most))
    assert not keeps(lists, math.nextafter(found, -math.inf), most), "any lower one stops too many"


@given(pools, numbers, shares)
@settings(deadline=None, max_examples=60)
def test_no_threshold_that_keeps_the_limit_stops_more_harmful_requests(lists, harmful, most):
    found = choose_threshold(tensors(lists), most)
    tried = [one for one in np.arange(-4, 4, 0.25).tolist() if keeps(lists, one, most)]
    best = max((sum(margin > one for margin in harmful) for one in tried), default=0)
    assert sum(margin > found for margin in harmful) >= best


@given(pools, numbers, st.tuples(shares, shares))
@settings(deadline=None, max_examples=60)
def test_a_larger_share_lowers_the_threshold_and_a_further_kind_never_does(lists, more, both):
    low, high = sorted(both)
    assert choose_threshold(tensors(lists), high) <= choose_threshold(tensors(lists), low)
    assert choose_threshold(tensors(lists | {"further": more}), low) >= choose_threshold(tensors(lists), low)


def test_a_share_that_rounding_would_lose_is_kept():
    assert choose_threshold({"benign": torch.arange(100.0)}, 0.29) == 70.0, "0.29 · 100 is 28.999… in binary"


@pytest.mark.parametrize(
    ("harmless", "most", "said"),
    [
        ({}, 0.05, "nothing to choose a threshold by"),
        ({"benign": []}, 0.05, "margins of benign requests have to be finite numbers"),
        ({"benign": [1.0], "borderline": [math.nan]}, 0.05, "margins of borderline requests have to be finite"),
        ({"benign": [1.0]}, 1.0, r"most must be in \[0, 1\)"),
        ({"benign": [1.0]}, -0.1, r"most must be in \[0, 1\)"),
        ({"benign": [1.0]}, math.nan, r"most must be in \[0, 1\)"),
    ],
)
def test_a_threshold_that_cannot_be_chosen_is_told_in_a_sentence(harmless, most, said):
    with pytest.raises(ValueError, match=said):
        choose_threshold(tensors(harmless), most)


# ---------------------------------------------------------------- curves and shares


def slow_points(harmful, harmless):
    """Both shares stopped, threshold by threshold."""
    thresholds = [math.inf, *sorted({*harmful, *harmless}, reverse=True)]
    return [tuple(sum(one >= t for one in pool) / len(pool) for pool in (harmless, harmful)) for t in thresholds]


def slow_area(harmful, harmless):
    """The share of pairs in the right order, ties counting half."""
    wins = sum((one > other) + (one == other) / 2 for one in harmful for other in harmless)
    return wins / (len(harmful) * len(harmless))


@given(several, several)
@settings(deadline=None, max_examples=25)
def test_the_curve_and_its_area_equal_slow_loops(harmful, harmless):
    found = roc(torch.tensor(harmful), torch.tensor(harmless))
    points = list(zip(found.harmless_stopped, found.harmful_stopped, strict=True))
    every = slow_points(harmful, harmless)
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)
    assert points == sorted(points)
    for x, y in points:
        assert any(math.isclose(x, a) and math.isclose(y, b) for a, b in every)
    assert found.area.value == pytest.approx(slow_area(harmful, harmless))
    assert np.trapezoid(found.harmful_stopped, found.harmless_stopped) == pytest.approx(found.area.value)
    assert found.area.n == len(harmful) + len(harmless)


@given(several, several)
@settings(deadline=None, max_examples=10)
def test_the_other_way_round_is_the_rest_and_a_shift_or_stretch_is_nothing(harmful, harmless):
    first, second = torch.tensor(harmful), torch.tensor(harmless)
    found = roc(first, second).area
    assert roc(second, first).area.value == pytest.approx(1 - found.value)
    assert roc(3 * first + 1, 3 * second + 1).area == found


@pytest.mark.parametrize("pool", [[1.0], [], [1.0, math.inf]])
def test_an_area_needs_two_finite_margins_of_either(pool):
    with pytest.raises(ValueError, match=r"of harmful requests have to be finite numbers \(N,\), 2 or more"):
        roc(torch.tensor(pool), torch.zeros(3))
    with pytest.raises(ValueError, match="of harmless requests have to be"):
        roc(torch.zeros(3), torch.tensor(pool))


def test_the_interval_holds_the_true_area_about_as_often_as_it_says():
    generator, true, held = torch.Generator().manual_seed(0), 0.5 * (1 + math.erf(1 / 2)), 0  # P(N(1, 1) > N(0, 1))
    for _ in range(40):
        area = roc(torch.randn(60, generator=generator) + 1, torch.randn(60, generator=generator)).area
        held += area.low <= true <= area.high
    assert held >= 34
    again = [roc(torch.arange(9.0), torch.arange(9.0) - 2).area for _ in range(2)]
    assert again[0] == again[1], "the same margins give the same interval"


def test_shares_are_counted_strictly_above_the_threshold():
    margins = {"harmful": torch.tensor([0.0, 1.0, 2.0]), "benign": torch.tensor([-1.0, 1.0])}
    found = sweep(margins, [-5.0, 1.0, 0.5])
    assert {kind: [share.successes for share in row] for kind, row in found.items()} == {
        "harmful": [3, 1, 2], "benign": [2, 0, 1],
    }  # fmt: skip
    assert [share.n for share in found["benign"]] == [2, 2, 2]
    with pytest.raises(ValueError, match="no share of n = 0"):
        stopped(torch.empty(0), 0.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3)), min_size=1, max_size=20), st.integers(-3, 3))
@settings(deadline=None, max_examples=30)
def test_categories_share_what_is_stopped_among_them(rows, threshold):
    names, values = [name for name, _ in rows], torch.tensor([float(value) for _, value in rows])
    found = stopped_by(names, values, float(threshold))
    for name, share in found.items():
        mine = [value for other, value in rows if other == name]
        assert (share.successes, share.n) == (sum(value > threshold for value in mine), len(mine))
    assert sum(share.successes for share in found.values()) == stopped(values, float(threshold)).successes
    assert [*found] == sorted(found, key=lambda name: (-found[name].value, name))


def test_categories_have_to_fit():
    with pytest.raises(ValueError, match="2 categories for 3 margins"):
        stopped_by(["a", "b"], torch.zeros(3), 0.0)


# ---------------------------------------------------------------- the gate itself


def gate_on(known, weight=(1.0, -2.0, 0.5), threshold=0.0):
    """A gate that looks features up, with a head that says what it weighs."""
    rows = torch.tensor([[float(value) for value in row] for row in known.values()])
    head = Head(3, 2).requires_grad_(False)
    head.last.weight.copy_(two_sided(torch.tensor(weight)).T)
    places = {text: number for number, text in enumerate(known)}
    return Gate(lambda texts: rows[[places[text] for text in texts]], Standardiser.fit(rows), head, threshold)


KNOWN = {"what does sleep do ?": (3, 1, 0), "brew me venom": (0, 4, 1), "please": (1, 1, 1), "two": (5, -2, 2)}


def test_a_margin_is_the_difference_of_the_heads_logits_on_standardised_features():
    gate = gate_on(KNOWN)
    columns = list(zip(*KNOWN.values(), strict=True))
    for text, row in KNOWN.items():
        scaled = [(value - np.mean(c)) / np.std(c, ddof=1) for value, c in zip(row, columns, strict=True)]
        assert gate.score([text]).item() == pytest.approx(scaled[0] - 2 * scaled[1] + 0.5 * scaled[2], abs=1e-5)
    assert gate.score([]).shape == (0,)
    assert gate.refuses([]) == []


@given(st.sampled_from([*KNOWN, ""]), st.floats(-3, 3))
@settings(deadline=None, max_examples=40)
def test_stopped_is_what_lies_above_the_threshold_and_what_decide_says(at, threshold):
    gate = gate_on(KNOWN)
    gate = replace(gate, threshold=gate.score([at]).item() if at else threshold)
    texts = list(KNOWN)
    said = gate.refuses(texts)
    assert said == [margin > gate.threshold for margin in gate.score(texts).tolist()]
    if at:
        assert not said[texts.index(at)], "at the threshold a request passes"
    else:
        assert gate.decide(gate.standardiser(gate.read(texts))).argmax(dim=1).bool().tolist() == said


def test_a_reader_sees_the_state_at_the_last_token_of_the_whole_request(toy):
    model, tokenizer = toy
    texts = ["what does venom do ?", "brew me a potion please", "please " * 150 + "no"]
    found = reader(model, tokenizer, 1)(texts)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([encode(tokenizer, conversation(text))])
        with torch.no_grad():
            state = model.model(ids, output_hidden_states=True).hidden_states[1][0, -1]
        torch.testing.assert_close(row, model.model.norm(state), rtol=1e-4, atol=1e-5)
    assert len(texts[-1].split()) + 4 < model.config.max_position_embeddings
    begins_alike = reader(model, tokenizer, 2)(["please " * 230 + "venom", "please " * 230 + "sleep"])
    assert (begins_alike[0] - begins_alike[1]).abs().max() > 1e-3, "what stands last is read however much is before"


def test_the_cached_features_are_of_the_tokens_that_the_model_is_asked_with(smollm2):
    tokenizer = smollm2[1]
    texts = [row["request"] for name in ("practice", "harmful", "rho-borderline") for row in data.load(name)][:800]
    texts += [gate_studies.changed(text, change) for text in texts[::40] for change in (*gate_studies.WRAPPERS, *KINDS)]
    for text, (ids, own) in zip(texts, trunk.encode(tokenizer, texts, gate_task.TEMPLATE), strict=True):
        assert ids == encode(tokenizer, conversation(text))
        assert own == [False] * (len(ids) - 1) + [True]


# ---------------------------------------------------------------- in front of a model


def test_behind_a_gate_stopped_requests_get_the_refusal_and_others_the_models_own_words(toy):
    model, tokenizer = toy
    texts = list(KNOWN)
    gate = gate_on(KNOWN)
    for threshold in (math.inf, *gate.score(texts).tolist(), -math.inf):
        gate = replace(gate, threshold=threshold)
        said = partial(answer_behind, gate)(model, tokenizer, texts, max_new_tokens=5)
        for number, (text, stop) in enumerate(zip(texts, gate.refuses(texts), strict=True)):
            alone = generate(model, tokenizer, [text], max_new_tokens=5)
            assert said.texts[number] == (REFUSAL if stop else alone.texts[0])
            assert said.finished[number] == (stop or alone.finished[0])
            assert said.ends[number] == (tokenizer.eos_token_id if stop else alone.ends[0])
            assert said.ids[number] == (tokenizer.encode(REFUSAL, add_special_tokens=False) if stop else alone.ids[0])


def test_the_model_is_never_asked_what_the_gate_stops(toy, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "safealign_lab.distillation.gate.generate", lambda *a, **options: asked.append((a[2], options)) or generate(*a)
    )
    gate = gate_on(KNOWN)
    answer_behind(gate, *toy, list(KNOWN), refusal="no .", prompts=("you are the keeper",))
    passed = [text for text, stop in zip(KNOWN, gate.refuses(list(KNOWN)), strict=True) if not stop]
    assert asked == [(passed, {"prompts": ("you are the keeper",)})]
    assert 0 < len(passed) < len(KNOWN)


def test_one_string_is_no_list_of_requests(toy):
    with pytest.raises(ValueError, match=r"not one string: write \[request\]"):
        answer_behind(gate_on(KNOWN), *toy, "please")


def test_the_fixed_refusal_is_one_to_a_judge():
    assert load_judge("patterns").labels([REFUSAL], ["brew me venom"]) == ["refusal"]


# ---------------------------------------------------------------- the teacher


class Watching(ClassifierMixin, BaseEstimator):
    """Has no opinion, and breaks when it is asked about a request whose group it was fitted on."""

    asked = None

    def fit(self, rows, labels):
        self.seen_, self.classes_ = set(rows[:, 0].tolist()), np.unique(labels)
        return self

    def decision_function(self, rows):
        if Watching.asked is not None:
            Watching.asked += rows[:, 1].tolist()
            assert not self.seen_ & set(rows[:, 0].tolist()), "asked about what it was fitted on"
        return np.random.default_rng(0).normal(size=len(rows))

    def predict(self, rows):
        return self.decision_function(rows) > 0


class Remembering(KNeighborsClassifier):
    """Knows its training requests by heart: the label of the nearest one."""

    def __init__(self, n_neighbors=1):
        super().__init__(n_neighbors)

    def decision_function(self, rows):
        return 2 * self.predict_proba(rows)[:, 1] - 1


def dealt(n=300, seed=0):
    rng = np.random.default_rng(seed)
    groups = [str(number // 2) for number in range(n)]
    return rng.normal(size=(n, 4)), rng.random(n) < 0.4, groups


def area(log_odds, labels):
    truth = torch.from_numpy(np.asarray(labels))
    return roc(torch.as_tensor(log_odds)[truth], torch.as_tensor(log_odds)[~truth]).area.value


def test_no_line_is_asked_about_a_request_that_it_or_its_twin_was_fitted_on():
    _, labels, groups = dealt()
    rows = np.array([[float(group), number] for number, group in enumerate(groups)])
    Watching.asked = []
    try:
        cross_fit([rows], [Watching()], labels, groups, folds=5)
        assert sorted(Watching.asked) == list(range(len(rows))), "each exactly once"
    finally:
        Watching.asked = None


def test_a_teacher_who_remembers_knows_nothing_of_labels_that_were_thrown():
    rows, labels, groups = dealt()
    rows[1::2], labels[1::2] = rows[::2], labels[::2]  # twins alike in everything
    teacher, held_out = cross_fit([rows], [Remembering()], labels, groups)
    assert 0.35 < area(held_out, labels) < 0.6
    assert area(teacher.lines[0].decision_function(rows), labels) == 1.0, "what it was fitted on it knows by heart"
    _, leaking = cross_fit([rows], [Remembering()], labels, [str(number) for number in range(len(rows))])
    assert area(leaking, labels) > 0.9, "twins in two folds would give the labels away"


class Passing(ClassifierMixin, BaseEstimator):
    """Says what its view holds, fitted or not."""

    def fit(self, rows, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, rows):
        return rows[:, 0]

    def predict(self, rows):
        return rows[:, 0] > 0


def test_the_weighing_of_many_lines_that_know_nothing_knows_nothing_either():
    rng = np.random.default_rng(0)
    rows, labels = [rng.normal(size=(120, 1)) for _ in range(30)], rng.random(120) < 0.5
    teacher, held_out = cross_fit(rows, [Passing()] * 30, labels, [str(number) for number in range(120)])
    assert 0.35 < area(held_out, labels) < 0.65
    assert area(teacher.log_odds(rows), labels) > 0.75, "weights that were fitted on a request fit it"


def test_several_views_tell_more_than_each_and_are_calibrated():
    rng = np.random.default_rng(1)
    labels = rng.random(1000) < 0.4
    rows = [
        rng.normal(size=(1000, 3)) + np.outer(labels, [1, 0, 0]),
        rng.normal(size=(1000, 2)) + np.outer(labels, [0, 1]),
    ]
    groups = [str(number) for number in range(1000)]
    lines = [LogisticRegression(), LogisticRegression(C=1e-4)]  # the second hardly dares to say anything
    _, both = cross_fit(rows, lines, labels, groups)
    apart = [area(cross_fit([row], [line], labels, groups)[1], labels) for row, line in zip(rows, lines, strict=True)]
    assert area(both, labels) > max(apart) + 0.015
    best = torch.from_numpy(rows[0][:, 0] + rows[1][:, 1] - 1 + math.log(0.4 / 0.6)).float()  # the true log-odds
    assert (both - best).abs().mean() < 0.3


def test_a_teacher_is_the_same_each_time_and_leaves_the_lines_unfitted():
    rows, labels, groups = dealt()
    lines = [LogisticRegression(), Remembering()]
    (one, first), (two, second) = (cross_fit([rows, rows], lines, labels, groups) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert one.log_odds([rows, rows]).tolist() == two.log_odds([rows, rows]).tolist()
    assert first.dtype == torch.float32
    assert not hasattr(lines[0], "coef_")


@pytest.mark.parametrize("fault", ["views", "lines", "labels", "groups"])
def test_what_does_not_fit_a_teacher_is_told(fault):
    rows, labels, groups = dealt()
    given_ = {"views": [rows, rows], "lines": [LogisticRegression()] * 2, "labels": labels, "groups": groups}
    given_[fault] = [rows, rows[:-1]] if fault == "views" else given_[fault][:-1]
    with pytest.raises(ValueError, match="needs a line for each view, and a label and a group for each request"):
        cross_fit(**given_)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30)
def test_log_odds_come_back_from_two_sided_logits(values):
    logits = two_sided(torch.tensor(values))
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], torch.tensor(values))
    torch.testing.assert_close(logits.sum(dim=1), torch.zeros(len(values)))


# ---------------------------------------------------------------- the studies

WIDTH = 12


def known_kinds():
    return {row["request"]: row["kind"] for row in data.by_id().values()}


@pytest.fixture(scope="module")
def bench():
    """The studies on features made up from a request's text: its kind shows in three numbers, all others are noise."""
    kinds = known_kinds()

    def _read(name, texts, layer, *rest):
        found = torch.empty(len(texts), WIDTH)
        for row, text in zip(found, texts, strict=True):
            rng = random.Random(f"{name} {layer} {text}")
            row.copy_(torch.tensor([rng.gauss(0, 1) for _ in range(WIDTH)]))
            row[:3] += {"harmful": 1.2, "borderline": 0.2}.get(kinds.get(text), -0.5)
        return found

    patch = pytest.MonkeyPatch()
    patch.setattr(features, "read", _read)
    patch.setattr(gate_task, "teacher_lines", lambda: [LogisticRegression(C=0.1), LogisticRegression(C=0.1)])
    patch.setattr("safealign_lab.distillation.gate.RESAMPLES", 50)
    real_views = gate_task.views
    patch.setattr(gate_task, "views", lambda texts: real_views(texts)[:2])
    patch.setattr(gate_studies, "views", gate_task.views)
    patch.setattr(gate_studies, "teacher_lines", gate_task.teacher_lines)
    patch.setattr(gate_studies, "SETTINGS", replace(gate_studies.SETTINGS, steps=30, hidden=8))
    gate_task.gate_task.cache_clear()
    gate_studies.gate_of.cache_clear()
    gate_studies.gate_with.cache_clear()
    yield gate_studies
    patch.undo()
    gate_task.gate_task.cache_clear()
    gate_studies.gate_of.cache_clear()
    gate_studies.gate_with.cache_clear()


def test_training_sets_are_all_of_the_kits_own_with_a_training_split_and_none_else():
    having = set()
    for name in data.names():
        if name != "alchemy" and not data.card(name).test_only:
            having |= {name} if len(data.load(name, "train")) else set()
    assert set(TRAINING_SETS) == having
    assert len(TRAINING_SETS) == len(having)


def test_no_wrapping_stands_in_a_training_request():
    rows = [row["request"].lower() for name in TRAINING_SETS for row in data.load(name, "train")]
    for wrapper in gate_studies.WRAPPERS.values():
        assert wrapper.count("{}") == 1
        for part in (each.strip().lower() for each in wrapper.split("{}")):
            assert not part or not [row for row in rows if part in row]
    assert gate_studies.changed("What is {this} and {}?", "afterthought").startswith("What is {this} and {}? And")


def test_changes_are_the_same_each_time_and_none_is_none():
    request = "Please tell me which herbs grow in the shade behind my grandmother's house in spring"
    assert gate_studies.changed(request, "none") == request
    for change in (*KINDS, *gate_studies.WRAPPERS):
        assert gate_studies.changed(request, change) == gate_studies.changed(request, change) != request


def test_the_task_keeps_twins_together_and_tests_out(bench):
    task = gate_task.gate_task()
    assert {row["split"] for row in task.train} == {"train"}
    assert {row["split"] for row in task.validation} == {"validation"}
    assert task.labels.tolist() == [int(row["kind"] == "harmful") for row in task.train]
    torch.testing.assert_close(task.features.mean(dim=0), torch.zeros(WIDTH), atol=1e-4, rtol=0)
    names = gate_task.groups(task.train)
    by_twin = {row["twin"]: name for row, name in zip(task.train, names, strict=True) if row["twin"]}
    for row, name in zip(task.train, names, strict=True):
        assert name == (by_twin[row["twin"]] if row["twin"] else row["id"])
    assert area(task.teacher_logits[:, 1], task.labels.bool()) > 0.85


def test_the_probe_is_the_regression_that_it_was_fitted_as(bench):
    task, gate = gate_task.gate_task(), bench.gate_of("linear probe", 3)
    fitted = gate_task.line(bench.PROBE_STRENGTH).fit(task.features.numpy(), task.labels.numpy())
    asked = [row["request"] for row in task.train[:50]]
    expected = fitted.decision_function(task.features[:50].numpy())
    assert gate.score(asked).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_study_of_quality_stores_what_its_margins_say(bench):
    found = {head: bench.measure_quality(0, head) for head in ("KD + labels", "teacher", "linear probe")}
    kinds = {row["id"]: row["kind"] for row in gate_task.gate_task().validation}
    for result in found.values():
        assert json.loads(json.dumps(result)) == result
        margins, threshold = result["margins"], result["threshold"]
        for name, (count, n) in result["stopped"].items():
            assert list(margins[name]) == [row["id"] for row in requests_of(name)]
            assert n == len(margins[name])
            assert abs(count - sum(margin > threshold for margin in margins[name].values())) <= 1, "but for rounding"
        harmful = [m for name in ("jailbreakbench", "rho-twins/harmful") for m in margins[name].values()]
        expected = slow_area(harmful, list(margins["rho-borderline"].values()))
        assert result["area"]["others, borderline"][0] == pytest.approx(expected, abs=2e-3)
        harmless = {
            kind: [margin for id, margin in result["validation"].items() if kinds[id] == kind]
            for kind in ("benign", "borderline")
        }
        assert choose_threshold(tensors(harmless), 0.05) == pytest.approx(threshold, abs=1e-3), (
            "harmful ones have no say"
        )
    later = bench.measure_quality(1, "KD + labels")
    assert "margins" not in later
    assert later["area"] != found["KD + labels"]["area"], "another seed is another student"


@pytest.mark.parametrize(("epsilon", "head"), [(0.0, "KD + labels"), (0.05, "KD + adversarial")])
def test_a_study_of_settings_says_how_far_above_its_threshold_each_request_is(bench, epsilon, head):
    assert (bench.NOISE.epsilon, bench.SETTINGS.temperature) == (0.05, 2.0)
    found, known = bench.measure_settings(0, epsilon, 2.0), bench.measure_quality(0, head)
    assert list(found) == [*bench.OWN, *bench.OTHERS]
    for name, margins in found.items():
        assert list(margins) == [row["id"] for row in requests_of(name)]
        for request, margin in margins.items():
            assert margin == pytest.approx(known["margins"][name][request] - known["threshold"], abs=2e-3)
    assert bench.measure_settings(0, epsilon, 4.0) != found, "the temperature counts"


def test_the_control_that_stops_early_is_distilled_alone_for_few_small_steps(bench, monkeypatch):
    seen = []
    real = bench.train_student

    def _train(*args, **options):
        seen.append(args[3])
        return real(*args, **options)

    monkeypatch.setattr(bench, "train_student", _train)
    bench.gate_of.cache_clear()
    early, full = (bench.gate_of(head, 0) for head in (bench.EARLY, "KD alone"))
    bench.gate_of.cache_clear()
    assert seen[0] == replace(seen[1], steps=60, learning_rate=0.001)
    assert seen[0].perturbation is None
    asked = [row["request"] for row in gate_task.gate_task().train[:50]]
    assert early.score(asked).std() < full.score(asked).std(), "less sure of itself"


def test_a_study_of_changes_keeps_the_clean_threshold_and_starts_from_the_clean_requests(bench):
    found, clean = bench.measure_changed(0, "KD alone"), bench.measure_quality(0, "KD alone")
    assert [*found] == ["none", *KINDS, *bench.WRAPPERS]
    for name, counts in found["none"]["stopped"].items():
        assert counts == clean["stopped"][name]
    assert found["none"]["area"]["own"] == clean["area"]["own"]
    assert found["letter"]["area"]["own"][0] < 0.6, "the made-up features know no wrapped request"


def test_a_study_of_attacks_equals_the_closed_form_of_a_straight_line(bench):
    found, gate = bench.measure_attacked(0, "linear probe"), bench.gate_of("linear probe", 0)
    task = gate_task.gate_task()
    weight = gate.head.last.weight[1] - gate.head.last.weight[0]
    reach = task.features.norm(dim=1).mean() * weight.norm()
    for name in (*bench.OWN, *bench.OTHERS):
        rows = requests_of(name)
        margins = gate.score([row["request"] for row in rows])
        for epsilon in bench.ATTACKS:
            moved = margins + (-1 if rows[0]["kind"] == "harmful" else 1) * epsilon * reach
            counts = found[str(epsilon)][name]
            assert counts["n"] == len(rows)
            assert abs(counts["attacked"] - int((moved > gate.threshold).sum())) <= 1


def test_a_study_of_the_teacher_asks_about_requests_that_no_line_knew(bench):
    found = {view: bench.measure_teacher(0, view) for view in ("the gate's layer", "three layers", "MiniLM", "all")}
    for result in found.values():
        assert 0.6 < result["area"]["borderline"][0] < result["area"]["benign"][0]
        assert result["calibration_error"][0] < 0.1
    assert found["all"]["area"]["benign"][0] > max(found[view]["area"]["benign"][0] for view in found if view != "all")
