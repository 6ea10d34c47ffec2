"""Rows of the study behind lesson 40 with made-up answers, so that its tests need no run of it."""

from __future__ import annotations

import random

from safealign_lab.one_plot import tiny_lab
from safealign_lab.one_plot.points import Answer, Point
from safealign_lab.one_plot.tiny_study import GATES, WAYS


def rows(worlds=1, seed=0):
    """One row for each world and each way or gate; letters and margins are drawn, costs are round numbers."""
    rng = random.Random(seed)
    return [_row(rng, world, way) for world in range(worlds) for way in [*WAYS, *GATES]]


def _row(rng, world, way):
    views = {}
    for view in tiny_lab.VIEWS:
        sizes = {kind: len(its) for kind, its in tiny_lab.asked(world, view).items()}
        if way in GATES:
            views[view] = {kind: [round(rng.uniform(-3, 3), 2) for _ in range(n)] for kind, n in sizes.items()}
        else:
            weights = [rng.random() + 0.1 for _ in "RICE"]
            views[view] = {kind: "".join(rng.choices("RICE", weights, k=n)) for kind, n in sizes.items()}
    cost = {"training": rng.randint(0, 90), "time": 1 + rng.randint(0, 9) / 10, "memory": 1 + rng.randint(0, 9) / 10}
    result = {"views": views, "cost": cost} | ({"threshold": rng.randint(-10, 10) / 10} if way in GATES else {})
    return {"settings": {"way": way}, "seed": world, "result": result}


def point(name, sides, family="contrast", cost=None, settings=None):
    """A point from kind → (group, label, right) of its requests, one answer for each."""
    answers = {
        f"{kind} {number}": (Answer(kind, group, label, right),)
        for kind, its in sides.items()
        for number, (group, label, right) in enumerate(its)
    }
    return Point(name, family, answers, cost or {}, settings or {})


def asked_of_seeds(one, shares):
    """The same requests, put to one training for each share: a request of a side is refused, and right, with that chance."""
    rng = random.Random(f"{one.name} {shares}")
    answers = {
        request: tuple(
            Answer(
                said[0].kind,
                said[0].group,
                "refusal" if rng.random() < share else "compliance",
                rng.random() * share,
                seed,
            )
            for seed, share in enumerate(shares)
        )
        for request, said in one.answers.items()
    }
    return Point(one.name, one.family, answers)


def drawn_point(name, seed, groups=4, each=3, family="contrast", cost=None):
    """A point with answers of all kinds and labels to the same requests, whatever the seed."""
    rng = random.Random(f"{name} {seed}")
    labels = ("refusal", "compliance", "incoherent")
    sides = {
        kind: [
            (f"noun {group}", rng.choice(labels), rng.choice((0.0, 0.5, 1.0)))
            for group in range(groups)
            for _ in range(each)
        ]
        for kind in ("harmful", "borderline", "benign")
    }
    return point(name, sides, family, cost)
