"""Views of lesson 21: the drawn numbers are those of the losses, and the words say them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.contrast.losses import unwanted_loss, wanted_loss
from safealign_lab.figures import opposite_prompts as views
from safealign_lab.training import History


@given(st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None)
def test_the_marks_are_the_losses_gradients_at_the_tokens_logit(probability):
    figure = views.pushes(probability)
    logits = torch.tensor([[probability, 1 - probability]], dtype=torch.float64).log().requires_grad_()
    ids = torch.tensor([0])
    for mark, loss in zip(figure.data[1::2], (unwanted_loss(logits, ids), -wanted_loss(logits, ids)), strict=True):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert mark.x[0] == probability
        assert mark.y[0] == pytest.approx(float(gradient[0, 0]), abs=1e-9)
        assert mark.text[0] in figure.layout.meta["alt"]


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 2.0])
def test_a_place_off_the_axis_is_refused(probability):
    with pytest.raises(ValueError, match="no place on this axis"):
        views.pushes(probability)


def history(*values: float) -> History:
    rows = [
        {"step": step, "terms": {"target": value, "avoid": 2 * value, "benign": 3 * value}}
        for step, value in enumerate(values, start=1)
    ]
    return History(rows)


@pytest.mark.parametrize("names", [("safeguarding",), ("safeguarding", "adversarial"), ("without a benign term",)])
def test_every_term_of_every_prompt_is_drawn_and_told(names):
    figure = views.terms({name: history(4.0, 2.5, 1.25) for name in names})
    assert len(figure.data) == 3 * len(names)
    for place, trace in enumerate(figure.data):
        assert list(trace.x) == [1, 2, 3]
        assert list(trace.y) == [factor * (1 + place % 3) for factor in (4.0, 2.5, 1.25)]
        assert trace.name == names[place // 3]
    for name in names:
        assert f"{name}, what to leave alone: 12.00 to 3.75" in figure.layout.meta["alt"]
    assert sum(trace.showlegend for trace in figure.data) == len(names)


def test_no_step_is_refused():
    for nothing in ({}, {"safeguarding": History()}):
        with pytest.raises(ValueError, match="no step to draw"):
            views.terms(nothing)
