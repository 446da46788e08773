"""Commands that check, compare, pass on and combine stores. Each body is one library call.

Imports go inside the commands, as in `cli.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frictionstore.cli import json_option, print_json, quiet_option, say, store_argument

if TYPE_CHECKING:
    from frictionstore.transfer import Copied

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


def _say_copied(outcome: Copied, verb: str, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from frictionstore.text import byte_count, printable

    if as_json:
        print_json(asdict(outcome))
    elif outcome.files:
        what = f"{outcome.files:,} files, {byte_count(outcome.bytes)}"
        say(f"{verb} {printable(outcome.target)} ({what}, digest {outcome.digest[:12]})", quiet)
    else:
        say(f"{printable(outcome.target)} is up to date (digest {outcome.digest[:12]})", quiet)


@click.command()
@store_argument
@click.option("--out", type=click.Path(path_type=Path), help="The .zip to make.")
@overwrite_option
@json_option
@quiet_option
def pack(store: str, out: Path | None, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write a store into one .zip that opens as a store, its files stored as they are."""
    from frictionstore.pack import pack as write

    shown = watched(quiet, as_json)
    outcome = write(store, out, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "packed", as_json, quiet)


@click.command()
@click.argument("archive", metavar="ZIP")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to make.")
@overwrite_option
@json_option
@quiet_option
def unpack(archive: str, out: Path | None, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write the store in a .zip as a folder, which appears only when it is whole."""
    from frictionstore.pack import unpack as write

    shown = watched(quiet, as_json)
    outcome = write(archive, out, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "unpacked", as_json, quiet)


@click.command()
@store_argument
@click.argument("destination")
@overwrite_option
@json_option
@quiet_option
def push(store: str, destination: str, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Send a store to s3://BUCKET/PREFIX, hf://datasets/OWNER/NAME or a folder.

    It goes there under its own name, with a card that says what it is; readers see it only when
    it is whole. A Hub repository that does not exist is made, as a private one.
    """
    from frictionstore.share import push as send

    shown = watched(quiet, as_json)
    outcome = send(store, destination, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "pushed", as_json, quiet)


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@overwrite_option
@json_option
@quiet_option
def pull(source: str, folder: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Fetch a store from an address into FOLDER; run again, it goes on where it stopped."""
    from frictionstore.share import pull as fetch

    shown = watched(quiet, as_json)
    outcome = fetch(source, folder, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "pulled", as_json, quiet)
