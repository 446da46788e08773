"""Writing and reading one float map: raw numpy files, zarr's defaults, this store, tensorstore.

python benchmarks/bench_store.py [--images 10000]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import harness
import numpy as np
import zarr

import frictionstore as fs


def friction_like(images: int) -> np.ndarray:
    """Friction of real digits, repeated with small changes: its compressibility is that of data."""
    store = Path("data/digits-speckle.zarr")
    if store.exists():
        base = fs.open(store).friction[:]
    else:
        base = np.random.default_rng(0).lognormal(4, 1, (500, 16, 16, 4)).astype(np.float32)
    copies = -(-images // len(base))
    made = np.concatenate([base * np.float32(1 + 1e-3 * k) for k in range(copies)])
    return np.ascontiguousarray(made[:images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    data = friction_like(arguments.images)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, plain, ours = folder / "raw.npy", folder / "plain.zarr", folder / "ours.zarr"

        def write_plain() -> None:
            shutil.rmtree(plain, ignore_errors=True)
            zarr.create_array(str(plain), data=data)

        def write_ours() -> None:
            shutil.rmtree(ours, ignore_errors=True)
            fs.from_arrays(ours, {"friction": data})

        write = harness.side_by_side(
            {"raw numpy": lambda: np.save(raw, data), "zarr's defaults": write_plain,
             "frictionstore": write_ours},
            3,
        )  # fmt: skip
        store = fs.open(ours)

        def read_chunks() -> None:
            for _ in store.iter_chunks("friction"):
                pass

        readers = {
            "raw numpy": lambda: np.load(raw),
            "zarr's defaults": lambda: zarr.open_array(str(plain), mode="r")[:],
            "frictionstore, iter_chunks": read_chunks,
            "frictionstore, whole array": lambda: store.friction[:],
        }
        if find_spec("tensorstore") is not None:
            import tensorstore as ts

            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{ours}/friction"}}
            readers["tensorstore on the same store"] = lambda: (
                ts.open(spec).result().read().result()
            )
        read = harness.side_by_side(readers, 5)
        size = {
            "raw numpy": raw.stat().st_size,
            "zarr's defaults": sum(p.stat().st_size for p in plain.rglob("*") if p.is_file()),
            "frictionstore": sum(p.stat().st_size for p in ours.rglob("*") if p.is_file()),
        }
    rows = []
    for what, seconds in read.items():
        key = "frictionstore" if "frictionstore" in what or "tensorstore" in what else what
        rows.append(
            {
                "what": what,
                "read MB/s": data.nbytes / seconds / 1e6,
                "read over raw": seconds / read["raw numpy"],
                "write MB/s": None if "tensorstore" in what else data.nbytes / write[key] / 1e6,
                "size over raw": size[key] / size["raw numpy"],
            }
        )  # fmt: skip
    harness.save(
        "store",
        rows,
        f"one map of {arguments.images:,} x 16 x 16 x 4 ({data.nbytes / 1e6:.0f} MB float32), "
        "files in the page cache; writing with frictionstore includes checks, hashes, fsync and "
        "the manifest",
    )


if __name__ == "__main__":
    main()
