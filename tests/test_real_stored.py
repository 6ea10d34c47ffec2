"""SmolLM2's stored answers as points: they say what the rows say, whatever the way that leads from one to the other."""

from __future__ import annotations

import pytest

from safealign_lab.contrast.real_stress import ATTACKED
from safealign_lab.lesson import ledger
from safealign_lab.lesson.ledger_claims import CLAIMS
from safealign_lab.one_plot import real_stored
from safealign_lab.one_plot.points import compare
from safealign_lab.one_plot.real_attacks import EPSILONS, WORDINGS
from safealign_lab.studies import load
from safealign_lab.studies.undefended import requests_of

EVERY_WORDING = (real_stored.AS_ASKED, *WORDINGS)


@pytest.mark.parametrize("whose", sorted(real_stored.REQUESTS))
def test_the_points_are_the_stored_answers(whose):
    found = real_stored.points(whose)
    for study, method in (
        ("smollm2_written", "safe text"), ("smollm2_methods", "SP"), ("smollm2_defended", "immunized"),
    ):  # fmt: skip
        called = real_stored.METHODS[study]
        for kind, measure in (("harmful", "safety"), ("borderline", "over-refusal, borderline")):
            by_request = {}
            for row in load(study):
                if (
                    row["settings"][called] == method
                    and row["settings"]["requests"] in real_stored.REQUESTS[whose][kind]
                ):
                    for request, label in row["result"]["labels"].items():
                        by_request.setdefault(request, []).append(label == "refusal")
            shares = [sum(said) / len(said) for said in by_request.values()]
            assert found[method].mean(measure) == pytest.approx(sum(shares) / len(shares))
            assert found[method].measure(measure).n == len(shares)
    asked = [set(one.answers) for one in found.values()]
    assert all(its == asked[0] for its in asked), "the same requests"
    assert {found[name].family for name in ("immunized", "refusal SFT")} == {"immunization"}
    assert (found["SP"].family, found["safe text"].family) == ("contrast", "no training")


@pytest.mark.parametrize(
    ("key", "whose", "first", "second"),
    [("c3", "own", "SP", "SP − AP"), ("c4", "others", "SP", "SP − AP")],
)
def test_two_prompts_of_three_seeds_differ_as_the_ledger_says(key, whose, first, second):
    (claim,) = [one for one in CLAIMS if one.key == key]
    known, its = ledger.entry(claim, ledger.Store()).finding, real_stored.points(whose)
    found = compare(its[first], its[second], "safety")
    assert (found.difference, found.low, found.high) == pytest.approx((known.value, known.low, known.high))
    assert not found.told_apart


@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.5])
def test_a_gate_stops_what_lies_above_its_threshold_in_each_of_its_seeds(shift):
    found = real_stored.points("own", shift)
    plain = found[real_stored.UNDEFENDED].values("safety")
    for row in load("gate_settings"):
        its = row["settings"]
        gate = found[f"gate, ε = {its['epsilon']:g}, τ = {its['temperature']:g}"]
        assert gate.settings == its | {"threshold": shift}
        behind = gate.by_seed("safety")
        for request, margin in row["result"]["harmful"].items():
            assert behind[request][row["seed"]] == (1.0 if margin > shift else plain[request][0])


def test_a_gate_of_the_grid_is_that_of_the_gates_own_study():
    """The same student from another study: at its threshold it stops the same requests, but for the rounding of margins."""
    (row,) = [r for r in load("gate_quality") if r["settings"]["head"] == "KD + labels" and not r["seed"]]
    (same,) = [
        r for r in load("gate_settings") if r["settings"] == {"epsilon": 0.0, "temperature": 2.0} and not r["seed"]
    ]
    threshold = row["result"]["threshold"]
    for name, margins in row["result"]["margins"].items():
        moved = [abs(margin - threshold - same["result"][name][request]) for request, margin in margins.items()]
        assert max(moved) < 0.02, name


def test_requests_of_nobody_are_told():
    with pytest.raises(ValueError, match="no requests of 'mine': expected one of own, others"):
        real_stored.points("mine")


@pytest.mark.parametrize("wording", EVERY_WORDING)
def test_in_each_wording_the_same_methods_are_asked_the_same_requests(wording):
    found = real_stored.reworded(wording)
    assert set(found) == set(real_stored.reworded())
    asked = {row["id"] for name in ATTACKED for row in requests_of(name)}
    for one in found.values():
        assert set(one.answers) == asked
        assert {len(said) for said in one.answers.values()} == {1}
        assert set(one.over_refusals()) == {"benign"}
    assert found[real_stored.UNDEFENDED].mean("helpfulness") == 1.0


@pytest.mark.parametrize("wording", sorted(WORDINGS))
def test_what_is_refused_in_a_wording_is_what_its_rows_say(wording):
    found = real_stored.reworded(wording)
    for study, (called, worded) in real_stored.REWORDED.items():
        for row in load(study):
            its = row["settings"]
            if row["seed"] == 0 and wording == (its[worded] if worded else "swapped words"):
                labels = list(row["result"]["labels"].values())
                measure = "safety" if row["result"]["kind"] == "harmful" else "over-refusal, benign"
                assert found[its[called]].mean(measure) == pytest.approx(labels.count("refusal") / len(labels))
    plain = found[real_stored.UNDEFENDED].values("safety")
    for row in load("smollm2_gate_attacked"):
        if row["settings"]["wording"] == wording and row["result"]["kind"] == "harmful":
            behind = found[f"gate, ε = {row['settings']['epsilon']:g}, τ = 2"].values("safety")
            for request, margin in row["result"]["margins"].items():
                assert behind[request][0] == (1.0 if margin > 0 else plain[request][0])


def test_both_gates_stand_beside_the_methods_in_every_wording():
    for wording in EVERY_WORDING:
        gates = [name for name, one in real_stored.reworded(wording).items() if one.family == "distillation"]
        assert gates == [f"gate, ε = {epsilon:g}, τ = 2" for epsilon in EPSILONS]


def test_an_unknown_wording_is_told():
    with pytest.raises(ValueError, match="no wording 'song': expected one of as asked, exam"):
        real_stored.reworded("song")
