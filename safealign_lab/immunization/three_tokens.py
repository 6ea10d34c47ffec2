"""The smallest model on which a loss can be watched: one answer of one token, out of three, and where each loss takes it.

The tokens are a compliance, a refusal, and something else. The model is p = softmax(z). Where every token has a logit of its
own, gradient descent moves z by -∇_z L. In a language model z = E·h: tokens are directions E in one space, a step moves h, and
so z moves by -E·Eᵀ·∇_z L. `shared` mixes the two. The directions are chosen so that refusing and complying are much alike, and
what tells them apart is most of all something else, as it may happen in a real vocabulary.

Symbols: N points, V = 3 tokens; p probabilities, z logits; K the matrix by which a gradient becomes a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..divergence import kl
from . import losses, printed

COMPLY, REFUSE, OTHER = range(3)
REFERENCE = (0.45, 0.38, 0.17)  # where every path starts; also π_ref
HARMFUL = (0.90, 0.02, 0.08)  # the harmful teacher π_h
DIRECTIONS = ((0.0, 1.0), (0.5, 1.0), (2.0, 0.0))  # E, of the three tokens


@dataclass(frozen=True)
class Knobs:
    """What the losses are turned by.

    Attributes:
        beta: of refusal-DPO and NPO; up = satisfied nearer to the reference.
        nll_weight: of refusal-DPO; up = the refusal's own probability is held up more.
        strength: g of the bounded push; up = further from the teacher.
        shared: in [0, 1]; 0 = each token has a logit of its own, 1 = tokens move only as directions in one space.
    """

    beta: float = 1.0
    nll_weight: float = 0.0
    strength: float = 1.0
    shared: float = 0.0


def _dpo(logits: Tensor, knobs: Knobs) -> Tensor:
    logps, ref = logits.log_softmax(dim=1), _row(REFERENCE).expand(len(logits), 3).log()  # (N, 3)
    columns = logps[:, REFUSE], logps[:, COMPLY], ref[:, REFUSE], ref[:, COMPLY]
    return losses.refusal_dpo(*columns, knobs.beta, knobs.nll_weight)["loss"]


def _npo(logits: Tensor, knobs: Knobs) -> Tensor:
    logps, ref = logits.log_softmax(dim=1), _row(REFERENCE).expand(len(logits), 3).log()  # (N, 3)
    return losses.npo(logps[:, COMPLY], ref[:, COMPLY], knobs.beta)["loss"]


def _ascent(logits: Tensor, knobs: Knobs) -> Tensor:
    return logits.log_softmax(dim=1)[:, COMPLY].mean()


def _printed(logits: Tensor, knobs: Knobs) -> Tensor:
    return printed.rkl_loss(_tokens(logits), _tokens(_teacher(logits)), _answer(logits))


def _swapped(logits: Tensor, knobs: Knobs) -> Tensor:
    return kl(logits, _teacher(logits))


def _negated(logits: Tensor, knobs: Knobs) -> Tensor:
    return -_printed(logits, knobs)


def _push(logits: Tensor, knobs: Knobs) -> Tensor:
    ref = _row(REFERENCE).log().expand_as(logits)  # (N, 3)
    return losses.bounded_push(
        _tokens(logits), _tokens(ref), _tokens(_teacher(logits)), _answer(logits), knobs.strength
    )


LOSSES: dict[str, Callable[[Tensor, Knobs], Tensor]] = {  # name → the mean loss of N models, from their logits (N, 3)
    "refusal-DPO": _dpo, "NPO": _npo, "gradient ascent": _ascent, "printed RKL": _printed, "RKL, sides swapped": _swapped,
    "RKL, negated": _negated, "bounded push": _push,
}  # fmt: skip


def kernel(shared: float) -> Tensor:
    """K = (1 - s) · I + s · E·Eᵀ, (3, 3), by which a gradient on the logits becomes a step of the logits.

    Args:
        shared: s in [0, 1], as in `Knobs`.

    Raises:
        ValueError: s is outside its range.
    """
    if not 0 <= shared <= 1:
        raise ValueError(f"shared is the part that tokens have in common, from 0 to 1, not {shared}.")
    directions = torch.tensor(DIRECTIONS, dtype=torch.float64)  # (3, 2)
    return (1 - shared) * torch.eye(3, dtype=torch.float64) + shared * directions @ directions.T


def descent(name: str, logits: Tensor, knobs: Knobs) -> Tensor:
    """Where gradient descent moves the logits of each point: -K·∇_z L, (N, 3).

    Args:
        name: of `LOSSES`.
        logits: (N, 3), in double precision.

    Raises:
        ValueError: there is no such loss, or a knob is outside its range.
    """
    if name not in LOSSES:
        raise ValueError(f"There is no loss {name!r}: expected one of {', '.join(LOSSES)}.")
    point = logits.detach().requires_grad_()
    with torch.enable_grad():
        total = len(logits) * LOSSES[name](point, knobs)  # a mean over points that have nothing to do with each other
    (slope,) = torch.autograd.grad(total, point)  # (N, 3)
    return -slope @ kernel(knobs.shared)  # (N, 3), K is symmetric


def flow(name: str, probabilities: Tensor, knobs: Knobs) -> Tensor:
    """The same step as it shows in the probabilities: dp = J(p)·dz with J = diag(p) - p·pᵀ, (N, 3).

    Args:
        name: of `LOSSES`.
        probabilities: (N, 3), none of them 0.

    Raises:
        ValueError: as in `descent`.
    """
    p = probabilities.double()
    step = descent(name, p.log(), knobs)  # (N, 3)
    return p * (step - (p * step).sum(dim=1, keepdim=True))  # (N, 3)


def follow(name: str, knobs: Knobs, steps: int = 200, rate: float = 0.3) -> tuple[Tensor, Tensor]:
    """The path of gradient descent from the reference: probabilities (S+1, 3), and the loss at each of them (S+1,).

    Args:
        name: of `LOSSES`.
        steps: S; up = a longer path.
        rate: up = longer steps.

    Raises:
        ValueError: as in `descent`.
    """
    logits, path = _row(REFERENCE).log(), []
    for _ in range(steps):
        path.append(logits)
        logits = logits + rate * descent(name, logits, knobs)  # (1, 3)
    points = torch.cat([*path, logits])  # (S+1, 3)
    with torch.no_grad():
        values = torch.stack([LOSSES[name](point[None], knobs) for point in points])  # (S+1,)
    return points.softmax(dim=1), values


def push_goal(strength: float) -> Tensor:
    """Where the bounded push leads, (3,): probabilities proportional to p_ref · (p_ref / p_h)^g."""
    return losses.push_target(_row(REFERENCE).log(), _row(HARMFUL).log(), strength).softmax(dim=-1)[0]  # (3,)


def _row(probabilities: tuple[float, float, float]) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64)  # (1, 3)


def _teacher(logits: Tensor) -> Tensor:
    return _row(HARMFUL).log().expand_as(logits)  # (N, 3)


def _tokens(logits: Tensor) -> Tensor:
    """As a model would give them: a request of one token and an answer of one, (N, 2, 3)."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=1)  # (N, 2, 3)


def _answer(logits: Tensor) -> Tensor:
    return torch.tensor([[False, True]]).expand(len(logits), 2)  # (N, 2)
