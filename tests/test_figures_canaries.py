"""Views of lesson 31: shares and overlaps against plain counting, and the panels of a training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import canaries as views

quick = settings(max_examples=20, deadline=None)
FRACTIONS = st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0])
SHAPES = {
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.1.self_attn.q_proj.weight": (4, 4),
    "model.layers.1.self_attn.q_proj.bias": (4,),
    "model.norm.weight": (4,),
}


def scores(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def slow(of: dict[str, torch.Tensor], fraction: float) -> set[tuple[str, int]]:
    ranked = sorted(
        ((-value, name, place) for name, one in of.items() for place, value in enumerate(one.flatten().tolist()))
    )
    return {(name, place) for _, name, place in ranked[: -(-round(fraction * 100) * len(ranked) // 100)]}


# ---------------------------------------------------------------- the map


@given(st.integers(0, 99), FRACTIONS)
@quick
def test_every_cell_of_the_map_is_the_share_of_its_tensor(seed, fraction):
    of = scores(seed)
    figure = views.where({"|g|": of, "g²": scores(seed + 1)}, "|g|", fraction)
    (cells,) = figure.data
    chosen = slow(of, fraction)
    names = {
        ("layer 0", "q"): "model.layers.0.self_attn.q_proj.weight",
        ("layer 0", "input norm"): "model.layers.0.input_layernorm.weight",
        ("layer 1", "q"): "model.layers.1.self_attn.q_proj.weight",
        ("layer 1", "q bias"): "model.layers.1.self_attn.q_proj.bias",
        ("outside", "norm"): "model.norm.weight",
    }
    assert list(cells.x) == ["layer 0", "layer 1", "outside"]
    assert list(cells.y) == ["q", "input norm", "q bias", "norm"]
    for row, shares, said in zip(cells.y, cells.z, cells.text, strict=True):
        for column, share, text in zip(cells.x, shares, said, strict=True):
            name = names.get((column, row))
            if name is None:
                assert share is None
                assert not text
                continue
            count, size = sum(one == name for one, _ in chosen), of[name].numel()
            assert share == pytest.approx(count / size)
            assert text == f"{count} of {size}"
    assert f"{len(chosen)} of 44 weights" in words_of(figure)
    assert f"K = {fraction:g}" in words_of(figure)


def test_a_stored_map_has_a_cell_for_each_share_and_none_where_there_is_no_tensor():
    figure = views.stored({"self_attn.q_proj.weight": {"0": 0.1, "1": 0.7}, "norm.weight": {"model": 0.9}})
    (cells,) = figure.data
    assert list(cells.x) == ["0", "1", "outside"]
    assert list(cells.y) == ["q", "norm"]
    assert [list(row) for row in cells.z] == [[0.1, 0.7, None], [None, None, 0.9]]
    assert [list(row) for row in cells.text] == [["10.0%", "70.0%", ""], ["", "", "90.0%"]]
    assert "norm of outside 90%" in words_of(figure)
    assert "q of layer 0 10%" in words_of(figure)


# ---------------------------------------------------------------- agreement


@given(st.integers(0, 99), st.sampled_from([0.01, 0.3, 0.5, 1.0]))
@quick
def test_a_bar_is_what_two_selections_share(seed, fraction):
    one, other = scores(seed), scores(seed + 1)
    figure = views.agreement({"apart": (one, other), "the same": (one, one)}, fraction)
    (bars,) = figure.data
    mine, theirs = slow(one, fraction), slow(other, fraction)
    assert bars.x[0] == pytest.approx(len(mine & theirs) / len(mine | theirs))
    assert bars.x[1] == 1
    count = len(mine)
    by_chance = count * count / 44 / (2 * count - count * count / 44)
    assert figure.layout.shapes[0].x0 == pytest.approx(by_chance)
    assert f"chance gives {by_chance:.2f}" in words_of(figure)
    assert f"apart {bars.x[0]:.2f}; the same 1.00" in words_of(figure)


# ---------------------------------------------------------------- training


def rows(slope: float) -> list[dict[str, float]]:
    return [{"step": s, "refusals": 3 - slope * s, "attacked": 4 - slope * s, "harmless": 0.5} for s in range(4)]


def test_a_run_is_drawn_in_three_panels_in_its_own_colour():
    runs = {"no attack": rows(0.5), "attack, put back": rows(0.25)}
    figure = views.training(runs)
    keys = [(name, key) for name in runs for key in ("refusals", "attacked", "harmless")]
    for trace, (name, key) in zip(figure.data, keys, strict=True):
        assert list(trace.y) == [row[key] for row in runs[name]]
        assert trace.line.color == views.COLOURS[name]
    assert [trace.showlegend for trace in figure.data] == [True, False, False] * 2
    assert len({trace.line.dash for trace in figure.data}) == 2
    assert "no attack: refusals 3.00 to 1.50, attacked 4.00 to 2.50, harmless 0.50 to 0.50" in words_of(figure)
    assert len(set(views.COLOURS.values())) == len(views.COLOURS)
    assert figure.layout.yaxis.range is None
    assert len({words.text for words in figure.layout.annotations}) == 3
    cut = views.training(runs, top=2.0)
    assert {axis.range[1] for axis in (cut.layout.yaxis, cut.layout.yaxis2, cut.layout.yaxis3)} == {2.0}
    assert words_of(cut) == words_of(figure)  # the words tell what leaves the frame


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (views.where, ({"|g|": scores(0)}, "g²"), "no scores 'g²'"),
        (views.where, ({"|g|": scores(0)}, "|g|", 1.5), r"fraction in \[0, 1\]"),
        (views.agreement, ({},), "nothing to compare"),
        (views.agreement, ({"one": (scores(0), {"w": torch.rand(3)})},), "not of the same weights"),
        (views.training, ({},), "Expected 1 to 4"),
        (views.training, ({"one": []},), "at least one row"),
    ],
)
def test_what_cannot_be_drawn_is_told(view, arguments, said):
    with pytest.raises(ValueError, match=said):
        view(*arguments)
