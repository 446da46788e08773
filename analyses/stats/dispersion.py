"""PERMDISP: do classes differ in how far their images lie from the class's mean map?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.core.passes import (
    THREADS,
    Arrays,
    ClassMoments,
    Passes,
    class_moments,
)
from frictionstore.analyses.core.source import Classes
from frictionstore.analyses.stats import permutation
from frictionstore.analyses.stats.arrangements import Arrangements
from frictionstore.analyses.stats.label_sums import f_from_sums

Floats = NDArray[np.float64]

RESIDUALS = 2
"""The use of a seed: no other arrangement is the same."""
_ROWS = 1 << 16


@dataclass(frozen=True)
class Dispersion:
    """Mean distance of each class's images from its mean map, and the test that these are equal.

    F and p are NaN where no distance varies within a class, p also without permutations.
    """

    mean: Floats
    f: float
    p: float


def permdisp(
    distances: Floats, labels: NDArray[np.int64], counts: NDArray[np.int64],
    permutations: int, seed: int,
) -> Dispersion:  # fmt: skip
    """Return Fisher's F of distances between classes, with its p by permuted residuals.

    Residuals are permuted and not labels: a difference between means, which moves an image that
    is counted to another class, is no difference in spread.

    Parameters
    ----------
    distances
        Distance of each image from its class's centroid, shape (n,).
    labels
        Class of each image, all labelled.

    References
    ----------
    Anderson (2006), Distance-based tests for homogeneity of multivariate dispersions, Biometrics
    62, 245-253.
    """
    classes = len(counts)

    def sums(values: Floats) -> Floats:
        return np.bincount(labels, values, minlength=classes)[:, None].astype(np.float64)

    mean = sums(distances)[:, 0] / counts
    rest = distances - mean[labels]
    within = float(np.square(rest).sum())
    if within <= 1e-24 * float(np.square(distances).sum()):
        return Dispersion(mean, np.nan, np.nan)
    centred = distances - distances.mean()
    total = float(np.square(centred).sum())
    f = float(f_from_sums(sums(centred), counts, total, pooled=True))
    if not permutations:
        return Dispersion(mean, f, np.nan)
    arranged = Arrangements(labels, classes, seed, use=RESIDUALS)

    def null(which: int) -> float:
        # Some images at a time: labels of all of them under many permutations are many.
        of_class = np.zeros(classes)
        for part in permutation.spans(len(labels), _ROWS):
            drawn = arranged.take(np.arange(part.start, part.stop), slice(which, which + 1))[0]
            of_class += np.bincount(drawn, rest[part], minlength=classes)
        return float(f_from_sums(of_class[:, None], counts, within, pooled=True))

    arranged.prepare(slice(0, permutations))
    with ThreadPoolExecutor(THREADS) as pool:
        under = list(pool.map(null, range(permutations)))
    return Dispersion(mean, f, float(permutation.p_value(f, under)))


def unequal(variance: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return how unequal variances of classes are: the weighted sum of squares of their logarithms.

    Parameters
    ----------
    variance
        Summed over features, shape (..., n_classes). Where one is 0 the result is infinite.
    counts
        Images per class, shape (n_classes,) or (..., n_classes).
    """
    weight = counts - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(variance)
        mean = (logarithm * weight).sum(axis=-1) / weight.sum(axis=-1)
        found = (np.square(logarithm - mean[..., None]) * weight).sum(axis=-1)
    return np.where(np.isfinite(found), found, np.inf)


def unequal_from_sums(sums: Floats, norms: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return `unequal` from class sums and the sums of squares of all features, (..., C, 1)."""
    left = norms[..., 0] - np.square(sums).sum(axis=-1) / counts
    return unequal(np.maximum(left, 0.0) / (counts - 1.0), counts)


def and_by_labels(
    found: Dispersion, observed: Floats, null: Floats, *, grouped: bool = False
) -> Dispersion:
    """Return the test with the larger of its p and that of `unequal` under permuted labels.

    A value that decides its class's mean moves the distances of all images of the class alike:
    under heavy tails permuted residuals alone find a difference in half of all null stores. Where
    images are `grouped` p is that under permuted labels alone.
    """
    if grouped and len(null) and not np.isnan(found.f):
        return replace(found, p=float(permutation.p_value(observed, null)))
    if not len(null) or np.isnan(found.p):
        return found
    return replace(found, p=max(found.p, float(permutation.p_value(observed, null))))


class ClassDistances:
    """Distance of each image from its class's mean map, in a second pass.

    Distances are multiplied by sqrt(n / (n - 1)), n the images of the class: an image lies closer
    to a mean that it is part of, most so in a small class.

    Attributes
    ----------
    distances
        float64 of shape (n_images,), 0 without a label.
    """

    state = ("_found",)
    stays = ("_moments", "_tests")

    def __init__(self, feature: str, classes: Classes, moments: ClassMoments) -> None:
        self.features = (feature,)
        self._feature = feature
        self._classes = classes
        self._moments = moments
        self._means: Floats | None = None
        self._tests: dict[tuple[int, int], Dispersion] = {}
        self.begin()

    def begin(self) -> None:
        self._found: list[Floats] = []

    def update(self, rows: slice, arrays: Arrays) -> None:
        if self._means is None:
            return
        labels = self._classes.labels[rows]
        known = labels >= 0
        away = arrays[self._feature][known] - self._means[labels[known]]
        square = np.square(away).sum(axis=tuple(range(1, away.ndim)))  # of no image, too
        n = self._classes.counts[labels[known]]
        found = np.zeros(len(labels))
        found[known] = np.sqrt(square * n / (n - 1))
        self._found.append(found)

    def end_pass(self) -> bool:
        if self._means is None:
            self._means = self._moments.by_class.mean
            return True
        self.distances = np.concatenate(self._found)
        self._found = []
        return False

    def test(self, permutations: int, seed: int) -> Dispersion:
        """Return the test of the distances of the labelled images, done once; no p of groups.

        How far an image lies from a mean that others of its group are part of depends on how many
        groups there are in its class: residuals of groups are no arrangement of each other.
        """
        if self._classes.groups is not None:
            permutations = 0
        if (permutations, seed) not in self._tests:
            labelled = self._classes.labels >= 0
            self._tests[permutations, seed] = permdisp(
                self.distances[labelled], self._classes.labels[labelled], self._classes.counts,
                permutations, seed,
            )  # fmt: skip
        return self._tests[permutations, seed]


def class_distances(passes: Passes, feature: str, classes: Classes, n_modes: int) -> ClassDistances:
    """Return the shared collector of distances from class mean maps; no claim rests on it."""
    moments = class_moments(passes, feature, n_modes)
    return passes.share(
        ("distances from class means", feature),
        lambda: ClassDistances(feature, classes, moments),
        claimed=False,
    )


def caveats(classes: Classes) -> list[str]:
    """Return the sentence that says what PERMDISP's p is of groups of images."""
    if classes.groups is None:
        return []
    return [
        "p of PERMDISP is that of the classes' variances under permuted labels of whole groups: "
        "residuals of images that belong together are not permuted"
    ]


def in_words(found: Dispersion, alpha: float) -> str:
    """Return what the test says, to be put into a sentence; empty if it was not done."""
    from frictionstore.analyses.core.terminal import number, p_text

    if np.isnan(found.p):
        return ""
    figures = f"PERMDISP F {number(found.f)}, {p_text(found.p)}"
    return f"spread differs ({figures})" if found.p <= alpha else f"of spread, {figures}"
