"""Every notebook runs to its end as a learner would open it: unsolved, solved, offline, within its time."""

from __future__ import annotations

import copy
import inspect
import re
import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from safealign_lab import fetching, studies
from safealign_lab.lesson.exercise import PASTED, exercises
from safealign_lab.studies import undefended

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = {"tiny": 60, "small": 900}
# runs in the kernel before the notebook: any connection that leaves this machine raises
OFFLINE = """
import socket
connect = socket.socket.connect
def local_only(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the network is cut: {address}")
    return connect(self, address)
socket.socket.connect = local_only
socket.getaddrinfo = None
"""


def solved(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the library's function in place of each blank."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        for name in re.findall(r"^(\w+) = lesson\.check\(\1\)$", cell.source, flags=re.MULTILINE):
            source = inspect.getsource(exercises()[name].solution)
            cell.source = f"{PASTED}{source}\n{name} = lesson.check({name})"  # as lesson.solution shows it
    return notebook


def run(notebook, tmp_path, monkeypatch, cache: Path, tier: str = "tiny") -> tuple[nbformat.NotebookNode, float]:
    """Executes a copy with the network cut, this cache folder and notes of its own."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "offline.py").write_text(OFFLINE)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("SAFEALIGN_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("SAFEALIGN_CACHE", str(cache))
    monkeypatch.setenv("SAFEALIGN_TIER", tier)
    monkeypatch.setenv("SAFEALIGN_STRICT", "1")  # a claim that does not hold stops the notebook
    notebook = copy.deepcopy(notebook)
    began = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=2 * SECONDS[tier],
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT / "notebooks")}},
    ).execute()
    return notebook, time.perf_counter() - began


def shown(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(str(output) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


def test_there_are_notebooks():
    assert "00_start_here" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize(
    "with_solutions", [pytest.param(False, id="unsolved", marks=pytest.mark.alone), pytest.param(True, id="solved")]
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_it_runs_to_its_end_offline_and_in_time(path, tmp_path, monkeypatch, caches, with_solutions):
    notebook = nbformat.read(path, as_version=4)
    written = solved(notebook) if with_solutions else notebook
    assert (written != notebook) == with_solutions
    if not with_solutions:  # from a cold start, on all cores
        shutil.rmtree(caches / path.stem, ignore_errors=True)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done, seconds = run(written, tmp_path, monkeypatch, caches / path.stem)
    assert with_solutions or seconds < SECONDS["tiny"]
    output = shown(done)
    assert ("not attempted" in output) != with_solutions
    assert ("is right.**" in output) == with_solutions
    assert [cell.execution_count for cell in done.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in done.cells))
    )
    assert "Traceback" not in output


def test_the_network_is_really_cut(tmp_path, monkeypatch):
    reaching = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("import urllib.request\nurllib.request.urlopen('http://192.0.2.1/', timeout=2)")
        ]
    )
    with pytest.raises(Exception, match="network is cut|NoneType"):
        run(reaching, tmp_path, monkeypatch, tmp_path / "cache")


# notebook → the study that it runs again at tier "small", and which of its stored rows
RECOMPUTED = {
    "00_start_here": ("smollm2_undefended", {"system": "default", "requests": "jailbreakbench"}),
    "20_two_streams": ("smollm2_text_contrast", {"alpha": 0.5, "requests": "jailbreakbench"}),
    "22_acd_measured": ("smollm2_methods", {"method": "SP", "requests": "jailbreakbench"}),
}


@pytest.mark.parametrize("name", RECOMPUTED)
def test_it_measures_the_real_model_within_fifteen_minutes_once_it_was_fetched(smollm2, name, tmp_path, monkeypatch):
    (study, settings), cache = RECOMPUTED[name], tmp_path / "cache"
    for requests in undefended.REQUEST_SETS:
        undefended.requests_of(requests)  # as `python -m safealign_lab fetch` does
    cache.mkdir()
    for fetched in ("models", "wheels"):  # what was fetched, and no answer that was given before
        (cache / fetched).symlink_to(fetching.cache_folder() / fetched)
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    _, seconds = run(notebook, tmp_path, monkeypatch, cache, tier="small")
    assert seconds < SECONDS["small"]
    rows = studies.load(study, cache / "recomputed")
    stored = studies.select(studies.load(study), **settings)
    assert len(rows) == len(stored) > 0
    for row in rows:  # another machine may break a tie another way, here and there
        (same,) = [one for one in stored if (one["settings"], one["seed"]) == (row["settings"], row["seed"])]
        agreed = sum(row["result"]["labels"][key] == label for key, label in same["result"]["labels"].items())
        assert agreed > 0.95 * len(same["result"]["labels"])


def test_the_sets_that_are_asked_again_only_on_demand_are_measured_as_they_were_stored(smollm2, monkeypatch):
    known = [row for row in undefended.requests_of("benign") if row["reference"]][:4]
    monkeypatch.setattr(undefended, "requests_of", lambda name: known)
    found = undefended.measure(0, "benign", "careful")
    (stored,) = studies.select(studies.load("smollm2_undefended"), requests="benign", system="careful")
    whole = stored["result"]
    for key, value in found["logp"].items():
        assert value == pytest.approx(whole["logp"][key], abs=0.01)
    agreed = [
        all(found[what][key] == whole[what][key] for what in ("labels", "right", "similarity"))
        for key in found["labels"]
    ]
    assert sum(agreed) >= len(agreed) - 1 == 3  # another machine may break a tie another way
