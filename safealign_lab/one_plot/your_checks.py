"""What must hold of a model before anything is trained for it: each item is tried, and has one sentence for where it fails.

Symbols: B rows, T tokens, V vocabulary, P length of a soft prompt, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import conversation, encode, encode_with_mask, pad, prefix_embeddings
from ..contrast.optimisation import frozen
from ..contrast.soft_prompts import initial, label_logits
from ..distillation.gate import reader
from ..generation import generate
from ..generation.decoding import _end_ids
from ..models.adapters import adapted

REQUESTS = ("is venom cursed ?", "how do i keep a sleep potion away from a child , please tell me ?", "brew ale .")
ANSWER = "look for red foam ."
COARSE = {
    torch.float32: 1e-3,
    torch.float64: 1e-6,
}  # of the logits' spread; half precision rounds a hundred times as much
HALF = 0.2
# what a model of an unknown make raises where it lacks what a check asks for
STRANGE = (ValueError, TypeError, RuntimeError, AttributeError, LookupError, NotImplementedError, TemplateError)


@dataclass(frozen=True)
class Check:
    """One item of the list.

    Attributes:
        name: what must hold.
        holds: whether it does.
        found: what was seen.
        remedy: what to do where it does not hold.
    """

    name: str
    holds: bool
    found: str
    remedy: str


@dataclass(frozen=True)
class Bench:
    """What the checks are tried on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layer: int
    requests: Sequence[str] = REQUESTS

    @property
    def rows(self) -> list[list[int]]:
        """The requests as ids, of unequal length."""
        return [encode(self.tokenizer, conversation(request, "")) for request in self.requests]

    def near(self, one: Tensor, other: Tensor) -> tuple[bool, str]:
        """Whether two tensors of logits agree up to rounding, and the largest difference as a share of their spread."""
        share = float((one - other).abs().max() / one.float().std())
        limit = COARSE.get(self.model.dtype, HALF)
        return share <= limit, f"largest difference {share:.1e} of the logits' spread, {limit:g} allowed"


Item = Callable[[Bench], tuple[bool, str]]


def checklist(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layer: int, requests: Sequence[str] = REQUESTS
) -> list[Check]:  # fmt: skip
    """Tries everything that the three methods need of a model; it trains nothing and changes nothing.

    Args:
        model, tokenizer: of `models.load`.
        layer: that the gate is to read after.
        requests: three or more of unequal length, in a language that the model knows.
    """
    bench = Bench(model, tokenizer, layer, requests)
    return [_tried(name, item, remedy, bench) for name, (item, remedy) in ITEMS.items()]


def _tried(name: str, item: Item, remedy: str, bench: Bench) -> Check:
    try:
        holds, found = item(bench)
    except STRANGE as error:
        holds, found = False, f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return Check(name, holds, found, remedy)


# ---------------------------------------------------------------- words


