"""The fused attention against softmax in float64, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import attention
from frictionstore.extract.conduit.kernels.cpu import tiles
from frictionstore.extract.conduit.kernels.cpu.attention import attend


def exact(qkv: np.ndarray, heads: int) -> np.ndarray:
    """Softmax attention in float64."""
    B, N, width = qkv.shape
    head = width // (3 * heads)
    q, k, v = qkv.astype(np.float64).reshape(B, N, 3, heads, head).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(head)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights @ v / weights.sum(axis=-1, keepdims=True)
    return mixed.transpose(0, 2, 1, 3).reshape(B, N, heads * head)


def tokens(seed: int, shape: tuple[int, int, int], size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([1, 2, 7, 32, 33, 64, 100]),
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(0, 1000),
)
def test_it_is_softmax_attention(N: int, heads: int, head: int, seed: int) -> None:
    qkv = tokens(seed, (2, N, 3 * heads * head))
    values = np.abs(qkv[..., 2 * heads * head :]).max()
    np.testing.assert_allclose(attend(qkv, heads), exact(qkv, heads), rtol=0, atol=2e-6 * values)


def test_rounding_does_not_grow_with_the_number_of_keys() -> None:
    """Equal weights: a mean of 20,000 values near 1, to a few units in the last place."""
    qkv = tokens(0, (1, 20_000, 3))
    qkv[..., 0] = 0
    qkv[..., 2] = 1 + 0.01 * qkv[..., 2]
    expected = qkv[..., 2].astype(np.float64).mean()
    assert np.abs(attend(qkv[:, :, :], 1) - expected).max() < 3e-6


@pytest.mark.parametrize("size", [1e-20, 50.0, 1e4, 1e15])
def test_weights_that_are_equal_and_weights_that_underflow(size: float) -> None:
    """Where one score is far above the rest its value comes out, to the last bit."""
    qkv = tokens(1, (2, 40, 12), size)
    qkv[..., 8:] = tokens(2, (2, 40, 4))
    mixed, expected = attend(qkv, 2), exact(qkv, 2)
    if size < 1:
        np.testing.assert_allclose(mixed, expected, atol=1e-6)
        return
    q, k = (qkv[..., part : part + 4].reshape(2, 40, 2, 2).astype(float) for part in (0, 4))
    scores = np.einsum("bihc,bjhc->bhij", q, k) / np.sqrt(2)
    top = np.sort(scores, axis=-1)
    clear = np.moveaxis(top[..., -1] - top[..., -2] > 130 + 1e-5 * np.abs(top[..., -1]), 1, 2)
    clear = np.repeat(clear, 2, axis=-1)
    assert clear.any()
    np.testing.assert_array_equal(mixed[clear], expected[clear].astype(np.float32))


def test_powers_of_two() -> None:
    """Every exponent the kernel meets, through a value of 1 beside one of 0."""
    x = -np.concatenate([np.linspace(0, 30, 4001), [64.25, 126, 127, 500]])
    exponents = x.astype(np.float32) / np.float32(np.log2(np.e))
    qkv = np.zeros((len(x), 2, 3), np.float32)
    qkv[:, :, 0] = 1
    qkv[:, 1, 1] = exponents
    qkv[:, 1, 2] = 1
    mixed = attend(qkv, 1)[:, 0, 0].astype(np.float64)
    weight = np.exp(exponents.astype(np.float64))
    np.testing.assert_allclose(mixed[:4002], (weight / (1 + weight))[:4002], rtol=4e-6)
    assert (mixed[4002:] < 1e-37).all()


@pytest.mark.slow
def test_nothing_depends_on_threads_widths_neighbours_or_registers(assert_same_bits) -> None:
    qkv = tokens(3, (5, 45, 12))
    expected = attend(qkv, 2, 1)
    for threads, width in [(2, None), (3, 8), (1, 4), (None, 64)]:
        assert_same_bits(attend(qkv, 2, threads, width=width), expected)
    assert_same_bits(attend(qkv[3:4], 2), expected[3:4])
    shuffled = np.random.default_rng(0).permutation(5)
    assert_same_bits(attend(qkv[shuffled], 2), expected[shuffled])
    assert tiles.register_width() in (8, 16)


def test_nan_and_infinity_stay_with_their_image_and_head(assert_same_bits) -> None:
    qkv = tokens(4, (4, 40, 12))
    expected = attend(qkv, 2)
    qkv[1, 7, 4] = np.nan  # a key of head 0
    qkv[2, 7, 10] = np.inf  # a value of head 1
    mixed = attend(qkv, 2)
    assert np.isnan(mixed[1, :, :2]).all()
    assert not np.isfinite(mixed[2, :, 2]).any()
    assert_same_bits(mixed[1, :, 2:], expected[1, :, 2:])
    assert_same_bits(mixed[2, :, :2], expected[2, :, :2])
    assert_same_bits(mixed[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize(
    ("qkv", "heads", "message"),
    [
        (np.zeros((2, 3, 12)), 2, "must be a float32 array, got float64"),
        ([[1.0]], 1, "must be a float32 array, got list"),
        (np.zeros((3, 12), np.float32), 2, r"shape \(B, N, 3 \* D\).*got \(3, 12\)"),
        (np.zeros((2, 3, 12), np.float32), 3, "D a multiple of 3 heads"),
        (np.zeros((2, 0, 12), np.float32), 2, "N at least 1"),
        (np.zeros((2, 3, 12), np.float32), 0, "multiple of 0 heads"),
        (np.zeros((2, 3, 27), np.float32), 1, "heads of up to 8; got 9"),
    ],
)
def test_bad_input(qkv: object, heads: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        attend(qkv, heads)  # type: ignore[arg-type]


def test_no_images() -> None:
    assert attend(np.zeros((0, 4, 12), np.float32), 2).shape == (0, 4, 4)


def test_the_constants_are_the_polynomial_of_least_error() -> None:
    x = np.linspace(-0.5, 0.5, 10_001)
    p = np.polynomial.Polynomial(attention.POWERS)(x)
    assert np.abs(p / np.exp2(x) - 1).max() < 7e-8
