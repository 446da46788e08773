"""Rank correlations of maps with others over the same patches, under all shifts of the torus."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.ranks import centred_ranks

Floats = NDArray[np.float64]


def standard_ranks(values: NDArray[Any]) -> Floats:
    """Return ranks over patches, centred and of unit length: products are Spearman's correlations.

    Parameters
    ----------
    values
        Array of shape (n, row, col, k).

    Returns
    -------
    float64 array of that shape; zeros where all patches are equal.
    """
    flat = np.moveaxis(values.reshape(len(values), -1, values.shape[-1]), 1, 2)
    ranks = centred_ranks(flat)
    norm = np.sqrt(np.square(ranks).sum(axis=2, keepdims=True))
    ranks = np.divide(ranks, norm, out=np.zeros_like(ranks), where=norm > 0)
    return np.moveaxis(ranks, 2, 1).reshape(values.shape)


def torus_correlations(maps: Floats, content: Floats) -> Floats:
    """Return correlations of maps with content under every shift of it around the grid.

    Parameters
    ----------
    maps, content
        Standard ranks, shape (n, row, col, modes) and (n, row, col, contents).

    Returns
    -------
    float64 array of shape (n, row, col, modes, contents): entry (dr, dc) is with content moved by
    that many rows and columns; (0, 0) is the observed one.
    """
    axes = (1, 2)
    product = np.conj(np.fft.rfft2(content, axes=axes))[..., None, :]
    product = product * np.fft.rfft2(maps, axes=axes)[..., None]
    return np.asarray(np.fft.irfft2(product, s=maps.shape[1:3], axes=axes))


def naive_p(rho: Floats, n_patches: int) -> Floats:
    """Return Spearman's p by Student's t, as if patches were independent; two-sided."""
    from scipy.special import stdtr

    with np.errstate(divide="ignore", invalid="ignore"):
        t = rho * np.sqrt((n_patches - 2) / np.maximum(1.0 - np.square(rho), 0.0))
    return np.asarray(2.0 * stdtr(n_patches - 2, -np.abs(t)))
