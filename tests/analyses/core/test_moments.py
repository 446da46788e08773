"""Moments: any split, any order, the same result to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frictionstore.analyses import Moments

SHAPE = (2, 3)


def of(values: np.ndarray, groups: np.ndarray, n_groups: int = 4) -> Moments:
    moments = Moments(n_groups, values.shape[1:])
    moments.update(values, groups)
    return moments


@st.composite
def observations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 40))
    scale = 10.0 ** draw(st.integers(-3, 8))
    values = rng.normal(draw(st.sampled_from([0.0, 1e3])) * scale, scale, (n, *SHAPE))
    return values.astype(np.float32), rng.integers(-1, 4, n)


@settings(max_examples=60, deadline=None)
@given(observations(), st.integers(1, 7), st.randoms())
def test_any_split_in_any_order_gives_the_same(data, pieces, random):
    values, groups = data
    whole = of(values, groups)
    cuts = sorted(random.randint(0, len(values)) for _ in range(pieces - 1))
    parts = [of(v, g) for v, g in zip(np.split(values, cuts), np.split(groups, cuts), strict=True)]
    random.shuffle(parts)
    merged = Moments(4, SHAPE)
    for part in parts:
        merged = merged.merge(part)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_array_equal(merged.minimum, whole.minimum)
    np.testing.assert_array_equal(merged.maximum, whole.maximum)
    size = np.abs(values).max(initial=1.0)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12 * size)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-9, atol=1e-12 * size**2)


@settings(max_examples=40, deadline=None)
@given(observations())
def test_against_numpy(data):
    values, groups = data
    moments = of(values, groups)
    exact = values.astype(np.float64)
    for group in range(4):
        member = exact[groups == group]
        assert moments.count[group] == len(member)
        if len(member):
            size = np.abs(member).max()
            np.testing.assert_allclose(
                moments.mean[group], member.mean(axis=0), rtol=1e-12, atol=1e-13 * size
            )
            np.testing.assert_allclose(
                moments.variance(ddof=0)[group], member.var(axis=0), rtol=1e-9,
                atol=1e-13 * size**2,
            )  # fmt: skip
    labelled = exact[groups >= 0]
    if len(labelled):
        pooled = moments.pooled()
        assert pooled.count[0] == len(labelled)
        np.testing.assert_allclose(
            pooled.variance(ddof=0)[0], labelled.var(axis=0), rtol=1e-9,
            atol=1e-13 * np.abs(labelled).max() ** 2,
        )  # fmt: skip


def test_variance_survives_an_offset_that_squares_would_not():
    rng = np.random.default_rng(0)
    values = 1e8 + rng.normal(0.0, 1.0, (500, 1))
    moments = Moments(1, (1,))
    for chunk in np.array_split(values, 13):
        moments.update(chunk, np.zeros(len(chunk), int))
    np.testing.assert_allclose(moments.variance()[0], values.var(axis=0, ddof=1), rtol=1e-9)


def test_equal_values_are_constant_exactly_and_almost_equal_ones_are_not():
    values = np.full((30, 2), 0.1)
    values[7, 1] = np.nextafter(0.1, 1.0)
    moments = Moments(1, (2,))
    for chunk in np.array_split(values, 4):
        moments.update(chunk, np.zeros(len(chunk), int))
    assert moments.constant().tolist() == [[True, False]]
    assert moments.mean[0, 0] == 0.1
    assert moments.m2[0, 0] == 0.0


def test_written_and_read_back():
    moments = of(np.arange(12.0).reshape(2, 2, 3), np.array([3, 1]))
    again = Moments.from_arrays(moments.as_arrays())
    for name, array in moments.as_arrays().items():
        np.testing.assert_array_equal(getattr(again, name), array)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not merge"):
        Moments(2, (3,)).merge(Moments(2, (4,)))
    with pytest.raises(ValueError, match="shape"):
        Moments(2, (3,)).update(np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match="group 2"):
        Moments(2, (3,)).update(np.zeros((4, 3)), np.array([0, 1, 2, -1]))


def test_an_empty_group_has_no_variance():
    moments = of(np.ones((1, *SHAPE)), np.array([2]))
    assert np.isnan(moments.variance()[0]).all()
    assert np.isnan(moments.variance(ddof=1)[2]).all()
    assert (moments.variance(ddof=0)[2] == 0).all()
