"""Grids of independent runs: each result is stored with its run card as it comes, and a broken-off study goes on."""

from .cards import code_hash, data_hash, run_card
from .runner import Study, StudyError, Unit, load, results_file, select

__all__ = ["Study", "StudyError", "Unit", "code_hash", "data_hash", "load", "results_file", "run_card", "select"]
