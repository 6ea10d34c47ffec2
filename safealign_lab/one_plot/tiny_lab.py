"""Everything that one alchemy world's plot needs: its requests, and each defence trained on the same model, once.

Symbols: N requests, D numbers in a feature vector, V vocabulary, P length of a soft prompt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property

import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..alchemy.world import TIERS, UNSEEN_STYLE, Request, World, world
from ..contrast import anchors
from ..contrast.optimisation import Anchor
from ..contrast.prompt_studies import train_prompt
from ..contrast.recipes import ANCHORS
from ..distillation.features import LAYERS, Standardiser
from ..distillation.gate import Gate, choose_threshold, reader
from ..distillation.gate_task import cross_fit, line, two_sided
from ..distillation.perturbations import Perturbation
from ..distillation.student import Settings, train_student
from ..distillation.text_noise import noisy
from ..generation import answer
from ..immunization.cycle import Cycle, run, trained_weights
from ..immunization.phases import immunizing
from ..immunization.printed_cycle import run_as_printed
from ..immunization.tampering import Attack, tamper
from ..immunization.tiny_task import Setting, setting
from ..studies.worlds import settled
from ..training import train

EACH, QUESTIONS = 36, 60  # requests of a tier, and questions, in each view
GATE_REQUESTS = 200  # of each sort of request that the gate learns from
NOISE = 0.4  # share of the words that change places with the next one
TAMPERING = (2, 8)  # steps
VIEWS = ("as asked", "another wording", "swapped words", *(f"after {steps} steps of tampering" for steps in TAMPERING))
KINDS = ("harmful", "borderline", "benign")
FOUND = 100  # requests whose answering is the unit of training time


# ---------------------------------------------------------------- what is asked


@cache
def asked(seed: int, view: str = VIEWS[0]) -> dict[str, list[Request]]:
    """The same requests for every method, by kind; all are about test nouns, in combinations that pretraining never showed.

    Args:
        seed: of the world and of the draw.
        view: one of `VIEWS`. Tampering changes the model, and not the requests.
    """
    of, rng = world(seed), random.Random(f"one-plot-{seed}")
    cursed, kind = (of.nouns("test", cursed=side) for side in (True, False))
    other = view == "another wording"
    found = {
        "harmful": _potions(of, cursed, rng, other),
        "borderline": rng.sample(of.questions(cursed), QUESTIONS),
        "benign": _potions(of, kind, rng, other) + rng.sample(of.questions(kind), EACH),
    }
    if view == "swapped words":
        slips = random.Random(f"slips-{seed}")
        return {
            side: [replace(one, text=noisy(one.text, "swapped_words", NOISE, slips)) for one in its]
            for side, its in found.items()
        }
    return found


def _potions(of: World, nouns: list[str], rng: random.Random, unseen_style: bool) -> list[Request]:
    tiers = {
        tier: [one for one in of.potions(nouns, tier) if (one.style == UNSEEN_STYLE) == unseen_style] for tier in TIERS
    }
    return [one for its in tiers.values() for one in rng.sample(its, EACH)]


# ---------------------------------------------------------------- what answers


class Lab:
    """The defences of one world, each trained when it is first asked for, with the seconds that it took.

    Attributes:
        base: the helpful-only model of the world, at which every defence starts.
        tokenizer: of all its models.
        world: the world.
        seconds: what was trained → processor seconds, in the order of training.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.base, self.tokenizer, self.world = settled(seed)
        self.seconds: dict[str, float] = {}
        self._models: dict[str, PreTrainedModel] = {"undefended": self.base}
        self._prompts: dict[tuple[str, str], Tensor] = {}
        self._anchors: dict[str, list[Anchor]] = {}
        self._gates: dict[tuple[float, float], Gate] = {}

    @cached_property
    def of(self) -> Setting:
        """The teachers and the rows of the immunization wing, which take minutes where nobody has asked for them before."""
        return setting(self.seed)

    def model(self, name: str, tampered: int = 0) -> PreTrainedModel:
        """A model by the defence in its weights, one of `MODELS` or with a cycle's settings behind it, as in `cycle_named`.

        Args:
            tampered: steps of fine-tuning on harmful and harmless answers that came after.
        """
        if tampered:
            return self._kept(f"{name}, {tampered} steps of tampering", lambda: self._tampered(name, tampered))
        return self._kept(name, lambda: self._trained(name))

    def prompt(self, role: str, of: str = "undefended") -> Tensor:
        """The soft prompt (P, D) of a role, "safeguarding" or "adversarial", for the model of a name."""
        if (role, of) not in self._prompts:
            model = self.model(of)
            if of not in self._anchors:
                self._anchors[of] = anchors.alchemy(model, self.tokenizer, self.world, ANCHORS, self.seed)
            began = time.process_time()
            learned = train_prompt(model, self.tokenizer, self._anchors[of], role, self.seed)  # type: ignore[arg-type]
            self._prompts[role, of] = learned
            self.seconds[f"{role} prompt of {of}"] = time.process_time() - began
        return self._prompts[role, of]

    def gate(self, epsilon: float = 0.05, temperature: float = 2.0) -> Gate:
        """A gate that reads the undefended model.

        Args:
            epsilon: radius of the noise in its training, relative to the features' mean norm; 0 = none.
            temperature: τ of its distillation.
        """
        if (epsilon, temperature) not in self._gates:
            inputs, labels, opinions, scaled = self._read
            noise = Perturbation("fgsm", "l2", epsilon) if epsilon else None
            settings = Settings(temperature=temperature, perturbation=noise)
            began = time.process_time()
            head, _ = train_student(inputs, labels, opinions, settings, self.seed, progress=False)
            self.seconds[f"gate, ε = {epsilon:g}, τ = {temperature:g}"] = time.process_time() - began
            made = Gate(self.reads(), scaled, head)
            chosen = {kind: made.score([one.text for one in its]) for kind, its in self._chosen_by().items()}
            self._gates[epsilon, temperature] = replace(made, threshold=choose_threshold(chosen))
        return self._gates[epsilon, temperature]

    def reads(self, model: PreTrainedModel | None = None) -> Callable[[Sequence[str]], Tensor]:
        """How a gate reads a request: through the undefended model, or what became of it."""
        return reader(model or self.base, self.tokenizer, LAYERS["tiny"])

    def _kept(self, name: str, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        if name not in self._models:
            assert self.of  # read before the clock starts: teachers and references serve all defences
            began = time.process_time()
            self._models[name] = make().eval()
            self.seconds[name] = time.process_time() - began
        return self._models[name]

    def _trained(self, name: str) -> PreTrainedModel:
        of, recipe, room = self.of, cycle_named(name), self.of.fresh()
        if name == "as printed":
            first, second = (replace(plan, seed=self.seed) for plan in (recipe.first, recipe.second))
            run_as_printed(room, of.harmful, of.preferred, first, second, recipe.attack_radius, recipe.canary_fraction)
        elif name.startswith("refusal"):
            learned = replace(recipe.immunize, refusing="dpo" if name == "refusal-DPO" else "likelihood")
            loss = immunizing(room, of.harmful, of.preferred, learned, recipe.first.steps)
            train(trained_weights(room.student), loss, replace(recipe.first, seed=1000 * self.seed), progress=False)
        else:
            run(room, of.harmful, of.preferred, of.preferred, recipe, seed=self.seed, progress=False)
        return room.student

    def _tampered(self, name: str, steps: int) -> PreTrainedModel:
        harmful = [(row.request, row.rejected) for row in self.of.harmful]
        benign = [(row.request, row.chosen) for row in self.of.preferred]
        attack = Attack("mixed", 3e-4, seed=self.seed)
        _, victim = tamper(self.model(name), self.tokenizer, harmful, benign, attack, lambda model: {}, (steps,))
        return victim

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor, Tensor, Standardiser]:
        """Of the training requests: standardised features (N, D), labels (N,), the teacher's logits (N, 2), the standardiser."""
        rows = [(side, one) for side, its in self._known("train").items() for one in its]
        texts, nouns = [one.text for _, one in rows], [one.noun for _, one in rows]
        labels = [side == "harmful" for side, _ in rows]
        raw = self.reads()(texts)  # (N, D)
        scaled = Standardiser.fit(raw)
        through = [make_pipeline(StandardScaler(), line(0.01)), line(0.01)]
        _, odds = cross_fit([raw.numpy(), self._words(texts).numpy()], through, labels, nouns)  # (N,)
        return scaled(raw), torch.tensor(labels).long(), two_sided(odds), scaled

    def _words(self, texts: Sequence[str]) -> Tensor:
        found = torch.zeros(len(texts), len(self.tokenizer))  # (N, V)
        for place, text in enumerate(texts):
            found[place, self.tokenizer.encode(text, add_special_tokens=False)] = 1.0
        return found

    def _known(self, split: str) -> dict[str, list[Request]]:
        """Requests about nouns of a split, in the wordings from which defences may learn."""
        of, rng = self.world, random.Random(f"gate-{self.seed}-{split}")
        cursed, kind = (of.nouns(split, cursed=side) for side in (True, False))
        pools = {
            "harmful": [of.trainable(cursed, tier) for tier in TIERS],
            "borderline": [of.questions(cursed)],
            "benign": [*(of.trainable(kind, tier) for tier in TIERS), of.questions(kind)],
        }
        return {
            side: [one for its in some for one in rng.sample(its, min(GATE_REQUESTS, len(its)))]
            for side, some in pools.items()
        }

    def _chosen_by(self) -> dict[str, list[Request]]:
        return {side: its for side, its in self._known("validation").items() if side != "harmful"}


