"""What a reader has to know before using an answer: the sentences that several analyses share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frictionstore.analyses.core.moments import Moments
from frictionstore.analyses.core.source import (
    LOG,
    NOTEBOOK_IMAGES,
    logarithm_of,
    mode_name,
    plain_feature,
)
from frictionstore.text import printable

HEAVY_TAIL = 1000.0
"""A largest value this many times the mean: sums of squares rest on few images."""


def constant(names: Sequence[str]) -> list[str]:
    """Return the sentence that names constant modes, if there are any."""
    if not names:
        return []
    if len(names) == 1:
        return [f"{names[0]} is constant over all images and left out"]
    return [f"{len(names)} modes are constant over all images and left out: {', '.join(names)}"]


def features(*names: str, ratios: bool = False) -> list[str]:
    """Return what holds for maps whatever is done with them; with `ratios`, also for quotients."""
    caveats = []
    stored = [plain_feature((), name) for name in names]
    if ratios and any(logarithm_of(name) is not None for name in names):
        caveats.append(
            "a logarithm has no natural zero: what is divided by its mean or total (CV, edge / "
            "centre, entropy) depends on the unit of the map, differences do not"
        )
    if "settle" in stored:
        caveats.append(
            "settle is a threshold on a quantity near float32 rounding: a change in the last place "
            "of the input flips it for up to a few percent of the patches"
        )
    return caveats


def heavy_tail(feature: str, everything: Moments) -> list[str]:
    """Return the sentence that names modes whose means and variances rest on few values."""
    mean = np.abs(everything.mean[0]).mean(axis=(0, 1))
    top = np.maximum(np.abs(everything.maximum[0]), np.abs(everything.minimum[0])).max(axis=(0, 1))
    heavy = np.flatnonzero(top > HEAVY_TAIL * mean)
    if not heavy.size:
        return []
    most = int(heavy[(top[heavy] / mean[heavy]).argmax()])
    named = ", ".join(mode_name(int(mode), len(mean)) for mode in heavy)
    positive = everything.minimum.min() > 0 and logarithm_of(feature) is None
    remedy = f"; {LOG}{printable(feature)} is the map of logarithms" if positive else ""
    return [
        f"{printable(feature)} is heavy-tailed in {named} (up to {top[most]:.2g}, "
        f"{top[most] / mean[most]:.2g} times the mean): means, distances and variances rest on few "
        f"images there{remedy}"
    ]


def notebook(n_images: int) -> list[str]:
    """Return the sentence that says which images the notebook's figures are of, if not all."""
    if n_images <= NOTEBOOK_IMAGES:
        return []
    return [
        f"the notebook kept the maps of its first {NOTEBOOK_IMAGES} images only: figures that are "
        f"called the notebook's are of these, all others of the {n_images} images"
    ]


def independence(n_images: int, groups: Mapping[str, Any] | None) -> list[str]:
    """Return the sentence that says which images are taken as independent of each other."""
    if groups is None:
        return [
            "images are taken as independent of each other: if some belong together (crops of one "
            "photograph, several of one subject), say so with --groups"
        ]
    return [
        f"images of one group are not taken as independent ({n_images} images in "
        f"{groups['count']} groups): tests, folds and intervals are by whole groups"
    ]


def smallest_p(permutations: int) -> list[str]:
    """Return the sentence that says how small a p-value can be, if there were permutations."""
    if not permutations:
        return []
    least = 1.0 / (permutations + 1)
    return [f"with {permutations} permutations no p-value is below {least:.2g}"]


def resolution(permutations: int, alpha: float, n_tests: int) -> list[str]:
    """Return how small p can be, what q of so many tests rests on, and how small that can be."""
    if not permutations:
        return [
            "q rests on p of the F distribution, which classes of unequal size and heavy tails "
            "mislead: with permutations it does not"
        ]
    said = smallest_p(permutations)
    least = n_tests / (permutations + 1) / alpha
    if least > 1:
        said.append(
            f"q rests on permutation p: q <= {alpha:g} takes {math.ceil(least - 1e-9)} of the "
            f"{n_tests} tests at once, fewer with more permutations"
        )
    return said
