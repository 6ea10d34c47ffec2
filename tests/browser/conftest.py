"""One JupyterLab and one Chromium for all browser tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from lab_server import Lab, running_lab

from safealign_lab.lesson.results import RUNS

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()


# for the module, not the session: Playwright's event loop runs as long as it lives, and other tests start their own
@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium without a window; where there is none the tests skip, which the CI counts as failed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip(f"there is no browser: install one of {', '.join(CHROMIUM)}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory, caches) -> Iterator[Lab]:  # the browser first: without one there is nothing to start
    """JupyterLab over a copy of the notebooks."""
    with running_lab(tmp_path_factory.mktemp("lab"), sorted(caches.glob(f"*/{RUNS}"))) as lab:
        yield lab
