"""Methods as points: rates, comparisons, effects and gates against slow loops and closed forms, over any number of worlds."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_plot_worlds import asked_of_seeds, drawn_point, point, rows
from scipy.stats import sem
from scipy.stats import t as student_t

from safealign_lab.measures import wilson
from safealign_lab.one_plot import stored, tiny_lab
from safealign_lab.one_plot.points import FAMILIES, MEASURES, Answer, Point, apart, compare, effects, front
from safealign_lab.one_plot.tiny_study import GATES, LETTERS, WAYS

PATIENT = settings(deadline=None, derandomize=True, max_examples=25)
SEEDS = st.integers(0, 2**31)
GROUPS = st.integers(2, 6)
NAMES = st.sampled_from(sorted(MEASURES))


def slow_mean(one, measure, only=None):
    kind, what = MEASURES[measure]
    total, count = 0.0, 0
    for request, said in one.answers.items():
        if said[0].kind != kind or (only is not None and request not in only):
            continue
        hits = 0.0
        for answer in said:
            if what == "right":
                hits += answer.right
            elif what == "refused":
                hits += answer.label == "refusal"
            else:
                hits += answer.label == "incoherent"
        total, count = total + hits / len(said), count + 1
    return total / count


def copied(one, times):
    """Each request asked so many times over, all in its own group: no new group, so nothing new is known."""
    answers = {f"{request} {copy}": said for request, said in one.answers.items() for copy in range(times)}
    return Point(one.name, one.family, answers)


def ends(found):
    return found.low, found.high


# ---------------------------------------------------------------- one point


@PATIENT
@given(SEEDS, GROUPS, st.integers(1, 5), NAMES)
def test_a_measure_is_the_mean_over_its_requests(seed, groups, each, measure):
    one = drawn_point("a", seed, groups, each)
    found = one.measure(measure)
    assert found.value == pytest.approx(one.mean(measure))
    assert found.value == pytest.approx(slow_mean(one, measure))
    assert found.n == groups * each
    assert found.low <= found.value <= found.high
    assert one.measure(measure) is found, "worked out once"


@PATIENT
@given(SEEDS, GROUPS, NAMES)
def test_an_interval_draws_whole_groups_so_that_asking_again_tells_nothing_new(seed, groups, measure):
    one = drawn_point("a", seed, groups, 2)
    found, again = one.measure(measure), copied(one, 3).measure(measure)
    assert again.n == 3 * found.n
    if 0 < found.value < 1:
        assert ends(again) == pytest.approx(ends(found))


@pytest.mark.parametrize(("label", "share"), [("refusal", 1.0), ("compliance", 0.0)])
def test_where_all_agree_the_interval_is_wilsons(label, share):
    one = point("a", {"harmful": [(f"noun {n % 3}", label, 0.0) for n in range(12)]})
    plain = wilson(round(12 * share), 12)
    assert (one.measure("safety").value, *ends(one.measure("safety"))) == (share, plain.low, plain.high)


def test_what_counts_of_several_seeds_is_their_mean_for_each_request():
    answers = {
        "a": [Answer("harmful", "x", "refusal"), Answer("harmful", "x", "compliance")],
        "b": [Answer("harmful", "y", "refusal")] * 3,
    }
    assert Point("m", "contrast", answers).values("safety") == {"a": (0.5, "x"), "b": (1.0, "y")}
    assert Point("m", "contrast", answers).mean("safety") == 0.75


def test_an_answers_value_is_what_is_asked_of_it():
    one = Answer("benign", "x", "incoherent", 0.25)
    assert [one.value(what) for what in ("refused", "incoherent", "right")] == [0.0, 1.0, 0.25]
    assert Answer("benign", "x", "refusal").value("refused") == 1.0


def test_what_a_point_cannot_be_or_say_is_told():
    with pytest.raises(ValueError, match=f"no family 'magic': expected one of {FAMILIES[0]}"):
        Point("m", "magic", {})
    one = point("m", {"harmful": [("x", "refusal", 0.0)]})
    with pytest.raises(ValueError, match="no measure 'speed': expected one of safety"):
        one.measure("speed")
    with pytest.raises(ValueError, match="m was asked no benign request, so it has no helpfulness"):
        one.mean("helpfulness")


# ---------------------------------------------------------------- two points


@PATIENT
@given(SEEDS, GROUPS, st.integers(1, 4), NAMES)
def test_a_comparison_is_the_second_minus_the_first_request_by_request(seed, groups, each, measure):
    first, second = (drawn_point(name, seed, groups, each) for name in "ab")
    found, turned = compare(first, second, measure), compare(second, first, measure)
    assert found.difference == pytest.approx(slow_mean(second, measure) - slow_mean(first, measure))
    assert (turned.difference, turned.low, turned.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert ends(compare(copied(first, 4), copied(second, 4), measure)) == pytest.approx(ends(found))
    same = compare(first, first, measure)
    assert (same.difference, same.low, same.high, same.told_apart) == (0, 0, 0, False)


@PATIENT
@given(SEEDS, st.integers(2, 4), st.integers(1, 4))
def test_its_ends_are_percentiles_of_all_draws_of_whole_groups(seed, groups, each):
    """All draws of a few groups can be written down: a share of about one in forty lies beyond either end."""
    first, second = (drawn_point(name, seed, groups, each) for name in "ab")
    gaps = {}
    for request, (value, group) in second.values("safety").items():
        gaps.setdefault(group, []).append(value - first.values("safety")[request][0])
    means = []
    for draw in product(gaps.values(), repeat=len(gaps)):
        pooled = [gap for group in draw for gap in group]
        means.append(sum(pooled) / len(pooled))
    found, slack = compare(first, second, "safety"), 0.015
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        assert sum(mean < end - 1e-9 for mean in means) / len(means) <= share + slack
        assert sum(mean <= end + 1e-9 for mean in means) / len(means) >= share - slack


@PATIENT
@given(SEEDS, st.integers(1, 11))
def test_only_requests_that_both_were_asked_count(seed, kept):
    first, second = (drawn_point(name, seed) for name in "ab")
    chosen = set(random.Random(seed).sample([r for r in second.answers if r.startswith("harmful")], kept))
    fewer = Point("b", "contrast", {request: said for request, said in second.answers.items() if request in chosen})
    if len({fewer.answers[request][0].group for request in chosen}) < 2:
        with pytest.raises(ValueError, match="1 groups of requests were put to all: expected two or more"):
            compare(first, fewer, "safety")
        return
    found = compare(first, fewer, "safety")
    assert found.n == kept
    assert found.difference == pytest.approx(slow_mean(fewer, "safety") - slow_mean(first, "safety", chosen))


def test_methods_that_share_no_request_cannot_be_compared():
    first = point("a", {"harmful": [("x", "refusal", 0.0), ("y", "refusal", 0.0)]})
    other = Point("b", "contrast", {"others'": (Answer("harmful", "z", "refusal"),)})
    with pytest.raises(ValueError, match="0 groups of requests"):
        compare(first, other, "safety")


def test_two_are_told_apart_by_safety_or_by_helpfulness():
    def with_(refusals, right):
        harmful = [(f"h{n}", "refusal" if n < refusals else "compliance", 0.0) for n in range(12)]
        return point(
            "m", {"harmful": harmful, "benign": [(f"b{n}", "compliance", float(n < right)) for n in range(12)]}
        )

    base = with_(2, 10)
    assert not apart(base, with_(3, 9))
    assert apart(base, with_(10, 10))
    assert apart(base, with_(2, 2))
    assert str(compare(base, with_(12, 10), "safety")).endswith("], n = 12")


@PATIENT
@given(SEEDS, st.integers(1, 7))
def test_the_front_is_what_no_other_beats(seed, count):
    points = [drawn_point(f"m{n}", seed, 2, 2) for n in range(count)]
    places = {one.name: (slow_mean(one, "safety"), slow_mean(one, "helpfulness")) for one in points}
    kept = [
        name
        for name, (safe, useful) in places.items()
        if not any(s >= safe and u >= useful and (s > safe or u > useful) for s, u in places.values())
    ]
    found = front(points)
    assert sorted(found) == sorted(kept)
    assert [places[name][0] for name in found] == sorted((places[name][0] for name in kept), reverse=True)


# ---------------------------------------------------------------- several seeds

SHARES = st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5)


def forgetful(one):
    """The same answers by nobody knows which seed: what is left is the interval that draws requests."""
    answers = {
        request: [Answer(a.kind, a.group, a.label, a.right) for a in said] for request, said in one.answers.items()
    }
    return Point(one.name, one.family, answers)


def at_seed(one, measure, seed):
    """The mean of a measure at a seed; a method of one seed has the same at all."""
    seeds = {answer.seed for said in one.answers.values() for answer in said}
    wanted = seed if len(seeds) > 1 else min(seeds)
    only = {request: [a for a in said if a.seed == wanted] for request, said in one.answers.items()}
    return slow_mean(Point(one.name, one.family, {request: said for request, said in only.items() if said}), measure)


def wider(drawn, means, least, most):
    """The wider reach of an interval and of Student's for some means, as scipy has it, cut where no such number lies."""
    low, high = student_t.interval(0.95, len(means) - 1, sum(means) / len(means), float(sem(means)) or 1e-18)
    return max(least, min(drawn.low, low)), min(most, max(drawn.high, high))


