"""A store of arrays that are in memory, with what analyses use of a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.text import printable


class MemoryStore:
    """Maps in memory with a store's interface: for arrays that are not in a store, and for tests.

    Parameters
    ----------
    maps
        Map name to array of shape (image, row, col, mode) or (image, row, col); mode 0 the
        largest.
    labels
        Integer array of shape (image,), -1 for none; None for no labels at all.
    class_names, image_ids, name
        As in a store.
    groups
        Group of each image, texts or integers of shape (image,); None for none.
    splits
        Rows of each split by its name, as a merged store has them.
    batch
        Images per chunk.

    Raises
    ------
    AnalysisError
        Maps, labels, ids and groups are not of the same images, or maps differ in grid or modes.
    """

    def __init__(
        self,
        maps: Mapping[str, ArrayLike],
        *,
        labels: ArrayLike | None = None,
        class_names: Sequence[str] = (),
        image_ids: Sequence[str] | None = None,
        groups: ArrayLike | None = None,
        splits: Mapping[str, slice] | None = None,
        name: str = "memory",
        batch: int = 256,
    ) -> None:
        self._maps = {key: np.asarray(value) for key, value in maps.items()}
        first = next((a for key, a in self._maps.items() if key != "image"), None)
        if first is None or first.ndim < 3:
            raise AnalysisError(
                "a store in memory needs a map over patches: (image, row, col, mode)"
            )
        n = len(first)
        self.name = name
        self.fingerprint = ""
        self.class_names = list(class_names)
        self.labels = np.full(n, -1, np.int32) if labels is None else np.asarray(labels, np.int32)
        self.image_ids = np.asarray(
            [str(i) for i in range(n)] if image_ids is None else list(image_ids)
        )
        self.groups: NDArray[np.int64] | None = None
        if groups is not None:
            names, self.groups = np.unique(np.asarray(groups), return_inverse=True)
            self.group_names = [str(name) for name in names]
        self.splits = dict(splits or {})
        self.n_images = n
        self.grid = (int(first.shape[1]), int(first.shape[2]))
        # Thumbnails ("image") have channels and pixels, where other maps have modes and patches.
        over_patches = {key: a for key, a in self._maps.items() if key != "image"}
        modes = (a.shape[3] for a in over_patches.values() if a.ndim > 3)
        self.n_modes = next(modes, 1)
        self.maps = tuple(self._maps)
        self._batch = batch
        given = {"labels": self.labels, "image_ids": self.image_ids, "groups": self.groups}
        fits = (n, *self.grid, self.n_modes)
        wrong = [(name, a) for name, a in over_patches.items() if a.shape[:4] != fits[: a.ndim]]
        wrong += [(name, a) for name, a in {**self._maps, **given}.items()
                  if a is not None and len(a) != n]  # fmt: skip
        if wrong:
            name, array = wrong[0]
            raise AnalysisError(
                f"{printable(name)} has shape {array.shape} beside maps of {n} images, "
                f"{self.grid[0]} x {self.grid[1]} patches and {self.n_modes} modes: give all of "
                "one size"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the maps, labels and groups."""
        digest = hashlib.sha256(self.labels.tobytes())
        if self.groups is not None:
            digest.update(self.groups.tobytes())
        for name in sorted(self._maps):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self._maps[name]).tobytes())
        return digest.hexdigest()

    def iter_chunks(
        self, names: Sequence[str], batch: int | None = None, threads: int | None = None,
        part: slice | None = None,
    ) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:  # fmt: skip
        """Yield slices of images, in order, with those maps."""
        step = self._batch if batch is None else batch
        first, stop = (0, self.n_images) if part is None else (part.start, part.stop)
        for start in range(first, stop, step):
            rows = slice(start, min(start + step, stop))
            yield rows, {name: self._maps[name][rows] for name in names}
