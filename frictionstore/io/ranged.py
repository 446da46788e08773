"""A read-only zarr store over a location that reads ranges of files by key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from frictionstore.errors import StoreError
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.io.base import Location


class RangedStore(Store):
    """`location.read_range` in threads; nothing can be written or listed through it."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, location: Location) -> None:
        super().__init__(read_only=True)
        self.location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangedStore) and other.location is self.location

    def __hash__(self) -> int:
        return id(self.location)

    def __str__(self) -> str:
        return self.location.text

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        if isinstance(byte_range, RangeByteRequest):
            start, count = byte_range.start, byte_range.end - byte_range.start
        else:
            size = self.location.size(key)
            if size is None:
                return None
            if isinstance(byte_range, SuffixByteRequest):
                start = max(size - byte_range.suffix, 0)
            else:
                start = byte_range.offset if isinstance(byte_range, OffsetByteRequest) else 0
            count = size - start
        return self.location.read_range(key, start, count)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self.location.size, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        raise StoreError(f"{printable(self.location.text)} is open for reading only")

    async def delete(self, key: str) -> None:
        raise StoreError(f"{printable(self.location.text)} is open for reading only")

    async def list(self) -> AsyncIterator[str]:
        for key in self.location.files() or ():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = prefix.rstrip("/") + "/" if prefix else ""
        seen: set[str] = set()
        async for key in self.list_prefix(folder):
            child = key[len(folder) :].split("/", 1)[0]
            if child not in seen:
                seen.add(child)
                yield child
