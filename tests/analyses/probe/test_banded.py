"""One penalty for each map: exact images left out, and the search against looking everywhere."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.probe import banded
from frictionstore.analyses.ridge_probe import RidgeProbe, RidgeProbeParameters


def made(seed: int, n: int = 30, widths: tuple[int, ...] = (5, 40)) -> tuple[list, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(n, width)) for width in widths]
    target = np.eye(3)[rng.integers(0, 3, n)]
    target_like = np.eye(3)[target.argmax(axis=1)]
    for z, strength in zip(maps, rng.uniform(0, 1.5, len(maps)), strict=True):
        z[:, :3] += strength * target_like
    return maps, target


def left_out(maps: list, target: np.ndarray, penalties: np.ndarray) -> np.ndarray:
    """Each image predicted by a fit, with an intercept, to all others."""
    x = np.hstack([z / np.sqrt(p) for z, p in zip(maps, penalties, strict=True)])
    found = np.empty_like(target)
    for i in range(len(x)):
        train = np.arange(len(x)) != i
        mean, level = x[train].mean(axis=0), target[train].mean(axis=0)
        z = x[train] - mean
        weights = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ (target[train] - level))
        found[i] = (x[i] - mean) @ weights + level
    return found


@pytest.mark.parametrize("widths", [(5,), (5, 40), (3, 20, 4)])
def test_images_left_out_are_those_of_refits(widths):
    maps, target = made(1, widths=widths)
    found = banded.choose([z @ z.T for z in maps], target, widths)
    expected = left_out(maps, target, found.penalties)
    np.testing.assert_allclose(found.left_out, expected, atol=1e-9)
    assert found.criterion == pytest.approx(np.square(target - expected).sum() / len(target))
    assert found.balance.max() == 1.0


def test_the_choice_is_the_least_of_the_whole_grid():
    """Every ratio and every lambda, for two maps."""
    for seed in range(4):
        maps, target = made(seed, n=24)
        widths = np.array([z.shape[1] for z in maps])
        found = banded.choose([z @ z.T for z in maps], target, widths)
        y = target - target.mean(axis=0)
        least = np.inf
        for ratio in range(-banded.REACH, banded.REACH + 1):
            g = 10.0 ** -np.array([0.0, ratio])
            g /= g.max()
            z = np.hstack([m * np.sqrt(w / d) for m, w, d in zip(maps, g, widths, strict=True)])
            z -= z.mean(axis=0)
            for penalty in banded.PATH:
                hat = z @ np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T)
                residual = (y - hat @ y) / (1 - np.diag(hat) - 1 / len(y))[:, None]
                least = min(least, np.square(residual).sum() / len(y))
        assert found.criterion <= least * (1 + 1e-6)


def two_minima(point: tuple[int, ...]) -> float:
    """A shallow valley near no preference and a deep one far from it."""
    x = np.array(point, np.float64)
    near = 1.0 - 0.2 * np.exp(-np.square(x).sum() / 4)
    return float(near - 0.6 * np.exp(-np.square(x - np.resize([7, -6], len(x))).sum() / 6))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_search_that_goes_down_from_one_penalty_would_be_wrong(axes):
    everywhere = product(range(-8, 9), repeat=axes)
    best = min(everywhere, key=two_minima)
    here = (0,) * axes
    while True:  # down from the same penalty for all
        steps = [tuple(np.add(here, m)) for m in product((-1, 0, 1), repeat=axes)]
        lower = min(steps, key=two_minima)
        if lower == here:
            break
        here = lower
    assert two_minima(here) > two_minima(best) + 0.1
    assert banded.least(two_minima, axes) == best


def test_of_equal_points_the_one_with_less_weight_is_taken():
    assert banded.least(lambda point: 1.0, 2) == (8, 8)
    assert banded.least(lambda point: float(point[0] != 3), 1, step=4) == (3,)
    assert banded.least(lambda point: 0.0, 0) == ()


def hidden_minimum(seed: int) -> tuple[list, np.ndarray]:
    """Two maps for which going down from one penalty ends in the wrong valley."""
    rng = np.random.default_rng(seed)
    labels = np.arange(20) % 2
    side = 2.0 * labels - 1
    few = rng.normal(size=(20, 2))
    few[:, 0] += rng.uniform(0, 1.5) * side
    many = rng.normal(size=(20, rng.integers(3, 60)))
    many[:, :3] += rng.uniform(0, 1) * side[:, None]
    return [few, many], np.eye(2)[labels]


@pytest.mark.parametrize("seed", [47, 167, 369])
def test_images_with_two_minima(seed):
    maps, target = hidden_minimum(seed)
    widths = np.array([z.shape[1] for z in maps])

    def at(ratio: int) -> float:
        g = 10.0 ** -np.array([0.0, ratio])
        z = [m * np.sqrt(w / d) for m, w, d in zip(maps, g / g.max(), widths, strict=True)]
        joined = np.hstack(z)
        return banded.choose([joined @ joined.T], target, [1]).criterion

    values = {ratio: at(ratio) for ratio in range(-8, 9)}
    here = 0
    while True:
        lower = min((r for r in (here - 1, here, here + 1) if r in values), key=values.__getitem__)
        if lower == here:
            break
        here = lower
    least = min(values.values())
    assert values[here] > 1.02 * least, "these images have one minimum"
    found = banded.choose([z @ z.T for z in maps], target, widths)
    assert found.criterion == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize(
    ("widths", "criterion", "penalties"),
    [((5, 40), 0.45435982941607034, (1, 10)), ((3, 20, 6), 0.3792474, (1, 1, 1e4))],
)
def test_himalaya_chooses_the_same(widths, criterion, penalties):
    """Its random search over the same ratios and penalties, each image left out.

    himalaya 0.4.11, Ks = Z Z' / widths:
    solve_multiple_kernel_ridge_random_search(Ks, target, n_iter=10.0**-ratios over their largest,
    alphas=PATH, cv=KFold(24), fit_intercept=True, score_func=l2_neg_loss, local_alpha=False),
    of three maps with ratios of at most 1e4, from where on the third map makes no difference.
    """
    maps, target = made(1, n=24, widths=widths)
    found = banded.choose([z @ z.T for z in maps], target, widths)
    assert found.criterion == pytest.approx(criterion, rel=2e-5)
    ours = np.minimum(found.penalties / np.array(widths), 1e4)
    np.testing.assert_allclose(ours, penalties, rtol=1e-9)


def test_probes_use_what_was_chosen_on_training_images_only():
    """Tested images with other labels change their own predictions' truth and no penalty."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    maps = {name: rng.normal(size=(60, 3, 3, 2)) for name in ("S", "friction")}
    maps["S"][:, 0, 0, 0] += labels

    def chosen(of):
        store = analyses.MemoryStore(maps, labels=of, class_names=["a", "b", "c"])
        plan = RidgeProbe(RidgeProbeParameters(features="S+friction", permutations=0))
        result = analyses.core.passes.run(store, [plan])[0]
        return result.fold, plan.sets[0]

    fold, one = chosen(labels)
    assert {len(weights) for weights in one.balance.values()} == {2}
    assert all(weights.max() == 1 for weights in one.balance.values())
    other = labels.copy()
    member = np.flatnonzero(fold == 0)
    swap = member[[np.flatnonzero(labels[member] == c)[0] for c in (0, 1)]]
    other[swap] = other[swap[::-1]]
    again_fold, again = chosen(other)
    if (again_fold == fold).all():
        np.testing.assert_array_equal(again.balance[0], one.balance[0])


def test_the_sample_is_spread_over_all_images_and_bounded():
    folds = np.arange(5000) % 5
    folds[:100] = -1
    found = banded.sample(folds, 5, 0)
    assert len(found) == banded.AT_MOST * 5 // 4
    assert (folds[found] >= 0).all()
    assert found.max() > 4000
    np.testing.assert_array_equal(banded.sample(np.arange(40) % 5, 5, 0), np.arange(40))
