"""The progress bar, on standard error: after two seconds, with a rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from frictionstore.text import printable, silence, write

Report = Callable[[str], None]  # takes a remark for the user

PATIENCE = 2.0  # seconds before anything is shown
REFRESH = 0.2
WIDTH = 24


@contextmanager
def progress_bar(
    total: int, label: str, *, unit: str = "images", after: str = "", show: bool = False
) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more are done.

    Parameters
    ----------
    total : int
    label, unit : str
    after : str
        What goes on when all are done, such as ``computing``, said at once; empty where nothing
        does.
    show : bool
        False does nothing: the library is quiet, the command line decides. Nothing is shown
        where standard error is no terminal.
    """
    show = show and watched()
    label, after = printable(label), printable(after)
    started = time.monotonic()
    done, drawn, finished = 0, 0.0, False

    def draw(now: float) -> None:
        elapsed = max(now - started, 1e-9)
        share = min(done / total, 1.0) if total else 1.0
        filled = int(share * WIDTH)
        rate = done / elapsed
        left = (total - done) / rate if rate > 0 else float("inf")
        if done < total:
            ending = _duration(left) + " left"
        else:
            ending = after if after and not finished else _duration(elapsed)
        _put(
            f"\r{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {done:,}/{total:,} "
            f"{rate:,.0f} {unit}/s, {ending}\x1b[K"
        )

    def advance(count: int) -> None:
        nonlocal done, drawn
        done += count
        now = time.monotonic()
        waited = now - started >= PATIENCE and now - drawn >= REFRESH
        if show and (waited or (after and done >= total)):
            drawn = now
            draw(now)

    try:
        yield advance
    finally:
        finished = True
        if drawn:
            now = time.monotonic()
            draw(now)
            _put("\n" if now - started >= PATIENCE else "\r\x1b[K")


def watched() -> bool:
    """Whether standard error is a terminal, where somebody may see progress."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _put(text: str) -> None:
    """Draw; a terminal that went away is no reason to end the work."""
    try:
        write(sys.stderr, text)
    except (OSError, ValueError):
        silence(sys.stderr)


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
