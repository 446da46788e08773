"""A store with a known class difference, its saved results and its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import frictionstore as fs
from frictionstore.analyses.core.saved import save_all
from frictionstore.analyses.everything import analyze_all
from frictionstore.analyses.report.page import write_report
from tests import browser as chromium

HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "$\\alpha$ \u202e&amp;",
]


def maps_with_classes(label: np.ndarray, grid: int = 6, seed: int = 0) -> dict[str, Any]:
    """Maps whose mode 1 is higher in the upper left corner for class 1."""
    rng = np.random.default_rng(seed)
    n = len(label)
    friction = rng.lognormal(2.0, 0.3, (n, grid, grid, 4)).astype(np.float32)
    friction[label == 1, :2, :2, 1] *= 4
    friction[..., 0] = 5.0
    falling = np.sort(rng.uniform(1, 6, (n, grid, grid, 4)), axis=-1)[..., ::-1]
    return {
        "S": falling.astype(np.float32),
        "friction": friction,
        "settle": rng.integers(1, 7, (n, grid, grid, 4)).astype(np.uint8),
        "image": rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8),
    }


@dataclass
class Made:
    store: fs.Store
    results: Path
    path: Path

    @property
    def html(self) -> str:
        return self.path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A whole report; class names and ids are hostile."""
    folder = tmp_path_factory.mktemp("report")
    label = np.arange(45) % 3
    store = fs.from_arrays(
        folder / "sample.zarr", maps_with_classes(label), label=label, class_names=HOSTILE,
        image_id=[f"{HOSTILE[k % 3]}{k}" for k in range(45)],
    )  # fmt: skip
    results = folder / "results"
    save_all(analyze_all(store, permutations=99, probe_permutations=9, folds=3), results)
    return Made(store, results, write_report(store, results / "index.html", results))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium.skip_without_browser()
    with chromium.launched() as launched:
        yield launched
