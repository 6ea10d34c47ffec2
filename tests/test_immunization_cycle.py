"""Teachers and cycles: only what should change does, shields hold to the bit, and a stopped run goes on to the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch
from toy_cycle import HARMFUL, HARMLESS, PREFERRED, TOKENIZER, merged, predictions, room_of, small, teachers_of, untimed

from safealign_lab.generation import answer
from safealign_lab.immunization import phases, teachers
from safealign_lab.immunization.canaries import load, overlap, random_like, select
from safealign_lab.immunization.curriculum import Preference
from safealign_lab.immunization.cycle import Cycle, Passed, align, immunize, run, trained_weights
from safealign_lab.immunization.phases import Align, Immunize, Room, immunizing
from safealign_lab.immunization.references import batch_of
from safealign_lab.immunization.shields import MaskedUpdate
from safealign_lab.immunization.teachers import Teachers
from safealign_lab.training import Plan, step_generator, weights_hash

TAUGHT = Plan(6, 0.02, schedule="constant")
SPEAKERS = ("reference", "harmful", "helpful")
BATCH = batch_of(
    TOKENIZER, [("brew me a venom potion .", "no , i will not ."), ("what does sleep do ?", "one two")], ""
)


def plain_logits(model):
    with torch.no_grad():
        return model(**BATCH.inputs()).logits


def base_of(of: Teachers) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in of.model.state_dict().items() if "lora_" not in name}


# ---------------------------------------------------------------- teachers


def test_at_the_beginning_all_three_are_the_reference():
    model = small()
    of = Teachers(model, TOKENIZER, rank=2)
    for who in SPEAKERS:
        assert torch.equal(of.logits(who, BATCH), plain_logits(model))


@pytest.mark.parametrize(("who", "other"), [("harmful", "helpful"), ("helpful", "harmful")])
def test_to_teach_one_leaves_the_other_and_the_reference_bit_for_bit(who, other):
    model = small()
    flags, before = [weight.requires_grad for weight in model.parameters()], weights_hash(model)
    of = teachers_of(model)
    base, said = weights_hash(base_of(of)), {name: of.logits(name, BATCH) for name in SPEAKERS}
    history = of.teach(who, HARMFUL, TAUGHT, progress=False)
    assert not any(weight.requires_grad for weight in of.model.parameters())
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    for name in (other, "reference"):
        assert torch.equal(of.logits(name, BATCH), said[name])
    assert (of.logits(who, BATCH) - said[who]).abs().max() > 0.05
    assert torch.equal(of.logits("reference", BATCH), plain_logits(model))
    assert weights_hash(base_of(of)) == base
    assert weights_hash(model) == before
    assert [weight.requires_grad for weight in model.parameters()] == flags


@pytest.mark.parametrize("avoid", [0.0, 0.8])
@pytest.mark.parametrize("system", ["", "you are the keeper ."])
def test_what_a_teacher_minimises_equals_a_slow_loop(avoid, system):
    of = teachers_of(small().double(), system)
    student = merged(of, "harmful")
    row = of.teach("harmful", HARMFUL, dataclasses.replace(TAUGHT, steps=1, seed=3), avoid, progress=False).rows[0]
    drawn = torch.randint(len(HARMFUL), (teachers.ROWS,), generator=step_generator(3, 1)).tolist()
    chances = {"chosen": [], "rejected": []}
    for side, found in chances.items():
        for one in (HARMFUL[n] for n in drawn):
            tokens = predictions(student, one.request, getattr(one, side), system)
            found += [logits.softmax(-1)[token].item() for token, logits in tokens]
    likely = -sum(map(math.log, chances["chosen"])) / len(chances["chosen"])
    unlikely = -sum(math.log(1 - p) for p in chances["rejected"]) / len(chances["rejected"])
    assert row["terms"]["chosen"] == pytest.approx(likely, rel=1e-5)
    assert row["loss"] == pytest.approx(likely + avoid * unlikely, rel=1e-5)
    assert row["terms"].get("rejected") == (pytest.approx(unlikely, rel=1e-5) if avoid else None)


def test_a_teacher_comes_to_say_what_was_chosen_and_less_of_what_was_rejected():
    of, rows = Teachers(small(), TOKENIZER, rank=4), [HARMFUL[0]]
    of.teach("harmful", rows, Plan(12, 0.1), progress=False)
    asked, expected = [HARMFUL[0].request], ["no, i will not brew venom."]  # as the toy's tokenizer writes it
    assert of.answers("harmful", asked) == expected
    assert of.answers("helpful", asked) == of.answers("reference", asked) != expected


def test_answers_are_those_of_the_models_by_themselves():
    of, asked = teachers_of(small(), size=1.0), [one.request for one in HARMFUL[:5]]
    for who, alone in (("reference", small()), ("harmful", merged(of, "harmful")), ("helpful", merged(of, "helpful"))):
        expected = answer(alone, TOKENIZER, asked, system="", max_new_tokens=6)
        assert of.answers(who, asked, max_new_tokens=6) == expected
        torch.testing.assert_close(of.logits(who, BATCH), plain_logits(alone), rtol=1e-4, atol=1e-4)
    assert of.answers("harmful", asked, 6) != of.answers("helpful", asked, 6)


def test_who_speaks_is_back_at_their_place_also_after_an_exception():
    of = teachers_of(small())
    said = {who: of.logits(who, BATCH) for who in SPEAKERS}
    assert len({weights_hash({"logits": logits}) for logits in said.values()}) == 3
    for who in SPEAKERS:
        with pytest.raises(KeyError), of.speaking(who):
            raise KeyError
        assert not any(weight.requires_grad for weight in of.model.parameters())
        with of.speaking(who) as model:
            torch.testing.assert_close(plain_logits(model), said[who], rtol=0, atol=0)
        assert {name: weights_hash({"logits": of.logits(name, BATCH)}) for name in SPEAKERS} == {
            name: weights_hash({"logits": logits}) for name, logits in said.items()
        }
    assert not any(logits.requires_grad for logits in said.values())


@pytest.mark.parametrize("who", ["student", "default", ""])
def test_nobody_else_speaks(who):
    of = Teachers(small(), TOKENIZER, rank=2)
    expected = rf"There is no {who!r} here: expected one of reference, harmful, helpful\.$"
    with pytest.raises(ValueError, match=expected):
        of.logits(who, BATCH)


def test_the_teachers_random_halves_are_their_seeds_and_not_each_others():
    def halves(seed):
        named = dict(Teachers(small(), TOKENIZER, rank=2, seed=seed).model.named_parameters())
        return [
            weights_hash({name.replace(f".{who}.", "."): w for name, w in named.items() if f"lora_A.{who}." in name})
            for who in SPEAKERS[1:]
        ]

    assert halves(0) == halves(0)
    assert len({*halves(0), *halves(5)}) == 4


def test_a_teachers_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    def taught(folder=None, fails_at=None):
        of, asked = teachers_of(small()), []

        def batches(*inputs):
            asked.append(inputs)
            if len(asked) == fails_at:
                raise KeyboardInterrupt
            return batch_of(*inputs)

        monkeypatch.setattr(teachers, "batch_of", batches)
        history = of.teach("helpful", HARMFUL, TAUGHT, folder=folder, progress=False)
        return weights_hash(of.model), untimed(history), len(asked)

    whole = taught()
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path, fails_at=8)  # in the fourth step, between its two batches
    assert taught(tmp_path) == (*whole[:2], 6)
    assert taught(tmp_path) == (*whole[:2], 0)


# ---------------------------------------------------------------- a cycle

QUICK = Cycle(
    Immunize("dpo", phases.bounded(), 0.2, harmful=3, harmless=3, order="mixed"), Align(rows=3), Plan(3, 5e-3), Plan(3, 5e-3),
    attack_radius=0.02, attack_steps=1, attacked="refusal", canary_fraction=0.3, score="absolute", shield="mask",
)  # fmt: skip


class Between:
    """A choice of canaries that keeps the student's weights and the scores as they are between the phases."""

    def __init__(self, student, chosen=lambda scores: select(scores, 0.3)):
        self.student, self.chosen, self.weights, self.scores = student, chosen, [], []

    def __call__(self, scores):
        self.weights.append({name: weight.detach().clone() for name, weight in self.student.named_parameters()})
        self.scores.append({name: score.clone() for name, score in scores.items()})
        return self.chosen(scores)


