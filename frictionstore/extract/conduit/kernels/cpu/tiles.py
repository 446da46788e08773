"""Compiled tiles: a program over one vector of matrices, its loop over a batch, and the threads.

A tile holds its numbers entry by entry, `width` matrices side by side, so that each row of it is
one vector of `lanes.py`. Which program fills the tile's results is named in a specification, a
literal text that is also what a cached kernel is recognised by.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from frictionstore.cores import cores
from frictionstore.extract.conduit.kernels import lanes

SMALLEST_CHUNK, LARGEST_CHUNK = 1024, 8192  # matrices a thread takes at a time


class Tile:
    """The rows a program reads and writes, for use while its code is generated."""

    def __init__(self, op: lanes.LaneOperations, source: ir.Value, target: ir.Value) -> None:
        self.op = op
        self._source = source
        self._target = target
        self._stored = 0

    def _address(
        self, base: ir.Value, row: int | ir.Value, kind: ir.Type = lanes.FLOAT32
    ) -> ir.Value:
        builder, width, integer = self.op.builder, self.op.width, ir.IntType(64)
        if isinstance(row, int):
            first = ir.Constant(integer, row * width)
        else:
            first = builder.mul(row, ir.Constant(integer, width))
        return builder.bitcast(builder.gep(base, [first]), ir.VectorType(kind, width).as_pointer())

    def load(self, row: int | ir.Value) -> lanes.Lanes:
        """A row of the source, float32."""
        address = self._address(self._source, row)
        return lanes.Lanes(self.op.builder, self.op.builder.load(address, align=4))

    def spread(self, place: ir.Value) -> lanes.Lanes:
        """One float32 number of the source, in every lane."""
        builder, op = self.op.builder, self.op
        number = builder.load(builder.gep(self._source, [place]), align=4)
        vector = ir.VectorType(lanes.FLOAT32, op.width)
        single = builder.insert_element(
            ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0)
        )
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), op.width), [0] * op.width)
        return lanes.Lanes(builder, builder.shuffle_vector(single, single, zeros))

    def store(self, *rows: lanes.Lanes) -> None:
        """Append rows to the target; one of float64 takes the place of two."""
        for x in rows:
            kind = x.vector.type.element
            address = self._address(self._target, self._stored, kind)
            self.op.builder.store(x.vector, address, align=4)
            self._stored += 2 if kind == lanes.FLOAT64 else 1


@functools.cache
def source_digest() -> str:
    # Part of every cached kernel's identity: Numba itself watches only the file with the loop.
    files = sorted(Path(__file__).parents[2].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def specification(module: str, **settings: Any) -> str:
    """The literal text that names a tile program: `emit(tile, settings)` of a module here."""
    part = max(1, register_width() // 2)  # float64 numbers in a register
    named = {"module": module, "source": source_digest(), "part": part, **settings}
    return json.dumps(named, sort_keys=True)


def _tile_function(module: ir.Module, text: str) -> ir.Function:
    settings = json.loads(text)
    pointer = lanes.FLOAT32.as_pointer()
    function = ir.Function(
        module,
        ir.FunctionType(ir.VoidType(), [pointer, pointer]),
        "tile_" + hashlib.sha256(text.encode()).hexdigest()[:16],
    )
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    operations = lanes.LaneOperations(builder, settings["width"], settings["part"])
    tile = Tile(operations, *function.args)
    program = importlib.import_module(settings["module"])
    program.emit(tile, settings)
    builder.ret_void()
    return function


@intrinsic(prefer_literal=True)
def run_tile(typingctx: Any, text: Any, source: Any, target: Any) -> Any:
    """Run the program of a literal specification on two C-contiguous float32 arrays."""
    literal = text.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = _tile_function(builder.module, literal)
        pointers = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[1:], args[1:], strict=True)
        ]
        builder.call(function, pointers)
        return context.get_dummy_value()

    return types.void(text, source, target), codegen


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors: pairs of rows exchange ever larger blocks."""
    width, integer = len(rows), ir.IntType(32)
    size = 1
    while size < width:
        low = [i if not i & size else width + i - size for i in range(width)]
        high = [i + size if not i & size else width + i for i in range(width)]
        masks = [ir.Constant(ir.VectorType(integer, width), mask) for mask in (low, high)]
        for i in range(width):
            if not i & size:
                pair = rows[i], rows[i + size]
                rows[i], rows[i + size] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        size *= 2
    return rows


def square_of(entries: int, width: int) -> int:
    """Side of the squares in which `gather_tile` can transpose; below 4 it is no use."""
    return math.gcd(entries, width, 16)


@intrinsic(prefer_literal=True)
def gather_tile(
    typingctx: Any, entries: Any, width: Any, matrices: Any, first: Any, source: Any
) -> Any:
    """Copy `width` matrices from the flat array `matrices` at `first` into the tile `source`.

    `entries`, the numbers in a matrix, and `width` are literals.
    """
    count, lanes_wide = entries.literal_value, width.literal_value
    side = square_of(count, lanes_wide)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = [
            context.make_array(signature.args[k])(context, builder, args[k]).data for k in (2, 4)
        ]
        vector = ir.VectorType(lanes.FLOAT32, side).as_pointer()
        integer = ir.IntType(64)

        def address(base: ir.Value, index: ir.Value) -> ir.Value:
            return builder.bitcast(builder.gep(base, [index]), vector)

        for lane in range(0, lanes_wide, side):
            for e in range(0, count, side):
                starts = [integer((lane + k) * count + e) for k in range(side)]
                rows = [
                    builder.load(address(data[0], builder.add(args[3], start)), align=4)
                    for start in starts
                ]
                for k, column in enumerate(_transposed(builder, rows)):
                    place = address(data[1], integer((e + k) * lanes_wide + lane))
                    builder.store(column, place, align=4)
        return context.get_dummy_value()

    return types.void(entries, width, matrices, types.int64, source), codegen


@functools.cache  # asking takes longer than measuring a thousand matrices
def register_width() -> int:
    """float32 numbers in one of the processor's vector registers: 512 bits where there are 512."""
    return 16 if binding.get_host_cpu_features().get("avx512f", False) else 8


def in_chunks(
    task: Callable[[int, int], None], count: int, threads: int | None, smallest: int | None = None
) -> None:
    """Call `task(first, last)` over `range(count)` in chunks, on several threads if it pays.

    `smallest` is the least that a thread takes at a time, SMALLEST_CHUNK by default.
    """
    workers = cores() if threads is None else threads
    least = SMALLEST_CHUNK if smallest is None else smallest
    chunk = min(max(-(-count // (4 * workers)), least), LARGEST_CHUNK)
    starts = range(0, count, chunk)
    if workers == 1 or len(starts) < 2:
        task(0, count)
        return
    with ThreadPoolExecutor(min(workers, len(starts))) as pool:
        list(pool.map(lambda first: task(first, min(first + chunk, count)), starts))
