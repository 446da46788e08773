"""Time the fused conduit against the reference, by order and batch, side by side in one run.

    python benchmarks/bench_conduit.py            # the tables
    python benchmarks/bench_conduit.py --json     # kept under benchmarks/results as well
    python benchmarks/bench_conduit.py --device cuda --batch 4000000

The matrices are what an encoder gives: `V diag(S^2) V'` of matrices with rows on a sphere. Each
figure is the median over rounds in which the kernels take turns. First calls are timed in fresh
processes, with an empty cache and with a filled one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import torch

from frictionstore.extract.conduit import conduit_maps
from frictionstore.extract.conduit.kernels.cpu.gram import (
    gram_from_spectrum,
    maps_from_spectrum,
    spectrum,
)

NOTEBOOK_BLOCK = 64 * 256  # 64 images with a 16 x 16 grid
FIRST_CALL = """
import time
start = time.perf_counter()
import numpy as np
from frictionstore.extract.conduit import conduit_maps
conduit_maps(np.eye({n}, dtype=np.float32)[None], kernel="fused")
print(time.perf_counter() - start)
"""


def encoder_like(n: int, count: int, seed: int = 0) -> np.ndarray:
    """Matrices (count, 48, n) with rows on a sphere, as the encoder hands them over."""
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((count, 48, n), dtype=np.float32)
    M += rng.standard_normal((count, 1, n), dtype=np.float32)  # patches differ in their means
    M /= np.linalg.norm(M, axis=-1, keepdims=True)
    return M


def measure(n: int, count: int, rounds: int, device: str) -> dict[str, Any]:
    """One row: microseconds per matrix."""
    M = encoder_like(n, count)
    S, V = spectrum(M)
    G = gram_from_spectrum(S, V)
    matrices = torch.from_numpy(G).to(device)
    blocks = matrices.split(NOTEBOOK_BLOCK)

    def waited(task: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            task()
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    tasks: dict[str, Callable[[], object]] = {
        "reference": lambda: conduit_maps(matrices, kernel="reference"),
        "reference, batches of 16,384": lambda: [
            conduit_maps(x, kernel="reference") for x in blocks
        ],
        "fused": lambda: conduit_maps(matrices, kernel="fused"),
    }
    if device == "cpu":
        tasks["fused, one thread"] = lambda: conduit_maps(G, kernel="fused", threads=1)
        tasks["M to S and V"] = lambda: spectrum(M)
        tasks["S and V to maps"] = lambda: maps_from_spectrum(S, V)
    seconds = harness.side_by_side(
        {name: waited(task) for name, task in tasks.items()}, rounds, turn=0.2
    )
    fused = conduit_maps(matrices, kernel="fused")
    reference = conduit_maps(matrices, kernel="reference")
    row: dict[str, Any] = {"n": n, "matrices": count}
    row |= {f"{name} (µs)": taken / count * 1e6 for name, taken in seconds.items()}
    best = min(taken for name, taken in seconds.items() if name.startswith("reference"))
    row["ratio"] = best / seconds["fused"]
    row["same bits"] = all(torch.equal(fused[name], reference[name]) for name in fused)
    return row


def first_call(n: int) -> dict[str, Any]:
    """Seconds of the first fused call in a fresh process, imports included."""
    row: dict[str, Any] = {"n": n}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty cache (s)", "filled cache (s)"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL.format(n=n)],
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
                check=True,
                capture_output=True,
                text=True,
            )
            row[state] = float(done.stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:k")
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8])
    parser.add_argument("--batch", type=int, nargs="+", default=[16_384, 460_000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    rows = []
    for n in arguments.orders:
        for count in arguments.batch:
            # The work grows faster than n^3: large orders get fewer matrices.
            rows.append(
                measure(
                    n, count if n <= 4 else min(count, 60_000), arguments.rounds, arguments.device
                )
            )
            print(harness.table(rows[-1:]).splitlines()[-1], flush=True)
    calls = [first_call(n) for n in arguments.orders] if arguments.device == "cpu" else []
    notes = f"conduit on {arguments.device}, per matrix; ratio: the faster reference over fused"
    harness.save("conduit" if arguments.device == "cpu" else "conduit_gpu", rows, notes)
    if calls:
        harness.save("conduit_first_call", calls, "first fused call in a fresh process")


if __name__ == "__main__":
    main()
