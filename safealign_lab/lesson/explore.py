"""A live panel over a view that needs the kernel: controls above, progress and figure below, its words beside it."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import display

View = Callable[..., go.Figure | Iterator[go.Figure]]
WAIT = 0.05  # seconds from a move to the drawing that answers it, and at least this long between two drawings
REST = 0.3  # seconds without a move before a view goes on to its next figure, which takes longer
# what a control is called: the letter alone means another thing in each paper
NAMES = {
    "alpha": "strength of the contrast, alpha (α)", "plausibility": "plausibility limit, share of the top probability",
    "probability": "probability of the unwanted token (p)", "temperature": "temperature, tau (τ)",
    "place": "place of the student's peak", "margin": "margin of the wrong class, logits", "norm": "norm of the ball",
    "kd_weight": "weight of the distillation (w)", "threshold": "threshold of the gate", "knob": "knob that was turned",
    "epsilon": "radius of the noise, epsilon (ε)", "attack_radius": "radius of the attack, epsilon (ε)",
    "weight": "weight (w)", "clean_weight": "weight of the clean loss, alpha (α)",
    "kl_weight": "weight of the divergence, alpha (α)", "penalty": "gradient penalty, lambda (λ)",
    "push_weight": "weight of the push, lambda (λ)", "beta": "beta (β)",
    "beta_dpo": "sharpness of the preference, beta (β)", "beta_npo": "sharpness of the unlearning, beta (β)",
    "stabilization": "stabilization, beta (β)", "rejection_strength": "strength of the rejection, gamma (γ)",
    "canary_fraction": "share of canary weights (K)", "nll_weight": "weight of the refusal's own likelihood (w)",
    "strength": "strength of the push (g)", "shared": "how far tokens share their weights (0 to 1)",
    "gained": "what the refusal has gained, nats (c)", "learning_rate": "the attacker's learning rate",
    "examples": "harmful examples that the attacker has", "weights": "what the attacker trains",
    "attackers": "attackers", "attacker": "attacker", "score": "score of a change",
    "view": "which requests, and which model", "request": "a request of your own (press Enter)",
    "most": "share of false alarms that is accepted",
}  # fmt: skip


class Words(anywidget.AnyWidget):
    """A figure in words, and what went wrong with it, in elements that stay, so that a screen reader follows them.

    It also makes up for what its neighbours in the panel leave out: plotly's widget is drawn before it has a place and
    keeps its first width, and ipywidgets gives the handle of a slider no name.
    """

    _esm = """
    export default {render({model, el}) {
      const add = (parent, kind, mark, value) => {
        const made = parent.appendChild(document.createElement(kind));
        if (mark) made.setAttribute(mark, value);
        return made;
      };
      const trouble = add(el, "p", "role", "alert"), box = add(el, "details", "open", "");
      trouble.style.fontWeight = "bold";
      add(box, "summary").textContent = "This figure in words";
      const words = add(box, "p", "aria-live", "polite");
      const follow = () => {
        trouble.textContent = model.get("trouble"); trouble.hidden = !model.get("trouble");
        words.textContent = model.get("words"); box.hidden = !model.get("words");
      };
      model.on("change", follow); follow();

      let width = 0;
      const fit = () => {  // a width that plotly has noted down would never change
        el.closest(".widget-vbox")?.querySelectorAll(".js-plotly-plot").forEach((plot) => delete plot.layout?.width);
        window.dispatchEvent(new Event("resize"));
      };
      const settle = () => {
        if (el.clientWidth !== width) { width = el.clientWidth; fit(); }
        el.closest(".widget-vbox")?.querySelectorAll(".widget-slider").forEach((slider) => slider.querySelector(".noUi-handle")
          ?.setAttribute("aria-label", slider.querySelector(".widget-label").textContent));
      };
      const watch = new ResizeObserver(settle);
      watch.observe(el);
      document.addEventListener("plotlywidget-after-render", fit);
      return () => { watch.disconnect(); document.removeEventListener("plotlywidget-after-render", fit); };
    }};
    """
    words = traitlets.Unicode().tag(sync=True)
    trouble = traitlets.Unicode().tag(sync=True)


@contextmanager
def _shown_in(room: Any) -> Iterator[None]:
    """What a view displays, such as bars, stands in an Output until the end: by itself a callback's would not reach the page."""
    publisher: Any = getattr(get_ipython(), "display_pub", None)
    if not hasattr(publisher, "register_hook"):  # no kernel
        yield
        return

    def _take(message: dict[str, Any]) -> dict[str, Any] | None:
        if message["msg_type"] != "display_data":
            return message
        said = {name: message["content"][name] for name in ("data", "metadata")}
        room.outputs = (*room.outputs, {"output_type": "display_data", **said})
        return None

    publisher.register_hook(_take)
    try:
        yield
    finally:
        publisher.unregister_hook(_take)
        if room.outputs:
            room.outputs = ()


