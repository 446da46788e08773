"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from tests.support import MakeStore, random_maps

pytest_plugins = ["tests.served_stores"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, with the reason, where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: this machine has none"))


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Make a small store: ``make_store(name="a", n=12, shard_images=4, ...)``."""

    def make(name: str = "small", n: int = 12, grid: int = 4, modes: int = 4, seed: int = 0,
             classes: int = 3, **options: Any) -> fs.Store:  # fmt: skip
        maps = {**random_maps(n, grid, modes, seed), **options.pop("maps", {})}
        options.setdefault("label", np.arange(n) % classes)
        options.setdefault("class_names", [f"class{k}" for k in range(classes)])
        return fs.from_arrays(tmp_path / f"{name}.zarr", maps, **options)

    return make
