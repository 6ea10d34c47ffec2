"""The parts of SmolLM2's immunization that are its own: what a cut answer teaches, rounded products, and the studies' grids."""

from __future__ import annotations

import pytest
import torch
from toy_cycle import room_of, small

from safealign_lab.immunization.curriculum import Preference
from safealign_lab.one_plot import real_study
from safealign_lab.training import Plan, train

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
