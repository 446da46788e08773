"""spatial-cv: do the maps of single images have spatial structure?

CV does not change when the patches are shuffled, so it cannot answer; Moran's I does. Whether there
is structure at all is one test of all maps; which maps have it is a test of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.passes import Passes, class_moments, run
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    mode_name,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import mean_interval, share_interval
from frictionstore.analyses.stats.joint_moran import JOINT_SHUFFLES, MANY, JointResult
from frictionstore.analyses.stats.lattice import CONTIGUITIES, Contiguity, Weights
from frictionstore.analyses.stats.moran import FEW, MoranTest
from frictionstore.analyses.stats.spatial_maps import Correlogram, LocalMoran
from frictionstore.analyses.stats.spatial_rows import SpatialRows

Floats = NDArray[np.float64]
NAME = "spatial-cv"
QUESTION = "Do maps have spatial structure within images?"
NOTEBOOK_THRESHOLD = 0.1
QUANTILES = (0.05, 0.25, 0.75, 0.95)


@dataclass(frozen=True)
class Found:
    """What is found of every image and mode, shape (n_images, n_modes), and of all together.

    CV is 0 where nothing varies, NaN where the mean is 0; `moran`, `joint`, `own`, `local` and
    `correlogram` are as in `SpatialRows`; `q` is over images, each mode a family.
    """

    mean: Floats
    variance: Floats
    cv: Floats
    moran: dict[Contiguity, dict[str, Floats]]
    joint: dict[Contiguity, JointResult]
    own: dict[Contiguity, JointResult]
    local: LocalMoran | None
    correlogram: Correlogram | None
    q: dict[Contiguity, Floats]
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


def found_in(rows: SpatialRows, groups: NDArray[np.int64] | None = None) -> Found:
    """Return what follows from the rows of all images, which may belong together in groups."""
    std = np.sqrt(rows.variance)
    cv = np.divide(std, rows.mean, out=np.full(std.shape, np.nan), where=rows.mean != 0)
    cv[std == 0] = 0.0
    q = {n: permutation.benjamini_hochberg(one["p"], axis=0) for n, one in rows.moran.items()}
    return Found(
        rows.mean, rows.variance, cv, rows.moran, rows.joint, rows.own, rows.local,
        rows.correlogram, q, rows.constant, groups,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SpatialCVParameters(parameters.Parameters):
    """What is asked for: see `spatial_cv`."""

    feature: str = parameters.feature()
    permutations: int = parameters.permutations(1000, "of the patches")
    seed: int = parameters.seed()
    alpha: float = parameters.alpha()
    weights: Weights = parameters.parameter(  # noqa: RUF009 - a field, as the others
        "row", "Row-standardised or plain spatial weights.", choices=("row", "binary")
    )


class SpatialCV:
    """The plan: rows of every image, in as many passes as the joint test needs."""

    def __init__(self, asked: SpatialCVParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        self._store: MapStore = store
        grid = require_grid(store, NAME)
        n_modes = require_feature(store, asked.feature)
        self._moments = class_moments(passes, asked.feature, n_modes)
        drawn_by = (asked.permutations, asked.seed, asked.alpha, asked.weights)
        self._rows = passes.share(
            ("spatial rows", asked.feature, *drawn_by),
            lambda: SpatialRows(
                asked.feature, store.n_images, grid, n_modes, *drawn_by,
                single=not passes.claims_only,
            ),
        )  # fmt: skip

    def result(self) -> Result:
        tails = caveats.heavy_tail(self._asked.feature, self._moments.everything)
        found = found_in(self._rows, groups_of(self._store))
        return _result(self._asked, found, tails, self._store)


def _mode_table(asked: SpatialCVParameters, found: Found) -> Columns:
    rows = []
    for m, mode in zip(found.varying, found.names(found.varying), strict=True):
        row: dict[str, Any] = {"mode": mode}
        for name in CONTIGUITIES:
            of_maps = found.moran[name]
            i = of_maps["i"][:, m]
            mean, low, high = found.interval(i)
            row |= {f"moran_{name}": mean, f"moran_{name}_low": low, f"moran_{name}_high": high}
            if found.joint:
                joint = found.joint[name]
                row[f"moran_{name}_p"] = float(joint.p[m])
                row[f"moran_{name}_p_family_wise"] = float(joint.p_family_wise[m])
            if found.own:
                own = found.own[name]
                row[f"moran_{name}_own"] = float(own.mean[m])
                row[f"moran_{name}_own_p"] = float(own.p[m])
                row[f"moran_{name}_own_p_family_wise"] = float(own.p_family_wise[m])
            row[f"share_significant_{name}"] = _share(found.q[name][:, m], asked.alpha)
            row[f"z_{name}"] = _mean(of_maps["z"][:, m])
        cv = found.cv[:, m][np.isfinite(found.cv[:, m])]
        mean, low, high = found.interval(found.cv[:, m])
        row |= {"cv": mean, "cv_low": low, "cv_high": high}
        row["cv_std"] = float(cv.std(ddof=1)) if cv.size > 1 else np.nan
        row["cv_median"] = float(np.median(cv)) if cv.size else np.nan
        row["cv_max"] = float(cv.max()) if cv.size else np.nan
        for quantile in QUANTILES:
            value = float(np.quantile(cv, quantile)) if cv.size else np.nan
            row[f"cv_q{quantile * 100:02.0f}"] = value
        rows.append(row | {"variance": float(found.variance[:, m].mean())})
    return by_column(rows)


def _image_table(found: Found, ids: ArrayLike) -> Columns:
    """Return the table with one row per image and mode."""
    varying = found.varying
    n, k = len(found.cv), len(varying)
    arrays = {"mean": found.mean, "variance": found.variance, "cv": found.cv}
    for name in CONTIGUITIES:
        of_maps = {**found.moran[name], "q": found.q[name]}
        arrays |= {f"moran_{name}_{key}": of_maps[key] for key in ("i", "z", "p", "shuffles", "q")}
    return {
        "image": np.repeat(np.arange(n), k),
        "image_id": np.repeat(np.asarray(ids), k),
        "mode": np.tile(varying, n),
    } | {key: array[:, varying].reshape(-1) for key, array in arrays.items()}


def _share(q: Floats, alpha: float) -> float:
    tested = np.isfinite(q)
    return float((q[tested] <= alpha).mean()) if tested.any() else float("nan")


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _notebook_figures(found: Found) -> dict[str, Any]:
    """Return what the notebook printed: of its first images, with 1e-8 added to the mean."""
    kept = slice(NOTEBOOK_IMAGES)
    variance = found.variance[kept]
    # The root of all, then the part: the last digit of a mean depends on how its terms lie.
    cv = np.sqrt(found.variance)[kept] / (found.mean[kept] + 1e-8)
    overall = float(cv.mean())
    verdict = "HAS SPATIAL STRUCTURE" if overall > NOTEBOOK_THRESHOLD else "SPATIALLY UNIFORM"
    return {
        "mean_cv": overall,
        "verdict": verdict,
        "per_mode": [
            {
                "mode": mode,
                "variance_mean": float(variance[:, m].mean()),
                "variance_std": float(variance[:, m].std(ddof=1)) if len(variance) > 1 else None,
                "cv_mean": float(cv[:, m].mean()),
                "cv_median": float(np.median(cv[:, m])),
                "cv_max": float(cv[:, m].max()),
            }
            for m, mode in zip(found.varying, found.names(found.varying), strict=True)
        ],
    }


def _values(asked: SpatialCVParameters, found: Found, expectation: float) -> dict[str, Any]:
    # Over all modes, 0 for a map that does not vary: a mode that was constant but for one patch
    # then counts as it did.
    per_image = found.cv.mean(axis=1)
    mean, low, high = found.interval(per_image)
    shuffles = JOINT_SHUFFLES if asked.permutations else 0
    values: dict[str, Any] = {
        "mean_cv": mean,
        "mean_cv_low": low,
        "mean_cv_high": high,
        "moran_expectation": expectation,
        "permutations": asked.permutations,
        "joint_shuffles": shuffles,
        "smallest_p": permutation.smallest_p(shuffles),
    }
    for name in CONTIGUITIES:
        i, tested = (x[:, found.varying] for x in (found.moran[name]["i"], found.q[name]))
        values[f"mean_moran_{name}"] = float(np.nanmean(i)) if np.isfinite(i).any() else np.nan
        values[f"n_maps_{name}"] = int(np.isfinite(i).sum())
        values[f"n_tested_{name}"] = int(np.isfinite(tested).sum())
        values[f"n_significant_{name}"] = int((tested <= asked.alpha).sum())
        values[f"share_significant_{name}"] = _share(tested, asked.alpha)
        if found.groups is not None:
            there = np.isfinite(tested)
            of_maps = np.broadcast_to(found.groups[:, None], tested.shape)[there]
            ends = share_interval(tested[there] <= asked.alpha, of_maps)
            values |= dict(zip((f"share_{name}_low", f"share_{name}_high"), ends, strict=True))
        if found.joint:
            values[f"p_mean_moran_{name}"] = found.joint[name].overall_p
        if found.own:
            values[f"mean_moran_{name}_own"] = found.own[name].overall_mean
            values[f"p_mean_moran_{name}_own"] = found.own[name].overall_p
    return values


def _caveats(asked: SpatialCVParameters, found: Found) -> list[str]:
    said = caveats.constant(found.names(np.flatnonzero(found.constant)))
    flat = int(((found.variance == 0) & ~found.constant).sum())
    if flat:
        said.append(
            f"{flat} of {found.variance.size} maps of one image and mode do not vary over "
            "patches and have no Moran's I"
        )
    if asked.permutations:
        said.append(
            f"p of a mean Moran's I rests on {JOINT_SHUFFLES} joint shuffles, or fewer where "
            f"{MANY} were as extreme before, each of which moves the patches of all images and "
            "modes alike: that images share an effect of position is no evidence, that "
            "neighbours are alike in it is; 'own' is of maps without the mean map of all images"
        )
        most = max(np.nanmax(one["shuffles"], initial=0) for one in found.moran.values())
        said.append(
            f"p of one map rests on {asked.permutations} shuffles or more (up to {most:.0f} "
            f"where fewer than {FEW} were as extreme); q is Benjamini-Hochberg over the images "
            "of a mode"
        )
    said += caveats.notebook(len(found.cv))
    said.append("CV cannot see space: shuffling the patches of an image leaves it unchanged")
    return said + caveats.features(asked.feature, ratios=True)


def _lags(found: Found) -> dict[str, Columns]:
    """Return the table of Moran's I by distance, if there is one."""
    lags, modes = found.correlogram, found.varying
    if lags is None or not len(modes):
        return {}
    return {
        "correlogram": {
            "mode": [name for name in found.names(modes) for _ in lags.i],
            "distance": np.tile(np.arange(1, len(lags.i) + 1), len(modes)),
            "moran": lags.i[:, modes].T.reshape(-1),
            "p": lags.p[:, modes].T.reshape(-1),
            "p_holm": lags.p_holm[:, modes].T.reshape(-1),
        }
    }


