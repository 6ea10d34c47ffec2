"""The check: whatever a learner's function does, it gets a verdict, and the notebook stays as it was."""

from __future__ import annotations

import _thread
import random
import re
import sys
import threading
import time

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from safealign_lab import lesson
from safealign_lab.lesson import notes
from safealign_lab.lesson.examining import TOLERANCE, NotAttempted, Wrong, call, expect, gradients, quoted
from safealign_lab.lesson.exercise import Exercise, verdict
from safealign_lab.lesson.guard import PRINTED, THREAD, TimeIsUp, guarded

EXERCISE = sys.modules["safealign_lab.lesson.exercise"]
NUMBERS = st.floats(-100, 100, width=32)
SHORT = 0.3  # seconds; the limit of the exercise below


def twice(values):
    return 2 * values


def examine_twice(function):
    """One exercise to try everything on: a tensor, doubled."""
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    right = torch.tensor([[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]])
    return expect(call(function, values), right, {"It squares.": values**2, "It sums.": right.sum(1)})


@pytest.fixture(autouse=True)
def one_exercise(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(tmp_path))
    monkeypatch.setattr(sys.modules["safealign_lab.lesson.start"], "_current", None)
    exercise = Exercise("twice", twice, examine_twice, ("One.", "Two."), 5, "90_a_lesson", SHORT)
    monkeypatch.setattr(EXERCISE, "exercises", lambda: {"twice": exercise})


@pytest.fixture
def shown(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(EXERCISE, "show_text", said.append)
    return said


def written(body: str):
    """A learner's `twice`, as a cell defines it."""
    names: dict = {"__name__": "__main__", "torch": torch, "time": time, "random": random, "np": np, "sys": sys}
    exec(compile(f"def twice(values):\n    {body}", "<cell>", "exec"), names)
    return names["twice"]


def left_behind(seconds: float = 3.0) -> list[threading.Thread]:
    """Threads of the guard that go on, after some time to end in."""
    end = time.monotonic() + seconds
    while found := [thread for thread in threading.enumerate() if thread.name == THREAD]:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return found


def kept() -> dict:
    return notes.read()["exercises"]["90_a_lesson/twice"]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("return 2 * values", "right"),
            ("return values + values", "right"),
            ("return values ** 2", "It squares."),
            ("return (2 * values).sum(1)", "It sums."),
            ("return (2 * values).sum()", "has the shape (), expected (2, 3). Is one dimension reduced too many?"),
            ("return 2 * values[None]", "has the shape (1, 2, 3), expected (2, 3). Is one dimension still"),
            ("return 2 * values.T", "has the shape (3, 2), expected (2, 3)."),
            ("return 2 * values.int()", "holds whole numbers (torch.int32), expected numbers with a fraction"),
            ("return 2 * values + torch.nan", "It gives nan at [0, 0], where a finite number is right"),
            ("return 2 * values / 0", "It gives inf at [0, 0]"),
            ("v = values.clone(); v[1, 2] = 0; return 2 * v", "It gives 0 at [1, 2], not 12."),
            ("return values.mul_(2)", "changes its input `values`"),
            ("values.unsqueeze_(0); return 2 * values[0]", "changes its input `values`"),
            ("y = 2 * values", "returned None: does it end in `return`?"),
            ("return (2 * values).tolist()", "returned a list: expected a tensor"),
            ("return 3.0", "returned a float: expected a tensor"),
            ("yield 2 * values", "returned a generator: expected a tensor"),
            ("return values[7]", "raised IndexError"),
            ("raise ValueError('no `luck` <b>')", "raised ValueError: `` no `luck` <b> `` in line 2"),
            ("raise KeyError", "raised KeyError in line 2"),
            ("return twice(values)", "raised RecursionError"),
            ("sys.exit(3)", "raised SystemExit: `3`"),
            ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
            ("import pytest; pytest.fail('x')", "raised Failed"),
            ("return eval('1 +')", "raised SyntaxError"),
            ("return object()", "returned an object: expected a tensor"),
        ],
    )
    def test_each_answer_gets_its_words(self, body, words, shown):
        learners = written(body)
        assert words in verdict(learners)
        assert lesson.check(learners) is (learners if words == "right" else twice)
        assert words in shown[-1]

    @pytest.mark.parametrize(
        "body",
        ["...", "pass", "'''What it does.'''", "return", "raise NotImplementedError", "raise NotImplementedError('yours')",
         "result = ...; return result", "values = values + 1; raise NotImplementedError"],
    )  # fmt: skip
    def test_a_blank_is_not_attempted(self, body, shown):
        learners = written(body)
        assert verdict(learners) == "not attempted"
        assert lesson.check(learners) is twice
        assert "not attempted yet" in shown[-1]

    def test_an_operation_that_torch_does_not_have_is_an_attempt(self):
        with pytest.raises(NotImplementedError):
            torch.nn.functional.log_softmax(torch.ones(3, dtype=torch.int64), 0)
        assert "raised NotImplementedError" in verdict(
            written("return torch.nn.functional.log_softmax(values.long(), 0)")
        )

    def test_an_error_whose_text_raises_is_told_too(self):
        body = "E = type('E', (Exception,), {'__str__': lambda self: 1 / 0}); raise E()"
        assert "raised E" in verdict(written(body))

    def test_other_arguments_than_the_blanks_are_told(self):
        def few():
            return 0

        few.__name__ = "twice"
        assert "cannot be called as the blank can (too many positional arguments)" in verdict(few)

    def test_a_result_that_breaks_the_examination_is_told(self, monkeypatch):
        def examine(function):
            return None if function(3) + 1 == 7 else "other"

        exercise = Exercise("twice", twice, examine, ("One.", "Two."), 5, "90_a_lesson")
        monkeypatch.setattr(EXERCISE, "exercises", lambda: {"twice": exercise})
        assert "could not read what your function returns (TypeError" in verdict(written("return 'six'"))

    def test_a_long_message_is_cut(self):
        assert len(verdict(written("raise ValueError('x' * 10**6)"))) < 1000

    @pytest.mark.parametrize("thing", [3, None, torch.ones(2), type("twice", (), {})])
    def test_what_is_no_function_is_told(self, thing):
        with pytest.raises(ValueError, match="not a function: hand over the function itself"):
            lesson.check(thing)

    def test_an_unknown_name_is_told(self):
        with pytest.raises(ValueError, match="There is no exercise 'written'.*keep the function's name"):
            lesson.check(written)

    def test_checking_what_the_check_returned_is_no_tick(self, shown):
        returned = lesson.check(written("return 0"))
        assert lesson.check(returned) is twice
        assert "is the library's here" in shown[-1]
        assert "✔" not in shown[-1]
        assert (kept()["outcome"], kept()["attempts"]) == ("wrong", 1)


