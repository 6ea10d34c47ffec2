"""The exercise on calibration: what it teaches is what the library measures with."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.distillation import quality
from safealign_lab.lesson.exercises.calibration import calibration_error


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 5), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_the_error_is_that_of_the_library(seed, count, classes, bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    mine = calibration_error(logits.softmax(-1), labels, bins)
    assert mine == pytest.approx(quality.calibration_error(logits, labels, bins).value, abs=1e-5)
