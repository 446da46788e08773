"""The address holds the view; keys do what the list of keys says; nothing is out of reach."""

from __future__ import annotations

from typing import Any

import pytest

import frictionstore as fs
from tests.browser import READY, save_picture
from tests.explorer.conftest import plane

PROBE = """() => ({
  title: document.querySelector('#detail-title').textContent,
  value: document.querySelector('[data-test=readout]').dataset.value,
  mode: document.querySelector('#mode').value,
  map: document.querySelector('#map').value,
  classes: document.querySelector('#classes').value,
  sort: document.querySelector('#sort').value,
  direction: document.querySelector('#direction').value,
  range: document.querySelector('#range').value,
  scale: document.querySelector('#scale').value,
  colours: document.querySelector('#colours').value,
  show: document.querySelector('#show').value,
  size: document.querySelector('#size').value,
  mix: document.querySelector('#mix').value,
  rows: [...document.querySelectorAll('.tile:not([hidden])')].map(t => t.dataset.row).sort(),
  legend: document.querySelector('.detail .legend').textContent,
})"""


@pytest.mark.slow
def test_a_view_made_by_hand_comes_back_from_its_address(visit: Any, digits_url: str):
    with visit(digits_url) as (page, _):
        for field, value in [
            ("map", "S"), ("mode", "2"), ("classes", "4"), ("sort", "std"), ("direction", "asc"),
            ("show", "overlay"), ("range", "fixed"), ("scale", "log"), ("colours", "cividis"),
            ("size", "96"),
        ]:  # fmt: skip
            page.select_option(f"#{field}", value)
            page.wait_for_selector(READY)
        page.wait_for_function(
            "() => document.querySelector('.status').textContent.includes('smallest')"
        )
        page.locator(".tile[data-place='5']").click()
        page.locator("#mix").fill("0.35")
        box = page.locator(".detail .stage").bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.53, box["y"] + box["height"] * 0.22)
        page.mouse.move(5, 5)
        page.wait_for_function("() => location.hash.includes('patch=')")
        page.wait_for_selector(READY)
        before = page.evaluate(PROBE)
        link = page.evaluate("() => location.href")
    assert before["value"] != ""
    assert before["map"] == "S"
    with visit(link) as (page, _):
        assert page.evaluate(PROBE) == before


@pytest.mark.slow
def test_scroll_position_comes_back(visit: Any, digits_url: str):
    with visit(digits_url) as (page, _):
        page.evaluate("() => { document.querySelector('.gallery').scrollTop = 9000 }")
        page.wait_for_function("() => /at=[1-9]/.test(location.hash)")
        page.wait_for_selector(READY)
        link = page.evaluate("() => location.href")
        at = link.split("at=")[1].split("&")[0]
    with visit(link) as (page, _):
        assert page.locator(f".tile[data-place='{at}']").is_visible()


@pytest.mark.slow
def test_a_sorted_grid_stays_where_it_is_when_more_is_read(visit: Any, digits_url: str):
    with visit(digits_url, "#mode=1&sort=mean.desc") as (page, watch):
        page.evaluate("() => { document.querySelector('.gallery').scrollTop = 5000 }")
        page.wait_for_function("() => /at=[1-9]/.test(location.hash)")
        page.wait_for_selector(READY)
        before = len(watch.requests)
        boxes = [(tile, tile.bounding_box()) for tile in page.locator(".tile:visible").all()]
        chosen, box = next((tile, box) for tile, box in boxes if 300 < box["y"] < 500)
        row, y = chosen.get_attribute("data-row"), box["y"]
        chosen.click()
        page.wait_for_selector(".detail:visible")
        # The grid is narrower now, and the image is where it was.
        page.wait_for_function(
            "([row, y]) => Math.abs(document.querySelector("
            "`.tile[data-row='${row}']:not([hidden])`).getBoundingClientRect().top - y) < 3",
            arg=[row, y],
        )
        # A marked patch is given in every map: their chunks are read now.
        page.locator(".detail .stage").click(position={"x": 5, "y": 5})
        for _ in range(200):  # until the request is made; the page may look ready before
            if any("settle" in url for url, _ in watch.requests[before:]):
                break
            page.wait_for_timeout(50)
        assert any("settle" in url for url, _ in watch.requests[before:])
        page.wait_for_selector(READY)
        assert page.evaluate("() => document.querySelector('.gallery').scrollTop") > 3000


