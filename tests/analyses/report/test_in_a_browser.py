"""The report in a real browser: silent, self-contained, sortable by keyboard, fits every screen."""

from __future__ import annotations

from typing import Any

import pytest

from tests.analyses.report.conftest import Made
from tests.browser import opened, save_picture


def test_opens_silently_and_asks_no_host(browser: Any, made: Made):
    with opened(browser) as (page, watch):
        page.goto(made.path.as_uri())
        page.wait_for_timeout(200)
        assert watch.complaints == []
        others = [url for url, _ in watch.requests if not url.startswith("data:")]
        assert others == [made.path.as_uri()]
        assert page.title() == "sample: friction report"
        broken = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert page.evaluate(broken) == 0


def test_sorts_a_table_by_keyboard(browser: Any, made: Made):
    column = """(table) => [...table.tBodies[0].rows].map(r => r.cells[1].dataset.value)
      .filter(v => v !== undefined).map(Number)"""
    with opened(browser) as (page, _):
        page.goto(made.path.as_uri())
        table = page.locator("#image-summary-friction table").first
        page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
        button = table.locator("th button").nth(1)
        button.focus()
        page.keyboard.press("Enter")
        values = table.evaluate(column)
        assert values == sorted(values)
        assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert table.evaluate(column) == sorted(values, reverse=True)
        assert table.locator("th").nth(1).get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_fits_the_screen(browser: Any, made: Made, width: int, height: int, dark: bool):
    with opened(browser, width=width, height=height, dark=dark) as (page, _):
        page.goto(made.path.as_uri())
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        ink, ground = page.evaluate(
            "() => { const s = getComputedStyle(document.body);"
            " return [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).map(Number)) }"
        )
        assert (sum(ink) > sum(ground)) == dark
        svg_ink = page.evaluate(
            "() => getComputedStyle(document.querySelector('figure svg text')).fill"
        )
        assert svg_ink == page.evaluate("() => getComputedStyle(document.body).color")
        save_picture(page, f"report-{width}-{'dark' if dark else 'light'}")


def test_print_is_black_on_white_without_navigation(browser: Any, made: Made):
    with opened(browser, dark=True) as (page, _):
        page.goto(made.path.as_uri())
        page.emulate_media(media="print")
        assert page.locator("nav").is_hidden()
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(255, 255, 255)"
        assert len(page.pdf(format="A4")) > 10_000
