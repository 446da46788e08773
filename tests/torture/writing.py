"""What the children of the torture bench do: write a small store, run a command, copy a store.

    python -m tests.torture.writing TARGET SEED N_IMAGES PAUSE [--overwrite] [--repair] [--part I/N]

The first writes what `tests.making` makes, with a pause between units so that a kill can fall
anywhere. Errors end it as they end the command line: one sentence, status 2.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from unittest import mock

from frictionstore.check.repair import what_to_keep
from frictionstore.errors import FrictionstoreError
from frictionstore.store.part import PartWriter, parse_part
from frictionstore.store.writer import StoreWriter
from tests import making


def write(arguments: list[str]) -> int:
    """Write the store the arguments ask for; the exit status."""
    target, seed, n_images, pause = arguments[:4]
    plan = making.plan(int(seed), int(n_images))
    overwrite = "--overwrite" in arguments[4:]
    repair = what_to_keep if "--repair" in arguments[4:] else None
    writer: StoreWriter
    if "--part" in arguments:
        writer = PartWriter(Path(target), plan, parse_part(arguments[-1]))
    else:
        writer = StoreWriter(Path(target), plan, overwrite=overwrite, repair=repair)
    try:
        with writer:
            try:
                for number in writer.pending:
                    writer.write_unit(number, making.unit_arrays(plan, number), {"engine": "test"})
                    time.sleep(float(pause))
            except FrictionstoreError:
                if not writer.taken_over():
                    raise
            if isinstance(writer, PartWriter) and writer.recorded_by_all < len(plan.units):
                return 0
            writer.finalise({"command": "torture"})
    except FrictionstoreError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def command(arguments: list[str]) -> int:
    """Run the command line; it exits by itself."""
    from frictionstore.cli.main import cli

    cli.main(args=arguments, prog_name="frictionstore")
    return 0


def copy(arguments: list[str]) -> int:
    """Pull, unpack or pack: WHAT SOURCE TARGET."""
    from frictionstore.share.pack import pack, unpack
    from frictionstore.share.push_pull import pull

    what, source, target = arguments
    try:
        {"pull": pull, "unpack": unpack, "pack": pack}[what](source, target, overwrite=True)
    except FrictionstoreError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def export(arguments: list[str]) -> int:
    """Export SOURCE to FOLDER, with a page that need not be built."""
    from frictionstore.share.copy import copy_store
    from frictionstore.show import view
    from frictionstore.store.reader import open_store

    source, folder = arguments
    page = b'<meta name="frictionstore-store" content="">'
    try:
        with mock.patch.object(view, "explorer_page", return_value=page):
            view.export(open_store(source), Path(folder), copy_store)
    except FrictionstoreError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(write(sys.argv[1:]))
