"""Ridge regression for probes: folds, standardisation, the two forms of the solution, lambda.

Targets are one-hot classes. With X the standardised training features, (n, d), and Y the centred
targets, (n, C), the weights are

    primal  W = (X'X + lambda I)^-1 X'Y          needs the d x d Gram matrix only
    dual    W = X' (XX' + lambda I)^-1 Y         cheaper where n < d

Both are solved with one Cholesky factor per lambda of a Gram matrix that is formed once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyses.permutation import spans

Floats = NDArray[np.float64]

LAMBDAS: tuple[float, ...] = tuple(10.0**power for power in range(-2, 8))
"""The path of penalties, for features of unit variance."""

_START = 5
_LEAF = 64
_BAND = 192


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


def inverse_factor(matrix: Floats, penalty: float, scratch: Scratch, name: str) -> Floats:
    """Return the inverse of the Cholesky factor of `matrix + penalty I`.

    With blocks [[A, B'], [B, C]] and the factor's [[P, 0], [Q, R]]: P P' = A, Q = B P^-T,
    R R' = C - Q Q', and the lower left block of the inverse is `-R^-1 Q P^-1`. Nearly all of the
    work is matrix products, which leave other threads free.

    Parameters
    ----------
    matrix
        Symmetric positive semidefinite, float64 of shape (m, m); not changed.
    penalty
        Positive.
    scratch, name
        Where the result is kept, and under which name.

    Returns
    -------
    float64 array of shape (m, m), lower triangular.
    """
    work = scratch.array("factor", *matrix.shape)
    work[...] = matrix
    np.einsum("ii->i", work)[...] += penalty
    inverse = scratch.array(name, *matrix.shape)

    def fill(start: int, stop: int) -> None:
        if stop - start <= _LEAF:
            block = slice(start, stop)
            inverse[block, block] = np.tril(np.linalg.inv(np.linalg.cholesky(work[block, block])))
            return
        middle = (start + stop) // 2
        first, second = slice(start, middle), slice(middle, stop)
        inverse[first, second] = 0.0
        fill(start, middle)
        lower, below = inverse[second, first], work[second, first]
        for cols in spans(middle - start, _BAND):
            triangle = inverse[first, first][cols, : cols.stop]
            np.matmul(below[:, : cols.stop], triangle.T, out=lower[:, cols])
        product = scratch.array("product", stop - middle, stop - middle)
        work[second, second] -= np.matmul(lower, lower.T, out=product)
        fill(middle, stop)
        product = scratch.array("product", *lower.shape)
        _times(inverse[second, second], lower, product)
        np.negative(product, out=product)
        for cols in spans(middle - start, _BAND):
            triangle = inverse[first, first][cols.start :, cols]
            np.matmul(product[:, cols.start :], triangle, out=lower[:, cols])

    fill(0, len(work))
    return inverse


def _times(lower: Floats, right: Floats, out: Floats) -> None:
    """Put `lower @ right` into `out`, a band of rows at a time: no zeros are multiplied."""
    for rows in spans(len(lower), _BAND):
        np.matmul(lower[rows, : rows.stop], right[: rows.stop], out=out[rows])


class Factor:
    """`matrix + penalty I`, factorised: see `inverse_factor` for the parameters."""

    def __init__(self, matrix: Floats, penalty: float, scratch: Scratch, name: str) -> None:
        self.name = name
        self._inverse = inverse_factor(matrix, penalty, scratch, name)

    def solve(self, right: Floats) -> Floats:
        """Return the solution for right-hand sides of shape (m, k)."""
        inverse = self._inverse
        half = np.empty_like(right, order="C")
        _times(inverse, right, half)
        solution = np.empty_like(half)
        for cols in spans(len(inverse), _BAND):
            np.matmul(inverse[cols.start :, cols].T, half[cols.start :], out=solution[cols])
        return solution

    def inverse_trace(self) -> float:
        """Return the trace of the inverse, the squared Frobenius norm of the factor's inverse."""
        return float(np.einsum("ij,ij->", self._inverse, self._inverse))


@dataclass(frozen=True)
class Solved:
    """What solving for one penalty gives.

    Attributes
    ----------
    coefficients
        Weights of shape (d, C), or dual coefficients of shape (n, C).
    criterion
        Generalised cross-validation, `n RSS / (n - df - 1)^2`; smaller is better.
    factor
        For more right-hand sides, until the problem is solved for two further penalties.
    penalty
        Lambda.
    """

    coefficients: Floats
    criterion: float
    factor: Factor
    penalty: float


class _Problem:
    """A Gram matrix solved for one penalty after another, the best solution so far kept."""

    def __init__(self, matrix: Floats, scratch: Scratch | None) -> None:
        self._matrix = matrix
        self._scratch = Scratch() if scratch is None else scratch

    def _factorise(self, penalty: float, keep: Solved | None) -> Factor:
        name = "first" if keep is None or keep.factor.name == "second" else "second"
        return Factor(self._matrix, penalty, self._scratch, name)


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
    scratch
        Memory to work in.
    """

    def __init__(
        self,
        gram: Floats,
        cross: Floats,
        target_square: float,
        n: int,
        scratch: Scratch | None = None,
    ) -> None:
        super().__init__(gram, scratch)
        self._cross = cross
        self._target_square = target_square
        self._n = n

    def at(self, penalty: float, keep: Solved | None = None, *, criterion: bool = True) -> Solved:
        """Return the weights for one penalty, shape (d, C), without touching `keep`."""
        factor = self._factorise(penalty, keep)
        weights = factor.solve(self._cross)
        if not criterion:
            return Solved(weights, np.nan, factor, penalty)
        # W'GW = W'B - lambda W'W saves a product.
        explained = float(np.einsum("dc,dc->", weights, self._cross))
        residual = self._target_square - explained
        residual -= penalty * float(np.einsum("dc,dc->", weights, weights))
        freedom = len(self._matrix) - penalty * factor.inverse_trace()
        return Solved(weights, _criterion(self._n, residual, freedom), factor, penalty)


class Dual(_Problem):
    """Ridge from the products of images.

    Parameters
    ----------
    kernel
        XX', shape (n, n), of centred features.
    target
        Y, shape (n, C), centred.
    scratch
        Memory to work in.
    """

    def __init__(self, kernel: Floats, target: Floats, scratch: Scratch | None = None) -> None:
        super().__init__(kernel, scratch)
        self._target = target

    def at(self, penalty: float, keep: Solved | None = None, *, criterion: bool = True) -> Solved:
        """Return the dual coefficients for one penalty, (n, C), without touching `keep`."""
        factor = self._factorise(penalty, keep)
        alpha = factor.solve(self._target)
        if not criterion:
            return Solved(alpha, np.nan, factor, penalty)
        residual = penalty * penalty * float(np.einsum("nc,nc->", alpha, alpha))
        n = len(self._matrix)
        freedom = n - penalty * factor.inverse_trace()
        return Solved(alpha, _criterion(n, residual, freedom), factor, penalty)


def _criterion(n: int, residual: float, freedom: float) -> float:
    """Return generalised cross-validation with one more degree of freedom for the intercept."""
    left = n - freedom - 1.0
    return n * max(residual, 0.0) / (left * left) if left > 0 else float("inf")


def choose_penalty(problem: Primal | Dual, penalties: tuple[float, ...] = LAMBDAS) -> Solved:
    """Return the solution with the least criterion, walking down from the middle of the path.

    Only the penalties on the way to the nearest minimum are solved for; the start is fixed, so
    that nothing but the training images decides.

    References
    ----------
    Golub, Heath and Wahba (1979), Generalized cross-validation as a method for choosing a good
    ridge parameter, Technometrics 21, 215-223.
    """
    here = min(_START, len(penalties) - 1)
    best = problem.at(penalties[here])
    for step in (1, -1):
        moved = False
        while 0 <= here + step < len(penalties):
            candidate = problem.at(penalties[here + step], best)
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
