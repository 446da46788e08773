"""What the fuzzers feed: a parser each, from bytes; anything but one sentence is a find.

Where a check would stop every change (a hash, a checksum), the target repairs it, so that what
lies behind is reached: a stranger would do the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from frictionstore.analyses.core.saved import read_saved
from frictionstore.errors import FrictionstoreError
from frictionstore.extract.encoder.checkpoints import Source, read_checkpoint
from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.format import schema
from frictionstore.format.fingerprint import fingerprint
from frictionstore.format.frames import decode_chunk
from frictionstore.format.header import read_header
from frictionstore.format.shards import CRC_BYTES, checksums, crc32c, index_size
from frictionstore.io.zipped import ZipLocation

Target = Callable[[bytes], None]


class Held:
    """A location whose files are held in memory."""

    text = "held"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.content = files

    def read(self, key: str) -> bytes | None:
        return self.content.get(key)

    def size(self, key: str) -> int | None:
        return len(self.content[key]) if key in self.content else None

    def read_range(self, key: str, start: int, count: int) -> bytes | None:
        data = self.content.get(key)
        return None if data is None else data[start : start + count]

    def files(self) -> Iterator[str]:
        return iter(self.content)

    def zarr_store(self) -> object:
        raise NotImplementedError


def header(data: bytes) -> None:
    """A store's zarr.json, with the manifest and the fingerprint that fit it."""
    try:
        document = json.loads(data)
        own = document["attributes"][schema.ATTRIBUTES_KEY]
        own["fingerprint"] = fingerprint(own["request"])
        keys = [f"{name}/zarr.json" for name in document["consolidated_metadata"]["metadata"]]
        keys += [str(key) for key in own["shard_bytes"]]
        data = json.dumps(document).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        keys = []
    lines = [f"{hashlib.sha256(data).hexdigest()}  zarr.json"]
    lines += [f"{'0' * 64}  {key}" for key in sorted(set(keys) - {"zarr.json"})]
    manifest = "\n".join(sorted(lines, key=lambda line: line[66:])) + "\n"
    manifest_bytes = manifest.encode("utf-8", "surrogatepass")
    read_header(Held({"zarr.json": data, schema.MANIFEST: manifest_bytes}))


def shard(data: bytes) -> None:
    """A shard, its index with the checksum that fits it; two bytes before it count its chunks."""
    if len(data) < 2:
        return
    n_chunks, written = data[0] % 32 + 1, data[1]
    body = data[2:]
    index = body[-(index_size(n_chunks) - CRC_BYTES) :]
    body += crc32c(index)
    checksums(
        lambda start, count: body[start : start + count],
        len(body), n_chunks, min(written % 33, n_chunks),
    )  # fmt: skip


SPECS = [schema.ARRAYS[name] for name in ("S", "settle", "label", "image_id")]


def chunk(data: bytes) -> None:
    """A chunk's frame; the first byte says of which array."""
    if not data:
        return
    spec = SPECS[data[0] % len(SPECS)]
    plan = schema.ArrayPlan(spec, (8, *(4,) * (len(spec.dims) - 1)), 4, 8)
    values = decode_chunk(plan, data[1:])
    if values.shape != plan.chunk_shape:
        raise AssertionError("a chunk of another shape came through")


def zipped(data: bytes) -> None:
    """A zip file: its directory, its local headers, every entry."""
    place = ZipLocation(Held({"a.zip": data}), "a.zip")  # type: ignore[arg-type]
    total = 0
    for key in place.files():
        found = place.read(key)
        total += len(found or b"")
    if total > len(data):
        raise AssertionError(f"{total} bytes came out of {len(data)}")


_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def safetensors(data: bytes) -> None:
    """A checkpoint, with the length that its header has; the config it names."""
    at = _FOLDER / "a.safetensors"
    end = data.find(b"\0\n")
    head, rest = (data, b"") if end < 0 else (data[:end], data[end + 2 :])
    at.write_bytes(struct.pack("<Q", len(head)) + head + rest)
    SVAEConfig.from_mapping(read_checkpoint(Source(at, "file:a")).config, "a")


def saved(data: bytes) -> None:
    """A saved result, and the folder's index that names it."""
    folder = _FOLDER / "saved"
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_bytes(data)
    for feature in (None, "friction"):
        read_saved(folder, feature=feature)


def index(data: bytes) -> None:
    """A folder's index of saved results."""
    folder = _FOLDER / "index"
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_bytes(data)
    read_saved(folder)


TARGETS: dict[str, Target] = {
    "header": header, "shard": shard, "chunk": chunk, "zipped": zipped,
    "safetensors": safetensors, "saved": saved, "index": index,
}  # fmt: skip


def fed(name: str, data: bytes) -> None:
    """Feed one target; what it may say is one sentence."""
    try:
        TARGETS[name](data)
    except FrictionstoreError as error:
        text = str(error)
        if not text or len(text) > 2000 or not text.isprintable():
            raise AssertionError(f"no sentence: {text[:200]!r}") from error


def seeds(name: str, store: Path, result: Path) -> list[bytes]:
    """Whole examples to start from: those of a store in a folder and of a saved result."""
    if name == "header":
        return [(store / "zarr.json").read_bytes()]
    if name == "saved":
        return [file.read_bytes() for file in sorted(result.rglob("result.json"))]
    if name == "index":
        return [(result / "results.json").read_bytes()]
    if name == "zipped":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("zarr.json", "{}")
            archive.writestr("S/c/0", b"1234")
        return [made.getvalue()]
    if name == "safetensors":
        from safetensors.numpy import save

        config = dict(V=4, D=2, patch_size=2, hidden=4, depth=1, n_cross_layers=1)
        whole = save({"w": np.zeros(2, np.float32)}, {"config": json.dumps(config)})
        (length,) = struct.unpack("<Q", whole[:8])
        return [whole[8 : 8 + length] + b"\0\n" + whole[8 + length :]]
    if name == "shard":
        entries = np.array([[0, 8], [8, 8]], "<u8").tobytes()
        return [bytes([1, 2]) + b"chunk-01chunk-02" + entries]
    from numcodecs import VLenUTF8, blosc, zstd  # type: ignore[import-untyped]

    texts = np.array(["a", "b", "c", "d"], object)
    return [
        b"\0" + blosc.compress(np.arange(256, dtype="<f4").tobytes(), b"zstd", 5, 2, typesize=4),
        b"\2" + blosc.compress(np.arange(4, dtype="<i4").tobytes(), b"zstd", 5, 1, typesize=4),
        b"\3" + zstd.compress(VLenUTF8().encode(texts)),
    ]
