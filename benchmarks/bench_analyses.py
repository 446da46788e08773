"""The analyses: seconds and peak memory of every command, each in a process without torch.

python benchmarks/bench_analyses.py [--store data/digits-speckle.zarr] [--images 2000 20000 200000]

Without --store, a made-up one of the size of the digits set is used.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

import frictionstore as fs

# The peak of this program alone: what the benchmark held before it started does not count.
CHILD = """
import sys
sys.modules["torch"] = None
from frictionstore.analyses.cli import analyze
analyze(sys.argv[1:], standalone_mode=False)
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""
COMMANDS = ("spatial-cv", "class-distance", "center-edge", "f-statistic", "mode-variance",
            "image-summary", "ridge-probe", "summary")  # fmt: skip
GRID, MODES, CLASSES, BLOCK = 16, 4, 10, 1000


def make(path: Path, images: int, maps: tuple[str, ...], seed: int = 0) -> str:
    """Write a store of smooth class patterns with noise; arrays go through files, not memory."""
    rng = np.random.default_rng(seed)
    shape = (GRID, GRID, MODES)
    pattern = rng.normal(0.0, 1.0, (CLASSES, *shape)).cumsum(axis=1).cumsum(axis=2)
    labels = rng.integers(0, CLASSES, images)
    arrays: dict[str, Any] = {}
    for name in maps:
        dtype = np.uint8 if name == "settle" else np.float32
        file = path.with_name(f"{path.name}.{name}")
        arrays[name] = np.memmap(file, dtype, "w+", shape=(images, *shape))
        for start in range(0, images, BLOCK):
            of_class = labels[start : start + BLOCK]
            noise = rng.normal(0.0, 5.0, (len(of_class), *shape))
            values = 50.0 + pattern[of_class] + noise
            if name == "settle":
                arrays[name][start : start + BLOCK] = np.clip(values / 20.0, 0, 5)
            elif name == "S":
                arrays[name][start : start + BLOCK] = -np.sort(-values, axis=-1)
            else:
                values[..., 0] = 5.0
                arrays[name][start : start + BLOCK] = np.exp(values / 20.0)
    fs.from_arrays(path, arrays, label=labels, class_names=[f"class{c}" for c in range(CLASSES)])
    for name in maps:
        os.unlink(path.with_name(f"{path.name}.{name}"))
    return str(path)


def measure(*arguments: str) -> tuple[float, float]:
    """Seconds of a whole process, and its peak memory in MB."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - started, int(done.stderr.split()[-1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="store of the digits set")
    parser.add_argument("--images", type=int, nargs="*", default=[2000, 20_000, 200_000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def row(images: int, *command: str, repeats: int = 1) -> None:
        found = [measure(*command) for _ in range(repeats)]
        shown = " ".join(part for part in command if not part.endswith(".zarr") and "/" not in part)
        rows.append(
            {
                "command": shown,
                "images": images,
                "seconds": sorted(seconds for seconds, _ in found)[len(found) // 2],
                "peak MB": max(peak for _, peak in found),
            }
        )

    with tempfile.TemporaryDirectory() as folder:
        every = ("S", "friction", "settle")
        digits = arguments.store or make(Path(folder, "digits.zarr"), 1797, every)
        images = fs.open(digits).n_images
        for command in COMMANDS:
            row(images, command, digits, repeats=arguments.repeats)
        out = str(Path(folder, "results"))
        row(images, "all", digits, "--permutations", "1000", repeats=arguments.repeats)
        row(images, "all", digits, "--permutations", "1000", "--out", out)
        large = make(Path(folder, "large.zarr"), 10_000, every)
        row(10_000, "all", large, "--permutations", "1000")
        row(10_000, "f-statistic", large, "--permutations", "0", repeats=arguments.repeats)
        for count in arguments.images:
            made = make(Path(folder, f"made{count}.zarr"), count, ("friction",))
            for command in ("f-statistic", "class-distance", "mode-variance"):
                row(count, command, made)
    harness.save("analyses", rows, "16 x 16 x 4 maps, cold process each, torch not importable")


if __name__ == "__main__":
    main()
