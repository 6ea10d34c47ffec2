"""Named wrong answers to every exercise of the kit, each with words that the check must answer it with; a module per lesson.

`SAME_MISTAKE` holds other ways of writing some of them: exercise → other way → the wrong answer whose words it must get.
`OTHER_MISTAKE` holds answers that are wrong in another way and agree with a named mistake in the first case of the check:
exercise → answer → the wrong answer whose words it must not get.
"""

from __future__ import annotations

from . import (
    acd_measured,
    calibration,
    canaries,
    cycle,
    distillation,
    ledger,
    one_pass,
    one_plot,
    opposite_prompts,
    preferences,
    request_gate,
    start_here,
    tampering,
    two_streams,
    your_model,
)  # fmt: skip

_LESSONS = (
    start_here,
    calibration,
    distillation,
    ledger,
    request_gate,
    two_streams,
    opposite_prompts,
    acd_measured,
    one_pass,
    preferences,
    canaries,
    cycle,
    tampering,
    one_plot,
    your_model,
)
WRONG_ANSWERS = {name: answers for lesson in _LESSONS for name, answers in lesson.WRONG_ANSWERS.items()}
OTHER_MISTAKE = {name: others for lesson in _LESSONS for name, others in getattr(lesson, "OTHER_MISTAKE", {}).items()}
SAME_MISTAKE = {name: others for lesson in _LESSONS for name, others in getattr(lesson, "SAME_MISTAKE", {}).items()}
