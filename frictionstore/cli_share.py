"""Commands that check, compare, pass on and combine stores. Each body is one library call.

Imports go inside the commands, as in `cli.py`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from frictionstore.cli import json_option, print_json, quiet_option, say, store_argument

if TYPE_CHECKING:
    from frictionstore.verify import Progress

DAMAGED = 2
DIFFERENT = 1

overwrite_option: Any = click.option(
    "--overwrite", is_flag=True, help="Replace another store at the target."
)


def bytes_bar(label: str, shown: bool) -> Progress | None:
    """A line on standard error that says how much is done, where somebody looks."""
    if not shown or not sys.stderr.isatty():
        return None
    from frictionstore.text import byte_count

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        line = f"\r{label}: {byte_count(done)} of {byte_count(total)}"
        sys.stderr.write(f"{line:<60}{end}")
        sys.stderr.flush()

    return show


@click.command()
@store_argument
@click.option("--quick", is_flag=True, help="Sizes and metadata only, no contents.")
@click.option("--threads", type=click.IntRange(min=1), help="Files checked at once.")
@json_option
@quiet_option
def verify(store: str, quick: bool, threads: int | None, as_json: bool, quiet: bool) -> None:
    """Compare a store with its manifest and decode every chunk.

    Ends with status 2 and a table of files and images where anything is wrong.
    """
    from frictionstore.verify import describe_report
    from frictionstore.verify import verify as check

    progress = bytes_bar("verify", not (quiet or as_json))
    report = check(store, quick=quick, threads=threads, progress=progress)
    if as_json:
        print_json(report.as_json())
    elif not report.ok or not quiet:
        click.echo(describe_report(report))
    if not report.ok:
        say(f"Error: {report.sentence}", quiet)
        raise SystemExit(DAMAGED)
