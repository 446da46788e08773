"""Large stores: processor seconds and peak memory of `info` and of each analysis.

python tools/make_large_store.py l20.zarr --images 20000      (and 200000, and 1281167)
python benchmarks/bench_scale.py l20.zarr l200.zarr l1281.zarr [--commands summary ...]

Each command is a process of its own, without torch.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from typing import Any

import harness
from bench_analyses import CHILD, COMMANDS

import frictionstore as fs

FEWER = {  # so many permutations: the passes over the store are what grows with the images
    "f-statistic": ["--permutations", "20"],
    "class-distance": ["--permutations", "20"],
    "spatial-cv": ["--permutations", "20"],
    "ridge-probe": ["--permutations", "2"],
    "summary": ["--permutations", "20"],
}
INFO = CHILD.replace(
    "from frictionstore.analyses.cli import analyze\nanalyze(",
    "from frictionstore.cli.main import info\ninfo(",
)


def processor() -> float:
    """Processor seconds of all processes that have ended: other work does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(program: str, arguments: list[str], limit: float) -> dict[str, Any]:
    before = processor()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True, text=True, timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"seconds": None, "peak MB": None, "ended": f"stopped after {limit:.0f} s"}
    seconds = processor() - before
    if ended.returncode:
        return {"seconds": None, "peak MB": None, "ended": ended.stderr.strip().splitlines()[-1]}
    peak = int(ended.stderr.split()[-1]) * 1024 / 1e6
    return {"seconds": seconds, "peak MB": peak, "ended": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of a command")
    arguments = parser.parse_args()
    rows = []
    for store in arguments.stores:
        images = fs.open(store).n_images
        rows.append({"images": images, "command": "info", **run(INFO, [store], arguments.limit)})
        for command in arguments.commands:
            given = [command, store, *FEWER.get(command, [])]
            rows.append(
                {"images": images, "command": command, **run(CHILD, given, arguments.limit)}
            )
            print(harness.table(rows[-1:]), flush=True)
    harness.save("scale", rows, "synthetic maps of 16 x 16 x 4, 1,000 classes; cold process each")


if __name__ == "__main__":
    main()