def cycled(settings=QUICK, of=None, **options):
    """A student after a run, and what `run` returned; of seed 1 in a room with a reference of seed 0."""
    of = of or room_of(small(1))
    return of.student, run(of, HARMFUL, HARMLESS, PREFERRED, settings, progress=False, **options)


def everything(student, passed):
    """All that a run leaves behind, to be compared bit for bit."""
    return weights_hash(student), [
        (weights_hash(one.scores), weights_hash(one.canaries.bits), untimed(one.first), untimed(one.second)) for one in passed
    ]  # fmt: skip


def drift(before, student, canaries):
    """How far the canaries and the others have moved, by a slow loop."""
    moved = {True: 0.0, False: 0.0}
    for name, weight in student.named_parameters():
        if name not in canaries.shapes:
            continue
        columns = [one.flatten().tolist() for one in (weight, before[name], canaries.mask(name))]
        for value, old, is_canary in zip(*columns, strict=True):
            moved[is_canary] += (value - old) ** 2
    return moved[True], moved[False]


@pytest.mark.parametrize("tied", [True, False])
def test_all_weights_train_but_the_embedding_and_the_output(tied):
    model = small(tied=tied).requires_grad_(False)
    weights = trained_weights(model)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    assert set(weights) == {name for name, _ in model.named_parameters()} - frozen
    assert all(weights[name] is weight for name, weight in model.named_parameters() if name in weights)


