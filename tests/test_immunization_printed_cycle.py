"""The printed cycle: its losses are the printed equations, its attack stays in the weights, and its anchor does nothing."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from toy_cycle import HARMFUL, OTHERS, PREFERRED, merged, room_of, small

from safealign_lab.chat import response_logps
from safealign_lab.immunization import printed, printed_cycle
from safealign_lab.immunization.curriculum import schedule
from safealign_lab.immunization.cycle import trained_weights
from safealign_lab.immunization.phases import aligning, immunizing
from safealign_lab.immunization.printed_cycle import PREFER, REFUSE, hardened, run_as_printed
from safealign_lab.immunization.references import response_of
from safealign_lab.immunization.weight_attack import at_perturbed_weights
from safealign_lab.training import Plan, backward, step_generator, train, weights_hash

EVERY = PREFERRED + OTHERS
FIRST, SECOND = (Plan(3, 5e-3, schedule="constant", seed=seed) for seed in (11, 12))
RADIUS = 0.03


def fresh():
    """In double precision, where rounding decides nothing."""
    return room_of(small(1).double())


@cache
def speakers():
    """Reference and harmful teacher as models of their own."""
    return small().double(), merged(fresh().teachers, "harmful")


def printed_run(of=None, first=FIRST, second=SECOND, **options):
    """A student after a printed cycle, and its canaries."""
    of = of or fresh()
    return of.student, run_as_printed(of, HARMFUL, EVERY, first, second, RADIUS, **options)


# ---------------------------------------------------------------- the printed equations, put together by hand


def drawn(pool, count, generator):
    return [pool[n] for n in torch.randint(len(pool), (count,), generator=generator).tolist()]


def logps(model, batch):
    return response_logps(model(**batch.inputs()).logits, batch.input_ids, response_of(batch))


def refusing(of, step, steps, seed, order=REFUSE.order):
    """γ ((1 - λ) L_NPO + λ L_RKL) of a step's rows, with γ = 1."""
    levels = schedule(order)((step - 1) / steps)
    pool = [row for level in levels for row in HARMFUL if row.level == level]
    rows = drawn(pool, REFUSE.harmful, step_generator(seed, step))
    chosen, rejected = of.batch(rows, "chosen"), of.batch(rows, "rejected")
    reference, harmful = speakers()
    with torch.no_grad():
        known = [logps(reference, batch) for batch in (chosen, rejected)]
        theirs = harmful(**rejected.inputs()).logits
    npo = printed.npo_loss(logps(of.student, chosen), logps(of.student, rejected), *known, REFUSE.beta_dpo)
    rkl = printed.rkl_loss(of.student(**rejected.inputs()).logits, theirs, response_of(rejected))
    return {"refusal": npo, "push": rkl, "loss": printed.refusal_loss(npo, rkl, REFUSE.push_weight, 1.0)}


def preferring(of, step, seed):
    """(1 - α) L_DPO + α KL(π_ref ‖ π_θ) of a step's rows, whatever their level, and no anchor."""
    rows = drawn(EVERY, PREFER.rows, step_generator(seed, step))
    chosen, rejected = of.batch(rows, "chosen"), of.batch(rows, "rejected")
    logits, mask = of.student(**chosen.inputs()).logits, response_of(chosen)[:, 1:]
    with torch.no_grad():
        its = speakers()[0](**chosen.inputs()).logits.log_softmax(-1)
        known = [logps(speakers()[0], batch) for batch in (chosen, rejected)]
    gains = [logps(of.student, batch) - its for batch, its in zip((chosen, rejected), known, strict=True)]
    dpo = -F.logsigmoid(PREFER.beta_dpo * (gains[0] - gains[1])).mean()
    apart = (its.exp() * (its - logits.log_softmax(-1))).sum(-1)[:, :-1][mask].mean()
    return printed.align_loss(dpo, apart, torch.zeros(()), PREFER.kl_weight, 1.0)


