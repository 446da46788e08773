"""What a cluster costs for each unit, and what a large extraction would take on many workers.

python benchmarks/bench_cluster.py [--units 40] [--images 256]

The overhead is measured, on this machine with one worker. The table of 1 to 64 workers is a
SIMULATION: unit times are drawn from those that were measured here, some units are made stragglers,
and one worker dies; the client, which records one unit at a time, is the only thing that is shared.
File systems and networks are not simulated.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np

IMAGENET = 1_281_167
WORKERS = (1, 2, 4, 8, 16, 32, 64)
STRAGGLERS, SLOWER = 0.02, 5.0  # share of units, and how much longer they take
RESTART = 60.0  # seconds until a worker that died is there again


def simulated(
    units: int,
    workers: int,
    seconds: np.ndarray,
    client: float,
    rng: np.random.Generator,
    *,
    death: bool = True,
) -> float:
    """Seconds until the last unit is recorded: a discrete simulation.

    Parameters
    ----------
    units, workers : int
    seconds : ndarray
        Measured times of units, drawn from with replacement.
    client : float
        Seconds in which the client deals with one unit, and with no other.
    death : bool
        One worker dies half way through, loses its unit, and is back after `RESTART`.
    """
    times = rng.choice(seconds, units)
    times[rng.random(units) < STRAGGLERS] *= SLOWER
    waiting = list(range(units))[::-1]
    ends: list[tuple[float, int, int]] = []  # time, worker, unit
    recorded, client_free, now = 0, 0.0, 0.0
    for worker in range(workers):
        if waiting:
            unit = waiting.pop()
            heapq.heappush(ends, (times[unit], worker, unit))
    while recorded < units:
        now, worker, unit = heapq.heappop(ends)
        if unit < 0:  # back from the dead
            pass
        elif death and recorded >= units // 2:
            death = False
            waiting.append(unit)  # what it was at is lost
            heapq.heappush(ends, (now + RESTART, worker, -1))
            continue
        else:
            client_free = max(client_free, now) + client
            recorded += 1
        if waiting:
            unit = waiting.pop()
            heapq.heappush(ends, (max(now, client_free) + times[unit], worker, unit))
    return max(now, client_free)


def measured(units: int, images: int, size: int) -> tuple[np.ndarray, float]:
    """Seconds of each unit on one worker, and what passes between two units beyond that."""
    from frictionstore.extract import cluster
    from frictionstore.extract.job import run_job
    from frictionstore.extract.request import Job
    from frictionstore.extract.sharing import Sharing

    answers: list[tuple[float, float]] = []  # when it came, seconds on the worker
    original = cluster._answer

    def noted(future: Any, number: int) -> dict[str, Any]:
        answer = original(future, number)
        answers.append((time.monotonic(), answer["seconds"]))
        return answer

    cluster._answer = noted
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = Job(
                "noise", "speckle", Path(folder) / "a.zarr", image_size=size, device="cpu",
                count=units * images, shard_images=images,
            )  # fmt: skip
            run_job(job, sharing=Sharing(cluster="local:1"))
    finally:
        cluster._answer = original
    came, spent = np.array(answers).T
    return spent[1:], float(np.median(np.diff(came) - spent[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=40)
    parser.add_argument("--images", type=int, default=256, help="images of a unit")
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    seconds, between = measured(arguments.units, arguments.images, arguments.size)
    rows: list[dict[str, Any]] = [
        {
            "what": "measured: one unit on a worker of this machine",
            "workers": 1,
            "seconds": float(np.median(seconds)),
        },
        {"what": "measured: between two units", "workers": 1, "seconds": between},
    ]
    units = -(-IMAGENET // arguments.images)
    alone = None
    for workers in WORKERS:
        took = [
            simulated(units, workers, seconds, max(between, 0.0), np.random.default_rng(seed))
            for seed in range(20)
        ]
        alone = alone or float(np.median(took))
        rows.append(
            {
                "what": f"SIMULATED: {IMAGENET:,} images",
                "workers": workers,
                "seconds": float(np.median(took)),
                "hours": float(np.median(took)) / 3600,
                "times faster": alone / float(np.median(took)),
            }
        )
    harness.save(
        "cluster", rows,
        f"units of {arguments.images} noise images of {arguments.size}; the rows of many workers "
        "are a simulation from the measured times",
    )  # fmt: skip


if __name__ == "__main__":
    main()
