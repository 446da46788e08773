"""What two repeats announce, and what twenty others give: the table of docs/measurement.md.

    python tools/repeats_announce.py              # 1,797 digits, a few minutes
    python tools/repeats_announce.py --limit 300

Images are measured with 22 repeats. Reliability by map, scale and mode comes from the measurement
and the first two, with its 95% interval by a bootstrap over images, and from the measurement and
the other twenty. The first two of 22 are the two that an extraction stores.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import frictionstore as fs
from frictionstore import analyses
from frictionstore.analyses import MemoryStore
from frictionstore.check.agreement import SCALES
from frictionstore.extract.job import run_job
from frictionstore.extract.request import Job
from frictionstore.format.schema import check_maps

ANNOUNCING, OTHERS = 2, 20
MAPS = ("friction", "settle", "friction_exact", "settle_exact")
EXACT_REPEATS = ("friction_exact_repeats", "settle_exact_repeats")
HEADS = ("map", "scale", "mode", "two repeats", "95% interval", "twenty others", "within")


def rows_of(
    name: str, values: NDArray[np.generic], repeats: NDArray[np.generic]
) -> list[list[str]]:
    """One row a scale and mode that varies; repeats have shape (image, row, col, mode, repeat)."""

    def measured(some: NDArray[Any], samples: int) -> analyses.Result:
        store = MemoryStore({name: values, f"{name}_repeats": np.ascontiguousarray(some)})
        return analyses.reliability(store, feature=name, samples=samples)

    few, many = measured(repeats[..., :ANNOUNCING], 1000), measured(repeats[..., ANNOUNCING:], 2)
    low, high = (
        np.array(few.columns["reliability"][f"reliability_{end}"]).reshape(len(SCALES), -1)
        for end in ("low", "high")
    )
    rows = []
    for k, scale in enumerate(SCALES):
        two, twenty = (one.arrays[f"reliability_{scale}"] for one in (few, many))
        for mode in np.flatnonzero(~np.isnan(two)):
            ends = low[k, mode], high[k, mode]
            inside = ends[0] <= twenty[mode] <= ends[1]
            rows.append([
                name, scale, str(mode), f"{two[mode]:.6f}", f"{ends[0]:.6f} to {ends[1]:.6f}",
                f"{twenty[mode]:.6f}", "yes" if inside else "no",
            ])  # fmt: skip
    return rows


@click.command(help=__doc__)
@click.option("--limit", type=int, help="The first images only.")
@click.option("--store", type=click.Path(path_type=Path), help="Where the store goes, or is.")
def main(limit: int | None, store: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = store or Path(folder) / "many.zarr"
        job = Job(
            "digits", "speckle", out, maps=check_maps((*MAPS, *EXACT_REPEATS)),
            repeats=ANNOUNCING + OTHERS, limit=limit, device="cpu",
        )  # fmt: skip
        run_job(job, show_progress=True)
        opened = fs.open(out)
        rows = [
            row
            for name in MAPS
            for row in rows_of(
                name, np.asarray(opened[name]), np.asarray(opened[f"{name}_repeats"])
            )
        ]
    click.echo("| " + " | ".join(HEADS) + " |\n" + "|" + "---|" * len(HEADS))
    for row in rows:
        click.echo("| " + " | ".join(row) + " |")
    inside = sum(row[-1] == "yes" for row in rows)
    click.echo(f"\n{inside} of {len(rows)} within")


if __name__ == "__main__":
    main()
