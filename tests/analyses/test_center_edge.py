"""center-edge against scipy's paired t test, Fieller by root finding, and the notebook."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student
from scipy.stats import ttest_rel

import analyses
from analyses.center_edge import central_block, compare
from analyses.errors import AnalysisError
from tests.analyses.material import digits, digits_store, feature, noise_store


def test_is_scipys_paired_t_test():
    store = noise_store(grid=(4, 6))
    result = analyses.center_edge(store, border=1)
    x = feature(store)
    central = np.zeros((4, 6), bool)
    central[1:3, 1:5] = True
    centre, edge = x[:, central].mean(axis=1), x[:, ~central].mean(axis=1)
    for c in range(3):
        member = store.labels == c
        rows = result.tables["classes_by_mode"]
        rows = rows[rows["class"] == f"class{c}"]
        for mode in range(3):
            row = rows[rows["mode"].str.startswith(f"mode {mode}")].iloc[0]
            expected = ttest_rel(edge[member, mode], centre[member, mode])
            assert row["t"] == pytest.approx(expected.statistic, rel=1e-9)
            assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
            interval = expected.confidence_interval()
            assert row["difference_low"] == pytest.approx(interval.low, rel=1e-9)
            assert row["difference_high"] == pytest.approx(interval.high, rel=1e-9)
            assert row["ratio"] == pytest.approx(
                edge[member, mode].mean() / centre[member, mode].mean(), rel=1e-9
            )


def test_ratio_interval_is_where_the_test_stops_rejecting():
    rng = np.random.default_rng(1)
    centre = rng.normal(10.0, 2.0, 25)
    edge = 1.2 * centre + rng.normal(0.0, 1.0, 25)
    found = compare(centre[:, None], edge[:, None])
    limit = student.ppf(0.975, 24)

    def excess(ratio: float) -> float:
        d = edge - ratio * centre
        return abs(d.mean()) / (d.std(ddof=1) / 5) - limit

    middle = edge.mean() / centre.mean()
    assert found.ratio_low[0] == pytest.approx(brentq(excess, 0.1, middle), rel=1e-9)
    assert found.ratio_high[0] == pytest.approx(brentq(excess, middle, 5.0), rel=1e-9)


def test_a_centre_near_zero_has_no_bounded_interval():
    rng = np.random.default_rng(1)
    found = compare(rng.normal(0.0, 1.0, (20, 1)), rng.normal(5.0, 1.0, (20, 1)))
    assert np.isnan([found.ratio_low[0], found.ratio_high[0]]).all()
    assert np.isfinite(found.t[0])


def test_notebook_figures_of_the_digits():
    _, printed = digits()
    result = analyses.center_edge(digits_store())
    for mine, theirs in zip(result.notebook["center_edge"], printed["3_center_edge"], strict=True):
        for key in ("center", "edge", "ratio"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3)
    assert "mode 0 (largest) is constant over all images and left out" in result.caveats
    assert result.tables["modes"]["mode"].tolist() == [
        "all modes", "mode 1", "mode 2", "mode 3 (smallest)",
    ]  # fmt: skip


def test_blocks():
    assert central_block(16, 16).sum() == 64
    assert central_block(16, 16)[4:12, 4:12].all()
    assert central_block(5, 9, border=2).sum() == 5
    with pytest.raises(AnalysisError, match="border 2 leaves no patch for the centre of a 4 x 9"):
        central_block(4, 9, border=2)
    with pytest.raises(AnalysisError, match="leaves no patch for the edge of a 3 x 3 grid"):
        central_block(3, 3)
    with pytest.raises(AnalysisError, match="needs at least 3 patches a side"):
        central_block(2, 2, border=1)


def test_the_same_difference_in_every_image_has_no_test():
    x = np.ones((8, 4, 4, 1)) * np.arange(1, 9).reshape(8, 1, 1, 1)
    x[:, 0] += 3.0
    store = analyses.MemoryStore({"friction": x}, labels=np.arange(8) % 2, class_names=["a", "b"])
    result = analyses.center_edge(store)
    assert np.isnan(result.values["p"])
    assert any("is the same in every image of a, b" in caveat for caveat in result.caveats)


def test_a_class_without_a_bounded_interval_is_named():
    x = np.abs(np.random.default_rng(0).normal(size=(20, 4, 4, 1)))
    x[0, 1:3, 1:3] = 1e6
    store = analyses.MemoryStore({"friction": x}, labels=np.arange(20) % 2, class_names=["a", "b"])
    result = analyses.center_edge(store)
    assert any("no bounded interval for a:" in caveat for caveat in result.caveats)
    assert np.isfinite(result.table["ratio_low"][1])
