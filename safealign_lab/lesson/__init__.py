"""What a notebook calls: start a lesson, ask a model, check an exercise, show a result."""

from .apprentice import ask, ask_panel
from .clinic import clinic
from .exercise import check, hint, solution
from .notes import keep, kept
from .results import results
from .show import show_figure, show_table, show_text
from .start import start

__all__ = [
    "ask", "ask_panel", "check", "clinic", "hint", "keep", "kept", "results", "show_figure", "show_table", "show_text",
    "solution", "start",
]  # fmt: skip
