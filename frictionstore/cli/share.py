"""Commands that check, compare, pass on and combine stores. Each body is one library call.

Imports go inside the commands, as in `main.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from frictionstore.cli.options import json_option, print_json, quiet_option, say, store_argument
from frictionstore.progress import watched as terminal_watched
from frictionstore.text import show

if TYPE_CHECKING:
    from frictionstore.share.copy import Copied
    from frictionstore.store.reader import Store

DAMAGED = 2
DIFFERENT = 1

overwrite_option: Any = click.option(
    "--overwrite", is_flag=True, help="Replace another store at the target."
)


def watched(quiet: bool, as_json: bool) -> bool:
    """Whether somebody looks at standard error and wants to see progress."""
    return not quiet and not as_json and terminal_watched()


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
    from frictionstore.check.verify import describe_report
    from frictionstore.check.verify import verify as check

    shown = watched(quiet, as_json)
    report = check(store, quick=quick, threads=threads, show_progress=shown)
    if as_json:
        print_json(report.as_json())
    elif not report.ok or not quiet:
        show(describe_report(report))
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
    from frictionstore.share.pack import pack as write

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
    from frictionstore.share.pack import unpack as write

    shown = watched(quiet, as_json)
    outcome = write(archive, out, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "unpacked", as_json, quiet)


@click.command()
@store_argument
@click.argument("destination")
@overwrite_option
@click.option(
    "--viewer",
    is_flag=True,
    help="At the Hub: add a table for its viewer (needs the extra export) and a picture.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Saved results of this store, three of which the card at the Hub is to say.",
)
@json_option
@quiet_option
def push(
    store: str,
    destination: str,
    overwrite: bool,
    viewer: bool,
    results: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send a store to s3://BUCKET/PREFIX, hf://datasets/OWNER/NAME or a folder.

    It goes there under its own name, with a card that says what it is; readers see it only when
    it is whole. A Hub repository that does not exist is made, as a private one.
    """
    from frictionstore.share.push_pull import push as send

    shown = watched(quiet, as_json)
    outcome = send(
        store, destination, overwrite=overwrite, viewer=viewer, results=results,
        show_progress=shown,
    )  # fmt: skip
    _say_copied(outcome, "pushed", as_json, quiet)


@click.command()
@click.argument("source")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@overwrite_option
@json_option
@quiet_option
def pull(source: str, folder: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Fetch a store from an address into FOLDER; run again, it goes on where it stopped."""
    from frictionstore.share.push_pull import pull as fetch

    shown = watched(quiet, as_json)
    outcome = fetch(source, folder, overwrite=overwrite, show_progress=shown)
    _say_copied(outcome, "pulled", as_json, quiet)


def separate(text: str | None) -> list[str] | None:
    """The parts of a comma-separated option."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _say_made(store: Store, as_json: bool, quiet: bool) -> None:
    from frictionstore.text import printable

    if as_json:
        print_json(store.summary())
    else:
        what = f"{store.n_images:,} images, digest {store.digest[:12]}"
        say(f"{printable(store.location)} is complete ({what})", quiet)


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE STORE...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The store to make.")
@click.option("--names", help="Comma-separated names of the stores' splits, in their order.")
@overwrite_option
@json_option
@quiet_option
def merge(
    stores: tuple[str, ...],
    out: Path,
    names: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Put stores that were measured in the same way into one.

    Their images become the splits of the new store; ids are kept, and prefixed with the split
    where two stores share one.
    """
    from frictionstore.store.combine import merge as combine

    shown = watched(quiet, as_json)
    made = combine(stores, out, names=separate(names), overwrite=overwrite, show_progress=shown)
    _say_made(made, as_json, quiet)


@click.command()
@store_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The store to make.")
@click.option("--classes", help="Comma-separated classes; the new store has only these.")
@click.option("--split", "splits", help="Comma-separated splits of a merged store.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many images.")
@click.option("--maps", help="Comma-separated maps.  [default: all]")
@overwrite_option
@json_option
@quiet_option
def subset(
    store: str,
    out: Path,
    classes: str | None,
    splits: str | None,
    limit: int | None,
    maps: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy some images of a store into a new one."""
    from frictionstore.store.combine import subset as select

    made = select(
        store, out, classes=separate(classes), splits=separate(splits), limit=limit,
        maps=separate(maps), overwrite=overwrite, show_progress=watched(quiet, as_json),
    )  # fmt: skip
    _say_made(made, as_json, quiet)


@click.command()
@click.argument("a", metavar="STORE_A")
@click.argument("b", metavar="STORE_B")
@click.option(
    "--allow-rounding", is_flag=True, help="End with status 0 where all differences are rounding."
)
@json_option
@quiet_option
def diff(a: str, b: str, allow_rounding: bool, as_json: bool, quiet: bool) -> None:
    """Compare two stores: what was asked for, which images, and every value.

    Ends with status 0 where their contents are the same and with 1 where they differ.
    """
    from frictionstore.check.diff import describe_difference
    from frictionstore.check.diff import diff as compare

    found = compare(a, b, show_progress=watched(quiet, as_json))
    if as_json:
        print_json(found.as_json())
    elif not quiet:
        show(describe_difference(found))
    same = ("same bytes", "same values", *(("rounding",) if allow_rounding else ()))
    if found.verdict not in same:
        raise SystemExit(DIFFERENT)
