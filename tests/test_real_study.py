"""The parts of SmolLM2's immunization that are its own: what a cut answer teaches, rounded products, and the studies' grids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from real_lab import ANCHORS
from toy_cycle import HARMFUL, HARMLESS, TOKENIZER, room_of, small

from safealign_lab.immunization.curriculum import Preference
from safealign_lab.immunization.cycle import Cycle, run
from safealign_lab.immunization.phases import Align, Immunize
from safealign_lab.one_plot import real_study
from safealign_lab.training import Plan, train, weights_hash

QUICK = Cycle(
    immunize=Immunize(harmful=2, harmless=2), align=Align(rows=2, brought=()), first=Plan(2, 1e-3), second=Plan(2, 1e-3)
)


def weights_of(model):
    return weights_hash(dict(model.named_parameters()))


CUT, WHOLE = "no , i will", "no , i will not ."


@pytest.fixture
def open_ended():
    return room_of(small(), real_study.OpenEnded)


def test_a_cut_answer_does_not_teach_where_to_stop_and_a_whole_one_does(open_ended):
    rows = [Preference("brew me a potion .", text, "sorry .", "weak") for text in (CUT, WHOLE)]
    batch = open_ended.batch(rows, "chosen")
    ends = open_ended.tokenizer.eos_token_id
    learned = [batch.input_ids[row][batch.response_mask[row]].tolist() for row in (0, 1)]
    read = [batch.input_ids[row][batch.attention_mask[row].bool()].tolist() for row in (0, 1)]
    assert ends not in learned[0]
    assert learned[1][-1] == ends
    assert all(ids[-1] == ends for ids in read)
    whole = super(real_study.OpenEnded, open_ended).batch(rows, "chosen").response_mask
    assert int(whole.sum() - batch.response_mask.sum()) == 1


def test_rounded_products_leave_weights_and_gradients_in_single_precision_and_nearly_the_same():
    torch.manual_seed(0)
    inputs, start = torch.randn(64, 16), torch.randn(16, 16) / 4

    def _trained(wrap):
        weight = torch.nn.Parameter(start.clone())
        seen = []

        def _loss(step, generator):
            seen.append((inputs @ weight).dtype)
            return (inputs @ weight).float().square().mean()

        train({"weight": weight}, wrap(_loss), Plan(5, 1e-2, schedule="constant"), progress=False)
        return weight, set(seen)

    exact, whole = _trained(lambda loss: loss)
    near, halved = _trained(real_study.rounded)
    assert (whole, halved) == ({torch.float32}, {torch.bfloat16})
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert torch.allclose(near, exact, atol=5e-3)


def test_each_step_multiplies_by_the_weights_as_they_are_by_then():
    """A cache of rounded weights would hand out those of the first step for ever."""
    weight = torch.nn.Parameter(torch.ones(4, 4))
    losses = []

    def _loss(step, generator):
        losses.append((torch.eye(4) @ weight).float().sum())
        return losses[-1]

    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        train({"weight": weight}, _loss, Plan(4, 0.1, schedule="constant"), progress=False)
    said = [float(loss.detach()) for loss in losses]
    assert said == sorted(said, reverse=True)
    assert len(set(said)) == 4


def test_every_defence_is_measured_on_every_set_and_after_tampering():
    grids = {study.name: study.units for study in real_study.STUDIES}
    asked = {unit.settings["requests"] for unit in grids["smollm2_defended"]}
    assert asked == {*real_study.OWN, *real_study.OTHERS}
    assert {unit.settings["defence"] for unit in grids["smollm2_tampered"]} == {"undefended", *real_study.DEFENCES}


def test_each_defence_is_trained_once_and_is_another(monkeypatch):
    of, ran = real_study.Setting(small(), TOKENIZER, room_of(small()), HARMFUL, HARMLESS), []
    monkeypatch.setattr(real_study, "setting", lambda: of)
    monkeypatch.setattr(real_study, "CYCLE", replace(QUICK, canary_fraction=0.3))
    monkeypatch.setattr(real_study, "run", lambda *args, **options: ran.append(args) or run(*args, **options))
    for kept in (real_study._cycled, real_study._learned):
        kept.cache_clear()
    try:
        ends = {name: weights_of(real_study._defended(name, 0)) for name in (*real_study.DEFENCES, "immunized")}
        assert len(ran) == 1
        assert len({*ends.values(), weights_of(of.fresh().student)}) == len(real_study.DEFENCES) + 1
    finally:
        for kept in (real_study._cycled, real_study._learned):
            kept.cache_clear()


def test_every_training_request_is_a_row_and_the_reference_is_asked_about_both_sides_once(monkeypatch, tiny, lab):
    monkeypatch.setattr(real_study.models, "load", lambda *_, **__: tiny)
    monkeypatch.setattr(real_study, "training_anchors", lambda: ANCHORS)
    real_study.setting.cache_clear()
    try:
        of = real_study.setting()
        refusals = [one.refusal for one in ANCHORS if one.refusal]
        assert [row.chosen for row in of.harmful] == refusals
        assert [(row.request, row.chosen) for row in of.harmless] == [
            (one.request, one.answer) for one in ANCHORS if one.answer
        ]
        assert {row.rejected for row in of.harmless} <= {*refusals}
        for row in (*of.harmful, *of.harmless):
            both = of.room.known.of([(row.request, row.chosen), (row.request, row.rejected)], torch.device("cpu"))
            assert torch.isfinite(both).all()
        monkeypatch.setattr(real_study, "measure", None)  # not to be asked again
        real_study.setting.cache_clear()
        assert real_study.setting().room.known.known == of.room.known.known
    finally:
        real_study.setting.cache_clear()
