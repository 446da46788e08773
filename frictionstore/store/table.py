"""One row an image: ids, labels, splits and figures of each image's maps, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.format import schema
from frictionstore.text import printable

if TYPE_CHECKING:
    import pandas as pd

Store = Any  # an open store, which makes these itself: to import its type would be a circle

FIGURES = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max}
"""What can be said of one mode of one image's map."""

BLOCK_IMAGES = 4096  # rows of a table that are made at once


def index_columns(store: Store, rows: slice) -> dict[str, NDArray[Any]]:
    """``image_id``, ``label``, ``class`` and, where there are any, ``split`` and ``group``.

    Texts are Python strings; None stands for no class.
    """
    labels = store.labels[rows]
    names = np.array([*store.class_names, None], dtype=object)  # the last is where -1 points
    known = labels if store.class_names else np.full_like(labels, -1)
    columns = {
        "image_id": store.image_ids[rows].astype(object),
        "label": labels,
        "class": names[known],
    }
    if store.splits:
        split = np.empty(len(labels), dtype=object)
        for name, part in store.splits.items():
            split[max(part.start - rows.start, 0) : max(part.stop - rows.start, 0)] = name
        columns["split"] = split
    if "group" in store:
        groups = np.array(store.group_names, dtype=object)
        columns["group"] = groups[store.read("group", rows)]
    return columns


def summed_up(spec: schema.MapSpec, values: NDArray[Any], figure: str) -> NDArray[np.float64]:
    """A figure of each image and mode, shape (image, mode); (image, 1) without a mode axis.

    It is over all patches, and over the repeats where there are any.
    """
    kept = spec.mode_axis if spec.modes else None
    moved = values if kept is None else np.moveaxis(values, kept, 1)
    flat = moved.reshape(len(values), 1 if kept is None else moved.shape[1], -1)
    return FIGURES[figure](flat.astype(np.float64), axis=2)  # type: ignore[operator]


def map_columns(store: Store, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Columns ``MAP_MODE_mean``, or ``MAP_mean`` of a map without modes."""
    columns = {}
    for name, values in arrays.items():
        spec = store.header.arrays[name].spec
        found = summed_up(spec, values, "mean")
        for mode in range(found.shape[1]):
            key = f"{name}_{mode}_mean" if spec.modes else f"{name}_mean"
            columns[key] = found[:, mode]
    return columns


def checked_maps(store: Store, maps: Iterable[str] | str) -> list[str]:
    """Names of maps of the store, without repeats.

    Raises
    ------
    StoreError
        One is not among them.
    """
    names = [maps] if isinstance(maps, str) else list(dict.fromkeys(maps))
    for name in names:
        if name not in store.maps:
            store.refuse_name(name)
    return names


def blocks(
    store: Store, maps: Iterable[str] | str
) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
    """Rows, and the maps of these images; without maps, blocks of `BLOCK_IMAGES`."""
    names = checked_maps(store, maps)
    if names:
        yield from store.iter_chunks(names)
        return
    for first in range(0, store.n_images, BLOCK_IMAGES):
        yield slice(first, min(first + BLOCK_IMAGES, store.n_images)), {}


def to_pandas(store: Store, maps: Iterable[str] | str) -> pd.DataFrame:
    """See `Store.to_pandas`."""
    import pandas as pd

    columns: dict[str, Any] = index_columns(store, slice(0, store.n_images))
    parts = [map_columns(store, arrays) for _, arrays in blocks(store, maps)]
    for key in parts[0]:
        columns[key] = np.concatenate([part[key] for part in parts])
    made = pd.DataFrame(columns)
    if store.class_names and len(set(store.class_names)) == len(store.class_names):
        made["class"] = pd.Categorical.from_codes(store.labels, categories=store.class_names)
    made.attrs = {"store": printable(store.name), "digest": store.digest}
    return made
