"""The explorer shows what the store holds: values, figures, orders and means, against numpy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.explorer.conftest import CLASSES, MODES, plane

READOUT = "[data-test=readout]"


def value_shown(page: Any) -> float:
    return float(page.locator(READOUT).get_attribute("data-value"))


def go(page: Any, hash_: str) -> None:
    """Another view of the same page."""
    page.evaluate("hash => { location.hash = hash }", hash_)


def test_values_of_known_images_positions_and_modes(visit: Any, digits: fs.Store, digits_url: str):
    rng = np.random.default_rng(11)
    with visit(digits_url) as (page, _):
        for name in ("friction", "settle", "S", "recon_error"):
            rows = [0, 1023, 1024, digits.n_images - 1, *rng.integers(0, digits.n_images, 2)]
            for row in rows:
                mode = 0 if name == "recon_error" else int(rng.integers(0, MODES))
                r, c = (int(k) for k in rng.integers(0, 16, 2))
                go(page, f"map={name}&mode={mode}&image={row}&patch={r},{c}")
                expected = plane(digits, name, int(row), mode)[r, c]
                where = f"row {r}, column {c}:"
                page.wait_for_function(
                    "([selector, title, start, value]) => {"
                    " const out = document.querySelector(selector);"
                    " return document.querySelector('#detail-title').textContent === title &&"
                    " out.textContent.startsWith(start) && Number(out.dataset.value) === value }",
                    arg=[READOUT, digits.image_ids[row], where, float(expected)],
                )  # fmt: skip
                assert value_shown(page) == expected


def test_sum_of_modes(visit: Any, digits: fs.Store, digits_url: str):
    with visit(digits_url, f"#map=friction&mode={MODES}&image=300&patch=2,9") as (page, _):
        assert value_shown(page) == pytest.approx(plane(digits, "friction", 300, None)[2, 9])
        assert "sum of modes" in page.inner_text(".detail .subtitle")


def test_value_under_the_pointer(visit: Any, digits: fs.Store, digits_url: str):
    with visit(digits_url, "#mode=2&image=5&size=176") as (page, _):
        box = page.locator(".stage").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 3.5 / 16, box["y"] + box["height"] * 12.5 / 16)
        assert "row 12, column 3" in page.inner_text(READOUT)
        assert value_shown(page) == plane(digits, "friction", 5, 2)[12, 3]
        tile = page.locator("[data-row='1'] canvas.map").bounding_box()
        page.mouse.move(tile["x"] + tile["width"] * 0.5 / 16, tile["y"] + tile["height"] * 7.5 / 16)
        hover = page.inner_text("[data-test=hover]")
        expected = plane(digits, "friction", 1, 2)[7, 0]
        assert hover.startswith(f"friction, mode 2, image {digits.image_ids[1]}, row 7, column 0:")
        assert float(hover.rsplit(":", 1)[1].replace(",", "")) == pytest.approx(expected, rel=1e-6)


def figures_by_numpy(values: np.ndarray) -> dict[str, float]:
    """The same figures from their formulas; Moran's I from the full matrix of weights."""
    x = values.ravel()
    n = x.size
    share = x / x.sum()
    where = np.argwhere(np.ones(values.shape))
    apart = np.abs(where[:, None] - where[None]).max(-1)
    weights = (apart == 1).astype(float)
    z = x - x.mean()
    return {
        "mean": x.mean(), "std": x.std(ddof=1), "cv": x.std(ddof=1) / x.mean(),
        "min": x.min(), "max": x.max(),
        "entropy": -(share * np.log(share)).sum() / np.log(n),
        "hot": float((x > 2 * x.mean()).sum()),
        "moran": n / weights.sum() * (z @ weights @ z) / (z @ z),
    }  # fmt: skip


