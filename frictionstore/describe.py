"""A store in words, for the terminal."""

from __future__ import annotations

from frictionstore.fingerprint import leaves
from frictionstore.schema import MODE_ORDER, ORDER_IN_WORDS
from frictionstore.store import Store
from frictionstore.text import byte_count, listed, printable

SHOWN_CLASSES = 12


def describe(store: Store) -> str:
    """Several lines: what the store holds, what was asked for and how it was made."""
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
    for split in store.attributes.get("splits", []):
        lines.append(f"  split        {printable(split['name'])}: {split['count']:,} images")
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
    lines += [
        f"    {printable(key)}: {printable(value, 80)}" for key, value in leaves(store.request)
    ]
    provenance = store.provenance
    if provenance:
        lines += ["", "  made"]
        lines += [
            f"    {printable(key)}: {printable(value, 120)}"
            for key, value in sorted(provenance.items())
            if value is not None and key != "runs"
        ]
        for run in provenance.get("runs", []):
            lines.append(f"    run: {printable(run, 400)}")
    return "\n".join(lines)
