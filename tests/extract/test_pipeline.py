"""Extraction: the same bytes however it ran, bounded batches, and stopping by name."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.errors import DatasetError, FrictionstoreError, MeasurementError, StoreError
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.encoder.checkpoints import Source, build_encoder, read_checkpoint  # noqa: E402
from frictionstore.extract.engines.cpu import CpuEngine  # noqa: E402
from frictionstore.extract.engines.make import native_engine  # noqa: E402
from frictionstore.extract.pipeline import plan_batches  # noqa: E402

ALL_MAPS = (
    "S", "friction", "settle", "S_orig", "recon_error", "refinement_residual", "slot", "image",
)  # fmt: skip


def job(out: Path, **changes: Any) -> Job:
    given = {
        "dataset": "noise", "count": 50, "encoder": str(DATA / "svae/svae_d4.pt"), "out": out,
        "image_size": 32, "maps": list(ALL_MAPS), "device": "cpu", "shard_images": 16, **changes,
    }  # fmt: skip
    return Job.from_options(given)


def content(path: Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "provenance.json"
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("reference") / "a.zarr"
    run_job(job(out))
    return content(out)


@pytest.mark.parametrize("batch_size", [1, 16, 250])
def test_batch_size_does_not_matter(
    tmp_path: Path, reference: dict[str, bytes], batch_size: int
) -> None:
    run_job(job(tmp_path / "a.zarr", batch_size=batch_size))
    assert content(tmp_path / "a.zarr") == reference


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # worker processes are torch's own
def test_worker_processes_do_not_matter(tmp_path: Path, reference: dict[str, bytes]) -> None:
    run_job(job(tmp_path / "a.zarr", workers=2, batch_size=16))
    assert content(tmp_path / "a.zarr") == reference


def test_threads_do_not_matter() -> None:
    source = Source(DATA / "svae/svae_d16.pt", "file")
    images = np.random.default_rng(0).random((5, 3, 32, 32)).astype(np.float32)
    made = []
    for threads in (1, 2, 3):
        model = build_encoder(read_checkpoint(source), "d16")
        engine = native_engine(model, ALL_MAPS, torch.device("cpu"), threads=threads)
        made.append(engine.measure(images))
        engine.close()
    for other in made[1:]:
        for name in ALL_MAPS:
            np.testing.assert_array_equal(other[name], made[0][name])


def test_an_image_gives_the_same_wherever_it_stands() -> None:
    source = Source(DATA / "svae/svae_d4.pt", "file")
    images = np.random.default_rng(0).random((70, 3, 16, 16)).astype(np.float32)
    model = build_encoder(read_checkpoint(source), "d4")
    engine = native_engine(model, ("S", "friction"), torch.device("cpu"))
    tile = engine.tile_images(16)
    whole = engine.measure(images)
    for first in range(0, len(images), tile):
        part = engine.measure(images[first : first + tile])
        for name in ("S", "friction"):
            np.testing.assert_array_equal(part[name], whole[name][first : first + tile])
    engine.close()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    from frictionstore.store.writer import StoreWriter

    original = StoreWriter.write_unit
    calls = iter(range(100))

    def write_unit(self: StoreWriter, *arguments: Any) -> None:
        if next(calls) == units:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(StoreWriter, "write_unit", write_unit)


def test_interrupted_twice_gives_the_same_bytes(
    tmp_path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.zarr"
    for _ in range(2):
        with monkeypatch.context() as patch:
            interrupt_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                run_job(job(out))
        assert not out.exists()
    outcome = run_job(job(out))
    assert outcome["measured"] == 50 - 2 * 16
    assert content(out) == reference
    assert not list(tmp_path.glob("*.lock"))


def test_up_to_date_and_refusal(tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    first = run_job(job(out))
    assert (first["status"], first["measured"]) == ("complete", 50)
    again = run_job(job(out))
    assert (again["status"], again["measured"]) == ("up to date", 0)
    assert again["digest"] == first["digest"]
    with pytest.raises(StoreError, match="dataset.count is 50 there, 60 was asked for"):
        run_job(job(out, count=60))
    with pytest.raises(StoreError, match="transform.image_size is 32 there, 16 was asked for"):
        run_job(job(out, image_size=16))
    assert run_job(job(out, count=60), overwrite=True)["images"] == 60


def test_what_is_stored_is_what_was_measured(tmp_path: Path) -> None:
    from frictionstore.extract.data.noise import indexed_noise_image

    out = tmp_path / "a.zarr"
    run_job(job(out))
    store = fs.open(out)
    source = Source(DATA / "svae/svae_d4.pt", "file")
    engine = native_engine(build_encoder(read_checkpoint(source), "d4"), ALL_MAPS,
                          torch.device("cpu"), value_range=(-4.0, 4.0))  # fmt: skip
    images = np.stack([indexed_noise_image(i, 32, 0) for i in range(16)])
    made = engine.measure(images)
    engine.close()
    for name in ALL_MAPS:
        np.testing.assert_array_equal(store[name][:16], made[name])
    assert store.labels.tolist() == [i % 16 for i in range(50)]
    assert store.image_ids[49] == "uniform-49"
    assert store.provenance["runs"][0]["device"] == "cpu"
    assert store.provenance["runs"][0]["tile_images"] == 8  # of 64 patches each
    assert store.provenance["encoder"]["origin"] == "file:svae_d4.pt"
    assert "svae_d4" not in str(store.request)


def nan_checkpoint(tmp_path: Path) -> Path:
    content = torch.load(DATA / "svae/svae_d4.pt", weights_only=True)
    content["model_state_dict"]["enc_out.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    return tmp_path / "nan.pt"


def test_nan_weights_stop_at_the_first_image_by_name(tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    with pytest.raises(MeasurementError, match=r"S of image gaussian-0 \(row 0\) is NaN"):
        run_job(job(out, encoder=str(nan_checkpoint(tmp_path))))
    assert not out.exists()


def test_one_bad_image_is_named_and_the_units_before_it_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frictionstore.extract.data.bundled import Noise

    original = Noise.load

    def load(self: Noise, index: int, size: int) -> np.ndarray:
        image = original(self, index, size)
        if index == 37:
            image = image.copy()
            image[0, 0, 0] = np.inf
        return image

    monkeypatch.setattr(Noise, "load", load)
    with pytest.raises(MeasurementError, match=r"of image brown-37 \(row 37\) is NaN or infinite"):
        run_job(job(tmp_path / "a.zarr"))
    monkeypatch.setattr(Noise, "load", original)
    assert run_job(job(tmp_path / "a.zarr"))["measured"] == 50 - 32


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop_the_run_or_are_left_out(tmp_path: Path, workers: int) -> None:
    from PIL import Image

    root = tmp_path / "set"
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(name), 5, 9)).save(root / name)
    (root / "cat/b.png").write_bytes(b"not a picture")
    options = {"dataset": f"folder:{root}", "count": None, "workers": workers}
    with pytest.raises(DatasetError, match="image cat/b.png cannot be read.*--skip-unreadable"):
        run_job(job(tmp_path / "a.zarr", **options))
    said: list[str] = []
    run_job(job(tmp_path / "a.zarr", skip_unreadable=True, **options), report=said.append)
    assert "1 images cannot be read and are left out" in said
    store = fs.open(tmp_path / "a.zarr")
    assert store.image_ids.tolist() == ["cat/a.png", "dog/c.png", "dog/d.png"]
    assert store.labels.tolist() == [0, 1, 1]
    assert store.attributes["skipped"] == ["cat/b.png"]
    again = run_job(job(tmp_path / "a.zarr", skip_unreadable=True, **options))
    assert again["status"] == "up to date"


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(DATA / "svae/svae_d4.pt", "file")
    said: list[str] = []
    engine = native_engine(
        build_encoder(read_checkpoint(source), "d4"),
        ("S",),
        torch.device("cpu"),
        report=said.append,
    )
    original = CpuEngine._encode
    images = np.random.default_rng(0).random((40, 3, 16, 16)).astype(np.float32)
    whole = engine.measure(images)
    assert engine.tile_images(16) == 32

    def encode(self: CpuEngine, part: np.ndarray, tile: int, encoder: Any) -> dict[str, Any]:
        if tile > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(self, part, tile, encoder)

    monkeypatch.setattr(CpuEngine, "_encode", encode)
    made = engine.measure(images)
    np.testing.assert_allclose(made["S"], whole["S"], rtol=1e-6)
    assert said == [
        "out of memory on cpu: going on with batches of 16 images",
        "out of memory on cpu: going on with batches of 8 images",
        "out of memory on cpu: going on with batches of 4 images",
    ]

    def never(self: CpuEngine, *_: Any) -> dict[str, Any]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CpuEngine, "_encode", never)
    with pytest.raises(FrictionstoreError, match="too little free memory for one image"):
        engine.measure(images)
    engine.close()


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=5), st.integers(1, 300), st.integers(1, 64)
)
def test_batches_cover_units_and_start_at_tiles(
    lengths: Sequence[int], batch_size: int, tile: int
) -> None:
    starts = [0, *itertools.accumulate(lengths)]
    units = [range(first, last) for first, last in itertools.pairwise(starts)]
    batches = plan_batches(units, batch_size, tile)
    assert [row for batch in batches for row in batch] == list(range(starts[-1]))
    for batch in batches:
        (unit,) = [u for u in units if u.start <= batch.start < u.stop]
        assert batch.stop <= unit.stop
        assert (batch.start - unit.start) % tile == 0
        assert len(batch) <= max(batch_size, tile)