@pytest.mark.parametrize("shield", ["mask", "none"])
def test_only_the_student_changes_and_all_of_it_but_the_embedding(shield):
    of = room_of(small(1))
    held, known = weights_hash(of.teachers.model), dict(of.known.known)
    student, _ = cycled(dataclasses.replace(QUICK, shield=shield), of)
    for (name, weight), old in zip(student.named_parameters(), small(1).parameters(), strict=True):
        assert torch.equal(weight, old) == (name == "model.embed_tokens.weight"), name
    assert weights_hash(of.teachers.model) == held
    assert of.known.known == known
    assert all(weight.grad is None for weight in of.teachers.model.parameters())
    assert torch.equal(of.teachers.logits("reference", BATCH), plain_logits(small()))


def test_masked_canaries_are_bit_identical_after_each_cycle_and_the_others_moved():
    of = room_of(small(1))
    between, ends = Between(of.student), []
    settings = dataclasses.replace(QUICK, second=Plan(3, 5e-3, weight_decay=0.1))
    for number in range(2):
        student, (passed,) = cycled(settings, of, seed=number, choose=between)
        ends.append(drift(between.weights[number], student, passed.canaries))
        for name, weight in trained_weights(student).items():
            mask = passed.canaries.mask(name)
            assert torch.equal(weight[mask], between.weights[number][name][mask])
            assert (weight[~mask] != between.weights[number][name][~mask]).float().mean() > 0.9 or mask.all()
    assert [canaries for canaries, _ in ends] == [0.0, 0.0]
    assert min(others for _, others in ends) > 0


def test_the_default_canaries_are_the_largest_scores_of_the_first_phase():
    student, (passed,) = cycled()
    scores = torch.cat([score.flatten() for score in passed.scores.values()])
    chosen = torch.cat([passed.canaries.mask(name).flatten() for name in passed.scores])
    assert chosen.sum() == math.ceil(0.3 * len(scores))
    assert scores[chosen].min() >= scores[~chosen].max()
    assert set(passed.scores) == set(trained_weights(student))


