"""Copy a store into a folder of this machine: resumable, checked, visible only when whole.

Pull, unpack and push to a folder are this with different sources. Only files that the manifest
names are written, under the paths it names, so nothing lands outside the target.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from frictionstore.check.shard import PIECE_BYTES
from frictionstore.check.verify import verify
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import file_sha256
from frictionstore.format.header import Header, damaged, read_header
from frictionstore.format.plan import document_bytes
from frictionstore.format.schema import CARD
from frictionstore.io.base import Location
from frictionstore.io.durable import (
    claimed,
    explain_os_errors,
    fsync_path,
    link_or_copy,
    write_atomic,
)
from frictionstore.progress import progress_bar
from frictionstore.store.writer import is_store, partial_path, publish, restore_replaced
from frictionstore.text import byte_count, printable

MARKER = "transfer.json"  # tells the remains of a transfer from those of an extraction
THREADS = 4
AGAIN = "what has arrived is kept, run the same command again"


@dataclass(frozen=True)
class Copied:
    """What a transfer did.

    Attributes
    ----------
    target : str
    digest : str
    files, bytes : int
        What was moved; nothing where the target already had it.
    """

    target: str
    digest: str
    files: int
    bytes: int


def store_name(text: str) -> str:
    """Name of the folder for a store at `text`: its last part, ending in ``.zarr``."""
    name = text.rstrip("/").rsplit("/", 1)[-1]
    name = unquote(name) if "://" in text else name
    name = name.removesuffix(".zip")
    stem = name.removesuffix(".zarr")
    if stem in ("", ".", "..") or "/" in stem or "\0" in stem:
        raise RequestError(f"{printable(text)} has no name for a store: name the target")
    return stem + ".zarr"


def target_in(folder: str | os.PathLike[str], text: str) -> Path:
    """`folder` itself where it is named like a store, else the store's name in it."""
    path = Path(folder)
    return path if path.name.endswith(".zarr") else path / store_name(text)


def copy_store(
    place: Location,
    target: Path,
    *,
    overwrite: bool = False,
    extras: Mapping[str, bytes] | None = None,
    show_progress: bool = False,
) -> Copied:
    """Copy the store at `place` to `target`.

    Files that are already there whole are not moved again; a file that arrived in part goes on
    where it stopped. Every file is compared with the manifest. What has the target's name is
    whole, always.

    Parameters
    ----------
    place : Location
    target : Path
    overwrite : bool
        Replace another store at `target`.
    extras : mapping of file name to bytes, optional
        Files beside the content, instead of the source's own.
    show_progress : bool

    Raises
    ------
    StoreError
        The source is damaged or cannot be reached, or `target` is something else.
    BusyError
        Another process writes `target`.
    """
    header = read_header(place)
    with claimed(target):
        restore_replaced(target)
        if _already_there(header, target, overwrite):
            return Copied(str(target), header.digest, 0, 0)
        partial = partial_path(target)
        with explain_os_errors(str(target), AGAIN):
            _prepare(partial, header)
            moved = _fetch_all(header, partial, target, show_progress)
            _finish(header, partial, target, extras)
            publish(partial, target)
    return Copied(str(target), header.digest, *moved)


def _already_there(header: Header, target: Path, overwrite: bool) -> bool:
    if not target.exists() and not target.is_symlink():
        return False
    try:
        there = read_header(str(target))
        if there.digest == header.digest:
            return verify(target).ok  # a damaged copy is mended from the source
        problem = f"holds another store (digest {there.digest[:12]}, not {header.digest[:12]})"
    except StoreError as error:
        if not is_store(target):
            raise StoreError(
                f"{printable(target)} exists and is not a store: choose another target"
            ) from error
        problem = "holds a damaged or unfinished store"
    if not overwrite:
        raise StoreError(
            f"{printable(target)} {problem}: choose another target, or replace it with",
            option="overwrite=True",
        )
    return False


def _prepare(partial: Path, header: Header) -> None:
    if partial.exists() and not _left_by_us(partial, header):
        raise StoreError(
            f"{printable(partial)} is the unfinished rest of something else: finish that, or "
            "remove the folder"
        )
    partial.mkdir(exist_ok=True)
    write_atomic(partial / MARKER, document_bytes({"digest": header.digest}))
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed = sum(header.shard_bytes.values()) - there
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise StoreError(
            f"{printable(partial.parent)} has {byte_count(free)} free, the rest of the store "
            f"needs {byte_count(needed)}: choose another target"
        )


def _left_by_us(partial: Path, header: Header) -> bool:
    """Whether an earlier transfer left this folder, at whatever step it ended."""
    if (partial / MARKER).is_file():
        return True
    names = os.listdir(partial) if partial.is_dir() else ["a file"]
    if all(name.endswith(".tmp") for name in names):
        return True  # before its first step was done
    try:
        return (partial / "zarr.json").read_bytes() == header.document  # after its last but one
    except OSError:
        return False


