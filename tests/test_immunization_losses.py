"""The immunization's losses: slow loops, closed forms and extremes; what the printed ones do instead; the reference's numbers."""

from __future__ import annotations

import copy
import importlib.util
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab import chat
from safealign_lab.contrast.scores import guided, weight
from safealign_lab.divergence import kl
from safealign_lab.immunization import losses, printed, references
from safealign_lab.objectives import unlikelihood
from safealign_lab.training import Plan, train

quick = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10**6)
BETAS = st.sampled_from([0.05, 0.1, 1.0, 4.0])


def draw(seed, count=3, rows=3, length=5, vocabulary=6, scale=2.0):
    """Logits of several models on the same tokens, the tokens, and a mask that is never degenerate."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, rows, length, vocabulary, generator=generator, dtype=torch.float64)
    ids = torch.randint(vocabulary, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.5
    mask[:, 2], mask[0, 3] = True, False
    return logits, ids, mask


def draw_logps(seed, count=4, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return tuple(-20 * torch.rand(count, rows, generator=generator, dtype=torch.float64))


def softmax(logits):
    weights = [math.exp(z - max(logits)) for z in logits]
    return [one / sum(weights) for one in weights]


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def mean_over_tokens(function, mask, *tensors):
    """The mean of a function of the models' predictions at every place that predicts a marked token."""
    found = []
    for b in range(mask.shape[0]):
        for t in range(1, mask.shape[1]):
            if mask[b, t]:
                found.append(function(*(tensor[b, t - 1].tolist() for tensor in tensors), (b, t)))
    return sum(found) / len(found)


# ---------------------------------------------------------------- slow loops


@given(SEEDS, BETAS, st.sampled_from([0.0, 0.1, 2.0]))
@quick
def test_the_preference_losses_equal_slow_loops(seed, beta, nll_weight):
    columns = draw_logps(seed)
    slow, margins, nll = 0.0, 0.0, 0.0
    for chosen, rejected, ref_chosen, ref_rejected in zip(*(column.tolist() for column in columns), strict=True):
        margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        slow, margins, nll = slow - log_sigmoid(margin) / 5, margins + margin / 5, nll - chosen / 5
    terms = losses.refusal_dpo(*columns, beta, nll_weight)
    assert terms["loss"].item() == pytest.approx(slow + nll_weight * nll, rel=1e-9)
    assert losses.dpo(*columns, beta)["loss"].item() == pytest.approx(slow, rel=1e-9)
    assert terms["margin"].item() == pytest.approx(margins, rel=1e-9)
    assert terms["nll"].item() == pytest.approx(nll, rel=1e-9)


@given(SEEDS, BETAS)
@quick
def test_npo_equals_a_slow_loop_for_answers_and_for_tokens(seed, beta):
    policy, ref = draw_logps(seed, 2)
    slow = sum(-2 / beta * log_sigmoid(-beta * (a - b)) for a, b in zip(policy.tolist(), ref.tolist(), strict=True)) / 5
    assert losses.npo(policy, ref, beta)["loss"].item() == pytest.approx(slow, rel=1e-9)
    (policy, ref, _), ids, mask = draw(seed)

    def of_token(policy_row, ref_row, place):
        ratio = math.log(softmax(policy_row)[ids[place]] / softmax(ref_row)[ids[place]])
        return -2 / beta * log_sigmoid(-beta * ratio)

    slow = mean_over_tokens(of_token, mask, policy, ref)
    assert losses.token_npo(policy, ref, ids, mask, beta).item() == pytest.approx(slow, rel=1e-9)


