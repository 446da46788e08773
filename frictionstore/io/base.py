"""What a place that holds a store can do, whatever is behind it.

A location reads files by key and gives zarr a store to read arrays from. `locate.py` finds the
one that a name means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from frictionstore.errors import StoreError
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

TOKEN = ".frictionstore"  # in a folder that is ours: what it is for (`owned.py`)
SMALL_FILE_BYTES = 64 << 20  # no metadata file is larger; what claims to be is not read


class Location(Protocol):
    """A place that holds one store."""

    text: str
    """How to show the place; never holds credentials."""

    def read(self, key: str) -> bytes | None:
        """All of a small file, or None where there is none."""

    def size(self, key: str) -> int | None:
        """Size of a file in bytes, or None where there is none."""

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        """`count` bytes from `start`, fewer only at the file's end; None where there is no file."""

    def files(self) -> Iterator[str] | None:
        """Keys of all files, or None where the place cannot list them."""

    def zarr_store(self) -> ZarrStore:
        """A read-only zarr store of the same place."""


def too_large(text: str, key: str) -> StoreError:
    return StoreError(
        f"{printable(text)}: {printable(key)} has more than {SMALL_FILE_BYTES >> 20} MiB, "
        "which no file of metadata has"
    )
