"""What a store will be: its plan, and the bytes of its metadata files.

Nothing here writes a store; `store/writer.py` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frictionstore.errors import RequestError
from frictionstore.format import schema
from frictionstore.format.fingerprint import fingerprint


@dataclass(frozen=True)
class Shard:
    """What a store's metadata says of one shard file: its size, and `shards.checksums` of it."""

    size: int
    checksums: str


@dataclass(frozen=True)
class StorePlan:
    """Everything that is known about a store before its first image is measured.

    Attributes
    ----------
    request : dict
        What decides the content; its hash is the fingerprint.
    n_images : int
    rows : dict of map name to the shape of one image in that map
    shard_images : int
        Images per shard and per unit.
    class_names : list of str
    attributes : dict
        Further attributes of the store (images left out, splits, ...). With the names of groups
        it has an array `group`.
    """

    request: dict[str, Any]
    n_images: int
    rows: dict[str, tuple[int, ...]]
    shard_images: int
    class_names: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.n_images < 1:
            raise RequestError("a store needs at least one image")

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.request)

    @property
    def arrays(self) -> dict[str, schema.ArrayPlan]:
        grouped = schema.GROUP_NAMES in self.attributes
        arrays = schema.plan_arrays(self.rows, self.n_images, self.shard_images, grouped)
        return schema.described(arrays, schema.mode_order(self.request))

    @property
    def units(self) -> list[range]:
        """Row numbers of each unit."""
        step = self.shard_images
        return [
            range(first, min(first + step, self.n_images))
            for first in range(0, self.n_images, step)
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "n_images": self.n_images,
            "rows": {name: list(shape) for name, shape in self.rows.items()},
            "shard_images": self.shard_images,
            "class_names": self.class_names,
            "attributes": self.attributes,
        }

    def group_attributes(self, shards: Mapping[str, Shard] | None) -> dict[str, Any]:
        """The store's attributes; complete exactly when its shards are given."""
        known = dict(sorted((shards if shards is not None else {}).items()))
        return {
            **self.attributes,
            "format": schema.FORMAT,
            "request": self.request,
            "fingerprint": self.fingerprint,
            "class_names": self.class_names,
            "mode_order": schema.mode_order(self.request),
            "shard_bytes": {key: shard.size for key, shard in known.items()},
            "shard_crc32c": {key: shard.checksums for key, shard in known.items()},
            "complete": shards is not None,
        }


def array_document(plan: schema.ArrayPlan) -> dict[str, Any]:
    """Zarr v3 metadata of one array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(plan.shape),
        "data_type": plan.spec.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(plan.shard_shape)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": plan.spec.zarr_fill,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(plan.chunk_shape),
                    "codecs": schema.codec_names(plan.spec),
                    "index_codecs": [
                        {"name": "bytes", "configuration": {"endian": "little"}},
                        {"name": "crc32c"},
                    ],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {"description": plan.spec.description, "units": plan.spec.unit},
        "dimension_names": list(plan.spec.dims),
        "storage_transformers": [],
    }


def group_document(plan: StorePlan, shards: Mapping[str, Shard] | None) -> dict[str, Any]:
    """Zarr v3 metadata of the store's group, that of its arrays consolidated into it."""
    arrays = {name: array_document(array) for name, array in plan.arrays.items()}
    return group_of(plan.group_attributes(shards), arrays)


def group_of(attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """A group's metadata with these attributes of a store and the documents of its arrays."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {schema.ATTRIBUTES_KEY: attributes},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }


def document_bytes(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def manifest_bytes(digests: Mapping[str, str]) -> bytes:
    """The manifest: one line per file, sorted by path, as `sha256sum -c` reads it."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode("ascii")
