"""f-statistic: where on the grid, and in which mode, does a map differ between classes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.passes import (
    Arrays,
    ClassMoments,
    Passes,
    class_moments,
    run,
    tail_caveat,
)
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import (
    Classes,
    MapStore,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import label_sums, permutation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
NAME = "f-statistic"
QUESTION = "Does the map differ between classes at single positions of the grid?"
NOTEBOOK_THRESHOLD = 0.01


@dataclass(frozen=True)
class Anova:
    """One-way analysis of variance at each position and mode; arrays of shape (row, col, mode).

    Attributes
    ----------
    f, p
        F and its p-value; NaN where the values are constant or constant within every class.
    eta_squared
        Share of the total sum of squares that lies between classes, in [0, 1].
    ratio
        The notebook's: variance of class means (ddof 1) over mean variance within (ddof 0).
    df_between, df_within
        Degrees of freedom, C - 1 and n - C.
    constant
        All values are equal.
    pure
        Values differ between classes and never within one: F has no denominator.
    """

    f: Floats
    p: Floats
    eta_squared: Floats
    ratio: Floats
    df_between: int
    df_within: int
    constant: NDArray[np.bool_]
    pure: NDArray[np.bool_]


def anova(moments: Moments) -> Anova:
    """Return the one-way analysis of variance from class moments.

        F = (sum_c n_c (mean_c - mean)^2 / (C - 1)) / (sum_c m2_c / (n - C))

    Parameters
    ----------
    moments
        Moments with one group per class, each of at least one image; n > C.

    References
    ----------
    Fisher (1925), Statistical methods for research workers. The p-value is
    `scipy.special.fdtrc(C - 1, n - C, F)`.
    """
    from scipy.special import fdtrc

    count = moments.count.reshape(-1, *(1 for _ in moments.shape)).astype(np.float64)
    n, classes = int(moments.count.sum()), moments.n_groups
    mean = (count * moments.mean).sum(axis=0) / n
    between = (count * np.square(moments.mean - mean)).sum(axis=0)
    within = moments.m2.sum(axis=0)
    constant = moments.minimum.min(axis=0) == moments.maximum.max(axis=0)
    pure = moments.constant().all(axis=0) & ~constant
    usable = ~(constant | pure)
    df_between, df_within = classes - 1, n - classes

    def where_usable(numerator: Floats, denominator: Floats) -> Floats:
        out = np.full(moments.shape, np.nan)
        return np.divide(numerator, denominator, out=out, where=usable)

    f = where_usable(between / df_between, within / df_within)
    return Anova(
        f=f,
        p=np.asarray(fdtrc(df_between, df_within, f)),
        eta_squared=where_usable(between, between + within),
        ratio=where_usable(
            np.var(moments.mean, axis=0, ddof=1), moments.variance(ddof=0).mean(axis=0)
        ),
        df_between=df_between,
        df_within=df_within,
        constant=constant,
        pure=pure,
    )


def permuted_f(sums: Floats, counts: NDArray[np.int64], total_squares: Floats) -> Floats:
    """Return F under permuted labels from class sums alone.

        F = ((B) / (C - 1)) / ((T - B) / (n - C)),  B = sum_c sums_c^2 / n_c - (sum_c sums_c)^2 / n

    T, the total sum of squares, does not change when labels are permuted.

    Parameters
    ----------
    sums
        Class sums of shifted values, shape (permutations, n_classes, n_features).
    counts
        Images per class, shape (n_classes,).
    total_squares
        T of each feature, shape (n_features,), positive.

    Returns
    -------
    float64 array of shape (permutations, n_features); infinity where a permutation leaves no
    variance within classes.
    """
    n, classes = int(counts.sum()), len(counts)
    weight = label_sums.class_weights(counts)[:, 0]
    between = np.einsum("pcf,pcf,c->pf", sums, sums, weight)
    between -= np.square(sums.sum(axis=1)) / n
    within = total_squares - between
    # What is left of the total after rounding is no variance.
    within[within <= 1e-12 * total_squares] = 0.0
    with np.errstate(divide="ignore"):
        return (between / (classes - 1)) / (within / (n - classes))


class NotebookSums:
    """Class sums and sums of squares as the notebook formed them: in float32, image by image.

    The differences of squares that it built on them are rounding noise where a position hardly
    varies, so what it printed cannot be had from exact variances. This is for comparison with
    old results and for nothing else.
    """

    def __init__(self, feature: str, classes: Classes, shape: tuple[int, ...]) -> None:
        self.features = (feature,)
        self._feature = feature
        self._classes = classes
        self._sum = np.zeros((classes.n, *shape), np.float32)
        self._square = np.zeros((classes.n, *shape), np.float32)

    def update(self, rows: slice, arrays: Arrays) -> None:
        values = arrays[self._feature].astype(np.float32, copy=False)
        labels = self._classes.labels[rows]
        for c in np.unique(labels[labels >= 0]):
            of_class = values[labels == c]
            # Adding along the first axis goes row by row, as the notebook's loop did.
            self._sum[c] = np.concatenate([self._sum[c][None], of_class]).sum(axis=0)
            square = np.concatenate([self._square[c][None], np.square(of_class)])
            self._square[c] = square.sum(axis=0)

    def end_pass(self) -> bool:
        return False

    def ratio(self) -> NDArray[np.float32]:
        """Return the notebook's F ratio, float32 of shape (row, col, mode)."""
        count = self._classes.counts.astype(np.float32)[:, None, None, None]
        mean = self._sum / count
        variance = self._square / count - np.square(mean)
        ratio = mean.var(axis=0, ddof=1) / (variance.mean(axis=0) + np.float32(1e-10))
        return np.asarray(ratio, np.float32)


