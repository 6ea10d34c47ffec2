"""What the paper of distillation and robustness claims, and the estimates from the stored studies of lesson 12.

An interval is Student's over seeds, of differences seed by seed. The test texts are the same for every seed, so that it does not
hold how far another thousand texts would have come out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..measures import difference, rate
from .ledger import Claim, Finding, NotStored, Store, seeds_finding

LESSON = "12_one_objective"
RADIUS = "0.05"  # at which a student's robustness is measured; relative to the mean length of its features
SLIPS = ("typos", "swapped_letters", "dropped_letters", "casing", "swapped_words", "dropped_words")
Row = Mapping[str, Any]
Number = Callable[[Row], float]


def differences(first: Sequence[Row], second: Sequence[Row], number: Number) -> list[float]:
    """Second minus first, seed by seed, over the seeds that both have.

    Args:
        first, second: rows of a study, one a seed.
        number: of a row.

    Raises:
        NotStored: no seed is common to both.
    """
    mine, theirs = ({row["seed"]: number(row) for row in rows} for rows in (first, second))
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        raise NotStored("The two sides of a comparison have no seed in common.")
    return [theirs[seed] - mine[seed] for seed in common]


def _of(what: str) -> Number:
    return lambda row: float(row["result"][what])


def _attacked(row: Row) -> float:
    return float(row["result"]["attacked"][RADIUS])


def _ways(
    store: Store, first: str, second: str, number: Number, schedules: tuple[str, str] = ("full", "full")
) -> Finding:
    one, two = (
        store.rows("sentiment_ways", way=way, hidden=None, schedule=schedule)
        for way, schedule in zip((first, second), schedules, strict=True)
    )
    return seeds_finding(differences(one, two, number), _texts(one))


def _knob(store: Store, knob: str, first: float, second: float, number: Number, scale: float = 1.0) -> Finding:
    before, after = (store.rows("sentiment_knobs", knob=knob, value=value) for value in (first, second))
    return seeds_finding([scale * gap for gap in differences(before, after, number)], _texts(before))


def _shrinks(store: Store) -> Finding:
    """The gradient norm at λ = 0.1 relative to the one without a penalty, less one."""
    rows = [store.rows("sentiment_knobs", knob="penalty_weight", value=value) for value in (0.0, 0.1)]
    norms = [{row["seed"]: float(row["result"]["gradient_norm"]) for row in some} for some in rows]
    common = sorted(norms[0].keys() & norms[1].keys())
    return seeds_finding([norms[1][seed] / norms[0][seed] - 1 for seed in common], "training texts")


def _slips(store: Store) -> Finding:
    """The mean over six kinds of slips, seed by seed."""
    sums: dict[str, list[float]] = {}
    for way in ("KD alone", "KD + adversarial"):
        kinds = [store.rows("sentiment_text_noise", noise=kind, way=way, schedule="full") for kind in SLIPS]
        by_seed = zip(*([float(row["result"]["accuracy"]["value"]) for row in rows] for rows in kinds), strict=True)
        sums[way] = [sum(values) / len(values) for values in by_seed]
    gains = [two - one for one, two in zip(*sums.values(), strict=True)]
    return seeds_finding(gains, f"the same texts, {len(SLIPS)} kinds of slips")


def _clipped(store: Store) -> Finding:
    free, clipped = (
        store.rows("sentiment_clipping", clip=clip, penalty_weight=0.1, learning_rate=0.3) for clip in (None, 1.0)
    )
    return seeds_finding(differences(free, clipped, _of("accuracy")), _texts(free))


def _precision(store: Store) -> Finding:
    """What an attack of ε = 0.01 through SmolLM2 leaves in half precision, less what it leaves in full."""
    asked = {"backbone": "smollm2-135m", "way": "KD + adversarial", "epsilon": 0.01}
    shares = []
    for dtype in ("float32", "bfloat16"):
        found = store.rows("sentiment_embeddings", dtype=dtype, **asked)[0]["result"]
        shares.append(rate(found["attacked"], found["n"]))
    gap = difference(*shares)
    return Finding(gap.value, gap.low, gap.high, f"1 seed, {shares[0].n} texts a side")


def _score(store: Store, what: str, scale: float) -> Finding:
    rows = store.rows("sentiment_ways", way="KD + adversarial", hidden=None, schedule="full")
    return seeds_finding([float(row["result"][what]) / scale for row in rows], _texts(rows))


def _texts(rows: Sequence[Row]) -> str:
    return f"the same {rows[0]['result']['n']} texts"


WAYS, KNOBS = ("sentiment_ways",), ("sentiment_knobs",)
DISTILLATION = (
    Claim("d1", "KD + aimed noise is more robust than KD alone", "above", 0.0,
          partial(_ways, first="KD alone", second="KD + adversarial", number=_attacked), WAYS, LESSON),
    Claim("d2", "and loses no accuracy on clean texts", "above", -0.01,
          partial(_ways, first="KD alone", second="KD + adversarial", number=_of("accuracy")), WAYS, LESSON),
    Claim("d3", "noise without an aim is enough", "above", 0.0,
          partial(_ways, first="KD alone", second="KD + random noise", number=_attacked), WAYS, LESSON),
    Claim("d4", "the gain needs the method: aimed noise beats KD that stops early", "above", 0.0,
          partial(_ways, first="KD alone", second="KD + adversarial", number=_attacked, schedules=("stopped early", "full")),
          WAYS, LESSON),
    Claim("d5", "the printed losses are as robust as the working ones (linear heads trained in full, with aimed noise)", "above",
          -0.01, partial(_ways, first="KD + adversarial", second="printed + adversarial", number=_attacked), WAYS, LESSON),
    Claim("d6", "and as accurate on clean texts", "above", -0.01,
          partial(_ways, first="KD + adversarial", second="printed + adversarial", number=_of("accuracy")), WAYS, LESSON),
    Claim("d7", "weight of the distillation, 0 → 1: nearer to the teacher", "above", 0.0,
          partial(_knob, knob="kd_weight", first=0.0, second=1.0, number=_of("alignment"), scale=0.01), KNOBS, LESSON),
    Claim("d8", "weight of the distillation, 0 → 1: no less robust", "above", -0.01,
          partial(_knob, knob="kd_weight", first=0.0, second=1.0, number=_attacked), KNOBS, LESSON),
    Claim("d9", "radius of the noise, ε 0 → 0.2: more robust", "above", 0.0,
          partial(_knob, knob="epsilon", first=0.0, second=0.2, number=_attacked), KNOBS, LESSON),
    Claim("d10", "radius of the noise, ε 0.05 → 0.2: clean accuracy falls", "below", 0.0,
          partial(_knob, knob="epsilon", first=0.05, second=0.2, number=_of("accuracy")), KNOBS, LESSON),
    Claim("d11", "gradient penalty, λ 0 → 0.1: a smaller gradient, relative change", "below", 0.0, _shrinks, KNOBS, LESSON),
    Claim("d12", "gradient penalty, λ 0 → 0.1: a steadier student, by more than a hundredth", "above", 0.01,
          partial(_knob, knob="penalty_weight", first=0.0, second=0.1, number=_of("stability")), KNOBS, LESSON),
    Claim("d13", "clipping saves the training at far too large a rate (accuracy)", "above", 0.01, _clipped,
          ("sentiment_clipping",), LESSON),
    Claim("d14", "robust to slips of the pen that nobody trained on", "above", 0.0, _slips, ("sentiment_text_noise",), LESSON),
    Claim("d15", "half precision makes the perturbation worse", "below", 0.0, _precision, ("sentiment_embeddings",), LESSON),
    Claim("d16", "KD alignment, by our definition", None, 0.0, partial(_score, what="alignment", scale=100.0), WAYS,
          LESSON, 0.868),
    Claim("d17", "noise robustness, by our attack", None, 0.0, partial(_score, what="robustness", scale=1.0), WAYS, LESSON,
          0.825),
    Claim("d18", "overall safety, by our definition", None, 0.0, partial(_score, what="safety", scale=100.0), WAYS, LESSON,
          0.847),
)  # fmt: skip
