"""New stores from finished ones: several into one, or some images of one.

The new store is complete in itself and has a request of its own, which names the parents by
fingerprint and digest. Values are copied, nothing is measured again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.format.fingerprint import differing
from frictionstore.format.ids import check_ids
from frictionstore.format.own_maps import format_of, map_specs
from frictionstore.format.plan import StorePlan
from frictionstore.progress import progress_bar
from frictionstore.store.gather import gather, only_classes, only_splits
from frictionstore.store.groups import groups_of, joined_groups
from frictionstore.store.reader import Store, open_store
from frictionstore.store.writer import StoreWriter
from frictionstore.text import printable
from frictionstore.version import __version__

# Parts of a request that say which images a store has and how it lies on disk. All others say how
# its values were measured: stores are merged only where those agree.
_OWN = frozenset(
    {
        "kind", "dataset", "count", "content_sha256", "maps", "shard_images", "parents", "ids",
        "selection", "classes",
    }
)  # fmt: skip


@dataclass(frozen=True)
class _Segment:
    """Images of one parent that follow each other in the new store."""

    store: Store
    rows: NDArray[np.int64]
    split: str
    prefix: str
    labels: NDArray[np.int32]
    groups: NDArray[np.int32] | None


def measurement(request: dict[str, Any]) -> dict[str, Any]:
    """The part of a request that says how values were measured: encoder, transform, conduit."""
    return {key: value for key, value in request.items() if key not in _OWN}


def merge(
    stores: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Store:
    """Put several stores into one, in the order given.

    Parameters
    ----------
    stores : sequence of str or path
        Two or more, measured in the same way: same encoder, transform, conduit and maps.
    out : path
    names : sequence of str, optional
        What to call each store's images in the new store's ``splits``. Default: the split in its
        request, or its own splits where it was merged itself, or the store's name.
    overwrite : bool
        Replace another store at `out`.
    show_progress : bool

    Returns
    -------
    Store
        Ids are kept; where two stores share one, all ids are prefixed with ``NAME/``. Classes are
        joined by name, and so are groups: two images of one group in different stores belong
        together.

    Raises
    ------
    RequestError
        The stores were not measured in the same way (the message says what differs), or their
        names are not distinct.
    """
    parents = [open_store(path) for path in stores]
    if len(parents) < 2:
        raise RequestError(f"merging takes two or more stores, {len(parents)} was given")
    _check_alike(parents)
    pieces = _named_pieces(parents, names)
    classes, relabelled = _joined_classes(parents)
    group_names, groups = joined_groups(parents)
    ids = [store.image_ids for store in parents]
    distinct = len(set().union(*(set(some.tolist()) for some in ids)))
    prefixed = distinct < sum(store.n_images for store in parents)
    segments = [
        _Segment(
            parents[which],
            np.arange(rows.start, rows.stop),
            name,
            f"{name}/" if prefixed else "",
            relabelled[which][rows],
            groups[which][rows] if groups else None,
        )
        for which, name, rows in pieces
    ]
    request = {
        **measurement(parents[0].request),
        "kind": "merge",
        "parents": [
            {
                **_parent(store),
                "splits": [name for which, name, _ in pieces if which == number],
            }
            for number, store in enumerate(parents)
        ],
        "ids": "prefixed with the split" if prefixed else "kept",
    }
    rows = _row_shapes(parents[0], parents[0].maps)
    names_of = (classes, group_names)
    return _write(Path(out), segments, rows, names_of, request, "merging", overwrite, show_progress)


def subset(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    maps: Sequence[str] | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Store:
    """Some images of a store, in its order.

    Parameters
    ----------
    store : str or path
    out : path
    classes : sequence of str, optional
        Only images of these classes; the new store has these classes only.
    splits : sequence of str, optional
        Only images of these splits of a merged store.
    limit : int, optional
        Only the first so many of the images that are left.
    maps : sequence of str, optional
        Only these maps.
    overwrite : bool
        Replace another store at `out`.
    show_progress : bool

    Returns
    -------
    Store

    Raises
    ------
    RequestError
        A class, split or map is not in the store, or no image is left.
    """
    parent = open_store(store)
    known = map_specs(parent.request)
    chosen_maps = parent.maps if maps is None else schema.check_maps(maps, known)
    for name in chosen_maps:
        _ = parent[name]
    keep = np.ones(parent.n_images, dtype=bool)
    labels, names = parent.labels, list(parent.class_names)
    if classes is not None:
        labels, names, keep = only_classes(parent, classes)
    kept_splits = only_splits(parent, splits)
    if splits is not None:
        chosen = np.zeros(parent.n_images, dtype=bool)
        for rows in kept_splits.values():
            chosen[rows] = True
        keep &= chosen
    selected = np.flatnonzero(keep)
    if limit is not None:
        if limit < 1:
            raise RequestError(f"limit is {limit}: it must be 1 or more")
        selected = selected[:limit]
    if not selected.size:
        raise RequestError(f"no image of {printable(parent.location)} is in what was asked for")
    group_names, groups = groups_of(parent, selected)
    segments = [
        _Segment(parent, part, name, "", labels[part], None if groups is None else groups[part])
        for name, rows in kept_splits.items()
        if (part := selected[(selected >= rows.start) & (selected < rows.stop)]).size
    ]
    asked_for = {
        "classes": None if classes is None else names,
        "splits": None if splits is None else list(kept_splits),
        "limit": limit,
    }
    request = {
        **measurement(parent.request),
        "kind": "subset",
        "parents": [_parent(parent)],
        "selection": {key: value for key, value in asked_for.items() if value is not None},
    }
    rows_of, of = _row_shapes(parent, chosen_maps), (names, group_names)
    return _write(Path(out), segments, rows_of, of, request, "copying", overwrite, show_progress)


# ---- what goes in ----------------------------------------------------------------------------


def _check_alike(parents: list[Store]) -> None:
    first = parents[0]
    for other in parents[1:]:
        found = _differences(first, other)
        if found:
            raise RequestError(
                f"{printable(first.location)} and {printable(other.location)} cannot be merged: "
                f"{'; '.join(found[:3])}"
                + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
            )


def _differences(first: Store, other: Store) -> list[str]:
    """One phrase for everything in which two stores were measured differently."""
    mine, theirs = (measurement(store.request) for store in (first, other))
    phrases = [
        f"{key} is {one} in one and {two} in the other" for key, one, two in differing(mine, theirs)
    ]
    if first.maps != other.maps:
        phrases.append(f"one has maps {', '.join(first.maps)}, the other {', '.join(other.maps)}")
    if bool(first.group_names) != bool(other.group_names):
        with_groups = "first" if first.group_names else "second"
        phrases.append(f"only the {with_groups} says which images belong together (groups)")
    for name in first.maps:
        if name in other.maps:
            a, b = first.header.arrays[name].shape[1:], other.header.arrays[name].shape[1:]
            if a != b:
                phrases.append(f"{name} of one image has shape {a} in one and {b} in the other")
    return phrases


def _named_pieces(
    parents: list[Store], names: Sequence[str] | None
) -> list[tuple[int, str, slice]]:
    """Parent number, split name and rows of every piece of the merged store."""
    if names is not None and len(names) != len(parents):
        raise RequestError(f"{len(names)} names were given for {len(parents)} stores")
    pieces = []
    for number, store in enumerate(parents):
        if names is not None:
            pieces.append((number, names[number], slice(0, store.n_images)))
        elif store.splits:
            pieces += [(number, name, rows) for name, rows in store.splits.items()]
        else:
            dataset = store.request.get("dataset")
            split = dataset.get("split") if isinstance(dataset, dict) else None
            name = split if isinstance(split, str) and split else store.name
            pieces.append((number, name, slice(0, store.n_images)))
    seen: set[str] = set()
    for _, name, _ in pieces:
        if not name or "/" in name:
            raise RequestError(f"{printable(name, 60)!r} cannot name a split: it prefixes ids")
        if name in seen:
            raise RequestError(
                f"two of the stores are named {printable(name, 60)}: name them with",
                option="names=...",
            )
        seen.add(name)
    return pieces


def _joined_classes(parents: list[Store]) -> tuple[list[str], list[NDArray[np.int32]]]:
    """All class names, and every parent's labels as positions in them."""
    lists = [store.class_names for store in parents]
    if all(some == lists[0] for some in lists):
        return list(lists[0]), [store.labels for store in parents]
    for store in parents:
        if len(set(store.class_names)) != len(store.class_names):
            raise RequestError(
                f"{printable(store.location)} has two classes of one name and the stores' class "
                "lists differ: their labels cannot be joined"
            )
        if not store.class_names and (store.labels != schema.NO_LABEL).any():
            raise RequestError(
                f"{printable(store.location)} has labels without class names: they cannot be "
                "joined with the other stores' classes"
            )
    joined = list(dict.fromkeys(name for some in lists for name in some))
    position = {name: number for number, name in enumerate(joined)}
    labels = []
    for store in parents:
        # the last entry is where label -1 points
        table = np.array([*(position[name] for name in store.class_names), -1], dtype=np.int32)
        labels.append(table[store.labels])
    return joined, labels


