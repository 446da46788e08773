"""Banded ridge: one penalty for each map of a set, chosen on training images alone.

With K_b = Z_b Z_b' the products of images in the standardised columns of map b, ridge with a
penalty lambda_b for the weights of each map is ridge with one penalty on

    K = sum_b g_b K_b,      lambda_b = lambda / g_b

so that one eigendecomposition serves every lambda for given ratios g. With A = K / lambda + I the
image i left out is predicted with the residual

    r_i = (A^-1 Y)_i / ((A^-1)_ii - 1 / n)

exactly, the intercept fitted anew. Ratios are searched on at most `AT_MOST` training images, drawn
at random: a penalty is the variance of the noise over that of the weights, which does not grow with
the images.

References
----------
Nunez-Elizalde, Huth and Gallant (2019), Voxelwise encoding models with non-spherical multivariate
normal priors, NeuroImage 197, 482-492. Dupre la Tour, Eickenberg, Nunez-Elizalde and Gallant
(2022), Feature-space selection with banded ridge regression, NeuroImage 264, 119728.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[int, ...]

AT_MOST = 256
"""Training images that ratios are searched on."""
REACH = 8
"""Powers of ten by which a map may be penalised more, or less, than the first."""
STEP = 4
"""Powers of ten between the points that a search begins with."""
PATH = 10.0 ** np.arange(-5.0, 6.0)
"""Penalties for products of images whose mean square is 1."""
_TIE = 1e-9


@dataclass(frozen=True)
class Banded:
    """What was chosen for each map.

    Attributes
    ----------
    penalties
        For standardised columns, shape (maps,).
    criterion
        Mean over images of the squared error of those left out.
    left_out
        Predictions of each image by all others, (n, C), targets' means included.
    """

    penalties: Floats
    criterion: float
    left_out: Floats

    @property
    def balance(self) -> Floats:
        """What each map's columns are multiplied by to have one penalty; the largest is 1."""
        return np.sqrt(self.penalties.min() / self.penalties)


def least(
    value: Callable[[Point], float], axes: int, reach: int = REACH, step: int = STEP
) -> Point:
    """Return where `value` is least among whole numbers from -reach to reach.

    Points `step` apart are all looked at, and from each that is no higher than those around it the
    search goes down to neighbours, along axes before diagonals. A valley that lies between the
    first points and is seen from none of them is missed. Of equal values the one with the largest
    numbers is taken: less weight.
    """
    seen: dict[Point, float] = {}

    def at(point: Point) -> float:
        if point not in seen:
            seen[point] = value(point)
        return seen[point]

    def around(point: Point, by: int, diagonal: bool) -> list[Point]:
        moves = product((-by, 0, by), repeat=axes) if diagonal else _along(axes, by)
        found = [tuple(p + m for p, m in zip(point, move, strict=True)) for move in moves]
        return [one for one in found if one != point and max(map(abs, one)) <= reach]

    first = list(product(range(-reach, reach + 1, step), repeat=axes))
    lows = [p for p in first if all(at(p) <= at(q) for q in around(p, step, True))]
    for point in lows:
        here: Point | None = point
        while here is not None:
            here = next(
                (
                    best
                    for diagonal in (False, True)
                    for best in [min(around(here, 1, diagonal), key=at, default=here)]
                    if at(best) < at(here) * (1.0 - _TIE)
                ),
                None,
            )
    floor = min(seen.values()) * (1.0 + _TIE)
    return max((p for p, v in seen.items() if v <= floor), key=lambda p: (sum(p), p))


def _along(axes: int, by: int) -> list[Point]:
    return [
        tuple(sign * by if a == axis else 0 for a in range(axes))
        for axis in range(axes)
        for sign in (-1, 1)
    ]


def choose(kernels: Sequence[Floats], target: Floats, widths: Sequence[int]) -> Banded:
    """Return the penalty of each map with the least error of images left out.

    Parameters
    ----------
    kernels
        Products of training images by map, (n, n) each; centred here.
    target
        (n, C); centred here.
    widths
        Columns of each map, by which its products are divided: about 1 for standardised ones.
    """
    n = len(target)
    mean = target.mean(axis=0)
    y = target - mean
    sizes = np.array(widths, np.float64)
    scaled = [_centred(kernel) / size for kernel, size in zip(kernels, sizes, strict=True)]

    def path(point: Point) -> tuple[Floats, Floats, Floats]:
        """Weights, residuals by lambda, image and class, and 1 - leverage by lambda and image."""
        weights = 10.0 ** -np.array([0.0, *point])
        weights /= weights.max()
        kernel = weights[0] * scaled[0]
        for weight, one in zip(weights[1:], scaled[1:], strict=True):
            kernel = kernel + weight * one
        values, vectors = np.linalg.eigh(kernel)
        kept = PATH[:, None] / (np.maximum(values, 0.0) + PATH[:, None])
        turned = vectors.T @ y
        spread = kept @ (vectors * vectors).T - 1.0 / n
        stacked = vectors @ (kept.T[:, :, None] * turned[:, None]).reshape(n, -1)
        residuals = stacked.reshape(n, len(PATH), -1).transpose(1, 0, 2)
        return weights, residuals, np.maximum(spread, 1e-12)

    def errors(residuals: Floats, spread: Floats) -> Floats:
        return np.asarray((np.square(residuals).sum(axis=2) / np.square(spread)).mean(axis=1))

    best = least(lambda point: float(errors(*path(point)[1:]).min()), len(kernels) - 1)
    weights, residuals, spread = path(best)
    found = errors(residuals, spread)
    which = int(np.flatnonzero(found <= found.min() * (1.0 + _TIE))[-1])
    left_out = y - residuals[which] / spread[which][:, None]
    return Banded(PATH[which] * sizes / weights, float(found[which]), left_out + mean)


def _centred(kernel: Floats) -> Floats:
    rows = kernel.mean(axis=0)
    return np.asarray(kernel - rows - rows[:, None] + rows.mean())


def choose_columns(rows: Floats, spans: Sequence[slice], target: Floats) -> Banded:
    """Return `choose` for standardised columns, (n, d), of which each map has a span."""
    kernels = [rows[:, span] @ rows[:, span].T for span in spans]
    return choose(kernels, target, [span.stop - span.start for span in spans])


def sample(folds: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Return images of which each training set has about `AT_MOST`, all where there are fewer.

    Parameters
    ----------
    folds
        The fold of each image, -1 for those that take no part; with one fold, 1 for those that
        are only trained on.
    n_folds
        Their number.
    seed
        Of the draw, which the order of images in a store does not matter to.
    """
    taking = np.flatnonzero(folds >= (n_folds == 1))
    size = AT_MOST * n_folds // max(n_folds - 1, 1)
    rng = np.random.default_rng([seed, 0xBA4D])
    return np.sort(rng.permutation(taking)[:size])
