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
        "distillation.studies",
        "distillation.noise_studies",
        "distillation.gate_studies",
        "immunization.cycle_studies",
        "immunization.tampering_studies",
        "one_plot.tiny_study",
    )
)


TO_COME = ("smollm2_alpha", "smollm2_tuned", "smollm2_changed")  # planned, and not run: they take hours


def catalogue() -> dict[str, Study]:
    """Every study of the kit by its name, but for those that are still to come."""
    studies = [study for module in MODULES for study in import_module(module).STUDIES]
    return {study.name: study for study in studies if study.name not in TO_COME}


def find(name: str) -> Study:
    """The study of a name.

    Raises:
        ValueError: there is none.
    """
    known = catalogue()
    if name not in known:
        raise ValueError(f"There is no study {name!r}: expected one of {', '.join(sorted(known))}.")
    return known[name]
