"""Chosen images of a store, each chunk read once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.store.reader import Store


def gather(store: Store, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The images `rows` of an array, in the order given; one chunk is held at a time."""
    plan = store.header.arrays[name]
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    ends = np.flatnonzero(np.diff(ascending // plan.chunk_images)) + 1
    made: NDArray[Any] | None = None
    done = 0
    for some in np.split(ascending, ends):
        first = int(some[0])
        found = store.read(name, slice(first, int(some[-1]) + 1))[some - first]
        if made is None:
            made = np.empty((rows.size, *found.shape[1:]), dtype=found.dtype)
        made[order[done : done + some.size]] = found
        done += some.size
    assert made is not None
    return made
