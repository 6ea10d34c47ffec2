"""The phases' losses: slow loops over rows, gradients too, with every way of refusing and every push; what they never touch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cycle import HARMFUL, HARMLESS, OTHERS, PREFERRED, TOKENIZER, merged, predictions, room_of, small, teachers_of

from safealign_lab.chat import Batch
from safealign_lab.immunization import phases, printed
from safealign_lab.immunization.canaries import select
from safealign_lab.immunization.curriculum import LEVELS, schedule
from safealign_lab.immunization.cycle import trained_weights
from safealign_lab.immunization.phases import Align, Immunize, Room, aligning, immunizing
from safealign_lab.immunization.shields import PhaseAnchor
from safealign_lab.training import Plan, step_generator, train, weights_hash

REFUSING = ("likelihood", "dpo", "npo")


@dataclass(frozen=True)
class Watched(Room):
    """A room that notes which rows are read, and which side of them."""

    read: list = field(default_factory=list)

    def batch(self, rows, side):
        self.read.append((list(rows), side))
        return super().batch(rows, side)

    def drawn(self, side="chosen"):
        """The rows of one side, reading by reading, since the last time."""
        found = [rows for rows, which in self.read if which == side]
        self.read.clear()
        return found


@cache
def room(system="") -> Watched:
    """In double precision, where rounding decides nothing; its student is not the reference."""
    return room_of(small(1).double(), Watched, system)


@cache
def speakers(system=""):
    """Reference and harmful teacher as models of their own."""
    return small().double(), merged(room(system).teachers, "harmful")


@cache
def helper(system=""):
    """The helpful teacher as a model of its own."""
    return merged(room(system).teachers, "helpful")


# ---------------------------------------------------------------- slow loops, one row and one token at a time


def logp(logits, token):
    return logits[token] - (logits - logits.max()).exp().sum().log() - logits.max()


def slow_logps(model, rows, side, system=""):
    """The log-probability of every row's answer, token by token."""
    return [
        [logp(logits, token) for token, logits in predictions(model, row.request, getattr(row, side), system)] for row in rows
    ]  # fmt: skip


def per_token(logps):
    tokens = [one for row in logps for one in row]
    return -sum(tokens) / len(tokens)


def log_sigmoid(x):
    return -(1 + (-x).exp()).log()


def slow_kl(p, q):
    return sum(a * (a / b).log() for a, b in zip(p.softmax(-1), q.softmax(-1), strict=True))


def slow_gains(student, reference, rows, side, system):
    """log π_θ/π_ref of every row's answer."""
    both = (slow_logps(model, rows, side, system) for model in (student, reference))
    return [sum(mine) - sum(its).detach() for mine, its in zip(*both, strict=True)]


def slow_margins(student, reference, rows, beta, system):
    sides = [slow_gains(student, reference, rows, side, system) for side in ("chosen", "rejected")]
    return [beta * (chosen - rejected) for chosen, rejected in zip(*sides, strict=True)]


def slow_refusal(student, rows, settings, system=""):
    chosen = slow_logps(student, rows, "chosen", system)
    if settings.refusing == "likelihood":
        return per_token([row[: settings.first_tokens] for row in chosen])
    beta, reference = settings.beta_dpo, speakers(system)[0]
    if settings.refusing == "npo":
        gains = slow_gains(student, reference, rows, "rejected", system)
        return sum(-2 / beta * log_sigmoid(-beta * gain) for gain in gains) / len(rows)
    margins = slow_margins(student, reference, rows, beta, system)
    nll = -sum(map(sum, chosen)) / len(rows)
    return sum(-log_sigmoid(margin) for margin in margins) / len(rows) + settings.nll_weight * nll


