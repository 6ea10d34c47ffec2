"""The words of the toy model, and its tokenizer: one token a word."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TOY_WORDS = (
    "you are the keeper what does venom sleep do brew me a potion no i will not please thanks one two . ? , !".split()
)
TOY_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    specials = ["<pad>", "<s>", "<unk>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {word: index for index, word in enumerate(specials + TOY_WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", unk_token="<unk>", eos_token="<|end|>",
        additional_special_tokens=specials[4:],
    )  # fmt: skip
    tokenizer.chat_template = TOY_TEMPLATE
    return tokenizer