def test_shared_range_holds_99_percent_of_the_values(visit: Any, digits: fs.Store, digits_url: str):
    values = np.asarray(digits.friction[:256])[..., 3]
    with visit(digits_url, "#mode=3") as (page, _):
        ends = page.locator(".line .legend > span:not(.barbox)").all_inner_texts()
        assert "99 % of the values of the 256 images read so far" in ends[2]
        # 2,048 of 65,536 values are looked at; the patches differ, so none may be favoured.
        inside = [(values < float(end.replace(",", ""))).mean() for end in ends[:2]]
        assert inside == pytest.approx([0.005, 0.995], abs=0.004)
        page.select_option("#range", "full")
        page.wait_for_function(
            "() => document.querySelector('.line .legend').textContent.includes('smallest')"
        )
        ends = page.locator(".line .legend > span:not(.barbox)").all_inner_texts()
        assert float(ends[0].replace(",", "")) == pytest.approx(values.min(), rel=1e-4)
        assert float(ends[1].replace(",", "")) == pytest.approx(values.max(), rel=1e-4)


def test_figures_of_an_image(visit: Any, digits: fs.Store, digits_url: str):
    with visit(digits_url, "#mode=3&image=77") as (page, _):
        cells = page.locator("[data-figure]").all()
        shown = {c.get_attribute("data-figure"): c.get_attribute("data-value") for c in cells}
    expected = figures_by_numpy(plane(digits, "friction", 77, 3))
    assert set(shown) == set(expected)
    for name, value in expected.items():
        assert float(shown[name]) == pytest.approx(value, rel=1e-9), name


def rows_on_screen(page: Any) -> list[int]:
    return page.evaluate(
        "() => [...document.querySelectorAll('.tile:not([hidden])')]"
        ".sort((a, b) => a.dataset.place - b.dataset.place).map(t => Number(t.dataset.row))"
    )


@pytest.mark.slow
def test_sorts_by_every_figure_in_both_directions(visit: Any, digits: fs.Store, digits_url: str):
    maps = np.asarray(digits.friction[:]).astype(np.float64)[..., 2]
    flat = maps.reshape(len(maps), -1)
    padded = np.pad(maps - maps.mean((1, 2), keepdims=True), ((0, 0), (1, 1), (1, 1)))
    around = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    near = sum(padded[:, 1 + a : 17 + a, 1 + b : 17 + b] for a, b in around)
    centred = padded[:, 1:17, 1:17]
    share = flat / flat.sum(1, keepdims=True)
    keys = {
        "mean": flat.mean(1), "std": flat.std(1, ddof=1), "min": flat.min(1), "max": flat.max(1),
        "cv": flat.std(1, ddof=1) / flat.mean(1),
        "entropy": -(share * np.log(share)).sum(1),
        "hot": (flat > 2 * flat.mean(1, keepdims=True)).sum(1),
        "moran": (centred * near).sum((1, 2)) / (centred**2).sum((1, 2)),
    }  # fmt: skip
    with visit(digits_url, "#mode=2") as (page, _):
        assert set(keys) == set(
            page.locator("#sort option").evaluate_all("o => o.map(e => e.value)")
        ) - {"store"}
        for figure, key in keys.items():
            for direction in ("asc", "desc"):
                expected = np.argsort(key if direction == "asc" else -key, kind="stable")
                go(page, f"mode=2&sort={figure}.{direction}")
                word = "smallest" if direction == "asc" else "largest"
                name = page.inner_text(f"#sort option[value={figure}]")
                page.wait_for_function(
                    "start => document.querySelector('.status').textContent.includes(start)",
                    arg=f"{word} {name} of",
                )
                shown = rows_on_screen(page)
                assert len(shown) >= 12
                assert shown == expected[: len(shown)].tolist(), (figure, direction)


