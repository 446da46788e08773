"""The documents of a store's arrays, held whole against those that the writer would write.

A reader of Zarr acts on all of its metadata, so all of it is compared, and what it makes a reader
allocate is bounded. Nothing here reads a file, and nothing here imports zarr or numpy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.format.plan import array_document, group_of
from frictionstore.text import printable

_text = json.JSONEncoder(sort_keys=True).encode
# What a store may claim of its decoded size: more is a mistake or an attack on a reader's memory.
LARGEST_CHUNK_BYTES = 1 << 28  # of one chunk; beyond schema.CHUNK_BYTES for one image only
LARGEST_UNIT_BYTES = 1 << 30  # of one shard, where it is more than one image


def check_arrays(group: dict[str, Any], where: str) -> dict[str, schema.ArrayPlan]:
    """The arrays of a group, from its parsed zarr.json.

    Raises
    ------
    StoreError
        The group or an array is not as the writer would write it, or claims more than readers take.
    """
    consolidated = group.get("consolidated_metadata")
    documents = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(consolidated, dict) or not isinstance(documents, dict):
        raise StoreError(f"{where} is damaged: zarr.json has no consolidated metadata")

    def fail(what: str) -> StoreError:
        return StoreError(f"{where}: its group has {what}")

    # without what is compared by itself, which can be megabytes
    attributes = {**group["attributes"], schema.ATTRIBUTES_KEY: {}}
    bare = {
        **group,
        "attributes": attributes,
        "consolidated_metadata": {**consolidated, "metadata": {}},
    }
    _check_same(bare, group_of({}, {}), fail)
    unknown = sorted(set(documents) - set(schema.ARRAYS))
    if unknown:
        raise StoreError(
            f"{where} has an array {printable(unknown[0])!r} that format 1 does not have"
        )
    missing = [name for name in schema.REQUIRED_INDEX if name not in documents]
    if missing:
        raise StoreError(f"{where} lacks the array {missing[0]}")
    if not set(documents) & set(schema.MAPS):
        raise StoreError(f"{where} has no map: expected some of {', '.join(schema.MAPS)}")
    arrays = {
        name: _check_array(spec, documents[name], where)
        for name, spec in schema.ARRAYS.items()
        if name in documents
    }
    label = arrays["label"]
    grid = None
    for name, plan in arrays.items():
        if plan.shape[0] != label.shape[0] or plan.shard_images != label.shard_images:
            raise StoreError(
                f"{where}: {name} has {plan.shape[0]:,} images in shards of {plan.shard_images:,}, "
                f"label has {label.shape[0]:,} in shards of {label.shard_images:,}"
            )
        if plan.spec.dims[1:3] == ("row", "col"):
            if grid is not None and plan.shape[1:3] != grid:
                raise StoreError(f"{where}: {name} has grid {plan.shape[1:3]}, other maps {grid}")
            grid = plan.shape[1:3]
    for dim in ("mode", "repeat"):
        depths = {
            plan.shape[plan.spec.dims.index(dim)]
            for plan in arrays.values()
            if dim in plan.spec.dims
        }
        if len(depths) > 1:
            raise StoreError(f"{where}: its maps have {sorted(depths)} {dim}s, expected one number")
    return arrays


def _check_array(spec: schema.MapSpec, document: object, where: str) -> schema.ArrayPlan:
    """Shape, chunks and shards of one array; everything else must be as the schema says."""

    def fail(what: str) -> StoreError:
        return StoreError(f"{where}: array {spec.name} has {what}")

    if not isinstance(document, dict):
        raise fail("no metadata")
    shape = document.get("shape")
    if not _positive_ints(shape) or len(shape) != len(spec.dims):
        raise fail(f"shape {printable(shape, 60)}, expected {len(spec.dims)} positive numbers")
    try:
        shard = document["chunk_grid"]["configuration"]["chunk_shape"]
        (sharding,) = document["codecs"]
        chunk = sharding["configuration"]["chunk_shape"]
        inner = sharding["configuration"]["codecs"]
        guarded = inner[-1]["name"] == "crc32c"
    except (KeyError, TypeError, ValueError, IndexError):
        raise fail("chunks or codecs that are not those of a sharded array") from None
    if not guarded:
        raise fail("chunks without a crc32c checksum")
    for label, value in (("shard", shard), ("chunk", chunk)):
        if not _positive_ints(value) or len(value) != len(shape) or value[1:] != shape[1:]:
            raise fail(f"{label} shape {printable(value, 60)}, which splits images")
    if schema.row_bytes(spec, tuple(chunk)) > LARGEST_CHUNK_BYTES:
        raise fail(f"chunks of {printable(chunk, 60)}, more than {LARGEST_CHUNK_BYTES:,} bytes")
    if shard[0] % chunk[0]:
        raise fail(f"shards of {shard[0]:,} images, no multiple of its chunks of {chunk[0]:,}")
    if chunk[0] > 1 and schema.row_bytes(spec, tuple(chunk)) > schema.CHUNK_BYTES:
        raise fail(f"chunks of {printable(chunk, 60)}, more than {schema.CHUNK_BYTES:,} bytes")
    images = min(shard[0], shape[0])
    if images > 1 and schema.row_bytes(spec, (images, *shape[1:])) > LARGEST_UNIT_BYTES:
        raise fail(f"shards of {printable(shard, 60)}, more than {LARGEST_UNIT_BYTES:,} bytes")
    plan = schema.ArrayPlan(spec, tuple(shape), chunk[0], shard[0])
    expected = array_document(plan)
    words = document.get("attributes")
    if not isinstance(words, dict) or not isinstance(words.get("description"), str):
        raise fail("no description and units in its attributes")
    # the one difference between versions: a description may say the same in other words
    said = {**document, "attributes": {**words, "description": plan.spec.description}}
    _check_same(said, expected, fail)
    return plan


def _check_same(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    fail: Callable[[str], StoreError],
    kind: str = "",
) -> None:
    """Metadata are what the writer writes and no more: a reader of Zarr acts on all of them."""
    if _text(found) == _text(expected):
        return  # text tells 3 from 3.0 and true
    for key in sorted(found.keys() | expected.keys()):
        shown = kind + printable(key, 60)
        if key not in expected:
            raise fail(f"{shown} {_short(found[key])}, which no store has")
        if key not in found:
            raise fail(f"no {shown}, expected {_short(expected[key])}")
        if key == "attributes" and isinstance(found[key], dict):
            _check_same(found[key], expected[key], fail, "the attribute ")
        elif _text(found[key]) != _text(expected[key]):
            where, there, due = _first_difference(found[key], expected[key])
            raise fail(f"{shown}{where} {_short(there)}, expected {_short(due)}")


def _first_difference(found: Any, expected: Any) -> tuple[str, Any, Any]:
    """Where two values differ, as deep as their shapes agree."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        keys = sorted(found, key=lambda key: (key != "name", key))  # a codec's name says most
        pairs = [(f".{key}", found[key], expected[key]) for key in keys]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = [(f"[{k}]", a, b) for k, (a, b) in enumerate(zip(found, expected, strict=True))]
    for where, a, b in pairs:
        if _text(a) != _text(b):
            inner, there, due = _first_difference(a, b)
            return where + inner, there, due
    return "", found, expected


def _short(value: object) -> str:
    return printable(json.dumps(value), 160)


def _positive_ints(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 < v < 1 << 40 for v in value
    )
