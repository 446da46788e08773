"""Make a store from arrays somebody already has, such as tensors a notebook saved."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.format.groups import numbered
from frictionstore.format.ids import check_id, check_ids, check_text
from frictionstore.format.own_maps import OwnMap, format_of, map_specs
from frictionstore.format.plan import StorePlan
from frictionstore.store.reader import Store, open_store
from frictionstore.store.writer import StoreWriter
from frictionstore.text import did_you_mean, listed, printable
from frictionstore.version import __version__

MOST_UNNAMED_CLASSES = 1_000_000
VISIBLE_ORDER = 0.9  # share of neighbouring modes that must agree for an order to be seen


def from_arrays(
    path: str | os.PathLike[str],
    maps: Mapping[str, Any],
    *,
    own: Mapping[str, OwnMap] | None = None,
    label: Any = None,
    class_names: Sequence[str] | None = None,
    image_id: Sequence[str] | None = None,
    group: Any = None,
    mode_order: str = schema.MODE_ORDER,
    overwrite: bool = False,
    shard_images: int | None = None,
) -> Store:
    """Write a complete store from arrays; its request is marked as imported.

    Parameters
    ----------
    path : path
        The store to make.
    maps : mapping of map name to array
        ``S``, ``friction``, ``settle``, ... (`frictionstore.format.schema.MAPS`), each of shape
        (image, row, col, mode) or as the registry says; repeats (``friction_repeats``, ...) have a
        fifth axis. Anything `numpy.asarray` takes.
    own : mapping of map name to OwnMap, optional
        What the maps are that the registry does not have: each has a description, and dims, a
        dtype and a unit (`frictionstore.OwnMap`). Every analysis takes them as it takes the others.
    label : array of int, shape (image,), optional
        Position in `class_names`, -1 for none. Default: none of the images has a label.
    class_names : sequence of str, optional
        Default: ``"0"``, ``"1"``, ... as far as the labels need.
    image_id : sequence of str, optional
        Default: the position, ``"0"``, ``"1"``, ...
    group : sequence of str or int, shape (image,), optional
        Which images belong together, such as the photograph that each was cropped from. Analyses
        take images of different groups as independent, and of one group not.
    mode_order : {"descending", "ascending"}
        Order of the mode axis in the arrays given. ``"ascending"`` is the order in which the
        solver upstream gives friction and settle; they are reversed on the way in. Singular
        values show their order themselves: ``S`` and ``S_orig`` are left alone where they
        already stand largest first (as upstream gives them).
    overwrite : bool
        Replace another store at `path`.
    shard_images : int, optional
        Images per shard, a power of two.

    Returns
    -------
    Store
        The finished store, open for reading.

    Raises
    ------
    RequestError
        Shapes, dtypes or values do not fit; NaN and infinite values are named by image.
    StoreError
        `path` holds something else.
    """
    request = _described(maps, own or {})
    specs = map_specs(request)
    arrays, ids = _images(maps, specs, image_id, mode_order)
    n = len(ids)
    labels, classes = _checked_labels(label, class_names, n)
    index: dict[str, NDArray[Any]] = {"label": labels, "image_id": ids}
    attributes = {}
    if group is not None:
        index["group"], attributes[schema.GROUP_NAMES] = _groups(group, n)
    rows = {name: array.shape[1:] for name, array in arrays.items()}
    if shard_images is None:
        shard_images = schema.default_shard_images(rows, n, specs)
    texts = [*classes, *attributes.get(schema.GROUP_NAMES, [])]
    request |= {
        "format": format_of(request),
        "count": n,
        "content_sha256": _content_hash({**arrays, **index}, texts),
        "maps": {name: specs[name].dtype for name in arrays},
        "shard_images": shard_images,
    }
    plan = StorePlan(request, n, rows, shard_images, classes, attributes)
    _write(Path(path), plan, {**arrays, **index}, overwrite)
    return open_store(path)


def _described(maps: Mapping[str, Any], own: Mapping[str, OwnMap]) -> dict[str, Any]:
    """What the request says of maps that the registry does not have."""
    absent = [name for name in own if name not in maps]
    if absent:
        raise RequestError(f"own describes the map {absent[0]}, which is not among the maps")
    declared = {"own_maps": {name: one.as_json() for name, one in own.items()}} if own else {}
    return {"kind": "import", **declared}


def _images(
    maps: Mapping[str, Any],
    specs: Mapping[str, schema.MapSpec],
    image_id: Sequence[str] | None,
    mode_order: str,
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """The maps as they are stored, and the ids of their images."""
    names = schema.check_maps(maps, specs)
    if mode_order not in ("descending", "ascending"):
        raise RequestError(
            f"mode_order is {mode_order!r}: it must be 'descending' (largest singular value "
            "first) or 'ascending'" + did_you_mean(mode_order, ("descending", "ascending"))
        )
    arrays = {name: np.asarray(maps[name]) for name in names}
    ids = _image_ids(image_id, _check_shapes(arrays, specs))
    for name in names:
        arrays[name] = _converted(specs[name], arrays[name], ids)
        if specs[name].modes:
            arrays[name] = _largest_first(specs[name], arrays[name], mode_order)
    return arrays, ids


def _write(
    path: Path, plan: StorePlan, arrays: Mapping[str, NDArray[Any]], overwrite: bool
) -> None:
    with StoreWriter(path, plan, overwrite=overwrite) as writer:
        for number in writer.pending:
            unit = plan.units[number]
            part = slice(unit.start, unit.stop)
            writer.write_unit(number, {name: array[part] for name, array in arrays.items()}, {})
        writer.finalise(
            {
                "made_by": "frictionstore.from_arrays",
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {
                    "frictionstore": __version__,
                    "numpy": np.__version__,
                    "python": platform.python_version(),
                },
            }
        )


def _check_shapes(arrays: Mapping[str, NDArray[Any]], specs: Mapping[str, schema.MapSpec]) -> int:
    """Number of images; every array fits its dims and the others."""
    sizes: dict[str, tuple[str, int]] = {}
    for name, array in arrays.items():
        dims = specs[name].dims
        if array.ndim != len(dims):
            raise RequestError(
                f"{name} has shape {array.shape}: expected {len(dims)} axes ({', '.join(dims)})"
            )
        if 0 in array.shape:
            raise RequestError(f"{name} has shape {array.shape}: no axis may be empty")
        for dim, size in zip(dims, array.shape, strict=True):
            first, known = sizes.setdefault(dim, (name, size))
            if known != size:
                raise RequestError(f"{name} has {size} along {dim}, but {first} has {known}")
    if "channel" in sizes and sizes["channel"][1] != 3:
        raise RequestError(f"image has {sizes['channel'][1]} channels: expected 3 (RGB)")
    return sizes["image"][1]


def _converted(spec: schema.MapSpec, array: NDArray[Any], ids: NDArray[Any]) -> NDArray[Any]:
    """`array` in the schema's dtype, checked to hold only values that type and map can hold."""
    if array.dtype.kind not in "fiub":
        raise RequestError(f"{spec.name} has dtype {array.dtype}: expected numbers")
    axes = tuple(range(1, array.ndim))

    def bad_images(wrong: NDArray[Any], what: str, expected: str) -> None:
        rows = np.flatnonzero(wrong.any(axis=axes))
        if rows.size:
            raise RequestError(
                f"{spec.name} has {what} in {int(wrong.sum()):,} places of {rows.size:,} images "
                f"({listed([str(ids[row]) for row in rows[:6]], 5)}): {expected}"
            )

    bad_images(~np.isfinite(array), "NaN or infinite values", "leave these images out")
    if spec.dtype == "float32":
        with np.errstate(over="ignore"):
            made = array.astype(np.float32)
        bad_images(~np.isfinite(made), "values beyond float32", "leave these images out")
        return made
    highest = 255 if spec.fill_is_data else int(spec.fill) - 1
    bad_images((array < 0) | (array > highest), f"values outside 0 to {highest}", "check its dtype")
    bad_images(array != np.floor(array), "values that are not whole", "check its dtype")
    return array.astype(spec.dtype)


