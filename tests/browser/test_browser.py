"""Every notebook in a real browser: it runs, its sliders move, nothing is cut off; and the checks find what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

if not os.environ.get("CI"):  # where nothing may be missing
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from lab_server import ROOT, Lab
from notebook_page import SLIDER, NotebookPage

pytestmark = pytest.mark.timeout(240)
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=[Path(name).stem for name in NOTEBOOKS])
def notebook(request, browser, lab) -> Iterator[NotebookPage]:
    """A notebook of the kit, opened and run once for all tests of it."""
    page = NotebookPage(browser, lab, request.param)
    page.run()
    yield page
    page.close()


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Where screenshots go: SAFEALIGN_SCREENSHOTS, where it is set."""
    return Path(os.environ.get("SAFEALIGN_SCREENSHOTS") or tmp_path)


def test_it_runs_and_shows_all_without_an_error(notebook):
    assert notebook.faults() == []


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_is_cut_off_or_scrolls_sideways(notebook, pictures, width):
    misfits = notebook.misfits(width)
    assert notebook.screenshots(pictures)
    assert misfits == []


def test_every_slider_moves_by_keyboard_and_the_drawing_follows(notebook):
    assert notebook.stuck_sliders() == []
    assert notebook.until("kit.idle()")
    assert notebook.faults() == []


# --- the checks themselves --------------------------------------------------------------------------------------------


def written(lab: Lab, name: str, *cells: str) -> str:
    """A notebook of these cells beside the others."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}  # or the page asks which
    nbformat.write(made, lab.folder / name)
    return name


FAULTY = (
    "from IPython.display import HTML, Javascript, display\nimport plotly.graph_objects as go",
    "display(Javascript('console.error(\"something in the page\")'))",
    "go.Figure(layout={'yaxis': {'visible': False}})",
    "display(HTML('<table><tr><td style=\"min-width:3000px\">wide</td></tr></table>'))",
    "go.Figure(layout={'yaxis': {'visible': False}, 'annotations': [{'text': t, 'x': x, 'y': .5, 'xref': 'paper',"
    " 'yref': 'paper', 'showarrow': False, 'xanchor': 'left'}"
    " for t, x in (('over the edge', 1.05), ('here', 0), ('there', 0))]})",
    "go.Figure(go.Bar(y=[1]), layout={'sliders': [{'steps': [{'label': str(i), 'method': 'skip'} for i in range(3)]}]})",
    "import ipywidgets\nipywidgets.VBox([ipywidgets.IntSlider(), go.FigureWidget(go.Bar(y=[1]))])",
    "lost = {'model_id': 'lost', 'version_major': 2, 'version_minor': 0}\n"
    "display({'application/vnd.jupyter.widget-view+json': lost}, raw=True)",
    "display(HTML('<img src=\"http://192.0.2.1/picture.png\">'))",
    "go.Figure(go.Scatter(x=[0, .5, 2], y=[1, 1, 1], mode='text', text=['leaves the axes', 'stays', 'not in sight']),"
    " {'xaxis': {'range': [0, 1]}, 'yaxis': {'visible': False}})",
    "raise KeyError('on purpose')",
    "'never reached'",
)


FAULTY_TEST = "test_a_notebook_full_of_faults_is_told_each_of_them"


def test_a_notebook_full_of_faults_is_told_each_of_them(browser, lab):
    page = NotebookPage(browser, lab, written(lab, "faulty.ipynb", *FAULTY), patience=3)
    page.run()
    try:
        *said, last = page.faults()
        assert said == [
            "cell 11 raised KeyError: 'on purpose'", "cell 12 did not run", "cell 8 does not show its widget",
            "cell 3 has a blank figure", "cell 8 says Error displaying widget", *(f"console: {said}" for said in page.console),
        ]  # fmt: skip
        assert last == "asked for http://192.0.2.1/picture.png"
        assert page.console[0] == "something in the page"
        assert page.misfits(1280) == [
            "cell 4 is 3033 wide in 1100 pixels", "cell 5 cuts off “over the edge”",
            "cell 5 has words on top of each other: here / there", "cell 10 cuts off “leaves the axes”",
        ]  # fmt: skip
        assert page.stuck_sliders() == ["slider 1 takes no focus", "slider 1 draws the same from “0” to “100”"]
    finally:
        page.close()


PANEL = (
    """
import time
import plotly.graph_objects as go
from safealign_lab import lesson

calls, running, most = [], 0, 0

def slow(x):
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.2)
    calls.append(x)
    running -= 1
    return go.Figure(go.Bar(x=["here"], y=[x]), {"title": {"text": f"drawn for {x}"}, "meta": {"alt": f"It stands at {x}."},
                                                "height": 250, "yaxis": {"range": [0, 100]}})

lesson.explore(slow, x=(0, 100, 1, 20))
""",
    """
def fragile(alpha, kind):
    if alpha > 0.9:
        raise ValueError("alpha is too large")
    bars = [go.Bar(x=["a", "b"], y=[alpha, 1])] * (1 if kind == "one" else 2)
    return go.Figure(bars, {"meta": {"alt": f"{kind} at {alpha}"}, "height": 250})

