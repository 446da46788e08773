"""Is a store what it was when it was written, and does it keep the rules of its format?

Every file is compared with the manifest, every chunk is decoded and its values are held against
the schema (`shard.py`). What is found is named by file and images, so that just that can
be made again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from frictionstore.check.shard import Damage, ShardCheck, check_shard
from frictionstore.cores import cores
from frictionstore.errors import RequestError, StoreError, UnreachableError
from frictionstore.format import schema
from frictionstore.format.documents import LARGEST_CHUNK_BYTES
from frictionstore.format.fingerprint import parse_json
from frictionstore.format.header import Header, parse_manifest, read_header
from frictionstore.format.schema import APART
from frictionstore.io.base import Location
from frictionstore.io.locate import locate
from frictionstore.io.pieces import same
from frictionstore.progress import progress_bar
from frictionstore.text import byte_count, listed, printable


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
    strays : list of str
        Files that do not belong to the store; they are among the damage.
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
    strays: list[str] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.damage

    @property
    def content_ok(self) -> bool:
        """Whether the store itself is sound, whatever else lies in its folder."""
        return all(d.file in self.strays for d in self.damage)

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


def verify(
    location: str | os.PathLike[str],
    *,
    quick: bool = False,
    threads: int | None = None,
    show_progress: bool = False,
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
    show_progress : bool
        A bar on standard error.

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
        threads = cores(8)
    if threads < 1:
        raise RequestError(f"threads is {threads}: it must be 1 or more")
    try:
        header = read_header(place)
    except UnreachableError:
        raise
    except StoreError as error:
        report = _without_header(place, str(error), quick)
    else:
        report = Report(place.text, header.digest, quick)
        _check_metadata(header, report)
        _check_shards(header, report, threads, show_progress)
        _check_strays(place, set(header.manifest), report)
    report.damage.sort(key=lambda d: (d.file, -1 if d.first is None else d.first))
    report.units = sorted({unit for d in report.damage for unit in _unit_of(d.file)})
    report.seconds = time.monotonic() - started
    return report


def _unit_of(key: str) -> Iterator[int]:
    parts = key.split("/")
    if len(parts) > 2 and parts[0] in schema.ARRAYS and parts[1] == "c" and parts[2].isdecimal():
        yield int(parts[2])


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
        report.files += 1
        what = None
        try:
            size = place.size(key)
            if size is None:
                what = "is missing"
            elif not quick:
                report.bytes += size
                if key != "zarr.json" and not same(place, key, size, digest):
                    what = "is not the file that was written"
        except UnreachableError:
            raise
        except StoreError as error:
            what = str(error)
        if what is not None:
            report.damage.append(Damage(key, None, None, what))
    _check_strays(place, set(manifest), report)
    return report


def _check_metadata(header: Header, report: Report) -> None:
    """The arrays' own metadata is that of the group, which `read_header` compared."""
    consolidated = parse_json(header.document)["consolidated_metadata"]["metadata"]
    report.files += 1  # zarr.json was compared when the header was read
    report.bytes += len(header.document)
    for name in header.arrays:
        key = f"{name}/zarr.json"
        data = _read(header.location, key, report)
        report.files += 1
        if data is None:
            continue
        report.bytes += len(data)
        if hashlib.sha256(data).hexdigest() != header.manifest[key]:
            report.damage.append(Damage(key, None, None, "is not the file that was written"))
        elif _json(data) != consolidated[name]:
            what = "differs from the entry for it in the store's zarr.json"
            report.damage.append(Damage(key, None, None, what))


def _read(place: Location, key: str, report: Report) -> bytes | None:
    """A small file; None where it is damaged, which is noted."""
    try:
        data = place.read(key)
        what = "is missing"
    except UnreachableError:
        raise
    except StoreError as error:
        data, what = None, str(error)
    if data is None:
        report.damage.append(Damage(key, None, None, what))
    return data


def _json(data: bytes) -> object:
    try:
        return parse_json(data)
    except ValueError:
        return None


def _check_strays(place: Location, content: set[str], report: Report) -> None:
    files = place.files()
    if files is None:
        return
    report.strays_checked = True
    found = set(files)
    report.strays = sorted(found - content - APART)
    for key in report.strays:
        report.damage.append(Damage(key, None, None, "does not belong to the store"))
    for key in sorted(found & APART):
        _read(place, key, report)  # no part of the content, but copies hand it on


def _check_shards(header: Header, report: Report, threads: int, show_progress: bool) -> None:
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
            checksums=header.shard_checksums[key],
            n_classes=len(header.group_names if plan.spec.name == "group" else header.class_names),
        )  # fmt: skip

    largest = max(schema.row_bytes(p.spec, p.chunk_shape) for p in header.arrays.values())
    threads = min(threads, max(1, LARGEST_CHUNK_BYTES // largest))
    bar = progress_bar(total, "verifying", unit="bytes", show=show_progress)
    with bar as advance, ThreadPoolExecutor(threads, "frictionstore-verify") as pool:
        running: dict[Future[ShardCheck], int] = {}
        try:
            for job in jobs:
                running[pool.submit(check, job)] = job[1]
                if len(running) >= 2 * threads:
                    advance(_collect(running, report, ids))
            while running:
                advance(_collect(running, report, ids))
        finally:
            for future in running:
                future.cancel()
    _check_ids(ids, header, report)


def _collect(
    running: dict[Future[ShardCheck], int], report: Report, ids: dict[int, NDArray[Any]]
) -> int:
    """Take a finished check out of `running`; how many bytes it was."""
    future = next(as_completed(list(running)))
    unit = running.pop(future)
    found = future.result()
    report.files += 1
    report.bytes += found.bytes
    report.chunks += found.chunks
    report.damage += found.damage
    if found.ids is not None:
        ids[unit] = found.ids
    return found.bytes


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
