"""The source's cycle, run as it is printed: what becomes of a model by it is measured, and nothing here is to be used.

Symbols: θ weights, δ a perturbation of them, ρ its size as a share of each tensor's norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..training import Gradient, Plan, Terms, backward, train
from . import printed
from .canaries import Accumulator, Canaries, select
from .curriculum import Order, Preference
from .cycle import trained_weights
from .phases import Align, Immunize, Room, aligning, immunizing
from .references import response_of
from .weight_attack import at_perturbed_weights, perturbed

REFUSE = Immunize(
    refusing="dpo", nll_weight=0.0, kept_weight=0.0, push_weight=0.5,
    push=lambda policy, reference, harmful, batch: printed.rkl_loss(policy, harmful, response_of(batch)),
)  # fmt: skip
PREFER = Align(nll_weight=0.0, brought=())
STABILIZATION = 1.0  # β, which changes nothing


def run_as_printed(
    room: Room, harmful: Sequence[Preference], preferred: Sequence[Preference], first: Plan, second: Plan,
    attack_radius: float = 0.01, canary_fraction: float = 0.5, put_back: bool = False, order: Order = "mixed",
    between: Callable[[Canaries], None] | None = None,
) -> Canaries:  # fmt: skip
    """One cycle by the printed losses, in place: no harmless answers in the first phase, and an anchor that does not hold.

    Only the embedding is frozen, as it is wherever the kit compares.

    Args:
        harmful: refusals preferred to recipes.
        preferred: what the second phase teaches.
        first, second: the plans of the phases.
        attack_radius: ρ, for which the source has no number.
        canary_fraction: K, by the gradients of the last batch.
        put_back: whether θ is put back after each attack; the source does not say that it is.
        order: of the harmful requests, as in `phases.Immunize`; the source's is "rising", from weak to strong.
        between: called between the phases with the canaries.

    source: paper; ours (all numbers, DPO's refusals, which the printed loop never draws)
    """
    weights = trained_weights(room.student)
    watched = Accumulator(weights, "printed")
    gradient = watched.watching()
    attacked = at_perturbed_weights if put_back else hardened
    loss = immunizing(room, harmful, preferred, replace(REFUSE, order=order), first.steps)
    train(weights, loss, first, gradient=attacked(weights, attack_radius, gradient=gradient), progress=False)
    canaries = select(watched.scores, canary_fraction)
    if between is not None:
        between(canaries)
    masks = canaries.masks(weights)
    anchored = aligning(room, preferred, PREFER, lambda: printed.stab_loss(weights, masks), STABILIZATION)
    train(weights, anchored, second, progress=False)
    return canaries


def hardened(weights: Mapping[str, Tensor], attack_radius: float, *, gradient: Gradient = backward) -> Gradient:
    """θ′ = θ + δ by `printed.harden`, and the gradient there: as `weight_attack.at_perturbed_weights`, but never put back."""

    def _gradient(closure: Callable[[], Terms]) -> Terms:
        with perturbed(weights, attack_radius, lambda: closure()["loss"]):
            there = {name: weight.detach().clone() for name, weight in weights.items()}
        printed.harden(weights, {name: there[name] - weight.detach() for name, weight in weights.items()})
        return gradient(closure)

    return _gradient