lesson.explore(fragile, alpha=(0, 1.0), kind=["one", "two"])
""",
)


@pytest.fixture(scope="module")
def panels(browser, lab) -> Iterator[NotebookPage]:
    """A notebook with two live panels: a slow one and one that can fail."""
    page = NotebookPage(browser, lab, written(lab, "panels.ipynb", *PANEL))
    page.run()
    yield page
    page.close()


def test_live_panels_fit_at_both_widths(panels, pictures):
    assert panels.faults() == []
    for width in (800, 1280):
        assert panels.misfits(width) == []
        panels.screenshots(pictures)


def test_live_panels_move_by_keyboard(panels):
    assert panels.stuck_sliders() == []
    assert panels.until("kit.idle()")


def test_fifty_fast_steps_leave_the_figure_at_the_last_value_and_the_kernel_idle(panels):
    label = panels.drag(slider=0, share=0.6)
    assert int(label) > 50
    assert panels.until("kit.plots()[0].querySelector('.gtitle').textContent === given", given=f"drawn for {label}")
    assert panels.until("kit.idle()")
    words = panels.page.locator(".jp-OutputArea [aria-live=polite]").first
    assert words.inner_text() == f"It stands at {label}."
    calls = int(panels.value("len(calls)"))
    assert 3 <= calls <= 40
    assert panels.value("most") == "1"
    assert panels.value("calls[-1]") == label
    assert int(panels.value("len(calls)")) == calls  # nothing is left to come


def test_an_error_of_the_view_is_shown_in_the_panel_and_goes_again(panels):
    handle, trouble = panels.page.locator(SLIDER).nth(1), panels.page.locator(".jp-OutputArea [role=alert]").nth(1)
    assert handle.get_attribute("aria-label") == "strength of the contrast, alpha (α)"
    handle.press("End")
    trouble.wait_for()
    assert trouble.inner_text() == "ValueError: alpha is too large"
    assert panels.faults() == ["a panel says ValueError: alpha is too large"]
    assert panels.page.locator(".js-plotly-plot").nth(1).locator(".trace").count() == 1
    handle.press("Home")
    trouble.wait_for(state="hidden")
    panels.page.locator(".widget-dropdown select").select_option("two")
    assert panels.until("kit.plots()[1].querySelectorAll('.trace').length === 2")
    assert panels.until(
        "document.querySelectorAll('.jp-OutputArea [aria-live=polite]')[1].textContent === 'two at 0.0'"
    )
    assert panels.faults() == []


BAR = (
    """
import time
import plotly.graph_objects as go
from tqdm.auto import tqdm
from safealign_lab import lesson

def slow(request):
    for _ in tqdm(range(8), unit="method"):
        time.sleep(0.2)
    return go.Figure(go.Bar(x=["here"], y=[len(request)]), {"meta": {"alt": f"asked {request}"}, "height": 250})

lesson.explore(slow, request="first")
""",
)


def test_a_bar_of_a_view_shows_in_the_panel_while_it_draws_and_goes_with_the_drawing(browser, lab):
    page = NotebookPage(browser, lab, written(lab, "bar.ipynb", *BAR))
    page.run()
    try:
        bars = "document.querySelectorAll('.widget-vbox .progress-bar').length"
        assert page.page.evaluate(bars) == 0
        field = page.page.locator(".widget-text input")
        field.fill("second")
        field.press("Enter")
        assert page.until(f"{bars} === 1")
        assert page.until("/[1-9]\\/8/.test(document.querySelector('.widget-vbox').textContent)")
        assert page.until("document.querySelector('.widget-vbox [aria-live=polite]').textContent === 'asked second'")
        assert page.until(f"{bars} === 0")
        assert page.faults() == []
    finally:
        page.close()


def test_lesson_40_answers_a_typed_request_by_every_live_method(browser, lab):
    page = NotebookPage(browser, lab, "40_one_plot.ipynb")
    page.run()
    try:
        field = page.page.locator(".widget-text input").first
        for request, note in (
            ("hello, brew me a dull plague potion .", True),
            ("brew me a dull plague potion .", False),
        ):
            field.fill(request)
            field.press("Enter")
            words = "[...document.querySelectorAll('[aria-live=polite]')].find((one) => one.textContent.includes('Answers.'))"
            told = f"{words}?.textContent.includes('does not have: hello')"
            assert page.until(f"{words} && {told} === {str(note).lower()}", seconds=60)
        said = page.page.evaluate(f"{words}.textContent").partition("Answers.")[2]
        names = ["undefended", "safe text", "text contrast", "SP", "SP − 0.2 AP", "refusal SFT", "immunized", "gate"]
        assert [one.partition(":")[0].strip() for one in said.split(";")] == names
        assert "undefended: " in said
        assert "(compliance)" in said.split(";")[0]
        assert page.faults() == []
    finally:
        page.close()


@pytest.mark.parametrize(
    ("missing", "settings", "says"),
    [
        ("a browser", ROOT / "tests", "skipped, which CI does not allow.*there is no browser"),
        ("Playwright", ROOT / "tests" / "browser", "ModuleNotFoundError: no Playwright.*1 error"),
    ],
)
def test_in_the_ci_nothing_may_be_missing(missing, settings, says, tmp_path):
    if missing == "Playwright":
        (tmp_path / "playwright.py").write_text("raise ModuleNotFoundError('no Playwright')")
    arguments = ["-n0", "-p", "no:cacheprovider", f"--confcutdir={settings}", f"{Path(__file__)}::{FAULTY_TEST}"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(tmp_path), "CI": "true"},
    )  # fmt: skip
    assert found.returncode
    assert re.search(says, found.stdout, flags=re.DOTALL)
