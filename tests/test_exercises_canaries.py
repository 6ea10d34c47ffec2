"""The exercises of lesson 31: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import drawn, named
from torch import nn
from wrong_answers.canaries import SAME_MISTAKE, WRONG_ANSWERS

from safealign_lab.immunization.canaries import Accumulator, select
from safealign_lab.immunization.shields import MaskedUpdate
from safealign_lab.immunization.weight_attack import perturbed
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import canaries as lesson
from safealign_lab.lesson.exercises import weight_attack, weight_shield

PATIENT = settings(deadline=None, derandomize=True, max_examples=40)
SEEDS = st.integers(0, 2**31)


# ---------------------------------------------------------------- the library's functions


@PATIENT
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(2, 5))
def test_the_gradients_by_hand_are_finite_differences(seed, rows, width, outputs):
    layer = [drawn(seed + i, *shape) for i, shape in enumerate(((rows, width), (outputs, width), (outputs,)))]
    labels = torch.randint(outputs, (rows,), generator=torch.Generator().manual_seed(seed))
    _, *found = lesson.softmax_backward(*layer, labels)

    def loss(inputs, weight, bias):
        return F.cross_entropy(inputs @ weight.T + bias, labels)

    for place, gradient in zip((1, 2, 0), found, strict=True):
        step = 1e-5 * drawn(seed + 7, *layer[place].shape)
        ahead, behind = ([one + sign * step if i == place else one for i, one in enumerate(layer)] for sign in (1, -1))
        assert float(loss(*ahead) - loss(*behind)) / 2 == pytest.approx(
            float((gradient * step).sum()), rel=1e-4, abs=1e-10
        )


@PATIENT
@given(SEEDS, st.sampled_from(lesson.KINDS))
def test_scores_of_several_batches_are_the_accumulators(seed, kind):
    weights = {"a": drawn(seed, 3, 2).float(), "b": drawn(seed + 1, 4).float()}
    watched, mine = Accumulator(weights, kind), [torch.zeros(3, 2), torch.zeros(4)]
    for batch in range(3):
        gradients = [drawn(seed + 2 + batch, 3, 2).float(), None if batch == 1 else drawn(seed + 9 + batch, 4).float()]
        watched.add(gradients)
        mine = lesson.add_scores(mine, list(weights.values()), gradients, kind)
    for one, other in zip(mine, watched.scores.values(), strict=True):
        torch.testing.assert_close(one, other)


@PATIENT
@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 100), st.booleans())
def test_the_selection_is_the_librarys_and_its_number_exact(seed, sizes, percent, ties):
    scores = [drawn(seed + i, size).float() for i, size in enumerate(sizes)]
    scores = [one.round() + 0.0 for one in scores] if ties else scores
    mine = lesson.choose_canaries(scores, percent / 100)
    library = select({str(i): one for i, one in enumerate(scores)}, percent / 100)
    assert all(torch.equal(mask, library.mask(str(i))) for i, mask in enumerate(mine))
    assert sum(int(mask.sum()) for mask in mine) == math.ceil(Fraction(percent, 100) * sum(sizes))


@PATIENT
@given(SEEDS, st.sampled_from([0.001, 0.05, 0.7]))
def test_the_gradient_at_attacked_weights_is_the_librarys(seed, radius):
    model, twin = weight_attack._Toy(seed % 1000), weight_attack._Toy(seed % 1000)
    mine = weight_attack.attacked_gradients(model, model.raised, model.loss, radius)
    weights = {name: one for name, one in twin.named_parameters() if one.requires_grad}
    with perturbed(weights, radius, twin.raised):
        library = torch.autograd.grad(twin.loss(), list(weights.values()))
    for one, other in zip(mine, library, strict=True):
        torch.testing.assert_close(one, other)
    assert weight_attack._same(model, twin)


@pytest.mark.parametrize("seed", range(3))
def test_a_shielded_step_is_the_librarys_masked_update(seed):
    bench, twin = weight_shield._Bench(seed), weight_shield._Bench(seed)
    moved = weight_shield.shielded_step(bench.model, bench.masks, bench.step)
    full = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in twin.weights.items()} | twin.masks
    chosen = select({name: mask.float() for name, mask in full.items()}, sum(int(m.sum()) for m in full.values()) / 21)
    shield = MaskedUpdate(twin.weights, chosen)
    twin.step()
    apart = max(float(twin.moved(name)[mask].abs().max()) for name, mask in twin.masks.items())
    shield.hold()
    assert moved == pytest.approx(apart)
    for name in bench.weights:
        assert torch.equal(bench.weights[name], twin.weights[name])


# ---------------------------------------------------------------- what a learner may write


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "31_canaries"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch_and_math():
    for exercise in lesson.EXERCISES + weight_attack.EXERCISES + weight_shield.EXERCISES:
        room = {"torch": torch, "math": math}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def backward_row_by_row(inputs, weight, bias, labels):
    at_logits = torch.stack(
        [(weight @ x + bias).softmax(0) - F.one_hot(y, len(bias)) for x, y in zip(inputs, labels, strict=True)]
    ) / len(labels)
    at_weight = sum(torch.outer(d, x) for d, x in zip(at_logits, inputs, strict=True))
    return [at_logits, at_weight, at_logits.sum(0), (weight.T @ at_logits.T).T]


def scores_with_where(scores, weights, gradients, kind):
    filled = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
    if kind == "squared":
        return [s + g * g for s, g in zip(scores, filled, strict=True)]
    sizes = [w.abs() if kind == "weighted" else 1.0 for w in weights]
    return tuple(s + g.abs() * size for s, g, size in zip(scores, filled, sizes, strict=True))


def by_pythons_sort(scores, fraction):
    values = torch.cat([s.flatten() for s in scores]).tolist()
    count = -(-Fraction(str(fraction)) * len(values) // 1)
    taken = set(sorted(range(len(values)), key=lambda i: -values[i])[: int(count)])
    mask, masks = [i in taken for i in range(len(values))], []
    for s in scores:
        masks.append(torch.tensor(mask[: s.numel()]).reshape(s.shape))
        mask = mask[s.numel() :]
    return masks


def by_a_threshold(scores, fraction):
    flat = torch.cat([s.flatten() for s in scores])
    count = math.ceil(fraction * len(flat) - 1e-9)
    if not count:
        return [torch.zeros_like(s, dtype=torch.bool) for s in scores]
    least = flat.topk(count).values[-1]
    mask = flat > least
    mask[(flat == least).nonzero()[: count - int(mask.sum()), 0]] = True
    return [m.view_as(s) for m, s in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]


def by_backward(model, raised, loss, radius):
    kept = [p.data.clone() for p in model.parameters()]
    try:
        model.zero_grad()
        raised().backward()
        for p in model.parameters():
            if p.requires_grad and p.grad is not None and p.grad.norm() > 0:
                p.data += radius * p.data.norm() * p.grad / p.grad.norm()
        model.zero_grad()
        loss().backward()
        return [p.grad for p in model.parameters() if p.requires_grad]
    finally:
        for p, value in zip(model.parameters(), kept, strict=True):
            p.data = value


def by_state_dict(model, raised, loss, radius):
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with perturbed(dict(model.named_parameters()), radius, raised):
            return torch.autograd.grad(loss(), [p for p in model.parameters() if p.requires_grad])
    finally:
        model.load_state_dict(kept)


def held_by_where(model, masks, step):
    kept = {name: p.data.clone() for name, p in model.named_parameters()}
    step()
    farthest = 0.0
    for name, p in model.named_parameters():
        if name in masks:
            farthest = max(farthest, ((p.data - kept[name]).abs() * masks[name]).max().item())
            p.data = torch.where(masks[name], kept[name], p.data)
    return farthest


RIGHT = [
    ("softmax_backward", backward_row_by_row),
    ("add_scores", scores_with_where),
    *(("choose_canaries", function) for function in (by_pythons_sort, by_a_threshold)),
    *(("attacked_gradients", function) for function in (by_backward, by_state_dict)),
    ("shielded_step", held_by_where),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


TWICE = [(name, other, wrong) for name, pairs in SAME_MISTAKE.items() for other, wrong in pairs.items()]


@pytest.mark.parametrize(("name", "other", "wrong"), TWICE, ids=[other.__name__ for _, other, _ in TWICE])
def test_the_same_mistake_written_otherwise_gets_the_same_words(name, other, wrong):
    assert WRONG_ANSWERS[name][wrong] in verdict(named(other, name))


def test_scores_that_are_changed_in_place_are_told_so():
    def add_scores(scores, weights, gradients, kind):
        for score, gradient in zip(scores, gradients, strict=True):
            if gradient is not None:
                score += gradient.abs()
        return scores

    assert "changes its input `scores`" in verdict(add_scores)


def test_the_checks_meet_what_tells_mistakes_apart():
    assert [0.2 * sum(sizes) % 1 > 0.5 for _, sizes, k, _ in lesson._SELECTIONS if k == 0.2] == [True, False]
    for seed, sizes, _, ties in lesson._SELECTIONS:
        flat = torch.cat(lesson._scores(seed, sizes, ties))
        assert (len(flat.unique()) < len(flat)) == ties
        assert (flat < 0).any()
    model = weight_attack._Toy(0)
    (*felt, still) = torch.autograd.grad(model.raised(), [model.first, model.second, model.still])
    assert all(g.any() for g in felt)
    assert not still.any()  # no direction to be attacked in
    assert isinstance(model, nn.Module)
    bench = weight_shield._Bench(0)
    assert not any(mask.all() for mask in bench.masks.values())
    assert all(float(bench.quiet().moved(name)[mask].abs().min()) > 0 for name, mask in bench.masks.items())
