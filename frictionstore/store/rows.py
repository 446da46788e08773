"""Rows of arrays, read from their shards without zarr.

zarr asks for every chunk by itself, through an event loop, and copies what it has decoded. Here the
chunks of a shard that lie together are one read, and each is decoded to its place in the answer.
`Shards` says what must be true of a shard's bytes, for this reader and for zarr (`checked.py`).
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from frictionstore.cores import cores
from frictionstore.errors import StoreError
from frictionstore.format.frames import decode_chunk
from frictionstore.format.schema import row_bytes
from frictionstore.format.shards import (
    CRC_BYTES,
    Read,
    crc32c,
    index_size,
    split_checksums,
    written_chunks,
)
from frictionstore.io.pieces import for_each
from frictionstore.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from frictionstore.format.header import Header
    from frictionstore.format.schema import ArrayPlan

PIECE_BYTES = 4 << 20  # raw, of one read; one chunk may have more
BLOCK_BYTES = 2 << 20  # raw, of one block that is read ahead; one chunk may have more
THREADS = 8  # at most
NOT_THE_FILE = "is not the file that was written, or was replaced while it was read"

Arrays = dict[str, "NDArray[Any]"]


class Shards:
    """What a store's metadata say of its shard files, held against what was read of them."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._allowed: dict[str, frozenset[bytes]] = {}

    def plan(self, key: str) -> tuple[ArrayPlan, int]:
        name, _, unit = key.split("/")[:3]
        return self.header.arrays[name], int(unit)

    def check_end(self, key: str, data: bytes | memoryview) -> None:
        """The index or a chunk; both end in their checksum, which must be one of the shard's."""
        if key not in self._allowed:
            self._allowed[key] = split_checksums(self.header.shard_checksums[key])
        if bytes(data[-CRC_BYTES:]) not in self._allowed[key]:
            raise self.wrong(f"{key} {NOT_THE_FILE}")

    def chunks(self, key: str, read: Read, size: int) -> list[list[int]]:
        """Offset and length of each chunk of a shard."""
        plan, unit = self.plan(key)
        try:
            return written_chunks(read, size, plan.shard_chunks, plan.unit_chunks(unit))
        except StoreError as error:
            raise self.wrong(f"{key}: {error}") from None

    def wrong(self, what: str) -> StoreError:
        return StoreError(
            f"{printable(self.header.location.text)} is damaged: {what}; "
            "see what else is with frictionstore verify"
        )


