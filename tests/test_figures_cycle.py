"""Views of lesson 32: the board and the sweeps against plain means, what holds, whose gradient is against whose, and γ."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import cycle as views
from safealign_lab.immunization import cycle_studies
from safealign_lab.immunization import three_tokens as toy
from safealign_lab.immunization.cycle import Cycle

quick = settings(max_examples=20, deadline=None)
NAMES = ("working", "no canaries", "K = 0.01", "K = 0.1", "λ = 0.3", "as printed")
SETS = sorted({name for sets, _ in views.MEASURES.values() for name in sets})


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def rows(seed: int = 0, seeds: int = 3, names: tuple[str, ...] = NAMES) -> list[dict]:
    """A study's rows with numbers of their own, the seeds out of order."""
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> list[float]:
        return [float(torch.rand((), generator=generator)), 0.0, 1.0]

    return [
        {
            "settings": {"variant": name},
            "seed": number,
            "result": {"rates": {one: {"refusal": drawn(), "exact": drawn(), "n": 60} for one in SETS}},
        }
        for number in reversed(range(seeds))
        for name in names
    ]


# ---------------------------------------------------------------- the stored study


@given(st.integers(0, 99), st.sampled_from(NAMES), st.sampled_from(sorted(views.MEASURES)))
@quick
def test_a_column_is_the_mean_of_its_sets_seed_by_seed(seed, name, column):
    study = rows(seed)
    sets, what = views.MEASURES[column]
    mine = {row["seed"]: row["result"]["rates"] for row in study if row["settings"]["variant"] == name}
    slow = [statistics.mean(mine[number][one][what][0] for one in sets) for number in range(3)]
    found = views.by_seed(study, name)[column]
    assert found == pytest.approx(slow)
    assert views.spread(found) == (pytest.approx(statistics.mean(slow)), min(found), max(found))


def test_the_columns_are_sets_that_the_study_asks_and_the_reference_is_its_recipe():
    assert cycle_studies.VARIANTS[views.REFERENCE].settings() == Cycle()
    assert set(views.SAFETY) | set(views.PRICE) < set(views.MEASURES)
    cursed = {name for column in views.SAFETY for name in views.MEASURES[column][0]}
    assert all(name.startswith("cursed/") for name in cursed)
    asked = {name.split("/")[1] for column in views.SAFETY[1:] for name in views.MEASURES[column][0]}
    for column in ("kind refused", "kind right"):  # in every way in which cursed potions are asked for
        assert {name.split("/")[1] for name in views.MEASURES[column][0]} == asked


def test_a_difference_is_called_so_where_every_seed_has_it():
    study = rows(names=("working", "no canaries"))
    ways = ("kind/weak/test", "kind/medium/test", "kind/strong/test")

    def _refused(variant, number, *shares):
        (rates,) = (
            row["result"]["rates"] for row in study if row["settings"]["variant"] == variant and row["seed"] == number
        )
        for way, share in zip(ways, shares, strict=True):
            rates[way]["refusal"][0] = share

    for number, (one, two) in enumerate(((0.5, 0.4), (0.6, 0.3), (0.7, 0.6))):
        _refused("working", number, one, one, one)
        _refused(
            "no canaries", number, two - 0.1, two, two + 0.1
        )  # the mean of the three ways of asking is what counts
    assert views.compared(study, "no canaries", "kind refused") == (pytest.approx(-1 / 6), "lower")
    assert views.compared(study, "working", "kind refused", "no canaries")[1] == "higher"
    _refused("no canaries", 2, 0.6, 0.7, 0.8)
    assert views.compared(study, "no canaries", "kind refused")[1] == "not to be told apart"


@given(st.integers(0, 99))
@quick
def test_a_board_has_a_dot_for_each_model_in_each_column(seed):
    study = rows(seed)
    points = {
        name: {c: views.spread(v) for c, v in views.by_seed(study, name).items()} for name in ("working", "no canaries")
    }
    figure = views.board(points)
    assert [trace.name for trace in figure.data] == list(views.MEASURES)
    for trace in figure.data:
        assert list(trace.y) == list(points)
        for place, name in enumerate(points):
            value, low, high = points[name][trace.name]
            assert trace.x[place] == value
            assert trace.error_x.array[place] == pytest.approx(high - value)
            assert trace.error_x.arrayminus[place] == pytest.approx(value - low)
        harmful = trace.name in views.SAFETY, trace.name in views.PRICE
        assert trace.marker.color == {(True, False): views.SAFE, (False, True): views.ADVERSARIAL}.get(
            harmful, views.INK
        )
    lines = [shape.x0 for shape in figure.layout.shapes]
    assert lines == [value for value, _, _ in points["working"].values()]
    assert f"no canaries: seen nouns {points['no canaries']['seen nouns'][0]:.2f}" in words_of(figure)


