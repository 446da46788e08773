"""Open a store, and look at all of it first where that is asked for."""

from __future__ import annotations

import os
from typing import Literal

from frictionstore.check import verify as checking
from frictionstore.errors import RequestError, StoreError
from frictionstore.store import reader
from frictionstore.text import printable


def open_store(
    location: str | os.PathLike[str], *, verify: Literal["quick", "full"] | None = None
) -> reader.Store:
    """Open a complete store for reading.

    Parameters
    ----------
    location : str or path
        A folder, a zip or an address.
    verify : {None, "quick", "full"}
        What `frictionstore.verify` has to find sound first: nothing; sizes and metadata; every
        file by its SHA-256 and every value by the rules of the format. Reading itself compares a
        CRC-32C for every chunk, which notices accidents. A file that somebody changed on purpose
        can have the same; ``"full"`` notices it, as long as the store's digest is one you know.

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        It does not exist, is not complete, is damaged or has another format.
    """
    if verify not in (None, "quick", "full"):
        raise RequestError(f"verify is {printable(verify, 40)!r}: it must be None, quick or full")
    report = None if verify is None else checking.verify(location, quick=verify == "quick")
    if report is not None and not report.ok:
        first = report.damage[0]
        raise StoreError(f"{report.sentence}: {printable(first.file)} {printable(first.what)}")
    store = reader.open_store(location)
    if report is not None and report.digest != store.digest:
        raise StoreError(f"{printable(location)} was replaced while it was verified: open it again")
    return store
