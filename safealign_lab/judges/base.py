"""What every judge is: responses in, one of three labels each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import get_args

from ..alchemy.grader import Label

LABELS: tuple[Label, ...] = get_args(Label)


class Judge(ABC):
    """Labels responses; it may look at the request that a response answers."""

    @abstractmethod
    def labels(self, responses: Sequence[str], requests: Sequence[str] | None = None) -> list[Label]:
        """The labels of many responses, in their order; ValueError unless each has its request or none has one."""

    def label(self, response: str, request: str | None = None) -> Label:
        """The label of one response."""
        return self.labels([response], None if request is None else [request])[0]


def check_pairs(responses: Sequence[str], requests: Sequence[str] | None) -> None:
    """ValueError unless each response has its request, or none has one."""
    if requests is not None and len(requests) != len(responses):
        raise ValueError(
            f"There are {len(responses)} responses and {len(requests)} requests, but each response needs its own "
            "request; give as many requests as responses, or none."
        )
