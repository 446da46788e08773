"""Plain Numba against the vector code: is the layer that writes LLVM's language worth its lines?

    python benchmarks/bench_numba_source.py

The conduit's program is written out as Python source, one scalar to a name, in a loop over the
matrices of a tile that Numba's compiler is left to turn into vectors; and, as the package does, as
vector instructions (`kernels/lanes.py`, `tiles.py`). Same program, same matrices, in turns, on
one thread; the bits are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import harness
import numba
import numpy as np
from bench_conduit import encoder_like

from frictionstore.extract.conduit import program
from frictionstore.extract.conduit.constants import DEFAULTS
from frictionstore.extract.conduit.kernels.cpu import conduit as vector_code
from frictionstore.extract.conduit.kernels.cpu.gram import gram_from_spectrum, spectrum

WIDTH = 16


class Scalar:
    """A name in the source; its operators append lines."""

    def __init__(self, op: Source, name: str, kind: str) -> None:
        self.op, self.name, self.kind = op, name, kind

    def _infix(self, symbol: str, other: Scalar, kind: str | None = None) -> Scalar:
        return self.op.assign(f"{self.name} {symbol} {other.name}", kind or self.kind)

    def __add__(self, other: Scalar) -> Scalar:
        return self._infix("+", other)

    def __sub__(self, other: Scalar) -> Scalar:
        return self._infix("-", other)

    def __mul__(self, other: Scalar) -> Scalar:
        return self._infix("*", other)

    def __truediv__(self, other: Scalar) -> Scalar:
        return self._infix("/", other)

    def __lt__(self, other: Scalar) -> Scalar:
        return self._infix("<", other, "bool")

    def __gt__(self, other: Scalar) -> Scalar:
        return self._infix(">", other, "bool")

    def __ge__(self, other: Scalar) -> Scalar:
        return self._infix(">=", other, "bool")

    def __and__(self, other: Scalar) -> Scalar:
        return self._infix("&", other, "bool")


class Source:
    """The `Operations` of `program.py` as lines of Python."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, np.floating[Any]] = {}

    def assign(self, text: str, kind: str) -> Scalar:
        name = f"x{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return Scalar(self, name, kind)

    def constant(self, x: float, like: Scalar) -> Scalar:
        name = f"c{like.kind}_{len(self.constants)}"
        self.constants[name] = np.dtype(like.kind).type(x)
        return Scalar(self, name, like.kind)

    def to_float32(self, x: Scalar) -> Scalar:
        return self.assign(f"np.float32({x.name})", "float32")

    def to_float64(self, x: Scalar) -> Scalar:
        return self.assign(f"np.float64({x.name})", "float64")

    def square_root(self, x: Scalar) -> Scalar:
        return self.assign(f"np.sqrt({x.name})", x.kind)

    def absolute(self, x: Scalar) -> Scalar:
        return self.assign(f"abs({x.name})", x.kind)

    def negative(self, x: Scalar) -> Scalar:
        return self.assign(f"-{x.name}", x.kind)

    def where(self, mask: Scalar, x: Scalar, y: Scalar) -> Scalar:
        return self.assign(f"{x.name} if {mask.name} else {y.name}", x.kind)

    def repeat(
        self, count: int, state: list[Scalar], body: Callable[[list[Scalar]], list[Scalar]]
    ) -> list[Scalar]:
        for _ in range(count):  # a loop inside would keep the loop over matrices from vectors
            state = body(state)
        return state

    def each(
        self, values: list[Scalar], body: Callable[[Scalar], list[Scalar]]
    ) -> list[list[Scalar]]:
        return [body(x) for x in values]

    def in_parts(
        self, values: list[Scalar], body: Callable[[Source, list[Scalar]], list[Scalar]]
    ) -> list[Scalar]:
        return body(self, values)

    def whole(self, values: list[Scalar]) -> list[Scalar]:
        return values


def plain(n: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """Friction, settle and rank by slot of matrices (entry, matrix), through plain Numba."""
    op = Source()
    A = [[op.assign(f"A[{i * n + j}, m]", "float32") for j in range(n)] for i in range(n)]
    fields = program.measure(op, A, DEFAULTS, False)  # type: ignore[arg-type]
    rows = [x for name in ("friction", "settle", "rank") for x in fields[name]]
    body = [*op.lines, *(f"out[{k}, m] = {x.name}" for k, x in enumerate(rows))]
    text = "def run(A, out):\n    for m in range(A.shape[1]):\n"
    text += "".join(f"        {line}\n" for line in body)
    namespace: dict[str, Any] = {"np": np, **op.constants}
    exec(compile(text, f"<plain {n}>", "exec"), namespace)
    return numba.njit(nogil=True, error_model="numpy")(namespace["run"])


def measure(n: int, count: int, rounds: int) -> dict[str, Any]:
    A = gram_from_spectrum(*spectrum(encoder_like(n, count)))
    columns = np.ascontiguousarray(A.reshape(count, -1).T)
    out = np.empty((3 * n, count), np.float32)
    started = time.perf_counter()
    run = plain(n)
    run(columns[:, :WIDTH], out[:, :WIDTH])
    compiled = time.perf_counter() - started
    seconds = harness.side_by_side(
        {
            "plain": lambda: run(columns, out),
            "vectors": lambda: vector_code.measure(A, ("friction", "settle"), DEFAULTS, 1),
        },
        rounds,
    )
    made = vector_code.measure(A, ("friction", "settle"), DEFAULTS, 1)
    modes = n - 1 - out[2 * n :].astype(int)
    friction = np.empty_like(out[:n])
    np.put_along_axis(friction, modes, out[:n], axis=0)
    return {
        "n": n,
        "plain_us": 1e6 * seconds["plain"] / count,
        "vectors_us": 1e6 * seconds["vectors"] / count,
        "plain_over_vectors": seconds["plain"] / seconds["vectors"],
        "plain_compiled_s": compiled,
        "same_bits": bool((made["friction"] == friction.T).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    harness.save(
        "numba_source",
        [measure(n, arguments.count, arguments.rounds) for n in (4, 6)],
        "friction and settle through plain Numba and as vector instructions, one thread",
    )


if __name__ == "__main__":
    main()
