"""Runs a learner's function so that nothing it does can stop or change the notebook.

An endless loop is cut, an exception is caught, the randomness and the number type of the notebook are put back, and what the
function prints is shown afterwards, up to a length.
"""

from __future__ import annotations

import contextvars
import ctypes
import io
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch

STEP = 0.02  # seconds between two looks at the clock, so that the notebook's stop button is heard on every system
GRACE = 1.0  # seconds that a function has for ending after its time; then it is left behind
THREAD = "examination"
PRINTED = 4000  # characters shown of what it prints


class TimeIsUp(SystemExit):
    """The time limit. No `Exception`, so that `except Exception` cannot hold it, and a thread may end by it in silence."""


class _Printed(io.TextIOBase):
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Takes a text, as a file does."""
        if len(self.text) <= PRINTED:  # one character more than is shown tells that there was more
            self.text += text[: PRINTED + 1 - len(self.text)]
        return len(text)

    def show(self) -> None:
        """Shows the beginning of what was taken."""
        more = len(self.text) > PRINTED
        sys.stdout.write(self.text[:PRINTED] + ("… (the rest of what it printed is left out)\n" if more else ""))


@contextmanager
def _notebook_kept() -> Iterator[None]:
    # seeded, so that the same function gets the same verdict; and nothing of it outlasts the examination
    dtype, python, array = torch.get_default_dtype(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(array)
            random.setstate(python)


class _Examination(threading.Thread):
    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name=THREAD, daemon=True)
        self.work, self.here, self.done = work, contextvars.copy_context(), threading.Lock()
        self.outcomes: list[tuple[Any, BaseException | None]] = []
        self.done.acquire()

    def run(self) -> None:
        """Does the work."""
        try:
            self.outcomes.append((self.here.run(self.work), None))
        except BaseException as error:  # noqa: BLE001 (a learner's function may raise anything, SystemExit too)
            self.outcomes.append((None, error))
        self.done.release()

    def wait(self, seconds: float, cut: bool = False) -> None:
        """Returns when the work is done, or after the time; `cut` raises `TimeIsUp` in it meanwhile."""
        # not by `join`: the stop button, pressed meanwhile, makes some versions of Python take the thread for ended
        end = time.monotonic() + seconds
        while self.is_alive() and not self.outcomes and time.monotonic() < end:
            if cut:  # again and again, since a bare `except:` holds one, but hardly all
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident or 0), ctypes.py_object(TimeIsUp))
            self.done.acquire(timeout=STEP)


def guarded(work: Callable[[], Any], seconds: float) -> tuple[Any, BaseException | None]:
    """What a piece of work returns (or None) and what it raised (or None): `TimeIsUp` where it did not end in time.

    It runs in a thread of its own, with gradients on: only a thread can be cut on Linux, macOS and Windows alike. A call that
    waits outside Python cannot be cut: its thread is left behind and ends with the call. The learner's stop button ends the
    work and is heard as ever.

    Args:
        work: called once.
        seconds: wall-clock time; more lets a slower function pass, and an endless loop wait longer.
    """
    examination, printed = _Examination(work), _Printed()
    try:
        with _notebook_kept(), redirect_stdout(printed):
            examination.start()
            try:
                examination.wait(seconds)
            finally:  # also after the stop button
                examination.wait(GRACE, cut=True)
    finally:
        printed.show()
    return examination.outcomes[0] if examination.outcomes else (None, TimeIsUp())
