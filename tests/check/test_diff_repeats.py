"""`diff` of stores with repeats: reliability against brute force, and what the repeats announce."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import rankdata

import frictionstore as fs
from frictionstore.check.between import Block, Pair
from frictionstore.check.diff import Difference, diff
from frictionstore.check.rounding import friction_bound
from frictionstore.cli.main import cli

GRID, MODES = (6, 6), 3


def noisy(
    seed: int, repeats: int = 2, n: int = 120, share: float = 0.3, name: str = "friction"
) -> dict[str, np.ndarray]:
    """One truth for all seeds; in some of the patches every measurement is a draw of its own."""
    truth = np.random.default_rng(77)
    values = truth.lognormal(3.0, 1.0, (n, *GRID, MODES, 1))
    loud = truth.random((n, *GRID, MODES, 1)) < share
    rng = np.random.default_rng(seed)
    noise = np.exp(rng.standard_normal((n, *GRID, MODES, repeats + 1)))
    measured = np.where(loud, values * noise, values).astype(np.float32)
    found = {name: np.ascontiguousarray(measured[..., 0])}
    if repeats:
        found[f"{name}_repeats"] = np.ascontiguousarray(measured[..., 1:])
    return found


def shifted(maps: dict[str, np.ndarray], where: Any, by: float) -> dict[str, np.ndarray]:
    """The measurement and its repeats alike, as another engine would have it."""
    made = {name: values.copy() for name, values in maps.items()}
    for values in made.values():
        values[where] *= np.float32(by)
    return made


def compared(tmp_path: Path, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> Difference:
    for name, maps in (("a", a), ("b", b)):
        fs.from_arrays(tmp_path / f"{name}.zarr", maps, overwrite=True, shard_images=32)
    return diff(tmp_path / "a.zarr", tmp_path / "b.zarr")


def brute(measured: list[np.ndarray]) -> np.ndarray:
    x = np.stack(measured)
    within = x.var(axis=0, ddof=1).mean(axis=(0, 1, 2))
    return 1 - within / np.moveaxis(x, 4, 0).reshape(x.shape[4], -1).var(axis=1, ddof=1)


def every(maps: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [
        maps["friction"].astype(float),
        *np.moveaxis(maps["friction_repeats"], 4, 0).astype(float),
    ]


def test_reliability_and_changes_are_those_of_brute_force(tmp_path: Path) -> None:
    a, b = noisy(1), noisy(2, repeats=3)
    found = compared(tmp_path, a, b)
    said = found.as_json()["reliability"]["friction"]
    assert said["repeats"] == {"a": 2, "b": 3}
    sets = {"between": [every(a)[0], every(b)[0]], "a": every(a), "b": every(b)}
    for what, measured in sets.items():
        x = np.stack(measured)
        ranks = np.stack([rankdata(x[..., m]).reshape(x.shape[:-1]) for m in range(MODES)], axis=-1)
        for scale, on_scale in {"raw": x, "logarithm": np.log10(x), "rank": ranks}.items():
            one = said[scale][what]
            np.testing.assert_allclose(one["reliability"], brute(list(on_scale)), rtol=1e-9)
            assert all(
                low < middle < high
                for low, middle, high in zip(
                    one["low"], one["reliability"], one["high"], strict=True
                )
            )
        change = np.abs(x[1:] - x[0]) / x[0] > 0.1
        np.testing.assert_allclose(
            said["moved_more_than_10_percent"][what], change.mean(axis=(0, 1, 2, 3))
        )


def test_images_are_matched_and_chunks_change_nothing(tmp_path: Path) -> None:
    a, b = noisy(1), noisy(2)
    order = np.random.default_rng(0).permutation(120)[:100]
    ids = [f"i{k}" for k in range(120)]
    fs.from_arrays(tmp_path / "a.zarr", a, image_id=ids)
    fs.from_arrays(
        tmp_path / "b.zarr", {name: values[order] for name, values in b.items()},
        image_id=[ids[k] for k in order], shard_images=8,
    )  # fmt: skip
    said = diff(tmp_path / "a.zarr", tmp_path / "b.zarr").as_json()["reliability"]["friction"]
    kept = np.sort(order)
    x = [a["friction"][kept].astype(float), b["friction"][kept].astype(float)]
    np.testing.assert_allclose(said["raw"]["between"]["reliability"], brute(x), rtol=1e-9)


def test_what_repeats_announce_is_rounding(tmp_path: Path) -> None:
    """Nearly a third of the values are far beyond the bound, and so are those of the repeats."""
    found = compared(tmp_path, noisy(1), noisy(2))
    entry = found.maps["friction"]
    a, b = (noisy(seed)["friction"].astype(float) for seed in (1, 2))
    assert np.mean(np.abs(a - b) > friction_bound(a, b)) > 0.25
    assert entry.verdict == "rounding", entry.reasons
    assert found.maps["friction_repeats"].verdict == "rounding"
    assert found.verdict == "rounding"
    shown = CliRunner().invoke(cli, ["diff", str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")])
    assert "in brackets of the repeats in a and in b" in shown.output
    assert "what an encoder rounds before it is not in them" in shown.output


def test_without_repeats_the_same_is_beyond_rounding(tmp_path: Path) -> None:
    found = compared(tmp_path, noisy(1, repeats=0), noisy(2, repeats=0))
    assert found.verdict == "different"
    said = found.as_json()["reliability"]["friction"]
    assert set(said["raw"]) == {"between"}
    assert said["repeats"] == {"a": 0, "b": 0}


def test_what_repeats_do_not_announce_is_not_rounding(tmp_path: Path) -> None:
    """A shift that is far smaller than the noise of other values: of some, and of one mode's."""
    quiet = noisy(1, share=0.0)["friction"] == noisy(1)["friction"]
    assert 0.6 < quiet.mean() < 0.8
    fifth = quiet & (np.random.default_rng(3).random(quiet.shape) < 0.2)
    assert compared(tmp_path, noisy(1), shifted(noisy(2), fifth, 1.01)).verdict == "different"
    one = np.broadcast_to(np.arange(MODES) == 1, quiet.shape) & quiet & ~fifth
    found = compared(tmp_path, noisy(1), shifted(noisy(2), one, 1.01))
    assert any("of mode 1" in reason for reason in found.maps["friction"].reasons)


