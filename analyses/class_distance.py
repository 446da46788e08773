"""class-distance: do the mean maps of the classes differ, and by more than noise?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import caveats, options, parameters
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.claims import Claim
from frictionstore.analyses.core.passes import ClassMoments, Passes, class_moments, run
from frictionstore.analyses.core.results import Result, drawn, provenance
from frictionstore.analyses.core.source import (
    Classes,
    MapStore,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import Columns, number, p_text
from frictionstore.analyses.stats import crossnobis, dispersion, label_sums, permutation
from frictionstore.analyses.stats.anova import welch, welch_from_sums

Floats = NDArray[np.float64]
NAME = "class-distance"
QUESTION = "Do classes have different mean maps?"
NOTEBOOK_THRESHOLD = 0.99
ALPHA = 0.05
"""Level at which the mean distance is called a difference."""


@dataclass(frozen=True)
class Distances:
    """Distances and cosines between class mean maps, float64 of shape (n_classes, n_classes)."""

    euclidean: Floats
    cosine: Floats
    centred_cosine: Floats


def distances(means: Floats) -> Distances:
    """Return Euclidean distances and cosines between mean maps.

        d_ab = ||m_a - m_b||,  cos_ab = m_a . m_b / (||m_a|| ||m_b||)

    `centred_cosine` is the cosine after the mean of all class means is taken off: maps that
    share a large common part have cosines near 1 whatever their differences are.

    Parameters
    ----------
    means
        float64 array of shape (n_classes, n_features).

    Returns
    -------
    Distances
        A cosine with a map of zeros is NaN.
    """
    # Differences, not the Gram matrix: close means must not cancel.
    euclidean = np.stack([np.sqrt(np.square(means - row).sum(axis=1)) for row in means])
    return Distances(euclidean, _cosine(means), _cosine(means - means.mean(axis=0)))


def _cosine(rows: Floats) -> Floats:
    norm = np.sqrt(np.square(rows).sum(axis=1))
    product = np.outer(norm, norm)
    cosine = np.full(product.shape, np.nan)
    np.divide(rows @ rows.T, product, out=cosine, where=product > 0)
    return np.clip(cosine, -1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ClassDistanceParameters(parameters.Parameters):
    """What is asked for: see `class_distance`."""

    feature: str = parameters.feature()
    permutations: int = parameters.permutations(1000, "of the labels")
    splits: int = parameters.parameter(
        200, "Random halvings of each class, for the noise floor.", least=2
    )
    seed: int = parameters.seed()
    memory: int = label_sums.MEMORY


@dataclass(frozen=True)
class Found:
    """What is found of the mean maps, shape (n_classes, row, col, mode).

    `halves` are distances between two random halves of each class, (splits, n_classes);
    `crossnobis` is cross-validated, (n_classes, n_classes), and `most` the upper end of its mean's
    interval; `within` is each class's sum of squares; `null_...` are mean distance, smallest
    cosine, pseudo-F and Welch's under permuted labels. Pseudo-F is NaN where all images are equal,
    Welch's where those of one class are.
    """

    means: Floats
    observed: Distances
    halves: Floats
    crossnobis: Floats
    most: float
    within: Floats
    pseudo_f: float
    null_distance: Floats
    null_cosine: Floats
    null_f: Floats
    welch_f: float
    null_welch: Floats
    spread: dispersion.Dispersion


class ClassDistance:
    """The plan: class moments, halves and permuted class sums in the same passes."""

    def __init__(self, asked: ClassDistanceParameters) -> None:
        self._asked = asked

    def prepare(self, passes: Passes) -> None:
        asked, store = self._asked, passes.store
        rows, cols = require_grid(store, NAME)
        self._store: MapStore = store
        n_modes = require_feature(store, asked.feature)
        self._classes: Classes = require_classes(store, NAME)
        n_features = rows * cols * n_modes
        self._collected: ClassMoments = class_moments(passes, asked.feature, n_modes)
        self._halves = passes.share(
            ("half splits", asked.feature, asked.splits, asked.seed),
            lambda: label_sums.HalfSplits(
                asked.feature, self._classes, n_features, asked.splits, asked.seed
            ),
            claimed=False,
        )
        folds, n_folds = crossnobis.class_folds(
            self._classes.labels, np.random.default_rng(asked.seed), self._classes.groups
        )
        self._unbiased = passes.share(
            ("crossnobis", asked.feature, asked.seed),
            lambda: crossnobis.Crossnobis(
                asked.feature, self._classes.labels, folds, self._classes.n, n_folds,
                (rows, cols, n_modes),
            ),
            claimed=False,
        )  # fmt: skip
        self._distances = dispersion.class_distances(passes, asked.feature, self._classes, n_modes)
        self._null = np.full((5, asked.permutations), np.nan)
        if asked.permutations:
            self._sums = label_sums.permuted_class_sums(
                passes, asked.feature, self._classes, n_features, asked.permutations, asked.seed,
                asked.memory,
            )  # fmt: skip
            self._sums.reducers.append(self._reduce)

    def _reduce(self, which: slice, sums: Floats, squares: Floats, shift: Floats) -> None:
        distance, cosine, f, of_means, unequal = self._null
        counts = self._sums.counts(which)
        means = sums * label_sums.class_weights(counts)
        square = label_sums.squared_distances(means)
        distance[which] = np.sqrt(label_sums.off_diagonal(square)).mean(axis=1)
        # Cosines need the maps themselves: the Gram matrix of means plus shift.
        gram = means @ np.swapaxes(means, 1, 2)
        along = means @ shift
        gram += along[:, :, None] + along[:, None, :] + shift @ shift
        norm = np.sqrt(np.einsum("paa->pa", gram))
        product = norm[:, :, None] * norm[:, None, :]
        cosines = np.divide(gram, product, out=np.full_like(gram, np.nan), where=product > 0)
        cosine[which] = label_sums.off_diagonal(cosines).min(axis=1)
        f[which] = self._pseudo_f(sums, counts)
        unequal[which] = dispersion.unequal_from_sums(sums, squares[..., -1:], counts)
        of_means[which] = welch_from_sums(sums, squares[..., -1:], counts, pooled=True).f[..., 0]

    def _pseudo_f(self, sums: Floats, counts: NDArray[np.int64]) -> Floats | float:
        total = float(self._collected.labelled.m2.sum())
        if total <= 0:
            return np.nan
        return label_sums.f_from_sums(sums, counts, total, pooled=True)

    def result(self) -> Result:
        moments, classes = self._collected.by_class, self._classes
        means = moments.mean.reshape(classes.n, -1)
        # The overall mean is taken off before sums of squares are formed.
        centred = (means - self._collected.labelled.mean.reshape(-1)) * classes.counts[:, None]
        within = moments.m2.reshape(classes.n, -1).sum(axis=1)
        variance = (within / (classes.counts - 1))[:, None]
        found = Found(
            means=moments.mean,
            observed=distances(means),
            halves=self._halves.distances,
            crossnobis=self._unbiased.distances,
            most=self._unbiased.most,
            within=within,
            pseudo_f=float(self._pseudo_f(centred, classes.counts)),
            null_distance=self._null[0],
            null_cosine=self._null[1],
            null_f=self._null[2],
            welch_f=float(welch(means, variance, classes.counts, pooled=True).f[0]),
            null_welch=self._null[3],
            spread=dispersion.and_by_labels(
                self._distances.test(self._asked.permutations, self._asked.seed),
                dispersion.unequal(variance[:, 0], classes.counts),
                self._null[4],
                grouped=classes.groups is not None,
            ),
        )
        constant = self._collected.labelled.constant()[0].all(axis=(0, 1))
        said = [
            *classes.caveats(permuted=self._asked.permutations > 0),
            *dispersion.caveats(classes),
            *caveats.smallest_p(self._asked.permutations),
            *(
                f"{mode_name(int(mode), len(constant))} is constant over all images: it adds "
                "nothing to distances and raises the notebook's cosines"
                for mode in np.flatnonzero(constant)
            ),
            *caveats.heavy_tail(self._asked.feature, self._collected.everything),
            *caveats.features(self._asked.feature),
        ]
        return _result(self._asked, found, classes, said, self._store)


def _values(asked: ClassDistanceParameters, found: Found, classes: Classes) -> dict[str, Any]:
    pairs = label_sums.off_diagonal(found.observed.euclidean)
    cosines = label_sums.off_diagonal(found.observed.cosine)
    spread = np.sqrt(found.within.sum() / (classes.n_labelled - classes.n))
    values: dict[str, Any] = {
        "mean_distance": float(pairs.mean()),
        "min_distance": float(pairs.min()),
        "max_distance": float(pairs.max()),
        "mean_crossnobis": float(label_sums.off_diagonal(found.crossnobis).mean()),
        "mean_crossnobis_high": found.most,
        "mean_cosine": float(cosines.mean()),
        "min_cosine": float(np.min(cosines)),
        "min_centred_cosine": float(label_sums.off_diagonal(found.observed.centred_cosine).min()),
        "half_split_distance": float(found.halves.mean()),
        "within_class_spread": float(spread),
        "pseudo_f": found.pseudo_f,
        "welch_f": found.welch_f,
        "dispersion_f": found.spread.f,
        "permutations": asked.permutations,
        "smallest_p": permutation.smallest_p(asked.permutations),
    }
    if asked.permutations:
        p_cosine = permutation.p_value(values["min_cosine"], found.null_cosine, "less")
        values |= {
            "null_mean_distance": float(found.null_distance.mean()),
            "p_mean_distance": float(
                permutation.p_value(values["mean_distance"], found.null_distance)
            ),
            "p_min_cosine": float(p_cosine),
            "p_pseudo_f": float(permutation.p_value(found.pseudo_f, found.null_f)),
            "p_welch_f": float(permutation.p_value(found.welch_f, found.null_welch)),
            "p_dispersion": found.spread.p,
        }
    return values


def _tables(found: Found, classes: Classes) -> dict[str, Columns]:
    """Return the table by class and that by pair of classes."""
    distance = found.observed.euclidean
    low, high = np.quantile(found.halves, [0.025, 0.975], axis=0)
    # A class is not its own neighbour.
    others = np.where(np.eye(classes.n, dtype=bool), np.inf, distance)
    first, second = np.triu_indices(classes.n, 1)
    return {
        "classes": {
            "class": list(classes.names),
            "images": classes.counts,
            "nearest": [classes.names[int(c)] for c in others.argmin(axis=1)],
            "nearest_distance": others.min(axis=1),
            "mean_distance": distance.sum(axis=1) / (classes.n - 1),
            "half_split_distance": found.halves.mean(axis=0),
            "half_split_low": low,
            "half_split_high": high,
            "within_class_spread": np.sqrt(found.within / (classes.counts - 1)),
            "mean_distance_from_own": found.spread.mean,
        },
        "pairs": {
            "class_a": [classes.names[a] for a in first],
            "class_b": [classes.names[b] for b in second],
            "distance": label_sums.off_diagonal(distance),
            "crossnobis": label_sums.off_diagonal(found.crossnobis),
            "cosine": label_sums.off_diagonal(found.observed.cosine),
            "centred_cosine": label_sums.off_diagonal(found.observed.centred_cosine),
        },
    }


def _result(
    asked: ClassDistanceParameters,
    found: Found,
    classes: Classes,
    said: list[str],
    store: MapStore,
) -> Result:
    values = _values(asked, found, classes)
    distinct = values["min_cosine"] < NOTEBOOK_THRESHOLD
    verdict = "DISTINCT PATTERNS" if distinct else "NEARLY IDENTICAL PATTERNS"
    arrays = {
        "distance": found.observed.euclidean,
        "cosine": found.observed.cosine,
        "centred_cosine": found.observed.centred_cosine,
        "crossnobis": found.crossnobis,
        "class_means": found.means,
        "half_split_distances": found.halves,
    }
    if asked.permutations:
        arrays |= {"null_mean_distance": found.null_distance, "null_pseudo_f": found.null_f}

    title = f"{asked.feature}: distance between class mean maps"
    matrix = (found.observed.euclidean, classes.names, title, "Euclidean distance")
    return Result(
        analysis=NAME,
        feature=asked.feature,
        question=QUESTION,
        columns=_tables(found, classes),
        arrays=arrays,
        values=values,
        notebook={
            "mean_inter_class_distance": values["mean_distance"],
            "mean_cosine": values["mean_cosine"],
            "min_cosine": values["min_cosine"],
            "verdict": verdict,
        },
        parameters={"permutations": asked.permutations, "splits": asked.splits},
        seed=asked.seed,
        sentences=[_answer(asked.feature, values, found.spread, verdict)],
        caveats=said,
        provenance=provenance(store),
        figures={"distance": drawn("matrix", *matrix)},
        shown=("classes",),
        claims=_claims(asked.feature, values),
    )


def _claims(feature: str, values: dict[str, Any]) -> list[Claim]:
    says = {
        "mean_distance": f"a difference between class mean maps of {feature}",
        "min_cosine": f"a difference in direction between class mean maps of {feature}",
        "pseudo_f": f"a difference between classes of {feature} by PERMANOVA",
        "welch_f": f"a difference between class mean maps of {feature} whatever their spread",
    }
    return [
        Claim(figure, text, values[figure], p=values.get(f"p_{figure}"), level=ALPHA)
        for figure, text in says.items()
    ]


def in_spread_only(values: Mapping[str, Any], alpha: float) -> bool:
    """Return whether spread differs between classes, and means by no test that allows for it."""
    spread, mean = (values.get(f"p_{name}") for name in ("dispersion", "welch_f"))
    # Either may be missing: results of earlier versions have neither, saved NaN is None.
    return spread is not None and mean is not None and bool(spread <= alpha < mean)


def _answer(
    feature: str, values: dict[str, Any], spread: dispersion.Dispersion, verdict: str
) -> str:
    noise = f"two random halves of one class differ by {number(values['half_split_distance'])}"
    if not values["permutations"]:
        return (
            f"the mean {feature} maps of two classes differ by "
            f"{number(values['mean_distance'])} on average, {noise}; no permutations were asked "
            f"for, so there is no test; notebook verdict: {verdict}."
        )
    p = values["p_mean_distance"]
    if not p <= ALPHA:
        differs = f"no evidence that {feature}'s spatial pattern differs between classes"
        differs += crossnobis.ruled_out(values["mean_crossnobis_high"])
    elif in_spread_only(values, ALPHA):
        differs = f"classes differ in spread of {feature}, perhaps not in mean"
    else:
        differs = f"{feature}'s spatial pattern differs between classes"
    beside = ""
    if np.isfinite(values["p_welch_f"]):
        beside = f"; by Welch's, of means whatever the spread, {p_text(values['p_welch_f'])}"
    told = dispersion.in_words(spread, ALPHA)
    beside += f"; {told}" if told else ""
    return (
        f"{differs}: mean distance "
        f"{number(values['mean_distance'])} against {number(values['null_mean_distance'])} with "
        f"permuted labels ({p_text(p)}), {noise}; PERMANOVA pseudo-F "
        f"{number(values['pseudo_f'])} ({p_text(values['p_pseudo_f'])}){beside}; notebook "
        f"verdict: {verdict}."
    )


def class_distance(
    store: MapStore,
    *,
    feature: str = ClassDistanceParameters.feature,
    permutations: int = ClassDistanceParameters.permutations,
    splits: int = ClassDistanceParameters.splits,
    seed: int = ClassDistanceParameters.seed,
    memory: int = ClassDistanceParameters.memory,
    show_progress: bool = False,
) -> Result:
    """Compare the mean maps of the classes with each other and with noise.

    Parameters
    ----------
    store
        An open store, or anything with its interface.
    feature
        A map over patches.
    permutations
        Permutations of the labels; 0 leaves the tests out.
    splits
        Random splits of each class in halves, for the noise floor; at least 2.
    seed
        Seed of permutations and splits.
    memory
        Bytes of permuted class sums held at a time; less takes more passes over the store.
    show_progress
        Show a bar on standard error.

    Returns
    -------
    Result
        Arrays `distance`, `cosine`, `centred_cosine` and `crossnobis` (cross-validated: squared,
        in units of the noise, 0 on average where means are equal) of shape (class, class),
        `class_means`
        of shape (class, row, col, mode), `half_split_distances` of shape (splits, class), and
        with permutations the null distributions.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        grid is one patch.
    """
    asked = ClassDistanceParameters(
        feature=feature, permutations=permutations, splits=splits, seed=seed, memory=memory
    )
    return run(store, [ClassDistance(asked)], show_progress=show_progress)[0]


command = options.feature_command(NAME, class_distance, ClassDistanceParameters, ClassDistance)

make_callable(__name__)
