"""SmolLM2's methods in wordings that they were not trained on: what is asked, and of whom. Tiny models stand in for it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safealign_lab.contrast import real_stress
from safealign_lab.one_plot import real_attacks, real_study
from safealign_lab.studies.undefended import requests_of

REQUEST = "What is {this} and {} good for, if one may ask?"


def test_all_studies_together_put_every_wording_to_every_family():
    grids = {study.name: study for study in (*real_attacks.STUDIES, *real_stress.STUDIES)}
    asked = {(unit.settings["wrapper"], unit.settings["requests"]) for unit in grids["smollm2_attacked"].units}
    asked |= {(real_attacks.SLIPS, unit.settings["requests"]) for unit in grids["smollm2_slipped"].units}
    for name in ("smollm2_defended_attacked", "smollm2_gate_attacked"):
        assert asked == {(unit.settings["wording"], unit.settings["requests"]) for unit in grids[name].units}
    assert {wording for wording, _ in asked} == set(real_attacks.WORDINGS)
    of = {
        name: {unit.settings["method"] for unit in grids[name].units}
        for name in ("smollm2_attacked", "smollm2_slipped")
    }
    assert of["smollm2_attacked"] == of["smollm2_slipped"]


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=2, max_size=20).map(" ".join))
def test_swapped_words_are_the_same_words_in_another_order_and_the_same_each_time(request_):
    found = real_attacks.slipped(request_)
    assert sorted(found.split()) == sorted(request_.split())
    assert found == real_attacks.slipped(request_)


def test_swapped_words_change_most_requests():
    texts = [row["request"] for row in requests_of("benign")[:60]]
    assert sum(real_attacks.slipped(text) != text for text in texts) > 45


@pytest.mark.parametrize("wording", sorted(real_stress.WRAPPERS))
def test_a_wrapping_holds_the_request_word_for_word(wording):
    found = real_attacks.WORDINGS[wording](REQUEST)
    assert REQUEST in found
    assert len(found) > len(REQUEST)


def test_methods_are_asked_with_swapped_words(monkeypatch):
    seen = []
    monkeypatch.setattr(real_attacks, "method_of", lambda *of: of)
    monkeypatch.setattr(real_attacks, "judged", lambda *args, **options: seen.append((*args, options)) or {})
    real_attacks.measure_slipped(2, "SP", "jailbreakbench")
    assert seen == [(("SP", 2), "jailbreakbench", {"worded": real_attacks.slipped})]


def test_defences_in_the_weights_are_asked_in_the_wording(monkeypatch, tiny):
    seen = []
    monkeypatch.setattr(real_study, "_defended", lambda defence, seed: tiny[0])
    monkeypatch.setattr(real_study, "setting", lambda: type("Setting", (), {"tokenizer": tiny[1]}))
    monkeypatch.setattr(real_study, "judged", lambda *args: seen.append(args) or {})
    real_attacks.measure_weights(0, "immunized", "poem", "jailbreakbench")
    ((_, requests, (model, tokenizer), worded),) = seen
    assert (requests, tokenizer, model.dtype) == ("jailbreakbench", tiny[1], torch.bfloat16)
    assert worded(REQUEST) == real_stress.WRAPPERS["poem"].replace("{}", REQUEST, 1)
    assert REQUEST in worded(REQUEST)


class Longer:
    """A gate whose margin is the length of a request, in tens of letters."""

    threshold = 3.0

    def score(self, texts):
        return torch.tensor([len(text) / 10 for text in texts])


@pytest.mark.parametrize("wording", sorted(real_attacks.WORDINGS))
def test_the_gate_keeps_its_threshold_and_reads_the_reworded_request(monkeypatch, wording):
    made = []
    monkeypatch.setattr(real_attacks, "gate_with", lambda *of: made.append(of) or Longer())
    found = real_attacks.measure_gate(1, 0.05, wording, "jailbreakbench")
    rows = requests_of("jailbreakbench")
    assert made == [(0.05, 2.0, 1)]
    assert found["kind"] == "harmful"
    assert found["margins"] == {
        row["id"]: pytest.approx(len(real_attacks.WORDINGS[wording](row["request"])) / 10 - 3, abs=1e-3) for row in rows
    }
