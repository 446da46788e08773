"""A progress bar on standard error: after two seconds, with a rate and the time left."""

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
    total: int, label: str, *, unit: str = "images", show: bool = False
) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more are done.

    Parameters
    ----------
    total : int
    label, unit : str
    show : bool
        False does nothing: the library is quiet, the command line decides.
    """
    started = time.monotonic()
    done, drawn = 0, 0.0

    def draw(now: float) -> None:
        elapsed = max(now - started, 1e-9)
        share = min(done / total, 1.0) if total else 1.0
        filled = int(share * WIDTH)
        rate = done / elapsed
        left = (total - done) / rate if rate > 0 else float("inf")
        ending = _duration(left) + " left" if done < total else _duration(elapsed)
        sys.stderr.write(
            f"\r{label} [{'#' * filled}{'.' * (WIDTH - filled)}] {done:,}/{total:,} "
            f"{rate:,.0f} {unit}/s, {ending}\x1b[K"
        )
        sys.stderr.flush()

    def advance(count: int) -> None:
        nonlocal done, drawn
        done += count
        now = time.monotonic()
        if show and now - started >= PATIENCE and now - drawn >= REFRESH:
            drawn = now
            draw(now)

    try:
        yield advance
    finally:
        if drawn:
            draw(time.monotonic())
            sys.stderr.write("\n")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
