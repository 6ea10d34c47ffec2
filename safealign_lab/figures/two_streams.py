"""Views of lesson 20: one next token under two streams, what α does to many of them, a token inspector, the trade-off.

Symbols: N positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import unescape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..contrast import Form, Step, guidance, plausible, sampling_temperature, score, weight
from ..measures import Rate
from .base import ADVERSARIAL, COMPLIANCE, CONTRAST, FAINT, INCOHERENT, INK, REFUSAL, SAFE, error_bars, finish, slider

STREAMS = (("safe stream S", SAFE), ("adversarial stream A", ADVERSARIAL), ("contrast", CONTRAST))
DECIDED = {"both": INCOHERENT, "safe": SAFE, "contrast": CONTRAST}
SETS = {
    "harmful": (REFUSAL, "solid"), "harmful, in a story": (ADVERSARIAL, "longdash"), "borderline": (COMPLIANCE, "dash"),
    "everyday": (INK, "dot"),
}  # fmt: skip
FORMS: dict[str, Form] = {"ACD as printed": "acd", "guided": "guided"}
DOTS = ("circle", "diamond", "square")


def _three(stream_logits: Tensor, alpha: float, form: Form, plausibility: float) -> Tensor:
    """The probabilities under S, under A and under their contrast; (3, V)."""
    contrast = score(stream_logits[:, None], alpha, form, plausibility)[0]  # (V,)
    return torch.softmax(torch.stack([*stream_logits, contrast]), dim=-1)  # (3, V)


def next_token(
    stream_logits: Tensor, words: Mapping[int, str], alpha: float = 0.4, plausibility: float = 0.1, form: Form = "acd",
) -> go.Figure:  # fmt: skip
    """How probable the next token is under S, A and their contrast, for a few tokens.

    Args:
        stream_logits: (2, V), the safe stream first.
        words: the tokens to draw, from their id to their text, in their order.
        alpha, plausibility, form: as in `contrast.score`.

    Raises:
        ValueError: no token to draw, or as in `contrast.score`.
    """
    if not words:
        raise ValueError("There is no token to draw: give at least one id with its text.")
    ids = list(words)
    probabilities = _three(stream_logits, alpha, form, plausibility)  # (3, V)
    figure = go.Figure(_bars(probabilities[:, ids].tolist(), _names(stream_logits[0], words, plausibility)))
    figure.update_yaxes(range=[0, 1.02], title="probability", gridcolor=FAINT)
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": 1.12})
    alt = _told(probabilities, words, alpha)
    return finish(figure, alt, height=380, margin={"l": 60, "r": 20, "t": 40, "b": 60})


def _names(safe_logits: Tensor, words: Mapping[int, str], plausibility: float) -> list[str]:
    """The tokens' texts; those that the limit removes are in brackets. A number keeps two alike apart."""
    kept = plausible(safe_logits, plausibility)  # (V,)
    texts = [word if bool(kept[token]) else f"({word})" for token, word in words.items()]
    return [text + "\u200b" * texts[:place].count(text) for place, text in enumerate(texts)]


def _bars(rows: Sequence[Sequence[float]], names: Sequence[str]) -> list[go.Bar]:
    return [
        go.Bar(name=name, x=list(names), y=list(row), marker_color=colour, hovertemplate="%{x}: %{y:.3f}")
        for (name, colour), row in zip(STREAMS, rows, strict=True)
    ]  # fmt: skip


def _told(probabilities: Tensor, words: Mapping[int, str], alpha: float) -> str:
    firsts = probabilities.argmax(dim=-1).tolist()
    told = [
        f"{name} prefers “{words.get(token, 'another token')}” with {float(probabilities[row, token]):.2f}"
        for row, ((name, _), token) in enumerate(zip(STREAMS, firsts, strict=True))
    ]
    return f"At alpha {alpha:.2f}: {'; '.join(told)}."


