"""LLVM vector values for `program.py`: each value holds one number for each of several matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

FLOAT32 = ir.FloatType()
FLOAT64 = ir.DoubleType()


class Lanes:
    """A vector of float32, float64 or truth values; its operators append instructions."""

    def __init__(self, builder: ir.IRBuilder, vector: Any) -> None:
        self.builder = builder
        self.vector = vector

    def _with(self, vector: Any) -> Lanes:
        return Lanes(self.builder, vector)

    def __add__(self, other: Lanes) -> Lanes:
        return self._with(self.builder.fadd(self.vector, other.vector))

    def __sub__(self, other: Lanes) -> Lanes:
        return self._with(self.builder.fsub(self.vector, other.vector))

    def __mul__(self, other: Lanes) -> Lanes:
        return self._with(self.builder.fmul(self.vector, other.vector))

    def __truediv__(self, other: Lanes) -> Lanes:
        return self._with(self.builder.fdiv(self.vector, other.vector))

    def _compare(self, relation: str, other: Lanes) -> Lanes:
        return self._with(self.builder.fcmp_ordered(relation, self.vector, other.vector))

    def __lt__(self, other: Lanes) -> Lanes:
        return self._compare("<", other)

    def __gt__(self, other: Lanes) -> Lanes:
        return self._compare(">", other)

    def __ge__(self, other: Lanes) -> Lanes:
        return self._compare(">=", other)

    def __and__(self, other: Lanes) -> Lanes:
        return self._with(self.builder.and_(self.vector, other.vector))


class Memory:
    """Vectors on the stack, by place."""

    def __init__(self, builder: ir.IRBuilder, count: int, kind: Any) -> None:
        self.builder = builder
        with builder.goto_entry_block():
            self.base = builder.alloca(ir.ArrayType(kind, count))
        self.base.align = 64

    def _address(self, place: int | ir.Value) -> ir.Value:
        integer = ir.IntType(64)
        index = place if isinstance(place, ir.Value) else integer(place)
        return self.builder.gep(self.base, [integer(0), index], inbounds=True)

    def load(self, place: int | ir.Value) -> Lanes:
        return Lanes(self.builder, self.builder.load(self._address(place)))

    def store(self, place: int | ir.Value, x: Lanes) -> None:
        self.builder.store(x.vector, self._address(place))


class Parts:
    """A value of `width` lanes in narrower vectors, first lanes first."""

    def __init__(self, parts: list[Lanes]) -> None:
        self.parts = parts


class LaneOperations:
    """The `Operations` of `program.py` on `width` lanes, appended at a builder's position.

    `part` lanes at a time go through a body of `in_parts`: in float64 a matrix of order 4 then fits
    the registers, where `width` lanes of it would be written out and read back at every step.
    """

    def __init__(self, builder: ir.IRBuilder, width: int, part: int | None = None) -> None:
        self.builder = builder
        self.width = width
        self.part = width if part is None else min(part, width)

    def constant(self, x: float, like: Lanes) -> Lanes:
        kind = like.vector.type
        return Lanes(self.builder, ir.Constant(kind, [x] * self.width))

    def _cast(self, x: Lanes, to: Any, instruction: Callable[..., Any]) -> Lanes:
        return Lanes(self.builder, instruction(x.vector, ir.VectorType(to, self.width)))

    def to_float32(self, x: Lanes) -> Lanes:
        return self._cast(x, FLOAT32, self.builder.fptrunc)

    def to_float64(self, x: Lanes) -> Lanes:
        return self._cast(x, FLOAT64, self.builder.fpext)

    def _intrinsic(self, name: str, x: Lanes, *others: Lanes) -> Lanes:
        kind = x.vector.type
        full_name = f"{name}.v{self.width}{'f32' if kind.element == FLOAT32 else 'f64'}"
        module = self.builder.module
        function = module.globals.get(full_name)
        if function is None:
            given = [kind] * (1 + len(others))
            function = ir.Function(module, ir.FunctionType(kind, given), full_name)
        return Lanes(self.builder, self.builder.call(function, [y.vector for y in (x, *others)]))

    def square_root(self, x: Lanes) -> Lanes:
        return self._intrinsic("llvm.sqrt", x)

    def absolute(self, x: Lanes) -> Lanes:
        return self._intrinsic("llvm.fabs", x)

    def negative(self, x: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(x.vector))

    def where(self, mask: Lanes, x: Lanes, y: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.select(mask.vector, x.vector, y.vector))

    def fused(self, x: Lanes, y: Lanes, z: Lanes) -> Lanes:
        return self._intrinsic("llvm.fma", x, y, z)

    def memory(self, count: int, like: Lanes) -> Memory:
        return Memory(self.builder, count, like.vector.type)

    def where_same(self, i: int | ir.Value, j: int | ir.Value, x: Lanes, y: Lanes) -> Lanes:
        integer = ir.IntType(64)
        a, b = (k if isinstance(k, ir.Value) else integer(k) for k in (i, j))
        same = self.builder.icmp_signed("==", a, b)
        return Lanes(self.builder, self.builder.select(same, x.vector, y.vector))

    def repeat(
        self, count: int, state: list[Lanes], body: Callable[[list[Lanes]], list[Lanes]]
    ) -> list[Lanes]:
        return self.repeat_indexed(count, state, lambda _, now: body(now))

    def repeat_indexed(
        self,
        count: int,
        state: list[Lanes],
        body: Callable[[ir.Value, list[Lanes]], list[Lanes]],
    ) -> list[Lanes]:
        """`repeat` with the number of the round, an integer value, as the body's first argument."""
        if count == 0:
            return state
        builder, integer = self.builder, ir.IntType(64)
        before = builder.block
        loop = builder.append_basic_block("rounds")
        after = builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(integer)
        carried = [builder.phi(x.vector.type) for x in state]
        new = body(index, [Lanes(builder, phi) for phi in carried])
        following = builder.add(index, ir.Constant(integer, 1))
        end = builder.block  # the body may hold loops of its own
        index.add_incoming(ir.Constant(integer, 0), before)
        index.add_incoming(following, end)
        for phi, old, x in zip(carried, state, new, strict=True):
            phi.add_incoming(old.vector, before)
            phi.add_incoming(x.vector, end)
        again = builder.icmp_signed("<", following, ir.Constant(integer, count))
        builder.cbranch(again, loop, after)
        builder.position_at_end(after)
        return [Lanes(builder, x.vector) for x in new]

    def each(self, values: list[Lanes], body: Callable[[Lanes], list[Lanes]]) -> list[list[Lanes]]:
        return [body(x) for x in values]

    def position(self, outer: int | ir.Value, size: int, inner: int | ir.Value) -> Any:
        """`outer * size + inner` of rounds or numbers."""
        integer = ir.IntType(64)
        a, b = (x if isinstance(x, ir.Value) else integer(x) for x in (outer, inner))
        return self.builder.add(self.builder.mul(a, integer(size)), b)

    def power_of_rounded(self, x: Lanes) -> Lanes:
        """`2**n` where `x` is `n + 1.5 * 2**23`: the low bits of x are those of n."""
        whole = ir.VectorType(ir.IntType(32), self.width)

        def constant(number: int) -> ir.Constant:
            return ir.Constant(whole, [number] * self.width)

        bits = self.builder.shl(self.builder.bitcast(x.vector, whole), constant(23))
        bits = self.builder.add(bits, constant(0x3F800000))
        return Lanes(self.builder, self.builder.bitcast(bits, x.vector.type))

    def _lanes(self, x: Lanes, first: int, count: int) -> Lanes:
        if count == self.width:
            return x
        mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
        return Lanes(self.builder, self.builder.shuffle_vector(x.vector, x.vector, mask))

    def in_parts(
        self,
        values: list[Any],
        body: Callable[[LaneOperations, list[Lanes]], list[Lanes]],
    ) -> list[Parts]:
        operations = LaneOperations(self.builder, self.part)
        results = []
        for number, first in enumerate(range(0, self.width, self.part)):
            given = [
                x.parts[number] if isinstance(x, Parts) else self._lanes(x, first, self.part)
                for x in values
            ]
            results.append(body(operations, given))
        return [Parts(list(parts)) for parts in zip(*results, strict=True)]

    def whole(self, values: list[Parts]) -> list[Lanes]:
        return [self._join([x.vector for x in value.parts]) for value in values]

    def _join(self, vectors: list[Any]) -> Lanes:
        while len(vectors) > 1:
            count = 2 * vectors[0].type.count
            mask = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(count)))
            vectors = [
                self.builder.shuffle_vector(vectors[k], vectors[k + 1], mask)
                for k in range(0, len(vectors), 2)
            ]
        return Lanes(self.builder, vectors[0])