def slow_push(student, rows, of_token, system=""):
    """The mean of a function of (token, student, reference, teacher) over all tokens of the recipes."""
    found = []
    for row in rows:
        with torch.no_grad():
            reference, harmful = (predictions(model, row.request, row.rejected, system) for model in speakers(system))
        mine = predictions(student, row.request, row.rejected, system)
        for (token, logits), (_, its), (_, theirs) in zip(mine, reference, harmful, strict=True):
            found.append(of_token(token, logits, its, theirs))
    return sum(found) / len(found)


def pushed(strength):
    return lambda token, logits, its, theirs: slow_kl((1 + strength) * its - strength * theirs, logits)


def forgotten(beta):
    return lambda token, logits, its, theirs: -2 / beta * log_sigmoid(-beta * (logp(logits, token) - logp(its, token)))


def avoided(token, logits):
    """-log of what all other tokens have together, summed by hand."""
    others = torch.cat([logits[:token], logits[token + 1 :]]).double()
    return (torch.logsumexp(logits.double(), 0) - torch.logsumexp(others, 0)).to(logits.dtype)


PUSHES = {
    "bounded": (phases.bounded(1.0), pushed(1.0)),
    "bounded further": (phases.bounded(2.5), pushed(2.5)),
    "hinge": (phases.hinge(2.0), lambda token, logits, its, theirs: (2.0 - slow_kl(theirs, logits)).relu()),
    "hinge further": (phases.hinge(6.0), lambda token, logits, its, theirs: (6.0 - slow_kl(theirs, logits)).relu()),
    "negated": (phases.negated(), lambda token, logits, its, theirs: slow_kl(-theirs, logits)),
    "token npo": (phases.token_npo(0.1), forgotten(0.1)),
    "unlikelihood": (phases.unlikely(), lambda token, logits, its, theirs: avoided(token, logits)),
    "token npo nearer": (phases.token_npo(2.0), forgotten(2.0)),
}