class FStatistic:
    """The analysis, asked for: see `f_statistic` for the parameters."""

    def __init__(
        self,
        *,
        feature: str = "friction",
        permutations: int = 1000,
        seed: int = 0,
        alpha: float = 0.05,
        memory: int = label_sums.MEMORY,
    ) -> None:
        options.check(permutations=permutations, seed=seed, alpha=alpha)
        self._feature = feature
        self._permutations = permutations
        self._seed = seed
        self._alpha = alpha
        self._memory = memory

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        require_grid(store, NAME)
        self._n_modes = require_feature(store, self._feature)
        self._classes: Classes = require_classes(store, NAME)
        self._store: MapStore = store
        self._collected: ClassMoments = class_moments(passes, self._feature, self._n_modes)
        rows, cols = store.grid
        self._notebook = passes.share(
            ("notebook sums", self._feature),
            lambda: NotebookSums(self._feature, self._classes, (rows, cols, self._n_modes)),
        )
        self._maxima = np.full(self._permutations, -np.inf)
        self._extreme = np.zeros((rows, cols, self._n_modes), np.int64)
        if self._permutations:
            sums = label_sums.permuted_class_sums(
                passes, self._feature, self._classes, self._extreme.size,
                self._permutations, self._seed, self._memory,
            )  # fmt: skip
            sums.reducers.append(self._reduce)

    def _reduce(self, which: slice, sums: Floats, shift: Floats) -> None:
        moments = self._collected
        observed = anova(moments.by_class).f.reshape(-1)
        usable = np.flatnonzero(np.isfinite(observed))
        if not usable.size:
            return
        total = moments.labelled.m2.reshape(-1)[usable]
        f = permuted_f(sums[:, :, usable], self._classes.counts, total)
        self._maxima[which] = f.max(axis=1)
        extreme = permutation.at_least(f, observed[usable], "greater").sum(axis=0)
        self._extreme.reshape(-1)[usable] += extreme

    def result(self) -> Result:
        found = anova(self._collected.by_class)
        q = permutation.benjamini_hochberg(found.p)
        arrays: dict[str, NDArray[Any]] = {
            "f": found.f,
            "p": found.p,
            "q": q,
            "eta_squared": found.eta_squared,
            "notebook_f_ratio": found.ratio,
            "notebook_f_ratio_float32": self._notebook.ratio(),
            "constant": found.constant,
        }
        if self._permutations:
            arrays["p_family_wise"] = permutation.family_wise_p(found.f, self._maxima)
            arrays["p_permutation"] = permutation.p_from_counts(
                self._extreme, self._permutations, found.f
            )
            arrays["null_maximum_f"] = self._maxima
        return _result(self, found, arrays)


def _best(values: Floats) -> tuple[int, ...]:
    """Return the index of the largest value, NaN ignored; the first of all if all are NaN."""
    filled = np.where(np.isnan(values), -np.inf, values)
    return tuple(int(i) for i in np.unravel_index(int(filled.argmax()), values.shape))


