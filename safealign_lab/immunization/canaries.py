"""Canaries: the weights that refusing depends on the most, found by the gradients of a whole phase, and kept as one bit a weight.

A score is gathered while a phase trains (`Accumulator`), the largest scores are selected (`select`), and what was selected can be
saved, compared with another selection, and looked up in the model. The number is always exact, also where scores are equal.

Symbols: θ weights, g a gradient; N numbers in a tensor, n in all tensors, K the fraction that is selected.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..training import Gradient, Terms, backward

Kind = Literal["absolute", "squared", "weighted", "printed"]

CHUNK = 1 << 18  # numbers looked at together: few enough for a processor's cache, and a multiple of 8
SAMPLE = 1 << 15  # numbers, at most, from which is guessed where the threshold lies
BINS = 12  # bits of a number that are counted in one pass, in 2^12 bins
LARGEST = 0x7F7FFFFF  # the largest finite number's bits
CARD, BITS = "canaries.json", "canaries.safetensors"


# ---------------------------------------------------------------- scores


class Accumulator:
    """How much each weight matters to a loss, summed over the batches of a phase.

    Args:
        parameters: name → tensor, the weights to be judged: all but the embedding, for instance.
        kind: "absolute" sums |g|, "squared" g² (the diagonal of the empirical Fisher information; rare large gradients count
            most), "weighted" |θ · g| (what setting the weight to 0 would cost, to first order; near-zero weights count
            little). "printed" is the source's own: |g| of one batch, which the next overwrites.

    Raises:
        ValueError: an unknown kind, or no parameters.

    source: paper ("printed"); ours (sums over the phase)
    """

    def __init__(self, parameters: Mapping[str, Tensor], kind: Kind = "absolute") -> None:
        if kind not in get_args(Kind) or not parameters:
            raise ValueError(f"An accumulator needs weights, and a kind of {', '.join(get_args(Kind))}, not {kind!r}.")
        self.parameters, self.kind = dict(parameters), kind
        self.scores = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in parameters.items()}

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None] | None = None) -> None:
        """Adds one batch's gradients; call it after each backward, and before anything is clipped.

        Args:
            gradients: one a parameter, in their order; None takes what stands in `.grad`. A missing gradient counts as 0.

        Raises:
            ValueError: no parameter has a gradient.
        """
        found = [weight.grad for weight in self.parameters.values()] if gradients is None else gradients
        if all(gradient is None for gradient in found):
            raise ValueError("No weight has a gradient to be scored by: call add after backward, before zero_grad.")
        for (name, weight), gradient in zip(self.parameters.items(), found, strict=True):
            score = self.scores[name]
            if self.kind == "printed":
                score.zero_()
            if gradient is None:
                continue
            if self.kind == "squared":
                score.addcmul_(gradient, gradient)
            else:
                score.add_((weight * gradient if self.kind == "weighted" else gradient).abs())

    def watching(self, term: str = "loss", gradient: Gradient = backward) -> Gradient:
        """A gradient for `training.train(gradient=…)` that also adds each batch; hand `scores` over as the run's `buffers`.

        Args:
            term: the term of the loss function by whose gradient weights are judged, as "refusal"; one that is not "loss"
                must come with its graph, and costs a second backward. All weights that are judged must require a gradient.
            gradient: what makes the gradient that is trained by. Where that evaluates the loss function several times
                (`weight_attack.at_perturbed_weights`), hand it this one instead, to count the last evaluation alone.
        """

        def _apart(closure: Callable[[], Terms]) -> Terms:
            def _added() -> Terms:
                terms = closure()
                weights = list(self.parameters.values())
                self.add(torch.autograd.grad(terms[term], weights, retain_graph=True, allow_unused=True))
                return terms

            return gradient(_added)

        def _together(closure: Callable[[], Terms]) -> Terms:
            terms = gradient(closure)
            self.add()
            return terms

        return _together if term == "loss" else _apart


def spared(scores: Mapping[str, Tensor], useful: Mapping[str, Tensor], weight: float = 1.0) -> dict[str, Tensor]:
    """Scores less what useful tasks need: each divided by its mean over all weights, then refusal - weight · useful.

    Args:
        scores, useful: name → (N,), of one kind, summed over refusals and over harmless answers.
        weight: 0 or more; up = weights that harmless answers need are more rarely among the canaries.

    Returns:
        name → (N,), of either sign.

    Raises:
        ValueError: the two are not of the same weights, or one is zero throughout.

    source: ours
    """
    _need_same(
        {name: score.shape for name, score in scores.items()}, {name: score.shape for name, score in useful.items()}
    )
    means = [sum(float(score.sum()) for score in one.values()) / _numel(one) for one in (scores, useful)]
    if not all(means):
        raise ValueError("Scores that are zero throughout cannot be weighed against others: add some gradients first.")
    return {name: score / means[0] - (weight / means[1]) * useful[name] for name, score in scores.items()}


# ---------------------------------------------------------------- the selection


@dataclass(frozen=True)
class Canaries:
    """Which weights were selected.

    Attributes:
        bits: name → one bit a weight in bytes of eight, the first weight in the highest bit; the last byte is filled with 0.
        shapes: name → the tensor's shape.
    """

    bits: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]

    def mask(self, name: str) -> Tensor:
        """True on the canaries of one tensor, in its shape."""
        shape = self.shapes[name]
        unpacked = np.unpackbits(self.bits[name].numpy(), count=math.prod(shape)).view(bool)  # (N,)
        return torch.from_numpy(unpacked).reshape(shape)

    def masks(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks of all tensors that hold a canary, on the devices of these parameters.

        Raises:
            ValueError: the parameters are not those that canaries were selected in.
        """
        self.check(parameters)
        return {
            name: self.mask(name).to(parameters[name].device) for name, count in self.counts().items() if count
        }  # fmt: skip

    def counts(self) -> dict[str, int]:
        """How many canaries each tensor holds."""
        ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)  # (256,), of each byte
        return {name: int(ones[bits.numpy()].sum()) for name, bits in self.bits.items()}

    def check(self, parameters: Mapping[str, Tensor]) -> None:
        """ValueError where these parameters lack one of the tensors, or have it in another shape; they may have more."""
        for name, shape in self.shapes.items():
            if name not in parameters or tuple(parameters[name].shape) != shape:
                here = f"is {tuple(parameters[name].shape)}" if name in parameters else "is missing"
                raise ValueError(
                    f"The canaries belong to another model: there {name!r} is {shape}, here it {here}; select them anew."
                )


