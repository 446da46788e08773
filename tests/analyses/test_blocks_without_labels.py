"""A block whose images have no label: analyses by class say what they say without its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.analyses.core.memory_store import MemoryStore
from tests.support import random_maps

ASK: dict[str, Callable[[Any], Any]] = {
    "f_statistic": lambda s: fs.analyses.f_statistic(s, feature="friction", permutations=20),
    "class_distance": lambda s: fs.analyses.class_distance(s, feature="friction", permutations=20),
    "mode_variance": lambda s: fs.analyses.mode_variance(s, feature="friction"),
    "ridge_probe": lambda s: fs.analyses.ridge_probe(s, features="friction", permutations=20),
}


@pytest.mark.parametrize("analysis", ASK)
def test_a_block_without_a_labelled_image_changes_nothing(analysis: str) -> None:
    maps = random_maps(28, 4, 4)
    label = np.arange(28) % 2
    label[16:] = -1  # in blocks of 8, the last two have none
    blocks = MemoryStore(maps, labels=label, class_names=["a", "b"], batch=8)
    whole = MemoryStore(maps, labels=label, class_names=["a", "b"], batch=28)
    found, wanted = ASK[analysis](blocks), ASK[analysis](whole)
    for name, array in wanted.arrays.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found.arrays[name], array, rtol=1e-6, atol=1e-9)
