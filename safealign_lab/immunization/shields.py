"""Shields: what keeps canaries where the first phase has left them while the second one trains.

An anchor is a term of the loss: it pulls back, and gives way to a strong pull from elsewhere. A masked update is no term but a
rule: canaries do not move at all. The source's own anchor, which does nothing, is `printed.stab_loss`.

Symbols: θ weights, a the anchor: their values at the start of the phase; F importances, N canaries in a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..training import Gradient, Terms, backward
from .canaries import Canaries


class PhaseAnchor:
    """A pull of the canaries to where they were when the phase began, that is, when this object was made.

    penalty = Σ over canaries of F_j · (θ_j - a_j)²

    Args:
        parameters: name → tensor, as they are at the start of the phase.
        canaries: which of them are held; weights that are not among `parameters` are an error.
        importance: name → tensor of the parameters' shapes, ≥ 0, as an `Accumulator` of kind "squared" sums it (elastic weight
            consolidation); divided by its mean over the canaries, so that the weight of the penalty keeps its meaning.
            More important canaries are held harder. None holds all alike.

    Raises:
        ValueError: the canaries belong to another model, there are none, or the importances are zero on all of them.

    source: derived (the start of the phase in the place of the start of the step); ours (importances)
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], canaries: Canaries, importance: Mapping[str, Tensor] | None = None
    ) -> None:
        self.masks = _masks(parameters, canaries)
        self.weights = {name: parameters[name] for name in self.masks}
        self.anchors = _values(self.weights, self.masks)
        self.importance: dict[str, Tensor] = {}
        if importance is not None:
            chosen = _values(importance, self.masks)
            mean = torch.cat(list(chosen.values())).mean()
            if not mean > 0:
                raise ValueError(
                    f"Importances with the mean {float(mean)} hold nothing: gather them on some batches first."
                )
            self.importance = {name: values / float(mean) for name, values in chosen.items()}

    def penalty(self) -> Tensor:
        """The sum at the present weights, to be added to a loss: times β, and a larger β lets the canaries move less."""
        terms = []
        for name, mask in self.masks.items():
            squares = (self.weights[name][mask] - self.anchors[name]).square()  # (N,)
            terms.append((squares * self.importance.get(name, 1.0)).sum())
        return torch.stack(terms).sum()


class MaskedUpdate:
    """Holds the canaries bit for bit where they are now, whatever the optimiser does: its steps are taken back on them.

    To zero their gradients is not enough, since AdamW's momentum from before and its weight decay go on. So the values are
    written back after each step:

        shield = MaskedUpdate(parameters, canaries)
        train(parameters, loss, plan, after_step=shield.hold)                with the kit's training loop
        optimizer.step(); shield.hold()                                      with any other

    Args:
        parameters: name → tensor, as they are to be kept.
        canaries: which of them.

    Raises:
        ValueError: the canaries belong to another model, or there are none.

    source: derived
    """

    def __init__(self, parameters: Mapping[str, Tensor], canaries: Canaries) -> None:
        self.masks = _masks(parameters, canaries)
        self.weights = {name: parameters[name] for name in self.masks}
        self.values = _values(self.weights, self.masks)

    @torch.no_grad()
    def hold(self, step: int = 0) -> None:
        """Writes the canaries back; the step is taken as `after_step` of `training.train` gives it, and does not matter."""
        for name, mask in self.masks.items():
            self.weights[name].masked_scatter_(mask, self.values[name])

    def masking(self, gradient: Gradient = backward) -> Gradient:
        """A gradient for `training.train(gradient=…)` that is zero on the canaries, so that clipping does not count them.

        Alone it does not hold them (see above); beside `hold` it lets the other weights be clipped by their own norm.
        """

        def _masked(closure: Callable[[], Terms]) -> Terms:
            terms = gradient(closure)
            for name, mask in self.masks.items():
                found = self.weights[name].grad
                if found is not None:
                    found.masked_fill_(mask, 0.0)
            return terms

        return _masked


def _masks(parameters: Mapping[str, Tensor], canaries: Canaries) -> dict[str, Tensor]:
    masks = canaries.masks(parameters)
    if not masks:
        raise ValueError("There is no canary to hold: select a fraction above 0, or train without a shield.")
    return masks


def _values(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name].detach()[mask].clone() for name, mask in masks.items()}  # (N,) each