def _numbers(name: str, given: Sequence[Any]) -> tuple[float, float, float, float | None]:
    """The ends, the step and the first value of a slider, each checked."""
    if not 2 <= len(given) <= 4 or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in given):
        raise ValueError(
            f"{name}={given!r} is no range: give (low, high), (low, high, step) or (low, high, step, first value)."
        )
    if not all(math.isfinite(x) for x in given):
        raise ValueError(f"{name}={given!r} has no finite ends: give two finite numbers.")
    low, high = given[:2]
    if low >= high:
        raise ValueError(f"{name} cannot go from {low} to {high}: give the lower end first.")
    whole = all(isinstance(x, int) for x in given)
    step = given[2] if len(given) > 2 else 1 if whole else 10.0 ** math.floor(math.log10((high - low) / 20))
    if not 0 < step <= (high - low) * (1 + 1e-9):  # 0.03 - 0.02 is a little less than 0.01
        raise ValueError(f"{name} cannot move by {step}: give a step above 0 and up to {high - low}.")
    if len(given) == 4 and not low <= given[3] <= high:
        raise ValueError(f"{name} cannot start at {given[3]}: give a first value from {low} to {high}.")
    return low, high, step, given[3] if len(given) == 4 else None


def _digits(*numbers: float) -> int:
    """How many decimals it takes to write these numbers."""
    return max(0, *(-int(Decimal(repr(float(number))).normalize().as_tuple().exponent) for number in numbers))


def _slider(name: str, given: Sequence[Any], look: Mapping[str, Any]) -> widgets.Widget:
    low, high, step, value = _numbers(name, given)
    if value is None:
        value = low + step * round((high - low) / 2 / step)
    limits = {"min": low, "max": high, "step": step, "continuous_update": True}
    if all(isinstance(x, int) for x in given):
        return widgets.IntSlider(value=int(value), **limits, **look)
    digits = _digits(low, high, step, *given[3:])
    return widgets.FloatSlider(value=round(value, digits), readout_format=f".{digits}f", **limits, **look)


def _control(name: str, given: Any) -> widgets.Widget:
    """What moves one parameter, by the kind of what was given for it."""
    look = {
        "description": NAMES.get(name, name),
        "style": {"description_width": "initial"},  # a name is never cut off
        "layout": widgets.Layout(width="auto"),
    }
    if isinstance(given, tuple):
        return _slider(name, given, look)
    if isinstance(given, list) and given and all(isinstance(x, int | float) and not isinstance(x, bool) for x in given):
        return widgets.SelectionSlider(options=[(f"{x:g}", x) for x in sorted(given)], value=given[0], **look)
    if isinstance(given, list) and given:
        return widgets.Dropdown(options=given, value=given[0], **look)
    if isinstance(given, str):
        return widgets.Text(value=given, continuous_update=False, **look)
    raise ValueError(
        f"{name}={given!r} makes no control: give a tuple (low, high), a list of numbers or of choices, or a text."
    )


def _follow(old: Any, new: Any) -> None:
    """Makes a trace or a layout that is shown like a new one; only what differs is set, since plotly checks all that is."""
    shown, wanted = old.to_plotly_json(), new.to_plotly_json()
    gone = {key: None for key in shown if key not in wanted and key != "uid"}
    news = {key: value for key, value in wanted.items() if not (key in shown and _same(shown[key], value))}
    if gone or news:
        old.update({**gone, **news}, overwrite=True)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays are not compared as a whole
        return False


