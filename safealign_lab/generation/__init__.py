"""From prompts to answers: the one decoding loop, for one stream of text or several, and batches of many requests."""

from .answering import Prompt, answer, generate
from .decoding import Generation, Reader, ScoreFunction, TokenCallback, decode

__all__ = ["Generation", "Prompt", "Reader", "ScoreFunction", "TokenCallback", "answer", "decode", "generate"]
