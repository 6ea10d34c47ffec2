"""The judge of the alchemy world: its answers have closed forms, so nothing is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..alchemy.grader import Label, label
from .base import Judge, check_pairs


@dataclass(frozen=True)
class AlchemyJudge(Judge):
    """Labels answers of the alchemy world by `alchemy.grader.label`, which does not need the request."""

    def labels(self, responses: Sequence[str], requests: Sequence[str] | None = None) -> list[Label]:
        """The labels of responses, exact by construction."""
        check_pairs(responses, requests)
        return [label(response) for response in responses]
