"""The student head: its loss against a slow loop, its baselines, its runs (the same, resumed, quick), and what its knobs do."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.distillation import quality, student
from safealign_lab.distillation.perturbations import Perturbation, mean_norm
from safealign_lab.distillation.student import Head, Settings, baselines, raised, terms, train_student

N, D = 240, 12
QUICK = Settings(steps=40, batch=64, learning_rate=0.03)
RANDOM = Perturbation("gaussian", "l2", 0.1)


def task(seed=0, n=N):
    """Two classes that a few of the features tell apart, some labels wrong; a teacher who knows how sure to be."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, generator=generator)  # (N, D)
    score = 2 * features[:, 0] + features[:, 1] - 0.5 * features[:, 2]
    labels = (torch.rand(n, generator=generator) < torch.sigmoid(score)).long()  # (N,)
    return features, labels, torch.stack([-score / 2, score / 2], dim=1)  # (N, C)


def learn(settings_, seed=0, **options):
    return train_student(*task(), settings_, seed, progress=False, **options)


def bits(head):
    return [parameter.tolist() for parameter in head.parameters()]


def opinionated(seed, hidden=5):
    """An untrained head with opinions all the same."""
    torch.manual_seed(seed)
    head = Head(D, 2, hidden)
    torch.nn.init.normal_(head.last.weight)
    return head


# --- the loss ---------------------------------------------------------------------------------------------------------


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def slow_loss(clean, noisy, labels, teacher, chosen):
    """w · τ² · KL(T^τ ‖ S^τ) + L_NR, class by class."""
    kd = robust = 0.0
    for c, n, y, t in zip(clean.tolist(), noisy.tolist(), labels.tolist(), teacher.tolist(), strict=True):
        soft_teacher, soft_student = ([value / chosen.temperature for value in row] for row in (t, c))
        pairs = zip(softmax(soft_teacher), softmax(soft_student), strict=True)
        kd += chosen.temperature**2 * sum(p * math.log(p / q) for p, q in pairs)
        for weight, row in ((chosen.alpha, c), (1 - chosen.alpha, n)):
            if chosen.target == "labels":
                robust -= weight * math.log(softmax(row)[y])
            elif chosen.target == "teacher":
                robust += weight * sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(row), strict=True))
    return chosen.kd_weight * kd / len(labels) + robust / len(labels)


@given(
    st.integers(0, 1000),
    st.sampled_from(["labels", "teacher", None]),
    st.floats(0, 1),
    st.floats(0.5, 8),
    st.floats(0.1, 3),
)
@settings(deadline=None, max_examples=25)
def test_the_loss_of_a_batch_equals_a_slow_loop(seed, target, alpha, temperature, kd_weight):
    features, labels, teacher = task(seed, n=6)
    head = opinionated(seed)
    noise = None if target is None else replace(RANDOM, epsilon=0.3)
    chosen = Settings(temperature, kd_weight, alpha, perturbation=noise, target=target)
    found = terms(head, features, labels, teacher, chosen, 3.0, torch.Generator().manual_seed(seed))
    delta = torch.zeros_like(features)
    if noise is not None:
        drawn = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed)) * 0.3 * 3.0 / math.sqrt(D)
        delta = drawn * (0.9 / drawn.norm(dim=1, keepdim=True)).clamp(max=1)
    with torch.no_grad():
        expected = slow_loss(head(features), head(features + delta), labels, teacher, chosen)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_penalty_is_the_squared_gradient_of_the_noise_robust_term_and_is_added_by_its_weight():
    features, labels, teacher = task(n=20)
    head = opinionated(0)
    without = terms(head, features, labels, teacher, Settings(perturbation=None), 1.0)
    found = terms(head, features, labels, teacher, Settings(perturbation=None, penalty_weight=0.7), 1.0)
    slopes = torch.autograd.grad(without["noise_robust"], list(head.parameters()))
    assert found["penalty"].item() == pytest.approx(sum(float((slope**2).sum()) for slope in slopes), rel=1e-5)
    assert found["loss"].item() == pytest.approx(without["loss"].item() + 0.7 * found["penalty"].item(), rel=1e-5)
    assert "penalty" not in without


