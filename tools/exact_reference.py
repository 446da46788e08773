"""The definition's step 3 carried out in 120 digits: the numbers of tests/data/conduit/exact.npz.

    python tools/exact_reference.py tests/data/conduit/exact.npz

measures the matrices of that file again (half an hour) and writes friction and settle, largest
root first. `settle_margin` is the smallest | |p| - tau | / tau on the way to settling: where it is
tiny, no finite precision decides settle.

Written from the definition, coefficients, Horner and synthetic division included, and sharing
nothing with frictionstore/extract/conduit/exact.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import mpmath  # type: ignore[import-untyped]
import numpy as np

from frictionstore.extract.conduit import ConduitConstants

DIGITS = 120
MATRICES = Path(__file__).parents[1] / "tests" / "data" / "conduit" / "exact.npz"
Number = Any


def _polynomial(A: list[list[Number]]) -> list[Number]:
    """Faddeev-LeVerrier: `c_0 .. c_n`."""
    n = len(A)
    c = [mpmath.mpf(0)] * n + [mpmath.mpf(1)]
    M = [[mpmath.mpf(0)] * n for _ in range(n)]
    for k in range(1, n + 1):
        M = [[mpmath.fdot(A[i], [M[m][j] for m in range(n)]) for j in range(n)] for i in range(n)]
        for i in range(n):
            M[i][i] += c[n - k + 1]
        trace = mpmath.fsum(A[i][j] * M[j][i] for i in range(n) for j in range(n))
        c[n - k] = -trace / k
    return c


def measure(matrix: np.ndarray, constants: ConduitConstants) -> dict[str, list[float]]:
    """Friction, settle and settle's margin of one matrix, by mode, largest root first."""
    with mpmath.workdps(DIGITS):
        return _measure(matrix, constants)


def _measure(matrix: np.ndarray, constants: ConduitConstants) -> dict[str, list[float]]:
    mpf, rounds = mpmath.mpf, constants.iterations
    n = len(matrix)
    A = [[mpf(float(x)) for x in row] for row in matrix]
    norm = mpmath.sqrt(mpmath.fsum(x * x for row in A for x in row))
    scale = max(norm / mpmath.sqrt(n), mpf("1e-12"))
    A = [[x / scale for x in row] for row in A]
    delta, tau = mpf(constants.delta), mpf(constants.tau)

    q = _polynomial(A)
    guesses = sorted(A[i][i] for i in range(n))
    found = []
    for slot in range(n):
        d = n - slot
        share = mpf(slot) / (n - 1) if n > 1 else mpf(0)
        z = guesses[slot] - mpf("1e-4") + mpf("2e-4") * share
        friction, settle, margin = mpf(0), rounds, mpf("inf")
        for t in range(rounds):
            v, v1, v2 = q[d], mpf(0), mpf(0)
            for j in range(d - 1, -1, -1):
                v2 = v2 * z + v1
                v1 = v1 * z + v
                v = v * z + q[j]
            friction += 1 / (abs(v1) + delta)
            if settle == rounds:
                margin = min(margin, abs(abs(v) - tau) / tau)
                if abs(v) < tau:
                    settle = t
            away = abs(v) > mpf("1e-30")
            G = v1 / v if away else mpf(0)
            H = G * G - 2 * v2 / v if away else mpf(0)
            root = mpmath.sqrt(max((d - 1) * (d * H - G * G), mpf(0)))
            den = G + root if abs(G + root) >= abs(G - root) else G - root
            if abs(den) > mpf("1e-20"):
                z -= d / den
        found.append((z, friction, settle, margin))
        running, shorter = q[d], [mpf(0)] * d
        for j in range(d - 1, -1, -1):
            shorter[j] = running
            running = q[j] + z * running
        q = shorter
    found = sorted(found, key=lambda one: one[0])[::-1]  # of equal roots the later slot is first
    return {
        "friction": [float(one[1]) for one in found],
        "settle": [one[2] for one in found],
        "settle_margin": [float(one[3]) for one in found],
    }


@click.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--matrices", default=MATRICES, type=click.Path(path_type=Path, exists=True))
@click.option("--only", default="", help="Families whose names begin with this.")
def main(out: Path, matrices: Path, only: str) -> None:
    with np.load(matrices) as stored:
        given = {k: v for k, v in stored.items() if k.endswith("/A") and k.startswith(only)}
    made: dict[str, np.ndarray] = {}
    for key, A in given.items():
        click.echo(key, err=True)
        family = key.rpartition("/")[0]
        each = [measure(matrix, ConduitConstants()) for matrix in A]
        made[key] = A
        for name, dtype in (("friction", "f8"), ("settle", "u1"), ("settle_margin", "f8")):
            made[f"{family}/{name}"] = np.array([one[name] for one in each], dtype)
    np.savez_compressed(out, **made)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