def select(scores: Mapping[str, Tensor], fraction: float, per_tensor: bool = False) -> Canaries:
    """The ⌈K · n⌉ weights with the largest scores, of equal scores the first in order.

    Nothing large is sorted, or laid end to end. The lowest score that is still selected is looked for in a narrow range, which
    a sample suggests, by counting in the order of the numbers' bit patterns; where the sample misled, in the whole range.

    Args:
        scores: name → tensor, of either sign; compared in single precision.
        fraction: K in [0, 1]; up = more canaries. It is taken as it is written: 0.07 of 100 is 7.
        per_tensor: select ⌈K · N⌉ in each tensor, and not ⌈K · n⌉ in all: layers with small gradients have theirs too.

    Raises:
        ValueError: the fraction is outside its range, there are no scores, or one is not finite.

    source: paper (the largest, all tensors together); ours (per tensor)
    """
    if not 0 <= fraction <= 1 or not scores:
        raise ValueError(
            f"Canaries are a fraction in [0, 1] of at least one tensor's weights, not {fraction} of {len(scores)}."
        )
    exact, flats = Fraction(str(float(fraction))), {name: score.detach().reshape(-1) for name, score in scores.items()}
    groups = [{name: flat} for name, flat in flats.items()] if per_tensor else [flats]
    counts = [math.ceil(exact * _numel(group)) for group in groups]
    return _selected(scores, groups, counts)