def _fetch_all(header: Header, partial: Path, donor: Path, show_progress: bool) -> tuple[int, int]:
    """Every file of the manifest but zarr.json; how many files and bytes were moved.

    Files that the folder `donor` has are shared with it.
    """
    total = sum(header.shard_bytes.values())
    moved = {"files": 0, "bytes": 0}
    lock = threading.Lock()
    keys = [key for key in header.manifest if key != "zarr.json"]
    with (
        progress_bar(total, "copying", unit="bytes", show=show_progress) as advance,
        ThreadPoolExecutor(THREADS, "frictionstore-copy") as pool,
    ):
        stop = threading.Event()
        failures: list[BaseException] = []

        def count(piece: int, fetched: bool) -> None:
            with lock:
                advance(piece)
                moved["bytes"] += piece if fetched else 0

        def fetch(key: str) -> None:
            if stop.is_set():
                return
            try:
                if _fetch(header, key, partial, donor, count, stop):
                    with lock:
                        moved["files"] += 1
            except BaseException as error:
                with lock:
                    failures.append(error)
                stop.set()

        list(pool.map(fetch, keys))
        # Those after the first only say that they were stopped, wherever they stand among the keys.
        if failures:
            raise failures[0]
    return moved["files"], moved["bytes"]


def _fetch(
    header: Header,
    key: str,
    partial: Path,
    donor: Path,
    count: Callable[[int, bool], None],
    stop: threading.Event,
) -> bool:
    """Bring one file; False where it was there already."""
    path = partial / key
    expected = header.manifest[key]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and file_sha256(path) == expected:
        count(path.stat().st_size, False)
        return False
    path.unlink(missing_ok=True)
    old = donor / key
    if old.is_file() and not old.is_symlink() and file_sha256(old) == expected:
        link_or_copy(old, path)
        count(path.stat().st_size, False)
        return False
    if key not in header.shard_bytes:
        data = header.location.read(key)
        if data is None:
            raise _missing(header, key)
        if hashlib.sha256(data).hexdigest() != expected:
            raise damaged(header, key)
        write_atomic(path, data)
        return True
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    if not _receive(header, key, part, count, stop):
        part.unlink()
        # what an earlier run left may have been of another store: once more, from the start
        if not resumed or not _receive(header, key, part, count, stop):
            part.unlink(missing_ok=True)
            raise damaged(header, key)
    os.replace(part, path)
    fsync_path(path.parent)
    return True


def _receive(
    header: Header,
    key: str,
    part: Path,
    count: Callable[[int, bool], None],
    stop: threading.Event,
) -> bool:
    """Append what `part` lacks of a shard; whether it then is what the manifest says."""
    size = header.shard_bytes[key]
    digest = hashlib.sha256()
    with open(part, "a+b") as file:
        file.seek(0)
        while old := file.read(PIECE_BYTES):
            digest.update(old)
        done = file.tell()
        count(min(done, size), False)
        while done < size:
            if stop.is_set():
                raise StoreError(f"the transfer of {key} was stopped: {AGAIN}")
            wanted = min(PIECE_BYTES, size - done)
            data = header.location.read_range(key, done, wanted)
            if data is None:
                raise _missing(header, key)
            if len(data) != wanted:
                raise damaged(header, key)
            file.write(data)
            digest.update(data)
            done += wanted
            count(wanted, True)
        file.flush()
        os.fsync(file.fileno())
    return done == size and digest.hexdigest() == header.manifest[key]


def _missing(header: Header, key: str) -> StoreError:
    return StoreError(f"{printable(header.location.text)} is damaged: {key} is missing")


def _finish(
    header: Header, partial: Path, target: Path, extras: Mapping[str, bytes] | None
) -> None:
    """Metadata, what lies beside the content, and the manifest last."""
    beside = dict(extras if extras is not None else {})
    for name in (schema.PROVENANCE, CARD):
        if name not in beside:
            data = header.location.read(name)
            if data is not None:
                beside[name] = data
    keep = {*header.manifest, *beside}
    for folder, _, names in os.walk(partial):
        for name in names:
            path = Path(folder) / name
            key = path.relative_to(partial).as_posix()
            if key not in keep and key != MARKER:
                path.unlink()
    for folder, _, _ in os.walk(partial, topdown=False):
        if folder != str(partial) and not os.listdir(folder):
            os.rmdir(folder)
    write_atomic(partial / "zarr.json", header.document)
    for name, data in beside.items():
        write_atomic(partial / name, data)
    (partial / MARKER).unlink(missing_ok=True)
    write_atomic(partial / schema.MANIFEST, header.listing)
