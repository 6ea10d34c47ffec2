"""What all figures share: colours that mean the same everywhere, the look, and the words beside a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ..distillation.quality import Estimate
from ..measures import Rate

# Okabe and Ito's palette: told apart with any kind of colour vision
REFUSAL, COMPLIANCE, INCOHERENT = "#0072B2", "#E69F00", "#8C8C8C"
SAFE, ADVERSARIAL, CONTRAST, MIXED = "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
# the same as words: dark enough to be read on white
LABEL_INKS = {"refusal": REFUSAL, "compliance": "#A65E00", "incoherent": "#6B6B6B"}
LABEL_COLOURS = {"refusal": REFUSAL, "compliance": COMPLIANCE, "incoherent": INCOHERENT}
INK, PAPER, FAINT, JUDGED = "#222222", "#FFFFFF", "#E6E6E6", "#56636F"
FAMILY_COLOURS = {
    "no training": INK, "distillation": REFUSAL, "contrast": CONTRAST, "immunization": SAFE, "composed": ADVERSARIAL
}  # fmt: skip


def finish(
    figure: go.Figure, alt: str, height: int, title: str | None = None, margin: dict[str, int] | None = None
) -> go.Figure:
    """Gives a figure the kit's look and its words.

    Args:
        figure: changed in place and returned.
        alt: what the figure says, in words, for those who cannot see it.
        height: pixels; the width follows the page.
        title: one line above it.
        margin: pixels at the left, right, top and bottom, where the usual ones do not fit.
    """
    figure.update_layout(
        template="plotly_white", height=height, font={"size": 14, "color": INK}, paper_bgcolor=PAPER, plot_bgcolor=PAPER,
        margin=margin or {"l": 60, "r": 20, "t": 60 if title else 20, "b": 50}, meta={"alt": alt},
        title={"text": title, "x": 0.01, "font": {"size": 16}} if title else None,
    )  # fmt: skip
    return figure


def slider(names: Sequence[str], prefix: str) -> dict[str, Any]:
    """A slider of plotly's own, which needs no kernel: one step for each frame of the figure.

    Args:
        names: of the frames, in order; they are the steps' labels.
        prefix: what stands before the label, such as "alpha (α) = ".
    """
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "currentvalue": {"prefix": prefix, "font": {"size": 15}},
        "pad": {"t": 40},
        "steps": [{"label": name, "method": "animate", "args": [[name], still]} for name in names],
    }


def error_bars(rates: Sequence[Rate | Estimate], colour: str) -> dict[str, Any]:
    """The intervals of rates and other estimates as plotly draws them, around their values."""
    return {
        "type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 4,
        "array": [rate.high - rate.value for rate in rates], "arrayminus": [rate.value - rate.low for rate in rates],
    }  # fmt: skip
