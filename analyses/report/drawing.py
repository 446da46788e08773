"""A figure's SVG, of which only what draws is kept: the file may be a stranger's.

What is not named here is left out and listed. A drawing refers to nothing outside itself, and to
shapes only, so that it cannot grow while it is drawn.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.parsers import expat

from markupsafe import Markup, escape

from frictionstore.text import printable

SVG = "http://www.w3.org/2000/svg "
SHAPES = frozenset({"path", "rect", "circle", "ellipse", "line", "polyline", "polygon"})
ELEMENTS = SHAPES | {
    "svg", "g", "defs", "use", "text", "tspan", "clipPath", "linearGradient", "radialGradient",
    "stop", "image",
}  # fmt: skip
_PROPERTIES = """clip-path clip-rule color display dominant-baseline fill fill-opacity fill-rule
    font font-family font-size font-stretch font-style font-variant font-weight letter-spacing
    opacity stop-color stop-opacity stroke stroke-dasharray stroke-dashoffset stroke-linecap
    stroke-linejoin stroke-miterlimit stroke-opacity stroke-width text-anchor visibility"""
_GEOMETRY = """clipPathUnits cx cy d dx dy fx fy gradientTransform gradientUnits height
    offset points preserveAspectRatio r rotate rx ry spreadMethod transform viewBox width x x1 x2
    y y1 y2"""
PROPERTIES = frozenset(_PROPERTIES.split())
ATTRIBUTES = PROPERTIES | frozenset(_GEOMETRY.split())
FUNCTIONS = frozenset({"rgb", "rgba", "matrix", "translate", "scale", "rotate", "skewX", "skewY"})
NEVER_DRAWN = frozenset({"metadata", "title", "desc"})  # left out without a word
HREFS = ("href", "http://www.w3.org/1999/xlink href")
OURS = "*{stroke-linejoin: round; stroke-linecap: butt}"  # what matplotlib's only style says
DEEPEST = 64
MOST_DRAWN = 20_000_000  # characters of shapes, those drawn again by <use> counted again
MOST_PIXELS = 25_000_000

_PLAIN = re.compile(r"[\w\s.,%#+()'\"-]*")
_REFERENCE = re.compile(r"url\(#([\w.-]+)\)")
_ID = re.compile(r"[\w.-]+")
_PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


@dataclass(frozen=True)
class Drawing:
    """What is kept of an SVG file, its width in points, and what was left out."""

    svg: Markup
    width: float | None
    left_out: list[str]


def read_drawing(data: bytes, prefix: str) -> Drawing:
    """Keep what draws of an SVG file, for a page that holds others beside it.

    Its ids get a prefix, since two figures may use the same; black and white become the page's
    ink and ground, so that it can be read in the dark.

    Parameters
    ----------
    data : bytes
    prefix : str
        Letters, digits, dashes and underscores.

    Raises
    ------
    ValueError
        It is no SVG file, or declares entities.
    """
    reader = _Reader(prefix)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = reader.entity
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"it is no SVG: {error}") from error
    return Drawing(Markup("".join(reader.parts)), reader.width, sorted(reader.left_out))


class _Reader:
    """Writes what is kept while expat reads."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.parts: list[str] = []
        self.open: list[str] = []
        self.left_out: set[str] = set()
        self.width: float | None = None
        self.shapes: dict[str, int] = {}  # id to the length of what it draws
        self.ids: set[str] = set()
        self.drawn = 0
        self.skipped: list[str] = []  # elements left out that are open
        self.style = ""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        space, tag = (SVG, name[len(SVG) :]) if name.startswith(SVG) else ("", name)
        if not self.open and (not space or tag != "svg"):
            raise ValueError(f"its first element is {printable(tag, 40)}, not svg")
        if self.skipped or not space or tag not in ELEMENTS or (tag == "svg" and self.open):
            if not self.skipped and tag not in NEVER_DRAWN | {"style"}:
                self.left_out.add(tag.rpartition(" ")[2])
            self.skipped.append(tag)
            return
        if len(self.open) >= DEEPEST:
            raise ValueError(f"its elements are more than {DEEPEST} levels deep")
        self.open.append(tag)
        kept = {}
        for attribute, value in attributes.items():
            if not self.parts and attribute in ("width", "height", "version"):
                continue  # in points, for paper; the page scales it by its view box
            found = self.attribute(tag, attribute, value)
            if found is not None:
                kept["href" if attribute in HREFS else attribute] = found
        if not self.parts:
            width = re.fullmatch(r"(\d+(?:\.\d+)?)pt", attributes.get("width", ""))
            self.width = float(width[1]) if width else None
            kept = {
                "aria-hidden": "true", "stroke-linejoin": "round", "stroke-linecap": "butt", **kept
            }  # fmt: skip
        text = "".join(f' {name}="{escape(value)}"' for name, value in kept.items())
        if tag in SHAPES and "id" in attributes:
            self.shapes.setdefault(attributes["id"], len(text))
        self.drawn += len(text)
        if self.drawn > MOST_DRAWN:
            raise ValueError(f"it draws more than {MOST_DRAWN:,} characters of shapes")
        self.parts.append(f"<{tag}{text}>")

    def end(self, _name: str) -> None:
        if not self.skipped:
            self.parts.append(f"</{self.open.pop()}>")
        elif self.skipped.pop() == "style" and not self.skipped:
            if self.style.strip() != OURS:
                self.left_out.add("style")
            self.style = ""

    def characters(self, data: str) -> None:
        if self.skipped:
            self.style += data if self.skipped == ["style"] else ""
        elif self.open[-1] in ("text", "tspan"):
            self.parts.append(str(escape(printable(re.sub(r"\s+", " ", data), 2000))))

    def entity(self, name: str, *_: object) -> None:
        raise ValueError(f"it declares the entity {printable(name, 40)}")

    def attribute(self, tag: str, name: str, value: str) -> str | None:
        """What is kept of an attribute's value; None leaves it out."""
        if name == "id":
            # matplotlib gives equal glyphs and markers the same id more than once.
            new = _ID.fullmatch(value) is not None and value not in self.ids
            self.ids.add(value)
            return f"{self.prefix}-{value}" if new else None
        if name in HREFS:
            found = self.reference(tag, value)
        elif name == "style":
            pairs = (part.partition(":")[::2] for part in value.split(";") if part.strip())
            kept = {p.strip(): self.value(p.strip(), v.strip()) for p, v in pairs}
            self.left_out.update(p for p, v in kept.items() if v is None or p not in PROPERTIES)
            return "; ".join(f"{p}: {v}" for p, v in kept.items() if v and p in PROPERTIES)
        else:
            found = self.value(name, value) if name in ATTRIBUTES else None
        if found is None and name not in ("type", "version"):
            self.left_out.add(name.rpartition(" ")[2])
        return found

    def reference(self, tag: str, value: str) -> str | None:
        """A shape drawn before, or a picture that is in the file itself."""
        if tag == "use" and value[:1] == "#" and value[1:] in self.shapes:
            self.drawn += self.shapes[value[1:]]
            return f"#{self.prefix}-{value[1:]}"
        if tag == "image" and (match := _PICTURE.fullmatch(value)) and _small(match[1]):
            return re.sub(r"\s+", "", value)
        return None

    def value(self, name: str, value: str) -> str | None:
        """A value without anything that could be loaded or run."""
        match = _REFERENCE.fullmatch(value)
        if match and name in ("clip-path", "fill", "stroke") and "clipPath" not in self.open:
            return f"url(#{self.prefix}-{match[1]})"
        before = (part.rstrip() for part in value.split("(")[:-1])
        functions = {re.split(r"[^\w-]", part)[-1] for part in before}
        if not _PLAIN.fullmatch(value) or functions - FUNCTIONS:
            return None
        if name == "fill" and value.lower() in ("#ffffff", "white"):
            return "none"
        return (
            "currentColor"
            if name in ("fill", "stroke") and value.lower() in ("#000000", "black")
            else value
        )


def _small(encoded: str) -> bool:
    """Whether this is a PNG of so many pixels that a browser can draw it."""
    from PIL import Image

    try:
        data = base64.b64decode(encoded)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            return image.width * image.height <= MOST_PIXELS
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
