"""The command `view`: checks, then one library call."""

from __future__ import annotations

from pathlib import Path

import click

from frictionstore.cli.options import say, store_argument
from frictionstore.text import show


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
    "--with",
    "beside",
    metavar="STORE",
    help="Another store, to compare its maps of the same images with.",
)
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
    store: str,
    port: int,
    no_browser: bool,
    beside: str | None,
    folder: Path | None,
    store_url: str | None,
) -> None:
    """Look at a store's maps in the browser."""
    from frictionstore.share.copy import copy_store
    from frictionstore.show.beside import common_images
    from frictionstore.show.view import ViewServer, export
    from frictionstore.store.reader import open_store

    if store_url is not None and folder is None:
        raise click.UsageError("--store-url goes with --export")
    opened = open_store(store)
    other = None if beside is None else open_store(beside)
    if other is not None:
        common = common_images(opened, other)
        say(f"{common:,} image{' is' if common == 1 else 's are'} in both, by id.")
    if folder is not None:
        show(str(export(opened, folder, copy_store, store_url=store_url, beside=other)))
        return
    with ViewServer(opened, port, other) as server:
        show(server.url)
        say("Ctrl-C ends it.")
        if not no_browser:
            open_browser(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