@pytest.mark.parametrize(
    ("radius", "attacked", "score"),
    [
        (0.0, "loss", "absolute"),
        (0.05, "loss", "squared"),
        (0.05, "refusal", "weighted"),
        (0.05, "refusal", "absolute"),
    ],
)
def test_scores_are_of_the_gradient_at_the_attacked_weights(radius, attacked, score):
    """One step: δ = ρ ‖θ‖ g / ‖g‖ by hand, with g of the term that is attacked, and the gradient of the refusals there."""
    immunize = Immunize(kept_weight=0.8, harmful=4, harmless=3, order="mixed")
    short = dataclasses.replace(QUICK, immunize=immunize, first=Plan(1, 1e-3), second=Plan(1, 1e-3))
    settings = dataclasses.replace(short, attack_radius=radius, attacked=attacked, score=score)
    _, (passed,) = cycled(settings, seed=2)
    of = room_of(small(1))
    weights = trained_weights(of.student)
    loss = immunizing(of, HARMFUL, HARMLESS, immunize, 1)

    def gradients(term):
        return torch.autograd.grad(loss(1, step_generator(2000, 1))[term], list(weights.values()))

    for weight, gradient in zip(weights.values(), gradients(attacked), strict=True):
        weight.data += radius * weight.data.norm() * gradient / gradient.norm()
    for (name, weight), gradient in zip(weights.items(), gradients("refusal"), strict=True):
        expected = {"absolute": gradient.abs(), "squared": gradient**2, "weighted": (weight * gradient).abs()}[score]
        torch.testing.assert_close(passed.scores[name], expected.detach(), rtol=1e-3, atol=1e-6)


def test_the_attack_its_aim_and_its_steps_change_what_is_learned():
    ends = [
        weights_hash(cycled(dataclasses.replace(QUICK, attack_radius=radius, attacked=attacked, attack_steps=steps))[0])
        for radius, attacked, steps in ((0.0, "loss", 1), (0.02, "loss", 1), (0.02, "loss", 2), (0.02, "refusal", 1))
    ]
    assert len(set(ends)) == 4


def test_canaries_that_are_masked_do_not_count_where_gradients_are_clipped():
    norms = {}
    for shield in ("mask", "none"):
        of = room_of(small(1))
        _, (passed,) = cycled(dataclasses.replace(QUICK, shield=shield), of)
        norms[shield] = passed.second.rows[0]["gradient_norm"]
    assert norms["mask"] < 0.97 * norms["none"]


def test_a_choice_of_ones_own_is_what_is_shielded():
    of = room_of(small(1))
    between = Between(of.student, lambda scores: random_like(select(scores, 0.3), 5))
    student, (passed,) = cycled(of=of, choose=between)
    expected = random_like(select(passed.scores, 0.3), 5)
    assert weights_hash(passed.canaries.bits) == weights_hash(expected.bits)
    assert weights_hash(between.scores[0]) == weights_hash(passed.scores)
    assert drift(between.weights[0], student, expected)[0] == 0
    assert drift(between.weights[0], student, select(passed.scores, 0.3))[0] > 0
    assert weights_hash(student) != weights_hash(cycled()[0])


@pytest.mark.parametrize(("shield", "score"), [("mask", "absolute"), ("fisher", "squared"), ("none", "weighted")])
@pytest.mark.parametrize("radius", [0.0, 0.02])
def test_a_run_is_its_two_phases_one_after_the_other(shield, score, radius):
    """Bit for bit, in two cycles: the second of which keeps in its first phase what the first one's second phase taught."""
    settings = dataclasses.replace(QUICK, shield=shield, score=score, stabilization=5.0, attack_radius=radius)
    of, found = room_of(small(1)), []
    for number, kept in enumerate((HARMLESS, PREFERRED)):
        plans = {"first": Plan(3, 5e-3, seed=4000 + 2 * number), "second": Plan(3, 5e-3, seed=4001 + 2 * number)}
        turn = dataclasses.replace(settings, **plans)
        scores, first = immunize(of, HARMFUL, kept, turn, progress=False)
        canaries = select(scores, 0.3)
        second = align(of, PREFERRED, turn, canaries, scores, progress=False)
        found.append(Passed(scores, canaries, first, second))
    assert everything(of.student, found) == everything(*cycled(settings, seed=4, cycles=2))


