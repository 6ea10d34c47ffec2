"""The ledger of the three papers: what each prints, what of it works, what each claims, and what was measured of it here.

Nothing in it is a typed result. An equation names its functions, which are imported, and its tests, which are looked up in the
test files; a claim names the function that computes its estimate from the stored rows of a study. So the ledger follows the kit.

Symbols: K seeds.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from .. import measures
from ..measures import Interval, cluster_bootstrap, difference, rate
from ..studies import load
from ..studies.runner import Row

KIT = __name__.partition(".")[0]
PAPERS = {
    "D": "Contrastive Knowledge Transfer and Robust Optimization (arXiv 2510.27077)",
    "I": "Dual-Distillation for Tamper-Resistant and Aligned LLMs (anonymous)",
    "C": "Safety Alignment via Contrasting Safe and Harmful Distributions (arXiv 2406.16743)",
}
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
NO_TARGET, NOT_STORED = "not comparable", "not stored yet"
VERDICTS = (HOLDS, FAILS, OPEN, NO_TARGET, NOT_STORED)
Side = Literal["above", "below", "within"]
Paper = Literal["D", "I", "C"]
Answers = dict[tuple[int, str], float]  # (seed, request) → whether it counts
Status = Literal["right", "incomplete", "defeats itself", "does nothing"]


class NotStored(LookupError):
    """The runs that a claim needs are not among the stored results."""


# ---------------------------------------------------------------- what stands in the ledger


@dataclass(frozen=True)
class Equation:
    """A printed equation beside the form that works.

    Attributes:
        key: paper and number, such as "D2".
        name: what it is for.
        printed: in TeX; written without a vertical bar, which would end the cell of a table.
        status: what can be done with it as it is printed; "incomplete" leaves out what decides whether it works.
        does: what it does in the place of what it is for.
        working: in TeX, or "" where the printed one is right.
        shelf, works: names below the package, as "distillation.printed.kd_loss"; what is nowhere as code has no shelf.
        tests: that prove it, as "test_file::test_name".
    """

    key: str
    name: str
    printed: str
    status: Status
    does: str
    working: str
    shelf: tuple[str, ...]
    works: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def paper(self) -> str:
        """The letter of the paper."""
        return self.key[0]


@dataclass(frozen=True)
class Finding:
    """What was measured: an estimate, its 95 % interval, and what it rests on.

    Attributes:
        value, low, high: shares, or differences of shares, unless the claim says otherwise.
        n: in words, such as "5 seeds, 2400 texts".
    """

    value: float
    low: float
    high: float
    n: str

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass
class Store:
    """The stored rows of the studies, each file read once.

    Attributes:
        folder: of the results; None = the kit's own.
    """

    folder: Path | None = None
    known: dict[str, list[Row]] = field(default_factory=dict)

    def rows(self, study: str, **settings: Any) -> list[Row]:
        """The rows of a study with these settings, by their seeds.

        Raises:
            NotStored: there is none.
        """
        if study not in self.known:
            try:
                self.known[study] = load(study, self.folder)
            except FileNotFoundError:
                self.known[study] = []
        wanted = settings.items()
        found = [row for row in self.known[study] if wanted <= {**row["settings"], "seed": row["seed"]}.items()]
        if not found:
            raise NotStored(f"The study {study!r} has no run with {settings or 'any settings'}.")
        return sorted(found, key=lambda row: int(row["seed"]))


@dataclass(frozen=True)
class Claim:
    """A statement of a paper as an inequality, and how it is measured.

    Attributes:
        key: paper and number, such as "c3".
        says: the statement, in a few words.
        side, bound: the value is above the bound, below it, or within ± bound of 0. None = the paper gives a number without
            a definition, so that ours can stand beside it and nothing more.
        measure: from the store to the estimate.
        studies: whose rows it reads.
        lesson: the notebook that tells more.
        printed: the paper's own figure for the same comparison, where it has one.
    """

    key: str
    says: str
    side: Side | None
    bound: float
    measure: Callable[[Store], Finding]
    studies: tuple[str, ...]
    lesson: str
    printed: float | None = None

    @property
    def paper(self) -> str:
        """The letter of the paper."""
        return self.key[0].upper()

    @property
    def asks(self) -> str:
        """The inequality, as a reader of the table sees it."""
        if self.side is None:
            return "no definition"
        return f"within ±{self.bound:g}" if self.side == "within" else f"{self.side} {self.bound:g}"


@dataclass(frozen=True)
class Unmeasured:
    """A statement that nothing here speaks for or against, and why.

    Attributes:
        paper: its letter.
        says: the statement, in a few words.
        why: what was missing.
    """

    paper: Paper
    says: str
    why: str


@dataclass(frozen=True)
class Entry:
    """A claim with what was found.

    Attributes:
        claim: the claim.
        finding: None where nothing is stored.
        verdict: one of `VERDICTS`.
    """

    claim: Claim
    finding: Finding | None
    verdict: str

    def row(self) -> dict[str, Any]:
        """As a figure takes it: plain values, None where there is none."""
        found = {name: getattr(self.finding, name, None) for name in ("value", "low", "high", "n")}
        named = {name: getattr(self.claim, name) for name in ("key", "paper", "says", "side", "bound", "printed")}
        return named | found | {"verdict": self.verdict}

    def cells(self) -> dict[str, str]:
        """As a table takes it."""
        printed = "" if self.claim.printed is None else f"{self.claim.printed:+.3f}"
        return {
            "claim": f"{self.claim.key} {self.claim.says}", "is it": self.claim.asks,
            "measured, 95 % interval": str(self.finding or "–"), "of": self.finding.n if self.finding else "–",
            "the paper's": printed, "verdict": self.verdict, "lesson": self.claim.lesson.partition("_")[0],
        }  # fmt: skip


# ---------------------------------------------------------------- how it is judged


def verdict(low: float, high: float, side: str, bound: float) -> str:
    """What an interval says of a claim: "holds", "does not hold", or "cannot be told".

    It holds where every value of the interval [low, high] satisfies the claim, it does not where none does.

    Args:
        low, high: the ends of the interval; both belong to it.
        side: "above" claims a value > bound, "below" a value < bound, "within" one with -bound < value < bound.
        bound: of the claim; up = harder to be above, easier to be below or within.

    Raises:
        ValueError: there is no such side.
    """
    sides = {"above": (bound, float("inf")), "below": (float("-inf"), bound), "within": (-bound, bound)}
    if side not in sides:
        raise ValueError(f"There is no side {side!r}: expected one of {', '.join(sides)}.")
    least, most = sides[side]
    if low > least and high < most:
        return "holds"
    return "does not hold" if high <= least or low >= most else "cannot be told"


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval over the seeds that are stored, as `measures.over_seeds` has it, arguments included.

    Raises:
        NotStored: fewer than two seeds, which have no spread.
    """
    if len(values) < 2:
        raise NotStored(f"There are {len(values)} seeds: an interval over seeds needs two or more.")
    return measures.over_seeds(values, confidence)


