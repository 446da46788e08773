"""Pass a store on and fetch one: push to a folder, S3 or the Hub, pull from anywhere.

The manifest is what makes a store complete for a reader. It is sent last; where another store is
replaced, its manifest is removed first.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import quote

from frictionstore.check.shard import WHOLE_FILE_BYTES
from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.header import Header, damaged, read_header
from frictionstore.format.schema import CARD
from frictionstore.io.base import Location
from frictionstore.io.locate import locate
from frictionstore.io.pieces import for_each, same
from frictionstore.io.remote import RemoteLocation, locate_remote, split_hub
from frictionstore.progress import progress_bar
from frictionstore.share.card import card
from frictionstore.share.copy import THREADS, Copied, copy_store, store_name, target_in
from frictionstore.share.hub import push_to_hub
from frictionstore.store.place import CARD_START
from frictionstore.store.reader import Store
from frictionstore.text import printable


def pull(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str] = ".",
    *,
    overwrite: bool = False,
    show_progress: bool = False,
) -> Copied:
    """Fetch a store into a folder of this machine.

    Goes on where an interrupted pull stopped, compares every file with the manifest, and gives
    the folder its name only when it is whole.

    Parameters
    ----------
    source : str or path
        An address, a zip or a folder.
    folder : path
        The store goes into it under its own name; a name that ends in ``.zarr`` is the store's.
    overwrite : bool
        Replace another store there.
    show_progress : bool

    Returns
    -------
    Copied

    Raises
    ------
    StoreError
        The source is damaged or cannot be reached, or the target is something else.
    """
    place = locate(source)
    target = target_in(folder, place.text)
    return copy_store(place, target, overwrite=overwrite, show_progress=show_progress)


def push(
    store: str | os.PathLike[str],
    destination: str,
    *,
    overwrite: bool = False,
    viewer: bool = False,
    results: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
    hub_api: Any = None,
) -> Copied:
    """Send a store to ``s3://``, ``hf://`` or a folder, with a card that says what it is.

    Parameters
    ----------
    store : str or path
    destination : str
        The store goes there under its own name; what ends in ``.zarr`` is the store's.
    overwrite : bool
        Replace another store there. Readers are told meanwhile that it is not complete.
    viewer : bool
        Of a repository at the Hub: also a table for its viewer (a row an image: id, class, means of
        its maps, thumbnail) and a picture for its card.
    results : path, optional
        A folder of saved results of this store, three of which the card then says.
    show_progress : bool
    hub_api : optional
        What to ask instead of a new `huggingface_hub.HfApi`.

    Raises
    ------
    RequestError
        The destination cannot be written to.
    StoreError
        The store is damaged, the destination holds another, or its server refuses.
    """
    place = locate(store)
    if (viewer or results is not None) and not destination.lower().startswith("hf://"):
        raise RequestError(
            f"{printable(destination)} has no viewer: a table and findings go with a store to "
            "hf://datasets/OWNER/NAME only"
        )
    if "://" not in destination or destination.lower().startswith("file://"):
        return _push_to_folder(place, destination, overwrite, show_progress)
    scheme = destination.split("://", 1)[0].lower()
    if scheme not in ("s3", "hf"):
        raise RequestError(
            f"stores cannot be sent to {printable(scheme, 20)}:// addresses: expected s3://, "
            "hf:// or a folder"
        )
    address = destination.rstrip("/")
    if not address.endswith(".zarr"):
        address = f"{address}/{store_name(place.text)}"
    target = locate_remote(address)
    assert isinstance(target, RemoteLocation)
    header = read_header(place)
    there = _complete_there(target)
    same_there = there is not None and there.digest == header.digest
    if same_there and not viewer and results is None:
        return Copied(target.text, header.digest, 0, 0)
    if there is not None and not same_there and not overwrite:
        raise StoreError(
            f"{printable(target.text)} holds another store (digest {there.digest[:12]}): choose "
            "another place, or replace it with",
            option="overwrite=True",
        )
    if scheme == "hf":
        with _beside(header, address, target.text, viewer, results) as (text, beside):
            moved = push_to_hub(
                header, address.split("://", 1)[1], there, text,
                beside=beside, api=hub_api, show_progress=show_progress,
            )  # fmt: skip
    else:
        text = card(header, store_name(address), target.text)
        moved = _push_to_s3(header, target, there, text, show_progress)
    return Copied(target.text, header.digest, *moved)


@contextmanager
def _beside(
    header: Header,
    address: str,
    shown: str,
    viewer: bool,
    results: str | os.PathLike[str] | None,
) -> Iterator[tuple[bytes, dict[str, bytes | str]]]:
    """The store's card, and what else goes into its repository at the Hub."""
    name = store_name(address)
    if not viewer and results is None:
        yield card(header, name, shown), {}
        return
    from frictionstore.share.viewer import findings, picture, write_table

    found = findings(Path(results), header.digest) if results is not None else []
    kind, repository, revision, path = split_hub(address.split("://", 1)[1])
    beside: dict[str, bytes | str] = {}
    table = image = above = None
    with TemporaryDirectory() as folder:
        if viewer:
            store = Store(header, header.location.text)
            stem = f"viewer/{name.removesuffix('.zarr')}"
            table, image, above = f"{stem}.parquet", f"{stem}.png", "../" * (path.count("/") + 1)
            write_table(store, Path(folder) / "table.parquet")
            beside[table] = str(Path(folder) / "table.parquet")
            beside[image] = picture(store)
        above_all = f"hf://{kind}/{repository}@{quote(revision, safe='')}"
        top = locate_remote(above_all).read(CARD) if path else None
        if path and (top is None or top.startswith(CARD_START)):  # one of others is left alone
            beside[CARD] = card(header, name, shown, picture=image, found=found, table=table)
        inner = f"{above}{image}" if image is not None else None
        yield card(header, name, shown, picture=inner, found=found), beside


