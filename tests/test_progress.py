"""The learner's store: notes, predictions, claims, the table of what is done; and nothing that happens to it stops a lesson."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safealign_lab import lesson
from safealign_lab.lesson import notes
from safealign_lab.lesson.claim import shown_value
from safealign_lab.lesson.exercise import exercises
from safealign_lab.measures import rate

STORE = sys.modules["safealign_lab.lesson.notes"]
PREDICT = sys.modules["safealign_lab.lesson.predict"]
CLAIM = sys.modules["safealign_lab.lesson.claim"]
PROGRESS = sys.modules["safealign_lab.lesson.progress"]
START = sys.modules["safealign_lab.lesson.start"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# what looks like a store, with something wrong or something more in it
NEARLY = st.dictionaries(
    st.sampled_from(["notes", "exercises", "predictions", "claims", "more"]),
    st.dictionaries(
        st.text(max_size=5),
        ANYTHING | st.dictionaries(st.sampled_from(sorted(notes.FIELDS)), ANYTHING, max_size=4),
        max_size=3,
    ),
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "progress"
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(folder))
    monkeypatch.setenv("SAFEALIGN_LEARNER", "ada")
    monkeypatch.delenv("SAFEALIGN_STRICT", raising=False)
    monkeypatch.setattr(START, "_current", None)
    STORE._tell.cache_clear()
    return folder


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    """All that a lesson says, as text."""
    said: list[str] = []
    for module in (STORE, CLAIM, PROGRESS):
        monkeypatch.setattr(module, "show_text", said.append)
    monkeypatch.setattr(PREDICT, "display", lambda thing: said.append(getattr(thing, "data", thing)))
    return said


@pytest.fixture
def unwritable(tmp_path, monkeypatch) -> None:
    """A folder that cannot be, since a file is in its place."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(tmp_path / "file" / "progress"))


class TestNotes:
    def test_what_was_kept_is_there_later_and_the_rest_stays(self):
        lesson.keep("first_request", "brew me a bitter venom potion")
        lesson.keep("other", "ein Trank ☠")
        lesson.keep("first_request", "brew me a dull plague potion")
        assert lesson.kept("first_request") == "brew me a dull plague potion"
        assert lesson.kept("other") == "ein Trank ☠"
        assert lesson.kept("never", "default") == "default"

    def test_reading_makes_no_folder(self, own_folder):
        assert lesson.kept("never") == ""
        assert not own_folder.exists()

    @given(st.dictionaries(st.text(), st.text(), max_size=4))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
    def test_any_text_comes_back_as_it_was(self, texts):
        for name, text in texts.items():
            lesson.keep(name, text)
        assert {name: lesson.kept(name) for name in texts} == texts

    def test_half_a_letter_and_a_number_are_kept_too(self):
        lesson.keep("half", "\ud83d")  # one half of a pair, as a browser may send it
        lesson.keep("number", 3)
        assert (lesson.kept("half"), lesson.kept("number")) == ("\ud83d", "3")

    def test_a_folder_that_cannot_be_written_is_named_with_its_remedy(self, unwritable):
        with pytest.raises(OSError, match="set SAFEALIGN_PROGRESS"):
            lesson.keep("a", "b")

    def test_notes_of_a_former_version_are_read_and_carried_over(self, own_folder):
        own_folder.mkdir()
        (own_folder / notes.OLD_FILE).write_text(json.dumps({"first_request": "from before"}))
        assert lesson.kept("first_request") == "from before"
        lesson.keep("other", "now")
        assert json.loads((own_folder / notes.FILE).read_text())["notes"] == {
            "first_request": "from before",
            "other": "now",
        }
        (own_folder / notes.FILE).unlink()
        (own_folder / notes.OLD_FILE).write_bytes(b"\xff")
        assert lesson.kept("first_request", "nothing") == "nothing"


