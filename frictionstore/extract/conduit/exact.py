"""Friction and settle as defined, without the rounding of a characteristic polynomial.

The definition's root finding, deflation included, on the matrix in tridiagonal form, where the
polynomial is the end of a recurrence that rounding harms no more than it harms the matrix. Let
`P_k` be the characteristic polynomial of the first k rows and columns, `a` the diagonal and `b`
the squared off-diagonal:

    P_k(x) = (x - a_k) P_{k-1}(x) - b_{k-1} P_{k-2}(x),    P_0 = 1,    p = P_n.

Deflating p at z, a root or not, leaves the divided difference `p[z, x] = (p(x) - p(z)) / (x - z)`;
after r slots the polynomial is `p[z_1, .., z_r, x]`. With Z for `z_1, .., z_r`, Leibniz' rule for
divided differences (de Boor, Surveys in Approximation Theory 1, 2005) gives

    P_k[Z, x] = (x - a_k) P_{k-1}[Z, x] + P_{k-1}[Z] - b_{k-1} P_{k-2}[Z, x],    P_r[Z, x] = 1,

and `P_{k-1}[Z]` is what the recurrence of the slot before gave at its last `x`. No polynomial has
coefficients here and nothing is divided by `x - z`: a slot whose rounds have not converged leaves
behind exactly what the definition's deflation leaves.

Written as a program like `program.py`: kernels emit it, arrays compute it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from frictionstore.extract.conduit import program, sums
from frictionstore.extract.conduit.constants import ConduitConstants, guess_offsets
from frictionstore.extract.conduit.program import Matrix, Operations, Value

FLOAT32_RANGE = 3.4028234663852886e38


def measure(op: Operations, A: Matrix, constants: ConduitConstants) -> dict[str, list[Value]]:
    """The exact maps of one matrix of order n >= 1.

    Parameters
    ----------
    op : Operations
    A : nested list of n x n values, float32
        Both triangles are read: what is measured is their mean.
    constants : ConduitConstants
        `polish` and `newton_schulz` have no part in this.

    Returns
    -------
    dict of list
        By mode, largest root first, float64: `friction_exact`, and `settle_exact` as whole numbers;
        and of length 1 `measured_exact`, 1, or 0 where an entry is not finite or the matrix's
        Frobenius norm exceeds the float32 range. Of equal roots the later slot comes first.
    """
    n = len(A)
    wide = [[op.to_float64(x) for x in row] for row in A]
    norm = op.square_root(sums.in_order([x * x for row in wide for x in row]))
    one, zero = op.constant(1.0, norm), op.constant(0.0, norm)
    scale = norm * op.constant(1.0 / math.sqrt(n), norm)
    least = op.constant(1e-12, scale)
    inverse = one / op.where(scale < least, least, scale)
    halved = inverse * op.constant(0.5, inverse)
    lower = [
        [*[(wide[i][j] + wide[j][i]) * halved for j in range(i)], wide[i][i] * inverse]
        for i in range(n)
    ]
    guesses = [
        x + op.constant(offset, x)
        for x, offset in zip(
            program.ascending(op, [row[-1] for row in lower]), guess_offsets(n), strict=True
        )
    ]
    a, b = _tridiagonal(op, lower)
    by_mode = _descending(op, *_slots(op, a, b, guesses, constants))
    measured = op.where(op.constant(FLOAT32_RANGE, norm) >= norm, one, zero)
    return {
        "friction_exact": [friction for _, friction, _ in by_mode],
        "settle_exact": [settle for _, _, settle in by_mode],
        "measured_exact": [measured],
    }


def _tridiagonal(op: Operations, lower: Matrix) -> tuple[list[Value], list[Value]]:
    """Diagonal and squared off-diagonal of a similar matrix, by Householder's reflections.

    Golub and Van Loan, Matrix Computations, 4th edition, section 8.3.1. Last row first: where a
    matrix is graded, that end holds what rounding harms most.
    """
    A = [list(row) for row in lower]
    n = len(A)

    def at(i: int, j: int) -> Value:
        return A[max(i, j)][min(i, j)]

    b = []
    for k in range(n - 2):
        x = [A[i][k] for i in range(k + 1, n)]
        square = sums.in_order([y * y for y in x])
        one, zero = op.constant(1.0, square), op.constant(0.0, square)
        length = op.square_root(square)
        # v = x + sign(x_0) |x| e_0 adds numbers of one sign, and |v|^2 / 2 = |x|^2 + |x_0| |x|.
        half = square + op.absolute(x[0]) * length
        usable = half > zero
        factor = op.where(usable, one / op.where(usable, half, one), zero)
        v = dict(enumerate(x, k + 1))
        v[k + 1] = op.where(x[0] < zero, x[0] - length, x[0] + length)
        w = {i: sums.in_order([at(i, j) * v[j] for j in v]) * factor for i in v}
        along = sums.in_order([w[i] * v[i] for i in v]) * factor
        along = along * op.constant(0.5, along)
        w = {i: w[i] - along * v[i] for i in v}
        for i in v:
            for j in range(k + 1, i + 1):
                A[i][j] = (A[i][j] - v[i] * w[j]) - w[i] * v[j]
        b.append(square)
    if n > 1:
        b.append(A[n - 1][n - 2] * A[n - 1][n - 2])
    return [A[k][k] for k in reversed(range(n))], b[::-1]


def _evaluate(
    a: Sequence[Value], b: Sequence[Value], left: Sequence[Value], z: Value
) -> tuple[list[Value], Value, Value]:
    """`P_{r+1} .. P_n` of a slot at z, and the first and half the second derivative of the last.

    `left` are the `P_r[Z] .. P_{n-1}[Z]` of the slot before, none for the first slot. Derivatives
    may be the numbers 0 and 1.
    """
    r = len(a) - len(left) if left else 0
    values: list[Value] = []
    v: list[Value] = [0, 1]  # P_{k-2} and P_{k-1}; then the same of the derivatives
    v1: list[Value] = [0, 0]
    v2: list[Value] = [0, 0]
    for k in range(r, len(a)):
        u = z - a[k]

        def following(x: list[Value], more: Value, u: Value = u, k: int = k) -> list[Value]:
            y = program.multiply_add(x[1], u, more)
            if isinstance(x[0], int):
                return [x[1], y - b[k - 1] if x[0] else y]
            return [x[1], y - b[k - 1] * x[0]]

        v2 = following(v2, v1[1])
        v1 = following(v1, v[1])
        v = following(v, left[k - r] if left else 0)
        values.append(v[1])
    return values, v1[1], v2[1]


def _slots(
    op: Operations,
    a: list[Value],
    b: list[Value],
    guesses: Sequence[Value],
    constants: ConduitConstants,
) -> tuple[list[Value], list[Value], list[Value]]:
    """Step 3 of the definition: friction, settle and root, slot by slot."""
    n, rounds = len(a), constants.iterations
    like = a[0]
    one, zero = op.constant(1.0, like), op.constant(0.0, like)
    delta, tau = op.constant(constants.delta, like), op.constant(constants.tau, like)
    tiny_v, tiny_den = op.constant(1e-30, like), op.constant(1e-20, like)
    unsettled = op.constant(float(rounds), like)
    # One division in place of one a round, where no product can leave the range of float64.
    together = n <= 16 and rounds <= 8 and constants.delta >= 1e-30
    left: list[Value] = []
    frictions, settles, roots = [], [], []
    for slot in range(n - 1):
        d = n - slot

        def advance(
            state: list[Value], d: int = d, left: Sequence[Value] = tuple(left)
        ) -> list[Value]:
            z, top, bottom, settle, t = state
            values, v1, v2 = _evaluate(a, b, left, z)
            v = values[-1]
            speed = op.absolute(v1) + delta
            if together:
                top, bottom = top * speed + bottom, bottom * speed
            else:
                top = top + one / speed
            size = op.absolute(v)
            settle = op.where((size < tau) & (settle >= unsettled), t, settle)

            # The definition's step with G, H and the denominator times v: no division by v.
            bend = v if isinstance(v2, int) else v * v2
            disc = op.constant(d - 1.0, v) * (v1 * v1) - op.constant(2.0 * d, v) * bend
            disc = op.constant(d - 1.0, v) * disc
            spread = op.square_root(op.where(disc < zero, zero, disc))
            # The larger magnitude has v1's sign. A tie, v1 = 0, takes plus before the division by v
            # is undone: v's sign.
            sign = op.where(op.absolute(v1) > zero, v1, v)
            den = op.where(sign < zero, v1 - spread, v1 + spread)
            move = (size > tiny_v) & (op.absolute(den) > tiny_den * size)
            step = op.constant(float(d), v) * v / op.where(move, den, one)
            return [op.where(move, z - step, z), top, bottom, settle, t + one]

        state = [guesses[slot], zero, one, unsettled, zero]
        z, top, bottom, settle, _ = op.repeat(rounds, state, advance)
        frictions.append(top / bottom if together else top)
        settles.append(settle)
        roots.append(z)
        left = _evaluate(a, b, left, z)[0][:-1]

    # At d = 1 the derivative is 1 and one step is the last: v is 0 from the second round on.
    z = guesses[n - 1]
    (v,), _, _ = _evaluate(a, b, left, z)
    size = op.absolute(v)
    away = size > tiny_v
    frictions.append(op.constant(rounds / (1.0 + constants.delta), like))
    later = op.where(away, op.constant(1.0, like), unsettled)
    settles.append(op.where(size < tau, zero, later))
    roots.append(op.where(away, z - v, z))
    return frictions, settles, roots


def _descending(
    op: Operations, friction: list[Value], settle: list[Value], roots: list[Value]
) -> list[tuple[Value, ...]]:
    """Root, friction and settle of every slot, largest root first."""
    slots = list(zip(roots, friction, settle, strict=True))
    for end in range(len(slots) - 1, 0, -1):
        for i in range(end):
            swap = slots[i + 1][0] < slots[i][0]
            pairs = list(zip(slots[i], slots[i + 1], strict=True))
            slots[i] = tuple(op.where(swap, y, x) for x, y in pairs)
            slots[i + 1] = tuple(op.where(swap, x, y) for x, y in pairs)
    return slots[::-1]
