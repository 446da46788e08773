"""Ranks, without scipy.stats, which takes longer to import than most analyses to run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks along the last axis minus their mean; equal values share the mean of theirs."""
    n = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    differs = ordered[..., 1:] != ordered[..., :-1]
    place = np.broadcast_to(np.arange(n), ordered.shape)
    first, last = place.copy(), place.copy()
    first[..., 1:][~differs] = 0
    last[..., :-1][~differs] = n - 1
    np.maximum.accumulate(first, axis=-1, out=first)
    last = np.minimum.accumulate(last[..., ::-1], axis=-1)[..., ::-1]
    ranks = np.empty(ordered.shape)
    np.put_along_axis(ranks, order, (first + last - (n - 1)) / 2, axis=-1)
    return ranks
