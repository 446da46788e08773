"""The order in which the conduit adds, where the definition leaves it open.

A fixed order makes the bits independent of batch, device and kernel. The orders are those in which
upstream's numbers were computed on a CPU (256-bit running sums): the polynomials then agree with
upstream's to the last bit, and so do degenerate matrices up to n = 8, where every bit counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

COLUMNS = 12  # of a product of matrices, that the library keeps in its registers


def fused_columns(n: int) -> int:
    """How many columns of a product of order n add their terms with one rounding each.

    Whole groups of COLUMNS do, by fused multiply-add; in the columns left over, a term is rounded
    before it is added. From n = 12 on the polynomial is so ill-conditioned that this decides digits
    of the small eigenvalues.
    """
    return n // COLUMNS * COLUMNS


def in_order(terms: Iterable[Any]) -> Any:
    """The terms added from first to last."""
    rest = iter(terms)
    total = next(rest)
    for term in rest:
        total = total + term
    return total


def over_entries(entries: Sequence[Any]) -> Any:
    """A float64 sum over a matrix's entries, given row by row.

    Groups of four entries make vectors. Vector `g` goes to stream `g mod 4` as long as all four
    streams get one more, the vectors left over go to stream 0; then the streams are added, then
    the entries that did not fill a vector and, after them, the four lanes.
    """
    vectors = [entries[e : e + 4] for e in range(0, len(entries) // 4 * 4, 4)]
    even = len(vectors) // 4 * 4
    streams = [list(vectors[k:even:4]) for k in range(4)]
    streams[0] += vectors[even:]
    lanes = [
        in_order([in_order([vector[lane] for vector in stream]) for stream in streams if stream])
        for lane in range(4 if vectors else 0)
    ]
    return in_order([*entries[4 * len(vectors) :], *lanes])


def of_squares(entries: Sequence[Any], fused_add: Callable[[Any, Any], Any]) -> Any:
    """A float32 sum of the squares of a matrix's entries, given row by row.

    Entry `e` goes to running sum `e mod 8` as far as whole groups of eight go; the running sums are
    added from first to last and then the squares left over. If that is one square, which is so for
    every odd order from 3 on, `fused_add(total, x)` gives `total + x*x` with one rounding.
    """
    whole = len(entries) // 8 * 8
    squares = [x * x for x in entries[:whole]]
    rest = entries[whole:]
    running = [in_order(squares[e::8]) for e in range(8 if whole else 0)]
    if len(rest) == 1 and running:
        return fused_add(in_order(running), rest[0])
    return in_order([*running, *[x * x for x in rest]])