def random_like(canaries: Canaries, seed: int, per_tensor: bool = False) -> Canaries:
    """As many weights as there are canaries, drawn evenly from the same tensors: what any choice has to beat.

    Args:
        canaries: whose number is matched.
        seed: of the draw.
        per_tensor: match the number within each tensor as well, a stricter control: it sits in the same places.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.rand(shape, generator=generator) for name, shape in canaries.shapes.items()}
    flats, counts = {name: score.reshape(-1) for name, score in drawn.items()}, canaries.counts()
    if per_tensor:
        return _selected(drawn, [{name: flat} for name, flat in flats.items()], list(counts.values()))
    return _selected(drawn, [flats], [sum(counts.values())])


def _selected(scores: Mapping[str, Tensor], groups: Sequence[Mapping[str, Tensor]], counts: Sequence[int]) -> Canaries:
    bits: dict[str, Tensor] = {}
    for group, count in zip(groups, counts, strict=True):
        bits |= dict(zip(group, _packed(list(group.values()), count), strict=True))
    return Canaries(bits, {name: tuple(score.shape) for name, score in scores.items()})


def _packed(flats: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest of all numbers as bits, tensor by tensor; (⌈N/8⌉,) each."""
    threshold, ties = _threshold(flats, count) if count else (math.inf, 0)
    packed = []
    for flat in flats:
        parts = [np.empty(0, dtype=np.uint8)]
        for values in map(Tensor.numpy, _chunks(flat)):
            chosen = values > threshold
            if ties:
                equal = np.flatnonzero(values == threshold)[:ties]
                chosen[equal], ties = True, ties - len(equal)
            parts.append(np.packbits(chosen))
        packed.append(torch.from_numpy(np.concatenate(parts)))
    return packed


def _threshold(flats: Sequence[Tensor], count: int) -> tuple[float, int]:
    """The count-th largest of all numbers, and how many of those that equal it are among the `count` largest."""
    low, high = _guess(flats, count)
    while True:
        shift = max(0, (high - low).bit_length() - BINS)
        above, bins = _counted(flats, low, high, shift)
        if not above < count <= above + bins.sum():  # the sample misled
            low, high = -LARGEST, LARGEST
            continue
        from_above = above + bins[::-1].cumsum()[::-1]  # (2^BINS,), numbers in a bin or above it
        place = int(np.flatnonzero(from_above >= count)[-1])
        if shift == 0:
            return _number(low + place), count - int(from_above[place] - bins[place])
        low, high = low + (place << shift), min(high, low + ((place + 1) << shift) - 1)


