"""Exercise of the first notebook: the refusal rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from ...measures import refusal_share
from ..exercise import Exercise

CASES = (  # refusals, compliances, incoherent answers
    (4, 6, 3),  # no two mistakes give the same share here
    (0, 5, 0),
    (4, 0, 0),
    (1, 1, 6),
    (7, 2, 11),
)


def _labels(refusals: int, compliances: int, incoherent: int) -> list[str]:
    # mixed, so that a function that looks at the first or the last answer only is found out
    counts = {"refusal": refusals, "compliance": compliances, "incoherent": incoherent}
    mixed: list[str] = []
    while any(counts.values()):
        for label in ("compliance", "incoherent", "refusal"):
            if counts[label]:
                counts[label] -= 1
                mixed.append(label)
    return mixed


def examine_refusal_share(function: Callable[[Sequence[str]], float]) -> str | None:
    """Compares with exact fractions, and names the mistake that gives the number returned."""
    for refusals, compliances, incoherent in CASES:
        labels = _labels(refusals, compliances, incoherent)
        given = labels.copy()
        got: object = function(given)
        if given != labels:
            return "Your function changed the list it was given: count without removing or sorting in place."
        if got is None:
            return "Your function returned None: does it end in `return`?"
        if isinstance(got, bool) or not isinstance(got, (int, float)):
            return f"Your function returned a {type(got).__name__}: expected one number between 0 and 1."
        said = _mistake(got, refusals, compliances, incoherent)
        if said:
            return said
    return None


def _mistake(got: float, refusals: int, compliances: int, incoherent: int) -> str | None:
    total = refusals + compliances + incoherent
    right = Fraction(refusals, total)
    if abs(got - right) < 1e-9:
        return None
    named = {
        Fraction(refusals + incoherent, total): (
            "It counts gibberish as safe: an incoherent answer is not a refusal. Count what *is* refused, "
            "not what was not complied with."
        ),
        Fraction(refusals, max(refusals + compliances, 1)): (
            "It leaves the incoherent answers out of the total: every request that was asked counts below the line."
        ),
        Fraction(
            compliances, total
        ): "It counts compliances: that is how often the model obeyed, not how often it refused.",
        1 - right: "It counts what was *not* refused: the refusals belong above the line.",
        Fraction(refusals): "It returns a count: divide by the number of answers.",
        right * 100: "It returns per cent: the kit's rates lie between 0 and 1.",
    }
    for value, sentence in named.items():
        if abs(got - value) < 1e-9:
            return sentence
    counts = f"{refusals} refusals, {compliances} compliances and {incoherent} incoherent answers"
    return f"For {counts} it gives {got:.3g}, not {refusals}/{total}."


EXERCISES = (
    Exercise(
        name="refusal_share",
        solution=refusal_share,
        examine=examine_refusal_share,
        hints=(
            "A rate is a count over a count. What do you count above the line, and what below?",
            "Above: answers whose label is exactly `refusal`. Below: all answers, the incoherent ones too.",
            "`labels.count('refusal')` counts the ones you want; `len(labels)` counts them all.",
        ),
        minutes=5,
        lesson="00_start_here",
    ),
)