def _parent(store: Store) -> dict[str, Any]:
    """What the new request keeps of a parent."""
    kept = {"fingerprint": store.fingerprint, "digest": store.digest, "count": store.n_images}
    if "dataset" in store.request:
        kept["dataset"] = store.request["dataset"]
    return kept


def _row_shapes(store: Store, maps: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {name: store.header.arrays[name].shape[1:] for name in maps}


# ---- what comes out --------------------------------------------------------------------------


def _write(
    target: Path,
    segments: list[_Segment],
    rows: dict[str, tuple[int, ...]],
    names_of: tuple[list[str], list[str]],
    request: dict[str, Any],
    label: str,
    overwrite: bool,
    show_progress: bool,
) -> Store:
    count = sum(segment.rows.size for segment in segments)
    if own := {n: said for n, said in request.pop("own_maps", {}).items() if n in rows}:
        request["own_maps"] = own
    specs = map_specs(request)
    shard_images = schema.default_shard_images(rows, count, specs)
    request = {
        **request,
        "format": format_of(request),
        "count": count,
        "maps": {name: specs[name].dtype for name in rows},
        "shard_images": shard_images,
    }
    classes, group_names = names_of
    attributes = _attributes(segments)
    if group_names:
        attributes[schema.GROUP_NAMES] = group_names
    plan = StorePlan(request, count, rows, shard_images, classes, attributes)
    check_ids(text for segment in segments for text in _ids(segment, segment.rows))
    with StoreWriter(target, plan, overwrite=overwrite) as writer:
        pending = writer.pending
        total = sum(len(plan.units[number]) for number in pending)
        with (
            progress_bar(total, label, show=show_progress) as advance,
            ThreadPoolExecutor(thread_name_prefix="frictionstore-combine") as pool,
        ):
            for number in pending:
                unit = plan.units[number]
                names = list(plan.arrays)
                arrays = pool.map(lambda name, unit=unit: _gather(segments, name, unit), names)
                writer.write_unit(number, dict(zip(names, arrays, strict=True)), {})
                advance(len(unit))
        writer.finalise(
            {
                "made_by": f"frictionstore {request['kind']}",
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {"frictionstore": __version__, "numpy": np.__version__},
                "parents": [
                    {"name": store.name, "digest": store.digest, "provenance": store.provenance}
                    for store in dict.fromkeys(segment.store for segment in segments)
                ],
            }
        )
    return open_store(target)


def _attributes(segments: list[_Segment]) -> dict[str, Any]:
    """Where each split lies, and what the parents had left out."""
    attributes: dict[str, Any] = {}
    if any(segment.split for segment in segments):
        first = 0
        splits = []
        for segment in segments:
            splits.append({"name": segment.split, "first": first, "count": segment.rows.size})
            first += segment.rows.size
        attributes["splits"] = splits
    skipped: dict[str, None] = {}
    for segment in segments:
        left_out = segment.store.attributes.get("skipped")
        if isinstance(left_out, list):
            skipped.update(dict.fromkeys(f"{segment.prefix}{text}" for text in left_out))
    if skipped:
        attributes["skipped"] = list(skipped)
    return attributes


def _gather(segments: list[_Segment], name: str, unit: range) -> NDArray[Any]:
    """One array of one unit, from whichever parents its images are of."""
    parts = []
    start = 0
    for segment in segments:
        first = max(unit.start - start, 0)
        last = min(unit.stop - start, segment.rows.size)
        if first < last:
            parts.append(_taken(segment, name, slice(first, last)))
        start += segment.rows.size
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _taken(segment: _Segment, name: str, part: slice) -> NDArray[Any]:
    rows = segment.rows[part]
    if name == "label":
        return segment.labels[part]
    if name == "group" and segment.groups is not None:
        return segment.groups[part]
    if name == "image_id":
        return np.array(_ids(segment, rows), dtype=object)
    return gather(segment.store, name, rows)


def _ids(segment: _Segment, rows: NDArray[np.int64]) -> list[str]:
    return [f"{segment.prefix}{text}" for text in segment.store.image_ids[rows].tolist()]
