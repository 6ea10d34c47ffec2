"""Low-rank adapters (LoRA) of peft, made in one way wherever the kit trains one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel


def adapted(model: PreTrainedModel, rank: int = 8, seed: int = 0, name: str = "default") -> PeftModel:
    """A copy of the model with a low-rank adapter on every linear layer but the output; it begins as the model itself.

    What peft's `save_pretrained` writes of where the model came from is its hub id; a folder of this machine is forgotten.

    Args:
        rank: more can hold more, and trains more numbers.
        seed: of the adapter's random half.
        name: of the adapter, where a model is to have several (see `add`).
    """
    with _drawn(seed):
        student = copy.deepcopy(model)
        if Path(model.name_or_path).is_absolute() or Path(model.name_or_path).is_dir():
            student.name_or_path = student.config.name_or_path = ""
        return get_peft_model(student, _config(rank), name).eval()


def add(model: PeftModel, name: str, rank: int = 8, seed: int = 0) -> None:
    """One more adapter beside those that a model has, at the beginning without effect; arguments as in `adapted`."""
    with _drawn(seed):
        model.add_adapter(name, _config(rank))


def _config(rank: int) -> LoraConfig:
    return LoraConfig(task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=2 * rank, target_modules="all-linear")


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out, which is nothing that a user could mend
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        yield
