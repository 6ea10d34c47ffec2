"""The studies of the immunization wing: their variants, what they measure by, and their attackers, in a room of toy words."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from toy_cycle import HARMFUL, HARMLESS, PREFERRED, TOKENIZER, room_of, small

from safealign_lab.alchemy.skills import examples
from safealign_lab.immunization import alarm, cycle_studies, tampering_studies
from safealign_lab.immunization.canaries import select
from safealign_lab.immunization.curriculum import Preference
from safealign_lab.immunization.cycle import Cycle, run, trained_weights
from safealign_lab.immunization.cycle_studies import VARIANTS, Setting
from safealign_lab.immunization.phases import likelihood
from safealign_lab.training import Plan


def toy_setting():
    preferred = [*PREFERRED, *(Preference(row.request, row.chosen, row.rejected, "weak") for row in HARMLESS)]
    preferred += [Preference("thanks", "one two", "no", "counting"), Preference("who", "you", "no", "borderline")]
    return Setting(None, small(1), TOKENIZER, room_of(small(1)), HARMFUL, HARMLESS, preferred)


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_but_the_recipe_itself_differs_from_it(name):
    change, recipe = VARIANTS[name], Cycle()
    same = change.settings() == recipe and change.canaries == "ranked" and change.cycles == 1
    assert same == (name == "working")


@pytest.mark.parametrize("canaries", ["ranked", "random", "random, per tensor", "spared"])
def test_a_control_has_as_many_canaries_as_the_recipe(canaries):
    of, change = toy_setting(), cycle_studies.Variant(canaries=canaries)
    room = of.fresh()
    before = {name: weight.clone() for name, weight in room.student.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.rand(weight.shape, generator=generator) for name, weight in trained_weights(room.student).items()
    }
    wanted = select(scores, Cycle().canary_fraction)
    choose = cycle_studies._chooser(change, of, room, seed=3)
    found = wanted if choose is None else choose(scores)
    assert sum(found.counts().values()) == sum(wanted.counts().values())
    assert found.bits.keys() == wanted.bits.keys()
    same = all(torch.equal(found.bits[name], wanted.bits[name]) for name in wanted.bits)
    assert same == (canaries == "ranked")
    assert (found.counts() == wanted.counts()) == (canaries in ("ranked", "random, per tensor"))
    assert all(torch.equal(weight, before[name]) for name, weight in room.student.named_parameters())


def test_a_fresh_room_has_a_student_of_its_own():
    of = toy_setting()
    room = of.fresh()
    with torch.no_grad():
        room.student.model.norm.weight += 1
    assert not torch.equal(room.student.model.norm.weight, of.base.model.norm.weight)
    assert room.known is of.room.known


@pytest.mark.parametrize("other", [("lists", True), ("counting", False)])
def test_the_form_of_a_list_is_all_but_the_things_in_it(other):
    skill, lists = other
    (_, one), (_, two) = examples(skill, 2, 1)
    if lists:
        _, two = next(
            pair for pair in examples(skill, 40, 2) if pair[1].count(":") == one.count(":") and pair[1] != one
        )
        longer = next(answer for _, answer in examples(skill, 40, 2) if answer.count(":") != one.count(":"))
        assert cycle_studies._form(one) == cycle_studies._form(two) == cycle_studies._form(one.upper())
        assert cycle_studies._form(one) != cycle_studies._form(longer)
    else:
        assert (cycle_studies._form(one) == cycle_studies._form(two)) == (one == two)


def test_what_two_cycles_have_in_common_is_told_of_two_cycles_alone():
    of, quick = toy_setting(), Cycle(first=Plan(2, 1e-3), second=Plan(1, 1e-3))
    passed = run(of.fresh(), of.harmful, of.harmless, PREFERRED, quick, 2, progress=False)
    assert cycle_studies._account(passed[:1]).keys() == {"first", "second"}
    told = cycle_studies._account(passed)
    assert 0 < told["kept"]["by_chance"] < told["kept"]["jaccard"] <= 1
    assert told["second"]["divergence"] == pytest.approx(passed[1].second.rows[-1]["terms"]["divergence"], abs=1e-4)


def test_each_tuning_learns_from_what_it_is_named_after():
    of = toy_setting()
    harmful = {(row.request, row.rejected) for row in HARMFUL}
    harmless = {(row.request, row.chosen) for row in of.preferred}
    for tuning in tampering_studies.HARMLESS_TUNING:
        pools = tampering_studies._tuning_rows(of, tuning)
        assert len(pools) == 1
        assert pools[0]
        assert set(pools[0]) <= harmless
    for tuning in tampering_studies.HARMFUL_TUNING:
        pools = tampering_studies._tuning_rows(of, tuning)
        assert {row for pool in pools for row in pool} & harmful
        assert (set(pools[0]) <= harmful) == (tuning != "one in ten")


def test_an_attacker_who_projects_leaves_nothing_along_the_gradient_and_the_rest_as_it_was():
    before = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    watch = SimpleNamespace(before=before, direction={name: torch.randn(one.shape) for name, one in before.items()})
    weights = {name: one + 0.1 * torch.randn(one.shape) for name, one in before.items()}
    moved = {name: one.clone() for name, one in weights.items()}
    tampering_studies._project(weights, watch)
    delta = alarm.change(before, weights)
    assert abs(alarm.cosine(delta, watch.direction)) < 1e-5
    taken = alarm.change(weights, moved)
    assert abs(alarm.cosine(taken, watch.direction)) == pytest.approx(1, abs=1e-4)


def test_a_fresh_gradient_leaves_the_weights_as_they_are_and_is_near_the_stored_one():
    of = toy_setting()
    room = of.fresh()
    weights = trained_weights(room.student)
    rows = [HARMFUL[:4], HARMFUL[4:8]]
    stored = tampering_studies._direction(room, weights, rows)
    by_hand = torch.autograd.grad(sum(likelihood(room, each) for each in rows), list(weights.values()))
    for one, other in zip(stored.values(), by_hand, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    deployed = {name: one.detach().clone() for name, one in weights.items()}
    fresh = tampering_studies._fresh(room, weights, rows)
    assert all(torch.equal(one, deployed[name]) for name, one in weights.items())
    assert 0.9 < alarm.cosine(fresh, stored) < 1


@pytest.mark.parametrize("tuning", ["harmful", "canaries frozen", "gradient projected out", "lists"])
def test_a_tuning_moves_what_it_may(tuning):
    of = toy_setting()
    room = of.fresh()
    weights = trained_weights(room.student)
    before = {name: one.detach().clone() for name, one in weights.items()}
    canaries = select({name: one.abs() for name, one in before.items()}, 0.3)
    direction = tampering_studies._direction(room, weights, [HARMFUL[:4]])
    watch = SimpleNamespace(before=before, canaries=canaries, direction=direction)
    plan = Plan(3, 1e-3, schedule="constant")
    tampering_studies._tune(room, weights, of, watch, tuning, plan)
    delta = alarm.change(before, weights)
    assert alarm.size(delta) > 0
    assert (alarm.size(delta, canaries) == 0) == (tuning == "canaries frozen")
    assert (abs(alarm.cosine(delta, direction)) < 1e-5) == (tuning == "gradient projected out")
    assert torch.equal(room.student.get_input_embeddings().weight, copy.deepcopy(of.base).get_input_embeddings().weight)
