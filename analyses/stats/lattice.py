"""Neighbours on the patch grid, and their spatial weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Contiguity = Literal["queen", "rook"]
Weights = Literal["row", "binary"]
CONTIGUITIES: tuple[Contiguity, ...] = ("queen", "rook")

STEPS = {"rook": ((0, 1), (1, 0)), "queen": ((0, 1), (1, 0), (1, 1), (1, -1))}


def shifted(
    rows: int, cols: int, step: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of a grid that has a neighbour one `step` away, and those neighbours."""
    down, right = step
    here = (slice(0, rows - down), slice(max(0, -right), cols - max(0, right)))
    there = (slice(down, rows), slice(max(0, right), cols + min(0, right)))
    return here, there


def neighbours(rows: int, cols: int, contiguity: Contiguity = "queen") -> NDArray[np.int64]:
    """Return the pairs of neighbouring patches, each once.

    Parameters
    ----------
    rows, cols
        Size of the grid; patches are numbered row by row.
    contiguity
        "rook" for patches that share a side, "queen" for those that share a side or a corner.

    Returns
    -------
    int64 array of shape (n_pairs, 2), the smaller number first.
    """
    number = np.arange(rows * cols).reshape(rows, cols)
    pairs = []
    for step in STEPS[contiguity]:
        here, there = shifted(rows, cols, step)
        pairs.append(np.stack([number[here].reshape(-1), number[there].reshape(-1)], axis=1))
    return np.concatenate(pairs)


def weight_matrix(
    rows: int, cols: int, contiguity: Contiguity = "queen", weights: Weights = "row"
) -> Floats:
    """Return the dense spatial weights, float64 of shape (n, n) with n = rows * cols.

    "binary" weights are 1 between neighbours; "row" divides each row by its sum, which makes the
    spatial lag a mean over neighbours.
    """
    n = rows * cols
    matrix = np.zeros((n, n))
    pairs = neighbours(rows, cols, contiguity)
    matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = 1.0
    if weights == "row":
        matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
    return matrix
