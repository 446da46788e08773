"""Random arrangements of labels, of which any part can be had without the rest.

In every permutation an image has a key: the number at its row of a counter-based stream (Philox)
that belongs to the seed and the permutation. Labels are dealt in the order of the keys, so that an
arrangement is uniformly random and classes keep their sizes; and where one class ends and the next
begins among the keys is all that has to be known to label any image by itself. So no worker deals
what another deals, and nothing depends on how many permutations are drawn or how images are cut.

References
----------
Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import THREADS

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

_WORD = 64
_BLOCK = 4
"""Numbers that one step of Philox's counter gives."""


def stream(key: int, which: int, start: int, stop: int) -> Keys:
    """Return numbers `start` to `stop` - 1 of one stream, uint64."""
    first = start // _BLOCK
    made = np.random.Philox(key=np.array([key, which], np.uint64), counter=[first, 0, 0, 0])
    return np.asarray(made.random_raw(stop - first * _BLOCK)[start - first * _BLOCK :])


def stream_keys(seed: int, use: int, count: int) -> list[int]:
    """Return keys of streams that belong to a seed and a use of it."""
    return [int(k) for k in np.random.SeedSequence([seed, use]).generate_state(count, np.uint64)]


class _Ordered:
    """Labels arranged within strata, in the order of keys.

    A key has the stratum in its highest bits, so that strata stay apart, and the position in its
    lowest, so that no two are equal; between them it is random.
    """

    def __init__(self, labels: Ints, strata: Ints | None, n_classes: int, key: int) -> None:
        self._strata = None if strata is None else strata.astype(np.uint64)
        self._key = key
        n_strata = 1 if strata is None else int(strata.max(initial=0)) + 1
        self._places = int(n_strata - 1).bit_length()
        self._rows = len(labels).bit_length()
        assert self._places + self._rows <= _WORD - 16, "no room for randomness in a key"
        self._part = np.flatnonzero(labels >= 0)
        cell = labels[self._part]
        if strata is not None:
            cell = cell + n_classes * strata[self._part]
        cells, count = np.unique(cell, return_counts=True)
        self._label_of = (cells % n_classes).astype(np.int16 if n_classes < 1 << 15 else np.int32)
        self._ends = np.cumsum(count)[:-1]
        self._span = (0, len(labels))
        self._held: tuple[slice, Keys] | None = None

    def _keys(self, which: int, start: int, stop: int) -> Keys:
        keys = stream(self._key, which, start, stop) >> np.uint64(self._places)
        keys &= np.uint64((1 << _WORD) - (1 << self._rows))
        keys |= np.arange(start, stop, dtype=np.uint64)
        if self._strata is not None and self._places:
            keys |= self._strata[start:stop] << np.uint64(_WORD - self._places)
        return keys

    def _starts(self, which: int) -> Keys:
        """Return the key at which each label but the first begins, stratum by stratum."""
        if not len(self._ends):
            return np.empty(0, np.uint64)
        keys = self._keys(which, *self._span)
        if len(self._part) < len(keys):
            keys = keys[self._part]
        keys.sort()
        return np.asarray(keys[self._ends])

    def prepare(self, which: slice) -> None:
        """Find where labels begin in some permutations, for `take`."""
        if self._held is not None and self._held[0] == which:
            return
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(self._starts, range(which.start, which.stop)))
        self._held = which, np.array(found, np.uint64).reshape(len(found), len(self._ends))

    def take(self, index: Ints, which: slice) -> NDArray[Any]:
        """Return labels of positions, in order, shape (permutations, len(index))."""
        drawn = np.empty((which.stop - which.start, len(index)), self._label_of.dtype)
        if not drawn.size:
            return drawn
        if not len(self._label_of):
            drawn[:] = -1  # none of them takes part
            return drawn
        if self._held is None or not (
            self._held[0].start <= which.start and which.stop <= self._held[0].stop
        ):
            self.prepare(which)
        assert self._held is not None
        held, starts = self._held
        low, high = int(index[0]), int(index[-1]) + 1
        offset = None if high - low == len(index) else index - low
        for k, permutation in enumerate(range(which.start, which.stop)):
            keys = self._keys(permutation, low, high)
            keys = keys if offset is None else keys[offset]
            drawn[k] = self._label_of[starts[permutation - held.start].searchsorted(keys, "right")]
        return drawn