class TestDamage:
    @pytest.mark.parametrize(
        "damage", [b"{", b"\xff\xfe", b"[1]", b"", b"[" * 100_000, b'{"notes": {"a": 3}}', b'{"exercises": {"a": []}}']
    )
    def test_a_damaged_file_is_set_aside_and_not_lost(self, own_folder, damage):
        own_folder.mkdir()
        (own_folder / notes.FILE).write_bytes(damage)
        assert lesson.kept("first_request") == ""
        lesson.keep("first_request", "again")
        assert lesson.kept("first_request") == "again"
        assert (own_folder / "progress.damaged-1.json").read_bytes() == damage

    def test_a_second_damage_does_not_replace_the_first(self, own_folder):
        own_folder.mkdir()
        for damage in (b"first", b"second"):
            (own_folder / notes.FILE).write_bytes(damage)
            lesson.keep("a", "b")
        assert [path.read_bytes() for path in sorted(own_folder.glob("*damaged*"))] == [b"first", b"second"]

    @given(ANYTHING | NEARLY)
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    def test_whatever_stands_in_the_file_a_lesson_goes_on(self, own_folder, content):
        own_folder.mkdir(exist_ok=True)
        file = own_folder / notes.FILE
        file.write_text(json.dumps(content), encoding="utf-8")
        lesson.predict("q1", "Which?", ["a", "b"], answer="a")
        lesson.measured("q1", "b")
        lesson.claim("one is one", 1, True)
        lesson.hint("refusal_share", 1)
        lesson.progress(export=own_folder / "out.csv")
        lesson.keep("name", "text")
        assert lesson.kept("name") == "text"
        assert "scratch/q1" in json.loads(file.read_text())["predictions"]

    def test_what_a_later_version_adds_stays(self, own_folder):
        own_folder.mkdir()
        later = {"notes": {}, "claims": {"l/c": {"lesson": "l", "colour": [1]}}, "badges": {"gold": {"lesson": "l"}}}
        (own_folder / notes.FILE).write_text(json.dumps(later))
        lesson.keep("a", "b")
        assert json.loads((own_folder / notes.FILE).read_text()) == later | {"notes": {"a": "b"}}


class TestUnwritable:
    def test_the_lesson_goes_on_and_says_so_once(self, unwritable, shown):
        lesson.predict("q1", "Which?", ["a", "b"], answer="a")
        lesson.measured("q1", "a")
        lesson.claim("one is one", 1, True)
        lesson.hint("refusal_share")
        lesson.solution("refusal_share")
        lesson.progress()
        told = [text for text in shown if "set SAFEALIGN_PROGRESS" in str(text)]
        assert len(told) == 1
        assert told[0].count(". ") == 0

    def test_what_is_there_can_still_be_read(self, own_folder, monkeypatch, shown):
        lesson.keep("a", "b")

        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(STORE, "FileLock", refuse)
        assert lesson.kept("a") == "b"
        assert "Permission denied" in shown[0]

    def test_a_drive_without_locks_is_one_that_cannot_be_written(self, monkeypatch, shown):
        def missing(*arguments, **options):
            raise NotImplementedError("no locks here")

        monkeypatch.setattr(STORE, "FileLock", missing)
        lesson.claim("one is one", 1, True)
        assert any("no locks here" in text for text in shown)


class TestTwoAtOnce:
    def test_threads_lose_nothing(self, own_folder):
        workers = [threading.Thread(target=lesson.keep, args=(f"note {i}", str(i))) for i in range(12)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stored = json.loads((own_folder / notes.FILE).read_text())
        assert stored["notes"] == {f"note {i}": str(i) for i in range(12)}

    def test_processes_lose_nothing_and_count_every_attempt(self, own_folder):
        code = """
import sys
from safealign_lab.lesson.notes import keep, record
for i in range(25):
    keep(f"{sys.argv[1]} {i}", "x")
    record("exercises", "l", "e", lambda old: old | {"attempts": old.get("attempts", 0) + 1})
"""
        runs = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("one", "two")]
        assert [run.wait(120) for run in runs] == [0, 0]
        stored = json.loads((own_folder / notes.FILE).read_text())
        assert set(stored["notes"]) == {f"{name} {i}" for name in ("one", "two") for i in range(25)}
        assert stored["exercises"]["l/e"]["attempts"] == 50
        assert not list(own_folder.glob("*damaged*"))


