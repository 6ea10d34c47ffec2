"""What an exercise is, and the check that reads a learner's function."""

from __future__ import annotations

import dis
import linecache
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType, TracebackType
from typing import Any

from . import exercises as rooms
from .examining import NotAttempted, Wrong, quoted
from .guard import TimeIsUp, guarded
from .notes import Record, record
from .show import show_text

Function = Callable[..., Any]
PASTED = "from __future__ import annotations\n\n\n"  # so that the library's types need no imports in a notebook
SECONDS = 2.0
RIGHT, BLANK, WRONG = "right", "not attempted", "wrong"


@dataclass(frozen=True)
class Exercise:
    """One function for the learner to write.

    Attributes:
        name: the function's name; the learner's function carries the same.
        solution: the library's function, handed over when the learner's is not right.
        examine: reads the learner's function and returns None where it is right, else what is wrong in the words of the most
            likely mistake (or raises it as `examining.Wrong`). It compares with an independent slow form, never with `solution`.
        hints: from a nudge to nearly the answer.
        minutes: planned.
        lesson: the notebook it belongs to, such as "20_two_streams".
        seconds: that the whole examination may take; more lets a slower function pass, and an endless loop wait longer.
    """

    name: str
    solution: Function
    examine: Callable[[Function], str | None]
    hints: tuple[str, ...]
    minutes: int
    lesson: str
    seconds: float = SECONDS


def exercises() -> dict[str, Exercise]:
    """Every exercise of the kit by its name: those in the EXERCISES of each module of lesson/exercises/."""
    names = sorted(room.name for room in pkgutil.iter_modules(rooms.__path__))
    modules = (import_module(f"{rooms.__name__}.{name}") for name in names)
    return {exercise.name: exercise for module in modules for exercise in module.EXERCISES}


def find(name: str) -> Exercise:
    """The exercise of a name.

    Raises:
        ValueError: there is none.
    """
    known = exercises()
    if name not in known:
        raise ValueError(
            f"There is no exercise {name!r}: expected one of {', '.join(sorted(known))}; keep the function's name."
        )
    return known[name]


def verdict(function: Function) -> str:
    """Reads a learner's function: "right", "not attempted", or what is wrong with it.

    Raises:
        ValueError: it is no function, or there is no exercise of its name.
    """
    name = getattr(function, "__name__", None)
    if not callable(function) or isinstance(function, type) or not isinstance(name, str):
        raise ValueError(
            f"This is a {type(function).__name__}, not a function: hand over the function itself, without calling it, "
            "as in `check(my_function)`."
        )
    exercise = find(name)
    if _is_blank(function):
        return BLANK
    said, error = guarded(lambda: exercise.examine(function), exercise.seconds)
    return (said or RIGHT) if error is None else _said(error, function, exercise)


def check(function: Function) -> Function:
    """Says whether the learner's function is right, and returns one that is: theirs, or the library's.

    So a notebook runs to its end whatever was written. What was found is kept with the learner's progress.

    Raises:
        ValueError: it is no function, or there is no exercise of its name.
    """
    said = verdict(function)
    name = function.__name__
    exercise = find(name)
    if function is exercise.solution:  # what an earlier check returned: no work of the learner's
        show_text(f"○ **`{name}` is the library's here.** Run the cell that defines yours, then check again.")
        return function
    _keep(exercise, lambda old: _attempted(old, said))
    if said == RIGHT:
        show_text(f"✔ **`{name}` is right.** The rest of the notebook uses yours.")
        return function
    if said == BLANK:
        show_text(
            f"○ **`{name}` is not attempted yet.** The rest of the notebook uses the library's until you write it."
        )
    else:
        show_text(f"✘ **`{name}` is not right yet.** {said} Until then the notebook uses the library's.")
    return exercise.solution


def hint(name: str, number: int = 1) -> None:
    """Shows one hint of an exercise; the first is the gentlest. That it was shown is kept with the learner's progress."""
    exercise = find(name)
    if not 1 <= number <= len(exercise.hints):
        raise ValueError(f"The exercise {name!r} has hints 1 to {len(exercise.hints)}, not {number}.")
    _keep(exercise, lambda old: old | {"hints": [*(n for n in old["hints"] if n != number), number]})
    show_text(f"**Hint {number} of {len(exercise.hints)}.** {exercise.hints[number - 1]}")


def solution(name: str) -> None:
    """Shows the library's own function. That it was shown is kept with the learner's progress."""
    import inspect

    exercise = find(name)
    _keep(exercise, lambda old: old | {"solution": True})
    source = inspect.getsource(exercise.solution)
    show_text(f"```python\n{PASTED}{source}```")


def _keep(exercise: Exercise, change: Callable[[Record], Record]) -> None:
    # what is right stays right: nothing that comes after it takes it away
    blank: Record = {"outcome": BLANK, "attempts": 0, "hints": [], "solution": False}

    def _change(old: Record) -> Record:
        known = blank | old | {"minutes": exercise.minutes}
        return old if old.get("outcome") == RIGHT else change(known)

    record("exercises", exercise.lesson, exercise.name, _change)


def _attempted(old: Record, said: str) -> Record:
    if said == BLANK:
        return old  # a blank takes nothing away
    outcome = RIGHT if said == RIGHT else WRONG
    return old | {"outcome": outcome, "verdict": said, "attempts": old["attempts"] + 1}


def _is_blank(function: Function) -> bool:
    # nothing in the body but `...`, `pass`, a docstring, or a plain `return`
    if not isinstance(function, FunctionType):
        return False
    steps = [step for step in dis.get_instructions(function) if step.opname not in ("RESUME", "NOP")]
    kinds = [step.opname for step in steps]
    return kinds in (["LOAD_CONST", "RETURN_VALUE"], ["RETURN_CONST"]) and steps[0].argval is None


def _said(error: BaseException, function: Function, exercise: Exercise) -> str:
    if isinstance(error, Wrong):
        return str(error)
    if isinstance(error, TimeIsUp):
        return (
            f"Your function did not come to an end within {exercise.seconds:g} seconds: look for a loop that never stops, "
            "or one that takes far too many steps."
        )
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    own = [step for step in _steps(error) if step.tb_frame.f_code.co_filename == file]
    if isinstance(error, NotAttempted) or (own and isinstance(error, NotImplementedError) and _raised_by_hand(own[-1])):
        return BLANK
    raised = _in_words(error)
    if not own:
        return f"The check could not read what your function returns ({raised}). Run it on a small example of your own."
    line = own[-1].tb_lineno
    source = linecache.getline(file, line).strip()
    where = f"line {line}, {quoted(source)}" if source else f"line {line}"
    return f"Your function raised {raised} in {where}. Run it on a small example of your own to see why."


def _in_words(error: BaseException) -> str:
    kind = type(error).__name__
    lines = traceback.format_exception_only(error)  # str(error) could itself raise
    message = next((line for line in lines if kind in line), "").partition(": ")[2].strip()
    return f"{kind}: {quoted(message)}" if message else kind


def _steps(error: BaseException) -> Iterator[TracebackType]:
    step = error.__traceback__
    while step:
        yield step
        step = step.tb_next


def _raised_by_hand(step: TracebackType) -> bool:
    # a `raise` of the learner's own (a blank has one), not an operation that PyTorch does not have
    return step.tb_next is None and step.tb_frame.f_code.co_code[step.tb_lasti] == dis.opmap["RAISE_VARARGS"]
