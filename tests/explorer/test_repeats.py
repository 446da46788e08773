"""Repeats in the explorer: the relative change as a map, and a marked patch's values over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.browser import save_picture
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
