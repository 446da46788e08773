"""The sixteen kinds of synthetic noise images the encoders are trained on.

What lives here: the generators, numpy only. What does not: the data set that serves them
(`choose.py`) and training (`tools/train_speckle.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

LIMIT = 4.0  # every image is clamped to [-LIMIT, LIMIT]


def _spectral(rng: np.random.Generator, size: int, exponent: float) -> NDArray[np.float64]:
    """Gaussian noise with amplitude spectrum ``1 / f**exponent``, each channel of unit variance."""
    white = rng.standard_normal((3, size, size))
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    frequency = np.sqrt(fy * fy + fx * fx)
    frequency[0, 0] = 1.0 / size  # the mean gets the weight of the lowest frequency
    shaped = np.fft.irfft2(np.fft.rfft2(white) / frequency**exponent, s=(size, size))
    shaped /= shaped.std(axis=(1, 2), keepdims=True) + 1e-12
    return shaped


def _gaussian(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.standard_normal((3, size, size))


def _uniform(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.uniform(-1.0, 1.0, (3, size, size))


def _scaled_uniform(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.uniform(-1.0, 1.0, (3, size, size)) * rng.uniform(0.25, 2.0)


def _poisson(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    rate = rng.uniform(0.5, 20.0)
    return (rng.poisson(rate, (3, size, size)) - rate) / np.sqrt(rate)


def _pink(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return _spectral(rng, size, 0.5)


def _brown(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return _spectral(rng, size, 1.0)


def _salt_and_pepper(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    share = rng.uniform(0.05, 0.5)
    draw = rng.random((3, size, size))
    return np.where(draw < share / 2, -1.0, np.where(draw < share, 1.0, 0.0)) * rng.uniform(
        0.5, 2.0
    )


def _sparse(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    keep = rng.random((3, size, size)) < rng.uniform(0.02, 0.2)
    return rng.standard_normal((3, size, size)) * keep


def _block(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    edge = int(rng.choice([2, 4, 8, 16]))
    cells = -(-size // edge)
    coarse = rng.standard_normal((3, cells, cells))
    return np.repeat(np.repeat(coarse, edge, axis=1), edge, axis=2)[:, :size, :size]


def _gradient(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    slope = rng.standard_normal((3, 2, 1, 1))
    offset = 0.5 * rng.standard_normal((3, 1, 1))
    return slope[:, 0] * y + slope[:, 1] * x + offset + 0.05 * rng.standard_normal((3, size, size))


def _checkerboard(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    edge = int(rng.choice([1, 2, 4, 8]))
    index = np.arange(size) // edge
    board = ((index[:, None] + index[None, :]) % 2) * 2.0 - 1.0
    amplitude = rng.uniform(0.3, 1.5, (3, 1, 1))
    return board * amplitude + 0.05 * rng.standard_normal((3, size, size))


def _mixed(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    share = rng.random()
    return share * _gaussian(rng, size) + (1.0 - share) * _spectral(rng, size, 1.0)


def _quadrants(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    image = np.empty((3, size, size))
    half = size // 2
    plain = (_gaussian, _uniform, _pink, _block)
    for place, make in zip(
        ((slice(0, half), slice(0, half)), (slice(0, half), slice(half, size)),
         (slice(half, size), slice(0, half)), (slice(half, size), slice(half, size))),
        rng.permutation(len(plain)), strict=True,
    ):  # fmt: skip
        image[:, place[0], place[1]] = plain[make](rng, size)[:, place[0], place[1]]
    return image


def _cauchy(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return 0.3 * rng.standard_cauchy((3, size, size))


def _exponential(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.exponential(1.0, (3, size, size)) - 1.0


def _laplace(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return rng.laplace(0.0, np.sqrt(0.5), (3, size, size))


KINDS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "scaled_uniform": _scaled_uniform,
    "poisson": _poisson,
    "pink": _pink,
    "brown": _brown,
    "salt_and_pepper": _salt_and_pepper,
    "sparse": _sparse,
    "block": _block,
    "gradient": _gradient,
    "checkerboard": _checkerboard,
    "mixed": _mixed,
    "quadrants": _quadrants,
    "cauchy": _cauchy,
    "exponential": _exponential,
    "laplace": _laplace,
}
KIND_NAMES: tuple[str, ...] = tuple(KINDS)


def noise_image(kind: int, size: int, rng: np.random.Generator) -> Image:
    """One noise image.

    Parameters
    ----------
    kind : int in [0, 16)
        Position in `KIND_NAMES`.
    size : int
        Height and width in pixels.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (3, size, size), float32, in [-4, 4]
    """
    image = KINDS[KIND_NAMES[kind]](rng, size)
    return np.clip(image, -LIMIT, LIMIT).astype(np.float32)


def indexed_noise_image(index: int, size: int, seed: int) -> Image:
    """Image `index` of the endless sequence named by `seed`; kinds take turns.

    Each image has a stream of its own, so image 5,000 is the same whether or not its
    predecessors were drawn.
    """
    rng = np.random.default_rng([seed, index])
    return noise_image(index % len(KIND_NAMES), size, rng)