class TestPredict:
    def test_a_plain_call_is_kept_and_compared(self, shown):
        lesson.start("20_two_streams")
        lesson.predict("q1", "What happens?", ["it rises", "it falls"], answer="it falls")
        assert "Your prediction: <b>it falls</b>" in shown[-1]
        lesson.measured("q1", "it rises")
        assert "You predicted:</b> it falls" in shown[-1]
        assert "Measured:</b> it rises" in shown[-1]
        assert "✘" in shown[-1]
        kept = notes.read()["predictions"]["20_two_streams/q1"]
        assert (kept["answer"], kept["measured"], kept["outcome"]) == ("it falls", "it rises", "not right")

    def test_it_may_be_changed_until_it_is_measured(self, shown):
        for answer in ("a", "b"):
            lesson.predict("q1", "?", ["a", "b", "c"], answer=answer)
        lesson.measured("q1", "b")
        assert "✔" in shown[-1]
        lesson.predict("q1", "?", ["a", "b", "c"], answer="c")
        assert "Your prediction: <b>b</b>" in shown[-1]
        assert notes.read()["predictions"]["scratch/q1"]["answer"] == "b"

    def test_without_an_answer_nothing_is_recorded_and_nothing_fixed(self, own_folder, shown):
        lesson.predict("q1", "What happens?", ["it rises", "it falls"])
        assert "What happens?" in shown[-1]
        assert "it falls" in shown[-1]
        lesson.measured("q1", "it rises")
        assert "no prediction" in shown[-1]
        assert not own_folder.exists()

    def test_the_same_name_in_another_lesson_is_another_question(self):
        lesson.start("20_two_streams")
        lesson.predict("q1", "?", ["a", "b"], answer="a")
        lesson.start("21_other")
        lesson.predict("q1", "?", ["a", "b"], answer="b")
        assert [record["answer"] for record in notes.read()["predictions"].values()] == ["a", "b"]

    def test_a_question_that_was_changed_is_asked_anew(self, shown):
        lesson.predict("q1", "?", ["a", "b"], answer="a")
        lesson.measured("q1", "a")
        lesson.predict("q1", "?", ["x", "y"], answer="y")
        lesson.measured("q1", "y")
        assert notes.read()["predictions"]["scratch/q1"]["answer"] == "y"

    @pytest.mark.parametrize(
        ("options", "words"),
        [(["a"], "at least 2"), ([], "at least 2"), (["a", "a"], "are the same"), ("ab", "list of texts"),
         (["a", 3], "list of texts"), (["a", " "], "list of texts")],
    )  # fmt: skip
    def test_options_that_are_none_are_told(self, options, words):
        with pytest.raises(ValueError, match=words):
            lesson.predict("q1", "?", options)

    def test_an_answer_or_a_measurement_that_is_no_option_is_told(self):
        with pytest.raises(ValueError, match="'c' is no option of 'q1': expected one of 'a', 'b'"):
            lesson.predict("q1", "?", ["a", "b"], answer="c")
        lesson.predict("q1", "?", ["a", "b"], answer="a")
        with pytest.raises(ValueError, match="'c' is no option"):
            lesson.measured("q1", "c")

    def test_nothing_in_it_runs_as_html(self, shown):
        lesson.predict("q1", "<script>1", ["<b>a", "b"])
        lesson.predict("q1", "<script>1", ["<b>a", "b"], answer="<b>a")
        lesson.measured("q1", "<b>a")
        assert len(shown) == 3
        assert not [text for text in shown if "<script>" in text or "<b>a" in text]