def test_the_back_button(visit: Any, digits_url: str):
    with visit(digits_url, "#mode=1") as (page, _):
        page.locator(".tile[data-place='2']").click()
        page.click("[data-view=compare]")
        page.wait_for_selector(".compare:visible")
        page.go_back()
        page.wait_for_selector(".detail:visible")
        page.go_back()
        page.wait_for_selector(".detail", state="hidden")


UNKNOWN = [
    "map=nothing", "mode=9", "image=1797", "image=-1", "patch=16,0", "sort=beauty.asc",
    "classes=10", "range=5..1", "a=c99", "<b>=<i>", "view=constructor", "colours=__proto__",
]  # fmt: skip


def test_an_address_that_asks_for_what_is_not_there_is_told_so(visit: Any, digits_url: str):
    with visit(digits_url) as (page, _):
        for part in UNKNOWN:
            page.evaluate("part => { location.hash = part }", part)
            page.wait_for_function(
                "text => document.querySelector('.problems').innerText.includes(text)",
                arg=f"The address asks for what this store does not have: {part}",
            )
            assert page.locator(".tile:visible").count() > 0


def test_keys(visit: Any, digits: fs.Store, digits_url: str):
    with visit(digits_url, "#mode=1") as (page, _):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector(".detail:visible")
        assert page.text_content("#detail-title") == digits.image_ids[2]
        page.keyboard.press("n")
        page.wait_for_function(
            "t => document.querySelector('#detail-title').textContent === t",
            arg=str(digits.image_ids[3]),
        )
        page.keyboard.press("]")
        page.wait_for_function("() => document.querySelector('#mode').value === '2'")
        page.keyboard.press("m")
        page.wait_for_function("() => document.querySelector('#map').value === 'settle'")
        page.locator(".detail .stage").focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        page.wait_for_function("() => location.hash.includes('patch=3,1')")
        shown = float(page.locator("[data-test=readout]").get_attribute("data-value"))
        assert shown == plane(digits, "settle", 3, 2)[3, 1]
        page.keyboard.press("Escape")
        page.wait_for_selector(".detail", state="hidden")
        page.keyboard.press("?")
        assert page.locator("dialog.help").is_visible()
        page.keyboard.press("Escape")
        for key, view in ("3", ".classes"), ("2", ".compare"), ("4", ".about"), ("1", ".gallery"):
            page.keyboard.press(key)
            page.wait_for_selector(f"{view}:visible")


def test_every_control_has_a_name_and_every_picture_a_text(visit: Any, digits_url: str):
    nameless = """() => [...document.querySelectorAll('button, select, input, canvas, [role]')]
      .filter(e => e.getClientRects().length > 0)
      .filter(e => e.tagName === 'CANVAS'
        ? e.getAttribute('aria-hidden') !== 'true' && !e.getAttribute('aria-label')
        : !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') ||
            e.textContent.trim() || e.labels?.length))
      .filter(e => !['status', 'alert'].includes(e.getAttribute('role')))
      .map(e => e.outerHTML.slice(0, 120))"""
    with visit(digits_url, "#image=3&mode=1") as (page, _):
        for view in ("images", "compare", "classes", "about"):
            page.click(f"[data-view={view}]")
            page.wait_for_selector(READY)
            assert page.evaluate(nameless) == []


VIEWS = {
    "images": "mode=1", "detail": "mode=2&image=9&patch=3,4",
    "compare": "view=compare&mode=2&patch=8,8", "classes": "view=classes&mode=2",
    "about": "view=about",
}  # fmt: skip
SIZES = [("desktop", 1440, 900), ("phone", 390, 844), ("tablet", 820, 1180)]


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen(visit: Any, digits_url: str):
    with visit(digits_url, "#mode=1") as (page, _):
        for name, width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            for colours in ("light", "dark"):
                page.emulate_media(color_scheme=colours)
                look_at_every_view(page, f"{name}-{colours}")


def look_at_every_view(page: Any, name: str) -> None:
    for view, hash_ in VIEWS.items():
        page.evaluate("hash => { location.hash = hash }", hash_)
        page.wait_for_timeout(50)
        page.wait_for_selector(READY)
        wider = page.evaluate(
            "() => [...document.querySelectorAll('body *')].filter(e =>"
            " e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1 &&"
            " !e.closest('.scroll, pre, .skip')).map(e => e.className || e.tagName)"
        )
        assert wider == [], (name, view)
        save_picture(page, f"{name}-{view}")
