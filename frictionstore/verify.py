"""Is a store what it was when it was written, and does it keep the rules of its format?

Every file is compared with the manifest, every chunk is decoded and its values are held against
the schema. What is found is named by file and images, so that just that can be made again. The
decoder here is not zarr's: it shares no code with what wrote the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore import schema
from frictionstore.errors import RequestError, StoreError
from frictionstore.location import Location, locate
from frictionstore.shards import CRC_BYTES, MISSING, Read, crc32c, read_index
from frictionstore.store import Header, parse_manifest, read_header
from frictionstore.text import byte_count, listed, printable

PIECE_BYTES = 8 << 20  # one read; a slow link moves this much before a request times out
WHOLE_FILE_BYTES = 128 << 20  # larger files are read twice instead of being held in memory
CARD = "README.md"
APART = frozenset({schema.MANIFEST, schema.PROVENANCE, CARD})  # beside the content, in no manifest


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
class Report:
    """What `verify` found.

    Attributes
    ----------
    location : str
    digest : str or None
        The store's digest, None where its manifest cannot be read.
    quick : bool
        Only sizes and metadata were compared.
    files, bytes, chunks : int
        What was read: files compared, bytes hashed, chunks decoded.
    strays_checked : bool
        Whether the place can list its files, so that files too many were looked for.
    damage : list of Damage
    units : list of int
        Units (rows of one shard) to make again.
    seconds : float
    """

    location: str
    digest: str | None
    quick: bool
    files: int = 0
    bytes: int = 0
    chunks: int = 0
    strays_checked: bool = False
    damage: list[Damage] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.damage

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        shown = printable(self.location)
        if self.ok:
            what = "sizes and metadata are" if self.quick else "every file and every chunk is"
            return f"{shown} is sound: {what} as written"
        files = sorted({d.file for d in self.damage})
        return f"{shown} is damaged: {len(files):,} of its files ({listed(files, 3)})"

    def as_json(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "ok": self.ok,
            "digest": self.digest,
            "quick": self.quick,
            "files": self.files,
            "bytes": self.bytes,
            "chunks": self.chunks,
            "strays_checked": self.strays_checked,
            "damage": [
                {"file": d.file, "first": d.first, "last": d.last, "what": d.what}
                for d in self.damage
            ],
            "units": self.units,
            "seconds": round(self.seconds, 3),
        }


def describe_report(report: Report) -> str:
    """The report as text: a table of damage and what to do, or one line."""
    checked = (
        f"{report.files:,} files, {byte_count(report.bytes)}, {report.chunks:,} chunks "
        f"in {report.seconds:.1f} s"
    )
    lines = []
    if not report.ok:
        width = max(len("file"), *(len(printable(d.file, 60)) for d in report.damage))
        lines.append(f"{'file':<{width}}  {'images':<13}  what")
        for d in report.damage:
            lines.append(f"{printable(d.file, 60):<{width}}  {d.images:<13}  {printable(d.what)}")
        lines.append("")
    lines.append(f"{report.sentence} ({checked})")
    if report.digest is not None:
        lines.append(f"digest {report.digest}")
    if report.units:
        lines.append(
            "frictionstore extract --repair with the options of its extraction makes what is "
            f"damaged again ({len(report.units):,} units)"
        )
    return "\n".join(lines)


Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def verify(
    location: str | os.PathLike[str],
    *,
    quick: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a store with its manifest and with the rules of its format.

    Parameters
    ----------
    location : str or path
        A folder, a zip or an address.
    quick : bool
        Sizes and metadata only: finds missing, cut and surplus files, not flipped bits.
    threads : int, optional
        Files checked at once; by default one per core, at most 8. Each holds at most one file
        of up to 128 MiB in memory.
    progress : callable, optional
        Called with the bytes done and the bytes in all, from the calling thread.

    Returns
    -------
    Report

    Raises
    ------
    StoreError
        There is no store, or it is so damaged that not even its manifest can be read.
    """
    started = time.monotonic()
    place = locate(location)
    if threads is None:
        threads = min(os.cpu_count() or 1, 8)
    if threads < 1:
        raise RequestError(f"threads is {threads}: it must be 1 or more")
    try:
        header = read_header(place)
    except StoreError as error:
        report = _without_header(place, str(error), quick)
    else:
        report = Report(place.text, header.digest, quick)
        _check_metadata(header, report)
        _check_shards(header, report, threads, progress)
        _check_strays(place, set(header.manifest), report)
    report.damage.sort(key=lambda d: (d.file, -1 if d.first is None else d.first))
    report.units = sorted({unit for d in report.damage for unit in _unit_of(d.file)})
    report.seconds = time.monotonic() - started
    return report


