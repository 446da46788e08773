"""Reading a map whole: this package, zarr, tensorstore and zarrs, on stores of two kinds.

python benchmarks/bench_reading.py [--images 10000]

tensorstore and zarrs take part where they are installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import harness
import numpy as np
import zarr
from bench_store import friction_like

import frictionstore as fs


def smooth(images: int) -> np.ndarray:
    """A wave for each image: what compresses well."""
    place = np.linspace(0, 3, 16)
    phase = np.arange(images)[:, None, None, None] / 40
    wave = np.sin(place[:, None, None] + phase) * np.cos(place[None, :, None] - phase)
    return (3 + wave + np.arange(4)).astype(np.float32)


def readers(path: Path) -> dict[str, Callable[[], object]]:
    store = fs.open(path)

    def iter_chunks() -> None:
        for _ in store.iter_chunks("friction"):
            pass

    def with_zarrs() -> object:
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            return zarr.open_array(path / "friction", mode="r")[:]

    found: dict[str, Callable[[], object]] = {
        "iter_chunks": iter_chunks,
        "store.friction[:]": lambda: store.friction[:],
        "zarr": lambda: zarr.open_array(path / "friction", mode="r")[:],
    }
    if find_spec("tensorstore") is not None:
        import tensorstore as ts

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/friction"}}
        found["tensorstore"] = lambda: ts.open(spec).result().read().result()
    if find_spec("zarrs") is not None:
        import zarrs  # noqa: F401  its pipeline is found by name then

        found["zarr with zarrs"] = with_zarrs
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    images = parser.parse_args().images
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, data in {"measured": friction_like(images), "smooth": smooth(images)}.items():
            path = Path(folder) / f"{kind}.zarr"
            fs.from_arrays(path, {"friction": data})
            again = np.concatenate(
                [a["friction"] for _, a in fs.open(path).iter_chunks("friction")]
            )
            assert np.array_equal(again, data)
            seconds = harness.side_by_side(readers(path), 9, turn=0.3)
            rows += [
                {
                    "map": kind,
                    "what": what,
                    "MB/s": data.nbytes / each / 1e6,
                    "over zarr": seconds["zarr"] / each,
                    "over tensorstore": seconds["tensorstore"] / each
                    if "tensorstore" in seconds
                    else None,
                }
                for what, each in seconds.items()
            ]
    harness.save(
        "reading",
        rows,
        f"friction of {images:,} images on a 16 x 16 grid ({images * 4096 / 1e6:.0f} MB), in the "
        "page cache; zarr, tensorstore and zarrs read the whole array",
    )


if __name__ == "__main__":
    main()
