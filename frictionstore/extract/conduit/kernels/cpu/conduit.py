"""The conduit in one pass on a CPU: `program.py` as vector instructions, one lane per matrix.

The program is written out as LLVM vector code through Numba, so that nothing but the operations it
names is computed: no contraction into fused multiply-add, no reordering, IEEE division and square
root. Lanes do not interact, hence no value depends on the batch, its split or the threads, and the
bits are those of `reference.py`. The matrices may also be given as `V diag(S^2) V'`, by S and V.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from frictionstore.extract.conduit import exact as exact_maps
from frictionstore.extract.conduit import looped, program
from frictionstore.extract.conduit.constants import LARGEST_WRITTEN_OUT, ConduitConstants
from frictionstore.extract.conduit.kernels.cpu import tiles


def _row_names(n: int, amount: int, exact: bool) -> list[tuple[str, int]]:
    rows = []
    if exact:
        rows += [("friction_exact", n), ("settle_exact", n), ("measured_exact", 1)]
    if amount >= 0:
        rows += [("measured", 1), ("rank", n), ("friction", n), ("settle", n), ("eigenvalues", n)]
    if amount == 2:
        rows += [("refinement_residual", 1), ("char_coeffs", n), ("eigenvectors", n * n)]
    return rows


def emit(tile: tiles.Tile, settings: dict[str, Any]) -> None:
    """Code for one tile: entries of A, or S and the entries of V, to the rows of `_row_names`."""
    n, amount = settings["n"], settings["amount"]
    if settings["from_spectrum"]:
        S = [tile.load(k) for k in range(n)]
        V = [[tile.load(n + i * n + k) for k in range(n)] for i in range(n)]
        A = program.gram(S, V)
    else:
        A = [[tile.load(i * n + j) for j in range(n)] for i in range(n)]
    constants = ConduitConstants(**settings["constants"])
    fields: dict[str, list[Any]] = {}
    if settings["exact"]:
        fields |= exact_maps.measure(tile.op, A, constants)
        for name in ("settle_exact", "measured_exact"):
            fields[name] = [tile.op.to_float32(x) for x in fields[name]]
    if amount >= 0 and n > LARGEST_WRITTEN_OUT:
        fields |= looped.measure(tile.op, tile, n, constants, amount == 2)
    elif amount >= 0:
        fields |= program.measure(tile.op, A, constants, amount == 2)
    for name, count in _row_names(n, amount, settings["exact"]):
        tile.store(*fields[name][:count])


@functools.cache
def _kernel(
    n: int, from_spectrum: bool, amount: int, exact: bool, width: int, constants: ConduitConstants
) -> Callable[..., None]:
    """The loop over matrices: tiles in, the program, results out in the order of their ranks.

    `amount` says how much comes out: 0 friction and settle, 1 slot and eigenvalues too, 2 all, and
    -1 nothing but the exact maps.
    """
    ordered, packet = amount >= 1, amount == 2
    text = tiles.specification(
        __name__,
        n=n,
        from_spectrum=from_spectrum,
        amount=amount,
        exact=exact,
        width=width,
        constants=constants.as_dict(),
    )
    iterations, entries = constants.iterations, n * n
    offset = n if from_spectrum else 0
    in_vectors = tiles.square_of(entries, width) >= 4
    first_row = {}
    rows = 0
    for name, count in _row_names(n, amount, exact):
        first_row[name] = rows
        rows += 2 * count if name == "friction_exact" else count
    # Rows that are not there are never read; 0 keeps the compiled text the same.
    measured_row, exact_row = first_row.get("measured", 0), first_row.get("measured_exact", 0)
    rank_row, friction_row = first_row.get("rank", 0), first_row.get("friction", 0)
    settle_row, eigenvalue_row = first_row.get("settle", 0), first_row.get("eigenvalues", 0)
    residual_row = first_row.get("refinement_residual", 0)
    coefficient_row = first_row.get("char_coeffs", 0)
    vector_row = first_row.get("eigenvectors", 0)
    exact_settle_row = first_row.get("settle_exact", 0)
    rounded = amount >= 0
    nan = np.float32(np.nan)

    @numba.njit(cache=True, nogil=True)
    def measure(
        S: np.ndarray,
        A: np.ndarray,
        first: int,
        last: int,
        friction: np.ndarray,
        settle: np.ndarray,
        slot: np.ndarray,
        eigenvalues: np.ndarray,
        eigenvectors: np.ndarray,
        char_coeffs: np.ndarray,
        refinement_residual: np.ndarray,
        friction_exact: np.ndarray,
        settle_exact: np.ndarray,
    ) -> None:
        source = np.zeros((offset + entries, width), np.float32)
        target = np.empty((rows, width), np.float32)
        wide = target.reshape(-1)[: rows // 2 * 2 * width].view(np.float64)
        for start in range(first, last, width):
            count = min(width, last - start)
            if in_vectors and count == width:
                inner = source[offset:]
                tiles.gather_tile(entries, width, A, start * entries, inner)  # type: ignore[call-arg]
            else:
                for lane in range(count):
                    for e in range(entries):
                        source[offset + e, lane] = A[(start + lane) * entries + e]
            for lane in range(count):
                for k in range(offset):
                    source[k, lane] = S[start + lane, k]
            tiles.run_tile(text, source, target)  # type: ignore[call-arg]
            for lane in range(count):
                b = start + lane
                if exact:
                    measured = target[exact_row, lane] > 0
                    for i in range(n):
                        x, t = wide[i * width + lane], target[exact_settle_row + i, lane]
                        friction_exact[b, i] = x if measured else np.nan
                        settle_exact[b, i] = np.uint8(t if measured else iterations)
                if not rounded:
                    continue
                measured = target[measured_row, lane] > 0
                for i in range(n):
                    if measured:
                        mode = n - 1 - int(target[rank_row + i, lane])
                        friction[b, mode] = target[friction_row + i, lane]
                        settle[b, mode] = np.uint8(target[settle_row + i, lane])
                        if ordered:
                            eigenvalues[b, mode] = target[eigenvalue_row + i, lane]
                    else:
                        mode = n - 1 - i
                        friction[b, mode] = nan
                        settle[b, mode] = np.uint8(iterations)
                        if ordered:
                            eigenvalues[b, mode] = nan
                    if ordered:
                        slot[b, mode] = np.uint8(i)
                    if packet:
                        for k in range(n):
                            x = target[vector_row + k * n + i, lane]
                            eigenvectors[b, k, mode] = x if measured else nan
                        x = target[coefficient_row + i, lane]
                        char_coeffs[b, i] = x if measured else nan
                if packet:
                    x = target[residual_row, lane]
                    refinement_residual[b] = x if measured else nan

    return measure


def tile_width(n: int) -> int:
    """Matrices per tile: two registers' worth hides latencies while a matrix is small."""
    width = tiles.register_width()
    if n <= 5:
        return 2 * width
    return width if n == 6 else width // 2


