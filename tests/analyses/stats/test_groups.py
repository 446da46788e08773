"""Labels arranged over groups of images, and intervals over them, against brute force."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare, f_oneway

from frictionstore import analyses
from frictionstore.analyses.core.groups import arrangements
from frictionstore.analyses.core.source import require_classes
from frictionstore.analyses.stats.arrangements import Arrangements
from frictionstore.analyses.stats.intervals import mean_interval, share_interval, wilson_interval
from frictionstore.analyses.stats.label_sums import HalfSplits
from tests.analyses.material import permuted


@pytest.mark.parametrize(
    ("labels", "groups", "possible"),
    [
        # whole groups of sizes 1, 3, 2 and 1 change places
        ([0, 0, 0, 0, 1, 1, 1], [5, 2, 2, 2, 7, 7, 3], 6),
        # every image a group: the labels themselves
        ([0, 0, 1, 1, 1], [0, 1, 2, 3, 4], 10),
        # labels vary within groups: they stay in them
        ([0, 1, 0, 1, 1], [0, 0, 1, 1, 1], 2 * 3),
        # both: groups 0, 1 and 2 as wholes, group 3 within
        ([0, 0, 1, 1, 1, 0, 1], [0, 0, 1, 2, 2, 3, 3], 3 * 2),
    ],
)
def test_every_arrangement_is_as_likely_as_any_other(labels, groups, possible):
    drawn = permuted(labels, 6000, 0, groups=np.asarray(groups))
    found = Counter(map(tuple, drawn.tolist()))
    assert len(found) == possible
    assert tuple(labels) in found
    assert chisquare(list(found.values())).pvalue > 1e-4
    assert arrangements(np.asarray(labels), np.asarray(groups)) == pytest.approx(np.log(possible))


def test_groups_of_one_class_stay_whole_and_others_keep_their_labels():
    rng = np.random.default_rng(3)
    groups = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 9, 30)))
    labels = np.where(groups < 20, groups % 3, rng.integers(0, 3, len(groups)))
    made = Arrangements(labels, 3, 0, groups=groups)
    counts, drawn = made.counts(slice(0, 50))[:, 0], permuted(labels, 50, 0, groups=groups)
    for group in range(20):
        of_group = drawn[:, groups == group]
        assert (of_group == of_group[:, :1]).all()
    for group in range(20, 30):
        sorted_labels = np.sort(labels[groups == group])
        assert (np.sort(drawn[:, groups == group], axis=1) == sorted_labels).all()
    by_hand = np.stack([np.bincount(row, minlength=3) for row in drawn])
    np.testing.assert_array_equal(counts, by_hand)
    assert len(np.unique(counts[:, 0])) > 5, "sizes of classes are not kept here"


def uneven(seed: int = 0, per_class: int = 5, modes: int = 2, **options) -> analyses.MemoryStore:
    """Three classes of photographs that have 1 to 12 crops, correlated by half."""
    rng = np.random.default_rng(seed)
    count = 3 * per_class
    photograph = rng.permutation(np.repeat(np.arange(count), rng.integers(1, 13, count)))
    shape = (4, 4, modes)
    x = rng.normal(size=(count, *shape))[photograph] + rng.normal(size=(len(photograph), *shape))
    labels = (photograph % 3).astype(np.int64)
    labels[::17] = -1
    return analyses.MemoryStore(
        {"S": (5.0 + x).astype(np.float32)}, labels=labels, class_names=["a", "b", "c"],
        groups=photograph, batch=16, **options,
    )  # fmt: skip


def test_permuted_f_is_that_of_the_labels_drawn():
    """Classes have other sizes in every permutation: those of the real labels would be wrong."""
    store, permutations = uneven(), 40
    found = analyses.f_statistic(store, feature="S", permutations=permutations, seed=3)
    labelled = store.labels >= 0
    values = np.concatenate([arrays["S"] for _, arrays in store.iter_chunks(["S"])])[labelled]
    drawn = permuted(store.labels, permutations, 3, groups=store.groups)

    def f_of(labels):
        parts = [values[labels == c].reshape(-1, 32).astype(np.float64) for c in range(3)]
        return f_oneway(*parts).statistic

    null = np.stack([f_of(labels) for labels in drawn])
    observed = f_of(store.labels[labelled])
    np.testing.assert_allclose(found.f.reshape(-1), observed, rtol=1e-5)
    np.testing.assert_allclose(found.null_maximum_f, null.max(axis=1), rtol=1e-5)
    by_hand = (1 + (null >= observed).sum(axis=0)) / (permutations + 1)
    np.testing.assert_allclose(found.p_permutation.reshape(-1), by_hand)
    assert np.isnan(found.p).all(), "the F distribution takes images as independent"

    distance = analyses.class_distance(store, feature="S", permutations=permutations, seed=3)
    np.testing.assert_allclose(
        distance.null_pseudo_f,
        [pseudo_f(values.reshape(len(values), -1), labels) for labels in drawn],
        rtol=1e-6,
    )
    means = [
        np.stack([values[labels == c].reshape(-1, 32).mean(axis=0) for c in range(3)])
        for labels in drawn
    ]
    apart = [np.mean([np.linalg.norm(m[a] - m[b]) for a, b in ((0, 1), (0, 2), (1, 2))])
             for m in means]  # fmt: skip
    np.testing.assert_allclose(distance.null_mean_distance, apart, rtol=1e-5)


def pseudo_f(x: np.ndarray, labels: np.ndarray) -> float:
    """PERMANOVA from all pairwise distances, as Anderson defines it."""
    square = np.square(x[:, None].astype(np.float64) - x[None]).sum(axis=2)
    n, classes = len(x), np.unique(labels)
    total = square[np.triu_indices(n, 1)].sum() / n
    within = 0.0
    for c in classes:
        of = square[np.ix_(labels == c, labels == c)]
        within += of[np.triu_indices(len(of), 1)].sum() / len(of)
    return ((total - within) / (len(classes) - 1)) / (within / (n - len(classes)))


def test_halves_are_of_whole_groups():
    store = uneven(1)
    classes = require_classes(store, "class-distance")
    halves = HalfSplits("S", classes, 32, 25, 0)
    for rows, arrays in store.iter_chunks(["S"]):
        halves.update(rows, arrays)
    halves.end_pass()
    values = np.concatenate([arrays["S"] for _, arrays in store.iter_chunks(["S"])])
    for c in range(3):
        member = store.labels == c
        of = [values[member & (store.groups == g)] for g in np.unique(store.groups[member])]
        assert len(of) == 5
        pairs = [(a, b) for a in range(5) for b in range(a)]
        apart = [
            np.linalg.norm(
                np.concatenate([of[g] for g in pair]).mean(axis=0, dtype=np.float64)
                - np.concatenate([of[g] for g in range(5) if g not in pair]).mean(axis=0)
            )
            for pair in pairs
        ]
        nearest = np.abs(halves.distances[:, c, None] - apart).min(axis=1)
        np.testing.assert_allclose(nearest, 0, atol=1e-5)
        assert len(np.unique(halves.distances[:, c].round(8))) > 4


def test_an_image_given_seven_times_is_one_image():
    """Intervals over groups of copies are those of the images without their copies."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=23)
    copies, groups = np.repeat(values, 7), np.repeat(np.arange(23), 7)
    np.testing.assert_allclose(mean_interval(copies, groups=groups), mean_interval(values))
    singly = mean_interval(values, groups=np.arange(23))
    np.testing.assert_allclose(singly, mean_interval(values))
    assert np.isnan(mean_interval(copies, groups=np.zeros(161, np.int64))[1:]).all()

    x = (10 + rng.normal(size=(23, 6, 6, 2))).astype(np.float32)
    of = {"labels": np.arange(23) % 2, "class_names": ["a", "b"]}
    plain = analyses.MemoryStore({"S": x}, **of)
    of["labels"] = np.repeat(of["labels"], 7)
    copied = analyses.MemoryStore({"S": np.repeat(x, 7, axis=0)}, groups=groups, **of)
    for name, columns in (
        (analyses.center_edge, ["ratio_low", "ratio_high", "difference_low", "t", "p"]),
        (analyses.image_summary, ["mean_low", "mean_high", "entropy_low"]),
    ):
        one, other = name(plain, feature="S"), name(copied, feature="S")
        for table in ("classes", "modes"):
            if table not in one.tables:
                continue
            for column in columns:
                np.testing.assert_allclose(
                    one.tables[table][column], other.tables[table][column], rtol=1e-6
                )


def test_share_of_groups_holds_its_share():
    """Shares that vary between groups (beta): Wilson's interval over images is far too narrow."""
    rng = np.random.default_rng(5)
    held, plain, runs = 0, 0, 400
    for _ in range(runs):
        p = rng.beta(4, 2, 20)
        groups = np.repeat(np.arange(20), 25)
        right = rng.random(500) < p[groups]
        low, high = share_interval(right, groups)
        held += low <= 4 / 6 <= high
        low, high = wilson_interval(int(right.sum()), 500)
        plain += low <= 4 / 6 <= high
    assert 0.92 <= held / runs <= 0.985
    assert plain / runs < 0.75
    every = np.ones(40, bool)
    low, high = share_interval(every, np.repeat(np.arange(4), 10))
    assert low < wilson_interval(4, 4)[0] + 1e-9, "no more sure than 4 images would be"
    assert high == 1.0
    assert share_interval(every) == wilson_interval(40, 40)