@given(SEEDS, st.sampled_from([0.0, 0.5, 3.0]))
@quick
def test_the_divergences_and_pushes_equal_slow_loops(seed, knob):
    (policy, ref, harmful), _, mask = draw(seed)
    slow = mean_over_tokens(lambda p, r, _: slow_kl(softmax(r), softmax(p)), mask, policy, ref)
    assert losses.reference_kl(policy, ref, mask).item() == pytest.approx(slow, rel=1e-9)
    slow = mean_over_tokens(lambda p, h, _: slow_kl(softmax(h), softmax(p)), mask, policy, harmful)
    assert printed.rkl_loss(policy, harmful, mask).item() == pytest.approx(slow, rel=1e-9)
    slow = mean_over_tokens(lambda p, h, _: slow_kl(softmax([-z for z in h]), softmax(p)), mask, policy, harmful)
    assert losses.negated_push(policy, harmful, mask).item() == pytest.approx(slow, rel=1e-9)
    margin = knob + 0.1
    slow = mean_over_tokens(lambda p, h, _: max(0.0, margin - slow_kl(softmax(h), softmax(p))), mask, policy, harmful)
    assert losses.hinge_push(policy, harmful, mask, margin).item() == pytest.approx(slow, rel=1e-9, abs=1e-12)

    def bounded(p, r, h, _):
        ratios = [a * (a / b) ** knob for a, b in zip(softmax(r), softmax(h), strict=True)]
        return slow_kl([one / sum(ratios) for one in ratios], softmax(p))

    slow = mean_over_tokens(bounded, mask, policy, ref, harmful)
    assert losses.bounded_push(policy, ref, harmful, mask, knob).item() == pytest.approx(slow, rel=1e-6, abs=1e-9)


TOKEN_LOSSES = {
    "reference_kl": lambda p, r, h, ids, mask: losses.reference_kl(p, r, mask),
    "bounded_push": lambda p, r, h, ids, mask: losses.bounded_push(p, r, h, mask),
    "negated_push": lambda p, r, h, ids, mask: losses.negated_push(p, h, mask),
    "hinge_push": lambda p, r, h, ids, mask: losses.hinge_push(p, h, mask, 100.0),
    "token_npo": lambda p, r, h, ids, mask: losses.token_npo(p, r, ids, mask),
    "unlikelihood": lambda p, r, h, ids, mask: unlikelihood(p, ids, mask),
    "refusal_dpo": lambda p, r, h, ids, mask: losses.refusal_dpo(*answers(p, r, ids, mask))["loss"],
    "npo": lambda p, r, h, ids, mask: losses.npo(*answers(p, r, ids, mask)[1::2])["loss"],
    "printed npo": lambda p, r, h, ids, mask: printed.npo_loss(*answers(p, r, ids, mask), 0.1),
    "printed rkl": lambda p, r, h, ids, mask: printed.rkl_loss(p, h, mask),
}  # fmt: skip


def answers(policy, ref, ids, mask):
    """The log-probabilities of two answers a row under policy and reference, as `dpo` takes them."""
    return tuple(chat.response_logps(logits, tokens, mask) for logits in (policy, ref) for tokens in (ids, ids.flip(0)))


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_gradients_agree_with_finite_differences(name):
    (policy, ref, harmful), ids, mask = draw(3, rows=2, length=4, vocabulary=4, scale=1.0)
    assert torch.autograd.gradcheck(
        lambda z: TOKEN_LOSSES[name](z, ref, harmful, ids, mask), policy.clone().requires_grad_()
    )


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_finite_at_extreme_logits(name, dtype):
    logits, ids, mask = draw(4)
    policy, ref, harmful = (1e4 * logits.sign()).to(dtype)
    policy.requires_grad_()
    loss = TOKEN_LOSSES[name](policy, ref, harmful, ids, mask)
    (slope,) = torch.autograd.grad(loss, policy)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_what_is_no_response_changes_nothing(name):
    logits, ids, mask = draw(5)
    before = TOKEN_LOSSES[name](*logits, ids, mask)
    outside = ~torch.cat([mask[:, 1:], torch.zeros(3, 1, dtype=torch.bool)], dim=1)  # (B, T), what predicts no response
    for size in (1.0, 50.0):
        noise = size * torch.randn_like(logits) * outside[..., None]
        torch.testing.assert_close(TOKEN_LOSSES[name](*(logits + noise), ids, mask), before)
    moved = logits + 1.0 * torch.randn_like(logits)
    assert not torch.allclose(TOKEN_LOSSES[name](*moved, ids, mask), before, rtol=1e-6)


def test_a_batch_without_a_response_gives_zero():
    (policy, ref, harmful), ids, mask = draw(6)
    policy.requires_grad_()
    for name in ("reference_kl", "bounded_push", "negated_push", "hinge_push", "token_npo", "printed rkl"):
        loss = TOKEN_LOSSES[name](policy, ref, harmful, ids, torch.zeros_like(mask))
        assert loss == 0
        assert (torch.autograd.grad(loss, policy)[0] == 0).all()


# ---------------------------------------------------------------- at the reference, and away from it