def measure(
    A: np.ndarray,
    want: Sequence[str],
    constants: ConduitConstants,
    threads: int | None = None,
    *,
    S: np.ndarray | None = None,
    width: int | None = None,
) -> dict[str, np.ndarray]:
    """Measure a batch of matrices, with mode 0 the largest eigenvalue.

    Parameters
    ----------
    A : ndarray of shape (B, n, n), float32
        Symmetric matrices, n in 2..16, of which both triangles are read; with `S`, the matrices `V`
        whose columns are right singular vectors (n in 2..8).
    want : sequence of str
        Names of `Packet` fields; those beyond friction, settle, slot and eigenvalues cost a little.
    constants : ConduitConstants
    threads : int, optional
        All cores by default.
    S : ndarray of shape (B, n), float32, optional
        Singular values: measure `V diag(S^2) V'`, as `fused_gram.gram_from_spectrum` computes it.
    width : int, optional
        Matrices per vector; `tile_width(n)` by default. No value depends on it.

    Returns
    -------
    dict of ndarray
        The fields asked for, with the bits of `reference.measure` and `reference.measure_exact`.
    """
    B, n = A.shape[:2]
    exact = not {"friction_exact", "settle_exact"}.isdisjoint(want)
    rounded = set(want) - {"friction_exact", "settle_exact"}
    amount = 2
    if not rounded:
        amount = -1
    elif rounded <= {"friction", "settle"}:
        amount = 0
    elif rounded <= {"friction", "settle", "slot", "eigenvalues"}:
        amount = 1
    any_, some, more = (B if amount >= least else 0 for least in range(3))
    also = B if exact else 0
    fields: dict[str, np.ndarray] = {
        "friction": np.empty((any_, n), np.float32),
        "settle": np.empty((any_, n), np.uint8),
        "slot": np.empty((some, n), np.uint8),
        "eigenvalues": np.empty((some, n), np.float32),
        "eigenvectors": np.empty((more, n, n), np.float32),
        "char_coeffs": np.empty((more, n), np.float32),
        "refinement_residual": np.empty(more, np.float32),
        "friction_exact": np.empty((also, n), np.float64),
        "settle_exact": np.empty((also, n), np.uint8),
    }
    width = tile_width(n) if width is None else width
    kernel = _kernel(n, S is not None, amount, exact, width, constants)
    singular = np.empty((0, n), np.float32) if S is None else np.ascontiguousarray(S)
    rows = np.ascontiguousarray(A).reshape(-1)

    def task(first: int, last: int) -> None:
        kernel(singular, rows, first, last, *fields.values())

    tiles.in_chunks(task, B, threads)
    return {name: fields[name] for name in want}
