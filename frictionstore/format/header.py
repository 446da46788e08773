"""What a store says about itself: its metadata and manifest, read and validated.

What it says about its arrays is compared in `documents`. Nothing here reads an array, and nothing
here imports zarr or numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from frictionstore.errors import RequestError, StoreError
from frictionstore.format import schema
from frictionstore.format.documents import check_arrays
from frictionstore.format.fingerprint import fingerprint, parse_json
from frictionstore.format.plan import Shard, StorePlan, document_bytes, group_document
from frictionstore.format.shards import CRC_BYTES, index_size
from frictionstore.io.base import SMALL_FILE_BYTES, Location
from frictionstore.io.locate import locate
from frictionstore.text import listed, printable

_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_./-]*)")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHECKSUMS = re.compile(r"(?:[0-9a-f]{8}){2,}")
LARGEST_FILE_BYTES = 1 << 50
# What a store may claim of its decoded size, as in `documents`.
LARGEST_RATIO = 1 << 15  # decoded to stored: zstd's own limit, 128 KiB in 4 bytes
MOST_IDS_IN_A_BYTE = 16  # ids differ, so they do not shrink to nothing; counting ones reach 2.4


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
    def group_names(self) -> list[str]:
        """Empty where the store has no groups."""
        return self.attributes.get(schema.GROUP_NAMES, [])

    @property
    def mode_order(self) -> str:
        return self.attributes["mode_order"]

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
    attributes = _check_attributes(group, where)
    arrays = schema.described(check_arrays(group, where), attributes["mode_order"])
    _check_splits(attributes, arrays["label"].shape[0], where)
    if ("group" in arrays) != (schema.GROUP_NAMES in attributes):
        has, lacks = "the array group", f"the attribute {schema.GROUP_NAMES}"
        has, lacks = (has, lacks) if "group" in arrays else (lacks, has)
        raise StoreError(f"{where} has {has} and lacks {lacks}")
    return attributes, arrays


def check_readable(plan: StorePlan, where: str) -> None:
    """Refuse to start on a store that would be refused when it is read.

    Raises
    ------
    RequestError
        It is too large in what a reader bounds: metadata, one image of a map, one shard.
    """
    units = range(len(plan.units))
    shards = {
        array.shard_key(unit): Shard(
            LARGEST_FILE_BYTES - 1, "00" * CRC_BYTES * (array.unit_chunks(unit) + 1)
        )
        for array in plan.arrays.values()
        for unit in units
    }
    document = document_bytes(group_document(plan, shards))
    if len(document) > SMALL_FILE_BYTES:
        raise RequestError(
            f"{where} would have {len(document):,} bytes of metadata, and readers take up to "
            f"{SMALL_FILE_BYTES:,}: it has {len(plan.class_names):,} class names, "
            f"{len(plan.attributes.get(schema.GROUP_NAMES, [])):,} groups and "
            f"{len(shards):,} shards"
        )
    try:
        read_group(document, where)
    except StoreError as error:
        raise RequestError(f"no reader would take that store: {error}") from None


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
    groups = own.get(schema.GROUP_NAMES, [""])
    require(
        schema.GROUP_NAMES,
        isinstance(groups, list)
        and all(isinstance(name, str) for name in groups)
        and 0 < len(groups) == len(set(groups)),
        "a list of names that differ",
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
    order = schema.mode_order(own["request"])
    require("mode_order", own.get("mode_order") == order, f'"{order}"')
    require(
        "shard_bytes",
        isinstance(sizes, dict)
        and all(type(v) is int and 0 < v < LARGEST_FILE_BYTES for v in sizes.values()),
        "an object of file sizes",
    )
    return own


def _check_splits(attributes: dict[str, Any], n_images: int, where: str) -> None:
    """Splits divide the images in order."""
    first, names = 0, set()
    try:
        for entry in attributes.get("splits", []):
            name, start, count = entry["name"], entry["first"], entry["count"]
            if type(start) is not int or type(count) is not int or not isinstance(name, str):
                raise ValueError
            if start != first or count < 1 or name in names:
                raise ValueError
            names.add(name)
            first += count
        if names and first != n_images:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise StoreError(
            f"{where}: attribute splits does not divide its {n_images:,} images"
        ) from None


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
            chunks, size = plan.unit_chunks(unit), sizes[key]
            if count != chunks or size < index_size(plan.shard_chunks):
                raise StoreError(
                    f"{where}: attributes give {key} {size:,} bytes and {count:,} chunks, "
                    f"which does not fit its {chunks:,} chunks"
                )
            images = min(plan.shard_images, plan.shape[0] - unit * plan.shard_images)
            if plan.spec.dtype == "string":
                least = -(-images // MOST_IDS_IN_A_BYTE)
            else:
                least = chunks * schema.row_bytes(plan.spec, plan.chunk_shape) // LARGEST_RATIO
            if size < least:
                raise StoreError(
                    f"{where}: {key} has {size:,} bytes, in which {plan.spec.name} of {images:,} "
                    f"images cannot be: it takes {least:,} or more"
                )
    if set(manifest) != expected:
        odd = sorted(set(manifest) ^ expected)
        raise StoreError(f"{where}: {schema.MANIFEST} does not fit the arrays: {listed(odd, 3)}")