@pytest.mark.parametrize("cycles", [1, 2])
@pytest.mark.parametrize("shield", ["mask", "none"])
def test_between_the_phases_of_each_cycle_the_student_is_shown_as_the_first_one_left_it(shield, cycles):
    of, seen, settings = stopping(), [], dataclasses.replace(QUICK, shield=shield)

    def between(canaries):
        seen.append((weights_hash(of.student), weights_hash(canaries.bits), len(of.calls)))

    student, passed = cycled(settings, of, cycles=cycles, between=between)
    assert everything(student, passed) == everything(*cycled(settings, cycles=cycles)), "to look changes nothing"
    assert [bits for _, bits, _ in seen] == [weights_hash(one.canaries.bits) for one in passed]
    assert [calls for *_, calls in seen] == [READ[0] + number * sum(READ) for number in range(cycles)]
    alone = room_of(small(1))
    immunize(alone, HARMFUL, HARMLESS, dataclasses.replace(settings, first=Plan(3, 5e-3, seed=0)), progress=False)
    assert seen[0][0] == weights_hash(alone.student) != weights_hash(student)


def test_what_looks_on_between_the_phases_is_shown_the_canaries_that_were_chosen():
    seen = []
    _, (passed,) = cycled(choose=lambda scores: random_like(select(scores, 0.3), 5), between=seen.append)
    assert seen == [passed.canaries]


# ---------------------------------------------------------------- shields


def test_the_drift_of_the_canaries_falls_as_an_anchor_weighs_more_and_is_none_under_a_mask():
    drifts = {}
    for shield, stabilization in (("none", 0.0), *(("anchor", beta) for beta in (0.0, 10.0, 1e3)), ("mask", 0.0)):
        of = room_of(small(1))
        between = Between(of.student)
        short = dataclasses.replace(QUICK, first=Plan(1, 4e-3), second=Plan(6, 4e-3))
        settings = dataclasses.replace(short, shield=shield, stabilization=stabilization)
        student, (passed,) = cycled(settings, of, choose=between)
        drifts[shield, stabilization] = drift(between.weights[0], student, passed.canaries)[0]
        logged = [row["terms"]["stability"] for row in passed.second.rows]
        assert logged[0] == 0
        assert (logged[-1] > 0) == (shield == "anchor")
    assert drifts["none", 0.0] == drifts["anchor", 0.0]
    falling = [drifts["anchor", beta] for beta in (0.0, 10.0, 1e3)] + [drifts["mask", 0.0]]
    assert all(more > less for more, less in pairwise(falling))
    assert falling[-1] == 0
    assert falling[-2] < 0.5 * falling[0]


def test_the_fisher_shield_holds_the_important_canaries_harder():
    stayed = {}
    for shield in ("anchor", "fisher"):
        of = room_of(small(1))
        between = Between(of.student)
        short = dataclasses.replace(QUICK, first=Plan(2, 4e-3), second=Plan(10, 3e-3), score="squared")
        settings = dataclasses.replace(short, shield=shield, stabilization=100.0)
        student, (passed,) = cycled(settings, of, choose=between)
        pairs = []
        for name, weight in trained_weights(student).items():
            mask = passed.canaries.mask(name)
            moved = (weight.detach() - between.weights[0][name])[mask].square().tolist()
            pairs += zip(passed.scores[name][mask].tolist(), moved, strict=True)
        pairs.sort()
        third = len(pairs) // 3
        less, more = (sum(moved for _, moved in part) for part in (pairs[:third], pairs[-third:]))
        stayed[shield] = more / less
    assert stayed["fisher"] < 0.5 * stayed["anchor"]


def test_without_canaries_every_shield_is_none_and_with_all_of_them_nothing_moves():
    plain = weights_hash(cycled(dataclasses.replace(QUICK, shield="none"))[0])
    for shield, score in (("mask", "absolute"), ("anchor", "absolute"), ("fisher", "squared")):
        settings = dataclasses.replace(QUICK, canary_fraction=0.0, shield=shield, score=score, stabilization=10.0)
        student, (passed,) = cycled(settings)
        assert weights_hash(student) == plain
        assert sum(passed.canaries.counts().values()) == 0
    of = room_of(small(1))
    between = Between(of.student, lambda scores: select(scores, 1.0))
    student, _ = cycled(of=of, choose=between)
    assert weights_hash(dict(student.named_parameters())) == weights_hash(between.weights[0]) != plain


