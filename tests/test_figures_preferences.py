"""Views of lesson 30 and the toy behind them: flows against finite steps and closed forms, paths, weights, words."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import preferences as views
from safealign_lab.immunization import losses
from safealign_lab.immunization import three_tokens as toy

quick = settings(max_examples=20, deadline=None)
NAMES = st.sampled_from(list(toy.LOSSES))
KNOBS = st.builds(
    toy.Knobs,
    st.sampled_from([0.05, 1.0, 5.0]),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from([0.0, 0.5, 4.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
)


def points(seed: int, count: int = 4) -> torch.Tensor:
    logits = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(1)


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


# ---------------------------------------------------------------- three tokens


@given(NAMES, KNOBS, st.integers(0, 99))
@quick
def test_the_flow_is_what_a_tiny_step_of_the_logits_does_to_the_probabilities(name, knobs, seed):
    p, tiny = points(seed), 1e-6
    moved = (p.log() + tiny * toy.descent(name, p.log(), knobs)).softmax(1)
    torch.testing.assert_close((moved - p) / tiny, toy.flow(name, p, knobs), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(toy.flow(name, p, knobs).sum(1), torch.zeros(4, dtype=torch.float64))


@given(KNOBS, st.integers(0, 99))
@quick
def test_the_steps_are_the_closed_forms(knobs, seed):
    p = points(seed, 1)
    (comply, refuse, other), (ref_comply, ref_refuse, _) = p[0].tolist(), toy.REFERENCE
    harmful = torch.tensor(toy.HARMFUL, dtype=torch.float64)
    margin = knobs.beta * (math.log(refuse / ref_refuse) - math.log(comply / ref_comply))
    pull, w = knobs.beta / (1 + math.exp(margin)), knobs.nll_weight
    push = 2 / (1 + (ref_comply / comply) ** knobs.beta)
    down = torch.tensor([1 - comply, -refuse, -other])  # the gradient of log p(comply)
    up = torch.tensor([-comply, 1 - refuse, -other])
    steps = {
        "refusal-DPO": pull * torch.tensor([-1.0, 1.0, 0.0]) + w * up,
        "NPO": -push * down,
        "gradient ascent": -down,
        "printed RKL": harmful - p[0],
        "RKL, negated": p[0] - harmful,
        "bounded push": toy.push_goal(knobs.strength) - p[0],
    }
    for name, step in steps.items():
        moved = toy.descent(name, p.log(), knobs)[0]
        expected = toy.kernel(knobs.shared) @ step.double()
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_points_do_not_touch_each_other():
    together = toy.flow("NPO", points(3), toy.Knobs())
    alone = torch.cat([toy.flow("NPO", one[None], toy.Knobs()) for one in points(3)])
    torch.testing.assert_close(together, alone)


def test_the_goal_of_the_push_is_the_librarys_target_and_its_path_ends_there():
    for strength in (0.0, 1.0, 3.0):
        ratios = [r * (r / h) ** strength for r, h in zip(toy.REFERENCE, toy.HARMFUL, strict=True)]
        expected = torch.tensor([one / sum(ratios) for one in ratios], dtype=torch.float64)
        torch.testing.assert_close(toy.push_goal(strength), expected)
        path, values = toy.follow("bounded push", toy.Knobs(strength=strength), steps=400, rate=1.0)
        torch.testing.assert_close(path[-1], expected, rtol=0.02, atol=0.003)
        assert values[-1] < 1e-3


def test_shared_directions_turn_the_same_loss_into_displacement_and_the_second_term_undoes_it():
    own, _ = toy.follow("refusal-DPO", toy.Knobs(shared=0.0))
    common, values = toy.follow("refusal-DPO", toy.Knobs(shared=1.0))
    held, _ = toy.follow("refusal-DPO", toy.Knobs(shared=1.0, nll_weight=0.5))
    assert own[-1, toy.REFUSE] > 0.9
    assert common[-1, toy.REFUSE] < 0.1 < common[0, toy.REFUSE]
    assert (values.diff() < 0).all()  # and the loss is content
    assert held[-1, toy.REFUSE] > 0.6


def test_the_losses_are_the_librarys():
    logits = points(5, 1).log()
    logps, ref = logits.log_softmax(1)[0], torch.tensor(toy.REFERENCE, dtype=torch.float64).log()
    columns = [one[[place]] for one in (logps, ref) for place in (toy.REFUSE, toy.COMPLY)]
    knobs = toy.Knobs(beta=0.3, nll_weight=0.2)
    expected = losses.refusal_dpo(*columns, 0.3, 0.2)["loss"]
    torch.testing.assert_close(toy.LOSSES["refusal-DPO"](logits, knobs), expected)


# ---------------------------------------------------------------- the views


@given(NAMES, KNOBS)
@settings(max_examples=12, deadline=None)
def test_the_triangle_holds_its_arrows_and_its_path(name, knobs):
    figure = views.simplex(name, knobs.beta, knobs.nll_weight, knobs.strength, knobs.shared)
    path, values = toy.follow(name, knobs)
    start, end = (path[place] @ views.CORNERS for place in (0, -1))
    line = next(trace for trace in figure.data if trace.name == "path of the training")
    assert (line.x[0], line.y[0]) == pytest.approx(tuple(start.tolist()))
    assert (line.x[-1], line.y[-1]) == pytest.approx(tuple(end.tolist()))
    assert (figure.layout.xaxis.constrain, figure.layout.yaxis.constrain) == ("domain", "domain")  # else it shrinks
    x, y = figure.data[1].x, figure.data[1].y
    assert len(x) == 3 * views.ROWS * (views.ROWS + 1) // 2
    for i in range(0, len(x), 3):
        length = math.dist((x[i], y[i]), (x[i + 1], y[i + 1]))
        assert x[i + 2] is None
        assert length <= views.LONGEST * 1.001
        assert -1e-9 < y[i] < math.sqrt(3) * min(x[i], 1 - x[i]) + 1e-9  # inside
    assert f"refuse from 0.38 to {path[-1, toy.REFUSE]:.2f}" in words_of(figure)
    assert f"{values[-1]:.2f}" in words_of(figure)
    assert ("its target" in [trace.name for trace in figure.data]) == (name == "bounded push")


@given(st.sampled_from([0.02, 0.1, 1.0, 5.0]), st.floats(-20, 20))
@quick
def test_the_weights_are_gradients_of_the_librarys_losses(beta, gained):
    figure = views.weights(beta, gained)
    ascent, npo, dpo = figure.data
    assert set(ascent.y) == {1.0}
    for place in (0, 80, 160, len(npo.x) - 1):
        ratio = torch.tensor([npo.x[place]], dtype=torch.float64, requires_grad=True)
        zero, c = torch.zeros(1, dtype=torch.float64), torch.full((1,), gained, dtype=torch.float64)
        (slope,) = torch.autograd.grad(losses.npo(ratio, zero, beta)["loss"], ratio)
        assert npo.y[place] == pytest.approx(slope.item(), abs=1e-9)
        (slope,) = torch.autograd.grad(losses.dpo(c, ratio, zero, zero, beta)["loss"], ratio)
        assert dpo.y[place] == pytest.approx(2 / beta * slope.item(), abs=1e-9)
    assert f"beta {beta:g}" in words_of(figure)


def rows(slope: float) -> list[dict[str, float]]:
    return [{"step": s, "margin": s / 10, "chosen": slope * s - 3, "rejected": -s - 10.0} for s in range(4)]


def test_a_run_is_drawn_in_three_panels_each_with_its_own_column():
    runs = {"one": rows(-0.5), "two": rows(0.25)}
    figure = views.apart(runs)
    assert [trace.name for trace in figure.data] == ["one"] * 3 + ["two"] * 3
    for trace, (name, key) in zip(
        figure.data, [(name, key) for name in runs for key in ("margin", "chosen", "rejected")], strict=True
    ):
        assert list(trace.y) == [row[key] for row in runs[name]]
    assert [trace.showlegend for trace in figure.data] == [True, False, False] * 2
    assert len({trace.line.dash for trace in figure.data}) == 2
    assert "one: margin 0.00 to 0.30, chosen -3.00 to -4.50" in words_of(figure)


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (views.simplex, ("DPO",), "no loss 'DPO'"),
        (views.simplex, ("NPO", 0.0), "beta_npo"),
        (views.simplex, ("NPO", 1.0, 0.0, 1.0, 1.5), "from 0 to 1"),
        (views.weights, (0.0,), "above 0"),
        (views.apart, ({},), "Expected 1 to 4"),
        (views.apart, ({"one": []},), "at least one row"),
    ],
)
def test_what_cannot_be_drawn_is_told(view, arguments, said):
    with pytest.raises(ValueError, match=said):
        view(*arguments)


def test_the_same_method_has_one_colour():
    (line, *_) = views.apart({"NPO, β = 1": rows(1.0)}).data
    assert line.line.color == views.COLOURS["NPO"]
    assert set(views.COLOURS) == set(toy.LOSSES)
    assert len(set(views.COLOURS.values())) == len(toy.LOSSES)
