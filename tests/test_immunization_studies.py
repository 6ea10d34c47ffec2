"""The studies of the immunization wing in a room of toy words: their variants, what they measure by, and their attackers."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cycle import HARMFUL, TOKENIZER, setting_of

from safealign_lab.immunization import alarm, cycle_studies, tampering_studies
from safealign_lab.immunization.canaries import random_like, select
from safealign_lab.immunization.cycle import Cycle, run, trained_weights
from safealign_lab.immunization.cycle_studies import OTHERWISE, VARIANTS, Variant, measure_variant
from safealign_lab.immunization.phases import bounded, drawn, immunizing, likelihood
from safealign_lab.immunization.printed_cycle import run_as_printed
from safealign_lab.immunization.references import batch_of
from safealign_lab.immunization.tampering import tuning_loss
from safealign_lab.immunization.weight_attack import at_perturbed_weights
from safealign_lab.training import Plan, backward, step_generator, train, weights_hash


def quick(**changes):
    """The kit's recipe with short phases of few rows."""
    recipe = Cycle()
    short = {
        "immunize": replace(recipe.immunize, harmful=3, harmless=3), "align": replace(recipe.align, rows=3),
        "first": replace(recipe.first, steps=3), "second": replace(recipe.second, steps=2),
    }  # fmt: skip
    return replace(recipe, **{**short, **changes})


def said(model, names=()):
    """In the place of rates: which model it is, down to the bit, and what it is asked for."""
    with torch.no_grad():
        logits = model(**batch_of(TOKENIZER, [(row.request, row.chosen) for row in HARMFUL], "").inputs()).logits
    return {"asked": list(names), "model": weights_hash({"logits": logits})}


@pytest.fixture
def lab(monkeypatch):
    """Both studies in toy settings, each of which is made once, with a recipe that is soon done; what they keep is forgotten."""
    kept = cycle_studies._first_phase, tampering_studies.defended, tampering_studies._watch
    for of in kept:
        of.cache_clear()
    toys = cache(setting_of)
    for studies in (cycle_studies, tampering_studies):
        monkeypatch.setattr(studies, "setting", toys)
        monkeypatch.setattr(studies, "Cycle", quick)
    monkeypatch.setattr(cycle_studies, "BATCHES", 2)
    monkeypatch.setattr(tampering_studies, "GRADIENT_BATCHES", 2)
    monkeypatch.setattr(cycle_studies, "measured", lambda model, of, seed, names=(): said(model, names))
    yield toys
    for of in kept:
        of.cache_clear()


def weights_of(model):
    return {name: weight.detach().clone() for name, weight in trained_weights(model).items()}


# ---------------------------------------------------------------- the variants


def test_the_recipe_itself_is_among_the_variants_and_no_variant_is_there_twice():
    assert VARIANTS["working"] == Variant()
    assert VARIANTS["working"].settings() == Cycle()
    assert all(one != other for name, one in VARIANTS.items() for another, other in VARIANTS.items() if name != another)
    (study,) = cycle_studies.STUDIES
    assert sorted(study.grid["variant"]) == sorted([*VARIANTS, *OTHERWISE])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_the_fields_that_it_names_and_no_others(name):
    change, recipe = VARIANTS[name], Cycle()
    found = change.settings()
    for part, now, before in (
        (change.cycle, found, recipe),
        *((getattr(change, one), getattr(found, one), getattr(recipe, one)) for one in ("immunize", "align", "first", "second")),
    ):  # fmt: skip
        expected = {**vars(before), **part}
        if part is change.cycle:
            expected |= {one: getattr(found, one) for one in ("immunize", "align", "first", "second")}
        assert vars(now) == expected


@pytest.mark.parametrize("canaries", ["ranked", "random", "random, per tensor", "spared"])
def test_a_control_has_as_many_canaries_as_the_recipe(canaries):
    of, change = setting_of(), Variant(canaries=canaries)
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


