"""Neighbouring positions that stand out together: cluster mass and TFCE on the patch grid.

Neighbours share a side (rook), within one mode. Both turn a map of statistics into another, whose
largest value under permuted labels gives family-wise p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats import permutation

Floats = NDArray[np.float64]

HEIGHT, EXTENT = 2.0, 0.5
"""Powers of a level's height and of the extent of what lies above it in TFCE."""

LEVELS = 30
"""Levels of each map, at equal steps up to its largest value."""

FORMING_P = 0.01
"""p of a single F from which on a position is part of a cluster."""

_ROOK = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3])


def _labelled(above: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return where maps of shape (k, row, col) are True, and the number of the cluster there."""
    from scipy.ndimage import label

    where = np.flatnonzero(above)
    clusters = label(above, _ROOK)[0].reshape(-1)[where]
    return where, clusters


def cluster_mass(maps: Floats, threshold: float) -> Floats:
    """Return the sum of the values of each position's cluster; 0 below the threshold.

    Parameters
    ----------
    maps
        Array of shape (k, row, col); NaN is below every threshold.
    threshold
        Values from here on form clusters.

    References
    ----------
    Maris and Oostenveld (2007), Nonparametric statistical testing of EEG- and MEG-data, Journal of
    Neuroscience Methods 164, 177-190.
    """
    where, clusters = _labelled(maps >= threshold)
    mass = np.bincount(clusters, maps.reshape(-1)[where])
    found = np.zeros(maps.size)
    found[where] = mass[clusters]
    return found.reshape(maps.shape)


def tfce(maps: Floats, levels: int = LEVELS) -> Floats:
    """Return threshold-free cluster enhancement of maps.

        TFCE(x) = sum over levels h <= value(x) of extent_h(x)^(1/2) h^2 dh

    with extent_h(x) the positions of the cluster of x at or above h, and `levels` levels at equal
    steps dh up to the map's largest value.

    Parameters
    ----------
    maps
        Array of shape (k, row, col); what is not positive or NaN gets 0. Infinite values do not
        occur: they have no step.

    References
    ----------
    Smith and Nichols (2009), Threshold-free cluster enhancement, NeuroImage 44, 83-98.
    """
    k = len(maps)
    height = np.nan_to_num(maps).reshape(k, -1)
    step = height.max(axis=1, initial=0.0) / levels
    found = np.zeros(maps.size)
    # The level of a value, so that the largest value is at the last level whatever its rounding.
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.floor(height / step[:, None] + 1e-9)
    level = np.nan_to_num(level).reshape(maps.shape)
    for h in range(1, levels + 1):
        where, clusters = _labelled(level >= h)
        extent = np.bincount(clusters)[clusters]
        found[where] += extent**EXTENT * np.repeat((h * step) ** HEIGHT * step, maps[0].size)[where]
    return found.reshape(maps.shape)


@dataclass(frozen=True)
class Clusters:
    """Enhanced maps with family-wise p, shape (row, col, mode); NaN where nothing was tested."""

    tfce: Floats
    p_tfce: Floats
    mass: Floats
    p_mass: Floats


class ClusterTest:
    """The largest TFCE and cluster mass under each permutation, beside those of the data."""

    def __init__(self, permutations: int, threshold: float) -> None:
        self._threshold = threshold
        self._maxima = np.zeros((2, permutations))

    def add(self, which: slice, f: Floats) -> None:
        """Take in maps of permuted statistics, shape (permutations, row, col, mode)."""
        both = self._both(f)
        self._maxima[:, which] = both.reshape(2, len(f), -1).max(axis=2)

    def _both(self, f: Floats) -> Floats:
        """Return both of maps (k, row, col, mode); an infinite F counts as the largest finite."""
        top = np.max(f, where=np.isfinite(f), initial=1.0)
        maps = np.moveaxis(np.minimum(f, top), 3, 1)
        flat = np.ascontiguousarray(maps).reshape(-1, *maps.shape[2:])
        both = np.stack([tfce(flat), cluster_mass(flat, self._threshold)])
        return np.moveaxis(both.reshape(2, *maps.shape), 2, 4)

    def result(self, f: Floats) -> Clusters:
        """Return what stands out in the observed statistics, shape (row, col, mode)."""
        found = np.where(np.isnan(f), np.nan, self._both(f[None])[:, 0])
        p = [permutation.family_wise_p(one, m) for one, m in zip(found, self._maxima, strict=True)]
        return Clusters(found[0], p[0], found[1], p[1])
