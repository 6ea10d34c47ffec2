"""The measures of a student, against slow loops and closed forms; attacks on it; and whether an attack can be believed."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from safealign_lab.distillation import quality
from safealign_lab.distillation.attacks import MaskingCheck, attack, masking_checks
from safealign_lab.distillation.perturbations import Perturbation, mean_norm
from safealign_lab.distillation.quality import measure
from safealign_lab.distillation.student import Head
from safealign_lab.measures import rate

PGD = Perturbation("pgd", "l2", 0.1, steps=10)
SEEDS = st.integers(0, 10_000)


def random_logits(seed, n, classes=3, size=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(n, classes, generator=generator)  # (N, C)
    return logits, torch.randint(classes, (n,), generator=generator)  # (N,)


def linear(weight, bias=0.0):
    """A head of two classes whose logits differ by w · x + b."""
    head = Head(len(weight), 2)
    with torch.no_grad():
        head.last.weight[1], head.last.bias[1] = torch.as_tensor(weight), bias
    return head.requires_grad_(False)


@pytest.fixture
def points():
    """Points of two classes in ten dimensions, a head that tells most of them apart, and their mean norm."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(200) % 2  # (N,)
    inputs = torch.randn(200, 10, generator=generator)  # (N, D)
    inputs[:, 0] += 1.5 * (2 * labels - 1)
    return linear([2.0, 0.3, 0, 0, 0, 0, 0, 0, 0, -0.2], 0.1), inputs, labels, mean_norm(inputs)


def margins(head, inputs, labels):
    """The signed distance of each point from the boundary."""
    weight = head.last.weight[1] - head.last.weight[0]
    signed = (inputs @ weight + head.last.bias[1] - head.last.bias[0]) * (2 * labels - 1)
    return signed / weight.norm()


# --- single measures --------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 40), st.integers(2, 5))
def test_accuracy_is_the_share_of_right_guesses_with_wilsons_interval(seed, n, classes):
    logits, labels = random_logits(seed, n, classes)
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
    assert quality.accuracy(logits, labels) == rate(right, n)


@given(SEEDS, st.integers(1, 20))
def test_alignment_is_a_hundred_less_the_share_of_the_largest_divergence(seed, n):
    (one, _), (other, _) = random_logits(seed, n), random_logits(seed + 1, n)
    slow = [
        jensenshannon(p, q) ** 2
        for p, q in zip(one.double().softmax(-1).numpy(), other.double().softmax(-1).numpy(), strict=True)
    ]
    found = quality.alignment(one, other)
    assert found.value == pytest.approx(100 * (1 - sum(slow) / n / math.log(2)), abs=1e-3)
    assert found.low <= found.value + 1e-9
    assert found.high >= found.value - 1e-9
    assert found.n == n


def test_alignment_ends_at_a_hundred_and_at_nothing():
    logits, _ = random_logits(0, 10)
    assert quality.alignment(logits, logits + 5).value == pytest.approx(100, abs=1e-3)
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    assert quality.alignment(sure, sure.flip(0)).value == pytest.approx(0, abs=1e-3)
    with pytest.raises(ValueError, match=r"logits \(N, C\), not \(10, 3\) and \(10, 2\)"):
        quality.alignment(logits, logits[:, :2])


def slow_calibration_error(logits, labels, bins):
    """Bin by bin, text by text."""
    total = 0.0
    for place in range(1, bins + 1):
        low, high, confidences, hits = (place - 1) / bins, place / bins, [], []
        for row, label in zip(logits.double().softmax(-1).tolist(), labels.tolist(), strict=True):
            if low < max(row) <= high:
                confidences.append(max(row))
                hits.append(row.index(max(row)) == label)
        if hits:
            total += len(hits) / len(labels) * abs(sum(hits) / len(hits) - sum(confidences) / len(hits))
    return total


