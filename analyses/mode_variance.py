"""mode-variance: which mode varies most over the grid, and where does the variance lie?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.groups import groups_of, parts_of_groups
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.passes import Arrays, Passes, class_moments, run
from frictionstore.analyses.core.results import Result, by_row, drawn, provenance
from frictionstore.analyses.core.source import MapStore, mode_name, require_feature, require_grid
from frictionstore.analyses.core.terminal import interval_text, number
from frictionstore.analyses.stats.intervals import jackknife
from frictionstore.text import printable

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


@dataclass(frozen=True)
class Spread:
    """How the mean map varies; arrays of shape (n_modes,), each mode's, with 95% intervals."""

    mean: Floats
    variance: Floats
    variance_low: Floats
    variance_high: Floats
    cv: Floats
    cv_low: Floats
    cv_high: Floats


def spread(mean_map: Floats, left_out: Floats, varying: NDArray[Any]) -> Spread:
    """Return mean, variance and CV of a mean map with jackknife intervals, of some modes.

    Parameters
    ----------
    mean_map
        float64 array of shape (n_patches, n_modes).
    left_out
        Mean maps without each group of images, shape (groups, n_patches, n_modes).
    varying
        Numbers of the modes that are not constant.
    """
    mean, variance, cv = (x[varying] for x in mean_map_figures(mean_map))
    _, variances, cvs = mean_map_figures(left_out)
    variance_low, variance_high = jackknife(variance, variances[:, varying])
    cv_low, cv_high = jackknife(cv, cvs[:, varying])
    return Spread(
        mean, variance, np.maximum(variance_low, 0.0), variance_high,
        cv, np.maximum(cv_low, 0.0), cv_high,
    )  # fmt: skip


