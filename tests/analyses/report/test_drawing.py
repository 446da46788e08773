"""A stranger's SVG in the report: what draws is kept, everything else is left out and named."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from frictionstore.analyses.core.figures import save_figure
from frictionstore.analyses.report.drawing import ATTRIBUTES, ELEMENTS, read_drawing
from frictionstore.analyses.report.html import svg_figure

NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(inside: str, attributes: str = "", before: str = "") -> bytes:
    return f"{before}<svg {NAMESPACES} {attributes}>{inside}</svg>".encode()


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


class Elements(HTMLParser):
    """Elements as a browser's HTML parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


HOSTILE = {
    "script": "<script>document.title='owned'</script>",
    "script in another namespace": "<script xmlns='http://www.w3.org/1999/xhtml'>1</script>",
    "script as data": "<script><![CDATA[1]]></script>",
    "event handler": "<rect onload='alert(1)' onmouseover='alert(1)' width='9'/>",
    "outside picture": "<image href='https://example.org/a.png' width='9'/>",
    "outside picture, xlink": "<image xlink:href='//example.org/a.png' width='9'/>",
    "picture that is SVG": "<image href='data:image/svg+xml;base64,AAAA' width='9'/>",
    "picture that is none": "<image href='data:image/png;base64,AAAA' width='9'/>",
    "outside shape": "<use href='https://example.org/a.svg#x'/>",
    "link": "<a href='javascript:alert(1)'><rect width='9'/></a>",
    "foreign object": "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'/></foreignObject>",
    "style sheet": "<style>* { display: none } @import 'https://example.org/a.css'</style>",
    "style that loads": "<rect style='fill: url(https://example.org/#a)' width='9'/>",
    "style that loads, escaped": "<rect style='fill: u\\72l(//example.org/a)' width='9'/>",
    "style that loads, new word": "<rect style='fill: src(\"//example.org/a\")' width='9'/>",
    "style that covers the page": "<rect style='position: fixed; z-index: 9' width='9'/>",
    "attribute that loads": "<rect fill='url(https://example.org/#a)' width='9'/>",
    "filter": "<rect filter='url(#f)' width='9'/>",
    "animation": "<rect width='9'><set attributeName='href' to='javascript:1'/></rect>",
    "class of the page": "<rect class='skip' width='9'/>",
    "nested drawing": "<svg onload='1'/>",
    "expression": "<rect style='width: expression(alert(1))'/>",
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_does_not_draw_is_left_out_and_named(hostile: str) -> None:
    html = svg_figure(svg(hostile + "<path d='M 0 0 L 1 1' id='kept'/>"), "f0", "one", "text")
    assert 'id="f0-kept"' in html
    inside = html[html.index("<svg") : html.index("</svg>")]
    for tag, attributes in Elements(inside).found:
        assert tag in {name.lower() for name in ELEMENTS}
        allowed = {"id", "href", "style", "aria-hidden"} | {name.lower() for name in ATTRIBUTES}
        assert attributes.keys() <= allowed
    for word in ("example", "alert", "owned", "fixed", "import", "javascript", "skip", "AAAA"):
        assert word not in inside
    assert "left out of it: " in html


def test_a_name_left_out_is_escaped() -> None:
    html = svg_figure(svg("<b xmlns='&lt;img src=x>'/><x\u0301/>"), "f0", "<i>", "<i>")
    assert "<img" not in html
    assert "<i>" not in html


def test_what_a_figure_of_matplotlib_draws_is_kept(tmp_path) -> None:
    """Every element and every number of it, but for the style that is said by attributes."""
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2, 3], [3, 1, 2], "o--", label="a < b")
    axes.imshow(np.arange(9).reshape(3, 3))
    axes.legend()
    save_figure(figure, tmp_path / "one")
    data = (tmp_path / "one.svg").read_bytes()
    drawing = read_drawing(data, "f0")
    assert drawing.left_out == []
    assert drawing.width == pytest.approx(460.8)

    def shapes(text: str) -> list[tuple[str, str]]:
        tree = ElementTree.fromstring(text)
        return [
            (element.tag.rpartition("}")[2], re.sub(r"\s+", " ", element.attrib.get("d", "")))
            for element in tree.iter()
            if "svg" in element.tag.rpartition("}")[0]
            and element.tag[-5:] not in ("style", "adata")
        ]

    parsed = str(drawing.svg).replace("<svg", f"<svg {NAMESPACES}", 1)
    assert shapes(parsed) == shapes(data.decode())
    texts = [e.text for e in ElementTree.fromstring(parsed).iter() if e.tag.endswith("}text")]
    assert "a < b" in texts


