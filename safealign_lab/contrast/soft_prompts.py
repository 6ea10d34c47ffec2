"""Soft prompts: vectors that stand before a conversation, where words would stand, and that gradients can change.

Symbols: B rows, T tokens, P length of the prompt, D hidden size, V vocabulary, M response tokens of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel, PromptTuningConfig, TaskType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, encode, positions, prefix_embeddings
from ..training import weights_hash

CARD = "soft_prompt.json"
WEIGHTS, TENSOR = "adapter_model.safetensors", "prompt_embeddings"


def initial(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, length: int | None = None) -> Tensor:
    """The vectors from which a prompt is trained: the embeddings of a system text, as the chat template prints it; (P, D).

    Args:
        text: written by hand: what the prompt should say, in words.
        length: P. A longer prompt repeats the tokens, a shorter one cuts them; more can hold more and takes longer to train
            and to read (source: ours; the paper has the length of its text, which is None).

    Raises:
        ValueError: a length below 1.
    """
    if length is not None and length < 1:
        raise ValueError(f"A soft prompt of {length} vectors is none: give a length of 1 or more (4 to 64 are usual).")
    ids = encode(tokenizer, [{"role": "system", "content": text}], for_answer=False)
    chosen = torch.tensor(ids).repeat(1 if length is None else -(-length // len(ids)))[:length]  # (P,)
    with torch.no_grad():
        vectors: Tensor = model.get_input_embeddings()(chosen.to(model.device)).float()  # (P, D)
    return vectors.clone()


def label_logits(model: PreTrainedModel, prompt: Tensor, batch: Batch, shared: bool = True) -> Tensor:
    """The logits that predict the response tokens of rows which follow a soft prompt; (M, V), row after row.

    The prompt comes first in a causal decoder, so that its keys and values are the same in every row: they are computed
    once and shared, and the output layer runs only where a token is to be predicted. Gradients flow into the prompt either
    way, and are the same.

    Args:
        model: also one that peft wraps with an adapter.
        prompt: (P, D).
        batch: padded on the right, with its response mask.
        shared: False reads the prompt in each row and predicts everywhere, as the plain way does: slower, for comparison.

    Raises:
        ValueError: a batch without a response mask, or a prompt whose vectors are not as wide as the model's embeddings.
    """
    if batch.response_mask is None:
        raise ValueError("The batch does not say which tokens are the response: pad it with response_masks.")
    width = model.get_input_embeddings().embedding_dim
    if prompt.dim() != 2 or prompt.shape[1] != width:
        raise ValueError(
            f"A soft prompt of this model has the shape (P, {width}), not {tuple(prompt.shape)}: start from `initial`."
        )
    predicting = batch.response_mask[:, 1:]  # (B, T-1)
    if not shared:
        logits: Tensor = model(**prefix_embeddings(model, batch, prompt).inputs()).logits[:, len(prompt) :]  # (B, T, V)
        return logits[:, :-1][predicting]  # (M, V)
    length, cache = len(prompt), _read_once(model, prompt, len(batch.input_ids))
    with _predicting_only(model, predicting):
        found: Tensor = model(
            input_ids=batch.input_ids, attention_mask=F.pad(batch.attention_mask, (length, 0), value=1),
            position_ids=batch.position_ids + length, past_key_values=cache, use_cache=True,
        ).logits[0]  # (M, V)  # fmt: skip
    return found


@contextmanager
def _predicting_only(model: PreTrainedModel, predicting: Tensor) -> Iterator[None]:
    """Lets the output layer see marked places (B, T-1) alone, as one row; what a model does before and after it stays.

    Some models scale the logits that come out of it, or cap them.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda layer, hidden: (hidden[0][:, :-1][predicting][None],)  # (1, M, D)
    )
    try:
        yield
    finally:
        hook.remove()


def _read_once(model: PreTrainedModel, prompt: Tensor, rows: int) -> DynamicCache:
    """The prompt's keys and values for all rows, out of one reading."""
    vectors = prompt.to(model.get_input_embeddings().weight)[None]  # (1, P, D)
    read = model.base_model(inputs_embeds=vectors, use_cache=True).past_key_values
    cache = DynamicCache(config=model.config)
    for number, layer in enumerate(read.layers):
        keys, values = (tensor.expand(rows, -1, -1, -1) for tensor in (layer.keys, layer.values))  # (B, heads, P, D')
        cache.update(keys, values, number)
    return cache


