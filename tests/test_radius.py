"""How far a weight attack goes: the loss at rest and at attacked weights, against a slow way of its own. A toy stands in."""

from __future__ import annotations

import math

import pytest
import torch
from toy_cycle import setting_of

from safealign_lab.immunization.cycle import Cycle, trained_weights
from safealign_lab.immunization.phases import immunizing
from safealign_lab.one_plot import radius, tiny_lab
from safealign_lab.training import step_generator


class World:
    """A lab with a setting that was made once."""

    of = setting_of()


@pytest.fixture
def toy_lab(monkeypatch):
    monkeypatch.setattr(tiny_lab, "lab", lambda seed: World)
    return World.of


def test_the_loss_at_attacked_weights_is_that_of_weights_moved_by_hand(toy_lab):
    size = 0.02
    found = radius.measure_radius(3, "tiny", size)
    recipe, room = Cycle(), toy_lab.fresh()
    loss = immunizing(room, toy_lab.harmful, toy_lab.preferred, recipe.immunize, recipe.first.steps)
    weights = trained_weights(room.student)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    rest, attacked = [], []
    for step in range(1, radius.BATCHES + 1):
        terms = loss(step, step_generator(3, step))
        rest.append(float(terms["refusal"].detach()))
        gradients = torch.autograd.grad(terms["loss"], list(weights.values()), allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                if gradient is not None and gradient.norm() > 0:
                    weight += size * weight.norm() * gradient / gradient.norm()
            attacked.append(float(loss(step, step_generator(3, step))["refusal"]))
            for name, weight in weights.items():
                weight.copy_(start[name])
    assert found["at rest"] == pytest.approx(sum(rest) / radius.BATCHES, abs=1e-3)
    assert found["attacked"] == pytest.approx(sum(attacked) / radius.BATCHES, abs=1e-3)
    assert found["guessing"] == pytest.approx(math.log(room.student.config.vocab_size), abs=1e-3)


def test_a_wider_attack_raises_the_loss_more_and_leaves_the_loss_at_rest(toy_lab):
    found = [radius.measure_radius(0, "tiny", size) for size in (0.001, 0.01, 0.05)]
    assert len({one["at rest"] for one in found}) == 1
    attacked = [one["attacked"] for one in found]
    assert found[0]["at rest"] < attacked[0] < attacked[1] < attacked[2]
