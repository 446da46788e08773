"""spatial-cv: do the maps of single images have spatial structure?

CV does not change when the patches are shuffled, so it cannot answer; Moran's I does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from analyses import options, permutation
from analyses.callable_module import make_callable
from analyses.errors import AnalysisError
from analyses.image_summary import mean_interval
from analyses.lattice import CONTIGUITIES, MoranTest, Weights, moran
from analyses.passes import THREADS, Arrays, Passes, run
from analyses.results import Columns, Result, provenance
from analyses.source import MapStore, mode_name, require_feature, require_grid
from analyses.terminal import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = "spatial-cv"
QUESTION = "Do maps have spatial structure within images?"
NOTEBOOK_THRESHOLD = 0.1
QUANTILES = (0.05, 0.25, 0.75, 0.95)

_BATCH = 256
"""Images that share one set of shuffles; fixed, so that results do not depend on chunks."""


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
    """Mean, variance and Moran's I of every image and mode.

    Attributes
    ----------
    mean, variance
        float64 of shape (n_images, n_modes).
    moran
        Per contiguity a dict of `i`, `z`, `p`, `variance`, float64 of shape (n_images, n_modes);
        NaN where an image's map does not vary.
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
        weights: Weights,
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        self._n_images = n_images
        self._permutations = permutations
        self._seed = seed
        self._weights: Weights = weights
        shape = (n_images, n_modes)
        self.mean = np.empty(shape)
        self.variance = np.empty(shape)
        self.moran = {
            name: {key: np.full(shape, np.nan) for key in ("i", "z", "p", "variance")}
            for name in CONTIGUITIES
        }
        self._low = np.full(n_modes, np.inf)
        self._high = np.full(n_modes, -np.inf)
        self._held: list[NDArray[Any]] = []
        self._done = 0

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        self.mean[rows], self.variance[rows] = patch_variation(values)
        self._low = np.minimum(self._low, values.min(axis=(0, 1, 2)))
        self._high = np.maximum(self._high, values.max(axis=(0, 1, 2)))
        self._held.append(values)
        held = np.concatenate(self._held) if len(self._held) > 1 else values
        while len(held) >= _BATCH or (rows.stop == self._n_images and len(held)):
            self._test(held[:_BATCH])
            held = held[_BATCH:]
        self._held = [held]

    def _test(self, maps: NDArray[Any]) -> None:
        n, rows, cols, modes = maps.shape
        flat = np.moveaxis(maps, 3, 1).reshape(n * modes, rows, cols)
        # A batch has its own stream: p-values of different batches are independent.
        seed = np.random.SeedSequence(self._seed, spawn_key=(self._done // _BATCH,))
        found = moran(
            flat,
            weights=self._weights,
            permutations=self._permutations,
            rng=np.random.default_rng(seed),
            threads=THREADS,
        )
        where = slice(self._done, self._done + n)
        for name, result in found.items():
            into = self.moran[name]
            into["i"][where] = result.i.reshape(n, modes)
            into["z"][where] = result.z.reshape(n, modes)
            into["p"][where] = result.p.reshape(n, modes)
            into["variance"][where] = result.variance_random.reshape(n, modes)
        self._done += n

    def end_pass(self) -> bool:
        self.constant = self._low == self._high
        return False


class SpatialCV:
    """The analysis, asked for: see `spatial_cv` for the parameters."""

    def __init__(
        self,
        *,
        feature: str = "friction",
        permutations: int = 1000,
        seed: int = 0,
        alpha: float = 0.05,
        weights: Weights = "row",
    ) -> None:
        options.check(permutations=permutations, seed=seed, alpha=alpha)
        if weights not in ("row", "binary"):
            raise AnalysisError(f"weights is {weights!r}: it must be 'row' or 'binary'")
        self.feature = feature
        self.permutations = permutations
        self.seed = seed
        self.alpha = alpha
        self.weights: Weights = weights

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        self.grid = require_grid(store, NAME)
        self.n_modes = require_feature(store, self.feature)
        self.tests = {name: MoranTest(*self.grid, name, self.weights) for name in CONTIGUITIES}
        self.rows = passes.share(
            ("spatial rows", self.feature, self.permutations, self.seed, self.weights),
            lambda: SpatialRows(
                self.feature, store.n_images, self.grid, self.n_modes, self.permutations,
                self.seed, self.weights,
            ),
        )  # fmt: skip

    def result(self) -> Result:
        rows = self.rows
        std = np.sqrt(rows.variance)
        cv = np.divide(std, rows.mean, out=np.full(std.shape, np.nan), where=rows.mean != 0)
        q = {
            name: permutation.benjamini_hochberg(found["p"], axis=0)
            for name, found in rows.moran.items()
        }
        varying = np.flatnonzero(~rows.constant)
        constant = [mode_name(int(m), self.n_modes) for m in np.flatnonzero(rows.constant)]
        modes = self._mode_table(cv, q, varying)
        # The notebook's CV counts a constant mode as 0 and adds 1e-8 to the mean.
        notebook_cv = std / (rows.mean + 1e-8)
        overall = float(notebook_cv.mean())
        verdict = "HAS SPATIAL STRUCTURE" if overall > NOTEBOOK_THRESHOLD else "SPATIALLY UNIFORM"
        one = self.store.n_images == 1
        notebook = {
            "mean_cv": overall,
            "verdict": verdict,
            "per_mode": [
                {
                    "mode": mode_name(int(m), self.n_modes),
                    "variance_mean": float(rows.variance[:, m].mean()),
                    "variance_std": None if one else float(rows.variance[:, m].std(ddof=1)),
                    "cv_mean": float(notebook_cv[:, m].mean()),
                    "cv_median": float(np.median(notebook_cv[:, m])),
                    "cv_max": float(notebook_cv[:, m].max()),
                }
                for m in varying
            ],
        }
        per_image = cv[:, varying].mean(axis=1) if len(varying) else np.full(len(cv), np.nan)
        mean, low, high = mean_interval(per_image[np.isfinite(per_image)])
        values: dict[str, Any] = {
            "mean_cv": mean,
            "mean_cv_low": low,
            "mean_cv_high": high,
            "moran_expectation": self.tests["queen"].expectation,
            "permutations": self.permutations,
            "smallest_p": permutation.smallest_p(self.permutations),
        }
        for name in CONTIGUITIES:
            i, tested = rows.moran[name]["i"][:, varying], q[name][:, varying]
            values[f"mean_moran_{name}"] = float(np.nanmean(i)) if np.isfinite(i).any() else np.nan
            values[f"n_tested_{name}"] = int(np.isfinite(tested).sum())
            values[f"n_significant_{name}"] = int((tested <= self.alpha).sum())
            values[f"share_significant_{name}"] = _share(tested, self.alpha)
        arrays = {"mean": rows.mean, "variance": rows.variance, "cv": cv}
        for name in CONTIGUITIES:
            arrays |= {f"moran_{name}_{key}": a for key, a in rows.moran[name].items()}
            arrays[f"moran_{name}_q"] = q[name]
        flat = int(((rows.variance == 0) & ~rows.constant).sum())
        caveats = options.constant_caveat(constant)
        if flat:
            caveats.append(
                f"{flat} of {rows.variance.size} maps of one image and mode do not vary over "
                "patches and have no Moran's I"
            )
        if self.permutations:
            caveats.append(
                f"with {self.permutations} permutations no p-value is below "
                f"{permutation.smallest_p(self.permutations):.2g}; q is Benjamini-Hochberg over "
                "the images of a mode"
            )
        caveats.append("CV cannot see space: shuffling the patches of an image leaves it unchanged")
        caveats += options.feature_caveats(self.feature, ratios=True)

        def figure() -> Figure:
            from analyses import figures

            return figures.histograms(
                {mode_name(int(m), self.n_modes): rows.moran["queen"]["i"][:, m] for m in varying},
                f"{self.feature}: Moran's I of single images, queen contiguity",
                "Moran's I", "images",
            )  # fmt: skip

        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns={"modes": modes, "images": self._image_table(cv, q, varying)},
            arrays=arrays,
            values=values,
            notebook=notebook,
            parameters={
                "permutations": self.permutations, "alpha": self.alpha, "weights": self.weights,
                "alternative": "two-sided",
            },
            seed=self.seed,
            sentences=[_answer(self.feature, values, self.alpha, verdict)],
            caveats=caveats,
            provenance=provenance(self.store),
            figures={"moran": figure} if len(varying) else {},
            shown=("modes",),
        )  # fmt: skip

    def _mode_table(self, cv: Floats, q: dict[Any, Floats], varying: NDArray[Any]) -> Columns:
        rows: dict[str, list[Any]] = {}
        for m in varying:
            of_mode = cv[:, m][np.isfinite(cv[:, m])]
            row: dict[str, Any] = {
                "mode": mode_name(int(m), self.n_modes),
                "variance": float(self.rows.variance[:, m].mean()),
            }
            mean, low, high = mean_interval(of_mode)
            row |= {"cv": mean, "cv_low": low, "cv_high": high}
            row["cv_std"] = float(of_mode.std(ddof=1)) if of_mode.size > 1 else np.nan
            row["cv_median"] = float(np.median(of_mode)) if of_mode.size else np.nan
            row["cv_max"] = float(of_mode.max()) if of_mode.size else np.nan
            for quantile in QUANTILES:
                row[f"cv_q{quantile * 100:02.0f}"] = (
                    float(np.quantile(of_mode, quantile)) if of_mode.size else np.nan
                )
            for name in CONTIGUITIES:
                found = self.rows.moran[name]
                i = found["i"][:, m][np.isfinite(found["i"][:, m])]
                mean, low, high = mean_interval(i)
                row |= {
                    f"moran_{name}": mean,
                    f"moran_{name}_low": low,
                    f"moran_{name}_high": high,
                    f"z_{name}": float(np.nanmean(found["z"][:, m])) if i.size else np.nan,
                    f"share_significant_{name}": _share(q[name][:, m], self.alpha),
                }
            for key, value in row.items():
                rows.setdefault(key, []).append(value)
        return dict(rows)

    def _image_table(self, cv: Floats, q: dict[Any, Floats], varying: NDArray[Any]) -> Columns:
        n, k = len(cv), len(varying)
        ids = np.asarray(self.store.image_ids)
        columns: dict[str, Any] = {
            "image": np.repeat(np.arange(n), k),
            "image_id": np.repeat(ids, k),
            "mode": np.tile(varying, n),
            "mean": self.rows.mean[:, varying].reshape(-1),
            "variance": self.rows.variance[:, varying].reshape(-1),
            "cv": cv[:, varying].reshape(-1),
        }
        for name in CONTIGUITIES:
            for key in ("i", "z", "p"):
                columns[f"moran_{name}_{key}"] = self.rows.moran[name][key][:, varying].reshape(-1)
            columns[f"moran_{name}_q"] = q[name][:, varying].reshape(-1)
        return columns


def _share(q: Floats, alpha: float) -> float:
    tested = np.isfinite(q)
    return float((q[tested] <= alpha).mean()) if tested.any() else float("nan")


def _answer(feature: str, values: dict[str, Any], alpha: float, verdict: str) -> str:
    notebook = f"notebook verdict: {verdict} (mean CV {number(values['mean_cv'])})"
    if np.isnan(values["mean_moran_queen"]):
        return f"no map of {feature} varies over its patches, so there is no structure; {notebook}."
    i = f"mean Moran's I {number(values['mean_moran_queen'])} (queen; expected by chance "
    i += f"{number(values['moran_expectation'])})"
    if not values["permutations"]:
        return f"{feature} has {i}; no permutations were asked for; {notebook}."
    share = values["share_significant_queen"]
    has = "has spatial structure" if share > alpha else "shows no spatial structure"
    return (
        f"{feature} {has} within images: {i}, and {share:.1%} of "
        f"{values['n_tested_queen']} maps of images and modes are significant at q <= {alpha:g}; "
        f"{notebook}."
    )


def spatial_cv(
    store: MapStore,
    *,
    feature: str = "friction",
    permutations: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
    weights: Weights = "row",
    show_progress: bool = False,
) -> Result:
    """Measure how each image's map varies over its patches, and whether neighbours are alike.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    permutations
        Shuffles of the patches; 0 leaves p-values out.
    seed
        Seed of the shuffles.
    alpha
        Level at which images are counted, in (0, 1).
    weights
        "row" for row-standardised spatial weights, "binary" for plain ones.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `modes`, and `images` with one row per image and mode. Arrays of shape (image,
        mode): `mean`, `variance` (ddof 1), `cv`, and for each contiguity `moran_queen_i`,
        `moran_queen_z` (exact permutation z), `moran_queen_p` (two-sided, by permutation) and
        `moran_queen_q` (Benjamini-Hochberg over images, each mode a family).

    Raises
    ------
    AnalysisError
        If values are not finite or the grid has fewer than 4 patches.
    """
    plan = SpatialCV(
        feature=feature, permutations=permutations, seed=seed, alpha=alpha, weights=weights
    )
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
@options.permutations_option(1000, "of the patches")
@options.seed_option
@options.alpha_option
@click.option(
    "--weights",
    type=click.Choice(["row", "binary"]),
    default="row",
    show_default=True,
    help="Row-standardised or plain spatial weights.",
)
def command(
    target: options.Target,
    features: tuple[str, ...],
    permutations: int,
    seed: int,
    alpha: float,
    weights: Weights,
) -> None:
    """Measure how each image's map varies over its patches, and whether neighbours are alike."""
    target.run(
        SpatialCV(feature=f, permutations=permutations, seed=seed, alpha=alpha, weights=weights)
        for f in features
    )


make_callable(__name__)
