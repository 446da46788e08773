"""The centre and the edge of the patch grid, and the mean of each in every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.collecting import joined
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Extremes
from frictionstore.analyses.core.passes import Arrays

Floats = NDArray[np.float64]


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
    centre, edge, log_centre, log_edge
        float64 of shape (n_images, n_modes), also of decimal logarithms: NaN where a value is not
        positive.
    constant
        bool of shape (n_modes,): modes with one value in the whole map.
    """

    state = ("_rows", "_extremes")
    centre: Floats
    edge: Floats
    log_centre: Floats
    log_edge: Floats

    def __init__(self, feature: str, central: NDArray[np.bool_], n_modes: int) -> None:
        self.features = (feature,)
        self._feature = feature
        self._central = central
        self._n_modes = n_modes
        self.begin()

    def begin(self) -> None:
        names = ("centre", "edge", "log_centre", "log_edge")
        self._rows: dict[str, list[Floats]] = {name: [] for name in names}
        self._extremes = Extremes(self._n_modes)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        positive = np.where(values > 0, values, np.nan).astype(np.float64)
        logarithm = np.log10(positive)
        for name, part in (("centre", self._central), ("edge", ~self._central)):
            self._rows[name].append(values[:, part].mean(axis=1, dtype=np.float64))
            self._rows[f"log_{name}"].append(logarithm[:, part].mean(axis=1))
        self._extremes.update(values)

    def end_pass(self) -> bool:
        vars(self).update(joined(self._rows))
        self.constant = self._extremes.constant()
        return False
