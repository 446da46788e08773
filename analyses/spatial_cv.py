"""spatial-cv: do the maps of single images have spatial structure?

CV does not change when the patches are shuffled, so it cannot answer; Moran's I does. Whether there
is structure at all is one test of all maps; which maps have it is a test of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.groups import groups_of
from frictionstore.analyses.core.passes import Passes, class_moments, run
from frictionstore.analyses.core.results import Result, by_column, drawn, provenance
from frictionstore.analyses.core.rows import Column, ids_of
from frictionstore.analyses.core.source import (
    NOTEBOOK_IMAGES,
    MapStore,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.intervals import share_interval
from frictionstore.analyses.stats.joint_moran import JOINT_SHUFFLES, MANY
from frictionstore.analyses.stats.lattice import CONTIGUITIES, Weights
from frictionstore.analyses.stats.moran import FEW, MoranTest
from frictionstore.analyses.stats.spatial_rows import KEYS, Found, SpatialRows, found_in

Floats = NDArray[np.float64]
NAME = "spatial-cv"
QUESTION = "Do maps have spatial structure within images?"
NOTEBOOK_THRESHOLD = 0.1
QUANTILES = (0.05, 0.25, 0.75, 0.95)
_TOLD = ("i", "z", "p", "shuffles", "q")
"""Figures of Moran's I in the table of images."""


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
    column = found.rows.column
    for m, mode in zip(found.varying, found.names(found.varying), strict=True):
        row: dict[str, Any] = {"mode": mode}
        for name in CONTIGUITIES:
            mean, low, high = found.interval(column(f"moran_{name}_i", m))
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
            row[f"share_significant_{name}"] = _share(column(f"moran_{name}_q", m), asked.alpha)
            row[f"z_{name}"] = _mean(column(f"moran_{name}_z", m))
        cv = column("cv", m)
        mean, low, high = found.interval(cv)
        cv = cv[np.isfinite(cv)]
        row |= {"cv": mean, "cv_low": low, "cv_high": high}
        row["cv_std"] = float(cv.std(ddof=1)) if cv.size > 1 else np.nan
        row["cv_median"] = float(np.median(cv)) if cv.size else np.nan
        row["cv_max"] = float(cv.max()) if cv.size else np.nan
        for quantile in QUANTILES:
            value = float(np.quantile(cv, quantile)) if cv.size else np.nan
            row[f"cv_q{quantile * 100:02.0f}"] = value
        rows.append(row | {"variance": float(column("variance", m).mean())})
    return by_column(rows)


def _image_table(found: Found, store: MapStore) -> Columns:
    """Return the table with one row per image and mode."""
    varying = found.varying
    n, k = found.rows.n_images, len(varying)

    def column(of_images: Callable[[slice], NDArray[Any]]) -> Column:
        """Return a column from what is (images, k) of some images."""

        def made(rows: slice) -> NDArray[Any]:
            images = slice(rows.start // max(k, 1), -(-rows.stop // max(k, 1)))
            first = images.start * k
            flat = np.asarray(of_images(images)).reshape(-1)
            return flat[rows.start - first : rows.stop - first]

        return Column(n * k, made)

    def ids(images: slice) -> NDArray[Any]:
        return np.repeat(np.array(ids_of(store, images), object), k)

    def numbers(name: str) -> Column:
        array = found.rows[name]
        return column(lambda images: array[images][:, varying])

    names = ["mean", "variance", "cv"]
    names += [f"moran_{name}_{key}" for name in CONTIGUITIES for key in _TOLD]
    return {
        "image": column(lambda images: np.repeat(np.arange(images.start, images.stop), k)),
        "image_id": column(ids),
        "mode": column(lambda images: np.tile(varying, images.stop - images.start)),
    } | {name: numbers(name) for name in names}


def _share(q: Floats, alpha: float) -> float:
    tested = np.isfinite(q)
    return float((q[tested] <= alpha).mean()) if tested.any() else float("nan")


def _mean(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")


def _notebook_figures(found: Found) -> dict[str, Any]:
    """Return what the notebook printed: of its first images, with 1e-8 added to the mean."""
    kept = slice(NOTEBOOK_IMAGES)
    mean, variance = (np.array(found.rows[name][kept]) for name in ("mean", "variance"))
    cv = np.sqrt(variance) / (mean + 1e-8)
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
    per_image = np.concatenate([cv.mean(axis=1) for _, (cv,) in found.rows.blocks("cv")])
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
        total, maps, tests, low_q = 0.0, 0, 0, 0
        for i in found.each(f"moran_{name}_i"):
            there = i[np.isfinite(i)]
            total, maps = total + float(there.sum()), maps + len(there)
        for q in found.each(f"moran_{name}_q"):
            tests += int(np.isfinite(q).sum())
            low_q += int((q <= asked.alpha).sum())  # NaN is not
        values[f"mean_moran_{name}"] = total / maps if maps else np.nan
        values[f"n_maps_{name}"] = maps
        values[f"n_tested_{name}"] = tests
        values[f"n_significant_{name}"] = low_q
        values[f"share_significant_{name}"] = low_q / tests if tests else np.nan
        if found.groups is not None:
            tested = found.rows[f"moran_{name}_q"][:, found.varying]
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
    rows = found.rows
    flat = sum(
        int(((variance == 0) & ~found.constant).sum()) for _, (variance,) in rows.blocks("variance")
    )
    if flat:
        said.append(
            f"{flat} of {rows.n_images * len(found.constant)} maps of one image and mode do not "
            "vary over patches and have no Moran's I"
        )
    if asked.permutations:
        said.append(
            f"p of a mean Moran's I rests on {JOINT_SHUFFLES} joint shuffles, or fewer where "
            f"{MANY} were as extreme before, each of which moves the patches of all images and "
            "modes alike: that images share an effect of position is no evidence, that "
            "neighbours are alike in it is; 'own' is of maps without the mean map of all images"
        )
        names = [f"moran_{name}_shuffles" for name in CONTIGUITIES]
        most = max(np.nanmax(one, initial=0) for _, both in rows.blocks(*names) for one in both)
        said.append(
            f"p of one map rests on {asked.permutations} shuffles or more (up to {most:.0f} "
            f"where fewer than {FEW} were as extreme); q is Benjamini-Hochberg over the images "
            "of a mode"
        )
    said += caveats.notebook(rows.n_images)
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
    names = ["mean", "variance", "cv"]
    names += [f"moran_{name}_{key}" for name in CONTIGUITIES for key in (*KEYS, "shuffles", "q")]
    arrays = {name: found.rows[name] for name in names}
    if found.local is not None:
        shape = (*store.grid, len(found.constant))
        for key in ("i", "p", "q"):
            arrays[f"local_moran_{key}"] = getattr(found.local, key).reshape(shape)

    queen = arrays["moran_queen_i"]
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
            "modes": _mode_table(asked, found), "images": _image_table(found, store),
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
