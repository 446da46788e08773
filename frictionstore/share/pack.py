"""One file for a store: a zip whose entries are the store's files as they are.

Such a zip opens as a store where it lies (`io/zipped.py`), with zarr's own ZipStore, and from a
server by byte ranges. Its bytes depend on the store alone: order, dates and permissions are fixed.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import IO

from frictionstore.check.verify import verify
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.header import Header, damaged, read_header
from frictionstore.format.schema import APART, CARD
from frictionstore.io.base import Location
from frictionstore.io.durable import explain_os_errors, new_file, replace
from frictionstore.io.locate import locate
from frictionstore.io.owned import (
    claimed,
    drop,
    not_ours,
    refuse_strangers,
    remove,
    rename_new,
    take,
)
from frictionstore.io.pieces import same
from frictionstore.io.zipped import ZipLocation
from frictionstore.progress import progress_bar
from frictionstore.share.copy import Copied, copy_store, store_name
from frictionstore.store.place import partial_path
from frictionstore.text import listed, printable

_PACKING, _UNFINISHED = "packing", "unfinished.zip"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
_UNIX = 3
_PLAIN_FILE = 0o100644 << 16


def pack(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Copied:
    """Write a store into one zip file, stored and not compressed again.

    Every file is compared with the manifest on the way.

    Parameters
    ----------
    store : str or path
        Any store that can be read.
    out : path, optional
        Default: the store's name with ``.zip`` added, beside a local store, in the working
        folder for another.
    overwrite : bool
        Replace another file at `out`.
    show_progress : bool

    Returns
    -------
    Copied

    Raises
    ------
    StoreError
        The store is damaged, or `out` is another file.
    """
    place = locate(store)
    header = read_header(place)
    target = _zip_path(place, store) if out is None else Path(out)
    if target.suffix != ".zip":
        raise RequestError(f"{printable(target)} does not end in .zip: readers go by the ending")
    with claimed(target) as target:
        if target.exists():
            if _is_pack_of(header, target):
                return Copied(str(target), header.digest, 0, 0)
            if target.is_dir() or not overwrite:
                taken = f"{printable(target)} exists and is not this store: choose another target"
                if target.is_dir():
                    raise StoreError(taken)
                raise StoreError(f"{taken}, or replace it with", option="overwrite=True")
        with explain_os_errors(str(target), "free some and run the same command again"):
            _make(header, target, show_progress)
    return Copied(str(target), header.digest, len(header.manifest), target.stat().st_size)


def _make(header: Header, target: Path, show_progress: bool) -> None:
    """Write the zip in a folder of ours, and give it its name."""
    folder = partial_path(target)

    def ours(key: str) -> bool:
        return key == _UNFINISHED

    if take(folder, target, _PACKING) not in (None, _PACKING):
        raise not_ours(folder, target)
    refuse_strangers(folder, ours)
    try:
        drop(folder, _UNFINISHED)  # of a run that was killed
        _write(header, folder / _UNFINISHED, show_progress)
        if target.exists():
            replace(folder / _UNFINISHED, target)
        else:
            rename_new(folder / _UNFINISHED, target)
    finally:
        remove(folder, ours, _UNFINISHED)


def _zip_path(place: Location, store: str | os.PathLike[str]) -> Path:
    name = store_name(place.text) + ".zip"
    path = Path(store)
    return path.parent / name if path.exists() else Path(name)


def _is_pack_of(header: Header, path: Path) -> bool:
    """Whether `path` is a sound zip of the same store."""
    try:
        report = verify(path)
    except StoreError:
        return False
    return report.ok and report.digest == header.digest


def _write(header: Header, path: Path, show_progress: bool) -> None:
    """Shards first and metadata last, so that a reader gets all metadata with the zip's end."""
    total = sum(header.shard_bytes.values())
    documents = sorted(header.manifest.keys() - header.shard_bytes.keys() - {"zarr.json"})
    with (
        progress_bar(total, "packing", unit="bytes", show=show_progress) as advance,
        new_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for key in sorted(header.shard_bytes):
            with archive.open(_entry(key, header.shard_bytes[key]), "w") as entry:

                def put(data: bytes, entry: IO[bytes] = entry) -> None:
                    entry.write(data)
                    advance(len(data))

                size, digest = header.shard_bytes[key], header.manifest[key]
                if not same(header.location, key, size, digest, put):
                    raise damaged(header, key)
        for key in documents:
            data = header.location.read(key)
            if data is None or hashlib.sha256(data).hexdigest() != header.manifest[key]:
                raise damaged(header, key)
            archive.writestr(_entry(key, len(data)), data)
        archive.writestr(_entry("zarr.json", len(header.document)), header.document)
        for name in (schema.PROVENANCE, CARD):
            data = header.location.read(name)
            if data is not None:
                archive.writestr(_entry(name, len(data)), data)
        listing = header.listing
        archive.writestr(_entry(schema.MANIFEST, len(listing)), listing)


def _entry(key: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(key, _DATE)
    info.create_system = _UNIX
    info.external_attr = _PLAIN_FILE
    info.compress_type = zipfile.ZIP_STORED
    info.file_size = size  # decides now whether the entry needs the large form
    return info


def unpack(
    archive: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Copied:
    """Write the store in a zip file as a folder, which appears only when it is whole.

    Parameters
    ----------
    archive : str or path
        A ``.zip``, here or at an address.
    out : path, optional
        The folder to make. Default: the zip's name without ``.zip``, beside a local zip.
    overwrite : bool
        Replace another store at `out`.
    show_progress : bool

    Raises
    ------
    StoreError
        The zip is damaged, or holds anything but one store: links, absolute paths, ``..``,
        compressed or encrypted entries, files that the manifest does not name.
    """
    place = locate(archive)
    if not isinstance(place, ZipLocation):
        raise RequestError(
            f"{printable(place.text)} is not a .zip file: there is nothing to unpack"
        )
    header = read_header(place)
    unknown = sorted(set(place.files()) - header.manifest.keys() - APART)
    if unknown:
        raise StoreError(
            f"{printable(place.text)} holds files that its {schema.MANIFEST} does not name "
            f"({listed(unknown, 3)}): it is not unpacked"
        )
    if out is None:
        path = Path(archive)
        name = store_name(place.text)
        target = path.parent / name if path.exists() else Path(name)
    else:
        target = Path(out)
    return copy_store(place, target, overwrite=overwrite, show_progress=show_progress)
