"""Teachers: who knows more than the student, and how sure they are of each text.

Symbols: N texts, D numbers in a feature vector, C classes, τ temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import conversation, encode, pad


@torch.no_grad()
def answer_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], words: Sequence[str],
    batch_size: int = 64, progress: bool = True,
) -> Tensor:  # fmt: skip
    """How a language model would answer: the logits of a few words as the first of its answer to each text; (N, C), float32.

    Args:
        model, tokenizer: of `models.load`.
        texts: N, each sent as a request of its own.
        words: C, each a single token.
        batch_size: texts at once, of similar length; up = faster to a point, and more memory.
        progress: show a bar with what is left.

    Raises:
        ValueError: a word is not one token.
    """
    ids = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    if any(len(each) != 1 for each in ids):
        raise ValueError(
            f"Each of {', '.join(map(repr, words))} has to be one token of this model; choose shorter words."
        )
    rows = [encode(tokenizer, conversation(text)) for text in texts]
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found = torch.empty(len(rows), len(words))  # (N, C)
    with tqdm(total=len(rows), unit="text", desc="asking the teacher", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = pad([rows[number] for number in chosen], tokenizer.pad_token_id or 0).to(model.device)
            logits = model(**batch.inputs(), logits_to_keep=1).logits[:, -1]  # (B, V)
            found[chosen] = logits[:, [each[0] for each in ids]].float().cpu()  # (B, C)
            bar.update(len(chosen))
    return found