@torch.no_grad()
def nearest(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: Tensor, top: int = 3
) -> list[list[tuple[str, float]]]:
    """For each vector of a prompt the tokens whose embeddings point the most in its direction, with the cosine.

    A trained vector need not lie near any: then its nearest tokens say little of what it does.

    Args:
        prompt: (P, D).
        top: how many tokens; from 1 to V.
    """
    embeddings = F.normalize(model.get_input_embeddings().weight.float(), dim=-1)  # (V, D)
    cosines = F.normalize(prompt.to(embeddings), dim=-1) @ embeddings.T  # (P, V)
    best = cosines.topk(top, dim=-1)
    return [
        [(tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
        for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


# ---------------------------------------------------------------- files


def save(prompt: Tensor, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **card: Any) -> None:
    """Writes a soft prompt as peft's prompt-tuning adapter in safetensors, with a card that says which model it is for.

    Args:
        prompt: (P, D).
        card: what else is to be known of it, as JSON has it: how it was made, its seed, what it was measured to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # peft's own `save_pretrained` would freeze the model, draw from torch's chance, and write where the model lay
    PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_virtual_tokens=len(prompt), token_dim=prompt.shape[1],
        num_transformer_submodules=1, inference_mode=True,
    ).save_pretrained(str(folder))  # fmt: skip
    save_file({TENSOR: prompt.detach().float().cpu().contiguous()}, folder / WEIGHTS, {"format": "pt"})
    known = {"model": _model_of(model, tokenizer), **card}
    (folder / CARD).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, transfer: bool = False) -> Tensor:
    """A soft prompt that `save` wrote, for the model that it was trained on; (P, D), on the model's device.

    Args:
        transfer: True also accepts another model of the same width and vocabulary.

    Raises:
        FileNotFoundError: there is no soft prompt in the folder.
        ValueError: the file is damaged, or the prompt was trained for another model.
    """
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"There is no soft prompt in {folder}: {name} is missing; train it, or name another folder."
            )
    try:
        prompt = load_file(folder / WEIGHTS, device=str(model.device))[TENSOR]  # (P, D)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{folder / WEIGHTS} is not a soft prompt ({error}): train it again.") from error
    _check_model(card(folder)["model"], _model_of(model, tokenizer), folder, transfer)
    return prompt.float()


def card(folder: Path) -> dict[str, Any]:
    """What a saved prompt's card says; ValueError where it is damaged."""
    try:
        found: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        {key: found["model"][key] for key in ("width", "vocabulary", "tokens", "weights")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CARD} is no card of a soft prompt ({error}): train the prompt again.") from error
    return found


def through_peft(folder: Path, model: PreTrainedModel) -> PeftModel:
    """The model with a saved prompt before everything that its `generate` reads: peft's own wrapper, for those who use peft.

    Requests of any length may be asked together, padded on the left. The model is put into eval mode, and its weights can be
    trained as before.

    Raises:
        ValueError: peft wraps the model already.
    """
    if isinstance(model, PeftModel):  # the inner wrapper's `generate` would pass the prompt by
        raise ValueError(
            "peft wraps this model already, and would leave the prompt out: merge its adapter first (merge_and_unload), or "
            "give the prompt to `generation.generate`."
        )
    trained = [weight for weight in model.parameters() if weight.requires_grad]  # peft freezes them all
    with torch.random.fork_rng():  # peft draws a prompt before it reads the one in the folder
        wrapped = PeftModel.from_pretrained(model, str(folder)).eval()
    for weight in trained:
        weight.requires_grad_(True)
    vars(wrapped)["prepare_inputs_for_generation"] = partial(_placed, wrapped.prepare_inputs_for_generation)
    read = "base_model_prepare_inputs_for_generation"
    vars(wrapped)[read] = partial(_named, getattr(wrapped, read))
    return wrapped


def _named(prepare: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What the model reads at a step, its cache by the name that peft knows: else each step would have the prompt before it."""
    inputs = prepare(*args, **kwargs)
    return inputs | {"past_key_values": inputs.pop("cache")} if "cache" in inputs else inputs


def _placed(prepare: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What peft reads at a step, with the places of its tokens, which peft leaves out: padding would count as text."""
    inputs = prepare(*args, **kwargs | {"position_ids": None})  # else peft warns that it leaves them out
    unread = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
    if (seen := inputs.get("attention_mask")) is not None:  # (B, P+T); None where nothing is padded
        inputs["position_ids"] = positions(seen.long())[:, -unread.shape[1] :]  # (B, T)
    return inputs


def _model_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    embedding = model.get_input_embeddings().weight
    # rounded, so that a model is known again in whatever precision it was loaded
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    return {
        "width": embedding.shape[1], "vocabulary": len(tokenizer),
        "tokens": weights_hash({token: torch.tensor(number) for token, number in tokenizer.get_vocab().items()})[:16],
        "weights": weights_hash(rounded)[:16],
    }  # fmt: skip


def _check_model(made_for: Mapping[str, Any], given: Mapping[str, Any], folder: Path, transfer: bool) -> None:
    told = {
        "width": "has vectors of {}, and this model's are of {}", "vocabulary": "knows {} tokens, and this one {}",
        "tokens": "was trained with another vocabulary of equal size ({}, here {})",
        "weights": "was trained on other weights ({}, here {})",
    }  # fmt: skip
    for key, sentence in told.items():
        if made_for[key] == given[key] or (key == "weights" and transfer):
            continue
        remedy = "pass transfer=True to try it all the same" if key == "weights" else "train one for this model"
        raise ValueError(f"The soft prompt in {folder} {sentence.format(made_for[key], given[key])}: {remedy}.")