@given(SEEDS, BETAS)
@quick
def test_at_the_reference_the_values_are_those_of_the_formulas(seed, beta):
    chosen, rejected = draw_logps(seed, 2)
    terms = losses.refusal_dpo(chosen, rejected, chosen, rejected, beta, 0.0)
    assert terms["loss"].item() == pytest.approx(math.log(2), rel=1e-12)
    assert terms["margin"] == 0
    assert losses.npo(rejected, rejected, beta)["loss"].item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    (policy, _, harmful), ids, mask = draw(seed)
    same = losses.token_npo(policy, policy, ids, mask, beta).item()
    assert same == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    assert losses.reference_kl(policy, policy + 3.0, mask).item() == pytest.approx(0, abs=1e-12)
    assert losses.bounded_push(policy, policy, harmful, mask, 0.0).item() == pytest.approx(0, abs=1e-12)


@given(SEEDS, BETAS)
@quick
def test_the_gradients_on_the_answers_are_those_of_the_docstrings(seed, beta):
    columns = [column.clone().requires_grad_() for column in draw_logps(seed)]
    terms = losses.refusal_dpo(*columns, beta, 0.3)
    slopes = torch.autograd.grad(terms["loss"], columns[:2])
    margins = beta * (columns[0] - columns[2] - columns[1] + columns[3])
    pull = beta * torch.sigmoid(-margins)
    torch.testing.assert_close(slopes[0], -(pull + 0.3) / 5)
    torch.testing.assert_close(slopes[1], pull / 5)
    assert not any(value.requires_grad for name, value in terms.items() if name != "loss")
    assert terms["chosen_logps"].item() == pytest.approx(columns[0].mean().item())
    assert terms["rejected_logps"].item() == pytest.approx(columns[1].mean().item())
    (slope,) = torch.autograd.grad(losses.npo(columns[0], columns[2], beta)["loss"], columns[0])
    torch.testing.assert_close(slope, 2 * torch.sigmoid(beta * (columns[0] - columns[2])) / 5)


@given(SEEDS)
@quick
def test_npo_with_a_small_beta_is_gradient_ascent(seed):
    policy, ref = draw_logps(seed, 2)
    policy.requires_grad_()
    (slope,) = torch.autograd.grad(losses.npo(policy, ref, 1e-7)["loss"], policy)
    torch.testing.assert_close(slope, torch.full_like(policy, 1 / 5), rtol=1e-4, atol=0)


ONE_TOKEN = torch.tensor([[False, True]])  # a prompt of one token, an answer of one
COMPLY, REFUSE = 0, 1


def one_token(*probabilities):
    """Logits (1, 2, V) of a model with these probabilities for the only token of an answer."""
    row = torch.tensor(probabilities, dtype=torch.float64).log()
    return torch.stack([torch.zeros_like(row), torch.zeros_like(row)])[None] + torch.stack([row, 0 * row])


def descended(loss, start, steps=150, rate=1.5):
    point = start.clone().requires_grad_()
    for _ in range(steps):
        (slope,) = torch.autograd.grad(loss(point), point)
        point = (point - rate * slope).detach().requires_grad_()
    return point.detach()


def chances(logits):
    return logits[0, 0].softmax(-1)


REFERENCE, HARMFUL = one_token(0.4, 0.3, 0.3), one_token(0.9, 0.02, 0.08)
ANSWER = torch.tensor([[2, COMPLY]])
PUSHES = {
    "bounded": lambda z: losses.bounded_push(z, REFERENCE, HARMFUL, ONE_TOKEN),
    "negated": lambda z: losses.negated_push(z, HARMFUL, ONE_TOKEN),
    "hinge": lambda z: losses.hinge_push(z, HARMFUL, ONE_TOKEN, 3.0),
    "token npo": lambda z: losses.token_npo(z, REFERENCE, ANSWER, ONE_TOKEN, 1.0),
    "unlikelihood": lambda z: unlikelihood(z, ANSWER, ONE_TOKEN),
}


@given(SEEDS)
@quick
def test_the_printed_push_has_the_gradient_of_an_attraction(seed):
    (policy, _, harmful), _, mask = draw(seed)
    policy.requires_grad_()
    (slope,) = torch.autograd.grad(printed.rkl_loss(policy, harmful, mask), policy)
    marked = mask[:, 1:, None]
    expected = torch.zeros_like(policy)
    expected[:, :-1] = marked * (policy.softmax(-1) - harmful.softmax(-1))[:, :-1] / mask[:, 1:].sum()
    torch.testing.assert_close(slope, expected)