@PATIENT
@given(SEEDS, GROUPS, SHARES, SHARES, NAMES)
def test_an_interval_is_the_wider_of_requests_and_of_students_over_the_seeds(seed, groups, here, there, measure):
    one, other = (drawn_point(name, seed, groups) for name in "ab")
    first = asked_of_seeds(one, here)
    second = asked_of_seeds(other, there[: len(here)] if len(there) > len(here) else there[:1])
    means = [at_seed(first, measure, k) for k in range(len(here))]
    assert ends(first.measure(measure)) == pytest.approx(wider(forgetful(first).measure(measure), means, 0, 1))
    gaps = [at_seed(second, measure, k) - means[k] for k in range(len(here))]
    found = compare(first, second, measure)
    assert ends(found) == pytest.approx(wider(compare(forgetful(first), forgetful(second), measure), gaps, -1, 1))
    assert found.difference == pytest.approx(sum(gaps) / len(gaps))


@PATIENT
@given(SEEDS, st.integers(2, 4), NAMES)
def test_where_each_request_belongs_to_one_world_the_worlds_are_the_seeds(seed, worlds, measure):
    def together(name):
        found = {}
        for world in range(worlds):
            for request, (a,) in drawn_point(f"{name} {world}", seed).answers.items():
                found[f"{world} {request}"] = (Answer(a.kind, f"{world} {a.group}", a.label, a.right, world),)
        return Point(name, "contrast", found)

    first, second = together("a"), together("b")
    gaps = [
        slow_mean(drawn_point(f"b {world}", seed), measure) - slow_mean(drawn_point(f"a {world}", seed), measure)
        for world in range(worlds)
    ]
    plain = compare(forgetful(first), forgetful(second), measure)
    assert ends(compare(first, second, measure)) == pytest.approx(wider(plain, gaps, -1, 1))
    cells = {(False,): first, (True,): second}
    assert effects(cells, ("gate",), measure)["gate"] == compare(first, second, measure)


