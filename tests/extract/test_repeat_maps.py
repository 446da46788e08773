"""Exact maps and repeats from an extraction to a store, and what is done with such a store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.check.diff import diff
from frictionstore.errors import MeasurementError, RequestError, StoreError
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from frictionstore.format import schema
from tests.extract.conduit.test_repeats import scalar_moved
from tests.extract.test_pipeline import content, interrupt_after
from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.conduit import conduit_maps  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu.gram import gram_from_spectrum  # noqa: E402
from frictionstore.extract.encoder.checkpoints import Source, build_encoder, read_checkpoint  # noqa: E402
from frictionstore.extract.engines.base import gram, original_gram  # noqa: E402
from frictionstore.extract.engines.cpu import CpuEngine  # noqa: E402

EXTRA = ("friction_exact_repeats", "settle_exact_repeats")
MAPS = (*schema.DEFAULT_MAPS, *EXTRA)
MEASURED = ("friction", "settle", "friction_exact", "settle_exact")
# Of the jobs below without exact maps and repeats, by the version before these.
EARLIER = "145f3814826bec333cb7d46c3722213e624610dc2717ce32ee8f84f02e20173d"


def job(out: Path, **changes: Any) -> Job:
    given = {
        "dataset": "noise", "count": 40, "encoder": str(DATA / "svae/svae_d4.pt"), "out": out,
        "image_size": 16, "maps": list(MAPS), "device": "cpu", "shard_images": 16, **changes,
    }  # fmt: skip
    return Job.from_options(given)


def values(path: Path) -> dict[str, np.ndarray]:
    store = fs.open(path)
    return {name: store[name][:] for name in store.maps}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "a.zarr"
    run_job(job(out))
    return out


def model(name: str) -> Any:
    return build_encoder(read_checkpoint(Source(DATA / f"svae/{name}.pt", "file")), name)


def checkpoint(folder: Path, **changes: int) -> str:
    """A file with random weights."""
    from frictionstore.extract.encoder.config import SVAEConfig
    from frictionstore.extract.encoder.svae import PatchSVAE

    config = {
        "patch_size": 4, "hidden": 8, "depth": 1, "n_cross_layers": 0, "n_heads": 1,
        "smooth_mid": 4, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    state = PatchSVAE(SVAEConfig.from_mapping(config, "here")).state_dict()
    torch.save({"config": config, "model_state_dict": state}, folder / "random.pt")
    return str(folder / "random.pt")


@pytest.mark.parametrize(
    ("name", "size", "which"),
    [("svae_d4", 16, "coordinated"), ("svae_d4", 16, "original"), ("svae_d16", 32, "coordinated")],
)
def test_what_is_measured(name: str, size: int, which: str) -> None:
    """Matrices made here, moved by the scalar definition, and measured by the conduit."""
    images = np.random.default_rng(0).random((3, 3, size, size)).astype(np.float32)
    rows = np.array([5, 2, 2**31])
    named = (n for n in schema.MAPS if n.startswith(("friction", "settle")))
    maps = tuple(n for n in named if n != "friction_donor")
    engine = CpuEngine(model(name), maps, torch.device("cpu"), gram=which, repeats=3)
    found = engine.measure(images, rows)
    parts = engine._encode(images, 3, engine._encoder(size, 3))
    if which == "original":
        G = parts["gram"].numpy()
    elif engine.fused:
        G = gram_from_spectrum(parts["S"].numpy(), parts["V"].numpy())
    else:
        G = gram(parts["S"], parts["V"]).numpy()
    exact_name = "fused-cpu"
    assert engine.describe()["exact_kernel"] == exact_name
    engine.close()
    grid, n = found["friction"].shape[1:3], G.shape[-1]
    once = conduit_maps(G, MEASURED)
    for key in MEASURED:
        dtype = schema.MAPS[key].dtype
        np.testing.assert_array_equal(
            found[key], once[key].astype(dtype).reshape(3, *grid, n), strict=True
        )
    for k in range(3):
        again = np.stack(
            [
                [scalar_moved(G[i, p], k + 1, p, int(rows[i])) for p in range(G.shape[1])]
                for i in range(3)
            ]
        )
        expected = conduit_maps(again, MEASURED)
        for key in MEASURED:
            stored = found[f"{key}_repeats"]
            assert stored.shape == (3, *grid, n, 3)
            assert stored.dtype == schema.MAPS[key].dtype
            np.testing.assert_array_equal(
                stored[..., k], expected[key].astype(stored.dtype).reshape(3, *grid, n)
            )
    assert (found["friction_repeats"][..., 0] != found["friction_repeats"][..., 1]).any()


def test_original_gram_is_what_it_says() -> None:
    M = torch.randn(2, 3, 5, 4)
    assert torch.equal(original_gram(M), (M.double().mT @ M.double()).float())


def test_the_place_in_the_batch_does_not_matter_but_the_row_does() -> None:
    images = np.random.default_rng(1).random((5, 3, 16, 16)).astype(np.float32)
    rows = np.array([3, 0, 9, 9, 4])
    images[3] = images[2]
    engine = CpuEngine(model("svae_d4"), ("friction_repeats",), torch.device("cpu"), repeats=2)
    whole = engine.measure(images, rows)["friction_repeats"]
    order = np.array([4, 2, 0, 1, 3])
    np.testing.assert_array_equal(
        engine.measure(images[order], rows[order])["friction_repeats"], whole[order]
    )
    np.testing.assert_array_equal(whole[2], whole[3])
    other = engine.measure(images, rows + 1)["friction_repeats"]
    assert (other != whole).any(axis=(1, 2, 3, 4)).all()
    engine.close()


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 250}])
def test_batch_size_gives_the_same_bytes(
    made: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run_job(job(tmp_path / "a.zarr", **changes))
    assert content(tmp_path / "a.zarr") == content(made)


def test_partition_gives_the_same_values(made: Path, tmp_path: Path) -> None:
    run_job(job(tmp_path / "a.zarr", shard_images=4))
    expected = values(made)
    for name, found in values(tmp_path / "a.zarr").items():
        np.testing.assert_array_equal(found, expected[name])


def test_resumption_gives_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            run_job(job(out))
    assert run_job(job(out))["measured"] == 40 - 16
    assert content(out) == content(made)


def test_an_image_left_out_moves_no_other(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path / "set" / "one"
    folder.mkdir(parents=True)
    for k in range(4):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    source = {
        "dataset": f"folder:{tmp_path / 'set'}",
        "count": None,
        "skip_unreadable": True,
        "workers": 0,
    }
    run_job(job(tmp_path / "whole.zarr", **source))
    (folder / "1.png").write_bytes(b"no image")
    run_job(job(tmp_path / "part.zarr", **source))
    whole, part = values(tmp_path / "whole.zarr"), values(tmp_path / "part.zarr")
    for name in MAPS:
        np.testing.assert_array_equal(part[name], whole[name][[0, 2, 3]])


def test_without_repeats_it_is_the_store_it_was(made: Path, tmp_path: Path) -> None:
    outcome = run_job(job(tmp_path / "a.zarr", maps=["S", "friction", "settle"], repeats=0))
    assert outcome["fingerprint"] == EARLIER
    found, beside = values(tmp_path / "a.zarr"), values(made)
    assert list(found) == ["S", "friction", "settle"]
    for name, x in found.items():
        np.testing.assert_array_equal(x, beside[name])


def test_what_is_stored_unless_something_is_said(tmp_path: Path) -> None:
    asked = job(tmp_path / "a.zarr", maps=None)
    assert asked.maps == ("S", *MEASURED)
    assert asked.measured_maps == ("S", *MEASURED, "friction_repeats", "settle_repeats")
    assert job(tmp_path / "a.zarr", maps="S,settle").measured_maps == (
        "S", "settle", "settle_repeats",
    )  # fmt: skip
    assert job(tmp_path / "a.zarr", maps="S", repeats=0).measured_maps == ("S",)
    request = fs.open(_extracted(tmp_path, maps="S,settle", repeats=3)).request
    assert request["repeats"] == {"count": 3, "seed": 0}
    assert fs.open(_extracted(tmp_path, maps="S")).request.get("repeats") is None


def _extracted(folder: Path, **changes: Any) -> Path:
    out = folder / f"{len(list(folder.iterdir()))}.zarr"
    run_job(job(out, count=3, **changes))
    return out


def test_repeats_that_are_none_or_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="friction_exact_repeats needs repeats .*--repeats 2"):
        job(tmp_path / "a.zarr", repeats=0)
    with pytest.raises(RequestError, match="repeats is 256: it must lie in 0..255"):
        job(tmp_path / "a.zarr", repeats=256)


def test_another_number_of_repeats_is_another_store(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    shutil.copytree(made, out)
    with pytest.raises(StoreError, match="repeats.count is 2 there, 3 was asked for"):
        run_job(job(out, repeats=3))
    more = tmp_path / "more.zarr"
    run_job(job(more, repeats=3))
    found, expected = values(more), values(made)
    for name in schema.REPEATS:  # the first two are the same
        np.testing.assert_array_equal(found[name][..., :2], expected[name])


def test_merge_subset_diff_verify_and_xarray(made: Path, tmp_path: Path) -> None:
    first = fs.subset(made, tmp_path / "first.zarr", limit=10)
    both = fs.merge([first.location, made], tmp_path / "both.zarr", names=["a", "b"])
    expected = values(made)
    for name in schema.REPEATS:
        assert both[name].shape == (50, *expected[name].shape[1:])
        np.testing.assert_array_equal(both[name][:10], expected[name][:10])
        np.testing.assert_array_equal(both[name][10:], expected[name])
    assert both.n_modes == 4
    for path in ("first.zarr", "both.zarr"):
        assert fs.verify(tmp_path / path).ok
    assert diff(made, made).verdict == "same bytes"
    other = {name: x.copy() for name, x in expected.items()}
    other["friction_repeats"][7, 1, 2, 3, 1] *= 1.5
    arrays = (
        fs.from_arrays(tmp_path / "x.zarr", expected),
        fs.from_arrays(tmp_path / "y.zarr", other),
    )
    found = diff(*(store.location for store in arrays)).maps
    assert [name for name, one in found.items() if one.differing] == ["friction_repeats"]
    assert found["friction_repeats"].per_mode == [0, 0, 0, 1]
    place = {"row": 1, "col": 2, "repeat": 1, "mode": 3}
    assert found["friction_repeats"].absolute.place == place
    without = tmp_path / "without.zarr"
    run_job(job(without, maps=["S", "friction", "settle"], repeats=0))
    with pytest.raises(RequestError, match="repeats.count is 2 in one and absent in the other"):
        fs.merge([made, without], tmp_path / "no.zarr", names=["a", "b"])

    xarray = pytest.importorskip("xarray")
    dataset = xarray.open_zarr(made)
    assert dataset["friction_repeats"].dims == ("image", "row", "col", "mode", "repeat")
    spread = dataset["friction_repeats"].std("repeat")
    assert spread.dims == dataset["friction"].dims


def test_from_arrays_turns_the_modes_and_not_the_repeats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    friction = rng.random((3, 2, 2, 4)).astype(np.float32)
    again = rng.random((3, 2, 2, 4, 5)).astype(np.float32)
    maps = {"friction": friction, "friction_repeats": again}
    store = fs.from_arrays(tmp_path / "a.zarr", maps, mode_order="ascending")
    np.testing.assert_array_equal(store["friction_repeats"][:], again[:, :, :, ::-1])
    np.testing.assert_array_equal(store["friction"][:], friction[..., ::-1])
    with pytest.raises(RequestError, match="settle_repeats has 4 along repeat, but .* has 5"):
        fs.from_arrays(
            tmp_path / "b.zarr", {**maps, "settle_repeats": np.ones((3, 2, 2, 4, 4), np.uint8)}
        )
    with pytest.raises(RequestError, match="friction_repeats has shape .* expected 5 axes"):
        fs.from_arrays(tmp_path / "b.zarr", {"friction_repeats": friction})


def test_friction_that_is_noise_is_said(tmp_path: Path, made: Path) -> None:
    said: list[str] = []
    flat = checkpoint(tmp_path, V=256, D=16)  # as the published encoders with D = 16 are
    d16 = {"encoder": flat, "image_size": 8, "count": 12}
    run_job(job(tmp_path / "a.zarr", maps=None, **d16), report=said.append)
    store = fs.open(tmp_path / "a.zarr")
    friction, exact = store["friction"][:], store["friction_exact"][:]
    far = int((abs(friction - exact) > 0.1 * exact).sum())
    assert store.provenance["friction_against_exact"] == {
        "values": friction.size, "more_than_10_percent_away": far, "share": far / friction.size,
    }  # fmt: skip
    assert far / friction.size > 0.5
    assert said[-1].startswith(
        f"rounding of friction: {far / friction.size:.1%} of its {friction.size} measured values "
        "are more than 10% away from friction_exact"
    )
    assert "decides" not in said[-1]
    assert said[-1].endswith("'frictionstore analyze reliability' says")
    noted = fs.open(made).provenance["friction_against_exact"]
    assert noted["values"] == 40 * 16 * 4
    assert noted["share"] < 0.05
    said.clear()
    run_job(job(tmp_path / "b.zarr", count=4), report=said.append)
    assert not any("rounding" in text for text in said)


@pytest.mark.slow
def test_an_encoder_too_large_for_the_exact_maps(tmp_path: Path) -> None:
    encoder = checkpoint(tmp_path, V=66, D=66)
    wide = {"encoder": encoder, "image_size": 4, "count": 1, "repeats": 0}
    said: list[str] = []
    # Here the rounded friction cannot be measured either; the sentence comes before that.
    with pytest.raises(MeasurementError, match="friction of image gaussian-0"):
        run_job(job(tmp_path / "a.zarr", maps=None, **wide), report=said.append)
    assert said[0].startswith("friction_exact, settle_exact are made for encoders up to D = 64")
    assert said[0].endswith("has D = 66: they are left out")
    run_job(job(tmp_path / "s.zarr", maps="S", **wide))
    with pytest.raises(RequestError, match="has D = 66: leave them out, with --maps S$"):
        run_job(job(tmp_path / "b.zarr", maps="S,friction_exact", **wide))
    assert not (tmp_path / "b.zarr").exists()


def test_old_stores_are_read_as_before() -> None:
    store = fs.open(next((DATA / "stores" / "v1").glob("*.zarr")))
    assert not set(store.maps) & {*schema.REPEATS, "friction_exact", "settle_exact"}
    assert store.n_modes == store["friction"].shape[-1]
