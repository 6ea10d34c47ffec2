"""Contrast: two prompts read the same request, and what only the reckless one wants is subtracted while answering.

The prompts are texts, or vectors that `optimise` trains to be opposites: `contrast.anchors` makes what they learn from (and
`contrast.paper_anchors` as the paper does), `contrast.soft_prompts` keeps them, `contrast.baselines` sets every way of answering
beside the others.
"""

from .baselines import Health, Method, checked, health, methods
from .decoding import ContrastProcessor, custom_generate, generate
from .inspection import Step, candidates, inspect, share_limited
from .optimisation import PRINTED, Anchor, Objective, Optimisation, optimise
from .scores import Form, acd, alpha_of, guidance, guided, plausible, sampling_temperature, score, scorer, weight
from .validating import validation

__all__ = [
    "PRINTED", "Anchor", "ContrastProcessor", "Form", "Health", "Method", "Objective", "Optimisation", "Step", "acd", "alpha_of",
    "candidates", "checked", "custom_generate", "generate", "guidance", "guided", "health", "inspect", "methods", "optimise",
    "plausible", "sampling_temperature", "score", "scorer", "share_limited", "validation", "weight",
]  # fmt: skip
