"""The conduit in one pass on a CPU: `program.py` as vector instructions, one lane per matrix.

The program is written out as LLVM vector code through Numba, so that nothing but the operations it
names is computed: no contraction into fused multiply-add, no reordering, IEEE division and square
root. Lanes do not interact, hence no value depends on the batch, its split or the threads, and the
bits are those of `reference.py`. This file also holds the loop over matrices and the thread pool.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from frictionstore.extract.conduit import lanes, program, sums
from frictionstore.extract.conduit.constants import ConduitConstants

SMALLEST_N, LARGEST_N = 2, 8
SMALLEST_CHUNK, LARGEST_CHUNK = 1024, 8192  # matrices a thread takes at a time


@functools.cache
def _source_digest() -> str:
    # Part of every cached kernel's identity: Numba itself watches this file only.
    text = "".join(inspect.getsource(module) for module in (program, sums, lanes))
    return hashlib.sha256(text.encode()).hexdigest()


def _row_names(n: int, packet: bool) -> list[tuple[str, int]]:
    rows = [("measured", 1), ("rank", n), ("friction", n), ("settle", n), ("eigenvalues", n)]
    if packet:
        rows += [("refinement_residual", 1), ("char_coeffs", n), ("eigenvectors", n * n)]
    return rows


def _tile_function(module: ir.Module, specification: str) -> ir.Function:
    """The program on one tile: `width` matrices, entry by entry, to rows of results."""
    spec = json.loads(specification)
    n, width, packet = spec["n"], spec["width"], spec["packet"]
    pointer = lanes.FLOAT32.as_pointer()
    function = ir.Function(
        module,
        ir.FunctionType(ir.VoidType(), [pointer, pointer]),
        "conduit_" + hashlib.sha256(specification.encode()).hexdigest()[:16],
    )
    function.linkage = "internal"
    function.attributes.add("noinline")
    source, target = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    vector = ir.VectorType(lanes.FLOAT32, width)

    def address(base: ir.Value, row: int) -> ir.Value:
        first = builder.gep(base, [ir.Constant(ir.IntType(64), row * width)])
        return builder.bitcast(first, vector.as_pointer())

    A = [
        [lanes.Lanes(builder, builder.load(address(source, i * n + j), align=4)) for j in range(n)]
        for i in range(n)
    ]
    constants = ConduitConstants(**spec["constants"])
    fields = program.measure(lanes.LaneOperations(builder, width), A, constants, packet)
    row = 0
    for name, count in _row_names(n, packet):
        for x in fields[name][:count]:
            builder.store(x.vector, address(target, row), align=4)
            row += 1
    builder.ret_void()
    return function


@intrinsic(prefer_literal=True)
def _measure_tile(typingctx: Any, specification: Any, source: Any, target: Any) -> Any:
    """Run the program of a literal specification on a tile, both C-contiguous float32 arrays."""
    text = specification.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = _tile_function(builder.module, text)
        pointers = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[1:], args[1:], strict=True)
        ]
        builder.call(function, pointers)
        return context.get_dummy_value()

    return types.void(specification, source, target), codegen


def _specification(n: int, packet: bool, width: int, constants: ConduitConstants) -> str:
    return json.dumps(
        {
            "n": n,
            "packet": packet,
            "width": width,
            "constants": constants.as_dict(),
            "source": _source_digest(),
        }
    )


@functools.cache
def _kernel(n: int, packet: bool, width: int, constants: ConduitConstants) -> Callable[..., None]:
    """The loop over matrices: tiles in, the program, results out in the order of their ranks."""
    specification = _specification(n, packet, width, constants)
    iterations, entries = constants.iterations, n * n
    first_row = {}
    rows = 0
    for name, count in _row_names(n, packet):
        first_row[name] = rows
        rows += count
    rank_row, friction_row = first_row["rank"], first_row["friction"]
    settle_row, eigenvalue_row = first_row["settle"], first_row["eigenvalues"]
    # Without the packet these rows are never read; 0 keeps the compiled text the same.
    residual_row = first_row.get("refinement_residual", 0)
    coefficient_row = first_row.get("char_coeffs", 0)
    vector_row = first_row.get("eigenvectors", 0)
    nan = np.float32(np.nan)

    @numba.njit(cache=True, nogil=True)
    def measure(
        A: np.ndarray,
        first: int,
        last: int,
        friction: np.ndarray,
        settle: np.ndarray,
        slot: np.ndarray,
        eigenvalues: np.ndarray,
        eigenvectors: np.ndarray,
        char_coeffs: np.ndarray,
        refinement_residual: np.ndarray,
    ) -> None:
        source = np.zeros((entries, width), np.float32)
        target = np.empty((rows, width), np.float32)
        for start in range(first, last, width):
            count = min(width, last - start)
            for lane in range(count):
                for e in range(entries):
                    source[e, lane] = A[start + lane, e]
            _measure_tile(specification, source, target)  # type: ignore[call-arg]
            for lane in range(count):
                b = start + lane
                measured = target[0, lane] > 0
                for i in range(n):
                    if measured:
                        mode = n - 1 - int(target[rank_row + i, lane])
                        friction[b, mode] = target[friction_row + i, lane]
                        settle[b, mode] = np.uint8(target[settle_row + i, lane])
                        eigenvalues[b, mode] = target[eigenvalue_row + i, lane]
                    else:
                        mode = n - 1 - i
                        friction[b, mode] = nan
                        settle[b, mode] = np.uint8(iterations)
                        eigenvalues[b, mode] = nan
                    slot[b, mode] = np.uint8(i)
                    if packet:
                        for k in range(n):
                            x = target[vector_row + k * n + i, lane]
                            eigenvectors[b, k, mode] = x if measured else nan
                        x = target[coefficient_row + i, lane]
                        char_coeffs[b, i] = x if measured else nan
                if packet:
                    x = target[residual_row, lane]
                    refinement_residual[b] = x if measured else nan

    return measure


def vector_width() -> int:
    """Matrices per vector: what 512 bits hold in float32 where there are 512, else 256 bits."""
    return 16 if binding.get_host_cpu_features().get("avx512f", False) else 8


def measure(
    A: np.ndarray,
    want: Sequence[str],
    constants: ConduitConstants,
    threads: int | None = None,
    width: int | None = None,
) -> dict[str, np.ndarray]:
    """Measure a batch of matrices, with mode 0 the largest eigenvalue.

    Parameters
    ----------
    A : ndarray of shape (B, n, n), float32
        Symmetric matrices, n in 2..8. Both triangles are read.
    want : sequence of str
        Names of `Packet` fields; those beyond friction, settle, slot and eigenvalues cost a little.
    constants : ConduitConstants
    threads : int, optional
        All cores by default.
    width : int, optional
        Matrices per vector; `vector_width()` by default.

    Returns
    -------
    dict of ndarray
        The fields asked for, with the bits of `reference.measure`.
    """
    B, n = A.shape[:2]
    packet = not set(want) <= {"friction", "settle", "slot", "eigenvalues"}
    more = B if packet else 0
    fields: dict[str, np.ndarray] = {
        "friction": np.empty((B, n), np.float32),
        "settle": np.empty((B, n), np.uint8),
        "slot": np.empty((B, n), np.uint8),
        "eigenvalues": np.empty((B, n), np.float32),
        "eigenvectors": np.empty((more, n, n), np.float32),
        "char_coeffs": np.empty((more, n), np.float32),
        "refinement_residual": np.empty(more, np.float32),
    }
    kernel = _kernel(n, packet, vector_width() if width is None else width, constants)
    rows = np.ascontiguousarray(A).reshape(B, n * n)
    in_chunks(lambda first, last: kernel(rows, first, last, *fields.values()), B, threads)
    return {name: fields[name] for name in want}


def in_chunks(task: Callable[[int, int], None], count: int, threads: int | None) -> None:
    """Call `task(first, last)` over `range(count)` in chunks, on several threads if it pays."""
    workers = available_cores() if threads is None else threads
    chunk = min(max(-(-count // (4 * workers)), SMALLEST_CHUNK), LARGEST_CHUNK)
    starts = range(0, count, chunk)
    if workers == 1 or len(starts) < 2:
        task(0, count)
        return
    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        list(pool.map(lambda first: task(first, min(first + chunk, count)), starts))


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
