"""Views of lesson 20: whatever the parameters, the drawn numbers are the right ones, and the words say them."""

from __future__ import annotations

import math
from html import unescape

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safealign_lab.contrast import Step, candidates, score
from safealign_lab.figures import two_streams as views
from safealign_lab.measures import rate

VOCABULARY = 12
alphas = st.floats(0, 0.95)
limits = st.floats(0, 1)


def streams(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.randn(2, *shape, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def words_of(figure) -> str:
    return figure.layout.meta["alt"]


def softmax(numbers: list[float]) -> list[float]:
    powers = [math.exp(number) for number in numbers]
    return [power / sum(powers) for power in powers]


@given(st.integers(0, 99), alphas, limits)
@settings(max_examples=25, deadline=None)
def test_the_bars_are_the_probabilities_of_both_streams_and_of_their_contrast(seed, alpha, limit):
    logits = streams(seed)
    words = {token: f"w{token}" for token in (3, 0, 7)}
    figure = views.next_token(logits, words, alpha, limit)
    safe, adversarial = logits.tolist()
    kept = [p >= limit * max(softmax(safe)) * (1 - 1e-6) for p in softmax(safe)]
    contrast = [s - alpha * a if ok else -math.inf for s, a, ok in zip(safe, adversarial, kept, strict=True)]
    for bar, row in zip(figure.data, (safe, adversarial, contrast), strict=True):
        assert list(bar.y) == pytest.approx([softmax(row)[token] for token in words], abs=1e-5)
        assert [text.strip("()") for text in bar.x] == list(words.values())
    assert [text.startswith("(") for text in figure.data[0].x] == [not kept[token] for token in words]
    assert f"alpha {alpha:.2f}" in words_of(figure)


def test_tokens_with_one_text_keep_bars_of_their_own():
    figure = views.next_token(streams(0), {0: "a", 1: "a", 2: "b"})
    assert len(set(figure.data[0].x)) == 3


@given(st.integers(0, 99), st.lists(st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.95]), min_size=1, unique=True))
@settings(max_examples=15, deadline=None)
def test_the_sliders_frames_hold_the_candidates_probabilities_at_each_alpha(toy, seed, grid):
    tokenizer = toy[1]
    logits = streams(seed)
    logits = torch.cat([logits, torch.full((2, len(tokenizer) - VOCABULARY), -30.0)], dim=1)
    steps = candidates(tokenizer, logits, sorted(grid))
    figure = views.next_token_slider(steps)
    assert [one["label"] for one in figure.layout.sliders[0]["steps"]] == [f"{alpha:.2f}" for alpha in sorted(grid)]
    for frame, step, alpha in zip(figure.frames, steps, sorted(grid), strict=True):
        right = score(logits[:, None], alpha, "guided", 0.0)[0]
        assert step["chosen"] == tokenizer.decode([int(right.argmax())])
        assert step["p_safe"] == pytest.approx(float(logits[0].softmax(-1)[right.argmax()]))
        assert max(frame.data[2].y) == pytest.approx(float(right.softmax(-1).max()), abs=1e-5)
        assert [list(bar.y) for bar in frame.data] == [list(row.values()) for row in step["first"].values()]
        assert step["chosen"] in words_of(figure)


@given(st.integers(0, 99), limits)
@settings(max_examples=15, deadline=None)
def test_flips_count_the_positions_where_the_contrast_chooses_otherwise(seed, limit):
    logits, grid = streams(seed, 9), [0.0, 0.5, 0.9]
    figure = views.flips(logits, grid, limit)
    free, limited, acd, guided = (list(line.y) for line in figure.data)
    for place, alpha in enumerate(grid):
        choices = (logits[0] - alpha * logits[1]).argmax(-1)
        assert free[place] == pytest.approx(float((choices != logits[0].argmax(-1)).float().mean()))
        peaked = (logits[0] - alpha * logits[1]).softmax(-1)
        assert acd[place] == pytest.approx(float(-(peaked * peaked.log()).sum(-1).mean()), abs=1e-4)
    assert free[0] == limited[0] == 0
    assert guided[0] == pytest.approx(acd[0])
    assert all(one <= other for one, other in zip(guided, acd, strict=True))  # ACD hides a temperature above 1


@given(st.floats(0, 0.9))
@settings(max_examples=15, deadline=None)
def test_the_dictionary_marks_one_strength_in_each_language(alpha):
    figure = views.dictionary(alpha)
    marks = [trace.y[0] for trace in figure.data if trace.mode.startswith("markers")]
    assert marks == pytest.approx([1 / (1 - alpha), alpha / (1 - alpha)])
    sides = [trace.textposition for trace in figure.data if trace.mode.startswith("markers")]
    assert sides == ["top left", "bottom right"], "the numbers stand outside of the two curves"
    assert f"scale {1 / (1 - alpha):.2f}" in words_of(figure)


def a_step(**changes) -> Step:
    fields = {
        "token": " no", "p_safe": 0.5, "p_adversarial": 0.25, "score": 1.5, "p_contrast": 0.75, "decided": "both",
        "wanted": " no", "rejected": None, "plausible": 3, "entropy": 0.5,
    }  # fmt: skip
    return Step(**(fields | changes))


def test_the_inspector_draws_each_token_with_its_probabilities_and_says_who_decided():
    steps = [
        a_step(),
        a_step(decided="contrast", wanted="yes"),
        a_step(decided="safe", rejected="<odd>"),
        a_step(token="\n"),
    ]
    figure = views.inspector(steps)
    assert [list(row.x) for row in figure.data] == [[0.5] * 4, [0.25] * 4, [0.75] * 4]
    told = [note.text for note in figure.layout.annotations]
    assert told == ["both agree", "S wanted “yes”", "S decides, “&lt;odd>” is implausible", "both agree"]
    assert "⏎" in figure.layout.yaxis.ticktext[3]
    assert all(unescape(one) in words_of(figure) for one in told)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_the_trade_off_draws_rates_with_their_intervals(counts):
    rates = [rate(min(hits, n), n) for hits, n in counts]
    figure = views.trade_off({"harmful": list(enumerate(rates)), "my own": list(enumerate(rates))}, "title")
    for line in figure.data:
        assert list(line.y) == [one.value for one in rates]
        drawn = [y + up for y, up in zip(line.y, line.error_y.array, strict=True)]
        assert drawn == pytest.approx([one.high for one in rates])
    assert str(rates[0]) in words_of(figure)
    assert words_of(figure).startswith("title, by alpha. harmful: ")


@pytest.mark.parametrize(
    ("view", "arguments", "said"),
    [
        (views.next_token, (streams(0), {}), "no token to draw"),
        (views.next_token, (streams(0), {0: "a"}, 0.4, 2.0), "not a share"),
        (views.next_token_slider, ([],), "no α to show"),
        (views.flips, (streams(0, 3), []), "no α to show"),
        (views.dictionary, (1.0,), "no guidance scale"),
        (views.inspector, ([],), "the answer is empty"),
        (views.trade_off, ({"harmful": []}, ""), "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_told(view, arguments, said):
    with pytest.raises(ValueError, match=said):
        view(*arguments)
