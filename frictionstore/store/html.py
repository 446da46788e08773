"""How a store shows itself in a notebook: a card of escaped HTML that reads metadata only."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from frictionstore.format.schema import ORDER_IN_WORDS
from frictionstore.text import byte_count, listed, printable

if TYPE_CHECKING:
    from frictionstore.store.reader import Store

SHOWN_CLASSES = 12
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top"


def store_html(store: Store) -> str:
    """A store as HTML: what it holds and how to look at it. Nothing of it is executed.

    Parameters
    ----------
    store : Store
        Only its metadata is read.
    """
    summary = store.summary()
    rows, columns = store.grid
    classes = "no labels"
    if store.class_names:
        classes = f"{len(store.class_names):,}: {listed(store.class_names, SHOWN_CLASSES)}"
    facts = [
        ("images", f"{store.n_images:,}"),
        ("patches", f"{rows} x {columns}"),
        ("modes", f"{store.n_modes}, {ORDER_IN_WORDS[summary['mode_order']]}"),
        ("classes", classes),
        ("stored", byte_count(summary["stored_bytes"])),
        ("digest", store.digest[:16]),
        ("look at it", f"frictionstore view {store.header.location.text}"),
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
        if name in store.maps
    )
    return (
        f"<div><b>{escape(printable(store.name))}</b>"
        f"<table><tbody>{fact_rows}</tbody></table>"
        f"<details><summary>{len(store.maps)} maps</summary>"
        f"<table><tbody>{map_rows}</tbody></table></details></div>"
    )


def _row(kind: str, name: str, value: str) -> str:
    return (
        f'<tr><{kind} scope="row" style="{_CELL}">{escape(name)}</{kind}>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
    )
