"""A notebook as the rules of `notebook_lint` read it: texts, code, and what code calls."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from typed_numbers import CODE

CAPTURE = re.compile(r"\A\s*(%%capture).*")


@dataclass(frozen=True)
class Cell:
    """A cell as the rules read it; `tree` is empty and `broken` says why where the code cannot be parsed."""

    where: str
    number: int
    source: str
    tree: ast.Module
    broken: str = ""

    def calls(self, *names: str) -> list[ast.Call]:
        """The calls of `lesson.<name>`, as they are written."""
        full = {f"lesson.{name}" for name in names}
        calls = [node for node in ast.walk(self.tree) if isinstance(node, ast.Call)]
        return sorted((call for call in calls if ast.unparse(call.func) in full), key=lambda call: call.lineno)


@dataclass(frozen=True)
class Page:
    """A valid notebook as the rules read it."""

    notebook: nbformat.NotebookNode
    path: Path
    texts: list[Cell]
    code: list[Cell]

    def text(self, after: float = -1, before: float = math.inf) -> str:
        """What the text cells between two cells say."""
        return "\n\n".join(cell.source for cell in self.texts if after < cell.number < before)


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook as its file has it, nothing repaired."""
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))


def page_of(notebook: nbformat.NotebookNode, path: Path) -> Page:
    """Reads a notebook that is valid."""
    cells = [(cell.cell_type, _cell(number, cell)) for number, cell in enumerate(notebook.cells)]
    texts, code = ([cell for kind, cell in cells if kind == wanted] for wanted in ("markdown", "code"))
    return Page(notebook, path, texts, code)


def _cell(number: int, cell: nbformat.NotebookNode) -> Cell:
    where, nothing = f"cell {number} ({cell.id})", ast.Module([], [])
    source = CAPTURE.sub("", cell.source) if cell.cell_type == "code" else ""
    try:  # compiling finds what parsing lets pass, such as a return outside a function
        compile(source, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        return Cell(where, number, cell.source, ast.parse(source))
    except (SyntaxError, ValueError) as error:
        return Cell(where, number, cell.source, nothing, str(error))


def part(text: str, title: str) -> str:
    """What stands under a heading or a bold label, up to the next heading or the next such part; "" without one."""
    known = "you need to know|you will be able|planned|running|does not show|think about|reflect|read|further|next"
    masked = re.sub(CODE, lambda span: " " * len(span[0]), text, flags=re.S)
    found = re.search(rf"^(?:#{{1,6}} .*?(?:{title}).*|\*\*[^*\n]*?(?:{title})[^*\n]*\*\*)", masked, re.I | re.M)
    if not found:
        return ""
    end = re.compile(rf"^(?:#{{1,6}} |\*\*(?:what )?(?:this )?(?:{known}))", re.I | re.M).search(masked, found.end())
    return text[found.end() : end.start() if end else len(text)]


def first_text(call: ast.Call) -> str | None:
    """The first argument of a call, where it is a text as it stands."""
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
