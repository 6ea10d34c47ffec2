"""A statement about a result, shown with the number that it rests on."""

from __future__ import annotations

import html
import os
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from .notes import record
from .show import show_text
from .start import current


def claim(text: str, value: object, holds: bool) -> None:
    """Shows a statement with the measured value: with a tick where it holds, with a cross where it does not in this run.

    It is kept with the learner's progress. Where SAFEALIGN_STRICT is "1", as in the kit's tests, an untrue one raises.

    Args:
        text: the statement, in Markdown.
        value: what was measured: a number (shown with 3 significant digits), a rate or an interval, or a string.
        holds: whether the statement is true of it; a comparison, such as `ratio < 1.3`.

    Raises:
        ValueError: `holds` is neither True nor False.
        AssertionError: the statement does not hold, and SAFEALIGN_STRICT is "1".
    """
    true, shown = _truth(holds), shown_value(value)
    record(
        "claims", current().lesson, text, lambda old: old | {"outcome": "holds" if true else "does not", "value": shown}
    )
    if true:
        show_text(f"✔ {text} ({html.escape(shown, quote=False)})")
        return
    if os.environ.get("SAFEALIGN_STRICT") == "1":
        raise AssertionError(f"This does not hold: {text} ({shown})")
    show_text(f"✘ {text} ({html.escape(shown, quote=False)}). **This statement does not hold in this run.**")


def shown_value(value: Any) -> str:
    """A measured value as the reader sees it: 3 significant digits, whole numbers whole, all else in its own words."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (bool, Integral)) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    short = f"{number:.3g}"
    return f"{float(short):.0f}" if 1000 <= abs(number) < 1e6 else short


def _truth(holds: object) -> bool:
    if isinstance(holds, torch.Tensor) and holds.dtype == torch.bool and holds.numel() == 1:
        return bool(holds)
    if isinstance(holds, (bool, np.bool_)):
        return bool(holds)
    raise ValueError(
        f"A claim needs True or False, not a {type(holds).__name__}: state when it holds, as in "
        '`claim("the ratio is small", ratio, ratio < 1.3)`.'
    )
