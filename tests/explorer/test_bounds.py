"""How much the explorer reads and how long it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.explorer.conftest import smooth_maps

MOST_REQUESTS = 8
FIRST_VIEW = 2000  # ms
NEXT_IMAGE = 100  # ms


def test_first_view_of_the_digits(visit: Any, digits_url: str):
    with visit(digits_url) as (page, watch):
        took = page.evaluate("() => performance.getEntriesByName('first-view')[0].startTime")
        page.wait_for_timeout(300)  # nothing follows
        assert len(watch.requests) <= MOST_REQUESTS, watch.requests
        assert took < FIRST_VIEW
        print(f"first view after {took:.0f} ms and {len(watch.requests)} requests")


def test_next_image_once_its_chunk_is_there(visit: Any, digits_url: str):
    with visit(digits_url, "#image=0") as (page, _):
        times = page.evaluate(
            """async () => {
              const title = document.querySelector('#detail-title');
              const frame = () => new Promise(requestAnimationFrame);
              const times = [];
              for (let k = 0; k < 20; k++) {
                const before = title.textContent;
                const start = performance.now();
                const next = new KeyboardEvent('keydown', {key: 'n', bubbles: true});
                document.body.dispatchEvent(next);
                while (title.textContent === before) await frame();
                times.push(performance.now() - start);
              }
              return times;
            }"""
        )
        assert np.median(times) < NEXT_IMAGE
        print(f"next image after {np.median(times):.0f} ms (longest {max(times):.0f} ms)")


@pytest.mark.slow
def test_ten_thousand_images(show: Any, tmp_path: Path):
    n = 10_000
    base = smooth_maps(500)
    maps = {name: np.concatenate([values] * 20) for name, values in base.items()}
    maps["friction"] *= np.linspace(1, 2, n, dtype=np.float32)[:, None, None, None]
    store = fs.from_arrays(tmp_path / "many.zarr", maps)
    chunk_images = store.header.arrays["friction"].chunk_images
    with show(store) as (page, watch):
        first = len(watch.requests)
        assert first <= MOST_REQUESTS
        longest = page.evaluate(
            """async () => {
              const view = document.querySelector('.gallery');
              const frame = () => new Promise(requestAnimationFrame);
              let longest = 0;
              let before = performance.now();
              for (let k = 0; k < 60; k++) {
                view.scrollTop = (view.scrollHeight * k) / 60;
                await frame();
                const now = performance.now();
                longest = Math.max(longest, now - before);
                before = now;
              }
              return longest;
            }"""
        )
        # Flying over 40 chunks reads none of them, or few: only where the view comes to rest.
        page.wait_for_timeout(250)
        page.wait_for_selector("body[data-idle=true]")
        ranges = [r for url, r in watch.requests[first:] if "friction" in url]
        assert len(ranges) <= 6, ranges
        assert page.locator(".tile").count() < 200
        assert longest < 250
        print(f"longest frame of a flight over {n} images: {longest:.0f} ms")
        # The last image is shown, from the last chunk.
        page.locator(".gallery").focus()
        page.keyboard.press("End")
        page.wait_for_selector(f".tile[data-row='{n - 1}']")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "id => document.querySelector('#detail-title')?.textContent === id", arg=str(n - 1)
        )
        assert n // chunk_images == 39


def test_sorting_ten_thousand_images_reads_each_chunk_once(show: Any, tmp_path: Path):
    n = 10_000
    base = smooth_maps(100, grid=8)
    friction = np.concatenate([base["friction"]] * 100)
    rng = np.random.default_rng(1)
    friction *= rng.permutation(np.linspace(1, 2, n, dtype=np.float32))[:, None, None, None]
    store = fs.from_arrays(tmp_path / "many.zarr", {"friction": friction})
    with show(store, "#mode=1&sort=mean.desc") as (page, watch):
        means = friction[..., 1].astype(np.float64).mean((1, 2))
        first = page.locator(".tile[data-place='0']").get_attribute("data-row")
        assert int(first) == int(means.argmax())
        starts = [r for url, r in watch.requests if "friction/c/" in url]
        assert len(starts) == len(set(starts))


@pytest.mark.slow
def test_more_rows_than_an_element_can_be_tall(show: Any, tmp_path: Path):
    n = 300_000
    settle = (np.arange(n) % 250).astype(np.uint8).reshape(n, 1, 1, 1)
    label = np.arange(n) % 1000
    store = fs.from_arrays(tmp_path / "tall.zarr", {"settle": settle}, label=label)
    with show(store, "#size=240", width=800) as (page, _):
        page.locator(".gallery").focus()
        for key, row in ("End", n - 1), ("Home", 0):
            page.keyboard.press(key)
            page.wait_for_selector(f".tile[data-row='{row}']:visible")
            box = page.locator(f".tile[data-row='{row}']").bounding_box()
            view = page.locator(".gallery").bounding_box()
            assert view["y"] <= box["y"]
            assert box["y"] + box["height"] <= view["y"] + view["height"] + 1
        page.evaluate(
            "() => { const g = document.querySelector('.gallery');"
            " g.scrollTop = g.scrollHeight / 2 }"
        )
        page.wait_for_function(
            "n => Math.abs(Number(/at=(\\d+)/.exec(location.hash)?.[1]) - n / 2) < n / 100", arg=n
        )
        at = int(page.evaluate("() => /at=(\\d+)/.exec(location.hash)[1]"))
        assert page.locator(f".tile[data-row='{at}']").is_visible()
        link = page.evaluate("() => location.href")
        page.goto("about:blank")
        page.goto(link)
        page.wait_for_selector("body[data-idle=true]")
        assert page.locator(f".tile[data-row='{at}']").is_visible()