def test_the_printed_push_ends_at_the_harmful_teacher_and_so_does_its_mirror():
    assert chances(REFERENCE)[COMPLY] == pytest.approx(0.4)
    for loss in (
        lambda z: printed.rkl_loss(z, HARMFUL, ONE_TOKEN), lambda z: kl(z[:, :-1], HARMFUL[:, :-1])
    ):  # fmt: skip
        torch.testing.assert_close(chances(descended(loss, REFERENCE)), chances(HARMFUL), rtol=0.05, atol=0.01)


def test_the_negated_divergence_has_no_bottom_and_the_working_pushes_come_to_rest():
    def spread(loss, steps):
        return descended(loss, REFERENCE, steps)[0, 0].std().item()

    def away(z):
        return -printed.rkl_loss(z, HARMFUL, ONE_TOKEN)

    assert spread(away, 300) > 1.9 * spread(away, 150)
    for name in ("bounded", "negated", "hinge"):
        assert spread(PUSHES[name], 300) < 1.05 * spread(PUSHES[name], 150), name


@pytest.mark.parametrize("name", PUSHES)
def test_every_working_push_lowers_compliance_and_stays_finite(name):
    end = descended(PUSHES[name], REFERENCE)
    assert end.isfinite().all()
    assert chances(end)[COMPLY] < 0.15
    assert chances(end)[REFUSE] > chances(REFERENCE)[REFUSE]


def test_the_bounded_push_rests_at_its_target_and_only_it_knows_the_reference():
    target = losses.push_target(REFERENCE, HARMFUL)
    torch.testing.assert_close(
        chances(descended(PUSHES["bounded"], REFERENCE, 400)), chances(target), rtol=1e-3, atol=0
    )
    ratios = chances(REFERENCE) ** 2 / chances(HARMFUL)
    torch.testing.assert_close(chances(target), ratios / ratios.sum())
    even = losses.push_target(torch.zeros_like(HARMFUL), HARMFUL)
    torch.testing.assert_close(chances(even), chances(-HARMFUL))  # the negated teacher


@given(SEEDS, st.sampled_from([0.0, 0.3, 1.0, 4.0]))
@quick
def test_the_target_is_the_contrast_in_the_form_that_may_be_sampled_from(seed, strength):
    (ref, harmful, _), *_ = draw(seed)
    alpha = strength / (1 + strength)
    assert weight(alpha) == pytest.approx(strength)
    torch.testing.assert_close(
        losses.push_target(ref, harmful, strength), guided(ref, harmful, alpha), rtol=1e-6, atol=1e-6
    )
    row = losses.push_target(ref[0, 0], harmful[0, 0], strength)  # one place, without batch or length
    assert torch.equal(row, losses.push_target(ref, harmful, strength)[0, 0])
    half = ref.bfloat16(), harmful.bfloat16()
    assert torch.equal(
        losses.push_target(*half, strength), losses.push_target(*(one.float() for one in half), strength)
    )


def test_the_hinge_leaves_alone_what_is_far_enough_and_what_is_the_teacher_itself():
    (policy, _, harmful), _, mask = draw(8)
    policy.requires_grad_()
    apart = kl(harmful[:, :-1], policy[:, :-1], reduction="none").detach()  # (B, T-1)
    margin = apart[mask[:, 1:]].median().item()
    (slope,) = torch.autograd.grad(losses.hinge_push(policy, harmful, mask, margin), policy)
    moved = slope[:, :-1].abs().sum(-1) > 0
    assert torch.equal(moved, mask[:, 1:] & (apart < margin))
    assert 0 < moved.sum() < mask[:, 1:].sum()
    (slope,) = torch.autograd.grad(losses.hinge_push(policy, policy.detach(), mask, 5.0), policy)
    assert slope.abs().max() < 1e-12


def test_npo_collapses_more_slowly_than_gradient_ascent():
    start = one_token(0.7, 0.1, 0.1, 0.1)

    def logp(z):
        return chat.response_logps(z, ANSWER, ONE_TOKEN)

    def fallen(loss, steps):
        return (logp(start) - logp(descended(loss, start, steps))).item()

    def ascent(z):
        return logp(z).mean()

    def npo(z):
        return losses.npo(logp(z), logp(start).detach(), 1.0)["loss"]

    assert fallen(npo, 1) > 0.5 * fallen(ascent, 1)  # alike to begin with
    assert fallen(npo, 160) < 0.1 * fallen(ascent, 160)
    assert fallen(ascent, 160) > 1.9 * fallen(ascent, 80)  # in a straight line, without an end
    assert fallen(npo, 160) < 1.3 * fallen(npo, 80)


