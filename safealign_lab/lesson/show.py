"""How a lesson shows things: text, tables and figures, each figure with its words beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from IPython.display import HTML, Markdown, display


def show_text(markdown: str) -> None:
    """Shows a sentence or more, written in Markdown."""
    display(Markdown(markdown))


def table_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as HTML, one row a mapping, the columns those of the first row; every value is escaped."""
    if not rows:
        return "<p>(no rows)</p>"
    head = "".join(f"<th style='text-align:left'>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{html.escape(str(row[name]))}</td>" for name in rows[0])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def show_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Shows rows as a table."""
    display(HTML(table_html(rows)))


def show_figure(figure: go.Figure) -> None:
    """Shows a figure, and beside it what it says in words (its `layout.meta["alt"]`), for those who cannot see it.

    Raises:
        ValueError: the figure carries no words.
    """
    words = (figure.layout.meta or {}).get("alt")
    if not words:
        raise ValueError('This figure has no text alternative: give it one with `layout.meta = {"alt": "…"}`.')
    display(figure)
    display(HTML(f"<details><summary>This figure in words</summary><p>{html.escape(words)}</p></details>"))
