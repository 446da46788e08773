"""A read-only zarr store that knows which files must be there, and what ends their chunks.

zarr reads a missing chunk as the fill value, and a file that is another store's, or another
shard's, as if it were the right one. Under this wrapper, a file that the manifest names and that
is missing, and a chunk whose checksum is none of those that the metadata lists for its shard,
are errors that name the file. So is a chunk that claims lengths it does not have: every chunk is
looked at (`format/frames.py`) before zarr's decoders, which believe it, see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from frictionstore.errors import StoreError
from frictionstore.format.frames import check_frame, check_texts
from frictionstore.format.plan import array_document, document_bytes
from frictionstore.format.shards import (
    CRC_BYTES,
    Read,
    index_size,
    split_checksums,
    written_chunks,
)
from frictionstore.text import printable

if TYPE_CHECKING:
    from frictionstore.format.header import Header
    from frictionstore.format.schema import ArrayPlan


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
        if size is None:
            name = key.removesuffix("/zarr.json")
            if name != key and name in self.header.arrays and byte_range is None:
                # the file itself was compared with nothing
                document = array_document(self.header.arrays[name])
                return prototype.buffer.from_bytes(document_bytes(document))
            return await self._store.get(key, prototype, byte_range)
        if isinstance(byte_range, SuffixByteRequest):
            # the index: asked for again with every chunk, so it is kept
            if key not in self.indexes:
                where = RangeByteRequest(size - index_size(self._plan(key)[0].shard_chunks), size)
                index = (await self._found(key, prototype, where)).to_bytes()
                self._check_sum(key, index)
                self._chunks(key, lambda start, count: index, size)
                self.indexes[key] = index
            return prototype.buffer.from_bytes(self.indexes[key][-byte_range.suffix :])
        # a known size saves a server the question for it
        found = await self._found(key, prototype, byte_range or RangeByteRequest(0, size))
        data = found.as_numpy_array().data
        if byte_range is None:
            self._check_whole(key, data)
        else:
            self._check_sum(key, data)
            self._check_chunk(key, data)
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def _found(self, key: str, prototype: BufferPrototype, where: ByteRequest) -> Buffer:
        found = await self._store.get(key, prototype, where)
        if found is None:
            raise self._wrong(f"{key} is missing")
        return found

    def _plan(self, key: str) -> tuple[ArrayPlan, int]:
        name, _, unit = key.split("/")[:3]
        return self.header.arrays[name], int(unit)

    def _check_sum(self, key: str, data: bytes | memoryview) -> None:
        """The index or a chunk; both end in their checksum."""
        if key not in self.allowed:
            self.allowed[key] = split_checksums(self.header.shard_checksums[key])
        if bytes(data[-CRC_BYTES:]) not in self.allowed[key]:
            raise self._wrong(
                f"{key} is not the file that was written, or was replaced while it was read"
            )

    def _check_chunk(self, key: str, data: memoryview) -> None:
        """What a chunk claims; its checksum is compared by zarr."""
        plan, _ = self._plan(key)
        try:
            check_frame(plan, data[:-CRC_BYTES])
            if plan.spec.dtype == "string":
                check_texts(plan, _decompressed(data[:-CRC_BYTES]))
        except StoreError as error:
            raise self._wrong(f"{key}: {error}") from None

    def _chunks(self, key: str, read: Read, size: int) -> list[list[int]]:
        """Where the chunks of a shard are."""
        plan, unit = self._plan(key)
        try:
            return written_chunks(read, size, plan.shard_chunks, plan.unit_chunks(unit))
        except StoreError as error:
            raise self._wrong(f"{key}: {error}") from None

    def _check_whole(self, key: str, data: memoryview) -> None:
        chunks = self._chunks(key, lambda start, count: data[start : start + count], len(data))
        ends = [offset + count for offset, count in chunks]
        row = b"".join(bytes(data[end - CRC_BYTES : end]) for end in [*ends, len(data)])
        if row.hex() != self.header.shard_checksums[key]:
            raise self._wrong(
                f"{key} is not the file that was written, or was replaced while it was read"
            )
        for offset, count in chunks:
            self._check_chunk(key, data[offset : offset + count])

    def _wrong(self, what: str) -> StoreError:
        return StoreError(
            f"{printable(self.header.location.text)} is damaged: {what}; "
            "see what else is with frictionstore verify"
        )


def _decompressed(data: memoryview) -> bytes:
    from numcodecs import zstd  # type: ignore[import-untyped]

    try:
        return bytes(zstd.decompress(data))
    except Exception as error:
        # numcodecs has no single exception for what damaged bytes make it do
        raise StoreError(f"a chunk cannot be decoded ({printable(error, 80)})") from None