@given(SEEDS, st.integers(1, 60), st.sampled_from([1, 2, 10, 15]), st.sampled_from([0.3, 2.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_the_calibration_error_equals_a_slow_loop(seed, n, bins, size):
    logits, labels = random_logits(seed, n, size=size)
    found = quality.calibration_error(logits, labels, bins)
    assert found.value == pytest.approx(slow_calibration_error(logits, labels, bins), abs=1e-9)
    assert 0 <= found.low <= found.high <= 1


def test_a_head_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    logits = torch.log(torch.tensor([[0.75, 0.25]])).repeat(400, 1)
    labels = (torch.arange(400) % 4 == 0).long()  # three in four are of class 0
    assert quality.calibration_error(logits, labels).value == pytest.approx(0, abs=1e-6)
    assert quality.calibration_error(100 * logits, labels).value == pytest.approx(0.25, abs=1e-6)


def test_the_bootstraps_interval_is_about_that_of_a_normal_mean_and_the_same_each_time():
    one, _ = random_logits(1, 400, size=1.0)
    other, _ = random_logits(2, 400, size=1.0)
    found = quality.alignment(one, other)
    p, q = (logits.double().softmax(-1).numpy() for logits in (one, other))
    each = 100 * (1 - jensenshannon(p, q, axis=1) ** 2 / math.log(2))
    half = 1.96 * each.std(ddof=1) / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)
    assert found == quality.alignment(one, other)
    assert str(found) == f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}], n = 400"
    assert quality.Estimate(**found.to_json()) == found


@given(SEEDS, st.integers(1, 20))
@settings(deadline=None, max_examples=20)
def test_safety_is_the_mean_of_alignment_robustness_and_stability(seed, n):
    (student, labels), (teacher, guesses) = random_logits(seed, n), random_logits(seed + 1, n)
    right, same = labels == guesses, guesses > 0
    found = quality.safety(student, teacher, right, same)
    hits, stays = (sum(map(int, held.tolist())) / n for held in (right, same))
    assert found.value == pytest.approx((quality.alignment(student, teacher).value + 100 * hits + 100 * stays) / 3)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.n == n


def test_the_interval_of_safety_knows_that_the_three_depend_on_each_other():
    logits, labels = random_logits(5, 50)
    right, same = labels == 0, labels < 2
    found = quality.safety(logits, logits, right, same)
    each = 100 * (1 + right.double() + same.double()) / 3
    half = 1.96 * float(each.std()) / math.sqrt(50)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.2)


@pytest.mark.parametrize("measured", [quality.accuracy, quality.calibration_error])
def test_no_texts_and_labels_that_do_not_fit_are_told(measured):
    logits, labels = random_logits(0, 4)
    with pytest.raises(ValueError, match=r"need labels \(N,\), not \(4, 3\) and \(3,\)"):
        measured(logits, labels[:3])
    with pytest.raises(ValueError, match=r"no share of n = 0|no texts to measure on"):
        measured(logits[:0], labels[:0])
    with pytest.raises(ValueError, match="bins must be at least 1, not 0"):
        quality.calibration_error(logits, labels, 0)


