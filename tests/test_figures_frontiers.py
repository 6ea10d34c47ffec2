"""Frontiers: the drawn prices are the library's, the dots stand where each way stands by itself, the words say them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.contrast.margins import price
from safealign_lab.figures.frontiers import frontier


def drawn(seed: int, ways: int, count: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    chance = torch.Generator().manual_seed(seed)
    return {
        f"way {number}": (torch.randn(count, generator=chance) + 1, torch.randn(count + 3, generator=chance) - 1)
        for number in range(ways)
    }


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_curves_are_prices_and_dots_the_shares_above_zero(seed, ways, count, safety):
    margins = drawn(seed, ways, count)
    figure = frontier(margins, "the harmful", "the others", safety)
    assert len(figure.data) == 2 * ways
    for number, (name, (harmful, harmless)) in enumerate(margins.items()):
        curve, dot = figure.data[2 * number : 2 * number + 2]
        assert curve.name == name
        assert [*curve.x] == pytest.approx([price(harmful, harmless, wanted) for wanted in curve.y])
        above = [sum(one > 0 for one in side.tolist()) / len(side) for side in (harmless, harmful)]
        assert [*dot.x, *dot.y] == pytest.approx(above)
        assert f"{name}: {price(harmful, harmless, safety):.2f}" in figure.layout.meta["alt"]
    assert len({curve.line.color for curve in figure.data[::2]}) == ways
    assert len({curve.line.dash for curve in figure.data[::2]}) == ways


@pytest.mark.parametrize("ways", [0, 5])
def test_no_way_and_too_many_are_refused(ways):
    with pytest.raises(ValueError, match="expected 1 to 4"):
        frontier(drawn(0, ways, 3), "a", "b")
