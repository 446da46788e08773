"""Feature sets: how they are named, which is best and with what p, and what is said of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binom

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses.cli import analyze
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.probe.results import _difference
from frictionstore.analyses.probe.ridge import compare_paired
from frictionstore.analyses.ridge_probe import feature_sets
from tests.analyses.material import feature, noise_store


@pytest.mark.parametrize(
    "features",
    ["S,friction,S+friction", " S , friction,S + friction,S", ["S", "friction", "S+friction"],
     ("S,friction", "S+friction")],
)  # fmt: skip
def test_sets_are_named_in_one_way_everywhere(features, tmp_path):
    assert feature_sets(features) == {
        "S": ("S",), "friction": ("friction",), "S+friction": ("S", "friction"),
    }  # fmt: skip
    store = noise_store(n=60)
    result = analyses.ridge_probe(store, features=features, permutations=0)
    assert list(result.table["features"]) == ["S", "friction", "S+friction"]
    maps = {name: feature(store, name) for name in store.maps}
    fs.from_arrays(tmp_path / "made.zarr", maps, label=store.labels, class_names=store.class_names)
    given = [features] if isinstance(features, str) else features
    options = [part for one in given for part in ("--features", one)]
    arguments = ["ridge-probe", str(tmp_path / "made.zarr"), "--permutations", "0", "--json"]
    run = CliRunner().invoke(analyze, [*arguments, *options])
    assert run.exit_code == 0, run.output
    assert '"features": ["S", "friction", "S+friction"]' in run.stdout


@pytest.mark.parametrize(
    ("features", "message"),
    [("S+", "'S\\+' has nothing on one side of a \\+"), ("", "no features were named"),
     ([], "no features were named"), ("S,friction+friction", "names a map twice"),
     ("S,shape", "there is no map 'shape'")],
)  # fmt: skip
def test_a_set_that_cannot_be(features, message):
    with pytest.raises(AnalysisError, match=message):
        analyses.ridge_probe(noise_store(), features=features)


@pytest.mark.parametrize("held", [1 << 40, 0], ids=["held", "streamed"])
def test_the_best_set_is_held_against_the_best_under_each_permutation(held, monkeypatch):
    monkeypatch.setattr("frictionstore.analyses.ridge_probe.HELD", held)
    store = noise_store(n=120, seed=4, effect=1.0)
    store = noise_store(n=120, seed=4, effect=1.0, maps={"again": feature(store, "S")})
    sets = ["S", "friction", "settle", "again"]
    result = analyses.ridge_probe(store, features=sets, permutations=60, seed=2)
    table = result.table
    best_of_all = result.permuted_accuracy.max(axis=0)
    for k in range(4):
        reached = (best_of_all >= table["accuracy"][k] - 1e-12).sum()
        assert table["p_family_wise"][k] == pytest.approx((1 + reached) / 61)
        told = result.values[f"accuracy {sets[k]}"]
        assert (told["p"], told["p_family_wise"]) == (table["p"][k], table["p_family_wise"][k])
    assert (table["p_family_wise"] >= table["p"]).all()
    assert (table["p_family_wise"] > table["p"]).any()
    # The same map twice is permuted alike: it adds nothing to its own family.
    np.testing.assert_array_equal(result.permuted_accuracy[0], result.permuted_accuracy[3])
    twice = analyses.ridge_probe(store, features="S,again", permutations=60, seed=2).table
    np.testing.assert_array_equal(twice["p_family_wise"], twice["p"])


def test_the_headline_quotes_the_p_of_the_family():
    store = noise_store(n=60, seed=9)
    result = analyses.ridge_probe(store, permutations=40)
    table = result.table
    best = int(table["accuracy"].argmax())
    assert table["p_family_wise"][best] != table["p"][best], "this store shows no difference"
    p = table["p_family_wise"][best]
    text = f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"
    assert f"{text} against the best of 4 under permuted labels" in result.sentence
    assert result.sentence.startswith(
        f"{table['features'][best]}, the best of 4 feature sets here, classifies"
    )
    equal = noise_store(n=60, seed=9, maps={"again": feature(store, "S")})
    equal = analyses.ridge_probe(equal, features="S,again", permutations=40)
    assert equal.sentence.startswith("S, like again the best of 2 feature sets here, classifies")
    alone = analyses.ridge_probe(store, features="S", permutations=40)
    assert "best of" not in alone.sentence
    assert alone.table["p_family_wise"][0] == alone.table["p"][0]


@pytest.mark.slow
def test_the_best_of_four_sets_is_significant_in_5_percent_of_null_stores():
    stores = 400
    own, family = 0, 0
    for seed in range(stores):
        store = noise_store(seed=seed, n=60, grid=(3, 3), modes=2)
        table = analyses.ridge_probe(store, permutations=99, seed=seed).table
        best = int(table["accuracy"].argmax())
        own += table["p"][best] <= 0.05
        family += table["p_family_wise"][best] <= 0.05
        assert table["p_family_wise"].min() == table["p_family_wise"][best]
    print(f"own p: {own} of {stores}, family-wise: {family} of {stores}")
    assert family <= binom.ppf(0.999, stores, 0.05)
    assert own > binom.ppf(0.999, stores, 0.05), "the check would not notice an unadjusted p"


def test_a_difference_is_told_as_far_as_it_is_known():
    n = 200
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[:100] = True
    second[4:110] = True
    found = compare_paired(first, second)
    assert found.low < 0 < found.high
    text = _difference("A+B", "A", found)
    assert text.startswith("There is no evidence of a difference between A+B and A")
    told = float(re.search(r"one larger than ([\d.]+) percentage points is excluded", text)[1])
    most = 100 * max(-found.low, found.high)
    assert most <= told < most + 1
    assert f"{found.low * 100:+.1f} to {found.high * 100:+.1f}" in text
    second[4:140] = True
    worse = compare_paired(first, second)
    text = _difference("A+B", "A", worse)
    assert text.startswith("A+B classifies fewer images correctly than A")
    assert f"{worse.difference * 100:+.1f} percentage points (95% interval" in text
    assert _difference("A", "B", compare_paired(second, first)).startswith(
        "A classifies more images correctly than B"
    )


def test_noise_beside_a_map_takes_nothing_away():
    """With one penalty for all columns it did: noise joined to what tells the classes apart."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.arange(300) % 3)
    maps = {"friction": rng.lognormal(2.0, 0.5, (300, 10, 20, 2)), "S": np.zeros((300, 10, 20, 2))}
    maps["S"][:, 0, :3, 0] = rng.normal(size=(300, 3)) + (labels[:, None] == np.arange(3))
    store = analyses.MemoryStore(maps, labels=labels, class_names=["a", "b", "c"])
    result = analyses.ridge_probe(store, features="S,S+friction", permutations=0)
    row = result.tables["lifts"].iloc[0]
    assert row["lift_low"] <= 0 <= row["lift_high"]
    assert row["floor_low"] <= 0 <= row["floor_high"]
    assert abs(row["lift"]) < 0.02
    said = " ".join([result.question, *result.sentences, *result.caveats])
    assert not re.search(r"\badd(s|ed)?\b|\blift\b|\bcosts?\b", said)
    assert "There is no evidence of a difference between S+friction and S" in result.sentences[1]
    assert "of shuffled images: " in result.sentences[2]
