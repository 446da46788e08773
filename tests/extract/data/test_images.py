"""Resizing and cropping against torchvision.transforms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frictionstore.extract.data.images import thumbnails, to_array

transforms = pytest.importorskip("torchvision.transforms")


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([1, 8, 32, 64]))
def test_the_same_numbers_as_torchvision(width: int, height: int, size: int) -> None:
    image = picture(width, height)
    chain = transforms.Compose(
        [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    )
    np.testing.assert_array_equal(to_array(image, size), chain(image).numpy())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_three_channels_in_range(mode: str) -> None:
    made = to_array(picture(50, 40, mode), 32)
    assert made.shape == (3, 32, 32)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1


def test_thumbnails_show_the_input() -> None:
    images = np.stack([to_array(picture(64, 64, seed=s), 64) for s in range(3)])
    shown = thumbnails(images, 0.0, 1.0)
    assert shown.shape == (3, 64, 64, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.rint(images.transpose(0, 2, 3, 1) * 255))


def test_thumbnails_of_large_images_are_block_means() -> None:
    images = np.random.default_rng(0).random((2, 3, 256, 256)).astype(np.float32)
    shown = thumbnails(images, 0.0, 1.0)
    assert shown.shape == (2, 128, 128, 3)
    corner = images[1, 2, 2:4, 4:6].astype(np.float64).mean() * 255
    assert shown[1, 1, 2, 2] == round(corner)


def test_values_outside_the_range_are_clipped() -> None:
    images = np.array([-9.0, -4.0, 0.0, 4.0, 9.0], np.float32)
    images = np.broadcast_to(images[:, None, None, None], (5, 3, 2, 2))
    assert thumbnails(np.ascontiguousarray(images), -4.0, 4.0)[:, 0, 0, 0].tolist() == [
        0, 0, 128, 255, 255,
    ]  # fmt: skip
