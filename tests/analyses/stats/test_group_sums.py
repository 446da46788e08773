"""Sums by group where the short way of sorting labels would be wrong, and their order."""

from __future__ import annotations

import numpy as np
import pytest

from frictionstore.analyses.stats.permutation import group_sums


@pytest.mark.parametrize("n_groups", [3, 32_767, 32_768, 40_000])
def test_labels_that_two_bytes_do_not_hold(n_groups):
    rng = np.random.default_rng(n_groups)
    values = rng.normal(size=(50, 3))
    groups = rng.choice([-1, 0, 1, n_groups - 2, n_groups - 1], (2, 50))
    sums = group_sums(values, groups, n_groups)
    assert sums.shape == (2, n_groups, 3)
    for p in range(2):
        expected = np.zeros((n_groups, 3))
        known = groups[p] >= 0
        # One after another, as the images come: results do not change in their last digit.
        np.add.at(expected, groups[p][known], values[known])
        np.testing.assert_array_equal(sums[p], expected)
