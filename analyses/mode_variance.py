"""mode-variance: which mode varies most over the grid, and where does the variance lie?

The variance of a mean map holds noise of the mean: of modes without any effect of position the
noisiest would have the largest. What is named is the variance that is left without it.
"""

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
from frictionstore.analyses.core.terminal import excluded, interval_text, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.position_effects import (
    FEWEST_GROUPS,
    PositionEffects,
    effects_of_groups,
    position_effects,
)
from frictionstore.text import printable

Floats = NDArray[np.float64]
NAME = "mode-variance"
QUESTION = "Which mode has most spatial structure, and does variance lie between images or patches?"

GROUPS = 20
"""Groups of images, between which the error of a variance shows."""
ALPHA = 0.05
"""Level at which the mean map of a mode is said to vary, Holm's over modes."""


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

    How much the groups' mean maps differ is how well the variance of the mean map is known.

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

    state = ("sums", "image_means")

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
        self._shape = (groups, grid[0] * grid[1], n_modes)
        self.shift: Floats | None = None
        self.begin()

    def begin(self) -> None:
        self.sums = np.zeros(self._shape)
        self.image_means = Moments(1, self._shape[-1:])

    def look(self, arrays: Arrays) -> None:
        values = arrays[self._feature]
        self.shift = values.reshape(len(values), *self._shape[1:]).mean(axis=0, dtype=np.float64)

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

    def means(self) -> Floats:
        """Return the mean map of each group, (groups, n_patches, n_modes)."""
        assert self.shift is not None
        return self.shift + self.sums / self.counts[:, None, None]


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
        n, means = self._store.n_images, self._grouped.means()[..., varying]
        lies = shares(everything.m2[0].reshape(flat), mean_map, image_square, n)
        rest = lies.rest[varying]
        if groups_of(self._store) is None:
            found = position_effects(lies.positions[varying], rest, n, means)
        else:
            found = effects_of_groups(means, rest / ((n - 1) * (len(mean_map) - 1)))
        return _result(
            self._asked, found, lies, varying, everything, self._store, len(self._grouped.counts)
        )


def _table(
    found: PositionEffects, lies: Shares, mean_map: Floats, names: list[str], varying: NDArray[Any]
) -> dict[str, Any]:
    total = lies.total[varying]
    mean, variance = mean_map.mean(axis=0)[varying], mean_map.var(axis=0, ddof=1)[varying]

    def cv(of: Floats) -> Floats:
        root = np.sqrt(np.maximum(of, 0.0))
        return np.divide(root, mean, out=np.full(mean.shape, np.nan), where=mean != 0)

    ends = np.sort([cv(found.low), cv(found.high)], axis=0)
    return {
        "mode": names,
        "map_mean": mean,
        "variance": found.variance,
        "variance_low": found.low,
        "variance_high": found.high,
        "f": found.f,
        "p": found.p,
        "p_holm": permutation.holm(found.p),
        "omega_squared": found.omega_squared,
        "cv": cv(found.variance),
        "cv_low": ends[0],
        "cv_high": ends[1],
        "map_variance": variance,
        "map_cv": cv(variance),
        "share_between_images": lies.images[varying] / total,
        "share_between_positions": lies.positions[varying] / total,
        "share_rest": lies.rest[varying] / total,
    }


def _values(table: dict[str, Any], varying: NDArray[Any]) -> dict[str, Any]:
    """Return the figures of the modes that vary most, by variance and by CV; none if none does.

    Which modes these are the lower ends of the intervals say: a noisy estimate may be the largest.
    The notebook named the mode with the largest variance of the mean map (`largest_map_variance`).
    """
    if not len(varying):
        return {}
    by_noise = int(table["map_variance"].argmax())
    values: dict[str, Any] = {
        "largest_map_variance_mode": int(varying[by_noise]),
        "largest_map_variance": float(table["map_variance"][by_noise]),
        "modes_varying": int((table["p_holm"] <= ALPHA).sum()),
    }
    for name in ("variance", "cv"):
        low = table[f"{name}_low"]
        # Without intervals, as of fewer than 4 images, only the estimates are there.
        order = np.lexsort((table[name], np.nan_to_num(low, nan=0.0)))
        top = int(order[np.isfinite(table[name][order])][-1:].sum())
        values |= {
            f"largest_{name}_mode": int(varying[top]),
            f"largest_{name}": float(table[name][top]),
            f"largest_{name}_low": float(low[top]),
            f"largest_{name}_high": float(table[f"{name}_high"][top]),
        }
        if name == "variance":
            values |= {
                "largest_variance_f": float(table["f"][top]),
                "largest_variance_p": float(table["p_holm"][top]),
            }
    return values


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


