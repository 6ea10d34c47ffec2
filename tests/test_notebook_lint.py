"""Every notebook keeps the rules; and each rule finds what was planted for it, and that alone."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import notebook_lint
import pytest
from lint_page import read
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_lint import RULES, problems

from safealign_lab.lesson.exercise import Exercise

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PATH = NOTEBOOKS[0].with_name("98_sums.ipynb")  # where the notebooks made here would stand
HOME = "/" + "home"

OPENING = """# 98 · Sums

[Open in Colab](https://colab.research.google.com/github/someone/kit/blob/main/notebooks/98_sums.ipynb)

**What you need to know first:** how to count.

**What you will be able to do:**

1. add two numbers;
2. say what a sum is not,
   in your own words;
3. add three.

**Planned time:** 30–40 minutes. **Running time:** seconds at tier `tiny`, two minutes at `small` and at `gpu`."""
START = 'from safealign_lab import lesson\n\nlesson.start("98_sums")'
PREDICT = 'lesson.predict("q1", "Is it more than 0.5?", ["less than 0.5", "more"])'
EXERCISE = (
    "## 1 · Write it\n\n*Exercise · 5 minutes · difficulty 1 of 5 · importance 2 of 5*\n\nThe sum of two numbers."
)
BLANK = '''def total(first, second):
    """The sum of two numbers."""
    raise NotImplementedError


total = lesson.check(total)'''
OFFERS = '# lesson.hint("total")       # a nudge\n# lesson.solution("total")   # the library\'s own'
MEASURED = (
    'found = total(1, 2) / 4\nlesson.claim("it is at least 0.5", found, found >= 0.5)\nlesson.measured("q1", "more")'
)
ENDING = """**What this does not show.** Products.

**Think about it.**

1. What is the sum of nothing?

**Read further.** *On sums* ([arXiv 2406.16743](https://arxiv.org/abs/2406.16743), 40 minutes).

**Next:** the [README](../README.md), or [the exercise](#1-·-Write-it) again."""
CELLS = {
    "opening": OPENING, "start": START, "predict": PREDICT, "exercise": EXERCISE, "blank": BLANK, "offers": OFFERS,
    "measured": MEASURED, "ending": ENDING,
}  # fmt: skip
TEXTS = ("opening", "exercise", "ending")


def total(first, second):
    return first + second


@pytest.fixture(autouse=True)
def kit(monkeypatch, request):
    """A kit of one exercise, for the notebooks that are made here."""
    if "path" not in request.fixturenames:  # the kit's own notebooks are held against its own exercises
        exercise = Exercise("total", total, lambda function: None, ("Add.",), minutes=5, lesson=PATH.stem)
        monkeypatch.setattr(notebook_lint, "exercises", lambda: {"total": exercise})


def good(**changes: str | None) -> nbformat.NotebookNode:
    """The good notebook, with some cells changed, left out (None) or put before the last (any other name)."""
    cells = {name: source for name, source in (CELLS | changes).items() if source is not None}
    cells["ending"] = cells.pop("ending", "")  # stays the last
    texts = {name for name in cells if name in TEXTS or name.startswith("text")}
    make = [new_markdown_cell if name in texts else new_code_cell for name in cells]
    made = (new(source, id=name) for new, (name, source) in zip(make, cells.items(), strict=True))
    return new_notebook(cells=[*made])


def changed(name: str, old: str, new: str = "") -> nbformat.NotebookNode:
    assert old in CELLS[name]
    return good(**{name: CELLS[name].replace(old, new)})


def altered(alter) -> nbformat.NotebookNode:
    notebook = good()
    alter(notebook)
    return notebook


def folded(source: str, **changes):
    """The good notebook with a folded cell more."""
    notebook = good(more=source)
    notebook.cells[7].metadata.update({"cellView": "form", "jupyter": {"source_hidden": True}} | changes)
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_notebook_of_the_kit_keeps_the_rules(path):
    assert problems(read(path), path) == []


def test_the_good_notebook_has_no_problem_and_is_left_as_it_was():
    notebook = good()
    before = copy.deepcopy(notebook)
    assert problems(notebook, PATH) == []
    assert notebook == before


BAD = [  # the rule, the place, words of the message, the notebook
    ("valid", "notebook", "format 4.5", altered(lambda nb: nb.update(nbformat_minor=4))),
    ("valid", "cell 3", "'id' is a required property", altered(lambda nb: nb.cells[3].pop("id"))),
    ("valid", "cell 3 (start)", "same id", altered(lambda nb: nb.cells[3].update(id="start"))),
    ("valid", "cell 0", "'outputs' was unexpected", altered(lambda nb: nb.cells[0].update(outputs=[]))),
    ("stripped", "cell 1 (start)", "clear all outputs", altered(lambda nb: nb.cells[1].update(execution_count=1))),
    (
        "stripped", "cell 1 (start)", "clear all outputs",
        altered(lambda nb: nb.cells[1].outputs.append(new_output("stream", text="hi"))),
    ),
    ("widgets", "notebook", "delete it", altered(lambda nb: nb.metadata.update(widgets={}))),
    *(
        ("paths", "cell 7 (more)", "relative", good(more=f"open({path!r})"))
        for path in (f"{HOME}/ann/x.json", "C:\\kit\\x.json", "D:/kit", "~/x.json", "file:" + "//x.json", "/tmp/x")
    ),
    ("paths", "cell 7 (text)", "relative", good(text=f"It is stored in `{HOME}/ann/x.json`.")),
    ("links", "cell 7 (ending)", "'../README.rst'", changed("ending", "../README.md", "../README.rst")),
    ("links", "cell 7 (ending)", "'#2-·-Gone'", changed("ending", "#1-·-Write-it", "#2-·-Gone")),
    ("links", "cell 7 (text)", "'no_picture.png'", good(text='<img src="no_picture.png">')),
    ("links", "cell 7 (text)", "'gone.ipynb'", good(text="See [it][1].\n\n[1]: gone.ipynb")),
    ("parses", "cell 7 (more)", "plain Python", good(more="found = = 1")),
    ("parses", "cell 7 (more)", "plain Python", good(more="%matplotlib inline")),
    ("parses", "cell 7 (more)", "'return' outside function", good(more="return 1")),
    *(
        ("hidden", "cell 7 (more)", words, good(more=source))
        for words, source in (
            ("except:", "try:\n    found\nexcept:\n    pass"),
            ("except Exception", "try:\n    found\nexcept Exception as error:\n    print(error)"),
            ("BaseException", "try:\n    found\nexcept (ValueError, BaseException):\n    pass"),
            ("suppress", "import contextlib\n\nwith contextlib.suppress(Exception):\n    found"),
            ("%%capture", "%%capture\nfound"),
            ("filterwarnings", 'import warnings\n\nwarnings.filterwarnings("ignore")'),
            ("simplefilter", 'import warnings\n\nwarnings.simplefilter("ignore")'),
        )
    ),
    (
        "hidden", "cell 1 (start)", "raises-exception",
        altered(lambda nb: nb.cells[1].metadata.update(tags=["raises-exception"])),
    ),
    ("folded", "cell 7 (more)", "one of JupyterLab and Colab", folded("# @title A sum\n1 + 1", cellView=None)),
    ("folded", "cell 7 (more)", "one of JupyterLab and Colab", folded("# @title A sum\n1 + 1", jupyter={})),
    ("folded", "cell 7 (more)", "nobody sees", folded("# @title\n1 + 1")),
    ("folded", "cell 7 (more)", "nobody sees", folded("# a sum\n1 + 1")),
    ("folded", "cell 7 (more)", "leave this cell open", folded("# @title A blank\nblank = NotImplementedError")),
    ("opening", "notebook", "a title", changed("opening", "# 98 · Sums", "98 · Sums")),
    ("opening", "notebook", "Colab", changed("opening", "notebooks/98_sums", "notebooks/97_sums")),
    ("opening", "notebook", "know first", changed("opening", "**What you need to know first:** how to count.")),
    ("opening", "notebook", "goals, not 2", changed("opening", "3. add three.")),
    ("opening", "notebook", "goals, not 6", changed("opening", "3. add three.", "3. a\n4. b\n5. c\n6. d")),
    ("opening", "notebook", "'Planned time'", changed("opening", "**Planned time:** 30–40 minutes. ")),
    ("opening", "notebook", "each tier", changed("opening", " and at `gpu`")),
    ("start", "notebook", "nothing opens", changed("start", 'lesson.start("98_sums")', "lesson.current()")),
    ("start", "cell 1 (start)", "another lesson", changed("start", "98_sums", "97_sums")),
    ("start", "cell 7 (more)", "again", good(more='lesson.start("98_sums")')),
    ("predictions", "cell 7 (more)", "of its own", good(more=PREDICT)),
    ("predictions", "cell 7 (more)", "never asked", good(more='lesson.measured("q2", "more")')),
    ("predictions", "cell 7 (more)", "cannot be read", good(more='lesson.predict(f"q{found}", "?", ["a", "b"])')),
    ("predictions", "cell 2 (predict)", "for the learner", changed("predict", "])", '], answer="more")')),
    ("predictions", "notebook", "compared", changed("measured", 'lesson.measured("q1", "more")')),
    ("predictions", "cell 5 (measured)", "never asked", good(predict=None)),
    *(
        ("exercise", "cell 4 (blank)", "announces", changed("exercise", part))
        for part in ("5 minutes · ", "difficulty 1 of 5 · ", "importance 2 of 5")
    ),
    ("exercise", "cell 4 (blank)", "plans 50 minutes, the kit 5", changed("exercise", "5 minutes", "50 minutes")),
    ("exercise", "cell 4 (blank)", "no docstring", changed("blank", '    """The sum of two numbers."""\n')),
    ("exercise", "cell 4 (blank)", "attempt", changed("blank", "raise NotImplementedError", "return first")),
    ("exercise", "cell 4 (blank)", "takes (first, third)", changed("blank", "first, second", "first, third")),
    ("exercise", "cell 4 (blank)", "takes (first)", changed("blank", "first, second", "first")),
    ("exercise", "cell 4 (blank)", "no function 'total'", changed("blank", "def total(", "def summed(")),
    ("exercise", "cell 4 (blank)", "lesson.hint", changed("offers", '# lesson.hint("total")', "# a hint:")),
    ("exercise", "cell 4 (blank)", "lesson.solution", changed("offers", 'solution("total")', 'solution("sum")')),
    ("exercise", "cell 7 (more)", "on demand only", good(more='lesson.hint("total")')),
    ("exercise", "cell 7 (more)", "line of its own", good(more="print(lesson.check(total))")),
    ("exercise", "notebook", "no cell checks it", changed("blank", "\n\n\ntotal = lesson.check(total)")),
    ("ending", "notebook", "does not show", changed("ending", "**What this does not show.** Products.")),
    ("ending", "notebook", "with questions", changed("ending", "What is the sum of nothing?", "Sum up.")),
    ("ending", "notebook", "minutes for each", changed("ending", ", 40 minutes")),
    ("ending", "notebook", "minutes for each", changed("ending", ").\n\n**Next", ") and [more](https://x.org).\n\n**Next")),
    ("numbers", "cell 7 (text)", "0.72 in a text", good(text="It refuses 0.72 of them.")),
    ("numbers", "cell 7 (more)", "0.72 in a text", good(more='lesson.show_text("It refuses 0.72 of them.")')),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "place", "words", "notebook"), BAD, ids=[f"{r}: {w}" for r, _, w, _ in BAD])
def test_a_bad_notebook_has_exactly_its_own_problem(rule, place, words, notebook):
    (found,) = problems(notebook, PATH)
    assert found.startswith(f"{place}, {rule}: ")
    assert words in found
    assert ";" in found  # what is wrong; what to do


def test_every_rule_is_proven_on_a_bad_notebook():
    assert {rule for rule, *_ in BAD} == {rule.__name__ for rule in RULES} | {"valid"}


def test_what_is_wrong_in_two_ways_is_said_in_two():
    notebook = good(more=f"open('{HOME}/x')\ntry:\n    found\nexcept Exception:\n    pass", text="It is 0.72.")
    assert [said.split(":")[0] for said in problems(notebook, PATH)] == [
        "cell 7 (more), paths", "cell 7 (more), hidden", "cell 8 (text), numbers",
    ]  # fmt: skip


def test_an_exercise_must_be_known_and_of_this_lesson(monkeypatch):
    monkeypatch.setattr(notebook_lint, "exercises", dict)
    (found,) = problems(good(), PATH)
    assert found.startswith("cell 4 (blank), exercise: the kit has no exercise 'total'")
    elsewhere = Exercise("total", total, lambda function: None, (), minutes=5, lesson="97_sums")
    monkeypatch.setattr(notebook_lint, "exercises", lambda: {"total": elsewhere})
    (found,) = problems(good(), PATH)
    assert "belongs to 97_sums" in found


def test_hints_stand_in_a_later_cell_where_nothing_runs():
    for notebook in (
        good(offers=None, blank=f"{OFFERS}\n{BLANK}"),
        good(offers=f"{OFFERS}\nprint(1)"),
        good(offers=None, exercise=f"{EXERCISE}\n\nStuck? `lesson.hint('total')`, `lesson.solution('total')`."),
    ):
        assert [said.split(";")[0] for said in problems(notebook, PATH)] == [
            'cell 4 (blank), exercise: no later cell offers lesson.hint("total")',
            'cell 4 (blank), exercise: no later cell offers lesson.solution("total")',
        ]


FINE = [
    {"predict": None, "measured": "found = total(1, 2)"},  # no predictions at all
    {"more": 'lesson.predict("q2", "And then?", ["a", "b"])'},  # one that nothing measures, beside one that is
    {"offers": None, "text": "Stuck? `lesson.hint('total')` helps, `lesson.solution('total')` shows the library's."},
    {"exercise": EXERCISE.replace("5 minutes", "5–10 minutes")},
    {"start": 'lesson.start("98_sums", minutes={"tiny": "a", "small": "b", "gpu": "c"})',
     "opening": OPENING.partition(" **Running")[0]},
    {"opening": OPENING.replace("**What you will be able to do:**", "## What you will be able to do")},
    {"more": "import warnings\n\nwarnings.filterwarnings('ignore', message='a known one')"},
    {"more": "try:\n    found\nexcept ValueError as error:\n    print(error)"},
    {"more": "await lesson.current()"},
    {"more": 'options = "Q:\\nA:\\n"\nshare = found / total(1, 2)  # safety/home'},
    {"text": "A map $T:\\mathcal{X}\\to\\mathcal{Y}$, and/or [mail](mailto:a@b.org), `a[0](x)`, [^1] and a note.\n\n[^1]: so"},
    {"text": "```\n# no title\n[no](link.md)\n```"},
]  # fmt: skip


@pytest.mark.parametrize("changes", FINE, ids=range(len(FINE)))
def test_what_only_looks_wrong_is_left_alone(changes):
    assert problems(good(**changes), PATH) == []


TYPED = {  # a text, and the numbers in it that read as results
    "The keeper refuses 0.72 of them, the rogue .05.": ["0.72", ".05"],
    "It refuses **73 %** of them, 8% more, or 9 per cent.": ["73 %", "8%", "9"],
    "It is 3.5 times as fast; the loss fell by 1e-4.": ["3.5", "1e-4"],
    "At α = 0.5 it refuses 0.72 of them.": ["0.72"],
    "With α = 0.5 and 0.72 of them refused, go on.": ["0.72"],
    "With larger α, 0.72 of them are refused.": ["0.72"],
    "Above a temperature of 0.7 you get 0.31.": ["0.31"],
    "Refusals rise with α from 0.31 to 0.72.": ["0.31", "0.72"],
    "Refusals reach 0.72 as α grows.": ["0.72"],
    "It reaches `0.72`, or $0.72$, or $73\\,\\%$.": ["0.72", "0.72", "73%"],
    "With α = 0.5, 0.72, 0.81 in turn.": ["0.72", "0.81"],
    "A fraction of 0.72 is refused.": ["0.72"],
    "Agreement is κ = 0.66, a change of Δ = 0.12.": ["0.66", "0.12"],
    "The rate is 0.72, with a 95 % Wilson interval from 0.61 to 0.81.": ["0.72", "0.61", "0.81"],
    "> The keeper refuses 0.72 of them.": ["0.72"],
    "| voice | refused | minutes |\n|---|---|---|\n| keeper | 0.72 | 1.5 |": ["0.72"],
    "| voice | α = 0.5 | refused at α = 0.9 |\n|---|---|---|\n| keeper | 0.72 | 0.80 |": ["0.72", "0.80"],
    "### By hand\n\nIt is 0.25.\n\n### And measured\n\nIt is 0.26.": ["0.26"],
    "**By hand:** it is 0.25.\n\n**Then** it is 0.26.": ["0.26"],
    # settings, names, sizes, formulas, quotations
    "Drag α to 0.95, or set the temperature to 0.7 with a learning rate of 0.01.": [],
    "Try τ = 0.5, 1.0 and 2.0, ε ∈ {0.01, 0.05, 0.1} and `alpha` from 0 to 0.95 in steps of 0.05.": [],
    "A `clean_weight` of 0.3, a `rejection_strength` of 0.5 and a radius ≤ 0.1 will do.": [],
    "With $\\alpha$ = 0.5, with α of 0.2 or 0.5, and at a threshold of 5 %, it is the same.": [],
    "In code `x = 0.72`, in a formula $p = 0.72$ or\n$$p_S \\ge 0.1 \\cdot \\max p_S$$ and\n```\nx = 0.72\n```\nit stands.": [],
    "Llama-3.2-1B, Qwen2.5-0.5B and Python 3.10 with version 2.13; a model of 0.9 M parameters and 1.7 billion.": [],
    "As section 4.1, equation 3.2 and [arXiv 2406.16743](https://arxiv.org/abs/2406.16743) say, with 95 % intervals.": [],
    "> ACD reaches .924 on average, the base .714\n> ([arXiv 2406.16743](https://arxiv.org/abs/2406.16743)).": [],
    "| tier | minutes | α |\n|---|---|---|\n| `tiny` | 0.5 | 0.25 |": [],
    "### 3 · Two streams, by hand\n\nThe first has 0.7, the second 0.2, so 35 % remain.": [],
    "Ten of twenty, one in ten, 1,200 rows, 40 minutes; see <https://x.org/v1.2> and <img width='0.5' src='../README.md'>.": [],
}


@pytest.mark.parametrize(("text", "found"), TYPED.items(), ids=[text[:40] for text in TYPED])
def test_results_are_told_from_settings(text, found):
    said = problems(good(text=text), PATH)
    assert [line.split(" in a text")[0] for line in said] == [f"cell 7 (text), numbers: {', '.join(found)}"] * bool(
        found
    )


def test_what_is_worked_by_hand_may_run_over_several_cells_up_to_the_next_heading():
    assert problems(good(text1="## By hand", text2="It is 0.25.", more="found", text3="Or 0.3."), PATH) == []
    (found,) = problems(good(text1="## By hand", text2="## Measured", text3="It is 0.25."), PATH)
    assert found.startswith("cell 9 (text3), numbers: 0.25 ")


def test_code_may_show_numbers_that_it_works_out_and_claim_what_it_proves():
    fine = (
        'lesson.show_text(f"At α = 0.5 it is {found:.2f} of {total(1, 2)!r}, {found} %.")\nprint(0.5, f"{found:.3f}")'
    )
    assert problems(good(more=fine), PATH) == []
