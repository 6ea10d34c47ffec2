"""Bounded noise: balls and projections against slow closed forms, attacks against what is known to be the worst."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.distillation.perturbations import (
    Perturbation,
    loss_curve,
    mean_norm,
    perturb,
    pgd_step,
    project,
    radius,
    random_control,
    random_in_ball,
)

PATIENT = settings(deadline=None)
SEEDS = st.integers(0, 10**6)
NORMS = st.sampled_from(["l2", "linf"])
KINDS = st.sampled_from(["gaussian", "uniform", "fgsm", "pgd"])
RADII = st.sampled_from([0.0, 1e-3, 0.5, 3.0])
SHAPES = st.sampled_from([(3, 4), (2, 3, 5), (1, 1)])


def rng(seed):
    return torch.Generator().manual_seed(seed)


def draw(seed, shape, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(shape, generator=rng(seed), dtype=dtype)


def length(vectors, norm):
    return vectors.norm(dim=-1) if norm == "l2" else vectors.abs().amax(-1)


def network(seed, width, classes=3):
    """A classifier with a hidden layer, whose loss is one number an example; token vectors are averaged first."""
    inner, outer = draw(seed, (width, 8), width**-0.5), draw(seed + 1, (8, classes))

    def loss(inputs, labels):
        pooled = inputs if inputs.dim() == 2 else inputs.mean(1)  # (B, D)
        logits = torch.tanh(pooled @ inner.to(inputs.dtype)) @ outer.to(inputs.dtype)  # (B, C)
        return F.cross_entropy(logits, labels, reduction="none")

    return loss


def task(seed, shape, dtype=torch.float64):
    """Inputs, and the loss of a network on labels of which most are what it says."""
    inputs, loss = draw(seed + 2, shape, dtype=dtype), network(seed, shape[-1])
    costs = torch.stack([loss(inputs, torch.full((shape[0],), label)) for label in range(3)])  # (C, B)
    labels = costs.argmin(0)  # (B,)
    return inputs, lambda moved: loss(moved, labels)


# ---------------------------------------------------------------- the ball


@PATIENT
@given(SEEDS, SHAPES, RADII, NORMS)
def test_the_projection_is_the_closed_form_vector_by_vector_and_stays_where_it_is(seed, shape, bound, norm):
    delta = draw(seed, shape)
    slow = torch.zeros_like(delta)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in shape[:-1])).view(-1, len(shape) - 1).tolist():
        vector = delta[tuple(place)].tolist()
        size = math.sqrt(sum(number**2 for number in vector))
        if norm == "linf":
            vector = [max(-bound, min(bound, number)) for number in vector]
        elif size > bound:
            vector = [number * bound / size for number in vector]
        slow[tuple(place)] = torch.tensor(vector)
    projected = project(delta, bound, norm)
    torch.testing.assert_close(projected, slow)
    torch.testing.assert_close(project(projected, bound, norm), projected, rtol=1e-12, atol=0)
    inside = random_in_ball(delta, bound, norm, rng(seed))
    torch.testing.assert_close(project(inside, bound, norm), inside, rtol=1e-12, atol=0)


@PATIENT
@given(SEEDS, NORMS)
def test_no_point_of_the_ball_is_nearer_than_the_projection(seed, norm):
    delta = draw(seed, (4, 3), 2.0)
    nearest = (project(delta, 0.7, norm) - delta).norm(dim=-1)
    for other in range(20):
        point = random_in_ball(delta, 0.7, norm, rng(other))
        assert ((point - delta).norm(dim=-1) >= nearest - 1e-9).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_points_fill_the_ball_evenly(norm):
    points = random_in_ball(torch.zeros(4000, 3, dtype=torch.float64), 2.0, norm, rng(0))
    sizes = length(points, norm) / 2
    assert sizes.max() <= 1 + 1e-6
    for share in (0.5, 0.8):  # within a share s of the radius lies s³ of the volume
        assert (sizes < share).double().mean().item() == pytest.approx(share**3, abs=0.03)
    assert points.mean(0).abs().max() < 0.1
    assert torch.equal(random_in_ball(points, 2.0, norm, rng(0)), points)


def test_the_radius_is_relative_to_the_mean_norm_and_linf_reaches_as_far_in_its_corners():
    for width in (4, 100):
        assert radius(Perturbation("pgd", "l2", 0.1), 5.0, width) == pytest.approx(0.5)
        corner = torch.full((width,), radius(Perturbation("pgd", "linf", 0.1), 5.0, width))
        assert corner.norm().item() == pytest.approx(0.5)


@PATIENT
@given(SEEDS, SHAPES)
def test_the_mean_norm_is_that_of_the_vectors_that_count(seed, shape):
    inputs = draw(seed, shape)
    rows = inputs.view(-1, shape[-1]).tolist()
    sizes = [math.sqrt(sum(number**2 for number in row)) for row in rows]
    assert mean_norm(inputs) == pytest.approx(sum(sizes) / len(sizes))
    mask = torch.rand(shape[:-1], generator=rng(seed)) < 0.5
    mask.view(-1)[0] = True
    kept = [size for size, counts in zip(sizes, mask.view(-1).tolist(), strict=True) if counts]
    assert mean_norm(inputs, mask) == pytest.approx(sum(kept) / len(kept))


# ---------------------------------------------------------------- one step


@PATIENT
@given(SEEDS, st.sampled_from([1e-30, 1e-6, 1.0, 1e30]))
def test_a_step_goes_its_full_length_uphill_however_small_the_gradient(seed, size):
    gradient = draw(seed, (3, 5), dtype=torch.float32)
    gradient[2] = 0
    zeros = torch.zeros_like(gradient)
    step = pgd_step(zeros, gradient * size, 0.2, 1.0, "l2")
    torch.testing.assert_close(step[:2], 0.2 * F.normalize(gradient[:2], dim=-1))
    assert (step[2] == 0).all()
    torch.testing.assert_close(pgd_step(zeros, gradient * size, 0.2, 1.0, "linf"), 0.2 * gradient.sign())


@PATIENT
@given(SEEDS, NORMS, RADII, st.sampled_from([0.1, 1.0, 10.0]))
def test_a_step_is_projected_back(seed, norm, bound, step):
    delta, gradient = project(draw(seed, (3, 5)), bound, norm), draw(seed + 1, (3, 5))
    way = gradient.sign() if norm == "linf" else gradient / gradient.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(pgd_step(delta, gradient, step, bound, norm), project(delta + step * way, bound, norm))


# ---------------------------------------------------------------- attacks and noise


@PATIENT
@given(SEEDS, KINDS, NORMS, st.sampled_from([(3, 4), (2, 3, 4)]), st.sampled_from([0.0, 0.05, 2.0]), st.booleans())
def test_no_norm_exceeds_the_radius_and_the_masked_are_untouched(seed, kind, norm, shape, epsilon, start):
    inputs, loss = task(seed, shape, torch.float32)
    noise = Perturbation(kind, norm, epsilon, steps=3, random_start=start)
    mask = torch.rand(shape[:-1], generator=rng(seed)) < 0.6
    before = inputs.clone()
    delta = perturb(inputs, loss, noise, 1.7, mask, rng(seed))
    assert (delta.shape, delta.dtype, delta.requires_grad) == (inputs.shape, inputs.dtype, False)
    assert (length(delta, norm) <= radius(noise, 1.7, shape[-1]) * (1 + 1e-6)).all()
    assert torch.equal((before + delta)[~mask], before[~mask])
    assert torch.equal(inputs, before)


@PATIENT
@given(SEEDS, KINDS, NORMS)
def test_one_state_of_the_generator_gives_one_perturbation(seed, kind, norm):
    inputs, loss = task(seed, (3, 4))
    noise = Perturbation(kind, norm, 0.5, steps=2)
    first, again = (perturb(inputs, loss, noise, 2.0, generator=rng(seed)) for _ in range(2))
    assert torch.equal(first, again)
    if kind in ("gaussian", "uniform"):
        assert not torch.equal(first, perturb(inputs, loss, noise, 2.0, generator=rng(seed + 1)))


@PATIENT
@given(SEEDS, NORMS, st.sampled_from([(3, 4), (2, 3, 4)]), st.booleans())
def test_fgsm_is_one_full_step_of_pgd_from_the_input(seed, norm, shape, summed):
    inputs, each = task(seed, shape)
    loss = (lambda moved: each(moved).sum()) if summed else each
    whole = Perturbation("pgd", norm, 0.3, steps=1, step_size=1.0, random_start=False)
    fgsm = perturb(inputs, loss, Perturbation("fgsm", norm, 0.3), 2.0)
    assert torch.equal(fgsm, perturb(inputs, loss, whole, 2.0))
    bound = radius(whole, 2.0, shape[-1])
    leaf = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(each(leaf).sum(), leaf)
    by_hand = bound * (slope.sign() if norm == "linf" else slope / slope.norm(dim=-1, keepdim=True))
    rises = (loss(inputs + by_hand) > loss(inputs)).view(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(fgsm, torch.where(rises, by_hand, torch.zeros_like(by_hand)))


@PATIENT
@given(SEEDS)
def test_on_a_linear_model_fgsm_is_the_exact_maximiser(seed):
    inputs, weight = draw(seed, (5, 6)), draw(seed + 1, (6,))
    signs = torch.tensor([1.0, -1, 1, -1, 1], dtype=torch.float64)  # of the labels

    def loss(moved):
        return F.softplus(-signs * (moved @ weight))

    for norm, dual in (("l2", weight.norm()), ("linf", weight.abs().sum())):
        noise = Perturbation("fgsm", norm, 0.2)
        bound = radius(noise, 3.0, 6)
        worst = F.softplus(-signs * (inputs @ weight) + bound * dual)  # by the dual norm
        torch.testing.assert_close(loss(inputs + perturb(inputs, loss, noise, 3.0)), worst)
        for other in range(10):
            tried = loss(inputs + random_in_ball(inputs, bound, norm, rng(other)))
            assert (tried <= worst + 1e-9).all()


@PATIENT
@given(SEEDS, NORMS, st.booleans(), st.booleans())
def test_more_steps_never_lower_the_loss_and_no_attack_helps(seed, norm, start, summed):
    inputs, each = task(seed, (4, 5))
    loss = (lambda moved: each(moved).sum()) if summed else each
    reached = [loss(inputs)]
    for steps in (1, 2, 4, 7):
        noise = Perturbation("pgd", norm, 0.4, steps=steps, step_size=0.5, random_start=start)
        reached.append(loss(inputs + perturb(inputs, loss, noise, 2.0, generator=rng(seed))))
    for less, more in itertools.pairwise(reached):
        assert (more >= less - 1e-12).all()


@PATIENT
@given(SEEDS, NORMS, st.booleans(), st.sampled_from(["fgsm", "pgd"]))
def test_the_curve_rises_from_the_clean_loss_to_that_of_the_perturbation(seed, norm, start, kind):
    inputs, loss = task(seed, (4, 5))
    noise = Perturbation(kind, norm, 0.4, steps=6, random_start=start)
    curve = loss_curve(inputs, loss, noise, 2.0, generator=rng(seed))
    delta = perturb(inputs, loss, noise, 2.0, generator=rng(seed))
    assert len(curve) == (2 if kind == "fgsm" else 7)
    assert (curve.diff() >= 0).all()
    torch.testing.assert_close(curve[[0, -1]], torch.stack([loss(inputs).mean(), loss(inputs + delta).mean()]))


def test_pgd_keeps_the_worst_of_a_loss_that_its_last_step_lowers():
    inputs = torch.zeros(2, 1, dtype=torch.float64)

    def loss(moved):  # the first example's peaks are at ±0.4, and a step of 1 jumps over them
        return torch.stack([-(moved[0, 0].abs() - 0.4 + 0.1 * moved[0, 0]).square(), moved[1, 0]])

    noise = Perturbation("pgd", "l2", 1.0, steps=4, step_size=0.45, random_start=False)
    delta = perturb(inputs + 1e-3, loss, noise, 1.0)
    assert delta[1].item() == pytest.approx(1.0)
    every = [0.0, 0.45, 0.0, 0.45, 0.0]
    best = max(loss(inputs + 1e-3 + torch.tensor([[step], [0.0]]))[0].item() for step in every)
    assert loss(inputs + 1e-3 + delta)[0].item() == pytest.approx(best)


@PATIENT
@given(SEEDS, st.sampled_from([(6, 4), (2, 3, 4)]))
def test_the_control_has_the_norms_of_the_attack_and_directions_of_its_own(seed, shape):
    delta = draw(seed, shape)
    delta[0] = 0
    control = random_control(delta, rng(seed + 1))
    torch.testing.assert_close(control.norm(dim=-1), delta.norm(dim=-1))
    assert (control[0] == 0).all()
    assert torch.equal(control, random_control(delta, rng(seed + 1)))
    many = random_control(torch.ones(3000, 4), rng(0)) / 2
    assert many.mean(0).abs().max() < 0.05
    torch.testing.assert_close(many.T @ many / 3000, torch.eye(4) / 4, atol=0.02, rtol=0)


def test_an_attack_does_far_more_than_random_noise_of_equal_norm():
    inputs, loss = task(0, (200, 64))
    for norm in ("l2", "linf"):
        delta = perturb(inputs, loss, Perturbation("pgd", norm, 0.2), mean_norm(inputs), generator=rng(0))
        attacked, control = (loss(inputs + noise).mean() for noise in (delta, random_control(delta, rng(1))))
        assert attacked - loss(inputs).mean() > 5 * (control - loss(inputs).mean()).abs()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_gaussian_noise_has_about_the_same_length_under_both_norms(norm):
    inputs = torch.zeros(500, 100)
    delta = perturb(inputs, lambda moved: moved.sum(), Perturbation("gaussian", norm, 0.1), 5.0, generator=rng(0))
    assert 0.3 < delta.norm(dim=-1).mean() <= 0.5
    assert delta.mean().abs() < 0.005


def test_inputs_in_half_precision_get_noise_in_half_precision():
    inputs, loss = task(0, (3, 8))
    for kind in ("gaussian", "uniform", "fgsm", "pgd"):
        delta = perturb(inputs.bfloat16(), lambda moved: loss(moved.double()), Perturbation(kind, "l2", 0.1), 2.0)
        assert delta.dtype == torch.bfloat16
        assert (delta.float().norm(dim=-1) <= 0.2 * 1.01).all()
        assert delta.any()


# ---------------------------------------------------------------- a real backbone


def test_through_a_language_models_input_embeddings(tiny):
    model, tokenizer = tiny
    assert any(weight.requires_grad for weight in model.parameters())
    texts = ["bitter venom", "what does the sleep potion do ?", "how do i make a warm healing potion ?"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])  # (B, T)
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])  # (B, T)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    mask = seen.bool() & ~special
    mask[:, 0] = False  # as a special token would be
    inputs = model.get_input_embeddings()(ids).detach()  # (B, T, D)
    says = model(inputs_embeds=inputs, attention_mask=seen).logits[torch.arange(3), seen.sum(1) - 1].argmax(-1)  # (B,)

    def loss(moved):
        logits = model(inputs_embeds=moved, attention_mask=seen).logits[torch.arange(3), seen.sum(1) - 1]  # (B, V)
        return F.cross_entropy(logits, says, reduction="none")

    noise = Perturbation("pgd", "l2", 0.3, steps=3)
    with torch.no_grad():  # as a careful caller has it
        delta = perturb(inputs, loss, noise, mean_norm(inputs, mask), mask, rng(0))
        clean, attacked, control = (loss(inputs + way) for way in (0 * delta, delta, random_control(delta, rng(1))))
    assert (attacked > clean).all()
    assert (attacked - clean).mean() > 3 * (control - clean).abs().mean()
    assert (delta[~mask] == 0).all()
    assert delta[mask].any(dim=-1).all()
    assert all(weight.grad is None for weight in model.parameters())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "noise"}, "kind must be one of gaussian, uniform, fgsm, pgd, not 'noise'"),
        ({"norm": "l1"}, "norm must be one of l2, linf, not 'l1'"),
        ({"epsilon": -0.1}, "epsilon must be 0 or more"),
        ({"epsilon": math.nan}, "epsilon must be 0 or more"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be above 0"),
    ],
)
def test_an_impossible_perturbation_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Perturbation(**{"kind": "pgd", "norm": "l2", "epsilon": 0.1} | settings)


def test_what_does_not_fit_is_refused():
    inputs, loss = task(0, (3, 4))
    noise = Perturbation("pgd", "l2", 0.1)
    with pytest.raises(ValueError, match=r"mask \(3, 4\) must have one entry per vector: \(3,\)"):
        perturb(inputs, loss, noise, 1.0, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(3, 4\); an attack needs one number an example, \(3,\), or a sum"):
        perturb(inputs, lambda moved: moved, noise, 1.0)
    for constant in (lambda moved: torch.ones(3), lambda moved: torch.ones(3, requires_grad=True) * 2):
        with pytest.raises(ValueError, match="does not depend on the inputs"):
            perturb(inputs, constant, noise, 1.0)
    with pytest.raises(ValueError, match="'gaussian' takes none"):
        loss_curve(inputs, loss, Perturbation("gaussian", "l2", 0.1), 1.0)
    with pytest.raises(ValueError, match="no vector to measure"):
        mean_norm(inputs, torch.zeros(3, dtype=torch.bool))
