"""From the bytes of an image file to upright pixels without alpha, by rules that a store names.

Pixels of 8 bits stay as Pillow decodes them. What they alone do not say is done by a rule, and a
folder's request lists the rules that its images met:

- `TURNED`: a photograph is turned and mirrored as its EXIF orientation says.
- `ALPHA`: transparent pixels are laid over white.
- `DEEP`: grey of 16 bits is divided by its largest value and keeps its precision.
- `FLOAT`: grey of floats is taken as it is, and has to lie between 0 and 1.

Colour profiles are not applied, and of several frames the first is taken.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from frictionstore.errors import DatasetError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
"""Pillow's readers that decode pixels by themselves; others start programs or draw pages."""

LARGEST_FILE = 1 << 30
LARGEST_IMAGE = 178_956_970  # pixels, Pillow's own bound

TURNED = "turned as EXIF says"
ALPHA = "alpha over white"
DEEP = "16 bits over the largest value"
FLOAT = "floats as they are"

_ORIENTATION = 0x0112
_TURNS = dict(enumerate(
    (
        Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    ),
    start=2,
))  # fmt: skip
_PNG_EXIF = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


@cache
def endings() -> frozenset[str]:
    """File names' endings of the formats that are read."""
    known = (*readers(), "MPO")  # which is a JPEG with more frames
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in known)


@cache
def readers() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


_TURN = threading.RLock()


@contextmanager
def named_formats_only() -> Iterator[None]:
    """While it lasts, `Image.open` reads these formats only, also where a library calls it."""
    with _TURN:
        before = Image.open

        def named(fp: Any, mode: Any = "r", formats: Any = None) -> Image.Image:
            return before(fp, mode, readers() if formats is None else formats)

        Image.open = named  # type: ignore[assignment]
        try:
            yield
        finally:
            Image.open = before


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=readers())
    if image.width * image.height > LARGEST_IMAGE:
        raise DatasetError(
            f"it has {image.width:,} x {image.height:,} pixels, more than {LARGEST_IMAGE:,}"
        )
    return image


def _turn(image: Image.Image, data: bytes) -> Image.Transpose | None:
    if image.format == "TIFF":  # Pillow turns these when it decodes them
        return None
    if image.format == "PNG" and not any(mark in data for mark in _PNG_EXIF):
        return None  # Pillow would have to decode all of it to know
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF says nothing, and the pixels are sound
        return None


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def rules_met(data: bytes) -> set[str]:
    """The rules by which an image file will be decoded; none where it cannot be opened."""
    try:
        image = _opened(data)
        found = {TURNED} if _turn(image, data) is not None else set()
    except Exception:  # said when it is decoded
        return set()
    if image.mode.startswith("I"):
        return found | {DEEP}
    if image.mode == "F":
        return found | {FLOAT}
    return found | {ALPHA} if _has_alpha(image) else found


def decoded(data: bytes) -> Image.Image:
    """An image file's pixels by the rules: of 8 bits and without alpha, or floats in [0, 1].

    Raises
    ------
    DatasetError
        There is no rule for what it holds.
    Exception
        Whatever Pillow's decoders raise.
    """
    image: Image.Image = _opened(data)
    turn = _turn(image, data)
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled(image)
    elif _has_alpha(image):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if turn is None else image.transpose(turn)


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floats as floats in [0, 1]."""
    values: Any = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    largest = 1.0
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # not so of NaN either
            raise DatasetError(
                f"it holds floats from {values.min():g} to {values.max():g}, which have to lie "
                "between 0 and 1"
            )
    elif image.mode == "I" and image.format != "PPM":
        raise DatasetError(
            "it holds signed or 32-bit whole numbers, which have no scale: save it with 8 or 16 "
            "bits, or as floats from 0 to 1"
        )
    elif "transparency" in image.info:
        raise DatasetError("it has 16 bits and a transparent value: save it without that")
    else:
        largest = float((1 << tags.get(_BITS, (16,))[0]) - 1)
    scaled = values.astype(np.float32) / np.float32(largest)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 1 - scaled
    return Image.fromarray(scaled)