def test_a_sweep_goes_from_low_to_high_with_the_recipe_at_its_own_value():
    study = rows()
    recipe = Cycle()
    assert views.swept(study, "K") == {
        0.0: "no canaries",
        0.01: "K = 0.01",
        0.1: "K = 0.1",
        recipe.canary_fraction: "working",
    }
    assert views.swept(study, "λ") == dict(sorted({recipe.immunize.push_weight: "working", 0.3: "λ = 0.3"}.items()))
    assert views.swept(study, "β") == {}
    figure = views.sweep(study, "K")
    assert figure.layout.xaxis.title.text.endswith("the share of canaries")
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["kind refused"].x) == ["0", "0.01", "0.1", f"{recipe.canary_fraction:g}"]
    values = [statistics.mean(views.by_seed(study, name)["kind refused"]) for name in views.swept(study, "K").values()]
    assert list(by_name["kind refused"].y) == pytest.approx(values)
    assert f"kind refused: {values[0]:.2f} at 0, {values[1]:.2f} at 0.01" in words_of(figure)


# ---------------------------------------------------------------- what holds


def test_each_shield_has_a_line_for_canaries_and_one_for_all_others():
    drifts = {"printed": {0.0: (1e-3, 1e-3), 10.0: (1e-3, 1e-3)}, "anchor": {0.0: (1e-3, 1e-3), 10.0: (2e-4, 1.1e-3)}}
    figure = views.holding(drifts)
    assert [trace.name for trace in figure.data] == [
        "printed: canaries", "printed: others", "anchor: canaries", "anchor: others",
    ]  # fmt: skip
    assert list(figure.data[2].y) == [1e-3, 2e-4]
    assert list(figure.data[3].y) == [1e-3, 1.1e-3]
    assert figure.data[0].line.color != figure.data[2].line.color
    assert "anchor, canaries: 1.0e-03 at 0, 2.0e-04 at 10" in words_of(figure)
    assert views.holding({"anchor": {5.0: (1.0, 2.0)}}).data[0].x == ("5",)


def test_cosines_keep_their_signs_and_their_room():
    figure = views.against({"one": {"all": -0.5, "canaries": 0.1}, "two": {"all": 0.0, "canaries": -1.0}})
    assert [trace.name for trace in figure.data] == ["all", "canaries"]
    assert list(figure.data[0].x) == [-0.5, 0.0]
    assert figure.data[1].text == ("+0.10", "-1.00")
    assert figure.layout.xaxis.range[1] > 1
    assert "two: all +0.00, canaries -1.00" in words_of(figure)


# ---------------------------------------------------------------- a strength in front


@pytest.mark.parametrize("gamma", [0.01, 100.0, 1e4])
def test_a_constant_strength_is_no_knob_and_an_annealed_one_shortens_the_last_steps(gamma):
    plain, constant, annealed, slowed = (
        views.lengths(1.0), views.lengths(gamma), views.lengths(gamma, gamma_falls=True), views.lengths(1.0, rate_falls=True)
    )  # fmt: skip
    assert constant == pytest.approx(plain, rel=1e-3)
    assert annealed[0] == pytest.approx(plain[0], rel=1e-3)
    assert slowed[-1] < annealed[-1] < 0.9 * plain[-1]
    figure = views.strengths(gamma)
    assert [trace.y for trace in figure.data] == [plain, constant, annealed, slowed]
    assert f"γ = {gamma:g}: {constant[0]:.4f} to {constant[-1]:.4f}" in words_of(figure)


def test_the_steps_are_those_of_an_optimiser_written_out():
    z = torch.tensor([toy.REFERENCE], dtype=torch.float64).log()
    mean, square, moves = torch.zeros_like(z), torch.zeros_like(z), []
    goal = toy.push_goal(toy.Knobs().strength).double()
    for step in range(1, 6):
        gradient = 3.0 * (z.softmax(1) - goal)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        move = views.RATE * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        z = z - move
        moves.append(float(move.norm()))
    assert views.lengths(3.0)[:5] == pytest.approx(moves, rel=1e-4)


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (views.by_seed, (rows(), "K = 7"), "no runs of 'K = 7'.*working"),
        (views.by_seed, ([], "working"), "none at all"),
        (views.compared, (rows(), "working", "beauty"), "no column 'beauty'"),
        (views.compared, ([*rows(seeds=2), *rows(names=("later",))], "later", "kind refused"), "3 and 2 seeds"),
        (views.board, ({},), "at least one model"),
        (views.board, ({"one": {"a": (0.1, 0.0, 0.2)}, "two": {"b": (0.1, 0.0, 0.2)}},), "same columns"),
        (views.sweep, (rows(), "β"), "0 settings of 'β'"),
        (views.holding, ({},), "Expected 1 to 4 shields"),
        (views.holding, ({"a": {1.0: (0.0, 0.0)}, "b": {2.0: (0.0, 0.0)}},), "same values of β"),
        (views.against, ({},), "at least one pair"),
        (views.against, ({"a": {"x": 0.1}, "b": {"y": 0.1}},), "kinds of weights"),
    ],
)
def test_what_cannot_be_drawn_is_told(view, arguments, said):
    with pytest.raises(ValueError, match=said):
        view(*arguments)
