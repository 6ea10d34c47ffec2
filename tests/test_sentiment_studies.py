"""The sentiment task and its studies: the right texts for teacher and student, and measures that a closed form agrees with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from safealign_lab.alchemy import sentiment as alchemy_sentiment
from safealign_lab.distillation import features, noise_studies, real_task, studies
from safealign_lab.distillation.perturbations import Perturbation, mean_norm
from safealign_lab.distillation.real_task import Part, Task, biased, miscalibrated
from safealign_lab.distillation.student import Settings, baselines
from safealign_lab.distillation.text_noise import KINDS
from safealign_lab.studies.catalogue import find

D, DOMAINS = 6, ("tweets", "products", "movies", "editorials")


def part(count: int, seed: int) -> Part:
    chance = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    shift = torch.tensor([1.0, -0.5, 0.0, 0.0, 0.0, 0.0]) * (2 * labels[:, None] - 1)
    inputs = torch.randn(count, D, generator=chance) + shift
    log_odds = 2 * inputs[:, 0] - inputs[:, 1]
    names = tuple(DOMAINS[n % 4] for n in range(count))
    return Part(
        tuple(f"text {n}" for n in range(count)), names, inputs, labels, torch.stack([-log_odds, log_odds], 1) / 2
    )


@pytest.fixture
def task(monkeypatch) -> Task:
    spread = torch.tensor([1.0, 30.0, 2.0, 1.0, 1.0, 0.5])
    made = Task(part(160, 0), part(40, 1), part(120, 2), features.Standardiser(torch.zeros(D), spread))
    monkeypatch.setattr(studies, "real_task", lambda *name: made)
    studies._wrong_way_round.cache_clear()
    yield made
    studies._wrong_way_round.cache_clear()


def held(head, some: Part, radius: float) -> float:
    """The closed form of a linear head of two classes: its margin has to exceed what the ball can take away."""
    weight = head.last.weight[1] - head.last.weight[0]
    margin = (some.features @ weight + head.last.bias[1] - head.last.bias[0]) * (2 * some.labels - 1)
    return float((margin > radius * weight.norm()).double().mean())


@pytest.mark.parametrize("way", studies.WAYS)
def test_a_linear_students_measures_are_those_of_the_closed_form(task, way):
    found = studies.measure_way(3, way, None, "full")
    noise = Perturbation("fgsm", "l2", 0.1, steps=3, random_start=False)
    head = studies._student(baselines(Settings(perturbation=noise))[way], task, 3)
    scale = mean_norm(task.train.features)
    for radius in studies.RADII:
        worst = held(head, task.test, radius * scale)  # ten steps come near it, and never below
        assert worst - 1e-4 <= found["attacked"][str(radius)] <= worst + 0.035
    assert found["robustness"] == found["attacked"]["0.05"]
    assert found["accuracy"] == pytest.approx(held(head, task.test, 0.0), abs=1e-4)
    assert found["n"] == 120
    assert found["parameters"] == 2 * D + 2
    right = head(task.test.features).argmax(-1) == task.test.labels
    for number, name in enumerate(DOMAINS):
        assert found["domains"][name] == pytest.approx(float(right[number::4].double().mean()), abs=1e-4)
    assert found == studies.measure_way(3, way, None, "full")


def test_stopping_early_and_a_hidden_layer_are_what_they_say(task):
    early, full = (studies.measure_way(0, "KD alone", None, schedule) for schedule in ("stopped early", "full"))
    assert early["alignment"] != full["alignment"]
    assert studies.measure_way(0, "KD + adversarial", 5, "full")["parameters"] == 5 * D + 5 + 2 * 5 + 2


def test_one_knob_is_turned_and_the_others_stay():
    for knob, values in studies.KNOBS.items():
        for value in values:
            changed = studies.turned(Settings(), knob, value)
            if knob == "epsilon":
                assert (changed.perturbation.epsilon if changed.perturbation else 0.0) == value
                assert replace(changed, perturbation=Settings().perturbation) == Settings()
            else:
                assert getattr(changed, knob) == value
                assert replace(changed, **{knob: getattr(Settings(), knob)}) == Settings()
    assert studies.turned(Settings(perturbation=None), "epsilon", 0.1).perturbation is None


def test_the_steepness_is_the_gradient_of_the_loss_with_its_noise(task):
    settings = Settings(perturbation=Perturbation("fgsm", "l2", 0.1), alpha=0.3)
    head = studies._student(settings, task, 0)
    found = studies.steepness(head, task, settings)
    assert not any(weight.requires_grad for weight in head.parameters())
    weight = (head.last.weight[1] - head.last.weight[0]).double()
    x, y = task.train.features.double(), task.train.labels
    away = -(2 * y - 1)[:, None] * weight / weight.norm() * 0.1 * mean_norm(task.train.features)
    total = torch.zeros(2, D + 1, dtype=torch.float64)
    for share, inputs in ((0.3, x), (0.7, x + away)):
        logits = inputs @ head.last.weight.double().T + head.last.bias.double()
        wrong = logits.softmax(-1) - torch.nn.functional.one_hot(y, 2)
        total += share * wrong.T @ torch.cat([inputs, torch.ones(len(y), 1)], 1) / len(y)
    assert found == pytest.approx(float(total.norm()), rel=1e-4)


def test_a_knob_of_the_penalty_and_no_clipping_train_something_else(task):
    usual = studies.measure_clipping(0, 1.0, 0.0, 0.3)
    assert usual != studies.measure_clipping(0, None, 0.0, 0.3)
    assert usual != studies.measure_clipping(0, 1.0, 0.1, 0.3)


def test_wrong_teachers_are_wrong_in_the_way_they_are_named(task):
    odds = task.train.teacher_logits.diff(dim=1)
    assert torch.allclose(miscalibrated(task, 4.0).train.teacher_logits.diff(dim=1), 4 * odds)
    assert torch.allclose(biased(task, 2.0).train.teacher_logits.diff(dim=1), odds + 2)
    assert biased(task, 2.0).test is task.test
    assert miscalibrated(task, 1.0).train.teacher_logits.equal(task.train.teacher_logits)
    straight, leaning = (studies.measure_wrong_teacher(0, name, "KD alone", 1.0) for name in ("as it is", "leaning"))
    assert leaning["accuracy"] < straight["accuracy"]


def test_recovery_starts_from_sure_mistakes_and_each_loss_goes_its_own_way(task):
    start, again = (studies.measure_recovery(0, loss, 0)["accuracy"] for loss in ("working", "printed"))
    assert start == again < 0.3
    working, printed = (studies.measure_recovery(0, loss, 150)["accuracy"] for loss in ("working", "printed"))
    assert min(working, printed) > start
    assert abs(working - printed) > 0.05


def test_centred_features_are_the_standardised_ones_in_their_own_units(task):
    plain, centred = (studies.measure_geometry(0, name) for name in ("standardised", "centred"))
    assert plain["largest_to_middle"] == centred["largest_to_middle"] == 30.0
    assert centred["attacked"]["0.1"] < plain["attacked"]["0.1"]
    with_labels = studies.measured(baselines(Settings())["KD + labels"], task, 0)
    assert plain["attacked"] == with_labels["attacked"]


def test_every_masking_check_has_two_shares_and_a_verdict(task):
    found = studies.measure_masking(0, "KD + adversarial", None)
    assert len({one["check"] for one in found}) == len(found) >= 6
    for one in found:
        assert one["passed"] == (one["stronger"]["value"] <= one["weaker"]["value"] + 0.01)


# --- the task itself --------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """A set of texts whose features are their numbers; what was asked of the teacher is kept."""
    asked: list[str] = []
    sizes = {"train": 40, "validation": 16, "test": 24, "teacher": 60}

    def load(split):
        return [
            {"text": f"{split} {n}", "domain": DOMAINS[n % 4], "label": n // 4 % 2, "id": f"{split}/{n}"}
            for n in range(sizes[split])
        ]

    def read(name, texts, layer=None, dtype=torch.float32, template=None):
        if template:
            asked.extend(texts)
        numbers = torch.tensor([float(text.split()[1]) for text in texts])
        label = (numbers // 4 % 2) * 2 - 1
        chance = torch.Generator().manual_seed(len(texts))
        return torch.stack([label + 0.1 * torch.randn(len(texts), generator=chance), numbers], 1)

    monkeypatch.setattr(real_task.sentiment, "load", load)
    monkeypatch.setattr(real_task.features, "read", read)
    monkeypatch.setattr(real_task, "FITTED_ON", 10)
    for cached in (real_task.real_task, real_task._teacher):
        cached.cache_clear()
    yield asked
    for cached in (real_task.real_task, real_task._teacher):
        cached.cache_clear()


def test_the_teacher_is_fitted_on_texts_that_no_student_sees(small):
    found = real_task.real_task()
    fitted = [text for text in small if text.startswith("teacher")]
    assert len(fitted) == 40  # ten of each domain
    assert len(found.train.texts) == 40
    for some in (found.train, found.validation, found.test):
        assert torch.allclose(some.teacher_logits.sum(dim=1), torch.zeros(len(some.texts)), atol=1e-6)
        assert (some.teacher_logits.argmax(1) == some.labels).all()
        assert [some.domains[0], some.domains[5]] == ["tweets", "products"]
        assert some.of_domain("movies").tolist() == [n % 4 == 2 for n in range(len(some.texts))]


def test_any_backbone_is_read_at_the_layer_that_is_asked(small, monkeypatch):
    seen, read = [], real_task.features.read

    def _noting(name, texts, layer=None, *more, **options):
        seen.append((name, layer))
        return read(name, texts, layer, *more, **options)

    monkeypatch.setattr(real_task.features, "read", _noting)
    found = real_task.real_task("someone/some-model", 7)
    assert seen.count(("someone/some-model", 7)) == 3
    assert {name for name, _ in seen} == {"someone/some-model", real_task.models.SMOLLM2}  # the teacher's own model
    assert len(found.test.texts) == 24
    real_task.real_task()
    assert (real_task.models.SMOLLM2, None) in seen


def test_the_training_texts_alone_standardise(small):
    found = real_task.real_task()
    assert torch.allclose(found.train.features.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(found.train.features.std(0), torch.ones(2), atol=1e-5)
    numbers = torch.tensor([float(text.split()[1]) for text in found.test.texts])
    own = torch.arange(40.0)
    assert torch.allclose(found.test.features[:, 1], (numbers - own.mean()) / own.std(), atol=1e-5)


# --- noise that nobody met --------------------------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch, tiny):
    """The task on texts of the alchemy world and the tiny model's features."""
    drawn = [text for name in alchemy_sentiment.DOMAINS for text in alchemy_sentiment.texts(name, 6, "studies")]
    texts, labels = tuple(text.text for text in drawn), torch.tensor([text.label for text in drawn])
    raw = features.read("tiny", texts, progress=False)
    standardiser = features.Standardiser.fit(raw)
    teacher = torch.nn.functional.one_hot(labels, 2).float() * 4
    some = Part(texts, tuple(DOMAINS[n // 6] for n in range(24)), standardiser(raw), labels, teacher)
    made = Task(some, some, some, standardiser)
    monkeypatch.setattr(noise_studies, "real_task", lambda *name: made)
    monkeypatch.setattr(noise_studies, "EMBEDDED", {"tiny": 2})
    monkeypatch.setattr(noise_studies, "models", SimpleNamespace(SMOLLM2="tiny"))
    caches = (noise_studies._head, noise_studies._rewritten, noise_studies._trunk, noise_studies._word_norm)
    for cached in caches:
        cached.cache_clear()
    yield made
    for cached in caches:
        cached.cache_clear()


def test_embeddings_without_noise_are_the_texts_and_with_much_of_it_they_are_not(written):
    still = noise_studies.measure_embeddings(0, "tiny", "KD alone", 0.0, "float32")
    assert still["n"] == 8
    assert still["clean"] == still["attacked"] == still["random"]
    head = noise_studies._head("tiny", "KD alone", "full", 0)
    chosen = noise_studies._first(written.test, 2)
    assert chosen == [0, 1, 6, 7, 12, 13, 18, 19]
    right = head(written.test.features[chosen]).argmax(-1) == written.test.labels[chosen]
    assert still["clean"] == int(right.sum()) > 4
    much = noise_studies.measure_embeddings(0, "tiny", "KD alone", 0.5, "float32")
    assert much["clean"] == still["clean"]
    assert much["attacked"] < min(much["clean"], much["random"])


def test_slips_reach_the_test_texts_and_no_slips_leave_the_features(written, monkeypatch):
    monkeypatch.setattr(noise_studies, "EACH", 3)
    chosen = noise_studies._first(written.test, 3)
    plain = noise_studies.measure_text_noise(0, "none", "KD alone", "full")["accuracy"]
    head = noise_studies._head("tiny", "KD alone", "full", 0)
    right = head(written.test.features[chosen]).argmax(-1) == written.test.labels[chosen]
    assert (plain["successes"], plain["n"]) == (int(right.sum()), 12)
    for kind in KINDS:
        rewritten = written.standardiser(noise_studies._rewritten(kind))
        found = noise_studies.measure_text_noise(0, kind, "KD alone", "full")["accuracy"]
        assert found["successes"] == int((head(rewritten).argmax(-1) == written.test.labels[chosen]).sum())
    assert not torch.allclose(rewritten, written.test.features[chosen], atol=1e-3)


@pytest.mark.parametrize("study", [*studies.STUDIES, *noise_studies.STUDIES], ids=lambda study: study.name)
def test_each_study_is_in_the_catalogue(study):
    assert find(study.name) is study
