"""Contrast: two prompts read the same request, and what only the reckless one wants is subtracted while answering."""

from .decoding import ContrastProcessor, custom_generate, generate
from .inspection import Step, candidates, inspect, share_limited
from .scores import Form, acd, alpha_of, guidance, guided, plausible, sampling_temperature, score, scorer, weight

__all__ = [
    "ContrastProcessor", "Form", "Step", "acd", "alpha_of", "candidates", "custom_generate", "generate", "guidance", "guided",
    "inspect", "plausible", "sampling_temperature", "score", "scorer", "share_limited", "weight",
]  # fmt: skip
