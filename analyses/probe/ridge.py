"""Ridge regression for probes: folds, standardisation, the two forms of the solution, lambda.

Targets are one-hot classes. With X the standardised training features, (n, d), and Y the centred
targets, (n, C), the weights are

    primal  W = (X'X + lambda I)^-1 X'Y          needs the d x d Gram matrix only
    dual    W = X' (XX' + lambda I)^-1 Y         cheaper where n < d

Where lambda is to be chosen, both are solved for every lambda from one eigendecomposition of the
Gram matrix. That takes as long as 6.5 Cholesky factors with inverse for 1,024 columns, 8.5 for
1,437 and 10 for 3,072; each penalty of a path of ten or more would take one. Where lambda is known
one factor is enough.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.intervals import independent_images, mean_covariance
from frictionstore.analyses.stats.permutation import spans

Floats = NDArray[np.float64]

_PATH = (-2, 7)
"""Powers of ten between which penalties for features of unit variance mostly lie."""

_BLOCK = 128
"""Rows of a triangular matrix that are solved for at a time."""

_ROUNDING = float(np.finfo(np.float64).eps)

_TIE = 1e-9
"""Criteria closer than this (relative) are equal up to rounding."""


@dataclass(frozen=True)
class Scaling:
    """Standardisation by training statistics; arrays of shape (d,).

    Attributes
    ----------
    mean, scale
        What is taken off and divided by.
    used
        Columns that vary in the training images; the others have no weight.
    """

    mean: Floats
    scale: Floats
    used: NDArray[np.bool_]


class Scratch(threading.local):
    """Memory that each thread uses again: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._held: dict[str, Floats] = {}

    def array(self, name: str, *shape: int) -> Floats:
        """Return an array with anything in it; the next call with this name takes it back."""
        size = math.prod(shape)
        if name not in self._held or self._held[name].size < size:
            self._held[name] = np.empty(size)
        return self._held[name][:size].reshape(shape)


@dataclass(frozen=True)
class Solved:
    """What solving for one penalty gives.

    Attributes
    ----------
    coefficients
        Weights of shape (d, C), or dual coefficients of shape (n, C).
    penalty
        Lambda.
    solve
        Gives the solution for more right-hand sides, (m, k).
    """

    coefficients: Floats
    penalty: float
    solve: Callable[[Floats], Floats]


@dataclass(frozen=True)
class _Spectrum:
    """Eigenvalues s, (m,), and vectors V, (m, m), with P = V'R, (m, C), and its squares, (m,)."""

    values: Floats
    vectors: Floats
    right: Floats
    squares: Floats


class _Problem(ABC):
    """A Gram matrix M, (m, m), and right-hand sides R, solved for any penalty.

    With M = V diag(s) V' and P = V'R, the solution is V diag(1 / (s + lambda)) P, and everything
    the criterion needs follows from s and the squares of P.
    """

    def __init__(self, matrix: Floats, right: Floats, n: int) -> None:
        self._matrix = matrix
        self._right = right
        self._n = n

    @cached_property
    def _spectrum(self) -> _Spectrum:
        # numpy's, not scipy's: it lets other threads run.
        values, vectors = np.linalg.eigh(self._matrix)
        # What rounding leaves of an eigenvalue of 0 must not count as a degree of freedom.
        values = np.where(values > values[-1] * len(values) * _ROUNDING, values, 0.0)
        right = vectors.T @ self._right
        return _Spectrum(values, vectors, right, np.einsum("mc,mc->m", right, right))

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self._spectrum.values[-1])

    @abstractmethod
    def _residual(self, penalty: Floats, shifted: Floats) -> Floats:
        """Return RSS for penalties of shape (k, 1) with `shifted` = s + lambda, (k, m)."""

    def criteria(self, penalties: Floats) -> Floats:
        """Return generalised cross-validation, `n RSS / (n - df - 1)^2`; smaller is better.

        One degree of freedom is spent on the intercept.
        """
        penalty, values = penalties[:, None], self._spectrum.values
        shifted = values + penalty
        kept = (penalty / shifted).sum(axis=1)
        left = kept + (self._n - len(values)) - 1.0
        residual = self._residual(penalty, shifted)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(left > 0, self._n * residual / (left * left), np.inf)

    def at(self, penalty: float) -> Solved:
        """Return the solution for one penalty from the eigenvectors."""
        spectrum = self._spectrum
        shifted = (spectrum.values + penalty)[:, None]

        def solve(right: Floats) -> Floats:
            turned = spectrum.vectors.T @ right
            turned /= shifted
            return spectrum.vectors @ turned

        return Solved(spectrum.vectors @ (spectrum.right / shifted), penalty, solve)

    def only_at(self, penalty: float) -> Solved:
        """Return the solution for one penalty, of which no other is asked.

        From a Cholesky factor, in a seventh of the time; from the eigenvectors where rounding
        leaves a matrix that has none.
        """
        diagonal = np.einsum("ii->i", self._matrix)
        before = diagonal.copy()
        diagonal += penalty
        factor: Floats | None
        try:
            factor = np.asarray(np.linalg.cholesky(self._matrix), np.float64)
        except np.linalg.LinAlgError:
            factor = None
        diagonal[:] = before
        if factor is None:
            return self.at(penalty)

        solve = partial(_substituted, factor)
        return Solved(solve(self._right), penalty, solve)