def _loop() -> asyncio.AbstractEventLoop | None:
    """The kernel's loop, where there is one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Panel:
    """The controls, the figure that follows them, and the one drawing that may wait, rest or run."""

    def __init__(self, view: View, controls: Mapping[str, widgets.Widget]) -> None:
        self.view, self.controls = view, controls
        self.figure, self.words, self.progress = go.FigureWidget(), Words(), widgets.Output()
        self.figure._config = {"responsive": True}  # as wide as the page, also when that changes
        self.waiting = False
        self.resting: Iterator[go.Figure] | None = None  # a drawing that has more to show
        self.drawing = threading.Lock()  # a notebook server may hand each control's messages to a thread of its own
        for control in controls.values():
            control.observe(self.moved, names="value")
        self.draw(first=True)

    def values(self) -> dict[str, Any]:
        """What the controls say; a float as its label shows it."""
        said = {name: control.value for name, control in self.controls.items()}
        for name, control in self.controls.items():
            if isinstance(control, widgets.FloatSlider):
                said[name] = round(control.value, int(control.readout_format[1:-1]))
        return said

    def moved(self, _: Any) -> None:
        """A control has a new value: one drawing is due, however many moves come before it."""
        loop = _loop()
        if loop is None:  # no kernel, so nothing else to wait for
            self.draw()
        elif not self.waiting:
            self.waiting = True
            loop.call_later(WAIT, self.draw)

    def draw(self, first: bool = False) -> None:
        """Draws the view at the values of this moment.

        Args:
            first: all of it at once, and its progress into the cell, since the panel itself is not shown yet.
        """
        with self.drawing:
            # before the values are read: a move from now on asks for another drawing
            self.waiting, self.resting = False, None
            self._attempt(lambda: self.view(**self.values()), at_once=first)

    def go_on(self, figures: Iterator[go.Figure]) -> None:
        """Draws on where a drawing rested, unless a control has moved since."""
        with self.drawing:
            if figures is self.resting and not self.waiting:
                self._attempt(lambda: figures, at_once=False)

    def _attempt(self, drawn: Callable[[], go.Figure | Iterator[go.Figure]], at_once: bool) -> None:
        """Shows what is drawn, or says in one line why it cannot be."""
        try:
            with nullcontext() if at_once else _shown_in(self.progress):
                made = drawn()
                if isinstance(made, Iterator):
                    self._advance(made, at_once)
                else:
                    self._show(made)
            self.words.trouble = ""
        except Exception as error:  # noqa: BLE001 - whatever the view raises is shown where the learner looks
            self.words.trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"

    def _advance(self, figures: Iterator[go.Figure], at_once: bool) -> None:
        """Shows the next figure; those after it follow when nothing has moved for a while, or at once."""
        loop = None if at_once else _loop()
        for figure in figures:
            self._show(figure)
            if loop is not None:
                self.resting = figures
                loop.call_later(REST, self.go_on, figures)
                return

    def _show(self, figure: go.Figure) -> None:
        if not isinstance(figure, go.Figure):
            raise TypeError(f"The view gave {type(figure).__name__}: a view returns a plotly Figure.")
        with self.figure.batch_update():
            if [trace.type for trace in self.figure.data] != [trace.type for trace in figure.data]:
                self.figure.data = ()
                self.figure.add_traces(figure.data)
            for old, new in zip(self.figure.data, figure.data, strict=True):
                _follow(old, new)
            _follow(self.figure.layout, figure.layout)
        self.words.words = (figure.layout.meta or {}).get("alt", "")


def explore(view: View, /, **sliders: Any) -> None:
    """Shows a live panel: the view is drawn again whenever a control moves, and an error of the view is shown in the panel.

    While a slider moves fast the view is called for some of its values, never twice at once, and always for the last.
    For what can be computed beforehand use plotly's own frames, which need no kernel. A view that takes long may be a generator:
    the figure that it yields first is shown at once, the next one when nothing has moved for a while.

    Args:
        view: a pure function from the parameters to a figure with its words in `layout.meta["alt"]`, or to several in turn.
        sliders: for each parameter of the view what moves it: `(low, high)`, `(low, high, step)` or
            `(low, high, step, first value)` makes a slider, of whole numbers where all are whole, which starts in the
            middle unless told otherwise; a list of numbers makes a slider with these stops, in rising order, which starts at
            the first one given; any other list makes a drop-down; a text makes a field, which answers to Enter.

    Raises:
        ValueError: a range, list or kind that makes no control.
    """
    display(panel_of(view, sliders))


def panel_of(view: View, sliders: Mapping[str, Any]) -> widgets.VBox:
    """What `explore` shows."""
    controls = {name: _control(name, given) for name, given in sliders.items()}
    panel = _Panel(view, controls)
    return widgets.VBox([*controls.values(), panel.progress, panel.figure, panel.words])
