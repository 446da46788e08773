"""A set that several plans ask for is fitted once, and never in place of another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from frictionstore.analyses import MemoryStore, Result
from frictionstore.analyses.core.passes import Passes, run
from frictionstore.analyses.probe.split import SetFit, Split
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters
from tests.analyses.material import noise_store

SETS = ("S", "friction", "S+friction")


@pytest.fixture(params=["held", "streamed", "one map held"], autouse=True)
def form(request, monkeypatch) -> str:
    held = {"held": 1 << 30, "streamed": 0, "one map held": 90 * 18 * 8}[request.param]
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)
    return request.param


@pytest.fixture
def fitted(monkeypatch) -> list[tuple[str, str, int]]:
    """What is fitted, as it is: the set's name, what it keeps and the fold."""
    seen = []
    solved = SetFit.solved

    def noting(one: SetFit, fold: int, problem: Any) -> Any:
        seen.append((one.name, one.keeps, fold))
        return solved(one, fold, problem)

    monkeypatch.setattr(SetFit, "solved", noting)
    return seen


def plan(features: tuple[str, ...] = SETS, **asked: Any) -> RidgeProbe:
    return RidgeProbe(RidgeProbeParameters(**{"features": features, "permutations": 5} | asked))


def same(one: Result, other: Result) -> None:
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
    for found in ("columns", "values", "notebook", "sentences", "caveats"):
        np.testing.assert_equal(getattr(one, found), getattr(other, found))


BESIDE = [
    {"features": ("friction", "S", "friction+S")},  # other columns are others' neighbours
    {"features": ("S", "log_friction", "S+log_friction")},
    {"features": ("settle", "S", "S+settle", "S+friction")},  # no floor of S+friction's own place
    {"features": ("friction", "S+friction")},  # a floor that keeps another map
    {"folds": 4},
    {"seed": 1},
    {"permutations": 9},
    {"permutations": 0},
    {"protocol": "notebook"},
    {"train": "seen", "test": "unseen"},
    {"features": ("S",)},  # rows in memory, where those of the other may not be
    {},
]


@pytest.mark.parametrize("beside", BESIDE, ids=str)
def test_beside_other_plans_a_plan_gives_what_it_gives_alone(beside):
    splits = {"seen": slice(0, 60), "unseen": slice(60, 90)}
    store = noise_store(n=90, grid=(2, 3), effect=2.0, splits=splits)
    alone = [run(store, [plan(**one)])[0] for one in ({}, beside)]
    for order in ([0, 1], [1, 0]):
        together = run(store, [plan(**({}, beside)[which]) for which in order])
        for found, which in zip(together, order, strict=True):
            same(found, alone[which])


def test_images_in_groups_are_as_they_are_alone():
    store = noise_store(n=90, grid=(2, 3), effect=2.0, groups=np.arange(90) // 3)
    beside = plan(("S", "settle", "S+settle", "S+friction"))
    found, other = run(store, [plan(), beside])
    same(found, run(store, [plan()])[0])
    assert (found.arrays["prediction"][0] == other.arrays["prediction"][0]).all()


def test_each_set_is_fitted_once_for_the_measurement_its_repeats_and_other_plans(fitted, form):
    store = noise_store(n=90, grid=(2, 3))
    friction = store._maps["friction"]
    rng = np.random.default_rng(0)
    moved = (friction[..., None] * rng.uniform(0.99, 1.01, (*friction.shape, 2))).astype("f4")
    store = MemoryStore(
        {**store._maps, "friction_repeats": moved}, labels=store.labels,
        class_names=store.class_names, batch=16,
    )  # fmt: skip
    found = run(store, [plan(), plan(("S", "log_friction", "S+log_friction")), plan()])
    counts = {name: 0 for name, _, _ in fitted}
    for name, keeps, _ in fitted:
        counts[name] += not keeps
    again = 0 if form == "held" else 5  # what floors are held against, of fewer images
    floors = {name for name, keeps, _ in fitted if keeps}
    # 5 folds, of the measurement and of 2 repeats where there are any.
    assert {name: counts[name] for name in counts if name not in floors} == {
        "S": 5 + again, "friction": 15, "S+friction": 15,
        "log_friction": 15, "S+log_friction": 15,
    }  # fmt: skip
    assert sorted(floors) == [f"S+{of} of shuffled images" for of in ("friction", "log_friction")]
    assert len([keeps for _, keeps, _ in fitted if keeps]) == 10
    same(found[0], found[2])
    # Repeats are not the measurement: their figures are their own.
    claim = next(one for one in found[0].claims if one.figure == "accuracy friction")
    assert len(set(claim.values)) > 1
    claim = next(one for one in found[0].claims if one.figure == "accuracy S")
    assert len(set(claim.values)) == 1


def test_a_plan_that_could_not_be_prepared_fits_nothing_for_others():
    store = noise_store(n=90, grid=(2, 3))
    passes = Passes(store)
    good = plan()
    assert passes.attempt(plan(("S", "friction", "log_settle", "nothing"))) is not None
    assert passes.attempt(good) is None
    passes.run()
    same(passes.result(good), run(store, [plan()])[0])


def test_splits_that_differ_in_anything_are_told_apart():
    labels, folds = np.arange(12) % 3, np.arange(12) % 4
    split = Split(labels, folds, 4, 3)
    others = [
        replace(split, labels=np.roll(labels, 1)),
        replace(split, folds=np.roll(folds, 1)),
        replace(split, labels=folds, folds=labels),
        replace(split, n_folds=3),
        replace(split, n_classes=4),
        replace(split, belonging=np.arange(12)),
        replace(split, belonging=np.arange(12) // 2),
    ]
    digests = {one.digest for one in (split, *others)}
    assert len(digests) == 1 + len(others)
    copy = Split(labels.astype(np.int32), folds.copy(), 4, 3)
    assert copy.digest == split.digest
