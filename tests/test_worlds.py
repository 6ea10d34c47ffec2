"""Other alchemy worlds: a model of each is pretrained once, and the shipped one is the world of seed 0."""

from __future__ import annotations

import dataclasses

from safealign_lab.alchemy import pretraining
from safealign_lab.alchemy.world import world
from safealign_lab.studies.worlds import settled
from safealign_lab.training import Plan, weights_hash


def test_the_world_of_seed_0_has_the_shipped_model(tiny):
    model, words, of = settled()
    assert weights_hash(model) == weights_hash(tiny[0])
    assert words.get_vocab() == tiny[1].get_vocab()
    assert of == world(0)


def test_another_world_has_a_model_of_its_own_that_is_pretrained_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFEALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(pretraining, "CONVERSATIONS", 24)
    monkeypatch.setattr(pretraining, "TEXTS_PER_DOMAIN", 2)
    monkeypatch.setattr(pretraining, "BATCH", 4)
    monkeypatch.setattr(pretraining, "TINY_PLAN", Plan(steps=2, learning_rate=1e-3))
    model, _, of = settled(1)
    assert of == world(1)
    assert weights_hash(settled(2)[0]) != weights_hash(model)
    fit = pretraining.fit
    monkeypatch.setattr(pretraining, "fit", None)
    assert weights_hash(settled(1)[0]) == weights_hash(model)
    monkeypatch.setattr(pretraining, "fit", fit)
    monkeypatch.setattr(pretraining, "TINY_PLAN", dataclasses.replace(pretraining.TINY_PLAN, steps=3))
    assert weights_hash(settled(1)[0]) != weights_hash(model)
