"""Softmax attention of one query over all keys, as a program that fused kernels are made from.

`sum_j softmax_j(scale q.k_j) v_j` in float32, powers of two in place of powers of e. A query, like
a matrix in `program.py`, never meets another: kernels on CPU and GPU give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from frictionstore.errors import RequestError
from frictionstore.extract.conduit import sums
from frictionstore.extract.conduit.program import Operations, Value

LARGEST_HEAD = 8  # a query's entries and sums are held in registers
CHUNK = 32  # keys summed before they are added to the total: rounding grows with this, not with all
POWERS = (
    1.0,
    0.6931471824645996,
    0.24022646248340607,
    0.05550328642129898,
    0.009618489071726799,
    0.0013399930903688073,
    0.0001534581242594868,
)
"""2**x on [-1/2, 1/2]: the polynomial of least largest relative error (2e-9) by reweighted least
squares, rounded to float32; evaluated in float32 it is within 1 unit in the last place."""

ROUNDING = 12582912.0  # 1.5 * 2**23: added to a number below 2**22 it leaves an integer's bits
SMALLEST = -126.0  # powers of two below are not normal numbers, and nothing beside a sum above 1

KeyAt = Callable[[Any], tuple[list[Value], list[Value]]]


class LoopOperations(Operations, Protocol):
    """`Operations` whose loops know their round."""

    def repeat_indexed(
        self, count: int, state: list[Value], body: Callable[[Any, list[Value]], list[Value]]
    ) -> list[Value]:
        """`state` after `state = body(round, state)` for the rounds 0 .. count - 1."""

    def position(self, outer: Any, size: int, inner: Any) -> Any:
        """`outer * size + inner` of rounds or numbers."""

    def power_of_rounded(self, x: Value) -> Value:
        """`2**n` where `x` is `n + ROUNDING`, n an integer in -126 .. 127."""


def power_of_two(op: LoopOperations, x: Value) -> Value:
    """`2**x` for x of 0 or less, at least `2**SMALLEST`; NaN gives NaN."""
    least, rounding = op.constant(SMALLEST, x), op.constant(ROUNDING, x)
    x = op.where(x < least, least, x)
    rounded = x + rounding
    fraction = x - (rounded - rounding)
    p = op.constant(POWERS[-1], x)
    for coefficient in reversed(POWERS[:-1]):
        p = p * fraction + op.constant(coefficient, x)
    return p * op.power_of_rounded(rounded)


def attend(
    op: LoopOperations, query: list[Value], scale: float, keys: int, key_at: KeyAt
) -> list[Value]:
    """One query's mixture of values.

    Parameters
    ----------
    op : LoopOperations
    query : list of float32 values
    scale : float
        Of the scores.
    keys : int
        Number of keys, at least 1.
    key_at : callable
        The entries of the key and of the value at a position.
    """
    factor = op.constant(scale * math.log2(math.e), query[0])
    query = [x * factor for x in query]
    zeros = [op.constant(0.0, query[0])] * (1 + len(query))

    def score(key: list[Value]) -> Value:
        return sums.in_order([x * y for x, y in zip(query, key, strict=True)])

    def higher(j: Any, state: list[Value]) -> list[Value]:
        s = score(key_at(j)[0])
        return [op.where(s > state[0], s, state[0])]

    (highest,) = op.repeat_indexed(keys, [op.constant(-math.inf, query[0])], higher)

    def add_keys(count: int, chunk: Any, totals: list[Value]) -> list[Value]:
        def add(j: Any, state: list[Value]) -> list[Value]:
            key, value = key_at(op.position(chunk, CHUNK, j))
            weight = power_of_two(op, score(key) - highest)
            weighted = [weight, *[weight * x for x in value]]
            return [x + y for x, y in zip(state, weighted, strict=True)]

        return [x + y for x, y in zip(totals, op.repeat_indexed(count, zeros, add), strict=True)]

    chunks, rest = divmod(keys, CHUNK)
    totals = op.repeat_indexed(chunks, zeros, lambda c, totals: add_keys(CHUNK, c, totals))
    if rest:
        totals = add_keys(rest, chunks, totals)
    return [x / totals[0] for x in totals[1:]]


def check_shape(shape: tuple[int, ...], heads: int) -> tuple[int, int, int]:
    """Images, tokens and the size of a head.

    Raises
    ------
    RequestError
        If that is no shape for attention with so many heads.
    """
    if len(shape) != 3 or heads < 1 or shape[2] % (3 * heads) or 0 in shape[1:]:
        raise RequestError(
            f"qkv must have shape (B, N, 3 * D) with D a multiple of {heads} heads and N at least "
            f"1; got {tuple(shape)}"
        )
    head = shape[2] // (3 * heads)
    if head > LARGEST_HEAD:
        raise RequestError(
            f"the fused attention is made for heads of up to {LARGEST_HEAD}; got {head}"
        )
    return shape[0], shape[1], head
