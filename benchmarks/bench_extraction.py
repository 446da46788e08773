"""Whole extractions at Freckles' size: this package against the notebook's method.

python benchmarks/bench_extraction.py [--images 640] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import freckles
import harness
import notebook_method
import numpy as np
import torch

from frictionstore.extract.engines.base import NativeEngine
from frictionstore.extract.engines.make import native_engine
from frictionstore.extract.pipeline import Batch, extract_units, measured, plan_batches
from frictionstore.format import schema
from frictionstore.format.plan import StorePlan
from frictionstore.store.writer import StoreWriter

BATCH = 256


def store(engine: NativeEngine, dataset: freckles.InMemory, folder: Path) -> None:
    """The package's way: a complete store on disk."""
    rows = engine.row_shapes(freckles.SIZE)
    count = len(dataset.ids)
    shard = schema.default_shard_images(rows, count)
    plan = StorePlan({"kind": "benchmark"}, count, rows, shard, dataset.class_names)
    with StoreWriter(folder / "bench.zarr", plan) as writer:
        extract_units(
            writer, dataset, engine, image_size=freckles.SIZE, batch_size=BATCH, workers=0, run={}
        )
        writer.finalise({})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    model = freckles.encoder().to(device)
    dataset = freckles.InMemory(arguments.images)
    engine = native_engine(model, schema.DEFAULT_MAPS, device)
    half = native_engine(model, schema.DEFAULT_MAPS, device, precision="bfloat16")
    rows = engine.row_shapes(freckles.SIZE)
    tile = engine.tile_images(freckles.SIZE)
    batches = plan_batches([range(arguments.images)], BATCH, tile)

    def measure_alone() -> None:
        loaded = (Batch(rows, dataset.images[rows.start : rows.stop]) for rows in batches)
        for _ in measured(loaded, engine):
            pass

    def ours(chosen: NativeEngine = engine) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store(chosen, dataset, Path(folder))

    def theirs() -> None:
        notebook_method.run(model, dataset.images, dataset.labels)

    measure_alone()
    functions = {
        "notebook": theirs,
        "store": ours,
        "measure": measure_alone,
        "half": lambda: ours(half),
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(arguments.repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    n = arguments.images
    names = {
        "notebook": "the notebook's method (maps in memory, nothing stored)",
        "store": "frictionstore: a complete store on disk",
        "measure": "frictionstore: encode and measure alone",
        "half": "frictionstore: a complete store, --precision bfloat16",
    }
    harness.save(
        "extraction",
        [
            {
                "what": names[key],
                "seconds": median[key],
                "ms an image": 1000 * median[key] / n,
                "times faster": median["notebook"] / median[key],
                "over encode and measure": median[key] / median["measure"]
                if key == "store"
                else None,
            }
            for key in names
        ],
        f"{n} images of 64 x 64 in memory, hidden 384, depth 4, random weights, {device}; "
        f"median of {arguments.repeats}",
    )
    engine.close()
    half.close()
    assert rows["S"] == (16, 16, 4)
    assert np.isfinite(median["store"])


if __name__ == "__main__":
    main()