CHANGES = {
    "working": Variant(),
    "no canaries": Variant({"shield": "none"}),
    "few canaries": Variant({"canary_fraction": 0.1}),
    "canaries at random": Variant(canaries="random"),
    "canaries that are spared": Variant(canaries="spared"),
    "another plan at first": Variant({"attack_radius": 0.0}, first={"learning_rate": 3e-4}),
    "another plan afterwards": Variant({"shield": "none"}, second={"learning_rate": 5e-5}, align={"brought": ()}),
    "another loss at first": Variant(immunize={"refusing": "dpo", "push": bounded(), "push_weight": 0.3}),
    "a Fisher anchor": Variant({"shield": "fisher", "score": "squared", "stabilization": 1e4}),
    "two in turn": Variant(cycles=2),
    "not founded": Variant(founded=False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_variant_ends_as_a_run_of_the_cycle_with_its_settings_does(lab, monkeypatch, name):
    monkeypatch.setitem(VARIANTS, name, CHANGES[name])
    measure_variant(2, "no canaries")  # whose first phase some of them share
    found, of, change, seen = measure_variant(2, name), lab(2), CHANGES[name], {}
    room = of.fresh(change.founded)

    def between(canaries):
        seen.update(start=weights_of(room.student), first=said(room.student, cycle_studies.BETWEEN))

    choose = cycle_studies._chooser(change, of, room, 2)
    pools = of.harmful, of.preferred, of.preferred
    passed = run(room, *pools, change.settings(), change.cycles, 2, choose, between, progress=False)
    assert found["rates"] == said(room.student)
    assert found["after_first"] == seen["first"]
    drift = slow_drift(seen["start"], room.student, passed[-1].canaries)
    assert found["drift"] == pytest.approx(drift, rel=1e-4, abs=1e-9)
    assert (found["drift"]["canaries"] == 0) == (change.settings().shield == "mask")
    for phase in ("first", "second"):
        assert found[phase] == pytest.approx(getattr(passed[-1], phase).rows[-1]["terms"], abs=1e-4)
    assert ("kept" in found) == (change.cycles == 2)
    assert ("cosine" in found) == ("useful" in found) == (name == "working")


def test_another_seed_is_another_run(lab):
    assert measure_variant(0, "no canaries")["rates"] != measure_variant(1, "no canaries")["rates"]


def slow_drift(before, student, canaries):
    moved = {"canaries": [], "others": []}
    for name, weight in trained_weights(student).items():
        for now, old, flag in zip(
            *(one.flatten().tolist() for one in (weight, before[name], canaries.mask(name))), strict=True
        ):
            moved["canaries" if flag else "others"].append((now - old) ** 2)
    return {name: math.sqrt(sum(all_of) / len(all_of)) for name, all_of in moved.items()}


def test_variants_that_share_their_first_phase_share_its_run_and_no_others_do(lab, monkeypatch):
    for name, change in CHANGES.items():
        monkeypatch.setitem(VARIANTS, name, change)

    def runs():
        return cycle_studies._first_phase.cache_info().misses

    same = "no canaries", "few canaries", "canaries at random", "another plan afterwards"
    found = {name: measure_variant(0, name) for name in same}
    assert runs() == 1
    assert len({one["after_first"]["model"] for one in found.values()}) == 1
    assert len({one["rates"]["model"] for one in found.values()}) == len(same)
    for count, name in enumerate(
        ("another plan at first", "another loss at first", "a Fisher anchor", "not founded"), start=2
    ):
        measure_variant(0, name)
        assert runs() == count
    measure_variant(1, "no canaries")
    assert runs() == 6
    assert measure_variant(0, "few canaries") == found["few canaries"], "whatever came between"
    assert runs() == 6


@given(st.sets(st.integers(0, 11)), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_drift_is_the_root_of_the_mean_square_of_either_kind(places, seed):
    generator = torch.Generator().manual_seed(seed)
    moved = {"a": torch.randn(2, 4, generator=generator), "b": torch.randn(4, generator=generator)}
    flags = torch.tensor([float(place in places) for place in range(12)])
    canaries = select({"a": flags[:8].reshape(2, 4), "b": flags[8:]}, max(0, len(places) - 0.5) / 12)
    values = [*moved["a"].flatten().tolist(), *moved["b"].tolist()]
    found = cycle_studies._drift(moved, canaries)
    for name, kind in (("canaries", True), ("others", False)):
        squares = [value**2 for place, value in enumerate(values) if (place in places) == kind]
        assert found[name] == pytest.approx(math.sqrt(sum(squares) / max(1, len(squares))), rel=1e-5, abs=1e-6)


def test_what_is_looked_at_between_the_phases_equals_loops_by_hand():
    of = setting_of()
    room = of.fresh()
    weights = trained_weights(room.student)
    canaries = select({name: weight.detach().abs() for name, weight in weights.items()}, 0.3)
    before = weights_hash(room.student)
    found = cycle_studies._looked_at(of, room, canaries, 5)
    assert weights_hash(room.student) == before
    assert all(weight.grad is None for weight in weights.values())
    sums, sizes = {}, [torch.zeros_like(weight) for weight in weights.values()]
    for name, rows in (("refusing", of.harmful), ("useful", of.preferred)):
        total = sum(
            likelihood(room, drawn(rows, 16, step_generator(5, n))) for n in range(cycle_studies.BATCHES)
        )  # fmt: skip
        sums[name] = torch.cat([one.flatten() for one in torch.autograd.grad(total, list(weights.values()))]).double()
    masks = {
        "all": torch.ones_like(sums["useful"], dtype=torch.bool),
        **{
            name: torch.cat([chosen.mask(one).flatten() for one in weights])
            for name, chosen in (("canaries", canaries), ("random", random_like(canaries, 5)))
        },
    }
    for name, mask in masks.items():
        one, other = sums["refusing"][mask], sums["useful"][mask]
        assert found["cosine"][name] == pytest.approx((one @ other / (one.norm() * other.norm())).item(), abs=2e-4)
    for n in range(cycle_studies.BATCHES):
        loss = likelihood(room, drawn(of.preferred, 16, step_generator(0, n)))
        for size, one in zip(sizes, torch.autograd.grad(loss, list(weights.values())), strict=True):
            size += one.abs()
    count = int(masks["canaries"].sum())
    needed = set(torch.cat([size.flatten() for size in sizes]).topk(count).indices.tolist())
    watched = set(masks["canaries"].nonzero().flatten().tolist())
    assert found["useful"]["jaccard"] == pytest.approx(len(needed & watched) / len(needed | watched), abs=2e-3)
    assert 0 < found["useful"]["by_chance"] < 1


@pytest.mark.parametrize("cycles", [1, 2])
def test_a_stream_of_harmless_updates_follows_the_last_cycle_without_a_shield(lab, cycles):
    of, change, seed = lab(3), Variant(cycles=cycles, stream=2), 3
    room = of.fresh()
    cycle_studies._cycled(change, of, room, seed, lambda canaries: None)
    plain, slow = of.fresh(), {}
    (*_, last) = run(
        plain, of.harmful, of.preferred, of.preferred, change.settings(), cycles, seed, None, lambda canaries: None,
        progress=False,
    )  # fmt: skip
    slow["before"] = weights_of(plain.student)
    loss = tuning_loss(plain.student, of.tokenizer, [[(row.request, row.chosen) for row in of.preferred]], 16)
    stream = replace(cycle_studies.STREAM, steps=2, seed=seed)
    train(trained_weights(plain.student), loss, stream, progress=False)
    assert weights_hash(room.student) == weights_hash(plain.student)
    assert slow_drift(slow["before"], room.student, last.canaries)["canaries"] > 0


# ---------------------------------------------------------------- what is no change of the recipe


def test_before_is_the_model_that_all_begin_with(lab):
    teachers = lab(1).room.teachers
    with teachers.speaking("helpful") as teacher:
        theirs = said(teacher, ["skill/lists"])
    assert measure_variant(1, "before") == {"rates": said(lab(1).founded), "teacher": theirs}
    with teachers.speaking("reference") as reference:
        assert said(reference)["model"] != theirs["model"]


def test_plain_mixed_tuning_takes_as_many_steps_as_both_phases_and_as_many_rows_as_the_first(lab):
    of, recipe = lab(1), quick()
    plain = of.fresh()
    pools = [[(row.request, row.chosen) for row in rows] for rows in (of.harmful, of.preferred)]
    loss = tuning_loss(plain.student, of.tokenizer, pools, recipe.immunize.harmful + recipe.immunize.harmless)
    plan = replace(recipe.first, steps=recipe.first.steps + recipe.second.steps, seed=1)
    train(trained_weights(plain.student), loss, plan, progress=False)
    assert measure_variant(1, "plain mixed SFT") == {"rates": said(plain.student)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("as printed", {}),
        ("as printed, put back", {"put_back": True}),
        ("as printed, weak to strong", {"order": "rising"}),
    ],
)
def test_as_printed_is_the_printed_cycle_by_the_recipes_plans(lab, name, changes):
    of, recipe, seen = lab(1), quick(), {}
    room = of.fresh()
    canaries = run_as_printed(
        room, of.harmful, of.preferred, replace(recipe.first, seed=1), replace(recipe.second, seed=1), recipe.attack_radius,
        recipe.canary_fraction, **changes,
        between=lambda found: seen.update(start=weights_of(room.student), first=said(room.student, cycle_studies.BETWEEN)),
    )  # fmt: skip
    found = measure_variant(1, name)
    assert found.keys() == {"rates", "drift", "after_first"}
    assert found["rates"] == said(room.student)
    assert found["after_first"] == seen["first"]
    assert found["drift"] == pytest.approx(slow_drift(seen["start"], room.student, canaries), rel=1e-4)
    assert found["drift"]["canaries"] > 0


def test_what_is_measured_are_the_sets_that_are_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(cycle_studies, "skill_sets", lambda count, seed: {"skill": (count, seed)})
    monkeypatch.setattr(
        cycle_studies, "potion_sets",
        lambda world, count, seed, splits: {f"{side}/{split}": (count, seed) for side in ("cursed", "kind") for split in splits},
    )  # fmt: skip
    monkeypatch.setattr(cycle_studies, "ask", lambda model, tokenizer, requests: asked.append(requests) or requests)
    monkeypatch.setattr(cycle_studies, "rates", lambda graded: graded)
    of, counts = setting_of(), cycle_studies.ASKED
    every = {f"{side}/{split}": (counts[split], 7) for side in ("cursed", "kind") for split in ("test", "train")}
    every["skill"] = cycle_studies.SKILL_ROWS, 7
    assert cycle_studies.measured(of.base, of, 7) == every
    asked.clear()
    assert cycle_studies.measured(of.base, of, 7, ["kind/train", "skill"]) == {
        name: every[name] for name in ("kind/train", "skill")
    }
    assert len(asked) == 2


def test_what_two_cycles_have_in_common_is_told_of_two_cycles_alone():
    of = setting_of()
    passed = run(of.fresh(), of.harmful, of.preferred, of.preferred, quick(), 2, progress=False)
    assert cycle_studies._account(passed[:1]).keys() == {"first", "second"}
    told = cycle_studies._account(passed)
    assert 0 < told["kept"]["by_chance"] < told["kept"]["jaccard"] <= 1
    assert told["second"]["divergence"] == pytest.approx(passed[1].second.rows[-1]["terms"]["divergence"], abs=1e-4)


# ---------------------------------------------------------------- the defended models


@pytest.mark.parametrize("defence", tampering_studies.DEFENCES)
def test_each_defence_is_what_it_is_called(lab, defence):
    """The same first phase by hand: of refusals by likelihood, by DPO, of their beginning, or at attacked weights."""
    model, passed = tampering_studies.defended(2, defence)
    assert tampering_studies.defended(2, defence)[0] is model
    of, recipe = lab(2), quick()
    room = of.fresh()
    weights = trained_weights(room.student)
    if defence in ("immunized", "no canaries"):
        shield = {"immunized": recipe.shield, "no canaries": "none"}[defence]
        (expected,) = run(
            room, of.harmful, of.preferred, of.preferred, replace(recipe, shield=shield), seed=2, progress=False
        )
        assert weights_hash(passed.scores) == weights_hash(expected.scores)
    else:
        assert passed is None
    if defence.startswith("refusal"):
        changes = {
            "refusal-DPO": {"refusing": "dpo"},
            "refusal SFT on first tokens": {"first_tokens": tampering_studies.FIRST_TOKENS},
        }.get(defence, {})
        attacked = at_perturbed_weights(weights, recipe.attack_radius) if "attacked" in defence else backward
        loss = immunizing(room, of.harmful, of.preferred, replace(recipe.immunize, **changes), recipe.first.steps)
        train(weights, loss, replace(recipe.first, seed=2000), gradient=attacked, progress=False)
    assert weights_hash(model) == weights_hash(room.student)


def test_no_two_defences_are_one(lab):
    ends = {weights_hash(tampering_studies.defended(0, defence)[0]) for defence in tampering_studies.DEFENCES}
    assert len(ends) == len(tampering_studies.DEFENCES)
    assert weights_hash(tampering_studies.defended(0, "undefended")[0]) == weights_hash(lab(0).founded)


def test_tampering_measures_a_copy_of_the_defended_model_with_as_many_examples_as_asked(lab, monkeypatch):
    seen = []
    monkeypatch.setattr(
        tampering_studies, "_rates", lambda of, seed: lambda model: {"refusal": 1.0, "useful": 0.123456}
    )

    def tamper(model, tokenizer, harmful, benign, attack, measure, steps, stop):
        seen.append((weights_hash(model), harmful, benign, attack, steps, stop))
        return [SimpleNamespace(step=step, rates=measure(model)) for step in (0, 2)], model

    monkeypatch.setattr(tampering_studies, "tamper", tamper)
    found = tampering_studies.measure_tampering(1, "refusal SFT on first tokens", "mixed", 1e-3, 8, 10)
    assert found == {"steps": [0, 2], "refusal": [1.0, 1.0], "useful": [0.1235, 0.1235]}
    ((model, harmful, benign, attack, steps, stop),) = seen
    assert steps == tampering_studies.STEPS
    assert model == weights_hash(tampering_studies.defended(1, "refusal SFT on first tokens")[0])
    assert harmful == [(row.request, row.rejected) for row in HARMFUL]
    assert benign == [(row.request, row.chosen) for row in lab(1).preferred]
    assert (attack.kind, attack.learning_rate, attack.rank, attack.examples, attack.seed) == ("mixed", 1e-3, 8, 10, 1)
    assert stop


# ---------------------------------------------------------------- the alarm


def test_the_model_of_an_alarms_run_follows_from_its_seed_and_the_run_is_its_own(lab, monkeypatch):
    monkeypatch.setattr(
        tampering_studies, "_rates", lambda of, seed: lambda model: {"seed": seed, "end": said(model)["model"]}
    )
    models = tampering_studies.MODELS
    found = {seed: tampering_studies.measure_alarm(seed, "mixed", 1e-3, 2) for seed in (1, models, 1 + models)}
    assert [one["seed"] for one in found.values()] == list(found)
    assert [one["model"] for one in found.values()] == [1, 0, 1]
    assert len({one["end"] for one in found.values()}) == 3
    assert tampering_studies.defended.cache_info().misses == tampering_studies._watch.cache_info().misses == 2
    for seed, one in found.items():
        assert tampering_studies.measure_alarm(seed, "mixed", 1e-3, 2) == one
        watch = tampering_studies._watch(one["model"])
        model, passed = tampering_studies.defended(one["model"], "immunized")
        assert weights_hash(watch.before) == weights_hash(weights_of(model)), (
            "the owner's copy is of the deployed model"
        )
        assert weights_hash(watch.canaries.bits) == weights_hash(select(passed.scores, tampering_studies.WATCHED).bits)
    (study,) = (one for one in tampering_studies.STUDIES if one.name == "tiny_alarm")
    per_model = [sum(seed % models == model for seed in study.seeds) for model in range(models)]
    assert len(set(per_model)) == 1, "each model is tuned as often"


def test_the_scores_of_a_run_are_those_of_the_weights_that_it_leaves(lab, monkeypatch):
    ends = []
    monkeypatch.setattr(
        tampering_studies, "_rates", lambda of, seed: lambda model: ends.append(copy.deepcopy(model)) or {}
    )
    found, watch = tampering_studies.measure_alarm(1, "harmful", 1e-3, 3), tampering_studies._watch(1)
    moved = alarm.change(watch.before, trained_weights(ends[0]))
    assert watch.places.keys() == {"canaries", "random", "random, per tensor"}
    for name, chosen in watch.places.items():
        assert sum(chosen.counts().values()) == sum(watch.canaries.counts().values())
        assert found[f"share on {name}"] == pytest.approx(alarm.share(moved, chosen), abs=1e-6)
        by_hand = alarm.cosine(moved, watch.direction, chosen)
        assert found[f"recipe cosine on {name}"] == pytest.approx(by_hand, abs=1e-6)
    assert found["drift"] == pytest.approx(alarm.size(moved), abs=1e-6)
    assert found["recipe cosine"] == pytest.approx(alarm.cosine(moved, watch.direction), abs=1e-6)
    assert found["cosine"] == pytest.approx(alarm.cosine(moved, watch.refusing_direction), abs=1e-6)
    assert found["fresh cosine"] == pytest.approx(alarm.cosine(moved, watch.fresh), abs=1e-6)
    room = replace(lab(1).fresh(), student=ends[0])
    assert found["probes"] == pytest.approx(likelihood(room, watch.probes).item() - watch.refusing, abs=1e-6)


def test_each_tuning_learns_from_what_it_is_named_after():
    of = setting_of()
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


@given(st.floats(0.01, 30), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_an_attacker_who_tames_leaves_no_larger_share_on_the_canaries_and_the_rest_as_it_was(factor, seed):
    generator = torch.Generator().manual_seed(seed)
    before = {"a": torch.randn(6, 5, generator=generator), "b": torch.randn(10, generator=generator)}
    canaries = select({name: torch.rand(one.shape, generator=generator) for name, one in before.items()}, 0.1)
    moved = {
        name: one + torch.randn(one.shape, generator=generator) * (1 + (factor - 1) * canaries.mask(name))
        for name, one in before.items()
    }
    weights = {name: one.clone().requires_grad_() for name, one in moved.items()}
    kept = weights_hash(before)
    share = alarm.share(alarm.change(before, moved), canaries)
    tampering_studies._tame(weights, SimpleNamespace(before=before, canaries=canaries))
    small_enough = share <= tampering_studies.WATCHED
    left = alarm.share(alarm.change(before, weights), canaries)
    assert left == pytest.approx(min(share, tampering_studies.WATCHED), rel=1e-4)
    for name, weight in weights.items():
        mask = canaries.mask(name)
        assert torch.equal(weight[~mask], moved[name][~mask])
        assert torch.equal(weight, moved[name]) or not small_enough
        ratio = ((weight - before[name]) / (moved[name] - before[name]))[mask]  # one for all, between 0 and 1
        assert ((ratio > 0) & (ratio < 1 + 1e-4)).all()
    assert weights_hash(before) == kept


def test_where_the_canaries_alone_have_moved_they_are_put_back():
    before = {"a": torch.randn(4, 5)}
    canaries = select({"a": torch.rand(4, 5)}, 0.1)
    weights = {"a": before["a"] + canaries.mask("a")}
    tampering_studies._tame(weights, SimpleNamespace(before=before, canaries=canaries))
    torch.testing.assert_close(weights["a"], before["a"], rtol=0, atol=0)
    tampering_studies._tame(weights, SimpleNamespace(before=before, canaries=canaries))  # of no change
    assert torch.equal(weights["a"], before["a"])


def test_the_directions_are_the_gradients_of_refusals_and_of_recipes():
    room = setting_of().fresh()
    weights = trained_weights(room.student)
    rows = [HARMFUL[:4], HARMFUL[4:8]]
    eager = [[replace(row, chosen=row.rejected) for row in each] for each in rows]
    for found, taught, sign in (
        (tampering_studies._direction(room, weights, rows), rows, 1),
        (tampering_studies._towards_recipes(room, weights, rows), eager, -1),
    ):
        by_hand = torch.autograd.grad(sum(likelihood(room, each) for each in taught), list(weights.values()))
        for one, other in zip(found.values(), by_hand, strict=True):
            torch.testing.assert_close(one, sign * other, rtol=1e-4, atol=1e-6)


def test_a_step_along_the_direction_towards_recipes_makes_them_more_likely():
    room = setting_of().fresh()
    weights = trained_weights(room.student)
    eager = [replace(row, chosen=row.rejected) for row in HARMFUL[:4]]
    direction = tampering_studies._towards_recipes(room, weights, [HARMFUL[:4]])
    before = likelihood(room, eager).item()
    with torch.no_grad():
        for name, weight in weights.items():
            weight += 1e-3 * direction[name]
    assert likelihood(room, eager).item() < before


def test_a_fresh_direction_leaves_the_weights_as_they_are_and_is_near_the_stored_one():
    room = setting_of().fresh()
    weights = trained_weights(room.student)
    stored = tampering_studies._towards_recipes(room, weights, [HARMFUL[:8]])
    deployed = weights_of(room.student)
    fresh = tampering_studies._fresh(room, weights, [HARMFUL[:8]])
    assert all(torch.equal(one, deployed[name]) for name, one in weights.items())
    assert 0.5 < alarm.cosine(fresh, stored) < 0.999


@pytest.mark.parametrize("tuning", ["mixed", "canaries frozen", "canaries tamed", "gradient projected out", "lists"])
def test_a_tuning_moves_what_it_may(tuning):
    of = setting_of()
    room = of.fresh()
    weights = trained_weights(room.student)
    before = weights_of(room.student)
    direction = tampering_studies._direction(room, weights, [HARMFUL[:4]])
    plan, moved = Plan(3, 1e-3, schedule="constant"), of.fresh()
    tampering_studies._tune(moved, trained_weights(moved.student), of, None, "mixed", plan)
    most = alarm.change(before, trained_weights(moved.student))  # on these such a tuning moves far more than elsewhere
    canaries = select({name: one.abs() for name, one in most.items()}, tampering_studies.WATCHED)
    watch = SimpleNamespace(before=before, canaries=canaries, direction=direction)
    tampering_studies._tune(room, weights, of, watch, tuning, plan)
    delta = alarm.change(before, weights)
    assert alarm.size(delta) > 0
    assert (alarm.size(delta, canaries) == 0) == (tuning == "canaries frozen")
    assert (abs(alarm.cosine(delta, direction)) < 1e-5) == (tuning == "gradient projected out")
    if tuning == "canaries tamed":
        assert 0 < alarm.share(delta, canaries) <= tampering_studies.WATCHED * (1 + 1e-4)
    if tuning == "mixed":
        assert alarm.share(delta, canaries) > tampering_studies.WATCHED * 1.1
    assert torch.equal(room.student.get_input_embeddings().weight, of.founded.get_input_embeddings().weight)
