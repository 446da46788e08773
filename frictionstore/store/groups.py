"""Groups of images in stores made of others: those of several joined, those of a part kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frictionstore.store.reader import Store


def joined_groups(parents: Sequence[Store]) -> tuple[list[str], list[NDArray[np.int32]]]:
    """All group names, and every parent's groups as positions in them; none if there are none."""
    joined = list(dict.fromkeys(name for store in parents for name in store.group_names))
    position = {name: number for number, name in enumerate(joined)}
    tables = [
        np.array([position[name] for name in store.group_names], np.int32) for store in parents
    ]
    there = [store.groups for store in parents]
    return joined, [
        table[groups] for table, groups in zip(tables, there, strict=True) if groups is not None
    ]


def groups_of(
    parent: Store, selected: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int32] | None]:
    """Names of the groups that chosen images have, and every image's position among them.

    Of images that were not chosen the position means nothing.
    """
    groups = parent.groups
    if groups is None:
        return [], None
    kept = np.unique(groups[selected])
    places = np.searchsorted(kept, groups).astype(np.int32)
    return [parent.group_names[number] for number in kept], places
