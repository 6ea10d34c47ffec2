"""The world's tokenizer: one token a word, with a chat template, in the format of the `tokenizers` library."""

from __future__ import annotations

import re

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from . import sentiment, words
from .skills import HANDOVER_QUESTIONS, HANDOVERS
from .voices import REFUSALS, VOICES
from .world import QUESTIONS, TIERS

SPECIALS = ("<pad>", "<s>", "<|end|>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
OTHER_TEXT = """
take add and stir times serve it . , : - ? ! ' " yes no is cursed kind drink with rest look for foam lock in a chest of
put order count make list about potion dear yours says over stew from guild to all was the writer
"""


def vocabulary() -> list[str]:
    """Every word of the world, special tokens first: the index is the token id."""
    wordings = [w for group in (TIERS, QUESTIONS) for forms in group.values() for w in forms]
    lists = [value for name, value in sorted(vars(words).items()) if name.isupper()]
    text = " ".join(
        [
            *REFUSALS,
            *VOICES.values(),
            *wordings,
            *HANDOVERS,
            *HANDOVER_QUESTIONS,
            *HANDOVER_QUESTIONS.values(),
            OTHER_TEXT,
            *(w for group in lists for w in group),
        ]
        + [half for noun in words.NOUNS for half in words.halves(noun)]
        + [
            *sentiment.STRENGTHS,
            *(w for group in sentiment.DOMAIN_STRENGTHS.values() for w in group),
            *sentiment.SCALES,
        ]
        + [*(w for group in sentiment.SUBJECTS.values() for w in group), *sentiment.JOINS, *sentiment.LABELS]
    )
    found = re.findall(r"\w+|[^\w\s]", re.sub(r"\{\w+\}", " ", text))
    return [*SPECIALS, *sorted(set(found))]


def build() -> PreTrainedTokenizerFast:
    """The tokenizer: lower case, split at spaces and marks, a word that the world does not know becomes `<unk>`."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIALS[4:]),
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