def assert_same(mine, slow, student):
    """The value to 1e-5, and the gradient as far as norms in single precision allow."""
    assert mine.item() == pytest.approx(slow.item(), rel=1e-5)
    weights = list(trained_weights(student).values())
    for one, other in zip(torch.autograd.grad(mine, weights), torch.autograd.grad(slow, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert other.abs().max() > 1e-6, "every tensor has to matter"


def once(loss, seed=0, step=1):
    return loss(step, step_generator(seed, step))


# ---------------------------------------------------------------- the first phase


@pytest.mark.parametrize(
    ("refusing", "system"), [*((name, "") for name in REFUSING), ("likelihood", None), ("dpo", "you are the keeper .")]
)
def test_the_first_phase_equals_a_slow_loop_however_it_refuses(refusing, system):
    of = room(system)
    settings = Immunize(refusing, kept_weight=0.7, harmful=5, harmless=4, order="mixed", beta_dpo=0.4, nll_weight=0.3)
    terms = once(immunizing(of, HARMFUL, HARMLESS, settings, 3))
    bad, good = of.drawn()
    assert (len(bad), len(good)) == (5, 4)
    refusal = slow_refusal(of.student, bad, settings, system)
    kept = per_token(slow_logps(of.student, good, "chosen", system))
    assert terms["refusal"].item() == pytest.approx(refusal.item(), rel=1e-5)
    assert terms["kept"].item() == pytest.approx(kept.item(), rel=1e-5)
    assert terms["push"] == 0
    assert_same(terms["loss"], refusal + 0.7 * kept, of.student)
    for side in ("chosen", "rejected"):
        logps = [sum(row).item() for row in slow_logps(of.student, bad, side, system)]
        assert terms[f"{side}_logps"].item() == pytest.approx(sum(logps) / 5, rel=1e-5)
        assert not terms[f"{side}_logps"].requires_grad


@pytest.mark.parametrize(("first_tokens", "system"), [(1, ""), (3, None), (7, ""), (100, ""), (None, "")])
def test_only_the_first_tokens_of_a_refusal_are_learned(first_tokens, system):
    of = room(system)
    settings = Immunize(kept_weight=0.0, harmful=5, order="mixed", first_tokens=first_tokens)
    terms = once(immunizing(of, HARMFUL, HARMLESS, settings, 3), seed=4)
    (bad,) = of.drawn()
    counts = [len(row) for row in slow_logps(of.student, bad, "chosen", system)]
    assert min(counts) > 7
    assert len(set(counts)) > 1
    assert_same(terms["loss"], slow_refusal(of.student, bad, settings, system), of.student)
    whole = once(immunizing(of, HARMFUL, HARMLESS, replace(settings, first_tokens=None), 3), seed=4)
    assert torch.equal(whole["loss"], terms["loss"]) == (first_tokens in (100, None))
    assert torch.equal(whole["chosen_logps"], terms["chosen_logps"]), "what is logged is of the whole refusal"
    of.drawn()


@pytest.mark.parametrize("first_tokens", [1, 4, None])
def test_what_follows_the_first_tokens_has_no_gradient_whatever_it_is(first_tokens):
    """The model reads from left to right: with other words behind the first ones, value and gradient stay the same."""
    of, ends = room_of(small(1).double()), []
    weights = list(trained_weights(of.student).values())
    for words in ("brew venom .", "sleep thanks !"):
        rows = [replace(one, chosen=f"no , i will {words}") for one in HARMFUL]
        settings = Immunize(kept_weight=0.0, harmful=5, order="mixed", first_tokens=first_tokens)
        loss = once(immunizing(of, rows, HARMLESS, settings, 3))["loss"]
        ends.append([loss, *torch.autograd.grad(loss, weights)])
    apart = max((one - other).abs().max().item() for one, other in zip(*ends, strict=True))
    assert (apart < 1e-6) == (first_tokens is not None)
    assert apart > 1e-2 or first_tokens


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4), st.none() | st.integers(1, 9))
def test_the_beginning_of_answers_equals_a_slow_loop(rows, tokens):
    mask = torch.tensor(rows)
    kept = mask.clone()
    found = phases._beginning(Batch(mask.long(), mask.long(), mask.long(), mask), tokens)
    for row, flags in zip(rows, found.tolist(), strict=True):
        left = len(row) if tokens is None else tokens
        for place, flag in enumerate(row):
            assert flags[place] == (flag and left > 0)
            left -= flag
    assert torch.equal(mask, kept)


@pytest.mark.parametrize("name", PUSHES)
@pytest.mark.parametrize("refusing", REFUSING)
def test_the_first_phase_equals_a_slow_loop_with_every_push(refusing, name):
    of, (push, slow) = room(), PUSHES[name]
    settings = Immunize(refusing, push, 0.35, kept_weight=0.0, harmful=4, order="mixed")
    terms = once(immunizing(of, HARMFUL, HARMLESS, settings, 3), seed=2)
    (bad,) = of.drawn()
    away = slow_push(of.student, bad, slow)
    assert terms["push"].item() == pytest.approx(away.item(), rel=1e-5)
    assert away > (0.04 if name == "unlikelihood" else 0.05)
    assert_same(terms["loss"], 0.65 * slow_refusal(of.student, bad, settings) + 0.35 * away, of.student)


@pytest.mark.parametrize("push_weight", [0.0, 1.0])
def test_a_push_of_no_weight_is_not_computed_and_one_of_full_weight_is_all(push_weight):
    of, called = room(), []

    def push(*inputs):
        called.append(len(inputs))
        return phases.bounded()(*inputs)

    settings = Immunize("dpo", push, push_weight, kept_weight=0.0, harmful=3, order="mixed")
    terms = once(immunizing(of, HARMFUL, HARMLESS, settings, 3))
    assert called == [4] * int(push_weight)
    torch.testing.assert_close(terms["loss"], terms["push" if push_weight else "refusal"], rtol=0, atol=0)
    of.drawn()


