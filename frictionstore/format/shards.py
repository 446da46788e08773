"""The bytes of one shard file: where its chunks are and the checksums they end in.

A shard is its chunks one after another, then its index (offset and length of every chunk, two
little-endian uint64 each), then the CRC32C of the index. Every chunk ends in its own CRC32C. The
row of these checksums tells one shard from every other: the store's metadata lists it, so that a
reader notices a file that is sound in itself but not the one that belongs there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from frictionstore.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENTRY_BYTES = 16
CRC_BYTES = 4
MISSING = (1 << 64) - 1  # offset and length of a chunk that was never written

Read = Callable[[int, int], bytes | memoryview]
"""Bytes of a file from a start, so many."""


def crc32c(data: bytes | memoryview) -> bytes:
    """CRC32C as a chunk ends in it: four bytes, little-endian."""
    import google_crc32c
    import numpy as np

    # an array is taken as it is, where a memoryview is refused
    return int(google_crc32c.value(np.asarray(memoryview(data)))).to_bytes(CRC_BYTES, "little")


def index_size(n_chunks: int) -> int:
    """Bytes at the end of a shard that are not chunks."""
    return n_chunks * ENTRY_BYTES + CRC_BYTES


def read_index(read: Read, size: int, n_chunks: int) -> NDArray[np.uint64]:
    """Offset and length of every chunk, uint64 of shape (n_chunks, 2), checked.

    Raises
    ------
    StoreError
        The index does not match its checksum, or points outside the chunks or to bytes twice.
    """
    import numpy as np

    length = index_size(n_chunks)
    if size < length:
        raise StoreError(f"it has {size:,} bytes, its index alone has {length:,}")
    tail = read(size - length, length)
    if len(tail) != length or crc32c(tail[:-CRC_BYTES]) != tail[-CRC_BYTES:]:
        raise StoreError("its index does not match its checksum")
    index = np.frombuffer(tail[:-CRC_BYTES], "<u8").reshape(n_chunks, 2)
    offset, count = index[:, 0], index[:, 1]
    written = (offset != MISSING) | (count != MISSING)
    room = np.uint64(size - length)
    good = (count > CRC_BYTES) & (offset <= room) & (count <= room - np.minimum(offset, room))
    if not good[written].all():
        raise StoreError("its index points outside the file")
    order = np.argsort(offset[written], kind="stable")
    starts, counts = offset[written][order], count[written][order]
    if (starts[1:] - starts[:-1] < counts[:-1]).any():
        raise StoreError("its index names bytes of the file for more than one chunk")
    return index


def written_chunks(read: Read, size: int, n_chunks: int, n_written: int) -> list[list[int]]:
    """Offset and length of the chunks that hold images, which are there and no others.

    Raises
    ------
    StoreError
        The index is damaged, a chunk was never written, or there is one too many.
    """
    index = read_index(read, size, n_chunks).tolist()
    for number, (offset, _) in enumerate(index):
        if (offset == MISSING) == (number < n_written):
            what = "was never written" if offset == MISSING else "lies beyond the last image"
            raise StoreError(f"its chunk {number} {what}")
    return index[:n_written]


def checksums(read: Read, size: int, n_chunks: int, n_written: int) -> str:
    """The last four bytes of every chunk in order, then those of the index, as hex.

    Parameters
    ----------
    read : callable
    size : int
        Bytes of the file.
    n_chunks : int
        Entries of the index.
    n_written : int
        Chunks that hold images; in the last shard of a store, the rest lies beyond its end.

    Raises
    ------
    StoreError
        The index is damaged or a chunk was never written.
    """
    row = [
        read(offset + count - CRC_BYTES, CRC_BYTES)
        for offset, count in written_chunks(read, size, n_chunks, n_written)
    ]
    row.append(read(size - CRC_BYTES, CRC_BYTES))
    return b"".join(row).hex()


def split_checksums(row: str) -> frozenset[bytes]:
    """The checksums of one shard as a set."""
    data = bytes.fromhex(row)
    return frozenset(data[k : k + CRC_BYTES] for k in range(0, len(data), CRC_BYTES))
