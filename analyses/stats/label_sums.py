"""Class sums of one map under random arrangements of the labels, in as few passes as fit memory.

f-statistic and class-distance both start from these sums. The total sum of squares does not
change when labels are permuted, so sums are all that either needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.collecting import PART_IMAGES
from frictionstore.analyses.core.passes import THREADS, Arrays, Passes
from frictionstore.analyses.core.rows import rows_of_classes
from frictionstore.analyses.core.source import Classes
from frictionstore.analyses.stats.arrangements import Arrangements
from frictionstore.analyses.stats.permutation import TILE, group_sums, spans

Floats = NDArray[np.float64]
Reducer = Callable[[slice, Floats, Floats, Floats], None]

MEMORY = 256 << 20
"""Bytes of permuted sums held at a time; more permutations than fit take another pass."""

_REDUCING = 2
"""Threads that sums are handed to at once: each may take several times the memory of its sums."""

_ROWS = 1024
"""Images multiplied at a time, so that adding up the sums costs little beside the products."""

_PRODUCTS = 32 << 20
"""Bytes of products that a thread holds before they are added up."""

LABELS, HALVES = 0, 1
"""Uses of a seed."""


class Buffer:
    """Gathers labelled images of one map, shifted, until there are enough to multiply.

    The shift is the mean of the first chunk: sums of values near zero keep their digits, and
    friction's modes lie orders of magnitude apart.
    """

    def __init__(
        self, feature: str, labels: NDArray[np.int64], n_features: int, shift: Floats | None = None
    ) -> None:
        self._feature = feature
        self._labels = labels
        self._n_features = n_features
        self._held: list[Floats] = []
        self._rows: list[NDArray[np.int64]] = []
        self.shift = shift

    def anew(self) -> Buffer:
        """Return one that holds nothing."""
        return Buffer(self._feature, self._labels, self._n_features, self.shift)

    def look(self, arrays: Arrays) -> None:
        """Take the shift from a chunk."""
        values = arrays[self._feature].reshape(-1, self._n_features)
        self.shift = values.mean(axis=0, dtype=np.float64)

    def add(self, rows: slice, arrays: Arrays) -> int:
        """Take in a chunk and return how many labelled images are held."""
        keep = self._labels[rows] >= 0
        values = arrays[self._feature][keep].reshape(-1, self._n_features).astype(np.float64)
        if len(values):
            if self.shift is None:
                self.shift = values.mean(axis=0)
            values -= self.shift
            self._held.append(values)
            self._rows.append(rows.start + np.flatnonzero(keep))
        return sum(len(part) for part in self._held)

    def empty(self) -> tuple[Floats, NDArray[np.int64]]:
        """Return what is held, values (b, n_features) and rows (b,), and hold nothing."""
        if not self._held:
            return np.empty((0, self._n_features)), np.empty(0, np.int64)
        values, rows = np.concatenate(self._held), np.concatenate(self._rows)
        self._held, self._rows = [], []
        return values, rows


class _Blocks(ABC):
    """What both collectors of sums share: blocks of arrangements that fit memory, one a pass."""

    state: tuple[str, ...] = ("_sums",)

    def __init__(
        self, buffer: Buffer, arranged: Arrangements, arrangements: int, memory: int, n_images: int
    ) -> None:
        self.features = (buffer._feature,)
        self._buffer = buffer
        self._arranged = arranged
        self._many = arrangements
        # What a part has and what all before it have are held at once.
        self._memory = memory // 2 if n_images > PART_IMAGES else memory
        self._next = 0
        self._sums: Floats | None = None

    @abstractmethod
    def _bytes(self) -> int:
        """Return the bytes of one arrangement's sums."""

    @property
    def _block(self) -> slice:
        """Return the arrangements of this pass."""
        size = max(1, self._memory // self._bytes())
        return slice(self._next, min(self._next + size, self._many))

    def begin(self) -> None:
        self._arranged.prepare(self._block)
        self._sums = None
        self._buffer = self._buffer.anew()

    def look(self, arrays: Arrays) -> None:
        self._buffer.look(arrays)

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._buffer.add(rows, arrays) >= _ROWS:
            self.close()

    def close(self) -> None:
        """Multiply what is held."""
        values, rows = self._buffer.empty()
        if len(rows):
            self._multiply(values, rows)

    @abstractmethod
    def _multiply(self, values: Floats, rows: NDArray[np.int64]) -> None:
        """Add what these rows give to the sums."""


class PermutedClassSums(_Blocks):
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

    stays = ("reducers",)

    def __init__(
        self,
        feature: str,
        classes: Classes,
        n_features: int,
        permutations: int,
        seed: int,
        memory: int,
    ) -> None:
        self.reducers: list[Reducer] = []
        self.squares = False
        self._n_classes = classes.n
        self._n_features = n_features
        labels, grouped = classes.labels, classes.groups
        arranged = Arrangements(labels, classes.n, seed, use=LABELS, groups=grouped)
        buffer = Buffer(feature, labels, n_features)
        super().__init__(buffer, arranged, permutations, memory, len(labels))

    @property
    def _width(self) -> int:
        return self._n_features * (2 if self.squares else 1) + 1

    def _bytes(self) -> int:
        return self._n_classes * self._width * 8

    def _tiles(self) -> list[slice]:
        """Return some permutations of the block at a time, counted from its first."""
        size = min(TILE, max(1, _PRODUCTS // self._bytes()))
        return list(spans(self._block.stop - self._block.start, size))

    def counts(self, which: slice) -> NDArray[np.int64]:
        """Return images of each class in some permutations: (n_classes,), or of each one's own."""
        return self._arranged.counts(which)[..., 0, :]

    def _multiply(self, values: Floats, rows: NDArray[np.int64]) -> None:
        # Squares are summed in the same product: the labels are sorted once.
        square = np.square(values)
        each = [square] if self.squares else []
        values = np.concatenate([values, *each, square.sum(axis=1, keepdims=True)], axis=1)
        first, stop = self._block.start, self._block.stop
        if self._sums is None:
            self._sums = np.zeros((stop - first, self._n_classes, self._width))
        sums = self._sums

        def add(tile: slice) -> None:
            drawn = self._arranged.take(rows, slice(first + tile.start, first + tile.stop))
            sums[tile] += group_sums(values, drawn, self._n_classes)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(add, self._tiles()))

    def end_pass(self) -> bool:
        self.close()
        assert self._buffer.shift is not None
        assert self._sums is not None
        sums_of, shift, first = self._sums, self._buffer.shift, self._block.start

        def reduce(tile: slice) -> None:
            sums, squares = np.split(sums_of[tile], [self._n_features], axis=2)
            for reducer in self.reducers:
                reducer(slice(first + tile.start, first + tile.stop), sums, squares, shift)

        with ThreadPoolExecutor(min(THREADS, _REDUCING)) as pool:
            list(pool.map(reduce, self._tiles()))
        self._next = self._block.stop
        self._sums = None
        return self._next < self._many


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


class HalfSplits(_Blocks):
    """Distances between the means of two halves of every class: what noise alone does.

    Attributes
    ----------
    distances
        After the passes, Euclidean, of random halves, float64 of shape (splits, n_classes). A class
        of odd size has the larger half second. Where images belong together the halves are of whole
        groups.
    """

    state = ("_sums", "_total")
    stays = ("distances",)

    def __init__(
        self, feature: str, classes: Classes, n_features: int, splits: int, seed: int,
        memory: int = MEMORY,
    ) -> None:  # fmt: skip
        self._classes = classes
        self._shape = (classes.n, n_features)
        self._total: Floats | None = None
        labels, groups = classes.labels, None
        class_of = np.maximum(labels, 0)
        first = np.full(len(labels), -1, np.int64)
        if classes.groups is not None:
            # What images of another class have in common with a group does not bind its own.
            groups = class_of * (int(classes.groups.max()) + 1) + classes.groups
        for rows in rows_of_classes(labels, classes.n):
            of = np.arange(len(rows))
            if groups is not None:
                of = np.unique(groups[rows], return_inverse=True)[1]
            first[rows] = of < (of.max() + 1) // 2
        arranged = Arrangements(first, 2, seed, use=HALVES, strata=class_of, groups=groups)
        self.distances = np.empty((splits, classes.n))
        buffer = Buffer(feature, labels, n_features)
        super().__init__(buffer, arranged, splits, memory, len(labels))

    def _bytes(self) -> int:
        return self._shape[0] * self._shape[1] * 8

    def begin(self) -> None:
        super().begin()
        self._total = None

    def _multiply(self, values: Floats, rows: NDArray[np.int64]) -> None:
        block = self._block
        if self._sums is None or self._total is None:
            self._sums = np.zeros((block.stop - block.start, *self._shape))
            self._total = np.zeros(self._shape)
        drawn = self._arranged.take(rows, block).astype(np.float64)
        labels = self._classes.labels[rows]
        for c in np.unique(labels):
            of_class = labels == c
            self._sums[:, c] += drawn[:, of_class] @ values[of_class]
            self._total[c] += values[of_class].sum(axis=0)

    def end_pass(self) -> bool:
        self.close()
        assert self._sums is not None
        assert self._total is not None
        block = self._block
        half = self._arranged.counts(block)[..., 1]
        half = np.broadcast_to(half, (block.stop - block.start, len(self._total)))
        for split, sums, count in zip(
            range(block.start, block.stop), self._sums, half, strict=True
        ):
            rest = (self._classes.counts - count)[:, None]
            away = sums / count[:, None] - (self._total - sums) / rest
            self.distances[split] = np.sqrt(np.square(away).sum(axis=1))
        self._next = block.stop
        self._sums = self._total = None
        return self._next < self._many


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
