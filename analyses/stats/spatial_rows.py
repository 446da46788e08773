"""Mean, variance and Moran's I of every image and mode of a map, collected chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.moments import Extremes
from frictionstore.analyses.core.parameters import MAX_PERMUTATIONS
from frictionstore.analyses.core.passes import THREADS, Arrays
from frictionstore.analyses.stats.joint_moran import JointMoran, JointResult
from frictionstore.analyses.stats.lattice import CONTIGUITIES, Contiguity, Weights
from frictionstore.analyses.stats.moran import FEW, SURE, MoranTest, moran, shuffle_further
from frictionstore.analyses.stats.permutation import spans
from frictionstore.analyses.stats.spatial_maps import (
    Correlogram,
    LocalMoran,
    correlogram,
    local_moran,
)

Floats = NDArray[np.float64]

_BATCH = 256
"""Images that share one set of shuffles; fixed, so that results do not depend on chunks."""

MOST_SHUFFLES = MAX_PERMUTATIONS
"""Shuffles of one map at most, those of maps with few as extreme among the first included."""

PRODUCTS = 256 << 20
"""Bytes of products of patches held at a time; less takes more passes over the store."""

HELD = 256 << 20
"""Bytes of maps that may be held to be shuffled further."""


def patch_variation(maps: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return mean and variance over patches (ddof 1) of each image and mode.

    Parameters
    ----------
    maps
        Finite array of shape (n_images, row, col, mode), more than one patch.

    Returns
    -------
    Two float64 arrays of shape (n_images, n_modes). The variance of equal values is exactly 0.
    """
    x = maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float64)
    variance = x.var(axis=1, ddof=1)
    variance[x.min(axis=1) == x.max(axis=1)] = 0.0
    return x.mean(axis=1), variance


