"""The exercises on the three terms of lesson 21's loss: what to say, what not to say, what to leave alone.

Symbols: M tokens that are looked at, V vocabulary; p is the model's distribution without a prompt, q the one under it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..examining import call, expect, gradients
from ..exercise import Exercise, Function

LESSON = "21_opposite_prompts"
SLOPE = "the value is right and its gradient is not"
LARGE = 100  # logits beyond this give probabilities that round to 0
OVERFLOW = "The exponential of a large logit overflows: `logsumexp` and `log_softmax` take the largest one out first."


def wanted_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean of -log p(id) over the tokens; logits (M, V), in line with ids (M,)."""
    logps = logits.log_softmax(dim=1)  # (M, V)
    return -logps.gather(1, ids[:, None]).mean()


def unwanted_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean of -log(1 - p(id)) over the tokens, where 1 - p is what all the other tokens have together."""
    others = logits.scatter(1, ids[:, None], -torch.inf)  # (M, V)
    return (logits.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()


def kept_loss(logits: Tensor, ids: Tensor, undefended: Tensor, divergence: float) -> Tensor:
    """The mean of -log q(id), plus divergence times the mean over the tokens of KL(undefended ‖ prompted)."""
    prompted_logps, undefended_logps = logits.log_softmax(dim=1), undefended.log_softmax(dim=1)  # (M, V)
    surprise = -prompted_logps.gather(1, ids[:, None]).mean()
    apart = (undefended_logps.exp() * (undefended_logps - prompted_logps)).sum(dim=1)  # (M,)
    return surprise + divergence * apart.mean()


def examine_wanted_loss(function: Function) -> str | None:
    """Compares with a loop over the tokens, its gradient with the closed form, also where a probability rounds to 0."""
    for seed, (tokens, vocabulary, scale) in enumerate(((4, 6, 2.0), (7, 7, 2.0), (3, 5, 300.0))):
        logits, ids = _drawn(seed, tokens, vocabulary, scale)
        right = _mean(-_logps(row)[token] for row, token in _rows(logits, ids))
        slope = (logits.softmax(1) - _marks(logits, ids)) / tokens  # (M, V)
        said = _compared(function, (logits, ids), right, slope, _wanted_mistakes(logits.detach(), ids))
        if said:
            return said
    return None


def _wanted_mistakes(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    logps, marks, column = logits.log_softmax(1), _marks(logits, ids), ids[:, None]
    chosen, down = (scores.gather(1, column) for scores in (logps, logits.log_softmax(0)))  # (M, 1)
    return {
        "It adds the tokens up: the mean does not grow with the length of the answer.": -chosen.sum(),
        "The sign is the wrong one: the loss has to fall when the answer becomes likelier.": chosen.mean(),
        "It divides by the vocabulary as well: the mean goes over the M tokens.": -(marks * logps).mean(),
        "Every token of the vocabulary has a say in it: in each row, only the one that stands in `ids` should.": -logps.mean(),
        "Each row is asked for all the ids: row m belongs to id m alone.": -logps[:, ids].mean(),
        "The logarithm is missing: with −p alone, a token that is nearly impossible costs hardly more than an unlikely one.": (
            -chosen.exp().mean()
        ),
        "The softmax is missing: a logit alone says nothing, since the same number may be added to all of a row.": (
            -logits.gather(1, column).mean()
        ),
        "The softmax goes down the tokens: it belongs along the vocabulary, so that each row adds up to 1.": -down.mean(),
        "It shifts the ids by one: these logits stand in line with them already.": -logps[:-1].gather(1, column[1:]).mean(),
        "It takes the logarithm of a probability that has rounded to 0: PyTorch does softmax and logarithm in one step.": (
            torch.tensor(math.inf)
        ),
        OVERFLOW: torch.tensor(math.nan),
    }  # fmt: skip


def examine_unwanted_loss(function: Function) -> str | None:
    """Compares with a loop over the tokens and the gradient's closed form; then at logits of ±10,000."""
    for seed, (tokens, vocabulary) in enumerate(((4, 6), (7, 7), (3, 5))):
        logits, ids = _drawn(seed + 20, tokens, vocabulary, 1.5)
        right = _mean(_unlikelihood(row, token) for row, token in _rows(logits, ids))
        mistakes = _unwanted_mistakes(logits.detach(), ids)
        said = _compared(function, (logits, ids), right, _push(logits, ids), mistakes)
        if said:
            return said
    return next(filter(None, (_extreme(function, row) for row in _EXTREMES)), None)