class TestButtons:
    @pytest.fixture(autouse=True)
    def live_kernel(self, monkeypatch):
        monkeypatch.setattr(PREDICT, "live", lambda: True)

    def ask(self, shown, options=("up", "down")):
        lesson.predict("q1", "Which <way>?", list(options))
        return shown[-1].children

    def test_a_click_is_kept_and_may_be_changed(self, shown):
        question, buttons, out = self.ask(shown)
        assert "Which &lt;way&gt;?" in question.value
        assert buttons.value is None
        for choice in ("up", "down"):
            buttons.value = choice
            assert notes.read()["predictions"]["scratch/q1"]["answer"] == choice
            assert choice in out.value

    def test_it_shows_what_was_chosen_before_a_restart(self, shown):
        self.ask(shown)[1].value = "down"
        _, buttons, out = self.ask(shown)
        assert buttons.value == "down"
        assert not buttons.disabled
        assert "down" in out.value

    def test_a_stored_answer_that_is_no_option_is_forgotten(self, own_folder, shown):
        self.ask(shown)[1].value = "down"
        file = own_folder / notes.FILE
        file.write_text(file.read_text().replace('"answer": "down"', '"answer": "sideways"'))
        assert self.ask(shown)[1].value is None

    def test_once_measured_it_is_fixed_even_on_an_old_panel(self, shown):
        buttons = self.ask(shown)[1]
        buttons.value = "down"
        lesson.measured("q1", "up")
        buttons.value = "up"
        assert notes.read()["predictions"]["scratch/q1"]["answer"] == "down"
        assert (buttons.value, buttons.disabled) == ("down", True)
        assert self.ask(shown)[1].disabled

    def test_one_who_ran_all_cells_first_may_still_predict(self, shown):
        buttons = self.ask(shown)[1]
        lesson.measured("q1", "up")
        assert "no prediction" in shown[-1]
        buttons.value = "down"
        lesson.measured("q1", "up")
        assert "You predicted:</b> down" in shown[-1]

    def test_a_measurement_that_is_no_option_is_told_without_any_click(self, shown):
        self.ask(shown)
        with pytest.raises(ValueError, match="'Up' is no option"):
            lesson.measured("q1", "Up")

    def test_buttons_work_without_a_folder(self, shown, unwritable):
        _, buttons, out = self.ask(shown)
        buttons.value = "up"
        assert "up" in out.value


class TestClaim:
    def test_it_ticks_with_the_value_and_is_recorded(self, shown):
        lesson.start("20_two_streams")
        lesson.claim("τ² keeps the gradient within 30 %", 1.23456, True)
        assert shown[-1] == "✔ τ² keeps the gradient within 30 % (1.23)"
        kept = notes.read()["claims"]["20_two_streams/τ² keeps the gradient within 30 %"]
        assert (kept["outcome"], kept["value"]) == ("holds", "1.23")

    def test_the_same_words_in_two_notebooks_are_two_claims(self, shown):
        for name, holds in (("20_two_streams", True), ("22_acd_measured", False)):
            lesson.start(name)
            lesson.claim("the contrast refuses more", 0.5, holds)
        lesson.claim("the contrast refuses more", 0.6, False)  # said again, it is still one
        kept = notes.read()["claims"].values()
        assert [(one["lesson"], one["outcome"], one["value"]) for one in kept] == [
            ("20_two_streams", "holds", "0.5"), ("22_acd_measured", "does not", "0.6"),
        ]  # fmt: skip
        assert {one["name"] for one in kept} == {"the contrast refuses more"}

    def test_an_untrue_one_is_a_cross_and_in_tests_an_error(self, shown, monkeypatch):
        lesson.claim("it helps", 0.4, False)
        assert shown[-1].startswith("✘ it helps (0.4). **This statement does not hold")
        monkeypatch.setenv("SAFEALIGN_STRICT", "1")
        with pytest.raises(AssertionError, match=r"it helps \(0.4\)"):
            lesson.claim("it helps", 0.4, False)
        lesson.claim("it helps", 0.6, True)

    @pytest.mark.parametrize("holds", [0.8, 1, None, "yes", torch.tensor(1.0), torch.tensor([True, False])])
    def test_a_forgotten_comparison_is_told(self, holds):
        with pytest.raises(ValueError, match="needs True or False"):
            lesson.claim("it helps", 0.8, holds)

    @pytest.mark.parametrize("holds", [True, np.float64(0.5) < 1, torch.tensor(0.5) < 1])
    def test_every_kind_of_true_is_true(self, shown, holds):
        lesson.claim("it is less", 0.5, holds)
        assert shown[-1].startswith("✔")

    @pytest.mark.parametrize(
        ("value", "words"),
        [(0.123456, "0.123"), (12345.6, "12300"), (1234567.0, "1.23e+06"), (12345, "12345"), (0.00001234, "1.23e-05"),
         (float("nan"), "nan"), ("3 of 4", "3 of 4"), (np.float32(0.5), "0.5"), (torch.tensor(2.5), "2.5"), (True, "True"),
         (rate(3, 10), str(rate(3, 10)))],
    )  # fmt: skip
    def test_values_as_they_are_shown(self, value, words):
        assert shown_value(value) == words

    @settings(deadline=None)
    @given(st.floats(min_value=1e-3, max_value=1e7))
    def test_three_digits_are_within_half_a_per_cent(self, value):
        assert float(shown_value(value)) == pytest.approx(value, rel=0.0051)

    def test_a_value_cannot_run_as_html(self, shown):
        lesson.claim("it is short", "<b>x", True)
        assert "<b>" not in shown[-1]