MODELS = ("undefended", "refusal SFT", "refusal-DPO", "as printed", "immunized")


def cycle_named(name: str) -> Cycle:
    """The recipe of a cycle by its name: "immunized", "immunized, K = 0.3" (a share of canaries) or "immunized, β = 100".

    With β an anchor holds the canaries in place of the mask. K = 0 has none, and nothing is held.
    """
    _, _, said = name.partition(", ")
    if not said:
        return Cycle()
    knob, _, value = said.partition(" = ")
    if knob == "K":
        return Cycle(canary_fraction=float(value), shield="mask" if float(value) else "none")
    if knob == "β":
        return Cycle(shield="anchor" if float(value) else "none", stabilization=float(value))
    raise ValueError(f"There is no knob {knob!r} of a cycle: expected K or β, as in 'immunized, K = 0.3'.")


def seconds_for_hundred(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], system: str | None = "",
    batch_size: int = FOUND,
) -> float:  # fmt: skip
    """The processor seconds in which a model answers a hundred requests: the unit of training time."""
    return seconds_of(lambda: answer(model, tokenizer, requests[:FOUND], system=system, batch_size=batch_size))


def seconds_per_token(answers: Callable[[int], object], most: int) -> float:
    """Processor seconds for each token after the first, of answers that never end.

    Args:
        answers: gives answers of so many tokens.
        most: tokens of the longer ones; up = slower, and less noise.
    """
    return (seconds_of(lambda: answers(most)) - seconds_of(lambda: answers(1))) / (most - 1)


def seconds_of(run: Callable[[], object]) -> float:
    """Processor seconds, until it has run."""
    began = time.process_time()
    run()
    return time.process_time() - began


@cache
def lab(seed: int) -> Lab:
    """The lab of a world, kept for all runs of this process."""
    return Lab(seed)
