"""Permutation tests and multiple testing: the only place where either is done.

p-values count the observed arrangement among the permuted ones (add one), so none is ever 0 and
the smallest attainable is 1 / (permutations + 1). Sums under permutations are sparse matrix
products over whole chunks; nothing here loops over permutations in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Alternative = Literal["greater", "less"]

TILE = 100
"""Permutations drawn from one random stream: results do not depend on how many a pass holds."""

_DRAW = 256
"""Positions drawn at a time: results do not depend on how the images are cut into chunks."""

_COLUMNS = 128
"""Columns summed at a time: rows of 1,024 images take a megabyte."""

_TIE = 1e-9
"""Statistics closer than this (relative) are the same arrangement seen through rounding."""

_ROUNDING = 1e-12
"""Distances of a statistic of order 1 from its expectation below this are rounding."""


def smallest_p(permutations: int) -> float:
    """Return the smallest p-value that many permutations can give, 1 / (permutations + 1)."""
    return 1.0 / (permutations + 1)


def at_least(null: ArrayLike, observed: ArrayLike, alternative: Alternative) -> NDArray[np.bool_]:
    """Return where a permuted statistic is as extreme as the observed one, ties included."""
    null = np.asarray(null, np.float64)
    observed = np.asarray(observed, np.float64)
    slack = _TIE * np.abs(observed)
    return null >= observed - slack if alternative == "greater" else null <= observed + slack


def distance_bound(observed: ArrayLike, expectation: float | Floats) -> Floats:
    """Return the distance from the expectation at which a two-sided statistic is as extreme."""
    distance = np.abs(np.asarray(observed, np.float64) - expectation) * (1.0 - _TIE)
    return np.where(distance < _ROUNDING, 0.0, distance)


def p_value(observed: ArrayLike, null: ArrayLike, alternative: Alternative = "greater") -> Any:
    """Return the permutation p-value, (1 + number as extreme) / (permutations + 1).

    Parameters
    ----------
    observed
        Statistic of the data, shape (...); NaN gives NaN.
    null
        Statistics under permutation, shape (permutations, ...).
    alternative
        Which statistics count as extreme: "greater" or "less" ones; ties count.

    Returns
    -------
    float64 array of shape (...), in [1 / (permutations + 1), 1].

    References
    ----------
    Phipson and Smyth (2010), Permutation p-values should never be zero, Statistical Applications
    in Genetics and Molecular Biology 9, 39.
    """
    null = np.asarray(null, np.float64)
    extreme = at_least(null, observed, alternative).sum(axis=0)
    return p_from_counts(extreme, len(null), observed)


def p_from_counts(extreme: ArrayLike, permutations: int, observed: ArrayLike) -> Any:
    """Return `p_value` from the number of permuted statistics as extreme as the observed."""
    p = (np.asarray(extreme, np.float64) + 1.0) / (permutations + 1.0)
    return np.where(np.isnan(np.asarray(observed, np.float64)), np.nan, p)


def family_wise_p(observed: ArrayLike, maxima: ArrayLike) -> Floats:
    """Return family-wise p-values by the maximum statistic.

    Parameters
    ----------
    observed
        Statistics of the family's members, shape (...); larger is more extreme; NaN gives NaN.
    maxima
        The family's largest statistic in each permutation, shape (permutations,).

    Returns
    -------
    float64 array of shape (...): the chance, with no effect anywhere, that any member reaches
    this value.

    References
    ----------
    Westfall and Young (1993), Resampling-based multiple testing, Wiley.
    """
    observed = np.asarray(observed, np.float64)
    ordered = np.sort(np.asarray(maxima, np.float64))
    below = np.searchsorted(ordered, observed - _TIE * np.abs(observed), side="left")
    return np.asarray(p_from_counts(len(ordered) - below, len(ordered), observed))


def holm(p: ArrayLike) -> Floats:
    """Return Holm's adjusted p, which bounds the chance of any false claim in the family.

        adjusted p_(k) = max over j <= k of min(1, (n - j + 1) p_(j)), of p in ascending order

    Parameters
    ----------
    p
        Array of p-values in [0, 1], NaN for tests that were not done: they are not counted.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 65-70.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, axis=None)  # NaN last
    done = order[: int(np.isfinite(p).sum())]
    steps = p.flat[done] * np.arange(len(done), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted.flat[done] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike, axis: int | None = None) -> Floats:
    """Return Benjamini-Hochberg adjusted p-values (q-values).

    Parameters
    ----------
    p
        p-values in [0, 1]; NaN marks what was not tested: it stays NaN and does not count.
    axis
        Axis along which the tests of one family lie; None takes all as one family.

    Returns
    -------
    float64 array of the shape of `p`: `q_(i) = min_{j >= i} p_(j) n / j`, at most 1.

    References
    ----------
    Benjamini and Hochberg (1995), Controlling the false discovery rate, Journal of the Royal
    Statistical Society B 57, 289-300.
    """
    p = np.asarray(p, np.float64)
    if axis is None:
        return benjamini_hochberg(p.reshape(-1), 0).reshape(p.shape)
    p = np.moveaxis(p, axis, 0)
    order = np.argsort(p, axis=0, kind="stable")  # NaN sorts last
    ranked = np.take_along_axis(p, order, axis=0)
    tests = np.isfinite(p).sum(axis=0)
    rank = np.arange(1, len(p) + 1, dtype=np.float64).reshape(-1, *(1 for _ in p.shape[1:]))
    scaled = np.where(np.isnan(ranked), np.inf, ranked * tests / rank)
    lowest = np.minimum(np.minimum.accumulate(scaled[::-1], axis=0)[::-1], 1.0)
    q = np.empty_like(p)
    np.put_along_axis(q, order, np.where(np.isnan(ranked), np.nan, lowest), axis=0)
    return np.moveaxis(q, 0, axis)