# the token to avoid is the first: certain, very certain, avoided already, one of three equal ones
_EXTREMES = ((1e4, -1e4, 0.0, 3.0), (1e4, -1e4, -1e4, -1e4), (-1e4, 1e4, 2.0, 0.0), (1e4, 1e4, 1e4, -1e4))


# no probability of these rounds, and their exponentials overflow
_JUST_TOO_LARGE = (torch.full((1, 3), 200.0), torch.tensor([0]))


def _extreme(function: Function, row: tuple[float, ...]) -> str | None:
    logits, ids = torch.tensor([row], requires_grad=True), torch.tensor([0])  # (1, V) and (1,)
    right = torch.tensor(_unlikelihood(list(row), 0))
    got = call(function, logits, ids)
    named = {
        "Where the token is nearly certain, p rounds to 1 and 1 − p to 0, which has no logarithm. Do without p: 1 − p is what "
        "all the *other* tokens have together, and a logsumexp over their logits does not round.": torch.tensor(math.inf),
        OVERFLOW: torch.tensor(math.nan),
    }  # fmt: skip
    given = f"the logits {', '.join(f'{logit:,.0f}' for logit in row)} and the id 0"
    said = expect(got, right, named, tolerance=2e-3, given=given)  # float32 has steps of 1e-3 at 10,000
    if said in named and not call(function, *_JUST_TOO_LARGE).isfinite():
        return OVERFLOW
    if said and said not in named and row[0] > max(row[1:]) and not gradients(got, logits)[0].any():
        return (
            f"For {given} it gives {got.detach():.3g}, not {right:,.0f}, and a gradient of 0: a floor under 1 − p hides that p "
            "has rounded to 1, and nothing pushes any more just where the token is certain. Find 1 − p without p."
        )
    return said or expect(gradients(got, logits)[0], _push(logits, ids), tolerance=2e-3, given=f"{given}, {SLOPE}")


def _unwanted_mistakes(logits: Tensor, ids: Tensor) -> dict[str, Tensor]:
    logps, column = logits.log_softmax(1), ids[:, None]
    chosen = logps.gather(1, column)  # (M, 1)
    rest = (1 - chosen.exp()).log()  # (M, 1)
    others, still = (logits.scatter(1, column, out).logsumexp(1) for out in (-torch.inf, 0.0))  # (M,)
    return {
        "It adds the tokens up: take their mean.": -rest.sum(),
        "The sign is the wrong one: the logarithm of something below 1 is negative, a loss is not.": rest.mean(),
        "That is the negated cross-entropy, log p: it has no bottom, and goes on pushing a token that is avoided already. Here "
        "the loss is to reach 0 at p = 0.": chosen.mean(),
        "That is the cross-entropy, −log p: it makes the token *likelier*.": -chosen.mean(),
        "The logarithm is missing: with p alone the push fades where the token is nearly certain.": chosen.exp().mean(),
        "It pushes down every token of the vocabulary: only the one in `ids` is unwanted.": -(1 - logps.exp()).log().mean(),
        "A logsumexp over the others is no log-probability yet: that over all the tokens has to come off it.": -others.mean(),
        "The token is still among the others: with a logit of 0 it counts as exp(0) = 1. Which logit takes it out?": (
            logits.logsumexp(1) - still
        ).mean(),
    }  # fmt: skip


def examine_kept_loss(function: Function) -> str | None:
    """Compares with loops over tokens and vocabulary and the gradient's closed form, for several strengths."""
    for seed, (tokens, scale, divergence) in enumerate(((4, 2.0, 2.0), (6, 1.5, 0.5), (3, 2.0, 0.0), (3, 150.0, 1.0))):
        logits, ids = _drawn(seed + 40, tokens, 6, scale)
        undefended = _drawn(seed + 60, tokens, 6, scale)[0].detach()
        surprise = _mean(-_logps(row)[token] for row, token in _rows(logits, ids))
        right = surprise + divergence * _mean(map(_kl, undefended.tolist(), logits.tolist()))
        q, p = logits.softmax(1), undefended.softmax(1)  # (M, V)
        answers = (q - _marks(logits, ids)) / tokens  # (M, V), the gradient of the cross-entropy alone
        named = {
            "The value is right, but the divergence sends no gradient to the prompt: of the two, the undefended logits are the "
            "ones that may be detached.": answers,
        }  # fmt: skip
        said = _compared(
            function, (logits, ids, undefended, divergence), right, answers + divergence * (q - p) / tokens,
            _kept_mistakes(logits.detach(), ids, undefended, divergence), named,
        )  # fmt: skip
        if said:
            return said
    return None


