"""A study is a grid of independent runs; its results file holds one line of strict JSON for each run that has ended.

A line is {"settings", "seed", "result", "card"}. Settings and seed are its key: no key stands twice. Lines are added
under a lock, so several processes may run the same study into the same file; a run that two of them did is kept once.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm.auto import tqdm

from .. import fetching
from ..training import seed_everything
from . import workers
from .cards import code_hash, data_hash, run_card

Row = dict[str, Any]
SHOWN = 10  # of the runs that a dead process left, this many are named


class StudyError(ValueError):
    """Some runs of a study are left; `failures` holds each as (unit, exception), and all other runs are stored.

    The exception is what the run raised (`workers.RunError` where a worker did it), or `workers.WorkerDied`.
    """

    def __init__(self, name: str, failures: list[tuple[Unit, Exception]]) -> None:
        left = [str(unit) for unit, error in failures if isinstance(error, workers.WorkerDied)]
        raised = [one for one in failures if not isinstance(one[1], workers.WorkerDied)]
        said = []
        if raised:
            unit, error = raised[0]
            what = str(error) if isinstance(error, workers.RunError) else f"{type(error).__name__}: {error}"
            said.append(f"{len(raised)} of the runs of study {name!r} failed (first {unit}: {what})")
        if left:
            death = next(error for _, error in failures if isinstance(error, workers.WorkerDied))
            units = "; ".join(left[:SHOWN] + [f"{len(left) - SHOWN} more"] * (len(left) > SHOWN))
            said.append(
                f"a process of study {name!r} died ({death}) and left {units}; the next call goes on from there"
            )
        super().__init__("; ".join([*said, "all others are stored"]))
        self.failures = failures


@dataclass(frozen=True)
class Unit:
    """One run, picklable by the name of its function: calling it seeds everything and returns the result.

    Args:
        run: "package.module:function".
        settings: keyword arguments of the function, as JSON has them (lists, not tuples).
        seed: its argument `seed`.
    """

    run: str
    settings: Mapping[str, Any]
    seed: int

    def __str__(self) -> str:
        return f"seed {self.seed}, settings {json.dumps(self.settings)}"

    @property
    def key(self) -> str:
        """What tells this run from the others of its study."""
        return _key(self.settings, self.seed)

    def __call__(self) -> Any:
        """The result of the run, the same whatever ran before in this process."""
        seed_everything(self.seed)
        return _plain(_function(self.run)(seed=self.seed, **self.settings), f"the result of {self.run}")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A function measured over a grid of settings and seeds.

    Args:
        name: of the results file, in small letters, digits and underscores.
        run: (seed, **settings) → a result that JSON can hold; a function of a module, or "package.module:function".
        grid: setting → list of values (all combinations), or an explicit list of settings. Without one: no settings.
        seeds: each setting is run with each of them; the whole grid with the first seed comes first.
        minutes: what the whole is planned to take on two cores.
        about: one sentence for the run cards and the list of studies.
        reads: files or folders below `data/` that the result depends on.

    Raises:
        ValueError: a name, function or grid that does not fit, or a run that stands in the grid twice.
    """

    name: str
    run: str | Callable[..., Any]
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] = field(default_factory=dict)
    seeds: Sequence[int]
    minutes: float
    about: str
    reads: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z0-9_]+", self.name):
            raise ValueError(f"a study's name has small letters, digits and underscores only, not {self.name!r}")
        object.__setattr__(self, "run", _named(self.run))
        keys = [unit.key for unit in self.units]
        if len(set(keys)) < len(keys):
            raise ValueError(f"study {self.name!r} has a run twice: each value and each seed has to stand in it once")

    @property
    def units(self) -> list[Unit]:
        """All runs of the study."""
        settings = self.grid
        if isinstance(settings, Mapping):
            settings = [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
        plain = [_plain(one, f"a setting of study {self.name!r}") for one in settings]
        return [Unit(str(self.run), one, seed) for seed in self.seeds for one in plain]

    def stored(self, folder: str | Path | None = None) -> list[Row]:
        """The stored rows of this grid, stale ones too, in the order of `units`."""
        rows = _by_key(results_file(self.name, folder))
        return [rows[unit.key] for unit in self.units if unit.key in rows]

    def stale(self, folder: str | Path | None = None) -> list[Row]:
        """The stored rows of this grid that were made with other code, or from other data, than there is now."""
        hashes = self._hashes()
        return [row for row in self.stored(folder) if not _made_with(row, hashes)]

    def execute(
        self, folder: str | Path | None = None, progress: bool = True, refresh: bool = False, jobs: int = 1
    ) -> list[Row]:
        """Does every run that is not stored yet, stores each as soon as it ends, and returns all rows of the grid.

        Stop it whenever you like: the next call goes on. A run that raises does not keep the others from being done. In a
        process of `accelerate launch` it does this process's share, and returns what all of them have stored so far.

        Args:
            folder: of the results file; by default the kit's `data/results`.
            progress: show a bar with what is left.
            refresh: do stale runs again as well, and replace their rows.
            jobs: how many processes of this machine share the runs, each with its part of the cores; with 1, this process.

        Raises:
            StudyError: runs have raised, or processes have died, said after all others were done.
            ValueError: the jobs do not fit.
        """
        file, hashes, here = results_file(self.name, folder), self._hashes(), workers.place()
        if here.world > 1:
            if jobs > 1:
                advice = f"give `--num_processes {here.world * jobs}` to the launcher instead"
                raise ValueError(f"{jobs} jobs in each of {here.world} launched processes: expected one; {advice}")
            workers.settle(here.local, here.beside)
        wanted, total = self._wanted(file, hashes, refresh), len(self.units)
        mine = [unit for unit in here.share(self.units) if unit in wanted]
        do = partial(self._do, file=file, hashes=hashes, refresh=refresh)
        hidden = not progress or here.rank > 0
        with tqdm(desc=self.name, total=total, initial=total - len(wanted), unit="run", disable=hidden) as bar:
            failures = workers.run_all(
                do, mine, jobs, lambda: bar.update(total - len(self._wanted(file, hashes, refresh)) - bar.n)
            )
        if failures:
            raise StudyError(self.name, failures) from failures[0][1]
        return self.stored(folder)

    def _do(self, unit: Unit, file: Path, hashes: Mapping[str, str], refresh: bool) -> None:
        """Does a run and stores its row, unless another process has done so meanwhile."""
        if unit in self._wanted(file, hashes, refresh):
            _store(file, self._measured(unit, hashes), replace=refresh)

    def _wanted(self, file: Path, hashes: Mapping[str, str], refresh: bool) -> list[Unit]:
        """The runs that are not stored; where stale ones are refreshed, those too."""
        kept = {key for key, row in _by_key(file).items() if not refresh or _made_with(row, hashes)}
        return [unit for unit in self.units if unit.key not in kept]

    def _measured(self, unit: Unit, hashes: Mapping[str, str]) -> Row:
        began = time.perf_counter()
        row: Row = {"settings": unit.settings, "seed": unit.seed, "result": unit()}
        seconds = time.perf_counter() - began
        planned = {"study": self.name, "about": self.about, "minutes": self.minutes}
        planned |= {"settings": unit.settings, "seed": unit.seed}
        return {**row, "card": run_card(planned, hashes, seconds)}

    def _hashes(self) -> dict[str, str]:
        return {"data_hash": data_hash(self.reads), "code_hash": code_hash(str(self.run))}


def results_file(name: str, folder: str | Path | None = None) -> Path:
    """Where the results of a study are stored: `data/results/<name>.jsonl`, or in the folder given."""
    return (fetching.data_folder() / "results" if folder is None else Path(folder)) / f"{name}.jsonl"


def load(name: str, folder: str | Path | None = None) -> list[Row]:
    """The stored rows of a study, without running anything.

    Raises:
        FileNotFoundError: nothing is stored.
    """
    file = results_file(name, folder)
    if not file.exists():
        command = f"python -m safealign_lab study {name}"
        raise FileNotFoundError(f"There is no {file} with results of study {name!r}; make them with `{command}`.")
    return _read(file)[0]


def select(rows: Sequence[Row], **settings: Any) -> list[Row]:
    """The rows with these settings (`seed` may be one of them).

    Raises:
        ValueError: no row has a setting of that name.
    """
    flat = [{**row["settings"], "seed": row["seed"]} for row in rows]
    unknown = settings.keys() - set().union(*flat)
    if unknown:
        raise ValueError(f"no row has the setting {', '.join(sorted(unknown))}; there are {sorted(set().union(*flat))}")
    wanted = _plain(settings, "a setting").items()
    return [row for row, has in zip(rows, flat, strict=True) if wanted <= has.items()]


def _read(file: Path) -> tuple[list[Row], bytes]:
    """The rows of a results file, and what stands after its last line end: torn by a kill, or still being written."""
    *lines, torn = (file.read_bytes() if file.exists() else b"").split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            advice = "take the line out and run the study again"
            raise ValueError(f"line {number} of {file} is not JSON ({error}): {advice}") from error
    return rows, torn


def _store(file: Path, row: Row, replace: bool) -> None:
    """Adds a row; where its key is stored already, that row is replaced or stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        rows, torn = _read(file)
        if torn:
            _write(file.with_name(f"{file.name}.damaged"), "ab", torn + b"\n")
            os.truncate(file, file.stat().st_size - len(torn))
        stored, key = {_key(old["settings"], old["seed"]): old for old in rows}, _key(row["settings"], row["seed"])
        if key not in stored:
            _write(file, "ab", _line(row))
        elif replace:
            partial = file.with_name(f"{file.name}.partial")
            _write(partial, "wb", b"".join(_line(each) for each in (stored | {key: row}).values()))
            os.replace(partial, file)


def _write(file: Path, mode: str, data: bytes) -> None:
    with file.open(mode) as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _line(row: Row) -> bytes:
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def _key(settings: Mapping[str, Any], seed: int) -> str:
    return json.dumps([settings, seed], sort_keys=True)


def _made_with(row: Row, hashes: Mapping[str, str]) -> bool:
    return all(row["card"].get(name) == value for name, value in hashes.items())


def _by_key(file: Path) -> dict[str, Row]:
    return {_key(row["settings"], row["seed"]): row for row in _read(file)[0]}


def _plain(value: Any, what: str) -> Any:
    """The value as it comes back from JSON, so that what is run, stored and compared is one."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        advice = "use finite numbers, text, lists and dicts"
        raise ValueError(f"{what} cannot be stored as strict JSON ({error}): {advice}") from error


def _named(run: str | Callable[..., Any]) -> str:
    """A function as "package.module:function", which other processes can import as well."""
    if isinstance(run, str):
        if not re.fullmatch(r"[\w.]+:\w+", run):
            raise ValueError(f"a run is named as 'package.module:function', not {run!r}")
        return run
    name = f"{run.__module__}:{run.__qualname__}"
    if "<" in name or "." in run.__qualname__:
        raise ValueError(f"{name} cannot be imported by its name: define it at the top level of a module")
    return name


def _function(run: str) -> Callable[..., Any]:
    module, _, name = run.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
