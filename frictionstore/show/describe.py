"""A store in words, for the terminal."""

from __future__ import annotations

import shutil
import textwrap

from frictionstore.format.fingerprint import leaves
from frictionstore.format.schema import MODE_ORDER, ORDER_IN_WORDS
from frictionstore.store.reader import Store
from frictionstore.text import byte_count, listed, printable

SHOWN_CLASSES = 12
LONGEST = 2000  # characters of one value; no origin, revision or command is longer
NARROWEST, WIDEST = 60, 120


def describe(store: Store, width: int | None = None) -> str:
    """Several lines: what the store holds, what was asked for and how it was made.

    Parameters
    ----------
    store : Store
    width : int, optional
        Columns into which values are wrapped; by default those of the terminal.
    """
    if width is None:
        width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    summary = store.summary()
    rows, columns = store.grid
    order = summary["mode_order"]
    order = "largest first" if order == MODE_ORDER else ORDER_IN_WORDS[order]
    lines = [
        printable(summary["name"]),
        f"  images       {store.n_images:,} ({len(store.class_names)} classes)",
        f"  grid         {rows} x {columns} patches, {store.n_modes} modes, {order}",
    ]
    if store.class_names:
        lines.append(f"  classes      {listed(store.class_names, SHOWN_CLASSES)}")
    if store.group_names:
        lines.append(f"  groups       {len(store.group_names):,} of images that belong together")
    for split, part in store.splits.items():
        lines.append(f"  split        {printable(split)}: {part.stop - part.start:,} images")
    if summary["skipped"]:
        lines.append(
            f"  left out     {len(summary['skipped'])} unreadable: {listed(summary['skipped'])}"
        )
    lines += [
        f"  stored       {byte_count(summary['stored_bytes'])}",
        f"  digest       {store.digest}",
        f"  fingerprint  {store.fingerprint}",
        "",
        "  array                shape                  dtype    stored  meaning",
    ]
    for name, entry in summary["maps"].items():
        shape = " x ".join(f"{extent:,}" for extent in entry["shape"])
        lines.append(
            f"  {name:<20} {shape:<22} {entry['dtype']:<8} "
            f"{byte_count(entry['stored_bytes']):>7}  {entry['description']}"
        )
    lines += ["", "  asked for"]
    for key, value in leaves(store.request):
        lines += _entry(key, value, width)
    provenance = store.provenance
    if provenance:
        lines += ["", "  made"]
        for key, value in leaves({k: v for k, v in provenance.items() if k != "runs"}):
            if value is not None:
                lines += _entry(key, value, width)
        for run in provenance.get("runs", []):
            parts = leaves(run) if isinstance(run, dict) else [("", run)]
            lines += _entry(
                "run", ", ".join(f"{key} {value}".strip() for key, value in parts), width
            )
    return "\n".join(lines)


def _entry(key: str, value: object, width: int) -> list[str]:
    """A key and its whole value, wrapped; a word that is longer than a line stays whole."""
    text = f"{printable(key)}: {printable(value, LONGEST)}"
    return textwrap.wrap(
        text, width, initial_indent=" " * 4, subsequent_indent=" " * 8,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
