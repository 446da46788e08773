"""Two stores in one page: the same image by its id, classes by their names, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import frictionstore as fs
from frictionstore.cli.main import cli
from frictionstore.errors import RequestError, StoreError
from frictionstore.share.copy import copy_store
from frictionstore.show.beside import common_images
from frictionstore.show.view import export
from tests.browser import READY, save_picture
from tests.explorer.conftest import CLASSES, plane, serving, smooth_maps, thumbnails
from tests.explorer.test_server import RangeHandler, ask, static_host

N = 400


@pytest.fixture(scope="module")
def other(digits: fs.Store, tmp_path_factory: pytest.TempPathFactory) -> fs.Store:
    """Some of the digits in another order, measured differently, its classes in another order."""
    rng = np.random.default_rng(8)
    rows = rng.permutation(digits.n_images)[:N]
    friction = np.asarray(digits["friction"][:])[rows]
    maps = {
        "friction": friction * rng.uniform(0.5, 2, friction.shape).astype(np.float32),
        "settle": np.asarray(digits["settle"][:])[rows] + np.uint8(1),
        "image": thumbnails(N),
    }
    return fs.from_arrays(
        tmp_path_factory.mktemp("other") / "digits.zarr",  # the name that the first has
        maps,
        label=CLASSES - 1 - digits.labels[rows],
        class_names=digits.class_names[::-1],
        image_id=digits.image_ids[rows].tolist(),
    )


@pytest.fixture(scope="module")
def both_url(digits: fs.Store, other: fs.Store, built_page: None) -> Iterator[str]:
    with serving(digits, other) as url:
        yield url


def row_in(store: fs.Store, name: str) -> int:
    return store.image_ids.tolist().index(name)


def read_out(page: Any) -> list[float]:
    page.wait_for_selector("[data-test=compare]:not([data-value=''])")
    page.wait_for_selector(READY)
    value = page.locator("[data-test=compare]").get_attribute("data-value")
    return [float(part) for part in value.split(";")]


def test_an_image_beside_the_same_image_of_the_other_store(
    visit: Any, digits: fs.Store, other: fs.Store, both_url: str
) -> None:
    name = str(other.image_ids[123])
    row = row_in(digits, name)
    assert row != 123
    with visit(both_url, f"#view=compare&a=i{row}&mode=2&patch=3,14") as (page, _):
        for map_ in ("friction", "settle"):
            page.select_option("#map", map_)
            a, b = (float(plane(store, map_, at, 2)[3, 14])
                    for store, at in ((digits, row), (other, 123)))  # fmt: skip
            page.wait_for_function(
                "v => document.querySelector('[data-test=compare]').dataset.value === v.join(';')",
                arg=[a, b, a - b],
            )
        text = page.inner_text(".panes")
        assert f"image {name} in digits minus image {name} in digits (2)" in text
        assert (
            f"digits (2): image 123, {name}, class {other.class_names[other.labels[123]]}" in text
        )
        ends = [s.inner_text() for s in page.locator(".compare .legend").all()][:2]
        assert ends[0] == ends[1]
        assert "one range for all of them" in ends[0]
        save_picture(page, "beside")


def test_the_first_image_shown_is_one_that_both_have(
    visit: Any, digits: fs.Store, other: fs.Store, both_url: str
) -> None:
    known = set(other.image_ids.tolist())
    first = next(row for row, name in enumerate(digits.image_ids) if name in known)
    absent = next(row for row, name in enumerate(digits.image_ids) if name not in known)
    with visit(both_url, "#view=compare&mode=1&patch=0,0") as (page, _):
        a, b, _difference = read_out(page)
        page.wait_for_function(
            "row => document.querySelector(\"[aria-label='Image of A']\").value === row",
            arg=str(first),
        )
        a, b, _difference = read_out(page)
        assert a == plane(digits, "friction", first, 1)[0, 0]
        assert b == plane(other, "friction", row_in(other, digits.image_ids[first]), 1)[0, 0]
        page.evaluate("hash => { location.hash = hash }", f"view=compare&a=i{absent}&patch=0,0")
        says = f"digits (2) has no image, or several, of the id {digits.image_ids[absent]}"
        page.wait_for_function(
            "says => document.querySelector('.compare').innerText.includes(says)", arg=says
        )
        assert page.get_attribute("[data-test=compare]", "data-value") == ""
        # A map that only the first has.
        page.evaluate("() => { location.hash = 'view=compare&map=recon_error&patch=0,0' }")
        page.wait_for_function(
            "says => document.querySelector('.compare').innerText.includes(says)",
            arg="digits (2) has no map recon_error",
        )


def test_class_means_of_both_by_the_classes_names(
    visit: Any, digits: fs.Store, other: fs.Store, both_url: str
) -> None:
    def mean(store: fs.Store, name: str) -> float:
        chosen = store.labels == store.class_names.index(name)
        values = np.asarray(store["friction"][:]).astype(np.float64)[chosen, 4, 11, 3]
        return float(np.exp(np.log(values).mean()))

    with visit(both_url, "#view=compare&a=c2&mode=3&patch=4,11") as (page, _):
        a, b = mean(digits, "kind 2"), mean(other, "kind 2")
        assert read_out(page) == pytest.approx([a, b, a - b], rel=1e-9)
        text = page.inner_text(".panes")
        assert f"digits (2): geometric mean of {(other.labels == 7).sum()} images" in text
        assert "class kind 2 in digits minus class kind 2 in digits (2)" in text


def test_means_are_geometric_in_both_stores_or_in_neither(
    visit: Any, digits: fs.Store, tmp_path: Path
) -> None:
    """One value of 0 has no logarithm: a geometric mean beside a plain one says nothing."""
    friction = np.asarray(digits["friction"][:64]).copy()
    friction[5, 0, 0, 3] = 0.0
    zero = fs.from_arrays(
        tmp_path / "zero.zarr", {"friction": friction}, image_id=digits.image_ids[:64].tolist()
    )
    plain = np.asarray(digits["friction"][:]).astype(np.float64)[:, 4, 11, 3].mean()
    with (
        serving(digits, zero) as url,
        visit(url, "#view=compare&a=all&b=o&mode=3&patch=4,11") as (page, _),
    ):
        a, b, _difference = read_out(page)
        assert a == pytest.approx(plain, rel=1e-9)
        assert b == pytest.approx(friction.astype(np.float64)[:, 4, 11, 3].mean(), rel=1e-9)
        assert "digits: mean of 1,797 images" in page.inner_text(".panes")
        # A class that the other store does not have.
        page.select_option("[aria-label='What A is']", "c2")
        page.wait_for_function(
            "says => document.querySelector('.compare').innerText.includes(says)",
            arg="zero has no class kind 2",
        )


def test_from_the_large_image_to_both_and_back(
    visit: Any, digits: fs.Store, other: fs.Store, both_url: str
) -> None:
    row = row_in(digits, other.image_ids[7])
    with visit(both_url, f"#mode=1&image={row}&patch=2,2") as (page, _):
        page.click("text=Compare with digits (2)")
        page.wait_for_selector(".compare:visible")
        assert read_out(page)[1] == plane(other, "friction", 7, 1)[2, 2]
        link = page.evaluate("() => location.href")
        assert f"a=i{row}&b=o" in link
        # Two classes of the first store, as without a second.
        page.select_option("[aria-label='What B is']", "c1")
        page.wait_for_function("() => location.hash.includes('b=c1')")
        page.wait_for_selector(READY)
        title = page.inner_text(".compare .side:nth-child(3) .subtitle")
        assert title == f"image {other.image_ids[7]} minus class kind 1"
        page.go_back()
        page.wait_for_function("() => location.hash.includes('b=o')")
        assert read_out(page)[1] == plane(other, "friction", 7, 1)[2, 2]


def test_damage_in_the_second_store_is_its_own(
    visit: Any, digits: fs.Store, other: fs.Store, tmp_path: Path
) -> None:
    copy = Path(copy_and_flip(other, tmp_path / "worn.zarr", "friction/c/0/0/0/0"))
    row = row_in(digits, other.image_ids[7])
    with (
        serving(digits, fs.open(copy)) as url,
        visit(url, f"#view=compare&a=i{row}&mode=1&patch=2,2") as (page, _),
    ):
        page.wait_for_selector(".problems:visible")
        assert "worn: friction of images 0 to 255 cannot be read" in page.inner_text(".problems")
        page.click("[data-view=images]")
        page.wait_for_selector(READY)
        assert page.locator(".tile.damaged:visible").count() == 0


def copy_and_flip(store: fs.Store, target: Path, key: str) -> Path:
    shutil.copytree(store.location, target)
    data = bytearray((target / key).read_bytes())
    data[1000] ^= 4
    (target / key).write_bytes(data)
    return target


def test_a_second_store_that_is_none_leaves_the_first(
    visit: Any, digits: fs.Store, tmp_path: Path
) -> None:
    export(digits, tmp_path, copy_store)
    with (
        static_host(tmp_path, RangeHandler) as url,
        visit(url, "?with=nothing.zarr#mode=1&b=o", quiet=False) as (page, _),
    ):
        text = page.inner_text(".problems")
        assert "The second store cannot be shown: " in text
        assert "nothing.zarr is not a store: it has no zarr.json" in text
        assert "does not have: b=o" in text
        assert page.locator(".tile:visible").count() > 0


def test_serves_both_stores_files_and_nothing_else(digits: fs.Store, other: fs.Store) -> None:
    data = (Path(other.location) / "friction/c/0/0/0/0").read_bytes()
    with serving(digits, other) as url:
        assert ask(url, "/with/digits.zarr/friction/c/0/0/0/0")[::2] == (200, data)
        assert ask(url, "/store/digits.zarr/recon_error/c/0/0/0")[0] == 200
        for wrong in (
            "/with/digits.zarr/recon_error/c/0/0/0", "/with/", "/with/digits.zarr/../zarr.json",
            "/with/digits.zarr/", "/digits.zarr/zarr.json", "/with/%2e%2e/store/digits.zarr/x",
        ):  # fmt: skip
            assert ask(url, wrong)[0] == 404, wrong


def test_both_are_exported(visit: Any, digits: fs.Store, other: fs.Store, tmp_path: Path) -> None:
    site = tmp_path / "site"
    export(digits, site, copy_store, beside=other)
    assert fs.open(site / "digits.zarr").digest == digits.digest
    assert fs.open(site / "with" / "digits.zarr").digest == other.digest
    row = row_in(digits, other.image_ids[9])
    with (
        static_host(tmp_path, RangeHandler) as url,
        visit(url, f"site/#view=compare&a=i{row}&mode=3&patch=5,6") as (page, _),
    ):
        assert read_out(page)[1] == plane(other, "friction", 9, 3)[5, 6]
    export(digits, site, copy_store, beside=other)
    with pytest.raises(StoreError, match="is another store"):
        export(digits, site, copy_store, beside=digits)


def made(path: Path, n: int = 6, **changes: Any) -> fs.Store:
    maps = {**smooth_maps(n, changes.pop("grid", 16), changes.pop("modes", 4))}
    only = changes.pop("only", None)
    return fs.from_arrays(path, {k: v for k, v in maps.items() if only in (None, k)}, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grid": 8}, "has 8 x 8 patches and .* 16 x 16: maps are compared patch by patch"),
        ({"modes": 3}, r"S has 3 modes in .*b\.zarr and 4 in .*a\.zarr, and no map"),
        ({"image_id": [f"x{k}" for k in range(6)]},
         "no image in common: images are compared by id, and the first is 'x0' in one and '0'"),
    ],
    ids=["grid", "modes", "ids"],
)  # fmt: skip
def test_stores_that_cannot_be_compared_are_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    first = made(tmp_path / "a.zarr", only=None)
    second = made(tmp_path / "b.zarr", **changes)
    with pytest.raises(RequestError, match=says):
        common_images(first, second)
    for more in (["--no-browser"], ["--export", str(tmp_path / "site")]):
        result = CliRunner().invoke(cli, ["view", first.location, "--with", second.location, *more])
        assert result.exit_code == 2
        assert result.output.count("\n") == 1, result.output
    assert not (tmp_path / "site").exists()


def test_maps_of_other_names_are_refused(tmp_path: Path) -> None:
    first = made(tmp_path / "a.zarr", only="friction")
    second = made(tmp_path / "b.zarr", only="S")
    with pytest.raises(RequestError, match=r"b\.zarr has none of the maps that .*a\.zarr has"):
        common_images(first, second)


def test_the_images_in_both_are_counted(digits: fs.Store, other: fs.Store) -> None:
    assert common_images(digits, other) == N
    assert common_images(other, digits) == N