def test_what_a_linear_head_of_two_classes_meets_is_the_worst_there_is():
    features, labels, teacher = task(n=30)
    head = Head(D, 2)
    torch.nn.init.normal_(head.last.weight, generator=torch.Generator().manual_seed(1))
    scale = mean_norm(features)
    chosen = Settings(alpha=0.0, kd_weight=0.0)
    found = terms(head, features, labels, teacher, chosen, scale)["noise_robust"]
    weight = head.last.weight[1] - head.last.weight[0]
    signs = 2 * labels - 1
    margin = signs * (features @ weight + head.last.bias[1] - head.last.bias[0]) - 0.1 * scale * weight.norm()
    torch.testing.assert_close(found, torch.nn.functional.softplus(-margin).mean(), rtol=1e-4, atol=1e-5)
    many = terms(
        head, features, labels, teacher, replace(chosen, perturbation=Perturbation("pgd", "l2", 0.1, 30)), scale
    )
    assert many["noise_robust"] <= found + 1e-5


AIMED = Perturbation("fgsm", "l2", 0.1)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"form": "printed", "perturbation": RANDOM}, True), ({"form": "printed", "perturbation": AIMED}, False),
        ({"form": "working", "perturbation": RANDOM}, False), ({"target": "teacher", "perturbation": AIMED}, True),
        ({"target": None, "perturbation": None}, True),
    ],
)  # fmt: skip
def test_labels_have_a_say_exactly_where_a_loss_or_the_attack_holds_them(change, same):
    features, labels, teacher = task()
    shuffled = labels[torch.randperm(N, generator=torch.Generator().manual_seed(1))]
    chosen = replace(QUICK, steps=10, **change)
    one, other = (train_student(features, y, teacher, chosen, progress=False)[0] for y in (labels, shuffled))
    assert (bits(one) == bits(other)) is same


@given(st.integers(0, 1000), st.floats(0, 1), st.floats(0.5, 8))
@settings(deadline=None, max_examples=15)
def test_the_printed_loss_of_a_batch_equals_a_slow_loop_without_a_weight(seed, alpha, temperature):
    features, labels, teacher = task(seed, n=6)
    head = opinionated(seed)
    chosen = Settings(temperature, 7.0, alpha, perturbation=None, form="printed")
    found = terms(head, features, labels, teacher, chosen, 1.0)
    kd = entropy = 0.0
    with torch.no_grad():
        pairs = list(zip(head(features).tolist(), teacher.tolist(), strict=True))
    for row, t in pairs:
        own, soft = softmax(row), softmax([value / temperature for value in t])
        kd += sum(p * math.log(p / q) for p, q in zip(own, soft, strict=True))
        entropy -= sum(p * math.log(p) for p in own)
    assert found["kd"].item() == pytest.approx(kd, rel=1e-4, abs=1e-5)
    assert found["noise_robust"].item() == pytest.approx(entropy, rel=1e-4, abs=1e-5)
    assert found["loss"].item() == pytest.approx(kd + entropy, rel=1e-4, abs=1e-5)


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_an_attack_raises_the_cross_entropy_or_the_distance_from_the_teacher_text_by_text(seed):
    features, labels, teacher = task(seed, n=6)
    head = opinionated(seed)
    to_labels, to_teacher = raised(head, labels)(features), raised(head, labels, teacher)(features)
    assert to_labels.shape == to_teacher.shape == (6,)
    with torch.no_grad():
        rows = head(features).tolist()
    for row, label, t, one, other in zip(rows, labels.tolist(), teacher.tolist(), to_labels, to_teacher, strict=True):
        assert one.item() == pytest.approx(-math.log(softmax(row)[label]), rel=1e-4, abs=1e-5)
        slow = sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(row), strict=True))
        assert other.item() == pytest.approx(slow, rel=1e-4, abs=1e-5)


def test_an_untrained_head_has_no_opinion():
    for hidden in (None, 7):
        assert (Head(D, 3, hidden)(task()[0]) == 0).all()


def crossed(seed, n=N):
    """Two classes, by whether two of the features have one sign: by symmetry any straight line is right on half of them."""
    features = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))  # (N, D)
    labels = (features[:, 0] * features[:, 1] > 0).long()  # (N,)
    return features, labels, 3.0 * torch.stack([1 - 2 * labels, 2 * labels - 1], dim=1)  # (N, C)


