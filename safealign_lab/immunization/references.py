"""What the reference thinks of every answer, measured once: the sequence log-probabilities that preference losses compare with.

The reference does not change, so neither do its numbers; to measure them beforehand leaves out one model of two at each step.

Symbols: N rows of (request, response), B rows of a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat import Batch, conversation, encode_with_mask, pad, response_logps

Exchange = tuple[str, str]  # a request, and the response to it


def batch_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Exchange], system: str | None = None) -> Batch:
    """Exchanges as one batch, padded on the right, its response mask on the responses.

    Args:
        rows: B of (request, response).
        system: the system text; None and "" as in `chat.conversation`.

    Raises:
        ValueError: as in `chat.encode_with_mask` and `chat.pad`.
    """
    encoded = [encode_with_mask(tokenizer, conversation(request, system, response)) for request, response in rows]
    ids, masks = [ids for ids, _ in encoded], [mask for _, mask in encoded]
    return pad(ids, tokenizer.pad_token_id or 0, "right", masks)  # (B, T)


def response_of(batch: Batch) -> Tensor:
    """Which tokens of a batch are the response; (B, T).

    Raises:
        ValueError: the batch does not say.
    """
    if batch.response_mask is None:
        raise ValueError("The batch does not say which tokens are the response: pad it with response_masks.")
    return batch.response_mask


def logps(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The log-probability of each row's response under a model, (B,): with gradients, as the policy's are needed.

    Args:
        batch: of `batch_of`, on the model's device.

    Raises:
        ValueError: the batch has no response mask.
    """
    return response_logps(model(**batch.inputs()).logits, batch.input_ids, response_of(batch))


@dataclass(frozen=True)
class References:
    """The reference's log-probability of each response that was measured: of `measure`.

    Attributes:
        known: (request, response) → log π_ref(response | request), in nats.
    """

    known: dict[Exchange, float]

    def of(self, rows: Sequence[Exchange], device: torch.device | str = "cpu") -> Tensor:
        """The log-probabilities of these rows, (B,), in single precision and exactly as they were measured.

        Raises:
            ValueError: a row was not measured.
        """
        unknown = [row for row in rows if row not in self.known]
        if unknown:
            raise ValueError(
                f"The reference was never asked about {unknown[0]!r}: hand `measure` all rows before the training begins."
            )
        return torch.tensor([self.known[row] for row in rows], device=device)  # (B,)


@torch.no_grad()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Exchange], system: str | None = None,
    batch_size: int = 16, progress: bool = True,
) -> References:  # fmt: skip
    """Asks the reference about all rows once, in batches of similar length, without dropout.

    To measure again gives the same bits on the same machine. Rows that are batched otherwise agree up to rounding, since sums
    are then taken in another order.

    Args:
        model: the reference, or the model that is to be trained, before its first step.
        rows: N of (request, response); a row that occurs twice is asked once.
        system: as in `batch_of`.
        batch_size: rows read at once; up = faster, and more memory.
        progress: show how many rows are left.

    Raises:
        ValueError: there are no rows, or as in `batch_of`.
    """
    once = sorted(
        dict.fromkeys(rows), key=lambda row: -len(row[0]) - len(row[1])
    )  # the longest first, as they need most
    if not once:
        raise ValueError("There are no rows to measure: give at least one (request, response).")
    known: dict[Exchange, float] = {}
    training = model.training
    model.eval()
    try:
        with tqdm(total=len(once), desc="reference", unit="row", disable=not progress) as bar:
            for start in range(0, len(once), batch_size):
                chosen = once[start : start + batch_size]
                batch = batch_of(tokenizer, chosen, system).to(model.device)
                known.update(zip(chosen, logps(model, batch).tolist(), strict=True))
                bar.update(len(chosen))
    finally:
        model.train(training)
    return References(known)
