"""Copy a store into a folder of this machine: resumable, checked, visible only when whole.

Pull, unpack and push to a folder are this with different sources. Only files that the manifest
names are written, under the paths it names, so nothing lands outside the target.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from frictionstore.check.verify import verify
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.header import Header, damaged, read_header
from frictionstore.format.plan import document_bytes
from frictionstore.format.schema import CARD
from frictionstore.io.base import TOKEN, Location
from frictionstore.io.durable import (
    continued,
    explain_os_errors,
    link_or_copy,
    replace,
    write_atomic,
)
from frictionstore.io.owned import claimed, drop, prune, unmark
from frictionstore.io.pieces import feed, for_each, same
from frictionstore.io.regular import sha256_of
from frictionstore.progress import progress_bar
from frictionstore.store.place import (
    TRANSFER_FILE,
    belongs,
    check_replaceable,
    is_store,
    partial_path,
    publish,
    restore_replaced,
    take,
)
from frictionstore.text import byte_count, printable

logger = logging.getLogger(__name__)

TRANSFER = "transfer"  # what the mark in a folder of ours says it is
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
    if text.lower().startswith(("http://", "https://")):
        name = unquote(name)  # in a path or a key, a percent sign is one
    stem = name.removesuffix(".zip").removesuffix(".zarr")
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
    with claimed(target) as target, explain_os_errors(str(target), AGAIN):
        restore_replaced(target)
        if _already_there(header, target, overwrite):
            unmark(target, target)
            return Copied(str(target), header.digest, 0, 0)
        check_replaceable(target)
        partial = partial_path(target)
        _prepare(target, header)
        moved = _fetch_all(header, partial, target, show_progress)
        _finish(header, partial, extras)
        publish(target)
    return Copied(str(target), header.digest, *moved)


def _already_there(header: Header, target: Path, overwrite: bool) -> bool:
    if not target.exists() and not target.is_symlink():
        return False
    try:
        there = read_header(str(target))
        if there.digest == header.digest:
            return verify(target).content_ok  # a damaged copy is mended from the source
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


def _prepare(target: Path, header: Header) -> None:
    partial = partial_path(target)
    if take(target, TRANSFER) not in (None, TRANSFER):
        raise StoreError(
            f"{printable(partial)} is the unfinished rest of something else: finish that, or "
            "remove the folder"
        )
    if "own_maps" in header.request:  # whose folders are ours to remove
        write_atomic(partial / TRANSFER_FILE, document_bytes({"request": header.request}))
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    needed = sum(header.shard_bytes.values()) - there
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise StoreError(
            f"{printable(partial.parent)} has {byte_count(free)} free, the rest of the store "
            f"needs {byte_count(needed)}: choose another target"
        )


def _fetch_all(header: Header, partial: Path, donor: Path, show_progress: bool) -> tuple[int, int]:
    """Every file of the manifest but zarr.json; how many files and bytes were moved.

    Files that the folder `donor` has are shared with it.
    """
    total = sum(header.shard_bytes.values())
    moved = {"files": 0, "bytes": 0}
    lock = threading.Lock()
    keys = [key for key in header.manifest if key != "zarr.json"]
    with progress_bar(total, "copying", unit="bytes", show=show_progress) as advance:

        def count(piece: int, fetched: bool) -> None:
            with lock:
                advance(piece)
                moved["bytes"] += piece if fetched else 0

        def fetch(key: str, stop: threading.Event) -> None:
            if _fetch(header, key, partial, donor, count, stop):
                with lock:
                    moved["files"] += 1

        for_each(keys, fetch, THREADS, "frictionstore-copy")
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
    if sha256_of(partial, key) == expected:
        count(path.stat().st_size, False)
        return False
    drop(partial, key)
    if sha256_of(donor, key) == expected:
        link_or_copy(donor / key, path)
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
    rest = f"{key}.part"
    part = partial / rest
    resumed = part.exists()
    if not _receive(header, key, part, count, stop):
        drop(partial, rest)
        logger.info("%s: what has arrived is not what was written", key)
        # what an earlier run left may have been of another store: once more, from the start
        if not resumed or not _receive(header, key, part, count, stop):
            drop(partial, rest)
            gone = header.location.size(key) is None
            raise _missing(header, key) if gone else damaged(header, key)
    replace(part, path)
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
    with continued(part) as file:
        done = feed(digest, file)
        count(min(done, size), False)
        if done:
            logger.info("%s: %s are here already, goes on there", key, byte_count(done))

        def keep(data: bytes) -> None:
            if stop.is_set():
                raise StoreError(f"the transfer of {key} was stopped: {AGAIN}")
            file.write(data)
            count(len(data), True)

        return same(
            header.location, key, size, header.manifest[key], keep, start=done, begun=digest
        )


def _missing(header: Header, key: str) -> StoreError:
    return StoreError(f"{printable(header.location.text)} is damaged: {key} is missing")


def _finish(header: Header, partial: Path, extras: Mapping[str, bytes] | None) -> None:
    """Metadata, what lies beside the content, and the manifest last."""
    beside = dict(extras if extras is not None else {})
    for name in (schema.PROVENANCE, CARD):
        if name not in beside:
            data = header.location.read(name)
            if data is not None:
                beside[name] = data
    keep = {*header.manifest, *beside, TOKEN}
    ours = belongs(partial)
    prune(partial, lambda key: key not in keep and ours(key))
    write_atomic(partial / "zarr.json", header.document)
    for name, data in beside.items():
        write_atomic(partial / name, data)
    write_atomic(partial / schema.MANIFEST, header.listing)
