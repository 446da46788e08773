"""Arrangements of labels: uniform, independent, and the same however they are asked for."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, f_oneway, kstest

from frictionstore import analyses
from frictionstore.analyses.stats import arrangements
from frictionstore.analyses.stats.arrangements import Arrangements, stream
from tests.analyses.material import noise_store, permuted


@pytest.mark.slow
def test_every_arrangement_is_as_likely_as_any_other():
    drawn = permuted(np.array([0, 2, 1, 0, 1]), 30_000, 7)
    seen = Counter(map(tuple, drawn.tolist()))
    every = set(permutations([0, 0, 1, 1, 2]))
    assert set(seen) == every
    assert chisquare([seen[one] for one in every]).pvalue > 1e-3


def test_permutations_rows_and_uses_are_independent():
    """Every two permutations agree in as many places as chance has them, and so do two seeds."""
    labels = np.repeat([0, 1, 2], [400, 300, 300])
    of = [permuted(labels, 60, seed, use) for seed, use in ((0, 0), (0, 1), (1, 0))]
    drawn = np.concatenate(of)
    agree = (drawn[:, None] == drawn[None]).mean(axis=2)[np.triu_indices(len(drawn), 1)]
    expected, n = 0.16 + 0.09 + 0.09, len(labels)
    deviation = np.sqrt(expected * (1 - expected) / n)
    assert agree.max() < expected + 6 * deviation
    assert agree.mean() == pytest.approx(expected, abs=deviation / 10)
    # Nor do neighbours tell of each other: labels stay alike as often as without replacement.
    alike = (drawn[:, 1:] == drawn[:, :-1]).mean()
    assert alike == pytest.approx((400 * 399 + 2 * 300 * 299) / (1000 * 999), abs=0.005)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(2, 90), st.booleans(), st.booleans())
@example(0, 3, False, True)  # no group has one class only
def test_any_part_is_the_same_whoever_asks(seed, n, stratified, grouped):
    """Any rows of any permutations, from an object that knows no others."""
    rng = np.random.default_rng(seed % 1000)
    labels = rng.integers(-1, 4, n)
    labels[:2] = 0, 3
    groups = rng.integers(0, n // 2 + 1, n) if grouped else None
    strata = (rng.integers(0, 3, n) if groups is None else groups % 3) if stratified else None

    def made():
        return Arrangements(labels, 4, seed, use=3, strata=strata, groups=groups)

    rows = np.flatnonzero(labels >= 0)
    whole = made().take(rows, slice(0, 20))
    for _ in range(4):
        first, last = np.sort(rng.integers(0, 20, 2))
        some = np.sort(rng.choice(len(rows), rng.integers(1, len(rows) + 1), replace=False))
        one = made()
        one.prepare(slice(int(first), int(last) + 1))
        part = one.take(rows[some], slice(int(first), int(last) + 1))
        np.testing.assert_array_equal(part, whole[first : last + 1, some])
    counts = made().counts(slice(0, 20))
    of = np.zeros(n, int) if strata is None else strata
    for p, arranged in enumerate(whole):
        by_hand = np.zeros(counts.shape[-2:], int)
        np.add.at(by_hand, (of[rows], arranged), 1)
        np.testing.assert_array_equal(counts if groups is None else counts[p], by_hand)
        if groups is None:
            for stratum in range(by_hand.shape[0]):
                mine = np.bincount(labels[rows][of[rows] == stratum], minlength=4)
                np.testing.assert_array_equal(by_hand[stratum], mine)


def test_a_stream_is_read_from_anywhere():
    whole = stream(2**64 - 1, 5, 0, 103)
    assert len(np.unique(whole)) == 103
    for start, stop in ((0, 1), (3, 4), (4, 9), (17, 103), (102, 103)):
        np.testing.assert_array_equal(stream(2**64 - 1, 5, start, stop), whole[start:stop])


def test_keys_are_never_equal_even_without_randomness(monkeypatch):
    """If all random bits were the same, labels would go by rows, and classes keep their sizes."""
    monkeypatch.setattr(arrangements, "stream", lambda *_: np.zeros(_[3] - _[2], np.uint64))
    drawn = Arrangements(np.array([1, 0, 1, 0, 0]), 2, 0).take(np.arange(5), slice(0, 1))
    np.testing.assert_array_equal(drawn[0], [0, 0, 0, 1, 1])


@pytest.mark.slow
def test_p_of_null_stores_is_uniform():
    """Exact: P(p <= a) is a at every level that 39 permutations have, whatever the tails."""
    p = []
    for seed in range(150):
        store = noise_store(seed=seed, n=18, grid=(2, 3), modes=2)
        values = analyses.f_statistic(store, permutations=39, seed=seed).values
        p.append(values["family_wise_p"])
    p = np.array(p)
    assert p.min() >= 1 / 40
    assert np.allclose(p * 40, np.rint(p * 40))
    # Between the levels p is spread evenly, so that it is uniform on (0, 1) if it is on them.
    spread = p - np.random.default_rng(0).uniform(0, 1 / 40, len(p))
    assert kstest(spread, "uniform").pvalue > 1e-3


def test_null_f_is_that_of_labels_drawn_without_regard_to_parts(monkeypatch):
    from frictionstore.analyses.core import collecting

    monkeypatch.setattr(collecting, "PART_IMAGES", 16)
    store = noise_store(seed=2, n=60, grid=(2, 3), modes=2, batch=7)
    found = analyses.f_statistic(store, permutations=25, seed=4)
    x = store._maps["friction"].reshape(60, -1).astype(np.float64)
    null = [
        max(f_oneway(*(x[labels == c, k] for c in range(3))).statistic for k in range(12))
        for labels in permuted(store.labels, 25, 4)
    ]
    np.testing.assert_allclose(found.null_maximum_f, null, rtol=1e-9)
