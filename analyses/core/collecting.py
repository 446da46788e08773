"""Parts of a store's images, and how what was seen of each comes together, in their order.

A collector is fed a part at a time: a copy of it that has seen nothing takes in the part's chunks,
and what the copy has seen is merged. Which process does a part, and when, changes no digit.
"""

from __future__ import annotations

from copy import copy
from typing import Any, cast

import numpy as np

from frictionstore.analyses.core.source import MapStore

PART_IMAGES = 8192
"""Images of a part at least: to merge what was seen of one costs the same, however few they are."""

MOST_PARTS = 64
"""Parts of a store at most; what was seen of each may cross a network."""


def parts(store: MapStore) -> list[slice]:
    """Return the rows of each part of a store, of all images that it was selected from.

    Their length is `PART_IMAGES` times a power of two, so that they begin where chunks do.
    """
    n = getattr(store, "n_stored", store.n_images)
    length = PART_IMAGES
    while n > MOST_PARTS * length:
        length *= 2
    return [slice(start, min(start + length, n)) for start in range(0, n, length)]


def images_of(store: MapStore, part: slice) -> int:
    """Return how many images a part has: of selected ones fewer than are stored."""
    count = getattr(store, "images_of", None)
    return part.stop - part.start if count is None else int(count(part))


def part_of(collector: Any) -> Any:
    """Return a copy of a collector that has seen nothing: all that a part needs of it.

    What `state` names it has anew (`begin`), what `stays` names it has not at all.
    """
    if hasattr(collector, "part"):
        return collector.part()
    made = copy(collector)
    for name in getattr(made, "stays", ()):
        made.__dict__.pop(name, None)
    made.begin()
    return made


def seen(part: Any) -> dict[str, Any]:
    """Return what a collector, or its copy for a part, has seen."""
    if hasattr(part, "seen"):
        return cast("dict[str, Any]", part.seen())
    if hasattr(part, "close"):
        part.close()
    return {name: getattr(part, name) for name in part.state}


def merge(collector: Any, found: dict[str, Any], *, first: bool) -> None:
    """Add to a collector what was seen of the next part; of the first, instead of all before."""
    if hasattr(collector, "merge"):
        collector.merge(found, first=first)
        return
    for name, values in found.items():
        before = None if first else getattr(collector, name)
        setattr(collector, name, merged(before, values))


def merged(before: Any, values: Any) -> Any:
    """Return two parts' state together: numbers and arrays added, lists in order, by key.

    Other objects have `absorb(other)`. None is nothing seen; what was `before` may be changed.
    """
    if before is None or values is None:
        return values if before is None else before
    if hasattr(before, "absorb"):
        before.absorb(values)
    elif isinstance(before, dict):
        for key, value in values.items():
            before[key] = merged(before.get(key), value)
    elif isinstance(before, (list, np.ndarray)):
        before += values
    else:
        return before + values
    return before


def joined(rows: dict[str, list[Any]]) -> dict[str, Any]:
    """Return arrays of all images from what each chunk gave, and let go of that."""
    return {name: np.concatenate(rows.pop(name)) for name in list(rows)}