def _result(asked: SpatialCVParameters, found: Found, tails: list[str], store: MapStore) -> Result:
    varying = found.varying
    expectation = MoranTest(*store.grid, "queen", asked.weights).expectation
    values, notebook = _values(asked, found, expectation), _notebook_figures(found)
    arrays = {"mean": found.mean, "variance": found.variance, "cv": found.cv}
    for name in CONTIGUITIES:
        arrays |= {f"moran_{name}_{key}": a for key, a in found.moran[name].items()}
        arrays[f"moran_{name}_q"] = found.q[name]
    if found.local is not None:
        shape = (*store.grid, len(found.constant))
        for key in ("i", "p", "q"):
            arrays[f"local_moran_{key}"] = getattr(found.local, key).reshape(shape)

    queen = found.moran["queen"]["i"]
    figure = drawn(
        "histograms",
        {name: queen[:, m] for m, name in zip(varying, found.names(varying), strict=True)},
        f"{asked.feature}: Moran's I of single images, queen contiguity",
        "Moran's I", "images",
    )  # fmt: skip
    return Result(
        analysis=NAME,
        feature=asked.feature,
        question=QUESTION,
        columns={
            "modes": _mode_table(asked, found), "images": _image_table(found, store.image_ids),
            **_lags(found),
        },
        arrays=arrays,
        values=values,
        notebook=notebook,
        parameters={
            "permutations": asked.permutations, "alpha": asked.alpha, "weights": asked.weights,
            "alternative": "two-sided",
        },
        seed=asked.seed,
        sentences=[_answer(asked.feature, values, asked.alpha, notebook)],
        caveats=_caveats(asked, found) + tails,
        provenance=provenance(store),
        figures={"moran": figure} if len(varying) else {},
        shown=("modes", "correlogram") if found.correlogram is not None else ("modes",),
        claims=_claims(asked, values),
    )  # fmt: skip


