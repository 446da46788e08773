"""Large images: time and memory of encoding and measuring as the patch grid grows.

python benchmarks/bench_grids.py [--sizes 64 128 256 512] [--notebook-to 256]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import harness

IMAGES = {64: 64, 128: 16}  # of one call; one of larger ones


def measured(method: str, size: int) -> tuple[float, float]:
    """Seconds an image, of calls after the first, and the process's peak memory in MB."""
    import freckles
    import notebook_method
    import numpy as np
    import torch

    from frictionstore.extract.engines.make import native_engine

    model = freckles.encoder()
    images = np.random.default_rng(0).random((IMAGES.get(size, 1), 3, size, size), np.float32)
    if method == "frictionstore":
        engine = native_engine(model, ("S", "friction", "settle"), torch.device("cpu"))
        engine.measure(images)
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        if method == "frictionstore":
            engine.measure(images)
        else:
            notebook_method.measure(model, torch.from_numpy(images))
        taken.append((time.perf_counter() - started) / len(images))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return min(taken), peak * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--notebook-to", type=int, default=256, help="where it is still run")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(*measured(arguments.one[0], int(arguments.one[1])))
        return
    rows = []
    for size in arguments.sizes:
        found = {}
        for method in ("frictionstore", "notebook")[: 1 + (size <= arguments.notebook_to)]:
            command = [sys.executable, str(Path(__file__)), "--one", method, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[method] = [float(word) for word in done.stdout.split()]
        seconds, peak = found["frictionstore"]
        theirs = found.get("notebook")
        rows.append(
            {
                "pixels": size,
                "patches": (size // 4) ** 2,
                "ms an image": 1000 * seconds,
                "peak MB": peak,
                "the notebook's method, ms": 1000 * theirs[0] if theirs else None,
                "its peak MB": theirs[1] if theirs else None,
                "times faster": theirs[0] / seconds if theirs else None,
            }
        )
    harness.save(
        "grids",
        rows,
        "Freckles' shape with random weights (hidden 384, depth 4, patches of 4 pixels), maps S, "
        "friction and settle; a process of its own for each, peak memory with torch itself",
    )


if __name__ == "__main__":
    main()
