"""Small stores for the tests, written through the unit writer from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frictionstore.check.repair import what_to_keep
from frictionstore.format.plan import StorePlan
from frictionstore.store.writer import StoreWriter

N_IMAGES = 40
SHARD_IMAGES = 16
ROWS = {"S": (4, 4, 4), "friction": (4, 4, 4), "settle": (4, 4, 4)}
CLASSES = ("cat", "dog", "owl")


def plan(
    seed: int = 0,
    n_images: int = N_IMAGES,
    classes: Sequence[str] = CLASSES,
    **changes: Any,
) -> StorePlan:
    """A plan whose content `seed` decides."""
    request = {
        "kind": "test",
        "format": 1,
        "count": n_images,
        "dataset": {"name": "made", "seed": seed, **changes.pop("dataset", {})},
        "encoder": {"sha256": "0" * 64},
        "maps": {"S": "float32", "friction": "float32", "settle": "uint8"},
        **changes,
    }
    return StorePlan(request, n_images, ROWS, SHARD_IMAGES, list(classes))


def rows(plan: StorePlan) -> dict[str, np.ndarray]:
    """All arrays of the store that `plan` describes."""
    seed = plan.request["dataset"]["seed"]
    rng = np.random.default_rng(seed)
    n = plan.n_images
    shape = (n, *ROWS["S"])
    return {
        "S": np.sort(rng.random(shape, np.float32), axis=-1)[..., ::-1],
        "friction": (1 / rng.random(shape)).astype(np.float32),
        "settle": rng.integers(0, 6, shape).astype(np.uint8),
        "label": rng.integers(-1, len(plan.class_names), n).astype(np.int32),
        "image_id": np.array([f"{seed}/{k:05d}.png" for k in range(n)], object),
    }


def unit_arrays(plan: StorePlan, number: int) -> dict[str, np.ndarray]:
    unit = plan.units[number]
    return {name: array[unit.start : unit.stop] for name, array in rows(plan).items()}


def write(target: Path, made: StorePlan, *, repair: bool = False, **options: Any) -> list[int]:
    """Write (or go on writing, or repair) a store; the units this call wrote."""
    with StoreWriter(target, made, repair=what_to_keep if repair else None, **options) as writer:
        pending = writer.pending
        for number in pending:
            writer.write_unit(number, unit_arrays(made, number), {"engine": "test"})
        writer.finalise({"command": "test"})
    return pending


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its provenance."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "provenance.json"
    }
