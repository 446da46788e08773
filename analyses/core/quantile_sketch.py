"""The distribution of any number of values in bounded memory: exact of few, within a bound of more.

A deterministic compactor: values gather in a buffer; a full one is sorted, every other value is
kept for two, and joins those that count as much. What is kept is alternately the first and the
second of each two, so that errors in the same direction come from every other compaction only.

References
----------
Manku, Rajagopalan and Lindsay (1998), Approximate medians and other quantiles in one pass and with
limited memory, SIGMOD 27, 426-435.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 1 << 18
"""Values that are held before any is thrown away: fewer than that are ranked exactly."""


class QuantileSketch:
    """Ranks among the values that were added, `size` per level held at most.

    Parameters
    ----------
    size
        Even number of values at which a buffer is compacted.

    Attributes
    ----------
    n
        Values added.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.n = 0
        self._size = size
        self._levels: list[list[NDArray[Any]]] = [[]]
        self._compactions = [0]
        self._known: tuple[NDArray[Any], NDArray[np.float64]] | None = None

    @property
    def bound(self) -> float:
        """The most that a rank can be wrong by, as a share of the values; 0 if all are held.

        A compaction of values that count w each moves a rank by w or not at all, alternately up
        and down: k of them move it by w times k / 2, rounded up.
        """
        wrong = sum((1 << level) * -(-k // 2) for level, k in enumerate(self._compactions))
        return wrong / self.n if self.n else 0.0

    def add(self, values: NDArray[Any]) -> None:
        """Take in an array of values of any shape."""
        values = values.reshape(-1)
        self.n += values.size
        self._known = None
        while values.size:
            room = self._size - sum(map(len, self._levels[0]))
            self._levels[0].append(values[:room].copy())
            values = values[room:]
            self._compact()

    def absorb(self, other: QuantileSketch) -> None:
        """Take in the values that another of the same size was given."""
        self.n += other.n
        self._known = None
        for level, held in enumerate(other._levels):
            if level == len(self._levels):
                self._levels.append([])
                self._compactions.append(0)
            self._levels[level] += held
            one, two = self._compactions[level], other._compactions[level]
            # The last of both may have been wrong in one direction.
            self._compactions[level] = one + two + (one % 2 and two % 2)
        for level in range(len(other._levels)):
            self._compact(level)

    def _compact(self, level: int = 0) -> None:
        while sum(map(len, self._levels[level])) >= self._size:
            ordered = np.sort(np.concatenate(self._levels[level]))
            even = len(ordered) // 2 * 2  # of another's values one may be left over
            kept = ordered[:even][self._compactions[level] % 2 :: 2]
            self._compactions[level] += 1
            self._levels[level] = [ordered[even:]] if even < len(ordered) else []
            if level + 1 == len(self._levels):
                self._levels.append([])
                self._compactions.append(0)
            level += 1
            self._levels[level].append(kept)

    def ranks(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the share of the values added that are smaller, equal ones counting half."""
        if self._known is None:
            held = [np.concatenate(parts) if parts else np.empty(0) for parts in self._levels]
            weight = np.repeat([float(1 << k) for k in range(len(held))], [len(h) for h in held])
            together = np.concatenate([part for part in held if len(part)])
            order = np.argsort(together, kind="stable")
            self._known = together[order], np.concatenate([[0.0], np.cumsum(weight[order])])
        known, below = self._known
        flat = values.reshape(-1)
        order = np.argsort(flat)  # in order, neighbours search the same part of memory
        ordered = flat[order]
        placed = np.empty(len(order), np.float32)
        left = below[np.searchsorted(known, ordered, "left")]
        right = below[np.searchsorted(known, ordered, "right")]
        placed[order] = (left + right) / (2.0 * self.n)
        return placed.reshape(values.shape)
