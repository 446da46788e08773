"""Two numbers of the same images compared: their difference and their ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frictionstore.analyses.stats.class_means import ClassMeans, class_means
from frictionstore.analyses.stats.intervals import fieller

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    groups: Ints | None = None,
) -> Comparison:
    """Compare edge and centre of some images: see `compare_classes`, of one class.

    Parameters
    ----------
    centre, edge
        float64 arrays of shape (n_images, k): mean over the central and the edge patches of each
        image; at least 2 images.
    logarithms
        The same of decimal logarithms, centre then edge.
    level, geometric, groups
        As there.
    """
    if logarithms is None:
        logarithms = np.full(centre.shape, np.nan), np.full(centre.shape, np.nan)
    every = (centre, edge, *logarithms)
    labels = np.zeros(len(centre), np.int64)
    return compare_classes(
        lambda: [(slice(0, len(labels)), every)], labels, 1, level,
        geometric=geometric, groups=groups,
    )[0]  # fmt: skip


def compare_classes(
    blocks: Callable[[], Iterable[tuple[slice, tuple[Floats, ...]]]],
    labels: Ints,
    n_classes: int,
    level: float = 0.95,
    *,
    geometric: bool = False,
    groups: Ints | None = None,
) -> list[Comparison]:
    """Compare edge and centre of the images of each class.

        t = mean(e - c) / (sd(e - c) / sqrt(n))
        the ratio's interval is {R : |mean(e - R c)| <= t_{n-1} sd(e - R c) / sqrt(n)}

    Of decimal logarithms a quotient depends on the unit of the map; the ratio is then

        10^mean(e - c), with ten to the power of the ends of the difference's interval.

    Parameters
    ----------
    blocks
        Called as often as images are needed; yields some after others, which, and their means over
        the central and the edge patches, then the same of decimal logarithms, NaN where a value is
        not positive: float64 of shape (b, k) each. Logarithms are used where few images decide the
        means. A mean over few patches of heavy-tailed values is itself decided by few, so that
        logarithms of the means would differ where the patches do not.
    labels, n_classes
        Class of each image, int64 of shape (n_images,), -1 for none; at least 2 images of each.
    level
        Coverage of the intervals, in (0, 1).
    geometric
        The values are decimal logarithms.
    groups
        Group of each image: t and the intervals are over groups then (see `mean_covariance`).
    """

    def columns() -> Iterator[tuple[slice, Floats]]:
        for rows, (centre, edge, *_) in blocks():
            yield rows, np.concatenate([centre, edge, edge - centre], axis=1)

    k = next(iter(blocks()))[1][0].shape[1]
    at = np.arange(k)
    pairs = (
        np.concatenate([at, at + k, at, at + 2 * k]),
        np.concatenate([at, at + k, at + k, at + 2 * k]),
    )
    found = class_means(columns, labels, n_classes, pairs=pairs, groups=groups)
    figures = _figures(found, level, geometric)
    where = figures["of_logarithms"]
    if where.any():
        where &= _positive(blocks, labels, where.shape)
    if where.any():
        again = compare_classes(
            lambda: ((rows, means[2:]) for rows, means in blocks()), labels, n_classes, level,
            geometric=True, groups=groups,
        )  # fmt: skip
        for name in ("ratio", "ratio_low", "ratio_high", "t", "p"):
            of_classes = np.stack([getattr(one, name) for one in again])
            figures[name][where] = of_classes[where]
    return [
        Comparison(
            n=int(found.n[of_class, 0]), **{name: one[of_class] for name, one in figures.items()}
        )
        for of_class in range(n_classes)
    ]


def _figures(found: ClassMeans, level: float, geometric: bool) -> dict[str, Any]:
    """Return the figures of `Comparison` from means of centre, edge and difference."""
    from scipy.special import stdtr, stdtrit

    k = found.mean.shape[1] // 3
    c, e, d = np.split(found.mean, 3, axis=1)
    vc, ve, cov, vd = np.split(found.covariance, 4, axis=1)
    count = found.count[:, :k]
    quantile = stdtrit(np.where(count > 1, count - 1, 1), 0.5 + level / 2)
    quantile = np.where(count > 1, quantile, np.nan)
    varies = (found.low != found.high)[:, 2 * k :]
    error = np.sqrt(vd)
    t = np.divide(d, error, out=np.full(d.shape, np.nan), where=varies & (error > 0))
    if geometric:
        ends = (d, d - quantile * error, d + quantile * error)
        ratio, low, high = (np.power(10.0, x) for x in ends)
    else:
        ratio, low, high = fieller(c, e, vc, ve, cov, quantile)
    of_centre, of_edge, skewed = np.split(found.skewed, 3, axis=1)
    if not geometric:
        skewed = skewed | of_centre | of_edge
    error = np.where(skewed, np.nan, error)
    return {
        "centre": c,
        "edge": e,
        "ratio": ratio,
        "ratio_low": np.where(skewed, np.nan, low),
        "ratio_high": np.where(skewed, np.nan, high),
        "of_logarithms": skewed & (not geometric),
        "difference": d,
        "difference_low": d - quantile * error,
        "difference_high": d + quantile * error,
        "t": np.where(skewed, np.nan, t),
        "p": np.where(skewed, np.nan, 2.0 * stdtr(count - 1, -np.abs(t))),
    }


def _positive(
    blocks: Callable[[], Iterable[tuple[slice, tuple[Floats, ...]]]], labels: Ints,
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:  # fmt: skip
    """Return where all images of a class have logarithms, (n_classes, k)."""
    lacking = np.zeros(shape, np.bool_)
    for rows, (_, _, *logarithms) in blocks():
        bad = np.asarray(~np.isfinite(np.stack(logarithms)).all(axis=0))
        images = np.flatnonzero(bad.any(axis=1) & (labels[rows] >= 0))
        np.logical_or.at(lacking, labels[rows][images], bad[images])
    return ~lacking
