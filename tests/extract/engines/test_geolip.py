"""The upstream engine against stand-ins of the two packages' interface."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import (
    CheckpointError,
    DeviceError,
    MeasurementError,
    RequestError,
)
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from frictionstore.installed import install_command
from tests.support import DATA

torch = pytest.importorskip("torch")

CHECKPOINT = DATA / "svae/svae_d4.pt"


class StandInModel(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Upstream's call, answered by our own encoder."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        return self.inner.state_dict()

    def forward(self, images: Any) -> dict[str, Any]:
        inner = self.inner
        M = inner.encode(inner.patches(images))
        spectrum = inner.spectrum(M)
        S = inner.coordinate(spectrum.S_orig)
        recon = inner.decode(inner.rescale(M, spectrum, S), *images.shape[-2:])
        svd = {"S": S, "S_orig": spectrum.S_orig, "Vt": spectrum.V.mT, "M": M}
        return {"svd": svd, "recon": recon}


@pytest.fixture(params=[True])
def overlooks(request: pytest.FixtureRequest) -> bool:
    """Whether upstream overlooks the keys of later configs, as the pinned commit does."""
    return bool(request.param)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, overlooks: bool) -> list[dict[str, Any]]:
    """geolip_svae and geolip_core as modules; returns the calls of load_model."""
    from frictionstore.extract.conduit import conduit
    from frictionstore.extract.encoder.checkpoints import (
        Checkpoint,
        Source,
        build_encoder,
        read_checkpoint,
    )
    from frictionstore.extract.encoder.config import SVAEConfig

    calls: list[dict[str, Any]] = []

    def load_model(
        hf_version: str | None = None,
        checkpoint_path: str | None = None,
        hf_file: str | None = None,
        device: str | None = None,
        repo_id: str = "AbstractPhil/geolip-SVAE",
    ) -> tuple[Any, dict[str, Any]]:
        calls.append({"hf_version": hf_version, "checkpoint_path": checkpoint_path})
        assert hf_file is None  # files of any repository are read as data by us first
        cache = Path(os.environ.get("HF_HUB_CACHE", "/cache"))
        path = Path(checkpoint_path) if checkpoint_path else cache / f"{hf_version}/best.pt"
        source = Source(path if checkpoint_path else CHECKPOINT, "x")
        content = torch.load(source.path, weights_only=True)
        checkpoint = read_checkpoint(source)
        shapes = SVAEConfig.from_mapping(checkpoint.config, "x").as_dict()
        known = {key: shapes[key] for key in list(shapes)[:8]}  # later keys are overlooked
        config = dict(checkpoint.config)
        config["_epoch"] = content.get("epoch")
        config["_test_mse"] = content.get("test_mse") or content.get("val_mse")
        config["_path"] = str(path)
        config["_model_type"] = config.get("model_type", "v1")
        plain = Checkpoint(known if overlooks else checkpoint.config, checkpoint.weights)
        return StandInModel(build_encoder(plain, "x")), config

    class FLEighConduit(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, A: Any) -> Any:
            packet = conduit(A)
            return types.SimpleNamespace(
                friction=packet.friction.flip(-1),
                settle=packet.settle.flip(-1).float(),
                eigenvalues=packet.eigenvalues.flip(-1),
                refinement_residual=packet.refinement_residual,
            )

    svae = types.ModuleType("geolip_svae")
    svae.__version__ = "0.5.0"  # type: ignore[attr-defined]
    svae.load_model = load_model  # type: ignore[attr-defined]
    core, linalg = types.ModuleType("geolip_core"), types.ModuleType("geolip_core.linalg")
    module = types.ModuleType("geolip_core.linalg.conduit")
    module.FLEighConduit = FLEighConduit  # type: ignore[attr-defined]
    for name, value in {
        "geolip_svae": svae, "geolip_core": core, "geolip_core.linalg": linalg,
        "geolip_core.linalg.conduit": module,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, value)
    return calls


def job(out: Path, **changes: Any) -> Job:
    given = {
        "dataset": "noise", "count": 70, "encoder": str(CHECKPOINT), "out": out, "image_size": 16,
        "device": "cpu", "engine": "geolip",
        "maps": ["S", "friction", "settle", "S_orig", "recon_error", "refinement_residual"],
        **changes,
    }  # fmt: skip
    return Job.from_options(given)


def test_the_same_store_with_the_engine_recorded(
    tmp_path: Path, stand_ins: list[dict[str, Any]]
) -> None:
    run_job(job(tmp_path / "theirs.zarr"))
    run_job(job(tmp_path / "ours.zarr", engine="native"))
    theirs, ours = fs.open(tmp_path / "theirs.zarr"), fs.open(tmp_path / "ours.zarr")
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.provenance["runs"][0]["engine"] == "geolip"
    assert ours.provenance["runs"][0]["engine"] == "native"
    for name in ("S", "S_orig", "recon_error"):
        np.testing.assert_allclose(theirs[name][:], ours[name][:], rtol=1e-4, atol=1e-5)
    assert (theirs.settle[:] == ours.settle[:]).mean() > 0.9
    same_order = np.isclose(theirs.friction[:], ours.friction[:], rtol=0.05).mean()
    assert same_order > 0.9
    assert np.isclose(theirs.friction[:][..., ::-1], ours.friction[:], rtol=0.05).mean() < 0.5


def test_a_published_version_is_loaded_by_upstream_itself(
    tmp_path: Path, stand_ins: list[dict[str, Any]]
) -> None:
    run_job(job(tmp_path / "a.zarr", encoder="v40_freckles_noise"))
    assert stand_ins == [{"hf_version": "v40_freckles_noise", "checkpoint_path": None}]
    run_job(job(tmp_path / "b.zarr"))
    named, filed = fs.open(tmp_path / "a.zarr"), fs.open(tmp_path / "b.zarr")
    assert named.request["encoder"]["weights_sha256"] == filed.request["encoder"]["weights_sha256"]


def test_upstream_gets_a_file_of_plain_data(
    tmp_path: Path, stand_ins: list[dict[str, Any]]
) -> None:
    run_job(job(tmp_path / "a.zarr", encoder="speckle", maps="S,friction,settle"))
    path = stand_ins[-1]["checkpoint_path"]
    assert path is not None
    assert path.endswith(".pt")
    assert not Path(path).exists()


def test_maps_it_does_not_give(tmp_path: Path, stand_ins: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match="geolip does not give the map slot"):
        run_job(job(tmp_path / "a.zarr", maps="S,slot"))


def test_without_the_packages_it_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "geolip_svae", None)
    with pytest.raises(RequestError, match=re.escape(install_command("extract", "geolip"))):
        run_job(job(tmp_path / "a.zarr"))
    with pytest.raises(RequestError, match=re.escape(install_command("extract", "geolip"))):
        run_job(job(tmp_path / "a.zarr", encoder="v40_freckles_noise"))


def test_upstreams_failure_is_one_sentence(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_model(**options: Any) -> Any:
        raise ValueError("Unknown version: v99_x")

    monkeypatch.setattr(sys.modules["geolip_svae"], "load_model", load_model)
    with pytest.raises(CheckpointError, match="cannot load v99_x: Unknown version"):
        run_job(job(tmp_path / "a.zarr", encoder="v99_x"))


def test_another_cache_folder_is_no_other_job(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cache in "ab":
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / cache))
        run_job(job(tmp_path / f"{cache}.zarr", encoder="v40_freckles_noise"))
    run_job(job(tmp_path / "file.zarr", engine="native"))
    a, b, native = (fs.open(tmp_path / f"{name}.zarr") for name in ("a", "b", "file"))
    assert a.fingerprint == b.fingerprint == native.fingerprint
    for store in (a, b):
        assert not [key for key in store.request["encoder"]["config"] if key.startswith("_")]
        assert str(tmp_path / store.name[0]) not in str(store.provenance["encoder"])
    assert a.provenance["encoder"]["notes"] == {"epoch": 7, "test_mse": 0.0123}
    again = run_job(job(tmp_path / "a.zarr", encoder="v40_freckles_noise"))
    assert again["status"] == "up to date"


def test_what_computed_is_recorded(tmp_path: Path, stand_ins: list[dict[str, Any]]) -> None:
    run_job(job(tmp_path / "a.zarr", encoder="v40_freckles_noise"))
    run = fs.open(tmp_path / "a.zarr").provenance["runs"][0]
    assert run["geolip_svae"] == "0.5.0"
    assert run["geolip_core"] == "unknown"  # the stand-in does not say
    assert run["spectrum_kernel"] == "torch.linalg.eigh in float64"
    assert run["conduit_kernel"].endswith("FLEighConduit")


def test_a_solver_of_upstream_s_own_is_told_from_torch_s(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from frictionstore.extract.conduit.kernels.cpu.gram import spectrum
    from frictionstore.extract.encoder.svae import PatchSVAE, Spectrum

    def own(self: PatchSVAE, M: Any) -> Spectrum:
        S, V = spectrum(M.flatten(0, 1).numpy())
        shape = M.shape[:2]
        return Spectrum(torch.from_numpy(S).unflatten(0, shape),
                        torch.from_numpy(V).unflatten(0, shape))  # fmt: skip

    monkeypatch.setattr(PatchSVAE, "spectrum", own)
    run_job(job(tmp_path / "a.zarr"))
    run = fs.open(tmp_path / "a.zarr").provenance["runs"][0]
    assert run["spectrum_kernel"] == "geolip's own: no eigh or svd of torch's was called"


def test_the_commit_is_recorded_where_pip_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frictionstore.extract.engines import geolip

    folder = tmp_path / "geolip_svae-0.4.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: geolip-svae\nVersion: 0.4.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert geolip._version("geolip-svae") == {"geolip_svae": "0.4.0"}
    (folder / "direct_url.json").write_text('{"vcs_info": {"commit_id": "735ca4e"}}')
    assert geolip._version("geolip-svae")["geolip_svae_commit"] == "735ca4e"


@pytest.mark.parametrize(
    ("name", "key"),
    [("activations", "activations"), ("layernorm", "row_norm layernorm"), ("scale", "row_norm")],
)
def test_an_upstream_that_overlooks_the_config_is_refused(
    tmp_path: Path, stand_ins: list[dict[str, Any]], name: str, key: str
) -> None:
    encoder = str(DATA / f"svae/later_{name}.pt")
    with pytest.raises(CheckpointError, match=rf"does not compute .*{key}.* is off by \d+%") as e:
        run_job(job(tmp_path / "a.zarr", encoder=encoder))
    assert "--engine native" in str(e.value)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("overlooks", [False], indirect=True)
@pytest.mark.parametrize("name", ["activations", "layernorm", "scale", "readout", "grey"])
def test_an_upstream_that_heeds_the_config_is_not(
    tmp_path: Path, stand_ins: list[dict[str, Any]], name: str
) -> None:
    given = {"encoder": str(DATA / f"svae/later_{name}.pt"), "count": 5, "maps": ["S", "settle"]}
    run_job(job(tmp_path / "theirs.zarr", **given))
    run_job(job(tmp_path / "ours.zarr", engine="native", **given))
    theirs, ours = fs.open(tmp_path / "theirs.zarr"), fs.open(tmp_path / "ours.zarr")
    assert theirs.fingerprint == ours.fingerprint
    np.testing.assert_allclose(theirs.S[:], ours.S[:], rtol=1e-4, atol=1e-5)


def test_it_measures_the_original_gram_matrix_too(
    tmp_path: Path, stand_ins: list[dict[str, Any]]
) -> None:
    run_job(job(tmp_path / "theirs.zarr", gram="original"))
    run_job(job(tmp_path / "ours.zarr", engine="native", gram="original"))
    run_job(job(tmp_path / "other.zarr", engine="native"))
    theirs, ours, other = (
        fs.open(tmp_path / f"{name}.zarr").friction[:] for name in ("theirs", "ours", "other")
    )
    assert np.isclose(theirs, ours, rtol=0.01).mean() > 0.9
    assert np.isclose(theirs, other, rtol=0.01).mean() < 0.5


@pytest.mark.parametrize("encoder", ["hf://someone/batteries/x/epoch_0300.pt", "v40_x@abc"])
def test_files_that_upstream_cannot_name_are_fetched_by_us(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    """Upstream knows no revision, and would run code out of anybody's file."""
    from frictionstore.extract.encoder import checkpoints

    asked: list[str] = []

    def find(name: str, *rest: Any, **options: Any) -> Any:
        asked.append(name)
        return checkpoints.Source(CHECKPOINT, "hub:someone/batteries@abc/x/epoch_0300.pt")

    monkeypatch.setattr(checkpoints, "find_checkpoint", find)
    run_job(job(tmp_path / "a.zarr", encoder=encoder))
    assert asked == [encoder]
    assert stand_ins[-1]["hf_version"] is None
    assert stand_ins[-1]["checkpoint_path"].endswith("best.pt")


