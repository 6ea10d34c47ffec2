"""The exercises of lesson 23: the target that a contrast gives, a push as a contrast, the loss of a student, its fidelity.

Symbols: M tokens of the answers, V vocabulary; p is the target's distribution, q the student's.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..examining import Wrong, call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "23_one_pass"


def contrast_target(safe_logits: Tensor, adversarial_logits: Tensor, alpha: float) -> Tensor:
    """What a single stream is to learn: log softmax((l_S - α l_A) / (1 - α)), (…, V) of logits (…, V)."""
    scores = (safe_logits - alpha * adversarial_logits) / (1 - alpha)  # (…, V)
    return scores.log_softmax(dim=-1)


def push_strength(g: float) -> tuple[float, float]:
    """α and the temperature at which softmax((l_ref - α l_harmful) / temperature) is softmax((1+g) l_ref - g l_harmful)."""
    alpha = g / (1 + g)
    return alpha, 1 - alpha


def distil_loss(target_logps: Tensor, logits: Tensor) -> Tensor:
    """The mean of KL(target ‖ student) over the tokens, in nats; both (M, V), the target -inf where a limit removed a token."""
    gaps = target_logps - logits.log_softmax(dim=1)  # (M, V)
    gaps = gaps.masked_fill(target_logps == -torch.inf, 0.0)  # or 0 · (-inf) would be no number
    return (target_logps.exp() * gaps).sum(dim=1).mean()


def fidelity(target_logps: Tensor, logits: Tensor) -> tuple[float, float]:
    """The mean divergence in nats per token, and the share of tokens at which both find the same one likeliest; (M, V) each."""
    same = target_logps.argmax(dim=1) == logits.argmax(dim=1)  # (M,)
    return distil_loss(target_logps, logits).item(), same.float().mean().item()


# ---------------------------------------------------------------- what the student is to learn

ROUNDED = "The logarithm comes too late, after a softmax that rounds to 0: `log_softmax` never leaves the logarithms."


def examine_contrast_target(function: Function) -> str | None:
    """Compares with a loop over the rows in the form (1+w) l_S - w l_A, for several strengths, shapes and scales."""
    shapes = (((3, 5), 0.4, 2.0), ((2, 3, 4), 0.8, 1.0), ((6,), 0.0, 2.0), ((2, 4), 0.4, 300.0))
    for seed, (shape, alpha, scale) in enumerate(shapes):
        safe, adversarial = _streams(seed, shape, scale)
        w = alpha / (1 - alpha)
        pairs = zip(safe.view(-1, shape[-1]).tolist(), adversarial.view(-1, shape[-1]).tolist(), strict=True)
        rows = [_logps([(1 + w) * s - w * a for s, a in zip(*pair, strict=True)]) for pair in pairs]
        given = f"alpha = {alpha}, the shape {shape} and logits up to {safe.abs().max():.0f} in size"
        got = call(function, safe, adversarial, alpha)
        said = expect(got, torch.tensor(rows).view(shape), _target_mistakes(safe, adversarial, alpha), given=given)
        if said:
            return said
    return None


def _target_mistakes(safe: Tensor, adversarial: Tensor, alpha: float) -> dict[str, Tensor]:
    rest, score, swapped = 1 - alpha, safe - alpha * adversarial, adversarial - alpha * safe  # (…, V)
    added, likely = safe + alpha * adversarial, safe.softmax(-1) - alpha * adversarial.softmax(-1)  # (…, V)
    across = (score / rest).log_softmax(max(-2, -score.dim()))  # (…, V)
    scores = {
        "The hidden temperature is still in it: 1 and −α add up to 1 − α, so divide the score by that.": score,
        "It multiplies by 1 − α, which flattens the target once more: divide.": score * rest,
        "It divides by 1 + α, but the factors are 1 and −α: what do they add up to?": score / (1 + alpha),
        "It adds A's logits, so that A's favourites gain: take them away.": added / rest,
        "It mixes the two streams: a contrast takes A's logits away.": added / (1 + alpha),
        "It contrasts A with S: the safe logits come first, and α times the others go off them.": swapped / rest,
        "It is (1+α)·l_S − α·l_A: a division by 1 − α turns the weight α into α/(1−α).": score + alpha * safe,
        "It subtracts one stream's probabilities from the other's: the contrast is one of logits.": likely / rest,
    }
    return {said: value.log_softmax(-1) for said, value in scores.items()} | {
        "Its softmax runs along another axis: the last one is the vocabulary, over which probabilities add up to 1.": across,
        "It divides behind the softmax, after which a row no longer adds up to 1.": score.log_softmax(-1) / rest,
        "It returns probabilities: a target is kept as their logarithms.": (score / rest).softmax(-1),
        "It returns scores: what is missing is the softmax that makes them log-probabilities.": score / rest,
        "The logarithm of a difference of probabilities may not exist: contrast the logits.": (likely / rest).log(),
        ROUNDED: (score / rest).softmax(-1).log(),
    }


# ---------------------------------------------------------------- a push is a contrast


def examine_push_strength(function: Function) -> str | None:
    """Compares with exact fractions: g = n/d gives α = n/(n+d) and the temperature d/(n+d)."""
    for g in (0.25, 3.0, 0.6, 0.0):
        n, d = Fraction(g).limit_denominator(100).as_integer_ratio()
        right = (n / (n + d), d / (n + d))
        got = _two(call(function, g), right, "α", "the temperature")
        said = expect(got[0], right[0], _alpha_mistakes(g), given=f"g = {g}, α")
        said = said or expect(got[1], right[1], _temperature_mistakes(g), given=f"g = {g}, the temperature")
        if said:
            return said
    return None


def _alpha_mistakes(g: float) -> dict[str, float]:
    return {
        "Your α is g itself: l_ref carries the factor 1 + g, and you have to divide by that to bring it to 1.": g,
        "Your α falls as the push grows (1 − g): a stronger push takes more of the harmful teacher away.": 1 - g,
        "Your α is 1/(1+g), which is the temperature: what becomes of the factor g of l_harmful?": 1 / (1 + g),
        "Your α is the factor of l_ref: α is that of l_harmful, after the division by 1 + g.": 1 + g,
        "Your α is g/(1−g). The way from α to g has a minus, α/(1−α); the way back has a plus.": g / (1 - g),
        "Your α is upside down: with (1+g)/g it would be above 1 at every g.": (1 + g) / max(g, 1e-9),
        "Your α is negative: the minus stands in the formula already, before α.": -g / (1 + g),
    }


def _temperature_mistakes(g: float) -> dict[str, float]:
    return {
        "Your temperature is 1/(1−α) = 1 + g: scores are divided by it, so it has to be the inverse.": 1 + g,
        "Your temperature is 1 − g: subtract α from 1, not g.": 1 - g,
        "Your temperature is 1, but l_ref carries 1 + g on one side and 1/temperature on the other.": 1.0,
        "Your temperature is α once more: what divides 1 so that 1 + g comes out?": g / (1 + g),
    }


# ---------------------------------------------------------------- the loss, and what it comes to

# seed, tokens, vocabulary, size of the logits, limit on the target; and what it means if a result is NaN or infinite
_CASES = (
    (110, 7, 5, 2.0, 0.0, "It is no number: a logarithm meets something negative. `kl_div` expects a target of probabilities."),
    (317, 9, 6, 2.0, 0.1, "It is no number where tokens were removed: p = 0 meets log p = −inf. Such tokens add 0."),
    (2, 3, 5, 150.0, 0.0, "It is no number at large logits, where probabilities round to 0: use `log_softmax`."),
)  # fmt: skip
SLOPE = "The value is right and its gradient is NaN: what `where` drops afterwards still sends one back."


def examine_distil_loss(function: Function) -> str | None:
    """Compares with a loop over tokens and vocabulary, and the gradient with its closed form (q - p) / M."""
    for seed, tokens, vocabulary, scale, limit, strange in _CASES:
        target, logits = _drawn(seed, (tokens, vocabulary), scale, limit)
        given, named = _in_words(target, logits), _loss_mistakes(target, logits)
        right = (logits.softmax(1) - target.exp()) / len(logits)  # (M, V), the gradient
        logits.requires_grad_()
        got = call(function, target, logits)
        said = expect(got, torch.tensor(_slow_loss(target, logits)), named | _if_strange(strange, got), given=given)
        if said:
            return said
        (slope,) = gradients(got, logits)  # (M, V)
        said = expect(slope, right, _if_strange(SLOPE, slope), given=f"{given}, the gradient at the student's logits")
        if said:
            return said
    return None


def _loss_mistakes(target: Tensor, logits: Tensor) -> dict[str, Tensor]:
    p, logps, removed = target.exp(), logits.log_softmax(1), target == -torch.inf  # (M, V)
    limited = logits.masked_fill(removed, -torch.inf).log_softmax(1).masked_fill(removed, 0.0)  # (M, V)
    soft, student = (target / 2).log_softmax(1), (logits / 2).log_softmax(1)  # (M, V)
    known, soft_known = (logs.masked_fill(removed, 0.0) for logs in (target, soft))  # (M, V)
    parts, best = p * (known - logps), target.argmax(1, keepdim=True)  # (M, V) and (M, 1)
    means = {
        "It is KL(student ‖ target): the weights have to be the target's probabilities.": logps.exp() * (logps - target),
        "It is a cross-entropy: without the target's own entropy it stays above 0 when all is learnt.": -p * logps,
        "It would drive the student away: the divergence is log p − log q, and not the other way round.": -parts,
        "It takes the student's logits for log-probabilities: they need a log-softmax first.": p * (known - logits),
        "It takes the student's probabilities where their logarithms belong.": p * (known - logps.exp()),
        "The student's softmax runs down the M tokens: take it over the vocabulary.": p * (known - logits.log_softmax(0)),
        "It takes removed tokens out of the student's softmax, too, so that it need not give them up.": p * (known - limited),
        "It softens both with a temperature of 2: the target has the one that it needs.": 4 * soft.exp() * (soft_known - student),
    }  # fmt: skip
    return {said: value.sum(1).mean() for said, value in means.items()} | {
        "It adds up the tokens where their mean is asked for.": parts.sum(),
        "It divides by V, too, as a mean over the whole table does: add up over the vocabulary first.": parts.mean(),
        "It keeps the M tokens apart: the loss is one number, their mean.": parts.sum(1),
        "It learns the target's likeliest token alone: use the whole distribution.": -logps.gather(1, best).mean(),
    }


def examine_fidelity(function: Function) -> str | None:
    """Compares with loops over tokens and vocabulary, on targets with and without a limit."""
    for seed, tokens, vocabulary, scale, limit, strange in _CASES:
        target, logits = _drawn(seed, (tokens, vocabulary), scale, limit)
        apart, share, given = _slow_loss(target, logits), _slow_share(target, logits), _in_words(target, logits)
        got = _two(call(function, target, logits), (apart, share), "the divergence", "the agreement")
        mistakes = {said: value.item() for said, value in _loss_mistakes(target, logits).items() if not value.dim()}
        mistakes |= {"It counts in bits, and nats come from natural logarithms.": apart / math.log(2)}
        mistakes |= _if_strange(strange, got[0])
        named = {f"In the divergence: {said[0].lower()}{said[1:]}": value for said, value in mistakes.items()}
        said = expect(got[0], apart, named, given=f"{given}, the divergence")
        said = said or expect(got[1], share, _share_mistakes(target, logits, share), given=f"{given}, the agreement")
        if said:
            return said
    return None


def _share_mistakes(target: Tensor, logits: Tensor, share: float) -> dict[str, float]:
    p, q, best = target.exp(), logits.softmax(1), target.argmax(1, keepdim=True)  # (M, V), (M, V), (M, 1)
    kept = logits.masked_fill(target == -torch.inf, -torch.inf).argmax(1, keepdim=True)  # (M, 1)
    shares = {
        "The agreement looks down the columns: the argmax belongs along the vocabulary.": target.argmax(0) == logits.argmax(0),
        "The agreement is the mass that both share: count where both put the same token first.": torch.minimum(p, q).sum(1),
        "The agreement is the student's probability for the target's choice: is it the student's choice, too?": q.gather(1, best),
        "The agreement is the chance that two draws are the same: take the likeliest token of each instead.": (p * q).sum(1),
        "The agreement lets the student choose among the kept tokens alone, but nothing limits its answers.": best == kept,
    }  # fmt: skip
    return {said: value.double().mean().item() for said, value in shares.items()} | {
        "The agreement is that of a distribution with itself: compare the target's favourite with the student's.": 1.0,
        "The agreement is the share at which they differ: count where they are equal.": 1 - share,
        "The agreement is a number of tokens: divide by M.": share * len(target),
        "The agreement is all or nothing: compare token by token, with an argmax that has a `dim`.": 0.0,
    }


# ---------------------------------------------------------------- what they share


def _two(got: Any, right: tuple[float, float], first: str, second: str) -> tuple[Any, Any]:
    if not isinstance(got, (tuple, list)) or len(got) != 2 or not all(isinstance(one, (float, int)) for one in got):
        raise Wrong(f"Return two plain numbers (`.item()` takes one out of a tensor): {first}, and {second} behind it.")
    if expect(got, right) and expect(got, right[::-1]) is None:
        raise Wrong(f"The two numbers come in the wrong order: {first} first, then {second}.")
    return got[0], got[1]


def _if_strange(sentence: str, got: Any) -> dict[str, Any]:
    """The sentence, said of whatever holds NaN or an infinity."""
    strange = isinstance(got, (Tensor, float)) and not torch.as_tensor(got).isfinite().all()
    return {sentence: got} if strange else {}


def _in_words(target: Tensor, logits: Tensor) -> str:
    removed = ", some tokens removed" if target.isinf().any() else ""
    rounded = " (probabilities round to 0, and a floor under them is no remedy)" if logits.abs().max() > 100 else ""
    return f"M = {len(logits)}, V = {logits.shape[1]}{removed}, logits up to {logits.abs().max():.0f} in size{rounded}"


def _streams(seed: int, shape: tuple[int, ...], scale: float) -> tuple[Tensor, Tensor]:
    safe, adversarial = scale * torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))  # (*shape,) each
    return safe, adversarial


def _drawn(seed: int, shape: tuple[int, int], scale: float, limit: float) -> tuple[Tensor, Tensor]:
    """A target (M, V) over the tokens that the safe stream finds plausible, and a student that resembles that stream."""
    safe, adversarial = _streams(seed, shape, scale)
    p, noise = safe.softmax(1), _streams(seed + 50, shape, 0.5 * scale)[0]  # (M, V)
    scores = (safe - 0.4 * adversarial).masked_fill(p < limit * p.amax(1, keepdim=True), -torch.inf) / 0.6  # (M, V)
    return scores.log_softmax(1), 0.5 * safe + noise + 1


def _logps(row: list[float]) -> list[float]:
    top = max(row)
    total = top + math.log(sum(math.exp(one - top) for one in row))
    return [one - total for one in row]


def _slow_loss(target: Tensor, logits: Tensor) -> float:
    rows = zip(target.tolist(), map(_logps, logits.tolist()), strict=True)
    pairs = [(p, q) for row in rows for p, q in zip(*row, strict=True) if p > -math.inf]
    return math.fsum(math.exp(p) * (p - q) for p, q in pairs) / len(target)


def _slow_share(target: Tensor, logits: Tensor) -> float:
    rows = zip(target.tolist(), logits.tolist(), strict=True)
    equal = [p.index(max(p)) == q.index(max(q)) for p, q in rows]
    return equal.count(True) / len(equal)


EXERCISES = (
    Exercise(
        name="contrast_target", solution=contrast_target, examine=examine_contrast_target, minutes=5, lesson=LESSON,
        hints=(
            "ACD's factors 1 and −α add up to 1 − α. Which number has to divide the score, so that they add up to 1?",
            "Two lines: the score (l_S − α·l_A) / (1 − α), then `log_softmax(dim=-1)`, which comes last.",
        ),
    ),
    Exercise(
        name="push_strength", solution=push_strength, examine=examine_push_strength, minutes=5, lesson=LESSON,
        hints=(
            "Compare the factors of l_ref on both sides, then those of l_harmful: 1 + g = 1/temperature, and g = …",
            "The first gives the temperature 1/(1+g). In the second, α/temperature = g: solve it for α.",
        ),
    ),
    Exercise(
        name="distil_loss", solution=distil_loss, examine=examine_distil_loss, minutes=8, lesson=LESSON,
        hints=(
            "Σ p · (log p − log q) over the vocabulary, p the target's; then the mean over the tokens. What is 0 · (−inf)?",
            "Put 0 into the difference where the target is −inf (`masked_fill`), before you multiply by p.",
        ),
    ),
    Exercise(
        name="fidelity", solution=fidelity, examine=examine_fidelity, minutes=5, lesson=LESSON,
        hints=(
            "The first number you have already: `distil_loss`, taken out of its tensor. For the second, one `argmax` each.",
            "`target_logps.argmax(dim=1) == logits.argmax(dim=1)` is (M,), True where both agree: what is its mean?",
        ),
    ),
)  # fmt: skip
