"""Two numbers of the same images compared: their difference and their ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.intervals import fieller, mean_covariance, too_skewed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Edge against centre over images; arrays of the shape of one image's numbers.

    Attributes
    ----------
    n
        Number of images.
    centre, edge, ratio
        Mean over images of the central and the edge mean, and edge / centre.
    ratio_low, ratio_high
        Fieller's interval of the ratio; NaN where the centre is not clearly different from 0. Of
        logarithms (`geometric`) the ratio is that of geometric means, and so is its interval.
    of_logarithms
        Few images decide the means: ratio, with its interval and test, is that of geometric means,
        over patches as well, and the difference has no interval. Where values are not positive or
        their logarithms are as bad, nothing has.
    difference, difference_low, difference_high
        Mean of edge - centre over images, and its t interval.
    t, p
        Paired t test of edge against centre, n - 1 degrees of freedom, of groups their number
        less one; NaN where the difference is the same in every image.
    """

    n: int
    centre: Floats
    edge: Floats
    ratio: Floats
    ratio_low: Floats
    ratio_high: Floats
    of_logarithms: NDArray[np.bool_]
    difference: Floats
    difference_low: Floats
    difference_high: Floats
    t: Floats
    p: Floats


def higher(one: Comparison, which: int) -> bool:
    """Return whether the edge is higher, by the figure that is tested."""
    return bool(one.ratio[which] > 1 if one.of_logarithms[which] else one.difference[which] > 0)


def compare(
    centre: Floats,
    edge: Floats,
    logarithms: tuple[Floats, Floats] | None = None,
    level: float = 0.95,
    *,
    geometric: bool = False,
    groups: NDArray[np.int64] | None = None,
) -> Comparison:
    """Compare edge and centre of the same images.

        t = mean(e - c) / (sd(e - c) / sqrt(n))
        the ratio's interval is {R : |mean(e - R c)| <= t_{n-1} sd(e - R c) / sqrt(n)}

    Of decimal logarithms a quotient depends on the unit of the map; the ratio is then

        10^mean(e - c), with ten to the power of the ends of the difference's interval.

    Parameters
    ----------
    centre, edge
        float64 arrays of shape (n_images, ...): mean over the central and the edge patches of
        each image; at least 2 images.
    logarithms
        The same of decimal logarithms, centre then edge, NaN where a value is not positive: used
        where few images decide the means. A mean over few patches of heavy-tailed values is itself
        decided by few, so that logarithms of the means would differ where the patches do not.
    level
        Coverage of the intervals, in (0, 1).
    geometric
        The values are decimal logarithms.
    groups
        Group of each image: t and the intervals are over groups then (see `mean_covariance`).
    """
    from scipy.special import stdtr, stdtrit

    n = len(centre)
    if logarithms is None:
        logarithms = np.full(centre.shape, np.nan), np.full(centre.shape, np.nan)
    c, e = centre.mean(axis=0), edge.mean(axis=0)
    # Variances and covariance of the two means.
    dc, de = centre - c, edge - e
    pairs = ((dc, dc), (de, de), (dc, de))
    (vc, count), (ve, _), (cov, _) = (mean_covariance(x, y, groups) for x, y in pairs)
    quantile = float(stdtrit(count - 1, 0.5 + level / 2)) if count > 1 else np.nan
    difference = edge - centre
    d = difference.mean(axis=0)
    varies = difference.min(axis=0) != difference.max(axis=0)
    error = np.sqrt(mean_covariance(difference - d, difference - d, groups)[0])
    t = np.divide(d, error, out=np.full(d.shape, np.nan), where=varies & (error > 0))
    if geometric:
        ends = (d, d - quantile * error, d + quantile * error)
        ratio, low, high = (np.power(10.0, x) for x in ends)
    else:
        ratio, low, high = fieller(c, e, vc, ve, cov, quantile)
    skewed = too_skewed(difference, groups)
    if not geometric:
        skewed |= too_skewed(centre, groups) | too_skewed(edge, groups)
    error = np.where(skewed, np.nan, error)
    found = Comparison(
        n=n,
        centre=c,
        edge=e,
        ratio=ratio,
        ratio_low=np.where(skewed, np.nan, low),
        ratio_high=np.where(skewed, np.nan, high),
        of_logarithms=skewed & (not geometric) & np.isfinite(logarithms).all(axis=(0, 1)),
        difference=d,
        difference_low=d - quantile * error,
        difference_high=d + quantile * error,
        t=np.where(skewed, np.nan, t),
        p=np.where(skewed, np.nan, 2.0 * stdtr(count - 1, -np.abs(t))),
    )
    where = found.of_logarithms
    if where.any():
        log_centre, log_edge = (one[:, where] for one in logarithms)
        again = compare(log_centre, log_edge, level=level, geometric=True, groups=groups)
        for name in ("ratio", "ratio_low", "ratio_high", "t", "p"):
            getattr(found, name)[where] = getattr(again, name)
    return found