def test_seeds_that_agree_leave_the_interval_of_the_requests():
    asked = [(f"n{n}", "refusal" if n < 4 else "compliance", 0.0) for n in range(12)]
    one = point("m", {"harmful": asked})
    same = Point("m", "contrast", {
        request: [Answer(a.kind, a.group, a.label, a.right, seed) for seed in range(3)] for request, (a,) in one.answers.items()
    })  # fmt: skip
    assert same.measure("safety") == one.measure("safety")


# ---------------------------------------------------------------- parts


def design(seed, size, groups=4, each=2):
    return {cell: drawn_point(str(cell), seed, groups, each) for cell in product((False, True), repeat=size)}


@PATIENT
@given(SEEDS, st.integers(1, 3), NAMES)
def test_effects_rebuild_every_cell(seed, size, measure):
    """The cells are the grand mean and half of each effect, added or taken off: nothing is lost, and nothing counted twice."""
    cells, factors = design(seed, size), ("gate", "immunized", "contrast")[:size]
    found = effects(cells, factors, measure)
    assert len(found) == 2**size - 1
    grand = sum(slow_mean(one, measure) for one in cells.values()) / len(cells)
    for cell, one in cells.items():
        there = dict(zip(factors, cell, strict=True))
        parts = (
            effect.difference * prod(1 if there[factor] else -1 for factor in name.split(" × "))
            for name, effect in found.items()
        )
        assert grand + sum(parts) / 2 == pytest.approx(slow_mean(one, measure))


