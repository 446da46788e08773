"""Results for people: text tables on a terminal, a small HTML block in a notebook.

Everything that came from a store is made printable here.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from frictionstore.text import printable

if TYPE_CHECKING:
    pass

MAX_ROWS = 24

_PIPE_WIDTH = 80
"""Of tables, where standard output is no terminal."""

_LEAST_TEXT = 12
"""A column of text is folded no narrower than this before columns are left out."""

_SMALLEST = 1e-300
"""p-values below it underflow: none is printed as 0."""

_PROBABILITY = re.compile(r"(.*_)?[pq]|[pq]_.*")
"""Columns that hold p or q."""


Columns = Mapping[str, Any]
POINTS = " percentage points"


def number(value: Any) -> str:
    """Return a number, or anything else, as a cell: four significant digits, "-" for NaN."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, (float, np.floating)):
        value = float(value)
        if math.isnan(value):
            return "-"
        if value == 0 or 1e-3 <= abs(value) < 1e6:
            digits = 4 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
            return f"{value:.{min(digits, 6)}f}"
        return f"{value:.2e}"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return printable(str(value), 60)


def p_text(p: float) -> str:
    """Return "p = 0.012", or "p < 1e-300" where it underflows."""
    if math.isnan(p):
        return "p not defined"
    return f"p {_probability(p)}" if p < _SMALLEST else f"p = {_probability(p)}"


