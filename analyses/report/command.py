"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from frictionstore.analyses.core.options import opened, verify_option
from frictionstore.cli.options import quiet_option, say, store_argument
from frictionstore.io.aside import check_page
from frictionstore.text import listed, printable, show


@click.command()
@store_argument
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of 'analyze all'; what is not in it yet is analysed and saved there.  "
    "[default: results/NAME]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The HTML file.  [default: index.html in the results' folder]",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Map to report on; may be given several times.  [default: those in the results' folder, "
    "or friction, and before it the form of it that is sound, or the first map of the store]",
)
@verify_option
@quiet_option
def report(
    store: str,
    results: Path | None,
    out: Path | None,
    features: tuple[str, ...],
    verify: bool,
    quiet: bool,
) -> None:
    """Write a store's analyses as one HTML file."""
    from frictionstore.analyses.report.page import MARK, analyse, to_analyse, write_report

    read = opened(store, verify)
    folder = Path("results") / read.name if results is None else results
    target = folder / "index.html" if out is None else out
    check_page(target, MARK)
    missing = to_analyse(read, folder, features)
    if missing:
        what = f"{printable(read.name)} ({listed(missing)})"
        say(f"analysing {what}; the results go to {printable(folder)}", quiet)
        for one in analyse(read, folder, missing, show_progress=not quiet):
            say(f"left out {one['analysis']} of {one['feature']}: {one['reason']}", quiet)
    show(str(write_report(read, target, folder, features=features)))