def test_one_text_and_texts_that_all_agree_give_a_number_without_a_warning():
    logits, labels = random_logits(0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = quality.alignment(logits, logits)
        same = quality.alignment(logits.repeat(5, 1), logits.repeat(5, 1))
        quality.calibration_error(logits, labels)
    assert (one.value, one.n, same.n) == (same.value, 1, 5)


# --- under attack -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 0.5])
def test_on_a_linear_head_the_attack_finds_exactly_the_points_nearer_than_the_radius(points, epsilon):
    head, inputs, labels, scale = points
    near = margins(head, inputs, labels) <= epsilon * scale
    found = attack(head, inputs, labels, Perturbation("fgsm", "l2", epsilon), scale)
    assert torch.equal(found.held, ~near)
    assert 0 < near.float().mean() < 1
    assert (found.delta.norm(dim=1) <= epsilon * scale * 1.0001).all()
    pgd = attack(head, inputs, labels, Perturbation("pgd", "l2", epsilon, steps=20), scale, restarts=2)
    assert 0 <= (pgd.held.int() - found.held.int()).sum() <= 5  # many small steps come close to the one that is exact


def test_more_restarts_never_leave_more_and_the_worst_is_returned(points):
    head, inputs, labels, scale = points
    weak = Perturbation("gaussian", "l2", 1.0)
    held, heights = [], []
    for restarts in (1, 3, 9):
        found = attack(head, inputs, labels, weak, scale, restarts=restarts)
        held.append(found.held)
        heights.append(F.cross_entropy(head(inputs + found.delta), labels, reduction="none"))
    assert (held[0] >= held[1]).all()
    assert (held[1] >= held[2]).all()
    assert held[0].sum() > held[2].sum()
    assert (heights[2] >= heights[1]).all()
    assert torch.equal(attack(head, inputs, labels, weak, scale, restarts=9).delta, found.delta)
    with pytest.raises(ValueError, match="restarts must be at least 1, not 0"):
        attack(head, inputs, labels, weak, scale, restarts=0)


def test_a_point_counts_as_held_only_where_no_restart_moved_it():
    """Each restart turns others wrong, and the one with the highest loss need not have turned any."""
    turns = [torch.tensor([True, False]), torch.tensor([False, True])]
    calls = []

    def classifier(inputs):
        moved = not torch.equal(inputs, torch.zeros_like(inputs))
        wrong = turns[min(len(calls), 1)] & moved
        if moved:
            calls.append(inputs)
        sure = torch.where(wrong, -1.0, 1.0) + 0 * inputs.sum(dim=1)
        return torch.stack([sure, -sure], dim=1)

    labels, noise = torch.zeros(2, dtype=torch.long), Perturbation("gaussian", "l2", 1.0)
    found = attack(classifier, torch.zeros(2, 3), labels, noise, 1.0, restarts=2)
    assert found.held.tolist() == [False, False]


def test_embeddings_are_attacked_only_under_the_mask(points):
    head = points[0]
    inputs = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0))  # (N, T, D)
    mask = torch.tensor([[True, True, False]] * 4)
    found = attack(lambda x: head(x.mean(dim=1)), inputs, torch.tensor([0, 1, 0, 1]), PGD, 3.0, mask=mask)
    assert (found.delta[:, 2] == 0).all()
    assert (found.delta[:, :2].norm(dim=-1) > 0.1).all()


def test_everything_is_measured_of_one_attack_and_stability_is_of_the_heads_own_answers(points):
    head, inputs, labels, scale = points
    teacher_logits = head(inputs) * 2
    found = measure(head, inputs, labels, teacher_logits, PGD, scale, seed=1)
    logits = head(inputs)
    assert found.accuracy == quality.accuracy(logits, labels)
    assert found.alignment == quality.alignment(logits, teacher_logits)
    assert found.calibration_error == quality.calibration_error(logits, labels)
    assert found.robustness.successes == int(attack(head, inputs, labels, PGD, scale, seed=1).held.sum())
    own = margins(head, inputs, logits.argmax(dim=1))
    assert abs(found.stability.successes - int((own > 0.1 * scale).sum())) <= 2
    assert found.stability.value < 1
    three = (found.alignment.value + 100 * found.robustness.value + 100 * found.stability.value) / 3
    assert found.safety.value == pytest.approx(three)
    assert found.robustness.value < found.control.value <= found.accuracy.value + 0.02
    stored = json.loads(json.dumps(found.to_json()))
    assert set(stored) == {field.name for field in fields(quality.Quality)}
    assert all(stored[name] == getattr(found, name).to_json() for name in stored)


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_the_control_has_the_lengths_of_the_attack_and_no_aim(seed):
    """On a linear head noise of length r in direction u moves a score by r · w · u: the control is recounted from there."""
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(60, 6, generator=generator), torch.arange(60) % 2
    head, met = linear(torch.randn(6, generator=generator)), []

    def watched(points):
        met.append(points.detach())
        return head(points)

    found = measure(
        watched, inputs, labels, head(inputs), Perturbation("fgsm", "l2", 0.2), mean_norm(inputs), seed=seed
    )
    beside = met[-1] - inputs
    torch.testing.assert_close(beside.norm(dim=1), torch.full((60,), 0.2 * mean_norm(inputs)), rtol=1e-3, atol=1e-5)
    weight = head.last.weight[1] - head.last.weight[0]
    scores = [(point @ weight + move @ weight).item() for point, move in zip(inputs, beside, strict=True)]
    assert found.control.successes == sum(
        (score > 0) == (label == 1) for score, label in zip(scores, labels, strict=True)
    )
    aims = (beside @ weight) * (2 * labels - 1)
    assert 10 < (aims < 0).sum() < 50  # as often for the right class as against it