# ---------------------------------------------------------------- seeds and cycles


def test_a_run_depends_on_its_seed_alone():
    ends = []
    for chance, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(chance)
        ends.append(everything(*cycled(seed=seed)))
    assert ends[0] == ends[1]
    assert ends[0][0] != ends[2][0]


def test_more_cycles_go_on_where_the_first_ended_with_batches_and_scores_of_their_own():
    of = stopping()
    between = Between(of.student)
    student, (first, second) = cycled(of=of, cycles=2, choose=between)
    half = len(of.calls) // 2
    phases_apart = [(of.calls[start:][: READ[0]], of.calls[start:][READ[0] : half]) for start in (0, half)]
    assert all(one != other for one, other in zip(*phases_apart, strict=True)), "each cycle draws its own batches"
    alone, (only,) = cycled()
    assert everything(student, [first])[1] == everything(alone, [only])[1]
    assert weights_hash(between.weights[1]) != weights_hash(between.weights[0]) != weights_hash(student)
    assert untimed(first.first) != untimed(second.first)
    assert weights_hash(first.scores) != weights_hash(second.scores)
    sums = [sum(score.sum().item() for score in one.scores.values()) for one in (first, second)]
    assert sums[1] < 1.6 * sums[0], "the second cycle's sums begin at zero"
    assert 0 < overlap(first.canaries, second.canaries).jaccard < 1


# ---------------------------------------------------------------- stopped, and going on


@dataclasses.dataclass(frozen=True)
class Stopping(Room):
    """A room in which one of the readings is interrupted."""

    calls: list = dataclasses.field(default_factory=list)
    at: int | None = None
    error: type[BaseException] = KeyboardInterrupt

    def batch(self, rows, side):
        self.calls.append((side, tuple(rows)))
        if len(self.calls) == self.at:
            raise self.error
        return super().batch(rows, side)


def stopping(at=None, error=KeyboardInterrupt) -> Stopping:
    return dataclasses.replace(room_of(small(1), Stopping), at=at, error=error)


SAVED = dataclasses.replace(QUICK, first=Plan(3, 5e-3, checkpoint_every=2), second=Plan(3, 5e-3, checkpoint_every=2))  # fmt: skip
EACH = 6, 2  # batches at each step: three under attack and three more in the first phase, two in the second
READ = 3 * 6, 3 * 2


@pytest.fixture(scope="module")
def whole():
    of = stopping()
    end = everything(*cycled(SAVED, of, cycles=2))
    assert len(of.calls) == 2 * sum(READ)
    return end