def _kept_mistakes(logits: Tensor, ids: Tensor, undefended: Tensor, divergence: float) -> dict[str, Tensor]:
    q_logps, p_logps, column = logits.log_softmax(1), undefended.log_softmax(1), ids[:, None]  # (M, V), (M, V), (M, 1)
    own, kl = -q_logps.gather(1, column).mean(), (p_logps.exp() * (p_logps - q_logps)).sum(1).mean()
    rounded = (
        "A probability that rounds to 0 has no logarithm: use the log-probabilities that the logits give in one step."
    )
    if logits.abs().max() < LARGE:  # then nothing rounds to 0, but something negative is taken for a probability
        rounded = "A logarithm of a logarithm, or of a logit? `kl_div` expects probabilities as its second argument, unless told."
    return {said: own + divergence * value for said, value in _apart_mistakes(logits, undefended).items()} | {
        "The cross-entropy is missing: the model's own answer is to stay likely, too.": divergence * kl,
        "The factor `divergence` is missing, and with it the knob.": own + kl,
        "It stops after the cross-entropy: where is the distance to the undefended distribution?": own,
        "The factor stands before the wrong term: it weighs the KL, not the cross-entropy.": divergence * own + kl,
        "The cross-entropy adds the tokens up: both terms are means.": own * len(ids) + divergence * kl,
        "The cross-entropy is that of the undefended model, on which no prompt has any influence.": (
            divergence * kl - p_logps.gather(1, column).mean()
        ),
        rounded: torch.tensor(math.nan),
        f"{rounded} (Here the loss became infinite.)": torch.tensor(math.inf),
    }  # fmt: skip


def _apart_mistakes(logits: Tensor, undefended: Tensor) -> dict[str, Tensor]:
    q_logps, p_logps = logits.log_softmax(1), undefended.log_softmax(1)  # (M, V)
    q, p = q_logps.exp(), p_logps.exp()  # (M, V)
    part, squares = p * (p_logps - q_logps), (p - q).square()  # (M, V)
    return {
        "The divergence is the wrong way round: KL(undefended ‖ prompted) weighs by the *undefended* model's probabilities.": (
            (q * (q_logps - p_logps)).sum(1).mean()
        ),
        "The divergence adds the tokens up: take its mean over them, like that of the cross-entropy.": part.sum(),
        "The divergence is V times too small: add up over the vocabulary, and take the mean over the tokens alone.": part.mean(),
        "The KL is subtracted: that would reward moving away from the undefended model.": -part.sum(1).mean(),
        "Squared differences of probabilities hardly see the rare tokens: KL compares logarithms.": squares.sum(1).mean(),
        "That is a mean of squared differences of probabilities: KL compares logarithms, weighted by a probability.": (
            squares.mean()
        ),
        "The divergence compares logits that are not normalised: take log-probabilities.": (
            (p * (undefended - logits)).sum(1).mean()
        ),
        "The divergence lacks p·log p, so it is a cross-entropy: it does not fall to 0 when nothing has changed.": (
            -(p * q_logps).sum(1).mean()
        ),
        "`kl_div` was given the prompted model's probabilities: it takes its first argument for logarithms.": (
            (p * (p_logps - q)).sum(1).mean()
        ),
        "`kl_div` was given the prompted model's bare logits: it takes its first argument for log-probabilities.": (
            (p * (p_logps - logits)).sum(1).mean()
        ),
    }  # fmt: skip


# ---------------------------------------------------------------- what they share


