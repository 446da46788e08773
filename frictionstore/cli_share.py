"""Commands that check, compare, pass on and combine stores. Each body is one library call.

Imports go inside the commands, as in `cli.py`.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from frictionstore.cli import json_option, print_json, quiet_option, say, store_argument

DAMAGED = 2
DIFFERENT = 1

overwrite_option: Any = click.option(
    "--overwrite", is_flag=True, help="Replace another store at the target."
)


def watched(quiet: bool, as_json: bool) -> bool:
    """Whether somebody looks at standard error and wants to see progress."""
    return not quiet and not as_json and sys.stderr.isatty()


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

    shown = watched(quiet, as_json)
    report = check(store, quick=quick, threads=threads, show_progress=shown)
    if as_json:
        print_json(report.as_json())
    elif not report.ok or not quiet:
        click.echo(describe_report(report))
    if not report.ok:
        say(f"Error: {report.sentence}", quiet)
        raise SystemExit(DAMAGED)