def next_token_slider(steps: Sequence[Mapping[str, Any]]) -> go.Figure:
    """How a growing α shifts the next token; the slider works in the browser alone.

    Args:
        steps: of `contrast.candidates`, one for each α.

    Raises:
        ValueError: no step.
    """
    if not steps:
        raise ValueError("There is no α to show: expected at least one.")
    frames = {
        f"{step['alpha']:.2f}": _bars(
            [list(row.values()) for row in step["first"].values()], list(step["first"]["safe"])
        )
        for step in steps
    }
    figure = go.Figure(next(iter(frames.values())))
    figure.frames = [go.Frame(name=name, data=bars) for name, bars in frames.items()]
    most = max(value for bars in frames.values() for bar in bars for value in bar.y)
    figure.update_yaxes(range=[0, 1.05 * most], title="probability", gridcolor=FAINT)
    figure.update_xaxes(type="category")
    figure.update_layout(barmode="group", legend={"orientation": "h", "y": 1.12})
    figure.update_layout(sliders=[slider(list(frames), "strength of the contrast, alpha (α) = ")])
    turns = [steps[0], *(step for before, step in pairwise(steps) if step["chosen"] != before["chosen"])]
    told = "; ".join(f"from alpha {step['alpha']:.2f} the contrast chooses “{step['chosen']}”" for step in turns)
    return finish(figure, f"A slider over alpha: {told}.", height=480, margin={"l": 60, "r": 20, "t": 40, "b": 90})


def flips(stream_logits: Tensor, alphas: Sequence[float], plausibility: float = 0.1) -> go.Figure:
    """What α does to many next tokens at once: how many choices it turns, and how sure the distribution stays.

    Args:
        stream_logits: (2, N, V), N positions in answers.
        alphas: in [0, 1), in their order.
        plausibility: as in `contrast.score`.

    Raises:
        ValueError: no α, or as in `contrast.score`.
    """
    if not alphas:
        raise ValueError("There is no α to show: expected at least one.")
    chosen = stream_logits[0].argmax(dim=-1)  # (N,)
    turned = {
        name: [float((score(stream_logits, alpha, "acd", limit).argmax(-1) != chosen).float().mean()) for alpha in alphas]
        for name, limit in (("choices: no limit", 0.0), (f"choices: plausible tokens only ({plausibility:g})", plausibility))
    }  # fmt: skip
    entropies = {
        f"entropy: {name}": [_entropy(score(stream_logits, alpha, form, 0.0)) for alpha in alphas]
        for name, form in FORMS.items()
    }
    titles = ("share of tokens that S would not choose", "mean entropy of the next token (nats)")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    styles = (("solid", CONTRAST), ("dash", CONTRAST)), (("solid", INK), ("dash", INK))
    for column, lines in enumerate((turned, entropies), start=1):
        for (name, values), (dash, colour) in zip(lines.items(), styles[column - 1], strict=True):
            line = {"color": colour, "dash": dash, "width": 3}
            figure.add_trace(
                go.Scatter(x=list(alphas), y=values, name=name, line=line, mode="lines"), row=1, col=column
            )
    figure.update_xaxes(title="alpha (α)", gridcolor=FAINT)
    figure.update_yaxes(rangemode="tozero", gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.3})
    ends = [f"{name}: {values[0]:.2f} to {values[-1]:.2f}" for name, values in {**turned, **entropies}.items()]
    alt = f"From alpha {alphas[0]:.2f} to {alphas[-1]:.2f}. Choices turned and entropies, {'; '.join(ends)}."
    return finish(figure, alt, height=380, margin={"l": 50, "r": 20, "t": 40, "b": 90})


def _entropy(scores: Tensor) -> float:
    return float(torch.special.entr(torch.softmax(scores, dim=-1)).sum(dim=-1).mean())


def dictionary(alpha: float = 0.4) -> go.Figure:
    """One strength in four languages: α, the guidance scale g, the weight w, and the temperature hidden in ACD's sampling.

    Args:
        alpha: in [0, 1), the strength that is marked.

    Raises:
        ValueError: α outside [0, 1).
    """
    grid = [step / 100 for step in range(91)]
    names = (
        ("guidance scale g = 1/(1−α) = temperature hidden in sampling", guidance, SAFE, "solid"),
        ("weight w = α/(1−α) of (1+w)·l_S − w·l_A", weight, ADVERSARIAL, "dash"),
    )
    figure = go.Figure()
    for (name, function, colour, dash), side in zip(names, ("top left", "bottom right"), strict=True):
        line = {"color": colour, "width": 3, "dash": dash}
        figure.add_trace(go.Scatter(x=grid, y=[function(at) for at in grid], name=name, mode="lines", line=line))
        figure.add_trace(
            go.Scatter(x=[alpha], y=[function(alpha)], mode="markers+text", marker={"size": 12, "color": colour},
                       text=[f"{function(alpha):.2f}"], textposition=side, showlegend=False)
        )  # fmt: skip
    figure.update_xaxes(title="alpha (α)", range=[0, 1], gridcolor=FAINT)
    figure.update_yaxes(title="the strength, as g or w", range=[-1, 11], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.28})
    alt = (
        f"ACD at alpha {alpha:.2f} chooses what guidance chooses at scale {guidance(alpha):.2f}, which is a weight of "
        f"{weight(alpha):.2f}; sampled, it is at temperature {sampling_temperature(alpha):.2f}."
    )
    return finish(figure, alt, height=380, margin={"l": 60, "r": 20, "t": 20, "b": 90})