def _guess(flats: Sequence[Tensor], count: int) -> tuple[int, int]:
    """The least and the largest key that the count-th largest number is likely to have, by a random sample of all numbers."""
    total, generator = sum(map(len, flats)), torch.Generator().manual_seed(0)
    drawn, end, size = [], 0, min(SAMPLE, total // 64)
    for flat in flats:
        start, end = end, end + len(flat)
        number = size * end // total - size * start // total
        places = torch.randint(max(1, len(flat)), (number,), generator=generator)
        drawn.append(flat[places.to(flat.device)].to("cpu", torch.float32))
    keys = np.sort(_keys(torch.cat(drawn).numpy()))[::-1]  # (size,), the largest first
    rank, share = size * count / total, count / total
    margin = 4 + 4 * math.sqrt(rank * (1 - share))  # four standard deviations, and some for small samples
    first, last = int(rank - margin), int(rank + margin)
    return int(keys[last]) if last < size else -LARGEST, int(keys[first]) if first > 0 else LARGEST


def _counted(flats: Sequence[Tensor], low: int, high: int, shift: int) -> tuple[int, NDArray[Any]]:
    """How many numbers lie above the keys from low to high, and how many in each bin of 2^shift of these keys; (2^BINS,)."""
    above, bins = 0, np.zeros(1 << BINS, dtype=np.int64)
    least, largest = _number(low), _number(high)
    for chunk in itertools.chain.from_iterable(map(_chunks, flats)):
        if not all(map(math.isfinite, torch.stack(chunk.aminmax()).tolist())):
            raise ValueError(
                "A score is not finite: look for the batch whose gradient diverged, and gather the scores anew."
            )
        values = chunk.numpy()
        above += np.count_nonzero(values > largest)
        inside = values[(values >= least) & (values <= largest)]
        bins += np.bincount((_keys(inside) - low) >> shift, minlength=1 << BINS)
    return above, bins


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in the order of numbers of single precision: their bits, negated below zero, so that both zeros are 0."""
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _number(key: int) -> float:
    """The number that has this key."""
    return math.copysign(float(np.int32(abs(key)).view(np.float32)), key)


def _chunks(flat: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK].to("cpu", torch.float32)


def _numel(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


# ---------------------------------------------------------------- comparing, and looking up


@dataclass(frozen=True)
class Overlap:
    """How much of two selections is the same, beside what chance alone would give two draws of these sizes.

    Attributes:
        shared: weights that are in both; `shared_by_chance` = a · b / n is expected of two random sets of a and b weights.
        jaccard: shared / (a + b - shared), from 0 (nothing in common) to 1 (the same); 1 of two empty ones.
        jaccard_by_chance: the same of the expected number.
    """

    shared: int
    shared_by_chance: float
    jaccard: float
    jaccard_by_chance: float


def overlap(one: Canaries, other: Canaries) -> Overlap:
    """Compares two selections from the same tensors, as of two cycles.

    Raises:
        ValueError: they were made in different tensors.
    """
    _need_same(one.shapes, other.shapes)
    common = Canaries({name: bits & other.bits[name] for name, bits in one.bits.items()}, one.shapes)
    first, second, shared = (sum(canaries.counts().values()) for canaries in (one, other, common))
    total = sum(map(math.prod, one.shapes.values()))
    by_chance = first * second / max(1, total)
    jaccards = [part / (first + second - part) if first + second else 1.0 for part in (shared, by_chance)]
    return Overlap(shared, by_chance, *jaccards)


@dataclass(frozen=True)
class Place:
    """The canaries among the weights of one kind in one layer.

    Attributes:
        layer: counted from 0; None outside the layers (embedding, last norm, output).
        kind: the tensor's name within its layer, as "self_attn.q_proj".
        canaries, weights: how many.
        share: canaries / weights; everywhere K if they were spread evenly.
    """

    layer: int | None
    kind: str
    canaries: int
    weights: int

    @property
    def share(self) -> float:
        """The share of these weights that are canaries."""
        return self.canaries / max(1, self.weights)


def places(canaries: Canaries) -> list[Place]:
    """Where the canaries sit: one row for each tensor, in the order of the model."""
    found = []
    for name, count in canaries.counts().items():
        kind = name.removesuffix(".weight")
        layer = re.search(r"\.(\d+)\.", kind)
        within = kind[layer.end() :] if layer else kind
        found.append(Place(int(layer[1]) if layer else None, within, count, math.prod(canaries.shapes[name])))
    return found


# ---------------------------------------------------------------- files


def save(canaries: Canaries, folder: Path, **card: Any) -> None:
    """Writes a selection as safetensors, one bit a weight, with a JSON card of shapes and numbers.

    Args:
        card: what else is to be known of it, as JSON has it: the kind of score, the fraction, the seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(canaries.bits, folder / BITS)
    known = {"shapes": canaries.shapes, "canaries": canaries.counts(), **card}
    (folder / CARD).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, parameters: Mapping[str, Tensor]) -> Canaries:
    """A selection that `save` wrote, for the model in which it was made.

    Args:
        parameters: name → tensor, of the model at hand.

    Raises:
        FileNotFoundError: there are no canaries in the folder.
        ValueError: the files are damaged, or belong to another model.
    """
    for name in (BITS, CARD):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"There are no canaries in {folder}: {name} is missing; select them, or name another folder."
            )
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        shapes = {name: tuple(map(int, shape)) for name, shape in card["shapes"].items()}
        stored = load_file(folder / BITS)
        canaries = Canaries({name: stored[name] for name in shapes}, shapes)
        whole = canaries.counts() == card["canaries"] and all(
            len(bits) == -(-math.prod(shapes[name]) // 8) for name, bits in canaries.bits.items()
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"The canaries in {folder} are damaged ({error}): select them again.") from error
    if not whole:
        raise ValueError(f"The canaries in {folder} are damaged (card and bits disagree): select them again.")
    canaries.check(parameters)
    return canaries


def _need_same(one: Mapping[str, Sequence[int]], other: Mapping[str, Sequence[int]]) -> None:
    different = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if different:
        raise ValueError(
            f"The two are not of the same weights: they differ in {different[0]!r}; take both from one model."
        )
