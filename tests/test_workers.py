"""Many processes for one study: the same rows as one makes, and nothing lost but the run that a dead one was in."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from safealign_lab import __main__ as commands
from safealign_lab import fetching
from safealign_lab.studies import Study, StudyError, catalogue, workers

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no".split()
LAUNCH += "--dynamo_backend no --main_process_port 0".split()


# --- runs, of this module, so that other processes can import them -----------------------------------


def meets(seed: int, n: int, folder: str) -> dict:
    """The first two runs wait for each other at a named pipe, so one process alone would never end."""
    meeting = Path(folder) / "meeting"
    if n < 2 and meeting.exists():
        meeting.open("rw"[n]).close()
    return {"n": n, "chance": [random.random(), torch.rand(1).item()]}


def mortal(seed: int, n: int, folder: str) -> dict:
    """The second run raises; the fourth kills its process, the first time only."""
    if n == 1:
        raise ZeroDivisionError(f"no luck with {n}")
    if n == 3 and not (Path(folder) / "killed").exists():
        (Path(folder) / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"n": n, "chance": torch.rand(2).tolist()}


def held(seed: int, n: int, folder: str) -> dict:
    """All runs but the first say their process's number and then never end."""
    if n:
        with (Path(folder) / "held").open("w") as pipe:
            print(os.getpid(), file=pipe)
        (Path(folder) / "never").open().close()
    return {"n": n}


def launched(seed: int, n: int, folder: str) -> dict:
    """Rank 1 is killed in its second run, the first time only; the runs of the study "bad" raise in rank 1 alone."""
    if folder == "bad" and n % 2:
        raise ZeroDivisionError(f"no luck with {n}")
    return {**mortal(seed, n + 10 if n == 1 else n, folder), "n": n}


def study(run, folder: Path, n: int, name: str = "trial") -> Study:
    grid = {"n": list(range(n)), "folder": [str(folder)]}
    return Study(name=name, run=run, grid=grid, seeds=(0,), minutes=1, about="A trial.")


def main(run: str, folder: str, *arguments: str) -> int:
    """The commands over a catalogue of this module's studies, as another process calls it."""
    trial = study(f"{__name__}:{run}", Path(folder), 6)
    sys.modules[__name__].STUDIES = (study(f"{__name__}:launched", Path("bad"), 2, "bad"), trial)
    catalogue.MODULES = (__name__,)
    fetching.data_folder = lambda: Path(folder)
    return commands.main(["study", *arguments])


SCRIPT = "import sys, test_workers\nif __name__ == '__main__':\n    sys.exit(test_workers.main(*sys.argv[1:]))\n"


def begin(folder: Path, *command: str) -> subprocess.Popen:
    (folder / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, start_new_session=True, **pipes)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


# --- workers of one machine --------------------------------------------------------------------------


