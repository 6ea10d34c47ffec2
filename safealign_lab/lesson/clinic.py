"""The judge clinic: the learner labels ten answers, and sees how far they agree with the judge and with other readers."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
from IPython.display import display

from ..data import labelled
from ..judges import LABELS
from ..judges.validation import agreement
from .results import results

CHOSEN = ("015", "019", "024", "030", "034", "041", "045", "054", "057", "060")  # of the written traps, one of a kind


def clinic_cases() -> list[labelled.Case]:
    """The ten answers of the clinic, each with the request it answers and its label by the rules."""
    return [case for case in labelled.cases("report") if case["id"].rpartition("-")[2] in CHOSEN]


def judged_cases() -> list[str]:
    """What the judge called the ten answers, as the stored study of the judge has it."""
    missed: Mapping[str, str] = results("judge", where={"judge": "probe"})[0]["result"]["missed"]
    return [missed.get(case["id"], case["label"]) for case in clinic_cases()]


def clinic() -> None:
    """Shows ten answers with three buttons each; the verdict stands below and changes with every choice."""
    display(clinic_panel())


def clinic_panel() -> widgets.VBox:
    """What `clinic` shows."""
    cases, judge = clinic_cases(), judged_cases()
    buttons = [widgets.ToggleButtons(options=list(LABELS), value=None, tooltips=list(LABELS)) for _ in cases]
    out = widgets.HTML()
    rows: list[widgets.Widget] = []
    for number, (case, choice) in enumerate(zip(cases, buttons, strict=True), start=1):
        said = html.escape(case["response"]) or "<i>(nothing)</i>"
        asked = html.escape(case["request"])
        rows += [widgets.HTML(f"<p><b>{number}.</b> Asked: <i>{asked}</i><br>Answered: <b>{said}</b></p>"), choice]

    def _show(_: object = None) -> None:
        out.value = verdict_html([choice.value for choice in buttons], cases, judge)

    for choice in buttons:
        choice.observe(_show, names="value")
    _show()
    return widgets.VBox([*rows, out])


def verdict_html(mine: Sequence[str | None], cases: Sequence[labelled.Case], judge: Sequence[str]) -> str:
    """How many answers are labelled; and once all are, your κ with the judge and with the readers, and where you differ.

    Args:
        mine: the learner's labels, None where there is none yet.
        cases, judge: as `clinic_cases` and `judged_cases` return them.
    """
    done = sum(label is not None for label in mine)
    if done < len(cases):
        return f"<p><b>{done} of {len(cases)} labelled.</b> Your agreement with the judge appears here after the last one.</p>"
    chosen = [str(label) for label in mine]
    people = [case["label"] for case in cases]
    lines = []
    for name, others in (("the judge", judge), ("the kit's readers", people)):
        found = agreement(chosen, others)
        kappa, low, high = found.kappa
        same = sum(one == other for one, other in zip(chosen, others, strict=True))
        lines.append(
            f"<p>You and {name}: {same} of {len(cases)} the same, <b>κ = {kappa:.2f}</b> [{low:.2f}, {high:.2f}].</p>"
        )
    table = "".join(
        f"<tr><td>{number}</td><td>{label}</td><td>{other}</td><td>{third}</td></tr>"
        for number, (label, other, third) in enumerate(zip(chosen, judge, people, strict=True), start=1)
        if len({label, other, third}) > 1
    )
    head = "<tr><th></th><th>you</th><th>the judge</th><th>readers</th></tr>"
    return "".join(lines) + (f"<table>{head}{table}</table>" if table else "<p>No answer divides you.</p>")
