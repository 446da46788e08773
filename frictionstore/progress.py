"""The progress bar, on standard error: after two seconds, with a rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    show = show and sys.stderr.isatty()
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
        sys.stderr.write(
            f"\r{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {done:,}/{total:,} "
            f"{rate:,.0f} {unit}/s, {ending}\x1b[K"
        )
        sys.stderr.flush()

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
            sys.stderr.write("\n" if now - started >= PATIENCE else "\r\x1b[K")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
