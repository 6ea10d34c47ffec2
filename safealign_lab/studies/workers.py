"""Many processes for one study: workers of this machine that get one run at a time, or a share for each launched process.

Workers are started fresh (spawned, never forked) and hand back no result: each stores its rows itself, under the lock of
the results file. So a process that dies takes nothing with it but the run it was in.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .runner import Unit

    Failures = list[tuple[Unit, Exception]]

PATIENCE = timedelta(days=7)  # how long a launched process waits for the slowest of the others
SPAWN = multiprocessing.get_context("spawn")


class RunError(RuntimeError):
    """What a run raised in a worker, as "ZeroDivisionError: no luck"; its cause holds the traceback of that process."""

    def __init__(self, said: str, trace: str) -> None:
        super().__init__(said)
        self.__cause__ = RuntimeError(f"in a worker process:\n{trace}")


class WorkerDied(RuntimeError):
    """A worker ended before the run that it was given."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this process stands among those that `accelerate launch` or `torchrun` started with it.

    Args:
        rank: number among all processes, from 0.
        world: how many there are, on all hosts.
        local: number among those of this host, from 0: also the number of its GPU.
        beside: how many there are on this host.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """Every `world`-th run from the `rank`-th on: each run falls to one process, whatever is stored already."""
        return list(units[self.rank :: self.world])


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that the launcher has written into the environment; alone where there is none.

    Raises:
        ValueError: the variables do not fit together.
    """
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return Place()
    names = {"rank": "RANK", "world": "WORLD_SIZE", "local": "LOCAL_RANK", "beside": "LOCAL_WORLD_SIZE"}
    defaults = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    found = {key: environment.get(name, defaults.get(name, "")) for key, name in names.items()}
    numbers = {key: int(text) for key, text in found.items() if text.isdecimal()}
    if len(numbers) < 4 or numbers["rank"] >= numbers["world"] or numbers["local"] >= numbers["beside"]:
        shown = ", ".join(f"{names[key]}={text!r}" for key, text in found.items())
        expected = "whole numbers with RANK < WORLD_SIZE and LOCAL_RANK < LOCAL_WORLD_SIZE"
        raise ValueError(f"the environment has {shown}: expected {expected}; unset them, or use `accelerate launch`")
    return Place(**numbers)


def settle(number: int, beside: int) -> None:
    """Takes this process's share of the machine: its part of the cores, and its own GPU where there are several.

    Args:
        number: of this process among those on this machine, from 0.
        beside: how many there are.
    """
    torch.set_num_threads(_threads(beside))
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def wait_for_others(here: Place) -> None:
    """Returns when all launched processes have called it: a launcher stops the others as soon as one ends with an error.

    Nothing is waited for where this process is alone, or where the launcher names no meeting point (MASTER_ADDR).
    """
    if here.world == 1 or "MASTER_ADDR" not in os.environ:
        return
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous(f"env://?rank={here.rank}&world_size={here.world}", timeout=PATIENCE))
    _gather(store, "all", here.world)
    if here.rank:
        _gather(store, "left", here.world - 1, stay=False)
    else:  # the first process may hold the meeting point itself, so it is the last to leave
        store.wait(["safealign_lab/left"], PATIENCE)


def _gather(store: Any, name: str, number: int, stay: bool = True) -> None:
    if store.add(f"safealign_lab/{name}/count", 1) == number:
        store.set(f"safealign_lab/{name}", "1")
    if stay:
        store.wait([f"safealign_lab/{name}"], PATIENCE)


def run_all(do: Callable[[Unit], None], units: Sequence[Unit], jobs: int, ended: Callable[[], object]) -> Failures:
    """Does every run, one after the other here or up to `jobs` at a time in worker processes; a failure stops no other run.

    Args:
        do: does a run and stores its row; picklable where there is more than one job.
        units: the runs, which begin in this order.
        jobs: how many worker processes; with 1, or for a single run, it is done in this process.
        ended: called here whenever a run has ended.

    Returns:
        The runs that are not stored, in the order of `units`, each with what it raised (`RunError` from a worker) or with
        `WorkerDied`.

    Raises:
        ValueError: there are fewer jobs than one, or workers cannot import the function of the runs.
    """
    if jobs < 1:
        raise ValueError(
            f"there are {jobs} jobs: expected a whole number of at least 1; leave it out to use this process"
        )
    if min(jobs, len(units)) > 1:
        return _in_workers(do, units, min(jobs, len(units)), ended)
    failures: Failures = []
    for unit in units:
        try:
            do(unit)
        except Exception as error:  # noqa: BLE001 (a run may raise anything; the study raises all of it again)
            failures.append((unit, error))
        ended()
    return failures


def _in_workers(do: Callable[[Unit], None], units: Sequence[Unit], jobs: int, ended: Callable[[], object]) -> Failures:
    if units[0].run.startswith("__main__:") and not hasattr(sys.modules["__main__"], "__file__"):
        advice = "put it into a module (a .py file) and import it, or use one job"
        raise ValueError(f"{units[0].run} lives in a notebook or a shell, where workers cannot import it: {advice}")
    crew = _Crew(do, deque(units), jobs)
    try:
        crew.start()
        while crew.busy():
            for worker in crew.heard():
                if crew.carry_on(worker):
                    ended()
    finally:
        for worker in crew.workers:  # those that have not begun yet, or all of them after Ctrl-C
            worker.process.terminate()
        for worker in crew.workers:
            worker.leave()
    return sorted(crew.failures, key=lambda failure: units.index(failure[0]))


class _Worker:
    """One process and the pipe to it: it says that it is ready, gets a run, says how that ended, gets the next."""

    def __init__(self, do: Callable[[Unit], None], number: int, jobs: int) -> None:
        self.number = number
        self.unit: Unit | None = None
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(theirs, do, number, jobs), daemon=True)
        with _inherited(jobs):
            self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, unit: Unit) -> None:
        """Hands out a run."""
        self.unit = unit
        with contextlib.suppress(OSError):  # it has just died, which is heard next
            self.pipe.send(unit)

    def hear(self) -> tuple[Unit | None, Exception | None]:
        """The run that has ended, if it had one, and what went wrong."""
        unit, self.unit = self.unit, None
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return unit, WorkerDied(_death(self.process.exitcode or 0, unit is None))
        return unit, RunError(*said) if said else None

    def leave(self) -> None:
        """Waits for its end: a worker ends where its pipe does."""
        self.pipe.close()
        self.process.join()


class _Crew:
    """The workers that are alive, the runs that wait for one, and those that failed."""

    def __init__(self, do: Callable[[Unit], None], todo: deque[Unit], jobs: int) -> None:
        self.do, self.todo, self.jobs = do, todo, jobs
        self.workers: list[_Worker] = []
        self.failures: Failures = []

    def start(self) -> None:
        """Starts all workers."""
        for number in range(self.jobs):
            self.workers.append(_Worker(self.do, number, self.jobs))

    def busy(self) -> bool:
        """Whether a run is going on or can still be given to a worker."""
        return any(worker.unit or self.todo for worker in self.workers)

    def heard(self) -> list[_Worker]:
        """The workers that have something to say, as soon as one has."""
        pipes = wait([worker.pipe for worker in self.workers])
        return [worker for worker in self.workers if worker.pipe in pipes]

    def carry_on(self, worker: _Worker) -> bool:
        """Hears a worker, and gives it the next run or sends it home; True where a run of it has ended."""
        unit, error = worker.hear()
        if unit and error:
            self.failures.append((unit, error))
        if self.todo and not isinstance(error, WorkerDied):
            worker.give(self.todo.popleft())
            return unit is not None
        self.workers.remove(worker)
        worker.leave()
        if self.todo and unit:  # its run has killed it: a fresh one goes on
            self.workers.append(_Worker(self.do, worker.number, self.jobs))
        elif error and not self.workers:  # none could even start, nor would another
            self.failures += [(left, error) for left in self.todo]
        return unit is not None


def _work(pipe: Connection, do: Callable[[Unit], None], number: int, jobs: int) -> None:
    """A worker's life; it also ends, after the run it is in, where the process that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settle(number, jobs)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.send(_tried(do, pipe.recv()))


def _tried(do: Callable[[Unit], None], unit: Unit) -> tuple[str, str] | None:
    """What a run raised, as plain text, since not every exception can be sent."""
    try:
        do(unit)
    except Exception as error:  # noqa: BLE001 (a run may raise anything; the study raises all of it again)
        return f"{type(error).__name__}: {error}", traceback.format_exc()
    return None


@contextlib.contextmanager
def _inherited(jobs: int) -> Iterator[None]:
    """What a new process takes over: its threads, no bars of its own, and no ear for Ctrl-C, since its starter stops it.

    Ctrl-C is ignored for the few milliseconds of the start only, and from the main thread only, as Python demands.
    """
    new = {"OMP_NUM_THREADS": str(_threads(jobs)), "TQDM_DISABLE": "1"}
    old = {name: os.environ.get(name) for name in new}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if main:
            signal.signal(signal.SIGINT, signal.SIG_DFL if handler is None else handler)


def _threads(beside: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // beside)


def _death(code: int, unused: bool) -> str:
    said = f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
    if unused:
        return f'{said}, before its first run; a script has to do this under `if __name__ == "__main__":`'
    return f"{said}, as where memory runs out" if -code == getattr(signal, "SIGKILL", None) else said
