"""Studies: every run is stored once, whatever is killed, raised, run twice or run at the same time."""

from __future__ import annotations

import inspect
import json
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safealign_lab import fetching
from safealign_lab.studies import (
    Study,
    StudyError,
    cards,
    catalogue,
    code_hash,
    data_hash,
    load,
    results_file,
    select,
    undefended,
)

ROOT = Path(__file__).resolve().parent.parent
ran: list[tuple[int, dict]] = []  # what `measure` was called with, in this process


def measure(seed: int, **settings: object) -> dict:
    ran.append((seed, settings))
    return {"seed": seed, "twice": 2 * seed, "settings": settings}


def picky(seed: int, mode: str) -> dict:
    if mode == "nan":
        return {"value": math.nan}
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "raise":
        raise ZeroDivisionError(f"no luck with {seed}")
    return {"value": mode}


def overtaken(seed: int, n: int, folder: str) -> dict:
    """The first run; while it lasts, another process does the third."""
    ran.append((seed, {"n": n}))
    if n == 0:
        study(overtaken, grid={"n": [2], "folder": [folder]}, seeds=(0,)).execute(folder, progress=False)
    return {"n": n}


def chance(seed: int, mode: str = "") -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


@pytest.fixture(autouse=True)
def _forget():
    ran.clear()


def study(run=measure, **changes) -> Study:
    plan = {"name": "trial", "grid": {"alpha": [0.0, 0.5], "mode": ["a", "b", "c"]}, "seeds": (0, 1), "minutes": 1}
    return Study(run=run, about="A trial.", **{**plan, **changes})


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "trial.jsonl").read_text().splitlines()]


# --- the grid ----------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)),
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=40)
def test_units_are_all_combinations(grid: dict, seeds: list[int]) -> None:
    expected = []
    for seed in seeds:  # a slow loop: one digit for each setting
        for number in range(math.prod(len(values) for values in grid.values())):
            chosen = {}
            for name, values in reversed(grid.items()):
                number, digit = divmod(number, len(values))
                chosen[name] = values[digit]
            expected.append((seed, chosen))
    assert [(unit.seed, unit.settings) for unit in study(grid=grid, seeds=seeds).units] == expected


