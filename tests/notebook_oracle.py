"""The notebook's nine sections again, from its definitions, in numpy.

Nothing of the package is used. Maps are as the notebook had them: friction and settle with the
smallest eigenvalue's mode first, S as the encoder gave it (largest first). Sections 2 to 5 see all
images; 1 and 6 to 9 the first `COLLECTED` only. Sums over images are formed in float32, image
after image, as the notebook formed them: its F ratio depends on that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

COLLECTED = 2000
Array = np.ndarray[Any, Any]


def class_sums(friction: Array, labels: Array, classes: int) -> tuple[Array, Array, Array]:
    """Sum and sum of squares by class, float32 (class, row, col, mode), and images by class."""
    sums = np.zeros((classes, *friction.shape[1:]), np.float32)
    squares = np.zeros_like(sums)
    for image, label in zip(friction, labels, strict=True):
        sums[label] += image
        squares[label] += image * image
    return sums, squares, np.bincount(labels, minlength=classes).astype(np.float32)


def section_1(friction: Array) -> dict[str, Any]:
    """Variance over patches and CV, by image and mode, of the first images."""
    flat = friction[:COLLECTED].reshape(min(COLLECTED, len(friction)), -1, friction.shape[-1])
    flat = flat.astype(np.float64)
    variance = flat.var(axis=1, ddof=1)
    cv = flat.std(axis=1, ddof=1) / (flat.mean(axis=1) + 1e-8)
    # torch's median of an even number is the lower of the two in the middle
    middle = np.sort(cv, axis=0)[(len(cv) - 1) // 2]
    return {
        "variance_mean": variance.mean(axis=0),
        "variance_std": variance.std(axis=0, ddof=1),
        "cv_mean": cv.mean(axis=0),
        "cv_median": middle,
        "cv_max": cv.max(axis=0),
        "mean_cv": cv.mean(),
    }


def section_2(sums: Array, counts: Array) -> dict[str, float]:
    """Distances and cosines between the classes' mean maps."""
    flat = (sums / counts[:, None, None, None]).reshape(len(sums), -1).astype(np.float64)
    other = ~np.eye(len(flat), dtype=bool)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(axis=-1))
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    cosine = unit @ unit.T
    return {
        "mean_inter_class_distance": float(distance[other].mean()),
        "mean_cosine": float(cosine[other].mean()),
        "min_cosine": float(cosine[other].min()),
    }


def section_3(sums: Array, counts: Array) -> dict[str, Array]:
    """Mean over the central 8 x 8 patches of 16 x 16 and over the rest, by class."""
    means = (sums / counts[:, None, None, None]).astype(np.float64)
    centre = np.zeros(means.shape[1:3], bool)
    centre[4:12, 4:12] = True
    inner = means[:, centre].reshape(len(means), -1).mean(axis=1)
    outer = means[:, ~centre].reshape(len(means), -1).mean(axis=1)
    return {"center": inner, "edge": outer, "ratio": outer / (inner + 1e-8)}


def section_4(sums: Array, squares: Array, counts: Array) -> Array:
    """Variance of class means over mean variance within classes, float32 (row, col, mode)."""
    n = counts[:, None, None, None]
    means = sums / n
    within = squares / n - means * means
    ratio = means.var(axis=0, ddof=1) / (within.mean(axis=0) + np.float32(1e-10))
    return np.asarray(ratio, np.float32)


def section_5(sums: Array, counts: Array) -> dict[str, Array]:
    """Mean, variance and CV over positions of the mean map of all images, by mode."""
    mean_map = (sums.sum(axis=0) / counts.sum()).astype(np.float64)
    flat = mean_map.reshape(-1, mean_map.shape[-1])
    mean, variance = flat.mean(axis=0), flat.var(axis=0, ddof=1)
    cv = np.sqrt(variance) / (mean + 1e-8)
    return {"map_mean": mean, "map_var": variance, "map_cv": cv}


def section_6(friction: Array, labels: Array, classes: int) -> list[dict[str, float]]:
    """Two images of each class, from the first images."""
    rows = []
    for label in range(classes):
        for index in np.flatnonzero(labels[:COLLECTED] == label)[:2]:
            flat = friction[index].reshape(-1, friction.shape[-1]).astype(np.float64)
            total = flat.sum(axis=1)
            share = total / (total.sum() + 1e-8)
            entropy = -(share * np.log(share + 1e-10)).sum()
            rows.append(
                {
                    "index": int(index),
                    "mean": flat.mean(),
                    "std": flat.std(axis=0, ddof=1).mean(),
                    "max": flat.max(),
                    "entropy": entropy / np.log(len(flat)),
                    "hot_spots": int((total > 2 * total.mean()).sum()),
                }
            )
    return rows


def probe(maps: list[Array], labels: Array, train: Array, test: Array, classes: int) -> float:
    """Sections 7 to 9: test accuracy of ridge regression with lambda 1 on flattened maps."""
    x = np.concatenate([m[:COLLECTED].reshape(len(m[:COLLECTED]), -1) for m in maps], axis=1)
    x = x.astype(np.float64)
    mean = x[train].mean(axis=0)
    std = np.maximum(x[train].std(axis=0, ddof=1), 1e-6)
    z, z_test = (x[train] - mean) / std, (x[test] - mean) / std
    onehot = np.eye(classes)[labels[train]]
    weights = np.linalg.solve(z.T @ z + np.eye(z.shape[1]), z.T @ onehot)
    return float(((z_test @ weights).argmax(axis=1) == labels[test]).mean())
