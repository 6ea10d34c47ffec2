"""The attack on weights: as far as was asked, uphill, and back bit for bit, whatever happens in between."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.immunization.weight_attack import at_perturbed_weights, perturbed
from safealign_lab.objectives import negative_log_likelihood
from safealign_lab.training import Plan, backward, step_generator, train, weights_hash

quick = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 10**6)
RADII = st.sampled_from([1e-3, 0.01, 0.1, 1.0])


class Interrupted(Exception):
    pass


def network(seed=0, dtype=torch.float32):
    """Tensors of very different sizes, and a smooth loss of them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (6, 5), "b": (5, 3), "c": (3,), "d": ()}
    weights = {
        name: (10.0**number * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for number, (name, shape) in enumerate(shapes.items(), start=-2)
    }
    inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64).to(dtype)  # (B, 6)

    def loss():
        hidden = torch.tanh(inputs @ weights["a"] @ weights["b"])  # (B, 3)
        return (hidden @ weights["c"] + weights["d"]).square().mean()

    return weights, loss


def kept(weights):
    return {name: weight.detach().clone() for name, weight in weights.items()}


def relative_norms(weights, before):
    return {
        name: ((weights[name].detach().double() - value.double()).norm() / value.double().norm()).item()
        for name, value in before.items()
    }


# ---------------------------------------------------------------- how far, and where to


@given(SEEDS, RADII, st.integers(1, 4), st.booleans())
@quick
def test_each_tensor_moves_by_the_share_of_its_norm_that_was_asked(seed, radius, steps, random):
    weights, loss = network(seed)
    before = kept(weights)
    with perturbed(weights, radius, None if random else loss, steps):
        moved = relative_norms(weights, before)
    assert moved == pytest.approx(dict.fromkeys(weights, radius), rel=1e-3)


@given(SEEDS, RADII)
@quick
def test_one_step_is_the_formula(seed, radius):
    weights, loss = network(seed, torch.float64)
    before, gradients = kept(weights), torch.autograd.grad(loss(), list(weights.values()))
    with perturbed(weights, radius, loss):
        for (name, value), gradient in zip(before.items(), gradients, strict=True):
            expected = value + radius * value.norm() * gradient / gradient.norm()
            torch.testing.assert_close(weights[name].detach(), expected, rtol=1e-9, atol=1e-12)


def test_further_steps_follow_the_gradient_at_the_place_reached():
    weights, loss = network(1, torch.float64)
    before, radius = kept(weights), 0.3
    slow = {name: torch.zeros_like(value) for name, value in before.items()}
    for step in range(3):
        there = {name: (before[name] + slow[name]).requires_grad_() for name in before}
        twin, twin_loss = network(1, torch.float64)
        for name, weight in twin.items():
            weight.data.copy_(there[name])
        for name, gradient in zip(twin, torch.autograd.grad(twin_loss(), list(twin.values())), strict=True):
            length = radius * before[name].norm()
            ahead = slow[name] + (0.5 if step else 1.0) * length * gradient / gradient.norm()
            slow[name] = length * ahead / ahead.norm()
    with perturbed(weights, radius, loss, steps=3):
        for name, value in before.items():
            torch.testing.assert_close(weights[name].detach(), value + slow[name])


@given(SEEDS)
@quick
def test_the_ascent_raises_the_loss_and_random_directions_of_equal_norm_hardly_do(seed):
    weights, loss = network(seed)
    risen = {}
    for name, raised, steps in (("ascent", loss, 1), ("further", loss, 3), ("random", None, 1)):
        with perturbed(weights, 0.01, raised, steps, torch.Generator().manual_seed(seed)):
            risen[name] = (loss() - clean_loss(seed)).item()
    assert risen["ascent"] > 0
    assert risen["further"] > 0.9 * risen["ascent"]
    assert abs(risen["random"]) < risen["ascent"]


def clean_loss(seed):
    return network(seed)[1]().detach()


def test_random_directions_are_those_of_the_generator():
    weights, _ = network()
    moved = []
    for seed in (1, 1, 2):
        with perturbed(weights, 0.1, generator=torch.Generator().manual_seed(seed)):
            moved.append(kept(weights))
    assert weights_hash(moved[0]) == weights_hash(moved[1]) != weights_hash(moved[2])


