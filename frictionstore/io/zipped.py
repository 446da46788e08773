"""A store in one zip file: read in place by byte ranges.

Only what `pack` writes is read: entries that are stored, not compressed, under plain relative
names, each with bytes of its own and the same name in both places where a zip has it. Anything
else in a zip (links, absolute paths, encryption) is refused before use.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from frictionstore.errors import FrictionstoreError, StoreError
from frictionstore.io.base import SMALL_FILE_BYTES, Location, too_large
from frictionstore.text import printable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

TAIL_BYTES = 1 << 20  # pack puts metadata last, so one read gives it and the zip's directory
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra
_UTF8 = 0x800  # the flag of a name in UTF-8
MOST_ENTRIES = 1_000_000


def check_entry(info: zipfile.ZipInfo, where: str) -> None:
    """Refuse an entry that is not a plain stored file under a plain relative name.

    Raises
    ------
    StoreError
    """
    name = info.filename
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise StoreError(f"{where} has an entry {printable(name, 60)!r} outside the store")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise StoreError(f"{where} has an entry {printable(name, 60)!r} that is no plain file")
    if info.flag_bits & 1:
        raise StoreError(f"{where}: entry {printable(name, 60)!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise StoreError(
            f"{where}: entry {printable(name, 60)!r} is compressed, a store's zip holds its files "
            "as they are: make it with frictionstore pack or zip -0"
        )


class _Reader(io.RawIOBase):
    """The seekable file that `zipfile` wants, over ranges of a key; its end is kept."""

    def __init__(self, location: Location, key: str, size: int) -> None:
        self.location, self.key, self.size = location, key, size
        self.position = 0
        self.tail_start = max(size - TAIL_BYTES, 0)
        self.tail = self.fetch(self.tail_start, size - self.tail_start)

    def fetch(self, start: int, count: int) -> bytes:
        count = max(min(count, self.size - start), 0)
        data = self.location.read_range(self.key, start, count) if count else b""
        if data is None or len(data) != count:
            raise StoreError(
                f"{printable(self.location.text)}/{printable(self.key)} became shorter while it "
                "was read"
            )
        return data

    def range(self, start: int, count: int) -> bytes:
        """As `fetch`, from the kept end where that has it."""
        if start >= self.tail_start:
            return self.tail[start - self.tail_start :][: max(count, 0)]
        return self.fetch(start, count)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self.position, 2: self.size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def read(self, count: int | None = -1) -> bytes:
        if count is None or count < 0:
            count = self.size - self.position
        data = self.range(self.position, count)
        self.position += len(data)
        return data


class ZipLocation:
    """The zip file `key` of another location."""

    def __init__(self, outer: Location, key: str) -> None:
        self.outer, self.key = outer, key
        self.text = f"{outer.text.rstrip('/')}/{key}" if outer.text != "." else key
        self._starts: dict[str, int] = {}
        self._ends: dict[str, int] = {}

    @cached_property
    def _reader(self) -> _Reader:
        size = self.outer.size(self.key)
        if size is None:
            raise StoreError(f"{printable(self.text)} does not exist")
        return _Reader(self.outer, self.key, size)

    @cached_property
    def entries(self) -> dict[str, zipfile.ZipInfo]:
        """Every file in the zip, checked."""
        where = printable(self.text)
        reader = self._reader
        try:
            with zipfile.ZipFile(reader) as archive:
                infos, directory = archive.infolist(), archive.start_dir
        except FrictionstoreError:
            raise
        except Exception as error:
            # zipfile has no single exception for what random bytes make it do
            raise StoreError(
                f"{where} is not a whole zip file ({printable(error, 80)}): get it again"
            ) from error
        if len(infos) > MOST_ENTRIES:
            raise StoreError(f"{where} has {len(infos):,} entries, which no store has")
        found: dict[str, zipfile.ZipInfo] = {}
        end = directory
        for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
            check_entry(info, where)
            if info.filename in self._ends:
                raise StoreError(f"{where} has two entries {printable(info.filename, 60)!r}")
            if not 0 <= info.header_offset <= end - _LOCAL_HEADER.size - info.file_size:
                raise StoreError(
                    f"{where}: entry {printable(info.filename, 60)!r} shares bytes with the next"
                )
            self._ends[info.filename], end = end, info.header_offset
            if not info.is_dir():
                found[info.filename] = info
        if "zarr.json" not in found:
            inner = sorted(name for name in found if name.endswith(".zarr/zarr.json"))
            if inner:
                raise StoreError(
                    f"{where} holds a folder {printable(inner[0][:-10])!r}, not a store at its top "
                    "level: unzip it, or make it with frictionstore pack"
                )
        return found

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where the entry's bytes start; its local header has its own lengths."""
        if info.filename not in self._starts:
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
            head = self._reader.range(info.header_offset, _LOCAL_HEADER.size + len(name))
            if len(head) < _LOCAL_HEADER.size:
                raise self._damaged(info)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(head)
            start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            if signature != b"PK\3\4" or start + info.file_size > self._ends[info.filename]:
                raise self._damaged(info)
            if name_length != len(name) or head[_LOCAL_HEADER.size :] != name:
                raise StoreError(
                    f"{printable(self.text)} is damaged: entry {printable(info.filename, 60)!r} "
                    "has another name where its bytes are"
                )
            self._starts[info.filename] = start
        return self._starts[info.filename]

    def _damaged(self, info: zipfile.ZipInfo) -> StoreError:
        return StoreError(
            f"{printable(self.text)} is damaged: entry {printable(info.filename, 60)!r} is not "
            "where the zip's directory says"
        )

    def read(self, key: str) -> bytes | None:
        info = self.entries.get(key)
        if info is None:
            return None
        if info.file_size > SMALL_FILE_BYTES:
            raise too_large(self.text, key)
        return self.read_range(key, 0, info.file_size)

    def size(self, key: str) -> int | None:
        info = self.entries.get(key)
        return None if info is None else info.file_size

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        info = self.entries.get(key)
        if info is None:
            return None
        count = max(min(count, info.file_size - start), 0)
        return self._reader.range(self._start(info) + start, count)

    def files(self) -> Iterator[str]:
        return iter(self.entries)

    def zarr_store(self) -> ZarrStore:
        from frictionstore.io.ranged import RangedStore

        return RangedStore(self)
