"""Mean, variance and Moran's I of every image and mode of a map, collected chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.moments import Extremes
from frictionstore.analyses.core.parameters import MAX_PERMUTATIONS
from frictionstore.analyses.core.passes import THREADS, Arrays
from frictionstore.analyses.core.rows import ImageRows, Pile, Taken
from frictionstore.analyses.core.source import mode_name
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import mean_interval
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
    """Maps that may be shuffled further, by mode; none of a mode with more than `most`."""

    def __init__(self, n_modes: int, most: float) -> None:
        self._most = most
        self._pile = Pile()
        self._count = [0] * n_modes
        self._numbers: list[list[NDArray[np.int64]] | None] = [[] for _ in range(n_modes)]

    def add(self, mode: int, maps: NDArray[Any]) -> None:
        """Keep maps of a mode."""
        numbers = self._numbers[mode]
        if numbers is None or not len(maps):
            return
        self._count[mode] += len(maps)
        if self._count[mode] > self._most:
            self._numbers[mode] = None
        else:
            numbers.append(self._pile.add(maps))

    def absorb(self, other: Further) -> None:
        """Take in what another has kept."""
        for mode, numbers in enumerate(other._numbers):
            if numbers is None:
                self._numbers[mode] = None
            for some in numbers or ():
                self.add(mode, other._pile.take(some))

    def maps(self) -> tuple[Taken | None, NDArray[np.bool_]]:
        """Return all maps that were kept, mode after mode, and of which modes there are none."""
        numbers = [of_part for of_mode in self._numbers for of_part in of_mode or ()]
        found = Taken(self._pile, np.concatenate(numbers)) if numbers else None
        return found, np.array([of_mode is None for of_mode in self._numbers])


class SpatialRows:
    """Mean, variance and Moran's I of every image and mode, and the test of their mean.

    Maps are tested one by one only if `single`: p of each takes most of the time.

    Attributes
    ----------
    rows
        float64 of shape (n_images, n_modes): `mean`, `variance` and, as `moran_queen_i`, for each
        contiguity `i`, `z`, `p`, `variance` and `shuffles` (how many p rests on), NaN where an
        image's map does not vary.
    joint, own
        Per contiguity the test of mean I under joint shuffles, and of maps without the mean map of
        all images; empty without permutations, `own` also if not `single`.
    local, correlogram
        Where neighbours are alike, and how far; None as `own` is empty.
    constant
        bool of shape (n_modes,): modes with one value in the whole map.
    """

    stays = ("rows", "_further")

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
        return ("_sums", "rows", "_extremes", "_further", *products) if self._first else products

    def begin(self) -> None:
        self._products: Floats | None = None
        self._varying: NDArray[np.int64] | None = None
        self._held: list[NDArray[Any]] = []
        self._done = 0
        if self._first:
            self._sums: Floats | None = None
            self.rows = ImageRows(self._n_images)
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
        mean, variance = patch_variation(maps)
        noted = {"mean": mean, "variance": variance}
        for name, result in found.items():
            known = (result.i, result.z, result.p, result.variance_random)
            for key, values in zip(KEYS, known, strict=True):
                noted[f"moran_{name}_{key}"] = values.reshape(n, modes)
        self.rows.add(noted)
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
        names = [f"moran_{name}_p" for name in CONTIGUITIES]
        few = np.concatenate([self._few(p) for _, p in self.rows.blocks(*names)])
        maps, too_many = self._further.maps()
        del self._further
        few[:, too_many] = False
        modes, images = np.nonzero(few.T)
        if maps is None:
            return
        by_image = np.argsort(images, kind="stable")

        def of_block(rows: slice) -> NDArray[np.int64]:
            """Return which of the maps are of some images."""
            ends = np.searchsorted(images, (rows.start, rows.stop), sorter=by_image)
            return by_image[ends[0] : ends[1]]

        p = np.empty((len(names), len(images)))
        family = np.zeros(self._n_modes, np.int64)
        for rows, values in self.rows.blocks(*names):
            which = of_block(rows)
            for of_test, block in zip(p, values, strict=True):
                of_test[which] = block[images[which] - rows.start, modes[which]]
            family += np.isfinite(values[CONTIGUITIES.index("queen")]).sum(axis=0)
        extreme, shuffles = shuffle_further(
            maps,
            np.rint(p * (self._permutations + 1)).astype(np.int64) - 1,
            permutations=self._permutations,
            groups=modes,
            family=family,
            alpha=self._alpha,
            most=MOST_SHUFFLES,
            rng=np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(0, 1))),
            weights=self._weights,
            threads=THREADS,
        )
        for name, count, total in zip(CONTIGUITIES, extreme, shuffles, strict=True):
            for key, found in (("p", (count + 1) / (total + 1)), ("shuffles", total)):

                def changed(
                    rows: slice, there: Floats, found: NDArray[Any] = found
                ) -> NDArray[Any]:
                    which = of_block(rows)
                    there = there.copy()
                    there[images[which] - rows.start, modes[which]] = found[which]
                    return there

                self.rows.derive(f"moran_{name}_{key}", changed, f"moran_{name}_{key}", rows=True)

    def end_pass(self) -> bool:
        if self._first:
            self.constant = self._extremes.constant()
            self.rows.whole()
            self._sum, self._sums = self._sums, None
            n = float(self._permutations)
            for name in CONTIGUITIES:
                self.rows.derive(
                    f"moran_{name}_shuffles", lambda p: np.where(np.isfinite(p), n, np.nan),
                    f"moran_{name}_p",
                )  # fmt: skip
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


@dataclass(frozen=True)
class Found:
    """What is found of every image and mode, shape (n_images, n_modes), and of all together.

    `rows` is as in `SpatialRows`, with `cv`, 0 where nothing varies, NaN where the mean is 0, and
    `moran_queen_q` and so on, over images, each mode a family; `joint`, `own`, `local` and
    `correlogram` are as there.
    """

    rows: ImageRows
    joint: dict[Contiguity, JointResult]
    own: dict[Contiguity, JointResult]
    local: LocalMoran | None
    correlogram: Correlogram | None
    constant: NDArray[np.bool_]
    groups: NDArray[np.int64] | None = None

    def interval(self, of_images: Floats) -> tuple[float, float, float]:
        """Return the mean over images and its interval, where it is finite."""
        there = np.isfinite(of_images)
        groups = None if self.groups is None else self.groups[there]
        return mean_interval(of_images[there], groups=groups)

    @property
    def varying(self) -> NDArray[np.int64]:
        """Numbers of the modes that are not constant."""
        return np.flatnonzero(~self.constant)

    def names(self, modes: NDArray[Any]) -> list[str]:
        """Return the names of modes."""
        return [mode_name(int(mode), len(self.constant)) for mode in modes]

    def each(self, name: str) -> Iterator[Floats]:
        """Yield the numbers of all images in each mode that varies."""
        return (self.rows.column(name, int(mode)) for mode in self.varying)


def found_in(of: SpatialRows, groups: NDArray[np.int64] | None = None) -> Found:
    """Return what follows from the rows of all images, which may belong together in groups."""

    def cv(mean: Floats, variance: Floats) -> Floats:
        std = np.sqrt(variance)
        found = np.divide(std, mean, out=np.full(std.shape, np.nan), where=mean != 0)
        found[std == 0] = 0.0
        return found

    of.rows.derive("cv", cv, "mean", "variance")
    for name in CONTIGUITIES:
        for mode in range(len(of.constant)):
            p = of.rows.column(f"moran_{name}_p", mode)
            q = permutation.benjamini_hochberg(p)
            of.rows.put_column(f"moran_{name}_q", mode, f"moran_{name}_p", q)
    return Found(of.rows, of.joint, of.own, of.local, of.correlogram, of.constant, groups)
