"""Shields: the printed anchor does nothing, the phase anchor pulls back, the masked update holds bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.immunization import printed
from safealign_lab.immunization.canaries import select
from safealign_lab.immunization.shields import MaskedUpdate, PhaseAnchor
from safealign_lab.objectives import negative_log_likelihood
from safealign_lab.training import Plan, train, weights_hash

quick = settings(max_examples=20, deadline=None)
SEEDS = st.integers(0, 10**6)
FRACTIONS = st.sampled_from([0.05, 0.3, 0.9, 1.0])


def weights_of(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (5,), "c": ()}
    return {name: torch.randn(shape, generator=generator).requires_grad_() for name, shape in shapes.items()}


def canaries_of(weights, fraction=0.4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return select({name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}, fraction)


def task(weights, away=1.0):
    """A loss whose minimum is elsewhere for every weight."""
    return sum((weight - away).square().sum() for weight in weights.values())


def moved(weights, before, canaries, on=True):
    """How far the canaries (or all others) have moved, by a slow loop."""
    total = 0.0
    for name, weight in weights.items():
        flags = canaries.mask(name).flatten().tolist()
        for value, old, flag in zip(weight.flatten().tolist(), before[name].flatten().tolist(), flags, strict=True):
            total += (value - old) ** 2 if flag is on else 0.0
    return total


def kept(weights):
    return {name: weight.detach().clone() for name, weight in weights.items()}


PLAN = Plan(40, 0.05, clip=None)


def fit(weights, extra=lambda: 0.0, plan=PLAN, **options):
    train(weights, lambda step, generator: task(weights) + extra(), plan, progress=False, **options)


# ---------------------------------------------------------------- the printed anchor


def test_the_printed_anchor_is_bit_identical_for_no_weight_and_for_a_million():
    ends = []
    for stabilization in (0.0, 1e6):
        weights = weights_of()
        masks = canaries_of(weights).masks(weights)

        def loss(step, generator, weights=weights, masks=masks, stabilization=stabilization):
            stability = printed.stab_loss(weights, masks)
            assert stability == 0
            return printed.align_loss(task(weights), torch.zeros(()), stability, 0.0, stabilization)

        train(weights, loss, PLAN, progress=False)
        ends.append(weights_hash(weights))
    assert ends[0] == ends[1]
    assert ends[0] != weights_hash(weights_of())


def test_the_printed_anchors_gradient_is_zero_wherever_it_is_evaluated():
    weights = weights_of()
    loss = printed.stab_loss(weights, canaries_of(weights, 1.0).masks(weights))
    assert loss.requires_grad
    assert all((slope == 0).all() for slope in torch.autograd.grad(loss, list(weights.values())))


# ---------------------------------------------------------------- the phase anchor


@given(SEEDS, FRACTIONS, st.booleans())
@quick
def test_the_penalty_and_its_gradient_equal_slow_loops(seed, fraction, weighted):
    weights = weights_of(seed)
    canaries, before = canaries_of(weights, fraction, seed), kept(weights)
    generator = torch.Generator().manual_seed(seed)
    importance = {name: torch.rand(weight.shape, generator=generator) + 0.1 for name, weight in weights.items()}
    anchor = PhaseAnchor(weights, canaries, importance if weighted else None)
    assert anchor.penalty() == 0
    for weight in weights.values():
        weight.data.add_(torch.randn(weight.shape, generator=generator))
    flags = torch.cat([canaries.mask(name).flatten() for name in weights])
    factors = torch.cat([importance[name].flatten() for name in weights]) if weighted else torch.ones(len(flags))
    factors = factors / factors[flags].mean()
    ways = torch.cat([(weight.detach() - before[name]).flatten() for name, weight in weights.items()])
    triples = zip(flags.tolist(), factors.tolist(), ways.tolist(), strict=True)
    slow = sum(factor * way**2 for flag, factor, way in triples if flag)
    assert anchor.penalty().item() == pytest.approx(slow, rel=1e-5)
    found = torch.autograd.grad(anchor.penalty(), list(weights.values()), allow_unused=True)
    slopes = [
        torch.zeros_like(weight) if one is None else one for one, weight in zip(found, weights.values(), strict=True)
    ]
    torch.testing.assert_close(torch.cat([one.flatten() for one in slopes]), 2 * factors * ways * flags)


def test_the_drift_of_the_canaries_falls_as_the_stabilization_grows():
    drifts, others = [], []
    for stabilization in (0.0, 0.1, 1.0, 10.0, 1e3):
        weights = weights_of()
        canaries, before = canaries_of(weights), kept(weights)
        anchor = PhaseAnchor(weights, canaries)
        fit(weights, lambda anchor=anchor, stabilization=stabilization: stabilization * anchor.penalty())
        drifts.append(moved(weights, before, canaries))
        others.append(moved(weights, before, canaries, on=False))
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[0] > 1.0
    assert drifts[-1] < 1e-3 * drifts[0]
    assert others == pytest.approx([others[0]] * 5, rel=1e-3)


def test_the_anchor_is_the_start_of_the_phase_and_not_where_the_weights_are_now():
    weights = weights_of()
    anchor = PhaseAnchor(weights, canaries_of(weights))
    fit(weights)
    assert anchor.penalty() > 1.0
    assert PhaseAnchor(weights, canaries_of(weights)).penalty() == 0


def test_the_more_important_canaries_are_held_harder():
    weights = {"w": torch.zeros(4, requires_grad=True)}
    canaries = select({"w": torch.ones(4)}, 1.0)
    anchor = PhaseAnchor(weights, canaries, {"w": torch.tensor([0.0, 1.0, 10.0, 100.0])})
    fit(weights, lambda: 3.0 * anchor.penalty(), Plan(300, 0.05, clip=None))
    ends = weights["w"].tolist()
    assert ends == sorted(ends, reverse=True)
    assert ends[0] == pytest.approx(1.0, abs=0.02)  # as if it were no canary
    assert ends[3] < 0.2


# ---------------------------------------------------------------- the masked update


@given(SEEDS, FRACTIONS)
@quick
def test_canaries_are_bit_identical_under_adamw_with_decay_and_momentum(seed, fraction):
    weights = weights_of(seed)
    canaries, before = canaries_of(weights, fraction, seed), kept(weights)
    shield = MaskedUpdate(weights, canaries)
    fit(weights, plan=Plan(6, 0.05, weight_decay=0.3), after_step=shield.hold)
    for name, weight in weights.items():
        mask = canaries.mask(name)
        assert torch.equal(weight[mask], before[name][mask])
        assert (weight[~mask] != before[name][~mask]).all()


def test_a_zeroed_gradient_alone_still_drifts_by_decay_and_by_momentum_from_before():
    weights = weights_of()
    canaries = canaries_of(weights)
    shield = MaskedUpdate(weights, canaries)
    fit(weights, plan=Plan(6, 0.05, weight_decay=0.3), gradient=shield.masking())
    for name, mask in shield.masks.items():
        assert (weights[name][mask] != shield.values[name]).all()

    weights = weights_of()
    optimizer = torch.optim.AdamW(weights.values(), 0.05, weight_decay=0.0)
    shield = MaskedUpdate(weights, canaries)
    for masked in (False, True):
        before = kept(weights)
        optimizer.zero_grad()
        shield.masking()(lambda weights=weights: {"loss": task(weights)}) if masked else task(weights).backward()
        optimizer.step()
    for name, mask in shield.masks.items():
        assert (weights[name].grad[mask] == 0).all()
        assert (weights[name][mask] != before[name][mask]).all()  # the second step had no gradient there
    shield.hold()
    for name, mask in shield.masks.items():
        assert torch.equal(weights[name][mask], shield.values[name])


def test_an_optimiser_of_ones_own_is_held_by_a_call():
    weights = weights_of()
    canaries, before = canaries_of(weights), kept(weights)
    shield, optimizer = (
        MaskedUpdate(weights, canaries),
        torch.optim.SGD(weights.values(), 0.1, momentum=0.9, weight_decay=0.1),
    )
    for _ in range(5):
        optimizer.zero_grad()
        task(weights).backward()
        optimizer.step()
        shield.hold()
    assert moved(weights, before, canaries) == 0
    assert moved(weights, before, canaries, on=False) > 0.1


def test_masked_gradients_leave_the_clipping_to_the_others():
    weights = {"w": torch.tensor([1e3, 2.0], requires_grad=True)}
    canaries = select({"w": torch.tensor([1.0, 0.0])}, 0.5)
    shield = MaskedUpdate(weights, canaries)
    plan, norms = Plan(1, 0.1, clip=1.0), []
    for options in ({}, {"gradient": shield.masking()}):
        history = train(weights, lambda step, generator: weights["w"].square().sum(), plan, after_step=shield.hold,
                        progress=False, **options)  # fmt: skip
        norms.append(history.rows[0]["gradient_norm"])
        assert weights["w"][0] == 1e3
        weights["w"].data[1] = 2.0
    assert norms == pytest.approx([2e3, 4.0], rel=1e-3)


def test_a_held_run_is_resumed_bit_for_bit(tmp_path):
    def run(folder, stop=None):
        weights = weights_of()
        shield = MaskedUpdate(weights, canaries_of(weights))

        def hold(step):
            if step == stop:
                raise KeyboardInterrupt
            shield.hold(step)

        fit(weights, plan=Plan(8, 0.05, weight_decay=0.1, checkpoint_every=2), after_step=hold, folder=folder)
        return weights_hash(weights)

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 5)
    assert run(tmp_path) == whole


def test_a_model_with_tied_weights_is_held_and_trained(toy):
    model = copy.deepcopy(toy[0])
    weights = dict(model.named_parameters())
    canaries, before = canaries_of(weights, 0.3), kept(weights)
    ids = torch.randint(7, len(toy[1]), (3, 8), generator=torch.Generator().manual_seed(0))  # (B, T)
    shield = MaskedUpdate(weights, canaries)
    train(weights, lambda step, generator: negative_log_likelihood(model(ids).logits, ids, torch.ones_like(ids)),
          Plan(4, 1e-2, weight_decay=0.1), after_step=shield.hold, progress=False)  # fmt: skip
    assert moved(weights, before, canaries) == 0
    assert moved(weights, before, canaries, on=False) > 0.1
    assert model.lm_head.weight is model.model.embed_tokens.weight


# ---------------------------------------------------------------- what is refused


def test_shields_of_another_model_or_of_nothing_are_refused():
    weights = weights_of()
    other = {**weights, "a": torch.zeros(4, 4, requires_grad=True)}
    for shield in (PhaseAnchor, MaskedUpdate):
        with pytest.raises(ValueError, match=r"another model: there 'a' is \(4, 3\), here it is \(4, 4\)"):
            shield(other, canaries_of(weights))
        with pytest.raises(ValueError, match="no canary to hold: select a fraction above 0"):
            shield(weights, canaries_of(weights, 0.0))
    with pytest.raises(ValueError, match="Importances with the mean 0.0 hold nothing"):
        PhaseAnchor(weights, canaries_of(weights), {name: torch.zeros_like(weight) for name, weight in weights.items()})
