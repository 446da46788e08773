"""An encoder of Freckles' size with random weights, and images in memory."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from frictionstore.extract.encoder.config import SVAEConfig
from frictionstore.extract.encoder.svae import PatchSVAE

CONFIG = SVAEConfig(
    V=48, D=4, patch_size=4, hidden=384, depth=4, n_cross_layers=2, n_heads=2, smooth_mid=8
)
SIZE = 64


def encoder() -> PatchSVAE:
    torch.manual_seed(0)
    return PatchSVAE(CONFIG).eval().requires_grad_(False)


class InMemory:
    """Random images that are already decoded and resized."""

    in_memory = True
    value_range = (0.0, 1.0)

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.random((count, 3, SIZE, SIZE), dtype=np.float32)
        self.ids = [str(i) for i in range(count)]
        self.labels = (np.arange(count) % 10).astype(np.int32)
        self.class_names = [str(k) for k in range(10)]

    def describe(self) -> dict[str, object]:
        return {"name": "benchmark", "count": len(self.ids)}

    def load(self, index: int, size: int) -> NDArray[np.float32]:
        return self.images[index]
