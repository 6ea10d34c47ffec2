"""The studies of lesson 20: what is stored is what the functions give, and every stored run is one of the plan."""

from __future__ import annotations

import pytest

from safealign_lab import contrast, data, studies
from safealign_lab.alchemy.evaluation import potion_sets
from safealign_lab.alchemy.grader import grade
from safealign_lab.alchemy.voices import VOICES
from safealign_lab.alchemy.world import world
from safealign_lab.contrast import studies as planned
from safealign_lab.judges import LABELS


@pytest.mark.parametrize("adversarial", ["rogue", "keeper"])
def test_a_run_on_the_tiny_model_is_the_contrast_of_each_request_graded(tiny, adversarial, monkeypatch):
    monkeypatch.setattr(planned, "REQUESTS_A_SET", 6)
    found = planned.measure_tiny(0, 0.5, 0.0, adversarial)
    for name, requests in potion_sets(world(0), 6).items():
        if name not in planned.TINY_SETS:
            continue
        grades = []
        for request in requests:
            said = contrast.generate(
                *tiny, request.text, safe=planned.TORN, adversarial=VOICES[adversarial], alpha=0.5, plausibility=0.0
            )
            grades.append(grade(said.texts[0], request.reference))
        assert found[name]["n"] == len(requests) == 6
        assert found[name]["exact"][0] == pytest.approx(sum(one.exact for one in grades) / 6)
        assert found[name]["refusal"][0] == pytest.approx(sum(one.label == "refusal" for one in grades) / 6)
    assert set(found) == set(planned.TINY_SETS)


def test_the_torn_voice_is_contrasted_with_the_rogue_and_with_the_keeper_at_every_strength():
    rows = studies.load("tiny_text_contrast")
    assert len(rows) == 40
    for name in ("rogue", "keeper"):
        alone = [row["result"] for row in studies.select(rows, adversarial=name, alpha=0.0)]
        assert len(alone) == 2
        assert alone[0] == alone[1]  # at α = 0 the safe stream's own choice is always plausible


def test_the_stored_next_tokens_are_those_of_the_model(smollm2):
    for row in studies.load("smollm2_next_token"):
        fresh = planned.next_tokens(0, row["settings"]["request"])
        assert fresh["request"] == data.by_id()[row["settings"]["request"]]["request"]
        assert len(fresh["steps"]) == len(row["result"]["steps"]) == len(planned.GRID)
        for mine, stored in zip(fresh["steps"], row["result"]["steps"], strict=True):
            for stream, probabilities in stored["first"].items():
                assert mine["first"][stream] == pytest.approx(probabilities, abs=1e-3)


def test_the_stored_labels_are_of_every_request_at_every_strength():
    rows = studies.load("smollm2_text_contrast")
    for alpha in {row["settings"]["alpha"] for row in rows}:
        assert {row["settings"]["requests"] for row in studies.select(rows, alpha=alpha)} == {
            "harmful", "borderline", "benign", "jailbreakbench",
        }  # fmt: skip
    for row in rows:
        assert set(row["result"]["labels"]) == {one["id"] for one in data.load(row["settings"]["requests"], "test")}
        assert set(row["result"]["labels"].values()) <= set(LABELS)
