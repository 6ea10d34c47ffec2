"""Canaries: scores against slow loops, exact numbers, files, comparisons; and what the selection costs."""

from __future__ import annotations

import ctypes
import json
import math
import re
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.immunization import canaries as rooms
from safealign_lab.immunization.canaries import (
    Accumulator,
    load,
    overlap,
    places,
    random_like,
    save,
    select,
    spared,
)
from safealign_lab.immunization.weight_attack import at_perturbed_weights
from safealign_lab.training import Plan, step_generator, train

quick = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 10**6)
FRACTIONS = st.sampled_from([0.0, 0.01, 0.07, 0.1, 0.3, 0.5, 0.9, 1.0])
SCORES = st.lists(  # tensors of few values, so that there are ties, of either sign, and with both zeros
    st.lists(st.sampled_from([0.0, -0.0, 1e-40, 1e-8, 0.5, 0.5000001, 2.0, 3e38, -1e-8, -0.5, -3e38]), max_size=40),
    min_size=1,
    max_size=4,
)


def named(lists):
    return {f"w{number}": torch.tensor(one) for number, one in enumerate(lists)}


def chosen(canaries):
    return {name: canaries.mask(name) for name in canaries.bits}


def slow_selection(scores, count):
    """The places of the largest, of equal ones the first, by sorting all of them."""
    entries = [
        (-value, name, place) for name, score in scores.items() for place, value in enumerate(score.flatten().tolist())
    ]
    order = sorted(range(len(entries)), key=lambda number: (entries[number][0], number))
    return {entries[number][1:] for number in order[:count]}


def found(canaries):
    return {
        (name, place)
        for name, mask in chosen(canaries).items()
        for place in mask.flatten().nonzero().flatten().tolist()
    }


# ---------------------------------------------------------------- the selection


