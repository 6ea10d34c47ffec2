"""Named wrong answers to every exercise of the kit, each with words that the check must answer it with; a module per lesson."""

from __future__ import annotations

from . import (
    acd_measured,
    calibration,
    distillation,
    one_pass,
    opposite_prompts,
    preferences,
    request_gate,
    start_here,
    two_streams,
)  # fmt: skip

WRONG_ANSWERS = (
    start_here.WRONG_ANSWERS
    | calibration.WRONG_ANSWERS
    | distillation.WRONG_ANSWERS
    | request_gate.WRONG_ANSWERS
    | two_streams.WRONG_ANSWERS
    | opposite_prompts.WRONG_ANSWERS
    | acd_measured.WRONG_ANSWERS
    | one_pass.WRONG_ANSWERS
    | preferences.WRONG_ANSWERS
)