def test_one_that_always_says_the_same_is_stable_and_right_by_chance(points):
    _, inputs, labels, scale = points
    constant = linear([0.0] * 10, 1.0)
    found = measure(constant, inputs, labels, torch.zeros(200, 2), PGD, scale)
    assert (found.stability.value, found.robustness.value, found.accuracy.value) == (1.0, 0.5, 0.5)


# --- can the attack be believed ---------------------------------------------------------------------------------------


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_each_check_on_a_linear_head_is_a_count_of_distances_from_the_boundary(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(80, 5, generator=generator), torch.arange(80) % 2
    head, other = (linear(torch.randn(5, generator=generator), 0.2) for _ in range(2))
    radius = 0.1 * mean_norm(inputs)
    checks = masking_checks(head, [other], inputs, labels, Perturbation("fgsm", "l2", 0.1), mean_norm(inputs))
    away = other.last.weight[0] - other.last.weight[1]  # from class 1, where the other one sees it
    carried = inputs + (2 * labels - 1)[:, None] * radius * away / away.norm()
    distances = margins(head, inputs, labels)
    single, double, tenfold = (rate(int((distances > factor * radius).sum()), 80) for factor in (1, 2, 10))
    assert [(check.weaker, check.stronger) for check in checks if check.name != "aimed against random"] == [
        (single, single), (single, single), (single, double), (double, tenfold),
        (rate(int((margins(head, carried, labels) > 0).sum()), 80), single),
    ]  # fmt: skip
    (random,) = (check for check in checks if check.name == "aimed against random")
    assert single.value <= random.weaker.value
    assert all(check.passed for check in checks)


@given(st.integers(0, 250), st.integers(-250, 250) | st.integers(-4, 4))
def test_a_check_passes_unless_the_stronger_attack_leaves_more_by_over_one_in_a_hundred(weaker, more):
    stronger = min(250, max(0, weaker + more))
    check = MaskingCheck("any", rate(weaker, 250), rate(stronger, 250))
    assert check.passed is (stronger - weaker <= 2)


def test_an_honest_head_passes_every_check(points):
    head, inputs, labels, scale = points
    other = linear([1.0, -0.5, 0, 0, 0.3, 0, 0, 0, 0, 0])
    checks = masking_checks(head, [other], inputs, labels, PGD, scale)
    assert [check.passed for check in checks] == [True] * 6
    assert len({check.name for check in checks}) == 6
    by_name = {check.name: check for check in checks}
    assert by_name["ten times the radius"].stronger.value < 0.1
    assert by_name["aimed against random"].weaker.value > by_name["aimed against random"].stronger.value + 0.03


def test_a_head_that_hides_its_gradient_is_found_out(points):
    head, inputs, labels, scale = points

    def hiding(features):
        return 1e6 * head(features)  # so sure that the gradient of its right answers rounds to 0

    wide = Perturbation("pgd", "l2", 0.3)
    seeming, real = (attack(one, inputs, labels, wide, scale).held.float().mean() for one in (hiding, head))
    assert seeming > real + 0.1
    checks = {check.name: check for check in masking_checks(hiding, [head], inputs, labels, wide, scale)}
    assert not checks["own against that of student 0"].passed
