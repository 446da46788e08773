"""Correlation of the logarithms of two maps, mode by mode."""

from __future__ import annotations

from typing import Any

import numpy as np

from frictionstore.check.agreement import Arrays, Floats, logarithm


class LogCorrelation:
    """Correlation of the logarithms of two maps over images and patches, by mode.

    Attributes
    ----------
    correlation
        float64 of shape (n_modes,); NaN where one of them is constant or has a value of 0 or less.
    """

    state = ("_n", "_mean", "_products")

    def __init__(self, first: str, second: str) -> None:
        self.features = (first, second)
        self.begin()

    def begin(self) -> None:
        self._n = 0
        self._mean: Any = 0.0
        self._products: Any = 0.0

    def update(self, rows: slice, arrays: Arrays) -> None:
        pair = np.stack([logarithm(arrays[name]) for name in self.features])
        pair = pair.reshape(2, -1, pair.shape[-1])
        n = pair.shape[1]
        mean = pair.mean(axis=1)
        pair -= mean[:, None]
        self._add(n, mean, np.einsum("apm,bpm->abm", pair, pair))

    def _add(self, n: int, mean: Any, products: Any) -> None:
        if not n:
            return
        apart = mean - self._mean
        weight = self._n * n / (self._n + n)
        self._products = self._products + products + np.einsum("am,bm->abm", apart, apart) * weight
        self._mean = self._mean + apart * (n / (self._n + n))
        self._n += n

    def merge(self, found: dict[str, Any], *, first: bool) -> None:
        if first:
            self.begin()
        self._add(*(found[name] for name in self.state))

    def end_pass(self) -> bool:
        xx, yy, xy = self._products[0, 0], self._products[1, 1], self._products[0, 1]
        size = np.sqrt(xx * yy)
        self.correlation: Floats = np.divide(
            xy, size, out=np.full(size.shape, np.nan), where=size > 0
        )
        return False
