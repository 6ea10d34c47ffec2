"""A notebook in JupyterLab as a learner has it: run from the menu, looked at, moved by keyboard and mouse.

Everything that is wrong comes back as a sentence, so that a test can assert that there is none, and another test that a
notebook made for it has just the faults that were put in.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lab_server import Lab
from playwright.sync_api import Browser, Page, Request
from playwright.sync_api import TimeoutError as Late

SLIDER = ".widget-slider .noUi-handle"
PICTURE = 1500  # pixels from top to bottom of one screenshot

JS = r"""
window.kit = {
  panel: () => window.jupyterapp?.shell.currentWidget,
  cells: () => kit.panel().content.widgets.filter((cell) => cell.model.type === "code" && cell.model.sharedModel.source.trim()),
  idle: () => kit.panel()?.sessionContext?.session?.kernel?.status === "idle",
  outputs: (cell) => cell.model.outputs.toJSON(),
  waiting: () => kit.cells().some((cell) => cell.inputArea.promptNode.textContent.includes("*")),
  failed: () => kit.cells().some((cell) => kit.outputs(cell).some((output) => output.output_type === "error")),
  ran: () => kit.idle() && !kit.waiting() && (kit.failed() || kit.cells().every((cell) => cell.model.executionCount)),
  seen: (node) => { const box = node.getBoundingClientRect(); return box.width > 0 && box.height > 0; },

  // for each cell whether its figures and widgets are there: [cell, what, all there]
  shown: () => kit.cells().flatMap((cell, place) => {
    const mimes = kit.outputs(cell).flatMap((output) => Object.keys(output.data ?? {})), node = cell.outputArea.node;
    const plots = mimes.filter((mime) => mime.includes("plotly")).length;
    const widgets = mimes.filter((mime) => mime.includes("widget-view")).length;
    const drawn = node.querySelectorAll(".js-plotly-plot .main-svg:first-child").length;
    const made = node.querySelectorAll(".jp-OutputArea-output > .jupyter-widgets").length;
    return [[place, "figure", drawn >= plots], [place, "widget", made >= widgets]];
  }),

  // where everything stands: unchanged when the page is at rest, counted from `stir` on
  places: () => JSON.stringify([...document.querySelectorAll(".jp-Cell, .main-svg")].map((node) => {
    const box = node.getBoundingClientRect(); return [box.x, box.y, box.width, box.height].map(Math.round);
  })),
  stir: () => { kit.same = 0; kit.before = ""; },
  rested: () => {
    const now = kit.places(), fits = kit.plots().every((plot) => plot._fullLayout?.width <= plot.parentElement.clientWidth);
    kit.same = fits && now === kit.before ? kit.same + 1 : 0; kit.before = now;
    return kit.same >= 4;
  },

  // of a window that shows the whole notebook: its cells, with the page's own bars above and below
  height: () => {
    const cells = kit.panel().content.widgets.map((cell) => cell.node.getBoundingClientRect());
    return cells.at(-1).bottom - cells[0].top + 160;
  },

  plots: (root = document) => [...root.querySelectorAll(".js-plotly-plot")].filter(kit.seen),
  aside: ".slider-container, .slider-group, .hoverlayer, .modebar-container, defs",
  // what a plot shows, its own slider apart: shapes, words and pictures with their places
  drawn: (plot) => [...plot.querySelectorAll(".main-svg path, .main-svg text, .main-svg image, .main-svg rect")]
    .filter((node) => !node.closest(kit.aside))
    .map((node) => ["d", "x", "y", "width", "height", "transform", "href", "style"].map((key) => node.getAttribute(key)).join() +
      (node.tagName === "text" ? node.textContent : "")).join("|"),
  marks: ".trace, .annotation, .shapelayer path, .hm image, .gl-canvas",
  blank: (plot) => ![...plot.querySelectorAll(kit.marks)].some(kit.seen),

  faults: () => [
    ...kit.cells().flatMap((cell, place) => kit.outputs(cell).filter((output) => output.output_type === "error")
      .map((output) => `cell ${place + 1} raised ${output.ename}: ${output.evalue}`)),
    ...kit.cells().flatMap((cell, place) => cell.model.executionCount ? [] : [`cell ${place + 1} did not run`]),
    ...kit.shown().filter(([, , there]) => !there).map(([place, what]) => `cell ${place + 1} does not show its ${what}`),
    ...kit.cells().flatMap((cell, place) => kit.plots(cell.outputArea.node).filter(kit.blank)
      .map(() => `cell ${place + 1} has a blank figure`)),
    ...kit.cells().flatMap((cell, place) => [...cell.outputArea.node.textContent.matchAll(/Error displaying widget/g)]
      .map((words) => `cell ${place + 1} says ${words}`)),
    ...[...document.querySelectorAll(".jp-OutputArea [role=alert]")].filter((node) => node.textContent)
      .map((node) => `a panel says ${node.textContent}`),
  ],

  // the part of a plot in which words are shown: axes may cut off what reaches out of them
  clips: (node) => {
    const found = [];
    for (let up = node; up.tagName !== "svg"; up = up.parentElement) {
      const clip = document.getElementById(up.getAttribute("clip-path")?.match(/#([^'")]+)/)?.[1])?.querySelector("rect");
      if (!clip) continue;
      const to = up.getScreenCTM(), left = to.e + to.a * clip.x.baseVal.value, top = to.f + to.d * clip.y.baseVal.value;
      found.push({left, top, right: left + to.a * clip.width.baseVal.value, bottom: top + to.d * clip.height.baseVal.value});
    }
    return found;
  },
  out: (a, b) => a.left < b.left - 1.5 || a.right > b.right + 1.5 || a.top < b.top - 1.5 || a.bottom > b.bottom + 1.5,
  apart: (a, b) => a.right < b.left || a.left > b.right || a.bottom < b.top || a.top > b.bottom,
  // words that reach over the edge of their figure, or in part over the edge of their axes
  cut: (plot) => {
    const frame = plot.querySelector(".main-svg").getBoundingClientRect();
    return [...plot.querySelectorAll(".main-svg text")].filter((node) => {
      const box = node.getBoundingClientRect(), clips = kit.clips(node);
      if (!node.textContent.trim() || !box.width || clips.some((clip) => kit.apart(box, clip))) return false;
      return [frame, ...clips].some((edge) => kit.out(box, edge));
    }).map((node) => node.textContent);
  },
  // words that stand on other words, as far as they are shown; in the corner two axes' first numbers may touch
  box: (node) => kit.clips(node).reduce((box, clip) => ({
    left: Math.max(box.left, clip.left), right: Math.min(box.right, clip.right),
    top: Math.max(box.top, clip.top), bottom: Math.min(box.bottom, clip.bottom),
  }), node.getBoundingClientRect()),
  over: (plot) => {
    const words = [...plot.querySelectorAll(".main-svg text")].filter((node) => node.textContent.trim() && kit.seen(node))
      .map((node) => [node.textContent, kit.box(node), node.parentElement.getAttribute("class")]);
    return words.flatMap(([one, a, kind], place) => words.slice(place + 1).filter(([, b, other]) => {
      if (/^[xy]\d*tick$/.test(kind) && /^[xy]\d*tick$/.test(other) && kind !== other) return false;
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      return wide > 2 && high > 0.3 * Math.min(a.bottom - a.top, b.bottom - b.top);
    }).map(([other]) => `${one} / ${other}`));
  },
  // outputs that are wider than their cell
  wide: () => kit.cells().flatMap((cell, place) => [...cell.outputArea.node.querySelectorAll("*")].filter((node) =>
    kit.seen(node) && !node.closest("svg, .modebar-container") && node.clientWidth && node.scrollWidth > node.clientWidth + 1 &&
    ["auto", "scroll"].includes(getComputedStyle(node).overflowX))
    .map((node) => `cell ${place + 1} is ${node.scrollWidth} wide in ${node.clientWidth} pixels`)),
  misfits: () => [...kit.wide(), ...kit.cells().flatMap((cell, place) => kit.plots(cell.outputArea.node).flatMap((plot) => [
    ...kit.cut(plot).map((words) => `cell ${place + 1} cuts off “${words}”`),
    ...kit.over(plot).map((words) => `cell ${place + 1} has words on top of each other: ${words}`)]))],
};
"""


class NotebookPage:
    """One notebook, opened in a page of its own.

    Attributes:
        patience: seconds to wait for what should come soon.
        console: errors that the page reported so far; none is known to be harmless.
        outside: addresses beyond this machine that the page asked for, which it must not need.
    """

    def __init__(self, browser: Browser, lab: Lab, name: str, patience: float = 15) -> None:
        self.lab, self.name, self.patience = lab, name, patience
        self.console: list[str] = []
        self.outside: list[str] = []
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        context.add_init_script(JS)
        context.route(lambda url: not url.startswith((lab.url, "data:", "blob:")), self._refuse)
        self.page: Page = context.new_page()
        self.page.on("console", lambda said: self.console.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        # a workspace of its own, so that no other notebook is opened again with it
        self.page.goto(f"{lab.url}/lab/workspaces/{Path(name).stem}/tree/{name}?token={lab.token}")
        if not self.until("window.kit.panel()?.content?.model?.cells && window.kit.idle()", seconds=60):
            raise AssertionError(f"{name} did not open: {self.page.locator('body').inner_text()[-500:]}")
        self.page.keyboard.press("Control+b")  # the list of files goes: the notebook has the whole width
        self.page.wait_for_selector(".jp-FileBrowser", state="hidden")

    def _refuse(self, route: Any, request: Request) -> None:
        self.outside.append(request.url)
        route.abort()

    def until(self, condition: str, seconds: float | None = None, given: Any = None) -> bool:
        """Waits until a condition of the page holds; False where it does not come true in time."""
        try:
            self.page.wait_for_function(
                f"(given) => {condition}", arg=given, timeout=1000 * (seconds or self.patience), polling=100
            )
        except Late:
            return False
        return True

    def close(self) -> None:
        """Closes the page and ends its kernel."""
        kernel = self.page.evaluate("kit.panel().sessionContext.session?.kernel?.id")
        self.page.context.close()
        if kernel:
            self.lab.ask(f"api/kernels/{kernel}", method="DELETE")

    def run(self, seconds: float = 120) -> None:
        """Runs all cells from the menu, and waits until the kernel is idle and all is drawn that will be."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.until("kit.ran()", seconds)
        self.until("kit.shown().every(([, , there]) => there)")
        self.unfold()

    def unfold(self, width: int | None = None) -> None:
        """Makes the window as tall as the notebook, so that all of it is laid out, and waits until nothing moves any more."""
        size = dict(self.page.viewport_size or {})
        size["width"] = width or size["width"]
        for _ in range(6):  # what comes into sight takes another height than it was guessed to have
            self.page.set_viewport_size(size)
            self.until("window.innerWidth === given.width && window.innerHeight === given.height", given=size)
            self.page.evaluate("kit.stir(), kit.panel().node.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0)")
            self.until("kit.rested()", seconds=5)
            height = math.ceil(self.page.evaluate("kit.height()"))
            if height == size["height"]:
                return
            size["height"] = height

    def faults(self) -> list[str]:
        """What went wrong while it ran: errors, cells that did not run, what is not shown or blank, and the console."""
        found = self.page.evaluate("kit.faults()")
        idle = [] if self.until("kit.idle()") else ["the kernel is not idle"]
        return [
            *found,
            *idle,
            *(f"console: {said}" for said in self.console),
            *(f"asked for {url}" for url in dict.fromkeys(self.outside)),
        ]

    def misfits(self, width: int) -> list[str]:
        """What does not fit at a width: outputs that scroll sideways, words cut off or on top of each other."""
        self.unfold(width)
        return self.page.evaluate("kit.misfits()")

    def screenshots(self, folder: Path) -> list[Path]:
        """Pictures of the whole notebook from top to bottom, named after it, its width and their place."""
        folder.mkdir(parents=True, exist_ok=True)
        width, height = (self.page.viewport_size or {}).values()
        files = []
        for place, top in enumerate(range(0, height, PICTURE), start=1):
            files.append(folder / f"{Path(self.name).stem}_{width}_{place:02d}.png")
            clip = {"x": 0, "y": top, "width": width, "height": min(PICTURE, height - top)}
            self.page.screenshot(path=str(files[-1]), clip=clip)
        return files

    def stuck_sliders(self) -> list[str]:
        """Moves every slider with the arrow keys, and tells which labels or drawings did not follow."""
        plots = "kit.plots().filter((plot) => plot._fullLayout?.sliders?.length)"
        label = "document.activeElement.querySelector('.slider-container text, .slider-label').textContent"
        found = self._press(plots, label, "document.activeElement")
        handles = f"[...document.querySelectorAll('{SLIDER}')].filter(kit.seen)"
        label = "document.activeElement.closest('.widget-slider').querySelector('.widget-readout').textContent"
        return found + self._press(handles, label, "document.activeElement.closest('.jp-OutputArea-output')")

    def _press(self, sliders: str, label: str, picture: str) -> list[str]:
        """The same for sliders of one kind: where they are, where their labels are, and what they move."""
        stuck = []
        drawn = f"kit.plots({picture}.parentElement).map(kit.drawn).join()"
        for place in range(self.page.evaluate(f"{sliders}.length")):
            self.page.evaluate(f"{sliders}[{place}].focus()")
            if not self.page.evaluate(f"document.activeElement === {sliders}[{place}]"):
                stuck.append(f"slider {place + 1} takes no focus")
                continue
            before = self.page.evaluate(f"[{label}, {drawn}]")
            last = self.page.evaluate("document.activeElement.ariaValueNow === document.activeElement.ariaValueMax")
            self.page.keyboard.press("ArrowLeft" if last else "ArrowRight")
            if not self.until(f"{label} !== given", given=before[0]):
                stuck.append(f"slider {place + 1} keeps its label “{before[0]}”")
            # one step may leave a drawing as it is, such as a limit that no other token reaches; the whole range may not
            if before[1] and not self.until(f"{drawn} !== given", seconds=2, given=before[1]):
                self.page.keyboard.press("Home" if last else "End")
                if not self.until(f"{drawn} !== given", given=before[1]):
                    end = self.page.evaluate(label)
                    stuck.append(f"slider {place + 1} draws the same from “{before[0]}” to “{end}”")
        return stuck

    def drag(self, slider: int, share: float, steps: int = 50) -> str:
        """Drags a slider of ipywidgets fast along a share of its width, and returns what its label says in the end."""
        handle = self.page.locator(SLIDER).nth(slider)
        handle.scroll_into_view_if_needed()
        box, rail = handle.bounding_box(), self.page.locator(".widget-slider .noUi-base").nth(slider).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * rail["width"], y, steps=steps)
        self.page.mouse.up()
        return self.page.locator(".widget-slider .widget-readout").nth(slider).inner_text()

    def value(self, expression: str) -> str:
        """What an expression is in the kernel."""
        return self.page.evaluate(
            """async (said) => {
              const kernel = kit.panel().sessionContext.session.kernel;
              const reply = await kernel.requestExecute({code: "", user_expressions: {said}}).done;
              return reply.content.user_expressions.said.data["text/plain"];
            }""",
            expression,
        )
