"""The upstream engine against stand-ins of the two packages' interface."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import CheckpointError, RequestError
from frictionstore.installed import install_command
from frictionstore.jobs import Job, run_job
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
        svd = {"S": S, "S_orig": spectrum.S_orig, "Vt": spectrum.V.mT}
        return {"svd": svd, "recon": recon}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """geolip_svae and geolip_core as modules; returns the calls of load_model."""
    from frictionstore.extract.checkpoints import Source, build_encoder, read_checkpoint
    from frictionstore.extract.conduit import conduit

    calls: list[dict[str, Any]] = []

    def load_model(
        hf_version: str | None = None, checkpoint_path: str | None = None, device: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        calls.append({"hf_version": hf_version, "checkpoint_path": checkpoint_path})
        path = Path(checkpoint_path) if checkpoint_path else CHECKPOINT
        checkpoint = read_checkpoint(Source(path, "x"))
        return StandInModel(build_encoder(checkpoint, "x")), dict(checkpoint.config)

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
