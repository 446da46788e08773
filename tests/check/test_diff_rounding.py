"""What `diff` calls rounding and what it does not, on maps whose changes are made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.check.diff import diff
from frictionstore.check.map_difference import MapDifference
from frictionstore.check.rounding import EPS, RECON_ROUNDINGS, recon_error_bound

GRID = (8, 8)


def judged(name: str, a: np.ndarray, b: np.ndarray, batch: int = 500) -> MapDifference:
    """The difference of one map, fed a batch of images at a time."""
    found = MapDifference(name)
    for first in range(0, len(a), batch):
        part = slice(first, first + batch)
        ids = [f"i{k}" for k in range(first, first + len(a[part]))]
        found.add(a[part], b[part], ids)
    return found


def errors(n: int, rms: float, seed: int = 0) -> np.ndarray:
    """What a reconstruction of n images lacks, 48 values a patch."""
    return np.random.default_rng(seed).normal(0, rms, (n, *GRID, 48))


def mean_squares(e: np.ndarray) -> np.ndarray:
    return np.square(e).mean(axis=-1).astype(np.float32)


def singular_values(n: int, modes: int = 4, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(1, 6, (n, *GRID, modes))
    return np.sort(values, axis=-1)[..., ::-1].astype(np.float32)


def frictions(n: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).lognormal(3.0, 1.0, (n, *GRID, 4)).astype(np.float32)
    values[..., 0] = 5.0
    return values


# ---- recon_error --------------------------------------------------------------------------------


@pytest.mark.parametrize("rms", [3e-4, 1e-3, 1e-2, 0.3])
def test_a_reconstruction_that_rounds_otherwise_is_rounding(rms: float) -> None:
    e = errors(40, rms)
    moved = e + np.random.default_rng(1).normal(0, 5e-7, e.shape)
    found = judged("recon_error", mean_squares(e), mean_squares(moved))
    assert found.differing > found.values / 2
    assert found.verdict == "rounding", found.reasons


@pytest.mark.parametrize("rms", [1e-3, 1e-2, 0.3])
def test_one_percent_of_the_error_is_a_difference(rms: float) -> None:
    m = mean_squares(errors(40, rms))
    assert judged("recon_error", m, m * np.float32(1.01)).verdict == "different"


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 800),
    log_rms=st.floats(-8, 1),
    along=st.floats(-1, 1),
)
def test_the_bound_holds_for_every_change_of_that_size(
    seed: int, size: int, log_rms: float, along: float
) -> None:
    """Also for the worst one, which points along the error."""
    rng = np.random.default_rng(seed)
    e = rng.normal(size=size) * 10**log_rms
    d = along * e / np.sqrt(np.mean(e**2)) + (1 - abs(along)) * rng.normal(size=size)
    d *= RECON_ROUNDINGS * EPS / np.sqrt(np.mean(d**2))
    a, b = np.array([np.mean(e**2)]), np.array([np.mean((e + d) ** 2)])
    assert abs(a - b)[0] <= recon_error_bound(a, b)[0]


# ---- outliers: a share, by the map, by mode and by image -----------------------------------------


@pytest.mark.parametrize(("outliers", "verdict"), [(4, "rounding"), (80, "different")])
def test_a_few_outliers_are_rounding_and_many_are_not(outliers: int, verdict: str) -> None:
    a = frictions(2048)
    assert a.size == 524_288
    b = a.copy()
    images = np.random.default_rng(2).choice(len(a), outliers, replace=False)
    a[images, 3, 4, 2], b[images, 3, 4, 2] = 10, 100
    found = judged("friction", a, b)
    assert found.far == outliers
    assert found.verdict == verdict, found.reasons


@pytest.mark.parametrize("name", ["S", "recon_error", "friction"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_one_wrong_image_among_many_is_a_difference(name: str, where: str) -> None:
    """Its values are fewer than the share of outliers: the whole map's shares do not see it."""
    n = 12_000
    rng = np.random.default_rng(3)
    shape = (n, 4, 4) if name == "recon_error" else (n, 4, 4, 4)
    a = rng.uniform(5, 50, shape).astype(np.float32)
    b, row = a.copy(), 0 if where == "first" else n - 1
    b[row] = a[5]
    found = judged(name, a, b)
    assert found.far <= 1e-4 * found.values
    assert found.verdict == "different"
    assert (found.wrong_images, found.wrong_ids) == (1, [f"i{row}"])


def test_two_outliers_in_one_image_are_not_a_wrong_image() -> None:
    a = frictions(2048)
    b = a.copy()
    a[7, :2, 0, 1:], b[7, :2, 0, 1:] = 10, 100
    found = judged("friction", a, b)
    assert found.far == 6
    assert found.verdict == "rounding", found.reasons


