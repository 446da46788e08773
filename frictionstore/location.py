"""Where a store is: a folder on this machine, or anything else that can be read by key.

A location reads small files by key and gives zarr a store to read arrays from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from frictionstore.errors import StoreError
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class Location(Protocol):
    """A place that holds one store."""

    text: str
    """How to show the place; never holds credentials."""

    def read(self, key: str) -> bytes | None:
        """All of a small file, or None where there is none."""

    def size(self, key: str) -> int | None:
        """Size of a file in bytes, or None where there is none."""

    def zarr_store(self) -> ZarrStore:
        """A read-only zarr store of the same place."""


class LocalLocation:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = str(path)

    def read(self, key: str) -> bytes | None:
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(
                f"{printable(self.path / key)} cannot be read: {error.strerror}"
            ) from error

    def size(self, key: str) -> int | None:
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def zarr_store(self) -> ZarrStore:
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)


def locate(location: str | os.PathLike[str]) -> Location:
    """The place that `location` names.

    Raises
    ------
    StoreError
        There is nothing there, and the message says what is.
    """
    path = Path(location)
    if path.is_dir():
        return LocalLocation(path)
    if path.exists():
        raise StoreError(f"{printable(location)} is a file, not a store: a store is a folder")
    unfinished = path.with_name(path.name + ".partial")
    if path.name and unfinished.is_dir():
        raise StoreError(
            f"{printable(location)} is not complete yet (its unfinished part is in "
            f"{printable(unfinished)}): let the extraction end, or run it again"
        )
    raise StoreError(f"{printable(location)} does not exist: name the folder of a store")