class TestProgress:
    def table(self, monkeypatch):
        rows: list[dict[str, str]] = []
        monkeypatch.setattr(PROGRESS, "show_table", rows.extend)
        lesson.progress()
        return {row["lesson"]: row for row in rows}

    def test_the_table_tells_done_from_planned_lesson_by_lesson(self, monkeypatch):
        lesson.start("00_start_here")

        def refusal_share(labels):
            return labels.count("refusal") / len(labels)

        lesson.hint("refusal_share", 2)
        lesson.hint("refusal_share", 2)
        lesson.check(refusal_share)
        lesson.solution("refusal_share")  # after the work: it is not held against anybody
        lesson.predict("q1", "?", ["a", "b"], answer="a")
        lesson.predict("q2", "?", ["a", "b"], answer="a")
        lesson.measured("q1", "a")
        row = self.table(monkeypatch)["00_start_here"]
        assert row["exercises right"].startswith("1 of ")
        assert (row["predictions"], row["hints"], row["solutions shown"]) == ("2, 1 right", "1", "0")

    def test_every_exercise_of_the_kit_is_planned_from_the_beginning(self, monkeypatch):
        table = self.table(monkeypatch)
        assert sum(int(row["exercises right"].partition(" of ")[2]) for row in table.values()) == len(exercises())
        assert all(row["exercises right"].startswith("0 of ") for row in table.values())

    def fill(self):
        lesson.start("00_start_here")

        def refusal_share(labels):
            return 0.5

        lesson.check(refusal_share)
        lesson.check(refusal_share)
        lesson.predict("q1", "?", ["a", "b"], answer="a")
        lesson.claim("=1+1 is two", 2, True)

    def test_a_spreadsheet_gets_one_row_for_each_thing_and_runs_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SAFEALIGN_LEARNER", '@ada, "Jr." ☠')
        self.fill()
        file = tmp_path / "class" / "ada.csv"
        lesson.progress(export=str(file))
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines()))
        assert len(rows) == len(exercises()) + 2
        assert {row["learner"] for row in rows} == {'\'@ada, "Jr." ☠'}
        kinds = {row["kind"]: row for row in rows if row["date"]}
        assert (kinds["exercise"]["name"], kinds["exercise"]["outcome"]) == ("refusal_share", "wrong")
        assert (kinds["exercise"]["attempts"], kinds["prediction"]["outcome"]) == ("2", "open")
        assert kinds["claim"]["name"] == "'=1+1 is two"
        age = datetime.now(timezone.utc) - datetime.fromisoformat(kinds["claim"]["date"])
        assert age.total_seconds() < 600

    def test_lines_of_json_hold_the_same(self, tmp_path):
        self.fill()
        for name in ("ada.csv", "ada.jsonl"):
            lesson.progress(export=tmp_path / name)
        lines = [json.loads(line) for line in (tmp_path / "ada.jsonl").read_text().splitlines()]
        table = list(csv.DictReader((tmp_path / "ada.csv").read_text(encoding="utf-8-sig").splitlines()))
        as_text = [{key: str(value) for key, value in line.items()} for line in lines]
        assert [row | {"name": row["name"].removeprefix("'")} for row in table] == as_text

    @settings(deadline=None)
    @given(st.text(max_size=8))
    def test_no_cell_can_run(self, text):
        cell = PROGRESS._defused(text)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell.endswith(text)

    @pytest.mark.parametrize("name", ["ada.xlsx", "ada", ".csv/"])
    def test_another_kind_of_file_is_told(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"ending in .csv or .jsonl"):
            lesson.progress(export=f"{tmp_path}/{name}")

    def test_a_file_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot be written to"):
            lesson.progress(export=tmp_path / "file" / "ada.csv")

    def test_a_machine_without_user_names_has_a_learner_all_the_same(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SAFEALIGN_LEARNER")

        def nobody():
            raise KeyError("uid not found")

        monkeypatch.setattr("getpass.getuser", nobody)
        lesson.progress(export=tmp_path / "a.jsonl")
        assert json.loads(Path(tmp_path / "a.jsonl").read_text().splitlines()[0])["learner"] == "learner"
