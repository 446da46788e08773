"""What of a damaged store can be kept, so that only the rest is extracted again.

The decision is made here; a `StoreWriter` that is given it acts on it: kept units are linked
into the unfinished folder beside the store, and the store is replaced when the new one is whole.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frictionstore.check.shard import check_shard
from frictionstore.check.verify import verify
from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.format.fingerprint import differences, read_json
from frictionstore.format.header import parse_manifest, read_group
from frictionstore.format.plan import Shard, StorePlan, document_bytes, group_document
from frictionstore.io.local import LocalLocation
from frictionstore.io.regular import sha256_of
from frictionstore.store.writer import Keep, shard_record
from frictionstore.text import printable


@dataclass(frozen=True)
class _Evidence:
    """What is known of every shard file: from the manifest, from the metadata, or from both."""

    sha256: dict[str, str]
    shards: dict[str, Shard]


def what_to_keep(target: Path, plan: StorePlan) -> Keep:
    """Units of the store at `target` that are what `plan` asks for and as they were written.

    Raises
    ------
    StoreError
        `target` holds something that is not this store, damaged or not.
    """
    evidence = _evidence(target, plan)
    try:
        report = verify(target)
        if report.content_ok:
            return Keep(True, {})
        damaged = set(report.units)
    except StoreError:
        damaged = set()
    if evidence is None:
        return Keep(False, {})
    run = _kept_run(target)
    units = {}
    for number, rows in enumerate(plan.units):
        files = None if number in damaged else _sound_files(target, plan, number, evidence)
        if files is not None:
            units[number] = {
                "unit": number, "rows": [rows.start, rows.stop], "files": files, "run": run,
            }  # fmt: skip
    return Keep(False, units)


def _evidence(target: Path, plan: StorePlan) -> _Evidence | None:
    """None where nothing shows that the files at `target` are those of `plan`'s request."""
    place = LocalLocation(target)
    where = printable(target)
    document, listing = place.read("zarr.json"), place.read(schema.MANIFEST)
    try:
        manifest = None if listing is None else parse_manifest(listing, where)
    except StoreError:
        manifest = None
    try:
        group = None if document is None else read_group(document, where)
    except StoreError:
        group = None
    if group is None and manifest is None:
        raise StoreError(
            f"{where} is not a store that can be repaired: neither zarr.json nor "
            f"{schema.MANIFEST} can be read"
        )
    if group is not None:
        attributes, arrays = group
        found = differences(attributes["request"], plan.request)
        if found:
            raise StoreError(
                f"{where} holds another store ({'; '.join(found[:3])}): repair it with the "
                "options it was extracted with"
            )
        if arrays != plan.arrays:
            return None
        sizes, rows = attributes["shard_bytes"], attributes["shard_crc32c"]
        shards = {key: Shard(sizes[key], rows[key]) for key in sizes.keys() & rows.keys()}
        return _Evidence(manifest if manifest is not None else {}, shards)
    assert manifest is not None
    shards = _measured_shards(target, plan)
    rebuilt = hashlib.sha256(document_bytes(group_document(plan, shards))).hexdigest()
    # the lost zarr.json is proven by the manifest: the request was this one
    return _Evidence(manifest, shards) if rebuilt == manifest["zarr.json"] else None


def _measured_shards(target: Path, plan: StorePlan) -> dict[str, Shard]:
    shards = {}
    for array in plan.arrays.values():
        for number in range(len(plan.units)):
            key = array.shard_key(number)
            try:
                record = shard_record(target, array, number)
            except (OSError, StoreError):
                continue
            shards[key] = Shard(record["bytes"], record["crc32c"])
    return shards


def _sound_files(
    target: Path, plan: StorePlan, number: int, evidence: _Evidence
) -> dict[str, dict[str, Any]] | None:
    """Journal records of a unit's files; None where one of them is damaged."""
    files = {}
    for array in plan.arrays.values():
        key = array.shard_key(number)
        known = evidence.shards.get(key)
        if known is None or (evidence.sha256 and key not in evidence.sha256):
            return None
        result = check_shard(
            LocalLocation(target), array, number, False, size=known.size,
            sha256=evidence.sha256.get(key), checksums=known.checksums,
            n_classes=len(
                plan.attributes[schema.GROUP_NAMES]
                if array.spec.name == "group"
                else plan.class_names
            ),
        )  # fmt: skip
        if result.damage:
            return None
        digest = evidence.sha256.get(key) or sha256_of(target, key)
        if digest is None:
            return None
        files[key] = {
            "bytes": known.size,
            "sha256": digest,
            "crc32c": known.checksums,
        }
    return files


def _kept_run(target: Path) -> dict[str, Any]:
    """Provenance of kept units: that of the store they are kept from."""
    try:
        runs = read_json(target, schema.PROVENANCE)["runs"]
    except (OSError, StoreError, ValueError, KeyError, TypeError):
        runs = []
    return {"kept_from_damaged_store": sha256_of(target, schema.MANIFEST), "runs": runs}