class TestTime:
    @pytest.mark.parametrize(
        "body",
        [
            "while True: pass",
            "while True: values = values + 1",
            "\n    while True:\n        try:\n            values = values + 1\n        except Exception:\n            pass",
            "\n    while True:\n        try:\n            values = values + 1\n        except:\n            pass",
            "\n    try:\n        while True: pass\n    finally:\n        values = values + 1",
            "while True: print('on and on')",
        ],
    )
    def test_an_endless_loop_is_cut_and_leaves_no_thread(self, body, shown):
        began = time.monotonic()
        assert lesson.check(written(body)) is twice
        assert "did not come to an end within 0.3 seconds" in shown[-1]
        assert time.monotonic() - began < SHORT + 2.5
        assert left_behind() == []

    def test_a_call_that_cannot_be_cut_is_left_behind(self, shown):
        began = time.monotonic()
        assert lesson.check(written("time.sleep(4); return 0")) is twice
        assert time.monotonic() - began < 3
        assert left_behind(0)
        assert "did not come to an end" in shown[-1]
        assert lesson.check(written("return values + values")) is not twice
        assert left_behind(5) == []  # it ended with the call

    def test_the_stop_button_is_heard_and_ends_the_work(self):
        threading.Timer(0.2, _thread.interrupt_main).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            guarded(lambda: written("while True: pass")(0), seconds=60)
        assert time.monotonic() - began < 5
        assert left_behind() == []

    def test_a_result_within_the_time_comes_at_once(self):
        began = time.monotonic()
        assert guarded(lambda: 3, seconds=60) == (3, None)
        assert time.monotonic() - began < 1

    def test_it_is_no_ordinary_exception(self):
        assert not issubclass(TimeIsUp, Exception)