def test_one_wrong_mode_of_many_is_a_difference() -> None:
    """1 of 128 modes is less than the hundredth of values that may be beyond the bound."""
    a = singular_values(20, modes=128)
    b = a.copy()
    b[..., 100] *= np.float32(1.001)
    found = judged("S", a, b)
    assert found.within >= 0.99 * found.values
    assert not found.far
    assert found.verdict == "different"
    assert "mode 100" in found.reasons[0]


def test_swapped_rows_are_two_wrong_images(tmp_path: Path) -> None:
    n = 64
    maps: dict[str, Any] = {
        "S": singular_values(n),
        "friction": frictions(n),
        "recon_error": mean_squares(errors(n, 1.0)),
    }
    order = np.arange(n)
    order[[10, 40]] = [40, 10]
    fs.from_arrays(tmp_path / "a.zarr", maps)
    fs.from_arrays(tmp_path / "b.zarr", {name: m[order] for name, m in maps.items()})
    found = diff(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert found.verdict == "different"
    for entry in found.maps.values():
        assert entry.wrong_ids == ["10", "40"], entry.name


def test_exact_friction_has_a_bound_of_its_own() -> None:
    """What is rounding in friction is none in the map that has no polynomial's rounding."""
    a = frictions(200)
    moved = (a * (1 + 2e-5 + 1e-5 * a)).astype(np.float32)
    assert judged("friction", a, moved).verdict == "rounding"
    assert judged("friction_exact", a, moved).verdict == "different"
    nudged = (a * (1 + 1e-6 + 2 * EPS * a)).astype(np.float32)
    for name in ("friction_exact", "friction"):
        assert judged(name, a, nudged).verdict == "rounding"
    repeats = np.stack([a, a], axis=-1), np.stack([a, moved], axis=-1)
    assert judged("friction_exact_repeats", *repeats).verdict == "different"
    assert judged("friction_repeats", *repeats).verdict == "rounding"


# ---- maps that are noise in places ---------------------------------------------------------------


def test_singular_values_near_zero_are_judged_by_their_squares() -> None:
    """Rank-deficient matrices, rounding in their Gram matrices: the last mode is all noise."""
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(500, 12, 3)), rng.normal(size=(500, 3, 4))
    matrices = left @ right
    exact = matrices.mT @ matrices
    rounded = exact * (1 + rng.uniform(-1e-6, 1e-6, exact.shape))

    def roots(gram: np.ndarray) -> np.ndarray:
        values = np.linalg.eigvalsh(gram)[..., ::-1]
        return np.sqrt(np.maximum(values, 1e-24)).astype(np.float32).reshape(20, 5, 5, 4)

    a, b = roots(exact), roots(np.tril(rounded) + np.tril(rounded, -1).mT)
    last = np.abs(a[..., 3] - b[..., 3]) / a[..., 0]
    assert np.quantile(last, 0.9) > 1e-5, "a bound that fits the others does not fit this mode"
    assert judged("S", a, b).verdict == "rounding"
    assert judged("S", a, b * np.float32(1.001)).verdict == "different"


def test_places_that_eigenvalues_swap_are_rounding_and_others_are_not() -> None:
    rng = np.random.default_rng(5)
    a = np.broadcast_to(np.array([3, 2, 1, 0], np.uint8), (200, *GRID, 4)).copy()
    b = a.copy()
    image, row, col = rng.integers(0, [[200], [8], [8]], (3, 8))
    b[image, row, col, 1], b[image, row, col, 2] = 1, 2
    assert judged("slot", a, b).verdict == "rounding"
    b[..., 1], b[..., 2] = 1, 2
    assert judged("slot", a, b).verdict == "different"


def test_residuals_of_eigenvalues_that_meet_are_rounding_and_others_are_not() -> None:
    """They cluster: an image of noise of one kind may have them in many patches."""
    rng = np.random.default_rng(6)
    a = rng.uniform(1e-7, 8e-7, (500, *GRID)).astype(np.float32)
    b = a + rng.uniform(-1e-7, 1e-7, a.shape).astype(np.float32)
    a[3, 0], b[3, 0] = 0.2, 0.9
    a[9, 1], b[9, 1] = 1.2, 1e-3
    assert judged("refinement_residual", a, b).verdict == "rounding"
    assert judged("refinement_residual", a, b + np.float32(1e-4)).verdict == "different"


def test_thumbnails_may_not_differ_at_all() -> None:
    a = np.zeros((50, 8, 8, 3), np.uint8)
    b = a.copy()
    b[49, 7, 7, 2] = 1
    assert judged("image", a, b).verdict == "different"


def test_a_number_against_nan_is_a_difference() -> None:
    a = mean_squares(errors(4, 1e-3))
    b = a.copy()
    b[2, 1, 1] = np.nan
    assert judged("recon_error", a, b).verdict == "different"
