"""The exercises on lesson 21's two prompts: one in front of a batch, and the loss of one turned around for the other.

Symbols: B rows, T tokens, P length of the prompt, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..examining import Wrong, call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "21_opposite_prompts"


def prepend(prompt: Tensor, text_embeddings: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the same P vectors before each row of a batch: embeddings (B, P+T, D) and mask (B, P+T), which is 1 on them."""
    rows = len(text_embeddings)
    front = prompt.expand(rows, -1, -1)  # (B, P, D)
    seen = attention_mask.new_ones(rows, len(prompt))  # (B, P)
    return torch.cat([front, text_embeddings], dim=1), torch.cat([seen, attention_mask], dim=1)  # (B, P+T, …)


def opposite_losses(
    wanted: Callable[[str, str], Tensor], unwanted: Callable[[str, str], Tensor], kept: Callable[[str], Tensor],
    target: float, avoid: float, benign: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The losses of the safeguarding prompt S and of the adversarial prompt A, which differ in the answers that they want."""
    safe = target * wanted("S", "refusal") + avoid * unwanted("S", "compliance") + benign * kept("S")
    adversarial = target * wanted("A", "compliance") + avoid * unwanted("A", "refusal") + benign * kept("A")
    return safe, adversarial


# ---------------------------------------------------------------- the prompt in front


def examine_prepend(function: Function) -> str | None:
    """Compares with a batch that is filled vector by vector, and asks that every row passes its gradient on to the prompt."""
    for seed, (length, rows, width) in enumerate(((4, 2, 4), (1, 3, 5), (5, 3, 2))):
        prompt, text, mask = _soft(seed, length, rows, width)
        embeddings, seen = _slow_prepend(prompt, text, mask)
        got = call(function, prompt, text, mask)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            return "Return two tensors: the embeddings and, behind a comma, the mask that goes with them."
        given = f"P = {length}, B = {rows}, T = {width}"
        said = expect(got[0], embeddings, _embedding_mistakes(prompt, text, seen), given=f"{given}, the embeddings")
        said = said or expect(got[1], seen, _mask_mistakes(mask, length), given=f"{given}, the mask")
        if said:
            return said
        weights = torch.arange(1.0, 1 + embeddings.numel()).view(embeddings.shape)  # (B, P+T, D)
        (slope,) = gradients(got[0] * weights, prompt)  # (P, D)
        named = {
            "The gradient does not reach the prompt: what carries it is a new parameter, so the prompt itself would never learn. "
            "Use the vectors as they come in.": torch.zeros_like(slope),
        }  # fmt: skip
        said = expect(slope, weights[:, :length].sum(0), named, given=f"{given}, the gradient at the prompt")
        if said:
            return said
    return None


def _soft(seed: int, length: int, rows: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(length + rows * width, 3, generator=generator)  # (P+B*T, D)
    mask = torch.ones(rows, width, dtype=torch.long)  # (B, T)
    mask[0, 0] = 0  # the shortest row begins with padding
    return vectors[:length].requires_grad_(), vectors[length:].reshape(rows, width, 3), mask


def _slow_prepend(prompt: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    length, (rows, width, hidden) = len(prompt), text.shape
    embeddings = torch.zeros(rows, length + width, hidden)  # (B, P+T, D)
    seen = torch.zeros(rows, length + width, dtype=torch.long)  # (B, P+T)
    for row in range(rows):
        for column in range(length + width):
            own = column - length
            embeddings[row, column] = text[row, own] if own >= 0 else prompt[column].detach()
            seen[row, column] = mask[row, own] if own >= 0 else 1
    return embeddings, seen


def _embedding_mistakes(prompt: Tensor, text: Tensor, seen: Tensor) -> dict[str, Tensor]:
    vectors, rows = prompt.detach(), len(text)
    front, first = vectors.expand(rows, -1, -1), vectors[: text.shape[1]]  # (B, P, D) and (min(P, T), D)
    mixed = vectors.repeat_interleave(rows, dim=0).view(front.shape)  # (B, P, D)
    added, over = text.clone(), text.clone()
    added[:, : len(first)] += first
    over[:, : len(first)] = first
    return {
        "It puts the prompt behind the text: there no token of the request can see it.": torch.cat([text, front], dim=1),
        "The copies of the prompt are mixed up: one row has its first vectors, another its last. Each row gets all P of them, "
        "in their order.": torch.cat([mixed, text], dim=1),
        "It adds the prompt to the text's own vectors: put it before them, in columns of its own.": added,
        "It writes the prompt over the text: the batch grows by P columns.": over,
        "It returns the mask first: the embeddings come first, then the mask.": seen,
    }  # fmt: skip


def _mask_mistakes(mask: Tensor, length: int) -> dict[str, Tensor]:
    ones = mask.new_ones(len(mask), length)  # (B, P)
    return {
        "The mask is that of the text alone: the P new columns need an entry each.": mask,
        "The mask is 0 on the prompt: then the model looks past it, as if there were none.": torch.cat([0 * ones, mask], 1),
        "The mask has its new entries behind the text, the embeddings theirs before it.": torch.cat([mask, ones], 1),
        "The mask has lost the padding: behind the prompt stay the entries that came in.": torch.cat([ones, mask], 1) ** 0,
        "The mask has become one of fractions: make its new entries of the type that the others have.": (
            torch.cat([ones.float(), mask], 1)
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- the mirror

_ANSWERS = ("refusal", "compliance")
_Key = tuple[str, str, str | None]  # which loss, under which prompt, of which answer
_Table = dict[_Key, Tensor]


def examine_opposite_losses(function: Function) -> str | None:
    """Compares with sums of a table of ten numbers, which `wanted`, `unwanted` and `kept` look up."""
    for seed, (target, avoid, benign) in enumerate(((1.5, 0.5, 2.0), (0.7, 1.3, 0.4))):
        table = _table(seed)
        safe = target * table["wanted", "S", "refusal"] + avoid * table["unwanted", "S", "compliance"]
        adversarial = target * table["wanted", "A", "compliance"] + avoid * table["unwanted", "A", "refusal"]
        right = (safe + benign * table["kept", "S", None], adversarial + benign * table["kept", "A", None])
        got = call(
            function, *(_looked_up(table, loss) for loss in ("wanted", "unwanted", "kept")), target, avoid, benign
        )
        given = f"target = {target}, avoid = {avoid}, benign = {benign} ([0] is the loss of S, [1] that of A)"
        said = expect(got, right, _mirror_mistakes(table, target, avoid, benign, right), given=given)
        if said:
            return said
        slopes = torch.stack(gradients(sum(got), *table.values()))  # (10,)
        said = expect(slopes, torch.stack(gradients(sum(right), *table.values())), given=f"{given}, a gradient")
        if said:
            return said
    return None


def _table(seed: int) -> _Table:
    """Ten losses, no two alike, that take gradients."""
    keys: list[_Key] = [
        (loss, prompt, answer)
        for prompt in ("S", "A")
        for loss, answers in (("wanted", _ANSWERS), ("unwanted", _ANSWERS), ("kept", (None,)))
        for answer in answers
    ]
    numbers = 0.1 + 3 * torch.rand(len(keys), generator=torch.Generator().manual_seed(seed))  # (10,)
    return {key: torch.tensor(one, requires_grad=True) for key, one in zip(keys, numbers.tolist(), strict=True)}


def _looked_up(table: _Table, loss: str) -> Function:
    takes = '"S" or "A"' if loss == "kept" else '"S" or "A" first, and then "refusal" or "compliance"'

    def _told(prompt: str, answer: str | None = None) -> Tensor:
        if (loss, prompt, answer) not in table:
            raise Wrong(f"`{loss}` takes {takes}, not {prompt!r}{'' if answer is None else f', {answer!r}'}.")
        return table[loss, prompt, answer]

    return _told


def _mirror_mistakes(
    table: _Table, target: float, avoid: float, benign: float, right: tuple[Tensor, Tensor]
) -> dict[str, tuple[Tensor, Tensor] | Tensor]:
    no, yes = _ANSWERS

    def _made(prompt: str, good: str, bad: str, t: float = target, a: float = avoid, b: float = benign) -> Tensor:
        return t * table["wanted", prompt, good] + a * table["unwanted", prompt, bad] + b * table["kept", prompt, None]

    def _both(t: float, a: float, b: float) -> tuple[Tensor, Tensor]:
        return _made("S", no, yes, t, a, b), _made("A", yes, no, t, a, b)

    safe, adversarial = right
    bare = _both(target, 0, benign)
    negated = [-avoid * table["wanted", prompt, bad] for prompt, bad in (("S", yes), ("A", no))]
    return {
        "A is no mirror yet: it learns the refusals, as S does. Which answer should A want, and which avoid?": (
            safe, _made("A", no, yes)
        ),
        "The answers are turned around: S is the prompt that refuses, A the one that complies.": (
            _made("S", yes, no), _made("A", no, yes)
        ),
        "The losses come in the wrong order: that of S first.": (adversarial, safe),
        "A has no benign term: without it the streams differ on harmless requests as well, and their contrast harms those.": (
            safe, _made("A", yes, no, b=0)
        ),
        "S has no benign term: without it, it may learn to refuse everything.": (_made("S", no, yes, b=0), adversarial),
        "Neither prompt has a benign term: what would hold the answers to harmless requests in place?": _both(target, avoid, 0),
        "Neither prompt avoids anything: the answer of the other one is to become unlikely.": bare,
        "The unlikelihood is subtracted: it is a loss as it stands, and falls as the answer becomes unlikely.": _both(
            target, -avoid, benign
        ),
        "Each prompt avoids the very answer that it wants.": (_made("S", no, no), _made("A", yes, yes)),
        "`target` and `avoid` have changed places.": _both(avoid, target, benign),
        "The weights are missing: each term has its own.": _both(1, 1, 1),
        "A's terms are measured under S: then the gradient changes S, and A learns nothing.": (safe, _made("S", yes, no)),
        "Negated is not mirrored: minus a cross-entropy has no bottom. A wants and avoids like S, only other answers.": (
            safe, -_made("A", no, yes)
        ),
        "It pushes with a negated cross-entropy, which has no bottom: that is what `unwanted` is for.": (
            bare[0] + negated[0], bare[1] + negated[1]
        ),
        "It adds both losses up: return the two, each trains its own prompt.": safe + adversarial,
    }  # fmt: skip


EXERCISES = (
    Exercise(
        name="prepend", solution=prepend, examine=examine_prepend, minutes=5, lesson=LESSON,
        hints=(
            "Two tables grow by P columns at their front. Which shape does the prompt need, so that it fits before (B, T, D)?",
            "`expand(B, -1, -1)` shows the same (P, D) vectors to every row, and their gradients come together again.",
            "`torch.cat([…], dim=1)`, twice; `attention_mask.new_ones(B, P)` makes ones of the mask's own type and device.",
        ),
    ),
    Exercise(
        name="opposite_losses", solution=opposite_losses, examine=examine_opposite_losses, minutes=5, lesson=LESSON,
        hints=(
            "Write S first: what should it say to a harmful request, what not, and what should stay as it is?",
            "For A the two answers change places. The signs, the weights and the benign term stay.",
        ),
    ),
)  # fmt: skip
