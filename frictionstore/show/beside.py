"""Whether two stores can be looked at side by side."""

from __future__ import annotations

from frictionstore.errors import RequestError
from frictionstore.store.reader import Store
from frictionstore.text import printable


def common_images(store: Store, beside: Store) -> int:
    """Number of images that two stores have, by id, where their maps can be compared.

    Raises
    ------
    RequestError
        No map has the same patch grid and modes in both, or no image is in both.
    """
    a, b = (printable(one.location) for one in (store, beside))
    if store.grid != beside.grid:
        (rows, cols), (other_rows, other_cols) = store.grid, beside.grid
        raise RequestError(
            f"{b} has {other_rows} x {other_cols} patches and {a} {rows} x {cols}: maps are "
            "compared patch by patch, so view each alone"
        )
    arrays, others = store.header.arrays, beside.header.arrays
    maps = [name for name in store.maps if name in others and "row" in arrays[name].spec.dims]
    if not maps:
        raise RequestError(
            f"{b} has none of the maps that {a} has: extract one of them again with the maps of "
            "the other, or view each alone"
        )
    if all(arrays[name].shape[1:] != others[name].shape[1:] for name in maps):
        modes, other_modes = (some[maps[0]].shape[3] for some in (arrays, others))
        raise RequestError(
            f"{maps[0]} has {other_modes} modes in {b} and {modes} in {a}, and no map has as many "
            "in both: maps are compared mode by mode, so view each alone"
        )
    ids = [one.image_ids.tolist() for one in (store, beside)]
    common = len(set(ids[0]).intersection(ids[1]))
    if common == 0:
        raise RequestError(
            f"{b} and {a} have no image in common: images are compared by id, and the first is "
            f"{printable(ids[1][0], 60)!r} in one and {printable(ids[0][0], 60)!r} in the other"
        )
    return common
