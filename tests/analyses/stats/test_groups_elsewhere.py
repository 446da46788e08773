"""Groups in what is done beside permuted F: folds, corrected intervals, Welch, edge and centre."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore import analyses
from frictionstore.analyses.stats.anova import welch_from_sums
from frictionstore.analyses.stats.corrected import corrected_interval
from frictionstore.analyses.stats.crossnobis import class_folds
from frictionstore.analyses.stats.edge_and_centre import compare
from tools import designs


def test_crossnobis_folds_hold_whole_groups_and_every_class():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 5)
    labels = groups % 2
    labels[groups == 11] = np.arange(5) % 2  # a group of both classes
    folds, n_folds = class_folds(labels, rng, groups)
    assert n_folds == 3
    assert all(len(np.unique(folds[groups == g])) == 1 for g in range(12))
    assert all(set(folds[labels == c]) == {0, 1, 2} for c in (0, 1))
    none, n_none = class_folds(labels, rng, np.where(labels == 0, 0, groups))
    assert n_none == 0
    assert (none == -1).all(), "one group cannot be in two folds"


def test_groups_of_one_image_are_images_and_copies_are_one():
    rng = np.random.default_rng(1)
    values, folds = rng.normal(size=30), np.arange(30) % 5
    alone = corrected_interval(values, folds)
    np.testing.assert_allclose(corrected_interval(values, folds, groups=np.arange(30)), alone)
    copies = corrected_interval(
        np.repeat(values, 4), np.repeat(folds, 4), groups=np.repeat(np.arange(30), 4)
    )
    np.testing.assert_allclose(copies, alone)
    centre = np.exp(rng.normal(size=(30, 2)))
    edge = 1.2 * np.exp(rng.normal(size=(30, 2)))
    once = compare(centre, edge, (np.log10(centre), np.log10(edge)))
    many = [np.repeat(x, 4, axis=0) for x in (centre, edge)]
    again = compare(
        *many, (np.log10(many[0]), np.log10(many[1])), groups=np.repeat(np.arange(30), 4)
    )
    for name in ("ratio", "t", "p"):
        np.testing.assert_allclose(getattr(again, name), getattr(once, name))


def test_welch_takes_each_permutations_sizes():
    rng = np.random.default_rng(2)
    sums, squares = rng.normal(size=(3, 2, 4)), 50 + rng.uniform(size=(3, 2, 4))
    counts = np.array([[5, 9], [7, 7], [9, 5]])
    together = welch_from_sums(sums, squares, counts).f
    for one in range(3):
        alone = welch_from_sums(sums[one], squares[one], counts[one]).f
        np.testing.assert_allclose(together[one], alone)


def test_probes_and_comparisons_go_by_groups():
    store = designs.photographs_store(0, 6, 5)
    x = np.concatenate([a["S"] for _, a in store.iter_chunks(["S"])])
    maps = {"S": np.abs(x), "settle": np.abs(x[::-1]), "friction": np.exp(x)}
    of = {"labels": store.labels, "class_names": ["a", "b"], "groups": store.groups}
    grouped = analyses.MemoryStore(maps, **of)
    found = analyses.information(grouped, folds=3)
    folds = found.fold
    assert all(len(np.unique(folds[store.groups == g])) == 1 for g in range(12))
    with pytest.raises(analyses.AnalysisError, match="6 groups"):
        analyses.conv_probe(grouped, folds=7)
    compared = analyses.compare(grouped, feature=["S", "settle"], folds=3, images=20)
    assert np.isnan(compared.tables["maps"]["rsa_p"]).all()
    assert "are not tested" in compared.sentence
    assert "p" in compared.tables["probes"]