def test_a_hidden_layer_learns_what_no_linear_head_can():
    unseen, truth, _ = crossed(1, n=600)
    shares = []
    for hidden in (None, 16):
        head, _ = train_student(*crossed(0), replace(LONG, perturbation=None, hidden=hidden), progress=False)
        shares.append(quality.accuracy(head(unseen), truth))
    assert abs(shares[0].value - 0.5) < 0.1  # five standard deviations of a share of 600
    assert shares[1].low > 0.6


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [QUICK, replace(QUICK, hidden=6, perturbation=RANDOM, penalty_weight=0.1)])
def test_two_runs_of_one_seed_are_bit_identical_and_another_seed_is_another_run(chosen):
    torch.manual_seed(1)
    one, history = learn(chosen, seed=3)
    torch.manual_seed(2)  # the global state has no say, and is left as it was
    before = torch.get_rng_state()
    other, again = learn(chosen, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert bits(one) == bits(other)
    assert [row["loss"] for row in history.rows] == [row["loss"] for row in again.rows]
    assert bits(learn(chosen, seed=4)[0]) != bits(one)
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, history = learn(QUICK)
    real, calls = student.terms, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(student, "terms", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(QUICK, folder=tmp_path)
    before = len(calls)
    resumed, rows = learn(QUICK, folder=tmp_path)
    assert len(calls) - before < QUICK.steps
    assert bits(resumed) == bits(whole)
    assert [row["loss"] for row in rows.rows] == [row["loss"] for row in history.rows]


def test_with_any_knobs_a_thousand_texts_are_learnt_in_under_a_second_nineteen_times_in_twenty():
    """Seconds of one thread's own work: what a clock on the wall shows on a machine that has nothing else to do.

    A clock would also count the time for which other jobs hold the core, which says nothing of the student. λ is above 0
    throughout, which is the slow case: the loss is differentiated twice.
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 576, generator=generator)  # as wide as SmolLM2
    labels = (features[:, :9].sum(dim=1) > 0).long()
    teacher = torch.stack([-features[:, :9].sum(dim=1), features[:, :9].sum(dim=1)], dim=1)
    before, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for seed in range(20):
            epsilon, alpha, penalty, doublings = torch.rand(4, generator=generator).tolist()
            chosen = Settings(
                temperature=16**doublings, alpha=alpha, penalty_weight=penalty + 0.01,
                perturbation=Perturbation("fgsm", "l2", 0.3 * epsilon),
            )  # fmt: skip
            began = time.process_time()
            train_student(features, labels, teacher, chosen, seed, progress=False)
            seconds.append(time.process_time() - began)
    finally:
        torch.set_num_threads(before)
    assert sorted(seconds)[18] < 1, seconds


# --- settings ---------------------------------------------------------------------------------------------------------


def changed(one, other):
    return {each.name for each in fields(Settings) if getattr(one, each.name) != getattr(other, each.name)}


def test_each_baseline_differs_from_what_is_asked_for_in_what_its_name_says():
    asked = Settings(hidden=8, temperature=3.0, penalty_weight=0.1, kd_weight=2.0)
    ways = baselines(asked)
    assert {name: changed(asked, way) for name, way in ways.items()} == {
        "hard labels": {"kd_weight", "perturbation"}, "KD alone": {"perturbation", "target", "penalty_weight"},
        "KD + labels": {"perturbation"}, "KD + random noise": {"perturbation"}, "KD + adversarial": set(),
        "printed + random noise": {"perturbation", "form"}, "printed + adversarial": {"form"},
    }  # fmt: skip
    noise = ways["KD + random noise"].perturbation
    assert (noise.kind, noise.epsilon, noise.norm) == ("gaussian", asked.perturbation.epsilon, asked.perturbation.norm)
    assert ways["hard labels"].kd_weight == 0
    assert baselines(replace(asked, kd_weight=0.0))["KD alone"].kd_weight == 1
    found = {name: learn(replace(way, steps=20))[0] for name, way in ways.items()}
    assert len({str(bits(head)) for head in found.values()}) == len(ways)  # no two names train the same head


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": "both"}, "target must be one of labels, teacher, None, not 'both'"),
        ({"form": "paper"}, "form must be one of working, printed, not 'paper'"),
        ({"kd_weight": -1.0}, "kd_weight must be 0 or more, not -1.0"),
        ({"penalty_weight": math.nan}, "penalty_weight must be 0 or more, not nan"),
        ({"hidden": 0}, "hidden must be at least 1, or None, not 0"),
        ({"batch": 0}, "batch must be at least 1, or None, not 0"),
        ({"target": None}, "With target=None there is no L_NR"),
        ({"target": None, "perturbation": None, "kd_weight": 0.0}, "With target=None there is no L_NR"),
    ],
)
def test_settings_that_do_not_fit_are_told(wrong, said):
    with pytest.raises(ValueError, match=said):
        Settings(**wrong)


def test_shapes_that_do_not_fit_are_told():
    features, labels, teacher = task()
    for wrong in [
        (features[:-1], labels, teacher),
        (features, labels[None], teacher),
        (features, labels, teacher[:-1]),
    ]:
        with pytest.raises(ValueError, match=r"features \(N, D\), labels \(N,\) and teacher_logits \(N, C\)"):
            train_student(*wrong, QUICK, progress=False)


# --- the direction of each knob ---------------------------------------------------------------------------------------


def measured(chosen, seed=0):
    head, history = learn(chosen, seed)
    features, labels, teacher = task(seed=99, n=600)
    logits = head(features)
    return head, quality.accuracy(logits, labels).value, quality.alignment(logits, teacher).value, history


def distance(head):
    """The mean distance of new points from the boundary, on the right side: what a larger ε has to widen."""
    features, labels, _ = task(seed=99, n=600)
    weight = head.last.weight[1] - head.last.weight[0]
    signed = (2 * labels - 1) * (features @ weight + head.last.bias[1] - head.last.bias[0])
    return float((signed / weight.norm() > 0.5).float().mean())


LONG = Settings(steps=80, batch=None, learning_rate=0.03, weight_decay=0.0)


def test_more_distillation_brings_the_student_nearer_to_its_teacher():
    found = [measured(replace(LONG, kd_weight=weight, perturbation=None))[2] for weight in (0.0, 1.0, 30.0)]
    assert found[0] < found[1] < found[2]


def test_aimed_noise_in_training_leaves_fewer_points_near_the_boundary_and_weights_that_weigh_less():
    heads = {
        epsilon: measured(replace(LONG, alpha=0.0, perturbation=Perturbation("fgsm", "l2", epsilon)))[0]
        for epsilon in (0.0, 0.3)
    }
    assert distance(heads[0.3]) > distance(heads[0.0])
    assert heads[0.3].last.weight.norm() < heads[0.0].last.weight.norm()
    half = measured(replace(LONG, alpha=0.9, perturbation=Perturbation("fgsm", "l2", 0.3)))[0]
    assert heads[0.3].last.weight.norm() < half.last.weight.norm() < heads[0.0].last.weight.norm()


def test_a_larger_penalty_leaves_a_smaller_gradient_at_the_end():
    norms, plain = [], replace(LONG, steps=30, kd_weight=0.0, perturbation=None, hidden=4, clip=None)
    for weight in (0.0, 30.0):
        head = learn(replace(plain, penalty_weight=weight))[0]
        head.requires_grad_(True)
        robust = terms(head, *task(), Settings(perturbation=None), 1.0)["noise_robust"]
        slopes = torch.autograd.grad(robust, list(head.parameters()))
        norms.append(float(sum((slope**2).sum() for slope in slopes)))
    assert norms[1] < 0.1 * norms[0]


def test_a_higher_temperature_asks_for_the_teachers_doubts():
    """Far up, the student's logits match the teacher's own, class by class; at 1 a sure row has no say."""
    features, labels, teacher = task()
    outlier = teacher.clone()
    outlier[0] *= 20  # one text of which the teacher is very sure
    chosen = replace(LONG, perturbation=None, target=None, learning_rate=0.1, clip=None)
    moved = []
    for temperature in (1.0, 16.0):
        one, other = (
            train_student(features, labels, t, replace(chosen, temperature=temperature), progress=False)[0]
            for t in (teacher, outlier)
        )
        moved.append(float((one.last.weight - other.last.weight).norm()))
    assert moved[1] > 2 * moved[0]


def test_weight_decay_steps_and_learning_rate_act_as_they_say():
    def size(**change):
        return float(measured(replace(LONG, perturbation=None, **change))[0].last.weight.norm())

    assert size(weight_decay=5.0) < size()
    assert size(steps=10) < size()
    assert size(learning_rate=0.003) < size()
    norms = [row["gradient_norm"] for row in measured(replace(LONG, clip=0.01))[3].rows]
    assert max(norms) > 0.01  # told before clipping
