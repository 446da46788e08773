"""The GPU's path: its maps in Triton's interpreter, batches under way, and the whole on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import DatasetError
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.encoder.checkpoints import Source, build_encoder, read_checkpoint  # noqa: E402
from frictionstore.extract.engines.base import Maps, Started  # noqa: E402
from frictionstore.extract.engines.make import native_engine  # noqa: E402
from frictionstore.extract.loading import Batch  # noqa: E402
from frictionstore.extract.pipeline import measured  # noqa: E402

BOTH_ENGINES = """
import sys
import numpy as np, torch
from frictionstore.extract.encoder.checkpoints import Source
from frictionstore.extract.encoder.checkpoints import build_encoder
from frictionstore.extract.encoder.checkpoints import read_checkpoint
from frictionstore.extract.engines import cpu as module
from frictionstore.extract.engines.cpu import CpuEngine
from frictionstore.extract.engines.gpu import GpuEngine
from pathlib import Path

module.pack = lambda *_: None  # both with torch's own products

from frictionstore.format import schema
maps = tuple(schema.MAPS)
cpu = torch.device("cpu")
rng = np.random.default_rng(0)
for name, size, count in (("svae_d4", 16, 37), ("svae_d16", 32, 3)):
    model = build_encoder(read_checkpoint(Source(Path(sys.argv[1]) / f"{name}.pt", "file")), name)
    images = rng.random((count, 3, size, size)).astype(np.float32)
    images[1, 0, 0, 0] = np.nan
    GpuEngine.tile_patches = CpuEngine.tile_patches
    made = []
    for engine in (CpuEngine(model, maps, cpu, repeats=3), GpuEngine(model, maps, cpu, repeats=3)):
        tile = engine.tile_images(size)
        with torch.inference_mode():
            torch.set_num_threads(1)
            made.append(engine.measure(images, 7 + np.arange(count), images[::-1].copy()))
        print(name, engine.kernels(), "tiles", -(-count // tile))
        engine.close()
    for key in maps:
        a, b = (one[key] for one in made)
        assert a.shape == b.shape and a.dtype == b.dtype, (name, key)
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (name, key)
    assert np.isnan(made[0]["friction"][1]).any()
"""


@pytest.mark.slow
def test_its_maps_are_those_of_the_cpu_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", BOTH_ENGINES, str(DATA / "svae")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("conduit", "spectrum", "attention"):
        assert f"'{stage}_kernel': 'fused-gpu'" in done.stdout
    assert "tiles 2" in done.stdout
    without = "'conduit_kernel': 'fused-gpu', 'exact_kernel': 'fused-gpu', "
    assert without + "'spectrum_kernel': 'torch.linalg.eigh'" in done.stdout


def test_where_its_kernels_cannot_run_it_says_so_and_goes_on() -> None:
    """Without the interpreter Triton finds no driver, as it may find no C compiler."""
    from frictionstore.extract.engines.gpu import GpuEngine

    model = build_encoder(read_checkpoint(Source(DATA / "svae/svae_d4.pt", "file")), "svae_d4")
    said: list[str] = []
    maps, cpu = ("S", "friction", "settle"), torch.device("cpu")
    engine = GpuEngine(model, maps, cpu, report=said.append)
    assert len(said) == 1
    assert said[0].startswith("the kernels for GPUs cannot be used here (")
    assert said[0].endswith("): going on without them, which is slower")
    images = np.random.default_rng(0).random((5, 3, 16, 16)).astype(np.float32)
    started = engine.start(images, np.arange(len(images)))
    assert started.described["conduit_kernel"] == "fused-cpu"
    assert started.described["spectrum_kernel"] == "torch.linalg.eigh"
    made = started.finish()
    expected = native_engine(model, maps, cpu).measure(images)
    np.testing.assert_allclose(made["S"], expected["S"], rtol=1e-5)
    relative = np.abs(made["friction"] - expected["friction"]) / expected["friction"]
    assert np.median(relative) < 1e-3


class Recorder:
    """An engine that notes what is started and finished; a map holds the images' first pixel."""

    maps = ("S",)

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.events: list[str] = []

    def start(self, images: np.ndarray, rows: np.ndarray) -> Started:
        number = int(images[0, 0, 0, 0])
        self.events.append(f"start {number}")

        def finish() -> Maps:
            self.events.append(f"finish {number}")
            return {"S": images[:, 0, 0, 0]}

        return Started(finish, {"tile_images": 10 - number})


def batches(count: int, bad: int | None = None) -> Iterator[Batch]:
    for k in range(count):
        rows = range(2 * k, 2 * k + 2)
        if k == bad:
            yield Batch(rows, None, "image x cannot be read")
        else:
            yield Batch(rows, np.full((2, 3, 4, 4), k, np.float32))


def collect(results: Iterator[tuple[Batch, Maps, dict[str, Any]]], into: list[Any]) -> None:
    for batch, maps, described in results:
        into.append((batch.rows.start, maps["S"].tolist(), described["tile_images"]))


@pytest.mark.parametrize(
    ("ahead", "events"),
    [
        (0, ["start 0", "finish 0", "start 1", "finish 1", "start 2", "finish 2"]),
        (1, ["start 0", "start 1", "finish 0", "start 2", "finish 1", "finish 2"]),
        (5, ["start 0", "start 1", "start 2", "finish 0", "finish 1", "finish 2"]),
    ],
)
def test_so_many_batches_are_under_way_and_no_more(ahead: int, events: list[str]) -> None:
    engine = Recorder(ahead)
    got: list[Any] = []
    collect(measured(batches(3), engine), got)  # type: ignore[arg-type]
    assert engine.events == events
    # Each result keeps what its own start said of the engine, whatever was started after it.
    assert got == [(0, [0, 0], 10), (2, [1, 1], 9), (4, [2, 2], 8)]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_an_unreadable_image_loses_no_batch_before_it(ahead: int) -> None:
    got: list[Any] = []
    with pytest.raises(DatasetError, match="image x cannot be read"):
        collect(measured(batches(4, bad=2), Recorder(ahead)), got)  # type: ignore[arg-type]
    assert [first for first, *_ in got] == [0, 2]


# ---- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def extracted(tmp_path: Path) -> Callable[..., fs.Store]:
    def extract(name: str, **changes: Any) -> fs.Store:
        given = {
            "dataset": "noise", "count": 300, "encoder": "speckle", "out": tmp_path / name,
            "image_size": 64, "device": "cuda", "shard_images": 150, **changes,
        }  # fmt: skip
        run_job(Job.from_options(given))
        return fs.open(tmp_path / name)

    return extract


@pytest.mark.gpu
def test_batch_size_does_not_matter_on_a_gpu(extracted: Callable[..., fs.Store]) -> None:
    first = extracted("a.zarr", batch_size=16)
    for name, changes in (("b.zarr", {"batch_size": 250}), ("c.zarr", {"workers": 2})):
        other = extracted(name, **changes)
        for key in first.maps:
            np.testing.assert_array_equal(other[key][:], first[key][:], f"{name} {key}")


@pytest.mark.gpu
def test_a_gpu_s_store_is_the_cpu_s_to_rounding(extracted: Callable[..., fs.Store]) -> None:
    on_gpu, on_cpu = extracted("a.zarr"), extracted("b.zarr", device="cpu")
    S, expected = on_gpu["S"][:], on_cpu["S"][:]
    assert (np.abs(S - expected) <= 1e-5 * expected.max()).all()
    friction, expected = on_gpu["friction"][:], on_cpu["friction"][:]
    assert np.median(np.abs(friction - expected) / expected) < 1e-3


@pytest.mark.gpu
def test_starting_ahead_changes_nothing_on_a_gpu() -> None:
    source = Source(DATA / "svae/svae_d4.pt", "file")
    model = build_encoder(read_checkpoint(source), "d4")
    engine = native_engine(model, ("S", "friction", "settle"), torch.device("cuda"))
    images = np.random.default_rng(0).random((64, 3, 16, 16)).astype(np.float32)
    halves = [images[:32].copy(), images[32:].copy()]
    one_by_one = [engine.measure(half) for half in halves]
    together = [
        started.finish()
        for started in [engine.start(half, np.arange(len(half))) for half in halves]
    ]
    for a, b in zip(one_by_one, together, strict=True):
        for key, values in a.items():
            np.testing.assert_array_equal(values, b[key], key)