# ---- what upstream cannot have ------------------------------------------------------------------


def test_attention_scores_that_cannot_be_held_are_refused_before_anything_runs(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 x 512 pixels at patch 4: 16,384 patches, 64 images, 2 heads, float32."""
    from frictionstore.extract.engines import geolip

    monkeypatch.setattr(geolip, "available_memory", lambda device: 250_000_000_000)
    monkeypatch.setattr(StandInModel, "forward", lambda *_: pytest.fail("it ran"))
    said = (
        r"needs 137 GB for the attention scores of 64 images of 512 x 512 pixels \(16,384 patches "
        r"each\).* 250 GB are available.*--engine native"
    )
    with pytest.raises(DeviceError, match=said):
        run_job(job(tmp_path / "a.zarr", image_size=512, count=3))
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_can_be_held_are_not_refused(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from frictionstore.extract.engines import geolip

    scores = 4 * 64 * 2 * 16**2
    monkeypatch.setattr(geolip, "available_memory", lambda device: 2 * scores)
    run_job(job(tmp_path / "a.zarr", count=3))
    monkeypatch.setattr(geolip, "available_memory", lambda device: 2 * scores - 1)
    with pytest.raises(DeviceError, match="needs 131 kB"):
        run_job(job(tmp_path / "b.zarr", count=3))
    monkeypatch.setattr(geolip, "available_memory", lambda device: None)  # not known: tried
    run_job(job(tmp_path / "b.zarr", count=3))


def test_an_allocation_that_fails_is_one_sentence(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, images: Any) -> Any:
        return torch.empty(1 << 60)  # torch's own failure, in its own words

    monkeypatch.setattr(StandInModel, "forward", forward)
    with pytest.raises(DeviceError, match=r"needs 131 kB .*which is not there.*--engine native"):
        run_job(job(tmp_path / "a.zarr", count=3))

    def other(self: Any, images: Any) -> Any:
        raise KeyError("svd")

    monkeypatch.setattr(StandInModel, "forward", other)
    with pytest.raises(MeasurementError, match="geolip_svae or geolip_core failed: KeyError"):
        run_job(job(tmp_path / "a.zarr", count=3))


def test_exact_maps_and_repeats_are_of_the_matrices_that_it_measured(
    tmp_path: Path, stand_ins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from frictionstore.extract.conduit import conduit_maps
    from tests.extract.conduit.test_repeats import scalar_moved

    solver = sys.modules["geolip_core.linalg.conduit"].FLEighConduit
    forward, given = solver.forward, []

    def noted(self: Any, A: Any) -> Any:
        given.append(A.numpy().copy())
        return forward(self, A)

    monkeypatch.setattr(solver, "forward", noted)
    measured = ["friction", "settle", "friction_exact", "settle_exact"]
    maps = [*measured, *(f"{name}_repeats" for name in measured)]
    run_job(job(tmp_path / "a.zarr", maps=maps, count=66))
    store = fs.open(tmp_path / "a.zarr")
    assert store.provenance["runs"][0]["exact_kernel"] == "fused-cpu"
    assert len(given) == 4  # two tiles: the matrices, and both repeats of them
    for row, tile, place in ((0, 0, 0), (63, 0, 63), (65, 1, 1)):
        first = slice(16 * place, 16 * place + 16)
        G = given[2 * tile][first]
        for name, expected in conduit_maps(G, measured).items():
            found = store[name][row].reshape(16, 4)
            np.testing.assert_array_equal(found, expected.astype(found.dtype))
        for repeat in (1, 2):
            moved = np.stack([scalar_moved(G[patch], repeat, patch, row) for patch in range(16)])
            theirs = given[2 * tile + 1].reshape(2, 64 * 16, 4, 4)[repeat - 1][first]
            np.testing.assert_array_equal(theirs, moved)
            for name, expected in conduit_maps(moved, measured).items():
                found = store[f"{name}_repeats"][row, ..., repeat - 1].reshape(16, 4)
                np.testing.assert_array_equal(found, expected.astype(found.dtype))
