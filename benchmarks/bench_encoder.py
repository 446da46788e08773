"""The encoder's arithmetic against the machine's own matrix products, in one run.

python benchmarks/bench_encoder.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import freckles
import harness
import torch

from frictionstore.extract.encoder.onednn import pack
from frictionstore.extract.engines.cpu import TILE_PATCHES, one_thread_each

ROUNDS = 7


def rate(work: list, flops: float) -> float:
    """Flop/s of calling every function of `work` once, in its own thread."""
    with ThreadPoolExecutor(len(work)) as pool:
        list(pool.map(lambda f: f(), work))
        started = time.perf_counter()
        list(pool.map(lambda f: f(), work))
        return flops / (time.perf_counter() - started)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    machine = harness.machine()
    threads = machine["cores"]
    model = freckles.encoder()
    c = freckles.CONFIG
    encoder_of_tiles = pack(model, TILE_PATCHES) or model.encode
    patches = [torch.randn(1, TILE_PATCHES, 3 * c.patch_size**2) for _ in range(threads)]
    per_patch = 2 * (48 * c.hidden + 2 * c.depth * c.hidden**2 + c.hidden * c.V * c.D)
    square = [(torch.randn(1024, 1024), torch.randn(1024, 1024)) for _ in range(threads)]
    tiles, products = 40, 30

    def encode(x: torch.Tensor) -> None:
        with torch.inference_mode():
            for _ in range(tiles):
                encoder_of_tiles(x)

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        with torch.inference_mode():
            for _ in range(products):
                a @ b

    encoder, matmul = [], []
    with one_thread_each():
        for _ in range(ROUNDS):
            matmul.append(
                rate([lambda p=p: multiply(*p) for p in square], threads * products * 2 * 1024**3)
            )
            encoder.append(
                rate(
                    [lambda x=x: encode(x) for x in patches],
                    threads * tiles * TILE_PATCHES * per_patch,
                )
            )
    best, ours = statistics.median(matmul), statistics.median(encoder)
    harness.save(
        "encoder",
        [
            {"what": "matrix products, 1024 x 1024", "Gflop/s": best / 1e9, "share": 1.0},
            {"what": f"encoder, tiles of {TILE_PATCHES} patches", "Gflop/s": ours / 1e9,
             "share": ours / best},
        ],
        f"float32, {threads} threads with one product each; hidden 384, depth 4; "
        f"median of {ROUNDS}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