def damaged_units(location: str | os.PathLike[str], threads: int | None = None) -> list[int]:
    """Numbers of the units (rows of one shard) that must be made again; empty for a sound store.

    A store can be damaged and yet have no damaged unit: where only metadata is.
    """
    return verify(location, threads=threads).units


def _unit_of(key: str) -> Iterator[int]:
    parts = key.split("/")
    if len(parts) > 2 and parts[0] in schema.ARRAYS and parts[1] == "c" and parts[2].isdecimal():
        yield int(parts[2])


# ---- metadata and files ----------------------------------------------------------------------


def _without_header(place: Location, why: str, quick: bool) -> Report:
    """Metadata that cannot be used: the manifest alone still says which files are sound."""
    data = place.read(schema.MANIFEST)
    if data is None:
        raise StoreError(why)
    try:
        manifest = parse_manifest(data, printable(place.text))
    except StoreError:
        raise StoreError(why) from None
    report = Report(place.text, hashlib.sha256(data).hexdigest(), quick)
    report.damage.append(Damage("zarr.json", None, None, why))
    for key, digest in manifest.items():
        size = place.size(key)
        report.files += 1
        if size is None:
            report.damage.append(Damage(key, None, None, "is missing"))
        elif not quick:
            report.bytes += size
            if key != "zarr.json" and _sha256(place, key, size) != digest:
                report.damage.append(Damage(key, None, None, "is not the file that was written"))
    _check_strays(place, set(manifest), report)
    return report


def _sha256(place: Location, key: str, size: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, size, PIECE_BYTES):
        piece = place.read_range(key, start, PIECE_BYTES)
        digest.update(piece if piece is not None else b"")
    return digest.hexdigest()


def _check_metadata(header: Header, report: Report) -> None:
    """The arrays' own metadata is that of the group, and says what the format says."""
    from frictionstore.writer import array_document

    consolidated = json.loads(header.document)["consolidated_metadata"]["metadata"]
    report.files += 1  # zarr.json was compared when the header was read
    report.bytes += len(header.document)
    for name, plan in header.arrays.items():
        key = f"{name}/zarr.json"
        data = header.location.read(key)
        report.files += 1
        if data is None:
            report.damage.append(Damage(key, None, None, "is missing"))
        else:
            report.bytes += len(data)
            if hashlib.sha256(data).hexdigest() != header.manifest[key]:
                report.damage.append(Damage(key, None, None, "is not the file that was written"))
            elif _json(data) != consolidated[name]:
                what = "differs from the entry for it in the store's zarr.json"
                report.damage.append(Damage(key, None, None, what))
        expected = array_document(plan)
        for field_name, value in expected.items():
            found = consolidated[name].get(field_name)
            if field_name == "attributes":
                if not isinstance(found, dict) or not {"description", "units"} <= found.keys():
                    what = f"array {name} has no description and units in its attributes"
                    report.damage.append(Damage("zarr.json", None, None, what))
            elif found != value:
                what = (
                    f"array {name} has {field_name} {printable(json.dumps(found), 60)}, "
                    f"expected {printable(json.dumps(value), 60)}"
                )
                report.damage.append(Damage("zarr.json", None, None, what))


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _check_strays(place: Location, content: set[str], report: Report) -> None:
    files = place.files()
    if files is None:
        return
    report.strays_checked = True
    for key in sorted(set(files) - content - APART):
        report.damage.append(Damage(key, None, None, "does not belong to the store"))


# ---- shards ----------------------------------------------------------------------------------


def _check_shards(header: Header, report: Report, threads: int, progress: Progress | None) -> None:
    units = -(-header.n_images // header.shard_images)
    jobs = [(plan, unit) for plan in header.arrays.values() for unit in range(units)]
    total = sum(header.shard_bytes.values())
    ids: dict[int, NDArray[Any]] = {}

    def check(job: tuple[schema.ArrayPlan, int]) -> ShardCheck:
        plan, unit = job
        key = plan.shard_key(unit)
        return check_shard(
            header.location, plan, unit, report.quick,
            size=header.shard_bytes[key], sha256=header.manifest[key],
            checksums=header.shard_checksums[key], n_classes=len(header.class_names),
        )  # fmt: skip

    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="frictionstore-verify") as pool:
        running: dict[Future[ShardCheck], int] = {}
        waiting = iter(jobs)
        try:
            for job in waiting:
                running[pool.submit(check, job)] = job[1]
                if len(running) < 2 * threads:
                    continue
                done += _collect(running, report, ids, 1)
                if progress is not None:
                    progress(done, total)
            done += _collect(running, report, ids, len(running))
        finally:
            for future in running:
                future.cancel()
    if progress is not None:
        progress(total, total)
    _check_ids(ids, header, report)


