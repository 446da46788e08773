"""`diff` counts what numpy counts, finds the largest where it is, and knows rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frictionstore as fs
from frictionstore.check.diff import diff
from frictionstore.check.rounding import FRICTION_FACTOR, friction_bound
from frictionstore.cli.main import cli
from tests import making

DATA = Path(__file__).parents[1] / "data"


def arrays(seed: int = 0, n: int = 30) -> dict[str, np.ndarray]:
    made = making.rows(making.plan(seed, n))
    return {name: made[name] for name in ("S", "friction", "settle")}


def imported(path: Path, maps: dict[str, Any], **options: Any) -> Path:
    options.setdefault("image_id", [f"i{k}" for k in range(len(maps["friction"]))])
    options.setdefault("label", np.arange(len(maps["friction"])) % 3)
    options.setdefault("class_names", ["cat", "dog", "owl"])
    fs.from_arrays(path, maps, overwrite=True, **options)
    return path


def test_a_copy_is_the_same_bytes(whole: Path, copy: Path) -> None:
    (copy / "provenance.json").write_text("{}")
    found = diff(whole, copy)
    assert found.verdict == "same bytes"
    assert found.request == []
    assert {entry.verdict for entry in found.maps.values()} == {"equal"}


def test_other_shards_are_the_same_values(tmp_path: Path) -> None:
    a = imported(tmp_path / "a.zarr", arrays(), shard_images=8)
    b = imported(tmp_path / "b.zarr", arrays(), shard_images=16)
    found = diff(a, b)
    assert found.verdict == "same values"
    assert found.request == ["shard_images: 8 and 16"]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_counts_and_places_are_numpys(tmp_path: Path, data: st.DataObject) -> None:
    left = arrays()
    right = {name: array.copy() for name, array in left.items()}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for name in ("friction", "S"):
        hits = rng.random(right[name].shape) < 0.1
        right[name][hits] *= 1 + rng.normal(0, 1e-3, hits.sum()).astype(np.float32)
    hits = rng.random(right["settle"].shape) < 0.2
    right["settle"][hits] = rng.integers(0, 6, hits.sum())
    order = rng.permutation(30) if data.draw(st.booleans()) else np.arange(30)
    a = imported(tmp_path / "a.zarr", left, shard_images=8)
    b = imported(
        tmp_path / "b.zarr",
        {name: array[order] for name, array in right.items()},
        label=(np.arange(30) % 3)[order],
        image_id=[f"i{k}" for k in order],
    )
    found = diff(a, b)
    assert found.common == 30
    assert found.labels == 0
    for name in left:
        x, y = left[name].astype(float), right[name].astype(float)
        entry = found.maps[name]
        assert entry.values == x.size
        assert entry.differing == (x != y).sum()
        assert entry.per_mode == (x != y).sum(axis=(0, 1, 2)).tolist()
        size = np.abs(x - y)
        if not entry.differing:
            continue
        assert entry.absolute.difference == size.max()
        image, row, col, mode = np.unravel_index(size.argmax(), size.shape)
        assert entry.absolute.image == f"i{image}" or size.max() == size[
            int(str(entry.absolute.image)[1:])
        ].max()  # fmt: skip
        place = entry.absolute.place
        at = (int(str(entry.absolute.image)[1:]), place["row"], place["col"], place["mode"])
        assert (entry.absolute.a, entry.absolute.b) == (x[at], y[at])
        assert size[at] == size[image, row, col, mode]
        with np.errstate(invalid="ignore"):
            relative = np.nan_to_num(size / np.maximum(np.abs(x), np.abs(y)))
        assert entry.relative.difference == pytest.approx(relative.max())
        median = np.median(relative[x != y])
        assert entry.median_relative == pytest.approx(median, rel=0.2)


def test_images_that_only_one_has(tmp_path: Path) -> None:
    left = arrays()
    a = imported(tmp_path / "a.zarr", left)
    some = {name: array[5:25] for name, array in left.items()}
    b = imported(
        tmp_path / "b.zarr", some, image_id=[f"i{k}" for k in range(5, 25)],
        label=np.full(20, 1),
    )  # fmt: skip
    found = diff(a, b)
    assert (found.common, found.images_a, found.images_b) == (20, 30, 20)
    assert found.only_a == [f"i{k}" for k in (0, 1, 2, 3, 4, 25, 26, 27, 28, 29)]
    assert found.only_b == []
    assert found.labels == sum(k % 3 != 1 for k in range(5, 25))
    assert found.verdict == "different"
    assert {entry.verdict for entry in found.maps.values()} == {"equal"}


def test_maps_and_classes_that_only_one_has(tmp_path: Path) -> None:
    left = arrays()
    a = imported(tmp_path / "a.zarr", left)
    right = {**left, "recon_error": np.ones((30, 4, 4))}
    del right["S"]
    b = imported(tmp_path / "b.zarr", right, class_names=["cat", "dog", "eel"])
    found = diff(a, b)
    assert (found.maps_a, found.maps_b) == (["S"], ["recon_error"])
    assert found.classes_differ
    assert found.labels == 10, "the third class has another name"
    assert found.verdict == "different"


def test_rounding_is_told_from_a_difference(tmp_path: Path) -> None:
    """Perturbations as the vectors have them, and ones that are too large."""
    left = arrays(n=60)
    a = imported(tmp_path / "a.zarr", left)
    rng = np.random.default_rng(1)

    def with_friction(change: np.ndarray) -> str:
        right = {**left, "friction": (left["friction"] + change).astype(np.float32)}
        return diff(a, imported(tmp_path / "b.zarr", right)).maps["friction"].verdict

    f = left["friction"].astype(float)
    noise = 10 * 2.0**-23 * f**2
    assert with_friction(noise * rng.normal(size=f.shape)) == "rounding"
    assert with_friction(1e-3 * f * rng.normal(size=f.shape) * (f < 10)) == "different"
    assert with_friction(0.05 * f * (f < 100)) == "different"


def test_settle_is_judged_by_mode(tmp_path: Path) -> None:
    left = arrays(n=60)
    a = imported(tmp_path / "a.zarr", left)
    for share, verdict in ((0.07, "rounding"), (0.2, "different")):
        right = {name: array.copy() for name, array in left.items()}
        count = int(share * 60 * 16)
        flat = right["settle"][..., 2].reshape(-1)
        flat[:count] = (flat[:count] + 1) % 6
        right["settle"][..., 2] = flat.reshape(60, 4, 4)
        entry = diff(a, imported(tmp_path / "b.zarr", right)).maps["settle"]
        assert entry.verdict == verdict
        assert entry.mode_shares == [0, 0, count / (60 * 16), 0]


@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_bound_covers_the_noise_of_the_vectors(n: int) -> None:
    """Largest change over 16 draws of a one-ulp perturbation, for encoder Gram matrices."""
    vectors = np.load(DATA / "conduit" / "conduit.npz")
    f = vectors[f"n{n}/sphere_gram/friction"].astype(float)
    noise = vectors[f"n{n}/sphere_gram/friction_noise"].astype(float)
    assert (noise <= friction_bound(f, f)).mean() >= 0.985
    if n == 4:
        ratio = np.quantile(noise / (2.0**-23 * f**2), 0.99)
        assert 0.5 * FRICTION_FACTOR <= ratio <= FRICTION_FACTOR


def test_command(tmp_path: Path, whole: Path) -> None:
    run = CliRunner().invoke
    same = run(cli, ["diff", str(whole), str(whole)])
    assert same.exit_code == 0
    assert "same bytes" in same.output
    left = arrays()
    a = imported(tmp_path / "a.zarr", left)
    right = {**left, "friction": left["friction"].copy()}
    right["friction"][3, 1, 2, 0] *= 1.5
    b = imported(tmp_path / "b.zarr", right)
    other = run(cli, ["diff", str(a), str(b)])
    assert other.exit_code == 1
    assert "image i3, row 1, col 2, mode 0" in other.output
    assert run(cli, ["diff", str(a), str(b), "--allow-rounding"]).exit_code == 1
    entry = json.loads(run(cli, ["diff", str(a), str(b), "--json"]).stdout)
    assert entry["maps"]["friction"]["differing"] == 1
    assert entry["maps"]["friction"]["largest_absolute"]["image"] == "i3"
    assert run(cli, ["diff", str(a), str(tmp_path / "no.zarr")]).exit_code == 2
    right["friction"] = left["friction"] * np.float32(1 + 5e-6)
    imported(tmp_path / "b.zarr", right)
    assert run(cli, ["diff", str(a), str(b)]).exit_code == 1
    assert run(cli, ["diff", str(a), str(b), "--allow-rounding"]).exit_code == 0
