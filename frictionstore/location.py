"""Where a store is: a folder, a zip file, or an address on the network.

A location reads files by key and gives zarr a store to read arrays from. What is behind a
network address is in `remote.py`, what is in a zip file in `zipped.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from frictionstore.errors import StoreError
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

SMALL_FILE_BYTES = 64 << 20  # no metadata file is larger; what claims to be is not read
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


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


class LocalLocation:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = str(path)

    def read(self, key: str) -> bytes | None:
        data = self.read_range(key, 0, SMALL_FILE_BYTES + 1)
        if data is not None and len(data) > SMALL_FILE_BYTES:
            raise too_large(self.text, key)
        return data

    def size(self, key: str) -> int | None:
        try:
            return (self.path / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(key, error) from error

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        try:
            # a named pipe in place of a file must not make us wait for its other end
            descriptor = os.open(self.path / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unreadable(key, error) from error
        try:
            return _pread(descriptor, start, count)
        except OSError as error:
            raise self._unreadable(key, error) from error
        finally:
            os.close(descriptor)

    def _unreadable(self, key: str, error: OSError) -> StoreError:
        return StoreError(f"{printable(self.path / key)} cannot be read: {error.strerror}")

    def files(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.path):
            for name in names:
                yield (Path(folder) / name).relative_to(self.path).as_posix()

    def zarr_store(self) -> ZarrStore:
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)


def _pread(descriptor: int, start: int, count: int) -> bytes:
    """As much of the range as the file has; one call may return less than it could."""
    size = os.fstat(descriptor).st_size
    count = max(min(count, size - start), 0)
    parts = []
    while count:
        part = os.pread(descriptor, count, start)
        if not part:
            break
        parts.append(part)
        start, count = start + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def locate(location: str | os.PathLike[str]) -> Location:
    """The place that `location` names.

    Parameters
    ----------
    location : str or path
        A folder, a ``.zip`` file, or an address: ``http://``, ``https://``, ``s3://``,
        ``hf://``; the address of a zip file ends in ``.zip``.

    Raises
    ------
    StoreError
        There is nothing there, and the message says what is.
    """
    name = os.fspath(location)
    scheme = _SCHEME.match(name)
    if scheme:
        if scheme[1].lower() == "file":
            return _locate_local(Path(unquote(urlsplit(name).path)))
        from frictionstore.remote import locate_remote

        return locate_remote(name)
    return _locate_local(Path(name))


def _locate_local(path: Path) -> Location:
    shown = printable(path)
    try:
        if path.is_dir():
            return LocalLocation(path)
        if path.exists():
            if path.suffix == ".zip" and path.is_file():
                from frictionstore.zipped import ZipLocation

                return ZipLocation(LocalLocation(path.parent), path.name)
            raise StoreError(
                f"{shown} is a file, not a store: a store is a folder, or a .zip made by "
                "frictionstore pack"
            )
        unfinished = path.with_name(path.name + ".partial") if path.name else path
        if path.name and unfinished.is_dir():
            raise StoreError(
                f"{shown} is not complete yet (its unfinished part is in "
                f"{printable(unfinished)}): let what writes it end, or run it again"
            )
    except ValueError:  # a NUL in the name
        raise StoreError(f"{shown} cannot be a path: it holds a NUL character") from None
    except OSError as error:
        raise StoreError(f"{shown} cannot be read: {error.strerror}") from error
    raise StoreError(f"{shown} does not exist: name the folder of a store")
