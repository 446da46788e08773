"""center-edge against scipy's paired t test, Fieller by root finding, and the notebook."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student
from scipy.stats import ttest_rel

from frictionstore import analyses
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.stats.edge_and_centre import compare
from frictionstore.analyses.stats.regions import central_block
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
    x[::2, 1:3, 1:3] *= np.resize([1, -1], 10)[:, None, None, None]
    store = analyses.MemoryStore({"friction": x}, labels=np.arange(20) % 2, class_names=["a", "b"])
    result = analyses.center_edge(store)
    assert any("no bounded interval for a:" in caveat for caveat in result.caveats)
    assert np.isfinite(result.table["ratio_low"][1])


# ---- what the answer says ---------------------------------------------------------------------


def planted(n: int = 40, by_mode: tuple[float, ...] = (0.0, 3.0, -3.0, 0.0)) -> np.ndarray:
    """Maps of four modes whose edge is higher or lower by so many standard errors of an image."""
    rng = np.random.default_rng(5)
    x = rng.normal(50.0, 1.0, (n, 4, 4, len(by_mode)))
    x[:, central_block(4, 4)] -= np.array(by_mode)
    return x


def store_of(x: np.ndarray, name: str = "friction") -> analyses.MemoryStore:
    return analyses.MemoryStore({name: x}, labels=np.arange(len(x)) % 2, class_names=["a", "b"])


def test_modes_that_cancel_in_their_mean_are_named():
    """The mean over modes sees nothing here, and its test is not the answer."""
    result = analyses.center_edge(store_of(planted()))
    assert result.values["p"] > 0.05
    assert result.values["modes_different"] == 2
    assert "differs between edge and centre in mode" in result.sentence
    assert "in mode 1 (higher at the edge, edge / centre = 1.0" in result.sentence
    assert "in mode 2 (lower at the edge, edge / centre = 0.9" in result.sentence
    assert "mode 0" not in result.sentence
    assert "mode 3" not in result.sentence
    assert "Holm over 4 modes, 40 images" in result.sentence
    from scipy.stats import false_discovery_control  # another correction gives other numbers

    x = planted()
    central = central_block(4, 4)
    p = ttest_rel(x[:, ~central].mean(axis=1), x[:, central].mean(axis=1)).pvalue
    order = np.argsort(p)
    expected, largest = np.empty(4), 0.0
    for rank, mode in enumerate(order):
        largest = max(largest, min(1.0, (4 - rank) * p[mode]))
        expected[mode] = largest
    modes = result.tables["modes"]
    np.testing.assert_allclose(modes["p_modes"][1:], expected, rtol=1e-9)
    assert np.isnan(modes["p_modes"][0])
    assert not np.allclose(expected, false_discovery_control(p))


def test_absence_is_no_evidence_and_constant_modes_are_named():
    x = planted(by_mode=(0.0, 0.0, 0.0, 0.0))
    x[..., 0] = 5.0
    result = analyses.center_edge(store_of(x))
    assert result.sentence.startswith(
        "friction: no evidence of a difference between edge and centre in any mode, and one "
    )
    assert "Holm over 3 modes" in result.sentence
    modes = result.tables["modes"].iloc[1:]
    most = max(modes["ratio_high"].max(), (1 / modes["ratio_low"]).max()) - 1
    told = float(re.search(r"larger than ([\d.]+)% of the smaller of both", result.sentence)[1])
    assert most * 100 <= told <= 1.1 * most * 100
    assert result.sentences[1] == "Constant: mode 0 (largest)."
    assert not any("no difference" in one or "do not differ" in one for one in result.sentences)


def test_a_ratio_without_a_bound_rules_nothing_out():
    rng = np.random.default_rng(0)
    result = analyses.center_edge(store_of(rng.normal(size=(20, 4, 4, 2))))
    assert "no evidence of a difference between edge and centre in any mode (" in result.sentence


@pytest.mark.slow
def test_the_bound_of_all_modes_holds_in_95_of_100_stores_without_correction():
    rng = np.random.default_rng(1)
    wrong = said = 0
    for _ in range(200):
        x = rng.normal(9.0, 1.0, (20, 4, 4, 4))
        x[:, ~central_block(4, 4), 0] += 0.1  # 1.1% in one mode, which is hardly seen
        found = re.search(r"larger than ([\d.]+)%", analyses.center_edge(store_of(x)).sentence)
        said += found is not None
        wrong += found is not None and float(found[1]) < 100 * 0.1 / 9
    assert said > 100
    assert wrong <= 20


@pytest.mark.slow
def test_the_family_of_modes_is_right_in_95_of_100_stores():
    """Without a correction about 19 of 100 stores of four modes would name one."""
    rng = np.random.default_rng(0)
    named = 0
    for _ in range(200):
        result = analyses.center_edge(store_of(rng.normal(9.0, 1.0, (20, 4, 4, 4))))
        named += result.values["modes_different"] > 0
    assert named <= 20  # 10 expected; 21 or more has probability 0.0006


def test_many_modes_are_counted():
    result = analyses.center_edge(store_of(planted(by_mode=(3.0,) * 9)))
    assert result.sentence.count("higher at the edge") == 4
    assert "and in 5 more modes" in result.sentence


def test_one_value_per_patch_has_no_mode_in_its_answer():
    result = analyses.center_edge(store_of(planted(by_mode=(3.0,))[..., 0], "recon_error"),
                                  feature="recon_error")  # fmt: skip
    assert "between edge and centre (higher at the edge" in result.sentence


def test_of_logarithms_the_difference_and_its_power_of_ten():
    rng = np.random.default_rng(2)
    x = 10 ** rng.normal(3.0, 0.4, (30, 4, 4, 2))
    central = central_block(4, 4)
    x[:, ~central] *= 2.0
    result = analyses.center_edge(store_of(x), feature="log_friction")
    logs = np.log10(x.astype(np.float64))
    d = logs[:, ~central].mean(axis=1) - logs[:, central].mean(axis=1)
    error = student.ppf(0.975, 29) * d.std(axis=0, ddof=1) / np.sqrt(30)
    modes = result.tables["modes"]
    # Geometric means, by scipy: of all patches of all images.
    from scipy.stats import gmean

    whole = gmean(x[:, ~central], axis=(0, 1)) / gmean(x[:, central], axis=(0, 1))
    np.testing.assert_allclose(modes["ratio"][1:], whole, rtol=1e-5)
    np.testing.assert_allclose(modes["difference"][1:], d.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(modes["ratio_low"][1:], 10 ** (d.mean(axis=0) - error), rtol=1e-4)
    np.testing.assert_allclose(modes["ratio_high"][1:], 10 ** (d.mean(axis=0) + error), rtol=1e-4)
    assert "in log10" in result.sentence
    # The unit of the map does not matter, as it did for a quotient of logarithms.
    scaled = analyses.center_edge(store_of(x * 1000), feature="log_friction")
    np.testing.assert_allclose(scaled.tables["modes"]["ratio"], modes["ratio"], rtol=1e-4)
    assert "ratio" not in result.notebook["center_edge"][0]
    assert not any("no natural zero" in caveat for caveat in result.caveats)


def test_a_stored_map_whose_name_begins_with_log_is_taken_as_it_is():
    x = planted()
    plain = analyses.center_edge(store_of(x))
    named = analyses.center_edge(store_of(x, "log_thing"), feature="log_thing")
    assert named.table.equals(plain.table)


def test_an_unbounded_interval_is_said_in_words():
    x = np.abs(np.random.default_rng(0).normal(size=(20, 4, 4, 1)))
    x[:, 1:3, 1:3] *= np.resize([1, -1], 20)[:, None, None, None]
    result = analyses.center_edge(store_of(x))
    assert np.isnan(result.values["ratio_low"])
    said = " ".join(result.sentences)
    assert "interval unbounded" in said
    assert "- to -" not in said
