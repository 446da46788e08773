"""A store in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frictionstore.errors import StoreError
from frictionstore.io.base import SMALL_FILE_BYTES, too_large
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


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
