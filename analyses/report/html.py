"""Pieces of the report: templates with one rule of escaping, tables with their CSV, figures as SVG.

Whatever reaches a page through a template is made printable and escaped there, unless it is
`Markup`, which only templates, the drawings' reader and our own base64 are.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from frictionstore.analyses.core.terminal import number, p_text
from frictionstore.analyses.report.drawing import read_drawing
from frictionstore.text import listed, printable

ROWS_SHOWN = 500
PAGE, PHONE = 890, 345  # pixels that the columns of a table may take together
_PROBABILITY = re.compile(r"(.*_)?[pq]|[pq]_.*")


def _finalize(value: object) -> object:
    return printable(value, 2000) if isinstance(value, str) and not _is_markup(value) else value


def _is_markup(value: object) -> bool:
    return hasattr(value, "__html__")


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return number(value) if isinstance(value, float) else str(value)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("frictionstore.analyses.report"),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"cut": printable, "commas": "{:,}".format, "number": number, "plain": _plain}
    return made


def render(template: str, **values: object) -> str:
    """A whole page."""
    return _environment().get_template(template).render(values)


def piece(name: str, *values: object, template: str = "parts.html") -> Markup:
    """A piece of a page: what the macro of this name makes of some values."""
    macro = getattr(_environment().get_template(template).module, name)
    return Markup(macro(*values))


def label(name: str) -> str:
    """A column's or figure's name for people."""
    return name.replace("_", " ")


@dataclass
class Budget:
    """How much of the report whole tables may take."""

    bytes_left: int
    rows: int = ROWS_SHOWN

    def take(self, size: int) -> bool:
        if size > self.bytes_left:
            return False
        self.bytes_left -= size
        return True


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(
    name: str, rows: Sequence[Mapping[str, Any]], csv: bytes, where: str, budget: Budget
) -> Markup:
    """A sortable table with a link to all of it as CSV.

    Parameters
    ----------
    name : str
    rows : sequence of mappings
        Columns ``x_low`` and ``x_high`` are shown in the cell of ``x``.
    csv : bytes
        The whole table.
    where : str
        Path of the CSV file, for where it is too large to be in the report.
    budget : Budget
    """
    names = list(rows[0]) if rows else []
    every = [
        column
        for column in names
        if not any(column == f"{other}{end}" for other in names for end in ("_low", "_high"))
    ]

    def cell(row: Mapping[str, Any], column: str) -> dict[str, object]:
        value, low, high = row[column], row.get(f"{column}_low"), row.get(f"{column}_high")
        # A p that underflowed: none is 0.
        gone = value == 0.0 and isinstance(value, float) and _PROBABILITY.fullmatch(column)
        return {
            "text": value if isinstance(value, str) else "< 1e-300" if gone else number(value),
            "value": repr(value) if is_number(value) else "",
            "interval": _interval(low, high),
        }

    shown = rows[: budget.rows]
    made = [{column: cell(row, column) for column in every} for row in shown]
    ends = list(accumulate(_width(c, [row[c] for row in made]) for c in every))
    columns = [c for c, end in zip(every, ends, strict=True) if end <= PAGE or c == every[0]]
    hidden = {c for c, end in zip(columns[1:], ends[1:], strict=False) if end > PHONE}
    heads = [
        {
            "label": label(column),
            "numeric": any(is_number(row[column]) for row in shown),
            "interval": any(row[column]["interval"] for row in made),
            "wide": column in hidden,
        }
        for column in columns
    ]
    content = {
        "label": label(name),
        "total": len(rows),
        "columns": heads,
        "rows": [[{**row[c], "wide": c in hidden} for c in columns] for row in made],
        "left": [label(column) for column in every[len(columns) :]],
        "narrow": [label(column) for column in columns if column in hidden],
        **as_file(csv, where, budget),
    }
    return piece("table", content)


def as_file(csv: bytes, where: str, budget: Budget) -> dict[str, object]:
    """A table's CSV file: in the page where the budget allows, else where it is."""
    encoded = base64.b64encode(csv).decode("ascii")
    taken = budget.take(len(encoded))
    return {
        "where": where,
        "file": where.rsplit("/", 1)[-1],
        "csv": Markup(encoded) if taken else None,
    }


def _width(column: str, cells: Sequence[Mapping[str, object]]) -> float:
    """Pixels that a column takes, about."""
    texts = [f"{one['text']} {one['interval']}".strip() for one in cells]
    longest = max([len(word) for word in label(column).split()] + [len(text) for text in texts])
    return 7.2 * min(longest, 55) + 20


def svg_figure(data: bytes, prefix: str, caption: str, alt: str) -> Markup:
    """An SVG file inside the page, without what does not draw; see `read_drawing`."""
    try:
        drawing = read_drawing(data, prefix)
    except ValueError as error:
        return piece("drawing", "", None, caption, alt, f"left out, since {error}")
    left = f"left out of it: {listed(drawing.left_out)}" if drawing.left_out else ""
    return piece("drawing", drawing.svg, drawing.width, caption, alt, left)


def facts(pairs: Sequence[tuple[str, object]]) -> Markup:
    """Names and values, as a description list."""
    return piece("facts", pairs)


def _interval(low: Any, high: Any) -> str:
    return f"{number(low)} to {number(high)}" if is_number(low) and is_number(high) else ""


def with_interval(value: Any, low: Any, high: Any, p: Any) -> str:
    """A number with its 95% interval and p: `0.91 (0.88 to 0.93), p = 0.0099`."""
    interval = _interval(low, high)
    parts = number(value) + (f" ({interval})" if interval else "")
    return parts + (f", {p_text(float(p))}" if is_number(p) and not math.isnan(p) else "")