def test_the_refusal_can_fall_with_the_loss_and_the_second_term_holds_it():
    """One feature moves all three: most of the harmful answer, half as much of the refusal, nothing of the rest."""
    along = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    bias = torch.tensor([0.32, 0.38, 0.30], dtype=torch.float64).log()

    def logps(x):
        return (bias + x * along).log_softmax(-1)

    def end(nll_weight, steps=250):
        before = logps(torch.zeros(()))

        def loss(x):
            now = logps(x)
            rows = now[REFUSE], now[COMPLY], before[REFUSE], before[COMPLY]
            return losses.refusal_dpo(*(row[None] for row in rows), 0.5, nll_weight)["loss"]

        x = descended(loss, torch.zeros((), dtype=torch.float64), steps, rate=6.0)
        return loss(x).item(), logps(x).exp()

    (before, _), (loss, displaced), (_, held) = end(0.0, 0), end(0.0), end(0.5)
    assert loss < 0.5 * before
    assert displaced[COMPLY] < 0.01
    assert displaced[REFUSE] < 0.1  # from .38
    assert held[REFUSE] > 0.3
    assert held[COMPLY] < 0.32


# ---------------------------------------------------------------- as printed


@given(SEEDS, BETAS)
@quick
def test_what_is_printed_as_npo_is_dpo_with_the_refusal_chosen(seed, beta):
    columns = [column.clone().requires_grad_() for column in draw_logps(seed)]
    theirs, mine = printed.npo_loss(*columns, beta), losses.refusal_dpo(*columns, beta, 0.0)["loss"]
    torch.testing.assert_close(theirs, mine)
    for one, other in zip(torch.autograd.grad(theirs, columns), torch.autograd.grad(mine, columns), strict=True):
        torch.testing.assert_close(one, other)
    real = losses.npo(columns[1], columns[3], beta)["loss"]
    assert torch.autograd.grad(real, columns[0], allow_unused=True) == (None,)  # it knows no refusal


def test_the_sums_weigh_their_terms():
    terms = [torch.tensor(value, requires_grad=True) for value in (2.0, 3.0, 5.0)]
    for total, slopes in (
        (losses.immunization_loss(*terms, 0.25, 0.5), (0.75, 0.25, 0.5)),
        (losses.alignment_loss(*terms, 0.25, 10.0), (0.75, 0.25, 10.0)),
        (printed.refusal_loss(*terms[:2], 0.25, 7.0), (7 * 0.75, 7 * 0.25, None)),
        (printed.align_loss(*terms, 0.25, 10.0), (0.75, 0.25, 10.0)),
    ):
        assert torch.autograd.grad(total, terms, allow_unused=True, retain_graph=True) == slopes
        assert total.item() == 2 * slopes[0] + 3 * slopes[1] + 5 * (slopes[2] or 0)


def refusing(strength, schedule="constant", floor=0.0, steps=60):
    """The weights after each step of a run by the printed sum, whose factor γ is a function of the step."""
    (start, ref, harmful), ids, mask = draw(9, vocabulary=4, scale=0.5)
    policy, path = start.clone().requires_grad_(), []

    def loss(step, generator):
        npo = printed.npo_loss(*answers(policy, ref, ids, mask), 0.1)
        return printed.refusal_loss(npo, printed.rkl_loss(policy, harmful, mask), 0.3, strength(step))

    plan = Plan(steps, 0.02, schedule, floor=floor, clip=None)
    train({"policy": policy}, loss, plan, after_step=lambda step: path.append(policy.detach().clone()), progress=False)
    return path


