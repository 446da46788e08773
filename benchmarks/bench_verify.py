"""Verify against what it is made of: sha256sum of every file, and decoding every chunk with zarr.

python benchmarks/bench_verify.py [--images 20000]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import harness
import numpy as np

import frictionstore as fs
from frictionstore.check.verify import verify
from frictionstore.share.pack import pack


def make(path: Path, images: int) -> None:
    """A store with the compressibility of data: a smooth pattern per class, and noise."""
    rng = np.random.default_rng(0)
    shape = (images, 16, 16, 4)
    labels = rng.integers(0, 10, images)
    pattern = rng.normal(size=(10, *shape[1:])).cumsum(axis=1).cumsum(axis=2)
    friction = np.exp(4 + 0.02 * pattern[labels] + 0.3 * rng.normal(size=shape)).astype(np.float32)
    friction[..., 0] = 5.0
    maps = {
        "S": -np.sort(-rng.uniform(1, 6, shape).astype(np.float32), axis=-1),
        "friction": friction,
        "settle": rng.integers(1, 6, shape, dtype=np.uint8),
    }
    fs.from_arrays(path, maps, label=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.zarr"
        make(path, arguments.images)
        archive = pack(path).target
        store = fs.open(path)
        names = tuple(store.header.arrays)
        stored = sum(store.header.shard_bytes.values())

        def sha256sum() -> None:
            subprocess.run(["sha256sum", "--quiet", "-c", "MANIFEST.sha256"], cwd=path, check=True)

        def decode() -> None:
            for _ in store.iter_chunks(names):
                pass

        def check(**options: object) -> None:
            assert verify(**{"location": path, **options}).ok  # type: ignore[arg-type]

        seconds = harness.side_by_side(
            {
                "sha256sum -c": sha256sum,
                "decoding with zarr": decode,
                "verify": check,
                "verify, one thread": lambda: check(threads=1),
                "verify of the zip": lambda: check(location=archive),
                "verify --quick": lambda: check(quick=True),
            },
            arguments.repeats,
        )
    parts = seconds["sha256sum -c"] + seconds["decoding with zarr"]
    rows = [
        {
            "what": what,
            "seconds": taken,
            "MB/s of stored bytes": stored / taken / 1e6,
            "speed over sha256sum + decoding": parts / taken,
        }
        for what, taken in [*seconds.items(), ("sha256sum + decoding", parts)]
    ]
    harness.save(
        "verify",
        rows,
        f"{arguments.images:,} images, {stored / 1e6:.0f} MB in {len(store.header.manifest)} "
        "files, in the page cache; the last column is the bar: at least 0.5 for verify",
    )


if __name__ == "__main__":
    main()
