"""All claims of the three papers in one list, what nobody measured here, and the ledger's tables.

Symbols: none.
"""

from __future__ import annotations

from collections.abc import Sequence

from .ledger import PAPERS, VERDICTS, Claim, Entry, Store, Unmeasured, entry
from .ledger_contrast import CONTRASTS
from .ledger_distillation import DISTILLATION
from .ledger_immunization import IMMUNIZATIONS

CLAIMS: tuple[Claim, ...] = (*DISTILLATION, *IMMUNIZATIONS, *CONTRASTS)
UNMEASURED = (
    Unmeasured("D", "Better than the baselines DeBERTaV3, XDT and UL2", "No score of theirs is given, nor the attack; what XDT "
               "is the paper does not say. Our baselines share one backbone."),
    Unmeasured("D", "A contrastive transfer of knowledge", "No equation has a contrastive term; our push is an extension, and "
               "its effect on a student is not stored."),
    Unmeasured("D", "Stable under a small computing budget and in mixed-precision training", "Our heads are trained in single "
               "precision, in under a second; half precision was tried in the backbone only (d15)."),
    Unmeasured("D", "Secure alignment of large language models", "All that was trained is a head on a frozen backbone of 135 "
               "million parameters, to tell texts apart."),
    Unmeasured("I", "An update sensitizes the canaries", "Nothing in the printed step treats canaries otherwise than other "
               "weights, so there is nothing to measure."),
    Unmeasured("I", "Resistance to tampering of large models", "Tampering was measured in the alchemy world, and on "
               "SmolLM2 with one seed (i22); neither is large."),
    Unmeasured("I", "Reasoning and comprehension gain in phase two", "Phase two teaches one new skill, lists, to a model of "
               "some 200 words."),
    Unmeasured("C", "The gain on seven models of 7 to 13 billion parameters", "SmolLM2 has 135 million and is hardly aligned; "
               "the tiny model has under one million."),
    Unmeasured("C", "AlpacaEval within two points", "It needs a stronger model as a judge. Ours is right answers and shares "
               "refused (c10, c11)."),
    Unmeasured("C", "Learning rate and steps", "They are not public; ours are our own, so that a prompt trained otherwise may "
               "do better."),
)  # fmt: skip


def entries(store: Store, papers: Sequence[str] = tuple(PAPERS)) -> list[Entry]:
    """Every claim of these papers with what is stored about it, in the ledger's order.

    Args:
        store: of the stored rows.
        papers: by their letters.
    """
    return [entry(claim, store) for claim in CLAIMS if claim.paper in papers]


def chosen(known: Sequence[Entry], paper: str = "all", verdict: str = "all") -> list[Entry]:
    """The entries of one paper and with one verdict.

    Args:
        known: of `entries`.
        paper: its letter, or "all".
        verdict: one of `ledger.VERDICTS`, or "all".
    """
    return [one for one in known if paper in ("all", one.claim.paper) and verdict in ("all", one.verdict)]


def counts(known: Sequence[Entry]) -> list[dict[str, str | int]]:
    """How many claims of each paper have which verdict, as rows of a table."""
    return [
        {"paper": f"[{letter}] {title}"} | {verdict: len(chosen(known, letter, verdict)) for verdict in VERDICTS}
        for letter, title in PAPERS.items()
    ]
