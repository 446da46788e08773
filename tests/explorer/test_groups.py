"""Images that belong together in the explorer: shown, filtered by, and nothing without groups."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.browser import READY, save_picture
from tests.explorer.conftest import smooth_maps, thumbnails
from tests.explorer.test_values import rows_on_screen

N = 300
MARKUP = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> fs.Store:
    """Groups across chunks and classes; the first image is alone in one whose name is markup."""
    rng = np.random.default_rng(11)
    names = [f"subject {k}" for k in rng.integers(0, 40, N)]
    names[0] = MARKUP
    names[1] = "g" * 400
    return fs.from_arrays(
        tmp_path_factory.mktemp("grouped") / "grouped.zarr",
        {**smooth_maps(N), "image": thumbnails(N)},
        label=rng.integers(0, 3, N),
        class_names=["a", "b", "c"],
        group=names,
    )


def members(store: fs.Store, group: int, label: int | None = None) -> np.ndarray:
    assert store.groups is not None
    chosen = store.groups == group
    return np.flatnonzero(chosen if label is None else chosen & (store.labels == label))


def wait_for(page: Any, rows: list[int]) -> None:
    """Until these images are the ones shown, in this order."""
    page.wait_for_function(
        "rows => JSON.stringify([...document.querySelectorAll('.tile:not([hidden])')]"
        ".sort((a, b) => a.dataset.place - b.dataset.place).map(t => Number(t.dataset.row)))"
        " === JSON.stringify(rows)",
        arg=rows,
    )
    page.wait_for_selector(READY)


def test_a_group_is_typed_kept_in_the_address_and_crossed_with_a_class(
    show: Any, grouped: fs.Store
) -> None:
    group = int(grouped.groups[17])
    own = members(grouped, group)
    label = int(np.bincount(grouped.labels[own]).argmax())
    both = members(grouped, group, label)
    assert 1 < len(both) < len(own) < 20
    size = {"width": 1400, "height": 1400}
    with show(grouped, "#mode=1&size=64", **size) as (page, _):
        assert f"{len(grouped.group_names)} groups" in page.inner_text(".top")
        page.fill("[aria-label=group]", grouped.group_names[group])
        page.keyboard.press("Enter")
        wait_for(page, own.tolist())
        assert page.inner_text(".status").startswith(f"{len(own)} images of {N},")
        page.select_option("#classes", str(label))
        wait_for(page, both.tolist())
        page.select_option("#sort", "mean")
        largest = np.asarray(grouped["friction"][:])[both, ..., 1].mean((1, 2))
        wait_for(page, both[np.argsort(-largest, kind="stable")].tolist())
        link = page.evaluate("() => location.href")
        assert f"group={group}" in link
        page.goto("about:blank")
        page.goto(link)
        wait_for(page, both[np.argsort(-largest, kind="stable")].tolist())
        assert page.input_value("[aria-label=group]") == grouped.group_names[group]
        page.fill("[aria-label=group]", "nobody")
        page.keyboard.press("Enter")
        message = page.eval_on_selector("[aria-label=group]", "e => e.validationMessage")
        assert message == "No group has this name."
        page.fill("[aria-label=group]", "")
        page.keyboard.press("Enter")
        page.wait_for_function("() => !location.hash.includes('group')")


def test_an_image_leads_to_the_others_of_its_group_and_back(show: Any, grouped: fs.Store) -> None:
    row = 17
    group = int(grouped.groups[row])
    own = members(grouped, group)
    name = grouped.group_names[group]
    with show(grouped, f"#mode=1&image={row}&classes=1", height=1400) as (page, _):
        save_picture(page, "group")
        assert f"group {name}, {len(own) - 1} other images" in page.inner_text(".detail .names")
        page.click(".detail .link")
        wait_for(page, own.tolist())
        assert page.text_content("#detail-title") == grouped.image_ids[row]
        title = page.get_attribute(".tile:visible", "title")
        assert title.endswith(f", group {name}")
        page.click("text=show all images")
        page.wait_for_function(
            "n => document.querySelector('.status').textContent.startsWith(n + ' images, ')", arg=N
        )


def test_on_a_phone_the_others_are_not_behind_the_image(show: Any, grouped: fs.Store) -> None:
    own = members(grouped, int(grouped.groups[17]))
    with show(grouped, "#mode=1&image=17", width=390, height=844) as (page, _):
        page.click(".detail .link")
        page.wait_for_selector(".detail", state="hidden")
        page.wait_for_selector(READY)
        assert rows_on_screen(page) == own[: len(rows_on_screen(page))].tolist()


def test_a_name_is_text_and_an_image_may_be_alone(show: Any, grouped: fs.Store) -> None:
    with show(grouped, "#mode=1&image=0&group=0") as (page, _):
        assert f"group {MARKUP}, no other image" in page.inner_text(".detail .names")
        assert page.input_value("[aria-label=group]") == MARKUP
        assert page.evaluate("() => document.images.length") == 0
        assert page.title() == "grouped · friction maps"
        page.click("[data-view=about]")
        assert f"groups\n{len(grouped.group_names)}" in page.inner_text(".about")


def test_a_long_name_is_no_wider_than_a_phone(show: Any, grouped: fs.Store) -> None:
    with show(grouped, "#mode=1&image=1&group=1", width=390, height=844) as (page, _):
        assert look_at_width(page) == []
        save_picture(page, "long-group")
        page.keyboard.press("Escape")
        page.wait_for_selector(".detail", state="hidden")
        assert look_at_width(page) == []


def look_at_width(page: Any) -> list[str]:
    return page.evaluate(
        "() => [...document.querySelectorAll('body *')].filter(e => {"
        " const text = document.createRange(); text.selectNodeContents(e);"
        " return e.getClientRects().length && !e.closest('.scroll, pre, .skip, .tile, .tools') &&"
        " text.getBoundingClientRect().right > innerWidth + 1;"
        "}).map(e => e.className || e.tagName)"
    )


def test_without_groups_nothing_says_so(visit: Any, digits_url: str) -> None:
    with visit(digits_url, "#mode=1&image=3") as (page, _):
        assert page.locator("[aria-label=group]").is_hidden()
        for view in ("images", "compare", "about"):
            page.click(f"[data-view={view}]")
            page.wait_for_selector(READY)
            assert "group" not in page.inner_text("body").lower()
        assert page.get_attribute(".tile", "title") is None
        page.evaluate("() => { location.hash = 'group=0' }")
        page.wait_for_function(
            "() => document.querySelector('.problems').innerText.includes('group=0')"
        )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"subject 3",', b"", "group of image"),
        (b'"group_names"', b'"froup_names"', "its zarr.json lacks what a store has"),
    ],
    ids=["a name too few", "no names"],
)
def test_groups_that_do_not_fit_stop_the_page(
    show: Any, grouped: fs.Store, tmp_path: Path, old: bytes, new: bytes, says: str
) -> None:
    target = tmp_path / "g.zarr"
    shutil.copytree(grouped.location, target)
    store = fs.open(target)
    path = target / "zarr.json"
    text = path.read_bytes().replace(b",\n", b",")
    compact = text.replace(b"  ", b"")
    assert old in compact
    path.write_bytes(compact.replace(old, new))
    with show(store) as (page, _):
        assert says in page.inner_text("[role=alert]")
