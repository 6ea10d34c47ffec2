"""The ledger: what it names is there, its estimates are those of slow loops, and it takes whatever rows are stored."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from safealign_lab.contrast import paper
from safealign_lab.immunization.tampering_studies import HARMLESS_TUNING
from safealign_lab.lesson import ledger
from safealign_lab.lesson import ledger_contrast as contrast
from safealign_lab.lesson.ledger_claims import CLAIMS, UNMEASURED, chosen, counts, entries
from safealign_lab.lesson.ledger_distillation import differences
from safealign_lab.lesson.ledger_equations import EQUATIONS
from safealign_lab.measures import difference, rate
from safealign_lab.studies import load

TESTS = Path(__file__).parent
ROOT = TESTS.parent
KNOWN = {claim.key: claim for claim in CLAIMS}
quick = settings(max_examples=60, deadline=None)


def found(key: str, store: ledger.Store | None = None) -> ledger.Entry:
    return ledger.entry(KNOWN[key], store or ledger.Store())


def stored(folder: Path, study: str, rows) -> None:
    lines = [json.dumps({"settings": s, "seed": seed, "result": result, "card": {}}) + "\n" for s, seed, result in rows]
    (folder / f"{study}.jsonl").write_text("".join(lines))


# ---------------------------------------------------------------- equations


@pytest.mark.parametrize("equation", EQUATIONS, ids=[one.key for one in EQUATIONS])
def test_every_function_and_every_test_that_an_equation_names_is_there(equation):
    for name in (*equation.shelf, *equation.works):
        assert ledger.resolve(name) is not None
    lines = ledger.proof_lines(equation.tests, TESTS)
    for one, line in lines.items():
        file, _, name = one.partition("::")
        assert (TESTS / f"{file}.py").read_text(encoding="utf-8").splitlines()[line - 1].startswith(f"def {name}(")
    assert lines


def test_keys_are_counted_through_and_everything_that_does_not_work_has_a_remedy():
    keys = [one.key for one in EQUATIONS]
    assert keys == [f"{paper}{n}" for paper in "DIC" for n in range(1, 1 + sum(key[0] == paper for key in keys))]
    for one in EQUATIONS:
        assert one.paper in ledger.PAPERS
        assert one.status in ledger.Status.__args__
        assert one.works
        assert bool(one.working) == (one.status != "right")
        assert "|" not in one.printed + one.working  # it would end a cell of a table


def test_every_printed_function_of_the_shelves_is_in_the_ledger():
    shelved = {name for one in EQUATIONS for name in one.shelf}
    for wing in ("distillation", "immunization"):
        source = (ROOT / "safealign_lab" / wing / "printed.py").read_text(encoding="utf-8")
        for name in re.findall(r"^def ([a-z]\w*)\(", source, re.M):
            assert f"{wing}.printed.{name}" in shelved


def test_a_card_links_to_the_lines_of_its_tests():
    said = ledger.card(EQUATIONS[1], TESTS)
    lines = ledger.proof_lines(EQUATIONS[1].tests, TESTS)
    for one, line in lines.items():
        assert f"(../tests/{one.partition('::')[0]}.py#L{line})" in said
    assert "`distillation.printed.noise_robust_loss`" in said
    assert EQUATIONS[1].printed in said
    assert "](" not in ledger.card(EQUATIONS[1], TESTS / "not there")
    assert "to be used: `immunization.losses.reference_kl`" in ledger.card(
        next(one for one in EQUATIONS if one.key == "I3"), TESTS
    )


def test_a_name_or_a_test_that_is_not_there_is_told(tmp_path):
    with pytest.raises(LookupError, match="has no 'never_written'"):
        ledger.resolve("distillation.printed.never_written")
    with pytest.raises(LookupError, match="no such test"):
        ledger.proof_lines(["test_ledger::test_never_written"], TESTS)
    with pytest.raises(LookupError, match="is not there"):
        ledger.proof_lines(["test_never_written::test_it"], tmp_path)
    assert ledger.tests_folder() == TESTS


# ---------------------------------------------------------------- the verdict


@quick
@given(st.floats(-1, 1), st.floats(0, 1), st.sampled_from(["above", "below", "within"]), st.floats(0.01, 0.5))
def test_a_verdict_is_that_of_asking_every_value(low, width, side, bound):
    high = low + width
    inner = (low + width * step / 400 for step in range(1, 400))
    tried = [low, *(min(high, value) for value in inner), high]  # both ends, whatever rounding makes of those between
    fits = {"above": lambda v: v > bound, "below": lambda v: v < bound, "within": lambda v: -bound < v < bound}[side]
    answers = {fits(value) for value in tried}
    said = ledger.verdict(low, high, side, bound)
    if said == "holds":
        assert answers == {True}
    elif said == "does not hold":
        assert answers == {False}
    else:
        assert answers == {True, False} or width < 2 * bound / 100 or side == "within"


def test_the_bound_itself_does_not_satisfy_a_claim_and_a_strange_side_is_told():
    assert ledger.verdict(0.0, 0.2, "above", 0.0) == "cannot be told"
    assert ledger.verdict(-0.2, 0.0, "above", 0.0) == "does not hold"
    assert ledger.verdict(0.1, 0.1, "above", 0.0) == "holds"
    assert ledger.verdict(-0.04, 0.04, "within", 0.05) == "holds"
    assert ledger.verdict(-0.06, 0.06, "within", 0.05) == "cannot be told"
    with pytest.raises(ValueError, match="no side 'beside'"):
        ledger.verdict(0.0, 0.1, "beside", 0.0)


@quick
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9))
def test_the_interval_over_seeds_is_students(values):
    interval = ledger.over_seeds(values)
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    assert (interval.low, interval.high) == pytest.approx(
        (statistics.fmean(values) - half, statistics.fmean(values) + half)
    )


def test_one_seed_has_no_interval():
    with pytest.raises(ledger.NotStored, match="1 seeds"):
        ledger.over_seeds([0.5])


def test_only_seeds_that_both_sides_have_are_compared():
    rows = [
        [{"seed": seed, "result": value} for seed, value in some]
        for some in (((0, 1.0), (1, 2.0)), ((1, 5.0), (2, 9.0)))
    ]
    assert differences(*rows, lambda row: row["result"]) == [3.0]
    with pytest.raises(ledger.NotStored):
        differences(rows[0][:1], rows[1], lambda row: row["result"])


def test_two_seeds_reach_as_far_as_a_share_can_and_no_further():
    one = ledger.seeds_finding([0.1, 0.9], "texts")
    assert (one.low, one.high) == (-1.0, 1.0)
    assert ledger.over_seeds([0.1, 0.9]).high > 1


def test_seeds_without_spread_are_no_certainty():
    same = ledger.gap_finding({0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.5, 1: 0.5, 2: 0.5}, 60)
    plain = difference(rate(90, 180), rate(90, 180))
    assert (same.low, same.high) == pytest.approx((plain.low, plain.high))
    apart = ledger.gap_finding({0: 0.0, 1: 0.1}, {0: 0.2, 1: 0.31, 2: 0.9}, 60)
    assert apart.value == pytest.approx(0.205)
    assert (apart.low + apart.high) / 2 == pytest.approx(0.205)
    assert apart.n == "2 seeds, 60 requests each"


# ---------------------------------------------------------------- claims


def test_every_claim_is_of_a_paper_a_study_and_a_lesson():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "safealign_lab").glob("*/*.py")]
    known = {name for source in sources for name in re.findall(r'"([a-z0-9_]+)"', source)}
    assert len(KNOWN) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.paper in ledger.PAPERS
        assert set(claim.studies) <= known
        assert (ROOT / "notebooks" / f"{claim.lesson}.ipynb").exists()
        assert claim.side in ("above", "below", "within", None)
    assert {one.paper for one in UNMEASURED} == set(ledger.PAPERS)


def test_claims_of_what_is_stored_have_an_estimate_in_its_interval_and_the_rest_says_so():
    for one in entries(ledger.Store()):
        there = all((ROOT / "data" / "results" / f"{study}.jsonl").exists() for study in one.claim.studies)
        if one.finding is None:
            assert one.verdict == "not stored yet"
            assert one.row()["value"] is None
            assert one.cells()["of"] == "–"
            assert not there or one.claim.paper == "I"  # whose studies may be under way
            continue
        assert there
        assert one.finding.low <= one.finding.value <= one.finding.high
        assert re.search(r"\d", one.finding.n)
        wanted = (
            ledger.verdict(one.finding.low, one.finding.high, one.claim.side, one.claim.bound)
            if one.claim.side
            else "not comparable"
        )
        assert one.verdict == wanted


def test_without_any_stored_row_every_claim_says_so(tmp_path):
    known = entries(ledger.Store(tmp_path))
    assert {one.verdict for one in known} == {"not stored yet"}
    assert len(known) == len(CLAIMS)


def test_filters_and_counts_are_those_of_a_loop():
    known = entries(ledger.Store())
    assert chosen(known) == known
    for row in counts(known):
        letter = row["paper"][1]
        for verdict in ledger.VERDICTS:
            mine = [one for one in known if one.claim.key.startswith(letter.lower()) and one.verdict == verdict]
            assert chosen(known, letter, verdict) == mine
            assert row[verdict] == len(mine)


def test_the_robustness_of_aimed_noise_is_a_loop_over_the_stored_rows():
    values = {}
    for row in load("sentiment_ways"):
        if row["settings"]["hidden"] is None and row["settings"]["schedule"] == "full":
            values[row["settings"]["way"], row["seed"]] = row["result"]["attacked"]["0.05"]
    gaps = [values["KD + adversarial", seed] - values["KD alone", seed] for seed in range(5)]
    one = found("d1").finding
    assert one.value == pytest.approx(statistics.fmean(gaps))
    assert one.high - one.low == pytest.approx(2 * t.ppf(0.975, 4) * statistics.stdev(gaps) / math.sqrt(5))


def test_the_contrast_against_its_safe_stream_is_a_loop_over_the_stored_labels():
    refused, seeds, requests = {"SP": 0, "SP − AP": 0}, set(), set()
    for row in load("smollm2_methods"):
        if row["settings"]["method"] in refused and row["settings"]["requests"] == "harmful":
            refused[row["settings"]["method"]] += sum(one == "refusal" for one in row["result"]["labels"].values())
            seeds.add(row["seed"])
            requests |= set(row["result"]["labels"])
    one = found("c3").finding
    assert one.value == pytest.approx((refused["SP − AP"] - refused["SP"]) / len(seeds) / len(requests))
    assert one.n == f"{len(seeds)} seeds, {len(requests)} requests"
    within_requests = 1.96 / math.sqrt(len(requests)) / 2
    assert one.high - one.low > within_requests / 2  # neither of its two sources of chance is left out


def test_the_papers_own_figures_are_those_of_its_table():
    assert contrast.of_paper("ACD") == pytest.approx(statistics.fmean(paper.OVER_BENCHMARKS["ACD"]), abs=0.001)
    assert contrast.of_paper("nID") == pytest.approx(
        statistics.fmean(paper.OVER_MODELS[b]["nID"] for b in paper.TABLE), abs=0.001
    )
    for claim in CLAIMS:
        assert claim.printed is None or -1 < claim.printed < 1


# ---------------------------------------------------------------- rows that are still to come


def rates(value, n=60):
    return {"n": n, "nouns": 12, "exact": [value] * 3, "refusal": [value] * 3, "incoherent": [0.0] * 3}


def cycle_result(value, **more):
    sets = [f"{kind}/{way}/test" for kind in ("cursed", "kind") for way in ("weak", "medium", "strong")]
    return {"rates": {name: rates(value) for name in sets}, **more}


CYCLE = {
    "before": 0.1,
    "working": 0.9,
    "as printed": 0.15,
    "no canaries": 0.6,
    "random canaries": 0.7,
    "no weight attack": 0.8,
}


def test_cycles_are_compared_world_by_world_over_the_worlds_that_both_have(tmp_path):
    rows = [
        ({"variant": name}, seed, cycle_result(value + 0.01 * seed))
        for name, value in CYCLE.items()
        for seed in range(3)
    ]
    stored(tmp_path, "tiny_cycle", rows[:-1])  # one run is not done
    store = ledger.Store(tmp_path)
    one = found("i5", store)
    assert one.finding.value == pytest.approx(0.3)
    assert one.verdict == "holds"
    assert found("i1", store).verdict == "does not hold"
    assert found("i7", store).finding.n.startswith("2 seeds")
    for key in ("i8", "i9", "i10", "i11", "i13", "i14", "i17"):
        assert found(key, store).verdict == "not stored yet"


def test_what_the_recipe_looked_at_is_taken_where_it_is_there(tmp_path):
    looked = {"cosine": {"all": 0.3}, "useful": {"jaccard": 0.5, "by_chance": 0.3}}
    stored(tmp_path, "tiny_cycle", [({"variant": "working"}, seed, cycle_result(0.9, **looked)) for seed in range(2)])
    store = ledger.Store(tmp_path)
    assert found("i11", store).verdict == "does not hold"
    assert found("i12", store).finding.value == pytest.approx(0.2)
    assert found("i13", store).verdict == "not stored yet"


def test_what_kind_requests_cost_is_counted_over_all_ways_of_asking(tmp_path):
    rows = []
    for name, shares in {"before": (0.0, 0.0, 0.0), "working": (0.1, 0.2, 0.6)}.items():
        result = cycle_result(0.5)
        for way, share in zip(("weak", "medium", "strong"), shares, strict=True):
            result["rates"][f"kind/{way}/test"] = rates(share)
        rows += [({"variant": name}, seed, result) for seed in range(3)]
    stored(tmp_path, "tiny_cycle", rows)
    one = found("i23", ledger.Store(tmp_path))
    assert one.finding.value == pytest.approx(0.3)
    assert one.verdict == "does not hold"


def attack_row(defence, seed, refusal, learning_rate=1e-3, useful=(0.9, 0.9, 0.9)):
    settings_of = {"defence": defence, "kind": "mixed", "learning_rate": learning_rate, "rank": None, "examples": 100}
    return settings_of, seed, {"steps": [0, 1, 4], "refusal": refusal, "incoherent": [0.0] * 3, "useful": list(useful)}


def test_a_breaker_is_broken_where_one_attacker_breaks_it_and_defences_are_compared_attacker_by_attacker(tmp_path):
    rows = [attack_row("immunized", seed, [0.9, 0.8, 0.2]) for seed in range(3)]
    rows += [attack_row("immunized", seed, [0.9, 0.9, 0.9], 1e-4) for seed in range(3)]
    rows += [attack_row("refusal SFT", seed, [0.9, 0.2, 0.1], useful=(0.3, 0.9, 0.9)) for seed in range(3)]
    rows += [attack_row("refusal SFT at attacked weights", seed, [0.9, 0.8, 0.2]) for seed in range(2)]
    stored(tmp_path, "tiny_tampering", rows)
    store = ledger.Store(tmp_path)
    assert found("i14", store).finding.value == 1
    assert found("i14", store).verdict == "does not hold"
    assert found("i15", store).finding.value == 1  # the one common attacker needs longer, in each world
    assert found("i16", store).finding.value == 0
    assert found("i16", store).finding.n.startswith("2 seeds")


def test_a_model_that_is_useless_before_an_attack_is_not_yet_open(tmp_path):
    rows = [attack_row("immunized", seed, [0.9, 0.8, 0.7], useful=(0.3, 0.9, 0.9)) for seed in range(3)]
    stored(tmp_path, "tiny_tampering", rows)
    store = ledger.Store(tmp_path)
    assert found("i14", store).finding.value == 0
    assert found("i15", store).verdict == "not stored yet"


def test_an_alarm_is_judged_against_harmless_runs(tmp_path):
    rows = []
    for seed in range(4):
        for place, tuning in enumerate((*HARMLESS_TUNING, "mixed", "canaries frozen")):
            scores = {
                "share on canaries": 0.9 if tuning == "mixed" else 0.1 + 0.01 * place,
                "share on random": 0.1 + 0.01 * place,
            }
            rows.append(({"tuning": tuning, "learning_rate": 1e-4, "steps": 4}, seed, scores))
    stored(tmp_path, "tiny_alarm", rows)
    store = ledger.Store(tmp_path)
    assert found("i17", store).finding.value == 1
    assert found("i17", store).finding.n.startswith("4 harmful")
    assert found("i17", store).verdict == "holds"
    assert found("i18", store).finding.value == pytest.approx(0)  # here random weights tell as much
    assert found("i19", store).verdict in ("holds", "cannot be told")


def test_the_studies_of_transfer_cost_and_refusing_models_are_taken_as_they_come(tmp_path):
    streams = {"none": {"cursed/weak/train": rates(0.95, 72)}, "S − 0.4 A": {"cursed/weak/train": rates(0.97, 72)}}
    stored(tmp_path, "tiny_refusing_model", [({}, seed, streams) for seed in range(3)])
    stored(
        tmp_path,
        "smollm2_cost",
        [({"batch": size}, 0, {"two streams": {"time": cost}}) for size, cost in ((1, 1.2), (16, 1.9))],
    )
    pairs = [(one, two) for one in ("llama", "gpt2") for two in ("llama", "gpt2")]
    transfer = [
        ({"answers_of": one, "trained_for": two}, seed, {"S": {"cursed/strong/test": rates(0.9 if one == two else 0.85, 72)}})
        for one, two in pairs for seed in range(2)
    ]  # fmt: skip
    stored(tmp_path, "tiny_anchor_transfer", transfer)
    store = ledger.Store(tmp_path)
    refusing = found("c20", store)
    assert refusing.finding.low < 0.02 < refusing.finding.high  # no spread over seeds is no certainty
    assert found("c21", store).finding.value == pytest.approx(-0.05)
    assert (found("c22", store).finding.low, found("c22", store).finding.high) == pytest.approx((0.2, 0.9))
    assert found("c22", store).verdict == "holds"


def test_a_sweep_of_whole_answers_is_compared_request_by_request(tmp_path):
    said = {0.2: ["refusal"] * 8 + ["compliance"] * 2, 0.8: ["refusal"] * 2 + ["incoherent"] * 4 + ["compliance"] * 4}
    rows = [
        ({"alpha": alpha, "requests": kind}, 0, {"labels": {str(n): one for n, one in enumerate(labels)}})
        for alpha, labels in said.items()
        for kind in ("harmful", "benign")
    ]
    stored(tmp_path, "smollm2_alpha", rows)
    one = found("c23", ledger.Store(tmp_path))
    assert one.finding.value == pytest.approx(-0.6)
    assert one.finding.low < -0.6 < one.finding.high < 0
    assert one.finding.n == "1 seed, 10 requests"
    assert one.verdict == "holds"
    again = [(settings, 1, {"labels": dict.fromkeys(result["labels"], "refusal")}) for settings, _, result in rows]
    stored(tmp_path, "smollm2_alpha", [*rows, *again])
    both = found("c23", ledger.Store(tmp_path))
    assert (both.finding.value, both.finding.n) == (pytest.approx(-0.3), "2 seeds, 10 requests")
    assert both.finding.low < -0.9, "two seeds that far apart say little"
    assert both.verdict == "cannot be told"


def test_requests_that_both_have_are_compared_in_every_seed_and_seed_0_stands_for_all():
    one = {(0, "a"): 0.0, (0, "b"): 1.0, (0, "nowhere else"): 1.0}
    two = {(0, "a"): 1.0, (0, "b"): 1.0, (1, "a"): 1.0, (1, "b"): 0.0, (2, "a"): 1.0, (2, "b"): 1.0}
    both = ledger.requests_finding(one, two)
    assert (both.value, both.n) == (pytest.approx((1 + 0 + 1 - 1 + 1 + 0) / 6), "3 seeds, 2 requests")
    across = ledger.over_seeds([0.5, 0.0, 0.5])
    assert both.low <= max(-1.0, across.low) < min(1.0, across.high) <= both.high
    assert ledger.requests_finding(two, one).value == -both.value


def test_on_smollm2_the_cycle_is_compared_request_by_request(tmp_path):
    def _labels(prefix, *said):
        return {f"{prefix}/{number}": one for number, one in enumerate(said)}

    for study, called, name, said in (
        ("smollm2_written", "method", "no system text", ("compliance", "refusal", "incoherent", "compliance")),
        ("smollm2_defended", "defence", "immunized", ("refusal", "refusal", "refusal", "compliance")),
    ):
        sets = ("jailbreakbench", "rho-twins/harmful", "rho-twins/benign")
        rows = [({called: name, "requests": one}, 0, {"labels": _labels(one, *said)}) for one in sets]
        stored(
            tmp_path, study, [*rows, ({called: "other", "requests": sets[0]}, 0, {"labels": _labels(sets[0], *said)})]
        )
    worn = {"refusal SFT": ("refusal", "compliance", "compliance"), "immunized": ("compliance", "refusal", "refusal")}
    rows = [
        ({"defence": name}, 0, {"steps": [1, 16], "labels": [{"harmful": _labels("h", *["refusal"] * 3)},
                                                            {"harmful": _labels("h", *said)}]})
        for name, said in worn.items()
    ]  # fmt: skip
    stored(tmp_path, "smollm2_tampered", rows)
    store = ledger.Store(tmp_path)
    values = {key: found(key, store).finding for key in ("i20", "i21", "i22")}
    assert [one.value for one in values.values()] == pytest.approx([0.5, 0.5, 1 / 3])
    assert [one.n for one in values.values()] == ["1 seed, 8 requests", "1 seed, 4 requests", "1 seed, 3 requests"]
    assert values["i22"].low < 0 < values["i22"].high
    stored(tmp_path, "smollm2_tampered", [*rows, *((settings, 1, result) for settings, _, result in rows)])
    assert found("i22", ledger.Store(tmp_path)).finding.n == "2 seeds, 3 requests"
