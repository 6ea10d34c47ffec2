"""Views of lessons 10 to 12: whatever the parameters, the drawn numbers are the right ones, and the words say them."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safealign_lab.figures import bounded_noise, one_objective, soft_labels
from safealign_lab.measures import rate

SEEDS = st.integers(0, 10_000)


def words_of(figure) -> str:
    figure.to_json()  # what a page is sent has to be plain numbers
    return figure.layout.meta["alt"]


def softmax(numbers):
    powers = [math.exp(number - max(numbers)) for number in numbers]
    return [power / sum(powers) for power in powers]


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def drawn(seed, *shape, size=2.0):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- lesson 10: softened opinions -------------------------------------------------------------------------------------


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=6), st.floats(0.5, 8))
@example([4.0, 2.0, -1.0], 0.5)
@example([4.0, 2.0, -1.0], 2.0)
@example([4.0, 2.0, -1.0], 8.0)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_the_bars_are_the_opinion_at_one_and_at_the_temperature(logits, temperature):
    names = [f"class {number}" for number in range(len(logits))]
    figure = soft_labels.softened(logits, names, temperature)
    sharp, soft = softmax(logits), softmax([logit / temperature for logit in logits])
    for bar, shares in zip(figure.data, (sharp, soft), strict=True):
        assert list(bar.x) == names
        assert list(bar.y) == pytest.approx(shares, abs=1e-6)
    assert figure.data[0].marker.color != figure.data[1].marker.color
    told = words_of(figure)
    assert told.startswith(f"From temperature 1 to {temperature:g}: ")
    assert told.count(" to ") == len(names) + 1
    assert all(f"{name} {bar:.3f} to" in told for name, bar in zip(names, figure.data[0].y, strict=True))


def bell(place, width=2.2):
    return softmax([-(((at - place) / width) ** 2) / 2 for at in range(41)])


def slow_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@given(st.floats(0, 40))
@example(0.0)
@example(20.0)
@example(40.0)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_both_directions_are_the_divergences_at_every_place(place):
    figure = soft_labels.directions(place)
    teacher = [0.6 * one + 0.4 * other for one, other in zip(bell(10), bell(30), strict=True)]
    their, own, covering, seeking = figure.data
    assert list(their.y) == pytest.approx(teacher)
    assert list(own.y) == pytest.approx(bell(place))
    students = [*map(bell, range(41)), bell(place)]
    for curve, values in (
        (covering, [slow_kl(teacher, student) for student in students]),
        (seeking, [slow_kl(student, teacher) for student in students]),
    ):
        assert list(curve.x) == list(range(41))
        assert list(curve.y) == pytest.approx(values[:-1], rel=1e-6)
        best = min(range(41), key=values.__getitem__)
        assert f"{curve.name} is {values[-1]:.2f} here, least at {best}" in words_of(figure)
    assert (covering.name, seeking.name) == ("KL(teacher ‖ student)", "KL(student ‖ teacher)")
    assert min(seeking.y) == seeking.y[10]  # it settles on the larger peak, and the other stands between the two
    assert 10 < min(range(41), key=list(covering.y).__getitem__) < 30
    assert {shape.x0 for shape in figure.layout.shapes} == {place}


@given(st.floats(0, 15))
@example(0.0)
@example(6.0)
@example(15.0)
@settings(max_examples=8, deadline=None, derandomize=True)
def test_the_pushes_are_the_closed_forms_of_two_classes(margin):
    figure = soft_labels.pushes(margin)
    forms = (
        lambda m: math.sqrt(2) * abs(sigmoid(m) - sigmoid(-3)),
        lambda m: math.sqrt(2) * sigmoid(m) * sigmoid(-m) * (m + 3),
    )
    for form, curve, dot in zip(forms, figure.data[::2], figure.data[1::2], strict=True):
        assert (curve.x[0], curve.x[-1]) == (0, 15)
        assert list(curve.x) == sorted(curve.x)
        assert list(curve.y) == pytest.approx([form(at) for at in curve.x], rel=1e-6)
        assert (*dot.x, *dot.y) == pytest.approx((margin, form(margin)), rel=1e-6)
        assert f"{curve.name} pushes with {form(margin):.2g}" in words_of(figure)


@given(SEEDS, st.integers(1, 6), st.integers(2, 4))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_gradients_by_temperature_are_the_closed_form(seed, rows, classes):
    student, teacher = drawn(seed, 2, rows, classes)
    figure = soft_labels.gradient_sizes(student, teacher)

    def size(temperature, scaled):  # of τ² / τ · (S^τ - T^τ) / B
        total = 0.0
        for one, other in zip(student.tolist(), teacher.tolist(), strict=True):
            pair = (softmax([logit / temperature for logit in row]) for row in (one, other))
            total += sum((s - t) ** 2 for s, t in zip(*pair, strict=True))
        return math.sqrt(total) / temperature * (temperature**2 if scaled else 1)

    for curve, scaled in zip(figure.data, (True, False), strict=True):
        assert (curve.x[0], curve.x[-1]) == (1, 16)
        expected = [size(temperature, scaled) / size(1, scaled) for temperature in curve.x]
        assert list(curve.y) == pytest.approx(expected, rel=1e-3)
        assert f"{curve.name} it ends at {curve.y[-1]:.3g} of itself" in words_of(figure)
    assert not student.requires_grad


@given(SEEDS, st.integers(1, 60), st.integers(2, 4), st.sampled_from([1, 10, 20]), st.sampled_from([2.0, 60.0]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_reliability_draws_each_bin_and_says_the_error(seed, count, classes, bins, size):
    logits = drawn(seed, count, classes, size=size)
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    figure = soft_labels.reliability(logits, labels, "the student", bins)
    filled: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        shares = softmax(row)
        place = next(place for place in range(bins) if max(shares) <= (place + 1) / bins + 1e-12)
        filled.setdefault(place, []).append((max(shares), shares.index(max(shares)) == label))
    means = [[sum(column) / len(column) for column in zip(*filled[place], strict=True)] for place in sorted(filled)]
    counts = [len(filled[place]) for place in sorted(filled)]
    line, dots = figure.data
    assert list(dots.x) == pytest.approx([sure for sure, _ in means])
    assert list(dots.y) == pytest.approx([right for _, right in means], abs=1e-6)
    assert list(dots.text) == [f"{count} answers" for count in counts]
    sizes = dict(zip(counts, dots.marker.size, strict=True))
    assert [sizes[n] for n in sorted(sizes)] == sorted(set(sizes.values()))  # more answers, a larger dot
    assert figure.layout.xaxis.range[0] <= line.x[0] == line.y[0] <= min(dots.x)
    error = sum(n / count * abs(sure - right) for n, (sure, right) in zip(counts, means, strict=True))
    assert words_of(figure).startswith(f"the student, expected calibration error {error:.3f}.")
    assert figure.layout.title.text == f"expected calibration error {error:.3f}, {bins} bins"


@pytest.mark.parametrize(
    ("view", "wrong", "said"),
    [
        (lambda value: soft_labels.softened([1.0], ["a"], value), [0.0, -1.0, math.nan], "does not exist"),
        (soft_labels.directions, [-0.1, 40.1, math.nan], "expected one from 0 to 40"),
        (soft_labels.pushes, [-0.1, 15.1, math.nan], "expected 0 to 15 logits"),
        (bounded_noise.noise_losses, [0.0, 1.0, math.nan], "expected one between 0 and 1"),
    ],
)
def test_a_parameter_without_a_place_is_told(view, wrong, said):
    for value in wrong:
        with pytest.raises(ValueError, match=said):
            view(value)


# --- lesson 11: bounded noise -----------------------------------------------------------------------------------------


class Line:
    """A linear classifier of the plane: its logits differ by w · x + b."""

    def __init__(self, seed):
        self.weight, self.bias = drawn(seed, 2), float(drawn(seed + 1, 1))

    def __call__(self, points):
        score = points @ self.weight + self.bias  # (N,)
        return torch.stack([-score / 2, score / 2], dim=1)  # (N, 2)

    def right(self, point, label):
        """The probability of a class at a point, number by number."""
        score = sum(w * x for w, x in zip(self.weight.tolist(), point, strict=True)) + self.bias
        return sigmoid(score if label else -score)


def seen(figure):
    """What is drawn as plain numbers: trace by trace the points of each."""
    return [
        list(zip(map(float, trace.x), map(float, trace.y), strict=True))
        for trace in figure.data
        if trace.type == "scatter"
    ]


@given(SEEDS, st.sampled_from(["l2", "linf"]), st.floats(0.01, 1), st.integers(0, 11))
@example(0, "l2", 0.0, 0)
@example(1, "linf", 0.0, 11)
@example(2, "l2", 0.3, 3)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_in_the_ball_of_a_linear_classifier_both_attacks_walk_straight_to_the_worst_point(seed, norm, epsilon, chosen):
    head, points, labels = Line(seed), drawn(seed + 2, 12, 2), torch.arange(12) % 2
    figure = bounded_noise.ball(head, points, labels, ("no", "yes"), chosen, 2.0, norm, epsilon)
    first, second, one, many, text = seen(figure)
    assert text == [tuple(points[chosen].tolist())]
    assert first == [tuple(point) for point in points[::2].tolist()]
    assert second == [tuple(point) for point in points[1::2].tolist()]
    start, radius = points[chosen].tolist(), epsilon * 2.0 / (1 if norm == "l2" else math.sqrt(2))
    away = [-w * (1 if labels[chosen] else -1) for w in head.weight.tolist()]
    length = math.hypot(*away)
    way = [a / length if norm == "l2" else math.copysign(1, a) for a in away]
    for walked, reached in ((one, [0, 1]), (many, [min(1, 0.25 * step) for step in range(11)])):
        expected = [
            (x + share * radius * way[0], y + share * radius * way[1]) for (x, y) in [start] for share in reached
        ]
        assert walked == [pytest.approx(each, abs=1e-4) for each in expected]
    told = words_of(figure)
    assert f"A point with {head.right(start, labels[chosen]):.2f} for its right class" in told
    for name, walked in (("one step (FGSM)", one), ("many steps (PGD)", many)):
        assert f"{name} leaves {head.right(walked[-1], labels[chosen]):.2f}" in told
    (shape,) = figure.layout.shapes
    assert shape.type == ("circle" if norm == "l2" else "rect")
    edges = (start[0] - radius, start[0] + radius, start[1] - radius, start[1] + radius)
    assert (shape.x0, shape.x1, shape.y0, shape.y1) == pytest.approx(edges, abs=1e-6)


def test_behind_the_ball_stands_the_probability_of_class_one_and_the_boundary():
    head, points = Line(5), drawn(6, 40, 2)
    figure = bounded_noise.ball(head, points, torch.arange(40) % 2, ("no", "yes"), 0, 2.0)
    plane, boundary = figure.data[:2]
    assert (boundary.contours.start, boundary.contours.end) == (0.5, 0.5)
    assert [list(row) for row in boundary.z] == [list(row) for row in plane.z]
    for axis, middle in zip((figure.layout.xaxis, figure.layout.yaxis), points[0].tolist(), strict=True):
        low, high = axis.range
        assert (low, high) == pytest.approx((middle - 2.4, middle + 2.4))
    assert (min(plane.x), max(plane.x)) == pytest.approx(figure.layout.xaxis.range)
    for row, column in ((0, 0), (0, 60), (60, 0), (17, 42)):
        corner = float(plane.x[column]), float(plane.y[row])
        assert float(plane.z[row][column]) == pytest.approx(head.right(corner, 1), abs=1e-5)


@given(SEEDS, st.sampled_from(["l2", "linf"]), st.integers(1, 12), st.floats(0.05, 2))
@settings(max_examples=10, deadline=None, derandomize=True)
def test_a_walk_on_any_classifier_climbs_the_slope_where_it_stands_and_stays_in_the_ball(seed, norm, steps, share):
    inner, outer = drawn(seed, 2, 6).double(), drawn(seed + 1, 6, 2).double()
    start, label, radius = drawn(seed + 2, 2).double(), torch.tensor(seed % 2), 0.7

    def loss(place):
        return torch.nn.functional.cross_entropy(torch.tanh(place @ inner) @ outer, label[None]).item()

    way = bounded_noise.walk(
        lambda points: torch.tanh(points @ inner) @ outer, start, label, radius, norm, steps, share
    )
    assert way.shape == (steps + 1, 2)
    assert (way[0] == 0).all()
    for here, there in pairwise(way):
        moves = 1e-5 * torch.eye(2, dtype=torch.float64)
        slope = torch.tensor([loss((start + here + move)[None]) - loss((start + here - move)[None]) for move in moves])
        if norm == "l2":
            free = here + share * radius * slope / slope.norm()
            expected = free * min(1.0, radius / free.norm())
        else:
            expected = (here + share * radius * slope.sign()).clamp(-radius, radius)
        torch.testing.assert_close(there, expected.double(), atol=1e-4, rtol=1e-3)


def test_a_point_that_is_not_there_is_told():
    for chosen in (-1, 4):
        with pytest.raises(ValueError, match="expected one from 0 to 3"):
            bounded_noise.ball(Line(0), drawn(0, 4, 2), torch.arange(4) % 2, ("no", "yes"), chosen, 1.0)


@given(st.floats(0.01, 0.99))
@example(0.05)
@example(0.3)
@example(0.5)
@example(0.95)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_the_losses_of_a_probability_and_where_each_moves_it(probability):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = bounded_noise.noise_losses(probability)
    forms = {
        "cross-entropy with the label": lambda p: -math.log(p),
        "as printed: an entropy": lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p),
    }
    arrows = list(figure.layout.annotations)
    for curve, (name, form) in zip(figure.data, forms.items(), strict=True):
        assert curve.name == name
        assert [float(y) for y in curve.y] == pytest.approx([form(float(p)) for p in curve.x], abs=1e-4)
        lower = [form(probability + way * 1e-4) - form(probability) for way in (-1, 1)]
        if min(lower) > -1e-7:
            assert f"{name} leaves it there" in words_of(figure)
            continue
        way = -1 if lower[0] < lower[1] else 1
        assert f"{name} moves it {'down' if way < 0 else 'up'}" in words_of(figure)
        arrow = arrows.pop(0)
        assert (arrow.ax, arrow.ay, arrow.y) == pytest.approx((probability, *[form(probability)] * 2), abs=1e-5)
        assert 0 < (arrow.x - probability) * way <= 0.12 + 1e-9
        assert 0 <= arrow.x <= 1
    assert not arrows


CURVES = st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=21), min_size=1, max_size=6)


@given(CURVES)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_climbs_draw_the_losses_after_each_step(losses):
    curves = {f"attack {number}": one for number, one in enumerate(losses)}
    figure = bounded_noise.climbs(curves)
    for trace, (name, values) in zip(figure.data, curves.items(), strict=True):
        assert (trace.name, list(trace.x), list(trace.y)) == (name, list(range(len(values))), values)
        assert f"{name}: {values[0]:.2f} to {values[-1]:.2f}" in words_of(figure)
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == len(curves)


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_withstood_draws_each_rate_and_its_interval(counts):
    rates = {
        f"student {number}": {0.05 * step: rate(count, 40) for step, count in enumerate(row)}
        for number, row in enumerate(counts)
    }
    figure = bounded_noise.withstood(rates, "slips, share of the words")
    assert figure.layout.xaxis.title.text == "slips, share of the words"
    for trace, (name, row) in zip(figure.data, rates.items(), strict=True):
        assert (trace.name, list(trace.x)) == (name, list(row))
        for y, up, down, found in zip(
            trace.y, trace.error_y.array, trace.error_y.arrayminus, row.values(), strict=True
        ):
            assert (y, y + up, y - down) == pytest.approx((found.value, found.high, found.low))
        assert f"{name}: " + ", ".join(f"{found.value:.2f} at {at:g}" for at, found in row.items()) in words_of(figure)
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == len(rates)


@pytest.mark.parametrize("count", [0, 7])
def test_no_line_and_more_than_can_be_told_apart_are_refused(count):
    for view, line in ((bounded_noise.climbs, [0.0]), (bounded_noise.withstood, {0.0: rate(1, 2)})):
        with pytest.raises(ValueError, match="expected 1 to 6"):
            view({str(number): line for number in range(count)})


# --- lesson 12: a knob, and a plane -----------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_knob_shows_each_mean_with_its_interval_and_the_gradient_apart_from_the_shares(seed, values):
    ends = drawn(seed, values, len(one_objective.LINES), 3, size=0.2).sigmoid().sort().values[..., [1, 0, 2]]
    found = {
        float(value): dict(zip(one_objective.LINES, map(tuple, each.tolist()), strict=True))
        for value, each in enumerate(ends)
    }
    figure = one_objective.knob(found, "a knob")
    for place, (measure, line) in enumerate(zip(one_objective.LINES, figure.data, strict=True)):
        mean, low, high = ends[:, place].T
        assert [*line.y] == pytest.approx(mean.tolist(), abs=1e-6)
        assert [*line.error_y.array] == pytest.approx((high - mean).tolist(), abs=1e-6)
        assert [*line.error_y.arrayminus] == pytest.approx((mean - low).tolist(), abs=1e-6)
        assert list(line.x) == [f"{value}" for value in range(values)]
        assert line.yaxis == ("y2" if measure == "gradient_norm" else "y")
        assert f"{line.name}: {mean[0]:.2f} at 0" in words_of(figure)
    assert figure.layout.yaxis2.title.text == "gradient norm"
    assert [figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text] == [None, "a knob"]


def test_a_knob_without_values_or_with_a_measure_missing_is_refused():
    for nothing in ({}, {1.0: {}}, {1.0: dict.fromkeys([*one_objective.LINES][:-1], (0.5, 0.4, 0.6))}):
        with pytest.raises(ValueError, match="needs an estimate of accuracy"):
            one_objective.knob(nothing, "a knob")


@given(SEEDS, st.integers(1, 7), st.integers(1, 5))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_a_plane_has_one_mark_for_each_seed_and_says_the_means(seed, ways, seeds):
    numbers = drawn(seed, ways, seeds, 2).sigmoid()
    points = {f"way {n}": [tuple(pair) for pair in some.tolist()] for n, some in enumerate(numbers)}
    figure = one_objective.plane(points, "clean", "attacked")
    for some, marks in zip(numbers, figure.data, strict=True):
        assert [*marks.x] == pytest.approx(some[:, 0].tolist())
        assert [*marks.y] == pytest.approx(some[:, 1].tolist())
        assert f"{marks.name}: {some[:, 0].mean():.2f} and {some[:, 1].mean():.2f}" in words_of(figure)
    for axis, place in ((figure.layout.xaxis, 0), (figure.layout.yaxis, 1)):
        low, high = axis.range
        assert low < numbers[..., place].min() <= numbers[..., place].max() < high
        assert high - low >= 0.2 - 1e-9
    looks = {(marks.marker.color, marks.marker.symbol) for marks in figure.data}
    assert len(looks) == len({marks.marker.symbol for marks in figure.data}) == ways


def test_a_way_of_training_has_the_same_mark_in_every_plane_and_an_open_one_where_it_stopped_early():
    here = [(0.5, 0.5)]
    few = one_objective.plane({"KD + adversarial, in full": here, "KD alone, stopped early": here}, "clean", "attacked")
    all_ways = one_objective.plane(dict.fromkeys(one_objective.WAYS, here), "clean", "attacked")
    marks = {trace.name: trace.marker for trace in (*few.data, *all_ways.data)}
    full, alone = marks["KD + adversarial, in full"], marks["KD alone, stopped early"]
    assert (full.color, full.symbol) == (marks["KD + adversarial"].color, marks["KD + adversarial"].symbol)
    assert (alone.color, alone.symbol) == (marks["KD alone"].color, f"{marks['KD alone'].symbol}-open")
    assert full.color != alone.color


@pytest.mark.parametrize("points", [{}, {"one": []}, {f"way {n}": [(0.0, 0.0)] for n in range(8)}])
def test_no_way_no_seed_and_too_many_are_refused(points):
    with pytest.raises(ValueError, match="Expected 1 to 7 ways"):
        one_objective.plane(points, "clean", "attacked")