def test_tiny_gradients_have_a_direction_and_none_or_zero_moves_nothing():
    near, far, alone, zero = (torch.full((4,), value, requires_grad=True) for value in (1.0, 2.0, 3.0, 0.0))
    weights = {"near": near, "far": far, "alone": alone, "zero": zero}
    with perturbed(weights, 0.1, lambda: 1e-30 * near.sum() + 0.0 * far.sum() + zero.sum()):
        assert near.tolist() == pytest.approx([1.1] * 4)
        assert far.tolist() == [2.0] * 4
        assert alone.tolist() == [3.0] * 4
        assert zero.tolist() == [0.0] * 4
    with perturbed(weights, 0.1):
        assert zero.tolist() == [0.0] * 4


def test_weights_in_half_precision_move_as_far_as_their_rounding_lets_them():
    whole, loss = network(3, torch.bfloat16)
    weights = {name: whole[name] for name in "ab"}  # a handful of numbers would move by whole roundings
    before = kept(weights)
    with perturbed(weights, 0.1, loss):
        assert relative_norms(weights, before) == pytest.approx(dict.fromkeys(weights, 0.1), rel=0.05)
    assert weights_hash(weights) == weights_hash(before)
    with pytest.raises(ValueError, match=r"attack_radius of 0.001 is lost in the rounding .* that keep 0.008 of"):  # noqa: SIM117
        with perturbed(weights, 0.001, loss):
            pass


# ---------------------------------------------------------------- and back


@given(SEEDS, st.integers(1, 3), st.sampled_from(["block", "loss", "never"]))
@quick
def test_weights_are_back_bit_for_bit_also_after_an_exception(seed, steps, where):
    weights, loss = network(seed)
    before, calls = weights_hash(weights), []

    def counted():
        calls.append(weights_hash(weights))
        if where == "loss" and len(calls) == steps:
            raise Interrupted
        return loss()

    try:
        with perturbed(weights, 0.05, counted, steps):
            assert weights_hash(weights) != before
            for weight in weights.values():
                weight.data.mul_(3.0)  # whatever the block does to them
            if where == "block":
                raise Interrupted
    except Interrupted:
        assert where != "never"
    else:
        assert where == "never"
    assert weights_hash(weights) == before
    assert len(set(calls)) == steps  # each step is taken from another place


def test_a_model_with_tied_and_frozen_weights_moves_once_and_comes_back(toy):
    model = copy.deepcopy(toy[0])
    model.model.layers[0].requires_grad_(False)
    tensors = {**dict(model.named_parameters()), "lm_head.weight": model.lm_head.weight}
    assert tensors["lm_head.weight"] is tensors["model.embed_tokens.weight"]
    before, whole = kept(tensors), weights_hash(model)
    ids = torch.randint(7, len(toy[1]), (3, 8), generator=torch.Generator().manual_seed(0))  # (B, T)

    def loss():
        return negative_log_likelihood(model(ids).logits, ids, torch.ones_like(ids))

    with perturbed(tensors, 0.02, loss):
        moved = relative_norms(tensors, before)
        assert model.lm_head.weight is model.model.embed_tokens.weight
    frozen = {name for name in tensors if ".layers.0." in name}
    assert {name for name, share in moved.items() if share == 0} == frozen
    assert [share for name, share in moved.items() if name not in frozen] == pytest.approx(
        [0.02] * (len(moved) - 9), rel=1e-3
    )
    assert weights_hash(model) == whole
    assert all(weight.grad is None for weight in model.parameters())


def test_the_gradient_of_the_block_stays_and_is_that_of_the_perturbed_weights():
    weights, loss = network(2)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)  # what was there is neither used nor lost
    with perturbed(weights, 0.1, loss, steps=2):
        moved = kept(weights)
        loss().backward()
    twin, twin_loss = network(2)
    for name, weight in twin.items():
        weight.data.copy_(moved[name])
    twin_loss().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, twin[name].grad + 1)


def test_a_graph_of_the_block_is_refused_outside_of_it():
    weights, loss = network()
    with perturbed(weights, 0.1, loss):
        value = loss()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_block_meets_the_chance_that_it_would_have_met_without_an_attack():
    weights, loss = network()

    def dropped():
        torch.rand(5)
        return loss()

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with perturbed(weights, 0.1, dropped, steps=2):
        assert torch.equal(torch.rand(4), expected)


def test_a_radius_of_zero_is_no_attack():
    weights, _ = network()
    before = weights_hash(weights)
    with perturbed(weights, 0.0, lambda: pytest.fail("asked")):
        assert weights_hash(weights) == before


