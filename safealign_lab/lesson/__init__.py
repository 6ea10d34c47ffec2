"""What a notebook calls: start a lesson, predict, check an exercise, claim a result, show and explore it, see the progress."""

from .apprentice import ask, ask_panel
from .claim import claim
from .clinic import clinic
from .exercise import check, hint, solution
from .explore import explore
from .notes import keep, kept
from .predict import measured, predict
from .progress import progress
from .results import results, run_folder
from .show import show_figure, show_table, show_text
from .start import current, start

__all__ = [
    "ask", "ask_panel", "check", "claim", "clinic", "current", "explore", "hint", "keep", "kept", "measured", "predict",
    "progress", "results", "run_folder", "show_figure", "show_table", "show_text", "solution", "start",
]  # fmt: skip
