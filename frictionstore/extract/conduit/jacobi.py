"""Cyclic Jacobi for one small symmetric matrix in float64, as a program for vector code.

The rotation `(c, s)` comes from `u = tan(angle / 2)` as `c = (1 - u^2) / (1 + u^2)`,
`s = 2u / (1 + u^2)`: it is orthonormal to float64 rounding whatever `u` is, so `u` itself is found
in float32, where division and square root cost half as much. What that leaves of the annihilated
entry, a part in 10^7, is dealt with by the next sweep. The number of sweeps is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

from frictionstore.extract.conduit.program import Matrix, Operations, Value

SWEEPS = {2: 3, 3: 5, 4: 6, 5: 7, 6: 8, 7: 8, 8: 9}  # one more than random matrices need


def _half_angle_tangent(op: Operations, pp: Value, pq: Value, qq: Value) -> Value:
    """`u` in float32, within 0.42 of 0; 0 where the entry is below float64 rounding already."""
    d = op.to_float32(qq - pp)
    e = op.to_float32(pq + pq)
    one, zero = op.constant(1.0, d), op.constant(0.0, d)
    turn = op.absolute(e) > op.constant(1e-18, e)
    # t = tan(angle), the smaller root of t^2 + t d/pq - 1 = 0; the sign follows d.
    length = op.absolute(d) + op.square_root(d * d + e * e)
    t = e / op.where(turn, length, one)
    t = op.where(d < zero, op.negative(t), t)
    u = t / (one + op.square_root(one + t * t))
    return op.where(turn, u, zero)


def _rotate(op: Operations, A: Matrix, V: Matrix, p: int, q: int) -> None:
    """Apply the rotation that annihilates `A[p][q]`; only the upper triangle of A is kept."""
    n = len(A)
    u = op.to_float64(_half_angle_tangent(op, A[p][p], A[p][q], A[q][q]))
    one = op.constant(1.0, u)
    inverse = one / (one + u * u)
    c = (one - u * u) * inverse
    s = (u + u) * inverse

    pp, pq, qq = A[p][p], A[p][q], A[q][q]
    c2, s2, cs = c * c, s * s, c * s
    twice = (cs + cs) * pq
    A[p][p] = c2 * pp - twice + s2 * qq
    A[q][q] = s2 * pp + twice + c2 * qq
    A[p][q] = (c2 - s2) * pq + cs * (pp - qq)
    for k in range(n):
        if k in (p, q):
            continue
        i, j = (min(k, p), max(k, p)), (min(k, q), max(k, q))
        kp, kq = A[i[0]][i[1]], A[j[0]][j[1]]
        A[i[0]][i[1]] = c * kp - s * kq
        A[j[0]][j[1]] = s * kp + c * kq
    for row in V:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]


def eigen(op: Operations, upper: Sequence[Sequence[Value]]) -> tuple[list[Value], Matrix]:
    """Eigenvalues, in no order, and eigenvectors, one to a column.

    Parameters
    ----------
    op : Operations
    upper : list of list
        Row `i` holds the entries `(i, i) .. (i, n-1)`, float64, of a matrix whose entries lie
        within about [-1, 1].
    """
    n = len(upper)
    one, zero = op.constant(1.0, upper[0][0]), op.constant(0.0, upper[0][0])
    pairs = [(i, j) for i in range(n) for j in range(i, n)]

    def sweep(state: list[Value]) -> list[Value]:
        A: Matrix = [[None] * n for _ in range(n)]
        for (i, j), x in zip(pairs, state, strict=False):
            A[i][j] = x
        V = [list(state[len(pairs) + i * n : len(pairs) + (i + 1) * n]) for i in range(n)]
        for p in range(n):
            for q in range(p + 1, n):
                _rotate(op, A, V, p, q)
        return [A[i][j] for i, j in pairs] + [x for row in V for x in row]

    state = [x for row in upper for x in row]
    state += [one if i == j else zero for i in range(n) for j in range(n)]
    state = op.repeat(SWEEPS[n], state, sweep)
    eigenvalues = [state[k] for k, (i, j) in enumerate(pairs) if i == j]
    entries = state[len(pairs) :]
    return eigenvalues, [entries[i * n : (i + 1) * n] for i in range(n)]