def _substituted(factor: Floats, right: Floats) -> Floats:
    """Return (LL')^-1 R for lower triangular L, (m, m), and R, (m, k).

    By blocks and with numpy, which lets other threads run; scipy's does not.
    """
    found = np.array(right)
    blocks = list(spans(len(found), _BLOCK))
    for rows in blocks:
        found[rows] -= factor[rows, : rows.start] @ found[: rows.start]
        found[rows] = np.linalg.solve(factor[rows, rows], found[rows])
    for rows in reversed(blocks):
        found[rows] -= factor[rows.stop :, rows].T @ found[rows.stop :]
        found[rows] = np.linalg.solve(factor[rows, rows].T, found[rows])
    return found


class Primal(_Problem):
    """Ridge from a Gram matrix.

    Parameters
    ----------
    gram
        X'X, shape (d, d), of centred features.
    cross
        X'Y, shape (d, C), Y centred.
    target_square
        Sum of squares of Y.
    n
        Number of training images.
    """

    def __init__(self, gram: Floats, cross: Floats, target_square: float, n: int) -> None:
        super().__init__(gram, cross, n)
        self._target_square = target_square

    def _residual(self, penalty: Floats, shifted: Floats) -> Floats:
        # What least squares leaves, and what the penalty adds: rounding of the first, a difference
        # of large numbers, is the same for every penalty and decides nothing.
        values, squares = self._spectrum.values, self._spectrum.squares
        parts = np.zeros_like(squares)
        np.divide(squares, values, out=parts, where=values > 0)
        least = max(self._target_square - float(parts.sum()), 0.0)
        # As many directions as centred images have fit any target: what is left of the difference
        # is rounding, and over (n - df - 1)^2, which falls to 0 with lambda, it would decide.
        least = 0.0 if np.count_nonzero(values) >= self._n - 1 else least
        return np.asarray(least + (parts * np.square(penalty / shifted)).sum(axis=1))


class Dual(_Problem):
    """Ridge from the products of images.

    Parameters
    ----------
    kernel
        XX', shape (n, n), of centred features.
    target
        Y, shape (n, C), centred.
    """

    def __init__(self, kernel: Floats, target: Floats) -> None:
        super().__init__(kernel, target, len(kernel))

    def _residual(self, penalty: Floats, shifted: Floats) -> Floats:
        return np.asarray((self._spectrum.squares * np.square(penalty / shifted)).sum(axis=1))


def penalty_path(largest: float) -> tuple[float, ...]:
    """Return the penalties to choose from: every power of ten that makes a difference.

    From 0.01 to 10,000,000, further where the largest eigenvalue of the Gram matrix asks for it:
    down to 1e-9 of it, well above the rounding of the Gram matrix, and up to 100 times it, where
    a larger penalty does no more than scale the weights.
    """
    low = min(_PATH[0], math.floor(math.log10(largest * 1e-9)))
    high = max(_PATH[1], math.ceil(math.log10(largest * 1e2)))
    return tuple(10.0**power for power in range(low, high + 1))


@dataclass(frozen=True)
class Choice:
    """A chosen penalty.

    Attributes
    ----------
    solved
        The solution for it.
    end
        "lower" or "upper" where it is an end of the path, else "".
    """

    solved: Solved
    end: Literal["", "lower", "upper"]


def choose_penalty(problem: Primal | Dual) -> Choice:
    """Return the solution with the least criterion on the whole path.

    The criterion may have several minima. Between penalties whose criteria differ by rounding
    only, the largest is chosen.

    References
    ----------
    Golub, Heath and Wahba (1979), Generalized cross-validation as a method for choosing a good
    ridge parameter, Technometrics 21, 215-223.
    """
    path = penalty_path(problem.largest)
    criteria = problem.criteria(np.array(path))
    best = int(np.flatnonzero(criteria <= criteria.min() * (1.0 + _TIE))[-1])
    end: Literal["", "lower", "upper"] = ""
    if best in (0, len(path) - 1):
        end = "lower" if best == 0 else "upper"
    return Choice(problem.at(path[best]), end)


