"""The centre and the edge of the patch grid, and the mean of each in every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Extremes
from frictionstore.analyses.core.passes import Arrays
from frictionstore.analyses.core.rows import ImageRows

MEANS = ("centre", "edge", "log_centre", "log_edge")


def central_block(rows: int, cols: int, border: int | None = None) -> NDArray[np.bool_]:
    """Return which patches are central, bool of shape (rows, cols).

    Parameters
    ----------
    rows, cols
        Size of the grid.
    border
        Width of the edge in patches; None takes a quarter of each side, as the notebook did.

    Raises
    ------
    AnalysisError
        If no patch is left in the centre or none at the edge.
    """
    down, across = (rows // 4, cols // 4) if border is None else (border, border)
    central = np.zeros((rows, cols), bool)
    if down >= 0 and across >= 0:
        central[down : rows - down, across : cols - across] = True
    if central.all() or not central.any():
        widest = (min(rows, cols) - 1) // 2
        asked = f"a quarter of a {rows} x {cols} grid" if border is None else f"border {border}"
        part = "edge" if central.all() else "centre"
        remedy = (
            f"a border from 1 to {widest} leaves some of both"
            if widest >= 1
            else "center-edge needs at least 3 patches a side"
        )
        raise AnalysisError(
            f"{asked} leaves no patch for the {part} of a {rows} x {cols} grid: {remedy}"
        )
    return central


class RegionMeans:
    """Mean over the central and the edge patches of every image and mode.

    Attributes
    ----------
    rows
        `MEANS` of all images, float64 of shape (n_images, n_modes): of the values, and of their
        decimal logarithms, NaN where a value is not positive.
    constant
        bool of shape (n_modes,): modes with one value in the whole map.
    """

    state = ("rows", "_extremes")

    def __init__(
        self, feature: str, central: NDArray[np.bool_], n_modes: int, n_images: int
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        self._central = central
        self._n_modes = n_modes
        self._n_images = n_images
        self.begin()

    def begin(self) -> None:
        self.rows = ImageRows(self._n_images)
        self._extremes = Extremes(self._n_modes)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        positive = np.where(values > 0, values, np.nan).astype(np.float64)
        logarithm = np.log10(positive)
        found = {}
        for name, part in (("centre", self._central), ("edge", ~self._central)):
            found[name] = values[:, part].mean(axis=1, dtype=np.float64)
            found[f"log_{name}"] = logarithm[:, part].mean(axis=1)
        self.rows.add(found)
        self._extremes.update(values)

    def end_pass(self) -> bool:
        self.rows.whole()
        self.constant = self._extremes.constant()
        return False
