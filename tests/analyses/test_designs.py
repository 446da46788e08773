"""Hard stores in a small form, and what is said of them; in full `tools/calibrate.py --designs`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm
from scipy.stats import t as student

from frictionstore import analyses
from frictionstore.analyses.core import null_verdicts
from frictionstore.analyses.probe import ridge
from frictionstore.analyses.stats import intervals
from tests.analyses.material import digits_store, noise_store
from tools import designs


def counts(of_one, stores: int) -> dict[str, int]:
    rows = [of_one(seed) for seed in range(stores)]
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def test_means_of_heavy_tails_have_no_interval_that_misses():
    found = counts(designs.heavy_means, 20)
    most = binom.ppf(0.9995, 20, 0.05)
    assert found["image-summary: an interval of the mean misses it"] <= most
    assert found["center-edge: an interval of the difference misses it"] <= most
    assert found["image-summary: the geometric mean's interval holds it"] >= 20 - most
    assert found["center-edge: the test calls edge and centre different"] <= most


def test_a_sample_that_one_value_dominates_has_no_interval_of_its_mean():
    values = np.random.default_rng(0).normal(size=60)
    mean, low, high = intervals.mean_interval(values)
    half = student.ppf(0.975, 59) * values.std(ddof=1) / np.sqrt(60)
    np.testing.assert_allclose([low, high], [mean - half, mean + half])
    for n in (9, 60, 1000):
        values = np.random.default_rng(0).normal(size=n)
        values[3] = 1e6
        assert np.isnan(intervals.mean_interval(values)[1:]).all()
    # Many images make up for skewness: 25 images for a unit of its square.
    mild = np.random.default_rng(0).exponential(size=400)
    assert np.isfinite(intervals.mean_interval(mild)[1])
    assert intervals.too_skewed(np.stack([mild, mild**4], axis=1)).tolist() == [False, True]


def test_heavy_tails_are_said_and_the_geometric_mean_leads():
    rng = np.random.default_rng(0)
    x = np.exp(3 * rng.normal(size=(60, 6, 6, 1)) + 3 * rng.normal(size=(60, 1, 1, 1)))
    x[0, 0, 0] *= 1e9
    store = analyses.MemoryStore({"friction": x}, labels=np.arange(60) % 2, class_names=["a", "b"])
    result = analyses.image_summary(store)
    log = np.log10(x).mean(axis=(1, 2, 3))
    half = student.ppf(0.975, 59) * log.std(ddof=1) / np.sqrt(60)
    values = result.values
    assert np.isnan(values["mean_low"])
    assert values["geometric_mean"] == pytest.approx(10 ** log.mean())
    assert values["geometric_mean_high"] == pytest.approx(10 ** (log.mean() + half))
    assert "friction of 60 images has geometric mean" in result.sentence
    assert "few images decide the mean, which has no interval that covers" in result.sentence
    edge = analyses.center_edge(store)
    row = edge.tables["modes"].iloc[0]
    inside = np.zeros((6, 6), bool)
    inside[1:5, 1:5] = True
    ratio = (np.log10(x)[:, ~inside].mean(1) - np.log10(x)[:, inside].mean(1))[:, 0]
    assert row["ratio_of"] == "geometric means"
    assert row["ratio"] == pytest.approx(10 ** ratio.mean())
    assert row["t"] == pytest.approx(ratio.mean() / ratio.std(ddof=1) * np.sqrt(60))
    assert np.isnan([row["difference_low"], row["difference_high"]]).all()
    assert "of geometric means" in " ".join(edge.sentences)
    for one in (result, edge, analyses.spatial_cv(store, permutations=9)):
        assert any("friction is heavy-tailed in" in caveat for caveat in one.caveats)


def test_intervals_of_cross_validation_are_as_wide_as_its_models_are_alike():
    """Nadeau and Bengio: the variance is 1/K + 1/(K-1) instead of 1/K."""
    result = analyses.ridge_probe(noise_store(effect=1.0), features=["S", "friction"],
                                  permutations=0, folds=5)  # fmt: skip
    worth = 60 / (1 + 5 / 4)
    for row in result.tables["sets"].to_dict("records"):
        p, z = row["accuracy"], norm.ppf(0.975)
        # Wilson's ends are where the score test stops rejecting.
        for end in (row["accuracy_low"], row["accuracy_high"]):
            assert abs(p - end) / np.sqrt(end * (1 - end) / worth) == pytest.approx(z, rel=1e-9)
    pair = result.tables["comparisons"].iloc[0]
    b, c = int(pair["only_first"]), int(pair["only_second"])
    assert pair["mcnemar_p"] == pytest.approx(binomtest(b, b + c).pvalue)
    score = abs(b - c) / np.sqrt(b + c) / np.sqrt(1 + 5 / 4)
    assert pair["p"] == pytest.approx(2 * norm.sf(score))
    alone = ridge.compare_paired(np.arange(60) < 20, np.arange(60) >= 50)
    wide = ridge.compare_paired(np.arange(60) < 20, np.arange(60) >= 50, 5)
    assert wide.low < alone.low < alone.high < wide.high


def test_p_and_interval_of_a_difference_agree():
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = rng.random(80) < 0.8, rng.random(80) < rng.uniform(0.4, 0.8)
        found = ridge.compare_paired(first, second, 5)
        assert (found.p <= 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.slow
def test_the_interval_holds_the_accuracy_of_the_model_fitted_to_all():
    stores = 150
    found = counts(designs.probe, stores)
    low, high = binom.ppf([0.0005, 0.9995], stores, [0.93, 0.97])
    assert low <= found["the interval holds it"] <= high


def test_other_designs_do_what_they_say():
    found = counts(designs.common_map, 6)
    assert found["mean Moran's I, p <= 0.05"] >= 4
    assert found["without the mean map, p <= 0.05"] <= 2
    found = counts(designs.DESIGNS["no effect of position, patches alike"], 12)
    assert found["the interval of the variance holds 0"] >= 10
    assert set(designs.verdicts(0)) == {
        "spatial-cv", "class-distance", "f-statistic", "ridge-probe"
    }  # fmt: skip
    names = {name for name in designs.DESIGNS if "class" in name and "verdict" not in name}
    assert len(names) == 5
    few = designs.tests_of_classes(0, (4, 30), tails=2.0)
    assert "any q <= 0.05, permutation p" in few


def test_counts_are_written_in_order_and_replaced(tmp_path, monkeypatch):
    page, file = tmp_path / "calibration.md", tmp_path / "verdicts.json"
    page.write_text(f"# Words\n\n{designs.MARK}\n")
    monkeypatch.setattr(designs, "PAGE", page)
    monkeypatch.setattr(designs, "FILE", file)
    last = designs.VERDICTS
    monkeypatch.setattr(
        designs, "DESIGNS", {"first one": lambda seed: {"x": seed % 2 == 0, "y": True},
                             last: lambda seed: {"f-statistic": seed > 0}}
    )  # fmt: skip
    designs.run(4, only=last, write=True)
    designs.run(4, write=True)
    designs.run(6, only="first", write=True)
    said = page.read_text()
    assert said.startswith("# Words\n\n<!-- counts -->\n\n### first one\n")
    assert said.count("###") == 2
    assert "| of 6 stores | |\n|---|---|\n| x | 3 |\n| y | 6 |\n" in said
    assert f"### {last}\n\n| of 4 stores | |" in said
    assert json.loads(file.read_text()) == {"stores": 4, "positive": {"f-statistic": 3}}


def test_a_verdict_stands_beside_what_noise_has():
    """The counts of the package are of many stores, and both the text and the page show them."""
    content = json.loads(null_verdicts.FILE.read_text())
    assert content["stores"] >= 100
    assert set(content["positive"]) == set(designs.verdicts(1))
    n = content["positive"]["f-statistic"]
    result = analyses.f_statistic(digits_store(), permutations=0)
    beside = f"(positive on {n} of {content['stores']} stores of noise)"
    assert beside in " ".join(str(result).split())
    assert beside in result._repr_html_()
    assert null_verdicts.beside("f-statistic", "overall_max_f") == ""
    assert null_verdicts.beside("another", "verdict") == ""