class Arrangements:
    """Labels of images, arranged at random as often as is asked for.

    Of images that belong together labels of groups of one class change places among these groups,
    as wholes; labels within any other group change places within it. Both leave the data's
    distribution as it is if classes do not differ, whatever images of one group have in common, and
    so do both together. Where groups differ in size, classes do not keep theirs.

    Parameters
    ----------
    labels
        int64 of shape (n_images,) in -1..n_classes-1; images with -1 take no part.
    n_classes
        Number of classes.
    seed, use
        Of one seed every use has arrangements of its own.
    strata
        int64 of shape (n_images,): labels change places within a stratum only. None is one.
    groups
        int64 of shape (n_images,): images that belong together, of one stratum. None is none.

    References
    ----------
    Winkler, Webster, Vidaurre, Nichols and Smith (2015), Multi-level block permutation, NeuroImage
    123, 253-268.
    """

    def __init__(
        self, labels: Ints, n_classes: int, seed: int, *, use: int = 0,
        strata: Ints | None = None, groups: Ints | None = None,
    ) -> None:  # fmt: skip
        self._n_classes = n_classes
        self._n_strata = 1 if strata is None else int(strata.max(initial=0)) + 1
        of_images, of_groups = stream_keys(seed, use, 2)
        self._of: Ints | None = None
        self._drawn: tuple[slice, NDArray[Any]] | None = None
        part = labels >= 0
        of_stratum = np.zeros(len(labels), np.int64) if strata is None else strata
        alone = part
        if groups is not None:
            number, of = np.unique(groups[part], return_inverse=True)
            lowest, highest = np.full(len(number), n_classes), np.full(len(number), -1)
            np.minimum.at(lowest, of, labels[part])
            np.maximum.at(highest, of, labels[part])
            whole = lowest == highest
            self._of = np.full(len(labels), -1)
            self._of[part] = np.where(whole[of], of, -1)
            self._group_stratum = np.zeros(len(number), np.int64)
            self._group_stratum[of] = of_stratum[part]
            self._size = np.bincount(of, minlength=len(number)) * whole
            self._groups = _Ordered(
                np.where(whole, lowest, -1), self._group_stratum, n_classes, of_groups
            )
            alone = part & (self._of < 0)
            strata = np.zeros(len(labels), np.int64)
            strata[alone] = np.unique(groups[alone], return_inverse=True)[1]
        self._images = _Ordered(np.where(alone, labels, -1), strata, n_classes, of_images)
        cells = of_stratum[alone] * n_classes + labels[alone]
        counts = np.bincount(cells, minlength=self._n_strata * n_classes)
        self._fixed = counts.reshape(self._n_strata, n_classes)

    def prepare(self, which: slice) -> None:
        """Be ready to `take` of some permutations, as a copy that is sent elsewhere should be."""
        self._images.prepare(which)
        if self._of is not None and (self._drawn is None or self._drawn[0] != which):
            self._drawn = which, self._groups.take(np.arange(len(self._size)), which)

    def take(self, index: Ints, which: slice) -> NDArray[Any]:
        """Return the labels of some images in some permutations.

        Parameters
        ----------
        index
            Rows of images that take part, in order, int64 of shape (m,).
        which
            Permutations, with a start and a stop.

        Returns
        -------
        Integer array of shape (permutations, m).
        """
        if self._of is None:
            return self._images.take(index, which)
        held = self._whole(which)
        group = self._of[index]
        drawn = held[:, group]
        single = group < 0
        if single.any():
            drawn[:, single] = self._images.take(index[single], which)
        return drawn

    def _whole(self, which: slice) -> NDArray[Any]:
        held = self._drawn
        if held is None or not (held[0].start <= which.start and which.stop <= held[0].stop):
            return self._groups.take(np.arange(len(self._size)), which)
        return held[1][which.start - held[0].start : which.stop - held[0].start]

    def counts(self, which: slice) -> Ints:
        """Return images of each class: (n_strata, n_classes), the same in every permutation.

        With groups (permutations, n_strata, n_classes).
        """
        if self._of is None:
            return self._fixed
        drawn = self._whole(which)
        shape = (self._n_strata, self._n_classes)
        # Groups that are not whole have no label, and count for nothing.
        cells = np.maximum(drawn, 0) + self._group_stratum * self._n_classes
        return (
            np.array(
                [
                    np.bincount(row, self._size, shape[0] * shape[1])
                    .astype(np.int64)
                    .reshape(shape)
                    for row in cells
                ]
            ).reshape(len(drawn), *shape)
            + self._fixed
        )
