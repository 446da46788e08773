"""Pieces of the report: escaped text, tables with their CSV files, figures as SVG."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from frictionstore.text import printable

ROWS_SHOWN = 500
_PROBABILITY = re.compile(r"(.*_)?[pq]|[pq]_.*")
_ID = re.compile(r'\bid="([^"]+)"')


def text(value: object, limit: int = 2000) -> str:
    """Somebody else's text as HTML: escaped, on one line, without control characters."""
    return escape(printable(value, limit))


def label(name: str) -> str:
    """A column's or figure's name for people."""
    return text(name.replace("_", " "))


@dataclass
class Budget:
    """How much of the report whole tables may take; what does not fit is named instead."""

    bytes_left: int
    rows: int = ROWS_SHOWN
    left_out: list[str] = field(default_factory=list)

    def take(self, size: int, name: str) -> bool:
        if size > self.bytes_left:
            self.left_out.append(name)
            return False
        self.bytes_left -= size
        return True


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def table(
    name: str, rows: Sequence[Mapping[str, Any]], total: int, csv: bytes, where: str, budget: Budget
) -> str:
    """A sortable table with a link to all of it as CSV.

    Parameters
    ----------
    name : str
    rows : sequence of mappings
        The first rows; columns ``x_low`` and ``x_high`` are shown in the cell of ``x``.
    total : int
        Rows of the whole table.
    csv : bytes
        The whole table.
    where : str
        Path of the CSV file, for where it is too large to be in the report.
    budget : Budget
    """
    from frictionstore.analyses.core.terminal import number

    shown = rows[: budget.rows]
    names = list(rows[0]) if rows else []
    columns = [
        column
        for column in names
        if not any(column == f"{other}{end}" for other in names for end in ("_low", "_high"))
    ]

    def cell(row: Mapping[str, Any], column: str) -> str:
        value = row[column]
        content = text(value) if isinstance(value, str) else escape(number(value))
        if value == 0.0 and isinstance(value, float) and _PROBABILITY.fullmatch(column):
            content = "&lt; 1e-300"  # it underflowed: no p is 0
        low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
        if is_number(low) and is_number(high):
            content += f" <small>({escape(number(low))} to {escape(number(high))})</small>"
        if is_number(value):
            return f'<td class="n" data-value="{value!r}">{content}</td>'
        return f"<td>{content}</td>"

    def head(column: str) -> str:
        interval = " <small>(95% interval)</small>" if f"{column}_low" in names else ""
        numeric = ' class="n"' if any(is_number(row[column]) for row in shown) else ""
        return (
            f'<th scope="col"{numeric} aria-sort="none"><button type="button">{label(column)}'
            f"{interval}</button></th>"
        )

    body = "".join(
        "<tr>" + "".join(cell(row, column) for column in columns) + "</tr>" for row in shown
    )
    encoded = base64.b64encode(csv)
    if budget.take(len(encoded), where):
        link = (
            f'<a download="{escape(where.rsplit("/", 1)[-1])}" '
            f'href="data:text/csv;base64,{encoded.decode("ascii")}">CSV</a>'
        )
    else:
        link = f"all of it is in <code>{text(where)}</code>"
    more = f", the first {len(shown):,} of {total:,} rows" if total > len(shown) else ""
    return (
        f'<div class="table"><p class="tools"><b>{label(name)}</b>{more} · {link}</p>'
        f'<div class="scroll" tabindex="0" role="group" aria-label="Table {label(name)}">'
        f'<table class="sortable"><thead><tr>{"".join(map(head, columns))}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def svg_figure(svg: str, prefix: str, caption: str, alt: str) -> str:
    """An SVG file that matplotlib wrote, inside the page.

    Its ids get a prefix, since two figures may use the same; black and white become the page's
    ink and ground, so that it can be read in the dark.
    """
    start = svg.find("<svg")
    body = svg[start:]
    ids = set(_ID.findall(body))
    for old in ids:
        new = f"{prefix}-{old}"
        body = body.replace(f'id="{old}"', f'id="{new}"')
        body = body.replace(f'"#{old}"', f'"#{new}"').replace(f"url(#{old})", f"url(#{new})")
    seen: set[str] = set()

    def once(match: re.Match[str]) -> str:
        """matplotlib gives equal glyphs and markers the same id more than once."""
        repeated = match[1] in seen
        seen.add(match[1])
        return "" if repeated else match[0]

    body = _ID.sub(once, body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"\bfill: (#ffffff|white)\b", "fill: none", body)
    body = re.sub(r"\b(fill|stroke): (#000000|black)\b", r"\1: currentColor", body)
    # Width and height in points are for paper; the page scales it by its view box.
    opening, rest = body.split(">", 1)
    width = re.search(r'width="([\d.]+)pt"', opening)
    most = f' style="max-width: {float(width[1]) * 1.25:.0f}px"' if width else ""
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return (
        f'<figure{most}><div role="img" aria-label="{escape(alt, quote=True)}">'
        f'{opening} aria-hidden="true">{rest}</div><figcaption>{caption}</figcaption></figure>'
    )


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values, as a description list."""
    from frictionstore.analyses.core.terminal import number

    def plain(value: object) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(plain, value)) or "none"
        return text(number(value) if isinstance(value, float) else value)

    items = "".join(f"<dt>{text(name)}</dt><dd>{plain(value)}</dd>" for name, value in pairs)
    return f"<dl>{items}</dl>"


def with_interval(value: Any, low: Any, high: Any, p: Any) -> str:
    """A number as a sentence gives it: `0.91 (95% interval 0.88 to 0.93), p = 0.0099`."""
    from frictionstore.analyses.core.terminal import number, p_text

    parts = escape(number(value))
    if is_number(low) and is_number(high):
        parts += f" (95% interval {escape(number(low))} to {escape(number(high))})"
    if is_number(p) and not math.isnan(p):
        parts += f", {escape(p_text(float(p)))}"
    return parts