class Shuffles:
    """Random arrangements of a multiset of labels, drawn a few positions at a time.

    Each row is a uniformly random order of `counts[0]` zeros, `counts[1]` ones and so on. Only
    the labels still to be dealt are kept, so that memory does not grow with the number of
    images: the next positions' composition is multivariate hypergeometric, their order uniform.

    Parameters
    ----------
    counts
        How often each label occurs, shape (n_labels,).
    rows
        Number of independent arrangements.
    rng
        Where the randomness comes from.
    """

    def __init__(self, counts: Sequence[int], rows: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._rows = rows
        self._left = np.tile(np.asarray(counts, np.int64), (rows, 1))
        self._dtype = np.int8 if len(counts) <= 127 else np.int32
        self._drawn = np.empty((rows, 0), self._dtype)

    def take(self, n: int) -> NDArray[Any]:
        """Return the next `n` positions, integer array of shape (rows, n).

        Raises
        ------
        ValueError
            If fewer than `n` positions are left.
        """
        parts = [self._drawn]
        held = self._drawn.shape[1]
        while held < n:
            part = self._draw()
            parts.append(part)
            held += part.shape[1]
        drawn = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self._drawn = drawn[:, n:]
        return drawn[:, :n]

    def _draw(self) -> NDArray[Any]:
        total = int(self._left[0].sum())
        if not total:
            raise ValueError("all positions of these arrangements have been drawn")
        size = min(_DRAW, total)
        counts = np.empty_like(self._left)
        wanted = np.full(self._rows, size)
        rest = np.full(self._rows, total)
        for label in range(self._left.shape[1] - 1):
            good = self._left[:, label]
            rest -= good
            counts[:, label] = self._rng.hypergeometric(good, rest, wanted)
            wanted -= counts[:, label]
        counts[:, -1] = wanted
        self._left -= counts
        labels = np.tile(np.arange(counts.shape[1], dtype=self._dtype), self._rows)
        block = np.repeat(labels, counts.reshape(-1)).reshape(self._rows, size)
        return self._rng.permuted(block, axis=1)


class GroupShuffles:
    """Random arrangements of labels over groups of images, handed out as `Shuffles` does.

    Labels of groups of one class change places among these groups, as wholes; labels within any
    other group change places within it. Both leave the data's distribution as it is if classes do
    not differ, whatever images of one group have in common, and so do both together. Where groups
    differ in size, classes do not keep theirs (`counts`). Memory is that of groups, and of images
    in groups of several classes.

    Parameters
    ----------
    labels, groups
        Of each position, int64 arrays of shape (n,); labels in 0..n_classes-1.
    n_classes
        Number of classes.
    rows
        Number of independent arrangements.
    rng
        Where the randomness comes from.

    References
    ----------
    Winkler, Webster, Vidaurre, Nichols and Smith (2015), Multi-level block permutation, NeuroImage
    123, 253-268.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        n_classes: int,
        rows: int,
        rng: np.random.Generator,
    ) -> None:
        number, self._of = np.unique(groups, return_inverse=True)
        lowest, highest = np.full(len(number), n_classes), np.full(len(number), -1)
        np.minimum.at(lowest, self._of, labels)
        np.maximum.at(highest, self._of, labels)
        whole = lowest == highest
        dtype = np.int8 if n_classes <= 127 else np.int32
        size = np.bincount(self._of, minlength=len(number)) * whole
        self._of_group = np.tile(lowest.astype(dtype), (rows, 1))
        self._of_group[:, whole] = rng.permuted(self._of_group[:, whole], axis=1)
        split = np.flatnonzero(~whole[self._of])
        split = split[np.argsort(self._of[split], kind="stable")]
        self._split = np.tile(labels[split].astype(dtype), (rows, 1))
        ends = np.flatnonzero(np.diff(self._of[split])) + 1
        for part in np.split(np.arange(len(split)), ends):
            self._split[:, part] = rng.permuted(self._split[:, part], axis=1)
        self._place = np.full(len(labels), -1)
        self._place[split] = np.arange(len(split))
        fixed = np.bincount(labels[split], minlength=n_classes)
        by_class = [(self._of_group == c) @ size for c in range(n_classes)]
        self.counts: NDArray[np.int64] = np.stack(by_class, axis=1) + fixed
        """Images of each class in each arrangement, shape (rows, n_classes)."""
        self._next = 0

    def take(self, n: int) -> NDArray[Any]:
        """Return the next `n` positions, integer array of shape (rows, n)."""
        rows = slice(self._next, self._next + n)
        self._next += n
        drawn = self._of_group[:, self._of[rows]]
        place = self._place[rows]
        drawn[:, place >= 0] = self._split[:, place[place >= 0]]
        return drawn


AnyShuffles = Shuffles | GroupShuffles


def label_shuffles(
    counts: Sequence[int],
    permutations: int,
    seed: int,
    labels: NDArray[np.int64] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> list[AnyShuffles]:
    """Return `permutations` random arrangements of labels, in tiles of `TILE`.

    Tile t is drawn from the t-th child of `seed`, so that a run holding a few tiles at a time
    draws the same arrangements as one that holds all. With `groups`, and the `labels` as they are,
    both of images with a label, labels are arranged as `GroupShuffles` says.
    """
    sizes = tile_sizes(permutations)
    children = np.random.SeedSequence(seed).spawn(len(sizes))
    return [
        Shuffles(counts, size, np.random.default_rng(child))
        if labels is None or groups is None
        else GroupShuffles(labels, groups, len(counts), size, np.random.default_rng(child))
        for size, child in zip(sizes, children, strict=True)
    ]


def tile_sizes(permutations: int) -> list[int]:
    """Return the sizes of the tiles that make up that many permutations."""
    full, rest = divmod(permutations, TILE)
    return [TILE] * full + ([rest] if rest else [])


def group_sums(values: Floats, groups: NDArray[Any], n_groups: int) -> Floats:
    """Return the sums of the rows of each group, for many groupings at once.

    The product of the stacked indicator matrices, (permutations * n_groups, b), and `values`;
    the indicators are sparse, so the cost does not grow with the number of groups.

    Parameters
    ----------
    values
        float64 array of shape (b, n_features).
    groups
        Integer array of shape (permutations, b) in -1..n_groups-1; -1 is in no group.

    Returns
    -------
    float64 array of shape (permutations, n_groups, n_features).
    """
    from scipy.sparse import csr_array

    permutations, b = groups.shape
    # Numbers of two bytes are sorted by their digits, in an eighth of the time.
    small = groups.astype(np.int16 if n_groups < 1 << 15 else np.int64)
    order = np.argsort(small, axis=1, kind="stable").astype(np.int32)
    # Group -1 is summed like any other, as the first, and dropped below.
    key = groups.astype(np.int64)
    key += (np.arange(permutations) * (n_groups + 1))[:, None] + 1
    size = np.bincount(key.reshape(-1), minlength=permutations * (n_groups + 1))
    indptr = np.concatenate([[0], np.cumsum(size)])
    indicator = csr_array((np.ones(order.size), order.reshape(-1), indptr), shape=(len(size), b))
    sums = np.empty((len(size), values.shape[1]))
    # A few columns at a time, so that their rows stay in the cache.
    for columns in spans(values.shape[1], _COLUMNS):
        sums[:, columns] = indicator @ np.ascontiguousarray(values[:, columns])
    return sums.reshape(permutations, n_groups + 1, -1)[:, 1:]


def patch_shuffles(n_patches: int, permutations: int, rng: np.random.Generator) -> NDArray[Any]:
    """Return random orders of the patches, int64 array of shape (permutations, n_patches)."""
    order = np.tile(np.arange(n_patches), (permutations, 1))
    return rng.permuted(order, axis=1)


def spans(total: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `range(total)`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