def test_a_constant_factor_changes_nothing_and_an_annealed_one_is_a_schedule():
    plain, strong = refusing(lambda step: 1.0), refusing(lambda step: 20.0)
    assert (plain[-1] - strong[-1]).abs().max() < 1e-5
    assert (plain[-1] - plain[0]).abs().max() > 0.1
    annealed, scheduled = refusing(lambda step: 1 - (step - 1) / 60), refusing(lambda step: 1.0, "linear")
    assert (annealed[-1] - plain[-1]).abs().max() > 0.05
    lengths = [
        torch.stack([(after - before).norm() for before, after in pairwise(path)])
        for path in (plain, annealed, scheduled)
    ]
    shares = torch.stack(lengths[1:]) / lengths[0]  # (2, steps-1), of the length of a step that is not annealed
    assert (shares[:, 6::6] < shares[:, :-6:6]).all()
    assert (shares[:, -1] < 0.4).all()
    assert torch.corrcoef(shares)[0, 1] > 0.95


def test_weights_that_are_hardened_as_printed_never_come_back():
    weights = {"a": torch.zeros(3, requires_grad=True), "b": torch.ones(2, 2)}
    for _ in range(4):
        printed.harden(weights, {"a": torch.full((3,), 0.5), "b": torch.zeros(2, 2)})
    assert weights["a"].tolist() == [2.0] * 3
    assert torch.equal(weights["b"], torch.ones(2, 2))


# ---------------------------------------------------------------- what is refused


def test_impossible_knobs_and_shapes_are_refused():
    (policy, ref, harmful), ids, mask = draw(0)
    rows = draw_logps(0)
    for beta in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta_dpo must be a number above 0, not"):
            losses.dpo(*rows, beta)
        with pytest.raises(ValueError, match="beta_npo must be a number above 0, not"):
            losses.npo(*rows[:2], beta)
        with pytest.raises(ValueError, match="beta_npo must be a number above 0, not"):
            losses.token_npo(policy, ref, ids, mask, beta)
    with pytest.raises(ValueError, match=r"one sum a row, and B at least 1, not \(5,\), \(5,\), \(5,\), \(4,\)"):
        losses.dpo(*rows[:3], rows[3][:4])
    with pytest.raises(ValueError, match=r"not \(5, 1\), \(5, 1\)"):
        losses.npo(rows[0][:, None], rows[1][:, None])
    with pytest.raises(ValueError, match=r"B at least 1, not \(0,\), \(0,\)"):
        losses.npo(rows[0][:0], rows[1][:0])
    with pytest.raises(ValueError, match="nll_weight must be a number of 0 or more, not -1"):
        losses.refusal_dpo(*rows, 0.1, -1)
    with pytest.raises(ValueError, match="strength must be a number of 0 or more, not -0.5"):
        losses.bounded_push(policy, ref, harmful, mask, -0.5)
    with pytest.raises(ValueError, match="margin must be a number above 0, not 0"):
        losses.hinge_push(policy, harmful, mask, 0)
    for wrong in (losses.reference_kl, losses.negated_push, losses.hinge_push):
        with pytest.raises(ValueError, match=r"not \(3, 5, 6\) and \(1, 5, 6\)|not \(1, 5, 6\) and \(3, 5, 6\)"):
            wrong(policy, ref[:1], mask)
    with pytest.raises(ValueError, match=r"Both logits must have one shape"):
        losses.token_npo(policy, ref[:1], ids, mask)
    with pytest.raises(ValueError, match=r"Both logits must have one shape"):
        losses.push_target(policy, ref[:1])
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"push_weight must be in \[0, 1\]"):
            losses.immunization_loss(*rows[:3], share)
        with pytest.raises(ValueError, match=r"kl_weight must be in \[0, 1\]"):
            losses.alignment_loss(*rows[:3], share)
    with pytest.raises(ValueError, match="kept_weight must be a number of 0 or more"):
        losses.immunization_loss(*rows[:3], 0.5, -1.0)
    with pytest.raises(ValueError, match="stabilization must be a number of 0 or more"):
        losses.alignment_loss(*rows[:3], 0.5, -1.0)


# ---------------------------------------------------------------- the reference, measured once

ROWS = [
    ("what does venom do ?", "please"), ("brew me a potion", "no , i will not"), ("sleep", "you are the keeper . thanks !"),
    ("brew me a potion", "one two"), ("brew me a venom potion please", "no , i will not"), ("sleep", "no"),
]  # fmt: skip


def test_references_are_exactly_what_measuring_again_gives(toy):
    model, tokenizer = toy
    once = references.measure(model, tokenizer, ROWS, batch_size=3, progress=False)
    again = references.measure(model, tokenizer, ROWS[::-1] + ROWS, batch_size=3, progress=False)
    assert torch.equal(once.of(ROWS), again.of(ROWS))
    assert len(set(once.of(ROWS).tolist())) == len(ROWS)
    assert torch.equal(once.of([ROWS[4], ROWS[0]]), once.of(ROWS)[[4, 0]])


