"""What the paper of adversarial contrastive decoding prints, as a quotation to be read critically, and a check of its sums.

Source: Zhang, Zhao et al., arXiv 2406.16743, table 1: harmless rates of 100 requests a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MODELS = ("Llama-2-u. 7b", "Llama-3-u. 8b", "Bloom 7b", "Guanaco 7b", "Guanaco 13b", "Vicuna 13b", "Mistral 7b")
REQUESTS = 100
TABLE = {  # benchmark → method → one rate for each model
    "AdvBench": {
        "Base": (0.52, 0.80, 0.29, 0.86, 0.91, 0.99, 0.83),
        "nID": (0.84, 0.89, 0.38, 0.91, 0.92, 0.99, 0.93),
        "oID": (0.72, 0.86, 0.41, 0.96, 0.93, 0.98, 0.95),
        "ACD": (0.96, 0.98, 0.67, 0.95, 0.90, 0.98, 0.96),
    },
    "Malicious Instruct": {
        "Base": (0.51, 0.80, 0.59, 0.79, 0.84, 0.90, 0.96),
        "nID": (0.88, 0.93, 0.69, 0.80, 0.87, 0.99, 0.99),
        "oID": (0.81, 0.88, 0.67, 0.75, 0.90, 0.95, 0.98),
        "ACD": (0.93, 1.00, 0.67, 0.91, 0.94, 0.97, 0.99),
    },
    "HarmfulQA": {
        "Base": (0.36, 0.57, 0.27, 0.56, 0.63, 0.91, 0.96),
        "nID": (0.91, 0.91, 0.71, 0.79, 0.79, 0.98, 0.98),
        "oID": (0.94, 0.84, 0.78, 0.80, 0.86, 0.99, 0.98),
        "ACD": (0.95, 1.00, 0.87, 0.96, 0.98, 0.98, 0.99),
    },
    "DangerousQA": {
        "Base": (0.36, 0.58, 0.28, 0.59, 0.65, 0.88, 0.96),
        "nID": (0.87, 0.90, 0.69, 0.78, 0.78, 0.98, 0.97),
        "oID": (0.91, 0.87, 0.48, 0.78, 0.82, 1.00, 0.97),
        "ACD": (0.94, 1.00, 0.89, 0.95, 0.95, 0.99, 0.99),
    },
    "Beaver Test": {
        "Base": (0.77, 0.85, 0.45, 0.83, 0.90, 0.93, 0.91),
        "nID": (0.81, 0.93, 0.54, 0.79, 0.90, 0.94, 0.92),
        "oID": (0.84, 0.83, 0.47, 0.86, 0.92, 0.94, 0.92),
        "ACD": (0.83, 0.95, 0.68, 0.84, 0.93, 0.94, 0.93),
    },
}
OVER_MODELS = {  # benchmark → method → the mean over the models, as printed
    "AdvBench": {"Base": 0.771, "nID": 0.837, "oID": 0.830, "ACD": 0.914},
    "Malicious Instruct": {"Base": 0.770, "nID": 0.879, "oID": 0.894, "ACD": 0.916},
    "HarmfulQA": {"Base": 0.609, "nID": 0.867, "oID": 0.884, "ACD": 0.961},
    "DangerousQA": {"Base": 0.614, "nID": 0.853, "oID": 0.833, "ACD": 0.959},
    "Beaver Test": {"Base": 0.806, "nID": 0.833, "oID": 0.826, "ACD": 0.871},
}
OVER_BENCHMARKS = {  # method → the mean over the benchmarks for each model, as printed
    "Base": (0.504, 0.720, 0.416, 0.726, 0.786, 0.922, 0.924),
    "nID": (0.862, 0.912, 0.602, 0.814, 0.852, 0.976, 0.958),
    "oID": (0.844, 0.856, 0.562, 0.830, 0.886, 0.972, 0.960),
    "ACD": (0.922, 0.986, 0.756, 0.922, 0.940, 0.972, 0.972),
}


def slips(rows: Mapping[str, Sequence[float]], printed: Mapping[str, float], digits: int = 3) -> dict[str, float]:
    """The printed means that cannot be the mean of their cells: name → the mean that the cells have.

    A cell is rounded to what its requests allow, so that it is exact; a mean may be off by half a unit of its last digit.

    Args:
        rows: name → the cells.
        printed: name → the mean as printed.
        digits: to which the means are printed; fewer forgive more.

    Raises:
        ValueError: a row without cells, or without a printed mean.
    """
    for name, cells in rows.items():
        if not cells or name not in printed:
            lack = "no printed mean" if cells else "no cells"
            raise ValueError(
                f"The row {name!r} has {lack}: give every row one cell or more and the mean that is printed."
            )
    means = {name: sum(cells) / len(cells) for name, cells in rows.items()}
    allowed = 0.5 * 10**-digits + 1e-9
    return {name: mean for name, mean in means.items() if abs(mean - printed[name]) > allowed}