def _compared(
    function: Function, inputs: tuple[Any, ...], right: Tensor, slope: Tensor, named: dict[str, Tensor],
    named_slopes: dict[str, Tensor] | None = None,
) -> str | None:  # fmt: skip
    """Compares a loss of logits, the first of its inputs, with the right value, and its gradient with the right one."""
    logits = inputs[0]
    (tokens, vocabulary), largest = logits.shape, logits.detach().abs().max()
    given = f"{tokens} tokens, a vocabulary of {vocabulary} and logits up to {largest:.0f} in size"
    given += ", where probabilities round to 0 and a floor under them caps the loss" if largest > LARGE else ""
    given += "".join(f", divergence = {one}" for one in inputs if isinstance(one, float))
    got = call(function, *inputs)
    said = expect(got, right, named, given=given)
    return said or expect(gradients(got, logits)[0], slope, named_slopes, given=f"{given}, {SLOPE}")


def _drawn(seed: int, tokens: int, vocabulary: int, scale: float) -> tuple[Tensor, Tensor]:
    """Logits (M, V) that take gradients, and ids (M,)."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(tokens, vocabulary, generator=generator)  # (M, V)
    return logits.requires_grad_(), torch.randint(vocabulary, (tokens,), generator=generator)


def _rows(logits: Tensor, ids: Tensor) -> Iterator[tuple[list[float], int]]:
    return zip(logits.tolist(), ids.tolist(), strict=True)


def _mean(values: Iterable[float]) -> Tensor:
    numbers = list(values)
    return torch.tensor(sum(numbers) / len(numbers))


def _total(row: Sequence[float]) -> float:
    """The logarithm of the sum of exponentials."""
    top = max(row)
    return top + math.log(sum(math.exp(one - top) for one in row))


def _logps(row: list[float]) -> list[float]:
    return [one - _total(row) for one in row]


def _kl(p_row: list[float], q_row: list[float]) -> float:
    return sum(math.exp(p) * (p - q) for p, q in zip(_logps(p_row), _logps(q_row), strict=True))


def _unlikelihood(row: list[float], token: int) -> float:
    """-log(1 - p) = log(1 + odds), with the odds of the token against all the others."""
    odds = row[token] - _total(row[:token] + row[token + 1 :])
    return max(odds, 0.0) + math.log1p(math.exp(-abs(odds)))


def _marks(logits: Tensor, ids: Tensor) -> Tensor:
    """1 at each row's id, else 0; (M, V)."""
    return torch.nn.functional.one_hot(ids, logits.shape[1]).to(logits.dtype)


def _push(logits: Tensor, ids: Tensor) -> Tensor:
    """The gradient of the mean unlikelihood: p down the token, the same up the others, as they share it; (M, V)."""
    exact, marks = logits.detach().double(), _marks(logits, ids)
    p = (exact.softmax(1) * marks).sum(1, keepdim=True)  # (M, 1)
    shares = exact.masked_fill(marks.bool(), -torch.inf).softmax(1)  # (M, V)
    return (p * (marks - shares) / len(ids)).float()


EXERCISES = (
    Exercise(
        name="wanted_loss", solution=wanted_loss, examine=examine_wanted_loss, minutes=5, lesson=LESSON,
        hints=(
            "It is the cross-entropy: of each row of logits you need one log-probability, at that row's id.",
            "`log_softmax(dim=1)` gives (M, V); `gather(1, ids[:, None])` takes one of each row.",
        ),
    ),
    Exercise(
        name="unwanted_loss", solution=unwanted_loss, examine=examine_unwanted_loss, minutes=10, lesson=LESSON,
        hints=(
            "1 − p(id) is the probability of all the other tokens together. Never compute p, and nothing can round to 1.",
            "log of a sum of probabilities = logsumexp over those tokens' logits − logsumexp over all logits.",
            "To leave a token out of a logsumexp, give it a logit of minus infinity: `scatter(1, ids[:, None], -torch.inf)`.",
        ),
    ),
    Exercise(
        name="kept_loss", solution=kept_loss, examine=examine_kept_loss, minutes=8, lesson=LESSON,
        hints=(
            "Two terms: your `wanted_loss` on the model's own answer, and a KL between two whole distributions.",
            "KL(p ‖ q) = Σ p · (log p − log q) for each token. Which of the two models gives the weights p?",
            "`log_softmax(dim=1)` of both; sum over the vocabulary, then the mean over the tokens, times `divergence`.",
        ),
    ),
)  # fmt: skip
