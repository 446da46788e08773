"""f-statistic: where on the grid, and in which mode, does a map differ between classes?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import require_permutations
from frictionstore.analyses.core.passes import ClassMoments, Passes, class_moments, run
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.source import (
    Classes,
    MapStore,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import dispersion, label_sums, permutation
from frictionstore.analyses.stats.anova import Anova, Welch, anova, f_at, welch, welch_from_sums
from frictionstore.analyses.stats.clusters import FORMING_P, Clusters, ClusterTest
from frictionstore.analyses.stats.notebook_sums import (
    NotebookSums,
    largest,
    notebook_figures,
    overflowed,
)

Floats = NDArray[np.float64]
NAME = "f-statistic"
QUESTION = "Does the map differ between classes at single positions of the grid?"
_ADDING = Lock()
"""Held while counts of several threads are added up; whole numbers, so their order is no matter."""


@dataclass(frozen=True, kw_only=True)
class FStatisticParameters(parameters.Parameters):
    """What is asked for: see `f_statistic`."""

    feature: str = parameters.feature()
    permutations: int = parameters.permutations(1000, "of the labels")
    seed: int = parameters.seed()
    alpha: float = parameters.alpha()
    memory: int = label_sums.MEMORY


@dataclass(frozen=True)
class Found:
    """The exact tests, those under permuted labels, and the notebook's ratio in float32.

    `family_wise` and `single` are p by the largest F of each permutation (`maxima`) and by each
    position's own; NaN without permutations, as `mean_family_wise`, the same by Welch's F. q is
    of `single`, and without permutations of the exact p.
    """

    exact: Anova
    q: Floats
    ratio: NDArray[np.float32]
    family_wise: Floats
    single: Floats
    maxima: Floats
    mean: Welch
    mean_p: Floats
    mean_family_wise: Floats
    spread: dispersion.Dispersion
    clusters: Clusters | None


class FStatistic:
    """The plan: class moments, permuted class sums and the notebook's sums in the same passes."""

    def __init__(self, asked: FStatisticParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        rows, cols = require_grid(store, NAME)
        n_modes = require_feature(store, asked.feature)
        self._classes: Classes = require_classes(store, NAME)
        require_permutations(NAME, self._classes.groups, asked.permutations)
        self._store: MapStore = store
        self._collected: ClassMoments = class_moments(passes, asked.feature, n_modes)
        self._notebook = passes.share(
            ("notebook sums", asked.feature),
            lambda: NotebookSums(asked.feature, self._classes, (rows, cols, n_modes)),
            claimed=False,
        )
        self._distances = dispersion.class_distances(passes, asked.feature, self._classes, n_modes)
        self._maxima, self._mean_maxima, self._unequal = np.full((3, asked.permutations), -np.inf)
        self._extreme = np.zeros((rows, cols, n_modes), np.int64)
        self._clusters: ClusterTest | None = None
        self._beside = False
        if asked.permutations:
            if not passes.claims_only:
                freedom = self._classes.n - 1, self._classes.n_labelled - self._classes.n
                self._clusters = ClusterTest(asked.permutations, f_at(FORMING_P, *freedom))
            self._sums = label_sums.permuted_class_sums(
                passes, asked.feature, self._classes, self._extreme.size, asked.permutations,
                asked.seed, asked.memory,
            )  # fmt: skip
            # No claim that repeats are compared by rests on Welch's F or clusters.
            self._beside = self._sums.squares = not passes.claims_only
            self._sums.reducers.append(self._reduce)

    def _reduce(self, which: slice, sums: Floats, squares: Floats, shift: Floats) -> None:
        moments, counts = self._collected, self._sums.counts(which)
        observed = anova(moments.by_class).f.reshape(-1)
        usable = np.flatnonzero(np.isfinite(observed))
        if not usable.size:
            return
        total = moments.labelled.m2.reshape(-1)[usable]
        f = label_sums.f_from_sums(sums[:, :, usable], counts, total)
        self._maxima[which] = f.max(axis=1)
        extreme = permutation.at_least(f, observed[usable], "greater").sum(axis=0)
        with _ADDING:
            self._extreme.reshape(-1)[usable] += extreme
        self._unequal[which] = dispersion.unequal_from_sums(sums, squares[..., -1:], counts)
        if self._clusters is not None:
            maps = np.full((len(f), *self._extreme.shape), np.nan)
            maps.reshape(len(f), -1)[:, usable] = f
            self._clusters.add(which, maps)
        if not self._beside:
            return
        # Welch's F is defined by the arrangement: where a class does not vary under one, it is not.
        z = welch_from_sums(sums[..., usable], squares[..., usable], counts).z
        self._mean_maxima[which] = np.fmax.reduce(z, axis=1, initial=-np.inf)

    def _welch(self) -> Welch:
        """Return Welch's F of the data, NaN where some class does not vary."""
        moments = self._collected.by_class
        still = moments.constant()
        flat = (len(still), -1)
        variance = np.where(still, 0.0, moments.variance()).reshape(flat)
        found = welch(moments.mean.reshape(flat), variance, self._classes.counts)
        return Welch(
            found.f.reshape(moments.shape), found.df_between, found.df_within.reshape(moments.shape)
        )

    def result(self) -> Result:
        exact = anova(self._collected.by_class)
        undefined = np.full(exact.f.shape, np.nan)
        n = self._asked.permutations
        single = permutation.p_from_counts(self._extreme, n, exact.f) if n else undefined
        mean = self._welch()
        grouped = self._classes.groups is not None  # the F distribution takes none as related
        found = Found(
            exact=replace(exact, p=undefined) if grouped else exact,
            q=permutation.benjamini_hochberg(single if n else exact.p),
            ratio=self._notebook.ratio(),
            family_wise=permutation.family_wise_p(exact.f, self._maxima) if n else undefined,
            single=single,
            maxima=self._maxima,
            mean=mean,
            mean_p=undefined if grouped else mean.p,
            mean_family_wise=(
                permutation.family_wise_p(mean.z, self._mean_maxima) if n else undefined
            ),
            spread=dispersion.and_by_labels(
                self._distances.test(n, self._asked.seed),
                dispersion.unequal(self._collected.variances(), self._classes.counts),
                self._unequal,
                grouped=grouped,
            ),
            clusters=None if self._clusters is None else self._clusters.result(exact.f),
        )
        said = [
            *self._classes.caveats(permuted=n > 0),
            *dispersion.caveats(self._classes),
            *_caveats(self._asked, found),
            *caveats.heavy_tail(self._asked.feature, self._collected.everything),
            *caveats.features(self._asked.feature),
        ]
        return _result(self._asked, found, said, self._store)


def _least(p: Floats) -> float:
    return float(np.fmin.reduce(p, axis=None, initial=np.nan))


def _mode_table(asked: FStatisticParameters, found: Found) -> Columns:
    """Return the table by mode, without those that have no F."""
    exact = found.exact
    n_modes = exact.f.shape[2]
    rows = []
    for mode in range(n_modes):
        f, ratio = exact.f[..., mode], exact.ratio[..., mode]
        usable = np.isfinite(f)
        if not usable.any():
            continue
        best = largest(f)
        row: dict[str, Any] = {
            "mode": mode_name(mode, n_modes), "best_row": best[0], "best_col": best[1], "f": f[best]
        }  # fmt: skip
        if asked.permutations:
            family = found.family_wise[..., mode]
            row["p_family_wise"] = family[best]
            row["share_family_wise"] = float((family[usable] <= asked.alpha).mean())
            # Welch's F of the position with the smallest p, which may be another.
            row["p_family_wise_welch"] = _least(found.mean_family_wise[..., mode])
            if found.clusters is not None:
                row["p_family_wise_tfce"] = _least(found.clusters.p_tfce[..., mode])
                row["p_family_wise_cluster"] = _least(found.clusters.p_mass[..., mode])
        row |= {
            "p": exact.p[..., mode][best],
            "eta_squared": exact.eta_squared[..., mode][best],
            "share_q_below": float((found.q[..., mode][usable] <= asked.alpha).mean()),
            "ratio_mean": ratio[usable].mean(),
            "ratio_max": ratio[usable].max(),
            "ratio_q95": np.quantile(ratio[usable], 0.95),
        }
        rows.append(row)
    return by_column(rows)


def _values(asked: FStatisticParameters, found: Found) -> dict[str, Any]:
    exact = found.exact
    usable = np.isfinite(exact.f)
    n_usable = int(usable.sum())
    values: dict[str, Any] = {
        "df_between": exact.df_between,
        "df_within": exact.df_within,
        "n_tests": n_usable,
        "permutations": asked.permutations,
        "smallest_p": permutation.smallest_p(asked.permutations),
    }
    if not n_usable:
        return values
    best = largest(exact.f)
    varying = exact.ratio[..., ~exact.constant_modes()]
    n_q = int((found.q[usable] <= asked.alpha).sum())
    values |= {
        "max_f": float(exact.f[best]),
        "max_f_position": list(best[:2]),
        "max_f_mode": best[2],
        "mean_ratio": float(np.nanmean(varying)),
        "max_ratio_over_modes": float(np.nan_to_num(varying).mean(axis=2).max()),
        "max_f_p": float(exact.p[best]),
        "max_eta_squared": float(np.nanmax(exact.eta_squared)),
        "mean_eta_squared": float(np.nanmean(exact.eta_squared)),
        "max_welch_f": float(found.mean.f[largest(found.mean.z)]),
        "dispersion_f": found.spread.f,
        "dispersion_p": found.spread.p,
        "n_q_significant": n_q,
        "share_q_significant": n_q / n_usable,
    }
    if asked.permutations:
        n_family = int((found.family_wise[usable] <= asked.alpha).sum())
        values["family_wise_p"] = float(found.family_wise[best])
        values["n_family_wise_significant"] = n_family
        values["welch_family_wise_p"] = _least(found.mean_family_wise)
        if found.clusters is not None:
            for name in ("tfce", "mass"):
                p = getattr(found.clusters, f"p_{name}")
                values[f"{name}_family_wise_p"] = _least(p)
                values[f"n_{name}_family_wise_significant"] = int((p <= asked.alpha).sum())
    return values


def family_wise(values: Mapping[str, Any]) -> float:
    """Return p of the largest F: family-wise, and without permutations Bonferroni's."""
    return float(values.get("family_wise_p", min(1.0, values["max_f_p"] * values["n_tests"])))


def _claims(asked: FStatisticParameters, values: dict[str, Any]) -> list[Claim]:
    if not values["n_tests"]:
        return []
    says = f"a difference of {asked.feature} between classes at single positions"
    return [Claim("max_f", says, values["max_f"], p=family_wise(values), level=asked.alpha)]


def _answer(asked: FStatisticParameters, values: dict[str, Any], found: Found, verdict: str) -> str:
    n_modes = found.exact.f.shape[2]
    if not values["n_tests"]:
        return (
            f"{asked.feature} cannot be tested: no position varies within the classes; notebook "
            f"verdict: {verdict}."
        )
    row, col = values["max_f_position"]
    test = p_text(values["max_f_p"]) + " for that test alone"
    differs = values["n_q_significant"] > 0
    how, beside = "", ""
    if asked.permutations:
        family, of_means = values["family_wise_p"], values["welch_family_wise_p"]
        test = f"family-wise {p_text(family)} over {asked.permutations} permutations"
        differs = family <= asked.alpha
        if differs and not of_means <= asked.alpha and found.spread.p <= asked.alpha:
            how = " in spread, perhaps not in mean,"
        if np.isfinite(of_means):
            beside = f"; Welch's F, of means whatever the spread, family-wise {p_text(of_means)}"
        spread = dispersion.in_words(found.spread, asked.alpha)
        beside += f"; {spread}" if spread else ""
    return (
        f"{'' if differs else 'no evidence that '}{asked.feature} differs between classes{how} "
        f"at single positions: the largest F({values['df_between']}, {values['df_within']}) is "
        f"{number(values['max_f'])} at row {row}, column {col}, "
        f"{mode_name(values['max_f_mode'], n_modes)} ({test}){beside}; "
        f"{values['n_q_significant']} of {values['n_tests']} tests have q <= {asked.alpha:g}; "
        f"notebook verdict: {verdict}."
    )


def _caveats(asked: FStatisticParameters, found: Found) -> list[str]:
    """Return what holds for these F, beside what holds for every analysis."""
    exact = found.exact
    n_modes = exact.f.shape[2]
    whole = exact.constant_modes()
    n_tests = int(np.isfinite(exact.f).sum())
    said = caveats.resolution(asked.permutations, asked.alpha, n_tests) if n_tests else []
    said += overflowed(found.ratio)
    said.append(
        "ratio is the notebook's F ratio in float64; the notebook formed it in float32, and its "
        "own figures (under 'notebook') are off where a position hardly varies"
    )
    said += caveats.constant([mode_name(int(m), n_modes) for m in np.flatnonzero(whole)])
    single = int(exact.constant[..., ~whole].sum())
    if single:
        what = "1 more column is" if single == 1 else f"{single} more columns are"
        said.append(f"{what} constant over all images and left out")
    if exact.pure.any():
        row, col, mode = (int(i) for i in np.argwhere(exact.pure)[0])
        n_pure = int(exact.pure.sum())
        what = "1 column varies" if n_pure == 1 else f"{n_pure} columns vary"
        said.append(
            f"{what} between classes and never within one (the first at row {row}, column "
            f"{col}, {mode_name(mode, n_modes)}): F has no denominator there and is left out"
        )
    return said


def _result(asked: FStatisticParameters, found: Found, said: list[str], store: MapStore) -> Result:
    exact = found.exact
    columns = _mode_table(asked, found)
    values = _values(asked, found)
    notebook = notebook_figures(found.ratio, exact.constant_modes())
    arrays: dict[str, NDArray[Any]] = {
        "f": exact.f, "p": exact.p, "q": found.q, "eta_squared": exact.eta_squared,
        "notebook_f_ratio": exact.ratio, "notebook_f_ratio_float32": found.ratio,
        "constant": exact.constant, "welch_f": found.mean.f, "p_welch": found.mean_p,
    }  # fmt: skip
    if asked.permutations:
        arrays["p_family_wise"] = found.family_wise
        arrays["p_permutation"] = found.single
        arrays["null_maximum_f"] = found.maxima
        arrays["p_family_wise_welch"] = found.mean_family_wise
    if found.clusters is not None:
        arrays |= {
            "tfce": found.clusters.tfce, "p_family_wise_tfce": found.clusters.p_tfce,
            "cluster_mass": found.clusters.mass, "p_family_wise_cluster": found.clusters.p_mass,
        }  # fmt: skip

    title = f"{asked.feature}: F between classes"
    f_map = drawn("mode_maps", exact.f, title, "F", skip=exact.constant)
    return Result(
        analysis=NAME,
        feature=asked.feature,
        question=QUESTION,
        columns={"modes": columns},
        arrays=arrays,
        values=values,
        notebook=notebook,
        parameters={"permutations": asked.permutations, "alpha": asked.alpha},
        seed=asked.seed,
        sentences=[_answer(asked, values, found, notebook["verdict"])],
        caveats=said,
        provenance=provenance(store),
        figures={"f_map": f_map} if values["n_tests"] else {},
        shown=("modes",) if columns else (),
        claims=_claims(asked, values),
    )


def f_statistic(
    store: MapStore,
    *,
    feature: str = FStatisticParameters.feature,
    permutations: int = FStatisticParameters.permutations,
    seed: int = FStatisticParameters.seed,
    alpha: float = FStatisticParameters.alpha,
    memory: int = FStatisticParameters.memory,
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
        and modes, of permutation p where there are permutations), `eta_squared`,
        `notebook_f_ratio`, `constant`, `welch_f`, `p_welch`, and with permutations
        `p_permutation`, `p_family_wise` and `p_family_wise_welch` (maximum statistic), `tfce` and
        `cluster_mass` with theirs. What is constant is NaN.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        grid is one patch.
    """
    asked = FStatisticParameters(
        feature=feature, permutations=permutations, seed=seed, alpha=alpha, memory=memory
    )
    return run(store, [FStatistic(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, f_statistic, FStatisticParameters, FStatistic)

make_callable(__name__)
