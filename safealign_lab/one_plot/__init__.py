"""Every method on one plot: what each does to the same requests, what it costs, and which of them can be told apart."""

from __future__ import annotations

from .points import FAMILIES, MEASURES, Answer, Comparison, Point, apart, compare, effects, front

__all__ = ["FAMILIES", "MEASURES", "Answer", "Comparison", "Point", "apart", "compare", "effects", "front"]
