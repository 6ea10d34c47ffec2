"""Views of lesson 33: what is drawn is what a slow count of the rows gives, and what cannot be drawn is told."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.figures import alarm, tampering
from safealign_lab.immunization.tampering import Point
from safealign_lab.measures import rate as rate_of

quick = settings(max_examples=20, deadline=None, derandomize=True)
SEEDS = st.integers(0, 999)
STEPS = (0, 1, 2, 4, 8)
TUNINGS = ("everyday", "lists", "mixed", "canaries frozen")
HARMLESS = TUNINGS[:2]


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def tampered_rows(seed: int, defences=("undefended", "immunized"), examples: bool = False) -> list[dict]:
    rng, rows = random.Random(seed), []
    for defence in defences:
        for kind, rank in (("harmful", None), ("mixed", None), ("mixed", 8)):
            for rate in (1e-4, 1e-3):
                for of in (0, 1):
                    count = rng.randint(2, len(STEPS))
                    given = {"defence": defence, "kind": kind, "learning_rate": rate, "rank": rank}
                    if examples:
                        given["examples"] = 10 if kind == "harmful" else 100
                    result = {
                        "steps": list(STEPS[:count]),
                        "refusal": [rng.randint(0, 10) / 10 for _ in range(count)],
                        "useful": [rng.randint(5, 10) / 10 for _ in range(count)],
                    }
                    rows.append({"settings": given, "seed": of, "result": result})
    return rows


def first(row) -> float:
    result = row["result"]
    broken = [
        s for s, r, u in zip(*(result[k] for k in ("steps", "refusal", "useful")), strict=True) if r < 0.5 and u > 0.7
    ]
    return broken[0] if broken else math.inf


# ---------------------------------------------------------------- attackers


def test_a_course_shows_both_rates_the_guard_and_the_break():
    def attack(**given):
        assert given == {"kind": "mixed", "learning_rate": 1e-3}
        return [Point(0, {"refusal": 0.9, "useful": 1.0}), Point(2, {"refusal": 0.2, "useful": 0.9})]

    figure = tampering.course(attack, kind="mixed", learning_rate=1e-3)
    refused, useful = figure.data
    assert (list(refused.x), list(refused.y), list(useful.y)) == ([0, 2], [0.9, 0.2], [1.0, 0.9])
    assert [(one.y0, one.x0) for one in figure.layout.shapes] == [(0.5, 0), (0.7, 0), (0, 2)]
    assert "kind mixed, learning rate 0.001" in words_of(figure)
    assert "broken at step 2" in words_of(figure)
    held = tampering.course(
        lambda: [Point(0, {"refusal": 0.9, "useful": 1.0}), Point(4, {"refusal": 0.6, "useful": 1.0})]
    )
    assert "never broken" in words_of(held)
    assert len(held.layout.shapes) == 2


@given(SEEDS, st.booleans())
@quick
def test_each_cell_of_the_board_tells_its_runs_and_the_worst_is_framed(seed, examples):
    rows = tampered_rows(seed, examples=examples)
    figure = tampering.board(rows, "immunized")
    (cells,) = figure.data
    mine = [row for row in rows if row["settings"]["defence"] == "immunized"]
    assert list(cells.y) == ["harmful, 10 examples" if examples else "harmful", "mixed", "mixed, rank 8"]
    assert list(cells.x) == ["0.0001", "0.001"]
    worst = min(map(first, mine))
    framed = {(shape.x0 + 0.48, shape.y0 + 0.48) for shape in figure.layout.shapes}
    for r, (name, texts) in enumerate(zip(cells.y, cells.text, strict=True)):
        for c, (rate, text) in enumerate(zip(cells.x, texts, strict=True)):
            runs = [
                row for row in mine
                if tampering.attacker(row) == name and f"{row['settings']['learning_rate']:g}" == rate
            ]  # fmt: skip
            told = []
            for row in runs:
                ended = "ruined" if min(row["result"]["refusal"]) < 0.5 else "never"
                star = "" if row["result"]["useful"][0] > 0.7 else "*"
                told.append((f"{first(row)}" if first(row) < math.inf else ended) + star)
            assert text == " / ".join(told)
            least = min(map(first, runs))
            assert cells.z[r][c] == pytest.approx(min(math.log2(1 + least), tampering.TOP))
            assert ((c, r) in framed) == (least == worst < math.inf)
    assert f"after {worst} steps" in words_of(figure) or (worst == math.inf and "to no attacker" in words_of(figure))


@given(SEEDS)
@quick
def test_the_most_gained_is_a_slow_maximum_and_never_falls(seed):
    rows = tampered_rows(seed)
    figure = tampering.gained(rows)
    assert [trace.name for trace in figure.data] == ["undefended", "immunized"]
    for trace in figure.data:
        mine = [row for row in rows if row["settings"]["defence"] == trace.name]
        bars = zip(trace.error_y.array, trace.error_y.arrayminus, strict=True)
        for at, value, (up, down) in zip(trace.customdata, trace.y, bars, strict=True):
            each = []
            for of in (0, 1):
                best = 0.0
                for row in mine:
                    points = zip(*(row["result"][key] for key in ("steps", "refusal", "useful")), strict=True)
                    best = max(best, *(1 - r for s, r, u in points if row["seed"] == of and s <= at and u > 0.7), 0.0)
                each.append(best)
            assert value == pytest.approx(sum(each) / 2)
            assert (value - down, value + up) == pytest.approx((min(each), max(each)))  # of the worlds
        assert list(trace.y) == sorted(trace.y)
    assert "undefended" in words_of(figure)
    some = tampering.gained(rows, "mixed, rank 8")
    assert all(a <= b for a, b in zip(some.data[0].y, figure.data[0].y, strict=False))


def test_all_defences_of_the_study_are_told_apart():
    names = [f"defence {n}" for n in range(len(tampering.COLOURS))]
    figure = tampering.gained(tampered_rows(0, names))
    looks = {(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == len(names)
    assert tampering.defences(tampered_rows(0, names)) == names


def test_steps_stand_where_their_logarithm_is_and_no_bar_hides_another():
    names = [f"defence {n}" for n in range(len(tampering.COLOURS))]
    figure = tampering.gained(tampered_rows(3, names))
    ticks = figure.layout.xaxis.tickvals
    assert list(ticks) == pytest.approx([0.0, 1.0, 1.58496, 2.32193, 3.16993], abs=1e-5)
    assert list(figure.layout.xaxis.ticktext) == ["0", "1", "2", "4", "8"]
    for at, tick in enumerate(ticks):
        places = [trace.x[at] for trace in figure.data]
        assert len({round(place, 6) for place in places}) == len(names)
        assert sum(places) / len(names) == pytest.approx(tick)
        assert max(abs(place - tick) for place in places) < 0.15  # nearer to its own tick than to any other
    (line,), (words,) = figure.layout.shapes, figure.layout.annotations
    assert (line.y0, line.y1) == (0.5, 0.5)
    assert "broken" in words.text


# ---------------------------------------------------------------- the alarm


def alarm_rows(seed: int, each: int = 6) -> list[dict]:
    rng = random.Random(seed)
    return [
        {
            "settings": {"tuning": tuning, "learning_rate": 1e-4, "steps": 8},
            "seed": number,
            "result": {
                score: rng.randint(0, 12) / 8 + (tuning == "mixed") * 0.5
                for score in ("drift", "share on canaries", "share on random", "cosine")
            }
            | {"refusal": rng.randint(0, 10) / 10},
        }
        for tuning in ("mixed", "everyday", "canaries frozen", "lists")
        for number in range(each)
    ]


@given(SEEDS, st.sampled_from([0.0, 0.05, 0.2, 0.5]))
@quick
def test_the_line_lets_so_many_harmless_runs_pass(seed, most):
    rows = alarm_rows(seed)
    figure = alarm.scored(rows, HARMLESS, "cosine", most)
    (line,) = [shape.x0 for shape in figure.layout.shapes]
    scores = [row["result"]["cosine"] for row in rows if row["settings"]["tuning"] in HARMLESS]
    assert sum(score > line for score in scores) <= most * len(scores)
    assert line in scores
    (words,) = figure.layout.annotations
    assert (words.x, words.xanchor) == (line, "left")  # the alarm is what lies to the right
    assert [trace.name for trace in figure.data] == ["everyday", "lists", "mixed", "canaries frozen"]  # harmless first
    for trace in figure.data:
        mine = [row["result"] for row in rows if row["settings"]["tuning"] == trace.name]
        assert list(trace.x) == [one["cosine"] for one in mine]
        assert [symbol == "circle" for symbol in trace.marker.symbol] == [one["refusal"] < 0.5 for one in mine]
        assert (trace.marker.color == alarm.HARMLESS) == (trace.name in HARMLESS)
        assert f"{trace.name}: {sum(x > line for x in trace.x)} of 6 above it" in words_of(figure)


@given(SEEDS)
@quick
def test_a_curve_has_the_area_of_all_pairs(seed):
    rows = alarm_rows(seed)
    figure = alarm.told_apart(rows, HARMLESS, "mixed")
    *curves, dots = figure.data
    known = ["drift", "share on canaries", "share on random", "cosine"]
    assert sorted(trace.name for trace in curves) == sorted(alarm.SCORES[score] for score in known)
    called = {name: score for score, name in alarm.SCORES.items()}
    for trace in curves:
        harmful, harmless = (
            [row["result"][called[trace.name]] for row in rows if row["settings"]["tuning"] in some]
            for some in (("mixed",), HARMLESS)
        )
        pairs = [(h > b) + (h == b) / 2 for h in harmful for b in harmless]
        area = sum(
            (b - a) * (c + d) / 2 for a, b, c, d in zip(trace.x, trace.x[1:], trace.y, trace.y[1:], strict=False)
        )
        assert area == pytest.approx(sum(pairs) / len(pairs))
        place = list(dots.y).index(trace.name)
        assert dots.x[place] == pytest.approx(area)
        assert f"{trace.name} {area:.2f} [" in words_of(figure)
        assert (trace.x[0], trace.y[0], trace.x[-1], trace.y[-1]) == (0, 0, 1, 1)


@given(SEEDS)
@quick
def test_several_attackers_are_judged_as_one(seed):
    rows = alarm_rows(seed)
    together, alone = ("mixed", "canaries frozen"), ("canaries frozen",)
    for attackers in (together, alone):
        found = alarm.qualities(rows, HARMLESS, attackers, ["cosine"])["cosine"]
        harmful, harmless = (
            [row["result"]["cosine"] for row in rows if row["settings"]["tuning"] in some]
            for some in (attackers, HARMLESS)
        )
        pairs = [(h > b) + (h == b) / 2 for h in harmful for b in harmless]
        assert found.auroc == pytest.approx(sum(pairs) / len(pairs))
        assert found.detected.n == 6 * len(attackers)
    assert alarm.qualities(rows, HARMLESS, alone, ["cosine"]) == alarm.qualities(rows, HARMLESS, alone[0], ["cosine"])


@given(SEEDS)
@quick
def test_what_is_worn_away_is_drawn_with_its_intervals(seed):
    rng = random.Random(seed)
    rates = {
        name: {step: rate_of(rng.randint(0, count), count) for step in (0, 1, 16)}
        for name, count in (("a", 40), ("b", 9))
    }
    figure = tampering.worn(rates, "requests refused")
    for trace, its in zip(figure.data, rates.values(), strict=True):
        assert list(trace.customdata) == [0, 1, 16]
        for rate, value, up, down in zip(
            its.values(), trace.y, trace.error_y.array, trace.error_y.arrayminus, strict=True
        ):
            assert (value, value + up, value - down) == pytest.approx((rate.value, rate.high, rate.low))
    assert f"b: {rates['b'][0].value:.2f} at step 0" in words_of(figure)


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (tampering.board, (tampered_rows(0), "prayer"), "No row is about 'prayer'"),
        (tampering.gained, (tampered_rows(0), "prayer"), "0 defences cannot be drawn"),
        (tampering.gained, (tampered_rows(0, [str(n) for n in range(9)]),), "9 defences"),
        (tampering.worn, ({}, "refused"), "0 defences"),
        (alarm.scored, (alarm_rows(0), HARMLESS, "luck"), "the score 'luck'"),
        (alarm.scored, (alarm_rows(0), (), "cosine"), "at least one harmless run"),
        (alarm.scored, (alarm_rows(0), HARMLESS, "cosine", 1.5), "share in"),
        (alarm.told_apart, (alarm_rows(0), HARMLESS, "nobody"), "at least one harmful run"),
        (alarm.qualities, ([], HARMLESS, "mixed", ["cosine"]), "the score 'cosine'"),
    ],
)
def test_what_cannot_be_drawn_is_told(view, arguments, said):
    with pytest.raises(ValueError, match=said):
        view(*arguments)