def seeds_finding(values: Sequence[float], of: str) -> Finding:
    """The mean over seeds with the interval of `over_seeds`, cut at -1 and 1, beyond which no such number lies; errors as there.

    Args:
        values: one a seed: shares, differences of shares, cosines.
        of: what each was measured on, in words.
    """
    interval = over_seeds(values)
    return Finding(fmean(values), max(-1.0, interval.low), min(1.0, interval.high), f"{len(values)} seeds, {of}")


def gap_finding(first: Mapping[int, float], second: Mapping[int, float], each: int) -> Finding:
    """Second share minus first, over the seeds that both have, with the interval of `over_seeds`; errors as there.

    Where all seeds agree there is no spread to go by, and the interval is that of two separate samples, all seeds together.

    Args:
        first, second: seed → a share.
        each: requests that each share is of.
    """
    common = sorted(first.keys() & second.keys())
    found = seeds_finding([second[seed] - first[seed] for seed in common], f"{each} requests each")
    if found.high - found.low > 1e-9:
        return found
    total = each * len(common)
    apart = difference(*(rate(round(each * sum(side[seed] for seed in common)), total) for side in (first, second)))
    return replace(found, low=apart.low, high=apart.high)


def requests_finding(first: Answers, second: Answers) -> Finding:
    """The mean of second minus first over seeds and the requests of both, with the wider of two intervals: over either.

    Args:
        first, second: (seed, request) → whether it counts; what is there with seed 0 alone stands for every seed.
    """
    seeds = sorted({seed for seed, _ in (*first, *second)})
    requests = sorted({request for _, request in first} & {request for _, request in second})

    def _at(answers: Answers, seed: int, request: str) -> float:
        return answers.get((seed, request), answers.get((0, request), 0.0))

    gaps = {seed: [_at(second, seed, one) - _at(first, seed, one) for one in requests] for seed in seeds}
    values = [gap for some in gaps.values() for gap in some]
    interval = cluster_bootstrap(values, requests * len(seeds))
    words = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, {len(requests)} requests"
    found = Finding(fmean(values), interval.low, interval.high, words)
    if len(seeds) < 2:
        return found
    across = over_seeds([fmean(some) for some in gaps.values()])
    return replace(found, low=max(-1.0, min(found.low, across.low)), high=min(1.0, max(found.high, across.high)))


