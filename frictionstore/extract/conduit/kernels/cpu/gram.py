"""From the encoder's matrices to their spectrum, and from a spectrum to the conduit, on a CPU.

`M` (V x D, a sphere-normalised patch) to its singular values and right singular vectors, by the
float64 Gram matrix and Jacobi rotations, for D in 2..8; and `S`, `V` to the conduit's input
`V diag(S^2) V'` or straight to its maps. Lanes and threads as in `conduit.py`: no value depends
on the batch, its split or the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import spectrum as program
from frictionstore.extract.conduit.constants import DEFAULTS, ConduitConstants, check_want
from frictionstore.extract.conduit.kernels.cpu import conduit as fused_cpu
from frictionstore.extract.conduit.kernels.cpu import tiles


def emit(tile: tiles.Tile, settings: dict[str, Any]) -> None:
    """Code for one tile: entries of M to the rank, singular values and right singular vectors."""
    op, D, V = tile.op, settings["D"], settings["V"]
    zero = op.constant(0.0, op.to_float64(tile.load(0)))

    def add_row(v: Any, totals: list[Any]) -> list[Any]:
        start = op.builder.mul(v, v.type(D))
        row = [op.to_float64(tile.load(op.builder.add(start, v.type(i)))) for i in range(D)]
        return program.add_row(totals, row)

    totals = op.repeat_indexed(V, [zero] * len(program.pairs(D)), add_row)
    found = program.spectrum(op, totals, D)
    tile.store(found.finite, *found.ranks, *found.singular, *[x for r in found.vectors for x in r])


@functools.cache
def _spectrum_kernel(V: int, D: int, width: int) -> Callable[..., None]:
    text = tiles.specification(__name__, V=V, D=D, width=width)
    entries, rows = V * D, 1 + 2 * D + D * D
    in_vectors = tiles.square_of(entries, width) >= 4
    nan = np.float32(np.nan)

    @numba.njit(cache=True, nogil=True)
    def spectra(
        M: np.ndarray, first: int, last: int, singular: np.ndarray, vectors: np.ndarray
    ) -> None:
        source = np.zeros((entries, width), np.float32)
        target = np.empty((rows, width), np.float32)
        for start in range(first, last, width):
            count = min(width, last - start)
            if in_vectors and count == width:
                tiles.gather_tile(entries, width, M, start * entries, source)  # type: ignore[call-arg]
            else:
                for lane in range(count):
                    for e in range(entries):
                        source[e, lane] = M[(start + lane) * entries + e]
            tiles.run_tile(text, source, target)  # type: ignore[call-arg]
            for lane in range(count):
                b = start + lane
                finite = target[0, lane] > 0
                for i in range(D):
                    mode = D - 1 - int(target[1 + i, lane]) if finite else i
                    singular[b, mode] = target[1 + D + i, lane] if finite else nan
                    for k in range(D):
                        x = target[1 + 2 * D + k * D + i, lane]
                        vectors[b, k, mode] = x if finite else nan

    return spectra


def tile_width(D: int) -> int:
    """Matrices per tile: two registers' worth hides latencies while a matrix is small."""
    return tiles.register_width() * (2 if D <= 5 else 1)


def spectrum(
    M: np.ndarray, threads: int | None = None, *, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right singular vectors of the encoder's matrices.

    The eigenvalues of `M'M + 1e-12 I`, taken in float64, raised to 1e-24 where they are below, and
    their square roots; the eigenvectors are `V`.

    Parameters
    ----------
    M : ndarray of shape (B, V, D), float32
        D in 2..8.
    threads : int, optional
        All cores by default. No value depends on it.
    width : int, optional
        Matrices per vector; `tile_width(D)` by default. No value depends on it.

    Returns
    -------
    S_orig : ndarray of shape (B, D), float32
        Singular values, descending, at least 1e-12.
    V : ndarray of shape (B, D, D), float32
        Right singular vectors, column `i` for `S_orig[:, i]`; their signs are arbitrary.
        A matrix that is not finite gives NaN in both.

    Raises
    ------
    RequestError
        If `M` is not a float32 array of that shape.
    """
    check_want((), threads)
    _check(M, "M", 3)
    B, V, D = M.shape
    program.check_columns(D, "spectrum")
    if V < 1:
        raise RequestError(f"M needs at least one row per matrix; got shape {M.shape}")
    singular, vectors = np.empty((B, D), np.float32), np.empty((B, D, D), np.float32)
    kernel = _spectrum_kernel(V, D, tile_width(D) if width is None else width)
    rows = np.ascontiguousarray(M).reshape(-1)
    tiles.in_chunks(lambda first, last: kernel(rows, first, last, singular, vectors), B, threads)
    return singular, vectors


def gram_from_spectrum(S: np.ndarray, V: np.ndarray) -> np.ndarray:
    """The conduit's input `G = V diag(S^2) V'`, float32.

    `G_ij` is the sum over k, from the first to the last, of `(V_ik S_k^2) V_jk`; each operation
    rounds to float32.

    Parameters
    ----------
    S : ndarray of shape (..., D), float32
    V : ndarray of shape (..., D, D), float32
        Right singular vectors, one to a column.

    Returns
    -------
    ndarray of shape (..., D, D), float32

    Raises
    ------
    RequestError
        If the arrays are not float32 of matching shapes.
    """
    _check_spectrum(S, V)
    scaled = V * (S * S)[..., None, :]
    G = scaled[..., :, None, 0] * V[..., None, :, 0]
    for k in range(1, S.shape[-1]):
        G += scaled[..., :, None, k] * V[..., None, :, k]
    return G


def maps_from_spectrum(
    S: np.ndarray,
    V: np.ndarray,
    want: Sequence[str] = ("friction", "settle"),
    *,
    threads: int | None = None,
    constants: ConduitConstants = DEFAULTS,
) -> dict[str, np.ndarray]:
    """The conduit on `V diag(S^2) V'` in one pass, without writing that matrix to memory.

    Parameters
    ----------
    S : ndarray of shape (..., D), float32
        Singular values, D in 2..8; mode 0 of the result is the largest.
    V : ndarray of shape (..., D, D), float32
        Right singular vectors, one to a column.
    want : sequence of str
        Names of `Packet` fields.
    threads : int, optional
        All cores by default. No value depends on it.
    constants : ConduitConstants

    Returns
    -------
    dict of ndarray
        What `conduit_maps(gram_from_spectrum(S, V), want)` gives, to the last bit.

    Raises
    ------
    RequestError
        If the arrays are not float32 of matching shapes, or a field is unknown.
    """
    _check_spectrum(S, V)
    check_want(want, threads)
    batch, D = S.shape[:-1], S.shape[-1]
    program.check_columns(D, "conduit")
    count = int(np.prod(batch))
    measured = fused_cpu.measure(
        V.reshape(count, D, D), want, constants, threads, S=S.reshape(count, D)
    )
    return {name: x.reshape(batch + x.shape[1:]) for name, x in measured.items()}


def _check(x: Any, name: str, dimensions: int) -> None:
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim < dimensions:
        what = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise RequestError(
            f"{name} must be a float32 array with at least {dimensions} axes; got {what}"
        )


def _check_spectrum(S: np.ndarray, V: np.ndarray) -> None:
    _check(S, "S", 1)
    _check(V, "V", 2)
    if V.shape != (*S.shape, S.shape[-1]):
        raise RequestError(
            f"S of shape (..., D) needs V of shape (..., D, D); got {S.shape} and {V.shape}"
        )