def _mode_rows(
    arrays: dict[str, NDArray[Any]], found: Anova, alpha: float
) -> tuple[Columns, list[str]]:
    """Return the table by mode and the names of constant modes."""
    n_modes = found.f.shape[2]
    columns: dict[str, list[Any]] = {}
    constant = []
    for mode in range(n_modes):
        name = mode_name(mode, n_modes)
        if found.constant[..., mode].all():
            constant.append(name)
            continue
        f, ratio = found.f[..., mode], found.ratio[..., mode]
        usable = np.isfinite(f)
        if not usable.any():
            continue
        best = _best(f)
        row = {"mode": name, "best_row": best[0], "best_col": best[1], "f": f[best]}
        if "p_family_wise" in arrays:
            family = arrays["p_family_wise"][..., mode]
            row["p_family_wise"] = family[best]
            row["share_family_wise"] = float((family[usable] <= alpha).mean())
        row |= {
            "p": found.p[..., mode][best],
            "eta_squared": found.eta_squared[..., mode][best],
            "share_q_below": float((arrays["q"][..., mode][usable] <= alpha).mean()),
            "ratio_mean": ratio[usable].mean(),
            "ratio_max": ratio[usable].max(),
            "ratio_q95": np.quantile(ratio[usable], 0.95),
        }
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return dict(columns), constant


def _notebook_figures(ratio: NDArray[np.float32], found: Anova) -> dict[str, Any]:
    """Return what the notebook printed; its averages over modes count a constant mode as 0."""
    n_modes = ratio.shape[2]
    constant = np.asarray(found.constant.all(axis=(0, 1)))
    overall = np.where(constant, 0.0, ratio.astype(np.float64)).mean(axis=2)
    verdict = overall.max() > NOTEBOOK_THRESHOLD
    return {
        "overall_mean_f": float(overall.mean()),
        "overall_max_f": float(overall.max()),
        "overall_best_position": list(_best(overall)),
        "verdict": "POSITIONALLY DISCRIMINATIVE" if verdict else "NOT DISCRIMINATIVE",
        "per_mode": [
            {
                "mode": mode_name(mode, n_modes),
                "mean": float(of_mode.mean()),
                "max": float(of_mode.max()),
                "q95": float(np.quantile(of_mode, 0.95)),
                "best_position": list(_best(of_mode)),
            }
            for mode in range(n_modes)
            if not constant[mode]
            for of_mode in [ratio[..., mode].astype(np.float64)]
        ],
    }


