"""class-distance: do the mean maps of the classes differ, and by more than noise?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core import options
from frictionstore.analyses.core.callable_module import make_callable
from frictionstore.analyses.core.errors import AnalysisError
from frictionstore.analyses.core.passes import Passes, class_moments, run, tail_caveat
from frictionstore.analyses.core.results import Result, provenance
from frictionstore.analyses.core.source import (
    MapStore,
    mode_name,
    require_classes,
    require_feature,
    require_grid,
)
from frictionstore.analyses.core.terminal import number, p_text
from frictionstore.analyses.stats import label_sums, permutation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def pseudo_f(sums: Floats, counts: NDArray[np.int64], total_squares: float) -> Floats:
    """Return PERMANOVA's pseudo-F for Euclidean distances, from class sums.

        F = (SS_between / (C - 1)) / (SS_within / (n - C))

    with sums of squares over all features: the same as from all pairwise distances.

    Parameters
    ----------
    sums
        Class sums, shape (..., n_classes, n_features), of values shifted by any constant map.
    counts
        Images per class, shape (n_classes,).
    total_squares
        Total sum of squared deviations from the overall mean, over all features; positive.

    References
    ----------
    Anderson (2001), A new method for non-parametric multivariate analysis of variance, Austral
    Ecology 26, 32-46.
    """
    n, classes = int(counts.sum()), len(counts)
    weight = label_sums.class_weights(counts)[:, 0]
    between = np.einsum("...cf,...cf,c->...", sums, sums, weight)
    between -= np.square(sums.sum(axis=-2)).sum(axis=-1) / n
    within = np.asarray(total_squares - between)
    within = np.where(within <= 1e-12 * total_squares, 0.0, within)
    with np.errstate(divide="ignore"):
        return np.asarray((between / (classes - 1)) / (within / (n - classes)))


class ClassDistance:
    """The analysis, asked for: see `class_distance` for the parameters."""

    def __init__(
        self,
        *,
        feature: str = "friction",
        permutations: int = 1000,
        splits: int = 200,
        seed: int = 0,
        memory: int = label_sums.MEMORY,
    ) -> None:
        options.check(permutations=permutations, seed=seed)
        if splits < 2:
            raise AnalysisError(f"splits is {splits}: it must be 2 or more")
        self.feature = feature
        self.permutations = permutations
        self.splits = splits
        self.seed = seed
        self.memory = memory

    def prepare(self, passes: Passes) -> None:
        store = passes.store
        require_grid(store, NAME)
        self.store: MapStore = store
        self.n_modes = require_feature(store, self.feature)
        self.classes = require_classes(store, NAME)
        rows, cols = store.grid
        n_features = rows * cols * self.n_modes
        self.collected = class_moments(passes, self.feature, self.n_modes)
        self.halves = passes.share(
            ("half splits", self.feature, self.splits, self.seed),
            lambda: label_sums.HalfSplits(
                self.feature, self.classes, n_features, self.splits, self.seed
            ),
        )
        self.null_distance = np.full(self.permutations, np.nan)
        self.null_cosine = np.full(self.permutations, np.nan)
        self.null_f = np.full(self.permutations, np.nan)
        if self.permutations:
            sums = label_sums.permuted_class_sums(
                passes, self.feature, self.classes, n_features, self.permutations, self.seed,
                self.memory,
            )  # fmt: skip
            sums.reducers.append(self._reduce)

    def _reduce(self, which: slice, sums: Floats, shift: Floats) -> None:
        means = sums * label_sums.class_weights(self.classes.counts)
        square = label_sums.squared_distances(means)
        pairs = np.sqrt(label_sums.off_diagonal(square))
        self.null_distance[which] = pairs.mean(axis=1)
        # Cosines need the maps themselves: the Gram matrix of means plus shift.
        gram = means @ np.swapaxes(means, 1, 2)
        along = means @ shift
        gram += along[:, :, None] + along[:, None, :] + shift @ shift
        norm = np.sqrt(np.einsum("paa->pa", gram))
        product = norm[:, :, None] * norm[:, None, :]
        cosine = np.divide(gram, product, out=np.full_like(gram, np.nan), where=product > 0)
        self.null_cosine[which] = label_sums.off_diagonal(cosine).min(axis=1)
        total = float(self.collected.labelled.m2.sum())
        if total > 0:
            self.null_f[which] = pseudo_f(sums, self.classes.counts, total)

    def result(self) -> Result:
        moments = self.collected.by_class
        classes = self.classes
        means = moments.mean.reshape(classes.n, -1)
        found = distances(means)
        pairs = label_sums.off_diagonal(found.euclidean)
        cosines = label_sums.off_diagonal(found.cosine)
        total = float(self.collected.labelled.m2.sum())
        within = moments.m2.reshape(classes.n, -1).sum(axis=1)
        # The overall mean is taken off before sums of squares are formed.
        centred = (means - self.collected.labelled.mean.reshape(-1)) * classes.counts[:, None]
        observed_f = float(pseudo_f(centred, classes.counts, total)) if total > 0 else np.nan
        half = np.sqrt(np.square(self.halves.first - self.halves.second).sum(axis=2))
        spread = np.sqrt(within / (classes.counts - 1))
        low, high = np.quantile(half, [0.025, 0.975], axis=0)
        mean_distance, min_cosine = float(pairs.mean()), float(np.min(cosines))
        values: dict[str, Any] = {
            "mean_distance": mean_distance,
            "min_distance": float(pairs.min()),
            "max_distance": float(pairs.max()),
            "mean_cosine": float(cosines.mean()),
            "min_cosine": min_cosine,
            "min_centred_cosine": float(label_sums.off_diagonal(found.centred_cosine).min()),
            "half_split_distance": float(half.mean()),
            "within_class_spread": float(np.sqrt(within.sum() / (classes.n_labelled - classes.n))),
            "pseudo_f": observed_f,
            "permutations": self.permutations,
            "smallest_p": permutation.smallest_p(self.permutations),
        }
        verdict = min_cosine < NOTEBOOK_THRESHOLD
        notebook = {
            "mean_inter_class_distance": mean_distance,
            "mean_cosine": values["mean_cosine"],
            "min_cosine": min_cosine,
            "verdict": "DISTINCT PATTERNS" if verdict else "NEARLY IDENTICAL PATTERNS",
        }
        arrays = {
            "distance": found.euclidean,
            "cosine": found.cosine,
            "centred_cosine": found.centred_cosine,
            "class_means": moments.mean,
            "half_split_distances": half,
        }
        caveats = classes.caveats()
        if self.permutations:
            arrays |= {
                "null_mean_distance": self.null_distance,
                "null_pseudo_f": self.null_f,
            }
            values |= {
                "null_mean_distance": float(self.null_distance.mean()),
                "p_mean_distance": float(permutation.p_value(mean_distance, self.null_distance)),
                "p_min_cosine": float(permutation.p_value(min_cosine, self.null_cosine, "less")),
                "p_pseudo_f": float(permutation.p_value(observed_f, self.null_f)),
            }
            caveats.append(
                f"with {self.permutations} permutations no p-value is below "
                f"{permutation.smallest_p(self.permutations):.2g}"
            )
        by_class = {
            "class": list(classes.names),
            "images": classes.counts,
            "nearest": [
                classes.names[int(np.where(np.arange(classes.n) == c, np.inf, row).argmin())]
                for c, row in enumerate(found.euclidean)
            ],
            "nearest_distance": [
                float(np.delete(row, c).min()) for c, row in enumerate(found.euclidean)
            ],
            "mean_distance": found.euclidean.sum(axis=1) / (classes.n - 1),
            "half_split_distance": half.mean(axis=0),
            "half_split_low": low,
            "half_split_high": high,
            "within_class_spread": spread,
        }
        first, second = np.triu_indices(classes.n, 1)
        by_pair = {
            "class_a": [classes.names[a] for a in first],
            "class_b": [classes.names[b] for b in second],
            "distance": pairs,
            "cosine": cosines,
            "centred_cosine": label_sums.off_diagonal(found.centred_cosine),
        }
        constant = self.collected.labelled.constant()[0].all(axis=(0, 1))
        caveats += [
            f"{mode_name(int(mode), self.n_modes)} is constant over all images: it adds nothing to "
            "distances and raises the notebook's cosines"
            for mode in np.flatnonzero(constant)
        ]
        caveats += tail_caveat(self.feature, self.collected.everything)
        caveats += options.feature_caveats(self.feature)
        return Result(
            analysis=NAME,
            feature=self.feature,
            question=QUESTION,
            columns={"classes": by_class, "pairs": by_pair},
            arrays=arrays,
            values=values,
            notebook=notebook,
            parameters={"permutations": self.permutations, "splits": self.splits},
            seed=self.seed,
            sentences=[_answer(self.feature, values, notebook["verdict"])],
            caveats=caveats,
            provenance=provenance(self.store),
            figures={"distance": lambda: _figure(self.feature, found, classes.names)},
            shown=("classes",),
        )


def _answer(feature: str, values: dict[str, Any], verdict: str) -> str:
    noise = f"two random halves of one class differ by {number(values['half_split_distance'])}"
    if not values["permutations"]:
        return (
            f"the mean {feature} maps of two classes differ by "
            f"{number(values['mean_distance'])} on average, {noise}; no permutations were asked "
            f"for, so there is no test; notebook verdict: {verdict}."
        )
    p = values["p_mean_distance"]
    differs = (
        f"{feature}'s spatial pattern differs between classes"
        if p <= ALPHA
        else f"no evidence that {feature}'s spatial pattern differs between classes"
    )
    return (
        f"{differs}: mean distance "
        f"{number(values['mean_distance'])} against {number(values['null_mean_distance'])} with "
        f"permuted labels ({p_text(p)}), {noise}; PERMANOVA pseudo-F "
        f"{number(values['pseudo_f'])} ({p_text(values['p_pseudo_f'])}); notebook verdict: "
        f"{verdict}."
    )


def _figure(feature: str, found: Distances, names: list[str]) -> Figure:
    from frictionstore.analyses.core import figures

    title = f"{feature}: distance between class mean maps"
    return figures.matrix(found.euclidean, names, title, "Euclidean distance")


def class_distance(
    store: MapStore,
    *,
    feature: str = "friction",
    permutations: int = 1000,
    splits: int = 200,
    seed: int = 0,
    memory: int = label_sums.MEMORY,
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
        Arrays `distance`, `cosine` and `centred_cosine` of shape (class, class), `class_means`
        of shape (class, row, col, mode), `half_split_distances` of shape (splits, class), and
        with permutations the null distributions.

    Raises
    ------
    AnalysisError
        If labels are missing, a class has fewer than 2 images, values are not finite, or the
        grid is one patch.
    """
    plan = ClassDistance(
        feature=feature, permutations=permutations, splits=splits, seed=seed, memory=memory
    )
    return run(store, [plan], show_progress=show_progress)[0]


@click.command(NAME)
@options.on_store
@options.features_option
@options.permutations_option(1000, "of the labels")
@click.option(
    "--splits",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Random halvings of each class, for the noise floor.",
)
@options.seed_option
def command(
    target: options.Target, features: tuple[str, ...], permutations: int, splits: int, seed: int
) -> None:
    """Compare the mean maps of the classes with each other and with noise."""
    target.run(
        ClassDistance(feature=f, permutations=permutations, splits=splits, seed=seed)
        for f in features
    )


make_callable(__name__)
