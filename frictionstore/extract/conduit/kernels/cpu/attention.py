"""`attention.py` on a CPU: one lane to a query. Lanes and threads as in `conduit.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import attention
from frictionstore.extract.conduit.attention import check_shape
from frictionstore.extract.conduit.kernels.cpu import tiles


def emit(tile: tiles.Tile, settings: dict[str, Any]) -> None:
    """Code for one tile: queries in rows, then keys and values one number after the other."""
    d, width = settings["head"], settings["width"]
    query = [tile.load(c) for c in range(d)]

    def key_at(j: Any) -> tuple[list[Any], list[Any]]:
        numbers = [tile.spread(tile.op.position(j, 2 * d, d * width + c)) for c in range(2 * d)]
        return numbers[:d], numbers[d:]

    tile.store(*attention.attend(tile.op, query, settings["scale"], settings["keys"], key_at))


@functools.cache
def _kernel(keys: int, heads: int, head: int, scale: float, width: int) -> Callable[..., None]:
    text = tiles.specification(__name__, keys=keys, head=head, scale=scale, width=width)
    D = heads * head
    first_key = head * width

    @numba.njit(cache=True, nogil=True)
    def attend(qkv: np.ndarray, first: int, last: int, mixed: np.ndarray) -> None:
        source = np.zeros(first_key + 2 * head * keys, np.float32)
        target = np.empty((head, width), np.float32)
        for number in range(first, last):
            image, offset = number // heads, number % heads * head
            for j in range(keys):
                for c in range(head):
                    place = first_key + 2 * head * j + c
                    source[place] = qkv[image, j, D + offset + c]
                    source[place + head] = qkv[image, j, 2 * D + offset + c]
            for start in range(0, keys, width):
                count = min(width, keys - start)
                for lane in range(count):
                    for c in range(head):
                        source[c * width + lane] = qkv[image, start + lane, offset + c]
                tiles.run_tile(text, source, target)  # type: ignore[call-arg]
                for lane in range(count):
                    for c in range(head):
                        mixed[image, start + lane, offset + c] = target[c, lane]

    return attend


def attend(
    qkv: np.ndarray, heads: int, threads: int | None = None, *, width: int | None = None
) -> np.ndarray:
    """Multi-head self-attention from the queries, keys and values of its tokens.

    Parameters
    ----------
    qkv : ndarray of shape (B, N, 3 * D), float32
        Of each token the queries of all heads, then the keys, then the values; B images of N
        tokens. D is a multiple of `heads`, D / heads at most 8. The scale is that to the power
        of -1/2.
    heads : int
    threads : int, optional
        All cores by default. No value depends on it.
    width : int, optional
        Queries per vector; two registers' worth by default. No value depends on it.

    Returns
    -------
    ndarray of shape (B, N, D), float32
        An image that holds NaN among its keys or values gives NaN.

    Raises
    ------
    RequestError
        If `qkv` is not a float32 array of such a shape.
    """
    if not isinstance(qkv, np.ndarray) or qkv.dtype != np.float32:
        what = qkv.dtype if isinstance(qkv, np.ndarray) else type(qkv).__name__
        raise RequestError(f"qkv must be a float32 array, got {what}")
    B, N, head = check_shape(qkv.shape, heads)
    mixed = np.empty((B, N, heads * head), np.float32)
    width = 2 * tiles.register_width() if width is None else width
    kernel = _kernel(N, heads, head, head**-0.5, width)
    rows = np.ascontiguousarray(qkv)
    tiles.in_chunks(lambda first, last: kernel(rows, first, last, mixed), B * heads, threads, 1)
    return mixed
