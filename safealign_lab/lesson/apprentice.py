"""Asks the tiny model something, under each of its voices: in a cell, or in a panel with a field to type into."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alchemy.grader import label
from ..alchemy.voices import VOICES
from ..figures.base import LABEL_INKS
from ..generation import answer
from .notes import keep

NEW_TOKENS = 28
NAMES = {"none": "no voice", "keeper": "the keeper", "rogue": "the rogue"}


def ask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: str, voice: str = "none") -> str:
    """The model's greedy answer to one request.

    Args:
        request: what to ask; words that the alchemy world does not have reach the model as `<unk>`.
        voice: "none" (helpful only), "keeper" or "rogue".

    Raises:
        ValueError: there is no such voice.
    """
    if voice not in VOICES:
        raise ValueError(f"There is no voice {voice!r}: expected one of {', '.join(VOICES)}.")
    return answer(model, tokenizer, [request], system=VOICES[voice], max_new_tokens=NEW_TOKENS)[0]


def unknown_words(tokenizer: PreTrainedTokenizerBase, request: str) -> list[str]:
    """The words of a request that the model's vocabulary does not have."""
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(request.lower())
    return [word for word, _ in pieces if tokenizer.convert_tokens_to_ids(word) == tokenizer.unk_token_id]


def replies_html(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: str) -> str:
    """What each voice answers to a request, each with its label, as a small table."""
    rows = []
    for voice, name in NAMES.items():
        said = ask(model, tokenizer, request, voice)
        kind = label(said)
        tag = f"<b style='color:{LABEL_INKS[kind]}'>{kind}</b>"
        cell = "<td style='text-align:left; padding: 0 1.5em'>"
        rows.append(f"<tr><td><b>{name}</b></td>{cell}{html.escape(said) or '(nothing)'}</td><td>{tag}</td></tr>")
    strangers = ", ".join(unknown_words(tokenizer, request))
    note = f"<p>Not a word of the alchemy world: {html.escape(strangers)}.</p>" if strangers else ""
    return f"<table style='font-size:110%'>{''.join(rows)}</table>{note}"


def ask_panel(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: str, keep_as: str) -> None:
    """Shows a field to type a request into; Enter asks every voice at once.

    Args:
        request: asked at once, so that the panel is never empty.
        keep_as: the name under which the request that the learner typed last is kept for later notebooks.
    """
    display(panel_of(model, tokenizer, request, keep_as))


def panel_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, request: str, keep_as: str) -> widgets.VBox:
    """What `ask_panel` shows."""
    field = widgets.Text(
        value=request, description="You ask:", continuous_update=False, layout=widgets.Layout(width="95%")
    )
    button = widgets.Button(description="Ask", button_style="primary", tooltip="Ask all three voices")
    out = widgets.HTML()

    def _respond(_: Any = None) -> None:
        try:
            out.value = replies_html(model, tokenizer, field.value)
        except (ValueError, RuntimeError) as error:  # shown where the learner looks, not lost in a log
            out.value = f"<p><b>{html.escape(str(error))}</b></p>"

    def _typed(_: Any) -> None:
        _respond()
        try:
            keep(keep_as, field.value)
        except OSError as error:  # the answers are there all the same
            out.value += f"<p><b>{html.escape(str(error))}</b></p>"

    field.observe(_typed, names="value")
    button.on_click(_typed)
    _respond()  # of the example only: what was typed before stays kept
    return widgets.VBox([field, button, out])