def _result(plan: FStatistic, found: Anova, arrays: dict[str, NDArray[Any]]) -> Result:
    columns, constant = _mode_rows(arrays, found, plan._alpha)
    usable = np.isfinite(found.f)
    n_modes = found.f.shape[2]
    notebook = _notebook_figures(arrays["notebook_f_ratio_float32"], found)
    overall = found.ratio[..., ~np.asarray(found.constant.all(axis=(0, 1)))]
    n_usable = int(usable.sum())
    values: dict[str, Any] = {
        "df_between": found.df_between,
        "df_within": found.df_within,
        "n_tests": n_usable,
        "permutations": plan._permutations,
        "smallest_p": permutation.smallest_p(plan._permutations),
    }
    caveats = plan._classes.caveats()
    sentences = []
    if n_usable:
        row, col, mode = _best(found.f)
        n_q = int((arrays["q"][usable] <= plan._alpha).sum())
        best_f = float(found.f[row, col, mode])
        values |= {
            "max_f": best_f,
            "max_f_position": [row, col],
            "max_f_mode": mode,
            "mean_ratio": float(np.nanmean(overall)),
            "max_ratio_over_modes": float(np.nan_to_num(overall).mean(axis=2).max()),
            "max_f_p": float(found.p[row, col, mode]),
            "max_eta_squared": float(np.nanmax(found.eta_squared)),
            "mean_eta_squared": float(np.nanmean(found.eta_squared)),
            "n_q_significant": n_q,
            "share_q_significant": n_q / n_usable,
        }
        where = f"row {row}, column {col}, {mode_name(mode, n_modes)}"
        test = p_text(float(found.p[row, col, mode])) + " for that test alone"
        if plan._permutations:
            family = float(arrays["p_family_wise"][row, col, mode])
            n_family = int((arrays["p_family_wise"][usable] <= plan._alpha).sum())
            values |= {"family_wise_p": family, "n_family_wise_significant": n_family}
            test = f"family-wise {p_text(family)} over {plan._permutations} permutations"
        differs = (family <= plan._alpha) if plan._permutations else n_q > 0
        said = "" if differs else "no evidence that "
        sentences.append(
            f"{said}{plan._feature} differs between classes "
            f"at single positions: the largest F({found.df_between}, {found.df_within}) is "
            f"{number(best_f)} at {where} ({test}); {n_q} of {n_usable} tests have q <= "
            f"{plan._alpha:g}; notebook verdict: {notebook['verdict']}."
        )
        if plan._permutations:
            caveats.append(
                f"with {plan._permutations} permutations no p-value is below "
                f"{permutation.smallest_p(plan._permutations):.2g}"
            )
    else:
        sentences.append(
            f"{plan._feature} cannot be tested: no position varies within the classes; notebook "
            f"verdict: {notebook['verdict']}."
        )
    caveats.append(
        "ratio is the notebook's F ratio in float64; the notebook formed it in float32, and its "
        "own figures (under 'notebook') are off where a position hardly varies"
    )
    caveats += options.constant_caveat(constant)
    whole = np.asarray(found.constant.all(axis=(0, 1)))
    single = int(found.constant[..., ~whole].sum())
    if single:
        what = "1 more column is" if single == 1 else f"{single} more columns are"
        caveats.append(f"{what} constant over all images and left out")
    if found.pure.any():
        place = [int(i) for i in np.argwhere(found.pure)[0]]
        n_pure = int(found.pure.sum())
        what = "1 column varies" if n_pure == 1 else f"{n_pure} columns vary"
        caveats.append(
            f"{what} between classes and never within one (the first at row {place[0]}, column "
            f"{place[1]}, {mode_name(place[2], n_modes)}): F has no denominator there and is left "
            "out"
        )
    caveats += tail_caveat(plan._feature, plan._collected.everything)
    caveats += options.feature_caveats(plan._feature)

    def f_map() -> Figure:
        from frictionstore.analyses.core import figures

        title = f"{plan._feature}: F between classes"
        return figures.mode_maps(found.f, title, "F", skip=found.constant)

    return Result(
        analysis=NAME,
        feature=plan._feature,
        question=QUESTION,
        columns={"modes": columns},
        arrays=arrays,
        values=values,
        notebook=notebook,
        parameters={"permutations": plan._permutations, "alpha": plan._alpha},
        seed=plan._seed,
        sentences=sentences,
        caveats=caveats,
        provenance=provenance(plan._store),
        figures={"f_map": f_map} if n_usable else {},
        shown=("modes",) if columns else (),
    )


def f_statistic(
    store: MapStore,
    *,
    feature: str = "friction",
    permutations: int = 1000,
    seed: int = 0,
    alpha: float = 0.05,
    memory: int = label_sums.MEMORY,
    show_progress: bool = False,
) -> Result:
    """Test at each position and mode whether a map differs between classes.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    permutations
        Permutations of the labels for the family-wise p-values; 0 leaves them out.
    seed
        Seed of the permutations.
    alpha
        Level at which positions are counted, in (0, 1).
    memory
        Bytes of permuted class sums held at a time; less takes more passes over the store.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Arrays of shape (row, col, mode): `f`, `p`, `q` (Benjamini-Hochberg over all positions
        and modes), `eta_squared`, `notebook_f_ratio`, `constant`, and with permutations
        `p_family_wise` (maximum statistic) and `p_permutation`. What is constant is NaN.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        grid is one patch.
    """
    plan = FStatistic(
        feature=feature, permutations=permutations, seed=seed, alpha=alpha, memory=memory
    )
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
@options.permutations_option(1000, "of the labels")
@options.seed_option
@options.alpha_option
def command(
    target: options.Target, features: tuple[str, ...], permutations: int, seed: int, alpha: float
) -> None:
    """Test at each position and mode whether a map differs between classes."""
    target.run(
        FStatistic(feature=f, permutations=permutations, seed=seed, alpha=alpha) for f in features
    )


make_callable(__name__)
