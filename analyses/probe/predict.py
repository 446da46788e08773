"""The ridge probe on one map alone, on folds that are given: what it predicts of every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.pairing import Common
from frictionstore.analyses.core.passes import Passes
from frictionstore.analyses.core.source import MapStore, require_feature
from frictionstore.analyses.probe.held import HeldProbe
from frictionstore.analyses.probe.split import SetFit, Split
from frictionstore.analyses.probe.streamed import StreamedProbe

HELD = 64 << 20
"""Bytes of rows up to which they are held in memory and read once."""


def predict(
    store: MapStore, feature: str, split: Split, *, show_progress: bool = False
) -> NDArray[np.int64]:
    """Return the class that a map predicts of every image by the model that did not see it.

    Parameters
    ----------
    store
        Where the map is.
    feature
        A map over patches.
    split
        Labels and folds of the store's images.

    Returns
    -------
    int64 array of shape (n_images,), -1 for images without a fold.

    Raises
    ------
    AnalysisError
        If nothing varies in some training set.
    """
    width = store.grid[0] * store.grid[1] * require_feature(store, feature)
    n = store.n_images
    one = SetFit(
        name=feature, columns={feature: slice(0, width)},
        prediction=np.full(n, -1, np.int64), notebook_prediction=np.full(n, -1, np.int64),
        null_correct=np.zeros((split.n_folds, 0), np.int64),
        penalties=np.full(split.n_folds, np.nan), ends=[""] * split.n_folds,
        used=np.zeros(split.n_folds, np.int64),
    )  # fmt: skip
    passes = Passes(store)
    held = int((split.folds >= 0).sum()) * width * 8 <= HELD or width > split.smallest_training
    form = HeldProbe if held else StreamedProbe
    passes.share("probe", lambda: form({feature: width}, [one], split))
    passes.run(show_progress=show_progress)
    return one.prediction


def predict_common(
    store: MapStore,
    feature: str,
    common: Common,
    side: int,
    folds: NDArray[np.int64],
    *,
    show_progress: bool = False,
) -> NDArray[np.int64]:
    """Return `predict` of every common image, by one feature of the store that is this `side`."""
    n_folds, n_classes = int(folds.max()) + 1, len(common.classes)
    split = Split(
        common.of_rows(side, common.labels), common.of_rows(side, folds), n_folds, n_classes
    )
    of_rows = predict(store, feature, split, show_progress=show_progress)
    place = common.places[side]
    found = np.full(common.n, -1, np.int64)
    found[place[place >= 0]] = of_rows[place >= 0]
    return found
