"""Which sets hold requests to train on: the kit's own, all of real English; third-party ones are test only."""

from __future__ import annotations

TRAINING_SETS = ("anchors", "harmful", "borderline", "benign", "preferences", "refusals", "practice")
