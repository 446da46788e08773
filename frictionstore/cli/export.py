"""`frictionstore export`: a store in the formats of others. Imports go inside, as in `main.py`."""

from __future__ import annotations

from pathlib import Path

import click

from frictionstore.cli.options import quiet_option, say, store_argument
from frictionstore.cli.share import separate, watched


@click.command()
@store_argument
@click.option(
    "--to",
    required=True,
    type=click.Choice(("npz", "csv", "parquet", "netcdf")),
    help="npz: whole arrays for numpy. csv: a line for each image, map and mode with figures of "
    "its patches. parquet: a row an image (needs the extra export). netcdf: for xarray.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to make.")
@click.option("--maps", help="Comma-separated maps.  [default: all; in a CSV no thumbnails]")
@click.option("--overwrite", is_flag=True, help="Replace another file.")
@quiet_option
def export(store: str, to: str, out: Path, maps: str | None, overwrite: bool, quiet: bool) -> None:
    """Write a store as one file that other programs read, whole or not at all."""
    from frictionstore.share.export import export as write
    from frictionstore.text import byte_count, printable

    shown = watched(quiet, False)
    made = write(store, to, out, maps=separate(maps), overwrite=overwrite, show_progress=shown)
    say(f"exported {printable(made)} ({byte_count(made.stat().st_size)})", quiet)
