"""How much a mean map varies over its patches beyond the noise of the mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST_GROUPS = 4
"""Groups of images below which the noise between them has no estimate."""


@dataclass(frozen=True)
class PositionEffects:
    """Variance over patches of each mode's true mean map; arrays of shape (n_modes,).

    Attributes
    ----------
    variance, low, high
        Estimate without noise, and its 95% interval; where there is nothing both may be below 0.
    f, p
        F for positions, and its p.
    omega_squared
        Variance between positions over itself and that of single values about image and position.
    """

    variance: Floats
    low: Floats
    high: Floats
    f: Floats
    p: Floats
    omega_squared: Floats


def position_effects(
    positions: Floats, rest: Floats, n_images: int, groups: Floats, level: float = 0.95
) -> PositionEffects:
    """Return the noise-corrected variance of mean maps, of modes that vary.

        F = MS_p / MS_r,  variance = (MS_p - MS_r) / n,  omega^2 = variance / (variance + MS_r)

    with MS_p and MS_r the mean squares between positions and of the rest. The variance is unbiased
    whatever patches of one image have in common. It is the mean over pairs of different images of
    the product of their centred maps; its error is found from the groups' mean maps g, centred over
    patches, K = g g' / (P - 1): the variance of a jackknife over groups counts twice what the noise
    of two groups has in common, V = 2 tr2 / (G (G - 1)) with tr2 the mean square of K's
    entries off the diagonal, doubly centred; it is taken off once. Degrees of freedom are
    nu = (MS_r G / n)^2 / tr2 instead of P - 1 (Box). The lower limit has the quantile of a gamma
    distribution with the skewness of a chi-square with so many, noncentral as far as the variance
    is not V; the upper one Student's, since the error grows with the variance.

    Parameters
    ----------
    positions, rest
        Sums of squares of each mode, shape (n_modes,).
    n_images
        Number of images.
    groups
        Mean map of each group of images, shape (groups, n_patches, n_modes).

    References
    ----------
    Box (1954), Some theorems on quadratic forms applied in the study of analysis of variance
    problems, Annals of Mathematical Statistics 25, 290-302 and 484-498.
    """
    from scipy.special import fdtrc

    n_groups, n_patches, _ = groups.shape
    between = positions / (n_patches - 1)
    noise = rest / ((n_images - 1) * (n_patches - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        f = between / noise
        variance = (between - noise) / n_images
        omega = variance / (variance + noise)
    nan = np.full(f.shape, np.nan)
    if n_groups < FEWEST_GROUPS:
        return PositionEffects(variance, nan, nan, f, nan, omega)
    centred = groups - groups.mean(axis=1, keepdims=True)
    products = np.einsum("gpm,hpm->mgh", centred, centred) / (n_patches - 1)
    jackknife = _jackknife(products)
    common = _squared_noise(products)
    of_noise = 2.0 * common / (n_groups * (n_groups - 1))
    error = np.maximum(jackknife - of_noise, of_noise)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.clip(np.square(noise * n_groups / n_images) / common, 1.0, n_patches - 1)
        beyond = freedom * (error / of_noise - 1.0) / 2.0
        skewness = 8.0 * (freedom + 3.0 * beyond) / (2.0 * freedom + 4.0 * beyond) ** 1.5
    student, upper = _quantiles(np.nan_to_num(skewness), n_groups, level)
    root = np.sqrt(error)
    return PositionEffects(
        variance, variance - upper * root, variance + student * root, f,
        np.asarray(fdtrc(freedom, freedom * (n_images - 1), f)), omega,
    )  # fmt: skip


def effects_of_groups(groups: Floats, single: Floats) -> PositionEffects:
    """Return `position_effects` where images belong together: each group's mean map is an image.

    Parameters
    ----------
    groups
        Mean map of each part of the images, whole groups in one, shape (parts, n_patches, n_modes).
    single
        Variance of single values about image and position, for omega^2, shape (n_modes,).
    """
    centred = groups - groups.mean(axis=1, keepdims=True)
    mean = centred.mean(axis=0)
    n = len(groups)
    positions = n * np.square(mean).sum(axis=0)
    rest = np.square(centred - mean).sum(axis=(0, 1))
    found = position_effects(positions, rest, n, groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        return replace(found, omega_squared=found.variance / (found.variance + single))


def _jackknife(products: Floats) -> Floats:
    """Return the jackknife variance of the mean product of two groups, shape (n_modes,)."""
    n = products.shape[1]
    others = products.sum(axis=2) - np.einsum("mgg->mg", products)
    left_out = (others.sum(axis=1, keepdims=True) - 2.0 * others) / ((n - 1) * (n - 2))
    return np.asarray(left_out.var(axis=1) * (n - 1))


def _squared_noise(products: Floats) -> Floats:
    """Return the mean square of products of two groups' noise, without what groups share."""
    n = products.shape[1]
    mean = products.mean(axis=1, keepdims=True)
    noise = products - mean - np.swapaxes(mean, 1, 2) + mean.mean(axis=2, keepdims=True)
    upper = np.triu_indices(n, 1)
    off = noise[:, upper[0], upper[1]]
    return np.asarray(off.var(axis=1) * (n - 1) / (n - 3))


def _quantiles(skewness: Floats, n_groups: int, level: float) -> tuple[float, Floats]:
    """Return Student's quantile, and as wide the upper one of a standardised gamma distribution."""
    from scipy.special import gammaincinv, ndtri, stdtrit

    shape = 4.0 / np.square(np.maximum(skewness, 1e-3))
    tail = 0.5 + level / 2
    student = float(stdtrit(n_groups - 1, tail))
    upper = (gammaincinv(shape, tail) - shape) / np.sqrt(shape)
    return student, upper * student / float(ndtri(tail))