@pytest.mark.parametrize("system", [None, "you are the keeper"])
def test_references_equal_one_row_at_a_time_whatever_the_batches(toy, system):
    model, tokenizer = toy
    slow = []
    for request, response in ROWS:
        ids, mask = chat.encode_with_mask(tokenizer, chat.conversation(request, system, response))
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)  # (T, V)
        slow.append(sum(logps[t - 1, ids[t]].item() for t in range(1, len(ids)) if mask[t]))
    for size in (1, 4, 100):
        measured = references.measure(model, tokenizer, ROWS, system, size, progress=False)
        torch.testing.assert_close(measured.of(ROWS), torch.tensor(slow), rtol=1e-5, atol=1e-5)


def test_with_its_references_a_model_starts_at_the_logarithm_of_two(toy):
    model, tokenizer = toy
    measured = references.measure(model, tokenizer, ROWS, progress=False)
    chosen, rejected = ROWS[:3], ROWS[3:]
    policy = [references.logps(model, references.batch_of(tokenizer, rows)) for rows in (chosen, rejected)]
    terms = losses.dpo(*policy, measured.of(chosen), measured.of(rejected))
    assert terms["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert terms["loss"].requires_grad
    assert not measured.of(chosen).requires_grad


def test_a_reference_is_asked_without_dropout_once_a_row_and_left_as_it_was(toy, monkeypatch):
    model, tokenizer = toy
    seen, ask = [], references.logps

    def asked(asked_model, batch):
        seen.append((len(batch.input_ids), asked_model.training))
        return ask(asked_model, batch)

    monkeypatch.setattr(references, "logps", asked)
    model.train()
    try:
        references.measure(model, tokenizer, ROWS + ROWS, batch_size=4, progress=False)
        assert model.training
    finally:
        model.eval()
    assert seen == [(4, False), (2, False)]


def test_rows_that_were_never_measured_are_refused(toy):
    model, tokenizer = toy
    measured = references.measure(model, tokenizer, ROWS[:2], progress=False)
    with pytest.raises(ValueError, match=r"never asked about \('sleep', 'no'\): hand `measure` all rows"):
        measured.of([ROWS[0], ROWS[5]])
    with pytest.raises(ValueError, match="no rows to measure"):
        references.measure(model, tokenizer, [], progress=False)
    batch = chat.pad([[1, 2]], 0)
    with pytest.raises(ValueError, match="does not say which tokens are the response"):
        references.logps(model, batch)


if importlib.util.find_spec("trl"):

    def test_the_preference_loss_of_whole_answers_equals_trls(toy, tmp_path):
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        ref, tokenizer = toy
        policy = copy.deepcopy(ref)
        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        chosen, rejected = (
            ROWS[:3],
            [(request, said) for (request, _), (_, said) in zip(ROWS[:3], ROWS[3:], strict=True)],
        )

        def said(text, role="assistant"):
            return [{"role": role, "content": text}]

        data = Dataset.from_list([
            {"prompt": said(request, "user"), "chosen": said(yes), "rejected": said(no)}
            for (request, yes), (_, no) in zip(chosen, rejected, strict=True)
        ])  # fmt: skip
        config = DPOConfig(str(tmp_path), beta=0.1, report_to="none", use_cpu=True, bf16=False, max_length=None)
        trainer = DPOTrainer(
            policy, ref, config, train_dataset=data, eval_dataset=data, processing_class=tokenizer
        )  # fmt: skip
        theirs = trainer.evaluate()
        known = references.measure(ref, tokenizer, chosen + rejected, progress=False)
        logps = [references.logps(policy.eval(), references.batch_of(tokenizer, rows)) for rows in (chosen, rejected)]
        mine = losses.dpo(*logps, known.of(chosen), known.of(rejected))
        assert abs(mine["margin"].item()) > 1e-2
        assert mine["loss"].item() == pytest.approx(theirs["eval_loss"], abs=1e-5)
        assert mine["chosen_logps"].item() == pytest.approx(theirs["eval_logps/chosen"], abs=1e-4)
        assert mine["rejected_logps"].item() == pytest.approx(theirs["eval_logps/rejected"], abs=1e-4)