def test_ids_do_not_meet_and_colours_follow_the_page() -> None:
    data = svg(
        '<metadata>x</metadata><defs><clipPath id="p1"/><path id="a" d="M 0 0"/></defs>'
        '<g id="b" clip-path="url(#p1)" style="fill: #ffffff; stroke: #000000"/>'
        '<use xlink:href="#a"/>',
        'width="72pt" height="36pt" viewBox="0 0 72 36"',
        '<?xml version="1.0"?><!DOCTYPE svg>',
    )
    first = svg_figure(data, "f0", "one", "text")
    both = first + svg_figure(data, "f1", "two", "text")
    ids = re.findall(r'\bid="([^"]+)"', both)
    assert len(ids) == len(set(ids)) == 6
    assert "url(#f0-p1)" in first
    assert '"#f0-a"' in first
    assert "fill: none; stroke: currentColor" in first
    assert "metadata" not in first
    assert "<?xml" not in first
    assert "max-width: 90px" in first
    assert "left out" not in first


def bomb_of_uses() -> bytes:
    rounds = "".join(f"<g id='g{k + 1}'>" + f"<use href='#g{k}'/>" * 10 + "</g>" for k in range(12))
    return svg(f"<g id='g0'><path d='M 0 0'/></g>{rounds}")


def test_a_drawing_cannot_grow_while_it_is_drawn() -> None:
    """10^12 shapes, by groups that use groups: only shapes can be used again."""
    drawing = read_drawing(bomb_of_uses(), "f0")
    assert "href" in drawing.left_out
    assert "href" not in drawing.svg
    clip = svg(
        "<clipPath id='a'><rect width='9'/></clipPath>"
        "<clipPath id='b'><rect width='9' clip-path='url(#a)'/></clipPath>"
        "<rect clip-path='url(#b)' width='9'/>"
    )
    assert read_drawing(clip, "f0").svg.count("url(") == 1


def test_a_shape_used_too_often_is_refused() -> None:
    """1.2 MB that would draw 10 GB."""
    shape = "M 0 0 " + "L 1 1 " * 100_000
    once = svg(f"<path id='a' d='{shape}'/><use href='#a'/>")
    assert read_drawing(once, "f0").left_out == []
    often = svg(f"<path id='a' d='{shape}'/>" + "<use href='#a'/>" * 40_000)
    with pytest.raises(ValueError, match="draws more than 20,000,000 characters"):
        read_drawing(often, "f0")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is no SVG"),
        (b"\xff\xfe\x00", "it is no SVG"),
        (b"<svg", "it is no SVG"),
        (b"<html><body/></html>", "its first element is html, not svg"),
        (b"<svg/>", "its first element is svg, not svg"),
        (b"<?xml version='1.0' encoding='no-such'?><svg/>", "it is no SVG"),
        (svg("&lol;", before='<!DOCTYPE svg [<!ENTITY lol "lol">]>'), "declares the entity lol"),
        (svg("&x;", before='<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/hostname">]>'), "entity"),
        (svg("<g>" * 100_000 + "</g>" * 100_000), "more than 64 levels deep"),
    ],
    ids=range(9),
)
def test_what_is_no_drawing_is_left_out_whole(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_drawing(data, "f0")
    html = svg_figure(data, "f0", "one", "text")
    assert "<svg" not in html
    assert "(left out, since " in html


def test_pictures_are_small_and_inside() -> None:
    kept = read_drawing(svg(f"<image href='{png(40, 30)}' width='9'/>"), "f0")
    assert kept.left_out == []
    assert png(40, 30) in kept.svg
    huge = read_drawing(svg(f"<image href='{png(60_000, 500)}' width='9'/>"), "f0")
    assert huge.left_out == ["href"]


def test_reading_takes_time_in_proportion_to_the_file() -> None:
    """Values that a pattern with a bad memory would read again from every character."""
    import time

    def seconds(count: int) -> float:
        data = svg(f"<path d='{'a' * count}'/><path d='{' ' * count}('/>")
        start = time.perf_counter()
        read_drawing(data, "f0")
        return time.perf_counter() - start

    seconds(1000)
    assert seconds(2_000_000) < 150 * max(seconds(100_000), 0.002)  # 400 if quadratic