def one_hot(labels: NDArray[np.int64], n_classes: int) -> Floats:
    """Return targets, float64 of shape (n, n_classes)."""
    return (labels[:, None] == np.arange(n_classes)).astype(np.float64)


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images.

    Attributes
    ----------
    difference, low, high
        Accuracy of the first minus that of the second, and its 95% interval.
    only_first, only_second
        Images that one classifies correctly and the other does not.
    p, mcnemar_p
        Two-sided p of the score test that the interval belongs to, and McNemar's exact one, of the
        models that were fitted; NaN of groups of images.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float
    mcnemar_p: float


def compare_paired(
    first: NDArray[np.bool_], second: NDArray[np.bool_], folds: int = 0, level: float = 0.95,
    *, groups: NDArray[np.int64] | None = None,
) -> Paired:  # fmt: skip
    """Compare which images two classifiers get right.

    With b and c the images that only the first and only the second gets right, the interval holds
    the differences D that Tango's score test does not reject:

        |b - c - n D| <= z sqrt(n (2 q + D (1 - D)))

    where q is the maximum-likelihood estimate, given D, of the chance that only the second is
    right. It is not Wald's, which is too narrow where nearly all differences go one way.

    Parameters
    ----------
    first, second
        bool arrays of shape (n,): the image was classified correctly.
    folds
        Folds of the cross-validation that tested them, for `intervals.independent_images`; 0 where
        each was tested by one model.
    groups
        Group of each image, for `compare_grouped`; None where images are independent.

    References
    ----------
    McNemar (1947), Psychometrika 12, 153-157. Tango (1998), Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design, Statistics in
    Medicine 17, 891-908.
    """
    from scipy.special import bdtr, ndtr, ndtri

    if groups is not None:
        return compare_grouped(first, second, groups, folds, level)
    n = len(first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    z = float(ndtri(0.5 + level / 2))
    p = min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0
    estimate = (b - c) / n
    share = independent_images(n, folds) / n if folds else 1.0
    counts = b * share, c * share, n * share
    low = _boundary(lambda d: tango_score(*counts, d) > z, -1.0, estimate)
    high = _boundary(lambda d: tango_score(*counts, d) >= -z, estimate, 1.0)
    score = 2.0 * float(ndtr(-abs(tango_score(*counts, 0.0))))
    return Paired(estimate, low, high, b, c, score, p)


def compare_grouped(
    first: NDArray[np.bool_], second: NDArray[np.bool_], groups: NDArray[np.int64],
    folds: int = 0, level: float = 0.95,
) -> Paired:  # fmt: skip
    """Compare as `compare_paired` does where images of one group may have anything in common.

    Interval and p are t's, from the difference in each group; there is no McNemar's p. Where no
    image tells the two apart the interval is that of as many images as there are groups.
    """
    from scipy.special import stdtr, stdtrit

    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    n, nan = len(first), float("nan")
    if b + c == 0:
        same = np.zeros(len(np.unique(groups)), bool)
        return compare_paired(same, same, folds, level)
    estimate = (b - c) / n
    away = first.astype(np.float64) - second - estimate
    variance, count = mean_covariance(away, away, groups)
    error = float(np.sqrt(variance * (n / independent_images(n, folds) if folds else 1.0)))
    if not error > 0:  # groups that all differ by the same say nothing of how much they vary
        return Paired(estimate, nan, nan, b, c, nan, nan)
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    p = 2.0 * float(stdtr(count - 1, -abs(estimate) / error))
    return Paired(estimate, max(estimate - half, -1.0), min(estimate + half, 1.0), b, c, p, nan)


def tango_score(b: float, c: float, n: float, difference: float) -> float:
    """Return Tango's score statistic for a difference of paired proportions, (b - c) / n."""
    distance = b - c - n * difference
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1.0 - difference)
    root = np.sqrt(max(linear * linear - 8.0 * n * constant, 0.0))
    q = (root - linear) / (4.0 * n)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    if variance <= 0.0:
        return 0.0 if distance == 0.0 else float(np.copysign(np.inf, distance))
    return float(distance / np.sqrt(variance))


def _boundary(inside: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `inside`, true at `low` and false at `high`, changes, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return (low + high) / 2
