"""Where the studies of the kit are defined; each module is imported when a study is looked for, never before."""

from __future__ import annotations

from importlib import import_module

from .runner import Study

MODULES = tuple(
    f"safealign_lab.{name}"
    for name in (
        "studies.tiny",
        "studies.judge",
        "studies.undefended",
        "contrast.studies",
        "contrast.prompt_studies",
        "contrast.real_studies",
        "contrast.real_one_pass",
        "contrast.real_stress",
        "contrast.transfer",
        "distillation.studies",
        "distillation.noise_studies",
        "distillation.gate_studies",
        "immunization.cycle_studies",
        "immunization.tampering_studies",
        "one_plot.tiny_study",
        "one_plot.real_study",
        "one_plot.real_attacks",
        "one_plot.real_costs",
        "one_plot.radius",
    )
)


def catalogue() -> dict[str, Study]:
    """Every study of the kit by its name."""
    return {study.name: study for module in MODULES for study in import_module(module).STUDIES}


def find(name: str) -> Study:
    """The study of a name.

    Raises:
        ValueError: there is none.
    """
    known = catalogue()
    if name not in known:
        raise ValueError(f"There is no study {name!r}: expected one of {', '.join(sorted(known))}.")
    return known[name]
