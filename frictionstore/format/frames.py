"""Chunks decoded: what their bytes say of themselves is compared with what there is before that.

Decoders believe their frame: a length in it that is not true makes them read beyond the frame or
take any amount of memory. Only the two frames that stores are written with are known here (blosc
with zstd, and zstd); a header with other codecs is refused (`header.py`). The checksum of a chunk
proves nothing here: whoever made the frame made the checksum too.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_ID_BYTES = 4096  # in UTF-8; as long as a path can be
LARGEST_TEXT_RATIO = 2048  # ids that share 4,000 of their 4,006 characters reach 1,201

_BLOSC = struct.Struct("<BBBBIII")  # version, zstd's, flags, size of a value; decoded, block, all
_LENGTH = struct.Struct("<i")
_BLOSC_VERSIONS = (2, 1)
_STORED, _UNSPLIT, _CODEC, _ZSTD = 0x02, 0x10, 0xE0, 0x80
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_RLE_BLOCK, _RESERVED_BLOCK = 1, 3

Bytes = bytes | memoryview


def decode_chunk(
    plan: schema.ArrayPlan, data: Bytes, place: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Values of one chunk from its bytes without the checksum.

    Parameters
    ----------
    plan : ArrayPlan
    data : bytes or memoryview
    place : ndarray, optional
        Where to put them, little-endian and without gaps; it is returned. Not of texts.

    Raises
    ------
    StoreError
        It cannot be decompressed, or does not hold as many values as it must.
    """
    import numpy as np
    from numcodecs import VLenUTF8, blosc, zstd  # type: ignore[import-untyped]

    check_frame(plan, data)
    try:
        if plan.spec.dtype == "string":
            raw = zstd.decompress(data)
            check_texts(plan, raw)
            texts: NDArray[Any] = VLenUTF8().decode(raw)
            return texts
        if place is not None:
            blosc.decompress(data, place)
            return place
        dtype = np.dtype(plan.spec.dtype).newbyteorder("<")
        return np.frombuffer(blosc.decompress(data), dtype).reshape(plan.chunk_shape)
    except StoreError:
        raise
    except Exception as error:
        # whatever a decoder says about bytes it cannot use, it means the same
        raise StoreError(f"a chunk cannot be decoded ({printable(error, 80)})") from error


def check_frame(plan: schema.ArrayPlan, data: Bytes) -> None:
    """Refuse the bytes of a chunk (without its checksum) that claim what cannot be.

    Raises
    ------
    StoreError
        A length in them is not that of the bytes there are, or not what the array allows.
    """
    if plan.spec.dtype == "string":
        said = zstd_size(data)
        most = plan.chunk_images * (_LENGTH.size + LONGEST_ID_BYTES) + _LENGTH.size
        most = min(most, LARGEST_TEXT_RATIO * len(data))
        if said > most:
            raise StoreError(f"a chunk says it holds {said:,} bytes of text, at most {most:,} can")
    else:
        check_blosc(data, plan.spec.itemsize, schema.row_bytes(plan.spec, plan.chunk_shape))


def check_texts(plan: schema.ArrayPlan, texts: Bytes) -> None:
    """Refuse decompressed ids that claim another number of them, which is allocated at once.

    The lengths of the texts are compared with the bytes by the decoder (`numcodecs.vlen`).
    """
    said = int.from_bytes(texts[:4], "little")
    if len(texts) < 4 or said != plan.chunk_images:
        raise StoreError(f"a chunk says it holds {said:,} texts, expected {plan.chunk_images:,}")


def check_blosc(data: Bytes, itemsize: int, size: int) -> None:
    """Every length in a blosc frame that is to hold `size` bytes."""
    if len(data) < _BLOSC.size:
        raise StoreError(f"a chunk has {len(data)} bytes, a blosc header alone has {_BLOSC.size}")
    *versions, flags, typesize, decoded, block, encoded = _BLOSC.unpack_from(data)
    # zarr before numcodecs knew of types hands over bytes.
    kind = tuple(versions) == _BLOSC_VERSIONS and flags & _CODEC == _ZSTD
    if not kind or typesize not in (1, itemsize):
        raise StoreError("a chunk is no blosc frame of the kind that stores are written with")
    if encoded != len(data):
        raise StoreError(f"a chunk has {len(data):,} bytes and says it has {encoded:,}")
    if decoded != size:
        raise StoreError(f"a chunk says it holds {decoded:,} bytes, expected {size:,}")
    if flags & _STORED:
        if encoded != decoded + _BLOSC.size:
            raise StoreError(
                f"a chunk says it holds {decoded:,} bytes as they are, and has "
                f"{encoded - _BLOSC.size:,}"
            )
        return
    if not 0 < block <= decoded:
        raise StoreError(f"a chunk says it holds blocks of {block:,} bytes, expected {decoded:,}")
    blocks = -(-decoded // block)
    first = _BLOSC.size + _LENGTH.size * blocks
    if first > encoded:
        raise StoreError(f"a chunk has {encoded:,} bytes and says it holds {blocks:,} blocks")
    for number, (start,) in enumerate(_LENGTH.iter_unpack(data[_BLOSC.size : first])):
        whole = decoded - number * block >= block
        for _ in range(typesize if whole and not flags & _UNSPLIT else 1):
            if not first <= start <= encoded - _LENGTH.size:
                raise StoreError(f"block {number} of a chunk does not lie in it")
            (length,) = _LENGTH.unpack_from(data, start)
            start += _LENGTH.size + length
            if length < 1 or start > encoded:
                raise StoreError(f"block {number} of a chunk says it has {length:,} bytes")


def zstd_size(data: Bytes) -> int:
    """Decompressed bytes of a zstd frame, which ends where `data` ends.

    Raises
    ------
    StoreError
        It is not one whole frame, or does not say its size.
    """
    if len(data) < 6 or bytes(data[:4]) != _ZSTD_MAGIC:
        raise StoreError("a chunk is no zstd frame")
    how = data[4]
    single = how >> 5 & 1
    width = (single, 2, 4, 8)[how >> 6]
    if not width or how & 0x0B:  # unknown size, reserved bit, dictionary
        raise StoreError("a chunk is no zstd frame of the kind that stores are written with")
    place = 5 + (not single)
    size = int.from_bytes(data[place : place + width], "little") + (256 if width == 2 else 0)
    place += width
    last = False
    while not last:
        head = int.from_bytes(data[place : place + 3], "little")
        last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
        if place + 3 > len(data) or kind == _RESERVED_BLOCK:
            raise StoreError("a chunk is a damaged zstd frame")
        place += 3 + (1 if kind == _RLE_BLOCK else length)
    place += 4 * (how >> 2 & 1)  # a checksum
    if place != len(data):
        raise StoreError(f"a chunk has {len(data):,} bytes and its zstd frame {place:,}")
    return size
