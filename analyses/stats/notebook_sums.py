"""The notebook's class sums in float32: its F ratios cannot be had from exact variances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import Arrays
from frictionstore.analyses.core.source import Classes, mode_name

NOTEBOOK_THRESHOLD = 0.01


class NotebookSums:
    """Class sums and sums of squares as the notebook formed them: in float32, image by image.

    The differences of squares that it built on them are rounding noise where a position hardly
    varies, so what it printed cannot be had from exact variances. This is for comparison with
    old results and for nothing else. Squares of values above 1.8e19 overflow, as they did there.
    Of more images than one part has, parts are added: the notebook had fewer.
    """

    state = ("_sum", "_square")

    def __init__(self, feature: str, classes: Classes, shape: tuple[int, ...]) -> None:
        self.features = (feature,)
        self._feature = feature
        self._classes = classes
        self._shape = shape
        self.begin()

    def begin(self) -> None:
        self._sum = np.zeros((self._classes.n, *self._shape), np.float32)
        self._square = np.zeros((self._classes.n, *self._shape), np.float32)

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self._sum = found["_sum"] if first else self._sum + found["_sum"]
            self._square = found["_square"] if first else self._square + found["_square"]

    def update(self, rows: slice, arrays: Arrays) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            self._add(rows, arrays)

    def _add(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature].astype(np.float32, copy=False)
        labels = self._classes.labels[rows]
        for c in np.unique(labels[labels >= 0]):
            of_class = values[labels == c]
            # Adding along the first axis goes row by row, as the notebook's loop did.
            self._sum[c] = np.concatenate([self._sum[c][None], of_class]).sum(axis=0)
            square = np.concatenate([self._square[c][None], np.square(of_class)])
            self._square[c] = square.sum(axis=0)

    def end_pass(self) -> bool:
        return False

    def ratio(self) -> NDArray[np.float32]:
        """Return the notebook's F ratio, float32 of shape (row, col, mode)."""
        count = self._classes.counts.astype(np.float32)[:, None, None, None]
        with np.errstate(over="ignore", invalid="ignore"):
            mean = self._sum / count
            variance = self._square / count - np.square(mean)
            ratio = mean.var(axis=0, ddof=1) / (variance.mean(axis=0) + np.float32(1e-10))
        return np.asarray(ratio, np.float32)


def largest(values: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the index of the largest value, NaN ignored; the first of all if all are NaN."""
    filled = np.where(np.isnan(values), -np.inf, values)
    return tuple(int(i) for i in np.unravel_index(int(filled.argmax()), values.shape))


def notebook_figures(ratio: NDArray[np.float32], constant: NDArray[np.bool_]) -> dict[str, Any]:
    """Return what the notebook printed; its averages over modes count a constant mode as 0."""
    n_modes = ratio.shape[2]
    overall = np.where(constant, 0.0, ratio.astype(np.float64)).mean(axis=2)
    verdict = overall.max() > NOTEBOOK_THRESHOLD
    return {
        "overall_mean_f": float(overall.mean()),
        "overall_max_f": float(overall.max()),
        "overall_best_position": list(largest(overall)),
        "verdict": "POSITIONALLY DISCRIMINATIVE" if verdict else "NOT DISCRIMINATIVE",
        "per_mode": [
            {
                "mode": mode_name(mode, n_modes),
                "mean": float(of_mode.mean()),
                "max": float(of_mode.max()),
                "q95": float(np.quantile(of_mode, 0.95)),
                "best_position": list(largest(of_mode)),
            }
            for mode in range(n_modes)
            if not constant[mode]
            for of_mode in [ratio[..., mode].astype(np.float64)]
        ],
    }


def overflowed(ratio: NDArray[np.float32]) -> list[str]:
    """Return the sentence that says where the notebook's sums overflowed, if they did."""
    count = int((~np.isfinite(ratio)).sum())
    if not count:
        return []
    return [
        f"the notebook's sums in float32 overflow in {count} of {ratio.size} places: its F ratio "
        "is not defined there, and its verdict says nothing"
    ]
