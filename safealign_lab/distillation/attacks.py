"""Attacks on a student, and whether one can be believed: a head may look robust because its gradient tells nothing.

Symbols: N texts, T tokens, D numbers in a vector, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chat import at_least_float32
from ..measures import Rate, rate
from ..training import step_generator
from .perturbations import Perturbation, perturb
from .student import raised

Classifier = Callable[[Tensor], Tensor]  # inputs of N texts → logits (N, C)


@dataclass(frozen=True)
class Attacked:
    """What became of N texts under attack.

    Attributes:
        delta: the perturbation of each that drove the loss highest, of the inputs' shape.
        held: (N,), True where no restart moved the answer away from the class that was attacked.
    """

    delta: Tensor
    held: Tensor


@dataclass(frozen=True)
class MaskingCheck:
    """One sign of a student that hides its gradient instead of being robust: the accuracy under two attacks.

    `stronger` should not be above `weaker` by more than chance: if it is, the attack that was believed is not to be.
    """

    name: str
    weaker: Rate
    stronger: Rate

    @property
    def passed(self) -> bool:
        """Whether the attack that has to be stronger is so, or is not weaker by more than one text in a hundred."""
        return self.stronger.value <= self.weaker.value + 0.01


def attack(
    classifier: Classifier, inputs: Tensor, labels: Tensor, perturbation: Perturbation, scale: float,
    mask: Tensor | None = None, restarts: int = 1, seed: int = 0,
) -> Attacked:  # fmt: skip
    """The worst of several attacks on each text: its class holds only where every one of them failed.

    Args:
        classifier: inputs → logits (N, C), each row depending on its own input alone. Features, or embeddings of a batch.
        inputs: (N, D) or (N, T, D), clean.
        labels: (N,), what is attacked: the right classes, or the student's own answers.
        perturbation: of the attacker, at least as strong as what the student met in training.
        scale: the mean norm that ε is relative to.
        mask: (N, T), what may be perturbed.
        restarts: attacks, each from its own random start; up = a worse case, slower.
        seed: of the starts.

    Raises:
        ValueError: no restarts, or as in `perturbations.perturb`.
    """
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, not {restarts}.")
    loss = raised(classifier, labels)
    held, delta = torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(inputs)
    highest = torch.full(labels.shape, -math.inf, device=labels.device)  # (N,)
    for restart in range(restarts):
        found = perturb(inputs, loss, perturbation, scale, mask=mask, generator=step_generator(seed, restart))
        with torch.no_grad():
            logits = classifier(inputs + found)  # (N, C)
        reached = F.cross_entropy(at_least_float32(logits), labels, reduction="none")  # (N,)
        higher = (reached > highest).reshape(-1, *[1] * (inputs.dim() - 1))  # (N, 1) or (N, 1, 1)
        delta, highest = torch.where(higher, found, delta), torch.maximum(reached, highest)
        held &= logits.argmax(dim=-1) == labels
    return Attacked(delta, held)


def masking_checks(
    classifier: Classifier, others: Sequence[Classifier], inputs: Tensor, labels: Tensor, perturbation: Perturbation,
    scale: float, seed: int = 0,
) -> list[MaskingCheck]:  # fmt: skip
    """Whether an attack on a student can be believed: more of it must never do less.

    Many small steps do no less than one, five restarts with ten times the steps no less than none, twice and ten times the
    radius no less than one; and noise that was aimed at another student, or at nothing, does no more than its own. What
    passes is not yet as strong as can be: if the rates of "more steps and restarts" lie far apart, take the longer attack.

    Args:
        classifier: the student.
        others: further students on the same inputs, whose perturbations are tried on this one.
        inputs: (N, D).
        labels: (N,).
        perturbation: the attack to be examined.
        scale, seed: as in `attack`.

    Returns:
        Five checks, and one more for each of the others.

    Raises:
        ValueError: as in `attack`.
    """

    def _under(changed: Perturbation, of: Classifier = classifier, restarts: int = 1) -> Rate:
        delta = attack(of, inputs, labels, changed, scale, restarts=restarts, seed=seed).delta
        with torch.no_grad():
            right = classifier(inputs + delta).argmax(dim=-1) == labels  # (N,)
        return rate(int(right.sum()), len(right))

    own = _under(perturbation)
    single = _under(replace(perturbation, kind="fgsm"))
    longer = _under(replace(perturbation, steps=10 * perturbation.steps), restarts=5)
    wide, wider = (_under(replace(perturbation, epsilon=factor * perturbation.epsilon)) for factor in (2, 10))
    noise = _under(replace(perturbation, kind="gaussian"))
    checks = [
        MaskingCheck("several steps against one", single, own), MaskingCheck("more steps and restarts", own, longer),
        MaskingCheck("twice the radius", own, wide), MaskingCheck("ten times the radius", wide, wider),
        MaskingCheck("aimed against random", noise, own),
    ]  # fmt: skip
    return checks + [
        MaskingCheck(f"own against that of student {n}", _under(perturbation, of), own) for n, of in enumerate(others)
    ]
