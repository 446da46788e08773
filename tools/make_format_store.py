"""Write the reference store of the current format that the tests read back.

python tools/make_format_store.py tests/data/stores/v1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import frictionstore as fs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    rng = np.random.default_rng(20261124)
    n, grid, modes = 7, 3, 4
    shape = (n, grid, grid, modes)
    arrays: dict[str, Any] = {
        "S": np.sort(rng.uniform(1, 6, shape).astype(np.float32), axis=-1)[..., ::-1],
        "friction": rng.lognormal(3, 2, shape).astype(np.float32),
        "settle": rng.integers(0, 6, shape).astype(np.uint8),
        "S_orig": np.sort(rng.uniform(1, 6, shape).astype(np.float32), axis=-1)[..., ::-1],
        "recon_error": rng.random(shape[:3]).astype(np.float32),
        "refinement_residual": rng.random(shape[:3]).astype(np.float32),
        "slot": rng.integers(0, modes, shape).astype(np.uint8),
        "image": rng.integers(0, 256, (n, 6, 6, 3)).astype(np.uint8),
    }
    label = np.array([0, 1, 1, 0, -1, 1, 0], dtype=np.int32)
    ids = np.array(["cat/1.png", "dog/ä.png", "dog/犬.png", "cat/2 3.png", "x", "dog/4", "cat/5"])
    fs.from_arrays(
        folder / "reference.zarr", arrays, label=label, class_names=["cat", "dog"],
        image_id=ids.tolist(), shard_images=4,
    )  # fmt: skip
    np.savez_compressed(
        folder / "reference.npz", allow_pickle=False, label=label, image_id=ids, **arrays
    )


if __name__ == "__main__":
    main()
