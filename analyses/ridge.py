"""Ridge regression for probes: folds, standardisation, the two forms of the solution, lambda.

Targets are one-hot classes. With X the standardised training features, (n, d), and Y the centred
targets, (n, C), the weights are

    primal  W = (X'X + lambda I)^-1 X'Y          needs the d x d Gram matrix only
    dual    W = X' (XX' + lambda I)^-1 Y         cheaper where n < d

Both are solved by one Cholesky factor per lambda on a Gram matrix that is formed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LAMBDAS: tuple[float, ...] = tuple(10.0**power for power in range(-2, 8))
"""The path of penalties, for features of unit variance."""

_START = 5


def stratified_folds(
    labels: NDArray[np.int64], n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return a fold for every image, each class spread evenly over the folds.

    Parameters
    ----------
    labels
        int64 array of shape (n,); negative is no label.
    n_folds
        Number of folds, at least 2.
    rng
        Where the randomness comes from.

    Returns
    -------
    int64 array of shape (n,) in 0..n_folds-1, -1 where there is no label. Sizes of folds differ
    by at most one, as do the counts of each class.
    """
    folds = np.full(len(labels), -1, np.int64)
    labelled = np.flatnonzero(labels >= 0)
    shuffled = rng.permutation(labelled)
    # Dealt out class after class without starting again at fold 0.
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds[dealt] = np.arange(len(dealt)) % n_folds
    return folds


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


class Solution(Protocol):
    """What solving for one penalty gives.

    Attributes
    ----------
    coefficients
        Weights of shape (d, C), or dual coefficients of shape (n, C).
    criterion
        Generalised cross-validation, `n RSS / (n - df - 1)^2`; smaller is better.
    """

    @property
    def coefficients(self) -> Floats: ...
    @property
    def criterion(self) -> float: ...


class Cholesky:
    """Cholesky factor of `matrix + penalty I`.

    Parameters
    ----------
    matrix
        Symmetric positive semidefinite, float64 of shape (m, m); not changed.
    penalty
        Positive.
    """

    def __init__(self, matrix: Floats, penalty: float) -> None:
        from scipy.linalg import lapack

        shifted = np.array(matrix.T, order="F")  # symmetric: the transpose copies in order
        np.einsum("ii->i", shifted)[...] += penalty
        factor, info = lapack.dpotrf(shifted, lower=1, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(
                f"the matrix with penalty {penalty:g} is not positive definite at row {info - 1}"
            )
        self._factor: Floats = factor

    def solve(self, right: Floats, *, overwrite: bool = False) -> Floats:
        """Return the solution for right-hand sides of shape (m, k), in place if that is allowed."""
        from scipy.linalg import lapack

        solution, _ = lapack.dpotrs(self._factor, right, lower=1, overwrite_b=overwrite)
        return np.asarray(solution)

    def inverse_trace(self) -> float:
        """Return the trace of the inverse, the squared Frobenius norm of the factor's inverse."""
        from scipy.linalg import lapack

        inverse, _ = lapack.dtrtri(self._factor, lower=1)
        # The strict upper triangle is what the factor's copy holds, which is zero.
        return float(np.einsum("ij,ij->", inverse, inverse))


@dataclass(frozen=True)
class Solved:
    """A `Solution` with the factor it came from, for more right-hand sides."""

    coefficients: Floats
    criterion: float
    factor: Cholesky
    penalty: float


class Primal:
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
        self._gram = gram
        self._cross = cross
        self._target_square = target_square
        self._n = n

    def at(self, penalty: float, *, criterion: bool = True) -> Solved:
        """Return the weights for one penalty, shape (d, C)."""
        factor = Cholesky(self._gram, penalty)
        weights = factor.solve(self._cross)
        if not criterion:
            return Solved(weights, np.nan, factor, penalty)
        # W'GW = W'B - lambda W'W saves a product.
        explained = float(np.einsum("dc,dc->", weights, self._cross))
        residual = self._target_square - explained
        residual -= penalty * float(np.einsum("dc,dc->", weights, weights))
        freedom = len(self._gram) - penalty * factor.inverse_trace()
        return Solved(weights, _criterion(self._n, residual, freedom), factor, penalty)


class Dual:
    """Ridge from the products of images.

    Parameters
    ----------
    kernel
        XX', shape (n, n), of centred features.
    target
        Y, shape (n, C), centred.
    """

    def __init__(self, kernel: Floats, target: Floats) -> None:
        self._kernel = kernel
        self._target = target

    def at(self, penalty: float, *, criterion: bool = True) -> Solved:
        """Return the dual coefficients for one penalty, shape (n, C)."""
        factor = Cholesky(self._kernel, penalty)
        alpha = factor.solve(self._target)
        if not criterion:
            return Solved(alpha, np.nan, factor, penalty)
        residual = penalty * penalty * float(np.einsum("nc,nc->", alpha, alpha))
        n = len(self._kernel)
        freedom = n - penalty * factor.inverse_trace()
        return Solved(alpha, _criterion(n, residual, freedom), factor, penalty)


def _criterion(n: int, residual: float, freedom: float) -> float:
    """Return generalised cross-validation with one more degree of freedom for the intercept."""
    left = n - freedom - 1.0
    return n * max(residual, 0.0) / (left * left) if left > 0 else float("inf")


def choose_penalty(at: Callable[[float], Solved], penalties: tuple[float, ...] = LAMBDAS) -> Solved:
    """Return the solution with the least criterion, walking down from the middle of the path.

    Only the penalties on the way to the nearest minimum are solved for; the start is fixed, so
    that nothing but the training images decides.

    References
    ----------
    Golub, Heath and Wahba (1979), Generalized cross-validation as a method for choosing a good
    ridge parameter, Technometrics 21, 215-223.
    """
    here = min(_START, len(penalties) - 1)
    best = at(penalties[here])
    for step in (1, -1):
        moved = False
        while 0 <= here + step < len(penalties):
            candidate = at(penalties[here + step])
            if candidate.criterion >= best.criterion:
                break
            best, here, moved = candidate, here + step, True
        if moved:
            break
    return best


def one_hot(labels: NDArray[np.int64], n_classes: int) -> Floats:
    """Return targets, float64 of shape (n, n_classes)."""
    return (labels[:, None] == np.arange(n_classes)).astype(np.float64)


def wilson_interval(correct: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval for a proportion; NaN for n = 0.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference, Journal
    of the American Statistical Association 22, 209-212.
    """
    if n == 0:
        return float("nan"), float("nan")
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    p = correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same images.

    Attributes
    ----------
    difference, low, high
        Accuracy of the first minus that of the second, and its 95% interval.
    only_first, only_second
        Images that one classifies correctly and the other does not.
    p
        McNemar's exact p-value, two-sided.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float


def compare_paired(
    first: NDArray[np.bool_], second: NDArray[np.bool_], level: float = 0.95
) -> Paired:
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

    References
    ----------
    McNemar (1947), Psychometrika 12, 153-157. Tango (1998), Equivalence test and confidence
    interval for the difference in proportions for the paired-sample design, Statistics in
    Medicine 17, 891-908.
    """
    from scipy.special import bdtr, ndtri

    n = len(first)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    z = float(ndtri(0.5 + level / 2))
    p = min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0
    estimate = (b - c) / n
    low = _boundary(lambda d: tango_score(b, c, n, d) > z, -1.0, estimate)
    high = _boundary(lambda d: tango_score(b, c, n, d) >= -z, estimate, 1.0)
    return Paired(estimate, low, high, b, c, p)


def tango_score(b: int, c: int, n: int, difference: float) -> float:
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
