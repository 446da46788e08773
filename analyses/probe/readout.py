"""A calibrated linear readout of joined maps, from products of images: probabilities of classes.

Banded ridge on one-hot classes gives scores; a multinomial logistic regression with one slope and a
constant for each class, fitted to the scores of training images left out one by one, turns them
into probabilities. Nothing of a tested image is seen before it is predicted, except that in
cross-validation columns are scaled by their standard deviation over all images, in which labels
have no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Here, since passes hold only those BLAS libraries to one thread that are loaded before them.
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from frictionstore.analyses.core.passes import THREADS
from frictionstore.analyses.probe import banded
from frictionstore.analyses.probe.ridge import Paired, compare_paired, one_hot
from frictionstore.analyses.stats.corrected import corrected_interval
from frictionstore.analyses.stats.intervals import share_interval, t_interval

Floats = NDArray[np.float64]
Kernels = Callable[[str, int], Floats]
"""Gives the products of all images in one map, about 1 on the diagonal, for a test fold."""

SHRINK = 1e-3
"""Weight of the squares of the calibration's numbers: keeps them finite where scores separate."""


def products(columns: Floats, among: NDArray[np.bool_] | None = None) -> Floats:
    """Return products of images, (n, n), in the standardised columns that vary, by their number.

    Columns are standardised by the images `among`, shape (n,); None takes all.
    """
    known = columns if among is None else columns[among]
    x = columns - known.mean(axis=0)
    scale = known.std(axis=0)
    # What rounding leaves of a constant column must not be blown up.
    varies = scale > 1e-12 * np.maximum(np.abs(known).max(axis=0, initial=0.0), 1e-300)
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
        int64 of shape (n,); with one fold its images, 0, are tested by one readout of the others.
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

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Which images are tested, shape (n,): all in cross-validation."""
        return self.folds < self.n_folds

    @property
    def fitted(self) -> NDArray[np.bool_] | None:
        """The images that everything is fitted to where one readout is; None in folds."""
        return None if self.n_folds > 1 else ~self.tested

    def _of_tested(self) -> NDArray[np.int64] | None:
        return None if self.groups is None else self.groups[self.tested]

    def interval(self, values: Floats, least: float | None = None) -> tuple[float, float, float]:
        """Return the mean of what tested images give and its 95% interval, corrected in folds.

        `least` is that of `corrected_interval`, of counts.
        """
        if self.n_folds > 1:
            return corrected_interval(values, self.folds, groups=self.groups, least=least)
        return t_interval(values[self.tested], groups=self._of_tested())

    def share(self, right: NDArray[np.bool_]) -> tuple[float, float, float]:
        """Return the share of tested images that a readout gets right, and its interval.

        Wilson's where one readout is tested.
        """
        if self.n_folds > 1:
            return self.interval(right.astype(np.float64), least=0.0)
        tested = right[self.tested]
        return float(tested.mean()), *share_interval(tested, self._of_tested())

    def difference(
        self, first: NDArray[np.bool_], second: NDArray[np.bool_]
    ) -> tuple[float, float, float]:
        """Return the difference of two shares of the same images; Tango's interval likewise."""
        if self.n_folds > 1:
            return self.interval(first.astype(np.float64) - second, least=-1.0)
        found = self.paired(first, second)
        return found.difference, found.low, found.high

    def paired(self, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
        """Return the comparison of the models that were fitted, on the tested images."""
        return compare_paired(first[self.tested], second[self.tested], groups=self._of_tested())


@dataclass
class Reading:
    """What a set of maps predicts of every image when it is left out.

    Attributes
    ----------
    prediction
        int64 of shape (n,); -1 for images that are not tested.
    bits
        Log loss of each image in bits, shape (n,).
    penalties
        By fold and map, for products that are about 1 on the diagonal.
    alone
        Accuracies of the networks that predict together, (seeds,); None of a ridge readout.
    """

    prediction: NDArray[np.int64]
    bits: Floats
    penalties: Floats
    alone: Floats | None = None

    def right(self, problem: Problem) -> NDArray[np.bool_]:
        """Return which images' classes are predicted, shape (n,)."""
        return self.prediction == problem.labels


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
    """Return what the first set has beyond the second, with 95% intervals (`Problem`).

    Accuracy as a difference of shares, `bits` as bits an image that the log loss is lower by:
    conditional V-information where the second set is part of the first.
    """
    accuracy = problem.difference(first.right(problem), second.right(problem))
    return _row(accuracy, problem.interval(second.bits - first.bits))


def measured(reading: Reading, problem: Problem) -> dict[str, float]:
    """Return a set's accuracy and log loss in bits an image, with 95% intervals (`Problem`)."""
    row = _row(problem.share(reading.right(problem)), problem.interval(reading.bits))
    if reading.alone is not None:
        row["lowest_seed"], row["highest_seed"] = map(
            float, (min(reading.alone), max(reading.alone))
        )
    return row


def _row(*figures: tuple[float, float, float]) -> dict[str, float]:
    row: dict[str, float] = {}
    for name, (mean, low, high) in zip(("accuracy", "bits"), figures, strict=True):
        row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return row


def entropy(problem: Problem) -> float:
    """Return bits an image that the frequencies of the tested images' classes leave open."""
    p = np.bincount(problem.labels[problem.tested]) / problem.tested.sum()
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())
