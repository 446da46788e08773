"""A read-only zarr store that knows which files must be there, and what ends their chunks.

zarr reads a missing chunk as the fill value, and a file that is another store's, or another
shard's, as if it were the right one. Under this wrapper, a file that the manifest names and that
is missing, and a chunk whose checksum is none of those that the metadata lists for its shard,
are errors that name the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from frictionstore.errors import StoreError
from frictionstore.format.shards import CRC_BYTES, checksums, split_checksums
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.format.header import Header


class CheckedStore(WrapperStore[Any]):
    """`header` decides what must exist; the group's metadata is served from it."""

    header: Header
    allowed: dict[str, frozenset[bytes]]
    indexes: dict[str, bytes]

    @classmethod
    def of(cls, header: Header) -> CheckedStore:
        made = cls(header.location.zarr_store())
        made.header, made.allowed, made.indexes = header, {}, {}
        return made

    def _with_store(self, store: Any) -> CheckedStore:
        made = type(self)(store)
        made.header, made.allowed, made.indexes = self.header, self.allowed, self.indexes
        return made

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == "zarr.json" and byte_range is None:
            return prototype.buffer.from_bytes(self.header.document)
        size = self.header.shard_bytes.get(key)
        if size is None or not isinstance(byte_range, SuffixByteRequest):
            # a known size saves a server the question for it
            asked = byte_range if size is None or byte_range else RangeByteRequest(0, size)
            found = await self._store.get(key, prototype, asked)
            return self._checked(key, found, byte_range is None)
        # the index: asked for again with every chunk, so it is kept
        if key not in self.indexes:
            where = RangeByteRequest(size - byte_range.suffix, size)
            index = self._checked(key, await self._store.get(key, prototype, where), False)
            if index is None:
                return None
            self.indexes[key] = index.to_bytes()
        return prototype.buffer.from_bytes(self.indexes[key][-byte_range.suffix :])

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _checked(self, key: str, found: Buffer | None, whole: bool) -> Buffer | None:
        if found is None:
            if key in self.header.manifest:
                raise self._wrong(f"{key} is missing")
            return None
        row = self.header.shard_checksums.get(key)
        if row is None:
            return found
        data = found.as_numpy_array().data
        if whole:
            sums = self._sums_of_whole(key, data)
            good = sums == row
        else:  # the index or a chunk; both end in their checksum
            good = bytes(data[-CRC_BYTES:]) in self._allowed(key, row)
        if not good:
            raise self._wrong(
                f"{key} is not the file that was written, or was replaced while it was read"
            )
        return found

    def _allowed(self, key: str, row: str) -> frozenset[bytes]:
        if key not in self.allowed:
            self.allowed[key] = split_checksums(row)
        return self.allowed[key]

    def _sums_of_whole(self, key: str, data: memoryview) -> str:
        name, _, unit = key.split("/")[:3]
        plan = self.header.arrays[name]
        try:
            return checksums(
                lambda start, count: bytes(data[start : start + count]),
                len(data), plan.shard_chunks, plan.unit_chunks(int(unit)),
            )  # fmt: skip
        except StoreError as error:
            raise self._wrong(f"{key}: {error}") from None

    def _wrong(self, what: str) -> StoreError:
        return StoreError(
            f"{printable(self.header.location.text)} is damaged: {what}; "
            "see what else is with frictionstore verify"
        )