class TestTheNotebookStays:
    def test_seeds_and_number_types_are_put_back(self):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        body = "torch.manual_seed(1); random.random(); np.random.rand(); torch.set_default_dtype(torch.float64)"
        for ending in ("return 0", "raise ValueError", "while True: pass"):
            lesson.check(written(f"{body}\n    {ending}"))
            assert torch.equal(torch.get_rng_state(), before[0])
            assert random.getstate() == before[1]
            assert (np.random.get_state()[1] == before[2]).all()
            assert torch.get_default_dtype() == torch.float32

    def test_gradients_are_on_for_the_learner_and_as_before_for_the_notebook(self):
        with torch.no_grad():
            needs = written("return torch.ones(2, requires_grad=True).sum().requires_grad")
            assert guarded(lambda: needs(0), 5) == (True, None)
            assert not torch.is_grad_enabled()
        with torch.inference_mode():
            assert guarded(lambda: torch.is_inference_mode_enabled(), 5) == (False, None)
        lesson.check(written("torch.set_grad_enabled(False); return 0"))
        assert torch.is_grad_enabled()

    def test_one_call_that_switches_gradients_off_does_not_change_the_next(self):
        def twice(values):
            seen.append(torch.is_grad_enabled())
            torch.set_grad_enabled(False)
            return values

        seen: list[bool] = []
        guarded(lambda: [call(twice, 1.0), call(twice, 1.0)], 5)
        assert seen == [True, True]

    def test_chance_gives_the_same_verdict_every_time(self):
        drawn = written("return values + torch.rand(1) + random.random() + np.random.rand()")
        assert verdict(drawn) == verdict(drawn) != "right"

    def test_another_number_type_in_the_notebook_does_not_reach_the_examination(self):
        torch.set_default_dtype(torch.float64)
        try:
            assert verdict(written("return values * torch.full((1,), 2.0)")) == "right"
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)

    def test_what_it_prints_is_shown_up_to_a_length(self, capsys):
        lesson.check(written("print('hello', values.shape); return 2 * values"))
        assert "hello torch.Size([2, 3])\n" in capsys.readouterr().out
        lesson.check(written("print('x' * 10**6); print('y'); return 2 * values"))
        out = capsys.readouterr().out
        assert "x" * PRINTED in out
        assert "left out" in out
        assert len(out) < PRINTED + 500


class TestRecord:
    def test_attempts_are_counted_and_a_blank_takes_nothing_away(self):
        for body in ("...", "return 0", "...", "return values", "..."):
            lesson.check(written(body))
        assert (kept()["outcome"], kept()["attempts"], kept()["minutes"]) == ("wrong", 2, 5)
        assert "It gives 1 at [0, 0], not 2." in kept()["verdict"]

    def test_what_is_right_stays_right(self):
        lesson.hint("twice", 2)
        lesson.check(written("return 0"))
        lesson.check(written("return values + values"))
        done = kept()
        assert (done["outcome"], done["attempts"], done["hints"], done["solution"]) == ("right", 2, [2], False)
        lesson.check(written("return 0"))
        lesson.hint("twice", 1)
        lesson.solution("twice")
        assert kept() == done

    def test_hints_and_solutions_are_kept_before_any_attempt(self, shown):
        lesson.hint("twice")
        lesson.hint("twice", 1)
        lesson.solution("twice")
        assert (kept()["outcome"], kept()["hints"], kept()["solution"]) == ("not attempted", [1], True)
        assert shown[0] == "**Hint 1 of 2.** One."
        assert "def twice(values):\n    return 2 * values" in shown[-1]


