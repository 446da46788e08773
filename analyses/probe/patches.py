"""A dictionary of 3 x 3 patches of a map, and how much of each word there is in every quadrant.

Patches, all modes together, are brought to mean 0 and variance 1 in every coordinate over the
training images and whitened; words are k-means centres of them. A patch activates word k by
max(0, mean over words of the distance - its distance to word k), so that words that are farther
than most say nothing. Activations are averaged over each quadrant of the grid.

References
----------
Coates, Lee and Ng (2011), An analysis of single-layer networks in unsupervised feature learning,
AISTATS.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SIDE = 3
WORDS = 48
LEARNT_FROM = 20_000
"""Training patches that a dictionary is learnt from."""
STEPS = 15
AT_ONCE = 128
"""Images whose patches are in memory at once."""
_LEAST = 1e-3
"""Share of the mean variance that is put to every direction before it is divided by."""


def patches(values: NDArray[np.float32]) -> Floats:
    """Return patches of maps (n, row, col, mode), shape (n, rows, cols, SIDE * SIDE * mode).

    A grid with fewer rows or columns than a patch is extended by its edge.
    """
    short = [max(SIDE - extent, 0) for extent in values.shape[1:3]]
    if any(short):
        values = np.pad(values, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)), mode="edge")
    windows = sliding_window_view(values, (SIDE, SIDE), axis=(1, 2))
    return windows.reshape(*windows.shape[:3], -1).astype(np.float64)


class Dictionary:
    """Words learnt from the patches of training images.

    Parameters
    ----------
    values
        Training images' map, (n, row, col, mode).
    rng
        Which patches are learnt from, and where k-means begins.
    """

    def __init__(self, values: NDArray[np.float32], rng: np.random.Generator) -> None:
        each = max(1, -(-LEARNT_FROM // len(values)))
        some = []
        for first in range(0, len(values), AT_ONCE):
            made = patches(values[first : first + AT_ONCE])
            made = made.reshape(len(made), -1, made.shape[-1])
            chosen = rng.integers(0, made.shape[1], (len(made), each))
            some.append(
                np.take_along_axis(made, chosen[..., None], axis=1).reshape(-1, made.shape[-1])
            )
        x = np.concatenate(some)
        self._mean = x.mean(axis=0)
        scale = x.std(axis=0)
        self._scale = np.where(scale > 0, scale, 1.0)
        z = (x - self._mean) / self._scale
        variances, directions = np.linalg.eigh(z.T @ z / len(z))
        floor = _LEAST * max(float(variances.mean()), 1e-300)
        self._turn = directions / np.sqrt(np.maximum(variances, 0.0) + floor)
        self.words = k_means(z @ self._turn, WORDS, rng)

    def pooled(self, values: NDArray[np.float32]) -> Floats:
        """Return mean activations, (n, 4 * words): quadrants from top left to bottom right."""
        found = []
        for first in range(0, len(values), AT_ONCE):
            made = (patches(values[first : first + AT_ONCE]) - self._mean) / self._scale
            flat = made.reshape(-1, made.shape[-1]) @ self._turn
            distance = distances(flat, self.words)
            active = np.maximum(distance.mean(axis=1, keepdims=True) - distance, 0.0)
            grid = active.reshape(*made.shape[:3], -1)
            # An odd row or column in the middle counts in both halves.
            halves = [
                (slice(None, -(-extent // 2)), slice(extent // 2, None))
                for extent in grid.shape[1:3]
            ]
            quadrants = [grid[:, r, c].mean(axis=(1, 2)) for r in halves[0] for c in halves[1]]
            found.append(np.concatenate(quadrants, axis=1))
        return np.concatenate(found)


def distances(x: Floats, words: Floats) -> Floats:
    """Return Euclidean distances, shape (n, words)."""
    squares = np.square(x).sum(axis=1)[:, None] - 2.0 * (x @ words.T) + np.square(words).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def k_means(x: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return centres of k groups after `STEPS` of Lloyd's steps; a group that empties stays put."""
    centres = x[rng.permutation(len(x))[: min(k, len(x))]].copy()
    for _ in range(STEPS):
        nearest = (0.5 * np.square(centres).sum(axis=1) - x @ centres.T).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(centres))
        sums = np.zeros_like(centres)
        order = np.argsort(nearest, kind="stable")
        there = np.flatnonzero(counts)
        starts = np.cumsum(counts)[there] - counts[there]
        sums[there] = np.add.reduceat(x[order], starts, axis=0)
        centres[there] = sums[there] / counts[there, None]
    return centres
