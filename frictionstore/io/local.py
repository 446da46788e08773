"""A store in a folder: plain files, no links (`regular.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from frictionstore.errors import StoreError
from frictionstore.io.base import SMALL_FILE_BYTES, too_large
from frictionstore.io.regular import open_regular
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

T = TypeVar("T")


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
        return self._with(key, lambda descriptor: os.fstat(descriptor).st_size)

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        return self._with(key, lambda descriptor: _pread(descriptor, start, count))

    def _with(self, key: str, use: Callable[[int], T]) -> T | None:
        """What `use` makes of a file's descriptor; None where there is no such file."""
        try:
            descriptor = open_regular(self.path, key)
            try:
                return use(descriptor)
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(
                f"{printable(self.path / key)} cannot be read: {error.strerror}"
            ) from error

    def files(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self.path):
            here = Path(folder)
            for name in [*names, *(name for name in folders if (here / name).is_symlink())]:
                yield (here / name).relative_to(self.path).as_posix()

    def zarr_store(self) -> ZarrStore:
        from frictionstore.io.ranged import RangedStore

        return RangedStore(self)


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
