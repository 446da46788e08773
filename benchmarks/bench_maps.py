"""What the exact maps and two repeats cost a whole extraction at Freckles' size: time and bytes.

python benchmarks/bench_maps.py [--images 512] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import bench_extraction
import freckles
import harness
import torch

from frictionstore.extract.engines.make import native_engine
from frictionstore.format import schema

OLD = ("S", "friction", "settle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = freckles.encoder()
    dataset = freckles.InMemory(arguments.images)
    device = torch.device(arguments.device)
    engines = {
        "S, friction, settle": native_engine(model, OLD, device),
        "and the exact maps": native_engine(model, schema.DEFAULT_MAPS, device),
        "and two repeats": native_engine(
            model, schema.with_repeats(schema.DEFAULT_MAPS, 2), device, repeats=2
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    sizes = {}
    for number in range(arguments.rounds + 1):
        for name, engine in engines.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                bench_extraction.store(engine, dataset, Path(folder))
                if number:  # the first round compiles
                    seconds[name].append(time.perf_counter() - started)
                files = Path(folder).rglob("*")
                sizes[name] = sum(file.stat().st_size for file in files if file.is_file())
    first = next(iter(seconds.values()))
    harness.save(
        "maps",
        [
            {
                "maps": name,
                "ms an image": 1000 * statistics.median(taken) / arguments.images,
                "times the first": statistics.median(
                    [mine / its for mine, its in zip(taken, first, strict=True)]
                ),
                "bytes an image": sizes[name] / arguments.images,
            }
            for name, taken in seconds.items()
        ],
        f"complete stores of {arguments.images} noise images of 64 x 64, hidden 384, depth 4, "
        f"random weights, {device}; medians of {arguments.rounds} rounds of one after the other",
    )
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
