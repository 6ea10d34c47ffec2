"""The tests' own order: one that is timed by the clock has the machine to itself, and waits for nobody for ever."""

from __future__ import annotations

import threading
import time

import two_at_once


def test_one_that_runs_alone_shares_no_moment_with_others(tmp_path, monkeypatch):
    monkeypatch.setattr(two_at_once, "WORKERS", 2)
    inside: list[str] = []
    seen: list[set[str]] = []

    def _run(worker: str, alone: bool) -> None:
        for _ in range(5):
            with two_at_once.room(tmp_path, alone, worker):
                inside.append(worker)
                time.sleep(0.02)
                if alone:
                    seen.append(set(inside))
                inside.remove(worker)

    threads = [threading.Thread(target=_run, args=(f"gw{n}", n == 0)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert seen == [{"gw0"}] * 5


def test_two_that_are_not_timed_run_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(two_at_once, "WORKERS", 2)
    together = threading.Barrier(2, timeout=10)

    def _run(worker: str) -> None:
        with two_at_once.room(tmp_path, False, worker):
            together.wait()

    threads = [threading.Thread(target=_run, args=(f"gw{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert not together.broken


def test_a_file_is_a_group_and_the_browsers_notebooks_are_two():
    tests = [
        f"tests/browser/test_browser.py::test_it_runs[{name}]"
        for name in ("10_soft_labels", "11_bounded_noise", "40_a-800")
    ]
    assert [two_at_once.group_of(test)[-1] for test in tests] == ["1", "0", "0"]
    assert two_at_once.group_of("tests/browser/test_browser.py::test_faulty") == "tests/browser/test_browser.py"
    assert two_at_once.group_of("tests/test_data.py::test_a[10_soft]") == "tests/test_data.py"
