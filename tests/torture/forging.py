"""Stores as a stranger makes them: every checksum, size and hash fits what was forged.

Nothing of frictionstore computes anything here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np

MISSING = (1 << 64) - 1


def crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def sealed_shard(
    chunks: Sequence[bytes], slots: int, entries: Sequence[tuple[int, int]] = ()
) -> tuple[bytes, str]:
    """A shard of these chunks (their checksums are added), and its row of checksums.

    `entries` are offset and length of every chunk where they are not one after another.
    """
    body = b"".join(chunk + crc(chunk) for chunk in chunks)
    places, start = [], 0
    for chunk in chunks:
        places.append((start, len(chunk) + 4))
        start += len(chunk) + 4
    places = list(entries) or places
    row = b"".join(body[a + n - 4 : a + n] for a, n in places)
    places += [(MISSING, MISSING)] * (slots - len(places))
    index = b"".join(struct.pack("<QQ", *place) for place in places)
    return body + index + crc(index), (row + crc(index)).hex()


def reseal(store: Path, change: Callable[[dict[str, Any]], None] = lambda document: None) -> None:
    """Change the group's metadata, the arrays' own with them, and make the manifest fit."""
    document = json.loads((store / "zarr.json").read_bytes())
    change(document)
    (store / "zarr.json").write_text(json.dumps(document))
    for name, entry in document["consolidated_metadata"]["metadata"].items():
        (store / name / "zarr.json").write_text(json.dumps(entry))
    lines = []
    for line in (store / "MANIFEST.sha256").read_text().splitlines():
        key = line.split("  ")[1]
        lines.append(f"{hashlib.sha256((store / key).read_bytes()).hexdigest()}  {key}\n")
    (store / "MANIFEST.sha256").write_text("".join(lines))


def plant(store: Path, key: str, shard: tuple[bytes, str]) -> None:
    """Put a forged shard in the place of one."""
    data, row = shard
    (store / key).write_bytes(data)

    def change(document: dict[str, Any]) -> None:
        own = document["attributes"]["frictionstore"]
        own["shard_bytes"][key], own["shard_crc32c"][key] = len(data), row

    reseal(store, change)


def blosc(
    payload: bytes, nbytes: int, *, flags: int = 0x91, block: int | None = None,
    said: int | None = None, typesize: int = 4,
) -> bytes:  # fmt: skip
    """A blosc frame with the header one likes."""
    said = len(payload) + 16 if said is None else said
    block = nbytes if block is None else block
    return struct.pack("<BBBBIII", 2, 1, flags, typesize, nbytes, block, said) + payload


def packed(values: np.ndarray) -> bytes:
    """An honest chunk of float32."""
    values = np.ascontiguousarray(values, "<f4")
    return bytes(numcodecs.Blosc("zstd", 5, numcodecs.Blosc.SHUFFLE, 0).encode(values))


def zstd_frame(size: int | None, blocks: Sequence[tuple[int, int, bytes]]) -> bytes:
    """A zstd frame that says `size` (nothing for None): blocks of (kind, length, bytes)."""
    head = b"\x28\xb5\x2f\xfd"
    head += bytes([0x00, 0x58]) if size is None else bytes([0xE0]) + struct.pack("<Q", size)
    for number, (kind, length, data) in enumerate(blocks):
        last = number == len(blocks) - 1
        head += (length << 3 | kind << 1 | last).to_bytes(3, "little") + data
    return head
