"""A calibrated linear readout of joined maps, from products of images: probabilities of classes.

Banded ridge on one-hot classes gives scores; a multinomial logistic regression with one slope and a
constant for each class, fitted to the scores of training images left out one by one, turns them
into probabilities. Nothing of a tested image is seen before it is predicted, except that columns
are scaled by their standard deviation over all images, in which labels have no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Here, since passes hold only those BLAS libraries to one thread that are loaded before them.
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from frictionstore.analyses.core.passes import THREADS
from frictionstore.analyses.probe import banded
from frictionstore.analyses.probe.ridge import one_hot
from frictionstore.analyses.stats.corrected import corrected_interval

Floats = NDArray[np.float64]
Kernels = Callable[[str, int], Floats]
"""Gives the products of all images in one map, about 1 on the diagonal, for a test fold."""

SHRINK = 1e-3
"""Weight of the squares of the calibration's numbers: keeps them finite where scores separate."""


def products(columns: Floats) -> Floats:
    """Return products of images, (n, n), in the standardised columns that vary, by their number."""
    x = columns - columns.mean(axis=0)
    scale = x.std(axis=0)
    # What rounding leaves of a constant column must not be blown up.
    varies = scale > 1e-12 * np.maximum(np.abs(columns).max(axis=0, initial=0.0), 1e-300)
    if not varies.any():
        return np.zeros((len(x), len(x)))
    x = x[:, varies] / scale[varies]
    return np.asarray(x @ x.T / x.shape[1])


@dataclass(frozen=True)
class Problem:
    """Images, their classes and folds.

    Attributes
    ----------
    labels, folds
        int64 of shape (n,).
    n_classes, n_folds
        Numbers of them.
    sampled
        bool of shape (n,): images that penalties are chosen on, as far as they are trained on.
    groups
        int64 of shape (n,): what each belongs to, whole groups in a fold; None: independent.
    """

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    n_classes: int
    n_folds: int
    sampled: NDArray[np.bool_]
    groups: NDArray[np.int64] | None = None

    def interval(self, values: Floats) -> tuple[float, float, float]:
        """Return the mean of what images give and its corrected 95% interval."""
        return corrected_interval(values, self.folds, groups=self.groups)


@dataclass
class Reading:
    """What a set of maps predicts of every image when it is left out.

    Attributes
    ----------
    prediction
        int64 of shape (n,).
    bits
        Log loss of each image in bits, shape (n,).
    penalties
        By fold and map, for products that are about 1 on the diagonal.
    """

    prediction: NDArray[np.int64]
    bits: Floats
    penalties: Floats


def read(parts: Sequence[Sequence[str]], kernels: Kernels, problem: Problem) -> list[Reading]:
    """Return a reading for each set of maps.

    Parameters
    ----------
    parts
        Names of the maps of each set.
    kernels
        Gives the products of a map for the fold that is tested; called once for each.
    problem
        Images, classes and folds.
    """
    n = len(problem.labels)
    found = [
        Reading(np.full(n, -1, np.int64), np.zeros(n), np.zeros((problem.n_folds, len(names))))
        for names in parts
    ]
    wanted = list(dict.fromkeys(name for names in parts for name in names))
    for fold in range(problem.n_folds):
        tested = problem.folds == fold
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        given = {name: _Part.of(kernels(name, fold), train, test, problem) for name in wanted}

        def one(
            which: int,
            fold: int = fold,
            given: Mapping[str, _Part] = given,
            train: NDArray[np.int64] = train,
            test: NDArray[np.int64] = test,
        ) -> None:
            chosen = [given[name] for name in parts[which]]
            _read_fold(found[which], chosen, problem, fold, train, test)

        # The largest sets first: no thread is left alone with one at the end.
        order = sorted(range(len(parts)), key=lambda which: -len(parts[which]))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, order))
    return found


@dataclass(frozen=True)
class _Part:
    """Products of one map about the mean of the training images of a fold.

    `inner` (train, train), `cross` (test, train), `some` of the sampled training images.
    """

    inner: Floats
    cross: Floats
    some: Floats

    @classmethod
    def of(
        cls, kernel: Floats, train: NDArray[np.int64], test: NDArray[np.int64], problem: Problem
    ) -> _Part:
        inner = kernel[np.ix_(train, train)]
        cross = kernel[np.ix_(test, train)]
        sampled = train[problem.sampled[train]]
        rows = inner.mean(axis=0)
        cross -= cross.mean(axis=1, keepdims=True)
        cross -= rows - rows.mean()
        inner -= rows
        inner -= (rows - rows.mean())[:, None]
        return cls(inner, cross, kernel[np.ix_(sampled, sampled)])


