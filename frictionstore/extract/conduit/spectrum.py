"""The encoder's matrix to its spectrum: the arithmetic after the Gram sums, as a program.

Fused kernels sum `M'M` row by row in float64, where products of float32 numbers are exact, and
hand the sums to `spectrum`; with the same order of rows, they give the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import jacobi, program, sums
from frictionstore.extract.conduit.constants import SPECTRUM_N
from frictionstore.extract.conduit.program import Matrix, Operations, Value

RIDGE = 1e-12  # added to the Gram matrix's diagonal
EIGENVALUE_FLOOR = 1e-24


class Spectrum(NamedTuple):
    """One matrix's spectrum, in the order in which Jacobi leaves it; all float32.

    finite : 1, or 0 where any entry of M is not finite.
    ranks : per eigenvalue, 0 for the smallest.
    singular : singular values.
    vectors : `vectors[i][j]` is entry i of right singular vector j.
    """

    finite: Value
    ranks: list[Value]
    singular: list[Value]
    vectors: Matrix


def check_columns(D: int, what: str) -> None:
    """Refuse matrices with more or fewer columns than fused kernels are made for.

    Raises
    ------
    RequestError
        Names `what` cannot be computed.
    """
    least, most = SPECTRUM_N
    if not least <= D <= most:
        raise RequestError(f"the fused {what} is made for D = {least}..{most}; got D = {D}")


def pairs(D: int) -> list[tuple[int, int]]:
    """Places of the upper triangle, in the order of the Gram sums."""
    return [(i, j) for i in range(D) for j in range(i, D)]


def add_row(totals: list[Value], row: list[Value]) -> list[Value]:
    """The Gram sums with one more row of M (float64)."""
    return [x + row[i] * row[j] for x, (i, j) in zip(totals, pairs(len(row)), strict=True)]


def spectrum(op: Operations, totals: list[Value], D: int) -> Spectrum:
    """Singular values and right singular vectors from the float64 Gram sums of `pairs(D)`."""
    entries = dict(zip(pairs(D), totals, strict=True))
    first = totals[0]
    ridge = op.constant(RIDGE, first)
    for i in range(D):
        entries[i, i] = entries[i, i] + ridge

    # Jacobi works near 1; the largest diagonal entry bounds every entry of a Gram matrix.
    largest = entries[0, 0]
    for i in range(1, D):
        largest = op.where(entries[i, i] > largest, entries[i, i], largest)
    upper = [[entries[i, j] / largest for j in range(i, D)] for i in range(D)]
    eigenvalues, vectors = jacobi.eigen(op, upper)
    eigenvalues = [x * largest for x in eigenvalues]
    one, zero = (op.to_float32(op.constant(x, first)) for x in (1.0, 0.0))
    ranks = program.ranks(op, eigenvalues, one, zero)
    least = op.constant(EIGENVALUE_FLOOR, first)
    eigenvalues = [op.where(x < least, least, x) for x in eigenvalues]
    trace = sums.in_order([entries[i, i] for i in range(D)])  # NaN where any entry of M is
    finite = op.absolute(trace) < op.constant(math.inf, trace)
    return Spectrum(
        op.where(finite, one, zero),
        ranks,
        [op.to_float32(op.square_root(x)) for x in eigenvalues],
        [[op.to_float32(x) for x in row] for row in vectors],
    )