def by_hand(put_back, order):
    """The whole cycle in a loop of its own: the weights between the phases and at the end, and |g| of the last batch."""
    of = fresh()
    weights = trained_weights(of.student)
    tensors = list(weights.values())
    for plan in (FIRST, SECOND):
        optimizer = torch.optim.AdamW(tensors, plan.learning_rate, weight_decay=0.0)
        for step in range(1, plan.steps + 1):
            optimizer.zero_grad()
            start = [weight.detach().clone() for weight in tensors]
            if plan is FIRST:
                slopes = torch.autograd.grad(refusing(of, step, plan.steps, plan.seed, order)["loss"], tensors)
                for weight, slope in zip(tensors, slopes, strict=True):
                    weight.data += RADIUS * weight.data.norm() * slope / slope.norm()
                refusing(of, step, plan.steps, plan.seed, order)["loss"].backward()
                last = {name: weight.grad.abs() for name, weight in weights.items()}
                for weight, value in zip(tensors, start, strict=True):
                    weight.data.copy_(value if put_back else weight)
            else:
                preferring(of, step, plan.seed).backward()
            torch.nn.utils.clip_grad_norm_(tensors, plan.clip)
            optimizer.step()
        if plan is FIRST:
            between = {name: weight.detach().clone() for name, weight in weights.items()}
    return between, weights, last


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_first_phases_loss_is_the_printed_equations_with_no_harmless_row(step):
    of = fresh()
    terms = immunizing(of, HARMFUL, EVERY, REFUSE, 3)(step, step_generator(5, step))
    slow = refusing(of, step, 3, 5)
    for name, value in slow.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5)
    weights = list(trained_weights(of.student).values())
    both = (torch.autograd.grad(loss, weights) for loss in (terms["loss"], slow["loss"]))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert terms["kept"] == 0


def test_the_second_phases_loss_is_the_printed_equation_guided_by_the_reference_alone():
    of = fresh()
    terms = aligning(of, EVERY, PREFER)(2, step_generator(5, 2))
    assert terms["loss"].item() == pytest.approx(preferring(of, 2, 5).item(), rel=1e-5)