class GroupedSums:
    """Sums of maps over random groups of images, and moments of the images' own means.

    Images are dealt to the groups a round at a time in random order, so that sizes differ by at
    most one and the order of the images does not matter. Of images that belong together whole
    groups (`belonging`) are dealt.

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
        self,
        feature: str,
        n_images: int,
        grid: tuple[int, int],
        n_modes: int,
        seed: int,
        belonging: NDArray[np.int64] | None = None,
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        groups = min(GROUPS, n_images)
        rounds = -(-n_images // groups)
        rng = np.random.default_rng(seed)
        if belonging is None:
            dealt = np.tile(np.arange(groups, dtype=np.int8), (rounds, 1))
            self._groups = rng.permuted(dealt, axis=1).reshape(-1)[:n_images]
        else:
            self._groups, groups = parts_of_groups(belonging, GROUPS, rng, NAME)
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


@dataclass(frozen=True, kw_only=True)
class ModeVarianceParameters(parameters.Parameters):
    """What is asked for: see `mode_variance`."""

    feature: str = parameters.feature()
    seed: int = parameters.seed()


class ModeVariance:
    """The plan: moments of all images, and sums over the groups that the jackknife leaves out."""

    def __init__(self, asked: ModeVarianceParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        self._store: MapStore = store
        grid = require_grid(store, NAME)
        self._n_modes = require_feature(store, asked.feature)
        if store.n_images < 2:
            raise AnalysisError(
                f"{NAME} compares images and {printable(store.name)} holds one: extract at least 2"
            )
        self._collected = class_moments(passes, asked.feature, self._n_modes)
        self._grouped = passes.share(
            ("grouped sums", asked.feature, asked.seed),
            lambda: GroupedSums(
                asked.feature, store.n_images, grid, self._n_modes, asked.seed, groups_of(store)
            ),
        )

    def result(self) -> Result:
        everything = self._collected.everything
        flat = (-1, self._n_modes)
        mean_map = everything.mean[0].reshape(flat)
        varying = np.flatnonzero(
            everything.minimum[0].reshape(flat).min(axis=0)
            != everything.maximum[0].reshape(flat).max(axis=0)
        )
        image_square = self._grouped.image_means.m2[0]
        return _result(
            self._asked,
            spread(mean_map, self._grouped.left_out_means(), varying),
            shares(everything.m2[0].reshape(flat), mean_map, image_square, self._store.n_images),
            varying,
            everything,
            self._store,
            len(self._grouped.counts),
        )


def _table(found: Spread, lies: Shares, varying: NDArray[Any], names: list[str]) -> dict[str, Any]:
    total = lies.total[varying]
    return {
        "mode": names,
        "map_mean": found.mean,
        "map_variance": found.variance,
        "variance_low": found.variance_low,
        "variance_high": found.variance_high,
        "map_cv": found.cv,
        "cv_low": found.cv_low,
        "cv_high": found.cv_high,
        "share_between_images": lies.images[varying] / total,
        "share_between_positions": lies.positions[varying] / total,
        "share_rest": lies.rest[varying] / total,
    }


def _values(found: Spread, varying: NDArray[Any]) -> dict[str, Any]:
    """Return the figures of the modes that vary most, by variance and by CV; none if none does."""
    if not len(varying):
        return {}
    top, top_cv = int(found.variance.argmax()), int(np.nan_to_num(found.cv, nan=-1.0).argmax())
    return {
        "largest_variance_mode": int(varying[top]),
        "largest_variance": float(found.variance[top]),
        "largest_variance_low": float(found.variance_low[top]),
        "largest_variance_high": float(found.variance_high[top]),
        "largest_cv_mode": int(varying[top_cv]),
        "largest_cv": float(found.cv[top_cv]),
        "largest_cv_low": float(found.cv_low[top_cv]),
        "largest_cv_high": float(found.cv_high[top_cv]),
    }


def _claims(feature: str, values: dict[str, Any], n_modes: int) -> list[Claim]:
    """Return the figures of the modes that vary most; which modes they are is claimed with them."""
    return [
        Claim(
            figure,
            f"{what} of the mean map of {feature}, largest in "
            f"{mode_name(values[f'{figure}_mode'], n_modes)}",
            values[figure], values[f"{figure}_low"], values[f"{figure}_high"],
        )
        for figure, what in (("largest_variance", "variance"), ("largest_cv", "CV"))
        if values
    ]  # fmt: skip


def _answer(feature: str, table: dict[str, Any]) -> str:
    if not table["mode"]:
        return f"every mode of {feature} is constant: there is no variance to split."
    top = int(table["map_variance"].argmax())
    interval = interval_text(table["variance_low"][top], table["variance_high"][top])
    return (
        f"the mean {feature} map varies most in {table['mode'][top]}: variance over patches "
        f"{number(table['map_variance'][top])} (95% interval {interval}), CV "
        f"{number(table['map_cv'][top])}; of that mode's variance "
        f"{table['share_between_images'][top]:.0%} lies between images, "
        f"{table['share_between_positions'][top]:.0%} between positions and "
        f"{table['share_rest'][top]:.0%} in the rest."
    )


def _result(
    asked: ModeVarianceParameters,
    found: Spread,
    lies: Shares,
    varying: NDArray[Any],
    everything: Moments,
    store: MapStore,
    groups: int,
) -> Result:
    feature, n, n_modes = asked.feature, store.n_images, len(lies.total)
    constant = ~np.isin(np.arange(n_modes), varying)
    names = [mode_name(int(m), n_modes) for m in varying]
    table = _table(found, lies, varying, names)
    said = caveats.constant([mode_name(int(m), n_modes) for m in np.flatnonzero(constant)])
    if len(varying):
        said.append(
            f"the variance of a mean map holds noise of the mean, about the rest / "
            f"{n} images; intervals are a jackknife over {groups} groups of images"
        )
    said += caveats.heavy_tail(feature, everything) + caveats.features(feature, ratios=True)

    mean_map = everything.mean[0]
    title, skip = f"{feature}: mean over {n} images", np.broadcast_to(constant, mean_map.shape)
    maps = drawn("mode_maps", mean_map, title, feature, skip=skip)
    parts = ("share_between_images", "share_between_positions", "share_rest")
    shown = {part.removeprefix("share_").replace("_", " "): table[part] for part in parts}
    bars = drawn("stacked_shares", names, shown, f"{feature}: where variance lies")
    cv = np.sqrt(found.variance) / (found.mean + 1e-8)
    values = _values(found, varying)
    return Result(
        analysis=NAME,
        feature=feature,
        question=QUESTION,
        columns={"modes": table},
        arrays={"mean_map": mean_map, "variance_map": everything.variance()[0]},
        values=values,
        notebook={
            "per_mode": by_row(
                {"mode": names, "map_mean": found.mean, "map_var": found.variance, "map_cv": cv}
            )
        },
        parameters={"groups": groups},
        seed=asked.seed,
        sentences=[_answer(feature, table)],
        caveats=said,
        provenance=provenance(store),
        figures={"mean_map": maps, "shares": bars} if len(varying) else {},
        shown=("modes",),
        claims=_claims(feature, values, n_modes),
    )


def mode_variance(
    store: MapStore,
    *,
    feature: str = ModeVarianceParameters.feature,
    seed: int = ModeVarianceParameters.seed,
    show_progress: bool = False,
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
    asked = ModeVarianceParameters(feature=feature, seed=seed)
    return run(store, [ModeVariance(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, mode_variance, ModeVarianceParameters, ModeVariance)

make_callable(__name__)
