"""Resizing and cropping of images, as `torchvision.transforms` does it on PIL images.

``Resize(size)``, ``CenterCrop(size)``, ``ToTensor()``: the shorter side becomes `size`
(bilinear, antialiased), the centre square is cut out, values become float32 in [0, 1].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frictionstore.format.schema import thumbnail_side

LARGEST_RESIZED = 1 << 24  # pixels, or 16 squares: of a longer image only the centre is made


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre `size` x `size` square of `image` with its shorter side resized to `size`."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != size:
        longer = int(size * long / short)
        if size * longer > max(LARGEST_RESIZED, 16 * size * size):
            # The same square up to rounding to a grey level: its place in the image is a fraction.
            scale, start = long / longer, round((longer - size) / 2.0)
            ends = (start * scale, (start + size) * scale)
            box = (0, ends[0], width, ends[1]) if width <= height else (ends[0], 0, ends[1], height)
            return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        new = (size, longer) if width <= height else (longer, size)
        image = image.resize(new, Image.Resampling.BILINEAR)
    width, height = image.size
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def to_array(image: Image.Image, size: int, grey: bool = False) -> NDArray[np.float32]:
    """An image as the encoder takes it.

    Parameters
    ----------
    image : PIL image of any mode
        Converted first: to RGB, or to luma (Pillow's mode L) for an encoder with one channel.
        Floats (mode F, in [0, 1]) are grey, and keep their precision.
    size : int
    grey : bool

    Returns
    -------
    ndarray of shape (3, size, size), or (1, size, size) for luma, float32, in [0, 1]
    """
    if image.mode == "F":
        floats = np.clip(np.asarray(resize_and_crop(image, size)), 0.0, 1.0)
        return np.repeat(floats[None], 1 if grey else 3, axis=0)
    pixels = np.asarray(resize_and_crop(image.convert("L" if grey else "RGB"), size))
    if grey:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255.0)


LUMA = np.array([19595, 38470, 7471], np.float64) / (1 << 16)  # Pillow's weights of R, G and B


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The luma (1, size, size) of an image (3, size, size) whose values are not 8-bit pixels."""
    return np.tensordot(LUMA, image, axes=1)[None].astype(np.float32)


def thumbnails(images: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Thumbnails of encoder inputs: block means, `low` to `high` mapped to 0 to 255.

    Parameters
    ----------
    images : ndarray of shape (count, channels, size, size)
        Luma is shown as grey.

    Returns
    -------
    ndarray of shape (count, side, side, 3), uint8
    """
    count, channels, size, _ = images.shape
    side = thumbnail_side(size)
    block = size // side
    blocks = images.reshape(count, channels, side, block, side, block)
    means = blocks.mean(axis=(3, 5), dtype=np.float64)
    scaled = np.clip((means - low) / (high - low), 0.0, 1.0) * 255.0
    shown = np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    return shown if channels == 3 else np.repeat(shown, 3, axis=-1)
