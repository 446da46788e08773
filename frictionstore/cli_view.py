"""The commands that show: `view` and `report`. Each body is checks, then one library call."""

from __future__ import annotations

from pathlib import Path

import click

from frictionstore.cli import quiet_option, say, store_argument
from frictionstore.text import listed, printable


def open_browser(url: str) -> None:
    """Open a graphical browser, and none where there is no screen to open it on.

    In a thread, since some browsers return only when they are closed.
    """
    import os
    import sys
    import threading
    import webbrowser

    on_linux = sys.platform.startswith("linux")
    if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


@click.command()
@store_argument
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Port to serve on.  [default: free]"
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the page and the store there, for a static host, and serve nothing.",
)
@click.option(
    "--store-url",
    help="With --export: where the store already is; it is not copied then.",
)
def view(
    store: str, port: int, no_browser: bool, folder: Path | None, store_url: str | None
) -> None:
    """Look at a store's maps in the browser."""
    from frictionstore.store import open_store
    from frictionstore.view import ViewServer, export

    if store_url is not None and folder is None:
        raise click.UsageError("--store-url goes with --export")
    opened = open_store(store)
    if folder is not None:
        click.echo(export(opened, folder, store_url=store_url))
        return
    with ViewServer(opened, port) as server:
        click.echo(server.url)
        say("Ctrl-C ends it.")
        if not no_browser:
            open_browser(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")


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
    "or friction, or the first map of the store]",
)
@quiet_option
def report(
    store: str, results: Path | None, out: Path | None, features: tuple[str, ...], quiet: bool
) -> None:
    """Write a store's analyses as one HTML file."""
    from frictionstore.report import analyse, to_analyse, write_report
    from frictionstore.store import open_store

    opened = open_store(store)
    folder = Path("results") / opened.name if results is None else results
    missing = to_analyse(opened, folder, features)
    if missing:
        what = f"{printable(opened.name)} ({listed(missing)})"
        say(f"analysing {what}; the results go to {printable(folder)}", quiet)
        for one in analyse(opened, folder, missing, show_progress=not quiet):
            say(f"left out {one['analysis']} of {one['feature']}: {one['reason']}", quiet)
    target = folder / "index.html" if out is None else out
    click.echo(write_report(opened, target, folder, features=features))