class TestCall:
    def test_inputs_of_every_kind_are_copies(self):
        inputs = ([1, [2, 3]], {"a": torch.ones(2)}, (torch.zeros(1),), "text", 3, {4})

        def change(numbers, table, pair, text, number, chosen):
            return float(numbers[1][0] + table["a"].sum() + pair[0].sum() + number + len(chosen))

        assert call(change, *inputs) == 2 + 2 + 0 + 3 + 1

    @pytest.mark.parametrize(
        ("body", "name"),
        [("numbers[1].append(3)", "numbers"), ("table['a'].zero_()", "table"), ("table['b'] = 1", "table"),
         ("chosen.add(5)", "chosen"), ("pair[0].add_(1)", "pair"), ("numbers.sort(reverse=True)", "numbers")],
    )  # fmt: skip
    def test_a_changed_input_is_named_and_the_callers_own_stays(self, body, name):
        inputs = {
            "numbers": [[1], [2]],
            "table": {"a": torch.ones(2)},
            "pair": (torch.zeros(1),),
            "chosen": {4},
        }
        space: dict = {}
        exec(f"def change(numbers, table, *, pair, chosen):\n    {body}\n    return 0", space)
        with pytest.raises(Wrong, match=f"changes its input `{name}`"):
            call(space["change"], inputs["numbers"], inputs["table"], pair=inputs["pair"], chosen=inputs["chosen"])
        assert (inputs["numbers"], inputs["chosen"], float(inputs["pair"][0])) == ([[1], [2]], {4}, 0.0)
        assert list(inputs["table"]) == ["a"]
        assert inputs["table"]["a"].tolist() == [1, 1]

    def test_numbers_that_are_none_and_generators_are_no_change(self):
        chances = torch.Generator().manual_seed(0)
        before = chances.get_state()
        got = call(lambda a, b, c: float(torch.rand(1, generator=c)), torch.tensor([torch.nan]), float("nan"), chances)
        assert 0 <= got < 1
        assert torch.equal(chances.get_state(), before)

    def test_a_model_is_handed_over_as_it_is(self):
        model = torch.nn.Linear(2, 1)
        assert call(lambda given: given is model, model) is True

    def test_gradients_reach_the_callers_tensor(self):
        weights = torch.tensor([1.0, 2.0], requires_grad=True)
        assert gradients(call(lambda w: (w**2).sum(), weights), weights)[0].tolist() == [2.0, 4.0]
        assert gradients(call(lambda w: w[0], weights), weights)[0].tolist() == [1.0, 0.0]
        other = torch.ones(2, requires_grad=True)
        assert gradients(weights.sum(), other)[0].tolist() == [0.0, 0.0]
        for without in (lambda w: w.detach().sum(), lambda w: w.sum().item()):
            with pytest.raises(Wrong, match="carries no gradient"):
                gradients(call(without, weights), weights)

    @pytest.mark.parametrize(
        ("got", "like", "words"),
        [
            (torch.ones(3), torch.ones(2, 3), r"shape \(3,\), expected \(2, 3\)"),
            (torch.ones(2, 3), torch.zeros(2, 3), None),
            (torch.tensor([1.0, torch.nan]), torch.ones(2), r"nan at \[1\]"),
            (torch.tensor([1.0, -torch.inf]), torch.tensor([0.0, -torch.inf]), None),
            (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.int64), "holds True and False"),
            (1.0, 2.0, None), (1, 2.0, None), (1.0, 2, "a float: expected a whole number"), (True, 2, "a bool: expected a whole"),
            (float("inf"), 2.0, "gives inf, where a finite"), (torch.tensor(1.0), 2.0, "takes the one number out"),
            ("a", "b", None), ("a", 1.0, "returned a str"), ([1, 2], [3, 4], None), ([1], [3, 4], "1 entries: expected 2"),
            ([1.0, "a"], [1.0, 2.0], r"a str at \[1\]: expected a number"), ((1, 2), [1, 2], None), (False, True, None),
            ([[1.0], [None]], [[1.0], [2.0]], r"NoneType at \[1\]\[0\]"), (np.float64(3), 1.0, None),
            (np.bool_(True), False, None),
        ],
    )  # fmt: skip
    def test_the_form_is_asked_for(self, got, like, words):
        if words is None:
            assert call(lambda: got, like=like) is got
        else:
            with pytest.raises(Wrong, match=words):
                call(lambda: got, like=like)

    def test_none_and_dots(self):
        with pytest.raises(Wrong, match="returned None"):
            call(lambda: None)
        with pytest.raises(NotAttempted):
            call(lambda: ...)