class SpatialRows:
    """Mean, variance and Moran's I of every image and mode, and the test of their mean.

    Maps are tested one by one only if `single`: p of each takes most of the time.

    Attributes
    ----------
    mean, variance
        float64 of shape (n_images, n_modes).
    moran
        Per contiguity a dict of `i`, `z`, `p`, `variance` and `shuffles` (how many p rests on),
        float64 of shape (n_images, n_modes); NaN where an image's map does not vary.
    joint, own
        Per contiguity the test of mean I under joint shuffles, and of maps without the mean map of
        all images; empty without permutations, `own` also if not `single`.
    local, correlogram
        Where neighbours are alike, and how far; None as `own` is empty.
    constant
        bool of shape (n_modes,): modes with one value in the whole map.
    """

    def __init__(
        self,
        feature: str,
        n_images: int,
        grid: tuple[int, int],
        n_modes: int,
        permutations: int,
        seed: int,
        alpha: float,
        weights: Weights,
        *,
        single: bool = True,
    ) -> None:
        self._single = single
        self.features = (feature,)
        self._feature = feature
        self._n_images = n_images
        self._permutations = permutations
        self._seed = seed
        self._alpha = alpha
        self._weights: Weights = weights
        self._grid = grid
        shape = (n_images, n_modes)
        self.mean = np.empty(shape)
        self.variance = np.empty(shape)
        self.moran = {
            name: {key: np.full(shape, np.nan) for key in ("i", "z", "p", "variance", "shuffles")}
            for name in CONTIGUITIES
        }
        self.joint: dict[Contiguity, JointResult] = {}
        self.own: dict[Contiguity, JointResult] = {}
        self.local: LocalMoran | None = None
        self.correlogram: Correlogram | None = None
        self._tests = [MoranTest(*grid, name, weights) for name in CONTIGUITIES]
        self._joint, self._joint_own = (JointMoran(self._tests, n_modes) for _ in range(2))
        n_patches = grid[0] * grid[1]
        self._sum: Floats = np.zeros((n_patches, n_modes))
        # As many modes a pass as their products of patches may take.
        blocks = list(spans(n_modes, max(1, PRODUCTS // (8 * n_patches**2))))
        self._left = [(self._joint, block) for block in blocks]
        self._left += [(self._joint_own, block) for block in blocks if single]
        self._first = True
        self._start_block()
        self._extremes = Extremes(n_modes)
        self._held: list[NDArray[Any]] = []
        self._further: list[list[NDArray[Any]] | None] = [[] for _ in range(n_modes)]

    def _start_block(self) -> None:
        self._products: Floats | int = 0
        self._varying: NDArray[np.int64] | int = 0

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        if self._first:
            self.mean[rows], self.variance[rows] = patch_variation(values)
            self._extremes.update(values)
            self._sum += values.sum(axis=0, dtype=np.float64).reshape(self._sum.shape)
        self._held.append(values)
        held = np.concatenate(self._held) if len(self._held) > 1 else values
        start = rows.stop - len(held)
        while len(held) >= _BATCH or (rows.stop == self._n_images and len(held)):
            if self._first:
                self._test(held[:_BATCH], start)
            if self._permutations:
                self._multiply(held[:_BATCH])
            start += _BATCH
            held = held[_BATCH:]
        self._held = [held]

    def _multiply(self, maps: NDArray[Any]) -> None:
        joint, block = self._left[0]
        maps = maps.reshape(len(maps), -1, maps.shape[-1])[:, :, block]
        if joint is self._joint_own:
            maps = maps - self._sum[:, block] / self._n_images
            # What rounding leaves of a map that is the mean map does not vary.
            size = np.abs(self._sum[:, block]).max(axis=0) / self._n_images
            maps[
                np.broadcast_to(np.abs(maps).max(axis=1, keepdims=True) <= 1e-12 * size, maps.shape)
            ] = 0.0
        products, varying = joint.moments(maps)
        self._products = products + self._products
        self._varying = varying + self._varying

    def _test(self, maps: NDArray[Any], start: int) -> None:
        n, rows, cols, modes = maps.shape
        flat = np.moveaxis(maps, 3, 1).reshape(n * modes, rows, cols)
        # A batch has its own stream: p-values of different batches are independent.
        seed = np.random.SeedSequence(self._seed, spawn_key=(start // _BATCH,))
        found = moran(
            flat,
            weights=self._weights,
            permutations=self._permutations if self._single else 0,
            rng=np.random.default_rng(seed),
            threads=THREADS,
        )
        where = slice(start, start + n)
        for name, result in found.items():
            known = {
                "i": result.i,
                "z": result.z,
                "p": result.p,
                "variance": result.variance_random,
            }
            for key, values in known.items():
                self.moran[name][key][where] = values.reshape(n, modes)
        if self._permutations and self._single:
            self._hold(maps, where)

    def _hold(self, maps: NDArray[Any], where: slice) -> None:
        """Keep the maps that may be shuffled further, of modes that do not have too many."""
        few = self._few()[where]
        most = min(
            SURE * self._n_images / (self._alpha * self._permutations),
            HELD / (maps.itemsize * self._grid[0] * self._grid[1] * maps.shape[3]),
        )
        for mode, held in enumerate(self._further):
            if held is not None:
                held.append(maps[few[:, mode], :, :, mode])
                if sum(map(len, held)) > most:
                    self._further[mode] = None

    def _few(self) -> NDArray[np.bool_]:
        """Return for which maps few shuffles were as extreme as the observed."""
        level = FEW / (self._permutations + 1) + 1e-12
        return np.any([found["p"] <= level for found in self.moran.values()], axis=0)

    def _shuffle_further(self) -> None:
        few = self._few()
        few[:, [held is None for held in self._further]] = False
        modes, images = np.nonzero(few.T)
        maps = [part for held in self._further for part in held or ()]
        self._further = []
        for found in self.moran.values():
            found["shuffles"][np.isfinite(found["p"])] = self._permutations
        if not len(images):
            return
        p = np.stack([found["p"][images, modes] for found in self.moran.values()])
        extreme, shuffles = shuffle_further(
            np.concatenate(maps),
            np.rint(p * (self._permutations + 1)).astype(np.int64) - 1,
            permutations=self._permutations,
            groups=modes,
            family=np.isfinite(self.moran["queen"]["p"]).sum(axis=0),
            alpha=self._alpha,
            most=MOST_SHUFFLES,
            rng=np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0, 1))),
            weights=self._weights,
            threads=THREADS,
        )
        for found, count, total in zip(self.moran.values(), extreme, shuffles, strict=True):
            found["p"][images, modes] = (count + 1) / (total + 1)
            found["shuffles"][images, modes] = total

    def end_pass(self) -> bool:
        self.constant = self._extremes.constant()
        self._held = []
        if not self._permutations:
            return False
        if self._first and self._single:
            self._shuffle_further()
        self._first = False
        assert isinstance(self._products, np.ndarray)
        assert isinstance(self._varying, np.ndarray)
        joint, block = self._left.pop(0)
        joint.shuffle(block, self._products, self._varying, self._seed, THREADS)
        if joint is self._joint and self._single:
            with np.errstate(divide="ignore", invalid="ignore"):
                mean = self._products / self._varying[:, None, None]
            local = local_moran(mean, self._tests[0], self._weights == "row", self._seed)
            lags = correlogram(mean, self._grid, self._seed)
            self.local = local if self.local is None else self.local.joined(local)
            before = self.correlogram
            self.correlogram = lags if before is None else before.joined(lags)
        self._start_block()
        if not self._left:
            self.joint = self._joint.results()
            self.own = self._joint_own.results() if self._single else {}
        return bool(self._left)