@pytest.mark.slow
def test_a_wrong_image_among_noisy_ones_is_found(tmp_path: Path) -> None:
    a, b = noisy(1, n=900), noisy(2, n=900)
    for values in b.values():
        values[444] = values[443]
    found = compared(tmp_path, a, b)
    assert found.maps["friction"].wrong_ids == ["444"]
    assert found.verdict == "different"


def test_repeats_of_one_store_are_enough(tmp_path: Path) -> None:
    a, b = noisy(1), noisy(2, repeats=0)
    found = compared(tmp_path, a, b)
    assert found.maps_a == ["friction_repeats"]
    assert found.maps["friction"].apart_by_chance == 0.5
    assert found.maps["friction"].verdict == "rounding"
    assert compared(tmp_path, a, shifted(b, ..., 1.5)).maps["friction"].verdict == "different"


def test_settle_is_judged_by_its_repeats_too(tmp_path: Path) -> None:
    def settles(seed: int, shift: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, 4, (120, *GRID, MODES, 3)).astype(np.uint8) + np.uint8(shift)
        return {"settle": drawn[..., 0].copy(), "settle_repeats": drawn[..., 1:].copy()}

    assert compared(tmp_path, settles(1), settles(2)).verdict == "rounding"
    assert compared(tmp_path, settles(1), settles(2, 9)).verdict == "different"


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (3, 1), (3, 3), (2, 5)])
def test_measurements_of_one_truth_are_apart_as_often_as_chance_says(m: int, n: int) -> None:
    rng = np.random.default_rng(m * 10 + n)
    drawn = rng.standard_normal((m + n, 40, 30, 30, 2))
    block = Block([], {"a": list(drawn[:m]), "b": list(drawn[m:])})
    pair = object.__new__(Pair)
    pair.repeats = {"a": m - 1, "b": n - 1}
    assert block.apart.mean() == pytest.approx(pair.apart_by_chance, abs=0.01)
    assert pair.apart_by_chance == 2 / math.comb(m + n, m)
    np.testing.assert_array_equal(block.spread, np.ptp(drawn, axis=0))


def test_nan_is_apart() -> None:
    values = np.ones((1, 1, 1, 1))
    block = Block([], {"a": [values, values], "b": [values * np.nan, values]})
    assert block.apart.all()


def test_json_has_it(tmp_path: Path) -> None:
    compared(tmp_path, noisy(1), noisy(2))
    arguments = ["diff", str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr"), "--json"]
    found = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert found["verdict"] == "rounding"
    assert found["maps"]["friction"]["moved_by_repeats"] > 0
    assert len(found["reliability"]["friction"]["raw"]["between"]["reliability"]) == MODES