@pytest.mark.parametrize(("put_back", "order"), [(False, "mixed"), (True, "mixed"), (False, "rising")])
def test_the_whole_cycle_equals_a_loop_by_hand(put_back, order):
    between, end, last = by_hand(put_back, order)
    of, seen = fresh(), []

    def look(canaries):
        seen.append({name: weight.detach().clone() for name, weight in trained_weights(of.student).items()})
        seen.append(canaries)

    _, canaries = printed_run(of, put_back=put_back, order=order, canary_fraction=0.2, between=look)
    assert len(seen) == 2
    assert seen[1] is canaries
    for name, weight in trained_weights(of.student).items():
        torch.testing.assert_close(seen[0][name], between[name], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(weight, end[name], rtol=1e-3, atol=1e-5)
    scores = torch.cat([part.flatten() for part in last.values()])
    chosen = torch.cat([canaries.mask(name).flatten() for name in last])
    assert chosen.sum() == -(-len(scores) // 5)
    assert scores[chosen].min() >= 0.999 * scores[~chosen].max(), "the largest gradients of the last batch alone"


def test_canaries_come_from_the_last_batch_and_not_from_the_sum_of_all():
    """One step more, at a rate that moves nothing: its batch alone decides."""
    still = dataclasses.replace(FIRST, learning_rate=1e-12)
    of = fresh()
    chosen = [
        printed_run(first=dataclasses.replace(still, steps=steps), put_back=True, canary_fraction=0.2)[1]
        for steps in (1, 2)
    ]
    weights = trained_weights(of.student)
    for steps, found in zip((1, 2), chosen, strict=True):
        gradient = at_perturbed_weights(weights, RADIUS)
        for weight in weights.values():
            weight.grad = None
        gradient(lambda steps=steps: refusing(of, steps, steps, still.seed))
        sizes = torch.cat([weight.grad.abs().flatten() for weight in weights.values()])
        mask = torch.cat([found.mask(name).flatten() for name in weights])
        assert sizes[mask].min() >= 0.999 * sizes[~mask].max()
    assert weights_hash(chosen[0].bits) != weights_hash(chosen[1].bits)


# ---------------------------------------------------------------- the attack that stays, and the anchor that does not hold


@pytest.mark.parametrize("radius", [0.001, 0.05])
def test_a_hardened_model_is_left_where_the_attack_moved_it_and_the_other_way_puts_it_back(radius):
    gradients, ends = {}, {}
    for name, attacked in (("stays", hardened), ("put back", at_perturbed_weights)):
        of = fresh()
        weights = trained_weights(of.student)
        calls = []

        def closure(of=of, calls=calls):
            calls.append(1)
            return refusing(of, 1, 3, 0)

        start = {key: weight.detach().clone() for key, weight in weights.items()}
        terms = attacked(weights, radius)(closure)
        assert len(calls) == 2
        gradients[name] = {key: weight.grad for key, weight in weights.items()}
        ends[name] = {key: weight.detach() - start[key] for key, weight in weights.items()}
        for key, moved in ends[name].items():
            expected = radius * start[key].norm().item() if name == "stays" else 0.0
            assert moved.norm().item() == pytest.approx(expected, rel=1e-5)
        assert terms["loss"] > refusing(fresh(), 1, 3, 0)["loss"], "the loss is that of the attacked model"
    for key, gradient in gradients["stays"].items():
        torch.testing.assert_close(gradient, gradients["put back"][key], rtol=1e-5, atol=1e-8)
    slopes = torch.autograd.grad(refusing(of := fresh(), 1, 3, 0)["loss"], list(trained_weights(of.student).values()))
    for moved, slope in zip(ends["stays"].values(), slopes, strict=True):
        assert F.cosine_similarity(moved.flatten(), slope.flatten(), dim=0) > 1 - 1e-6


def test_the_gradient_at_the_place_is_whatever_is_asked_for():
    of, asked = fresh(), []

    def gradient(closure):
        asked.append(weights_hash(of.student))
        return backward(closure)

    hardened(trained_weights(of.student), RADIUS, gradient=gradient)(lambda: refusing(of, 1, 3, 0))
    assert asked == [weights_hash(of.student)]


def test_put_back_is_the_attack_of_the_kit_and_step_by_step_the_deltas_add_up():
    ends = {}
    for put_back in (False, True):
        of = fresh()
        printed_run(
            of, put_back=put_back, between=lambda canaries, of=of: ends.update({len(ends): weights_hash(of.student)})
        )
    plain = fresh()
    weights = trained_weights(plain.student)
    loss = immunizing(plain, HARMFUL, EVERY, REFUSE, FIRST.steps)
    train(weights, loss, FIRST, gradient=at_perturbed_weights(weights, RADIUS), progress=False)
    assert ends[1] == weights_hash(plain.student) != ends[0]
    far = []
    for steps in (1, 6):  # at a rate that moves nothing, so that there is the attack alone
        of = fresh()
        start = {name: weight.detach().clone() for name, weight in trained_weights(of.student).items()}
        still = Plan(steps, 1e-12, schedule="constant", seed=3)
        run_as_printed(of, HARMFUL, EVERY, still, still, RADIUS)
        moved = [
            (weight.detach() - start[name]).norm() / start[name].norm()
            for name, weight in trained_weights(of.student).items()
        ]
        far.append(torch.stack(moved))
    torch.testing.assert_close(far[0], torch.full_like(far[0], RADIUS), rtol=1e-5, atol=0)
    assert (far[1] > 2 * far[0]).all()


def test_the_anchor_does_nothing_at_any_weight_and_for_any_canaries(monkeypatch):
    ends = []
    for weight, fraction in ((0.0, 0.5), (1.0, 0.5), (1e6, 0.5), (1e6, 0.01)):
        monkeypatch.setattr(printed_cycle, "STABILIZATION", weight)
        of, start = room_of(small(1)), {}
        weights = trained_weights(of.student)

        def look(canaries, start=start, weights=weights):
            start.update((name, weight.detach().clone()) for name, weight in weights.items())

        _, canaries = printed_run(of, canary_fraction=fraction, between=look)
        ends.append(weights_hash(of.student))
        assert any((weights[name] != start[name])[mask].any() for name, mask in canaries.masks(weights).items())
    assert len(set(ends)) == 1


def test_the_embedding_and_the_teachers_stay():
    of = room_of(small(1))
    before = weights_hash(of.teachers.model), of.student.get_input_embeddings().weight.detach().clone()
    printed_run(of)
    assert weights_hash(of.teachers.model) == before[0]
    assert torch.equal(of.student.get_input_embeddings().weight, before[1])
    assert all(
        (now != old).any()
        for now, old in zip(trained_weights(of.student).values(), trained_weights(small(1)).values(), strict=True)
    )
