"""Named wrong answers to every exercise of the kit, each with words that the check must answer it with; a module per lesson."""

from __future__ import annotations

from . import opposite_prompts, start_here, two_streams

WRONG_ANSWERS = start_here.WRONG_ANSWERS | two_streams.WRONG_ANSWERS | opposite_prompts.WRONG_ANSWERS
