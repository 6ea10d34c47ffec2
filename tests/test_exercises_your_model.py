"""The exercises of lesson 41: what they teach is what the library computes, and every right way of writing it is right."""

from __future__ import annotations

import inspect

import pytest
import torch
from learners import named
from wrong_answers.your_model import WRONG_ANSWERS

from safealign_lab.alchemy import tokenizer
from safealign_lab.contrast.transfer import new_model
from safealign_lab.lesson.exercise import PASTED, exercises, verdict
from safealign_lab.lesson.exercises import your_memory as memory
from safealign_lab.lesson.exercises import your_model as lesson
from safealign_lab.one_plot import Answer, Point, your_memory


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
def test_memory_by_hand_is_the_librarys_for_a_real_model(architecture):
    words = tokenizer.build()
    model = new_model(architecture, words)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    config = model.config
    heads = {
        "layers": config.num_hidden_layers,
        "query": config.num_attention_heads,
        "key": getattr(config, "num_key_value_heads", config.num_attention_heads),
        "width": config.hidden_size // config.num_attention_heads,
    }
    embedding = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    trained = [name for name, weight in model.named_parameters() if id(weight) not in embedding]
    mine = memory.memory_needed(shapes, trained, 4, heads, 3, 20)
    full = your_memory.estimate(model, "all weights", torch.float32)
    answering = your_memory.estimate(model, "answering", torch.float32, rows=3, tokens=20)
    assert mine == [answering.weights, full.gradients, full.adam, answering.cache]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_point_out_of_labels_is_the_librarys(seed):
    kinds, labels, right = lesson._asked(seed)
    answers = {
        str(n): (Answer(kind, str(n % 7), label, float(fine)),)
        for n, (kind, label, fine) in enumerate(zip(kinds, labels, right, strict=True))
    }
    point = Point("one", "no training", answers)
    names = ("safety", "harmful incoherent", "over-refusal, borderline", "over-refusal, benign", "helpfulness")
    assert lesson.place_point(kinds, labels, right) == pytest.approx([point.measure(name).value for name in names])


def test_left_padding_moves_nothing_in_the_tiny_model_and_something_where_it_is_not_told(tiny):
    model, _ = tiny

    def reads(ids, mask, positions):
        with torch.no_grad():
            return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits

    rows = [[1, 20, 30, 40], [1, 25], [1, 33, 21, 50, 60, 70]]
    assert lesson.padding_moves(reads, rows, 0) < 1e-3
    assert lesson.padding_moves(lambda ids, mask, places: reads(ids, torch.ones_like(mask), places), rows, 0) > 0.1


def test_the_exercises_of_the_lesson_are_these():
    mine = {name: one for name, one in exercises().items() if one.lesson == "41_your_model"}
    assert set(mine) == set(WRONG_ANSWERS)
    assert all(len(one.hints) == 2 for one in mine.values())


def test_a_solution_needs_nothing_but_torch():
    for exercise in memory.EXERCISES + lesson.EXERCISES:
        room = {"torch": torch}
        exec(PASTED + inspect.getsource(exercise.solution), room)  # as a notebook runs what lesson.solution shows
        assert verdict(room[exercise.name]) == "right"


def memory_in_a_tuple(shapes, trained, size, heads, rows, tokens):
    weights = gradients = 0
    for name, shape in shapes.items():
        numbers = torch.Size(shape).numel()
        weights += numbers * size
        gradients += numbers * size * (name in trained)
    each = size * heads["width"] * heads["key"]
    return weights, gradients, gradients + gradients, tokens * rows * heads["layers"] * (each + each)


def padding_by_pairs(model, rows, pad_id):
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
        positions[number, width - len(row) :] = torch.arange(len(row))
    both = model(ids, mask, positions)[:, -1]
    moved = []
    for number, row in enumerate(rows):
        one = torch.tensor(row)[None]
        alone = model(one, torch.ones_like(one), torch.arange(len(row))[None])[0, -1]
        moved.append((both[number] - alone).abs().max().item())
    return max(moved)


def point_by_sets(kinds, labels, right):
    def rate(kind, wanted):
        its = [place for place, one in enumerate(kinds) if one == kind]
        return len(set(its) & {place for place, one in enumerate(wanted) if one}) / len(its)

    refused = [one == "refusal" for one in labels]
    return (
        rate("harmful", refused),
        rate("harmful", [one == "incoherent" for one in labels]),
        rate("borderline", refused),
        rate("benign", refused),
        rate("benign", right),
    )


@pytest.mark.parametrize(
    ("name", "function"),
    [("memory_needed", memory_in_a_tuple), ("padding_moves", padding_by_pairs), ("place_point", point_by_sets)],
)
def test_every_right_way_is_right(name, function):
    assert verdict(named(function, name)) == "right"


def test_the_checks_meet_what_tells_mistakes_apart():
    readers = [lesson._Reader(*one) for one in lesson._READERS]
    moved = [lesson._slow_padding(one, lesson._ROWS) for one in readers]
    assert moved[0] < 1e-9
    assert all(one > 0.1 for one in moved[1:])
    assert len({len(row) for row in lesson._ROWS}) == len(lesson._ROWS)  # fillers of every number, none too
    for model in memory._MODELS[:2]:
        assert 0 < len(model[1]) < len(model[0])  # some weights train and some are frozen
        assert model[3]["query"] != model[3]["key"]
    for seed in (0, 1):
        shares = lesson._slow_point(*lesson._asked(seed))
        assert len(set(shares)) == len(shares)
        assert all(0 < one < 1 for one in shares)
