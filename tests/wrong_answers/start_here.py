"""Wrong answers to the exercise of the first lesson."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def counts_gibberish_as_safe(labels):
    return 1 - labels.count("compliance") / len(labels)


def leaves_gibberish_out(labels):
    return labels.count("refusal") / max(1, labels.count("refusal") + labels.count("compliance"))


def counts_compliance(labels):
    return labels.count("compliance") / len(labels)


def counts_what_is_not_refused(labels):
    return 1 - labels.count("refusal") / len(labels)


def loses_one_answer(labels):
    return labels.count("refusal") / (len(labels) - 1 or 1)


def counts_gibberish_by_half(labels):
    return (labels.count("refusal") + labels.count("incoherent") / 2) / len(labels)


def returns_a_count(labels):
    return labels.count("refusal")


def returns_per_cent(labels):
    return 100 * labels.count("refusal") / len(labels)


def forgets_to_return(labels):
    labels.count("refusal") / len(labels)


def empties_the_list(labels):
    total = len(labels)
    return sum(labels.pop() == "refusal" for _ in range(total)) / total


def returns_a_string(labels):
    return f"{labels.count('refusal') / len(labels):.2f}"


def looks_at_the_first_only(labels):
    return float(labels[0] == "refusal")


def raises(labels):
    return labels["refusal"]


def returns_not_a_number(labels):
    return float("nan")


WRONG_ANSWERS: dict[str, dict[Callable[..., Any], str]] = {
    "refusal_share": {
        counts_gibberish_as_safe: "counts gibberish as safe",
        leaves_gibberish_out: "leaves the incoherent answers out",
        counts_compliance: "counts compliances",
        counts_what_is_not_refused: "what was *not* refused",
        loses_one_answer: "incoherent answers it gives 0.333, not 4/13",
        counts_gibberish_by_half: "incoherent answers it gives 0.423, not 4/13",
        returns_a_count: "returns a count",
        returns_per_cent: "per cent",
        forgets_to_return: "returned None",
        empties_the_list: "changed the list",
        returns_a_string: "returned a str",
        looks_at_the_first_only: "it gives 0, not 4/13",
        raises: "raised TypeError",
        returns_not_a_number: "nan",
    }
}
