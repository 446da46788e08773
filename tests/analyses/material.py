"""What the tests of the analyses share: the vector's maps and small made-up stores."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np

from frictionstore.analyses import MemoryStore
from frictionstore.analyses.stats.arrangements import Arrangements
from tests.support import DATA

ALONE = ("information", "conv-probe", "content", "compare")
"""Analyses that `all` does not do."""


@cache
def digits() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Maps of 240 images of digits, mode 0 the largest, and what the notebook printed of them."""
    folder = DATA / "analyses"
    with np.load(folder / "digits240.npz") as file:
        maps = {name: file[name] for name in file.files}
    return maps, json.loads((folder / "digits240.json").read_text())


def permuted(
    labels: np.ndarray, permutations: int, seed: int, use: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Labels of the labelled images in every permutation, as analyses arrange them."""
    labels = np.asarray(labels).astype(np.int64)
    made = Arrangements(labels, int(labels.max()) + 1, seed, use=use, groups=groups)
    return made.take(np.flatnonzero(labels >= 0), slice(0, permutations))


def digits_store() -> MemoryStore:
    """The vector as a store in memory."""
    maps, _ = digits()
    return MemoryStore(
        {name: maps[name] for name in ("S", "friction", "settle")},
        labels=maps["label"],
        class_names=[str(digit) for digit in range(10)],
        name="digits240",
        batch=64,
    )


def noise_store(
    seed: int = 0, n: int = 60, grid: tuple[int, int] = (4, 5), modes: int = 3, classes: int = 3,
    effect: float = 0.0, batch: int = 16, **options: Any,
) -> MemoryStore:  # fmt: skip
    """Positive noise with random labels; `effect` shifts position (1, 2) of mode 1 by class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    maps = {
        name: rng.lognormal(2.0, 0.5, (n, *grid, modes)).astype(np.float32)
        for name in ("friction", "S")
    }
    maps["friction"][:, 1, 2, 1] += effect * labels
    maps["settle"] = rng.integers(0, 4, (n, *grid, modes)).astype(np.uint8)
    options.setdefault("labels", labels)
    options.setdefault("class_names", [f"class{c}" for c in range(classes)])
    return MemoryStore({**maps, **options.pop("maps", {})}, batch=batch, **options)


def with_repeats(maps: dict[str, np.ndarray], seed: int = 0, n: int = 2) -> dict[str, np.ndarray]:
    """Those maps with repeats of friction and settle, most of whose values stay, and exact maps."""
    rng = np.random.default_rng(seed)
    made = dict(maps)
    for name in ("friction", "settle"):
        values = np.repeat(maps[name][..., None], n, axis=4)
        moved = rng.random(values.shape) < 0.05
        moved[..., np.ptp(maps[name], axis=(0, 1, 2)) == 0, :] = False
        values[moved] += np.ones(1, values.dtype)
        made |= {f"{name}_repeats": values, f"{name}_exact": values[..., 0].copy()}
    return made


def feature(store: MemoryStore, name: str = "friction") -> np.ndarray:
    """The whole map in float64."""
    _, arrays = next(store.iter_chunks((name,), batch=store.n_images))
    return arrays[name].astype(np.float64)
