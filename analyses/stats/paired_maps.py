"""What a comparison needs of one feature of one store: some maps whole, means of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.collecting import joined
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.passes import Arrays
from frictionstore.analyses.core.source import mode_name
from frictionstore.analyses.stats import similarity

Floats = NDArray[np.float64]
GROUPS = 20
"""Groups of images that the jackknife leaves out in turn."""


@dataclass
class Gathered:
    """What is gathered of one feature of one store.

    Attributes
    ----------
    held
        float32 (n_held, row, col, mode): maps of the images that are held, in their order.
    means
        float64 (n_common, mode): means over patches.
    moments
        Of all common images.
    distances
        Crossnobis distances of the classes; None without enough of them.
    """

    held: NDArray[np.float32]
    means: Floats
    moments: Moments
    distances: Floats | None = None


class Gather:
    """The collector of one feature of one store."""

    state = ("_moments", "_rows")
    stays = ("found",)

    def __init__(
        self,
        feature: str,
        place: NDArray[np.int64],
        held: NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> None:
        self.features = (feature,)
        n_common = int((place >= 0).sum())
        self._place = place
        # Where each common image is held; others have no place.
        self._where = np.full(n_common + 1, -1, np.int64)
        self._where[held] = np.arange(len(held))
        self.found = Gathered(
            np.empty((len(held), *shape), np.float32), np.empty((n_common, shape[-1])),
            Moments(1, shape),
        )  # fmt: skip
        self._shape = shape
        self.begin()

    def begin(self) -> None:
        self._moments = Moments(1, self._shape)
        self._rows: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("place", "means", "where", "held")
        }

    def update(self, rows: slice, arrays: Arrays) -> None:
        place, values = self._place[rows], arrays[self.features[0]]
        common = place >= 0
        self._moments.update(values, np.where(common, 0, -1))
        where = self._where[place]
        of_chunk = {
            "place": place[common],
            "means": values[common].mean(axis=(1, 2), dtype=np.float64),
            "where": where[where >= 0],
            "held": values[where >= 0],
        }
        for name, rows_of in of_chunk.items():
            self._rows[name].append(rows_of)

    def end_pass(self) -> bool:
        rows = joined(self._rows)
        self.found.moments = self._moments
        self.found.means[rows["place"]] = rows["means"]
        self.found.held[rows["where"]] = rows["held"]
        return False


def mode_rows(
    first: Gathered, second: Gathered, parts: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> list[dict[str, Any]]:
    """Return how values correlate, mode by mode: over patches where grids agree, else of means.

    Where numbers of modes differ, means over all modes are compared.

    Parameters
    ----------
    first, second
        Of the same images.
    parts
        What the jackknife leaves out together: int64 (n_held,) of the images that are held, and
        (n_common,) of all.
    """
    patches = first.held.shape[1:3] == second.held.shape[1:3]
    modes = [one.held.shape[3] for one in (first, second)]
    by_mode = modes[0] == modes[1]
    by_patch = patches and by_mode
    rows = []
    for mode in range(modes[0]) if by_mode else [None]:
        which = slice(None) if mode is None else slice(mode, mode + 1)
        x, y = (
            one.held[..., which].reshape(len(one.held), -1).astype(np.float64)
            if by_patch
            else one.means[:, which].mean(axis=1, keepdims=True)
            for one in (first, second)
        )
        groups = parts[0] if by_patch else parts[1]
        found = similarity.image_correlation(x, y, groups)
        without = similarity.image_correlation(x - x.mean(axis=0), y - y.mean(axis=0), groups)
        rows.append(
            {"mode": "all" if mode is None else mode_name(mode, modes[0]),
             "of": "patches" if by_patch else "image means",
             "correlation": found.value, "correlation_low": found.low,
             "correlation_high": found.high,
             "rank_correlation": similarity.rank_correlation(x.reshape(-1), y.reshape(-1)),
             "without_mean_map": without.value, "without_mean_map_low": without.low,
             "without_mean_map_high": without.high, "images": len(x)}
        )  # fmt: skip
    return rows
