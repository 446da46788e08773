"""Repeats in the explorer: the relative change as a map, and a marked patch's values over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.browser import READY, save_picture
from tests.explorer.conftest import smooth_maps, thumbnails

N, REPEATS = 300, 3


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> fs.Store:
    """Repeats in smaller chunks than what they repeat; some values move, most do not."""
    rng = np.random.default_rng(5)
    maps = smooth_maps(N)
    maps["friction_exact"] = maps["friction"] * np.float32(1.25)
    for name in ("friction", "settle", "friction_exact"):
        values = np.repeat(maps[name][..., None], REPEATS, axis=4)
        moved = rng.random(values.shape) < 0.1
        if values.dtype == np.uint8:
            values[moved] += 1
        else:
            values[moved] *= rng.uniform(0.5, 3.0, moved.sum()).astype(np.float32)
        maps[f"{name}_repeats"] = values
    maps["image"] = thumbnails(N)
    folder = tmp_path_factory.mktemp("repeated")
    store = fs.from_arrays(folder / "repeated.zarr", maps)
    arrays = store.header.arrays
    assert arrays["friction_repeats"].chunk_images < arrays["friction"].chunk_images
    return store


def change(store: fs.Store, row: int) -> np.ndarray:
    values = np.asarray(store["friction"][row]).astype(np.float64)
    repeats = np.asarray(store["friction_repeats"][row]).astype(np.float64)
    return np.abs(repeats - values[..., None]).max(axis=-1) / np.abs(values)


@pytest.mark.parametrize("row", [0, 200, N - 1])
def test_the_relative_change_is_a_map(show: Any, repeated: fs.Store, row: int) -> None:
    expected = change(repeated, row)
    r, c = np.unravel_index(expected[..., 2].argmax(), expected.shape[:2])
    hash_ = f"#map=friction_change&mode=2&image={row}&patch={r},{c}"
    with show(repeated, hash_) as (page, _):
        value = float(page.get_attribute("[data-test=readout]", "data-value"))
        assert value == pytest.approx(expected[r, c, 2], rel=1e-6)
        figures = page.locator("td[data-figure=mean]")
        shown = float(figures.get_attribute("data-value"))
        assert shown == pytest.approx(expected[..., 2].mean(), rel=1e-6)
        save_picture(page, f"change-{row}")


def test_a_marked_patch_has_its_repeats_and_the_exact_value_beside(
    show: Any, repeated: fs.Store
) -> None:
    row, r, c = 130, 7, 9
    with show(repeated, f"#image={row}&patch={r},{c}") as (page, _):
        page.wait_for_function("() => !document.querySelector('.figures .absent')")
        save_picture(page, "repeats")
        lines = page.locator("table.figures").first.locator("tbody tr").all()
        found = [
            (line.locator("th").inner_text(), [x.inner_text() for x in line.locator("td").all()])
            for line in lines
        ]
    names = [name for name, _ in found]
    again = [f"repeat {k + 1}" for k in range(REPEATS)]
    assert names[: 2 * REPEATS + 2] == ["friction", *again, "friction_exact", *again]
    assert names[2 * REPEATS + 2 :] == ["settle", *again, "S"]
    expected = [repeated["friction"][row, r, c]]
    expected += list(np.moveaxis(repeated["friction_repeats"][row, r, c], -1, 0))
    expected += [repeated["friction_exact"][row, r, c]]
    for (_, cells), values in zip(found, expected, strict=False):
        shown = [float(cell.replace(",", "")) for cell in cells]
        np.testing.assert_allclose(shown, values, rtol=1e-4)


def test_a_store_without_repeats_has_no_such_map(visit: Any, digits_url: str) -> None:
    with visit(digits_url) as (page, _):
        options = page.locator("#map option, select[name=map] option").all_inner_texts()
        assert options
        assert not any("change" in name for name in options)


def unreliable(folder: Path, *, noise: float, exact: bool, exact_repeats: bool = False) -> fs.Store:
    """Friction with a tail that repeats do not have again, `noise` of the logarithm's spread."""
    rng = np.random.default_rng(2)
    maps = smooth_maps(150)
    clean = maps["friction"].astype(np.float64)
    clean[..., 0] += rng.uniform(0, 1, clean.shape[:-1])
    again = np.repeat(clean[..., None], 3, axis=4) * rng.lognormal(0, noise, (*clean.shape, 3))
    tail = rng.random(again.shape) < 3e-4
    again[tail] *= 1e4
    again = again.astype(np.float32)
    maps["friction"], maps["friction_repeats"] = again[..., 0], again[..., 1:]
    if exact:
        maps["friction_exact"] = clean.astype(np.float32)
    if exact_repeats:
        maps["friction_exact_repeats"] = np.repeat(maps["friction_exact"][..., None], 2, axis=4)
    return fs.from_arrays(folder / "unreliable.zarr", maps)