def _claims(asked: SpatialCVParameters, values: dict[str, Any]) -> list[Claim]:
    feature = asked.feature
    cv = Claim(
        "mean_cv", f"mean CV of {feature} over patches", values["mean_cv"],
        values["mean_cv_low"], values["mean_cv_high"],
    )  # fmt: skip
    if not values["n_maps_queen"]:
        return [cv]
    says = f"spatial structure of {feature} within images"
    moran, p = values["mean_moran_queen"], values.get("p_mean_moran_queen")
    return [Claim("mean_moran_queen", says, moran, p=p, level=asked.alpha), cv]


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
    p_own, own = values.get("p_mean_moran_queen_own", np.nan), ""
    if np.isfinite(p_own):
        own = f"{number(values['mean_moran_queen_own'])}, {p_text(p_own)}"
        beyond = (
            ", no evidence of structure beyond the map that images share"
            if (p <= alpha < p_own)
            else ""
        )
        own = f"; without the mean map of all images {own}{beyond}"
    return (
        f"{answer}: {i}; {p_text(p)} under joint shuffles of the patches{own}); taken one by one, "
        f"{values['share_significant_queen']:.1%} of {values['n_tested_queen']} maps of images and "
        f"modes are significant at q <= {alpha:g}; {said}."
    )


