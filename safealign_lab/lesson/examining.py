"""What the exercises examine with: one call of the learner's function, and one comparison of what it returns.

Values may be tensors, numbers, bools, strings, and lists or tuples of them.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

TOLERANCE = 1e-4
FORM = math.inf  # as a tolerance: any value of the right form will do
KINDS: dict[str, type | tuple[type, ...]] = {
    "a tensor": torch.Tensor, "a list": (list, tuple), "True or False": (bool, np.bool_), "a string": str,
    "a whole number": Integral, "a number": Real,
}  # fmt: skip


class NotAttempted(Exception):
    """The learner's function is still a blank."""


class Wrong(Exception):
    """What is wrong with a learner's function, as one or two sentences for the learner."""


def call(function: Callable[..., Any], *inputs: Any, like: Any = None, **named: Any) -> Any:
    """What the learner's function returns for copies of these inputs.

    The copy of a tensor that needs gradients passes them on to the tensor itself. What can be called (a model, a tokenizer, a
    function) is handed over as it is.

    Args:
        function: the learner's.
        inputs, named: its arguments, by place and by name.
        like: a value of the right form: what is returned must have its type, shape and kind of numbers, and be finite where
            it is. None, for any value, is right where `expect` follows: it asks for the form too, after the named mistakes.

    Raises:
        NotAttempted: it returns `...`, as a blank may.
        Wrong: it cannot be called so, returns None or another form, or changes an input.
    """
    try:
        bound = inspect.signature(function).bind(*inputs, **named)
    except TypeError as error:
        raise Wrong(f"Your function cannot be called as the blank can ({error}): keep the blank's arguments.") from None
    before = dict(bound.arguments)
    bound.arguments.update({name: _copied(value) for name, value in before.items()})
    with torch.enable_grad():  # whatever an earlier call switched off
        got = function(*bound.args, **bound.kwargs)
    if got is Ellipsis:
        raise NotAttempted
    for name, value in before.items():
        if not _same(value, bound.arguments[name]):
            raise Wrong(f"Your function changes its input `{name}`: work on a copy of it, or make a new value.")
    said = _difference(got, got if like is None else like, FORM)
    if said:
        raise Wrong(said)
    return got


def expect(
    got: Any, right: Any, named: Mapping[str, Any] | None = None, tolerance: float = TOLERANCE, given: str = ""
) -> str | None:
    """None where a result is right; else the sentence of the mistake that gives it, or where it first differs.

    Args:
        got: what the learner's function returned.
        right: what it should have returned, found in an independent slow way.
        named: sentence → the value that this mistake gives; of several that fit the first is said.
        tolerance: a number is right within tolerance · (1 + |right|); more lets more pass. Whole numbers have none.
        given: the input in words, for the sentence said when no named mistake fits.
    """
    said = _difference(got, right, tolerance)
    if said is None:
        return None
    for sentence, value in (named or {}).items():
        if _difference(got, value, tolerance) is None:
            return sentence
    return f"For {given}: {said}" if given else said


