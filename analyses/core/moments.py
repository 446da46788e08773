"""Mergeable one-pass moments by group: count, mean, sum of squared deviations, extremes.

Every variance of the analyses comes from here. `E[x^2] - E[x]^2` is never formed: friction spans
1e0 to 1e8, and that difference is rounding noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of each group, in float64.

    Two objects that saw disjoint images merge into what one object would hold after seeing all of
    them, so that chunks, threads or machines can each keep their own:

        n = n_a + n_b,  d = mean_b - mean_a
        mean = mean_a + d n_b / n
        m2 = m2_a + m2_b + d^2 n_a n_b / n

    Parameters
    ----------
    n_groups
        Number of groups (classes), at least 1.
    shape
        Shape of one observation, such as (row, col, mode).

    Attributes
    ----------
    count : int64 array of shape (n_groups,)
    mean, m2, minimum, maximum : float64 arrays of shape (n_groups, *shape)
        `m2` is the sum of squared deviations from the mean. A group nobody was in has count 0,
        mean 0, m2 0, minimum +inf and maximum -inf.

    References
    ----------
    Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American
    Statistician 37, 242-247.
    """

    __slots__ = ("count", "m2", "maximum", "mean", "minimum")

    def __init__(self, n_groups: int, shape: Sequence[int]) -> None:
        full = (n_groups, *shape)
        self.count: NDArray[np.int64] = np.zeros(n_groups, np.int64)
        self.mean: Floats = np.zeros(full)
        self.m2: Floats = np.zeros(full)
        self.minimum: Floats = np.full(full, np.inf)
        self.maximum: Floats = np.full(full, -np.inf)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.count)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.mean.shape[1:]

    def update(self, values: ArrayLike, groups: ArrayLike) -> None:
        """Add observations.

        Parameters
        ----------
        values
            Array of shape (b, *shape), any real dtype, finite.
        groups
            Integer array of shape (b,): the group of each observation; negative is left out.

        Raises
        ------
        ValueError
            If the shapes disagree or a group is `n_groups` or more.
        """
        values = np.asarray(values)
        groups = np.asarray(groups)
        if values.shape != (len(groups), *self.shape):
            raise ValueError(
                f"values have shape {values.shape}, expected {(len(groups), *self.shape)}"
            )
        if groups.size and groups.max() >= self.n_groups:
            raise ValueError(f"group {groups.max()} does not exist: there are {self.n_groups}")
        order = np.argsort(groups, kind="stable")
        order = order[np.searchsorted(groups[order], 0) :]
        if not order.size:
            return
        present, start, count = np.unique(groups[order], return_index=True, return_counts=True)
        # Small integers become float64 once; minima of the original values are exact either way.
        rows = values[order].reshape(len(order), -1).astype(np.float64)
        n = count[:, None].astype(np.float64)
        chunk = Moments(self.n_groups, (rows.shape[1],))
        chunk.count[present] = count
        mean = np.add.reduceat(rows, start, axis=0) / n
        chunk.minimum[present] = np.minimum.reduceat(rows, start, axis=0)
        chunk.maximum[present] = np.maximum.reduceat(rows, start, axis=0)
        # Rounding may put the mean of equal values one unit outside them.
        mean = np.clip(mean, chunk.minimum[present], chunk.maximum[present])
        rows -= np.repeat(mean, count, axis=0)
        residual = np.add.reduceat(rows, start, axis=0)
        np.square(rows, out=rows)
        chunk.mean[present] = mean
        chunk.m2[present] = np.maximum(
            np.add.reduceat(rows, start, axis=0) - residual * residual / n, 0.0
        )
        self._absorb(chunk, present)

    def _absorb(self, other: Moments, groups: NDArray[np.int64]) -> None:
        """Merge the named groups of `other`, whose observations may be flattened, into this one."""
        view = (self.n_groups, -1)
        mean, m2 = self.mean.reshape(view), self.m2.reshape(view)
        minimum, maximum = self.minimum.reshape(view), self.maximum.reshape(view)
        n_a = self.count[groups, None].astype(np.float64)
        n_b = other.count[groups, None].astype(np.float64)
        n = n_a + n_b
        shift = other.mean.reshape(view)[groups] - mean[groups]
        mean[groups] += shift * (n_b / n)
        m2[groups] += other.m2.reshape(view)[groups] + shift * shift * (n_a * n_b / n)
        minimum[groups] = np.minimum(minimum[groups], other.minimum.reshape(view)[groups])
        maximum[groups] = np.maximum(maximum[groups], other.maximum.reshape(view)[groups])
        self.count[groups] += other.count[groups]

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both objects' observations together; neither is changed.

        Raises
        ------
        ValueError
            If the groups or the shapes differ.
        """
        if (self.n_groups, self.shape) != (other.n_groups, other.shape):
            raise ValueError(
                f"moments of {self.n_groups} groups of shape {self.shape} do not merge with "
                f"{other.n_groups} groups of shape {other.shape}"
            )
        merged = Moments(self.n_groups, self.shape)
        for part in (self, other):
            merged.absorb(part)
        return merged

    def absorb(self, other: Moments) -> None:
        """Take in what another object of the same groups and shape has seen."""
        seen = np.flatnonzero(other.count)
        if seen.size:
            self._absorb(other, seen)

    def pooled(self) -> Moments:
        """Return the moments of all groups' observations as one group."""
        pooled = Moments(1, self.shape)
        for group in np.flatnonzero(self.count):
            part = Moments(1, self.shape)
            part.count[0] = self.count[group]
            for name in ("mean", "m2", "minimum", "maximum"):
                getattr(part, name)[0] = getattr(self, name)[group]
            pooled._absorb(part, np.zeros(1, np.int64))
        return pooled

    def variance(self, ddof: int = 1) -> Floats:
        """Return `m2 / (count - ddof)`, shape (n_groups, *shape); NaN where count <= ddof."""
        divisor = (self.count - ddof).astype(np.float64)
        divisor[divisor <= 0] = np.nan
        return self.m2 / divisor.reshape(-1, *(1 for _ in self.shape))

    def constant(self) -> NDArray[np.bool_]:
        """Return where all observations of a group are equal, exactly; shape (n_groups, *shape)."""
        return self.minimum == self.maximum

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the five arrays by name, for writing; `from_arrays` reads them back."""
        return {name: getattr(self, name) for name in ("count", "mean", "m2", "minimum", "maximum")}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """Return the moments that `as_arrays` described."""
        moments = cls(len(arrays["count"]), arrays["mean"].shape[1:])
        moments.count[...] = arrays["count"]
        for name in ("mean", "m2", "minimum", "maximum"):
            getattr(moments, name)[...] = arrays[name]
        return moments


class Extremes:
    """Smallest and largest value of each mode over images and patches, chunk by chunk."""

    def __init__(self, n_modes: int) -> None:
        self._low = np.full(n_modes, np.inf)
        self._high = np.full(n_modes, -np.inf)

    def update(self, values: NDArray[Any]) -> None:
        """Take in maps of shape (image, row, col, mode)."""
        self._low = np.minimum(self._low, values.min(axis=0).min(axis=(0, 1)))
        self._high = np.maximum(self._high, values.max(axis=0).max(axis=(0, 1)))

    def absorb(self, other: Extremes) -> None:
        """Take in what another has seen."""
        self._low = np.minimum(self._low, other._low)
        self._high = np.maximum(self._high, other._high)

    def constant(self) -> NDArray[np.bool_]:
        """Return which modes have one value in the whole map, bool of shape (n_modes,)."""
        return np.asarray(self._low == self._high)
