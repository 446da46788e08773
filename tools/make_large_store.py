"""Write a store of as many images as ImageNet has, to try analyses on.

python tools/make_large_store.py OUT [--images 1281167] [--repeats 2] [--like STORE]

Its maps are SYNTHETIC: images of the store that it is like, drawn at random, each times a factor
near 1. So values are distributed as measured ones are, and files are about as large; labels are
drawn at random, so that no class differs from another. One unit is in memory at a time, and a run
that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import frictionstore as fs
from frictionstore.errors import StoreError
from frictionstore.format import schema
from frictionstore.format.plan import StorePlan
from frictionstore.progress import progress_bar
from frictionstore.store.writer import StoreWriter

MAPS = ("S", "friction", "settle")
CLASSES = 1000
SPREAD = 0.02  # of the factor
NOISE = 0.01  # of a repeat


def plan_like(store: fs.Store, images: int, repeats: int) -> StorePlan:
    rows = {name: tuple(store[name].shape[1:]) for name in MAPS}
    if repeats:
        rows["friction_repeats"] = (*rows["friction"], repeats)
    request = {
        "kind": "synthetic",
        "format": schema.FORMAT,
        "count": images,
        "like": store.digest,
        "spread": SPREAD,
        "maps": {name: schema.MAPS[name].dtype for name in rows},
    }
    classes = [f"class {number:03d}" for number in range(CLASSES)]
    shard_images = schema.default_shard_images(rows, images)
    return StorePlan(request, images, rows, shard_images, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--like", default="data/digits-speckle.zarr")
    parser.add_argument("--repeats", type=int, default=0, help="of friction, for reliability")
    arguments = parser.parse_args()
    try:
        store = fs.open(arguments.like)
    except StoreError as error:
        raise SystemExit(
            f"{error}; values are drawn from it: run 'make extract' first, which makes "
            "data/digits-speckle.zarr"
        ) from error
    pool = {name: np.asarray(store[name]) for name in MAPS}
    plan = plan_like(store, arguments.images, arguments.repeats)
    started = time.monotonic()
    with StoreWriter(arguments.out, plan) as writer:
        pending = writer.pending
        with progress_bar(arguments.images, "writing", show=True) as progress:
            for number in pending:
                rng = np.random.default_rng([17, number])
                unit = plan.units[number]
                drawn = rng.integers(0, store.n_images, len(unit))
                factor = rng.uniform(1 - SPREAD, 1 + SPREAD, len(unit)).astype(np.float32)
                arrays: dict[str, Any] = {name: pool[name][drawn] for name in MAPS}
                for name in ("S", "friction"):
                    arrays[name] *= factor[:, None, None, None]
                if arguments.repeats:
                    noise = rng.uniform(
                        1 - NOISE, 1 + NOISE, (*arrays["friction"].shape, arguments.repeats)
                    )
                    arrays["friction_repeats"] = (arrays["friction"][..., None] * noise).astype(
                        np.float32
                    )
                arrays["label"] = rng.integers(0, CLASSES, len(unit)).astype(np.int32)
                arrays["image_id"] = np.array([f"synthetic/{row:07d}" for row in unit], object)
                writer.write_unit(number, arrays, {})
                progress(len(unit))
        writer.finalise({"made_by": "tools/make_large_store.py"})
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out}: {arguments.images:,} images, {size / 1e9:.2f} GB, "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
