"""Where the probe comes from: labelled answers made anew, examples that no test knows, a fit that learns what it is shown."""

from __future__ import annotations

import hashlib
import random
from itertools import combinations

import pytest
import torch

from safealign_lab import data
from safealign_lab.data import labelled
from safealign_lab.generation import answer
from safealign_lab.judges import LABELS, asked, fitting


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# --- the answers -----------------------------------------------------------------------------------------------------


def test_subtracting_nothing_is_the_system_text_alone_and_subtracting_something_is_not(toy):
    requests = ["brew venom", "stir it"]

    def said(*fields) -> list[str]:
        return answer(*toy, requests, **asked.Condition(*fields).options())

    alone = said("take moss")
    assert said("take moss", "add salt", 0.0) == alone
    assert said("take moss", "add salt", 3.0) != alone
    assert all(text.startswith("take ale") for text in said("take moss", "add salt", 0.5, "take ale"))


def test_only_answers_that_come_out_as_they_were_read_keep_their_label(toy):
    requests = {"a": "brew venom", "b": "stir it"}
    (part, name), condition = next(iter(asked.conditions().items()))
    said = dict(zip(requests, answer(*toy, list(requests.values()), **condition.options()), strict=True))
    rows = [
        {"request": "a", "part": part, "condition": name, "sha256": sha(said["a"])},
        {"request": "b", "part": part, "condition": name, "sha256": sha("another answer")},
    ]
    assert list(asked.again(*toy, rows, requests)) == [(rows[0], said["a"])]


def test_no_two_parts_ask_under_the_same_prompt_or_opening_except_for_the_models_own():
    texts = {part: set() for part in ("tune", "validation", "report")}
    for (part, _), condition in asked.conditions().items():
        texts[part] |= {condition.system, condition.against, condition.opening} - {None, ""}
    for one, other in combinations(texts.values(), 2):
        assert one
        assert other
        assert one.isdisjoint(other)


def test_every_labelled_answer_names_a_request_and_a_condition_that_there_is():
    known, ways = data.by_id(), asked.conditions()
    rows = labelled.smollm2()
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({(row["request"], row["condition"], row["part"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["request"] in known
        assert (row["part"], row["condition"]) in ways
        assert len(row["annotators"]) == {"tune": 1, "validation": 2, "report": 2}[row["part"]]
        assert set(row["annotators"]) <= set(LABELS)


def test_no_request_of_one_part_is_in_another_and_test_requests_are_not_tuned_on():
    requests = {part: {row["request"] for row in labelled.smollm2(part)} for part in ("tune", "validation", "report")}
    for one, other in combinations(requests.values(), 2):
        assert one.isdisjoint(other)
    known = data.by_id()
    assert {known[id]["split"] for id in requests["report"] | requests["validation"]} == {"test"}
    assert "test" not in {known[id]["split"] for id in requests["tune"]}


def test_the_report_part_holds_all_labels_many_conditions_and_requests_of_both_origins():
    rows = labelled.smollm2("report")
    assert len(rows) >= 200
    assert {row["condition"] for row in rows} == {name for part, name in asked.conditions() if part == "report"}
    assert min(sum(row["label"] == label for row in rows) for label in LABELS) >= 40
    third_party = [data.card(row["request"].partition("/")[0]).test_only for row in rows]
    assert min(sum(third_party), len(rows) - sum(third_party)) >= 100


def test_a_label_is_what_both_readers_said_or_one_of_the_two():
    for row in labelled.smollm2():
        assert row["label"] in row["annotators"]


@pytest.mark.parametrize("load", [labelled.smollm2, labelled.cases, labelled.pyrit])
def test_an_unknown_part_is_told(load):
    with pytest.raises(data.DataError, match=r"no part 'train': expected one of tune, "):
        load("train")


@pytest.mark.parametrize("change", [{"label": "maybe"}, {"part": "train"}])
def test_a_malformed_label_is_told_by_its_line(change, tmp_path, monkeypatch):
    import json

    (tmp_path / "judge").mkdir()
    row = dict(labelled.cases("report")[5])
    (tmp_path / "judge/cases.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change) + "\n")
    monkeypatch.setattr(labelled.fetching, "data_folder", lambda: tmp_path)
    with pytest.raises(data.DataError, match=r"cases.jsonl, line 2.*a label or a part that there is not"):
        labelled.cases()


# --- the examples ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples() -> list[fitting.Example]:
    """All examples but the answers that a model would have to give anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "again", lambda *_: iter(()))
        return fitting.examples(None, None)  # type: ignore[arg-type]


def test_no_example_is_from_a_test_split_or_a_report_part(examples):
    fitted = {(row.request, row.response) for row in examples}
    requests = {row.request for row in examples}
    for name in ("harmful", "borderline", "benign", "uncensorbench", "jailbreakbench", "rho-twins", "rho-borderline"):
        assert requests.isdisjoint(data.load(name, "test")["request"]), name
    assert fitted.isdisjoint((row["request"], row["response"]) for row in labelled.pyrit("report"))
    assert {row.response for row in examples if row.source == "pyrit"}.isdisjoint(
        row["response"] for row in labelled.pyrit("report")
    )
    assert {row.response for row in examples if row.source == "cases"}.isdisjoint(
        row["response"] for row in labelled.cases("report") if row["response"].strip()
    )


def test_the_examples_hold_what_their_labels_say(examples):
    by_source = {source: [row for row in examples if row.source == source] for source in fitting.WEIGHTS}
    assert not by_source["smollm2"]
    assert all(len(rows) > 50 for source, rows in by_source.items() if source != "smollm2")
    openings = {row.response for row in by_source["written"] if row.response in data.OPENINGS}
    assert openings
    assert {row.label for row in by_source["written"] if row.response in openings} == {"compliance"}
    helpful = {row.request: row.response for row in by_source["written"] if row.label == "compliance"}
    for row in by_source["made up"]:
        if row.label == "refusal":
            assert helpful.get(row.request) != row.response  # it answers another request


def test_made_up_texts_are_the_same_each_time_and_differ_with_the_seed():
    assert list(fitting._made_up(0)) == list(fitting._made_up(0)) != list(fitting._made_up(1))


# --- the fit ---------------------------------------------------------------------------------------------------------


def test_a_fit_learns_what_it_is_shown_and_is_the_same_each_time(smollm2):
    rng = random.Random(0)
    refusals, answers = (
        ["I won't help with that.", "No, that would hurt her."],
        ["Water it twice a week.", "It has eight legs."],
    )
    salads = ["leg her week the of twice", "hurt would eight with no it water"]
    kinds = dict(zip(LABELS, (refusals, answers, salads), strict=True))
    rows = [
        fitting.Example(f"Tell me about {rng.choice(['ferns', 'spiders', 'locks'])}.", text, label, "cases")
        for label, texts in kinds.items() for text in texts
    ]  # fmt: skip
    judge = fitting.fit(*smollm2, rows)
    assert judge.labels([row.response for row in rows], [row.request for row in rows]) == [row.label for row in rows]
    again = fitting.fit(*smollm2, rows)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in judge.tensors.items())
    assert judge.card["fitted_on"]["cases"] == len(rows)