@given(SCORES, FRACTIONS)
@quick
def test_the_selection_is_that_of_a_sort_with_ties_and_signs_and_zeros(lists, fraction):
    scores = named(lists)
    total = sum(map(len, lists))
    count = -(-round(fraction * 100) * total // 100)
    assert found(select(scores, fraction)) == slow_selection(scores, count)


@given(SCORES, FRACTIONS)
@quick
def test_per_tensor_every_tensor_has_its_own(lists, fraction):
    scores = named(lists)
    picked = select(scores, fraction, per_tensor=True)
    for name, score in scores.items():
        alone = {name: score}
        assert {place for place in found(picked) if place[0] == name} == found(select(alone, fraction))


@given(SEEDS, st.integers(1, 400), st.integers(1, 100))
@quick
def test_the_number_is_exact_for_every_fraction_in_hundredths(seed, size, percent):
    scores = {"w": torch.rand(size, generator=torch.Generator().manual_seed(seed)).round(decimals=1)}
    assert sum(select(scores, percent / 100).counts().values()) == -(-percent * size // 100)


def test_the_number_is_that_of_the_fraction_as_it_is_written():
    assert 0.07 * 100 > 7  # in binary
    assert select({"w": torch.rand(100)}, 0.07).counts() == {"w": 7}
    assert select({"w": torch.zeros(101)}, 0.07).counts() == {"w": 8}
    assert select({"w": torch.zeros(9)}, 0).counts() == {"w": 0}


def test_both_zeros_are_one_score():
    zeros = {"w": torch.tensor([-0.0, 0.0, -0.0, 0.0, -1.0])}
    assert [select(zeros, count / 5).mask("w").sum().item() for count in range(6)] == list(range(6))
    assert select(zeros, 0.4).mask("w").tolist() == [True, True, False, False, False]


def test_chunks_leave_no_seam(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.randn(shape, generator=generator) for name, shape in {"a": (37, 11), "b": (5,), "c": (64,)}.items()
    }
    scores["a"][3:9] = 0.25  # ties across chunks
    whole = {fraction: select(scores, fraction) for fraction in (0.1, 0.4, 0.7)}
    monkeypatch.setattr(rooms, "CHUNK", 16)
    for fraction, before in whole.items():
        assert found(select(scores, fraction)) == found(before) == slow_selection(scores, math.ceil(fraction * 476))


@given(SEEDS, st.sampled_from(["continuous", "rounded", "mostly zero"]), st.sampled_from([0.001, 0.03, 0.5, 0.97, 1.0]))
@quick
def test_a_sample_of_many_scores_suggests_a_range_and_does_not_decide(seed, kind, fraction):
    numbers = torch.randn(5_000, generator=torch.Generator().manual_seed(seed))
    numbers = {"continuous": numbers, "rounded": numbers.round(decimals=1), "mostly zero": torch.relu(numbers - 2)}[
        kind
    ]
    scores, count = {"a": numbers[:1_200], "b": numbers[1_200:]}, round(fraction * 5_000)
    expected = slow_selection(scores, count)
    assert found(select(scores, fraction)) == expected
    for misled in ((-1, 1), (rooms.LARGEST - 9, rooms.LARGEST), (-rooms.LARGEST, 9 - rooms.LARGEST)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rooms, "_guess", lambda flats, count, misled=misled: misled)
            assert found(select(scores, fraction)) == expected


def test_scores_in_half_precision_and_views_are_selected_in():
    score = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(select({"w": score}, 0.25).mask("w"), select({"w": score.float()}, 0.25).mask("w"))
    assert torch.equal(select({"w": score.T}, 0.25).mask("w"), select({"w": score}, 0.25).mask("w").T)


@pytest.mark.parametrize("wrong", [math.nan, -math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(wrong):
    scores = {"a": torch.rand(50), "b": torch.rand(50)}
    scores["b"][17] = wrong
    with pytest.raises(ValueError, match="score is not finite: look for the batch whose gradient diverged"):
        select(scores, 0.1)
    select({"a": torch.tensor([3.4028235e38, -3.4028235e38, 1e-45])}, 0.5)  # the largest and the smallest are fine


def test_an_impossible_selection_is_refused():
    for fraction in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"a fraction in \[0, 1\] of at least one tensor's weights"):
            select({"w": torch.rand(3)}, fraction)
    with pytest.raises(ValueError, match="not 0.5 of 0"):
        select({}, 0.5)


# ---------------------------------------------------------------- what it costs


def resident():
    """The resident set now and its peak, in bytes."""
    status = Path("/proc/self/status").read_text()
    return [1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "VmHWM")]


def cost(function):
    """Processor seconds, the peak of memory above what was there before, and what came of it."""
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed before would be used again, and not be seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, began = resident()[0], time.process_time()
    result = function()
    return time.process_time() - began, resident()[1] - before, result


def selection_benchmark(scores, fraction=0.03, rounds=5):
    """Ratios of time and of memory of the selection to torch.topk over all scores laid end to end; and that both agree.

    The two take turns, since a machine is busier at one time than at another, and the least of each counts.
    """
    count = math.ceil(fraction * sum(map(len, scores.values())))
    mine, theirs = [], []
    for _ in range(rounds):
        seconds, memory, picked = cost(lambda: select(scores, fraction))
        mine.append((seconds, memory))
        seconds, memory, top = cost(lambda: torch.topk(torch.cat(list(scores.values())), count))
        theirs.append((seconds, memory))
        least = top.values.min()
        del top
    for name, score in scores.items():  # of those that equal the least, either may take others
        assert (picked.mask(name) <= (score >= least)).all()
        assert (picked.mask(name) >= (score > least)).all()
    assert sum(picked.counts().values()) == count
    (fast, small), (slow, large) = (map(min, zip(*one, strict=True)) for one in (mine, theirs))
    assert large > 4 * sum(map(len, scores.values()))  # a peak was seen: the scores end to end at least
    return fast / slow, small / large


def scores_of(kind, numbers):
    """Scores as a phase gathers them, and those that are the hardest: nearly all of them equal, at the threshold too."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(numbers, generator=generator).pow_(2)
    if kind == "nearly all equal":
        drawn.masked_fill_(drawn < 9, 0.5)
    if kind == "of two values":
        drawn = torch.where(drawn < 4.7, 0.5, 0.7)  # about 0.03 of them are the larger
    parts = drawn.split([numbers // 5, *[numbers // 100] * 80])  # as in a model: one large embedding, many matrices
    return {f"w{number}": part for number, part in enumerate(parts)}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as Linux tells it")
@pytest.mark.parametrize("kind", ["squared gradients", "nearly all equal", "of two values"])
def test_the_selection_takes_half_the_time_and_a_quarter_of_the_memory_of_topk(kind):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds, memory = selection_benchmark(scores_of(kind, 20_000_000))
    finally:
        torch.set_num_threads(threads)
    assert memory <= 0.25
    if kind == "squared gradients":  # how long the others take depends on where the ties lie
        assert seconds <= 0.5


# ---------------------------------------------------------------- scores


def model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).requires_grad_()
        for name, shape in {"a": (4, 3), "b": (3,)}.items()
    }


def batch_loss(weights, number):
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(number))  # (B, 4)
    return (torch.tanh(inputs @ weights["a"]) * weights["b"]).sum(1).square().mean()


SLOW = {
    "absolute": lambda theta, g: abs(g), "squared": lambda theta, g: g * g, "weighted": lambda theta, g: abs(theta * g),
}  # fmt: skip


@given(SEEDS, st.sampled_from([*SLOW, "printed"]))
@quick
def test_scores_equal_slow_loops(seed, kind):
    weights = model(seed)
    accumulator = Accumulator(weights, kind)
    slow = {name: [0.0] * weight.numel() for name, weight in weights.items()}
    for number in range(3):
        for weight in weights.values():
            weight.grad = None
        batch_loss(weights, number).backward()
        accumulator.add()
        for name, weight in weights.items():
            score = SLOW.get(kind, SLOW["absolute"])
            pairs = zip(weight.flatten().tolist(), weight.grad.flatten().tolist(), strict=True)
            former = [0.0] * weight.numel() if kind == "printed" else slow[name]
            slow[name] = [sum(two) for two in zip(former, [score(*pair) for pair in pairs], strict=True)]
    for name, score in accumulator.scores.items():
        assert score.flatten().tolist() == pytest.approx(slow[name], rel=1e-5)
        assert score.shape == weights[name].shape


def test_a_score_leaves_the_gradient_as_it_is_and_takes_one_that_is_handed_over():
    weights = model()
    for kind in (*SLOW, "printed"):
        accumulator = Accumulator(weights, kind)
        batch_loss(weights, 0).backward()
        before = {name: weight.grad.clone() for name, weight in weights.items()}
        accumulator.add()
        assert all(torch.equal(weight.grad, before[name]) for name, weight in weights.items())
        other = Accumulator(weights, kind)
        other.add([weight.grad for weight in weights.values()])
        assert all(torch.equal(score, other.scores[name]) for name, score in accumulator.scores.items())


def test_in_the_printed_way_the_last_batch_overwrites():
    weights = model()
    for kind, same in (("printed", True), ("absolute", False)):
        both, last = Accumulator(weights, kind), Accumulator(weights, kind)
        for number, accumulators in ((0, [both]), (1, [both, last])):
            gradients = torch.autograd.grad(batch_loss(weights, number), list(weights.values()))
            for accumulator in accumulators:
                accumulator.add(gradients)
        assert all(torch.equal(score, last.scores[name]) for name, score in both.scores.items()) is same
    both.add([None, torch.ones(3)])
    printed = Accumulator(weights, "printed")
    printed.add([torch.ones(4, 3), torch.ones(3)])
    printed.add([None, torch.ones(3)])
    assert printed.scores["a"].sum() == 0


def test_half_precision_is_summed_in_single_precision():
    weight = torch.ones(1, dtype=torch.float16, requires_grad=True)
    for kind, expected in (("absolute", 300e-5), ("squared", 300e-10)):
        accumulator = Accumulator({"w": weight}, kind)
        for _ in range(300):
            accumulator.add([torch.tensor([1e-5], dtype=torch.float16)])
        assert accumulator.scores["w"].dtype == torch.float32
        assert accumulator.scores["w"].item() == pytest.approx(expected, rel=0.05)


def test_an_accumulator_without_a_kind_weights_or_gradients_is_refused():
    with pytest.raises(ValueError, match="a kind of absolute, squared, weighted, printed, not 'fisher'"):
        Accumulator(model(), "fisher")
    with pytest.raises(ValueError, match="needs weights"):
        Accumulator({})
    with pytest.raises(ValueError, match="No weight has a gradient to be scored by: call add after backward"):
        Accumulator(model()).add()


def trained(accumulator, weights, gradient, steps=4, **options):
    def loss_fn(step, generator):
        number = int(torch.randint(1000, (), generator=generator))
        return {"loss": batch_loss(weights, number) + weights["b"].sum(), "refusal": batch_loss(weights, number + 1)}

    return train(weights, loss_fn, Plan(steps, 0.01, clip=1e-3), gradient=gradient, buffers=accumulator.scores,
                 progress=False, **options)  # fmt: skip


@pytest.mark.parametrize("term", ["loss", "refusal"])
def test_a_training_is_watched_unclipped_and_goes_on_as_before(term):
    weights, twin = model(), model()
    accumulator, path = Accumulator(weights), []
    trained(accumulator, weights, accumulator.watching(term), after_step=lambda step: path.append(
        {name: weight.detach().clone() for name, weight in weights.items()}))  # fmt: skip
    trained(Accumulator(twin), twin, Accumulator(twin).watching())
    assert all(torch.equal(weight, twin[name]) for name, weight in weights.items())
    slow, steps = Accumulator(model()), [model(), *path[:-1]]
    for step, there in enumerate(steps, start=1):
        there = {name: weight.detach().requires_grad_() for name, weight in there.items()}
        number = int(torch.randint(1000, (), generator=step_generator(0, step)))
        loss = batch_loss(there, number) + there["b"].sum() if term == "loss" else batch_loss(there, number + 1)
        slow.add(torch.autograd.grad(loss, list(there.values())))
    for name, score in accumulator.scores.items():
        torch.testing.assert_close(score, slow.scores[name])


def test_under_attack_the_gradient_at_the_attacked_weights_is_counted_once():
    for term in ("loss", "refusal"):
        weights, calls = model(), []
        accumulator = Accumulator(weights)
        add = accumulator.add
        accumulator.add = lambda gradients=None, add=add, calls=calls: (calls.append(1), add(gradients))
        attack = at_perturbed_weights(weights, 0.1, "refusal", steps=2, gradient=accumulator.watching(term))
        trained(accumulator, weights, attack, steps=3)
        assert len(calls) == 3
        assert all(score.sum() > 0 for score in accumulator.scores.values())


def test_what_useful_tasks_need_is_spared():
    refusal = {"a": torch.tensor([4.0, 4.0, 0.0, 0.0])}
    useful = {"a": torch.tensor([0.0, 30.0, 0.0, 10.0])}
    assert spared(refusal, useful)["a"].tolist() == pytest.approx([2, 2 - 3, 0, -1])
    assert spared(refusal, useful, 0.5)["a"].tolist() == pytest.approx([2, 2 - 1.5, 0, -0.5])
    assert select(spared(refusal, useful), 0.25).mask("a").tolist() == [True, False, False, False]
    scaled = spared(refusal, {"a": 1e6 * useful["a"]})  # only the proportions of either count
    torch.testing.assert_close(scaled["a"], spared(refusal, useful)["a"])
    with pytest.raises(ValueError, match="zero throughout cannot be weighed"):
        spared(refusal, {"a": torch.zeros(4)})
    with pytest.raises(ValueError, match="not of the same weights: they differ in 'a'"):
        spared(refusal, {"a": torch.ones(5)})


# ---------------------------------------------------------------- comparing


def random_scores(seed, shapes=None):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in (shapes or SHAPES).items()}


SHAPES = {
    "model.embed_tokens.weight": (50, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.up_proj.weight": (20, 8), "model.layers.11.self_attn.q_proj.weight": (8, 8),
    "model.layers.11.self_attn.q_proj.bias": (8,), "model.norm.weight": (7,),
}  # fmt: skip
TOTAL = sum(map(math.prod, SHAPES.values()))


@given(SEEDS, FRACTIONS, FRACTIONS)
@quick
def test_the_overlap_equals_a_slow_loop(seed, one, other):
    pair = select(random_scores(seed), one), select(random_scores(seed + 1), other)
    sets = [found(each) for each in pair]
    result = overlap(*pair)
    assert result.shared == len(sets[0] & sets[1])
    union = len(sets[0] | sets[1])
    assert result.jaccard == (result.shared / union if union else 1.0)
    assert result.shared_by_chance == pytest.approx(len(sets[0]) * len(sets[1]) / TOTAL)
    assert overlap(pair[0], pair[0]).jaccard == 1.0


def test_random_selections_share_what_chance_gives():
    shapes = {"a": (200, 100), "b": (5_000,)}
    pairs = [[select(random_scores(2 * seed + side, shapes), 0.3) for side in (0, 1)] for seed in range(8)]
    results = [overlap(*pair) for pair in pairs]
    mean = sum(result.shared for result in results) / len(results)
    assert mean == pytest.approx(results[0].shared_by_chance, rel=0.02)
    assert sum(result.jaccard for result in results) / 8 == pytest.approx(results[0].jaccard_by_chance, rel=0.03)


def test_selections_from_different_tensors_are_not_compared():
    with pytest.raises(ValueError, match=r"differ in 'model.norm.weight'; take both from one model"):
        overlap(select(random_scores(0), 0.1), select(random_scores(0, {**SHAPES, "model.norm.weight": (8,)}), 0.1))


@given(SEEDS, FRACTIONS)
@quick
def test_random_canaries_are_as_many_and_elsewhere(seed, fraction):
    canaries = select(random_scores(-1 - seed), fraction)  # of another stream than the draw's
    drawn, matched = random_like(canaries, seed), random_like(canaries, seed, per_tensor=True)
    assert sum(drawn.counts().values()) == sum(canaries.counts().values())
    assert matched.counts() == canaries.counts()
    assert drawn.shapes == matched.shapes == canaries.shapes
    assert found(drawn) == found(random_like(canaries, seed))
    if 0.1 <= fraction <= 0.5:
        assert len({frozenset(found(one)) for one in (canaries, drawn, matched, random_like(canaries, seed + 1))}) == 4


def test_random_canaries_are_spread_evenly():
    shapes = {"a": (100,), "b": (900,)}
    canaries = select(random_scores(0, shapes), 0.5)
    draws = [random_like(canaries, seed) for seed in range(1, 61)]
    assert sum(draw.counts()["a"] for draw in draws) / 60 == pytest.approx(50, rel=0.05)
    often = sum(draw.mask("b").float() for draw in draws) / 60
    assert 0.2 < often.min() <= often.max() < 0.8


def test_places_say_where_the_canaries_sit():
    scores = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    scores["model.layers.11.self_attn.q_proj.weight"][:4] = 1.0
    scores["model.norm.weight"][0] = 1.0
    rows = places(select(scores, 32.5 / TOTAL))
    assert [(row.layer, row.kind) for row in rows] == [
        (None, "model.embed_tokens"), (0, "self_attn.q_proj"), (0, "mlp.up_proj"), (11, "self_attn.q_proj"),
        (11, "self_attn.q_proj.bias"), (None, "model.norm"),
    ]  # fmt: skip
    assert [row.canaries for row in rows] == [0, 0, 0, 32, 0, 1]
    assert [row.weights for row in rows] == [400, 64, 160, 64, 8, 7]
    assert [row.share for row in rows] == [0, 0, 0, 0.5, 0, 1 / 7]


# ---------------------------------------------------------------- files


def weights_of(shapes=None):
    return {name: torch.zeros(shape) for name, shape in (shapes or SHAPES).items()}


@given(SEEDS, FRACTIONS)
@settings(max_examples=10, deadline=None)
def test_a_selection_is_one_bit_a_weight_and_loads_as_it_was_saved(tmp_path_factory, seed, fraction):
    folder = tmp_path_factory.mktemp("canaries")
    canaries = select(random_scores(seed), fraction)
    save(canaries, folder, kind="absolute", fraction=fraction)
    back = load(folder, {**weights_of(), "lm_head.weight": torch.zeros(3)})
    assert found(back) == found(canaries)
    assert back.shapes == canaries.shapes
    assert sum(map(len, back.bits.values())) <= TOTAL / 8 + len(SHAPES)
    assert json.loads((folder / "canaries.json").read_text())["kind"] == "absolute"


def test_masks_are_those_of_tensors_that_hold_a_canary():
    scores = {"a": torch.tensor([[0.0, 2.0], [3.0, 0.0]]), "b": torch.zeros(3)}
    masks = select(scores, 2 / 7).masks({**scores, "c": torch.zeros(1)})
    assert {name: mask.tolist() for name, mask in masks.items()} == {"a": [[False, True], [True, False]]}


def test_another_model_is_refused(tmp_path):
    canaries = select(random_scores(0), 0.1)
    save(canaries, tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    wider = weights_of({**SHAPES, name: (24, 8)})
    shorter = {key: weight for key, weight in weights_of().items() if key != name}
    there = r"another model: there 'model.layers.0.mlp.up_proj.weight' is \(20, 8\), here it is"
    for check in (lambda weights: load(tmp_path, weights), canaries.masks):
        with pytest.raises(ValueError, match=there + r" \(24, 8\); select them anew"):
            check(wider)
        with pytest.raises(ValueError, match=there + " missing; select them anew"):
            check(shorter)


def test_missing_and_damaged_files_are_told_of(tmp_path):
    with pytest.raises(FileNotFoundError, match="no canaries in .*: canaries.safetensors is missing"):
        load(tmp_path, weights_of())
    save(select(random_scores(0), 0.1), tmp_path)
    card, bits = tmp_path / "canaries.json", tmp_path / "canaries.safetensors"
    written, packed = card.read_text(), bits.read_bytes()
    known = json.loads(written)
    fewer = {**known, "canaries": {**known["canaries"], "model.norm.weight": 6}}
    longer = {**known, "shapes": {**known["shapes"], "model.norm.weight": [70]}}
    for damaged in (
        "{", "[]", json.dumps({"shapes": {}}), json.dumps({**known, "shapes": 3}), json.dumps(fewer), json.dumps(longer),
        json.dumps({**known, "shapes": {**known["shapes"], "other": [3]}}),
    ):  # fmt: skip
        card.write_text(damaged)
        with pytest.raises(ValueError, match="are damaged .*: select them again"):
            load(tmp_path, weights_of())
    card.write_text(written)
    for damaged in (packed[:-1], b"", b"x" * 100):
        bits.write_bytes(damaged)
        with pytest.raises(ValueError, match="are damaged .*: select them again"):
            load(tmp_path, weights_of())
    bits.write_bytes(packed)
    load(tmp_path, weights_of())
