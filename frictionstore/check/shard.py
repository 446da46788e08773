"""One shard file, decoded by itself and held against what is known of it and against the schema.

The decoder is not zarr's: it shares no code with what wrote the store. What is checked across
files is in `verify.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.errors import StoreError, UnreachableError
from frictionstore.format import schema
from frictionstore.format.frames import decode_chunk
from frictionstore.format.shards import CRC_BYTES, MISSING, Read, crc32c, read_index
from frictionstore.io.base import Location
from frictionstore.io.pieces import pieces

WHOLE_FILE_BYTES = 128 << 20  # larger files are read twice instead of being held in memory


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong.

    Attributes
    ----------
    file : str
        Path in the store.
    first, last : int or None
        The images it concerns, both included; None where it is not about particular images.
    what : str
    """

    file: str
    first: int | None
    last: int | None
    what: str

    @property
    def images(self) -> str:
        if self.first is None:
            return "-"
        return f"{self.first}" if self.first == self.last else f"{self.first}..{self.last}"


@dataclass
class ShardCheck:
    """What was found in one shard file."""

    damage: list[Damage] = field(default_factory=list)
    bytes: int = 0
    chunks: int = 0
    ids: NDArray[Any] | None = None


def check_shard(
    place: Location,
    plan: schema.ArrayPlan,
    unit: int,
    quick: bool,
    *,
    size: int,
    sha256: str | None,
    checksums: str | None,
    n_classes: int,
) -> ShardCheck:
    """Compare one shard file with what is known of it, decode it and look at its values.

    Parameters
    ----------
    place : Location
    plan : ArrayPlan
    unit : int
    quick : bool
        Compare its size only.
    size : int
        Expected size in bytes.
    sha256, checksums : str or None
        Expected SHA-256 and row of chunk checksums, where they are known.
    n_classes : int
        Number of class names; of the array `group` that of group names.

    Returns
    -------
    ShardCheck
    """
    key = plan.shard_key(unit)
    first = unit * plan.shard_images
    last = min(first + plan.shard_images, plan.shape[0]) - 1
    result = ShardCheck()

    def wrong(what: str, rows: tuple[int, int] = (first, last)) -> ShardCheck:
        result.damage.append(Damage(key, rows[0], rows[1], what))
        return result

    try:
        _check_size(place, key, size)
        if quick:
            return result
        digest, read = _fetch(place, key, size)
        result.bytes = size
        index = read_index(read, size, plan.shard_chunks)
    except UnreachableError:
        raise  # that says nothing about the file
    except StoreError as error:
        return wrong(str(error))
    parts = []
    row = b""
    for number in range(plan.unit_chunks(unit)):
        start = first + number * plan.chunk_images
        rows = (start, min(start + plan.chunk_images - 1, last))
        offset, count = index[number].tolist()
        if offset == MISSING:
            wrong("holds no chunk for these images", rows)
            continue
        data = read(offset, count)
        row += bytes(data[-CRC_BYTES:])
        try:
            values = _sealed_values(plan, data)[: rows[1] - rows[0] + 1]
        except StoreError as error:
            wrong(str(error), rows)
            continue
        result.chunks += 1
        for what, bad in bad_values(plan.spec, values, n_classes):
            wrong(what, (start + int(bad[0]), start + int(bad[-1])))
        if plan.spec.name == "image_id":
            parts.append(values)
    row += bytes(read(size - CRC_BYTES, CRC_BYTES))
    if not result.damage and sha256 is not None and digest != sha256:
        wrong("is not the file that was written")  # sound in itself: another shard's or store's
    if not result.damage and checksums is not None and row.hex() != checksums:
        wrong("has other checksums than the store's zarr.json lists for it")
    if parts and not result.damage:
        result.ids = np.concatenate(parts)
    return result


def _check_size(place: Location, key: str, size: int) -> None:
    found = place.size(key)
    if found is None:
        raise StoreError("is missing")
    if found != size:
        raise StoreError(f"has {found:,} bytes, expected {size:,}")


def _fetch(place: Location, key: str, size: int) -> tuple[str, Read]:
    """SHA-256 of a file, and a function that reads ranges of it."""

    def piece(start: int, count: int) -> bytes:
        data = place.read_range(key, start, count)
        if data is None or len(data) != count:
            raise StoreError("became shorter while it was read")
        return data

    digest = hashlib.sha256()
    held, done = bytearray(), 0
    for data in pieces(place, key, size):
        digest.update(data)
        done += len(data)
        if size <= WHOLE_FILE_BYTES:
            held += data
    if done != size:
        raise StoreError("became shorter while it was read")
    if size > WHOLE_FILE_BYTES:
        return digest.hexdigest(), piece
    view = memoryview(held).toreadonly()
    return digest.hexdigest(), lambda start, count: view[start : start + count]


def _sealed_values(plan: schema.ArrayPlan, data: bytes | memoryview) -> NDArray[Any]:
    """Values of one chunk that ends with its checksum."""
    if crc32c(data[:-CRC_BYTES]) != bytes(data[-CRC_BYTES:]):
        raise StoreError("a chunk does not match its checksum")
    return decode_chunk(plan, data[:-CRC_BYTES])


def bad_values(
    spec: schema.MapSpec, values: NDArray[Any], n_classes: int
) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """What no finished store holds: fill values, values that are not finite, labels out of range.

    Yields
    ------
    what : str
    rows : ndarray of int
        Positions in `values`, ascending, not empty.
    """
    axes = tuple(range(1, values.ndim))

    def rows(bad: NDArray[np.bool_]) -> NDArray[np.intp]:
        return np.flatnonzero(bad.any(axis=axes))

    if spec.dtype == "float32":
        finite = np.isfinite(values)
        if not finite.all():
            yield "holds values that are not finite (NaN is what was never written)", rows(~finite)
    elif spec.name in ("label", "group"):
        lowest = schema.NO_LABEL if spec.name == "label" else 0  # every image has a group
        highest = n_classes - 1 if n_classes else np.iinfo(np.int32).max
        out = (values < lowest) | (values > highest)
        if out.any():
            first = int(values[out][0])
            yield f"holds the {spec.name} {first}, expected {lowest} to {highest}", rows(out)
    elif spec.name == "image_id":
        empty = values == ""
        if empty.any():
            yield "holds empty ids", rows(empty)
    elif not spec.fill_is_data:
        unwritten = values == int(spec.fill)
        if unwritten.any():
            yield f"holds {spec.fill}, which is what was never written", rows(unwritten)
