"""`repeats.py` on a CPU: one matrix after the other, its G made once for all its repeats."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numba
import numpy as np

from frictionstore.extract.conduit import repeats as definition
from frictionstore.extract.conduit.kernels.cpu import tiles

_philox = numba.njit(definition.philox)


@functools.cache
def _kernel(n: int, from_spectrum: bool) -> Callable[..., None]:
    # Numba's cache knows this function by its closure: the number stands for `definition`.
    source = int(tiles.source_digest()[:12], 16)
    digits, low = definition.DIGITS, definition.WORD

    @numba.njit(cache=True, nogil=True)
    def move(
        S: np.ndarray,
        A: np.ndarray,
        patch: np.ndarray,
        row: np.ndarray,
        first: int,
        last: int,
        first_repeat: int,
        k0: int,
        k1: int,
        moved: np.ndarray,
    ) -> None:
        if source < 0:
            return
        G = np.empty((n, n), np.float32)
        exponents = G.view(np.int32)
        scaled = np.empty((n, n), np.float32)
        ulp = np.empty(1, np.float32)
        pattern = ulp.view(np.int32)
        for b in range(first, last):
            if from_spectrum:
                for k in range(n):
                    square = S[b, k] * S[b, k]
                    for i in range(n):
                        scaled[i, k] = A[b, i, k] * square
                for i in range(n):
                    for j in range(n):
                        total = scaled[i, 0] * A[b, j, 0]
                        for k in range(1, n):
                            total += scaled[i, k] * A[b, j, k]
                        G[i, j] = total
            else:
                for i in range(n):
                    for j in range(n):
                        G[i, j] = A[b, i, j]
            for r in range(moved.shape[0]):
                moved[r, b] = G
                block, place, left, word = 0, 4, 0, 0
                words = (0, 0, 0, 0)
                for i in range(n):
                    for j in range(i, n):
                        if left == 0:
                            if place == 4:
                                counter = (block, first_repeat + r, patch[b], row[b])
                                words = _philox(counter, (k0, k1))
                                block, place = block + 1, 0
                            word, left = words[place], digits
                            place += 1
                        word *= 3
                        e = (word >> 32) - 1
                        word &= low
                        left -= 1
                        exponent = exponents[i, j] >> 23 & 255
                        if exponent > 23:
                            pattern[0] = exponent - 23 << 23
                        else:  # below the normal numbers
                            pattern[0] = 1 << max(exponent - 1, 0)
                        change = np.float32(e) * ulp[0]
                        moved[r, b, i, j] += change
                        if i != j:
                            moved[r, b, j, i] += change

    return move


def moved(
    A: np.ndarray,
    repeats: range,
    patch: np.ndarray,
    row: np.ndarray,
    S: np.ndarray | None,
    key: tuple[int, int],
    threads: int | None = None,
) -> np.ndarray:
    """`repeats.moved_by_torch` of arrays, with its bits."""
    B, n = A.shape[:2]
    result = np.empty((len(repeats), B, n, n), np.float32)
    kernel = _kernel(n, S is not None)
    singular = np.empty((0, n), np.float32) if S is None else np.ascontiguousarray(S)
    given = (singular, *map(np.ascontiguousarray, (A, patch, row)))

    def task(first: int, last: int) -> None:
        kernel(*given, first, last, repeats.start, *key, result)

    tiles.in_chunks(task, B, threads)
    return result
