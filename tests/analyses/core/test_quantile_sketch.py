"""Ranks from a sketch: exact of few values, within the stated bound of many, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata

from frictionstore.analyses.core.quantile_sketch import QuantileSketch


def exact(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Share of `values` below each of `of`, equal ones half, by comparing all with all."""
    below = (values < of[:, None]).mean(axis=1)
    return below + (values == of[:, None]).mean(axis=1) / 2


def sketch(values: np.ndarray, size: int, parts: int = 7) -> QuantileSketch:
    made = QuantileSketch(size)
    for part in np.array_split(values, parts):
        made.add(part)
    return made


@pytest.mark.parametrize("n", [1, 2, 63])
def test_few_values_are_ranked_as_scipy_ranks_them(n):
    values = np.random.default_rng(n).integers(0, 20, n).astype(np.float32)
    made = sketch(values, 64)
    assert made.bound == 0
    ranks = made.ranks(values.reshape(-1, 1))
    assert ranks.shape == (n, 1)
    np.testing.assert_allclose(ranks[:, 0], (rankdata(values) - 0.5) / n, rtol=1e-6)


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "sawtooth", "equal"])
def test_many_values_are_within_the_bound(order):
    rng = np.random.default_rng(3)
    values = rng.lognormal(0, 4, 5000).astype(np.float32)
    values = {
        "random": values,
        "ascending": np.sort(values),
        "descending": np.sort(values)[::-1],
        "sawtooth": np.sort(values).reshape(50, 100).T.reshape(-1),
        "equal": np.repeat(values[:5], 1000),
    }[order]
    made = sketch(values, 64)
    off = np.abs(made.ranks(values) - exact(values, values))
    assert 0 < made.bound < 7 * 0.5 / 64 + 0.01  # log2(5000 / 64) = 6.3 levels
    assert off.max() <= made.bound + 1e-6
    assert made.ranks(np.float32([-1.0]))[0] == 0
    assert made.ranks(np.float32([np.inf]))[0] == pytest.approx(1)


def worst_blocks(levels: int) -> list[int]:
    """How many small values each block of 16 has, so that every compaction errs upwards or not at
    all: odd where the first of each two is kept, even where the second is, on every level."""
    counts = [13]
    for _ in range(levels):
        halves = [(n, n - 1) if n % 2 else (n - 1, n) for n in counts]
        counts = [n for pair in halves for n in pair]
    return counts


@pytest.mark.parametrize("levels", [0, 1, 4, 8])
def test_the_bound_is_reached_where_the_sketch_is_wrong_by_most(levels):
    worst = QuantileSketch(16)
    blocks = worst_blocks(levels)
    for small in blocks:
        worst.add(np.repeat([0.0, 1.0], [small, 16 - small]))
    off = float(worst.ranks(np.array([0.5]))[0]) - sum(blocks) / (16 * len(blocks))
    assert off == pytest.approx(worst.bound, abs=1e-6)
    assert worst.bound == pytest.approx((levels / 2 + 1) / 16)


def test_memory_does_not_grow_with_the_values():
    made = QuantileSketch(64)
    for seed in range(400):
        made.add(np.random.default_rng(seed).random(1000))
    held = sum(len(part) for level in made._levels for part in level)
    assert made.n == 400_000
    assert held < 64 * len(made._levels)
    assert len(made._levels) < 15
    assert abs(float(made.ranks(np.array([0.25]))[0]) - 0.25) < 0.01


def test_how_values_are_cut_into_chunks_does_not_matter():
    values = np.random.default_rng(0).random(3000)
    one, other = sketch(values, 128, 1), sketch(values, 128, 41)
    np.testing.assert_array_equal(one.ranks(values), other.ranks(values))
    assert one.bound == other.bound


@pytest.mark.parametrize("size", [16, 64, 128])
def test_parts_that_are_merged_are_within_the_bound(size):
    """Whatever is in which part, and however few or many of them were thrown away before."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values = rng.lognormal(0, 4, 3000).astype(np.float32)
        cuts = np.sort(rng.integers(0, 3000, 5))
        made = QuantileSketch(size)
        for part in np.split(np.sort(values) if seed % 2 else values, cuts):
            one = QuantileSketch(size)
            one.add(part)
            made.absorb(one)
        assert made.n == 3000
        held = [sum(map(len, level)) for level in made._levels]
        assert max(held) < size
        assert sum(n << level for level, n in enumerate(held)) == 3000
        off = np.abs(made.ranks(values) - exact(values, values))
        assert off.max() <= made.bound + 1e-6


def test_two_parts_that_are_wrong_in_one_direction_are_twice_as_wrong():
    """The bound of one part with as many values thrown away would be half of what it is."""
    made = QuantileSketch(16)
    for _ in range(2):
        one = QuantileSketch(16)
        one.add(np.repeat([0.0, 1.0], [13, 3]))  # of two zeros and a one the zero is kept for both
        made.absorb(one)
    off = float(made.ranks(np.array([0.5]))[0]) - 26 / 32
    assert off == pytest.approx(2 / 32)
    # Both were thrown away once on the first level, and again together on the second.
    assert made.bound >= off
