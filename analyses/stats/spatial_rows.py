"""Mean, variance and Moran's I of every image and mode of a map, collected chunk by chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.collecting import joined
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

KEYS = ("i", "z", "p", "variance")
"""Figures of a map's Moran's I."""

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


class Further:
    """Maps that may be shuffled further, by mode; None of a mode with too many."""

    def __init__(self, n_modes: int, most: float) -> None:
        self._most = most
        self.held: list[list[NDArray[Any]] | None] = [[] for _ in range(n_modes)]

    def add(self, mode: int, maps: NDArray[Any]) -> None:
        """Keep maps of a mode."""
        held = self.held[mode]
        if held is not None:
            held.append(maps)
            if sum(map(len, held)) > self._most:
                self.held[mode] = None

    def absorb(self, other: Further) -> None:
        """Take in what another has kept."""
        for mode, held in enumerate(other.held):
            if held is None:
                self.held[mode] = None
            for maps in held or ():
                self.add(mode, maps)


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

    stays = ("mean", "variance", "moran")
    mean: Floats
    variance: Floats

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
        self._n_modes = n_modes
        self.moran: dict[Contiguity, dict[str, Floats]] = {}
        self.joint: dict[Contiguity, JointResult] = {}
        self.own: dict[Contiguity, JointResult] = {}
        self.local: LocalMoran | None = None
        self.correlogram: Correlogram | None = None
        self._tests = [MoranTest(*grid, name, weights) for name in CONTIGUITIES]
        self._joint, self._joint_own = (JointMoran(self._tests, n_modes) for _ in range(2))
        n_patches = grid[0] * grid[1]
        self._sum: Floats | None = None
        # As many modes a pass as their products of patches may take.
        blocks = list(spans(n_modes, max(1, PRODUCTS // (8 * n_patches**2))))
        self._left = [(self._joint, block) for block in blocks]
        self._left += [(self._joint_own, block) for block in blocks if single]
        self._n_own = len(blocks) if single else 0
        self._first = True
        self.begin()

    @property
    def state(self) -> tuple[str, ...]:
        """Products in every pass, all else in the first."""
        products = ("_products", "_varying")
        return ("_sums", "_rows", "_extremes", "_further", *products) if self._first else products

    def begin(self) -> None:
        self._products: Floats | None = None
        self._varying: NDArray[np.int64] | None = None
        self._held: list[NDArray[Any]] = []
        self._done = 0
        if self._first:
            self._sums: Floats | None = None
            self._rows: dict[str, list[Floats]] = {}
            self._extremes = Extremes(self._n_modes)
            self._further = Further(self._n_modes, self._most())

    def _most(self) -> float:
        """Return how many maps of a mode may be held to be shuffled further."""
        patches = self._grid[0] * self._grid[1]
        return min(
            SURE * self._n_images / (self._alpha * max(self._permutations, 1)),
            HELD / (4 * patches * self._n_modes),
        )

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        if self._first:
            mean, variance = patch_variation(values)
            self._note({"mean": mean, "variance": variance})
            self._extremes.update(values)
            total = values.sum(axis=0, dtype=np.float64).reshape(-1, self._n_modes)
            self._sums = total if self._sums is None else self._sums + total
        self._held.append(values)
        held = np.concatenate(self._held) if len(self._held) > 1 else values
        self._done = rows.stop - len(held)
        while len(held) >= _BATCH:
            self._take(held[:_BATCH])
            held = held[_BATCH:]
        self._held = [held]

    def close(self) -> None:
        """Take in the last batch of a part, which may be smaller."""
        held, self._held = self._held, []
        if held and len(held[0]):
            self._take(held[0])

    def _note(self, values: dict[str, Floats]) -> None:
        for name, of_images in values.items():
            self._rows.setdefault(name, []).append(of_images)

    def _take(self, maps: NDArray[Any]) -> None:
        if self._first:
            self._test(maps, self._done)
        if self._permutations:
            self._multiply(maps)
        self._done += len(maps)

    def _multiply(self, maps: NDArray[Any]) -> None:
        joint, block = self._left[0]
        own = len(self._left) <= self._n_own
        maps = maps.reshape(len(maps), -1, maps.shape[-1])[:, :, block]
        if own:
            assert self._sum is not None
            maps = maps - self._sum[:, block] / self._n_images
            # What rounding leaves of a map that is the mean map does not vary.
            size = np.abs(self._sum[:, block]).max(axis=0) / self._n_images
            maps[
                np.broadcast_to(np.abs(maps).max(axis=1, keepdims=True) <= 1e-12 * size, maps.shape)
            ] = 0.0
        products, varying = joint.moments(maps)
        self._products = products if self._products is None else products + self._products
        self._varying = varying if self._varying is None else varying + self._varying

    def _test(self, maps: NDArray[Any], start: int) -> None:
        n, rows, cols, modes = maps.shape
        flat = np.moveaxis(maps, 3, 1).reshape(n * modes, rows, cols)
        # A batch has its own stream: p-values of different batches are independent.
        whole, rest = divmod(start, _BATCH)  # of selected images a part may begin anywhere
        seed = np.random.SeedSequence(self._seed, spawn_key=(start, 2) if rest else (whole,))
        found = moran(
            flat,
            weights=self._weights,
            permutations=self._permutations if self._single else 0,
            rng=np.random.default_rng(seed),
            threads=THREADS,
        )
        for name, result in found.items():
            known = (result.i, result.z, result.p, result.variance_random)
            for key, values in zip(KEYS, known, strict=True):
                self._note({f"{name} {key}": values.reshape(n, modes)})
        if self._permutations and self._single:
            p = [result.p.reshape(n, modes) for result in found.values()]
            few = self._few(p)
            for mode in range(modes):
                self._further.add(mode, maps[few[:, mode], :, :, mode])

    def _few(self, p: list[Floats]) -> NDArray[np.bool_]:
        """Return for which maps few shuffles were as extreme as the observed."""
        level = FEW / (self._permutations + 1) + 1e-12
        return np.any([of_test <= level for of_test in p], axis=0)

    def _shuffle_further(self) -> None:
        few = self._few([found["p"] for found in self.moran.values()])
        few[:, [held is None for held in self._further.held]] = False
        modes, images = np.nonzero(few.T)
        maps = [part for held in self._further.held for part in held or ()]
        self._further.held = []
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
        if self._first:
            self.constant = self._extremes.constant()
            rows = joined(self._rows)
            self.mean, self.variance = rows.pop("mean"), rows.pop("variance")
            self._sum, self._sums = self._sums, None
            self.moran = {name: {key: rows.pop(f"{name} {key}") for key in KEYS}
                          for name in CONTIGUITIES}  # fmt: skip
            for found in self.moran.values():
                found["shuffles"] = np.full(self.mean.shape, np.nan)
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
        if not self._left:
            self.joint = self._joint.results()
            self.own = self._joint_own.results() if self._single else {}
        return bool(self._left)
