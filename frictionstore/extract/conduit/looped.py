"""The conduit's arithmetic for n = 9 to 16, where a matrix no longer fits registers.

The steps of `program.py` as loops over matrices in memory: written out, the products of step 2
alone would be 60,000 operations at n = 16. Some columns of products add their terms with one
rounding each (see `sums.fused_columns`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

from frictionstore.extract.conduit import program, sums
from frictionstore.extract.conduit.attention import LoopOperations
from frictionstore.extract.conduit.constants import ConduitConstants, guess_offsets
from frictionstore.extract.conduit.program import Value

AT_ONCE = 8  # columns of a product, or roots, whose sums stay in registers
ROWS = 2  # of a product, that share what is read of the right factor

Place = Any  # a number, or one that loops have counted


class Memory(Protocol):
    """Numbers of one matrix, by place; square matrices lie row by row."""

    def load(self, place: Place) -> Value: ...

    def store(self, place: Place, x: Value) -> None: ...


class MemoryOperations(LoopOperations, Protocol):
    """`Operations` with memory that loops can address."""

    def memory(self, count: int, like: Value) -> Memory:
        """Room for `count` numbers of the dtype of `like`; what it holds is not defined."""

    def fused(self, x: Value, y: Value, z: Value) -> Value:
        """`x y + z` with one rounding."""

    def where_same(self, i: Place, j: Place, x: Value, y: Value) -> Value:
        """`x` if two places are the same, else `y`."""


def measure(
    op: MemoryOperations, A: Memory, n: int, constants: ConduitConstants, packet: bool = True
) -> dict[str, list[Value]]:
    """All seven steps for one matrix of order n; what is returned is what `program.measure` does.

    Without `packet`, there are no `eigenvectors` and no `refinement_residual`.
    """
    norm = _frobenius_norm(op, A, n * n)
    scale = norm / op.constant(math.sqrt(n), norm)
    least = op.constant(1e-12, scale)
    scale = op.where(scale < least, least, scale)

    A_hat = op.memory(n * n, op.to_float64(norm))
    _each(op, n * n, lambda e: A_hat.store(e, op.to_float64(A.load(e) / scale)))
    c, M = _characteristic_polynomial(op, A_hat, n)

    diagonal = program.ascending(op, [A_hat.load(i * n + i) for i in range(n)])
    guesses = [
        x + op.constant(offset, x) for x, offset in zip(diagonal, guess_offsets(n), strict=True)
    ]
    roots, friction, settle = program.find_roots(op, c, guesses, constants)
    V = _eigenvectors(op, program.polish(op, roots, c, constants.polish), M)
    _newton_schulz(op, V, n, constants.newton_schulz)

    eigenvalues = _rayleigh_quotients(op, A, V, n)
    measured = program.is_finite(op, scale)
    for x in eigenvalues:
        measured = measured & program.is_finite(op, x)
    one, zero = op.constant(1.0, norm), op.constant(0.0, norm)
    fields = {
        "friction": friction,
        "settle": settle,
        "rank": program.ranks(op, eigenvalues, one, zero),
        "eigenvalues": eigenvalues,
        "char_coeffs": [op.to_float32(x) for x in c],
        "measured": [op.where(measured, one, zero)],
    }
    if packet:
        fields["refinement_residual"] = [_residual(op, V, n)]
        vectors = program.make_largest_entry_positive(op, _rows(V, n))
        fields["eigenvectors"] = [x for row in vectors for x in row]
    return fields


def _rows(X: Memory, n: int) -> program.Matrix:
    return [[X.load(i * n + j) for j in range(n)] for i in range(n)]


def _each(op: MemoryOperations, count: int, body: Callable[[Place], None]) -> None:
    def turn(index: Place, state: list[Value]) -> list[Value]:
        body(index)
        return state

    op.repeat_indexed(count, [], turn)


def _groups(n: int) -> list[range]:
    """`range(n)` in groups as equal as can be of at most AT_ONCE."""
    count = -(-n // AT_ONCE)
    bounds = [n * k // count for k in range(count + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


def _product(
    op: MemoryOperations,
    n: int,
    X: Callable[[Place, Place], Value],
    Y: Callable[[Place, Place], Value],
    put: Callable[[Place, Place, Value], None],
) -> None:
    """`put(i, j, x)` every entry x of the product of the matrices with entries X(i, m), Y(m, j)."""

    fused = sums.fused_columns(n)

    def rows(first: Place, count: int) -> None:
        places = [op.position(first, 1, r) for r in range(count)]
        for columns in _groups(n):

            def factors(m: Place, columns: range = columns) -> list[tuple[Value, Value]]:
                right = [Y(m, j) for j in columns]
                return [(x, y) for x in [X(i, m) for i in places] for y in right]

            def add(
                m: Place,
                totals: list[Value],
                columns: range = columns,
                factors: Callable[..., Any] = factors,
            ) -> list[Value]:
                terms = factors(op.position(m, 1, 1))
                return [
                    op.fused(x, y, z) if j < fused else z + x * y
                    for (x, y), z, j in zip(terms, totals, [*columns] * count, strict=True)
                ]

            totals = op.repeat_indexed(n - 1, [x * y for x, y in factors(0)], add)
            targets = [(i, j) for i in places for j in columns]
            for (i, j), total in zip(targets, totals, strict=True):
                put(i, j, total)

    blocks, rest = divmod(n, ROWS)
    _each(op, blocks, lambda block: rows(op.position(block, ROWS, 0), ROWS))
    if rest:
        rows(n - rest, rest)


def _characteristic_polynomial(
    op: MemoryOperations, A: Memory, n: int
) -> tuple[list[Value], Memory]:
    """Step 2: `c_0 .. c_{n-1}` and, one after the other, `M_2 .. M_n`."""
    like, size = A.load(0), n * n
    M, c = op.memory((n - 1) * size, like), op.memory(n, like)

    def complete(at: Place, x: Value, k: Value) -> Value:
        """Add `x I` to the product at a place, and give the coefficient that follows from it."""

        def add(i: Place) -> None:
            place = op.position(at, 1, op.position(i, n + 1, 0))
            M.store(place, M.load(place) + x)

        _each(op, n, add)
        total = _sum_over_entries(op, size, lambda e: A.load(e) * M.load(op.position(at, 1, e)))
        return op.negative(total / k)

    trace = op.negative(sums.in_order([A.load(i * n + i) for i in range(n)]))
    _each(op, size, lambda e: M.store(e, A.load(e)))
    second = complete(0, trace, op.constant(2.0, like))

    def step(t: Place, state: list[Value]) -> list[Value]:
        x, k = state
        before, at = op.position(t, size, 0), op.position(t, size, size)
        _product(
            op,
            n,
            lambda i, m: A.load(op.position(i, n, m)),
            lambda m, j: M.load(op.position(before, 1, op.position(m, n, j))),
            lambda i, j, y: M.store(op.position(at, 1, op.position(i, n, j)), y),
        )
        x = complete(at, x, k)
        c.store(t, x)
        return [x, k + op.constant(1.0, k)]

    op.repeat_indexed(n - 2, [second, op.constant(3.0, like)], step)
    return [*[c.load(n - 3 - j) for j in range(n - 2)], second, trace], M


def _frobenius_norm(op: MemoryOperations, X: Memory, count: int) -> Value:
    """`sums.of_squares` of at least eight entries, and its root."""

    def block(b: Place) -> list[Value]:
        entries = [X.load(op.position(b, 8, e)) for e in range(8)]
        return [x * x for x in entries]

    def add(b: Place, state: list[Value]) -> list[Value]:
        return [x + y for x, y in zip(state, block(op.position(b, 1, 1)), strict=True)]

    whole = count // 8
    total = sums.in_order(op.repeat_indexed(whole - 1, block(0), add))
    rest = [X.load(e) for e in range(8 * whole, count)]
    if len(rest) == 1:
        x = op.to_float64(rest[0])  # its square is exact there
        return op.square_root(op.to_float32(op.to_float64(total) + x * x))
    return op.square_root(sums.in_order([total, *[x * x for x in rest]]))


def _sum_over_entries(op: MemoryOperations, count: int, entry: Callable[[Place], Value]) -> Value:
    """`sums.over_entries` of at least sixteen entries: four streams of four lanes."""
    blocks = count // 16

    def block(b: Place) -> list[Value]:
        return [entry(op.position(b, 16, e)) for e in range(16)]

    running = op.repeat_indexed(
        blocks - 1,
        block(0),
        lambda b, state: [x + y for x, y in zip(state, block(op.position(b, 1, 1)), strict=True)],
    )
    last = [entry(e) for e in range(16 * blocks, count)]
    for e in range(len(last) // 4 * 4):
        running[e % 4] = running[e % 4] + last[e]
    lanes = [sums.in_order(running[lane::4]) for lane in range(4)]
    return sums.in_order([*last[len(last) // 4 * 4 :], *lanes])


def _eigenvectors(op: MemoryOperations, roots: list[Value], M: Memory) -> Memory:
    """Step 5: for each root the longest column of `R(root)`, normalised, in float32."""
    n, like = len(roots), roots[0]
    best, other = op.memory(n * n, like), op.memory(n * n, like)  # by root, then by row
    zero = op.constant(0.0, like)

    def column(j: Place, into: Memory) -> list[Value]:
        """Column j of R for every root; the squares of their lengths."""
        squares: list[Value] = []
        for group in _groups(n):

            def entry(i: Place, totals: list[Value], group: range = group) -> list[Value]:
                place = op.position(i, n, j)
                y = M.load(place)
                R = [op.where_same(i, j, y + roots[r], y) for r in group]

                def horner(k: Place, R: list[Value]) -> list[Value]:
                    y = M.load(op.position(op.position(k, 1, 1), n * n, place))
                    return [x * roots[r] + y for x, r in zip(R, group, strict=True)]

                R = op.repeat_indexed(n - 2, R, horner)
                for x, r in zip(R, group, strict=True):
                    into.store(op.position(i, 1, r * n), x)
                return [total + x * x for total, x in zip(totals, R, strict=True)]

            squares += op.repeat_indexed(n, [zero] * len(group), entry)
        return squares

    def choose(j: Place, longest: list[Value]) -> list[Value]:
        squares = column(op.position(j, 1, 1), other)
        longer = [x > y for x, y in zip(squares, longest, strict=True)]

        def keep(i: Place) -> None:
            for r in range(n):
                place = op.position(i, 1, r * n)
                best.store(place, op.where(longer[r], other.load(place), best.load(place)))

        _each(op, n, keep)
        return [op.where(m, x, y) for m, x, y in zip(longer, squares, longest, strict=True)]

    longest = op.repeat_indexed(n - 1, column(0, best), choose)
    lengths = [op.square_root(x) + op.constant(1e-30, x) for x in longest]
    V = op.memory(n * n, op.to_float32(like))

    def normalise(i: Place) -> None:
        for r in range(n):
            x = best.load(op.position(i, 1, r * n)) / lengths[r]
            V.store(op.position(i, n, r), op.to_float32(x))

    _each(op, n, normalise)
    return V


def _newton_schulz(op: MemoryOperations, V: Memory, n: int, rounds: int) -> None:
    """Step 6: makes the columns of V orthonormal."""
    if rounds == 0:
        return
    like = V.load(0)
    half, zero, three = (op.constant(x, like) for x in (0.5, 0.0, 3.0))
    X, Y, W, made = (op.memory(n * n, like) for _ in range(4))

    def at(Z: Memory) -> Callable[[Place, Place], Value]:
        return lambda i, j: Z.load(op.position(i, n, j))

    def use(i: Place, j: Place, y: Value) -> None:
        place = op.position(i, n, j)
        Y.store(place, y)
        W.store(place, op.where_same(i, j, three - y, zero - y))

    def halved(i: Place, j: Place, x: Value) -> None:
        made.store(op.position(i, n, j), half * x)

    def use_row(i: Place) -> None:
        for j in range(n):
            use(i, j, at(made)(i, j))

    def following(_: Place) -> None:
        _product(op, n, at(W), at(Y), halved)
        _each(op, n, use_row)
        _product(op, n, at(X), at(W), halved)
        _each(op, n * n, lambda e: X.store(e, made.load(e)))

    _product(op, n, lambda i, m: at(V)(m, i), at(V), use)
    _each(op, n * n, lambda e: X.store(e, half * W.load(e)))
    _each(op, rounds - 1, following)
    _product(op, n, at(V), at(X), lambda i, j, x: made.store(op.position(i, n, j), x))
    _each(op, n * n, lambda e: V.store(e, made.load(e)))


def _residual(op: MemoryOperations, V: Memory, n: int) -> Value:
    error = op.memory(n * n, V.load(0))
    one = op.constant(1.0, V.load(0))

    def at(i: Place, j: Place) -> Value:
        return V.load(op.position(i, n, j))

    _product(
        op,
        n,
        lambda i, m: at(m, i),
        at,
        lambda i, j, y: error.store(op.position(i, n, j), op.where_same(i, j, y - one, y)),
    )
    return _frobenius_norm(op, error, n * n)


def _rayleigh_quotients(op: MemoryOperations, A: Memory, V: Memory, n: int) -> list[Value]:
    """Step 7a: `lambda_i = v_i' A v_i` with the unscaled matrix."""
    AV = op.memory(n * n, V.load(0))
    _product(
        op,
        n,
        lambda i, m: A.load(op.position(i, n, m)),
        lambda m, j: V.load(op.position(m, n, j)),
        lambda i, j, x: AV.store(op.position(i, n, j), x),
    )

    def terms(i: Place) -> list[Value]:
        places = [op.position(i, n, j) for j in range(n)]
        return [V.load(place) * AV.load(place) for place in places]

    def add(i: Place, totals: list[Value]) -> list[Value]:
        return [x + y for x, y in zip(totals, terms(op.position(i, 1, 1)), strict=True)]

    return op.repeat_indexed(n - 1, terms(0), add)