def _read_fold(
    reading: Reading,
    parts: list[_Part],
    problem: Problem,
    fold: int,
    train: NDArray[np.int64],
    test: NDArray[np.int64],
) -> None:
    target = one_hot(problem.labels[train], problem.n_classes)
    sampled = problem.sampled[train]
    chosen = banded.choose([one.some for one in parts], target[sampled], [1] * len(parts))
    reading.penalties[fold] = chosen.penalties
    left_out, scores = _ridge(parts, chosen.penalties, target)
    slope, constants = calibrate(left_out, problem.labels[train])
    logits = slope * scores + constants
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    reading.prediction[test] = logits.argmax(axis=1)
    reading.bits[test] = -logits[np.arange(len(test)), problem.labels[test]] / np.log(2.0)


def _ridge(parts: list[_Part], penalties: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Return scores of training images left out one by one, and of tested images."""
    n = len(target)
    inner = parts[0].inner / penalties[0]
    cross = parts[0].cross / penalties[0]
    for one, penalty in zip(parts[1:], penalties[1:], strict=True):
        inner += one.inner / penalty
        cross += one.cross / penalty
    mean = target.mean(axis=0)
    inner.flat[:: n + 1] += 1.0
    # Symmetric, so that rows may be read as columns and nothing is copied.
    factor, _ = dpotrf(inner.T, overwrite_a=True)
    residual, _ = dpotrs(factor, target - mean)
    # The diagonal of the inverse; a whole inverse by numpy takes twice as long.
    inverse, _ = dpotri(factor, overwrite_c=True)
    left_out = target - residual / (np.diagonal(inverse) - 1.0 / n)[:, None]
    return left_out, cross @ residual + mean


def calibrate(scores: Floats, labels: NDArray[np.int64]) -> tuple[float, Floats]:
    """Return the slope and the constants with the largest likelihood of the labels.

    Parameters
    ----------
    scores
        Shape (n, C).
    labels
        Classes, shape (n,).
    """
    from scipy.optimize import minimize

    n, classes = scores.shape
    target = one_hot(labels, classes)

    def loss(x: Floats) -> tuple[float, Floats]:
        logits = x[0] * scores + x[1:]
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits)
        total = p.sum(axis=1, keepdims=True)
        value = float((np.log(total[:, 0]) - (logits * target).sum(axis=1)).mean())
        away = (p / total - target) / n
        slope = float((away * scores).sum())
        gradient = np.concatenate([[slope], away.sum(axis=0)]) + SHRINK / n * x
        return value + SHRINK / (2 * n) * float(x @ x), gradient

    found = minimize(loss, np.concatenate([[1.0], np.zeros(classes)]), jac=True, method="L-BFGS-B")
    return float(found.x[0]), found.x[1:]


def compared(first: Reading, second: Reading, problem: Problem) -> dict[str, float]:
    """Return what the first set has beyond the second, with corrected 95% intervals.

    Accuracy as a difference of shares, `bits` as bits an image that the log loss is lower by:
    conditional V-information where the second set is part of the first.
    """
    right = [(one.prediction == problem.labels).astype(np.float64) for one in (first, second)]
    row: dict[str, Any] = {}
    for name, values in (("accuracy", right[0] - right[1]), ("bits", second.bits - first.bits)):
        mean, low, high = problem.interval(values)
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return row


def measured(reading: Reading, problem: Problem) -> dict[str, float]:
    """Return a set's accuracy and log loss in bits an image, with corrected 95% intervals."""
    right = (reading.prediction == problem.labels).astype(np.float64)
    row: dict[str, Any] = {}
    for name, values in (("accuracy", right), ("bits", reading.bits)):
        mean, low, high = problem.interval(values)
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return row


def entropy(problem: Problem) -> float:
    """Return bits an image that the frequencies of the classes leave open."""
    p = np.bincount(problem.labels, minlength=problem.n_classes) / len(problem.labels)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())
