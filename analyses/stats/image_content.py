"""What an image shows, patch by patch, as numbers that maps can be held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONTENTS = ("gradient", "variance")
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601: what a pixel's red, green and blue weigh in its brightness."""


def contents(images: NDArray[Any], grid: tuple[int, int]) -> Floats:
    """Return the gradient magnitude and the variance of the pixels of every patch.

    Brightness is the weighted sum of red, green and blue (the mean of other numbers of channels);
    its gradient is by central differences over the whole image, one-sided at its border.

    Parameters
    ----------
    images
        Array of shape (n, height, width, channels); height and width are multiples of the grid's.
    grid
        Rows and columns of patches.

    Returns
    -------
    float64 array of shape (n, row, col, 2): mean magnitude over the patch, and variance (ddof 0).
    """
    channels = images.shape[-1]
    weights = LUMA if channels == len(LUMA) else np.full(channels, 1.0 / channels)
    light = images.astype(np.float64) @ np.asarray(weights)
    steep = np.zeros_like(light)
    for axis in (1, 2):
        if light.shape[axis] > 1:
            steep += np.square(np.gradient(light, axis=axis))
    n, height, width = light.shape
    blocks = (n, grid[0], height // grid[0], grid[1], width // grid[1])
    gradient = np.sqrt(steep).reshape(blocks).mean(axis=(2, 4))
    return np.stack([gradient, light.reshape(blocks).var(axis=(2, 4))], axis=-1)