class RowReader:
    """Images of one array, checked as they are read; what was read of an index is kept."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._places: dict[str, NDArray[np.int64]] = {}
        # a server is waited for, a disk keeps the cores busy
        self.threads = THREADS if "://" in shards.header.location.text else cores(THREADS)

    def read(
        self, name: str, start: int, stop: int, threads: int, held: _Blocks | None = None
    ) -> NDArray[Any]:
        """Images `start` to `stop - 1` of an array.

        Parameters
        ----------
        name : str
        start, stop : int
        threads : int
            Read and decode at once; 0 stands for the caller's own, which must not be the main one:
            there, blosc would use threads of its own, and a fork would lose them.
        held : _Blocks, optional
            Who gives the array that they are put into.

        Raises
        ------
        StoreError
            A chunk is missing or damaged; the message names the array, the images and the file.
        """
        plan = self.shards.header.arrays[name]
        text = plan.spec.dtype == "string"
        dtype: Any = np.dtypes.StringDType() if text else np.dtype(plan.spec.dtype)
        shape = (stop - start, *plan.shape[1:])
        rows = np.empty(shape, dtype) if text or held is None else held.take(name, shape, dtype)

        def fill(piece: range, _: threading.Event | None = None) -> None:
            for chunk, data in zip(piece, self._stored(plan, piece), strict=True):
                first = chunk * plan.chunk_images
                low, high = max(first, start), min(first + plan.chunk_images, stop)
                place = rows[low - start : high - start]
                in_place = len(place) == plan.chunk_images and sys.byteorder == "little"
                values = self._decoded(plan, chunk, data, place if in_place and not text else None)
                if values is not place:
                    place[...] = values[low - first : high - first]

        pieces = _pieces(plan, start, stop)
        if threads:
            for_each(pieces, fill, max(min(threads, len(pieces)), 1), "frictionstore-read")
        else:
            for piece in pieces:
                fill(piece)
        return rows

    def blocks(
        self, names: list[str], chunk: int, most: int, threads: int, start: int, stop: int
    ) -> Iterator[tuple[Arrays, int]]:
        """Blocks of images in order, and how many they are; `threads` are read ahead.

        Whole chunks of `chunk` images, more of them each time: who looks at the first images does
        not wait for `most` of them, and what a block costs by itself is soon shared by many chunks.
        """

        held = _Blocks()

        def read(first: int, last: int) -> tuple[Arrays, int]:
            return {name: self.read(name, first, last, 0, held) for name in names}, last - first

        with ThreadPoolExecutor(threads, thread_name_prefix="frictionstore-read") as pool:
            ahead: deque[Future[tuple[Arrays, int]]] = deque()
            try:
                for first, last in _spans(start, stop, chunk, most, threads):
                    ahead.append(pool.submit(read, first, last))
                    if len(ahead) > threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _stored(self, plan: ArrayPlan, piece: range) -> list[memoryview]:
        """The stored bytes of some chunks of one shard, each with its checksum."""
        unit, number = divmod(piece[0], plan.shard_chunks)
        key = plan.shard_key(unit)
        places = self._index(key)[number : number + len(piece)].tolist()
        low = min(offset for offset, _ in places)
        high = max(offset + count for offset, count in places)
        if high - low != sum(count for _, count in places):  # others lie between them
            return [memoryview(self._found(key, offset, count)) for offset, count in places]
        data = memoryview(self._found(key, low, high - low))
        return [data[offset - low : offset - low + count] for offset, count in places]

    def _index(self, key: str) -> NDArray[np.int64]:
        if key not in self._places:
            size = self.shards.header.shard_bytes[key]
            length = index_size(self.shards.plan(key)[0].shard_chunks)
            index = self._found(key, size - length, length)
            self.shards.check_end(key, index)
            places = self.shards.chunks(key, lambda start, count: index, size)
            self._places[key] = np.array(places, np.int64)
        return self._places[key]

    def _found(self, key: str, start: int, count: int) -> bytes:
        data = self.shards.header.location.read_range(key, start, count)
        if data is None:
            raise self.shards.wrong(f"{key} is missing")
        if len(data) != count:
            raise self.shards.wrong(f"{key} {NOT_THE_FILE}")
        return data

    def _decoded(
        self, plan: ArrayPlan, chunk: int, data: memoryview, place: NDArray[Any] | None
    ) -> NDArray[Any]:
        """The values of one chunk, put into `place` where that is given."""
        key = plan.shard_key(chunk // plan.shard_chunks)
        self.shards.check_end(key, data)
        try:
            if crc32c(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
                raise StoreError("a chunk does not match its checksum")
            return decode_chunk(plan, data[:-CRC_BYTES], place)
        except StoreError as error:
            first = chunk * plan.chunk_images
            last = min(first + plan.chunk_images, plan.shape[0]) - 1
            raise StoreError(
                f"{printable(self.shards.header.location.text)}: {plan.spec.name} of images "
                f"{first}..{last} cannot be read from {key} ({error}); "
                "see what is damaged with frictionstore verify"
            ) from None


class _Blocks:
    """Arrays to read into, whose memory is used again once no view of them is left.

    Memory that is new to the process takes a third as long to get as a block takes to decode.
    """

    def __init__(self) -> None:
        self._free: dict[str, tuple[int, list[bytearray]]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        size = math.prod(shape) * dtype.itemsize
        of, free = self._free.get(name, (0, []))
        if of != size:  # blocks have become longer, or this is the last one
            self._free[name] = size, free = size, []
        try:
            memory = free.pop()
        except IndexError:
            memory = bytearray(size)
        # views hold this array: numpy goes on to what it lies in only where that is an array too
        rows: NDArray[Any] = np.ndarray(shape, dtype, memory)
        weakref.finalize(rows, free.append, memory).atexit = False
        return rows


def _pieces(plan: ArrayPlan, start: int, stop: int) -> list[range]:
    """The chunks that hold some images, by shard, as many as one read is for."""
    pieces = []
    first, last = start // plan.chunk_images, -(-stop // plan.chunk_images)
    most = max(PIECE_BYTES // row_bytes(plan.spec, plan.chunk_shape), 1)
    while first < last:
        shard_ends = (first // plan.shard_chunks + 1) * plan.shard_chunks
        pieces.append(range(first, min(first + most, shard_ends, last)))
        first = pieces[-1].stop
    return pieces


def _spans(start: int, stop: int, chunk: int, most: int, each: int) -> Iterator[tuple[int, int]]:
    """First image and end of each block; `each` blocks of one length, then twice as long."""
    count = 0
    while start < stop:
        chunks = 1 << min(count // each, 16)
        length = min(chunks * chunk, max(most // chunk, 1) * chunk)
        end = min((start // chunk) * chunk + length, stop)  # where a chunk ends
        yield start, end
        start, count = end, count + 1


def regrouped(
    blocks: Iterator[tuple[Arrays, int]], names: list[str], step: int, start: int, end: int
) -> Iterator[tuple[slice, Arrays]]:
    """Blocks of any sizes as blocks of `step` images, from `start` on, the last one shorter."""
    held: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    held_rows = 0
    for arrays, count in blocks:
        for name in names:
            held[name].append(arrays[name])
        held_rows += count
        last = start + held_rows == end
        if held_rows < step and not last:
            continue
        whole = {
            name: parts[0] if len(parts) == 1 else np.concatenate(parts)
            for name, parts in held.items()
        }
        offset = 0
        while held_rows - offset >= step or (last and offset < held_rows):
            stop = min(offset + step, held_rows)
            yield (
                slice(start + offset, start + stop),
                {name: array[offset:stop] for name, array in whole.items()},
            )
            offset = stop
        start, held_rows = start + offset, held_rows - offset
        held = {name: [array[offset:]] if held_rows else [] for name, array in whole.items()}