@PATIENT
@given(SEEDS, NAMES)
def test_a_main_effect_is_a_difference_and_an_interaction_half_a_difference_of_two(seed, measure):
    cells = design(seed, 2)
    found = effects(cells, ("gate", "contrast"), measure)
    mean = {cell: slow_mean(one, measure) for cell, one in cells.items()}
    there = [mean[True, other] - mean[False, other] for other in (False, True)]  # what the gate changes
    assert found["gate"].difference == pytest.approx(sum(there) / 2)
    assert found["gate × contrast"].difference == pytest.approx((there[1] - there[0]) / 2)
    again = effects({cell: copied(one, 3) for cell, one in cells.items()}, ("gate", "contrast"), measure)
    assert ends(again["gate"]) == pytest.approx(ends(found["gate"]))


def test_one_factor_is_a_comparison_and_additive_parts_have_no_interaction():
    cells = design(3, 1)
    assert effects(cells, ("gate",), "safety") == {"gate": compare(cells[False,], cells[True,], "safety")}
    adding = {
        cell: point("m", {"benign": [(f"n{n}", "compliance", 0.1 + 0.2 * cell[0] + 0.3 * cell[1]) for n in range(4)]})
        for cell in product((False, True), repeat=2)
    }
    found = effects(adding, ("a", "b"), "helpfulness")
    assert [found[name].difference for name in ("a", "b", "a × b")] == pytest.approx([0.2, 0.3, 0.0])


def test_a_design_with_a_hole_is_told():
    cells = design(0, 2)
    del cells[True, False]
    with pytest.raises(ValueError, match=r"Of 4 cells 1 are missing, such as \(True, False\)"):
        effects(cells, ("gate", "contrast"), "safety")


# ---------------------------------------------------------------- stored worlds


@cache
def made_up(worlds):
    return rows(worlds)


@cache
def of_one_world():
    return stored.tiny_points(rows=made_up(1))


def of_way(worlds, way):
    return [row for row in made_up(worlds) if row["settings"]["way"] == way]


@pytest.mark.parametrize("worlds", [1, 2, 3])
@pytest.mark.parametrize("view", tiny_lab.VIEWS[:2])
def test_each_way_has_the_answers_of_all_stored_worlds(worlds, view):
    found = stored.tiny_points(view, rows=made_up(worlds))
    assert set(found) == set(WAYS) | set(GATES)
    for way in ("undefended", "SP − 0.4 AP", "immunized, β = 100"):
        letters = {
            kind: "".join(row["result"]["views"][view][kind] for row in of_way(worlds, way)) for kind in tiny_lab.KINDS
        }
        one, harmful = found[way], letters["harmful"]
        assert (one.family, one.settings) == (WAYS[way].family, WAYS[way].settings)
        assert one.mean("safety") == pytest.approx(harmful.count("R") / len(harmful))
        assert one.mean("harmful incoherent") == pytest.approx(harmful.count("I") / len(harmful))
        assert one.mean("helpfulness") == pytest.approx(letters["benign"].count("E") / len(letters["benign"]))
        assert one.measure("over-refusal, borderline").n == len(letters["borderline"])
        groups = {group for _, group in one.values("safety").values()}
        assert len(groups) == 12 * worlds, "twelve cursed test nouns in each world"
        for name, cost in one.cost.items():
            assert cost == pytest.approx(
                sum(row["result"]["cost"][name] for row in of_way(worlds, way)) / worlds
            )  # fmt: skip


def simulated(worlds, view, way, gate, shift):
    """(kind, letter) of every request, with R where the gate stops it."""
    found = []
    for answered, stopping in zip(of_way(worlds, way), of_way(worlds, gate), strict=True):
        assert answered["seed"] == stopping["seed"]
        limit = stopping["result"]["threshold"] + shift
        for kind in tiny_lab.KINDS:
            letters, margins = (row["result"]["views"][view][kind] for row in (answered, stopping))
            found += [(kind, "R" if m > limit else letter) for letter, m in zip(letters, margins, strict=True)]
    return found


