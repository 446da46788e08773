"""Class sums of one map under random arrangements of the labels, in as few passes as fit memory.

f-statistic and class-distance both start from these sums. The total sum of squares does not
change when labels are permuted, so sums are all that either needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import THREADS, Arrays, Passes
from frictionstore.analyses.core.source import Classes
from frictionstore.analyses.stats.permutation import (
    AnyShuffles,
    GroupShuffles,
    Shuffles,
    group_sums,
    label_shuffles,
    tile_sizes,
)

Floats = NDArray[np.float64]
Reducer = Callable[[slice, Floats, Floats, Floats], None]

MEMORY = 256 << 20
"""Bytes of permuted sums held at a time; more permutations than fit take another pass."""

_REDUCING = 2
"""Threads that sums are handed to at once: each may take several times the memory of its sums."""

_ROWS = 1024
"""Images multiplied at a time, so that adding up the sums costs little beside the products."""


class Buffer:
    """Gathers labelled images of one map, shifted, until there are enough to multiply.

    The shift is the mean of the first chunk: sums of values near zero keep their digits, and
    friction's modes lie orders of magnitude apart.
    """

    def __init__(self, feature: str, labels: NDArray[np.int64], n_features: int) -> None:
        self._feature = feature
        self._labels = labels
        self._n_features = n_features
        self._held: list[Floats] = []
        self._held_labels: list[NDArray[np.int64]] = []
        self.shift: Floats | None = None

    def add(self, rows: slice, arrays: Arrays) -> int:
        """Take in a chunk and return how many labelled images are held."""
        labels = self._labels[rows]
        keep = labels >= 0
        values = arrays[self._feature][keep].reshape(-1, self._n_features).astype(np.float64)
        if len(values):
            if self.shift is None:
                self.shift = values.mean(axis=0)
            values -= self.shift
            self._held.append(values)
            self._held_labels.append(labels[keep])
        return sum(len(part) for part in self._held)

    def empty(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return what is held, values (b, n_features) and labels (b,), and hold nothing."""
        if not self._held:
            return np.empty((0, self._n_features)), np.empty(0, np.int64)
        values = np.concatenate(self._held)
        labels = np.concatenate(self._held_labels)
        self._held, self._held_labels = [], []
        return values, labels


