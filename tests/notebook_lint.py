"""What every notebook of the kit keeps to. `problems` names the place, the rule and the remedy, and changes nothing.

- valid: notebook format 4.5, every cell with an id of its own. stripped: no outputs, no execution counts.
- widgets: no `metadata.widgets`. paths: no path of one machine (`/home/…`, `C:\\…`, `~/…`, `file://…`), in code neither.
- links: a link to a file or a heading leads somewhere. parses: code is plain Python, so that tests can read it.
- hidden: nothing hides an error: bare or broad `except`, `suppress(Exception)`, `%%capture`, a cell that may raise,
  warnings ignored without saying which.
- folded: a cell whose code is folded is so in JupyterLab and in Colab, says in a title what it does, and holds nothing that the
  learner writes or answers.
- opening: title, Colab link to this very file, what to know first, three to five goals, planned minutes, times per tier.
- start: `lesson.start("<the file's name>")`, once.
- predictions: each has an id of its own, and no answer yet; a measurement follows its prediction, and of those asked
  one at least is measured.
- exercise: a line with minutes, difficulty and importance; a blank of the solution's name and arguments, with a docstring,
  that raises NotImplementedError; hint and solution offered in a later cell, in a sentence or as comments where nothing runs.
- ending: what this does not show, questions to think about, further reading with minutes.
- numbers: a result is never typed; `typed_numbers` says what counts as one.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import nbformat
from lint_page import CAPTURE, Cell, Page, first_text, page_of, part
from nbformat.validator import iter_validate
from typed_numbers import CODE, MATH, in_code, in_texts

from safealign_lab.lesson.exercise import exercises
from safealign_lab.lesson.start import TIERS

Found = Iterator[tuple[str, str]]  # where, and what is wrong there

LEARNERS = re.compile(r"NotImplementedError|lesson\.(?:check|predict|start|hint|solution)\(")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^ *\[(?!\^)[^]\n]+\]:\s*(\S+)|(?:src|href)=[\"']([^\"']+)", re.M)
MACHINE = re.compile(
    r"(?<![\w.~/:])/(?:home|Users|root|tmp|var|opt|usr|etc|mnt|media|content|srv|kaggle)\b"
    r"|(?<![A-Za-z])[A-Z]:(?:\\(?!n)|/(?!/))|(?<![\w~])~/|file://"
)
CHECKED = re.compile(r"^(\w+) = lesson\.check\(\1\)$", re.M)  # the form that the tests put solutions into
REMEDY = "say it with lesson.claim, let code fill it in, or, for a setting, name the setting right beside it"


def problems(notebook: nbformat.NotebookNode, path: Path) -> list[str]:
    """Every breach of a rule as "place, rule: what is wrong; what to do"; the path gives the name and what links lead to."""
    invalid = [f"{where}, valid: {said}" for where, said in _invalid(notebook)]
    if invalid:
        return invalid  # nothing else can be read with certainty
    page = page_of(notebook, path)
    return [f"{where}, {rule.__name__}: {said}" for rule in RULES for where, said in rule(page)]


def _invalid(notebook: nbformat.NotebookNode) -> Found:
    if (notebook.get("nbformat"), notebook.get("nbformat_minor", 0) >= 5) != (4, True):
        yield "notebook", "it is not of format 4.5, which gives every cell an id; save it again with nbformat.v4"
        return
    for error in iter_validate(notebook):
        place = [*error.relative_path, ""][:2]
        yield (
            f"cell {place[1]}" if place[0] == "cells" else "notebook",
            f"{error.message[:200]}; make the cells with nbformat.v4.new_markdown_cell and new_code_cell",
        )
    for number, cell in enumerate(notebook.cells):
        if "id" in cell and cell.id in [other.get("id") for other in notebook.cells[:number]]:
            yield f"cell {number} ({cell.id})", "an earlier cell has the same id; give it another"


def stripped(page: Page) -> Found:
    for cell in page.code:
        if (raw := page.notebook.cells[cell.number]).outputs or raw.execution_count is not None:
            yield cell.where, "it was stored with its output or its count; clear all outputs before storing"


def widgets(page: Page) -> Found:
    if "widgets" in page.notebook.metadata:
        yield "notebook", "metadata.widgets is there, and GitHub refuses such a file; delete it"


def paths(page: Page) -> Found:
    texts = [(cell, re.sub(MATH, "", cell.source, flags=re.S)) for cell in page.texts]
    for cell, text in texts + [(cell, cell.source) for cell in page.code]:
        for found in MACHINE.findall(text):
            yield cell.where, f"{found!r} begins a path of one machine; write it relative to the notebook"


def links(page: Page) -> Found:
    titles = re.findall(r"^#+ +(.+?) *$", page.text(), re.M)
    anchors = {re.sub(r"\s", "-", re.sub("[*`]", "", title)) for title in titles}  # as Jupyter names headings
    for cell in page.texts:
        for groups in LINK.findall(re.sub(CODE, "", cell.source, flags=re.S)):
            target = unquote("".join(groups))
            name, _, anchor = target.partition("#")
            there = not name.startswith("/") and (page.path.parent / name).exists() if name else anchor in anchors
            if not there and not re.match(r"[a-z][a-z+.-]+:", target):
                yield cell.where, f"the link to {target!r} leads nowhere; name a file from here, or a heading"


def parses(page: Page) -> Found:
    for cell in page.code:
        if cell.broken:
            yield cell.where, f"{cell.broken}; write plain Python, without lines of % or !"


def hidden(page: Page) -> Found:
    for cell in page.code:
        tags = {"raises-exception"}.intersection(page.notebook.cells[cell.number].metadata.get("tags", []))
        for said in (*filter(None, map(_hiding, ast.walk(cell.tree))), *CAPTURE.findall(cell.source), *tags):
            yield cell.where, f"{said} hides errors; let them be seen, or name the one that is expected"


def folded(page: Page) -> Found:
    for cell in page.code:
        said = page.notebook.cells[cell.number].metadata
        ways = said.get("jupyter", {}).get("source_hidden", False), said.get("cellView") == "form"
        if not any(ways):
            continue
        if not all(ways):
            yield (
                cell.where,
                "it is folded in one of JupyterLab and Colab; set jupyter.source_hidden and cellView 'form'",
            )
        if not re.match(r"# @title \w", cell.source):
            yield (
                cell.where,
                "its code is folded, and nobody sees what it does; begin it with '# @title' and a few words",
            )
        if found := LEARNERS.search(cell.source):
            yield cell.where, f"{found[0]!r} is the learner's to read, and is folded; leave this cell open"


def _hiding(node: ast.AST) -> str:
    if isinstance(node, ast.ExceptHandler):
        return "except:" if node.type is None else f"except {ast.unparse(node.type)}" if _broad(node.type) else ""
    if not isinstance(node, ast.Call):
        return ""
    name = ast.unparse(node.func).rpartition(".")[2]
    ignored = name in ("filterwarnings", "simplefilter") and first_text(node) == "ignore"
    which = len(node.args) > 1 or {"message", "category"} & {keyword.arg for keyword in node.keywords}
    broad = name == "suppress" and any(map(_broad, node.args))
    return ast.unparse(node) if broad or (ignored and not which) else ""


def _broad(kind: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id in ("Exception", "BaseException") for node in ast.walk(kind))


def opening(page: Page) -> Found:
    calls = [(cell.number, call) for cell in page.code for call in cell.calls("start")]
    text = page.text(before=calls[0][0] if calls else math.inf)
    goals = len(re.findall(r"^(?:[-*]|\d+\.) ", part(text, "you will be able to do"), re.M))
    colab = rf"colab\.research\.google\.com/github/\S+/notebooks/{re.escape(page.path.name)}[)\"]"
    told = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^.*(?:second|minute|hour).*$", text, re.M))))
    told |= {node.value for _, call in calls for node in ast.walk(call) if isinstance(node, ast.Constant)}
    wanted = {
        "a title after '# ' at the very top": page.notebook.cells[:1]
        and page.notebook.cells[0].source.startswith("# "),
        f"a link to Colab that ends in notebooks/{page.path.name}": re.search(colab, text),
        "'What you need to know first' and what that is": part(text, "you need to know first").strip(" :.*"),
        f"'What you will be able to do' and a list of three to five goals, not {goals}": 3 <= goals <= 5,
        "'Planned time' with its minutes": re.search(r"planned\b[^\n]*?\d+[^\n]*\bminutes", text, re.I),
        "a time for each tier, in the text or in lesson.start(…, minutes={…})": told.issuperset(TIERS),
    }
    yield from _missing("before lesson.start", wanted)


def _missing(where: str, wanted: dict[str, object]) -> Found:
    return (("notebook", f"{where} it lacks {what}; add it") for what, there in wanted.items() if not there)


def start(page: Page) -> Found:
    calls = [(cell, call) for cell in page.code for call in cell.calls("start")]
    if not calls:
        yield "notebook", f'nothing opens the lesson; call lesson.start("{page.path.stem}") in the first code cell'
    for number, (cell, call) in enumerate(calls):
        if number:
            yield cell.where, "the lesson is started again; call lesson.start once"
        elif first_text(call) != page.path.stem:
            yield cell.where, f'it starts another lesson; write lesson.start("{page.path.stem}")'


def predictions(page: Page) -> Found:
    asked, measured = set(), set()
    for cell in page.code:
        for call in cell.calls("predict", "measured"):
            name, predicts = first_text(call), ast.unparse(call.func).endswith("predict")
            if name is None:
                yield cell.where, 'its id cannot be read; write it first and as a text: "q1"'
            elif predicts and name in asked:
                yield cell.where, f"{name!r} was asked before; give each prediction an id of its own"
            elif not predicts and name not in asked:
                yield cell.where, f"{name!r} is measured and never asked before; add lesson.predict or mend the id"
            elif predicts and "answer" in {keyword.arg for keyword in call.keywords}:
                yield cell.where, f"{name!r} is answered for the learner; leave out answer="
            (asked if predicts else measured).add(name)
    if asked and not asked & measured:
        yield "notebook", "no prediction is compared with anything; call lesson.measured with the id of one"


def exercise(page: Page) -> Found:
    last, checked = -1, set()
    for cell in page.code:
        for call in cell.calls("hint", "solution"):
            yield cell.where, f"it runs {ast.unparse(call)}; make it a comment, since it is shown on demand only"
        names = CHECKED.findall(cell.source)
        if len(cell.calls("check")) != len(names) or len(names) > 1:
            yield (
                cell.where,
                "the tests find no such check to solve; write `name = lesson.check(name)`, on a line of its own, once in a cell",
            )
        elif names:
            texts = page.text(last, cell.number)
            for said in (*_announced(names[0], texts), *_blank(names[0], cell, page), *_offered(names[0], cell, page)):
                yield cell.where, said
            last = cell.number
        checked.update(names)
    for name in sorted({name for name, found in exercises().items() if found.lesson == page.path.stem} - checked):
        yield (
            "notebook",
            f"{name!r} belongs to this lesson and no cell checks it; add it, or mend the exercise's lesson",
        )


def _announced(name: str, texts: str) -> Iterator[str]:
    form = r"^(?=.*?(\d+)(?:\s*[–-]\s*(\d+))? min)(?=.*difficulty \d)(?=.*importance \d).*$"
    line = re.search(form, texts, re.I | re.M)
    if line is None:
        yield f"no line before {name!r} announces it; write 'Exercise · 5 minutes · difficulty 1 of 5 · importance 5 of 5'"
    elif name in exercises() and not int(line[1]) <= exercises()[name].minutes <= int(line[2] or line[1]):
        yield f"the line before {name!r} plans {line[1]} minutes, the kit {exercises()[name].minutes}; write the same"


def _blank(name: str, cell: Cell, page: Page) -> Iterator[str]:
    stub = next((node for node in cell.tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    known = exercises().get(name)
    if known is None:
        yield f"the kit has no exercise {name!r}; add it to lesson/exercises/ or mend the name"
    elif known.lesson not in ("", page.path.stem):
        yield f"the exercise {name!r} belongs to {known.lesson}, where its progress would be shown; mend one of the two"
    if stub is None:
        yield f"no function {name!r} stands in the cell that checks it; write `def {name}(…)` there"
        return
    if not ast.get_docstring(stub):
        yield f"the blank {name!r} has no docstring; say what it takes and returns, with shapes"
    if not any(isinstance(line, ast.Raise) and "NotImplementedError" in ast.unparse(line) for line in stub.body):
        yield f"the blank {name!r} does not raise NotImplementedError; without it, it is taken for an attempt"
    if known is not None:
        wanted = inspect.signature(known.solution).parameters
        given = [arg.arg for arg in (*stub.args.posonlyargs, *stub.args.args, *stub.args.kwonlyargs)]
        if [key for key, value in wanted.items() if value.default is value.empty or key in given] != given:
            yield f"the blank {name!r} takes ({', '.join(given)}), the solution ({', '.join(wanted)}); write the same"


def _offered(name: str, cell: Cell, page: Page) -> Iterator[str]:
    later = [other for other in page.texts + page.code if other.number > cell.number]
    quiet = "\n".join(other.source for other in later if not other.tree.body and not other.broken)
    for call in ("hint", "solution"):
        if not re.search(rf"lesson\.{call}\(\s*[\"']{name}[\"']", quiet):
            yield f'no later cell offers lesson.{call}("{name}"); name it in a text, or as a comment where nothing runs'


def ending(page: Page) -> Found:
    limits, questions, reading = (
        part(page.text(), title)
        for title in ("this does not show", "think about it|reflect", "read further|further reading")
    )
    wanted = {
        "'What this does not show' and what that is": limits.strip(" :.*\n"),
        "'Think about it' with questions": "?" in questions,
        "'Read further' with minutes for each work": len(re.findall(r"\d+\s+minutes", reading))
        >= max(1, reading.count("](http")),
    }
    yield from _missing("after the work", wanted)


def numbers(page: Page) -> Found:
    typed = [*zip(page.texts, in_texts(cell.source for cell in page.texts), strict=True)]
    for cell, found in typed + [(cell, in_code(cell.tree)) for cell in page.code]:
        if found:
            yield cell.where, f"{', '.join(found)} in a text reads as a result; {REMEDY}"


RULES = (
    stripped, widgets, paths, links, parses, hidden, folded, opening, start, predictions, exercise, ending, numbers,
)  # fmt: skip
