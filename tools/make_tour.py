"""Make the pictures of docs/tour.md: the explorer and the report on the digits, in Chromium.

Needs the digits' store and their results (``make analyze``), the explorer page (``make page``),
Playwright for Python and a Chromium on the machine. Run it from the repository's root:

    python tools/make_tour.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import frictionstore as fs
from frictionstore.show.view import ViewServer

WIDTH, HEIGHT = 1200, 740
READY = "body[data-idle=true]"

EXPLORER: dict[str, tuple[str, dict[str, Any]]] = {
    "images": ("mode=1", {}),
    "sorted": ("mode=3&sort=moran.desc", {}),
    "one-image": ("mode=1&image=17&patch=9,6", {"height": 860}),
    "compare": ("view=compare&mode=3&a=c0&b=c1&patch=8,8", {}),
    "classes": ("view=classes&mode=3&difference=1", {"dark": True}),
    "phone": ("mode=1&image=17&patch=9,6", {"width": 390, "height": 780}),
}
"""Picture to the address after # and how the screen is."""

REPORT = {"report-summary": "#findings", "report-f": "#f-statistic-friction"}
"""Picture to the section it shows."""


@contextmanager
def page_of(
    browser: Any, width: int = WIDTH, height: int = HEIGHT, dark: bool = False
) -> Iterator[Any]:
    """A page on a screen of its own."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    try:
        yield context.new_page()
    finally:
        context.close()


def make_pictures(store: fs.Store, report: Path, out: Path) -> list[Path]:
    """Write all pictures of the tour.

    Parameters
    ----------
    store : Store
    report : Path
        The store's report, an HTML file.
    out : Path
        Folder for the PNG files.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit(
            "there is no Chromium on this machine: install one, e.g. apt install chromium"
        )
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with sync_playwright() as playwright, ViewServer(store) as server:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for name, (hash_, screen) in EXPLORER.items():
                with page_of(browser, **screen) as page:
                    page.goto(f"{server.url}#{hash_}")
                    page.wait_for_selector(READY)
                    made.append(out / f"{name}.png")
                    page.screenshot(path=str(made[-1]))
            for name, anchor in REPORT.items():
                with page_of(browser) as page:
                    page.goto(report.absolute().as_uri() + anchor)
                    page.wait_for_timeout(300)
                    made.append(out / f"{name}.png")
                    page.screenshot(path=str(made[-1]))
        finally:
            server.shutdown()
            thread.join()
            browser.close()
    return made


def main() -> None:
    """Read the options and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", default="data/digits-speckle.zarr")
    parser.add_argument("--report", type=Path, default=Path("results/digits-speckle/index.html"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    if not options.report.is_file():
        sys.exit(f"{options.report} does not exist: make it with make analyze")
    for path in make_pictures(fs.open(options.store), options.report, options.out):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