def _push_to_folder(
    place: Location, destination: str, overwrite: bool, show_progress: bool
) -> Copied:
    if destination.lower().startswith("file://"):
        destination = destination[len("file://") :]
    target = target_in(destination, place.text)
    text = card(read_header(place), target.name, target.name)
    return copy_store(
        place, target, overwrite=overwrite, extras={CARD: text}, show_progress=show_progress
    )


def _complete_there(target: Location) -> Header | None:
    """The store at a destination; None where there is none that a reader would take."""
    if target.read(schema.MANIFEST) is None:
        return None
    try:
        return read_header(target)
    except StoreError as error:
        raise StoreError(
            f"{printable(target.text)} has a {schema.MANIFEST} but is no store that can be read: "
            "choose another place"
        ) from error


def _push_to_s3(
    header: Header,
    target: RemoteLocation,
    there: Header | None,
    text: bytes,
    show_progress: bool,
) -> tuple[int, int]:
    target.remove(schema.MANIFEST)  # from here until the end, readers are told it is not complete
    moved = {"files": 0, "bytes": 0}
    lock = threading.Lock()
    total = sum(header.shard_bytes.values())
    with progress_bar(total, "pushing", unit="bytes", show=show_progress) as advance:

        def send(key: str, stop: threading.Event) -> None:
            size = header.shard_bytes[key]
            fresh = target.noted(key) != (size, header.manifest[key])
            if fresh:
                with _checked(header, key) as data:
                    target.write(key, data, header.manifest[key])
            with lock:
                advance(size)
                moved["files"] += fresh
                moved["bytes"] += size if fresh else 0

        for_each(header.shard_bytes, send, THREADS, "frictionstore-push")
    documents = {key: _document(header, key) for key in header.manifest.keys() - header.shard_bytes}
    documents[CARD] = text
    provenance = header.location.read(schema.PROVENANCE)
    if provenance is not None:
        documents[schema.PROVENANCE] = provenance
    for key in sorted(documents, key=lambda key: (key == "zarr.json", key)):
        _put(target, key, documents[key])
    _put(target, schema.MANIFEST, header.listing)
    if there is not None:
        for key in sorted(there.manifest.keys() - header.manifest.keys()):
            target.remove(key)
    return moved["files"] + len(documents) + 1, moved["bytes"]


def _put(target: RemoteLocation, key: str, data: bytes) -> None:
    target.write(key, data, hashlib.sha256(data).hexdigest())


def _document(header: Header, key: str) -> bytes:
    data = header.document if key == "zarr.json" else header.location.read(key)
    if data is None or hashlib.sha256(data).hexdigest() != header.manifest[key]:
        raise damaged(header, key)
    return data


@contextmanager
def _checked(header: Header, key: str) -> Iterator[bytes | BinaryIO]:
    """A shard whose bytes are what the manifest says; a large one lies in a temporary file."""
    size = header.shard_bytes[key]
    with BytesIO() if size <= WHOLE_FILE_BYTES else TemporaryFile() as held:
        if not same(header.location, key, size, header.manifest[key], held.write):
            raise damaged(header, key)
        yield held.getvalue() if isinstance(held, BytesIO) else held
