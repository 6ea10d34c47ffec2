"""What the tests of exercises share: a learner's function under the name that the check looks for, and numbers to try it on."""

from __future__ import annotations

import functools

import torch


def named(function, name):
    """The function as if the learner had called it so."""

    @functools.wraps(function)
    def learners(*inputs, **options):
        return function(*inputs, **options)

    learners.__name__ = name
    return learners


def drawn(seed, *shape, scale=2.0):
    """Numbers of a shape, in double precision."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