def test_two_workers_at_once_make_the_same_rows_as_one_process(tmp_path: Path, capsys) -> None:
    os.mkfifo(tmp_path / "meeting")
    trial, before = study(meets, tmp_path, 5), dict(os.environ)
    rows = trial.execute(tmp_path, jobs=2)
    (tmp_path / "meeting").unlink()
    assert [row["result"] for row in rows] == [unit() for unit in trial.units]
    assert sorted(row["settings"]["n"] for row in lines(tmp_path / "trial.jsonl")) == list(range(5))
    assert {row["card"]["threads"] for row in rows} == {max(1, CORES // 2)}
    assert "trial: 100%" in capsys.readouterr().err
    assert dict(os.environ) == before
    assert trial.execute(tmp_path, jobs=2) == rows


def test_a_dead_worker_loses_only_its_run_and_the_next_call_does_it(tmp_path: Path) -> None:
    trial = study(mortal, tmp_path, 6)
    with pytest.raises(StudyError) as caught:
        trial.execute(tmp_path, progress=False, jobs=2)
    first, second = (f"seed 0, settings {json.dumps(trial.units[n].settings)}" for n in (1, 3))
    assert str(caught.value) == (
        f"1 of the runs of study 'trial' failed (first {first}: ZeroDivisionError: no luck with 1); a process of study "
        f"'trial' died (signal 9, Killed, as where memory runs out) and left {second}; the next call goes on from there; "
        "all others are stored"
    )
    failed = [(unit.settings["n"], type(error)) for unit, error in caught.value.failures]
    assert failed == [(1, workers.RunError), (3, workers.WorkerDied)]
    assert "in mortal" in str(caught.value.failures[0][1].__cause__)
    assert sorted(row["settings"]["n"] for row in lines(tmp_path / "trial.jsonl")) == [0, 2, 4, 5]
    with pytest.raises(StudyError, match="1 of the runs of study 'trial' failed"):
        trial.execute(tmp_path, progress=False, jobs=2)
    rows = trial.stored(tmp_path)
    assert [row["result"] for row in rows] == [unit() for unit in trial.units if unit.settings["n"] != 1]


def test_ctrl_c_stops_all_workers_and_keeps_what_is_finished(tmp_path: Path) -> None:
    for name in ("held", "never"):
        os.mkfifo(tmp_path / name)
    process = begin(tmp_path, "script.py", "held", str(tmp_path), "trial", "--jobs", "2")
    with os.fdopen(os.open(tmp_path / "held", os.O_RDWR)) as pipe:  # read and write, so that it never ends
        numbers = [int(pipe.readline()) for _ in range(2)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them at once
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("Stopped; what was finished is kept")
    assert "Traceback" not in said
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)
    assert [row["settings"]["n"] for row in lines(tmp_path / "results/trial.jsonl")] == [0]


def test_what_workers_cannot_do_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are 0 jobs: expected a whole number of at least 1"):
        study(meets, tmp_path, 2).execute(tmp_path, jobs=0)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "measure", meets, raising=False)
    with pytest.raises(ValueError, match="__main__:measure lives in a notebook or a shell, .* put it into a module"):
        study("__main__:measure", tmp_path, 2).execute(tmp_path, progress=False, jobs=2)


def test_a_script_that_does_not_guard_its_start_is_told_so(tmp_path: Path) -> None:
    call = "test_workers.study('test_workers:meets', FOLDER, 3).execute(FOLDER, progress=False, jobs=2)"
    (tmp_path / "bare.py").write_text(f"import test_workers\n{call.replace('FOLDER', repr(str(tmp_path)))}\n")
    _, said = begin(tmp_path, "bare.py").communicate(timeout=300)
    assert "exit code 1, before its first run; a script has to do this under `if __name__ ==" in said.splitlines()[-1]
    assert not (tmp_path / "trial.jsonl").exists()


def test_every_study_of_the_kit_can_go_to_workers(tmp_path: Path) -> None:
    for planned in catalogue.catalogue().values():
        do = partial(planned._do, file=tmp_path / "x.jsonl", hashes={}, refresh=False)
        assert pickle.loads(pickle.dumps(do)).func.__self__.units == planned.units  # noqa: S301 (of its own making)


# --- processes that a launcher has started -----------------------------------------------------------


def test_the_place_among_launched_processes() -> None:
    assert workers.place({}) == workers.place({"RANK": "0"}) == workers.Place()
    one = {"RANK": "5", "WORLD_SIZE": "6", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert workers.place(one) == workers.Place(rank=5, world=6, local=1, beside=2)
    for wrong in ({"RANK": "6"}, {"WORLD_SIZE": "two"}, {"RANK": "-1"}, {"LOCAL_RANK": "2"}):
        with pytest.raises(ValueError, match="expected whole numbers with RANK < WORLD_SIZE") as caught:
            workers.place({**one, **wrong})
        assert "{}={!r}".format(*next(iter(wrong.items()))) in str(caught.value)


def test_each_run_falls_to_one_place(tmp_path: Path) -> None:
    units = study(meets, tmp_path, 7).units
    for world in range(1, 10):
        shares = [workers.Place(rank=rank, world=world).share(units) for rank in range(world)]
        assert sorted(unit.settings["n"] for share in shares for unit in share) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_launched_process_does_its_share_and_takes_no_jobs(tmp_path: Path, monkeypatch, capsys) -> None:
    threads = torch.get_num_threads()
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    try:
        rows = study(meets, tmp_path, 7).execute(tmp_path)
        assert torch.get_num_threads() == max(1, CORES // 3)
    finally:
        torch.set_num_threads(threads)
    assert [row["settings"]["n"] for row in rows] == [1, 4]
    assert capsys.readouterr().err == ""  # the bar is the first process's
    with pytest.raises(
        ValueError, match="2 jobs in each of 3 launched processes: expected one; give `--num_processes 6`"
    ):
        study(meets, tmp_path, 7).execute(tmp_path, jobs=2)


def test_a_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, threads = [], torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for number in range(3):
        workers.settle(number, beside=3)
    torch.set_num_threads(threads)
    assert chosen == [0, 1, 0]


def test_launched_processes_wait_for_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    workers.wait_for_others(workers.Place())
    workers.wait_for_others(workers.Place(rank=1, world=3))  # with no meeting point
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    places = [workers.Place(rank=rank, world=3) for rank in range(3)]
    early = [threading.Thread(target=workers.wait_for_others, args=[place], daemon=True) for place in places[:2]]
    for thread in early:
        thread.start()
    early[0].join(timeout=0.5)
    assert all(thread.is_alive() for thread in early)
    workers.wait_for_others(places[2])
    for thread in early:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in early)


def test_accelerate_shares_a_study_out_and_a_killed_process_loses_only_its_run(tmp_path: Path) -> None:
    command = [*LAUNCH, "script.py", "launched", str(tmp_path), "--all"]
    file = tmp_path / "results/trial.jsonl"
    first = begin(tmp_path, *command)
    first.communicate(timeout=300)
    assert first.returncode
    kept = [row["settings"]["n"] for row in lines(file)]
    assert 1 in kept
    assert 3 not in kept
    again = begin(tmp_path, *command)
    out, said = again.communicate(timeout=300)
    assert again.returncode == 1  # for the study "bad", which kept nobody from anything
    assert [line for line in out.splitlines() if "stored" in line] == [
        "bad: 1 of 2 runs stored; about 1 minutes in all. A trial.",
        "trial: 6 of 6 runs stored; about 1 minutes in all. A trial.",
    ]
    assert said.count("bad: 1 of the runs of study 'bad' failed (first seed 0") == 1
    assert sorted(row["settings"]["n"] for row in lines(file)) == list(range(6))
    trial = study(launched, tmp_path, 6)
    assert [row["result"] for row in trial.stored(file.parent)] == [unit() for unit in trial.units]
