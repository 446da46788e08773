"""Triton source text for `program.py`: each value is a name, each operation a line.

A line does one operation and names its rounding, so that what the compiler gets is the program
itself. One element of each tensor belongs to one matrix.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable
from typing import Any

FLOAT32, FLOAT64, TRUTH = "tl.float32", "tl.float64", "tl.int1"


class Name:
    """A tensor in the generated text; its operators append lines."""

    def __init__(self, op: TextOperations, name: str, kind: str) -> None:
        self.op = op
        self.name = name
        self.kind = kind

    def _infix(self, symbol: str, other: Name, kind: str | None = None) -> Name:
        return self.op.assign(f"{self.name} {symbol} {other.name}", kind or self.kind)

    def __add__(self, other: Name) -> Name:
        return self._infix("+", other)

    def __sub__(self, other: Name) -> Name:
        return self._infix("-", other)

    def __mul__(self, other: Name) -> Name:
        return self._infix("*", other)

    def __truediv__(self, other: Name) -> Name:
        if self.kind == FLOAT32:  # `/` is an approximation in float32 and exact in float64
            return self.op.assign(f"tl.div_rn({self.name}, {other.name})", self.kind)
        return self._infix("/", other)

    def __lt__(self, other: Name) -> Name:
        return self._infix("<", other, TRUTH)

    def __gt__(self, other: Name) -> Name:
        return self._infix(">", other, TRUTH)

    def __ge__(self, other: Name) -> Name:
        return self._infix(">=", other, TRUTH)

    def __and__(self, other: Name) -> Name:
        return self._infix("&", other, TRUTH)


class TextOperations:
    """The `Operations` of `program.py`, appended to the lines of a function's body."""

    def __init__(self) -> None:
        self._constants: dict[tuple[float, str], Name] = {}
        self._head: list[str] = []
        self._body: list[str] = []
        self._indent = "    "
        self._count = 0

    def lines(self) -> list[str]:
        """The body so far, indented; constants come first."""
        return self._head + self._body

    def line(self, text: str) -> None:
        """Append a line as it is."""
        self._body.append(self._indent + text)

    def _new(self, kind: str) -> Name:
        self._count += 1
        return Name(self, f"x{self._count}", kind)

    def assign(self, text: str, kind: str) -> Name:
        """Append `name = text` and return the name."""
        new = self._new(kind)
        self.line(f"{new.name} = {text}")
        return new

    def constant(self, x: float, like: Name) -> Name:
        key = (x, like.kind)
        if key not in self._constants:
            new = self._constants[key] = self._new(like.kind)
            number = f'float("{x}")' if x in (float("inf"), float("-inf")) else repr(float(x))
            self._head.append(f"    {new.name} = tl.full((BLOCK,), {number}, {like.kind})")
        return self._constants[key]

    def to_float32(self, x: Name) -> Name:
        return self.assign(f"{x.name}.to({FLOAT32})", FLOAT32)

    def to_float64(self, x: Name) -> Name:
        return self.assign(f"{x.name}.to({FLOAT64})", FLOAT64)

    def square_root(self, x: Name) -> Name:
        # `sqrt` is an approximation in float32 and exact in float64.
        function = "tl.sqrt_rn" if x.kind == FLOAT32 else "tl.sqrt"
        return self.assign(f"{function}({x.name})", x.kind)

    def absolute(self, x: Name) -> Name:
        return self.assign(f"tl.abs({x.name})", x.kind)

    def negative(self, x: Name) -> Name:
        # Triton's unary minus is 0 - x, which loses the sign of zero.
        return x * self.constant(-1.0, x)

    def where(self, mask: Name, x: Name, y: Name) -> Name:
        return self.assign(f"tl.where({mask.name}, {x.name}, {y.name})", x.kind)

    def load(self, addresses: dict[str, str]) -> list[Name]:
        """Float32 variables of these names, read from these addresses where `inside` is true.

        Loads and stores stand in loops of `once` = 1 rounds that carry their pointers along. Around
        a pointer computed on the spot, Triton's coalescing pass walks through everything connected
        with it, in time quadratic in the length of the program: a minute for the conduit at n = 5,
        beyond all bounds at 8.
        """
        for name, address in addresses.items():
            self.line(f"p_{name} = {address}")
            self.line(f"{name} = tl.zeros((BLOCK,), tl.float32)")
        self.line("for _ in range(once):")
        for name in addresses:
            self.line(f"    {name} = tl.load(p_{name}, mask=inside, other=0.0)")
            self.line(f"    p_{name} += 1")
        return [Name(self, name, FLOAT32) for name in addresses]

    def store(self, values: Iterable[tuple[str, str]]) -> None:
        """Write variables: pairs of address and text. See `load` for the loop."""
        values = list(values)
        for number, (address, _) in enumerate(values):
            self.line(f"q{number} = {address}")
        self.line("for _ in range(once):")
        for number, (_, value) in enumerate(values):
            self.line(f"    tl.store(q{number}, {value}, mask=inside)")
            self.line(f"    q{number} += 1")

    def repeat(
        self, count: int, state: list[Name], body: Callable[[list[Name]], list[Name]]
    ) -> list[Name]:
        return self.repeat_indexed(count, state, lambda _, now: body(now))

    def repeat_indexed(
        self, count: int, state: list[Name], body: Callable[[str, list[Name]], list[Name]]
    ) -> list[Name]:
        """`repeat` with the number of the round, as text, as the body's first argument."""
        if count == 0:
            return state
        carried = [self._new(x.kind) for x in state]
        for new, old in zip(carried, state, strict=True):
            self.line(f"{new.name} = {old.name}")
        self.loop(str(count), carried, body)
        return carried

    def position(self, outer: int | str, size: int, inner: int | str) -> str:
        """`outer * size + inner` of rounds or numbers."""
        return f"({outer} * {size} + {inner})"

    def power_of_rounded(self, x: Name) -> Name:
        """`2**n` where `x` is `n + 1.5 * 2**23`: the low bits of x are those of n."""
        bits = f"({x.name}.to(tl.int32, bitcast=True) << 23) + {0x3F800000}"
        return self.assign(f"({bits}).to({FLOAT32}, bitcast=True)", FLOAT32)

    def each(self, values: list[Name], body: Callable[[Name], list[Name]]) -> list[list[Name]]:
        """A loop whose rounds select a value and put their results, as many, in its place.

        Written out, eigenvectors alone were a third of the conduit's program at n = 8, and the
        time to compile a program is more than proportional to its length.
        """
        places = range(len(values))
        results = [[self._new(FLOAT32) for _ in places] for _ in places]
        for x in (x for row in results for x in row):
            self.line(f"{x.name} = tl.zeros((BLOCK,), tl.float32)")
        self.line(f"for turn in range({len(values)}):")
        outer, self._indent = self._indent, self._indent + "    "
        chosen = values[-1]
        for i in places[:-1]:
            text = f"tl.where(turn == {i}, {values[i].name}, {chosen.name})"
            chosen = self.assign(text, chosen.kind)
        new = body(chosen)
        for i in places:
            for x, y in zip(results[i], new, strict=True):
                self.line(f"{x.name} = tl.where(turn == {i}, {y.name}, {x.name})")
        self._indent = outer
        return results

    def in_parts(
        self, values: list[Name], body: Callable[[TextOperations, list[Name]], list[Name]]
    ) -> list[Name]:
        return body(self, values)

    def whole(self, values: list[Name]) -> list[Name]:
        return values

    def loop(
        self, count: str, state: list[Name], body: Callable[[str, list[Name]], list[Name]]
    ) -> None:
        """Reassign `state` to `body(round, state)`, `count` times; `count` is text."""
        self._count += 1
        turn = f"round{self._count}"
        self.line(f"for {turn} in range({count}):")
        outer, self._indent = self._indent, self._indent + "    "
        after = body(turn, state)
        self.line(f"{', '.join(x.name for x in state)} = {', '.join(x.name for x in after)}")
        self._indent = outer


def triton_function(signature: str, op: TextOperations, name: str) -> Any:
    """The Triton function `signature` with the lines of `op` as its body.

    `name` stands for a file's name and says all that the text depends on.
    """
    import triton
    import triton.language as tl

    source = "\n".join([f"def {signature}:", *op.lines(), ""])
    # Triton reads a function's text back through the standard library's line cache.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(source, name, "exec"), namespace)
    # Specialised, a 1 would become a constant and its loop vanish; and counts would each compile.
    return triton.jit(
        namespace[signature.partition("(")[0]],
        do_not_specialize=["once", "matrix_rows", "count"],
    )