def entry(claim: Claim, store: Store) -> Entry:
    """A claim with its estimate and its verdict, as far as the store has what it needs."""
    try:
        found = claim.measure(store)
    except NotStored:
        return Entry(claim, None, NOT_STORED)
    if claim.side is None:
        return Entry(claim, found, NO_TARGET)
    return Entry(claim, found, verdict(found.low, found.high, claim.side, claim.bound))


# ---------------------------------------------------------------- what it rests on


def resolve(name: str) -> Any:
    """The thing of the kit that a name below the package means, such as "distillation.printed.kd_loss".

    Raises:
        LookupError: there is none.
    """
    parts, module = name.split("."), KIT
    while parts and find_spec(f"{module}.{parts[0]}") is not None:
        module = f"{module}.{parts.pop(0)}"
        if find_spec(module).submodule_search_locations is None:  # type: ignore[union-attr]  # it was found just now
            break
    found = import_module(module)
    for part in parts:
        if not hasattr(found, part):
            raise LookupError(f"The ledger names {name!r}, and {module} has no {part!r}: mend one of the two.")
        found = getattr(found, part)
    return found


def tests_folder() -> Path:
    """Where the tests stand in a checkout of the project; an installed package may be without them."""
    return Path(__file__).parents[2] / "tests"


def proof_lines(tests: Sequence[str], folder: Path) -> dict[str, int]:
    """The line of each test, read out of the test files; none of them is run.

    Args:
        tests: as "test_file::test_name".
        folder: of the test files.

    Raises:
        LookupError: a file or a test is not there.
    """
    known: dict[str, Mapping[str, int]] = {}
    for file in {one.partition("::")[0] for one in tests}:
        path = folder / f"{file}.py"
        if not path.is_file():
            raise LookupError(f"The ledger names tests of {file}.py, which is not there: mend one of the two.")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known[file] = {node.name: node.lineno for node in tree.body if isinstance(node, ast.FunctionDef)}
    lines = {}
    for one in tests:
        file, _, name = one.partition("::")
        if name not in known[file]:
            raise LookupError(f"The ledger names {one}, and there is no such test: mend one of the two.")
        lines[one] = known[file][name]
    return lines


def card(equation: Equation, folder: Path | None = None) -> str:
    """An equation's entry in Markdown, with links to the lines of its tests.

    Args:
        equation: of the ledger.
        folder: of the test files; where it is not there, tests are named without a link. None = `tests_folder`.

    Raises:
        LookupError: as in `resolve` and `proof_lines`.
    """
    folder = folder or tests_folder()
    for name in (*equation.shelf, *equation.works):
        resolve(name)
    lines = proof_lines(equation.tests, folder) if folder.is_dir() else {}
    proofs = []
    for one in equation.tests:
        file, _, name = one.partition("::")
        said = name.removeprefix("test_").replace("_", " ")
        proofs.append(f"[{said}](../tests/{file}.py#L{lines[one]})" if lines else f"{said} (`{one}`)")
    at = [", ".join(f"`{name}`" for name in names) or "nowhere" for names in (equation.shelf, equation.works)]
    parts = equation.working.split(r",\ ") if equation.working else []  # a line may be broken between them
    works = f"Works: {', '.join(f'${part}$' for part in parts)}. " if parts else ""
    printed = r" \\ ".join(equation.printed.split(r"\quad"))
    printed = rf"\begin{{gathered}}{printed}\end{{gathered}}" if r"\quad" in equation.printed else printed
    return (
        f"**{equation.key} · {equation.name}** · *{equation.status}*\n\n$${printed}$$\n\n{equation.does} {works}"
        f"As printed: {at[0]}; to be used: {at[1]}.\n\nProved by: {'; '.join(proofs)}."
    )
