"""Stored vectors, hard matrices and an independent oracle for the conduit tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data" / "conduit"
REGULAR = ("sphere_gram", "gaussian_sym", "well_separated", "huge")
DEGENERATE = ("near_degenerate", "diagonal", "rank_one", "identity_scaled", "zero", "tiny")


@pytest.fixture(scope="session")
def vectors() -> Callable[[int, str], dict[str, np.ndarray]]:
    """The stored arrays of one order and family, as upstream computed them (ascending)."""
    with np.load(DATA / "conduit.npz") as stored:
        arrays = dict(stored)

    def of(n: int, family: str) -> dict[str, np.ndarray]:
        head = f"n{n}/{family}/"
        return {k.removeprefix(head): v for k, v in arrays.items() if k.startswith(head)}

    return of


@pytest.fixture(scope="session")
def encoder_vectors() -> dict[str, np.ndarray]:
    with np.load(DATA / "svae_d4_gram.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def hard_matrices(vectors: Callable[[int, str], dict[str, np.ndarray]]) -> Callable:
    """A batch that visits every branch: all families, repeated roots, both ends of the range."""

    def of(n: int, count: int = 300) -> np.ndarray:
        rng = np.random.default_rng(n)
        X = rng.standard_normal((count, n, n)).astype(np.float32)
        symmetric = X + X.swapaxes(1, 2)
        column = X[:, :, :1]
        parts = [
            symmetric,
            X @ X.swapaxes(1, 2),
            column @ column.swapaxes(1, 2),
            np.round(symmetric),
            np.eye(n, dtype=np.float32)[None] * X[:, :1, :1],
            np.eye(n, dtype=np.float32)[None] + np.float32(1e-6) * symmetric,
        ]
        for family in (*REGULAR, *DEGENERATE):
            stored = vectors(n, family)
            if stored:
                parts.append(stored["A"])
        A = np.concatenate(parts)
        extreme = A[:: max(1, len(A) // 200)]
        with np.errstate(over="ignore"):
            parts = [A, extreme * np.float32(1e18), extreme * np.float32(1e-25)]
            parts += [extreme * np.float32(1e-38), extreme * np.float32(1e30)]
        broken = np.stack([extreme[0]] * 3)
        broken[:, -1, 0] = (np.nan, np.inf, -np.inf)
        return np.ascontiguousarray(np.concatenate([*parts, broken, A[:7]]).astype(np.float32))

    return of


@pytest.fixture(scope="session")
def some_matrices(hard_matrices: Callable) -> Callable:
    """Every `step`-th hard matrix, and the broken ones, which are near the end."""

    def of(n: int, step: int) -> np.ndarray:
        A = hard_matrices(n, 10)
        broken = ~np.isfinite(A).all(axis=(1, 2))
        return np.concatenate([A[::step], A[broken]])

    return of


def _norm(entries: list):
    """The documented order of the norm: eight running sums, and the square of an odd last entry."""
    eights = len(entries) - len(entries) % 8
    running = [np.float32(0)] * 8
    for e in range(eights):
        square = entries[e] * entries[e]
        running[e % 8] = square if e < 8 else running[e % 8] + square
    total = running[0] if eights else None
    for x in running[1:] if eights else []:
        total = total + x
    if eights and len(entries) == eights + 1:
        last = np.float64(entries[-1])
        total = np.float32(np.float64(total) + last * last)
    else:
        for x in entries[eights:]:
            total = x * x if total is None else total + x * x
    return np.sqrt(total)


def _total(entries: list):
    """The documented order of float64 sums: four streams of vectors of four."""
    count = len(entries) // 4
    streams: list = [None] * 4
    for g in range(count):
        vector = np.array(entries[4 * g : 4 * g + 4], np.float64)
        k = g % 4 if g < count - count % 4 else 0
        streams[k] = vector if streams[k] is None else streams[k] + vector
    total = None
    for x in entries[4 * count :]:
        total = x if total is None else total + x
    lanes = streams[0]
    for stream in streams[1:]:
        lanes = lanes if stream is None else lanes + stream
    for x in [] if lanes is None else lanes:
        total = x if total is None else total + x
    return total


def _dot(xs: list, ys: list, fused: bool = False):
    total = None
    for x, y in zip(xs, ys, strict=True):
        if total is None:
            total = x * y
        else:
            total = _rounded_once(x, y, total) if fused else total + x * y
    return total


def _rounded_once(x, y, z):
    """`x y + z` of finite numbers of one dtype, rounded once, by way of rational numbers."""
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    if exact == 0:
        return x * y + z  # the sign of zero
    near = type(x)(float(exact))
    if isinstance(x, np.float64):
        return near
    # Two roundings may have missed the nearest float32, a tie the even one.
    around = [np.nextafter(near, np.float32(s)) for s in (-np.inf, np.inf)]
    odd = {float(c): int(np.float32(c).view(np.int32)) & 1 for c in (near, *around)}
    return min((near, *around), key=lambda c: (abs(Fraction(float(c)) - exact), odd[float(c)]))


def measure_one(A: np.ndarray, T: int = 5, polish: int = 3, rounds: int = 2) -> dict[str, list]:
    """One matrix, one floating-point number at a time, written from the definition alone."""
    f32, f64 = np.float32, np.float64
    n = len(A)
    N = range(n)
    fused = [j < n // 12 * 12 for j in N]  # columns of products that add with one rounding a term
    a = [[f32(A[i, j]) for j in N] for i in N]
    s = _norm([x for row in a for x in row]) / f32(math.sqrt(n))
    s = f32(1e-12) if s < f32(1e-12) else s
    unit = [[x / s for x in row] for row in a]
    h = [[f64(x) for x in row] for row in unit]

    c = [f64(0)] * n + [f64(1)]
    M = {1: [[f64(i == j) for j in N] for i in N]}
    trace = h[0][0]
    for i in range(1, n):
        trace = trace + h[i][i]
    c[n - 1] = -trace
    for k in range(2, n + 1):
        before = M[k - 1]
        M[k] = [
            [h[i][j] if k == 2 else _dot(h[i], [before[m][j] for m in N], fused[j]) for j in N]
            for i in N
        ]
        for i in N:
            M[k][i][i] = M[k][i][i] + c[n - k + 1]
        c[n - k] = -(_total([h[i][j] * M[k][i][j] for i in N for j in N]) / f64(k))

    work = f32 if n <= 6 else f64
    q = [work(x) for x in c]
    diagonal = sorted(work(unit[i][i]) for i in N)
    guesses = [x + work(-1e-4 + 2e-4 * i / max(n - 1, 1)) for i, x in enumerate(diagonal)]
    roots, frictions, settles = [], [], []
    for slot in N:
        d, z, friction, settle = n - slot, guesses[slot], f32(0), T
        for t in range(T):
            v, v1, v2 = q[d], work(0), work(0)
            for j in range(d - 1, -1, -1):
                v2 = v2 * z + v1
                v1 = v1 * z + v
                v = v * z + q[j]
            friction = friction + f32(1) / (abs(f32(v1)) + f32(1e-8))
            if abs(v) < work(1e-6) and settle == T:
                settle = t
            G = H = work(0)
            if abs(v) > work(1e-30):
                G = v1 / v
                H = G * G - work(2) * (v2 / v)
            disc = work(d - 1) * (work(d) * H - G * G)
            root = np.sqrt(work(0) if disc < 0 else disc)
            den = G + root if abs(G + root) >= abs(G - root) else G - root
            if abs(den) > work(1e-20):
                z = z - work(d) * (work(1) / den)
        lower = [q[d]]
        for j in range(d - 1, 0, -1):
            lower.insert(0, q[j] + z * lower[0])
        q = lower
        roots.append(z)
        frictions.append(friction)
        settles.append(settle)

    columns = []
    for root in roots:
        z = f64(root)
        for _ in range(polish):
            p, p1 = c[n], f64(0)
            for j in range(n - 1, -1, -1):
                p1 = p1 * z + p
                p = p * z + c[j]
            if abs(p1) > 1e-30:
                z = z - p / p1
        R = [[f64(i == j) for j in N] for i in N]
        for k in range(2, n + 1):
            for i in N:
                for j in N:
                    if k == 2:
                        R[i][j] = M[2][i][j] + z if i == j else M[2][i][j]
                    else:
                        R[i][j] = R[i][j] * z + M[k][i][j]
        squares = [_dot([R[i][j] for i in N], [R[i][j] for i in N]) for j in N]
        best = max(N, key=lambda j: squares[j])
        length = np.sqrt(squares[best]) + f64(1e-30)
        columns.append([f32(R[i][best] / length) for i in N])

    def gram(vectors: list) -> list:
        return [[_dot(vectors[i], vectors[j], fused[j]) for j in N] for i in N]

    Y, X = gram(columns), None
    for _ in range(rounds):
        W = [[(f32(3) if i == j else f32(0)) - Y[i][j] for j in N] for i in N]
        XW = W
        if X is not None:
            XW = [[_dot(X[i], [W[m][j] for m in N], fused[j]) for j in N] for i in N]
        X = [[f32(0.5) * x for x in row] for row in XW]
        Y = [[f32(0.5) * _dot(W[i], [Y[m][j] for m in N], fused[j]) for j in N] for i in N]
    if X is not None:
        columns = [
            [_dot([columns[m][i] for m in N], [X[m][j] for m in N], fused[j]) for i in N] for j in N
        ]
    error = [[y - f32(i == j) for j, y in enumerate(row)] for i, row in enumerate(gram(columns))]
    residual = _norm([x for row in error for x in row])

    quotients = [_dot(v, [_dot(a[i], v, fused[j]) for i in N]) for j, v in enumerate(columns)]
    order = sorted(N, key=lambda i: quotients[i])[::-1]
    signed = []
    for v in columns:
        largest = max(v, key=abs)
        signed.append([-x for x in v] if largest < 0 else v)
    return {
        "eigenvalues": [quotients[i] for i in order],
        "eigenvectors": [[signed[i][k] for i in order] for k in N],
        "friction": [frictions[i] for i in order],
        "settle": [settles[i] for i in order],
        "slot": order,
        "char_coeffs": [f32(x) for x in c[:n]],
        "refinement_residual": residual,
    }


@pytest.fixture(scope="session")
def rounded_once() -> Callable:
    return _rounded_once


@pytest.fixture(scope="session")
def oracle() -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The scalar oracle on a batch of finite matrices."""

    def measure(A: np.ndarray, **rounds: int) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            each = [measure_one(matrix, **rounds) for matrix in A]
        kinds = {"settle": np.uint8, "slot": np.uint8}
        return {k: np.array([one[k] for one in each], kinds.get(k, np.float32)) for k in each[0]}

    return measure


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[object, object], None]:
    """Equal to the last bit, the sign of zero included; any NaN equals any NaN."""

    def check(got: object, expected: object, what: str = "") -> None:
        got, expected = np.asarray(got), np.asarray(expected)
        assert got.dtype == expected.dtype, what
        assert got.shape == expected.shape, what
        if got.dtype == np.float32:
            nan = np.isnan(got)
            np.testing.assert_array_equal(nan, np.isnan(expected), what)
            got = np.where(nan, 0, got.view(np.int32))
            expected = np.where(nan, 0, expected.view(np.int32))
        np.testing.assert_array_equal(got, expected, what)

    return check
