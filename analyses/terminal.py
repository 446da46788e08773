"""Results for people: text tables on a terminal, a small HTML block in a notebook.

Everything that came from a store is made printable here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from analyses.results import Columns, Result
from frictionstore.text import printable

MAX_ROWS = 24
_WIDTH = 100


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
    return printable(str(value), 40)


def p_text(p: float) -> str:
    """Return "p = 0.012", or "p < 1e-300" where it underflows."""
    if math.isnan(p):
        return "p not defined"
    if p == 0:
        return "p < 1e-300"
    return f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def cells(columns: Columns, rows: int) -> tuple[list[str], list[bool], list[list[str]]]:
    """Return heads, which columns are numbers, and rows of cells of a table.

    Columns "x_low" and "x_high" are the interval of "x" and share its cell.
    """
    names = [
        name
        for name in columns
        if not any(name == f"{other}{end}" for other in columns for end in ("_low", "_high"))
    ]
    heads, numeric, cut = [], [], []
    for name in names:
        values = list(columns[name])[:rows]
        numbers = all(isinstance(v, (int, float, np.number, type(None))) for v in values)
        shown = [number(v) for v in values]
        head = printable(name.replace("_", " "), 40)
        if f"{name}_low" in columns and f"{name}_high" in columns:
            head += " (95%)"
            ends = zip(columns[f"{name}_low"], columns[f"{name}_high"], strict=True)
            shown = [
                text
                if _missing(low) and _missing(high)
                else f"{text} ({number(low)}..{number(high)})"
                for text, (low, high) in zip(shown, ends, strict=False)
            ]
        heads.append(head)
        numeric.append(numbers)
        cut.append(shown)
    return heads, numeric, [list(row) for row in zip(*cut, strict=True)]


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and math.isnan(value))


def text_table(columns: Columns, limit: int = MAX_ROWS) -> str:
    """Return a table of aligned columns; numbers to the right, at most `limit` rows."""
    length = len(next(iter(columns.values()))) if columns else 0
    heads, right, rows = cells(columns, limit)
    widths = [max([0, *(len(row[j]) for row in rows)]) for j in range(len(heads))]
    # A long head goes on several lines, as narrow as its column allows.
    split = [
        textwrap.wrap(head, max(width, 9), break_long_words=False) or [""]
        for head, width in zip(heads, widths, strict=True)
    ]
    widths = [
        max(width, *(len(part) for part in parts))
        for width, parts in zip(widths, split, strict=True)
    ]
    height = max((len(parts) for parts in split), default=0)

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    top = [
        line([parts[k - height] if len(parts) >= height - k else "" for parts in split])
        for k in range(height)
    ]
    lines = [*top, line(["-" * width for width in widths]), *(line(row) for row in rows)]
    if length > limit:
        lines.append(f"... {length - limit} more rows; --out FOLDER or --json gives all")
    return "\n".join(lines)


def text(result: Result) -> str:
    """Return a result as text: the answer, its tables, the notebook's figures, caveats."""
    title = result.analysis + (f": {printable(result.feature)}" if result.feature else "")
    parts = [f"{title}\n{'=' * len(title)}"]
    parts.append("\n".join(_wrap(printable(sentence, 2000)) for sentence in result.sentences))
    for name in result.shown or tuple(result.columns)[:1]:
        parts.append(text_table(result.columns[name]))
    figures = _figures(result.notebook)
    if figures:
        parts.append(_wrap("notebook: " + "; ".join(figures), "  "))
    parts.extend(_wrap(f"note: {printable(caveat, 2000)}", "  ") for caveat in result.caveats)
    return "\n\n".join(parts)


def answers(results: Sequence[Result]) -> str:
    """Return one paragraph per result: its name and its sentences."""
    return "\n\n".join(
        _wrap(printable(f"{result.analysis}: {' '.join(result.sentences)}", 4000), "  ")
        for result in results
    )


def _figures(figures: Mapping[str, Any]) -> list[str]:
    """Return the single figures of a mapping as "name value"."""
    return [
        f"{printable(name.replace('_', ' '))} {number(value)}"
        for name, value in figures.items()
        if not isinstance(value, (list, tuple, dict, np.ndarray))
    ]


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def html(result: Result) -> str:
    """Return a result as HTML, escaped, for a notebook."""
    title = escape(f"{result.analysis}: {printable(result.feature)}")
    parts = [f"<h4>{title}</h4>"]
    parts.extend(f"<p>{escape(printable(s, 2000))}</p>" for s in result.sentences)
    for name in result.shown or tuple(result.columns)[:1]:
        parts.append(_html_table(result.columns[name]))
    figures = _figures(result.notebook)
    if figures:
        parts.append(f"<p><small>notebook: {escape('; '.join(figures))}</small></p>")
    parts.extend(f"<p><small>{escape(printable(c, 2000))}</small></p>" for c in result.caveats)
    return "<div>" + "".join(parts) + "</div>"


def _html_table(columns: Columns, limit: int = MAX_ROWS) -> str:
    length = len(next(iter(columns.values()))) if columns else 0
    heads, _, rows = cells(columns, limit)
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = f"<p><small>{length - limit} more rows</small></p>" if length > limit else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
