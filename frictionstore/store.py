"""Reading a store: refuse what is not complete and valid, then give its arrays.

`read_header` needs the metadata only and imports neither zarr nor numpy; `Store` reads arrays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard

from frictionstore import schema
from frictionstore.errors import FrictionstoreError, RequestError, StoreError
from frictionstore.fingerprint import fingerprint, parse_json
from frictionstore.location import Location, locate
from frictionstore.shards import CRC_BYTES, index_size
from frictionstore.text import byte_count, listed, printable

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    import zarr
    from numpy.typing import NDArray

_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_./-]*)")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHECKSUMS = re.compile(r"(?:[0-9a-f]{8}){2,}")
LARGEST_FILE_BYTES = 1 << 50
LARGEST_CHUNK_BYTES = 1 << 28  # more in one chunk is a mistake or an attack on the reader's memory


def parse_manifest(data: bytes, where: str) -> dict[str, str]:
    """Path to SHA-256 of every line of a manifest.

    Raises
    ------
    StoreError
        A line has another form, names a path outside the store, or names one twice.
    """
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise StoreError(f"{where}: {schema.MANIFEST} is not text, the store is damaged") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        match = _MANIFEST_LINE.fullmatch(line)
        if not match or ".." in match[2].split("/") or match[2] in digests:
            raise StoreError(
                f"{where}: line {number} of {schema.MANIFEST} is {printable(line, 60)!r}, expected "
                "a SHA-256, two spaces and a path in the store"
            )
        digests[match[2]] = match[1]
    if "zarr.json" not in digests:
        raise StoreError(
            f"{where}: {schema.MANIFEST} does not list zarr.json, the store is damaged"
        )
    return digests


@dataclass(frozen=True)
class Header:
    """What a store says about itself, validated.

    Attributes
    ----------
    location : Location
    digest : str
        Hex SHA-256 of the manifest.
    manifest : dict of path to hex SHA-256
    attributes : dict
        Everything under the ``frictionstore`` key of the group's attributes.
    arrays : dict of name to ArrayPlan
    document, listing : bytes
        The files zarr.json and MANIFEST.sha256.
    """

    location: Location
    digest: str
    manifest: dict[str, str]
    attributes: dict[str, Any]
    arrays: dict[str, schema.ArrayPlan]
    document: bytes
    listing: bytes

    @property
    def request(self) -> dict[str, Any]:
        return self.attributes["request"]

    @property
    def fingerprint(self) -> str:
        return self.attributes["fingerprint"]

    @property
    def class_names(self) -> list[str]:
        return self.attributes["class_names"]

    @property
    def shard_bytes(self) -> dict[str, int]:
        """Size of every shard file."""
        return self.attributes["shard_bytes"]

    @property
    def shard_checksums(self) -> dict[str, str]:
        """The checksums that end the chunks of every shard file (`shards.checksums`)."""
        return self.attributes["shard_crc32c"]

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(name for name in schema.MAPS if name in self.arrays)

    @property
    def n_images(self) -> int:
        return self.arrays["label"].shape[0]

    @property
    def shard_images(self) -> int:
        return self.arrays["label"].shard_images

    def check_files(self) -> None:
        """Every file of the manifest is there and every shard has its size.

        Raises
        ------
        StoreError
            Names the first files that are not.
        """
        wrong = []
        for key in self.manifest:
            size = self.location.size(key)
            expected = self.shard_bytes.get(key)
            if size is None:
                wrong.append(f"{key} is missing")
            elif expected is not None and size != expected:
                wrong.append(f"{key} has {size:,} bytes, expected {expected:,}")
        if wrong:
            raise StoreError(
                f"{printable(self.location.text)} is damaged: {listed(wrong, 3)}; "
                "see all of it with frictionstore verify"
            )


def damaged(header: Header, key: str) -> StoreError:
    """The error for a file whose bytes are not those that the manifest names."""
    return StoreError(
        f"{printable(header.location.text)} is damaged: {key} is not the file that "
        f"{schema.MANIFEST} names; see what else is with frictionstore verify"
    )


def read_header(location: str | os.PathLike[str] | Location) -> Header:
    """Read and validate a store's metadata and manifest.

    Raises
    ------
    StoreError
        It is not a store, is not complete, is damaged, or has a format this version cannot read.
    """
    place = locate(location) if isinstance(location, str | os.PathLike) else location
    where = printable(place.text)
    document = place.read("zarr.json")
    if document is None:
        raise StoreError(f"{where} is not a store: it has no zarr.json")
    manifest_data = place.read(schema.MANIFEST)
    if manifest_data is None:
        _explain_without_manifest(document, where)
    assert manifest_data is not None
    manifest = parse_manifest(manifest_data, where)
    if hashlib.sha256(document).hexdigest() != manifest["zarr.json"]:
        raise StoreError(
            f"{where} is damaged: zarr.json is not the file that {schema.MANIFEST} names; "
            "get the store again"
        )
    attributes, arrays = read_group(document, where)
    _check_manifest(manifest, attributes, arrays, where)
    digest = hashlib.sha256(manifest_data).hexdigest()
    return Header(place, digest, manifest, attributes, arrays, document, manifest_data)


def read_group(document: bytes, where: str) -> tuple[dict[str, Any], dict[str, schema.ArrayPlan]]:
    """The store's own attributes and its arrays, from the bytes of its zarr.json.

    Raises
    ------
    StoreError
        They are not those of a complete store.
    """
    group = _parse_object(document, where)
    return _check_attributes(group, where), _check_arrays(group, where)


def _explain_without_manifest(document: bytes, where: str) -> None:
    group = _parse_object(document, where)
    attributes = group.get("attributes")
    ours = isinstance(attributes, dict) and schema.ATTRIBUTES_KEY in attributes
    if ours:
        raise StoreError(
            f"{where} is not complete: it has no {schema.MANIFEST}; run its extraction again"
        )
    raise StoreError(
        f"{where} is a Zarr group that frictionstore did not write: "
        "its attributes have no frictionstore entry"
    )


def _parse_object(document: bytes, where: str) -> dict[str, Any]:
    try:
        group = parse_json(document)
    except ValueError:
        raise StoreError(f"{where} is damaged: zarr.json is not JSON") from None
    if not isinstance(group, dict):
        raise StoreError(f"{where} is damaged: zarr.json is not a JSON object")
    return group


def _check_attributes(group: dict[str, Any], where: str) -> dict[str, Any]:
    attributes = group.get("attributes")
    own = attributes.get(schema.ATTRIBUTES_KEY) if isinstance(attributes, dict) else None
    if not isinstance(own, dict):
        raise StoreError(
            f"{where} is a Zarr group that frictionstore did not write: "
            "its attributes have no frictionstore entry"
        )
    found = own.get("format")
    if found is True or not isinstance(found, int):
        raise StoreError(f"{where} has no format number in its attributes: it cannot be read")
    if found != schema.FORMAT:
        raise StoreError(
            f"{where} has format {found}, this version reads format {schema.FORMAT}: "
            "use the version of frictionstore that wrote it, or a newer one"
        )
    if own.get("complete") is not True:
        raise StoreError(f"{where} is not complete: run its extraction again")

    def require(key: str, good: bool, expected: str) -> None:
        if not good:
            raise StoreError(
                f"{where}: attribute {key} is {printable(json.dumps(own.get(key)), 60)}, "
                f"expected {expected}"
            )

    names = own.get("class_names")
    sizes = own.get("shard_bytes")
    require("request", isinstance(own.get("request"), dict), "an object")
    require(
        "fingerprint",
        isinstance(own.get("fingerprint"), str) and bool(_HEX.fullmatch(own["fingerprint"])),
        "a SHA-256",
    )
    try:
        expected = fingerprint(own["request"])
    except (ValueError, RecursionError):
        expected = None
    require("fingerprint", own["fingerprint"] == expected, "the request's hash")
    require(
        "class_names",
        isinstance(names, list) and all(isinstance(name, str) for name in names),
        "a list of names",
    )
    sums = own.get("shard_crc32c")
    require(
        "shard_crc32c",
        isinstance(sums, dict)
        and all(isinstance(v, str) and bool(_CHECKSUMS.fullmatch(v)) for v in sums.values()),
        "an object of checksums in hex",
    )
    skipped = own.get("skipped", [])
    require(
        "skipped",
        isinstance(skipped, list) and all(isinstance(name, str) for name in skipped),
        "a list of ids",
    )
    require("mode_order", own.get("mode_order") == schema.MODE_ORDER, f'"{schema.MODE_ORDER}"')
    require(
        "shard_bytes",
        isinstance(sizes, dict)
        and all(type(v) is int and 0 < v < LARGEST_FILE_BYTES for v in sizes.values()),
        "an object of file sizes",
    )
    return own


def _check_arrays(group: dict[str, Any], where: str) -> dict[str, schema.ArrayPlan]:
    consolidated = group.get("consolidated_metadata")
    documents = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(documents, dict):
        raise StoreError(f"{where} is damaged: zarr.json has no consolidated metadata")
    unknown = sorted(set(documents) - set(schema.ARRAYS))
    if unknown:
        raise StoreError(
            f"{where} has an array {printable(unknown[0])!r} that format 1 does not have"
        )
    missing = [name for name in schema.INDEX if name not in documents]
    if missing:
        raise StoreError(f"{where} lacks the array {missing[0]}")
    if not set(documents) & set(schema.MAPS):
        raise StoreError(f"{where} has no map: expected some of {', '.join(schema.MAPS)}")
    arrays = {
        name: _check_array(spec, documents[name], where)
        for name, spec in schema.ARRAYS.items()
        if name in documents
    }
    label = arrays["label"]
    grid = None
    for name, plan in arrays.items():
        if plan.shape[0] != label.shape[0] or plan.shard_images != label.shard_images:
            raise StoreError(
                f"{where}: {name} has {plan.shape[0]:,} images in shards of {plan.shard_images:,}, "
                f"label has {label.shape[0]:,} in shards of {label.shard_images:,}"
            )
        if plan.spec.dims[1:3] == ("row", "col"):
            if grid is not None and plan.shape[1:3] != grid:
                raise StoreError(f"{where}: {name} has grid {plan.shape[1:3]}, other maps {grid}")
            grid = plan.shape[1:3]
    depths = {plan.shape[-1] for plan in arrays.values() if plan.spec.modes}
    if len(depths) > 1:
        raise StoreError(f"{where}: its maps have {sorted(depths)} modes, expected one number")
    return arrays


def _check_array(spec: schema.MapSpec, document: object, where: str) -> schema.ArrayPlan:
    """Shape, chunks and shards of one array; everything else must be as the schema says."""

    def fail(what: str) -> StoreError:
        return StoreError(f"{where}: array {spec.name} has {what}")

    if not isinstance(document, dict):
        raise fail("no metadata")
    shape = document.get("shape")
    if not _positive_ints(shape) or len(shape) != len(spec.dims):
        raise fail(f"shape {printable(shape, 60)}, expected {len(spec.dims)} positive numbers")
    try:
        shard = document["chunk_grid"]["configuration"]["chunk_shape"]
        (sharding,) = document["codecs"]
        chunk = sharding["configuration"]["chunk_shape"]
        inner = sharding["configuration"]["codecs"]
        guarded = inner[-1]["name"] == "crc32c"
    except (KeyError, TypeError, ValueError, IndexError):
        raise fail("chunks or codecs that are not those of a sharded array") from None
    if not guarded:
        raise fail("chunks without a crc32c checksum")
    for label, value in (("shard", shard), ("chunk", chunk)):
        if not _positive_ints(value) or len(value) != len(shape) or value[1:] != shape[1:]:
            raise fail(f"{label} shape {printable(value, 60)}, which splits images")
    if schema.row_bytes(spec, tuple(chunk)) > LARGEST_CHUNK_BYTES:
        raise fail(f"chunks of {printable(chunk, 60)}, more than {LARGEST_CHUNK_BYTES:,} bytes")
    if shard[0] % chunk[0]:
        raise fail(f"shards of {shard[0]:,} images, no multiple of its chunks of {chunk[0]:,}")
    for key, expected in (
        ("zarr_format", 3),
        ("node_type", "array"),
        ("data_type", spec.dtype),
        ("fill_value", spec.zarr_fill),
        ("dimension_names", list(spec.dims)),
        ("chunk_key_encoding", {"name": "default", "configuration": {"separator": "/"}}),
    ):
        if document.get(key) != expected:
            found = printable(json.dumps(document.get(key)), 60)
            raise fail(f"{key} {found}, expected {json.dumps(expected)}")
    return schema.ArrayPlan(spec, tuple(shape), chunk[0], shard[0])


def _positive_ints(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 < v < 1 << 40 for v in value
    )


def _check_manifest(
    manifest: dict[str, str],
    attributes: dict[str, Any],
    arrays: dict[str, schema.ArrayPlan],
    where: str,
) -> None:
    units = -(-arrays["label"].shape[0] // arrays["label"].shard_images)
    sizes, sums = attributes["shard_bytes"], attributes["shard_crc32c"]
    for key, found in (("shard_bytes", sizes), ("shard_crc32c", sums)):
        if len(found) != units * len(arrays):  # before anything that large is listed
            raise StoreError(
                f"{where}: attribute {key} names {len(found):,} files, expected "
                f"{units * len(arrays):,}"
            )
    shards = {plan.shard_key(unit) for plan in arrays.values() for unit in range(units)}
    expected = shards | {"zarr.json"} | {f"{name}/zarr.json" for name in arrays}
    for key, found in (("shard_bytes", sizes), ("shard_crc32c", sums)):
        if set(found) != shards:
            odd = sorted(set(found) ^ shards)
            raise StoreError(f"{where}: attribute {key} does not fit the arrays: {listed(odd, 3)}")
    for plan in arrays.values():
        for unit in range(units):
            key = plan.shard_key(unit)
            count = len(sums[key]) // (2 * CRC_BYTES) - 1
            if count != plan.unit_chunks(unit) or sizes[key] < index_size(plan.shard_chunks):
                raise StoreError(
                    f"{where}: attributes give {key} {sizes[key]:,} bytes and {count:,} chunks, "
                    f"which does not fit its {plan.unit_chunks(unit):,} chunks"
                )
    if set(manifest) != expected:
        odd = sorted(set(manifest) ^ expected)
        raise StoreError(f"{where}: {schema.MANIFEST} does not fit the arrays: {listed(odd, 3)}")


def open_store(location: str | os.PathLike[str]) -> Store:
    """Open a complete store for reading.

    Parameters
    ----------
    location : str or path

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        It does not exist, is not complete, is damaged or has another format.
    """
    return Store(read_header(location), os.fspath(location))


class Store:
    """A complete store, read-only.

    Maps are attributes (``store.friction``) and items (``store["friction"]``): zarr arrays of
    shape (image, row, col, mode), mode 0 the largest singular value.
    """

    def __init__(self, header: Header, location: str) -> None:
        self.header = header
        self.location = location

    # ---- what it says about itself ----------------------------------------------------------

    @property
    def name(self) -> str:
        """Last part of the location, without its ending."""
        last = self.header.location.text.rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"(\.zarr)?(\.zip)?$", "", last) or "store"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest: what results quote."""
        return self.header.digest

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the request."""
        return self.header.fingerprint

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for."""
        return self.header.request

    @property
    def attributes(self) -> dict[str, Any]:
        """All of the store's own attributes."""
        return self.header.attributes

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How it was made; empty where that was not passed on."""
        data = self.header.location.read(schema.PROVENANCE)
        if data is None:
            return {}
        try:
            value = parse_json(data)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("runs", []), list):
            raise StoreError(
                f"{printable(self.location)}: {schema.PROVENANCE} is not what was written; it is "
                "no part of the content and can be removed"
            )
        return value

    @property
    def class_names(self) -> list[str]:
        return self.header.class_names

    @cached_property
    def splits(self) -> dict[str, slice]:
        """Rows of each split of a merged store, in order; empty for other stores."""
        entries = self.attributes.get("splits", [])
        splits: dict[str, slice] = {}
        first = 0
        try:
            for entry in entries:
                name, start, count = entry["name"], entry["first"], entry["count"]
                if type(start) is not int or type(count) is not int or not isinstance(name, str):
                    raise ValueError
                if start != first or count < 1 or name in splits:
                    raise ValueError
                splits[name] = slice(start, start + count)
                first += count
            if splits and first != self.n_images:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise StoreError(
                f"{printable(self.location)}: attribute splits does not divide its "
                f"{self.n_images:,} images"
            ) from None
        return splits

    @property
    def n_images(self) -> int:
        return self.header.n_images

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps it holds."""
        return self.header.maps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        for plan in self.header.arrays.values():
            if plan.spec.dims[1:3] == ("row", "col"):
                return plan.shape[1], plan.shape[2]
        raise StoreError(f"{printable(self.location)} has no map on the patch grid")

    @property
    def n_modes(self) -> int:
        for plan in self.header.arrays.values():
            if plan.spec.modes:
                return plan.shape[-1]
        raise StoreError(f"{printable(self.location)} has no map with a mode axis")

    # ---- arrays -----------------------------------------------------------------------------

    @cached_property
    def zarr_store(self) -> Any:
        """The zarr store under the arrays; a file the manifest names and that is not there
        is an error, not a fill value."""
        from frictionstore.checked import CheckedStore

        return CheckedStore.of(self.header)

    @cached_property
    def group(self) -> zarr.Group:
        """The store as zarr sees it."""
        import zarr

        try:
            return zarr.open_group(self.zarr_store, mode="r", use_consolidated=True, zarr_format=3)
        except FrictionstoreError:
            raise
        except Exception as error:
            raise StoreError(
                f"{printable(self.location)}: zarr cannot read its metadata ({printable(error)})"
            ) from error

    def __getitem__(self, name: str) -> zarr.Array:
        if name not in self.header.arrays:
            raise StoreError(
                f"{printable(self.location)} has no map {printable(name)!r}: "
                f"it has {', '.join(self.maps)}"
            )
        array = self.group[name]
        return array  # type: ignore[return-value]

    def __getattr__(self, name: str) -> zarr.Array:
        if name in schema.ARRAYS:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self.header.arrays

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.header.arrays]

    def __len__(self) -> int:
        return self.n_images

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class of each image, int32 of shape (n_images,); -1 where there is none."""
        labels = self.read("label", slice(0, self.n_images))
        wrong = (labels < schema.NO_LABEL) | (labels >= max(len(self.class_names), 1))
        if self.class_names and wrong.any():
            row = int(wrong.argmax())
            raise StoreError(
                f"{printable(self.location)}: label of image {row} is {labels[row]}, expected -1 "
                f"to {len(self.class_names) - 1}"
            )
        return labels

    @cached_property
    def image_ids(self) -> NDArray[np.str_]:
        """The data set's own name of each image, shape (n_images,)."""
        import numpy as np

        ids = self.read("image_id", slice(0, self.n_images))
        return np.array([str(text) for text in ids], dtype=np.str_)

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        """One range of images of one array.

        Raises
        ------
        StoreError
            A chunk is missing or damaged; the message names the array, the images and the file.
        """
        import numpy as np

        array = self[name]
        try:
            return np.asarray(array[rows.start : rows.stop])
        except FrictionstoreError:
            raise
        except Exception as error:
            plan = self.header.arrays[name]
            units = range(rows.start // plan.shard_images, -(-rows.stop // plan.shard_images))
            files = listed([plan.shard_key(unit) for unit in units], 3)
            raise StoreError(
                f"{printable(self.location)}: {name} of images {rows.start}..{rows.stop - 1} "
                f"cannot be read from {files} ({printable(error)}); "
                "see what is damaged with frictionstore verify"
            ) from error

    def iter_chunks(
        self, maps: Iterable[str] | str, batch: int | None = None, threads: int | None = None
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        """All images in order, a batch at a time, decoded ahead in threads.

        Parameters
        ----------
        maps : names of arrays
        batch : int, optional
            Images per step; by default whole chunks. The last one may be shorter.
        threads : int, optional
            Blocks decoded at once; by default one per core, at most 8. Memory is that of
            ``threads + 2`` blocks, whatever the number of images.

        Yields
        ------
        rows : slice
        arrays : dict of name to ndarray with the images `rows` along the first axis
        """
        import numpy as np

        names = [maps] if isinstance(maps, str) else list(dict.fromkeys(maps))
        for name in names:
            _ = self[name]
        if batch is not None and batch < 1:
            raise RequestError(f"batch is {batch}: it must be 1 or more")
        if threads is None:
            threads = min(os.cpu_count() or 1, 8)
        if threads < 1:
            raise RequestError(f"threads is {threads}: it must be 1 or more")
        n = self.n_images
        block = max((self.header.arrays[name].chunk_images for name in names), default=n)
        step = block if batch is None else batch

        held: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        held_rows, start = 0, 0
        for arrays, count in self._blocks(names, block, threads):
            for name in names:
                held[name].append(arrays[name])
            held_rows += count
            last = start + held_rows == n
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

    def _blocks(
        self, names: list[str], block: int, threads: int
    ) -> Iterator[tuple[dict[str, NDArray[Any]], int]]:
        """Chunk-aligned blocks in order; `threads` of them are read ahead."""

        def read(first: int) -> tuple[dict[str, NDArray[Any]], int]:
            rows = slice(first, min(first + block, self.n_images))
            return {name: self.read(name, rows) for name in names}, rows.stop - rows.start

        starts = iter(range(0, self.n_images, block))
        with ThreadPoolExecutor(threads, thread_name_prefix="frictionstore-read") as pool:
            ahead: deque[Future[tuple[dict[str, NDArray[Any]], int]]] = deque()
            try:
                for first in starts:
                    ahead.append(pool.submit(read, first))
                    if len(ahead) > threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def to_xarray(self) -> xr.Dataset:
        """The store as a labelled Dataset, read lazily."""
        import xarray as xr

        return xr.open_zarr(self.zarr_store, consolidated=True, chunks=None)

    # ---- showing itself ---------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """What `frictionstore info` shows, as plain JSON."""
        request = self.request
        return {
            "name": self.name,
            "location": self.header.location.text,
            "format": schema.FORMAT,
            "images": self.n_images,
            "grid": list(self.grid),
            "modes": self.n_modes,
            "maps": {
                name: {
                    "shape": list(plan.shape),
                    "dtype": plan.spec.dtype,
                    "unit": plan.spec.unit,
                    "description": plan.spec.description,
                    "chunk_images": plan.chunk_images,
                    "shard_images": plan.shard_images,
                    "stored_bytes": sum(
                        size
                        for key, size in self.header.shard_bytes.items()
                        if key.startswith(name + "/")
                    ),
                }
                for name, plan in self.header.arrays.items()
            },
            "classes": self.class_names,
            "skipped": self.attributes.get("skipped", []),
            "stored_bytes": sum(self.header.shard_bytes.values()),
            "digest": self.digest,
            "fingerprint": self.fingerprint,
            "request": request,
            "provenance": self.provenance,
        }

    def __repr__(self) -> str:
        rows, columns = self.grid
        return (
            f"<frictionstore.Store {printable(self.name)}: {self.n_images:,} images, grid "
            f"{rows} x {columns}, {self.n_modes} modes, {len(self.class_names)} classes, "
            f"maps {', '.join(self.maps)}, {byte_count(sum(self.header.shard_bytes.values()))}, "
            f"digest {self.digest[:12]}>"
        )

    def _repr_html_(self) -> str:
        from frictionstore.notebook import store_html

        return store_html(self)
