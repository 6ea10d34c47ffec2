"""Immunization: a model learns to refuse where its weights have been tampered with, and what matters for it is then kept.

Two phases make a cycle. The first learns refusals and is pushed away from a harmful teacher (`losses`), at weights that an
attack has moved (`perturbed`), while an `Accumulator` watches which weights that needs. The second learns preferences and
skills, and a `PhaseAnchor` or a `MaskedUpdate` shields these weights, the canaries (`select`). `cycle.run` leads a student
through both, with its `Teachers`. What comes of it is asked by `tampering` and by the `alarm`. The source's equations stand in
`immunization.printed`.
"""

from .canaries import Accumulator, Canaries, Overlap, Place, overlap, places, random_like, select, spared
from .curriculum import Preference
from .cycle import Cycle, Passed, run, trained_weights
from .losses import (
    alignment_loss,
    bounded_push,
    dpo,
    hinge_push,
    immunization_loss,
    negated_push,
    npo,
    push_target,
    reference_kl,
    refusal_dpo,
    token_npo,
)
from .phases import Align, Immunize, Room
from .references import References, measure
from .shields import MaskedUpdate, PhaseAnchor
from .tampering import Attack, Point, steps_to_break, tamper, worst
from .teachers import Teachers
from .weight_attack import at_perturbed_weights, perturbed

__all__ = [
    "Accumulator", "Align", "Attack", "Canaries", "Cycle", "Immunize", "MaskedUpdate", "Overlap", "Passed", "PhaseAnchor",
    "Place", "Point", "Preference", "References", "Room", "Teachers", "alignment_loss", "at_perturbed_weights",
    "bounded_push", "dpo", "hinge_push", "immunization_loss", "measure", "negated_push", "npo", "overlap", "perturbed",
    "places", "push_target", "random_like", "reference_kl", "refusal_dpo", "run", "select", "spared", "steps_to_break",
    "tamper", "token_npo", "trained_weights", "worst",
]  # fmt: skip