def test_impossible_attacks_are_refused():
    weights, loss = network()
    frozen = {"a": torch.ones(3)}
    other = torch.ones(3, requires_grad=True)
    for arguments, sentence in (
        ((weights, -0.1, loss), "attack_radius must be 0 or more .* not -0.1"),
        ((weights, float("nan"), loss), "attack_radius must be 0 or more"),
        ((weights, 0.1, loss, 0), "steps must be at least 1, not 0"),
        ((frozen, 0.1, loss), "no weight to perturb: pass tensors that require a gradient"),
        (({}, 0.1, loss), "no weight to perturb"),
        ((weights, 0.1, lambda: other.sum()), "does not depend on any weight that it may move"),
        ((weights, 0.1, lambda: torch.ones(())), "does not depend on any weight that it may move"),
    ):
        before = weights_hash(weights)
        with pytest.raises(ValueError, match=sentence):  # noqa: SIM117
            with perturbed(*arguments):
                pytest.fail("the block ran")
        assert weights_hash(weights) == before


# ---------------------------------------------------------------- in training


def run(gradient_of, steps=4, noisy=False, parts=1, folder=None):
    weights, loss = network(4)

    def loss_fn(step, generator):
        value = loss() * (1 + torch.rand((), generator=generator)) + (
            0.1 * torch.rand(()) * weights["d"] if noisy else 0
        )
        return {"loss": value, "refusal": weights["c"].square().sum()}

    for _ in range(parts):
        train(weights, loss_fn, Plan(steps, 0.01, clip=None, checkpoint_every=1), gradient=gradient_of(weights),
              folder=folder, progress=False)  # fmt: skip
    return weights


def test_training_steps_from_where_it_is_with_the_gradient_from_elsewhere():
    for raised in ("loss", "refusal"):
        slow, slow_loss = network(4)
        optimizer = torch.optim.AdamW(slow.values(), weight_decay=0.0)
        plan = Plan(4, 0.01)
        for step in range(1, 5):
            scale = 1 + torch.rand((), generator=step_generator(0, step))
            up = scale * slow_loss() if raised == "loss" else slow["c"].square().sum()
            slopes = torch.autograd.grad(up, list(slow.values()), allow_unused=True)
            before = kept(slow)
            for (name, weight), slope in zip(slow.items(), slopes, strict=True):
                if slope is not None:
                    weight.data.add_(0.05 * before[name].norm() * slope / slope.norm())
            optimizer.zero_grad()
            (scale * slow_loss()).backward()
            for name, weight in slow.items():
                weight.data.copy_(before[name])
            optimizer.param_groups[0]["lr"] = 0.01 * plan.multiplier(step)
            optimizer.step()
        mine = run(lambda weights, raised=raised: at_perturbed_weights(weights, 0.05, raised))
        for name, weight in mine.items():
            torch.testing.assert_close(weight, slow[name], rtol=1e-4, atol=1e-6)


def test_an_attack_changes_the_training_and_random_directions_otherwise():
    ends = [
        weights_hash(run(gradient))
        for gradient in (
            lambda weights: backward, lambda weights: at_perturbed_weights(weights, 0.05),
            lambda weights: at_perturbed_weights(weights, 0.05, None), lambda weights: at_perturbed_weights(weights, 0.0),
        )
    ]  # fmt: skip
    assert len(set(ends)) == 3
    assert ends[0] == ends[3]


@pytest.mark.parametrize("raised", ["loss", None])
def test_a_run_with_an_attack_is_resumed_bit_for_bit(tmp_path, raised):
    class Stopping:
        calls = 0

    def attack(weights):
        def gradient(closure):
            Stopping.calls += 1
            if Stopping.calls == 3:
                raise KeyboardInterrupt
            return at_perturbed_weights(weights, 0.05, raised)(closure)

        return gradient

    whole = run(lambda weights: at_perturbed_weights(weights, 0.05, raised), noisy=True)
    with pytest.raises(KeyboardInterrupt):
        run(attack, noisy=True, folder=tmp_path)
    torch.manual_seed(99)  # another process has another chance
    assert weights_hash(run(attack, noisy=True, folder=tmp_path)) == weights_hash(whole)


def test_a_term_that_the_loss_does_not_have_is_refused():
    with pytest.raises(ValueError, match="attack is to raise 'push', but the loss function returns loss, refusal"):
        run(lambda weights: at_perturbed_weights(weights, 0.05, "push"))