def test_a_grid_can_be_a_list_of_settings_or_left_out() -> None:
    some = [{"alpha": 0.0}, {"alpha": 0.5, "mode": "b"}]
    assert [unit.settings for unit in study(grid=some, seeds=(7,)).units] == some
    assert [unit.settings for unit in Study(name="one", run=measure, seeds=(0,), minutes=1, about="").units] == [{}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../trial"}, "name"), ({"name": "Trial"}, "name"), ({"seeds": (0, 0)}, "twice"),
        ({"grid": {"a": [1, 1]}}, "twice"), ({"grid": [{"a": (1,)}, {"a": [1]}]}, "twice"),
        ({"run": "somewhere.measure"}, "package.module:function"), ({"run": lambda seed: {}}, "top level"),
        ({"grid": {"a": [math.nan]}}, "strict JSON"), ({"grid": {"a": [Path("x")]}}, "strict JSON"),
    ],
)  # fmt: skip
def test_a_study_that_does_not_fit(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        study(**changes)
    assert "\n" not in str(caught.value)


def test_a_unit_is_picklable_by_name_and_free_of_what_ran_before() -> None:
    by_function, by_name = study(chance), study("tests.test_studies:chance")
    assert by_function.run == f"{chance.__module__}:chance"
    unit = pickle.loads(pickle.dumps(study(chance, grid={}).units[0]))  # noqa: S301 (of this test's own making)
    first, second = unit(), unit()
    assert first == second
    assert len({str(u()) for u in study(chance, grid={}, seeds=(0, 1, 2)).units}) == 3
    assert [u.key for u in by_name.units] == [u.key for u in by_function.units]


# --- running and storing -----------------------------------------------------------------------------


def test_each_run_is_stored_with_its_card_and_done_once(tmp_path: Path) -> None:
    rows = study().execute(tmp_path, progress=False)
    assert len(ran) == 12
    assert rows == lines(tmp_path) == load("trial", tmp_path) == study().stored(tmp_path)
    for row, unit in zip(rows, study().units, strict=True):
        assert row["result"] == {"seed": unit.seed, "twice": 2 * unit.seed, "settings": unit.settings}
        assert (row["settings"], row["seed"]) == (unit.settings, unit.seed)
    card = rows[3]["card"]
    assert (card["study"], card["about"], card["minutes"]) == ("trial", "A trial.", 1)
    assert (card["settings"], card["seed"]) == (rows[3]["settings"], 0)
    assert set(card["versions"]) == {"python", "safealign_lab", "torch", "transformers", "peft", "datasets", "numpy"}
    assert card["versions"]["torch"] == torch.__version__
    assert card["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (card["code_hash"], card["data_hash"]) == (code_hash(str(study().run)), "")
    assert (card["device"] == "cpu") == (not torch.cuda.is_available())
    assert card["threads"] == torch.get_num_threads()
    assert 0 <= card["seconds"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", card["date"])
    before = (tmp_path / "trial.jsonl").read_bytes()
    assert study().execute(tmp_path, progress=False) == rows
    assert len(ran) == 12
    assert (tmp_path / "trial.jsonl").read_bytes() == before


def test_a_grown_grid_runs_only_what_is_new(tmp_path: Path) -> None:
    study(seeds=(0,)).execute(tmp_path, progress=False)
    ran.clear()
    rows = study(grid={"alpha": [0.5, 1.0], "mode": ["a"]}).execute(tmp_path, progress=False)
    assert sorted((seed, chosen["alpha"]) for seed, chosen in ran) == [(0, 1.0), (1, 0.5), (1, 1.0)]
    assert len(rows) == 4
    assert len(lines(tmp_path)) == 6 + 3  # what is no longer in the grid stays


@given(whole=st.integers(0, 11), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_last_line_is_set_aside_and_run_again(whole: int, share: float, tmp_path: Path) -> None:
    file = tmp_path / "trial.jsonl"
    for old in tmp_path.iterdir():
        old.unlink()
    rows = study().execute(tmp_path, progress=False)
    written = file.read_bytes().splitlines(keepends=True)
    torn = written[whole][: int(share * len(written[whole]))]
    file.write_bytes(b"".join(written[:whole]) + torn)
    if whole:
        assert load("trial", tmp_path) == rows[:whole]
    ran.clear()
    again = study().execute(tmp_path, progress=False)
    assert len(ran) == 12 - whole
    assert [row["result"] for row in again] == [row["result"] for row in rows]
    assert again == lines(tmp_path)
    damaged = tmp_path / "trial.jsonl.damaged"
    assert (damaged.read_bytes() if damaged.exists() else b"") == (torn + b"\n" if torn else b"")


def test_a_damaged_line_in_the_middle_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    study().execute(tmp_path, progress=False)
    file = tmp_path / "trial.jsonl"
    text = file.read_text().replace('"seed": 0', '"seed": <<<', 1)
    file.write_text(text)
    for act in (lambda: load("trial", tmp_path), lambda: study().execute(tmp_path, progress=False)):
        with pytest.raises(ValueError, match=r"line 1 of .*trial.jsonl is not JSON") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert file.read_text() == text


def test_runs_that_raise_do_not_stop_the_others_and_are_raised_at_the_end(tmp_path: Path) -> None:
    grid = {"mode": ["fine", "raise", "nan", "well"]}
    with pytest.raises(StudyError, match="4 of the runs of study 'trial' failed") as caught:
        study(picky, grid=grid).execute(tmp_path, progress=False)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError: no luck with 0" in str(caught.value)
    assert "\n" not in str(caught.value)
    failed = [(unit.seed, unit.settings["mode"], type(error)) for unit, error in caught.value.failures]
    expected = [("raise", ZeroDivisionError), ("nan", ValueError)]
    assert failed == [(seed, mode, kind) for seed in (0, 1) for mode, kind in expected]
    assert "strict JSON" in str(caught.value.failures[1][1])
    assert [row["result"]["value"] for row in lines(tmp_path)] == ["fine", "well"] * 2


def test_what_another_process_did_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    grid = {"n": [0, 1, 2], "folder": [str(tmp_path)]}
    rows = study(overtaken, grid=grid, seeds=(0,)).execute(tmp_path, progress=False)
    assert [settings_["n"] for _, settings_ in ran] == [0, 2, 1]
    assert [row["result"]["n"] for row in rows] == [0, 1, 2]
    assert [row["result"]["n"] for row in lines(tmp_path)] == [2, 0, 1]


def test_stopped_by_ctrl_c_it_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(picky, grid={"mode": ["fine", "interrupt", "well"]}).execute(tmp_path, progress=False)
    assert [row["result"]["value"] for row in lines(tmp_path)] == ["fine"]
    study(grid={"mode": ["fine", "well"]}, seeds=(0,)).execute(tmp_path, progress=False)
    assert ran == [(0, {"mode": "well"})]


def test_stale_runs_are_listed_kept_and_replaced_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = study().execute(tmp_path, progress=False)
    assert study().stale(tmp_path) == []
    file = tmp_path / "trial.jsonl"
    rows = lines(tmp_path)
    rows[4]["card"]["code_hash"] = "of another day"
    rows[7]["card"]["data_hash"] = "of other data"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert study().stale(tmp_path) == [rows[4], rows[7]]
    ran.clear()
    assert study().execute(tmp_path, progress=False) == rows
    assert ran == []
    fresh = study().execute(tmp_path, progress=False, refresh=True)
    assert [(seed, chosen) for seed, chosen in ran] == [(row["seed"], row["settings"]) for row in (rows[4], rows[7])]
    assert [row["result"] for row in fresh] == [row["result"] for row in old]
    assert fresh == lines(tmp_path)  # in their old places
    assert study().stale(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"trial.jsonl", "trial.jsonl.lock"}


CHILD = """
import sys
from tests import test_studies
folder, order = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
grid = {"n": list(range(40))[::order]}
test_studies.study("tests.test_studies:slow", grid=grid, seeds=(0,)).execute(folder, progress=False)
"""


def slow(seed: int, n: int) -> dict:
    time.sleep(0.01)
    return {"n": n, "filler": "x" * 20_000, "process": os.getpid()}


def child(folder: Path, order: int) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(folder), str(order)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


def test_two_processes_at_once_lose_nothing_and_a_killed_one_neither(tmp_path: Path) -> None:
    processes = [child(tmp_path, order) for order in (1, -1)]  # one from either end of the grid
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # both start at once
        process.stdin.write("go\n")
        process.stdin.flush()
    file, workers = tmp_path / "trial.jsonl", set()
    while len(workers) < 2 and all(process.poll() is None for process in processes):
        time.sleep(0.001)
        workers = {row["result"]["process"] for row in load("trial", tmp_path)} if file.exists() else set()
    processes[0].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0]
    rows = lines(tmp_path)
    assert sorted(row["settings"]["n"] for row in rows) == list(range(40))
    assert all(row["result"]["n"] == row["settings"]["n"] for row in rows)


# --- reading -----------------------------------------------------------------------------------------


def test_load_says_how_to_make_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`python -m safealign_lab study trial`"):
        load("trial", tmp_path)
    assert results_file("trial") == fetching.data_folder() / "results" / "trial.jsonl"


def test_select_by_settings_and_seed(tmp_path: Path) -> None:
    rows = study().execute(tmp_path, progress=False)
    chosen = select(rows, alpha=0.5, seed=1)
    assert [(row["settings"]["mode"], row["seed"]) for row in chosen] == [("a", 1), ("b", 1), ("c", 1)]
    assert select(rows) == rows
    assert select(rows, mode="z") == []
    with pytest.raises(ValueError, match=r"no row has the setting alpah; there are \['alpha', 'mode', 'seed'\]"):
        select(rows, alpah=0.5)
    several = study(grid={"betas": [(0.9, 0.99), (0.8, 0.9)]}).execute(tmp_path, progress=False)
    assert [row["seed"] for row in select(several, betas=(0.8, 0.9))] == [0, 1]


# --- cards -------------------------------------------------------------------------------------------


def test_code_hash_sees_what_a_run_rests_on_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = tmp_path / "toykit"
    files = {
        "__init__.py": "", "study.py": "from .room import thing\nfrom . import judge\ndef run(seed): pass\n",
        "judge.py": "def f():\n    import toykit.deep.late\n", "room/__init__.py": "from .thing import x\n",
        "room/thing.py": "x = 1\n", "room/other.py": "x = 1\n", "deep/__init__.py": "", "deep/late.py": "x = 1\n",
        "lesson.py": "from . import study\n",
    }  # fmt: skip
    for name, text in files.items():
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cards, "KIT", "toykit")
    seen = {code_hash("toykit.study:run")}
    for name in ("lesson.py", "room/other.py"):
        (kit / name).write_text("x = 2\n")
        assert code_hash("toykit.study:run") in seen
    for name in ("room/thing.py", "deep/late.py", "judge.py", "study.py"):
        (kit / name).write_text(files[name] + "y = 2\n")
        assert code_hash("toykit.study:run") not in seen
        seen.add(code_hash("toykit.study:run"))
    (kit / "study.py").write_bytes((kit / "study.py").read_bytes().replace(b"\n", b"\r\n"))
    assert code_hash("toykit.study:run") in seen


def test_a_study_in_a_script_or_a_notebook_runs_too(tmp_path: Path) -> None:
    code = """
from safealign_lab.studies import Study
def measure(seed): return seed
print(len(Study(name="own", run=measure, seeds=(0, 1), minutes=1, about="My own.").execute("FOLDER", progress=False)))
""".replace("FOLDER", str(tmp_path))
    (tmp_path / "script.py").write_text(code)
    for arguments in (["-c", code], [str(tmp_path / "script.py")]):
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "2\n", done.stderr


def test_the_modules_that_store_results_make_none_stale() -> None:
    rested_on = cards._rests_on("safealign_lab.studies.undefended")
    assert {"safealign_lab.judges", "safealign_lab.generation", "safealign_lab.models"} <= set(rested_on)
    assert not {"safealign_lab.studies.runner", "safealign_lab.lesson", "safealign_lab.figures"} & set(rested_on)


def test_data_hash_sees_names_and_bytes_of_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "data_folder", lambda: tmp_path)
    (tmp_path / "anchors").mkdir()
    (tmp_path / "anchors/a.jsonl").write_text("a")
    (tmp_path / "anchors/b.jsonl").write_text("b")
    (tmp_path / "other.txt").write_text("c")
    folder = data_hash(["anchors"])
    assert data_hash([]) == ""
    assert folder == data_hash(["anchors/b.jsonl", "anchors/a.jsonl"]) == data_hash(["anchors", "anchors/a.jsonl"])
    assert len({folder, data_hash(["anchors/a.jsonl"]), data_hash(["anchors", "other.txt"])}) == 3
    (tmp_path / "other.txt").write_text("d")
    assert data_hash(["anchors"]) == folder
    (tmp_path / "anchors/b.jsonl").write_text("B")
    assert data_hash(["anchors"]) != folder
    with pytest.raises(FileNotFoundError, match="'missing'"):
        data_hash(["missing"])


def test_no_two_studies_of_the_kit_share_a_name() -> None:
    names = [study.name for module in catalogue.MODULES for study in import_module(module).STUDIES]
    assert sorted(names) == sorted(catalogue.catalogue())


@pytest.mark.parametrize("study", catalogue.catalogue().values(), ids=lambda study: study.name)
def test_every_run_can_be_called_as_it_stands(study: Study) -> None:
    run = inspect.signature(resolve_name(str(study.run)))
    for unit in study.units:
        run.bind(seed=unit.seed, **unit.settings)  # raises where it does not fit


def test_every_study_of_the_kit_is_stored_whole() -> None:
    found = {name: len(planned.stored()) - len(planned.units) for name, planned in catalogue.catalogue().items()}
    assert not {name for name, missing in found.items() if missing}


def test_of_a_real_model_only_labels_and_numbers_are_stored() -> None:
    for row in load("smollm2_undefended"):
        assert set(row["result"]) <= {"kind", "labels", "right", "logp", "similarity"}
        assert set(row["result"]["labels"].values()) <= {"refusal", "compliance", "incoherent"}
        for name in set(row["result"]) - {"kind"}:
            assert all(re.fullmatch(r"[a-z-]+/[\w-]+", key) for key in row["result"][name])
            assert name == "labels" or all(isinstance(value, bool | float) for value in row["result"][name].values())


def test_kinds_are_put_together_in_one_order_whatever_order_the_sets_come_in() -> None:
    results = [
        {"kind": "harmful", "labels": {"b/1": "refusal", "b/0": "compliance"}},
        {"kind": "benign", "labels": {"c/0": "incoherent"}},
        {"kind": "harmful", "labels": {"a/0": "incoherent"}},
    ]
    found = undefended.labels_by_kind(results)
    assert found == {"harmful": ["incoherent", "compliance", "refusal"], "everyday": ["incoherent"]}
    assert undefended.labels_by_kind(results[::-1]) == found
    assert undefended.shares_by_kind(results)["harmful"]["refusal"].n == 3


def test_the_stored_study_of_a_real_model_covers_every_test_request_and_right_answer() -> None:
    for row in load("smollm2_undefended"):
        asked = undefended.requests_of(row["settings"]["requests"])
        assert list(row["result"]["labels"]) == [request["id"] for request in asked]
        known = [request["id"] for request in asked if request["kind"] == "benign" and request["reference"]]
        assert list(row["result"].get("right", {})) == list(row["result"].get("logp", {})) == known
        compared = row["settings"]["system"] == "careful" and row["result"]["kind"] != "harmful"
        assert ("similarity" in row["result"]) == compared


def test_the_first_slider_shows_what_its_lesson_says() -> None:
    (row,) = load("first_contrast")
    labels = [step["label"] for step in row["result"]["steps"]]
    assert labels[0] == "compliance"
    turn = labels.index("refusal")
    assert "compliance" not in labels[turn:]
    assert row["result"]["asked"] >= row["result"]["brewed_alone"] >= row["result"]["turned"] > 0
    assert row["result"]["steps"][-1]["tokens"] != row["result"]["steps"][turn]["tokens"]
