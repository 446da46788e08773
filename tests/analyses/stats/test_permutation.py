"""Permutation and multiple testing against scipy and against doing it by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from frictionstore.analyses.stats import permutation


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.booleans())
def test_benjamini_hochberg_is_scipys(seed, n, ties):
    p = np.random.default_rng(seed).uniform(size=(n, 3)) ** 3
    p = np.round(p, 1) if ties else p
    np.testing.assert_allclose(
        permutation.benjamini_hochberg(p),
        false_discovery_control(p, axis=None).reshape(p.shape),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        permutation.benjamini_hochberg(p, axis=0), false_discovery_control(p, axis=0), rtol=1e-12
    )


def test_what_was_not_tested_does_not_count():
    p = np.array([0.01, np.nan, 0.03, 0.02, np.nan])
    q = permutation.benjamini_hochberg(p)
    assert np.isnan(q[[1, 4]]).all()
    np.testing.assert_allclose(q[[0, 2, 3]], false_discovery_control(p[[0, 2, 3]]), rtol=1e-12)


def test_q_of_very_many_takes_four_times_their_memory() -> None:
    p = np.random.default_rng(0).uniform(size=(1 << 17, 2))
    p[:99] = np.nan
    before = p.copy()
    tracemalloc.start()
    try:
        permutation.benjamini_hochberg(p[:, 0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4.5 * p[:, 0].nbytes
    np.testing.assert_array_equal(p, before)


def test_p_values_count_the_observed_arrangement_and_ties():
    null = np.array([1.0, 2.0, 3.0, 4.0])
    assert permutation.p_value(3.0, null) == 3 / 5
    assert permutation.p_value(3.0 * (1 + 1e-13), null) == 3 / 5
    assert permutation.p_value(9.0, null) == permutation.smallest_p(4) == 1 / 5
    assert permutation.p_value(1.0, null, "less") == 2 / 5
    assert np.isnan(permutation.p_value(np.nan, null))


def test_family_wise_p_against_counting():
    rng = np.random.default_rng(0)
    maxima = rng.normal(size=99)
    observed = np.append(rng.normal(size=20), [maxima[3], np.nan])
    p = permutation.family_wise_p(observed, maxima)
    expected = [(1 + sum(m >= o for m in maxima)) / 100 for o in observed[:-1]]
    np.testing.assert_allclose(p[:-1], expected, rtol=1e-12)
    assert np.isnan(p[-1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 6))
def test_group_sums_by_hand(seed, b, n_groups):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(b, 4))
    groups = rng.integers(-1, n_groups, (5, b))
    sums = permutation.group_sums(values, groups, n_groups)
    for p in range(5):
        for group in range(n_groups):
            np.testing.assert_allclose(
                sums[p, group], values[groups[p] == group].sum(axis=0), atol=1e-12
            )
