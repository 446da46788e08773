"""The closing table: its own family of p-values, what they rest on, and the maps that are there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.leading import probe_sets
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.summary import Summary, SummaryParameters
from tests.analyses.material import digits_store, noise_store
from tests.analyses.test_joint_moran import planted
from tests.support import random_maps


def by_line(result: analyses.Result):
    return result.table.set_index("line")


def holm_by_hand(p: np.ndarray) -> np.ndarray:
    """Step down: the k-th smallest of n is compared with level / (n - k)."""
    out = np.empty(len(p))
    largest = 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[k]))
        out[k] = largest
    return out


@pytest.mark.slow
def test_p_holm_is_over_all_p_of_the_table_and_the_sentence_goes_by_it():
    result = analyses.summary(digits_store(), permutations=200)
    table = result.table
    tested = table["p"].notna()
    assert tested.sum() >= 6
    np.testing.assert_allclose(table["p_holm"][tested], holm_by_hand(table["p"][tested].to_numpy()))
    assert table["p_holm"][~tested].isna().all()
    assert any(f"over the {tested.sum()} p-values" in caveat for caveat in result.caveats)
    assert "a difference between class mean maps" in result.sentence
    assert "no evidence of a difference between class mean maps" not in result.sentence


def test_means_whatever_the_spread_and_spread_stand_beside_f_in_the_same_family():
    store = noise_store(effect=0.5)
    result = analyses.summary(store, permutations=100)
    f = analyses.f_statistic(store, permutations=100).values
    rows = result.table.set_index("measure")
    welch = rows.loc["largest Welch's F over positions and modes"]
    spread = rows.loc["F of spread between classes (PERMDISP)"]
    assert (welch["value"], welch["p"]) == (f["max_welch_f"], f["welch_family_wise_p"])
    assert (spread["value"], spread["p"]) == (f["dispersion_f"], f["dispersion_p"])
    p = result.table["p"].dropna()
    assert spread["p_holm"] == pytest.approx(holm_by_hand(p.to_numpy())[
        list(p.index).index(result.table.index[result.table["measure"] == spread.name][0])
    ])  # fmt: skip
    place = list(result.table["measure"])
    largest = place.index("largest F over positions and modes")
    assert place[largest + 1 : largest + 3] == [welch.name, spread.name]


def test_unequal_spread_is_seen_as_such_in_the_closing_table():
    """A small class with three times the spread: Fisher's F is large, the means are the same."""
    rng = np.random.default_rng(0)
    labels = np.r_[np.zeros(8, int), np.ones(92, int)]
    x = 50 + rng.normal(size=(100, 4, 4, 2)) * np.where(labels == 0, 3.0, 1.0)[:, None, None, None]
    store = analyses.MemoryStore({"friction": x, "S": x}, labels=labels, class_names=["a", "b"])
    rows = analyses.summary(store, permutations=400).table.set_index("measure")
    assert rows.loc["F of spread between classes (PERMDISP)", "p_holm"] <= 0.05
    assert rows.loc["largest Welch's F over positions and modes", "p"] > 0.05


def test_results_of_earlier_versions_have_no_such_lines():
    from frictionstore.analyses.closing_table import closing_lines

    values = analyses.f_statistic(noise_store(), permutations=20).values
    old = {k: v for k, v in values.items() if "welch" not in k and "dispersion" not in k}
    made = [
        [line.measure for line in closing_lines([{"analysis": "f-statistic", "values": v,
                                                  "notebook": {}}])]
        for v in (values, old)
    ]  # fmt: skip
    assert [len(lines) for lines in made] == [3, 1]


def test_holm_leaves_out_what_was_not_tested():
    p = [0.02, np.nan, 0.01, 0.5]
    np.testing.assert_allclose(permutation.holm(p), [0.04, np.nan, 0.03, 0.5])


