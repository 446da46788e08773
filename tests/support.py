"""What several test files use: paths, types and made-up maps."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs

DATA = Path(__file__).parent / "data"


def slow(*values: Any) -> list[Any]:
    """Values of a parameter that the fast tests leave out."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def heed_interrupts() -> None:
    """In a child before it starts: it would ignore what a background job, or nohup, ignores."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


MakeStore = Callable[..., "fs.Store"]


def random_images(n: int = 12, size: int = 12, seed: int = 0) -> Any:
    """Thumbnails of noise."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


def random_maps(n: int = 12, grid: int = 4, modes: int = 4, seed: int = 0) -> dict[str, Any]:
    """Plausible maps: S falls along the mode axis, one mode of friction is constant."""
    rng = np.random.default_rng(seed)
    shape = (n, grid, grid, modes)
    friction = rng.lognormal(3.0, 1.0, shape).astype(np.float32)
    friction[..., 0] = 5.0
    return {
        "S": np.sort(rng.uniform(1.0, 6.0, shape).astype(np.float32), axis=-1)[..., ::-1],
        "friction": friction,
        "settle": rng.integers(0, 6, shape).astype(np.uint8),
    }
