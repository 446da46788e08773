"""center-edge: do the patches at the border of an image differ from those in its centre?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import Arrays, Passes, run
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import (
    MapStore,
    logarithm_of,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.text import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = "center-edge"
QUESTION = "Do edge patches differ from central ones?"
ALL_MODES = "all modes"
TOLD = 4
"""Modes whose figures the answer gives; the table has all."""


def central_block(rows: int, cols: int, border: int | None = None) -> NDArray[np.bool_]:
    """Return which patches are central, bool of shape (rows, cols).

    Parameters
    ----------
    rows, cols
        Size of the grid.
    border
        Width of the edge in patches; None takes a quarter of each side, as the notebook did.

    Raises
    ------
    AnalysisError
        If no patch is left in the centre or none at the edge.
    """
    down, across = (rows // 4, cols // 4) if border is None else (border, border)
    central = np.zeros((rows, cols), bool)
    if down >= 0 and across >= 0:
        central[down : rows - down, across : cols - across] = True
    if central.all() or not central.any():
        widest = (min(rows, cols) - 1) // 2
        asked = f"a quarter of a {rows} x {cols} grid" if border is None else f"border {border}"
        part = "edge" if central.all() else "centre"
        remedy = (
            f"a border from 1 to {widest} leaves some of both"
            if widest >= 1
            else "center-edge needs at least 3 patches a side"
        )
        raise AnalysisError(
            f"{asked} leaves no patch for the {part} of a {rows} x {cols} grid: {remedy}"
        )
    return central


@dataclass(frozen=True)
class Comparison:
    """Edge against centre over images; arrays of the shape of one image's numbers.

    Attributes
    ----------
    n
        Number of images.
    centre, edge, ratio
        Mean over images of the central and the edge mean, and edge / centre.
    ratio_low, ratio_high
        Fieller's interval of the ratio; NaN where the centre is not clearly different from 0. Of
        logarithms (`geometric`) the ratio is that of geometric means, and so is its interval.
    difference, difference_low, difference_high
        Mean of edge - centre over images, and its t interval.
    t, p
        Paired t test of edge against centre, n - 1 degrees of freedom; NaN where the difference
        is the same in every image.
    """

    n: int
    centre: Floats
    edge: Floats
    ratio: Floats
    ratio_low: Floats
    ratio_high: Floats
    difference: Floats
    difference_low: Floats
    difference_high: Floats
    t: Floats
    p: Floats


def compare(
    centre: Floats, edge: Floats, level: float = 0.95, *, geometric: bool = False
) -> Comparison:
    """Compare edge and centre of the same images.

        t = mean(e - c) / (sd(e - c) / sqrt(n))
        the ratio's interval is {R : |mean(e - R c)| <= t_{n-1} sd(e - R c) / sqrt(n)}

    Of decimal logarithms a quotient depends on the unit of the map; the ratio is then

        10^mean(e - c), with ten to the power of the ends of the difference's interval.

    Parameters
    ----------
    centre, edge
        float64 arrays of shape (n_images, ...): mean over the central and the edge patches of
        each image; at least 2 images.
    level
        Coverage of the intervals, in (0, 1).
    geometric
        The values are decimal logarithms.

    References
    ----------
    Fieller (1954), Some problems in interval estimation, Journal of the Royal Statistical
    Society B 16, 175-185.
    """
    from scipy.special import stdtr, stdtrit

    n = len(centre)
    quantile = float(stdtrit(n - 1, 0.5 + level / 2))
    c, e = centre.mean(axis=0), edge.mean(axis=0)
    # Variances and covariance of the two means.
    dc, de = centre - c, edge - e
    vc, ve, cov = ((x * y).sum(axis=0) / (n * (n - 1)) for x, y in ((dc, dc), (de, de), (dc, de)))
    difference = edge - centre
    d = difference.mean(axis=0)
    varies = difference.min(axis=0) != difference.max(axis=0)
    error = np.sqrt(np.square(difference - d).sum(axis=0) / (n * (n - 1)))
    t = np.divide(d, error, out=np.full(d.shape, np.nan), where=varies & (error > 0))
    if geometric:
        ends = (d, d - quantile * error, d + quantile * error)
        ratio, low, high = (np.power(10.0, x) for x in ends)
    else:
        ratio, low, high = _fieller(c, e, vc, ve, cov, quantile)
    return Comparison(
        n=n,
        centre=c,
        edge=e,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        difference=d,
        difference_low=d - quantile * error,
        difference_high=d + quantile * error,
        t=t,
        p=np.asarray(2.0 * stdtr(n - 1, -np.abs(t))),
    )


_FIGURES = [f.name for f in fields(Comparison) if f.name != "n"]


class RegionMeans:
    """Mean over the central and the edge patches of every image and mode.

    Attributes
    ----------
    centre, edge
        float64 of shape (n_images, n_modes).
    constant
        bool of shape (n_modes,): modes with one value in the whole map.
    """

    def __init__(
        self, feature: str, central: NDArray[np.bool_], n_images: int, n_modes: int
    ) -> None:
        self.features = (feature,)
        self._feature = feature
        self._central = central
        self.centre = np.empty((n_images, n_modes))
        self.edge = np.empty((n_images, n_modes))
        self._low = np.full(n_modes, np.inf)
        self._high = np.full(n_modes, -np.inf)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature]
        self.centre[rows] = values[:, self._central].mean(axis=1, dtype=np.float64)
        self.edge[rows] = values[:, ~self._central].mean(axis=1, dtype=np.float64)
        self._low = np.minimum(self._low, values.min(axis=(0, 1, 2)))
        self._high = np.maximum(self._high, values.max(axis=(0, 1, 2)))

    def end_pass(self) -> bool:
        self.constant = self._low == self._high
        return False


class CenterEdge:
    """The analysis, asked for: see `center_edge` for the parameters."""

    def __init__(
        self, *, feature: str = "friction", border: int | None = None, alpha: float = 0.05
    ) -> None:
        options.check(alpha=alpha)
        if border is not None and border < 1:
            raise AnalysisError(f"border is {border}: it must be 1 or more")
        self.feature = feature
        self.border = border
        self.alpha = alpha

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        self.store: MapStore = store
        rows, cols = require_grid(store, NAME)
        self.n_modes = require_feature(store, self.feature)
        self.classes = require_classes(store, NAME)
        self.central = central_block(rows, cols, self.border)
        key = ("region means", self.feature, self.central.tobytes())
        self.regions = passes.share(
            key,
            lambda: RegionMeans(self.feature, self.central, store.n_images, self.n_modes),
        )

    def result(self) -> Result:
        regions, classes = self.regions, self.classes
        varying = np.flatnonzero(~regions.constant)
        # The first column is the mean over all modes, constant ones included: the notebook's.
        centre = np.column_stack([regions.centre.mean(axis=1), regions.centre[:, varying]])
        edge = np.column_stack([regions.edge.mean(axis=1), regions.edge[:, varying]])
        names = [ALL_MODES, *(mode_name(int(m), self.n_modes) for m in varying)]
        labelled = classes.labels >= 0
        geometric = logarithm_of(self.feature) is not None and self.feature not in self.store.maps
        by_class = [
            compare(centre[classes.labels == c], edge[classes.labels == c], geometric=geometric)
            for c in range(classes.n)
        ]
        pooled = compare(centre[labelled], edge[labelled], geometric=geometric)
        p_modes = permutation.holm(pooled.p[1:])
        q = permutation.benjamini_hochberg(np.stack([one.p for one in by_class]))
        columns: dict[str, Columns] = {
            "classes": _columns(by_class, classes.names, q, 0),
            "modes": {"mode": names, "images": [pooled.n] * len(names)}
            | {key: getattr(pooled, key) for key in _FIGURES}
            | {"p_modes": [np.nan, *p_modes]},
        }
        by_mode = [_columns(by_class, classes.names, q, j) for j in range(len(names))]
        columns["classes_by_mode"] = {
            "class": [name for table in by_mode for name in table["class"]],
            "mode": [name for name in names for _ in range(classes.n)],
        } | {
            key: [value for table in by_mode for value in table[key]]
            for key in by_mode[0]
            if key != "class"
        }
        arrays = {
            "centre": np.stack([one.centre for one in by_class]),
            "edge": np.stack([one.edge for one in by_class]),
            "ratio": np.stack([one.ratio for one in by_class]),
            "p": np.stack([one.p for one in by_class]),
            "q": q,
            "central": self.central,
        }
        n_different = int((q[:, 0] <= self.alpha).sum())
        values: dict[str, Any] = {
            "centre": float(pooled.centre[0]),
            "edge": float(pooled.edge[0]),
            "ratio": float(pooled.ratio[0]),
            "ratio_low": float(pooled.ratio_low[0]),
            "ratio_high": float(pooled.ratio_high[0]),
            "difference": float(pooled.difference[0]),
            "t": float(pooled.t[0]),
            "p": float(pooled.p[0]),
            "p_modes": float(np.fmin.reduce(p_modes, initial=np.nan)),
            "modes_different": int((p_modes <= self.alpha).sum()),
            "modes_tested": int(np.isfinite(p_modes).sum()),
            "classes_different": n_different,
            "central_patches": int(self.central.sum()),
            "edge_patches": int((~self.central).sum()),
        }
        notebook = {
            "center_edge": [
                {
                    "class": name,
                    "center": float(one.centre[0]),
                    "edge": float(one.edge[0]),
                    **({} if geometric else {"ratio": one.edge[0] / (one.centre[0] + 1e-8)}),
                }
                for name, one in zip(classes.names, by_class, strict=True)
            ]
        }
        constant = [mode_name(int(m), self.n_modes) for m in np.flatnonzero(regions.constant)]
        caveats = classes.caveats() + options.constant_caveat(constant)
        if constant:
            caveats.append(f"'{ALL_MODES}' averages the constant mode in, as the notebook did")
        unbounded = [
            name
            for name, one in zip(classes.names, by_class, strict=True)
            if np.isnan(one.ratio_low[0]) and np.isfinite(one.ratio[0])
        ]
        if unbounded:
            caveats.append(
                f"the ratio has no bounded interval for {listed(unbounded)}: the centre varies "
                "between images by as much as its mean"
            )
        same = [n for n, one in zip(classes.names, by_class, strict=True) if np.isnan(one.t[0])]
        if same:
            caveats.append(
                f"edge minus centre is the same in every image of {listed(same)}: there is no test"
            )
        if geometric:
            caveats.append(
                "values are decimal logarithms: difference is of these, ratio is ten to its power, "
                "the ratio of the geometric means"
            )
        caveats += options.feature_caveats(self.feature)

        def figure() -> Figure:
            from frictionstore.analyses.core import figures

            means = " of geometric means" if geometric else ""
            return figures.intervals(
                [*classes.names, "all images"],
                [*(one.ratio[0] for one in by_class), pooled.ratio[0]],
                [*(one.ratio_low[0] for one in by_class), pooled.ratio_low[0]],
                [*(one.ratio_high[0] for one in by_class), pooled.ratio_high[0]],
                f"{self.feature}: edge / centre{means}, 95% interval over images",
                f"edge / centre{means}",
                reference={"no difference": 1.0},
            )

        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns=columns,
            arrays=arrays,
            values=values,
            notebook=notebook,
            parameters={"border": self.border, "alpha": self.alpha},
            seed=None,
            sentences=[
                _answer(self.feature, pooled, p_modes, names, self.alpha, geometric),
                *([] if not constant else [f"Constant: {', '.join(constant)}."]),
                _all_modes(values, classes.n, self.alpha, geometric),
            ],
            caveats=caveats,
            provenance=provenance(self.store),
            figures={"edge_centre": figure},
            shown=("classes", "modes"),
        )


def _columns(rows: list[Comparison], names: list[str], q: Floats | None, which: int) -> Columns:
    """Return a table with one row per comparison, of its number `which`."""
    columns: dict[str, Any] = {"class": names, "images": [one.n for one in rows]}
    columns |= {key: [float(getattr(one, key)[which]) for one in rows] for key in _FIGURES}
    if q is not None:
        columns["q"] = [float(p) for p in q[:, which]]
    return columns


def _answer(
    feature: str,
    pooled: Comparison,
    p_modes: Floats,
    names: list[str],
    alpha: float,
    geometric: bool,
) -> str:
    """Return which modes differ, by the tests of all modes together."""
    tested = int(np.isfinite(p_modes).sum())
    if not tested:
        return f"{feature} cannot be tested: edge minus centre is the same in every image."
    family = f"Holm over {tested} mode{'s' if tested > 1 else ''}, {pooled.n} images"
    different = np.flatnonzero(p_modes <= alpha)
    if not different.size:
        least = int(np.nanargmin(p_modes))
        return (
            f"{feature}: no evidence of a difference between edge and centre in any mode (smallest "
            f"{p_text(float(p_modes[least]))}, {names[1 + least]}; {family})."
        )
    told = []
    for k in different[np.argsort(p_modes[different], kind="stable")][:TOLD]:
        side = "higher" if pooled.difference[1 + k] > 0 else "lower"
        mode = "" if names[1:] == ["all"] else f"in {names[1 + k]} "
        told.append(
            f"{mode}({side} at the edge, {_ratio(pooled, 1 + int(k), geometric)}, "
            f"{p_text(float(p_modes[k]))})"
        )
    more = f" and in {different.size - TOLD} more modes" if different.size > TOLD else ""
    return f"{feature} differs between edge and centre {', '.join(told)}{more}; {family}."


def _ratio(one: Comparison, which: int, geometric: bool) -> str:
    """Return the ratio, and of logarithms the difference, each with its interval, in words."""
    ratio = _interval(one.ratio_low[which], one.ratio_high[which])
    if not geometric:
        return f"edge / centre = {number(one.ratio[which])}, 95% interval {ratio}"
    ends = _interval(one.difference_low[which], one.difference_high[which])
    return (
        f"edge - centre = {number(one.difference[which])} in log10, 95% interval {ends}: "
        f"{number(one.ratio[which])} times, {ratio}"
    )


def _interval(low: float, high: float) -> str:
    """Return an interval in words."""
    if np.isnan(low) or np.isnan(high):
        return "unbounded"
    return f"{number(low)} to {number(high)}"


def _all_modes(values: dict[str, Any], n_classes: int, alpha: float, geometric: bool) -> str:
    """Return what the notebook looked at: the mean over all modes, and by class."""
    interval = _interval(values["ratio_low"], values["ratio_high"])
    what = "edge / centre of geometric means" if geometric else "edge / centre"
    return (
        f"With all modes averaged, as in the notebook, {what} = {number(values['ratio'])} (95% "
        f"interval {interval} over images, paired t test {p_text(values['p'])}), and there is "
        f"evidence of a difference in {values['classes_different']} of {n_classes} classes at "
        f"q <= {alpha:g}."
    )


def center_edge(
    store: MapStore,
    *,
    feature: str = "friction",
    border: int | None = None,
    alpha: float = 0.05,
    show_progress: bool = False,
) -> Result:
    """Compare the patches at the edge of images with those in the centre, by class and mode.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    border
        Width of the edge in patches; None takes a quarter of each side, as the notebook did.
    alpha
        Level at which classes are counted, in (0, 1).
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Tables `classes` (mean over all modes, one row per class), `modes` (all images, one row
        per mode) and `classes_by_mode`, each with the ratio's 95% interval and a paired t test;
        q is Benjamini-Hochberg over classes and modes, `p_modes` is Holm's over the modes of all
        images. Of a map of logarithms the ratio is ten to the power of the difference. Arrays of
        shape (class, 1 + varying modes), the mean over all modes first.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        border leaves no centre or no edge.
    """
    plan = CenterEdge(feature=feature, border=border, alpha=alpha)
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
@click.option(
    "--border",
    type=click.IntRange(min=1),
    help="Width of the edge in patches.  [default: a quarter of each side]",
)
@options.alpha_option
def command(
    target: options.Target, features: tuple[str, ...], border: int | None, alpha: float
) -> None:
    """Compare the patches at the edge of images with those in the centre, by class and mode."""
    target.run(CenterEdge(feature=f, border=border, alpha=alpha) for f in features)


make_callable(__name__)
