"""How far values moved from one measurement to another, counted a block of images at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.check.agreement import Arrays, Floats

_DROPPED = 14
"""Bits of a float32 that its place in a histogram does without: places are 0.2% wide."""


def relative_difference(values: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float32]:
    """Return |values - reference| / |reference| in float32; infinity where only that is 0."""
    reference = reference.astype(np.float64)
    apart = np.abs(values - reference)
    out = np.where(apart == 0, 0.0, np.inf)
    np.divide(apart, np.abs(reference), out=out, where=reference != 0)
    # What float32 cannot hold is infinite there.
    with np.errstate(over="ignore"):
        return out.astype(np.float32)


class Differences:
    """Relative differences of maps from a reference, over images, patches and these maps.

    Parameters
    ----------
    reference, others
        Names of maps.
    labels, n_classes
        Of the images, -1 for none.
    threshold
        Differences above it are counted.

    Attributes
    ----------
    share
        Share above the threshold, float64 of shape (row, col, mode).
    share_by_class
        The same, shape (class, mode); NaN for a class without images.
    """

    state = ("_n", "_by_class", "_above", "_above_by_class", "_counts")

    def __init__(
        self,
        reference: str,
        others: Sequence[str],
        labels: NDArray[np.integer[Any]],
        n_classes: int,
        threshold: float,
    ) -> None:
        self.features = (reference, *others)
        self._labels = labels
        self._threshold = threshold
        self._n_classes = n_classes
        self.begin()

    def begin(self) -> None:
        """Set to nothing seen."""
        self._n = 0
        self._by_class = np.zeros(self._n_classes, np.int64)
        self._above: Any = 0
        self._above_by_class: Any = 0
        self._counts: list[NDArray[np.int64]] = []

    def update(self, rows: slice, arrays: Arrays) -> None:
        reference = arrays[self.features[0]]
        labels = self._labels[rows]
        labelled = labels >= 0
        member = np.eye(len(self._by_class), dtype=np.int64)[labels[labelled]]
        for name in self.features[1:]:
            difference = relative_difference(arrays[name], reference)
            above = difference > self._threshold
            self._above = self._above + above.sum(axis=0)
            of_image = above.sum(axis=(1, 2))[labelled]
            self._above_by_class = self._above_by_class + member.T @ of_image
            self._n += len(difference)
            self._by_class += member.sum(axis=0)
            place = difference.view(np.int32) >> _DROPPED
            for mode in range(place.shape[-1]):
                self._count(mode, np.bincount(place[..., mode].reshape(-1)))

    def _count(self, mode: int, counts: NDArray[np.int64]) -> None:
        if mode == len(self._counts):
            self._counts.append(np.zeros(0, np.int64))
        held = self._counts[mode]
        longer = np.zeros(max(len(held), len(counts)), np.int64)
        longer[: len(held)] += held
        longer[: len(counts)] += counts
        self._counts[mode] = longer

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        """Add what another has seen, or take it for all that was seen."""
        if first:
            self.begin()
        for name in self.state[:-1]:
            setattr(self, name, getattr(self, name) + found[name])
        for mode, counts in enumerate(found["_counts"]):
            self._count(mode, counts)

    def end_pass(self) -> bool:
        self.share: Floats = self._above / self._n
        patches = self.share.shape[0] * self.share.shape[1]
        of_class = np.maximum(self._by_class, 1)[:, None] * patches
        self.share_by_class: Floats = np.where(
            self._by_class[:, None] > 0, self._above_by_class / of_class, np.nan
        )
        return False

    def quantile(self, q: float) -> Floats:
        """Return a quantile by mode, of shape (n_modes,), to 0.2%."""
        found = []
        for counts in self._counts:
            reached = np.cumsum(counts)
            place = int(np.searchsorted(reached, q * reached[-1]))
            middle = np.int32((place << _DROPPED) + (1 << (_DROPPED - 1)))
            value = float(middle.view(np.float32))
            # The first place holds 0, the one of infinity has no middle.
            found.append(0.0 if place == 0 else np.inf if np.isnan(value) else value)
        return np.array(found)