def _largest_first(spec: schema.MapSpec, array: NDArray[Any], mode_order: str) -> NDArray[Any]:
    """The mode axis with the largest singular value first."""
    name = spec.name
    if name in ("S", "S_orig") and array.shape[-1] > 1:
        steps = np.diff(array, axis=-1)
        falling, rising = float((steps < 0).mean()), float((steps > 0).mean())
        if falling >= VISIBLE_ORDER:
            return array
        if rising >= VISIBLE_ORDER and mode_order == "descending":
            raise RequestError(
                f"{name} rises along its mode axis, but mode_order is 'descending': say "
                "mode_order='ascending' if friction and settle are in that order too, or "
                f"reverse {name} yourself"
            )
    return array if mode_order == "descending" else np.flip(array, spec.mode_axis).copy()


def _checked_labels(
    label: Any, class_names: Sequence[str] | None, n: int
) -> tuple[NDArray[np.int32], list[str]]:
    labels, classes = _labels(label, class_names, n)
    for name in classes:
        check_text(name, f"class name {printable(name, 60)!r}")
    return labels, classes


def _labels(
    label: Any, class_names: Sequence[str] | None, n: int
) -> tuple[NDArray[np.int32], list[str]]:
    if label is None:
        return np.full(n, schema.NO_LABEL, np.int32), list(map(str, class_names or []))
    labels = np.asarray(label)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise RequestError(
            f"label has shape {labels.shape} and dtype {labels.dtype}: expected {n} whole numbers"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if class_names is None and highest >= MOST_UNNAMED_CLASSES:
        raise RequestError(
            f"label has the value {highest:,}, which without class_names makes as many classes: "
            f"number the classes from 0 (at most {MOST_UNNAMED_CLASSES:,}), or give class_names"
        )
    classes = [str(k) for k in range(highest + 1)] if class_names is None else list(class_names)
    if not all(isinstance(name, str) for name in classes):
        raise RequestError("class_names holds something that is not a string")
    if lowest < schema.NO_LABEL or highest >= len(classes):
        wrong = lowest if lowest < schema.NO_LABEL else highest
        raise RequestError(
            f"label has the value {wrong}, but there are {len(classes)} class names: "
            f"expected -1 (no label) to {len(classes) - 1}"
        )
    return labels.astype(np.int32), classes


def _groups(group: Any, n: int) -> tuple[NDArray[np.int32], list[str]]:
    """Each image's group as a position among the names, and these."""
    given = np.asarray(group)
    if given.shape != (n,) or given.dtype.kind not in "iuUO":
        raise RequestError(
            f"group has shape {given.shape} and dtype {given.dtype}: expected {n} texts or whole "
            "numbers"
        )
    texts = [str(one) for one in given.tolist() if isinstance(one, str | int)]
    if len(texts) < n:
        raise RequestError("group holds something that is neither text nor a whole number")
    groups, names = numbered(texts)
    for name in names:
        if not name:
            raise RequestError(f"group of image {texts.index(name)} is '': every image has a group")
        check_id(name, f"group {printable(name, 60)!r}")
    return groups, names


def _image_ids(image_id: Sequence[str] | None, n: int) -> NDArray[Any]:
    ids = [str(k) for k in range(n)] if image_id is None else [str(name) for name in image_id]
    if len(ids) != n:
        raise RequestError(f"image_id has {len(ids):,} names, but there are {n:,} images")
    check_ids(ids)
    return np.asarray(ids, dtype=object)


def _content_hash(arrays: Mapping[str, NDArray[Any]], classes: list[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        if array.dtype == object:
            for text in array:
                digest.update(str(text).encode("utf-8", "surrogatepass") + b"\0")
        else:
            digest.update(np.ascontiguousarray(array).data)
    for text in classes:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