def test_filters_by_class_then_sorts_within_it(visit: Any, digits: fs.Store, digits_url: str):
    members = np.flatnonzero(digits.labels == 7)
    with visit(digits_url, "#mode=1") as (page, _):
        page.select_option("#classes", label=f"kind 7 ({len(members)})")
        page.wait_for_function(
            "row => document.querySelector('.tile[data-place=\"0\"]').dataset.row === row",
            arg=str(members[0]),
        )
        shown = rows_on_screen(page)
        assert shown == members[: len(shown)].tolist()
        assert re.match(rf"{len(members)} images of 1,797,", page.inner_text(".status"))
        page.select_option("#sort", "max")
        page.wait_for_selector("#direction:visible")
        page.wait_for_selector("body[data-idle=true]")
        page.wait_for_function(
            "() => document.querySelector('.status').textContent.includes('first')"
        )
        largest = np.asarray(digits.friction[:])[members, ..., 1].max((1, 2))
        expected = members[np.argsort(-largest, kind="stable")]
        shown = rows_on_screen(page)
        assert shown == expected[: len(shown)].tolist()


def test_class_means_and_their_difference(visit: Any, digits: fs.Store, digits_url: str):
    friction = np.asarray(digits.friction[:]).astype(np.float64)
    plain = [friction[digits.labels == k].mean(0)[4, 11, 3] for k in (2, 5)]
    robust = [np.exp(np.log(friction[digits.labels == k]).mean(0)[4, 11, 3]) for k in (2, 5)]
    address = "#view=compare&a=c2&b=c5&mode=3&patch=4,11"
    for more, (a, b), says in (("", robust, "geometric mean of"), ("&raw=1", plain, "mean of")):
        with visit(digits_url, address + more) as (page, _):
            shown = page.locator("[data-test=compare]").get_attribute("data-value").split(";")
            assert [float(v) for v in shown] == pytest.approx([a, b, a - b], rel=1e-9)
            assert "kind 2 minus class kind 5" in page.inner_text(".panes")
            assert page.inner_text(".compare .side .subtitle >> nth=0").startswith(says)
            assert page.locator(".compare .raw-means").is_checked() == bool(more)


def test_counts_have_plain_means(visit: Any, digits: fs.Store, digits_url: str):
    settle = np.asarray(digits.settle[:]).astype(np.float64)
    expected = [settle[digits.labels == k].mean(0)[4, 11, 3] for k in (2, 5)]
    with visit(digits_url, "#view=compare&map=settle&a=c2&b=c5&mode=3&patch=4,11") as (page, _):
        shown = page.locator("[data-test=compare]").get_attribute("data-value").split(";")
        assert [float(v) for v in shown[:2]] == pytest.approx(expected, rel=1e-9)
        assert page.locator(".compare .raw-means").is_hidden()


def test_two_images_side_by_side(visit: Any, digits: fs.Store, digits_url: str):
    with visit(digits_url, "#view=compare&a=i3&b=i1700&map=settle&mode=0&patch=0,15") as (page, _):
        shown = page.locator("[data-test=compare]").get_attribute("data-value").split(";")
        a = plane(digits, "settle", 3, 0)[0, 15]
        b = plane(digits, "settle", 1700, 0)[0, 15]
        assert [float(v) for v in shown] == [a, b, a - b]
        page.fill("[aria-label='Image of B']", str(digits.image_ids[42]))
        page.keyboard.press("Enter")
        page.wait_for_function("() => location.hash.includes('b=i42')")


def test_class_gallery_has_a_mean_of_every_class(visit: Any, digits: fs.Store, digits_url: str):
    counts = np.bincount(digits.labels, minlength=CLASSES)
    with visit(digits_url, "#view=classes&mode=1") as (page, _):
        notes = page.locator(".card small").all_inner_texts()
        assert notes == [f"geometric mean of {count} images" for count in counts]
        # Classes that were not asked for before are averaged from what is in memory.
        page.reload()
        page.wait_for_selector("body[data-idle=true]")
        page.click("[data-view=compare]")
        page.wait_for_selector(".compare:visible")
        page.click("[data-view=classes]")
        page.wait_for_selector(".classes:visible")
        page.wait_for_selector("body[data-idle=true]")
        assert page.locator(".card small").all_inner_texts() == notes
        page.check("#difference")
        page.wait_for_function("() => location.hash.includes('difference=1')")
        assert "symmetric about 0" in page.inner_text(".classes")
