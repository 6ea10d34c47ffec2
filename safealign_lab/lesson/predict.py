"""What a learner expects before it is measured, and the measurement beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from IPython.core.getipython import get_ipython
from IPython.display import HTML, display

from .notes import Record, read, record
from .start import current

KIND = "predictions"


def predict(name: str, question: str, options: Sequence[str], answer: str | None = None) -> None:
    """Asks what the learner expects: with buttons in a live notebook, elsewhere with the argument `answer`.

    The prediction is kept with the learner's progress. It may be changed until `measured` has compared it.

    Args:
        name: of the question, once in a lesson, such as "q1".
        question: in plain words.
        options: at least two, all different.
        answer: one of the options, chosen by a plain call instead of a button.

    Raises:
        ValueError: the options are fewer than two, not all texts, or not all different, or the answer is none of them.
    """
    choices = _checked(options)
    if answer is not None and answer not in choices:
        raise ValueError(f"{answer!r} is no option of {name!r}: expected one of {', '.join(map(repr, choices))}.")
    if answer is None and not live():
        display(HTML(_asked(question, choices)))
        return
    known = _keep(name, question, choices, answer)
    if live():
        display(_buttons(name, question, choices, known))
    else:
        display(HTML(f"<p><b>{html.escape(question)}</b></p>{_state(known)}"))


def measured(name: str, option: str) -> None:
    """Shows a prediction beside what was measured, and keeps both; from then on the prediction stays as it is.

    Without a prediction nothing is fixed: one may still be made, and this be run again.

    Args:
        name: of the question, as it was asked.
        option: the one that the measurement speaks for.

    Raises:
        ValueError: the question was asked without this option.
    """
    asked = read().get(KIND, {}).get(_key(name), {})
    if asked and option not in asked.get("options", []):
        raise ValueError(
            f"{option!r} is no option of {name!r}: expected one of {', '.join(map(repr, asked['options']))}."
        )
    chosen = str(asked.get("answer", ""))
    shown = f"<b>Measured:</b> {html.escape(option)}"
    if not chosen:
        display(HTML(f"<p>{shown}. You made no prediction here: next time, guess before you look.</p>"))
        return
    right = chosen == option
    record(
        KIND,
        current().lesson,
        name,
        lambda old: old | {"measured": option, "outcome": "right" if right else "not right"},
    )
    words = (
        "✔ You saw that coming." if right else "✘ Not what you expected, and that is worth knowing: what explains it?"
    )
    display(HTML(f"<p><b>You predicted:</b> {html.escape(chosen)}. {shown}. {words}</p>"))


def live() -> bool:
    """Whether a notebook's kernel is there, which can show buttons."""
    return getattr(get_ipython(), "kernel", None) is not None


def _checked(options: Sequence[str]) -> list[str]:
    if isinstance(options, str) or not all(isinstance(option, str) and option.strip() for option in options):
        raise ValueError('The options of a prediction are a list of texts, such as ["it rises", "it falls"].')
    if len(options) < 2:
        raise ValueError(f"A prediction needs at least 2 options, not {len(options)}.")
    if len(set(options)) < len(options):
        raise ValueError("Two options of this prediction are the same: make all of them different.")
    return list(options)


def _key(name: str) -> str:
    return f"{current().lesson}/{name}"


def _keep(name: str, question: str, options: list[str], answer: str | None) -> Record:
    # what was asked in other words before, in a former version of the lesson, is asked anew
    def _change(old: Record) -> Record:
        asked = {"question": question, "options": options}
        same = old if asked.items() <= old.items() and old.get("answer") in (None, *options) else {}
        chosen = {} if answer is None or same.get("measured") else {"answer": answer, "outcome": "open"}
        return {"outcome": "no prediction"} | same | asked | chosen

    return record(KIND, current().lesson, name, _change)


def _buttons(name: str, question: str, options: list[str], known: Record) -> widgets.VBox:
    heading = widgets.HTML(f"<b>{html.escape(question)}</b>")
    buttons = widgets.ToggleButtons(
        options=options, value=known.get("answer"), tooltips=options, disabled=bool(known.get("measured")),
        style={"button_width": "auto"},
    )  # fmt: skip
    out = widgets.HTML(_state(known))

    def _chosen(change: dict[str, Any]) -> None:
        now = _keep(name, question, options, change["new"])
        out.value = _state(now)
        if now.get("measured"):
            buttons.disabled = True
            buttons.value = now["answer"]

    buttons.observe(_chosen, names="value")
    return widgets.VBox([heading, buttons, out])


def _state(known: Record) -> str:
    if not known.get("answer"):
        return "<p>Choose before you go on.</p>"
    chosen = f"Your prediction: <b>{html.escape(known['answer'])}</b>."
    if not known.get("measured"):
        return f"<p>{chosen} You may change it until it is measured.</p>"
    return f"<p>{chosen} Measured: <b>{html.escape(known['measured'])}</b>.</p>"


def _asked(question: str, options: list[str]) -> str:
    items = "".join(f"<li>{html.escape(option)}</li>" for option in options)
    return f"<p><b>{html.escape(question)}</b></p><ul>{items}</ul>"
