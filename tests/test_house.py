"""The house itself: lint, types, quick import, the README's commands, and what no file may hold."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {
    "README.md",
    "requirements.txt",
    "notebooks",
    "safealign_lab",
    "tests",
    "data",
    "pyproject.toml",
    "LICENSE",
}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this copy is no git checkout, so its files cannot be told from others")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize("arguments", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]])
def test_lint_format_and_types(arguments):
    run = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.alone
def test_importing_the_kit_takes_under_half_a_second_and_nothing_heavy():
    code = (
        "import sys, safealign_lab; print(sorted({'torch', 'transformers', 'datasets', 'plotly'} & set(sys.modules)))"
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - began)
        assert run.stdout.strip() == "[]"
    assert min(seconds) < 0.5


def test_the_top_level_is_the_one_that_was_promised():
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL
    assert {name for name in names if name.startswith(".")} == {".ci", ".gitignore"}


def test_the_readme_holds_both_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install -r requirements.txt && jupyter lab notebooks/00_start_here.ipynb" in readme
    assert "pip install -r requirements.txt -r tests/requirements.txt && pytest" in readme


def test_requirements_are_ranges_and_end_in_the_kit_itself():
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[-1] == "-e ."
    assert not [line for line in lines if "==" in line]
    assert "torch>=2.6,<2.14" in lines
    assert any(line.startswith("anywidget") for line in lines)


def test_every_module_keeps_to_its_length_and_every_public_thing_is_documented():
    import ast

    for path in (ROOT / "safealign_lab").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                where = f"{path.name}:{node.lineno} {node.name}"
                assert node.name.startswith("_") or ast.get_docstring(node), where
                if not isinstance(node, ast.ClassDef):
                    doc = len((ast.get_docstring(node) or "").splitlines())
                    assert node.end_lineno - node.lineno + 1 - doc <= 60, where


def test_no_file_names_a_machine_a_registry_or_the_workshop():
    banned = re.compile(r"(?<![\w.])/(?:work|root|home)/\w|files\.pythonhosted|\.\./shared|methods\.md")
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".ipynb", ".toml", ".txt", ".json", ".jsonl"}
            and path.name != Path(__file__).name
        ):
            found = banned.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found and found.group()}"


def test_shipped_weights_stay_under_ten_megabytes():
    sizes = [path.stat().st_size for path in tracked() if path.suffix == ".safetensors"]
    assert sizes
    assert sum(sizes) < 10_000_000
