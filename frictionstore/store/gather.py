"""Chosen images of a store: which they are, and their values, each chunk read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.store.reader import Store
from frictionstore.text import did_you_mean, listed, printable


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


def only_classes(
    parent: Store, classes: Sequence[str]
) -> tuple[NDArray[np.int32], list[str], NDArray[np.bool_]]:
    """Labels among the chosen classes, their names in the store's order, and which images stay."""
    unknown = [name for name in classes if name not in parent.class_names]
    if unknown:
        raise RequestError(
            f"{printable(parent.location)} has no class {printable(unknown[0], 60)!r}: it has "
            f"{listed(parent.class_names, 12) if parent.class_names else 'none'}"
            + did_you_mean(unknown[0], parent.class_names)
        )
    chosen = set(classes)
    kept = [number for number, name in enumerate(parent.class_names) if name in chosen]
    names = [parent.class_names[number] for number in kept]  # two of one name stay two
    table = np.full(len(parent.class_names) + 1, schema.NO_LABEL, dtype=np.int32)
    table[kept] = np.arange(len(kept))
    labels = table[parent.labels]
    return labels, names, labels != schema.NO_LABEL


def only_splits(parent: Store, splits: Sequence[str] | None) -> dict[str, slice]:
    there = parent.splits or {"": slice(0, parent.n_images)}
    if splits is None:
        return there
    unknown = [name for name in splits if name not in parent.splits]
    if unknown:
        raise RequestError(
            f"{printable(parent.location)} has no split {printable(unknown[0], 60)!r}: it has "
            f"{listed(list(parent.splits)) if parent.splits else 'none'}"
            + did_you_mean(unknown[0], parent.splits)
        )
    return {name: rows for name, rows in there.items() if name in set(splits)}