def spatial_cv(
    store: MapStore,
    *,
    feature: str = SpatialCVParameters.feature,
    permutations: int = SpatialCVParameters.permutations,
    seed: int = SpatialCVParameters.seed,
    alpha: float = SpatialCVParameters.alpha,
    weights: Weights = SpatialCVParameters.weights,
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
        `analyses.stats.moran.shuffle_further`); 0 leaves p-values out.
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
        images (see `analyses.stats.joint_moran.JointMoran`), alone and family-wise over modes,
        and the same without the mean map of all images (`own`); `images` with one row per image
        and mode; `correlogram` with I by distance. Value `p_mean_moran_queen`, of all maps
        together, decides. Arrays of shape (row, col, mode): `local_moran_i`, `local_moran_p` and
        `local_moran_q`, mean over images.
        Arrays of shape (image, mode): `mean`, `variance` (ddof 1), `cv`, and for each contiguity
        `moran_queen_i`, `moran_queen_z` (exact permutation z), `moran_queen_p` (two-sided, by
        `moran_queen_shuffles` shuffles) and `moran_queen_q` (Benjamini-Hochberg over images, each
        mode a family).

    Raises
    ------
    AnalysisError
        If values are not finite or the grid has fewer than 4 patches.
    """
    asked = SpatialCVParameters(
        feature=feature, permutations=permutations, seed=seed, alpha=alpha, weights=weights
    )
    return run(store, [SpatialCV(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, spatial_cv, SpatialCVParameters, SpatialCV)

make_callable(__name__)
