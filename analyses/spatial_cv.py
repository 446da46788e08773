"""spatial-cv: do the maps of single images have spatial structure?

CV does not change when the patches are shuffled, so it cannot answer; Moran's I does. Whether there
is structure at all is one test of all maps; which maps have it is a test of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import THREADS, Arrays, Passes, run
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    mode_name,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.image_summary import notebook_caveat
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import mean_interval
from frictionstore.analyses.stats.lattice import (
    CONTIGUITIES,
    FEW,
    JOINT_SHUFFLES,
    SURE,
    Contiguity,
    JointMoran,
    JointResult,
    MoranTest,
    Weights,
    moran,
    shuffle_further,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = "spatial-cv"
QUESTION = "Do maps have spatial structure within images?"
NOTEBOOK_THRESHOLD = 0.1
QUANTILES = (0.05, 0.25, 0.75, 0.95)


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
            (
                "spatial rows", self.feature, self.permutations, self.seed, self.alpha,
                self.weights,
            ),
            lambda: SpatialRows(
                self.feature, store.n_images, self.grid, self.n_modes, self.permutations,
                self.seed, self.alpha, self.weights,
            ),
        )  # fmt: skip

    def result(self) -> Result:
        rows = self.rows
        std = np.sqrt(rows.variance)
        cv = np.divide(std, rows.mean, out=np.full(std.shape, np.nan), where=rows.mean != 0)
        cv[std == 0] = 0.0
        q = {
            name: permutation.benjamini_hochberg(found["p"], axis=0)
            for name, found in rows.moran.items()
        }
        varying = np.flatnonzero(~rows.constant)
        constant = [mode_name(int(m), self.n_modes) for m in np.flatnonzero(rows.constant)]
        modes = self._mode_table(cv, q, varying)
        # The notebook kept the maps of its first images only, and added 1e-8 to the mean.
        kept = slice(NOTEBOOK_IMAGES)
        notebook_variance = rows.variance[kept]
        notebook_cv = std[kept] / (rows.mean[kept] + 1e-8)
        overall = float(notebook_cv.mean())
        verdict = "HAS SPATIAL STRUCTURE" if overall > NOTEBOOK_THRESHOLD else "SPATIALLY UNIFORM"
        one = self.store.n_images == 1
        notebook = {
            "mean_cv": overall,
            "verdict": verdict,
            "per_mode": [
                {
                    "mode": mode_name(int(m), self.n_modes),
                    "variance_mean": float(notebook_variance[:, m].mean()),
                    "variance_std": None if one else float(notebook_variance[:, m].std(ddof=1)),
                    "cv_mean": float(notebook_cv[:, m].mean()),
                    "cv_median": float(np.median(notebook_cv[:, m])),
                    "cv_max": float(notebook_cv[:, m].max()),
                }
                for m in varying
            ],
        }
        # Over all modes, 0 for a map that does not vary: a mode that was constant but for one patch
        # then counts as it did.
        per_image = cv.mean(axis=1)
        mean, low, high = mean_interval(per_image[np.isfinite(per_image)])
        values: dict[str, Any] = {
            "mean_cv": mean,
            "mean_cv_low": low,
            "mean_cv_high": high,
            "moran_expectation": self.tests["queen"].expectation,
            "permutations": self.permutations,
            "joint_shuffles": JOINT_SHUFFLES if self.permutations else 0,
            "smallest_p": permutation.smallest_p(JOINT_SHUFFLES if self.permutations else 0),
        }
        for name in CONTIGUITIES:
            i, tested = rows.moran[name]["i"][:, varying], q[name][:, varying]
            values[f"mean_moran_{name}"] = float(np.nanmean(i)) if np.isfinite(i).any() else np.nan
            values[f"n_maps_{name}"] = int(np.isfinite(i).sum())
            values[f"n_tested_{name}"] = int(np.isfinite(tested).sum())
            values[f"n_significant_{name}"] = int((tested <= self.alpha).sum())
            values[f"share_significant_{name}"] = _share(tested, self.alpha)
            if rows.joint:
                values[f"p_mean_moran_{name}"] = rows.joint[name].overall_p
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
                f"p of a mean Moran's I rests on {JOINT_SHUFFLES} joint shuffles, each of which "
                "moves the patches of all images and modes alike: that images share an effect of "
                "position is no evidence, that neighbours are alike in it is"
            )
            most = max(np.nanmax(f["shuffles"], initial=0) for f in rows.moran.values())
            caveats.append(
                f"p of one map rests on {self.permutations} shuffles or more (up to {most:.0f} "
                f"where fewer than {FEW} were as extreme); q is Benjamini-Hochberg over the images "
                "of a mode"
            )
        caveats += notebook_caveat(self.store.n_images)
        caveats.append("CV cannot see space: shuffling the patches of an image leaves it unchanged")
        caveats += options.feature_caveats(self.feature, ratios=True)

        def figure() -> Figure:
            from frictionstore.analyses.core import figures

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
            sentences=[_answer(self.feature, values, self.alpha, notebook)],
            caveats=caveats,
            provenance=provenance(self.store),
            figures={"moran": figure} if len(varying) else {},
            shown=("modes",),
        )  # fmt: skip

    def _mode_table(self, cv: Floats, q: dict[Any, Floats], varying: NDArray[Any]) -> Columns:
        rows: dict[str, list[Any]] = {}
        for m in varying:
            of_mode = cv[:, m][np.isfinite(cv[:, m])]
            row: dict[str, Any] = {"mode": mode_name(int(m), self.n_modes)}
            for name in CONTIGUITIES:
                i = self.rows.moran[name]["i"][:, m]
                mean, low, high = mean_interval(i[np.isfinite(i)])
                row |= {
                    f"moran_{name}": mean,
                    f"moran_{name}_low": low,
                    f"moran_{name}_high": high,
                }
                if self.rows.joint:
                    joint = self.rows.joint[name]
                    row[f"moran_{name}_p"] = float(joint.p[m])
                    row[f"moran_{name}_p_family_wise"] = float(joint.p_family_wise[m])
                row[f"share_significant_{name}"] = _share(q[name][:, m], self.alpha)
                row[f"z_{name}"] = _mean(self.rows.moran[name]["z"][:, m])
            mean, low, high = mean_interval(of_mode)
            row |= {"cv": mean, "cv_low": low, "cv_high": high}
            row["cv_std"] = float(of_mode.std(ddof=1)) if of_mode.size > 1 else np.nan
            row["cv_median"] = float(np.median(of_mode)) if of_mode.size else np.nan
            row["cv_max"] = float(of_mode.max()) if of_mode.size else np.nan
            for quantile in QUANTILES:
                row[f"cv_q{quantile * 100:02.0f}"] = (
                    float(np.quantile(of_mode, quantile)) if of_mode.size else np.nan
                )
            row["variance"] = float(self.rows.variance[:, m].mean())
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
            for key in ("i", "z", "p", "shuffles"):
                columns[f"moran_{name}_{key}"] = self.rows.moran[name][key][:, varying].reshape(-1)
            columns[f"moran_{name}_q"] = q[name][:, varying].reshape(-1)
        return columns


def _share(q: Floats, alpha: float) -> float:
    tested = np.isfinite(q)
    return float((q[tested] <= alpha).mean()) if tested.any() else float("nan")


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _answer(feature: str, values: dict[str, Any], alpha: float, notebook: dict[str, Any]) -> str:
    said = f"notebook verdict: {notebook['verdict']} (mean CV {number(notebook['mean_cv'])})"
    if not values["n_maps_queen"]:
        return f"no map of {feature} varies over its patches: there is nothing to test; {said}."
    i = f"mean Moran's I {number(values['mean_moran_queen'])} (queen; expected by chance "
    i += f"{number(values['moran_expectation'])}"
    if not values["permutations"]:
        return f"{feature} has {i}); no permutations were asked for; {said}."
    p = values["p_mean_moran_queen"]
    if p > alpha:
        answer = f"no evidence of spatial structure of {feature} within images, on average"
    else:
        alike = values["mean_moran_queen"] > values["moran_expectation"]
        answer = f"{feature} has spatial structure within images, neighbours being "
        answer += "more alike than by chance" if alike else "less alike than by chance"
    return (
        f"{answer}: {i}; {p_text(p)} under joint shuffles of the patches); taken one by one, "
        f"{values['share_significant_queen']:.1%} of {values['n_tested_queen']} maps of images and "
        f"modes are significant at q <= {alpha:g}; {said}."
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
        Shuffles of the patches of each map, or more where p needs them (see
        `analyses.stats.lattice.shuffle_further`); 0 leaves p-values out.
    seed
        Seed of the shuffles.
    alpha
        Level of the test of all maps, and at which maps are counted, in (0, 1).
    weights
        "row" for row-standardised spatial weights, "binary" for plain ones.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `modes`, with each mode's mean Moran's I and its p under joint shuffles of all
        images (see `analyses.stats.lattice.JointMoran`), alone and family-wise over modes; and
        `images`
        with one row per image and mode. Value `p_mean_moran_queen`, of all maps together, decides.
        Arrays of shape (image, mode): `mean`, `variance` (ddof 1), `cv`, and for each contiguity
        `moran_queen_i`, `moran_queen_z` (exact permutation z), `moran_queen_p` (two-sided, by
        `moran_queen_shuffles` shuffles) and `moran_queen_q` (Benjamini-Hochberg over images, each
        mode a family).

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
