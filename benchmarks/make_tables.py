"""Write docs/performance.md from the results that are kept.

python benchmarks/make_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path

import harness

DOCS = Path(__file__).parent.parent / "docs"
PAGES = Path(__file__).parent / "pages"  # what stands above and below the tables
ORDER = (
    "encoders",
    "extraction",
    "grids",
    "encoder",
    "conduit",
    "conduit_first_call",
    "triton_compile",
    "precision",
    "memory",
    "store",
    "reading",
    "analyses",
    "verify",
    "startup",
    "cluster",
    "numba_source",
)
TITLES = {
    "encoders": "The published encoders",
    "grids": "Large images",
    "extraction": "Extraction against the notebook's method",
    "encoder": "Encoder against the machine's matrix products",
    "conduit": "Conduit kernels against the reference",
    "conduit_first_call": "First call of a fused kernel on the CPU",
    "triton_compile": "Compiling the Triton kernels",
    "precision": "What the encoder's precision changes",
    "memory": "Memory as images grow",
    "store": "Writing and reading a map",
    "reading": "Reading a map whole",
    "analyses": "Analyses",
    "verify": "Verify",
    "startup": "Start-up",
    "cluster": "Extraction on a cluster",
    "numba_source": "Plain Numba and vector instructions",
}  # fmt: skip


def main() -> None:
    parts = [(PAGES / "head.md").read_text().rstrip()]
    # Others, as bench_scale.py's, belong to pages of their own.
    found = {path.stem: json.loads(path.read_text()) for path in harness.RESULTS.glob("*.json")}
    for name in [name for name in ORDER if name in found]:
        entry = found[name]
        parts += [
            f"## {TITLES[name]}",
            f"`{entry['command']}`, {entry['date'][:10]}. {entry['notes']}.",
            harness.table(entry["rows"]),
        ]
        extra = PAGES / f"{name}.md"
        if extra.exists():
            parts.append(extra.read_text().strip())
    machines = {json.dumps(entry["machine"], sort_keys=True) for entry in found.values()}
    parts.append("## The machine")
    for text in sorted(machines):
        m = json.loads(text)
        packages = ", ".join(f"{name} {number}" for name, number in sorted(m["versions"].items()))
        parts.append(
            f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}, "
            f"Python {m['python']}; {packages}."
        )
    (DOCS / "performance.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
