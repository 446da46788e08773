"""The conduit's arithmetic for one matrix, as a straight program that fused kernels are made from.

The same operations as `reference.py`, in the same order, on single entries instead of arrays: what
differs is that products with 0 and 1 and the mirrored halves of exactly symmetric products are not
computed. A kernel runs the program with values that emit code; with arrays as values it computes.
Matrices are nested lists, `A[i][j]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from frictionstore.extract.conduit import sums
from frictionstore.extract.conduit.constants import (
    SINGLE_PRECISION_LIMIT,
    ConduitConstants,
    guess_offsets,
)

Value = Any  # supports + - * / and comparisons; comparisons give masks, which support & and |
Matrix = list[list[Value]]


class Operations(Protocol):
    """What a kernel offers besides the operators of its values. Rounding is to nearest."""

    def constant(self, x: float, like: Value) -> Value:
        """`x` in the dtype of `like`."""

    def to_float32(self, x: Value) -> Value: ...

    def to_float64(self, x: Value) -> Value: ...

    def square_root(self, x: Value) -> Value: ...

    def absolute(self, x: Value) -> Value: ...

    def negative(self, x: Value) -> Value: ...

    def where(self, mask: Value, x: Value, y: Value) -> Value: ...

    def repeat(
        self, count: int, state: list[Value], body: Callable[[list[Value]], list[Value]]
    ) -> list[Value]:
        """`state` after `count` times `state = body(state)`."""

    def each(self, values: list[Value], body: Callable[[Value], list[Value]]) -> list[list[Value]]:
        """`[body(x) for x in values]`; each is a list of `len(values)` float32 values."""

    def in_parts(
        self, values: list[Value], body: Callable[[Operations, list[Value]], list[Value]]
    ) -> list[Value]:
        """`body(op, values)`, for as many matrices at a time as suits float64.

        What it gives may be passed to `in_parts` again, or to `whole`.
        """

    def whole(self, values: list[Value]) -> list[Value]:
        """What `in_parts` gave, as values like all others."""


def measure(
    op: Operations, A: Matrix, constants: ConduitConstants, with_residual: bool = True
) -> dict[str, list[Value]]:
    """All seven steps for one matrix of order n >= 2.

    Returns
    -------
    dict of list
        By slot: `friction`, `settle`, `rank` (0 for the smallest eigenvalue) and `eigenvalues`,
        float32; `eigenvectors` row by row with one column per slot; `char_coeffs`; and of length 1
        `refinement_residual` (if asked for) and `measured`, 1 or 0.
    """
    n = len(A)
    norm = frobenius_norm(op, A)
    scale = norm / op.constant(math.sqrt(n), norm)
    least = op.constant(1e-12, scale)
    scale = op.where(scale < least, least, scale)
    A_hat = [[x / scale for x in row] for row in A]

    single = n <= SINGLE_PRECISION_LIMIT
    # c_0 .. c_{n-1} in float32, the same in float64, and M_2 .. M_n
    parts = op.in_parts([x for row in A_hat for x in row], _polynomial)
    rounded, exact = op.whole(parts[:n]), parts[n : 2 * n]

    diagonal = [A_hat[i][i] if single else op.to_float64(A_hat[i][i]) for i in range(n)]
    offsets = guess_offsets(n)
    guesses = [
        x + op.constant(offset, x)
        for x, offset in zip(ascending(op, diagonal), offsets, strict=True)
    ]
    q = rounded if single else op.whole(exact)
    roots, friction, settle = find_roots(op, q, guesses, constants)

    def eigenvectors(op: Operations, values: list[Value]) -> list[Value]:
        z, c, M = values[:n], values[n : 2 * n], _matrices(values[2 * n :], n)
        polished = polish(op, [op.to_float64(x) if single else x for x in z], c, constants.polish)
        columns = op.each(polished, lambda root: _eigenvector(op, root, M))
        return [x for column in columns for x in column]

    entries = op.whole(op.in_parts([*roots, *parts[n:]], eigenvectors))
    columns = [entries[j * n : (j + 1) * n] for j in range(n)]
    V = [[columns[j][i] for j in range(n)] for i in range(n)]
    V = _newton_schulz(op, V, constants.newton_schulz)

    eigenvalues = _rayleigh_quotients(A, V)
    measured = is_finite(op, scale)
    for x in eigenvalues:
        measured = measured & is_finite(op, x)

    one, zero = op.constant(1.0, norm), op.constant(0.0, norm)
    fields = {
        "friction": friction,
        "settle": settle,
        "rank": ranks(op, eigenvalues, one, zero),
        "eigenvalues": eigenvalues,
        "eigenvectors": [x for row in make_largest_entry_positive(op, V) for x in row],
        "char_coeffs": rounded,
        "measured": [op.where(measured, one, zero)],
    }
    if with_residual:
        fields["refinement_residual"] = [_residual(op, V)]
    return fields


def gram(S: Sequence[Value], V: Matrix) -> Matrix:
    """`V diag(S^2) V'` in float32: terms `(V_ik S_k^2) V_jk`, added in the order of k."""
    n = len(S)
    squares = [x * x for x in S]
    scaled = [[V[i][k] * squares[k] for k in range(n)] for i in range(n)]
    return [
        [sums.in_order([scaled[i][k] * V[j][k] for k in range(n)]) for j in range(n)]
        for i in range(n)
    ]


def _matrices(entries: Sequence[Value], n: int) -> list[Matrix]:
    rows = [list(entries[k : k + n]) for k in range(0, len(entries), n)]
    return [rows[k : k + n] for k in range(0, len(rows), n)]


def _polynomial(op: Operations, entries: list[Value]) -> list[Value]:
    """Step 2 from the entries of the scaled matrix: `c` in float32, in float64, and the M."""
    n = math.isqrt(len(entries))
    (A,) = _matrices([op.to_float64(x) for x in entries], n)
    c, M = _characteristic_polynomial(op, A)
    return [*[op.to_float32(x) for x in c], *c, *[x for X in M for row in X for x in row]]


def _sum_of_entries(X: Matrix) -> Value:
    return sums.over_entries([x for row in X for x in row])


def frobenius_norm(op: Operations, X: Matrix) -> Value:
    def fused_add(total: Value, x: Value) -> Value:
        # The square is exact in float64.
        x = op.to_float64(x)
        return op.to_float32(op.to_float64(total) + x * x)

    return op.square_root(sums.of_squares([x for row in X for x in row], fused_add))


def _product(X: Matrix, Y: Matrix) -> Matrix:
    n = len(X)
    return [
        [sums.in_order([X[i][m] * Y[m][j] for m in range(n)]) for j in range(n)] for i in range(n)
    ]


def _squared(V: Matrix) -> Matrix:
    """`V'V`: symmetric to the last bit, so each pair of entries is computed once."""
    n = len(V)
    half = {
        (i, j): sums.in_order([V[m][i] * V[m][j] for m in range(n)])
        for i in range(n)
        for j in range(i, n)
    }
    return [[half[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]


def _add_to_diagonal(X: Matrix, c: Value) -> Matrix:
    return [[x + c if i == j else x for j, x in enumerate(row)] for i, row in enumerate(X)]


def _characteristic_polynomial(op: Operations, A: Matrix) -> tuple[list[Value], list[Matrix]]:
    """Step 2: `c_0 .. c_{n-1}` (`c_n` is 1) and `M_2 .. M_n` (`M_1` is the identity)."""
    n = len(A)
    c: list[Value] = [None] * n
    c[n - 1] = op.negative(sums.in_order([A[i][i] for i in range(n)]))
    M: list[Matrix] = []
    for k in range(2, n + 1):
        M.append(_add_to_diagonal(_product(A, M[-1]) if M else A, c[n - k + 1]))
        total = _sum_of_entries(
            [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(A, M[-1], strict=True)]
        )
        c[n - k] = op.negative(total / op.constant(float(k), total))
    return c, M


def ascending(op: Operations, values: Sequence[Value]) -> list[Value]:
    """The values from the smallest to the largest."""
    x = list(values)
    for end in range(len(x) - 1, 0, -1):
        for i in range(end):
            swap = x[i + 1] < x[i]
            x[i], x[i + 1] = op.where(swap, x[i + 1], x[i]), op.where(swap, x[i], x[i + 1])
    return x


def multiply_add(x: Value, z: Value, y: Value) -> Value:
    """`x z + y` in two roundings; `x` may be the number 0 or 1, and `y` the number 0."""
    if isinstance(x, int):
        product = z if x else 0
    else:
        product = x * z
    if isinstance(product, int):
        return y
    return product if isinstance(y, int) and y == 0 else product + y


def _horner(q: Sequence[Value], z: Value, one: Value) -> tuple[Value, Value, Value]:
    """`p`, `p'` and `p''/2` at `z` for the monic polynomial with lower coefficients `q`."""
    v: Value = 1
    v1: Value = 0
    v2: Value = 0
    for q_j in reversed(q):
        v2 = multiply_add(v2, z, v1 if not isinstance(v1, int) or v2 == 0 else one)
        v1 = multiply_add(v1, z, v if not isinstance(v, int) or v1 == 0 else one)
        v = multiply_add(v, z, q_j)
    return v, v1, v2


def find_roots(
    op: Operations, q: Sequence[Value], guesses: Sequence[Value], constants: ConduitConstants
) -> tuple[list[Value], list[Value], list[Value]]:
    """Step 3: roots, friction and settle (both float32), slot by slot."""
    n = len(q)
    q = list(q)
    single = n <= SINGLE_PRECISION_LIMIT
    one, zero = op.constant(1.0, q[0]), op.constant(0.0, q[0])
    tau, tiny_v, tiny_den = (op.constant(x, q[0]) for x in (constants.tau, 1e-30, 1e-20))
    one32 = one if single else op.to_float32(one)
    delta = op.constant(constants.delta, one32)
    unsettled = op.constant(float(constants.iterations), one32)
    roots, frictions, settles = [], [], []
    for slot in range(n):
        d = n - slot

        def advance(
            state: list[Value], d: int = d, q: Sequence[Value] = tuple(q[:d])
        ) -> list[Value]:
            z, friction, settle, t = state
            v, v1, v2 = _horner(q, z, one)
            v1 = one if isinstance(v1, int) else v1
            speed = op.absolute(v1 if single else op.to_float32(v1))
            friction = friction + one32 / (speed + delta)
            first = (op.absolute(v) < tau) & (settle >= unsettled)
            settle = op.where(first, t, settle)

            away = op.absolute(v) > tiny_v
            divisor = op.where(away, v, one)
            G = op.where(away, v1 / divisor, zero)
            if d == 1:
                # disc is 0 unless G*G overflows: then it is NaN, and the step is not taken.
                den = G
                square = G * G
                move = (op.absolute(den) > tiny_den) & is_finite(op, square)
            else:
                v2 = one if isinstance(v2, int) else v2
                ratio = v2 / divisor
                H = op.where(away, G * G - op.constant(2.0, ratio) * ratio, zero)
                disc = op.constant(float(d), H) * H - G * G
                disc = op.constant(d - 1.0, H) * disc
                disc = op.where(disc < zero, zero, disc)
                spread = op.square_root(disc)
                plus, minus = G + spread, G - spread
                den = op.where(op.absolute(plus) >= op.absolute(minus), plus, minus)
                move = op.absolute(den) > tiny_den
            step = op.constant(float(d), z) * (one / op.where(move, den, one))
            z = op.where(move, z - step, z)
            return [z, friction, settle, t + one32]

        zero32 = op.constant(0.0, one32)
        state = [guesses[slot], zero32, unsettled, zero32]
        z, friction, settle, _ = op.repeat(constants.iterations, state, advance)

        running: Value = 1
        for j in range(d - 1, 0, -1):
            # The leading coefficient stays 1: dividing by (x - root) moves each q_j down by one.
            running = q[j] + (z if isinstance(running, int) else z * running)
            q[j] = running
        q = q[1:d] if d > 1 else q
        roots.append(z)
        frictions.append(friction)
        settles.append(settle)
    return roots, frictions, settles


def polish(op: Operations, roots: list[Value], c: Sequence[Value], steps: int) -> list[Value]:
    """Step 4: Newton steps on the original polynomial, all roots side by side."""
    one, tiny = op.constant(1.0, c[0]), op.constant(1e-30, c[0])

    def advance(state: list[Value]) -> list[Value]:
        moved = []
        for z in state:
            p, p1, _ = _horner(c, z, one)
            move = op.absolute(p1) > tiny
            moved.append(op.where(move, z - p / op.where(move, p1, one), z))
        return moved

    return op.repeat(steps, roots, advance)


def _eigenvector(op: Operations, root: Value, M: Sequence[Matrix]) -> list[Value]:
    """Step 5: the longest column of `R(root)`, normalised, in float32."""
    n = len(M) + 1
    R = _add_to_diagonal(M[0], root)
    for k in range(1, n - 1):
        R = [
            [x * root + y for x, y in zip(*rows, strict=True)] for rows in zip(R, M[k], strict=True)
        ]
    squares = [sums.in_order([R[i][j] * R[i][j] for i in range(n)]) for j in range(n)]
    column, longest = [R[i][0] for i in range(n)], squares[0]
    for j in range(1, n):
        longer = squares[j] > longest
        column = [op.where(longer, R[i][j], column[i]) for i in range(n)]
        longest = op.where(longer, squares[j], longest)
    length = op.square_root(longest) + op.constant(1e-30, longest)
    return [op.to_float32(x / length) for x in column]


def _newton_schulz(op: Operations, V: Matrix, rounds: int) -> Matrix:
    """Step 6: orthonormal columns."""
    if rounds == 0:
        return V
    half, zero, three = (op.constant(x, V[0][0]) for x in (0.5, 0.0, 3.0))
    Y = _squared(V)
    X: Matrix | None = None
    for last in range(rounds - 1, -1, -1):
        W = [
            [(three if i == j else zero) - y for j, y in enumerate(row)] for i, row in enumerate(Y)
        ]
        X = [[half * x for x in row] for row in (W if X is None else _product(X, W))]
        if last:
            Y = [[half * y for y in row] for row in _product(W, Y)]
    assert X is not None
    return _product(V, X)


def _residual(op: Operations, V: Matrix) -> Value:
    one = op.constant(1.0, V[0][0])
    error = [
        [y - one if i == j else y for j, y in enumerate(row)] for i, row in enumerate(_squared(V))
    ]
    return frobenius_norm(op, error)


def _rayleigh_quotients(A: Matrix, V: Matrix) -> list[Value]:
    """Step 7a: `lambda_i = v_i' A v_i` with the unscaled matrix."""
    n = len(A)
    AV = _product(A, V)
    return [sums.in_order([V[i][j] * AV[i][j] for i in range(n)]) for j in range(n)]


def ranks(op: Operations, x: Sequence[Value], one: Value, zero: Value) -> list[Value]:
    """Step 7b: each value's place in ascending order, equal values in the order of their slots."""
    n = len(x)
    places = [zero] * n
    for i in range(n):
        for j in range(i + 1, n):
            later = x[j] < x[i]
            places[i] = places[i] + op.where(later, one, zero)
            places[j] = places[j] + op.where(later, zero, one)
    return places


def make_largest_entry_positive(op: Operations, V: Matrix) -> Matrix:
    """Step 7c: the sign of each eigenvector, by the first of its largest entries."""
    n = len(V)
    flips = []
    for j in range(n):
        largest = V[0][j]
        for i in range(1, n):
            larger = op.absolute(V[i][j]) > op.absolute(largest)
            largest = op.where(larger, V[i][j], largest)
        flips.append(largest < op.constant(0.0, largest))
    return [[op.where(flips[j], op.negative(x), x) for j, x in enumerate(row)] for row in V]


def is_finite(op: Operations, x: Value) -> Value:
    return op.absolute(x) < op.constant(math.inf, x)