def gradients(got: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The gradient of the sum of a result by each tensor that `call` was given; zeros where it does not depend on one.

    Raises:
        Wrong: the result carries no gradient.
    """
    if not isinstance(got, torch.Tensor) or not got.requires_grad:
        raise Wrong(
            "Its result carries no gradient, so nothing can be trained with it: do without `.item()`, `.detach()`, "
            "`torch.no_grad()` and new tensors made of its numbers."
        )
    found: tuple[torch.Tensor, ...] = torch.autograd.grad(
        got.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    if type(value) is dict:
        return {key: _copied(part) for key, part in value.items()}
    return value if callable(value) else copy.deepcopy(value)


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, torch.Tensor):
        alike = before.shape == after.shape and before.dtype == after.dtype
        return alike and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, dict):
        return list(before) == list(after) and all(_same(before[key], after[key]) for key in before)
    return before is after or not isinstance(before, (str, Real, set)) or before == after or before != before


def _difference(got: Any, right: Any, tolerance: float, at: str = "") -> str | None:
    # the first thing in which a value differs from the right one, as a sentence: its form first, then its numbers
    said = _misformed(got, right, at)
    if said or not isinstance(got, (list, tuple)):
        return said or _other(got, right, tolerance, at)
    places = enumerate(zip(got, right, strict=True))
    parts = (_difference(one, other, tolerance, f"{at or ' at '}[{place}]") for place, (one, other) in places)
    return next(filter(None, parts), None)


def _misformed(got: Any, right: Any, at: str) -> str | None:
    if got is None and not at:
        return "Your function returned None: does it end in `return`?"
    kind, wanted = _kind(got), _kind(right)
    if kind != wanted and (kind, wanted) != ("a whole number", "a number"):
        name = type(got).__name__
        article = "an" if name[0] in "aeiouAEIOU" else "a"
        remedy = (
            " (`.item()` takes the one number out of a tensor)" if kind == "a tensor" and wanted != "a list" else ""
        )
        return f"Your function returned {article} {name}{at}: expected {wanted}{remedy}."
    if kind == "a list" and len(got) != len(right):
        return f"Your function returned {len(got)} entries{at}: expected {len(right)}."
    return _misformed_tensor(got, right, at) if kind == "a tensor" else None


def _misformed_tensor(got: torch.Tensor, right: torch.Tensor, at: str) -> str | None:
    shape, wanted = tuple(got.shape), tuple(right.shape)
    if shape != wanted:
        fewer = " Is one dimension reduced too many?" if len(shape) < len(wanted) else ""
        more = " Is one dimension still to be reduced?" if len(shape) > len(wanted) else ""
        return f"Your result{at} has the shape {shape}, expected {wanted}.{fewer}{more}"
    if _holds(got) != _holds(right):
        return f"Your result{at} holds {_holds(got)} ({got.dtype}), expected {_holds(right)} ({right.dtype})."
    return None


def _other(got: Any, right: Any, tolerance: float, at: str) -> str | None:
    # the first entry whose value is another one
    if not isinstance(got, torch.Tensor) and (not isinstance(right, Real) or isinstance(right, Integral)):
        same = tolerance == FORM or got == right
        return None if same else f"It gives {quoted(repr(got))}{at}, not {quoted(repr(right))}."
    ones, others = (
        torch.as_tensor(v if isinstance(v, torch.Tensor) else float(v)).detach().cpu() for v in (got, right)
    )
    if others.is_floating_point():
        ones, others = ones.double(), others.double()
        strange = others.isfinite() & ~ones.isfinite()
        wrong = strange if tolerance == FORM else ~ones.isclose(others, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        wrong = (ones != others) & (tolerance != FORM)
    if not wrong.any():
        return None
    place = tuple(int(index) for index in wrong.nonzero()[0])
    one, other = ones[place].item(), others[place].item()
    at += f"{'' if at else ' at '}{list(place)}" if place else ""
    if not math.isfinite(one) and math.isfinite(other):
        return f"It gives {one}{at}, where a finite number is right: look for a division by 0 or the logarithm of 0."
    pairs = ((f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in (3, 5, 8, 17))
    mine, theirs = next(pair for pair in pairs if pair[0] != pair[1])
    return f"It gives {mine}{at}, not {theirs}."


def _kind(value: Any) -> str:
    return next((kind for kind, of in KINDS.items() if isinstance(value, of)), f"a {type(value).__name__}")


def _holds(values: torch.Tensor) -> str:
    if values.dtype == torch.bool:
        return "True and False"
    return "numbers with a fraction" if values.is_floating_point() else "whole numbers"


def quoted(text: str, longest: int = 300) -> str:
    """A text as code in Markdown, shortened, whatever characters it has."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[:longest]}…"
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
