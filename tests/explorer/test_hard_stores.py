"""Stores at the edges: one class, no labels, one image, constant modes, hostile names, damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.explorer.conftest import plane, serving, smooth_maps, thumbnails

HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\u202egnp.exe\u2066",
    "a" * 4000,
    "javascript:alert(1)",
    "'\"`${1}&amp;\0",
    "",
]


def problem_text(page: Any) -> str:
    return page.inner_text(".problems")


def test_one_class(show: Any, tmp_path: Path):
    store = fs.from_arrays(
        tmp_path / "one.zarr", smooth_maps(20), label=np.zeros(20, int), class_names=["only"]
    )
    with show(store, "#view=classes&mode=1") as (page, _):
        assert page.locator(".card").count() == 1
        assert page.inner_text(".card b") == "only"
        page.keyboard.press("2")
        page.wait_for_selector(".compare:visible")
        assert page.locator("[data-test=compare]").is_visible()


def test_no_labels(show: Any, tmp_path: Path):
    store = fs.from_arrays(tmp_path / "none.zarr", smooth_maps(20))
    with show(store) as (page, _):
        assert "no labels" in page.inner_text(".top")
        assert page.locator("#classes").is_hidden()
        page.click("[data-view=classes]")
        assert "no classes" in page.inner_text(".classes")
        page.click("[data-view=compare]")
        page.wait_for_selector(".compare:visible")
        assert "image 0" in page.inner_text(".compare .side:nth-child(1)")
        assert "image 1" in page.inner_text(".compare .side:nth-child(2)")


def test_some_images_without_a_class(show: Any, tmp_path: Path):
    label = np.array([0, -1, 1, -1, 0])
    store = fs.from_arrays(
        tmp_path / "some.zarr", smooth_maps(5), label=label, class_names=["a", "b"]
    )
    with show(store) as (page, _):
        page.select_option("#classes", label="no class (2)")
        page.wait_for_function(
            "() => document.querySelector('.status').textContent.startsWith('2 ')"
        )
        rows = [t.get_attribute("data-row") for t in page.locator(".tile:visible").all()]
        assert rows == ["1", "3"]


def test_one_image(show: Any, tmp_path: Path):
    maps = {**smooth_maps(1, grid=3), "image": thumbnails(1)}
    store = fs.from_arrays(tmp_path / "single.zarr", maps, label=np.array([0]), class_names=["x"])
    with show(store, "#mode=1&image=0&patch=2,2&sort=moran.desc") as (page, _):
        assert page.locator(".tile:visible").count() == 1
        shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
        assert shown == plane(store, "friction", 0, 1)[2, 2]
        page.keyboard.press("n")
        page.keyboard.press("p")
        page.click("[data-view=classes]")
        page.wait_for_selector(".card")
        assert page.inner_text(".card small") == "geometric mean of 1 image"


def test_one_patch_and_one_mode(show: Any, tmp_path: Path):
    maps = {name: values[:, :1, :1, :1] for name, values in smooth_maps(4).items()}
    store = fs.from_arrays(tmp_path / "dot.zarr", maps)
    with show(store, "#map=settle&image=2&patch=0,0") as (page, _):
        shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
        assert shown == plane(store, "settle", 2, 0)[0, 0]
        assert page.inner_text("[data-figure=moran]") == "\N{EN DASH}"


def test_constant_mode_is_named_and_not_shown_first(show: Any, tmp_path: Path):
    store = fs.from_arrays(tmp_path / "constant.zarr", smooth_maps(10))
    with show(store, "#image=0") as (page, _):
        # Mode 0 of friction is 5.0 everywhere: the first view is of mode 1, and says so.
        assert (
            "mode=1" in page.evaluate("() => location.hash")
            or page.evaluate("() => document.querySelector('#mode').value") == "1"
        )
        assert "constant" in page.inner_text(".modes .mode:nth-child(1)")
        assert "constant" not in page.inner_text(".modes .mode:nth-child(2)")
        page.click(".modes .mode:nth-child(1)")
        page.wait_for_function(
            "() => document.querySelector('.status').textContent.includes('constant')"
        )
        assert "every value is 5 in the 10 images read" in page.inner_text(".status")
        assert page.inner_text(".line .legend").startswith("constant: 5")


def test_hostile_names_are_text(show: Any, tmp_path: Path):
    n = len(HOSTILE)
    store = fs.from_arrays(
        tmp_path / "hostile.zarr", smooth_maps(n), label=np.arange(n), class_names=HOSTILE,
        image_id=[f"{name}{k}".replace("\0", "") for k, name in enumerate(HOSTILE)],
    )  # fmt: skip
    with show(store, "#image=0&mode=1") as (page, _):
        assert page.text_content("#detail-title") == HOSTILE[0] + "0"
        for view in ("compare", "classes", "about", "images"):
            page.click(f"[data-view={view}]")
            page.wait_for_selector("body[data-idle=true]")
        options = page.locator("#classes option").all_text_contents()
        assert options[1] == f"{HOSTILE[0]} (1)"
        assert options[-1] == "(class 6) (1)"
        assert page.title() == "hostile · friction maps"
        assert page.evaluate("() => document.images.length") == 0
        wide = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


Damage = Callable[[str, Callable[[bytes], bytes]], fs.Store]
SHARD = "friction/c/0/0/0/0"


def test_a_flipped_bit_is_named_and_never_shown(show: Any, damaged_copy: Damage):
    store = damaged_copy(SHARD, lambda data: flip(data, 1000))
    with show(store, "#image=3&patch=1,1&mode=1") as (page, _):
        text = problem_text(page)
        assert "friction of images 0 to 255 cannot be read from friction/c/0/0/0/0" in text
        assert "checksum" in text
        assert page.locator(".tile.damaged:visible").count() >= 12
        assert page.locator("[data-test=readout]").get_attribute("data-value") == ""
        assert page.inner_text(".damage") in text
        # The next chunk is sound, and shown.
        page.evaluate("() => { location.hash = 'image=256&patch=1,1&mode=1' }")
        expected = plane(store, "friction", 256, 1)[1, 1]
        page.wait_for_selector(f"[data-test=readout][data-value='{float(expected)}']")
        # Sorting leaves the damaged images to the end, and class means say what they lack.
        page.evaluate("() => { location.hash = 'sort=mean.asc&mode=1' }")
        page.wait_for_function(
            "() => document.querySelector('.status').textContent.includes('smallest mean')"
        )
        assert int(page.locator(".tile[data-place='0']").get_attribute("data-row")) >= 256
        page.evaluate("() => { location.hash = 'view=classes&mode=1' }")
        page.wait_for_selector("body[data-idle=true] .card small")
        page.wait_for_function(
            "() => /the \\d+ of \\d+ images read/.test(document.querySelector('.card').innerText)"
        )


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        (SHARD, lambda data: flip(data, len(data) - 20), "friction/c/0/0/0/0"),
        (SHARD, lambda data: data[: len(data) // 2], "friction/c/0/0/0/0 is shorter"),
        (SHARD, lambda data: b"\0" * len(data), "checksum"),
        ("image/c/0/0/0/0", lambda data: flip(data, 40), "image of images 0 to"),
        ("image_id/c/0", lambda data: flip(data, 40), "image_id of images 0 to"),
    ],
    ids=["index", "truncated", "zeroed", "thumbnails", "names"],
)
def test_damage_is_named(
    show: Any, damaged_copy: Damage, key: str, change: Callable[[bytes], bytes], says: str
):
    store = damaged_copy(key, change)
    with show(store, quiet=False) as (page, _):
        assert says in problem_text(page)
        assert "undefined" not in page.inner_text("body")


def test_damaged_labels_stop_the_page(visit: Any, damaged_copy: Damage):
    store = damaged_copy("label/c/0", lambda data: flip(data, 40))
    with serving(store) as url, visit(url) as (page, _):
        assert "label of images 0 to 1796 cannot be read" in page.inner_text("[role=alert]")


def test_changed_metadata_is_noticed(show: Any, damaged_copy: Damage):
    store = damaged_copy("zarr.json", lambda data: data.replace(b"kind 3", b"kind 8"))
    with show(store) as (page, _):
        page.wait_for_selector(".problems:visible")
        assert "MANIFEST.sha256 names another zarr.json" in problem_text(page)
        page.click("[data-view=about]")
        page.wait_for_selector(f"text={store.digest}")


def test_a_missing_shard_is_not_fill_values(show: Any, damaged_copy: Damage, tmp_path: Path):
    store = damaged_copy(SHARD, lambda data: data)
    (tmp_path / "damaged.zarr" / SHARD).unlink()
    with show(store, quiet=False) as (page, _):
        assert "friction/c/0/0/0/0 is missing" in problem_text(page)
        assert page.locator(".tile.damaged:visible").count() >= 12


def test_a_sound_shard_of_another_place_is_refused(show: Any, tmp_path: Path):
    maps = smooth_maps(8)
    maps["friction"][4:] *= 2
    store = fs.from_arrays(tmp_path / "two.zarr", maps, shard_images=4)
    first, second = (tmp_path / "two.zarr" / f"friction/c/{k}/0/0/0" for k in (0, 1))
    size = max(first.stat().st_size, second.stat().st_size)
    shutil.copy(second, first)
    with show(store, quiet=False) as (page, _):
        text = problem_text(page)
        assert "friction of images 0 to 3" in text
        assert "checksum" in text or f"{size}" in text


def test_trying_again_after_a_repair(show: Any, damaged_copy: Damage, digits: fs.Store):
    store = damaged_copy(SHARD, lambda data: flip(data, 1000))
    with show(store, "#image=3&patch=1,1&mode=1") as (page, _):
        shutil.copy(Path(digits.location) / SHARD, Path(store.location) / SHARD)
        page.click("text=Try again")
        expected = plane(digits, "friction", 3, 1)[1, 1]
        page.wait_for_selector(f"[data-test=readout][data-value='{float(expected)}']")
        assert page.locator(".problems").is_hidden()


@pytest.mark.parametrize("kind", ["noise", "equal", "ramp"])
def test_chunks_of_every_compressibility(show: Any, tmp_path: Path, kind: str):
    rng = np.random.default_rng(4)
    shape = (40, 9, 7, 3)  # sizes that are no multiple of anything
    settle = {
        "noise": rng.integers(0, 255, shape), "equal": np.full(shape, 7),
        "ramp": np.arange(np.prod(shape)).reshape(shape) % 251,
    }[kind].astype(np.uint8)  # fmt: skip
    bits = rng.integers(0, 1 << 23, shape).astype(np.uint32) | np.uint32(0x3F800000)
    friction = {
        "noise": bits.view(np.float32), "equal": np.full(shape, 2.5, np.float32),
        "ramp": np.linspace(1e-3, 1e8, settle.size, dtype=np.float32).reshape(shape),
    }[kind]  # fmt: skip
    store = fs.from_arrays(tmp_path / "c.zarr", {"friction": friction, "settle": settle})
    with show(store) as (page, _):
        for name in ("friction", "settle"):
            for row, r, c, mode in [(0, 0, 0, 0), (39, 8, 6, 2), (17, 4, 5, 1), (23, 7, 2, 2)]:
                hash_ = f"map={name}&mode={mode}&image={row}&patch={r},{c}"
                page.evaluate("hash => { location.hash = hash }", hash_)
                value = float(plane(store, name, row, mode)[r, c])
                page.wait_for_function(
                    """([title, mode, value]) => {
                      const text = (selector) => document.querySelector(selector).textContent;
                      const out = document.querySelector('[data-test=readout]');
                      return text('#detail-title') === title &&
                        text('.detail .subtitle').includes(mode) &&
                        Number(out.dataset.value) === value;
                    }""",
                    arg=[str(row), f"{name}, mode {mode}", value],
                )