def inspector(steps: Sequence[Step]) -> go.Figure:
    """An answer from top to bottom: for each token its probability in either stream, and who decided.

    Args:
        steps: of `contrast.inspect`.

    Raises:
        ValueError: there is no token.
    """
    if not steps:
        raise ValueError("There is no token to look at: the answer is empty.")
    rows = list(range(len(steps)))
    figure = go.Figure()
    values = ([s.p_safe for s in steps], [s.p_adversarial for s in steps], [s.p_contrast for s in steps])
    told = [f"score {s.score:.2f}, {s.plausible} plausible tokens, entropy {s.entropy:.2f} nats" for s in steps]
    for (name, colour), row, symbol in zip(STREAMS, values, DOTS, strict=True):
        marker = {"color": colour, "size": 11, "symbol": symbol, "opacity": 0.85}
        figure.add_trace(
            go.Scatter(x=row, y=rows, name=name, mode="markers", marker=marker, customdata=told,
                       hovertemplate="%{x:.3f}, %{customdata}<extra>" + name + "</extra>")
        )  # fmt: skip
    for height, step in enumerate(steps):
        figure.add_annotation(
            x=1.04, y=height, xanchor="left", showarrow=False, text=_verdict(step), font={"size": 13, "color": INK}
        )
    words = [f"<span style='color:{DECIDED[step.decided]}'><b>{_visible(step.token)}</b></span>" for step in steps]
    figure.update_yaxes(tickvals=rows, ticktext=words, autorange="reversed", gridcolor=FAINT, automargin=True)
    figure.update_xaxes(
        range=[-0.02, 1.6],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        title="probability of the token that was chosen",
        gridcolor=FAINT,
    )
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})
    alt = " ".join(
        f"“{_visible(step.token)}”: S {step.p_safe:.2f}, A {step.p_adversarial:.2f}; {_verdict(step)}."
        for step in steps
    )
    return finish(figure, unescape(alt), height=130 + 26 * len(steps), margin={"l": 60, "r": 20, "t": 40, "b": 50})


def _verdict(step: Step) -> str:
    """Who decided, and what the limit removed, in a few words."""
    who = {"both": "both agree", "safe": "S decides", "contrast": f"S wanted “{_visible(step.wanted)}”"}[step.decided]
    return who + (f", “{_visible(step.rejected)}” is implausible" if step.rejected is not None else "")


def _visible(token: str) -> str:
    return token.strip().replace("<", "&lt;") or {"\n": "⏎"}.get(token[:1], "␣")


def trade_off(points: Mapping[str, Sequence[tuple[float, Rate]]], title: str) -> go.Figure:
    """How often requests of each kind are refused as α grows, with 95 % intervals: safety and its price in one picture.

    Args:
        points: kind of request ("harmful", "borderline", "everyday", or a name of your own) → (α, its refusal rate), in order.
        title: one line above the figure.

    Raises:
        ValueError: there is no point.
    """
    if not any(points.values()):
        raise ValueError("There is nothing to draw: expected at least one α with its rate.")
    figure = go.Figure()
    for name, row in points.items():
        colour, dash = SETS.get(name, (INCOHERENT, "dashdot"))
        rates = [rate for _, rate in row]
        line = {"color": colour, "dash": dash, "width": 3}
        figure.add_trace(
            go.Scatter(x=[alpha for alpha, _ in row], y=[rate.value for rate in rates], name=name, line=line,
                       error_y=error_bars(rates, colour), mode="lines+markers", customdata=[str(rate) for rate in rates],
                       hovertemplate="α = %{x}: %{customdata}<extra>" + name + "</extra>")
        )  # fmt: skip
    figure.update_xaxes(title="strength of the contrast, alpha (α)", gridcolor=FAINT)
    figure.update_yaxes(title="share of the answers", range=[0, 1.02], gridcolor=FAINT)
    figure.update_layout(legend={"orientation": "h", "y": -0.28})
    told = "; ".join(
        f"{name}: " + ", ".join(f"{rate} at {alpha:g}" for alpha, rate in row) for name, row in points.items()
    )
    return finish(figure, f"{title}, by alpha. {told}.", height=420, title=title)
