"""What an exercise is, and the check that reads a learner's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .show import show_text

Function = Callable[..., Any]
PASTED = "from __future__ import annotations\n\n\n"  # so that the library's types need no imports in a notebook
ROOMS = ("start_here",)  # modules of lesson/exercises/, each with a tuple EXERCISES


@dataclass(frozen=True)
class Exercise:
    """One function for the learner to write.

    Attributes:
        name: the function's name; the learner's function carries the same.
        solution: the library's function, handed over when the learner's is not right.
        examine: reads the learner's function and returns None where it is right, else what is wrong in the words of the most
            likely mistake. It compares with an independent slow form, never with `solution`.
        hints: from a nudge to nearly the answer.
        minutes: planned.
    """

    name: str
    solution: Function
    examine: Callable[[Function], str | None]
    hints: tuple[str, ...]
    minutes: int


def exercises() -> dict[str, Exercise]:
    """Every exercise of the kit by its name."""
    modules = (import_module(f"{__package__}.exercises.{room}") for room in ROOMS)
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
    """Reads a learner's function: "right", "not attempted", or what is wrong with it."""
    exercise = find(function.__name__)
    try:
        return exercise.examine(function) or "right"
    except NotImplementedError:
        return "not attempted"
    except Exception as error:  # noqa: BLE001 (a learner's function may raise anything, and is told what)
        return (
            f"Your function raised {type(error).__name__}: {error}. Run it on a small example of your own to see where."
        )


def check(function: Function) -> Function:
    """Says whether the learner's function is right, and returns one that is: theirs, or the library's.

    So a notebook runs to its end whatever was written.
    """
    said = verdict(function)
    name = function.__name__
    if said == "right":
        show_text(f"✔ **`{name}` is right.** The rest of the notebook uses yours.")
        return function
    if said == "not attempted":
        show_text(
            f"○ **`{name}` is not attempted yet.** The rest of the notebook uses the library's until you write it."
        )
    else:
        show_text(f"✘ **`{name}` is not right yet.** {said} Until then the notebook uses the library's.")
    return find(name).solution


def hint(name: str, number: int = 1) -> None:
    """Shows one hint of an exercise; the first is the gentlest."""
    hints = find(name).hints
    if not 1 <= number <= len(hints):
        raise ValueError(f"The exercise {name!r} has hints 1 to {len(hints)}, not {number}.")
    show_text(f"**Hint {number} of {len(hints)}.** {hints[number - 1]}")


def solution(name: str) -> None:
    """Shows the library's own function."""
    import inspect

    source = inspect.getsource(find(name).solution)
    show_text(f"```python\n{PASTED}{source}```")
