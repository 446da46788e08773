"""Peak memory of an extraction as the number of images grows.

python benchmarks/bench_memory.py [--images 2000 50000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import harness

CHILD = """
import resource, sys
from frictionstore.extract.request import Job
from frictionstore.extract.job import run_job
run_job(Job.from_options({"dataset": "noise", "count": int(sys.argv[1]), "encoder": "speckle",
                          "out": sys.argv[2], "image_size": 64, "device": "cpu"}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 50_000])
    arguments = parser.parse_args()
    rows = []
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(images), f"{folder}/a.zarr"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - started
        rows.append(
            {
                "noise images": images,
                "peak MB": int(done.stdout.split()[-1]) * 1024 / 1e6,
                "seconds": seconds,
                "images/s": images / seconds,
            }
        )
    harness.save("memory", rows, "whole process, speckle, 64 x 64, maps S, friction and settle")


if __name__ == "__main__":
    main()
