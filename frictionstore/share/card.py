"""The card of a shared store: README.md beside its files, for people who meet it somewhere.

Texts from the store are somebody's data: they stand in code spans, one line each.
"""

from __future__ import annotations

from frictionstore.format import schema
from frictionstore.format.fingerprint import leaves
from frictionstore.format.header import Header
from frictionstore.text import byte_count, printable

SHOWN_CLASSES = 20
SHOWN_LEAVES = 60


def code(text: object, limit: int = 100) -> str:
    """`text` as a Markdown code span that nothing in it can end."""
    shown = printable(text, limit).replace("`", "'").replace("|", "\u2223")
    return f"`{shown}`" if shown.strip() else "(empty)"


def card(header: Header, name: str, address: str) -> bytes:
    """Markdown with the metadata block the Hub reads.

    Parameters
    ----------
    header : Header
    name : str
        Name of the store.
    address : str
        Where a reader opens it.
    """
    stored = sum(header.shard_bytes.values())
    lines = [
        "---",
        "tags:",
        "- frictionstore",
        "- zarr",
        "---",
        "",
        f"# {code(name)}",
        "",
        "Measurements of a frozen patch encoder, one value per image, patch and singular value: "
        "the singular values themselves, how hard an eigensolver found each eigenvalue "
        "(*friction*) and when it settled. A Zarr v3 group, written by frictionstore.",
        "",
        f"{header.n_images:,} images, {byte_count(stored)}. Along the mode axis, "
        f"{schema.ORDER_IN_WORDS[header.mode_order]}.",
        "",
        "| array | dimensions | shape | type | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for array, plan in header.arrays.items():
        shape = " x ".join(f"{extent:,}" for extent in plan.shape)
        lines.append(
            f"| {array} | {', '.join(plan.spec.dims)} | {shape} | {plan.spec.dtype} | "
            f"{plan.spec.description.replace('|', 'abs ')} |"
        )
    lines += ["", "## Asked for", ""]
    for number, (key, value) in enumerate(leaves(header.request)):
        if number == SHOWN_LEAVES:
            lines.append("- and more, see `frictionstore info`")
            break
        lines.append(f"- {code(key)}: {code(value)}")
    names = header.class_names
    if names:
        more = f" and {len(names) - SHOWN_CLASSES:,} more" if len(names) > SHOWN_CLASSES else ""
        shown = ", ".join(code(text, 40) for text in names[:SHOWN_CLASSES])
        lines += ["", f"{len(names):,} classes: {shown}{more}."]
    if header.group_names:
        lines += ["", f"{len(header.group_names):,} groups of images that belong together."]
    lines += [
        "",
        "## Open it",
        "",
        "```python",
        "import frictionstore as fs",
        f"store = fs.open({printable(address, 300)!r})  # needs the extra `remote`",
        "store.friction[:4]",
        "```",
        "",
        "or with any reader of Zarr v3, after downloading: `xarray.open_zarr(path)`.",
        "",
        "## Identity",
        "",
        f"- digest (SHA-256 of `{schema.MANIFEST}`): `{header.digest}`",
        f"- fingerprint (SHA-256 of what was asked for): `{header.fingerprint}`",
        f"- check a copy with `frictionstore verify` or `sha256sum -c {schema.MANIFEST}`",
        "",
    ]
    return "\n".join(lines).encode("utf-8", "replace")
