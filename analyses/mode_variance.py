"""mode-variance: which mode varies most over the grid, and where does the variance lie?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.passes import Arrays, Passes, class_moments, run, tail_caveat
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import MapStore, mode_name, require_feature, require_grid
from frictionstore.analyses.core.terminal import interval_text, number
from frictionstore.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = "mode-variance"
QUESTION = "Which mode has most spatial structure, and does variance lie between images or patches?"

GROUPS = 20
"""Groups of images that the jackknife leaves out in turn."""


@dataclass(frozen=True)
class Shares:
    """Where the total sum of squares of each mode lies; float64 of shape (n_modes,).

    `total = images + positions + rest`, over images i and positions p with n and P of them:
    images is `P sum_i (x_i. - x..)^2`, positions is `n sum_p (x_.p - x..)^2`.
    """

    total: Floats
    images: Floats
    positions: Floats
    rest: Floats


def mean_map_figures(mean_map: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean, variance over patches (ddof 1) and CV of a mean map.

    Parameters
    ----------
    mean_map
        float64 array of shape (..., n_patches, n_modes).

    Returns
    -------
    Three float64 arrays of shape (..., n_modes); CV is `std / mean`, NaN where the mean is 0.
    """
    mean = mean_map.mean(axis=-2)
    variance = mean_map.var(axis=-2, ddof=1)
    cv = np.divide(np.sqrt(variance), mean, out=np.full(mean.shape, np.nan), where=mean != 0)
    return mean, variance, cv


def shares(m2: Floats, mean_map: Floats, image_square: Floats, n_images: int) -> Shares:
    """Return where the variance of each mode lies.

    Parameters
    ----------
    m2
        Sum over images of squared deviations from the mean map, shape (n_patches, n_modes).
    mean_map
        Mean over images, same shape.
    image_square
        Sum over images of the squared deviation of an image's mean from the overall mean, shape
        (n_modes,).
    n_images
        Number of images.
    """
    n_patches = len(mean_map)
    positions = n_images * np.square(mean_map - mean_map.mean(axis=0)).sum(axis=0)
    images = n_patches * image_square
    rest = np.maximum(m2.sum(axis=0) - images, 0.0)
    return Shares(images + positions + rest, images, positions, rest)


