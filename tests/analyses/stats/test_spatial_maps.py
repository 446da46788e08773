"""Local Moran, correlogram, the shared map and sequential p, against esda and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import binom

from frictionstore import analyses
from frictionstore.analyses.stats import joint_moran, lattice
from frictionstore.analyses.stats.joint_moran import JointMoran, joint_variance, sequential_p
from frictionstore.analyses.stats.moran import MoranTest
from tests.data.analyses.make_statistics import wave
from tests.support import DATA


@pytest.fixture(scope="module")
def known() -> dict:
    return json.loads((DATA / "analyses" / "statistics.json").read_text())


def test_local_moran_and_correlogram_of_one_image_are_esdas(known):
    grid = wave(5, 6, phase=1.0) + np.arange(6) * 3
    x = np.stack([grid, 2 * grid + 5])[..., None]
    result = analyses.spatial_cv(analyses.MemoryStore({"S": x}), feature="S", permutations=9)
    np.testing.assert_allclose(result.local_moran_i[..., 0].reshape(-1), known["local_moran"])
    lags = result.tables["correlogram"]
    assert lags["distance"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(lags["moran"], known["correlogram"], rtol=1e-9)


def test_local_p_by_shuffling_all_others():
    """The largest of a smooth hill is found, and p is that of conditional permutation by hand."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5, 5, 1))
    x[:, 3:, 3:] += 2.0
    result = analyses.spatial_cv(analyses.MemoryStore({"S": x}), feature="S", permutations=9)
    z = x.reshape(30, 25)
    z = z - z.mean(axis=1, keepdims=True)
    z /= np.sqrt(np.square(z).sum(axis=1, keepdims=True))
    w = lattice.weight_matrix(5, 5, "queen", "row")
    for a in (0, 7, 24):
        near = np.flatnonzero(w[a])
        observed = (24 * z[:, a] * z[:, near].mean(axis=1)).mean()
        assert result.local_moran_i.reshape(-1)[a] == pytest.approx(observed)
        others = np.delete(np.arange(25), a)
        null = np.array([
            (24 * z[:, a] * z[:, rng.choice(others, len(near), replace=False)].mean(axis=1)).mean()
            for _ in range(2000)
        ])  # fmt: skip
        expected = -(np.square(z[:, a]).mean())
        p = (np.abs(null - expected) >= abs(observed - expected)).mean()
        assert result.local_moran_p.reshape(-1)[a] == pytest.approx(p, abs=0.07)
    assert result.local_moran_q[4, 4, 0] <= 0.05


@pytest.mark.slow
def test_a_map_that_all_images_share_is_told_from_structure_of_their_own():
    stores, shared, own = 40, 0, 0
    for seed in range(stores):
        rng = np.random.default_rng(seed)
        common = gaussian_filter(rng.normal(size=(6, 6)), 1.0)[None, ..., None]
        x = 20 + 3 * common + rng.normal(size=(30, 6, 6, 1))
        result = analyses.spatial_cv(
            analyses.MemoryStore({"S": x}), feature="S", permutations=9, seed=seed
        )
        shared += result.values["p_mean_moran_queen"] <= 0.05
        own += result.values["p_mean_moran_queen_own"] <= 0.05
        row = result.table.iloc[0]
        assert row["moran_queen_own_p"] == result.values["p_mean_moran_queen_own"]
    assert shared >= 0.9 * stores
    assert own <= binom.ppf(0.9995, stores, 0.05)
    assert "no evidence of structure beyond the map that images share" in result.sentence


def test_structure_of_images_own_stays_without_the_mean_map():
    rng = np.random.default_rng(0)
    x = 20 + gaussian_filter(rng.normal(size=(40, 6, 6, 2)), (0, 1, 1, 0))
    result = analyses.spatial_cv(analyses.MemoryStore({"S": x}), feature="S", permutations=9)
    flat = x.reshape(40, 36, 2) - x.reshape(40, 36, 2).mean(axis=0)
    w = lattice.weight_matrix(6, 6, "queen", "row")
    z = flat - flat.mean(axis=1, keepdims=True)
    i = np.einsum("iam,ab,ibm->im", z, w, z) / np.square(z).sum(axis=1)
    np.testing.assert_allclose(result.table["moran_queen_own"], i.mean(axis=0), rtol=1e-9)
    assert result.values["p_mean_moran_queen_own"] <= 0.001
    assert "no evidence" not in result.sentence


def test_images_that_are_all_the_same_have_nothing_of_their_own():
    x = np.repeat(wave(1, 4, 4, 1) + 1e6, 5, axis=0)
    values = analyses.spatial_cv(analyses.MemoryStore({"S": x}), feature="S", permutations=9).values
    assert np.isnan(values["p_mean_moran_queen_own"])


def test_sequential_p_is_besag_and_cliffords():
    many = joint_moran.MANY
    often = np.arange(4000) % 2 == 0  # the 400th at shuffle 799
    never = np.zeros(4000, bool)
    late = np.arange(4000) >= 4000 - many
    p = sequential_p(np.stack([often, never, late], axis=1))
    np.testing.assert_allclose(p, [many / (2 * many - 1), 1 / 4001, many / 4000])
    # It does not depend on what is done for the sake of others.
    assert sequential_p(often[:1000, None])[0] == p[0]


def test_shuffles_end_early_and_p_stays_what_it_is(monkeypatch):
    maps = np.random.default_rng(7).normal(size=(20, 16, 2))
    tests = [MoranTest(4, 4, name) for name in lattice.CONTIGUITIES]

    def found(modes: list[slice]) -> JointMoran:
        one = JointMoran(tests, 2)
        for part in modes:
            one.shuffle(part, *one.moments(maps[:, :, part]), 0, 1)
        return one

    early, full = found([slice(0, 2)]), found([slice(0, 1), slice(1, 2)])
    assert early._done < joint_moran.JOINT_SHUFFLES == full._done
    for name in lattice.CONTIGUITIES:
        a, b = early.results()[name], full.results()[name]
        np.testing.assert_allclose([*a.p, a.overall_p], [*b.p, b.overall_p], rtol=1e-12)
        np.testing.assert_allclose(a.p_family_wise, b.p_family_wise, rtol=1e-12)


@pytest.mark.parametrize("contiguity", lattice.CONTIGUITIES)
def test_joint_variance_is_that_of_shuffles(contiguity):
    rng = np.random.default_rng(2)
    test = MoranTest(3, 4, contiguity)
    z = rng.lognormal(size=(6, 12))
    z -= z.mean(axis=1, keepdims=True)
    z /= np.sqrt(np.square(z).sum(axis=1, keepdims=True))
    null = [test.statistic(z[:, rng.permutation(12)].T).mean() for _ in range(20_000)]
    variance = joint_variance(test, (z.T @ z / 6)[None])[0]
    assert variance == pytest.approx(np.var(null), rel=0.05)