def _probability(p: float) -> str:
    """Return a p or q with two significant digits, or the bound that it lies below; never 0."""
    if p < _SMALLEST:
        return f"< {_SMALLEST:g}"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval in words that follow "95% interval".

    Parameters
    ----------
    low, high
        Its ends. An infinite end, or one that is missing (None or NaN) while the other is not, is
        no bound; an interval of which both are missing is not defined.

    Returns
    -------
    str
        "0.63 to 0.81", "0.63 or more", "0.81 or less", "unbounded" or "not defined".
    """
    first, last = (math.nan if end is None else float(end) for end in (low, high))
    if math.isnan(first) and math.isnan(last):
        return "not defined"
    if math.isfinite(first):
        return (
            f"{number(first)} to {number(last)}"
            if math.isfinite(last)
            else f"{number(first)} or more"
        )
    return f"{number(last)} or less" if math.isfinite(last) else "unbounded"


def excluded(low: float | None, high: float | None, unit: str = "", of: str = "one") -> str:
    """Return what the interval of a difference rules out, to follow "no evidence of" it.

    Parameters
    ----------
    low, high
        The interval, both ends in the unit that is named.
    unit
        What follows the number: " percentage points".
    of
        What would be larger.

    Returns
    -------
    str
        ", and one larger than 1.3 percentage points is excluded", two significant digits and never
        less than the farther end; empty for an interval without two ends.
    """
    ends = [math.nan if end is None else abs(float(end)) for end in (low, high)]
    if not all(map(math.isfinite, ends)) or not max(ends):
        return ""
    # Upwards in decimal digits: the nearest number may lie inside the interval.
    most = Decimal(repr(max(ends)))
    most = most.quantize(Decimal((0, (1,), most.adjusted() - 1)), ROUND_CEILING)
    text = f"{most:f}" if 1e-4 <= most < 1e6 else f"{most:.1e}"
    return f", and {of} larger than {text}{unit} is excluded"


def cells(columns: Columns, rows: int) -> tuple[list[str], list[bool], list[list[str]]]:
    """Return heads, which columns are numbers, and rows of cells of a table.

    Columns "x_low" and "x_high" are the interval of "x" and share its cell.
    """
    names = _names(columns)
    heads, numeric, cut = [], [], []
    for name in names:
        values = list(columns[name][:rows])
        numbers = all(isinstance(v, (int, float, np.number, type(None))) for v in values)
        probability = _PROBABILITY.fullmatch(name) is not None
        shown = [
            _probability(float(v)).replace(" ", "")
            if probability and isinstance(v, (float, np.floating)) and not math.isnan(v)
            else number(v)
            for v in values
        ]
        head = printable(name.replace("_", " "), 40)
        if f"{name}_low" in columns and f"{name}_high" in columns:
            ends = [
                *zip(*(columns[f"{name}_{end}"][:rows] for end in ("low", "high")), strict=True)
            ]
            if not all(_missing(low) and _missing(high) for low, high in ends):
                head += " (95%)"
            shown = [
                text
                if _missing(low) and _missing(high)
                else f"{text} ({interval_text(low, high).replace(' to ', '..')})"
                for text, (low, high) in zip(shown, ends, strict=False)
            ]
        heads.append(head)
        numeric.append(numbers)
        cut.append(shown)
    return heads, numeric, [list(row) for row in zip(*cut, strict=True)]


def _names(columns: Columns) -> list[str]:
    """Return the columns that have a cell of their own."""
    return [
        name
        for name in columns
        if not any(name == f"{other}{end}" for other in columns for end in ("_low", "_high"))
    ]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def terminal_width() -> int:
    """Return the columns of the terminal, or 80 where standard output is none."""
    if not sys.stdout.isatty():
        return _PIPE_WIDTH
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns


def text_table(columns: Columns, *, width: int | None = None, name: str = "TABLE") -> str:
    """Return a table of aligned columns; numbers to the right, at most `MAX_ROWS` rows.

    What is wider than `width` is folded, intervals before text; columns that still do not fit are
    left out from the right and named below the table.

    Parameters
    ----------
    columns
        Column name to values.
    width
        Characters a line may have; None takes the terminal's.
    name
        The table's, for saying which file has all of it.
    """
    if not columns:
        return ""
    length = len(next(iter(columns.values())))
    heads, right, rows = cells(columns, MAX_ROWS)
    most = terminal_width() if width is None else width
    shown = len(heads)
    widths = _fold(heads, right, rows, most)
    while widths is None:
        shown -= 1
        widths = _fold(heads[:shown], right, [row[:shown] for row in rows], most)
    lines = _lines(heads[:shown], right, rows, widths)
    left = [printable(column, 40) for column in _names(columns)[shown:]]
    if left:
        note = (
            f"... {len(left)} more column{'s' if len(left) > 1 else ''} than fit in {most} "
            f"characters: {', '.join(left)}; --out FOLDER writes all to {name}.csv"
        )
        lines.extend(textwrap.wrap(note, most, break_on_hyphens=False))
    if length > MAX_ROWS:
        lines.append(f"... {length - MAX_ROWS} more rows; --out FOLDER or --json gives all")
    return "\n".join(lines)


def _fold(
    heads: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]], most: int
) -> list[int] | None:
    """Return the width of each column so that a line fits, None if folding cannot do that.

    A single column is given what there is.
    """
    natural = [
        max([len(row[j]) for row in rows] + [len(part) for part in _head(heads[j], rows, j)])
        for j in range(len(heads))
    ]
    words = [
        max(len(word) for text in [heads[j], *(row[j] for row in rows)] for word in text.split(" "))
        for j in range(len(heads))
    ]
    room = most - 2 * (len(heads) - 1)
    widths = list(natural)
    for j, number_column in enumerate(right):
        # A number and its interval may stand on two lines; neither is broken itself.
        if j < len(widths) and number_column and sum(widths) > room:
            widths[j] = words[j]
    excess = sum(widths) - room
    least = [min(natural[j], max(_LEAST_TEXT, min(words[j], 20))) for j in range(len(heads))]
    while excess > 0:
        spare = [j for j in range(len(widths)) if not right[j] and widths[j] > least[j]]
        if not spare:
            break
        widths[max(spare, key=lambda j: widths[j])] -= 1
        excess -= 1
    if excess > 0 and len(widths) > 1:
        return None
    return [max(min(one, most), 1) for one in widths]


def _head(head: str, rows: Sequence[Sequence[str]], j: int) -> list[str]:
    """Return a head on several lines, as narrow as its column allows."""
    return textwrap.wrap(
        head, max(9, *(len(row[j]) for row in rows), 0), break_long_words=False
    ) or [""]


def _lines(
    heads: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]], widths: list[int]
) -> list[str]:
    """Return a table's lines, cells folded to their column's width."""

    def block(row: Sequence[str], *, bottom: bool = False) -> list[str]:
        folded = [
            textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]
            for cell, width in zip(row, widths, strict=False)
        ]
        height = max(len(parts) for parts in folded)
        lines = []
        for k in range(height):
            line = []
            for parts, width, to_right in zip(folded, widths, right, strict=False):
                at = k - (height - len(parts)) if bottom else k
                cell = parts[at] if 0 <= at < len(parts) else ""
                line.append(cell.rjust(width) if to_right else cell.ljust(width))
            lines.append("  ".join(line).rstrip())
        return lines

    lines = block(heads, bottom=True)
    lines.append("  ".join("-" * width for width in widths))
    for row in rows:
        lines.extend(block(row))
    return lines
