"""What the tests of cycles, studies and tampering share: a narrow Llama, rows in the toy's words, a room with both teachers."""

from __future__ import annotations

import copy
from functools import cache

import torch
from toy_words import toy_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from safealign_lab.chat import conversation, encode_with_mask
from safealign_lab.immunization import references
from safealign_lab.immunization.curriculum import LEVELS, Preference
from safealign_lab.immunization.phases import Room
from safealign_lab.immunization.teachers import Teachers
from safealign_lab.immunization.tiny_task import Setting

TOKENIZER = toy_tokenizer()
ASKED = dict(
    zip(LEVELS, ("brew me a {} potion .", "the keeper will brew {} .", "you are a keeper . {} , please !"), strict=True)
)
POTIONS = ("venom", "sleep venom", "venom venom", "two venom")
HARMFUL = [
    Preference(asked.format(potion), f"no , i will not brew {potion} .", " ".join(["one", potion, *["two"] * number]), level)
    for level, asked in ASKED.items()
    for number, potion in enumerate(POTIONS)
]  # fmt: skip
HARMLESS = [
    Preference(f"what does {word} do ?", f"{word} will {' '.join(['please'] * number)} you .", "no , i will not .", "question")
    for number, word in enumerate(("sleep", "brew", "thanks", "potion", "one"), start=1)
]  # fmt: skip
PREFERRED = [
    Preference(f"{one.request} please", f"{one.chosen} thanks !", "no i will not", "lists") for one in HARMLESS
]
OTHERS = [  # a row of every other kind
    Preference(f"please , {one.request}", f"{one.chosen} you .", "no , i will not .", level)
    for level, one in zip((*LEVELS, "borderline", "comprehension", "ordering", "counting"), HARMLESS * 2, strict=False)
]  # fmt: skip


def small(seed: int = 0, layers: int = 1, tied: bool = True) -> LlamaForCausalLM:
    """A Llama of width 16 with random weights."""
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
        pad_token_id=TOKENIZER.pad_token_id, bos_token_id=TOKENIZER.bos_token_id, eos_token_id=TOKENIZER.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def teachers_of(reference: LlamaForCausalLM, system: str | None = "", size: float = 0.3) -> Teachers:
    """Teachers who differ from the reference, without having been taught."""
    teachers, generator = Teachers(reference, TOKENIZER, rank=2, system=system), torch.Generator().manual_seed(7)
    for name, weight in teachers.model.named_parameters():
        if "lora_B" in name:
            weight.data += size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return teachers


def room_of(student: LlamaForCausalLM, kind: type[Room] = Room, system: str | None = "") -> Room:
    """A room whose reference is the small model of seed 0, in the student's precision."""
    return kind(student, TOKENIZER, *_furniture(student.dtype, system))


@cache
def _furniture(dtype: torch.dtype, system: str | None) -> tuple[Teachers, references.References]:
    """Made once, since no phase may change it: and where one does, a test says so."""
    reference = small().to(dtype)
    rows = [
        (one.request, said) for one in HARMFUL + HARMLESS + PREFERRED + OTHERS for said in (one.chosen, one.rejected)
    ]
    return teachers_of(reference, system), references.measure(reference, TOKENIZER, rows, system, progress=False)


def setting_of(seed: int = 0) -> Setting:
    """What a study starts from, without a world: models, rows of every kind, and the room of all seeds."""
    founded = small(10 + seed)
    preferred = [*HARMLESS, *OTHERS, *PREFERRED]
    return Setting(None, small(20 + seed), founded, TOKENIZER, room_of(founded), HARMFUL, preferred)


def merged(teachers: Teachers, who: str) -> torch.nn.Module:
    """One teacher as a model of its own, without adapters."""
    model = copy.deepcopy(teachers.model)
    model.set_adapter(who)
    return model.merge_and_unload()


def predictions(
    model: torch.nn.Module, request: str, said: str, system: str | None = ""
) -> list[tuple[int, torch.Tensor]]:
    """Every token of an answer with the logits (V,) that predict it, read alone and without padding."""
    ids, mask = encode_with_mask(TOKENIZER, conversation(request, system, said))
    logits = model(input_ids=torch.tensor([ids])).logits[0]  # (T, V)
    return [(ids[place], logits[place - 1]) for place in range(1, len(ids)) if mask[place]]


def untimed(history) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]