def check_rates(one, answers):
    for measure, (kind, what) in MEASURES.items():
        letters = [letter for side, letter in answers if side == kind]
        wanted = {"refused": "R", "incoherent": "I", "right": "E"}[what]
        assert one.mean(measure) == pytest.approx(letters.count(wanted) / len(letters)), measure


@settings(deadline=None, derandomize=True, max_examples=8)
@given(
    st.sampled_from([1, 2]),
    st.sampled_from(tiny_lab.VIEWS),
    st.sampled_from(sorted(GATES)),
    st.floats(-4, 4).map(lambda shift: round(shift, 3)),
)
def test_a_gate_refuses_what_it_stops_and_leaves_the_rest_as_it_was(worlds, view, gate, shift):
    one = stored.tiny_points(view, shift, made_up(worlds))[gate]
    check_rates(one, simulated(worlds, view, "undefended", gate, shift))
    assert one.family == "distillation"
    assert one.settings == dict(zip(("epsilon", "temperature"), GATES[gate], strict=True)) | {"threshold": shift}


@pytest.mark.parametrize(("worlds", "view"), [(1, tiny_lab.VIEWS[0]), (2, tiny_lab.VIEWS[3])])
def test_the_composition_is_what_simulating_it_gives(worlds, view):
    cells = stored.composition(view, made_up(worlds))
    assert set(cells) == set(product((False, True), repeat=3))
    plain = {(False, False): "undefended", (False, True): "SP − 0.2 AP", (True, False): "immunized, K = 0.5",
             (True, True): "immunized, SP − 0.2 AP"}  # fmt: skip
    for (gate, *others), one in cells.items():
        way = plain[tuple(others)]
        check_rates(one, simulated(worlds, view, way, stored.GATE, 0.0 if gate else 1e9))
        own, extra = (of_way(worlds, name) for name in (way, stored.GATE))
        trained = sum(row["result"]["cost"]["training"] for row in own + (extra if gate else []))
        assert one.cost["training"] == pytest.approx(trained / worlds)
    assert cells[True, False, True].name == "gate + contrast"
    assert cells[False, False, False].name == "undefended"
    assert {one.family for one in cells.values()} == {
        "no training",
        "distillation",
        "contrast",
        "immunization",
        "composed",
    }
    assert len(effects(cells, stored.FACTORS, "safety")) == 7


def test_the_higher_the_threshold_the_less_a_gate_stops():
    shifts = (-5.0, -1.0, 0.0, 1.0, 5.0)
    found = [stored.tiny_points(shift=shift, rows=made_up(1)) for shift in shifts]
    for gate in list(GATES)[::5]:
        safety = [points[gate].mean("over-refusal, borderline") for points in found]
        assert safety == sorted(safety, reverse=True)
    everything, nothing = found[0][stored.GATE], found[-1][stored.GATE]
    assert everything.mean("safety") == 1
    assert everything.mean("helpfulness") == 0
    assert nothing.answers == found[-1]["undefended"].answers


def test_letters_stand_for_labels():
    assert stored.LABELS == {"R": "refusal", "I": "incoherent", "C": "compliance", "E": "compliance"}
    assert set(stored.LABELS) == set(LETTERS.values())


def test_a_view_that_is_none_is_told():
    with pytest.raises(ValueError, match="no view 'in the dark': expected one of as asked"):
        stored.tiny_points("in the dark", rows=made_up(1))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.floats(0, 1), st.floats(0, 0.3), st.floats(0.5, 5), st.floats(0, 1))
def test_what_sliders_point_at_is_nearest_in_every_knob(alpha, epsilon, temperature, fraction):
    points = of_one_world()
    found = stored.chosen(points, alpha=alpha, epsilon=epsilon, temperature=temperature, canary_fraction=fraction)
    wanted = {
        "contrast": ("alpha", alpha), "immunization": ("canary_fraction", fraction),
    }  # fmt: skip
    for family, (knob, value) in wanted.items():
        its = {
            name: one.settings[knob] for name, one in points.items() if one.family == family and knob in one.settings
        }
        (mine,) = [name for name in found if name in its]
        assert abs(its[mine] - value) == min(abs(other - value) for other in its.values())
    (gate,) = [name for name in found if name in GATES]
    for place, value in enumerate((epsilon, temperature)):
        assert abs(GATES[gate][place] - value) == min(abs(one[place] - value) for one in GATES.values())
    assert stored.chosen(points) == []