class GroupedSums:
    """Sums of maps over random groups of images, and moments of the images' own means.

    Images are dealt to the groups a round at a time in random order, so that sizes differ by at
    most one and the order of the images does not matter.

    Attributes
    ----------
    sums
        Sums of maps, each minus the first chunk's mean map `shift`; shape (groups, n_patches,
        n_modes).
    counts
        Images per group, shape (groups,).
    image_means
        Moments of the images' own means over patches, one group, shape (n_modes,).
    """

    def __init__(
        self, feature: str, n_images: int, grid: tuple[int, int], n_modes: int, seed: int
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        groups = min(GROUPS, n_images)
        rounds = -(-n_images // groups)
        rng = np.random.default_rng(seed)
        dealt = np.tile(np.arange(groups, dtype=np.int8), (rounds, 1))
        self._groups = rng.permuted(dealt, axis=1).reshape(-1)[:n_images]
        self.counts = np.bincount(self._groups, minlength=groups)
        self.sums = np.zeros((groups, grid[0] * grid[1], n_modes))
        self.image_means = Moments(1, (n_modes,))
        self.shift: Floats | None = None

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        values = values.reshape(len(values), *self.sums.shape[1:]).astype(np.float64)
        self.image_means.update(values.mean(axis=1), np.zeros(len(values), np.int64))
        if self.shift is None:
            self.shift = values.mean(axis=0)
        values -= self.shift
        indicator = (self._groups[rows] == np.arange(len(self.sums))[:, None]).astype(np.float64)
        self.sums += (indicator @ values.reshape(len(values), -1)).reshape(self.sums.shape)

    def end_pass(self) -> bool:
        return False

    def left_out_means(self) -> Floats:
        """Return the mean map without each group in turn, (groups, n_patches, n_modes)."""
        assert self.shift is not None
        rest = self.counts.sum() - self.counts
        return self.shift + (self.sums.sum(axis=0) - self.sums) / rest[:, None, None]


def jackknife(estimate: Floats, left_out: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return a delete-a-group jackknife interval.

        se^2 = (G - 1) / G sum_g (estimate_(g) - mean)^2,  interval = estimate +- t_{G-1} se

    Parameters
    ----------
    estimate
        Estimate from all groups, shape (...).
    left_out
        Estimates without each group, shape (groups, ...), at least 2 groups.
    level
        Coverage, in (0, 1).

    References
    ----------
    Efron and Stein (1981), The jackknife estimate of variance, Annals of Statistics 9, 586-596.
    """
    from scipy.special import stdtrit

    groups = len(left_out)
    error = np.sqrt(np.var(left_out, axis=0) * (groups - 1))
    half = float(stdtrit(groups - 1, 0.5 + level / 2)) * error
    return estimate - half, estimate + half


class ModeVariance:
    """The analysis, asked for: see `mode_variance` for the parameters."""

    def __init__(self, *, feature: str = "friction", seed: int = 0) -> None:
        options.check(seed=seed)
        self.feature = feature
        self.seed = seed

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        grid = require_grid(store, NAME)
        self.n_modes = require_feature(store, self.feature)
        if store.n_images < 2:
            raise AnalysisError(
                f"{NAME} compares images and {printable(store.name)} holds one: extract at least 2"
            )
        self.collected = class_moments(passes, self.feature, self.n_modes)
        self.grouped = passes.share(
            ("grouped sums", self.feature, self.seed),
            lambda: GroupedSums(self.feature, store.n_images, grid, self.n_modes, self.seed),
        )

    def result(self) -> Result:
        everything = self.collected.everything
        flat = (-1, self.n_modes)
        mean_map = everything.mean[0].reshape(flat)
        n = self.store.n_images
        constant = everything.minimum[0].reshape(flat).min(axis=0) == everything.maximum[0].reshape(
            flat
        ).max(axis=0)
        varying = np.flatnonzero(~constant)
        mean, variance, cv = (x[varying] for x in mean_map_figures(mean_map))
        left_out = self.grouped.left_out_means()
        _, variances, cvs = mean_map_figures(left_out)
        variance_low, variance_high = jackknife(variance, variances[:, varying])
        cv_low, cv_high = jackknife(cv, cvs[:, varying])
        image_square = self.grouped.image_means.m2[0]
        found = shares(everything.m2[0].reshape(flat), mean_map, image_square, n)
        total = found.total[varying]
        names = [mode_name(int(m), self.n_modes) for m in varying]
        columns: dict[str, Any] = {
            "mode": names,
            "map_mean": mean,
            "map_variance": variance,
            "variance_low": np.maximum(variance_low, 0.0),
            "variance_high": variance_high,
            "map_cv": cv,
            "cv_low": np.maximum(cv_low, 0.0),
            "cv_high": cv_high,
            "share_between_images": found.images[varying] / total,
            "share_between_positions": found.positions[varying] / total,
            "share_rest": found.rest[varying] / total,
        }
        constant_names = [mode_name(int(m), self.n_modes) for m in np.flatnonzero(constant)]
        notebook = {
            "per_mode": [
                {
                    "mode": name,
                    "map_mean": float(mean[j]),
                    "map_var": float(variance[j]),
                    "map_cv": float(np.sqrt(variance[j]) / (mean[j] + 1e-8)),
                }
                for j, name in enumerate(names)
            ]
        }
        values: dict[str, Any] = {}
        if len(varying):
            top, top_cv = int(variance.argmax()), int(np.nan_to_num(cv, nan=-1.0).argmax())
            values = {
                "largest_variance_mode": int(varying[top]),
                "largest_variance": float(variance[top]),
                "largest_variance_low": float(columns["variance_low"][top]),
                "largest_variance_high": float(variance_high[top]),
                "largest_cv_mode": int(varying[top_cv]),
                "largest_cv": float(cv[top_cv]),
                "largest_cv_low": float(columns["cv_low"][top_cv]),
                "largest_cv_high": float(cv_high[top_cv]),
            }
            interval = interval_text(columns["variance_low"][top], variance_high[top])
            sentence = (
                f"the mean {self.feature} map varies most in {names[top]}: variance over patches "
                f"{number(variance[top])} (95% interval {interval}), CV {number(cv[top])}; of that "
                f"mode's variance {columns['share_between_images'][top]:.0%} lies between images, "
                f"{columns['share_between_positions'][top]:.0%} between positions and "
                f"{columns['share_rest'][top]:.0%} in the rest."
            )
        else:
            sentence = f"every mode of {self.feature} is constant: there is no variance to split."
        caveats = options.constant_caveat(constant_names)
        if len(varying):
            caveats.append(
                f"the variance of a mean map holds noise of the mean, about the rest / "
                f"{n} images; intervals are a jackknife over {len(left_out)} groups of images"
            )
        caveats += tail_caveat(self.feature, everything)
        caveats += options.feature_caveats(self.feature, ratios=True)

        def maps() -> Figure:
            from frictionstore.analyses.core import figures

            title = f"{self.feature}: mean over {n} images"
            skip = np.broadcast_to(constant, everything.mean[0].shape)
            return figures.mode_maps(everything.mean[0], title, self.feature, skip=skip)

        def bars() -> Figure:
            from frictionstore.analyses.core import figures

            parts = {
                "between images": columns["share_between_images"],
                "between positions": columns["share_between_positions"],
                "rest": columns["share_rest"],
            }
            return figures.stacked_shares(names, parts, f"{self.feature}: where variance lies")

        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns={"modes": columns},
            arrays={"mean_map": everything.mean[0], "variance_map": everything.variance()[0]},
            values=values,
            notebook=notebook,
            parameters={"groups": len(left_out)},
            seed=self.seed,
            sentences=[sentence],
            caveats=caveats,
            provenance=provenance(self.store),
            figures={"mean_map": maps, "shares": bars} if len(varying) else {},
            shown=("modes",),
        )


def mode_variance(
    store: MapStore, *, feature: str = "friction", seed: int = 0, show_progress: bool = False
) -> Result:
    """Measure how much the mean map varies over the grid, and where a mode's variance lies.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    seed
        Seed of the groups of images that the jackknife leaves out.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `modes`: mean, variance over patches (ddof 1) and CV of the mean map with 95%
        jackknife intervals, and the shares of the total sum of squares between images, between
        positions and in the rest. Arrays `mean_map` and `variance_map` (over images, ddof 1),
        shape (row, col, mode).

    Raises
    ------
    AnalysisError
        If there are fewer than 2 images, values are not finite, or the grid is one patch.
    """
    return run(store, [ModeVariance(feature=feature, seed=seed)], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
@options.seed_option
def command(target: options.Target, features: tuple[str, ...], seed: int) -> None:
    """Measure how much the mean map varies over the grid, and where a mode's variance lies."""
    target.run(ModeVariance(feature=f, seed=seed) for f in features)


make_callable(__name__)