class TestExpect:
    @settings(deadline=None)
    @given(st.lists(NUMBERS, min_size=1, max_size=6), st.data())
    def test_it_finds_exactly_the_first_entry_that_differs(self, right, data):
        place = data.draw(st.integers(0, len(right) - 1))
        got = list(right)
        got[place] += 3 * TOLERANCE * (1 + abs(right[place]))
        near = [value + 0.5 * TOLERANCE * (1 + abs(value)) for value in right]
        for make in (list, tuple, lambda values: torch.tensor(values, dtype=torch.float64)):
            assert expect(make(right), make(right)) is None
            assert expect(make(near), make(right)) is None
            said = expect(make(got), make(right))
            assert f" at [{place}], not " in said
            mine, theirs = said.removeprefix("It gives ").removesuffix(".").split(f" at [{place}], not ")
            assert mine != theirs

    @settings(deadline=None)
    @given(st.integers(-5, 5), st.integers(-5, 5))
    def test_whole_numbers_have_no_tolerance(self, got, right):
        assert (expect(got, right, tolerance=10.0) is None) == (got == right)
        same = expect(torch.tensor([got]), torch.tensor([right]), tolerance=10.0) is None
        assert same == (got == right)

    def test_the_first_named_mistake_that_fits_is_said(self):
        named = {"It forgets τ².": 0.25, "It sums.": 4.0, "It sums, said again.": 4.0}
        assert expect(1.0, 1.0, named) is None
        assert expect(4.00001, 1.0, named) == "It sums."
        assert expect(3.0, 1.0, named) == "It gives 3, not 1."
        assert expect(3.0, 1.0, named, given="three tokens") == "For three tokens: It gives 3, not 1."

    def test_a_named_mistake_may_have_another_form(self):
        rows = torch.ones(2)
        assert expect(rows, torch.tensor(2.0), {"It does not sum.": rows}) == "It does not sum."
        assert expect(float("nan"), 0.5, {"It takes log 0.": float("nan")}) == "It takes log 0."
        assert expect("a", 1.0, {"It returns the word.": "a"}) == "It returns the word."

    @pytest.mark.parametrize(
        ("got", "right", "words"),
        [("no", "yes", "It gives `'no'`, not `'yes'`."), (True, False, "It gives `True`, not `False`."),
         ([1, 2], [1, 3], "It gives `2` at [1], not `3`."), (["a", "b"], ["a", "c"], "It gives `'b'` at [1], not `'c'`."),
         ([True], [False], "It gives `True` at [0], not `False`."), (0.12345, 0.12339, "It gives 0.12345, not 0.12339."),
         (-5.0, -torch.inf, "It gives -5, not -inf."), ([[1.0, 2.0]], [[1.0, 2.5]], "It gives 2 at [0][1], not 2.5."),
         ([torch.ones(2)], [torch.zeros(2)], "It gives 1 at [0][0], not 0."), ("x", None, "returned a str: expected a NoneType"),
         (torch.tensor([True, True]), torch.tensor([True, False]), "It gives 1 at [1], not 0.")],
    )  # fmt: skip
    def test_the_general_sentence_shows_both_values(self, got, right, words):
        assert words in expect(got, right, tolerance=1e-6)

    @settings(deadline=None)
    @given(st.text(alphabet="`ab \n<", max_size=12))
    def test_any_text_stays_code(self, text):
        # CommonMark: code ends at the first run of backticks as long as the one it began with; one space at both ends is no part
        line, code = " ".join(text.split()), quoted(text)
        fence = re.match("`+", code).group()
        inside = code.removeprefix(fence).removesuffix(fence)
        assert fence not in re.findall("`+", inside)
        if line:
            assert (inside[1:-1] if "`" in line else inside) == line


def test_in_a_real_notebook_everything_is_shown_and_the_next_cell_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("SAFEALIGN_STRICT", "1")
    cells = [
        "from safealign_lab import lesson\nsession = lesson.start('00_start_here')",
        "lesson.predict('q1', 'Which <one>?', ['up', 'down'])",
        "def refusal_share(labels):\n    print('looking at', len(labels))\n    while True: pass\n"
        "refusal_share = lesson.check(refusal_share)",
        "def refusal_share(labels):\n    print('once more')\n    display('and this')\n    return labels['x']\n"
        "refusal_share = lesson.check(refusal_share)",
        "lesson.measured('q1', 'up')\nlesson.claim('a third is refused', refusal_share(['refusal', 'a', 'b']), True)",
        "lesson.progress(export='progress.csv')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = ["\n".join(map(str, cell.outputs)) for cell in notebook.cells]
    assert "application/vnd.jupyter.widget-view+json" in shown[1]
    assert "looking at 13" in shown[2]
    assert "did not come to an end within 2 seconds" in shown[2]
    assert "once more" in shown[3]
    assert "and this" in shown[3]
    assert "in line 4, `return labels[" in shown[3]
    assert "You made no prediction" in shown[4]
    assert "✔ a third is refused (0.333)" in shown[4]
    assert "exercises right" in shown[5]
    assert "wrong,2," in (tmp_path / "progress.csv").read_text(encoding="utf-8-sig")
