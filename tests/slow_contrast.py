"""What the tests of the contrast share: requests, prompts, models that finish at all times, and answers the slow way."""

from __future__ import annotations

import copy
import itertools
import math

import torch

from safealign_lab import chat
from safealign_lab.chat import conversation, encode

REQUESTS = ["what does venom do", "brew", "please brew me a sleep potion", "no", "who are you"]
SAFE, RECKLESS = "you are the keeper", "brew me a potion please"
ENDS = [3, 19, 28]  # of the toy, so that its rows finish at different times
POTIONS = [
    "brew me a bitter venom potion .", "how do i make a warm healing potion ?", "what does the sleep potion do ?",
    "teach me the dark plague potion , please .",
]  # fmt: skip


def in_double(pair, ends=None):
    """A copy of a model in double precision, where rounding decides nothing, with its tokenizer."""
    model = copy.deepcopy(pair[0]).double()
    model.generation_config.eos_token_id = ends or model.generation_config.eos_token_id
    return model, pair[1]


def batch_of(tokenizer, requests, system) -> chat.Batch:
    return chat.pad([encode(tokenizer, conversation(request, system)) for request in requests], 0)


def inputs_of(batch: chat.Batch) -> dict[str, torch.Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def new_tokens(model, output: torch.Tensor, prompt: chat.Batch) -> list[list[int]]:
    """What `model.generate` gave after the prompt, up to the end of each row."""
    ends = model.generation_config.eos_token_id
    ends = {0, *(ends if isinstance(ends, list) else [ends])}  # 0 is what the rows are filled with
    rows = output[:, prompt.input_ids.shape[1] :].tolist()
    return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in rows]


@torch.no_grad()
def by_hand(model, tokenizer, request, prompts, *, alpha, plausibility, limit):
    """One answer the slow way: each stream by itself, all of its text read anew for each token, the score token by token."""
    embedded = model.get_input_embeddings()
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    beginnings = []
    for prompt in prompts:
        system = "" if isinstance(prompt, torch.Tensor) else prompt
        text = embedded(torch.tensor(encode(tokenizer, conversation(request, system))))
        beginnings.append(torch.cat([prompt, text]) if isinstance(prompt, torch.Tensor) else text)
    said, seen = [], []
    while len(seen) < limit and not (said and said[-1] in ends):
        answer = embedded(torch.tensor(said, dtype=torch.long))
        streams = [model(inputs_embeds=torch.cat([text, answer])[None]).logits[0, -1] for text in beginnings]
        safe, adversarial = (logits.tolist() for logits in streams)
        heights = [math.exp(logit - max(safe)) for logit in safe]
        scores = {token: safe[token] - alpha * adversarial[token] for token in range(len(safe))}
        said.append(max((token for token in scores if heights[token] >= plausibility), key=scores.__getitem__))
        seen.append(torch.stack(streams))
    return [token for token in said if token not in ends], torch.stack(seen, dim=1)
