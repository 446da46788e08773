"""The encoder against what upstream computed, and its own invariants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support import DATA

torch = pytest.importorskip("torch")

from frictionstore.extract.encoder.checkpoints import (  # noqa: E402
    Source,
    build_encoder,
    find_checkpoint,
    read_checkpoint,
)
from frictionstore.extract.encoder.svae import PatchSVAE  # noqa: E402
from frictionstore.extract.engines.devices import choose_device  # noqa: E402
from frictionstore.extract.engines.make import native_engine  # noqa: E402

MAPS = ("S", "friction", "settle", "S_orig", "recon_error", "refinement_residual", "slot", "image")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def load(name: str) -> tuple[PatchSVAE, np.lib.npyio.NpzFile]:
    source = Source(DATA / "svae" / f"{name}.pt", "file")
    return build_encoder(read_checkpoint(source), name), np.load(DATA / "svae" / f"{name}.npz")


def largest_relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["svae_d4", "svae_d16"])
def test_conforms_to_upstream(name: str, device: str) -> None:
    model, vectors = load(name)
    engine = native_engine(model, MAPS, choose_device(device))
    made = engine.measure(vectors["images"])
    engine.close()
    assert largest_relative(made["S"], vectors["S"]) < 2e-5
    assert largest_relative(made["S_orig"], vectors["S_orig"]) < 2e-5
    error = np.abs(made["recon_error"] - vectors["recon_error"]) / vectors["recon_error"]
    assert error.max() < 1e-4


@pytest.mark.parametrize("name", ["svae_d4", "svae_d16"])
def test_reconstruction_and_gram_conform(name: str) -> None:
    from frictionstore.extract.engines import base as engines

    model, vectors = load(name)
    with torch.inference_mode():
        images = torch.from_numpy(vectors["images"])
        assert largest_relative(model(images).numpy(), vectors["recon"]) < 2e-5
        spectrum = model.spectrum(model.encode(model.patches(images)))
        S = model.coordinate(spectrum.S_orig)
        gram = engines.gram(S, spectrum.V).numpy().reshape(vectors["gram"].shape)
    assert largest_relative(gram, vectors["gram"]) < 2e-5


@pytest.mark.parametrize("name", ["svae_d4", "svae_d16"])
def test_friction_and_settle_of_upstreams_gram_matrices(name: str) -> None:
    """From the stored matrices, so that only the conduit is compared; bounds as for random ones."""
    from frictionstore.extract.conduit import conduit

    vectors = np.load(DATA / "svae" / f"{name}.npz")
    gram = torch.from_numpy(vectors["gram"])
    packet = conduit(gram)
    expected = vectors["friction_ascending"][..., ::-1]
    noise = np.zeros_like(expected)
    rng = np.random.default_rng(0)
    stable = np.ones(expected.shape, bool)
    # The definition's own yardstick: symmetric changes of one unit. Friction at D = 16 is nothing
    # but rounding, with tails that 16 changes do not show.
    for _ in range(16 if gram.shape[-1] <= 8 else 100):
        step = rng.integers(-1, 2, vectors["gram"].shape)
        step = np.triu(step) + np.swapaxes(np.triu(step, 1), -1, -2)
        moved = vectors["gram"] + np.spacing(np.abs(vectors["gram"])) * step
        other = conduit(torch.from_numpy(moved.astype(np.float32)))
        noise = np.maximum(noise, np.abs(other.friction.numpy() - packet.friction.numpy()))
        stable &= other.settle.numpy() == packet.settle.numpy()
    bound = np.maximum(1e-5 * np.abs(expected), 8 * noise)
    difference = np.abs(packet.friction.numpy() - expected)
    assert (difference <= bound).mean() >= 0.99
    assert (difference <= 100 * bound).all()
    settle = vectors["settle_ascending"][..., ::-1]
    assert (packet.settle.numpy() == settle)[stable].mean() >= 0.995


def test_patches_are_row_major_and_channel_first() -> None:
    model, _ = load("svae_d4")
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).reshape(2, 3, 8, 12)
    patches = model.patches(images)
    assert patches.shape == (2, 6, 48)
    expected = images[1, :, 4:8, 8:12].reshape(-1)  # second row of patches, third column
    torch.testing.assert_close(patches[1, 5], expected, rtol=0, atol=0)
    torch.testing.assert_close(model.stitch(patches, 8, 12), images, rtol=0, atol=0)


def test_rows_of_M_have_unit_length_and_S_its_square_sum() -> None:
    model, vectors = load("svae_d4")
    with torch.inference_mode():
        M = model.encode(model.patches(torch.from_numpy(vectors["images"])))
        S = model.spectrum(M).S_orig
    np.testing.assert_allclose(M.norm(dim=-1).numpy(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(S.square().sum(-1).numpy(), model.config.V, rtol=1e-6)
    expected = np.linalg.svd(M.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(S.numpy(), expected, rtol=2e-6, atol=1e-6)


# ---- the bundled encoder ------------------------------------------------------------------------


def test_speckle_has_the_shape_the_docs_give_and_is_small() -> None:
    source = find_checkpoint("speckle")
    assert source.path.stat().st_size < 1_000_000
    model = build_encoder(read_checkpoint(source), "speckle")
    config = model.config
    assert (config.V, config.D, config.patch_size) == (48, 4, 4)
    assert (config.hidden, config.depth) == (128, 2)


def test_speckle_reconstructs_noise_and_photographs() -> None:
    """The figures docs/speckle.md gives come from more images; these are the bounds."""
    from frictionstore.extract.data.base import DatasetOptions
    from frictionstore.extract.data.choose import open_dataset

    model = build_encoder(read_checkpoint(find_checkpoint("speckle")), "speckle")

    def error(name: str, options: DatasetOptions, count: int) -> float:
        images = open_dataset(name, options, print)
        batch = np.stack([images.load(i, 64) for i in range(count)])
        with torch.inference_mode():
            x = torch.from_numpy(batch)
            return float((model(x) - x).square().mean())

    assert error("noise", DatasetOptions(count=64, seed=987_654), 64) <= 0.003
    assert error("photos", DatasetOptions(), 120) <= 0.0002


def test_its_friction_has_the_constant_mode_and_spatial_structure() -> None:
    """What docs/measurement.md says of real images."""
    from frictionstore.extract.data.base import DatasetOptions
    from frictionstore.extract.data.choose import open_dataset

    model = build_encoder(read_checkpoint(find_checkpoint("speckle")), "speckle")
    images = open_dataset("photos", DatasetOptions(), print)
    engine = native_engine(model, ("S", "friction"), torch.device("cpu"))
    made = engine.measure(np.stack([images.load(i, 64) for i in range(0, 120, 10)]))
    engine.close()
    friction = made["friction"]
    assert (friction[..., 0] == np.float32(5.0)).mean() > 0.99
    assert friction[..., 1:].std() > 1.0
    assert (np.diff(made["S"].mean(axis=(0, 1, 2))) < 0).all()


def test_a_missing_gpu_is_an_error_and_not_a_fall_back(tmp_path: Path) -> None:
    from frictionstore.errors import DeviceError

    if torch.cuda.is_available():
        with pytest.raises(DeviceError, match="device cuda:99 was asked for, but this machine has"):
            choose_device("cuda:99")
    else:
        with pytest.raises(DeviceError, match="device cuda was asked for, but"):
            choose_device("cuda")
    for nonsense in ("gpu", "cuda:x", "cpu:0", "", "cuda:-1"):
        with pytest.raises(DeviceError, match="unknown device"):
            choose_device(nonsense)
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["svae_d4", "svae_d16"])
def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_others_alone(name: str) -> None:
    """D = 4 takes the fused kernels, D = 16 LAPACK and the reference."""
    model, vectors = load(name)
    engine = native_engine(model, ("S", "S_orig", "friction"), torch.device("cpu"))
    images = vectors["images"].copy()
    whole = engine.measure(images)
    images[1, 0, 0, 0] = np.nan
    made = engine.measure(images)
    engine.close()
    for field in ("S", "friction"):
        assert np.isnan(made[field][1]).any()
    for field in whole:
        np.testing.assert_array_equal(made[field][[0, 2, 3]], whole[field][[0, 2, 3]])
