"""How a lesson shows things: text, tables and figures, each figure with its words beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from IPython.display import HTML, Markdown, display

# plotly draws its sliders without the keyboard in mind: the figure takes the focus, and an arrow key presses the rail one
# step further. The figure may be drawn after this runs, so it is looked for until it is there.
KEYBOARD = """<script>(() => {
  const seek = (left) => {
    const plots = [...document.querySelectorAll(".js-plotly-plot")]
      .filter((plot) => plot._fullLayout?.sliders?.length && !plot.dataset.keys);
    plots.forEach((plot) => {
      Object.assign(plot.dataset, {keys: "on"});
      const say = () => {
        const slider = plot._fullLayout.sliders[0];
        const name = slider.currentvalue.prefix + slider.steps[slider.active].label;
        const now = {role: "slider", tabindex: 0, "aria-label": "Slider of this figure; use the arrow keys", "aria-valuemin": 0,
          "aria-valuemax": slider.steps.length - 1, "aria-valuenow": slider.active, "aria-valuetext": name};
        Object.entries(now).forEach(([key, value]) => plot.setAttribute(key, value));
      };
      say();
      plot.addEventListener("keydown", (event) => {
        const {active, steps} = plot._fullLayout.sliders[0], last = steps.length - 1;
        const back = active - 1, on = active + 1;
        const to = {ArrowLeft: back, ArrowDown: back, ArrowRight: on, ArrowUp: on, Home: 0, End: last}[event.key];
        if (to === undefined) return;
        event.preventDefault(); event.stopPropagation();
        const rail = plot.querySelector(".slider-rail-touch-rect"), box = rail.getBoundingClientRect();
        const x = box.left + box.width * Math.min(last, Math.max(0, to)) / Math.max(1, last);
        const at = {clientX: x, clientY: box.top + box.height / 2, bubbles: true, view: window};
        rail.dispatchEvent(new MouseEvent("mousedown", at));
        plot.dispatchEvent(new MouseEvent("mouseup", at));
        setTimeout(say, 50);
      }, true);
    });
    if (!plots.length && left) setTimeout(() => seek(left - 1), 200);
  };
  seek(50);
})();</script>"""


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
    keys = KEYBOARD if figure.layout.sliders else ""
    display(HTML(f"<details><summary>This figure in words</summary><p>{html.escape(words)}</p></details>{keys}"))