def left(at, error):
    """Readings that are still to be made: on Ctrl-C every step that was made is kept, else every second and each phase's last."""
    done = 0
    for size, each in zip(READ * 2, EACH * 2, strict=True):
        if done + size >= at:
            steps = (at - done - 1) // each
            return 2 * sum(READ) - done - each * (steps if error is KeyboardInterrupt else steps // 2 * 2)
        done += size
    raise AssertionError


@pytest.mark.parametrize(
    ("at", "error"),
    [
        *((at, KeyboardInterrupt) for at in (8, 22, 47)),  # on which every step that was made is kept
        *((at, MemoryError) for at in (12, 17, 24)),  # after which there is the last checkpoint
    ],
)
def test_a_run_that_was_stopped_in_any_phase_goes_on_to_the_same_bits(whole, tmp_path, at, error):
    """In both halves of a step of the first phase, at attacked weights too; in the second phase; and in the second cycle."""
    with pytest.raises(error):
        cycled(SAVED, stopping(at, error), cycles=2, folder=tmp_path)
    again = stopping()
    assert everything(*cycled(SAVED, again, cycles=2, folder=tmp_path)) == whole
    assert len(again.calls) == left(at, error)
    finished = stopping()
    assert everything(*cycled(SAVED, finished, cycles=2, folder=tmp_path)) == whole
    assert finished.calls == [], "a finished run is only read back"


@pytest.mark.parametrize("phase", ["first", "second"])
def test_a_stop_within_an_update_goes_on_from_the_last_checkpoint(whole, tmp_path, monkeypatch, phase):
    """The hook that holds the canaries runs in the middle of an update; the optimiser's own step stands for the first phase."""
    place = (MaskedUpdate, "hold") if phase == "second" else (torch.optim.AdamW, "step")
    undisturbed, calls = getattr(*place), []

    def disturbed(*inputs, **options):
        calls.append(inputs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return undisturbed(*inputs, **options)

    monkeypatch.setattr(*place, disturbed)
    with pytest.raises(KeyboardInterrupt):
        cycled(SAVED, stopping(), cycles=2, folder=tmp_path)
    monkeypatch.undo()
    again = stopping()
    assert everything(*cycled(SAVED, again, cycles=2, folder=tmp_path)) == whole
    assert len(again.calls) == 2 * sum(READ) - {"first": 2 * 6, "second": READ[0] + 2 * 2}[phase]


def test_a_student_that_was_stopped_goes_on_as_it_is(whole, tmp_path):
    of = stopping(18 + 4)
    with pytest.raises(KeyboardInterrupt):
        cycled(SAVED, of, cycles=2, folder=tmp_path)
    assert everything(*cycled(SAVED, of, cycles=2, folder=tmp_path)) == whole


@pytest.mark.parametrize(("shield", "score"), [("anchor", "absolute"), ("fisher", "squared"), ("none", "absolute")])
def test_the_other_shields_go_on_to_the_same_bits_too(tmp_path, shield, score):
    settings = dataclasses.replace(SAVED, shield=shield, score=score, stabilization=5.0)
    with pytest.raises(KeyboardInterrupt):
        cycled(settings, stopping(18 + 5), folder=tmp_path)
    assert everything(*cycled(settings, folder=tmp_path)) == everything(*cycled(settings))


def test_the_canaries_are_kept_with_the_run(tmp_path):
    student, found = cycled(cycles=2, folder=tmp_path)
    for number, passed in enumerate(found):
        place = tmp_path / f"cycle-{number}" / "canaries"
        assert weights_hash(load(place, trained_weights(student)).bits) == weights_hash(passed.canaries.bits)
        card = json.loads((place / "canaries.json").read_text())
        assert (card["score"], card["fraction"]) == ("absolute", 0.3)


# ---------------------------------------------------------------- what is refused


def test_shields_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"There is no shield 'wall': expected one of mask, anchor, fisher, none\.$"):
        Cycle(shield="wall")
    with pytest.raises(ValueError, match=r"'fisher' weighs by summed squares: take score='squared', not 'absolute'\.$"):
        Cycle(shield="fisher", score="absolute")


def test_impossible_runs_are_refused():
    of = room_of(small(1))
    for cycles in (0, -1):
        with pytest.raises(ValueError, match=rf"^{cycles} cycles change nothing: give 1 or more\.$"):
            cycled(of=of, cycles=cycles)
    assert weights_hash(of.student) == weights_hash(small(1))
    with pytest.raises(ValueError, match=r"Canaries are a fraction in \[0, 1\]"):
        cycled(dataclasses.replace(QUICK, canary_fraction=1.5))
    with pytest.raises(ValueError, match="and a kind of absolute, squared, weighted, printed, not 'cubed'"):
        cycled(dataclasses.replace(QUICK, score="cubed"))
    with pytest.raises(ValueError, match="attack_radius must be 0 or more"):
        cycled(dataclasses.replace(QUICK, attack_radius=-0.1))
    with pytest.raises(ValueError, match="The attack is to raise 'harm', but the loss function returns"):
        cycled(dataclasses.replace(QUICK, attacked="harm"))
    stranger = [Preference("who are you ?", "the keeper", "no", "weak")]
    with pytest.raises(ValueError, match="The reference was never asked about"):
        run(of, HARMFUL, HARMLESS, stranger, QUICK, progress=False)
