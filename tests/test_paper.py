"""The paper's printed table: whole, made of hundredths, and with three means that are not those of their cells."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.contrast import paper

METHODS = ["Base", "nID", "oID", "ACD"]
BENCHMARKS = ["AdvBench", "Malicious Instruct", "HarmfulQA", "DangerousQA", "Beaver Test"]
SLIPS = {("AdvBench", "Base"): 5.20 / 7, ("Malicious Instruct", "oID"): 5.94 / 7, ("Bloom 7b", "Base"): 1.88 / 5}


def columns(table, method: str) -> dict[str, list[float]]:
    """The cells of a method by model, one of each benchmark."""
    return {model: [rows[method][place] for rows in table.values()] for place, model in enumerate(paper.MODELS)}


def all_slips(table, over_models, over_benchmarks) -> dict[tuple[str, str], float]:
    """The slips of both margins of the table, by benchmark or model and by method."""
    found = {}
    for benchmark, rows in table.items():
        found |= {(benchmark, method): mean for method, mean in paper.slips(rows, over_models[benchmark]).items()}
    for method in METHODS:
        printed = dict(zip(paper.MODELS, over_benchmarks[method], strict=True))
        found |= {(model, method): mean for model, mean in paper.slips(columns(table, method), printed).items()}
    return found


def copied():
    """Table and means, free to be changed."""
    table = {benchmark: {name: list(row) for name, row in rows.items()} for benchmark, rows in paper.TABLE.items()}
    over_models = {benchmark: dict(means) for benchmark, means in paper.OVER_MODELS.items()}
    return table, over_models, {method: list(row) for method, row in paper.OVER_BENCHMARKS.items()}


# ---------------------------------------------------------------- the table


def test_the_table_is_whole():
    assert len(set(paper.MODELS)) == 7
    assert list(paper.TABLE) == list(paper.OVER_MODELS) == BENCHMARKS
    for benchmark in BENCHMARKS:
        assert list(paper.TABLE[benchmark]) == list(paper.OVER_MODELS[benchmark]) == METHODS
        assert {len(row) for row in paper.TABLE[benchmark].values()} == {7}
    assert list(paper.OVER_BENCHMARKS) == METHODS
    assert {len(row) for row in paper.OVER_BENCHMARKS.values()} == {7}


def test_every_cell_is_a_share_of_its_requests():
    assert paper.REQUESTS == 100
    cells = [cell for rows in paper.TABLE.values() for row in rows.values() for cell in row]
    assert len(cells) == 140
    for cell in cells:
        assert 0 <= cell <= 1
        assert cell == round(cell * paper.REQUESTS) / paper.REQUESTS


def test_every_mean_is_a_share_of_three_digits():
    means = [mean for of in paper.OVER_MODELS.values() for mean in of.values()]
    means += [mean for of in paper.OVER_BENCHMARKS.values() for mean in of]
    assert len(means) == 20 + 28
    for mean in means:
        assert 0 <= mean <= 1
        assert mean == round(mean * 1000) / 1000


def test_three_printed_means_are_slips_and_no_more():
    found = all_slips(paper.TABLE, paper.OVER_MODELS, paper.OVER_BENCHMARKS)
    assert found == pytest.approx(SLIPS)


# ---------------------------------------------------------------- what a slip is


@pytest.mark.parametrize("unit", [0.001, -0.001])
def test_a_mean_that_is_a_unit_off_is_found_wherever_it_is_planted(unit):
    for benchmark, method in product(BENCHMARKS, METHODS):
        if (benchmark, method) not in SLIPS:
            table, over_models, over_benchmarks = copied()
            over_models[benchmark][method] += unit
            right = sum(table[benchmark][method]) / 7
            found = all_slips(table, over_models, over_benchmarks)
            assert found == pytest.approx(SLIPS | {(benchmark, method): right})
    for (place, model), method in product(enumerate(paper.MODELS), METHODS):
        if (model, method) not in SLIPS:
            table, over_models, over_benchmarks = copied()
            over_benchmarks[method][place] += unit
            right = sum(table[benchmark][method][place] for benchmark in BENCHMARKS) / 5
            found = all_slips(table, over_models, over_benchmarks)
            assert found == pytest.approx(SLIPS | {(model, method): right})


def test_a_cell_that_is_a_request_off_is_found_in_its_row_and_in_its_column():
    for benchmark, method, place in product(BENCHMARKS, METHODS, range(7)):
        table, over_models, over_benchmarks = copied()
        table[benchmark][method][place] += 0.01
        found = all_slips(table, over_models, over_benchmarks)
        assert set(found) == set(SLIPS) | {(benchmark, method), (paper.MODELS[place], method)}


hundredths = st.lists(st.integers(0, 100), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hundredths, st.integers(1, 5), st.integers(-3, 3))
def test_half_a_unit_of_the_last_digit_is_rounding_and_all_beyond_is_a_slip(cells, digits, off):
    """Whichever way a mean between two printed numbers was rounded: compared in fractions, which are exact."""
    mean, unit = Fraction(sum(cells), 100 * len(cells)), Fraction(1, 10**digits)
    printed = (mean // unit + off) * unit
    rows = {"row": [cell / 100 for cell in cells], "other": [0.5]}
    found = paper.slips(rows, {"other": 0.5, "row": float(printed)}, digits)
    if abs(mean - printed) <= unit / 2:
        assert found == {}
    else:
        assert found == {"row": pytest.approx(float(mean))}


@pytest.mark.parametrize("printed", [0.12, 0.13])
def test_a_mean_halfway_may_be_printed_either_way(printed):
    """0.125 in floats lies between both, but most halves do not fall so well, and are forgiven too."""
    assert paper.slips({"a": [0.10, 0.15]}, {"a": printed}, 2) == {}
    assert paper.slips({"a": [0.56, 0.59]}, {"a": printed + 0.45}, 2) == {}


@pytest.mark.parametrize(
    ("rows", "lack"),
    [({"a": [0.1], "b": []}, "'b' has no cells"), ({"a": [0.1], "c": [0.2]}, "'c' has no printed mean")],
)
def test_a_row_that_cannot_be_compared_is_refused_in_one_sentence(rows, lack):
    with pytest.raises(ValueError, match=f"The row {lack}: give every row one cell or more and the mean") as caught:
        paper.slips(rows, {"a": 0.1, "b": 0.1})
    assert "\n" not in str(caught.value)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(hundredths, st.integers(0, 1000), st.integers(1, 4))
def test_fewer_digits_forgive_more(cells, thousandths, digits):
    rows, printed = {"row": [cell / 100 for cell in cells]}, {"row": thousandths / 1000}
    assert set(paper.slips(rows, printed, digits)) <= set(paper.slips(rows, printed, digits + 1))