def test_without_a_kept_weight_no_harmless_row_is_read():
    of, settings = room(), Immunize(kept_weight=0.0, order="mixed")
    terms = once(immunizing(of, HARMFUL, HARMLESS, settings, 3))
    assert terms["kept"] == 0
    assert torch.equal(terms["loss"], terms["refusal"])
    assert all(row in HARMFUL for rows, _ in of.read for row in rows)
    of.drawn()


@given(st.sampled_from(["rising", "mixed", "falling"]), st.integers(1, 11), st.data(), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_step_draws_from_the_levels_that_its_share_of_the_phase_teaches(order, steps, data, seed):
    of, step = room(), data.draw(st.integers(1, steps))
    with torch.no_grad():
        once(immunizing(of, HARMFUL, HARMLESS, Immunize(harmful=48, harmless=3, order=order), steps), seed, step)
    bad, good = of.drawn()
    assert {row.level for row in bad} == set(schedule(order)((step - 1) / steps))
    assert all(row in HARMLESS for row in good)


def test_every_row_of_the_levels_comes_up_and_the_draw_is_the_generators():
    of, met = room(), []
    loss = immunizing(of, HARMFUL, HARMLESS, Immunize(harmful=16, harmless=8), 9)
    with torch.no_grad():
        for seed in (0, 0, 1, 2, 3, 4):
            once(loss, seed, 9)
            met.append(of.drawn())
    assert met[0] == met[1] != met[2]
    assert {row for bad, _ in met for row in bad} == set(HARMFUL)
    assert {row for _, good in met for row in good} == set(HARMLESS)


# ---------------------------------------------------------------- the second phase


EVERY = PREFERRED + OTHERS


@pytest.mark.parametrize(
    ("kl_weight", "nll_weight", "stabilization", "system", "brought"),
    [
        (0.0, 0.0, 0.0, "", ("lists",)),
        (0.3, 0.0, 2.0, "", ()),
        (0.6, 1.7, 0.0, "you are the keeper .", ("lists", "weak")),
        (1.0, 1.0, 0.5, "", ("lists", "counting")),
    ],
)
def test_the_second_phase_equals_a_slow_loop(kl_weight, nll_weight, stabilization, system, brought):
    of = room(system)
    weights = trained_weights(of.student)

    def held():
        return sum(weight.square().sum() for weight in weights.values())

    options = (held, stabilization) if stabilization else ()
    terms = once(aligning(of, EVERY, Align(kl_weight, 0.4, nll_weight, 5, brought), *options))
    (rows,) = of.drawn()
    assert len(rows) == 5
    assert 0 < sum(row.level in brought for row in rows) < 5 or not brought
    margins = slow_margins(of.student, speakers(system)[0], rows, 0.4, system)
    preference = sum(-log_sigmoid(margin) for margin in margins) / 5
    nll = per_token(slow_logps(of.student, rows, "chosen", system))
    apart = []
    for row in rows:
        leader = helper(system) if row.level in brought else speakers(system)[0]
        with torch.no_grad():
            guide = predictions(leader, row.request, row.chosen, system)
        mine = predictions(of.student, row.request, row.chosen, system)
        apart += [slow_kl(its, logits) for (_, its), (_, logits) in zip(guide, mine, strict=True)]
    apart = sum(apart) / len(apart)
    assert terms["preference"].item() == pytest.approx(preference.item(), rel=1e-5)
    assert terms["divergence"].item() == pytest.approx(apart.item(), rel=1e-5)
    assert terms["margin"].item() == pytest.approx(sum(margins).item() / 5, rel=1e-4)
    assert terms["stability"].item() == pytest.approx(held().item() if stabilization else 0.0)
    slow = (1 - kl_weight) * (preference + nll_weight * nll) + kl_weight * apart + stabilization * held()
    assert_same(terms["loss"], slow, of.student)
    for side in ("chosen", "rejected"):
        logps = [sum(row).item() for row in slow_logps(of.student, rows, side, system)]
        assert terms[f"{side}_logps"].item() == pytest.approx(sum(logps) / 5, rel=1e-5)


def test_at_the_reference_the_second_phase_begins_at_log_two_and_no_divergence():
    of = room_of(small().double())
    terms = once(aligning(of, PREFERRED, Align(0.5, nll_weight=0.0, rows=6, brought=())))
    assert terms["preference"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert terms["divergence"].item() == pytest.approx(0, abs=1e-10)


@given(
    st.lists(st.sampled_from(EVERY), min_size=1, max_size=6), st.sets(st.sampled_from([*LEVELS, "lists", "counting"]))
)
@settings(max_examples=25, deadline=None)
def test_each_row_is_guided_by_the_teacher_of_its_level_bit_for_bit(rows, brought):
    of, asked = room(), []
    chosen = of.batch(rows, "chosen")
    alone = {who: of.teachers.logits(who, chosen) for who in ("reference", "helpful")}
    assert not torch.equal(alone["reference"], alone["helpful"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of.teachers, "logits", lambda who, batch: asked.append(who) or alone[who])
        found = phases._guide(of, rows, chosen, tuple(brought))
    theirs = [row.level in brought for row in rows]
    for number, helped in enumerate(theirs):
        assert torch.equal(found[number], alone["helpful" if helped else "reference"][number])
    assert asked == ["reference", "helpful"][: 1 + any(theirs)]
    of.drawn()


@pytest.mark.parametrize(("brought", "rows"), [((), PREFERRED), (("weak", "lists"), HARMLESS), (("weak",), PREFERRED)])
def test_where_nothing_is_brought_the_reference_guides_and_nobody_else_is_asked(monkeypatch, brought, rows):
    of, asked = room(), []
    undisturbed = of.teachers.logits
    monkeypatch.setattr(of.teachers, "logits", lambda who, batch: asked.append(who) or undisturbed(who, batch))
    terms = once(aligning(of, rows, Align(1.0, rows=6, brought=brought)))
    assert asked == ["reference"]
    again = once(aligning(of, rows, Align(1.0, rows=6, brought=())))
    assert torch.equal(terms["loss"], again["loss"])
    if rows is PREFERRED:
        helped = once(aligning(of, rows, Align(1.0, rows=6, brought=("lists",))))
        assert asked == ["reference"] * 3 + ["helpful"]
        assert helped["divergence"] != again["divergence"]
    of.drawn()


# ---------------------------------------------------------------- what the phases never touch, and what they may not change


@pytest.mark.parametrize("push", [None, phases.bounded()])
def test_teachers_and_reference_have_no_gradient_and_stay_as_they_are(push):
    of = room_of(small(1))
    before, known = weights_hash(of.teachers.model), dict(of.known.known)
    first = once(immunizing(of, HARMFUL, HARMLESS, Immunize("dpo", push, 0.5 if push else 0.0), 3))
    second = once(aligning(of, PREFERRED, Align(0.5)))
    (first["loss"] + second["loss"]).backward()
    assert all(weight.grad is None for weight in of.teachers.model.parameters())
    assert not any(weight.requires_grad for weight in of.teachers.model.parameters())
    assert weights_hash(of.teachers.model) == before
    assert of.known.known == known


def in_phase_two(stabilization, stability):
    """The student's weights, and those of the canaries before and after, of a real second phase."""
    of = room_of(small(1))
    weights = trained_weights(of.student)
    canaries = select({name: weight.detach().abs() for name, weight in weights.items()}, 0.4)
    masks = canaries.masks(weights)
    before = torch.cat([weights[name].detach()[mask] for name, mask in masks.items()])
    loss = aligning(of, PREFERRED, Align(rows=4), stability(weights, canaries, masks), stabilization)
    train(weights, loss, Plan(8, 3e-3, schedule="constant"), progress=False)
    after = torch.cat([weights[name].detach()[mask] for name, mask in masks.items()])
    return weights_hash(of.student), (after - before).norm().item()


def test_in_the_second_phase_the_printed_anchor_does_nothing_at_any_weight():
    def anchor(weights, canaries, masks):
        return lambda: printed.stab_loss(weights, masks)

    ends = [in_phase_two(beta, anchor) for beta in (0.0, 1e6)]
    assert ends[0] == ends[1]
    assert ends[0][1] > 0.01


def test_in_the_second_phase_the_drift_falls_as_the_weight_of_the_phase_anchor_grows():
    def anchor(weights, canaries, masks):
        return PhaseAnchor(weights, canaries).penalty

    drifts = [in_phase_two(beta, anchor)[1] for beta in (0.0, 1.0, 30.0, 1e3)]
    assert all(more > less for more, less in pairwise(drifts))
    assert drifts[-1] < 0.5 * drifts[0]


@pytest.mark.parametrize("phase", ["first", "second"])
def test_a_constant_factor_before_a_phases_loss_changes_nothing_and_an_annealed_one_does(phase):
    def end(factor):
        of = room_of(small(1).double())
        weights = trained_weights(of.student)
        plain = {
            "first": immunizing(of, HARMFUL, HARMLESS, Immunize("dpo", phases.bounded(), 0.3, harmful=4, harmless=4), 6),
            "second": aligning(of, PREFERRED, Align(rows=4)),
        }[phase]  # fmt: skip
        start = copy.deepcopy(weights)

        def loss(step, generator):
            terms = plain(step, generator)
            return {**terms, "loss": factor(step) * terms["loss"]}

        train(weights, loss, Plan(6, 5e-3, schedule="constant", clip=None), progress=False)
        moved = max((weights[name] - start[name]).abs().max().item() for name in weights)
        assert moved > 0.01
        return weights

    def apart(one, other):
        return max((one[name] - other[name]).abs().max().item() for name in one)

    plain = end(lambda step: 1.0)
    assert apart(plain, end(lambda step: 20.0)) < 1e-5
    assert apart(plain, end(lambda step: 1 - (step - 1) / 6)) > 1e-4


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("refusing", ["DPO", "", None])
def test_an_unknown_way_of_refusing_is_refused(refusing):
    with pytest.raises(ValueError, match=rf"no refusing by {refusing!r}: expected one of likelihood, dpo, npo\.$"):
        Immunize(refusing)


@pytest.mark.parametrize("first_tokens", [0, -2])
def test_a_beginning_of_no_tokens_is_refused(first_tokens):
    message = rf"^first_tokens is {first_tokens}: give 1 or more, or None for all of a refusal\.$"
    with pytest.raises(ValueError, match=message):
        Immunize(first_tokens=first_tokens)


def test_a_weight_without_a_push_and_weights_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"push_weight is 0.5, but there is no push: give one, or a weight of 0\.$"):
        Immunize(push_weight=0.5)
    of = room()
    with pytest.raises(ValueError, match=r"push_weight must be in \[0, 1\]"):
        once(immunizing(of, HARMFUL, HARMLESS, Immunize(push=phases.negated(), push_weight=1.5), 3))
    with pytest.raises(ValueError, match="kept_weight must be a number of 0 or more"):
        once(immunizing(of, HARMFUL, HARMLESS, Immunize(kept_weight=-1.0), 3))
    with pytest.raises(ValueError, match=r"kl_weight must be in \[0, 1\]"):
        once(aligning(of, PREFERRED, Align(1.1)))
    with pytest.raises(ValueError, match="stabilization must be a number of 0 or more"):
        once(aligning(of, PREFERRED, Align(), lambda: torch.zeros(()), -1.0))
    with pytest.raises(ValueError, match="The reference was never asked about"):
        once(aligning(Room(of.student, TOKENIZER, teachers_of(small()), type(of.known)({})), PREFERRED, Align()))
    with pytest.raises(ValueError, match="There is no order 'upwards'"):
        immunizing(of, HARMFUL, HARMLESS, Immunize(order="upwards"), 3)
    of.drawn()