def _answer(feature: str, table: dict[str, Any], values: dict[str, Any], n_modes: int) -> str:
    if not table["mode"]:
        return f"every mode of {feature} is constant: there is no variance to split."
    name = mode_name(values["largest_variance_mode"], n_modes)
    top = table["mode"].index(name)
    interval = interval_text(table["variance_low"][top], table["variance_high"][top])
    test = f"F for positions {number(table['f'][top])}"
    if np.isfinite(table["p_holm"][top]):
        test += f", Holm {p_text(table['p_holm'][top])}"
    if values["modes_varying"]:
        said = f"the mean {feature} map varies most in {name}"
    elif not np.isfinite(table["p"]).any():
        said = f"whether the mean {feature} map varies over patches is not tested, {name}"
    else:
        most = excluded(0.0, np.max(table["variance_high"]), of="a variance")
        said = f"no evidence that the mean {feature} map varies over patches in any mode{most}"
        said += f"; in {name}"
    noisiest = mode_name(values["largest_map_variance_mode"], n_modes)
    return (
        f"{said}: variance over patches without the noise of the mean "
        f"{number(table['variance'][top])} (95% interval {interval}; {test}; omega squared "
        f"{number(table['omega_squared'][top])}); of that mode's variance "
        f"{table['share_between_images'][top]:.0%} lies between images, "
        f"{table['share_between_positions'][top]:.0%} between positions and "
        f"{table['share_rest'][top]:.0%} in the rest; the notebook's, with noise, is largest in "
        f"{noisiest}: {number(values['largest_map_variance'])}."
    )


def _result(
    asked: ModeVarianceParameters,
    found: PositionEffects,
    lies: Shares,
    varying: NDArray[Any],
    everything: Moments,
    store: MapStore,
    groups: int,
) -> Result:
    feature, n, n_modes = asked.feature, store.n_images, len(lies.total)
    constant = ~np.isin(np.arange(n_modes), varying)
    names = [mode_name(int(m), n_modes) for m in varying]
    mean_map = everything.mean[0]
    table = _table(found, lies, mean_map.reshape(-1, n_modes), names, varying)
    values = _values(table, varying)
    said = caveats.constant([mode_name(int(m), n_modes) for m in np.flatnonzero(constant)])
    if len(varying):
        said.append(
            "map_variance and map_cv, the notebook's, hold noise of the mean; variance and cv do "
            "not, and an estimate may be below 0 where there is nothing"
        )
        said.append(
            f"intervals rest on how {groups} groups of images differ"
            if groups >= FEWEST_GROUPS
            else f"variance has no interval: it takes {FEWEST_GROUPS} images"
        )
    said += caveats.heavy_tail(feature, everything) + caveats.features(feature, ratios=True)

    title, skip = f"{feature}: mean over {n} images", np.broadcast_to(constant, mean_map.shape)
    maps = drawn("mode_maps", mean_map, title, feature, skip=skip)
    parts = ("share_between_images", "share_between_positions", "share_rest")
    shown = {part.removeprefix("share_").replace("_", " "): table[part] for part in parts}
    bars = drawn("stacked_shares", names, shown, f"{feature}: where variance lies")
    printed = {
        "mode": names, "map_mean": table["map_mean"], "map_var": table["map_variance"],
        "map_cv": np.sqrt(table["map_variance"]) / (table["map_mean"] + 1e-8),
    }  # fmt: skip
    return Result(
        analysis=NAME,
        feature=feature,
        question=QUESTION,
        columns={"modes": table},
        arrays={"mean_map": mean_map, "variance_map": everything.variance()[0]},
        values=values,
        notebook={"per_mode": by_row(printed)},
        parameters={"groups": groups},
        seed=asked.seed,
        sentences=[_answer(feature, table, values, n_modes)],
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

    Noise of the mean is taken off; see `analyses.stats.position_effects`.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    seed
        Seed of the groups of images.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Table `modes`: noise-corrected variance over patches and CV of the mean map with 95%
        intervals, F for positions with p, omega squared, the notebook's `map_variance` (ddof 1)
        and `map_cv`, and the shares of the total sum of squares between images, between positions
        and in the rest. Arrays `mean_map` and `variance_map` (over images, ddof 1), shape (row,
        col, mode).

    Raises
    ------
    AnalysisError
        If there are fewer than 2 images, values are not finite, or the grid is one patch.
    """
    asked = ModeVarianceParameters(feature=feature, seed=seed)
    return run(store, [ModeVariance(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, mode_variance, ModeVarianceParameters, ModeVariance)

make_callable(__name__)
