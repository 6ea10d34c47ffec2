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


def watched(*values: float) -> History:
    """A history of six steps, every second of which was looked at."""
    looks = {
        2 * place: {"score": 0.0, "harmful": value, "everyday": value / 2} for place, value in enumerate(values, 1)
    }
    return History([{"step": step} | ({"evaluation": looks[step]} if step in looks else {}) for step in range(1, 7)])


@pytest.mark.parametrize(
    "panels", [{"harmful": "harmful requests"}, {"harmful": "harmful requests", "everyday": "others"}]
)
def test_what_was_watched_is_drawn_where_it_was_looked_at(panels):
    figure = views.drift({"safeguarding": watched(0.1, 0.4, 0.9), "adversarial": watched(0.1, 0.05, 0.0)}, panels)
    assert [trace.name for trace in figure.data] == ["safeguarding"] * len(panels) + ["adversarial"] * len(panels)
    for trace in figure.data:
        assert list(trace.x) == [2, 4, 6]
    assert list(figure.data[0].y) == [0.1, 0.4, 0.9]
    if len(panels) == 2:
        assert list(figure.data[1].y) == [0.05, 0.2, 0.45]
    assert "adversarial, harmful requests: 0.10 to 0.00" in figure.layout.meta["alt"]


def test_where_nothing_was_watched_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="Nothing was watched"):
        views.drift({"safeguarding": history(1.0)}, {"harmful": "harmful requests"})
