"""The notebook's own probe: one split of its first images, lambda 1 and no intercept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import THREADS, Arrays
from frictionstore.analyses.probe.ridge import one_hot
from frictionstore.analyses.probe.split import Floats, Probe, SetFit, Split

NOTEBOOK_LAMBDA = 1.0
NOTEBOOK_STD = 1e-6
"""The least standard deviation (ddof 1) that the notebook divides by."""


class NotebookProbe(Probe):
    """The notebook's probe after one pass; parameters as `Probe`'s, on the notebook's split."""

    def update(self, rows: slice, arrays: Arrays) -> None:
        self._rows.add(rows, arrays)

    def end_pass(self) -> bool:
        index, values = self._rows.take()

        def fit(one: SetFit) -> None:
            fit_notebook(one, self._split, index, one.select(values))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(fit, self._sets))
        return False


def fit_notebook(one: SetFit, split: Split, index: NDArray[np.int64], columns: Floats) -> None:
    """Predict training and test images of the notebook's split (groups 1 and 0) from one set.

    Parameters
    ----------
    one
        Where the predictions are kept.
    split
        The notebook's split.
    index
        Numbers of the images held, (n,).
    columns
        Their columns of this set, (n, d), with any constant taken off each column.
    """
    group = split.folds[index]
    taken = np.flatnonzero(group >= 0)
    train = np.flatnonzero(group == 1)
    x = columns[train]
    used = x.min(axis=0) < x.max(axis=0)
    one.notebook_used = int(used.sum())
    if not used.any():
        return
    x = x[:, used]
    mean = x.mean(axis=0)
    scale = np.maximum(x.std(axis=0, ddof=1), NOTEBOOK_STD)
    x -= mean
    x /= scale
    target = one_hot(split.labels[index[train]], split.n_classes)
    if x.shape[1] <= len(x):
        weights = np.linalg.solve(x.T @ x + NOTEBOOK_LAMBDA * np.eye(x.shape[1]), x.T @ target)
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + NOTEBOOK_LAMBDA * np.eye(len(x)), target)
    scores = ((columns[taken][:, used] - mean) / scale) @ weights
    one.notebook_prediction[index[taken]] = scores.argmax(axis=1)