@pytest.mark.slow
def test_a_p_that_holm_does_not_pass_makes_no_claim():
    """Alone p = 1/51 would pass; among six it does not."""
    result = analyses.summary(digits_store(), permutations=50)
    row = result.table[result.table["measure"] == "mean distance"].iloc[0]
    assert row["p"] < 0.05 < row["p_holm"]
    assert "no evidence of a difference between class mean maps" in result.sentence


@pytest.mark.slow
def test_the_family_of_null_stores_is_held():
    """At most one null store in twenty has any claim (F8: 41% before)."""
    from scipy.stats import binom

    stores, claims = 200, 0
    for seed in range(stores):
        plan = Summary(SummaryParameters(permutations=199, probe_permutations=199, seed=seed))
        store = noise_store(seed=seed, n=45, grid=(4, 4), modes=2)
        result = analyses.core.passes.run(store, [plan])[0]
        claims += bool((result.table["p_holm"] <= 0.05).any())
    assert claims <= binom.ppf(0.9995, stores, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("n", [150, 45])
def test_100_permutations_see_structure_in_few_of_a_thousand_maps(n):
    result = analyses.summary(planted(n), permutations=100)
    assert result.sentence.startswith("friction: spatial structure within images")
    share = result.table[result.table["measure"].str.startswith("share of maps")].iloc[0]
    assert 0.8 * n / 1000 <= share["value"] <= 1.2 * n / 1000
    none = analyses.summary(planted(0), permutations=100)
    assert none.sentence.startswith("friction: no evidence of spatial structure within images")


@pytest.mark.parametrize(
    ("permutations", "probe", "least"), [(300, 20, 20), (50, 0, 50), (0, 30, 30)]
)
def test_what_p_values_rest_on_is_true_of_each(permutations, probe, least):
    plan = Summary(SummaryParameters(permutations=permutations, probe_permutations=probe))
    result = analyses.core.passes.run(noise_store(), [plan])[0]
    said = next(caveat for caveat in result.caveats if "permutation p-values rest on" in caveat)
    assert f"rest on {least} permutations or more" in said
    assert ("ridge-probe" in said) == bool(probe)
    # Every p by permutation is a count over at least that many.
    lines = result.table[result.table["measure"].isin(
        ["smallest cosine", "mean distance", "cross-validated accuracy"]
    )]  # fmt: skip
    given = lines["p"].dropna()
    assert (given >= 1 / (max(permutations, probe) + 1) - 1e-12).all()
    probes = lines[lines["measure"] == "cross-validated accuracy"]["p"].dropna()
    assert (probes >= 1 / (probe + 1) - 1e-12).all()


def test_no_permutations_no_such_note():
    plan = Summary(SummaryParameters(permutations=0, probe_permutations=0))
    result = analyses.core.passes.run(noise_store(), [plan])[0]
    assert not any("rest on" in caveat for caveat in result.caveats)
    # The largest F of many has no p of its own: it is multiplied by their number.
    f = analyses.f_statistic(noise_store(), permutations=0)
    row = by_line(result).loc["per-position F-statistic"]
    assert row["p"] == pytest.approx(min(1.0, f.values["max_f_p"] * f.values["n_tests"]))


@pytest.mark.parametrize("store", [noise_store(), digits_store(), noise_store(effect=2.0)])
def test_it_says_no_more_than_it_knows(store):
    sentence = analyses.summary(store, permutations=100).sentence
    assert not re.search(
        r"do not differ|does not differ|no difference|adds [+-]|the conduit adds", sentence
    )
    assert re.search(
        r"evidence of a difference in accuracy between|a difference in accuracy between", sentence
    )


def test_the_logarithm_is_probed_where_it_is_summarised():
    store = digits_store()
    result = analyses.summary(store, feature="log_friction", permutations=50)
    lines = by_line(result)
    sets = ["S", "log_friction", "settle", "S+log_friction+settle"]
    probe = analyses.ridge_probe(store, features=sets, permutations=0)
    accuracy = probe.table.set_index("features")["accuracy"]
    for line, name in {
        "log_friction map linear probe": "log_friction",
        "settle map linear probe": "settle",
        "eigenvalue map linear probe": "S",
        "combined conduit linear probe": "S+log_friction+settle",
    }.items():
        assert lines["value"][line] == accuracy[name]
        assert lines["notebook"][line] == probe.notebook[f"{name} test_accuracy"]
    assert "friction map linear probe" not in lines.index
    lift = lines.loc["conduit lift over eigenvalues"]
    assert lift["value"] == pytest.approx(accuracy["S+log_friction+settle"] - accuracy["S"])
    assert lift["notebook"] == pytest.approx(
        probe.notebook["S+log_friction+settle test_accuracy"] - probe.notebook["S test_accuracy"]
    )
    assert "S+log_friction+settle and S" in result.sentence


@pytest.mark.parametrize(
    ("maps", "feature", "expected"),
    [
        ("S friction settle", "friction", "S friction settle S+friction+settle"),
        ("S friction settle", "S", "S friction settle S+friction+settle"),
        ("S friction settle", "log_friction", "S log_friction settle S+log_friction+settle"),
        ("S friction settle", "log_S", "log_S friction settle log_S+friction+settle"),
        ("settle S", "S", "S settle S+settle"),
        ("S", "S", "S"),
        ("S", "log_S", "log_S"),
        ("S other", "other", "S other S+other"),
        ("other", "log_other", "log_other"),
        ("S log_S", "log_S", "S log_S S+log_S"),
    ],
)
def test_probe_sets_are_of_the_maps_that_are_there(maps, feature, expected):
    values = np.random.default_rng(0).uniform(1, 2, (12, 4, 4, 2))
    store = analyses.MemoryStore(dict.fromkeys(maps.split(), values), labels=np.arange(12) % 2)
    sets = probe_sets(store, feature)
    assert sets == tuple(expected.split())
    analyses.ridge_probe(store, features=sets, folds=2, permutations=0)


def test_a_store_of_singular_values_only(tmp_path):
    fs.from_arrays(
        tmp_path / "made.zarr", {"S": random_maps(30)["S"]}, label=np.arange(30) % 2,
        class_names=["a", "b"],
    )  # fmt: skip
    made = str(tmp_path / "made.zarr")
    run = CliRunner().invoke(analyze, ["summary", made, "--feature", "S", "--permutations", "20"])
    assert run.exit_code == 0, run.output
    result = analyses.summary(fs.open(made), feature="S", permutations=20)
    lines = by_line(result)
    assert lines["value"]["eigenvalue map linear probe"] > 0
    assert "conduit lift over eigenvalues" not in lines.index
    assert "combined conduit linear probe" not in lines.index


def test_results_without_joined_maps_have_no_lift():
    store = noise_store()
    probe = analyses.ridge_probe(store, features=["S", "friction"], permutations=0)
    lines = by_line(analyses.summary(store, results=[probe]))
    assert list(lines.index) == ["friction map linear probe", "eigenvalue map linear probe"]


def test_center_edge_has_no_single_figure_of_the_notebook():
    result = analyses.summary(noise_store(), permutations=0)
    assert np.isnan(by_line(result)["notebook"]["center vs edge asymmetry"])
    assert "center vs edge asymmetry" not in result.notebook


@pytest.mark.parametrize("function", ["class_distance", "f_statistic", "spatial_cv"])
def test_absence_is_no_evidence(function):
    result = getattr(analyses, function)(noise_store(), permutations=50)
    assert result.sentence.startswith("no evidence")
    assert not re.search(r"no difference|do not differ|shows no", result.sentence)
    different = noise_store(effect=40.0)
    if function != "spatial_cv":
        assert "no evidence" not in getattr(analyses, function)(different, permutations=50).sentence


def test_intervals_of_one_image_are_said_to_be_undefined():
    x = np.random.default_rng(0).uniform(1, 2, (1, 3, 3, 2))
    sentence = analyses.image_summary(analyses.MemoryStore({"friction": x})).sentence
    assert sentence.count("95% interval not defined") == 2