class PermutedClassSums:
    """Class sums under permuted labels, handed block by block to whoever asked.

    Labels are permuted among the labelled images, so class sizes stay. A block of permutations
    holds at most `memory` bytes of sums; each further block takes another pass over the store.

    Attributes
    ----------
    reducers
        Called at the end of each pass, by several threads at once, with the slice of permutations
        (no two of which have any in common), their sums of shape
        (permutations, n_classes, n_features), their sums of squares and the shift of shape
        (n_features,) that was taken off every value first.
    squares
        Whether the sums of squares have a column for each feature, as some reducer needs; their
        last column, of all features together, is always there.
    """

    def __init__(
        self,
        feature: str,
        classes: Classes,
        n_features: int,
        permutations: int,
        seed: int,
        memory: int,
    ) -> None:
        self.features = (feature,)
        self.reducers: list[Reducer] = []
        self.squares = False
        self._buffer = Buffer(feature, classes.labels, n_features)
        self._n_classes = classes.n
        self._n_features = n_features
        self._sizes = tile_sizes(permutations)
        grouped = classes.groups is not None
        labels, groups = classes.labelled() if grouped else (None, None)
        self._shuffles = label_shuffles(list(classes.counts), permutations, seed, labels, groups)
        self._counts = classes.counts
        if grouped:
            self._counts = np.concatenate([one.counts for one in self._shuffles])  # type: ignore[union-attr]
        self._memory = memory
        self._first = 0
        self._sums: list[Floats] = []

    def _new_block(self) -> list[Floats]:
        width = self._n_features * (2 if self.squares else 1) + 1
        largest = max(self._sizes) * self._n_classes * width * 8
        block = self._sizes[self._first : self._first + max(1, self._memory // largest)]
        return [np.zeros((size, self._n_classes, width)) for size in block]

    def counts(self, which: slice) -> NDArray[np.int64]:
        """Return images of each class in some permutations: (n_classes,), or of each one's own."""
        return self._counts if self._counts.ndim == 1 else self._counts[which]

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._buffer.add(rows, arrays) >= _ROWS:
            self._multiply()

    def _multiply(self) -> None:
        values, labels = self._buffer.empty()
        if not len(labels):
            return
        # Squares are summed in the same product: the labels are sorted once.
        square = np.square(values)
        each = [square] if self.squares else []
        values = np.concatenate([values, *each, square.sum(axis=1, keepdims=True)], axis=1)
        if not self._sums:
            self._sums = self._new_block()

        def add(tile: int) -> None:
            drawn = self._shuffles[self._first + tile].take(len(labels))
            self._sums[tile] += group_sums(values, drawn, self._n_classes)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(add, range(len(self._sums))))

    def end_pass(self) -> bool:
        self._multiply()
        assert self._buffer.shift is not None
        shift, starts = self._buffer.shift, np.cumsum([0, *self._sizes])[self._first :]

        def reduce(tile: int) -> None:
            sums, squares = np.split(self._sums[tile], [self._n_features], axis=2)
            which = slice(int(starts[tile]), int(starts[tile + 1]))
            for reducer in self.reducers:
                reducer(which, sums, squares, shift)

        with ThreadPoolExecutor(min(THREADS, _REDUCING)) as pool:
            list(pool.map(reduce, range(len(self._sums))))
        self._first += len(self._sums)
        self._sums = []
        return self._first < len(self._sizes)


def permuted_class_sums(
    passes: Passes,
    feature: str,
    classes: Classes,
    n_features: int,
    permutations: int,
    seed: int,
    memory: int,
) -> PermutedClassSums:
    """Return the shared collector of permuted class sums of one map."""
    return passes.share(
        ("permuted class sums", feature, permutations, seed, memory),
        lambda: PermutedClassSums(feature, classes, n_features, permutations, seed, memory),
    )


class HalfSplits:
    """Means of the two halves of every class under random splits: what noise alone does.

    Attributes
    ----------
    first, second
        After the pass, mean of each half minus a shift, float64 of shape
        (splits, n_classes, n_features). A class of odd size has the larger half second. Where
        images belong together the halves are of whole groups.
    """

    def __init__(
        self, feature: str, classes: Classes, n_features: int, splits: int, seed: int
    ) -> None:
        self.features = (feature,)
        self._classes = classes
        self._buffer = Buffer(feature, classes.labels, n_features)
        self._half = classes.counts // 2
        children = np.random.SeedSequence(seed).spawn(classes.n)
        self._shuffles: list[AnyShuffles] = [
            Shuffles([int(count - half), int(half)], splits, np.random.default_rng(child))
            for count, half, child in zip(classes.counts, self._half, children, strict=True)
        ]
        if classes.groups is not None:
            self._shuffles = [
                _halved_groups(classes.groups[classes.labels == c], splits, child)
                for c, child in enumerate(np.random.SeedSequence(seed).spawn(classes.n))
            ]
            self._half = np.stack([one.counts[:, 1] for one in self._shuffles], axis=1)  # type: ignore[union-attr]
        self._splits = splits
        self._sums = np.zeros((splits, classes.n, n_features))
        self._total = np.zeros((classes.n, n_features))

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._buffer.add(rows, arrays) >= _ROWS:
            self._multiply()

    def _multiply(self) -> None:
        values, labels = self._buffer.empty()
        for c in np.unique(labels):
            of_class = values[labels == c]
            in_first = self._shuffles[c].take(len(of_class))
            self._sums[:, c] += in_first.astype(np.float64) @ of_class
            self._total[c] += of_class.sum(axis=0)

    def end_pass(self) -> bool:
        self._multiply()
        half = self._half[..., None].astype(np.float64)
        rest = (self._classes.counts - self._half)[..., None].astype(np.float64)
        self.first = self._sums / half
        self.second = (self._total - self._sums) / rest
        del self._sums
        return False


def _halved_groups(
    groups: NDArray[np.int64], splits: int, seed: np.random.SeedSequence
) -> GroupShuffles:
    """Return random halves (1 the first, 0 the second) of the groups of one class's images."""
    _, of = np.unique(groups, return_inverse=True)
    first = (of < (of.max() + 1) // 2).astype(np.int64)
    return GroupShuffles(first, groups, 2, splits, np.random.default_rng(seed))


def squared_distances(means: Floats) -> Floats:
    """Return squared Euclidean distances between means, many sets at once.

    Parameters
    ----------
    means
        float64 array of shape (..., n_classes, n_features).

    Returns
    -------
    float64 array of shape (..., n_classes, n_classes), through the Gram matrices.
    """
    gram = means @ np.swapaxes(means, -1, -2)
    square: Any = np.einsum("...aa->...a", gram)
    return np.maximum(square[..., :, None] + square[..., None, :] - 2.0 * gram, 0.0)


def off_diagonal(matrices: NDArray[Any]) -> NDArray[Any]:
    """Return the entries above the diagonal, shape (..., n_pairs)."""
    upper = np.triu_indices(matrices.shape[-1], 1)
    return matrices[..., upper[0], upper[1]]


def class_weights(counts: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Return 1 / count as a column, shape (..., n_classes, 1)."""
    return 1.0 / np.asarray(counts, np.float64)[..., None]


def f_from_sums(
    sums: Floats, counts: NDArray[np.int64], total_squares: float | Floats, *, pooled: bool = False
) -> Floats:
    """Return F between classes from class sums alone, of each feature or, pooled, of all together.

        F = (B / (C - 1)) / ((T - B) / (n - C)),  B = sum_c sums_c^2 / n_c - (sum_c sums_c)^2 / n

    T, the total sum of squares, does not change when labels are permuted. With B and T summed over
    the features (`pooled`) F is PERMANOVA's pseudo-F for Euclidean distances, the same as from all
    pairwise distances.

    Parameters
    ----------
    sums
        Class sums, shape (..., n_classes, n_features), of values shifted by any constant map.
    counts
        Images per class, shape (n_classes,); or (..., n_classes) where they differ between sums.
    total_squares
        T, positive: of each feature, shape (n_features,), or of all, one number.

    Returns
    -------
    float64 array of shape (..., n_features) or (...); infinity where no variance is left within
    classes.

    References
    ----------
    Anderson (2001), A new method for non-parametric multivariate analysis of variance, Austral
    Ecology 26, 32-46.
    """
    classes = counts.shape[-1]
    n = int(counts.reshape(-1, classes)[0].sum())
    weight, of_class = class_weights(counts)[..., 0], "c" if counts.ndim == 1 else "...c"
    of_all = np.square(sums.sum(axis=-2))
    # Summed over features in the same product: maps may have millions of numbers.
    kept = "..." if pooled else "...f"
    between = np.einsum(f"...cf,...cf,{of_class}->{kept}", sums, sums, weight)
    between -= (of_all.sum(axis=-1) if pooled else of_all) / n
    within = np.asarray(total_squares - between)
    # What is left of the total after rounding is no variance.
    within = np.where(within <= 1e-12 * total_squares, 0.0, within)
    with np.errstate(divide="ignore"):
        return np.asarray((between / (classes - 1)) / (within / (n - classes)))
