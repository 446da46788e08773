"""The panel of one image: its lines stand below each other, and say what they are about."""

from __future__ import annotations

from typing import Any

import pytest

import frictionstore as fs
from tests.browser import save_picture

OVERLAPS = """
() => {
  const boxes = [...document.querySelectorAll('.detail > *')]
    .filter((e) => e.offsetHeight > 0)
    .map((e) => {
      const box = document.createRange();
      box.selectNodeContents(e);
      const text = box.getBoundingClientRect();
      const own = e.getBoundingClientRect();
      return { name: e.className, top: own.top, bottom: Math.max(own.bottom, text.bottom) };
    });
  return boxes.slice(1)
    .filter((box, k) => box.top < boxes[k].bottom - 0.5)
    .map((box) => box.name);
}
"""


@pytest.mark.parametrize("size", [(1280, 860), (1280, 640), (1024, 700), (920, 860), (390, 700)])
@pytest.mark.parametrize("patch", ["", "&patch=7,9"])
def test_nothing_in_the_panel_lies_over_the_next_line(
    visit: Any, digits_url: str, size: tuple[int, int], patch: str
):
    with visit(digits_url, f"#image=5{patch}", width=size[0], height=size[1]) as (page, _):
        save_picture(page, f"panel-{size[0]}-{size[1]}")
        assert page.evaluate(OVERLAPS) == []


def test_labels_say_that_a_number_is_an_image(visit: Any, digits: fs.Store, digits_url: str):
    """Ids of the digits are numbers: "mode 1 of 5" would be a mode of five."""
    with visit(digits_url, "#view=compare&mode=1&a=i5&b=i7") as (page, _):
        labels = [s.get_attribute("aria-label") for s in page.locator(".compare .stage").all()]
        assert labels[0].startswith(f"A: friction, mode 1 of image {digits.image_ids[5]}.")
        text = f"image {digits.image_ids[5]} minus image {digits.image_ids[7]}"
        assert page.get_by_text(text).is_visible()
