"""A read-only zarr store that knows which files must be there, and what ends their chunks.

zarr reads a missing chunk as the fill value, and a file that is another store's, or another
shard's, as if it were the right one. Under this wrapper, a file that the manifest names and that
is missing, and a chunk whose checksum is none of those that the metadata lists for its shard,
are errors that name the file. So is a chunk that claims lengths it does not have: every chunk is
looked at (`format/frames.py`) before zarr's decoders, which believe it, see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from frictionstore.cores import cores
from frictionstore.errors import StoreError
from frictionstore.format.frames import check_frame, decode_chunk
from frictionstore.format.plan import array_document, document_bytes
from frictionstore.format.shards import CRC_BYTES, index_size
from frictionstore.store.rows import NOT_THE_FILE, RowReader, Shards


class CheckedStore(WrapperStore[Any]):
    """The shards' header decides what must exist; the group's metadata is served from it."""

    shards: Shards
    indexes: dict[str, bytes]

    @classmethod
    def of(cls, shards: Shards) -> CheckedStore:
        made = cls(shards.header.location.zarr_store())
        made.shards, made.indexes = shards, {}
        return made

    def _with_store(self, store: Any) -> CheckedStore:
        made = type(self)(store)
        made.shards, made.indexes = self.shards, self.indexes
        return made

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        header = self.shards.header
        if key == "zarr.json" and byte_range is None:
            return prototype.buffer.from_bytes(header.document)
        size = header.shard_bytes.get(key)
        if size is None:
            name = key.removesuffix("/zarr.json")
            if name != key and name in header.arrays and byte_range is None:
                # the file itself was compared with nothing
                document = array_document(header.arrays[name])
                return prototype.buffer.from_bytes(document_bytes(document))
            return await self._store.get(key, prototype, byte_range)
        if isinstance(byte_range, SuffixByteRequest):
            # the index: asked for again with every chunk, so it is kept
            if key not in self.indexes:
                where = RangeByteRequest(
                    size - index_size(self.shards.plan(key)[0].shard_chunks), size
                )
                index = (await self._found(key, prototype, where)).to_bytes()
                self.shards.check_end(key, index)
                self.shards.chunks(key, lambda start, count: index, size)
                self.indexes[key] = index
            return prototype.buffer.from_bytes(self.indexes[key][-byte_range.suffix :])
        # a known size saves a server the question for it
        found = await self._found(key, prototype, byte_range or RangeByteRequest(0, size))
        data = found.as_numpy_array().data
        if byte_range is None:
            self._check_whole(key, data)
        else:
            self.shards.check_end(key, data)
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
            raise self.shards.wrong(f"{key} is missing")
        return found

    def _check_chunk(self, key: str, data: memoryview) -> None:
        """What a chunk claims; its checksum is compared by zarr."""
        plan, _ = self.shards.plan(key)
        try:
            if plan.spec.dtype == "string":
                decode_chunk(plan, data[:-CRC_BYTES])
            else:
                check_frame(plan, data[:-CRC_BYTES])
        except StoreError as error:
            raise self.shards.wrong(f"{key}: {error}") from None

    def _check_whole(self, key: str, data: memoryview) -> None:
        chunks = self.shards.chunks(
            key, lambda start, count: data[start : start + count], len(data)
        )
        ends = [offset + count for offset, count in chunks]
        row = b"".join(bytes(data[end - CRC_BYTES : end]) for end in [*ends, len(data)])
        if row.hex() != self.shards.header.shard_checksums[key]:
            raise self.shards.wrong(f"{key} {NOT_THE_FILE}")
        for offset, count in chunks:
            self._check_chunk(key, data[offset : offset + count])


class RowArray(zarr.Array):
    """An array of a store; whole images are read without zarr's pipeline (`rows.py`)."""

    reader: RowReader | None = None

    @classmethod
    def of(cls, array: zarr.Array, reader: RowReader) -> RowArray:
        made = cls(array._async_array)  # public only in newer zarr
        made.reader = reader
        return made

    def __getitem__(self, selection: Any) -> Any:
        rows, *rest = selection if isinstance(selection, tuple) and selection else (selection,)
        whole = rows is Ellipsis or (isinstance(rows, slice) and rows.step in (None, 1))
        whole = whole and all(isinstance(one, slice) and one == slice(None) for one in rest)
        if self.reader is None or not whole or len(rest) >= self.ndim:
            return super().__getitem__(selection)
        start, stop, _ = (slice(None) if rows is Ellipsis else rows).indices(self.shape[0])
        return self.reader.read(self.basename, start, max(start, stop), cores(8))
