"""A laboratory for SmolLM2's prompts and studies, with the tiny model in its place, a judge that only looks, and own folders."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from safealign_lab import fetching
from safealign_lab.alchemy.voices import KEEPER, ROGUE
from safealign_lab.contrast import Anchor, Optimisation, real_one_pass, real_stress, real_studies, shipped, soft_prompts
from safealign_lab.judges import Judge
from safealign_lab.studies.undefended import requests_of

DATA = fetching.data_folder()
ANCHORS = [
    *(Anchor(f"brew me a {one} potion .", "harmful", "sorry , i will not .", "take water .") for one in ("venom", "plague")),
    *(Anchor(f"what does {one} do ?", "borderline", answer=f"{one} harms people .") for one in ("venom", "plague")),
    *(Anchor(f"what does {one} do ?", "benign", answer=f"{one} calms people .") for one in ("sleep", "light")),
]  # fmt: skip
ROLES = ("safeguarding", "adversarial")
EACH = {"harmful": 1, "borderline": 1, "benign": 1}


class Knowing(Judge):
    """Takes what begins with an "n" for a refusal and what is empty for incoherent."""

    asked = 0

    def labels(self, responses, requests=None):
        Knowing.asked += 1
        assert len(requests) == len(responses)
        return [
            "incoherent" if not one.strip() else "refusal" if one.startswith("n") else "compliance" for one in responses
        ]


class Lab(SimpleNamespace):
    """Folders of a test's own, and how often the model was asked for anchors and trained."""

    def recipe(self, **changes) -> None:
        """Other settings of both recipes, in the middle of a test."""
        self.patch.setattr(shipped, "SMOLLM2", {role: replace(one, **changes) for role, one in shipped.SMOLLM2.items()})


@pytest.fixture
def lab(tiny, tmp_path, monkeypatch):
    found = Lab(data=tmp_path / "data", cache=tmp_path / "cache", asked=0, drawn=[], patch=monkeypatch, model=tiny)
    shutil.copytree(DATA / "english", found.data / "english")
    (found.data / "models").symlink_to(DATA / "models", target_is_directory=True)
    monkeypatch.setattr(fetching, "data_folder", lambda: found.data)
    monkeypatch.setenv("SAFEALIGN_CACHE", str(found.cache))
    for module in (shipped, real_studies, real_stress, real_one_pass):
        monkeypatch.setattr(module, "real_model", lambda: tiny)
    short = {"steps": 2, "warmup": 1, "learning_rate": 0.02, "length": 4, "per_step": EACH, "rows_at_once": 2}
    texts = {"safeguarding": KEEPER, "adversarial": ROGUE}
    monkeypatch.setattr(
        shipped, "SMOLLM2", {role: replace(shipped.SMOLLM2[role], text=texts[role], **short) for role in ROLES}
    )

    def asked(model, tokenizer):
        assert (model, tokenizer) == tiny
        found.asked += 1
        return list(ANCHORS)

    class Watched(Optimisation):
        def drawn(self, generator):
            found.drawn.append(self.role)
            return super().drawn(generator)

    monkeypatch.setattr(shipped, "english", asked)
    monkeypatch.setattr(shipped, "Optimisation", Watched)
    monkeypatch.setattr(real_studies, "requests_of", lambda name: requests_of(name)[:9])
    monkeypatch.setattr(real_studies, "_judge", Knowing)
    caches = (
        shipped.training_anchors, real_studies._undefended, real_studies._probe, real_stress._tuned, real_stress._changed,
        real_stress._avoiding, real_one_pass._student, real_one_pass._shown,
    )  # fmt: skip
    for one in caches:
        one.cache_clear()
    yield found
    for one in caches:
        one.cache_clear()


def cards_below(folder) -> set[str]:
    return {str(path.parent.relative_to(folder)) for path in folder.rglob(soft_prompts.CARD)}
