"""A real Chromium for tests, and pages of it that watch what they do.

Where there is no browser, no Playwright or no built page, tests that need them are skipped with
the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from frictionstore.show.page import build_page

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = "body[data-idle=true]"
WAIT = 10_000  # ms


@cache
def chromium() -> str | None:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    return None


@cache
def page_problem() -> str | None:
    """Why there is no explorer page to test; builds it where the tools are there."""
    return build_page(ROOT)


def skip_without_browser() -> None:
    if find_spec("playwright") is None:
        pytest.skip("needs Playwright for Python")
    if chromium() is None:
        pytest.skip("needs Chromium: this machine has no browser")


@contextmanager
def launched() -> Iterator[Any]:
    """One Chromium, for a module of tests: while it runs, this thread has an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a page asked for and complained about."""

    requests: list[tuple[str, str | None]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url, _ in self.requests if not url.startswith("data:")}


@contextmanager
def opened(
    browser: Any, *, width: int = 1280, height: int = 860, dark: bool = False, **options: Any
) -> Iterator[tuple[Any, Watch]]:
    """A page of its own; what it logs and requests is recorded."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        **options,
    )
    page = context.new_page()
    page.set_default_timeout(WAIT)
    watch = Watch()
    page.on("request", lambda r: watch.requests.append((r.url, r.headers.get("range"))))
    page.on("console", lambda m: watch.complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: watch.complaints.append(f"error: {error}"))
    page.on("dialog", lambda dialog: watch.complaints.append(f"dialog: {dialog.message}"))
    try:
        yield page, watch
    finally:
        context.close()


def save_picture(page: Any, name: str) -> None:
    """Keep a screenshot where FRICTIONSTORE_SCREENSHOTS names a folder, for looking at."""
    folder = os.environ.get("FRICTIONSTORE_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"))