def _collect(
    running: dict[Future[ShardCheck], int],
    report: Report,
    ids: dict[int, NDArray[Any]],
    count: int,
) -> int:
    """Take `count` finished checks out of `running`; how many bytes they were."""
    done = 0
    for future in as_completed(list(running)):
        unit = running.pop(future)
        found = future.result()
        report.files += 1
        report.bytes += found.bytes
        report.chunks += found.chunks
        report.damage += found.damage
        if found.ids is not None:
            ids[unit] = found.ids
        done += found.bytes
        count -= 1
        if not count:
            break
    return done


def _check_ids(ids: dict[int, NDArray[Any]], header: Header, report: Report) -> None:
    """No two images have one id."""
    plan = header.arrays["image_id"]
    seen: dict[str, int] = {}
    for unit in sorted(ids):
        for place, text in enumerate(ids[unit]):
            row = unit * plan.shard_images + place
            before = seen.setdefault(text, row)
            if before != row:
                what = f"image {row} has the id {printable(text, 60)!r} of image {before}"
                report.damage.append(Damage(plan.shard_key(unit), row, row, what))


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
        Number of class names.

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

    found = place.size(key)
    if found is None:
        return wrong("is missing")
    if found != size:
        return wrong(f"has {found:,} bytes, expected {size:,}")
    if quick:
        return result
    try:
        digest, read = _fetch(place, key, size)
        result.bytes = size
        index = read_index(read, size, plan.shard_chunks)
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
        if crc32c(data[:-CRC_BYTES]) != bytes(data[-CRC_BYTES:]):
            wrong("a chunk does not match its checksum", rows)
            continue
        try:
            values = decode_chunk(plan, data[:-CRC_BYTES])[: rows[1] - rows[0] + 1]
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


def _fetch(place: Location, key: str, size: int) -> tuple[str, Read]:
    """SHA-256 of a file, and a function that reads ranges of it."""

    def piece(start: int, count: int) -> bytes:
        data = place.read_range(key, start, count)
        if data is None or len(data) != count:
            raise StoreError("became shorter while it was read")
        return data

    digest = hashlib.sha256()
    held = bytearray()
    for start in range(0, size, PIECE_BYTES):
        data = piece(start, min(PIECE_BYTES, size - start))
        digest.update(data)
        if size <= WHOLE_FILE_BYTES:
            held += data
    if size > WHOLE_FILE_BYTES:
        return digest.hexdigest(), piece
    view = memoryview(held).toreadonly()
    return digest.hexdigest(), lambda start, count: view[start : start + count]


def decode_chunk(plan: schema.ArrayPlan, data: bytes | memoryview) -> NDArray[Any]:
    """Values of one chunk from its bytes without the checksum.

    Raises
    ------
    StoreError
        It cannot be decompressed, or does not hold as many values as it must.
    """
    from numcodecs import VLenUTF8, blosc, zstd  # type: ignore[import-untyped]

    size = schema.row_bytes(plan.spec, plan.chunk_shape)
    try:
        if plan.spec.dtype == "string":
            texts: NDArray[Any] = VLenUTF8().decode(zstd.decompress(data))
            if texts.shape != plan.chunk_shape:
                raise StoreError(f"a chunk holds {texts.size:,} texts")
            return texts
        said = int.from_bytes(data[4:8], "little")  # blosc's header: bytes when decompressed
        if said != size:
            raise StoreError(f"a chunk holds {said:,} bytes, expected {size:,}")
        raw = blosc.decompress(data)
        dtype = np.dtype(plan.spec.dtype).newbyteorder("<")
        return np.frombuffer(raw, dtype).reshape(plan.chunk_shape)
    except StoreError:
        raise
    except Exception as error:
        # whatever a decoder says about bytes it cannot use, it means the same
        raise StoreError(f"a chunk cannot be decoded ({printable(error, 80)})") from error


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
    elif spec.name == "label":
        highest = n_classes - 1 if n_classes else np.iinfo(np.int32).max
        out = (values < schema.NO_LABEL) | (values > highest)
        if out.any():
            first = int(values[out][0])
            yield f"holds the label {first}, expected -1 to {highest}", rows(out)
    elif spec.name == "image_id":
        empty = values == ""
        if empty.any():
            yield "holds empty ids", rows(empty)
    elif not spec.fill_is_data:
        unwritten = values == int(spec.fill)
        if unwritten.any():
            yield f"holds {spec.fill}, which is what was never written", rows(unwritten)