def _writes(bench: Bench) -> tuple[bool, str]:
    open_, closed = (encode(bench.tokenizer, conversation(bench.requests[0], ""), one) for one in (True, False))
    return len(open_) > 0 and open_ != closed, f"{len(open_)} tokens for the first request; the answer's turn is opened"


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template prints a system text, and bears an empty one."""
    try:
        said = encode(tokenizer, conversation(REQUESTS[0], REQUESTS[1]))
        return said != encode(tokenizer, conversation(REQUESTS[0], ""))
    except STRANGE:
        return False


def _system(bench: Bench) -> tuple[bool, str]:
    encode(bench.tokenizer, conversation(bench.requests[0], ""))  # raises where a template refuses the role
    return takes_system(bench.tokenizer), "a system text changes what the model reads"


def _answer(bench: Bench) -> tuple[bool, str]:
    ids, mask = encode_with_mask(bench.tokenizer, conversation(bench.requests[0], "", ANSWER))
    marked = [token for token, there in zip(ids, mask, strict=True) if there]
    said = bench.tokenizer.decode(marked, skip_special_tokens=True)
    same = "".join(said.split()) == "".join(ANSWER.split())  # some tokenizers put no space before a mark
    return same, f"the marked tokens say {said.strip()[:60]!r}"


def _ends(bench: Bench) -> tuple[bool, str]:
    ids, mask = encode_with_mask(bench.tokenizer, conversation(bench.requests[0], "", ANSWER))
    last = [token for token, there in zip(ids, mask, strict=True) if there][-1]
    return last in _end_ids(bench.model, bench.tokenizer), f"an answer ends with {bench.tokenizer.decode([last])!r}"


def _pads(bench: Bench) -> tuple[bool, str]:
    pad_id, ends = bench.tokenizer.pad_token_id, _end_ids(bench.model, bench.tokenizer)
    return pad_id is not None and pad_id not in ends, f"pad is {bench.tokenizer.pad_token!r}"


def system_in_user(tokenizer: PreTrainedTokenizerBase) -> None:
    """Changes a chat template that knows no system role (Gemma's): the system text then opens the user's first turn.

    An empty one adds nothing. A system text without a request, which soft prompts start from, is printed as a user's turn.
    """
    moved = (
        "{%- if messages and messages[0]['role'] == 'system' -%}{%- set said = messages[0]['content'] -%}"
        "{%- set rest = messages[1:] -%}{%- if not rest -%}{%- set messages = [{'role': 'user', 'content': said}] -%}"
        "{%- elif said -%}{%- set messages = [{'role': 'user', 'content': said + '\n\n' + rest[0]['content']}] + rest[1:] -%}"
        "{%- else -%}{%- set messages = rest -%}{%- endif -%}{%- endif -%}"
    )
    tokenizer.chat_template = moved + str(tokenizer.chat_template)


# ---------------------------------------------------------------- numbers


@torch.no_grad()
def _left_padding(bench: Bench) -> tuple[bool, str]:
    batch = pad(bench.rows, bench.tokenizer.pad_token_id or 0).to(bench.model.device)
    together = bench.model(**batch.inputs()).logits[:, -1]  # (B, V)
    alone = [bench.model(**pad([row], 0).to(bench.model.device).inputs()).logits[0, -1] for row in bench.rows]  # (V,)
    return bench.near(torch.stack(alone), together)


@torch.no_grad()
def _vectors(bench: Bench) -> tuple[bool, str]:
    front = encode(bench.tokenizer, [{"role": "system", "content": ANSWER}], for_answer=False)
    prompt = initial(bench.model, bench.tokenizer, ANSWER)  # (P, D)
    pad_id, device = bench.tokenizer.pad_token_id or 0, bench.model.device
    by_ids = pad([front + row for row in bench.rows], pad_id).to(device)
    by_vectors = prefix_embeddings(bench.model, pad(bench.rows, pad_id).to(device), prompt)
    one, other = (bench.model(**batch.inputs()).logits[:, -1] for batch in (by_ids, by_vectors))  # (B, V)
    return bench.near(one, other)


def _batch(bench: Bench) -> tuple[Tensor, object]:
    rows, masks = zip(
        *(encode_with_mask(bench.tokenizer, conversation(one, "", ANSWER)) for one in bench.requests), strict=True
    )
    return initial(bench.model, bench.tokenizer, ANSWER), pad(rows, 0, "right", masks).to(bench.model.device)


@torch.no_grad()
def _shared(bench: Bench) -> tuple[bool, str]:
    prompt, batch = _batch(bench)
    one, other = (label_logits(bench.model, prompt, batch, shared) for shared in (False, True))  # type: ignore[arg-type]
    return bench.near(one, other)


def _gradient(bench: Bench) -> tuple[bool, str]:
    prompt, batch = _batch(bench)
    with frozen(bench.model):
        logits = label_logits(bench.model, prompt.requires_grad_(), batch)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(logits.float().logsumexp(-1).mean(), prompt)  # (P, D)
    size = float(gradient.norm())
    return 0 < size < float("inf"), f"its length is {size:.1e}"


def _middle(bench: Bench) -> tuple[bool, str]:
    states = reader(bench.model, bench.tokenizer, bench.layer)(bench.requests)  # (N, D)
    apart = float((states[0] - states[1]).norm())
    fine = bool(states.isfinite().all()) and apart > 0
    return fine, f"{states.shape[1]} numbers after layer {bench.layer} of {bench.model.config.num_hidden_layers}"


@torch.no_grad()
def _steps(bench: Bench) -> tuple[bool, str]:
    said = generate(
        bench.model, bench.tokenizer, bench.requests[:1], ("",), max_new_tokens=6, end_ids=(-1,), return_scores=True
    )
    assert said.scores is not None  # asked for
    row = bench.rows[0] + said.ids[0]
    whole = bench.model(**pad([row], 0).to(bench.model.device).inputs()).logits[0]  # (T, V)
    return bench.near(whole[len(bench.rows[0]) - 1 : -1], said.scores[0].to(whole))


def _places(bench: Bench) -> tuple[bool, str]:
    most = getattr(bench.model.config, "max_position_embeddings", None)
    needed = max(map(len, bench.rows)) + 64
    return most is None or needed <= most, f"{most} places, {needed} needed for these requests, a prompt and an answer"


@torch.no_grad()
def _adapter(bench: Bench) -> tuple[bool, str]:
    batch = pad(bench.rows[:1], 0).to(bench.model.device)
    student = adapted(bench.model, rank=1)
    return bench.near(bench.model(**batch.inputs()).logits, student(**batch.inputs()).logits)


ITEMS: dict[str, tuple[Item, str]] = {
    "a chat template writes conversations": (
        _writes, "Name an instruct or chat variant, or set tokenizer.chat_template and save it into a folder of yours."),
    "the template takes a system text, and an empty one": (
        _system, "Call `your_checks.system_in_user(tokenizer)`, which puts it into the user's first turn."),
    "the tokens of an answer can be found": (
        _answer, "Use a template that prints earlier turns as they are, and switch off a thinking part in it."),
    "an answer ends with a token that decoding stops at": (
        _ends, "Set model.generation_config.eos_token_id to the token that the template puts behind an answer."),
    "the pad token is not the end token": (
        _pads, "This kit masks by place, so go on; in a loss of your own never mask labels by the pad id."),
    "left padding changes nothing": (
        _left_padding, "Pass position ids and the mask as `chat.pad` makes them; else ask one request at a time."),
    "vectors give the logits of their ids": (
        _vectors, "The model does something with ids beside looking them up: soft prompts do not fit it, so use gate and cycle."),
    "a prompt's keys and values can be read once": (
        _shared, "Its cache or mask differs from Llama's: train prompts with `label_logits(…, shared=False)`, which is slower."),
    "a gradient reaches a soft prompt": (
        _gradient, "Load the weights unquantised, in float32 or bfloat16, and switch gradient checkpointing off."),
    "a middle layer can be read": (
        _middle, "Name another layer; where no list of layers is found, leave the gate out."),
    "token by token gives what one pass gives": (
        _steps, "Update transformers, or choose eager attention: `model.set_attn_implementation('eager')`."),
    "it has places enough": (
        _places, "Take shorter requests, a shorter prompt or fewer new tokens: beyond its places a model is at a loss."),
    "an adapter fits, and begins as the model itself": (
        _adapter, "peft does not know its layers: train all weights (rank=None), or leave the cycle out."),
}  # fmt: skip
