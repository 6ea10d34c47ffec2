"""The exercises of the kit, a module for each part of it: the blank, the check, the hints.

A mistake that shows by few possible values is named only where it gives what the learner's function does in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..examining import call, expect


@dataclass(frozen=True)
class Case:
    """One input of a learner's function.

    Attributes:
        inputs: the arguments, by place.
        right: what it should return, found in an independent slow way.
        named: sentence → the value that this mistake gives here. The same sentences for all cases of an exercise.
        given: the input in words, for the sentence said when no named mistake fits.
        now_and_then: as `named`, of mistakes that may also give the right value here.
    """

    inputs: tuple[Any, ...]
    right: Any
    named: Mapping[str, Any]
    given: str
    now_and_then: Mapping[str, Any] = field(default_factory=dict)


def examined(
    function: Callable[..., Any], cases: Sequence[Case], read: Callable[[Any], Any] = lambda got: got
) -> str | None:
    """None where a function is right in every case; else what is wrong with it.

    That is the first named mistake that gives what the function does in every case, or else the first wrong value.

    Args:
        function: the learner's.
        cases: more of them leave fewer mistakes that give the same.
        read: what is made of each value that the function returns before it is compared.
    """
    for case in cases:
        got = read(call(function, *case.inputs))
        said = expect(got, case.right, given=case.given)
        if said:
            known = (name for name in (*case.named, *case.now_and_then) if _gives(got, case, name))
            return next((name for name in known if all(_fits(function, other, name, read) for other in cases)), said)
    return None


def listed(got: Any) -> Any:
    """What a function returns, a tuple as the list that it stands for."""
    return list(got) if isinstance(got, tuple) else got


def _gives(got: Any, case: Case, name: str) -> bool:
    return expect(got, {**case.named, **case.now_and_then}[name]) is None


def _fits(function: Callable[..., Any], case: Case, name: str, read: Callable[[Any], Any]) -> bool:
    # whether a mistake gives what the function does; an error that the function raises speaks against none
    try:
        got = read(call(function, *case.inputs))
    except Exception:  # noqa: BLE001 (a learner's function may raise anything, and is told so where it is its first fault)
        return True
    return _gives(got, case, name) or (name in case.now_and_then and expect(got, case.right) is None)
