"""How a store shows itself in a notebook: escaped HTML, made of its summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from frictionstore.format.schema import ORDER_IN_WORDS
from frictionstore.text import byte_count, listed, printable

SHOWN_CLASSES = 12
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top"


def store_html(summary: dict[str, Any], maps: Sequence[str]) -> str:
    """A store as HTML: what it holds and how to look at it. Nothing of it is executed.

    Parameters
    ----------
    summary : dict
        `Store.summary`.
    maps : sequence of str
        The maps to list.
    """
    rows, columns = summary["grid"]
    names = summary["classes"]
    classes = f"{len(names):,}: {listed(names, SHOWN_CLASSES)}" if names else "no labels"
    facts = [
        ("images", f"{summary['images']:,}"),
        ("patches", f"{rows} x {columns}"),
        ("modes", f"{summary['modes']}, {ORDER_IN_WORDS[summary['mode_order']]}"),
        ("classes", classes),
        ("stored", byte_count(summary["stored_bytes"])),
        ("digest", summary["digest"][:16]),
        ("look at it", f"frictionstore view {summary['location']}"),
    ]
    fact_rows = "".join(_row("th", name, printable(value, 400)) for name, value in facts)
    map_rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL}">{escape(cell)}</td>'
            for cell in (
                name,
                " x ".join(f"{extent:,}" for extent in entry["shape"]),
                entry["dtype"],
                entry["description"],
            )
        )
        + "</tr>"
        for name, entry in summary["maps"].items()
        if name in maps
    )
    return (
        f"<div><b>{escape(printable(summary['name']))}</b>"
        f"<table><tbody>{fact_rows}</tbody></table>"
        f"<details><summary>{len(maps)} maps</summary>"
        f"<table><tbody>{map_rows}</tbody></table></details></div>"
    )


def _row(kind: str, name: str, value: str) -> str:
    return (
        f'<tr><{kind} scope="row" style="{_CELL}">{escape(name)}</{kind}>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
    )
