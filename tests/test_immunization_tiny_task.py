"""What the studies start from: students of their own, and teachers and a foundation that are trained once and kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy_cycle import HARMFUL, HARMLESS, OTHERS, PREFERRED, TOKENIZER, setting_of, small

from safealign_lab.immunization import tiny_task
from safealign_lab.training import Plan, weights_hash

SHORT = {"HARMFUL_TEACHER": Plan(2, 1e-2), "HELPFUL_TEACHER": Plan(3, 1e-2), "FOUNDATION": Plan(2, 1e-3)}


@pytest.mark.parametrize("founded", [True, False])
def test_a_fresh_room_has_a_student_of_its_own(founded):
    of = setting_of()
    origin = of.founded if founded else of.base
    before = weights_hash(of.base), weights_hash(of.founded)
    one, other = of.fresh(founded), of.fresh(founded)
    assert weights_hash(one.student) == weights_hash(other.student) == weights_hash(origin)
    with torch.no_grad():
        for weight in one.student.parameters():
            weight += 1
    assert weights_hash(other.student) == weights_hash(origin)
    assert (weights_hash(of.base), weights_hash(of.founded)) == before
    assert one.known is of.room.known
    assert one.teachers is of.room.teachers
    assert before[0] != before[1]


def test_a_fresh_student_is_founded_where_nothing_else_is_said():
    of = setting_of()
    assert weights_hash(of.fresh().student) == weights_hash(of.founded)


# ---------------------------------------------------------------- what is trained for it


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """The toy's words in the place of a world, and plans that are soon done."""
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path))
    for name, plan in SHORT.items():
        monkeypatch.setattr(tiny_task, name, plan)
    monkeypatch.setattr(tiny_task, "settled", lambda seed: (small(seed), TOKENIZER, None))
    monkeypatch.setattr(tiny_task.curriculum, "refusals", lambda world, seed: list(HARMFUL))
    monkeypatch.setattr(tiny_task.curriculum, "helpful", lambda world, seed: HARMLESS + OTHERS)
    monkeypatch.setattr(tiny_task.curriculum, "practice", lambda skill, count, seed: list(PREFERRED))
    tiny_task.setting.cache_clear()
    yield tmp_path
    tiny_task.setting.cache_clear()


def everything(of):
    return [weights_hash(one) for one in (of.base, of.founded, of.room.teachers.model)], of.room.known.known


def test_the_base_stays_as_it_is_and_founded_and_teachers_have_learned(lab):
    of = tiny_task.setting(1)
    assert weights_hash(of.base) == weights_hash(small(1)) != weights_hash(of.founded)
    assert torch.equal(of.base.get_input_embeddings().weight, of.founded.get_input_embeddings().weight)
    assert of.room.student is of.founded
    batch = of.room.batch(PREFERRED, "chosen")
    with torch.no_grad():
        plain = of.base(**batch.inputs()).logits
    assert torch.equal(of.room.teachers.logits("reference", batch), plain)
    for who in ("harmful", "helpful"):
        assert not torch.equal(of.room.teachers.logits(who, batch), plain)


def test_what_is_preferred_has_the_new_skill_and_the_reference_was_asked_about_every_row(lab, monkeypatch):
    monkeypatch.setattr(tiny_task, "KEPT_LISTS", 3)
    of = tiny_task.setting(0)
    assert of.harmful == HARMFUL
    assert of.preferred == [*HARMLESS, *OTHERS, *PREFERRED[:3]]
    rows = [*of.harmful, *of.preferred]
    assert set(of.room.known.known) == {(row.request, said) for row in rows for said in (row.chosen, row.rejected)}
    batch = of.room.batch(rows[:1], "rejected")
    logps = of.base(**batch.inputs()).logits.log_softmax(-1)
    slow = sum(
        logps[0, place - 1, token].item()
        for place, (token, flag) in enumerate(zip(batch.input_ids[0], batch.response_mask[0], strict=True))
        if flag
    )
    assert of.room.known.known[rows[0].request, rows[0].rejected] == pytest.approx(slow, abs=1e-4)


def test_a_second_process_reads_what_the_first_one_made(lab, monkeypatch):
    whole = everything(tiny_task.setting(1))
    folder = tiny_task._kept(1)
    assert {place.name for place in folder.iterdir()} == {"harmful", "helpful", "foundation"}
    tiny_task.setting.cache_clear()

    def never(*inputs):
        raise AssertionError("nothing is left to be trained")

    monkeypatch.setattr(tiny_task, "tuning_loss", lambda *inputs: never)
    monkeypatch.setattr("safealign_lab.immunization.teachers.negative_log_likelihood", never)
    assert everything(tiny_task.setting(1)) == whole


def test_seeds_have_worlds_models_and_folders_of_their_own(lab):
    one, other = everything(tiny_task.setting(0)), everything(tiny_task.setting(1))
    assert all(mine != theirs for mine, theirs in zip(one[0], other[0], strict=True))
    assert tiny_task._kept(0) != tiny_task._kept(1)
    assert tiny_task.setting(1) is tiny_task.setting(1)


@pytest.mark.parametrize("name", [*SHORT, "LISTS", "FOUNDATION_ROWS", "RANK"])
def test_a_change_of_plan_makes_another_folder_and_the_old_one_stays(lab, monkeypatch, name):
    before, value = tiny_task._kept(0), getattr(tiny_task, name)
    assert before.is_dir()
    assert before.is_relative_to(lab)
    assert tiny_task._kept(0) == before
    changed = replace(value, learning_rate=value.learning_rate / 2) if isinstance(value, Plan) else value + 1
    monkeypatch.setattr(tiny_task, name, changed)
    assert tiny_task._kept(0) != before
    monkeypatch.setattr(tiny_task, name, value)
    assert tiny_task._kept(0) == before


def test_a_change_of_the_code_makes_another_folder(lab, monkeypatch):
    before = tiny_task._kept(0)
    monkeypatch.setattr(tiny_task, "code_hash", lambda run: "other")
    assert tiny_task._kept(0) != before