def reliability(store: fs.Store, rows: slice, mode: int, scale: Any) -> float:
    """1 - W / T as `docs/analyses.md` has it, of some images."""
    values = np.concatenate(
        [store["friction"][rows][..., None], store["friction_repeats"][rows]], axis=-1
    )[..., mode, :].astype(np.float64)
    values = scale(values)
    return float(1 - values.var(axis=-1, ddof=1).mean() / values.var(ddof=1))


def cut(value: float) -> str:
    return f"{np.floor(value * 100) / 100:.2f}"


@pytest.mark.parametrize("row", [3, 149])
@pytest.mark.parametrize("noise", [0.01, 2.0])
def test_low_reliability_of_raw_friction_is_said_with_what_to_look_at(
    show: Any, tmp_path: Path, row: int, noise: float
) -> None:
    store = unreliable(tmp_path, noise=noise, exact=True)
    step = store.header.arrays["friction_repeats"].chunk_images
    first = row // step * step
    rows = slice(first, min(first + step, 150))
    raw, log = (reliability(store, rows, 2, scale) for scale in (lambda x: x, np.log10))
    assert raw < 0.5
    assert (log > 0.9) == (noise < 1)
    with show(store, f"#image={row}&mode=2&patch=1,1") as (page, _):
        page.wait_for_selector(".advice:visible")
        save_picture(page, f"advice-{row}-{noise}")
        assert page.inner_text(".advice").startswith(
            f"Rounding decides much of raw friction, mode 2: reliability {cut(raw)} over 2 "
            f"repeats (its logarithm {cut(log)}), images {first} to {rows.stop - 1}. "
            "Look at the logarithm of friction_exact."
        )
        page.click("text=Show it")
        page.wait_for_function("() => location.hash.includes('map=friction_exact')")
        page.wait_for_selector(READY)
        assert "scale=log" in page.evaluate("() => location.hash")
        assert page.locator(".advice").is_hidden()


def test_exact_friction_is_advised_with_its_own_reliability(show: Any, tmp_path: Path) -> None:
    store = unreliable(tmp_path, noise=0.01, exact=True, exact_repeats=True)
    with show(store, "#image=3&mode=2&patch=1,1") as (page, _):
        page.wait_for_selector("text=Look at the logarithm of friction_exact (1.00).")


def test_without_exact_friction_its_own_logarithm_or_nothing_is_advised(
    show: Any, tmp_path: Path
) -> None:
    with show(
        unreliable(tmp_path / "a", noise=0.01, exact=False),
        "#image=3&mode=2&patch=1,1&scale=linear",
    ) as (page, _):
        page.wait_for_selector("text=Look at its logarithm.")
        page.click("text=Show it")
        page.wait_for_selector(".advice", state="hidden")
    with show(unreliable(tmp_path / "b", noise=2.0, exact=False), "#image=3&mode=2&patch=1,1") as (
        page,
        _,
    ):
        page.wait_for_selector(".advice:visible")
        assert "Look at" not in page.inner_text(".advice")
        assert page.locator(".advice button").is_hidden()


def test_what_is_reliable_or_not_read_is_without_advice(
    show: Any, repeated: fs.Store, tmp_path: Path
) -> None:
    steady = smooth_maps(50)
    steady["friction_repeats"] = np.repeat(steady["friction"][..., None], 2, axis=4)
    store = fs.from_arrays(tmp_path / "steady.zarr", steady)
    with show(store, "#image=3&mode=0&patch=1,1") as (page, _):  # mode 0 is one number
        page.wait_for_function("() => !document.querySelector('.figures .absent')")
        for mode in ("0", "2", "4"):
            page.select_option("#mode", mode)
            page.wait_for_function("m => document.querySelector('#mode').value === m", arg=mode)
            page.wait_for_selector(READY)
            assert page.locator(".advice").is_hidden()
    unread = unreliable(tmp_path, noise=0.01, exact=True)
    with show(unread, "#image=3&mode=2") as (page, watch):
        assert page.locator(".advice").is_hidden()
        assert not any("repeats" in url for url, _ in watch.requests)
