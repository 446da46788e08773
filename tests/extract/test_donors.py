"""`gram_diag` and `friction_donor`: what they are, and that nothing else has a say in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.errors import RequestError
from tests.extract.test_repeat_maps import job, model, values

torch = pytest.importorskip("torch")

from frictionstore.extract.conduit import conduit_maps  # noqa: E402
from frictionstore.extract.conduit.kernels.cpu.gram import gram_from_spectrum  # noqa: E402
from frictionstore.extract.donors import donor_rows  # noqa: E402
from frictionstore.extract.engines.base import gram, gram_diag  # noqa: E402
from frictionstore.extract.engines.cpu import CpuEngine  # noqa: E402
from frictionstore.extract.job import run_job  # noqa: E402

MAPS = ["S", "S_orig", "friction", "gram_diag", "friction_donor"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "a.zarr"
    run_job(job(out, maps=MAPS, repeats=0))
    return out


def test_every_image_has_another_donor_and_each_is_as_likely() -> None:
    for n in (2, 3, 5, 40, 1000):
        rows = donor_rows(n)
        assert rows.min() >= 0
        assert rows.max() < n
        assert (rows != np.arange(n)).all()
    steps = (donor_rows(30_000) - np.arange(30_000)) % 30_000
    counts = np.bincount(steps * 10 // 30_000, minlength=10)
    assert abs(counts - 3000).max() < 5 * np.sqrt(3000)
    np.testing.assert_array_equal(donor_rows(2), [1, 0])
    with pytest.raises(RequestError, match="there is 1 image"):
        donor_rows(1)


def test_the_donor_is_the_documents_formula() -> None:
    """Philox4x32-10 from numpy's own generator of that kind is another; this is written out."""

    def word(row: int) -> int:
        a, b, c, d, k0, k1 = 0, 0, 0, row, 0, 0
        for _ in range(10):
            x, y = a * 0xD2511F53, c * 0xCD9E8D57
            a, b, c, d = (
                (y >> 32) ^ b ^ k0, y & 0xFFFFFFFF, (x >> 32) ^ d ^ k1, x & 0xFFFFFFFF,
            )  # fmt: skip
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        return a

    for n in (2, 7, 40, 1797):
        expected = [(r + 1 + ((n - 1) * word(r) >> 32)) % n for r in range(n)]
        np.testing.assert_array_equal(donor_rows(n), expected)


def test_batches_units_and_limits_change_no_byte(made: Path, tmp_path: Path) -> None:
    whole = values(made)
    for number, changes in enumerate(({"batch_size": 1}, {"batch_size": 7, "shard_images": 4})):
        out = tmp_path / f"{number}.zarr"
        run_job(job(out, maps=MAPS, repeats=0, **changes))
        again = values(out)
        for name in MAPS:
            np.testing.assert_array_equal(whole[name], again[name])
    assert fs.verify(made).ok


@pytest.mark.parametrize(
    ("name", "size", "which"),
    [("svae_d4", 16, "coordinated"), ("svae_d4", 16, "original"), ("svae_d16", 32, "coordinated")],
)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_what_is_measured(name: str, size: int, which: str, kind: str) -> None:
    """Matrices made here from the encoder's S and another image's V, measured by the conduit."""
    from frictionstore.extract.engines.gpu import GpuEngine

    rng = np.random.default_rng(0)
    images, donors = rng.random((2, 3, 3, size, size)).astype(np.float32)
    engine = CpuEngine(
        model(name), ("S", "friction", "gram_diag", "friction_donor"), torch.device("cpu"),
        gram=which,
    )  # fmt: skip
    if kind == "gpu":  # its own code on a CPU; without Triton the reference measures
        other = GpuEngine(engine.model, engine.maps, torch.device("cpu"), gram=which)
        found = other.measure(images, donors=donors)
    else:
        found = engine.measure(images, donors=donors)
    encode = engine._encoder(size, 3)
    own, lent = engine._encode(images, 3, encode), engine._encode(donors, 3, encode)
    V = (lent["V"] if which != "original" else engine._vectors(donors, 3, encode)).numpy()
    S = own["S_orig" if which == "original" else "S"].numpy()
    as_measured = (
        gram_from_spectrum
        if engine.fused
        else lambda s, v: gram(*map(torch.from_numpy, (s, v))).numpy()
    )
    shape = found["friction"].shape
    expected = conduit_maps(as_measured(S, V), ("friction",))["friction"].reshape(shape)
    if kind == "cpu":
        np.testing.assert_array_equal(found["friction_donor"], expected)
    elif name == "svae_d4":  # with 16 modes the last bits of S decide
        assert np.median(abs(found["friction_donor"] / expected - 1)) < 1e-4
    assert (found["friction_donor"] != found["friction"]).mean() > 0.5
    G = own["gram"].numpy() if which == "original" else as_measured(S, own["V"].numpy())
    G = G.astype(np.float64)
    scale = np.sqrt(np.square(G).sum(axis=(-2, -1), keepdims=True) / G.shape[-1])
    diagonal = -np.sort(-np.diagonal(G / scale, axis1=-2, axis2=-1), axis=-1)
    np.testing.assert_allclose(found["gram_diag"], diagonal.reshape(shape), rtol=2e-5, atol=1e-6)
    # Itself as donor: friction again, where the matrix is that of the spectrum.
    same = engine.measure(images, donors=images)["friction_donor"]
    if which == "coordinated":
        np.testing.assert_array_equal(same, engine.measure(images, donors=images)["friction"])
    engine.close()


def test_without_donors_an_engine_says_so() -> None:
    engine = CpuEngine(model("svae_d4"), ("friction_donor",), torch.device("cpu"))
    with pytest.raises(RequestError, match="friction_donor needs the donors"):
        engine.measure(np.zeros((1, 3, 16, 16), np.float32))
    engine.close()


def test_one_image_has_no_donor(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needs another image"):
        run_job(job(tmp_path / "a.zarr", maps=MAPS, repeats=0, limit=1))


def test_what_the_solver_sees_is_sorted_and_scaled() -> None:
    G = torch.diag_embed(torch.tensor([[1.0, 3.0, 2.0], [0.5, 0.5, 0.5]]))[None]
    found = gram_diag(G)
    assert found.shape == (1, 2, 3)
    root = np.sqrt(14 / 3)
    np.testing.assert_allclose(found[0, 0], np.array([3, 2, 1]) / root, rtol=1e-6)
    np.testing.assert_allclose(found[0, 1], 1.0, rtol=1e-6)


def test_arrays_of_ones_own_are_taken(tmp_path: Path) -> None:
    maps = {name: np.random.default_rng(0).random((4, 2, 2, 3), np.float32) for name in MAPS}
    fs.from_arrays(tmp_path / "a.zarr", maps)
    assert fs.verify(tmp_path / "a.zarr").ok
    np.testing.assert_array_equal(fs.open(tmp_path / "a.zarr")["gram_diag"][:], maps["gram_diag"])
