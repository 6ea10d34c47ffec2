"""The training loop: equal to slow loops and closed forms, and bit-identical however often it is stopped."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab import training
from safealign_lab.training import DivergedError, Group, History, Plan, ResumeError, backward, train, weights_hash

ROOT = Path(__file__).resolve().parent.parent
DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))


def network(seed: int = 0, dropout: float = 0.3) -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 3)
        return torch.nn.Sequential(*layers)


def regression(model: torch.nn.Module, at: dict | None = None):
    """A loss with two terms on a random batch; `at` = {step: what to call there, once}."""

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        (at or {}).pop(step, lambda: None)()
        rows = torch.randint(64, (5,), generator=generator)
        error = (model(DATA[rows]) - TARGETS[rows]).square().mean()
        size = sum(p.square().sum() for p in model.parameters())
        return {"loss": error + 1e-3 * size, "error": error, "size": size}

    return loss_fn


def fit(model: torch.nn.Module, plan: Plan, at: dict | None = None, **options) -> History:
    return train(dict(model.named_parameters()), regression(model, at), plan, progress=False, **options)


def groups(model: torch.nn.Sequential) -> list[Group]:
    first = {f"first.{name}": p for name, p in model[0].named_parameters()}
    last = {f"last.{name}": p for name, p in model[3].named_parameters()}
    return [Group(first, weight_decay=0.3), Group(last, learning_rate=0.002)]


def untimed(history: History) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


# --- the schedule ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "floor"), [("cosine", 0.1), ("linear", 0.0), ("constant", 0.4)])
def test_schedule_is_torchs_without_warmup(schedule: str, floor: float) -> None:
    plan = Plan(steps=23, learning_rate=0.5, schedule=schedule, floor=floor)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    kinds = torch.optim.lr_scheduler
    theirs = {
        "cosine": lambda: kinds.CosineAnnealingLR(optimizer, 23, eta_min=0.5 * floor),
        "linear": lambda: kinds.LinearLR(optimizer, 1.0, 1e-12, 23),
        "constant": lambda: kinds.ConstantLR(optimizer, 1.0, 23),
    }[schedule]()
    for step in range(1, 24):
        assert 0.5 * plan.multiplier(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


@given(st.integers(1, 300), st.data(), st.sampled_from(["cosine", "linear", "constant"]), st.floats(0, 1))
def test_schedule_rises_to_one_peak_then_falls_to_the_floor(steps: int, data, schedule: str, floor: float) -> None:
    warmup = data.draw(st.integers(0, steps - 1))
    plan = Plan(steps=steps, learning_rate=1.0, schedule=schedule, warmup=warmup, floor=floor)
    values = [plan.multiplier(step) for step in range(1, steps + 1)]
    assert values[warmup] == 1.0
    assert values[:warmup] == pytest.approx([s / (warmup + 1) for s in range(1, warmup + 1)])
    assert all(a >= b for a, b in zip(values[warmup:], values[warmup + 1 :], strict=False))
    assert all(0 < value <= 1 for value in values)
    assert min(values[warmup:]) >= floor


def test_schedule_closed_form_with_warmup() -> None:
    plan = Plan(steps=10, learning_rate=1.0, schedule="cosine", warmup=2, floor=0.2)
    by_hand = [1 / 3, 2 / 3] + [0.2 + 0.8 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert [plan.multiplier(step) for step in range(1, 11)] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"steps": 0}, "steps"), ({"learning_rate": 0.0}, "learning_rate"), ({"learning_rate": math.nan}, "rate"),
        ({"schedule": "step"}, "schedule"), ({"warmup": 10}, "warmup"), ({"warmup": -1}, "warmup"),
        ({"floor": 1.1}, "floor"), ({"clip": 0.0}, "clip"), ({"weight_decay": -0.1}, "weight_decay"),
        ({"betas": (0.9, 1.0)}, "betas"), ({"betas": (0.9,)}, "betas"), ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"evaluate_every": 0}, "evaluate_every"), ({"patience": 0, "evaluate_every": 1}, "patience"),
        ({"patience": 2}, "evaluate_every"),
    ],
)  # fmt: skip
def test_plan_refuses_in_one_sentence(setting: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        Plan(**{"steps": 10, "learning_rate": 0.1, **setting})
    assert "\n" not in str(caught.value)


# --- the update -----------------------------------------------------------------------------------


def slow_adamw(weights: list[float], gradients, plan: Plan, rate: float, decay: float) -> list[float]:
    """AdamW on plain Python numbers: decay apart from the gradient, both moments corrected for their start at zero."""
    first, second = [0.0] * len(weights), [0.0] * len(weights)
    for step in range(1, plan.steps + 1):
        eta = rate * plan.multiplier(step)
        for i, g in enumerate(gradients(step, weights)):
            first[i] = plan.betas[0] * first[i] + (1 - plan.betas[0]) * g
            second[i] = plan.betas[1] * second[i] + (1 - plan.betas[1]) * g * g
            m, v = first[i] / (1 - plan.betas[0] ** step), second[i] / (1 - plan.betas[1] ** step)
            weights[i] = weights[i] - eta * decay * weights[i] - eta * m / (math.sqrt(v) + 1e-8)
    return weights


@settings(max_examples=25)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.sampled_from(["cosine", "linear", "constant"]),
    st.floats(0.5, 0.95), st.floats(0, 0.5), st.one_of(st.none(), st.floats(0.05, 5)), st.integers(0, 4),
)  # fmt: skip
def test_loop_equals_a_hand_written_adamw(start, schedule, beta, decay, clip, warmup) -> None:
    plan = Plan(12, 0.1, schedule, warmup=warmup, floor=0.1, clip=clip, weight_decay=decay, betas=(beta, 0.99))
    centres = [[math.sin(3.0 * step + i) for i in range(len(start))] for step in range(13)]
    norms = []

    def gradients(step: int, weights: list[float]) -> list[float]:  # of Σ (w − c)² / 2, clipped by hand
        raw = [w - c for w, c in zip(weights, centres[step], strict=True)]
        norms.append(math.sqrt(sum(g * g for g in raw)))
        scale = 1.0 if clip is None else min(1.0, clip / (norms[-1] + 1e-6))
        return [scale * g for g in raw]

    expected = slow_adamw(list(start), gradients, plan, 0.1, decay)
    weights = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    aims = torch.tensor(centres, dtype=torch.float64)
    history = train({"w": weights}, lambda step, _: (weights - aims[step]).square().sum() / 2, plan, progress=False)
    assert weights.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert [row["gradient_norm"] for row in history.rows] == pytest.approx(norms, rel=1e-9)
    assert [row["learning_rate"] for row in history.rows] == [0.1 * plan.multiplier(s) for s in range(1, 13)]


@pytest.mark.parametrize("clip", [0.05, 1e9, None])
def test_loop_is_bit_identical_to_a_plain_torch_loop_with_groups(clip: float | None) -> None:
    plan = Plan(steps=15, learning_rate=0.01, warmup=3, clip=clip, weight_decay=0.1, seed=5)
    model, twin = network(dropout=0.0), network(dropout=0.0)
    history = train(groups(model), regression(model), plan, progress=False)

    loss_fn, rates = regression(twin), (0.01, 0.002)
    optimizer = torch.optim.AdamW([
        {"params": twin[0].parameters(), "weight_decay": 0.3}, {"params": twin[3].parameters(), "weight_decay": 0.1},
    ])  # fmt: skip
    norms = []
    for step in range(1, 16):
        optimizer.zero_grad()
        loss_fn(step, training.step_generator(5, step))["loss"].backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * plan.multiplier(step)
        norms.append(torch.stack([p.grad.norm() for p in twin.parameters()]).norm().item())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
        optimizer.step()
    assert weights_hash(model) == weights_hash(twin)
    assert [row["gradient_norm"] for row in history.rows] == pytest.approx(norms, rel=1e-6)
    assert max(norms) > 0.05  # so that the first case did clip


def test_one_loss_alone_or_with_terms_trains_alike() -> None:
    one, two = network(), network()
    plan = Plan(steps=6, learning_rate=0.01)
    plain = train(dict(one.named_parameters()), lambda s, g: regression(one)(s, g)["loss"], plan, progress=False)
    terms = fit(two, plan)
    assert weights_hash(one) == weights_hash(two)
    assert [row["loss"] for row in plain.rows] == [row["loss"] for row in terms.rows]
    assert plain.rows[0]["terms"] == {}
    row = terms.rows[3]
    assert row["loss"] == pytest.approx(row["terms"]["error"] + 1e-3 * row["terms"]["size"])
    assert json.loads(json.dumps(terms.rows, allow_nan=False)) == terms.rows
    assert [row["step"] for row in terms.rows] == [1, 2, 3, 4, 5, 6]


# --- chance ---------------------------------------------------------------------------------------


def test_seed_decides_everything_and_the_callers_generators_are_left_alone() -> None:
    plan = Plan(steps=8, learning_rate=0.05, seed=3)
    results = []
    for noise, seed in ((1, 3), (99, 3), (1, 4)):
        model = network()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        history = fit(model, Plan(**{**vars(plan), "seed": seed}))
        assert torch.equal(torch.get_rng_state(), before)
        results.append((weights_hash(model), untimed(history)))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]


def test_any_steps_batch_can_be_drawn_again_and_no_two_are_alike() -> None:
    seen = {}
    weight = torch.zeros(1, requires_grad=True)

    def loss_fn(step: int, generator: torch.Generator) -> torch.Tensor:
        seen[step] = torch.randint(2**31, (4,), generator=generator), torch.rand(4)  # batch, dropout
        return weight.sum()

    for seed in (0, 1):  # seed + step would make step 2 of seed 0 and step 1 of seed 1 the same
        train({"w": weight}, loss_fn, Plan(steps=5, learning_rate=0.1, seed=seed), progress=False)
        for step, (batch, _) in list(seen.items()):
            if isinstance(step, int):
                again = torch.randint(2**31, (4,), generator=training.step_generator(seed, step))
                assert torch.equal(batch, again)
                seen[f"{seed}/{step}"] = seen.pop(step)
    assert len({tuple(batch.tolist()) for batch, _ in seen.values()}) == 10
    assert len({tuple(mask.tolist()) for _, mask in seen.values()}) == 10


def test_seed_everything_seeds_all_three() -> None:
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    training.seed_everything(2**40 + 7)
    first = draw()
    assert draw() != first
    training.seed_everything(2**40 + 7)
    assert draw() == first


# --- what trains ----------------------------------------------------------------------------------


def test_only_what_is_named_changes(toy) -> None:
    model = copy.deepcopy(toy[0]).requires_grad_(False)
    prompt = torch.zeros(4, 32, requires_grad=True)  # (P, D)
    ids = torch.tensor([[7, 8, 9, 10]])
    before = weights_hash(model), weights_hash({"prompt": prompt})

    def loss_fn(step: int, generator: torch.Generator) -> torch.Tensor:
        joined = torch.cat([prompt[None], model.get_input_embeddings()(ids)], dim=1)  # (1, P+T, D)
        return model(inputs_embeds=joined).logits[0, -1].logsumexp(0)

    train({"prompt": prompt}, loss_fn, Plan(steps=3, learning_rate=0.1), progress=False)
    assert weights_hash(model) == before[0]
    assert weights_hash({"prompt": prompt}) != before[1]
    model.lm_head.weight.data[3, 3] += 1e-6  # and the hash does see a single number
    assert weights_hash(model) != before[0]


def test_tied_weights_train_once() -> None:
    shared = torch.nn.Linear(3, 3)
    plan = Plan(steps=4, learning_rate=0.1, clip=1e-3, weight_decay=0.2)
    twin = copy.deepcopy(shared)
    tied = {"in.weight": shared.weight, "out.weight": shared.weight, "bias": shared.bias}
    a = train(tied, lambda *_: shared(DATA[:, :3]).square().sum(), plan, progress=False)
    b = train(dict(twin.named_parameters()), lambda *_: twin(DATA[:, :3]).square().sum(), plan, progress=False)
    assert weights_hash(shared) == weights_hash(twin)
    assert untimed(a) == untimed(b)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "nothing to train"),
        ({"w": torch.zeros(2)}, "'w' cannot be trained"),
        ({"w": torch.zeros(2, requires_grad=True) * 2}, "'w' cannot be trained"),
        ([Group({"w": network()[0].weight}), Group({"w": network()[3].weight})], "share a name"),
    ],
)
def test_parameters_that_do_not_fit(parameters, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        train(parameters, lambda *_: torch.zeros(()), Plan(steps=1, learning_rate=0.1), progress=False)


def test_groups_that_do_not_fit() -> None:
    weight = torch.zeros(2, requires_grad=True)
    for options, words in (({"learning_rate": 0.0}, "learning_rate"), ({"weight_decay": -1.0}, "weight_decay")):
        with pytest.raises(ValueError, match=words):
            Group({"w": weight}, **options)
    with pytest.raises(ValueError, match="more than one"):
        train([Group({"a": weight}), Group({"b": weight})], lambda *_: weight.sum(), Plan(1, 0.1), progress=False)


def test_a_loss_that_does_not_fit() -> None:
    weight = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="step 1: the loss does not depend"):
        train({"w": weight}, lambda *_: torch.ones(()), Plan(1, 0.1), progress=False)
    with pytest.raises(ValueError, match=r"step 1: loss_fn returned \['kl'\]"):
        train({"w": weight}, lambda *_: {"kl": weight.sum()}, Plan(1, 0.1), progress=False)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6), st.integers(0, 5))
def test_weights_hash_is_equal_exactly_where_the_bits_are(values: list[float], place: int) -> None:
    tensor = torch.tensor(values)
    twin = tensor.clone()
    assert weights_hash({"a": tensor}) == weights_hash({"a": twin})
    twin[place % len(values)] = torch.nextafter(twin[place % len(values)], torch.tensor(9.0))
    assert weights_hash({"a": tensor}) != weights_hash({"a": twin})


def test_weights_hash_sees_names_shapes_and_dtypes_but_not_order_or_strides() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones((), dtype=torch.bfloat16)
    different = [
        {"a": a, "b": b}, {"a": a, "c": b}, {"a": a.reshape(3, 2), "b": b}, {"a": a.view(torch.int32), "b": b},
        {"a": a}, {"ab": a, "": b}, {"a": -0.0 * a, "b": b}, {"a": 0.0 * a, "b": b},
    ]  # fmt: skip
    assert len({weights_hash(weights) for weights in different}) == len(different)
    assert weights_hash({"b": b, "a": a.T.contiguous().T}) == weights_hash({"a": a, "b": b})
    assert weights_hash(network(0)) == weights_hash(dict(network(0).named_parameters()))


# --- hooks ----------------------------------------------------------------------------------------


def test_a_masked_gradient_drifts_and_a_masked_update_does_not() -> None:
    plan = Plan(steps=10, learning_rate=0.01, weight_decay=0.1)
    model, held = network(), network()
    anchor, mask = held[0].weight.detach().clone(), torch.rand(8, 6) < 0.5

    def masked(closure):
        terms = backward(closure)
        model[0].weight.grad[mask] = 0.0
        return terms

    def hold(step: int) -> None:
        held[0].weight[mask] = anchor[mask]

    fit(model, plan, gradient=masked)
    fit(held, plan, after_step=hold)
    assert torch.equal(held[0].weight[mask], anchor[mask])
    assert (held[0].weight[~mask] != anchor[~mask]).all()
    assert (model[0].weight[mask] != anchor[mask]).all()  # weight decay alone moves them
    expected = anchor[mask] * math.prod(1 - 0.01 * plan.multiplier(s) * 0.1 for s in range(1, 11))
    assert torch.allclose(model[0].weight[mask], expected, atol=1e-7)


def test_gradient_at_other_weights_and_a_closure_that_repeats_itself() -> None:
    model, twin = network(), network()
    plan, moved = Plan(steps=5, learning_rate=0.01), 0.05
    losses = []

    def at_moved_weights(closure):
        losses.append((closure()["loss"].item(), closure()["loss"].item()))  # the same batch, the same dropout
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for p in model.parameters():
                p.add_(moved)
        terms = backward(closure)
        for p, value in zip(model.parameters(), kept, strict=True):
            p.data.copy_(value)
        return terms

    fit(model, plan, gradient=at_moved_weights)
    assert all(a == b for a, b in losses)

    optimizer = torch.optim.AdamW(twin.parameters(), weight_decay=0.0)
    for step in range(1, 6):  # by hand: gradient at w + 0.05, step from w
        shifted = copy.deepcopy(twin)
        for p in shifted.parameters():
            p.data.add_(moved)
        torch.manual_seed(training._derived(0, step, "dropout"))
        regression(shifted)(step, training.step_generator(0, step))["loss"].backward()
        for p, q in zip(twin.parameters(), shifted.parameters(), strict=True):
            p.grad = q.grad
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 0.01 * plan.multiplier(step)
        optimizer.step()
    assert weights_hash(model) == weights_hash(twin)


# --- evaluation -----------------------------------------------------------------------------------


def stopping_run(scores: list[float], patience: int | None, folder: Path | None = None, at: dict | None = None):
    """A run whose k-th evaluation scores `scores[k]`: (history, model, weights hashes after each evaluation)."""
    model, hashes = network(), {}

    def evaluate(step: int) -> dict[str, float]:
        (at or {}).pop(f"evaluate {step}", lambda: None)()
        hashes[step] = weights_hash(model)
        return {"score": scores[step // 2 - 1], "noise": torch.rand(1).item()}

    plan = Plan(2 * len(scores), 0.05, evaluate_every=2, patience=patience, checkpoint_every=3)
    history = train(groups(model), regression(model, at), plan, evaluate=evaluate, folder=folder, progress=False)
    return history, model, hashes


@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_early_stopping_ends_with_the_best_weights(scores: list[int], patience: int) -> None:
    history, model, hashes = stopping_run([float(s) for s in scores], patience)
    best, waited, seen = -1, 0, 0  # a slow loop over the scores
    for k, score in enumerate(scores):
        seen = k + 1
        waited = 0 if best < 0 or score > scores[best] else waited + 1
        best = k if waited == 0 else best
        if waited == patience:
            break
    assert len(history.rows) == 2 * seen
    assert history.best["step"] == 2 * (best + 1)
    assert weights_hash(model) == hashes[2 * (best + 1)]


def test_without_patience_the_last_weights_stay_and_the_best_row_is_known() -> None:
    history, model, hashes = stopping_run([1.0, 3.0, 3.0, 2.0], None)
    assert len(history.rows) == 8
    assert history.best["step"] == 4
    assert weights_hash(model) == hashes[8]
    assert History().best is None


def test_the_last_step_is_always_evaluated() -> None:
    for every, expected in ((None, [7]), (3, [3, 6, 7]), (7, [7])):
        model, steps = network(), []
        plan = Plan(steps=7, learning_rate=0.1, evaluate_every=every)
        history = fit(model, plan, evaluate=lambda step, steps=steps: steps.append(step) or {"score": 0.0})
        assert steps == expected == [row["step"] for row in history.rows if "evaluation" in row]


def test_an_evaluation_that_does_not_fit() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"step 2: evaluate returned \['accuracy'\]"):
        fit(model, Plan(4, 0.1, evaluate_every=2), evaluate=lambda _: {"accuracy": 1.0})
    with pytest.raises(DivergedError, match="step 2, where 'score' of the evaluation is nan"):
        fit(model, Plan(4, 0.1, evaluate_every=2), evaluate=lambda _: {"score": math.nan})
    with pytest.raises(ValueError, match="pass evaluate"):
        fit(model, Plan(4, 0.1, evaluate_every=2))


# --- stopping and going on ------------------------------------------------------------------------

SCORES = [1.0, 2.0, 1.5, 2.5, 2.0, 2.4, 2.3, 9.0]  # with patience 3 it stops at step 14, best at 8


STOPS = [[1], [5, 6, 7], [9], ["evaluate 4"], ["evaluate 8", 13], ["evaluate 14"], [2, "evaluate 2"]]


@pytest.mark.parametrize("stops", STOPS)
def test_interrupted_and_resumed_equals_uninterrupted(stops: list, tmp_path: Path) -> None:
    """With dropout, two groups, early stopping, and evaluations that draw at random."""
    whole, model, _ = stopping_run(SCORES, 3)
    assert (len(whole.rows), whole.best["step"]) == (14, 8)
    at = dict.fromkeys(stops, ctrl_c)
    for left in range(len(stops), 0, -1):
        with pytest.raises(KeyboardInterrupt):
            stopping_run(SCORES, 3, tmp_path, at)
        assert len(at) == left - 1
    history, resumed, _ = stopping_run(SCORES, 3, tmp_path, at)
    assert weights_hash(resumed) == weights_hash(model)
    assert untimed(history) == untimed(whole)


def test_ctrl_c_loses_no_step_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    plan, model = Plan(steps=9, learning_rate=0.01), network()

    def run(at: dict, folder: Path = tmp_path) -> History:
        return fit(model, plan, at, folder=folder)

    with pytest.raises(KeyboardInterrupt):
        run({4: ctrl_c})
    reached = weights_hash(model)
    steps = []
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run({5: lambda: [ctrl_c(), steps.append("waited"), ctrl_c(), steps.append("never")]})
    assert steps == ["waited"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert weights_hash(model) == reached  # step 4 was finished and kept, step 5 was not begun
    assert [row["step"] for row in run({}).rows] == list(range(1, 10))


def test_an_interrupt_within_an_update_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    plan = Plan(steps=6, learning_rate=0.01, checkpoint_every=2)

    def run(hook=None, folder: Path | None = tmp_path) -> tuple:
        model = network()
        history = fit(model, plan, after_step=hook, folder=folder)
        return weights_hash(model), untimed(history)

    def stop(step: int) -> None:
        if step == 6:  # step 5 is made, and not yet in a checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    stored = json.loads(training.safe_open(tmp_path / "checkpoint.safetensors", "pt").metadata()["run"])
    assert len(stored["rows"]) == 4
    os.link(tmp_path / "checkpoint.safetensors", tmp_path / "former")
    written = (tmp_path / "former").read_bytes()
    assert run() == run(folder=None)
    assert (tmp_path / "former").read_bytes() == written  # a checkpoint is replaced, never written into


def test_a_hooks_buffers_are_resumed_with_the_run(tmp_path: Path) -> None:
    """|g| summed over a phase, as an importance score is, and stopped between the gradient and the update."""

    def run(folder: Path | None, at: dict) -> list[float]:
        model = network()
        total = torch.zeros_like(model[0].weight)

        def gradient(closure):
            terms = backward(closure)
            total.add_(model[0].weight.grad.abs())
            at.pop(len(calls), lambda: None)()
            calls.append(1)
            return terms

        calls: list[int] = []
        plan = Plan(steps=8, learning_rate=0.01, checkpoint_every=3)
        fit(model, plan, gradient=gradient, buffers={"total": total}, folder=folder)
        return total.flatten().tolist()

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, {4: ctrl_c})
    assert run(tmp_path, {}) == run(None, {})


def test_a_finished_run_is_only_read_back(tmp_path: Path) -> None:
    for patience in (None, 3):
        history, model, _ = stopping_run(SCORES, patience, tmp_path / str(patience))
        file = tmp_path / str(patience) / "checkpoint.safetensors"
        before = file.stat().st_mtime_ns
        again, other, evaluated = stopping_run(SCORES, patience, file.parent, {1: lambda: pytest.fail("trained")})
        assert (again.rows, weights_hash(other), evaluated) == (history.rows, weights_hash(model), {})
        assert file.stat().st_mtime_ns == before


def test_training_in_a_thread_needs_no_signals(tmp_path: Path) -> None:
    here, there = network(), network()
    plan = Plan(steps=4, learning_rate=0.01)
    fit(here, plan)
    thread = threading.Thread(target=fit, args=(there, plan), kwargs={"folder": tmp_path})
    thread.start()
    thread.join()
    assert weights_hash(here) == weights_hash(there)


def long_run(folder: str | None, pause: float) -> list:
    """80 steps at most, of at least `pause` seconds each, with a checkpoint after every one."""
    model = network()
    loss_fn = regression(model, {step: lambda: time.sleep(pause) for step in range(1, 81)})
    plan = Plan(80, 0.05, evaluate_every=10, patience=3, checkpoint_every=1)
    score = {10 * (k + 1): {"score": score} for k, score in enumerate(SCORES)}
    history = train(groups(model), loss_fn, plan, evaluate=score.get, folder=folder, progress=False)
    return [weights_hash(model), untimed(history)]


KILLS = 2
CHILD = "import json, sys; from tests import test_training as t; print(json.dumps(t.long_run(sys.argv[1], 0.01)))"


def child(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """SIGKILL, again and again, while a checkpoint is written after each step."""
    file, chance, written = tmp_path / "checkpoint.safetensors", random.Random(4), 0
    for _ in range(KILLS):
        with child(tmp_path) as process:
            while process.poll() is None and (not file.exists() or file.stat().st_mtime_ns == written):
                time.sleep(0.001)  # until it has got further than the last one
            time.sleep(chance.random() * 0.5 / KILLS)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed: raise the pause"
        written = file.stat().st_mtime_ns
    expected = long_run(None, 0.0)
    assert len(expected[1]) == 70
    assert json.loads(child(tmp_path).communicate()[0]) == expected


def test_a_kill_while_writing_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(steps=6, learning_rate=0.01, checkpoint_every=2)

    def run(folder: Path | None) -> str:
        model = network()
        fit(model, plan, folder=folder)
        return weights_hash(model)

    class Killed(BaseException):
        pass

    writings = []

    def torn_writing(tensors, path: Path, metadata) -> None:
        real(tensors, path, metadata)
        writings.append(path)
        if len(writings) == 2:
            path.write_bytes(path.read_bytes()[:700])
            raise Killed

    real = training.save_file
    monkeypatch.setattr(training, "save_file", torn_writing)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    with training.safe_open(tmp_path / "checkpoint.safetensors", "pt") as stored:
        assert len(json.loads(stored.metadata()["run"])["rows"]) == 2
    assert run(tmp_path) == run(None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.02}, "learning_rate was 0.01, now 0.02"),
        ({"steps": 12}, "steps was 8, now 12"),
        ({"betas": (0.9, 0.95)}, "betas was"),
        ({"seed": 1, "clip": None}, "clip was 1.0, now None; seed was 0, now 1"),
    ],
)
def test_resuming_with_another_plan_is_refused(change: dict, words: str, tmp_path: Path) -> None:
    model = network()
    former = {"steps": 8, "learning_rate": 0.01}
    with pytest.raises(KeyboardInterrupt):
        fit(model, Plan(**former), {3: ctrl_c}, folder=tmp_path)
    reached = weights_hash(model)
    with pytest.raises(ResumeError) as caught:
        fit(model, Plan(**{**former, **change}), folder=tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert weights_hash(model) == reached


def test_resuming_with_other_parameters_or_groups_is_refused(tmp_path: Path) -> None:
    model = network()

    def run(parameters: list[Group], **options) -> None:
        plan = Plan(steps=2, learning_rate=0.01)
        train(parameters, regression(model), plan, folder=tmp_path, progress=False, **options)

    run(groups(model))
    with pytest.raises(ResumeError, match=r"last.weight was torch.float32 \(3, 8\), rate 0.002, decay 0.0, now absent"):
        run(groups(model)[:1])
    with pytest.raises(ResumeError, match=r"rate 0.002, decay 0.0, now .* rate 0.003"):
        run([groups(model)[0], Group(groups(model)[1].parameters, learning_rate=0.003)])
    with pytest.raises(ResumeError, match=r"buffers was \[\], now \['score'\]"):
        run(groups(model), buffers={"score": torch.zeros(1)})


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_names_the_term_and_keeps_the_checkpoint(bad: float, tmp_path: Path) -> None:
    model = network()
    plan = Plan(steps=8, learning_rate=0.01, checkpoint_every=2)
    ordinary, hashes = regression(model), {}

    def loss_fn(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        hashes[step] = weights_hash(model)
        terms = ordinary(step, generator)
        penalty = terms["error"] * (bad if step == 6 else 1.0)
        return {**terms, "loss": terms["loss"] + penalty, "penalty": penalty}

    with pytest.raises(DivergedError, match=f"step 6, where 'penalty' of the loss is {bad}") as caught:
        train(dict(model.named_parameters()), loss_fn, plan, folder=tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert weights_hash(model) == hashes[6]
    with training.safe_open(tmp_path / "checkpoint.safetensors", "pt") as stored:
        assert len(json.loads(stored.metadata()["run"])["rows"]) == 4


def test_a_gradient_that_is_not_finite_stops_before_the_update() -> None:
    weight = torch.zeros(2, requires_grad=True)
    with pytest.raises(DivergedError, match="step 1, where 'norm' of the gradient is"):
        train({"w": weight}, lambda *_: weight.sqrt().sum(), Plan(3, 0.1), progress=False)  # the slope of √ at 0
    assert torch.equal(weight, torch.zeros(2))


def test_progress_shows_what_is_left(capsys: pytest.CaptureFixture) -> None:
    model = network()
    train(dict(model.named_parameters()), regression(model), Plan(steps=5, learning_rate=0.01))
    shown = capsys.readouterr()
    assert "5/5" in shown.err
    assert "loss=" in shown.err
    assert shown.out == ""
